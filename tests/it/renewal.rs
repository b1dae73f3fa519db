//! Renewal in the background, under load, and through failures of the token endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign::mock::{Failure, StandIn};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::harness::{Connection, Proxy, is_data, plant, route, twinzo, until};

/// Callers that ask again and again.
struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<BTreeMap<u16, u64>>,
}

impl Load {
    fn start(proxy: &Proxy) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (stop, address) = (Arc::clone(&stop), proxy.address());
            callers.spawn(async move {
                let mut statuses = BTreeMap::new();
                let mut connection = Connection::open(address).await;
                let mut pace = interval(Duration::from_millis(10));
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.send("GET", "/v3/devices", &[], "").await;
                    *statuses.entry(reply.status).or_insert(0) += 1;
                    pace.tick().await;
                }
                statuses
            });
        }
        Self { stop, callers }
    }

    /// How often each status came.
    async fn stop(self) -> BTreeMap<u16, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for statuses in self.callers.join_all().await {
            for (status, count) in statuses {
                *all.entry(status).or_insert(0) += count;
            }
        }
        all
    }
}

async fn start(lifetime: Duration, refresh: &str) -> (StandIn, Proxy) {
    let stand_in = twinzo().await;
    stand_in.switches().set_token_lifetime(lifetime);
    let refresh = format!("[credential.plant.refresh]\n{refresh}");
    let config = plant(&stand_in.url(), &refresh) + &route(&stand_in.url(), "plant", "");
    let proxy = Proxy::start(&config).await;
    until("the first login", || stand_in.recorder().logins() == 1).await;
    until("it is there", || proxy.identity("plant").cache.is_ready()).await;
    (stand_in, proxy)
}

#[tokio::test]
async fn no_request_ever_waits_for_a_renewal_over_ten_lifetimes() {
    let lifetime = Duration::from_secs(2);
    let (stand_in, proxy) = start(lifetime, "").await;
    stand_in.switches().set_token_latency(Duration::from_millis(200));
    let recorder = stand_in.recorder();
    let before = recorder.logins() + recorder.refreshes();
    let load = Load::start(&proxy);
    let begun = Instant::now();
    let mut unusable = 0;
    let mut samples = 0;
    let mut pace = interval(Duration::from_millis(5));
    while begun.elapsed() < lifetime * 10 {
        pace.tick().await;
        // Whoever asks while this holds gets a token without waiting.
        samples += 1;
        unusable += u32::from(!proxy.identity("plant").cache.is_ready());
    }
    let renewals = recorder.logins() + recorder.refreshes() - before;
    let lifetimes = begun.elapsed().as_secs_f64() / lifetime.as_secs_f64();
    let statuses = load.stop().await;
    assert_eq!(
        statuses.keys().collect::<Vec<_>>(),
        [&200],
        "every request is accepted: {statuses:?}"
    );
    assert_eq!(recorder.refused(), 0, "the first time");
    assert_eq!(unusable, 0, "of {samples} samples");
    assert_eq!(recorder.logins(), 1, "all others are renewals");
    let per_lifetime = f64::from(u32::try_from(renewals).unwrap()) / lifetimes;
    assert!((1.0..=2.0).contains(&per_lifetime), "{renewals} renewals in {lifetimes} lifetimes");
}

#[tokio::test]
async fn revoked_tokens_are_replaced_once_and_callers_see_only_200() {
    let (stand_in, proxy) = start(Duration::from_hours(1), "").await;
    let recorder = stand_in.recorder();
    let load = Load::start(&proxy);
    until("the load runs", || recorder.accepted() > 50).await;
    assert_eq!(recorder.refused(), 0);
    stand_in.switches().revoke_all();
    let seen = recorder.accepted();
    until("it goes on", || recorder.accepted() > seen + 200).await;
    let statuses = load.stop().await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    assert!(recorder.refused() >= 1, "the upstream refused the old one");
    assert_eq!(recorder.token_calls(), 2, "the first and one forced");
    assert_eq!(recorder.logins(), 2, "a refused token cannot be renewed");
}

#[tokio::test]
async fn nobody_notices_an_outage_that_is_shorter_than_the_token_lives() {
    let refresh = "margin = \"60%\"\njitter = \"0%\"\n";
    let (stand_in, proxy) = start(Duration::from_secs(6), refresh).await;
    let recorder = stand_in.recorder();
    stand_in.switches().fail_token_calls(Failure::ServerError, Some(2));
    let load = Load::start(&proxy);
    until("renewal works again", || recorder.refreshes() == 1).await;
    let statuses = load.stop().await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    assert_eq!(recorder.token_calls(), 4, "one, two that fail, one");
    assert_eq!(recorder.logins(), 1);
    let refused = |recorded: &_| is_data(recorded) && !recorded.accepted;
    assert_eq!(recorder.count_where(refused), 0);
}

#[tokio::test]
async fn a_longer_outage_is_503_with_retry_after_and_ends_by_itself() {
    let (stand_in, proxy) = start(Duration::from_secs(2), "").await;
    let recorder = stand_in.recorder();
    stand_in.switches().fail_token_calls(Failure::CloseConnection, None);
    let cache = &proxy.identity("plant").cache;
    until("the token ends", || {
        let state = cache.state();
        !state.usable && !state.renewing && state.failure.is_some()
    })
    .await;
    let mut told = 0;
    for _ in 0..20 {
        let reply = proxy.get("/v3/devices").await;
        reply.problem(503, "destination_unavailable");
        assert!((1..=60).contains(&reply.retry_after()));
        told += 1;
    }
    assert_eq!(told, 20);
    stand_in.switches().fail_token_calls(Failure::None, None);
    until("it recovers", || cache.is_ready()).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    let refused = |recorded: &_| is_data(recorded) && !recorded.accepted;
    assert_eq!(recorder.count_where(refused), 0, "never without a token");
}

#[tokio::test]
async fn renewal_uses_the_vendors_call_and_falls_back_to_a_login() {
    let (stand_in, proxy) = start(Duration::from_secs(2), "").await;
    let recorder = stand_in.recorder();
    until("two renewals", || recorder.refreshes() >= 2).await;
    assert_eq!(recorder.logins(), 1);
    let renewal = recorder
        .all()
        .into_iter()
        .find(|recorded| recorded.target == "/v3/authorization/token")
        .unwrap();
    assert_eq!(renewal.method, "GET");
    stand_in.switches().set_refresh_supported(false);
    until("a login instead", || recorder.logins() >= 2).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
}
