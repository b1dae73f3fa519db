//! Several processes that keep one credential, with one store between them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::credential::cache::{CacheSettings, CredentialCache, Rejection};
use crate::credential::keeper::Watch;
use crate::credential::refresher::Progress;
use crate::credential::schedule::{RefreshPolicy, Span};
use crate::credential::secrets::Changes;
use crate::credential::store::shared::SharedStore;
use crate::credential::store::{Definition, Slot, Store};
use crate::credential::{FetchError, Refusal};
use crate::secret::Secret;
use crate::values::Values;

/// A clock whose time of day goes on with the paused time of the runtime.
fn clock() -> Clock {
    let offset = Arc::new(AtomicI64::new(0));
    let (clock, begun) = (Clock::shifted(Arc::clone(&offset)), Instant::now());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let passed = i64::try_from(begun.elapsed().as_millis()).unwrap();
            offset.store(passed, Ordering::SeqCst);
        }
    });
    clock
}

/// A token endpoint that all of them ask. Its values for renewals are good once.
#[derive(Debug)]
struct Endpoint {
    clock: Clock,
    lifetime: Duration,
    takes: Mutex<Duration>,
    /// It renews what has ended as well.
    renews_ended: bool,
    fails: AtomicBool,
    panics: AtomicUsize,
    issued: AtomicUsize,
    logins: AtomicUsize,
    renewals: AtomicUsize,
    used: Mutex<HashSet<String>>,
    used_twice: AtomicUsize,
}

impl Endpoint {
    fn new(lifetime: u64, renews_ended: bool) -> Arc<Self> {
        Arc::new(Self {
            clock: clock(),
            lifetime: Duration::from_secs(lifetime),
            takes: Mutex::new(Duration::from_millis(50)),
            renews_ended,
            fails: AtomicBool::new(false),
            panics: AtomicUsize::new(0),
            issued: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            renewals: AtomicUsize::new(0),
            used: Mutex::default(),
            used_twice: AtomicUsize::new(0),
        })
    }

    fn take(&self, seconds: u64) {
        *self.takes.lock().unwrap() = Duration::from_secs(seconds);
    }

    /// Logins, renewals, and values for renewals that were used again.
    fn counts(&self) -> (usize, usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (count(&self.logins), count(&self.renewals), count(&self.used_twice))
    }
}

#[derive(Debug)]
struct Source {
    endpoint: Arc<Endpoint>,
    asking: Arc<AtomicBool>,
}

impl CredentialSource for Source {
    async fn fetch(&self, current: Option<&Credential>) -> Result<Credential, FetchError> {
        let endpoint = &self.endpoint;
        let takes = *endpoint.takes.lock().unwrap();
        self.asking.store(true, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        self.asking.store(false, Ordering::SeqCst);
        if endpoint.fails.load(Ordering::SeqCst) {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(FetchError::Unavailable {
                status,
                retry_after: Some(Duration::from_mins(1)),
            });
        }
        let panics = endpoint
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(panics.is_err(), "a mistake");
        let value = current.and_then(|current| current.values.text("renews"));
        if let Some(value) = value.filter(|_| endpoint.renews_ended) {
            if !endpoint.used.lock().unwrap().insert(value.to_owned()) {
                endpoint.used_twice.fetch_add(1, Ordering::SeqCst);
                let status = StatusCode::BAD_REQUEST;
                return Err(FetchError::Refused(Refusal::Status(status)));
            }
            endpoint.renewals.fetch_add(1, Ordering::SeqCst);
        } else {
            endpoint.logins.fetch_add(1, Ordering::SeqCst);
        }
        let number = endpoint.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let value = |name: &str| Secret::new(format!("{name}-{number}"));
        Ok(Credential {
            values: Values::from_iter([("token", value("t")), ("renews", value("r"))]),
            expires: Some(endpoint.clock.now().after(endpoint.lifetime)),
            lifetime: Some(endpoint.lifetime),
            clock_skew_ms: None,
        })
    }

    fn renews_ended(&self) -> bool {
        self.endpoint.renews_ended
    }
}

/// One of the processes. Killed when dropped.
struct Replica {
    cache: CredentialCache<String>,
    stop: CancellationToken,
    watch: Watch,
    /// Its question is under way.
    asking: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn slot(shared: &SharedStore) -> Slot {
    let store = Store::sharing(shared.clone());
    Slot::new(&store, "plant", None, Definition::default(), Vec::new)
}

fn replica(endpoint: &Arc<Endpoint>, shared: &SharedStore, policy: RefreshPolicy) -> Replica {
    replica_with(endpoint, shared, policy, |_| ())
}

/// `preparing` is told of every token.
fn replica_with(
    endpoint: &Arc<Endpoint>,
    shared: &SharedStore,
    policy: RefreshPolicy,
    preparing: impl Fn(&str) + Send + Sync + 'static,
) -> Replica {
    let clock = endpoint.clock.clone();
    let settings =
        CacheSettings { renewable: true, wait: policy.wait, min_interval: policy.min_interval };
    let cache = CredentialCache::new(clock.clone(), settings);
    let (stop, watch) = (CancellationToken::new(), Watch::default());
    let asking = Arc::new(AtomicBool::new(false));
    let refresher = Refresher {
        name: "plant".to_owned(),
        source: Source { endpoint: Arc::clone(endpoint), asking: Arc::clone(&asking) },
        prepare: move |credential: &Credential| {
            let token = credential.values.text("token").unwrap_or_default();
            preparing(token);
            Ok(token.to_owned())
        },
        cache: cache.clone(),
        policy,
        clock,
        slot: slot(shared),
        secrets: Changes::from_iter([]),
        stop: stop.clone(),
        progress: Progress::default(),
    };
    let kept = watch.clone().over(refresher, "plant".to_owned(), stop.clone());
    Replica { cache, stop, watch, asking, task: tokio::spawn(kept) }
}

impl Replica {
    async fn token(&self) -> String {
        self.cache.get().await.unwrap().item.clone()
    }

    fn is_asking(&self) -> bool {
        self.asking.load(Ordering::SeqCst)
    }

    /// Its token is refused by an upstream.
    async fn reject(&self) -> Rejection {
        let current = self.cache.get().await.unwrap();
        self.cache.reject(&current)
    }

    /// What requests get now, without waiting.
    fn has(&self) -> Option<String> {
        self.cache.peek().map(|issued| issued.item.clone())
    }

    async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

fn lazy() -> RefreshPolicy {
    RefreshPolicy { eager: false, jitter: Some(Span::Share(0.0)), ..RefreshPolicy::default() }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn stored(shared: &SharedStore) -> Option<String> {
    let stored = slot(shared).load().await?;
    stored.values.text("token").map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn two_processes_fetch_once_per_lifetime_and_nobody_waits() {
    for renews in [false, true] {
        let (endpoint, shared) = (Endpoint::new(1000, renews), SharedStore::default());
        let start = || replica(&endpoint, &shared, RefreshPolicy::default());
        let (one, two) = (start(), start());
        assert_eq!(one.token().await, two.token().await, "a cold start of both is one login");
        for _ in 0..10_000 {
            pass(1).await;
            for replica in [&one, &two] {
                let before = Instant::now();
                replica.token().await;
                assert_eq!(before.elapsed(), Duration::ZERO);
            }
        }
        let (logins, renewals, twice) = endpoint.counts();
        // After 80 to 90 % of the lifetime each.
        assert!((12..=14).contains(&(logins + renewals)), "{logins} + {renewals}");
        assert_eq!((twice, if renews { logins } else { 1 }), (0, 1));
        // The other looks again within seconds, or when it is due itself.
        pass(100).await;
        assert!(one.has().is_some() && two.has().is_some());
        one.stop().await;
        two.stop().await;
        assert_eq!(shared.leases(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_in_the_middle_is_followed_by_another_when_its_lease_ends() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let (one, two) = (replica(&endpoint, &shared, lazy()), replica(&endpoint, &shared, lazy()));
    assert_eq!((one.token().await, two.token().await), ("t-1".to_owned(), "t-1".to_owned()));
    endpoint.take(5);
    // One of them renews after 90 %; both are due.
    pass(901).await;
    assert_eq!(shared.leases(), 1);
    let (dies, stays) = if one.is_asking() { (one, two) } else { (two, one) };
    drop(dies);
    let begun = Instant::now();
    while stays.has().as_deref() == Some("t-1") {
        assert_eq!(stays.token().await, "t-1", "it is good until its end");
        pass(1).await;
        assert!(begun.elapsed() < Duration::from_secs(40), "the lease of 20 s, a look, 5 s");
    }
    assert!(begun.elapsed() > Duration::from_secs(15), "not before the lease ends");
    assert_eq!((stays.token().await, stored(&shared).await), ("t-2".into(), Some("t-2".into())));
    assert_eq!(endpoint.counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_late_goes_over_to_what_was_fetched_meanwhile() {
    for renews in [false, true] {
        let (endpoint, shared) = (Endpoint::new(1000, renews), SharedStore::default());
        let (late, other) =
            (replica(&endpoint, &shared, lazy()), replica(&endpoint, &shared, lazy()));
        endpoint.take(5);
        let waiting = late.cache.clone();
        let waiting = tokio::spawn(async move { waiting.get().await.unwrap().item.clone() });
        pass(1).await;
        assert!(late.is_asking());
        shared.end_leases();
        endpoint.take(1);
        assert_eq!(other.token().await, "t-1");
        assert_eq!(waiting.await.unwrap(), "t-1", "not its own, which is the second");
        assert_eq!(stored(&shared).await.as_deref(), Some("t-1"));
        assert_eq!((endpoint.counts(), shared.leases()), ((2, 0, 0), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_each_goes_on_alone_and_they_meet_again() {
    let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
    let start = || replica(&endpoint, &shared, RefreshPolicy::default());
    let (one, two) = (start(), start());
    assert_eq!(one.token().await, two.token().await);
    shared.be_away(true);
    for _ in 0..3000 {
        pass(1).await;
        assert!(one.cache.is_ready() && two.cache.is_ready());
    }
    let alone = endpoint.counts().0;
    assert!((6..=9).contains(&alone), "{alone} logins: each for itself in three lifetimes");
    shared.be_away(false);
    pass(11).await;
    let token = stored(&shared).await;
    assert!(token.is_some_and(|token| token != "t-1"), "it has one of theirs without a login");
    pass(1000).await;
    let before = endpoint.counts().0;
    for _ in 0..10_000 {
        pass(1).await;
        assert!(one.cache.is_ready() && two.cache.is_ready());
    }
    let together = endpoint.counts().0 - before;
    assert!((11..=14).contains(&together), "{together} logins in ten lifetimes");
    assert!(before - alone <= 2, "{before} after {alone}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_costs_one_fetch_whoever_learns_of_it() {
    for at_once in [false, true] {
        let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
        let (one, two) = (replica(&endpoint, &shared, lazy()), replica(&endpoint, &shared, lazy()));
        assert_eq!((one.token().await, two.token().await), ("t-1".to_owned(), "t-1".to_owned()));
        assert_eq!(one.reject().await, Rejection::Renewing);
        if !at_once {
            assert_eq!(one.token().await, "t-2");
        }
        assert_eq!(two.reject().await, Rejection::Renewing);
        assert_eq!((one.token().await, two.token().await), ("t-2".to_owned(), "t-2".to_owned()));
        pass(60).await;
        assert_eq!((endpoint.counts(), shared.leases()), ((2, 0, 0), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_keeps_its_value_for_renewals_over_a_kill() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let killed = replica(&endpoint, &shared, lazy());
    assert_eq!(killed.token().await, "t-1");
    endpoint.take(5);
    assert_eq!(killed.reject().await, Rejection::Renewing);
    pass(1).await;
    assert!(killed.is_asking());
    drop(killed);
    endpoint.take(1);
    // It is not found as one that is good.
    let next = replica(&endpoint, &shared, RefreshPolicy::default());
    pass(1).await;
    assert_eq!(next.has(), None);
    pass(20).await;
    assert_eq!(next.has().as_deref(), Some("t-2"));
    assert_eq!(endpoint.counts(), (1, 1, 0));
    // The next one is refused as well: what renewed it leads nowhere.
    assert_eq!(next.reject().await, Rejection::Renewing);
    assert_eq!(next.token().await, "t-3");
    pass(61).await;
    assert_eq!(next.reject().await, Rejection::Renewing);
    assert_eq!(next.token().await, "t-4");
    assert_eq!(endpoint.counts(), (2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_while_a_renewal_fails_or_at_the_end_is_not_found_again() {
    let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
    let one = replica(&endpoint, &shared, lazy());
    assert_eq!(one.token().await, "t-1");
    endpoint.take(5);
    endpoint.fails.store(true, Ordering::SeqCst);
    pass(901).await;
    assert!(one.is_asking());
    assert_eq!(one.reject().await, Rejection::Renewing);
    assert_eq!(stored(&shared).await.as_deref(), Some("t-1"));
    pass(5).await;
    assert_eq!(stored(&shared).await, None, "before the next attempt");
    one.stop().await;

    endpoint.fails.store(false, Ordering::SeqCst);
    let one = replica(&endpoint, &shared, lazy());
    assert_eq!(one.token().await, "t-2");
    let current = one.cache.get().await.unwrap();
    one.stop.cancel();
    assert_eq!(one.cache.reject(&current), Rejection::Renewing);
    one.stop().await;
    assert_eq!((stored(&shared).await, shared.leases()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_for_renewals_is_looked_for_in_the_store_before_it_counts() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let one = replica(&endpoint, &shared, lazy());
    assert_eq!(one.token().await, "t-1");
    // Another has renewed, and this one cannot ask.
    let other = replica(&endpoint, &shared, lazy());
    assert_eq!(other.token().await, "t-1");
    pass(500).await;
    assert_eq!(other.reject().await, Rejection::Renewing);
    assert_eq!(other.token().await, "t-2");
    endpoint.take(2);
    pass(399).await;
    shared.be_away(true);
    pass(2).await;
    assert!(one.is_asking());
    shared.be_away(false);
    pass(3).await;
    assert_eq!(one.has().as_deref(), Some("t-2"), "taken from the store");
    assert!(one.cache.state().failure.is_none());
    assert_eq!(endpoint.counts(), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_cut_off_at_the_end_gives_its_turn_back() {
    let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
    endpoint.take(5);
    let one = replica(&endpoint, &shared, RefreshPolicy::default());
    pass(1).await;
    assert_eq!(shared.leases(), 1);
    let before = Instant::now();
    one.stop().await;
    assert_eq!((shared.leases(), before.elapsed()), (0, Duration::ZERO));
    // So does one that fails.
    endpoint.fails.store(true, Ordering::SeqCst);
    let one = replica(&endpoint, &shared, RefreshPolicy::default());
    assert!(one.cache.get().await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(shared.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_a_good_token_does_not_hurry_while_another_renews() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let one = replica(&endpoint, &shared, lazy());
    assert_eq!(one.token().await, "t-1");
    pass(890).await;
    let Claim::Granted(..) = slot(&shared).claim(Duration::from_secs(60)).await else { panic!() };
    let before = shared.claims();
    pass(59).await;
    let looks = shared.claims() - before;
    assert!((6..=20).contains(&looks), "{looks} looks in a minute");
    assert_eq!(one.token().await, "t-1");
    pass(10).await;
    assert_eq!(one.token().await, "t-2");
}

#[tokio::test(start_paused = true)]
async fn what_another_process_has_fetched_long_ago_serves_while_it_is_renewed() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let one = replica(&endpoint, &shared, lazy());
    let two = replica(&endpoint, &shared, lazy());
    assert_eq!(one.token().await, "t-1");
    drop(one);
    // The first request of the other comes when the token is due.
    pass(920).await;
    endpoint.take(5);
    let before = Instant::now();
    assert_eq!(two.token().await, "t-1");
    assert_eq!(before.elapsed(), Duration::ZERO);
    pass(6).await;
    assert_eq!(two.token().await, "t-2");
    assert_eq!(endpoint.counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_once_fails_once() {
    let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
    endpoint.panics.store(1, Ordering::SeqCst);
    let one = replica(&endpoint, &shared, lazy());
    let error = one.cache.get().await.unwrap_err().to_string();
    assert!(error.contains("a mistake in countersign"), "{error}");
    assert_eq!(shared.leases(), 0);
    pass(2).await;
    assert_eq!(one.token().await, "t-1");
    assert!(one.watch.down().is_empty(), "the task has not ended");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_goes_on_with_what_it_has() {
    let (endpoint, shared) = (Endpoint::new(1000, true), SharedStore::default());
    let former = replica(&endpoint, &shared, lazy());
    assert_eq!(former.token().await, "t-1");
    former.stop().await;
    // Whatever it makes of what is stored is outside of an attempt.
    let first = AtomicBool::new(true);
    let preparing = move |_: &str| assert!(!first.swap(false, Ordering::SeqCst), "a mistake");
    let one = replica_with(&endpoint, &shared, RefreshPolicy::default(), preparing);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.watch.down(), ["plant"]);
    assert_eq!(one.token().await, "t-1", "it is there after a second");
    assert!(one.watch.down().is_empty());
    pass(950).await;
    assert_eq!(one.token().await, "t-2", "renewals go on");
    assert_eq!(endpoint.counts(), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_fetched_alone_joins_the_others_when_the_store_is_back() {
    let (endpoint, shared) = (Endpoint::new(1000, false), SharedStore::default());
    let (alone, other) = (replica(&endpoint, &shared, lazy()), replica(&endpoint, &shared, lazy()));
    endpoint.take(2);
    shared.be_away(true);
    let waiting = alone.cache.clone();
    let waiting = tokio::spawn(async move { waiting.get().await.unwrap().item.clone() });
    pass(1).await;
    assert!(alone.is_asking());
    shared.be_away(false);
    let asking = other.cache.clone();
    let asking = tokio::spawn(async move { asking.get().await.unwrap().item.clone() });
    assert_eq!(waiting.await.unwrap(), "t-1");
    assert_eq!(asking.await.unwrap(), "t-2");
    assert_eq!(stored(&shared).await.as_deref(), Some("t-2"), "whose turn it was");
    pass(950).await;
    assert_eq!((alone.has().as_deref(), other.has().as_deref()), (Some("t-3"), Some("t-3")));
    assert_eq!((endpoint.counts(), shared.leases()), ((3, 0, 0), 0));
}
