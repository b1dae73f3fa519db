use super::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::credential::Refusal;
use crate::credential::cache::{CacheSettings, Rejection, Unavailable};
use crate::credential::devices::gate::EndpointGate;
use crate::credential::devices::pool::NoCredential;
use crate::credential::devices::table::Table;
use crate::credential::devices::{Column, Form, Place};
use crate::secret::Secret;
use crate::values::Values;

/// A login endpoint that follows a script and keeps a record.
#[derive(Debug)]
struct Endpoint {
    lifetime: Duration,
    latency: Duration,
    /// More in one second are answered 429 with `Retry-After: 1`.
    per_second: Option<usize>,
    fails: Mutex<HashMap<String, FetchError>>,
    logins: Mutex<Vec<(String, Instant)>>,
    refused: AtomicUsize,
    renewals: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    window: Mutex<(u64, usize)>,
    start: Instant,
}

impl Endpoint {
    fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            latency: Duration::from_millis(5),
            per_second: None,
            fails: Mutex::default(),
            logins: Mutex::default(),
            refused: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            window: Mutex::default(),
            start: Instant::now(),
        }
    }

    fn logins(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (device, _) in self.logins.lock().unwrap().iter() {
            *counts.entry(device.clone()).or_default() += 1;
        }
        counts
    }

    fn of(&self, device: &str) -> usize {
        self.logins().get(device).copied().unwrap_or_default()
    }

    fn fail(&self, device: &str, error: FetchError) {
        self.fails.lock().unwrap().insert(device.to_owned(), error);
    }

    fn is_too_much(&self) -> bool {
        let Some(most) = self.per_second else { return false };
        let second = self.start.elapsed().as_secs();
        let mut window = self.window.lock().unwrap();
        if window.0 != second {
            *window = (second, 0);
        }
        window.1 += 1;
        window.1 > most
    }
}

#[derive(Debug, Clone)]
struct Source(Arc<Endpoint>);

impl DeviceSource for Source {
    async fn fetch_for(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        let endpoint = &self.0;
        let device = own.text("login").unwrap().to_owned();
        let at_once = endpoint.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        endpoint.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let too_much = endpoint.is_too_much();
        tokio::time::sleep(endpoint.latency).await;
        endpoint.at_once.fetch_sub(1, Ordering::Relaxed);
        if too_much {
            endpoint.refused.fetch_add(1, Ordering::Relaxed);
            return Err(FetchError::Unavailable {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        endpoint.logins.lock().unwrap().push((device.clone(), Instant::now()));
        if let Some(error) = endpoint.fails.lock().unwrap().get(&device) {
            return Err(error.clone());
        }
        if current.is_some() {
            endpoint.renewals.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Credential {
            values: Values::from_iter([("token", Secret::new(format!("token of {device}")))]),
            expires: Some(Clock::system().now().after(endpoint.lifetime)),
            lifetime: Some(endpoint.lifetime),
            clock_skew_ms: None,
        })
    }

    fn renews(&self) -> bool {
        true
    }
}

fn table<'n>(names: impl IntoIterator<Item = &'n str>) -> Table {
    let column = Column {
        name: "login".to_owned(),
        value: "login".to_owned(),
        form: Form::Text,
        required: true,
    };
    let mut table = Table::new(vec![column], 0);
    for (line, name) in (2..).zip(names) {
        table.push(Place::Line(line), name, [name]).unwrap();
    }
    table
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("device-{number}")).collect()
}

/// Shows nothing: whatever renews it is packed.
impl Published for String {
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }
}

struct Bench {
    pool: DevicePool<String>,
    endpoint: Arc<Endpoint>,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const WAIT: Duration = Duration::from_secs(120);

fn start(table: Table, endpoint: Endpoint, fleet: Fleet) -> Bench {
    let endpoint = Arc::new(endpoint);
    let settings =
        CacheSettings { renewable: true, wait: WAIT, min_interval: Duration::from_secs(10) };
    let gate = Arc::new(EndpointGate::default());
    let pool = DevicePool::new(table, Clock::system(), settings, gate);
    let stop = CancellationToken::new();
    let mut scheduler = Scheduler {
        name: "fleet".to_owned(),
        source: Source(Arc::clone(&endpoint)),
        prepare: |credential: &Credential| Ok(credential.values.text("token").unwrap().to_owned()),
        pool: pool.clone(),
        policy: RefreshPolicy { wait: WAIT, ..RefreshPolicy::default() },
        fleet,
        slots: Slots::default(),
        check: Check::Off,
        stop: stop.clone(),
    };
    tokio::spawn(async move { scheduler.keep().await });
    Bench { pool, endpoint, stop }
}

impl Bench {
    async fn get(&self, device: &str) -> Result<String, NoCredential> {
        let now = Clock::system().now();
        self.pool.get_at(device, now).await.map(|issued| issued.item.clone())
    }
}

fn small(names: &[&str], lifetime: u64) -> Bench {
    let endpoint = Endpoint::new(Duration::from_secs(lifetime));
    start(table(names.iter().copied()), endpoint, Fleet::default())
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_of_one_cold_device_share_one_login() {
    let bench = small(&["one", "other"], 3600);
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let pool = bench.pool.clone();
        callers.spawn(async move {
            let issued = pool.get_at("one", Clock::system().now()).await.unwrap();
            issued.item.clone()
        });
    }
    for token in callers.join_all().await {
        assert_eq!(token, "token of one");
    }
    assert_eq!(bench.endpoint.logins(), BTreeMap::from([("one".to_owned(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cold_devices_are_served_by_an_endpoint_that_takes_fifty_a_second() {
    let endpoint = Endpoint { per_second: Some(50), ..Endpoint::new(Duration::from_secs(86_400)) };
    let all = names(1000);
    // Ten times as fast as the endpoint likes.
    let fleet = Fleet { max_logins_per_second: 500.0, ..Fleet::default() };
    let bench = start(table(all.iter().map(String::as_str)), endpoint, fleet);
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for name in all {
        let pool = bench.pool.clone();
        callers.spawn(async move {
            let issued = pool.get_at(&name, Clock::system().now()).await.unwrap();
            assert_eq!(issued.item, format!("token of {name}"));
        });
    }
    callers.join_all().await;
    let took = begun.elapsed().as_secs();
    let endpoint = &bench.endpoint;
    assert_eq!(endpoint.logins().len(), 1000);
    assert_eq!(endpoint.logins.lock().unwrap().len(), 1000, "one for each");
    assert!(endpoint.most_at_once.load(Ordering::Relaxed) <= 8);
    assert!((19..60).contains(&took), "{took} s");
    // When the gate closes, those that are under way are told the same, and nobody else asks.
    let refused = endpoint.refused.load(Ordering::Relaxed);
    assert!(refused <= 60 * 8, "{refused}");
    let mut per_second = BTreeMap::new();
    for (_, at) in endpoint.logins.lock().unwrap().iter() {
        *per_second.entry((*at - endpoint.latency - endpoint.start).as_secs()).or_insert(0) += 1;
    }
    assert!(per_second.values().all(|count| *count <= 50), "{per_second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_is_spread_as_configured_and_first_come_is_first_served() {
    let all = names(200);
    let fleet = Fleet { max_logins_per_second: 10.0, ..Fleet::default() };
    let endpoint = Endpoint::new(Duration::from_secs(86_400));
    let bench = start(table(all.iter().map(String::as_str)), endpoint, fleet);
    let mut callers = JoinSet::new();
    for name in all.clone() {
        let pool = bench.pool.clone();
        callers.spawn(async move {
            pool.get_at(&name, Clock::system().now()).await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    callers.join_all().await;
    let logins = bench.endpoint.logins.lock().unwrap().clone();
    let order: Vec<String> = logins.iter().map(|(device, _)| device.clone()).collect();
    assert_eq!(order, all);
    for window in logins.windows(11) {
        let took = window[10].1 - window[0].1;
        assert!(took >= Duration::from_millis(990), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_logins_are_in_flight_than_configured() {
    let all = names(40);
    let fleet =
        Fleet { max_concurrent_logins: 3, max_logins_per_second: 100_000.0, ..Fleet::default() };
    let endpoint =
        Endpoint { latency: Duration::from_secs(1), ..Endpoint::new(Duration::from_secs(86_400)) };
    let bench = start(table(all.iter().map(String::as_str)), endpoint, fleet);
    let mut callers = JoinSet::new();
    for name in all {
        let pool = bench.pool.clone();
        callers.spawn(async move { pool.get_at(&name, Clock::system().now()).await.is_ok() });
    }
    assert!(callers.join_all().await.into_iter().all(|served| served));
    assert_eq!(bench.endpoint.most_at_once.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_active_device_is_renewed_before_its_token_ends_and_never_waits() {
    let bench = small(&["one"], 1000);
    bench.get("one").await.unwrap();
    for _ in 0..100 {
        pass(50).await;
        let before = Instant::now();
        bench.get("one").await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
    let logins = bench.endpoint.of("one");
    assert!((5..=8).contains(&logins), "{logins} in five lifetimes");
    assert_eq!(bench.endpoint.renewals.load(Ordering::Relaxed), logins - 1);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_devices_that_began_together_are_spread() {
    let all = names(100);
    let endpoint = Endpoint::new(Duration::from_secs(10_000));
    let bench = start(table(all.iter().map(String::as_str)), endpoint, Fleet::default());
    for name in &all {
        bench.get(name).await.unwrap();
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(9_200) {
        for name in &all {
            bench.get(name).await.unwrap();
        }
        pass(60).await;
    }
    let logins = bench.endpoint.logins.lock().unwrap().clone();
    let renewals: Vec<u64> =
        logins.iter().skip(100).map(|(_, at)| (*at - begun).as_secs()).collect();
    assert_eq!(renewals.len(), 100);
    let spread = renewals.iter().max().unwrap() - renewals.iter().min().unwrap();
    assert!(spread > 700, "over {spread} s of the thousand that there are");
}

#[tokio::test(start_paused = true)]
async fn a_device_without_requests_lets_its_token_lapse_and_gives_its_memory_back() {
    let bench = small(&["idle"], 10_000);
    bench.get("idle").await.unwrap();
    pass(9_300).await;
    assert_eq!(bench.pool.census().fresh, 1, "not renewed, but still good");
    assert_eq!(bench.endpoint.of("idle"), 1);
    pass(1_000).await;
    assert_eq!(bench.pool.census().fresh, 0);
    assert!(bench.pool.live("idle").is_none(), "nothing is left of it");
    bench.get("idle").await.unwrap();
    assert_eq!(bench.endpoint.of("idle"), 2, "on demand");
}

#[tokio::test(start_paused = true)]
async fn a_lapsing_device_that_comes_back_is_renewed_without_waiting() {
    let bench = small(&["back"], 10_000);
    bench.get("back").await.unwrap();
    pass(9_300).await;
    assert_eq!(bench.endpoint.of("back"), 1);
    let before = Instant::now();
    bench.get("back").await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    pass(1).await;
    assert_eq!(bench.endpoint.of("back"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_is_remembered_and_its_account_is_not_locked() {
    let bench = small(&["bad", "good"], 3600);
    bench.endpoint.fail("bad", FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED)));
    for _ in 0..80 {
        let error = bench.get("bad").await.unwrap_err();
        let NoCredential::Unavailable(Unavailable::Failed { error, .. }) = error else {
            panic!("{error}");
        };
        assert!(error.is_refusal());
        bench.get("good").await.unwrap();
        pass(10).await;
    }
    assert_eq!(bench.endpoint.of("bad"), 1, "in 800 s");
    assert_eq!(bench.endpoint.of("good"), 1);
    assert_eq!(bench.pool.census().refused, 1);
    pass(24 * 3600).await;
    assert_eq!(bench.endpoint.of("bad"), 1, "nobody asked");
    assert!(bench.get("bad").await.is_err());
    assert_eq!(bench.endpoint.of("bad"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_is_tried_again_when_its_file_has_another_password() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "old").unwrap();
    let cell = format!("file:{}", file.display());
    let column = |name: &str| Column {
        name: name.to_owned(),
        value: name.to_owned(),
        form: Form::Secret,
        required: true,
    };
    let mut table = Table::new(vec![column("login"), column("password")], 0);
    table.push(Place::Line(2), "one", ["one", &cell]).unwrap();
    let bench = start(table, Endpoint::new(Duration::from_secs(3600)), Fleet::default());
    bench.endpoint.fail("one", FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED)));
    assert!(bench.get("one").await.is_err());
    pass(300).await;
    assert!(bench.get("one").await.is_err());
    assert_eq!(bench.endpoint.of("one"), 1, "with the same password");
    std::fs::write(&file, "new").unwrap();
    bench.endpoint.fails.lock().unwrap().clear();
    pass(31).await;
    let before = Instant::now();
    bench.get("one").await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO, "it was tried by itself");
    assert_eq!(bench.endpoint.of("one"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_is_tried_again_and_touches_no_other() {
    let bench = small(&["bad", "good"], 3600);
    bench.endpoint.fail("bad", FetchError::Timeout(Duration::from_secs(1)));
    assert!(bench.get("bad").await.is_err());
    let before = Instant::now();
    bench.get("good").await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1));
    pass(30).await;
    let tries = bench.endpoint.of("bad");
    assert!((4..=8).contains(&tries), "{tries}: less and less often");
    bench.endpoint.fails.lock().unwrap().clear();
    pass(60).await;
    let before = Instant::now();
    bench.get("bad").await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO, "it recovered by itself");
}

#[tokio::test(start_paused = true)]
async fn while_a_renewal_fails_the_token_stays_in_use() {
    let bench = small(&["one"], 1000);
    bench.get("one").await.unwrap();
    bench.endpoint.fail("one", FetchError::Timeout(Duration::from_secs(1)));
    for _ in 0..19 {
        pass(50).await;
        let before = Instant::now();
        assert_eq!(bench.get("one").await.unwrap(), "token of one");
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
    assert!(bench.endpoint.of("one") > 2, "it was tried");
    pass(60).await;
    assert!(bench.get("one").await.is_err(), "it has ended, and is not sent");
}

#[test]
fn the_schedule_goes_on_while_the_machine_sleeps_and_not_when_a_clock_is_set_back() {
    let start = Clock::system().now();
    let mut hours = Hours { last: start, missed: Duration::ZERO };
    let seconds = Duration::from_secs;
    let after = |wall: i64, monotonic| Now {
        wall: if wall >= 0 {
            start.wall + seconds(wall.unsigned_abs())
        } else {
            start.wall - seconds(wall.unsigned_abs())
        },
        monotonic: start.monotonic + seconds(monotonic),
    };
    let mut at = |wall, monotonic| (hours.read(after(wall, monotonic)) - start.monotonic).as_secs();
    assert_eq!(at(10, 10), 10);
    assert_eq!(at(3610, 10), 3610, "it slept for an hour");
    assert_eq!(at(3620, 20), 3620);
    assert_eq!(at(-100, 30), 3630, "the time of day was set back");
    assert_eq!(at(-90, 40), 3640);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_once_and_no_other_is_touched() {
    let bench = small(&["one", "other"], 3600);
    let now = || Clock::system().now();
    let refused = bench.pool.get_at("one", now()).await.unwrap();
    let other = bench.pool.get_at("other", now()).await.unwrap();
    assert_eq!(bench.pool.reject("one", &refused), Rejection::Renewing);
    for _ in 0..100 {
        assert_eq!(bench.pool.reject("one", &refused), Rejection::Replaced);
    }
    let next = bench.pool.get_at("one", now()).await.unwrap();
    assert!(!Arc::ptr_eq(&next, &refused));
    assert_eq!(bench.pool.reject("one", &next), Rejection::TooSoon);
    pass(30).await;
    assert_eq!(bench.pool.reject("one", &next), Rejection::TooSoon, "it was refused as well");
    assert!(Arc::ptr_eq(&other, &bench.pool.get_at("other", now()).await.unwrap()));
    assert_eq!((bench.endpoint.of("one"), bench.endpoint.of("other")), (2, 1));
    assert_eq!(bench.endpoint.renewals.load(Ordering::Relaxed), 0, "what was refused is no use");
}

#[tokio::test(start_paused = true)]
async fn whoever_would_wait_in_vain_is_told_when_to_come_back() {
    let bench = small(&["one", "two"], 3600);
    let asked = FetchError::Unavailable {
        status: StatusCode::TOO_MANY_REQUESTS,
        retry_after: Some(Duration::from_secs(300)),
    };
    bench.endpoint.fail("one", asked);
    for device in ["one", "two"] {
        let before = Instant::now();
        let error = bench.get(device).await.unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(1), "{device}");
        let NoCredential::Unavailable(Unavailable::Failed { retry_in, .. }) = error else {
            panic!("{error}");
        };
        assert!((290..=330).contains(&retry_in.as_secs()), "{retry_in:?}");
    }
    assert_eq!(bench.endpoint.of("two"), 0, "the gate is for all");
    bench.endpoint.fails.lock().unwrap().clear();
    pass(331).await;
    bench.get("two").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_locked_account_does_not_keep_the_others_waiting_for_ever() {
    let all = names(200);
    let endpoint = Endpoint::new(Duration::from_secs(86_400));
    let bench = start(table(all.iter().map(String::as_str)), endpoint, Fleet::default());
    let (locked, others) = all.split_first().unwrap();
    let error = FetchError::Unavailable {
        status: StatusCode::TOO_MANY_REQUESTS,
        retry_after: Some(Duration::from_secs(30)),
    };
    bench.endpoint.fail(locked, error);
    let pool = bench.pool.clone();
    let device = locked.clone();
    let asking = tokio::spawn(async move {
        // Its callers never give up.
        while pool.get_at(&device, Clock::system().now()).await.is_err() {
            pass(5).await;
        }
    });
    let (few, many) = others.split_at(10);
    for device in few {
        bench.get(device).await.unwrap();
        pass(10).await;
    }
    // By now it is known whose fault it is.
    for device in many {
        let before = Instant::now();
        bench.get(device).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(1), "{device}: {:?}", before.elapsed());
        pass(10).await;
    }
    let tries = bench.endpoint.of(locked);
    assert!((20..=80).contains(&tries), "{tries} in half an hour: each half minute at most");
    assert_eq!(bench.pool.census().failing, 1);
    bench.endpoint.fails.lock().unwrap().clear();
    pass(70).await;
    assert!(asking.is_finished(), "it recovers by itself");
}

#[tokio::test(start_paused = true)]
async fn whoever_gave_up_long_ago_is_not_logged_in_when_the_endpoint_comes_back() {
    let bench = small(&["one"], 3600);
    let asked = FetchError::Unavailable {
        status: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: Some(Duration::from_secs(600)),
    };
    bench.endpoint.fail("one", asked);
    assert!(bench.get("one").await.is_err());
    pass(2 * 3600).await;
    let tries = bench.endpoint.of("one");
    assert!((5..=7).contains(&tries), "{tries}: for an hour");
    assert!(bench.pool.live("one").is_none());
    bench.endpoint.fails.lock().unwrap().clear();
    bench.get("one").await.unwrap();
    assert_eq!(bench.endpoint.of("one"), tries + 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_table_keeps_unchanged_devices_and_refuses_removed_ones_at_once() {
    let bench = small(&["stays", "goes"], 3600);
    bench.get("stays").await.unwrap();
    bench.get("goes").await.unwrap();
    bench.pool.replace(table(["new", "stays"]));
    assert!(matches!(bench.get("goes").await, Err(NoCredential::Unknown)));
    bench.get("stays").await.unwrap();
    bench.get("new").await.unwrap();
    let expected = [("goes", 1), ("new", 1), ("stays", 1)];
    assert_eq!(bench.endpoint.logins(), BTreeMap::from(expected.map(|(n, c)| (n.to_owned(), c))));
    // With other cells it is another login.
    let mut changed = table(["new"]);
    changed.push(Place::Line(9), "stays", ["another"]).unwrap();
    bench.pool.replace(changed);
    assert_eq!(bench.get("stays").await.unwrap(), "token of another");
    assert_eq!(bench.pool.census().known, 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_device_that_is_removed_are_refused() {
    let endpoint =
        Endpoint { latency: Duration::from_secs(5), ..Endpoint::new(Duration::from_secs(3600)) };
    let bench = start(table(["goes"]), endpoint, Fleet::default());
    let pool = bench.pool.clone();
    let waiting =
        tokio::spawn(async move { pool.get_at("goes", Clock::system().now()).await.map(drop) });
    pass(1).await;
    let before = Instant::now();
    bench.pool.replace(table(["another"]));
    assert!(matches!(waiting.await.unwrap(), Err(NoCredential::Unknown)));
    assert_eq!(before.elapsed(), Duration::ZERO);
    pass(10).await;
    bench.get("another").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_live_device_costs_in_the_state_is_bounded() {
    let state = std::mem::size_of::<Device<crate::sign::Signer>>();
    let issued = std::mem::size_of::<Issued<crate::sign::Signer>>();
    assert!(state <= 136, "{state} bytes");
    assert!(issued <= 80, "{issued} bytes");
}
