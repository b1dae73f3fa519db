//! Devices whose tokens outlive the process, and several processes that keep them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use http::StatusCode;
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::clock::Clock;
use crate::credential::Refusal;
use crate::credential::cache::{CacheSettings, Rejection};
use crate::credential::devices::table::Table;
use crate::credential::devices::{Column, Form, Place};
use crate::credential::keeper::Watch;
use crate::credential::store::file::{Command, FileStore};
use crate::credential::store::shared::SharedStore;
use crate::credential::store::{Claim, Definition, Store};
use crate::secret::Secret;
use crate::values::Values;

/// A token endpoint that all processes ask. Its values for renewals are good once.
#[derive(Debug)]
struct Endpoint {
    clock: Clock,
    lifetime: Option<Duration>,
    takes: Mutex<Duration>,
    renews_ended: bool,
    fails: Mutex<Option<FetchError>>,
    /// The device whose attempts panic.
    panics: Mutex<Option<String>>,
    /// So often the task panics that publishes.
    publishing_panics: AtomicUsize,
    fetches: Mutex<BTreeMap<String, usize>>,
    logins: AtomicUsize,
    used: Mutex<HashSet<String>>,
    used_twice: AtomicUsize,
    at_once: AtomicUsize,
}

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

impl Endpoint {
    fn new(lifetime: u64, renews_ended: bool) -> Self {
        Self {
            clock: clock(),
            lifetime: Some(Duration::from_secs(lifetime)),
            takes: Mutex::new(Duration::from_millis(50)),
            renews_ended,
            fails: Mutex::default(),
            panics: Mutex::default(),
            publishing_panics: AtomicUsize::new(0),
            fetches: Mutex::default(),
            logins: AtomicUsize::new(0),
            used: Mutex::default(),
            used_twice: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
        }
    }

    fn take(&self, seconds: u64) {
        *self.takes.lock().unwrap() = Duration::from_secs(seconds);
    }

    fn fail(&self, error: Option<FetchError>) {
        *self.fails.lock().unwrap() = error;
    }

    /// All logins and renewals.
    fn fetches(&self) -> usize {
        self.fetches.lock().unwrap().values().sum()
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
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
        let takes = *endpoint.takes.lock().unwrap();
        endpoint.at_once.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        endpoint.at_once.fetch_sub(1, Ordering::SeqCst);
        let panics = endpoint.panics.lock().unwrap().as_ref() == Some(&device);
        assert!(!panics, "a mistake");
        if let Some(error) = &*endpoint.fails.lock().unwrap() {
            return Err(error.clone());
        }
        let value = current.and_then(|current| current.values.text("renews"));
        if let Some(value) = value.filter(|_| endpoint.renews_ended) {
            if !endpoint.used.lock().unwrap().insert(value.to_owned()) {
                endpoint.used_twice.fetch_add(1, Ordering::SeqCst);
                let status = StatusCode::BAD_REQUEST;
                return Err(FetchError::Refused(Refusal::Status(status)));
            }
        } else {
            endpoint.logins.fetch_add(1, Ordering::SeqCst);
        }
        let number = {
            let mut fetches = endpoint.fetches.lock().unwrap();
            let count = fetches.entry(device.clone()).or_default();
            *count += 1;
            *count
        };
        let value = |name: &str| Secret::new(format!("{name}-{device}-{number}"));
        Ok(Credential {
            values: Values::from_iter([("token", value("t")), ("renews", value("r"))]),
            expires: endpoint.lifetime.map(|lifetime| endpoint.clock.now().after(lifetime)),
            lifetime: endpoint.lifetime,
            clock_skew_ms: None,
        })
    }

    fn renews(&self) -> bool {
        true
    }

    fn renews_ended(&self) -> bool {
        self.0.renews_ended
    }

    fn look_again_after(&self) -> Option<Duration> {
        let left =
            self.0
                .publishing_panics
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "a mistake");
        None
    }
}

fn table(names: &[String]) -> Table {
    let form = Form::Text;
    let (name, value) = ("login".to_owned(), "login".to_owned());
    let mut table = Table::new(vec![Column { name, value, form, required: true }], 0);
    for (line, name) in (2..).zip(names) {
        table.push(Place::Line(line), name, [name.as_str()]).unwrap();
    }
    table
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("d{number}")).collect()
}

/// One of the processes. Killed when dropped.
struct Process {
    pool: DevicePool<String>,
    clock: Clock,
    watch: Watch,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const WAIT: Duration = Duration::from_secs(120);

/// A process with the devices `names`, whose tokens are in `store`.
fn process(names: &[String], endpoint: &Arc<Endpoint>, store: &Store, fleet: Fleet) -> Process {
    process_that_waits(WAIT, names, endpoint, store, fleet)
}

/// One whose requests wait so long for a token.
fn process_that_waits(
    wait: Duration,
    names: &[String],
    endpoint: &Arc<Endpoint>,
    store: &Store,
    fleet: Fleet,
) -> Process {
    let settings = CacheSettings { renewable: true, wait, min_interval: Duration::from_secs(10) };
    let clock = endpoint.clock.clone();
    let pool = DevicePool::new(table(names), clock.clone(), settings, Arc::default());
    let (stop, watch) = (CancellationToken::new(), Watch::default());
    let scheduler = Scheduler {
        name: "fleet".to_owned(),
        source: Source(Arc::clone(endpoint)),
        prepare: |credential: &Credential| Ok(credential.values.text("token").unwrap().to_owned()),
        pool: pool.clone(),
        policy: RefreshPolicy { wait, ..RefreshPolicy::default() },
        fleet,
        slots: Slots::new(store, "fleet", Definition::default(), Vec::new),
        check: Check::Off,
        stop: stop.clone(),
    };
    let kept = watch.clone().over(scheduler, "fleet".to_owned(), stop.clone());
    Process { pool, clock, watch, stop, task: tokio::spawn(kept) }
}

impl Process {
    async fn issued(&self, device: &str) -> Arc<Issued<String>> {
        self.pool.get_at(device, self.clock.now()).await.unwrap()
    }

    async fn token(&self, device: &str) -> String {
        self.issued(device).await.item.clone()
    }

    /// Asks for the token of every device, all at once.
    async fn tokens(&self, names: &[String]) -> Vec<String> {
        let mut asking = JoinSet::new();
        for name in names {
            let (name, pool, now) = (name.clone(), self.pool.clone(), self.clock.now());
            asking.spawn(async move { pool.get_at(&name, now).await.unwrap().item.clone() });
        }
        let mut tokens = asking.join_all().await;
        tokens.sort();
        tokens
    }

    async fn reject(&self, device: &str) -> Rejection {
        let refused = self.issued(device).await;
        self.pool.reject(device, &refused)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// A store between processes, as one of them sees it.
fn of(shared: &SharedStore) -> Store {
    Store::sharing(shared.clone())
}

/// What is stored of a device.
async fn stored(shared: &SharedStore, device: &str) -> Option<String> {
    let slots = Slots::new(&of(shared), "fleet", Definition::default(), Vec::new);
    let own = Values::from_iter([("login", Secret::new(device))]);
    let stored = slots.of(device, &own).load().await?;
    stored.values.text("token").map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_thousand_live_devices_log_in_none_and_wait_for_no_gate() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(86_400, false)), SharedStore::default());
    let all = names(1000);
    let former = process(&all, &endpoint, &of(&shared), Fleet::default());
    let tokens = former.tokens(&all).await;
    assert_eq!((endpoint.fetches(), shared.records(), shared.leases()), (1000, 1000, 0));
    drop(former);
    let fleet = Fleet { max_logins_per_second: 0.1, max_concurrent_logins: 1, ..Fleet::default() };
    let next = process(&all, &endpoint, &of(&shared), fleet);
    let begun = Instant::now();
    assert_eq!(next.tokens(&all).await, tokens);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(endpoint.fetches(), 1000);
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_fetch_once_per_device_and_lifetime() {
    for renews in [false, true] {
        let endpoint = Arc::new(Endpoint::new(1000, renews));
        let (shared, all) = (SharedStore::default(), names(50));
        let start = || process(&all, &endpoint, &of(&shared), Fleet::default());
        let (one, two) = (start(), start());
        let (of_one, of_two) = tokio::join!(one.tokens(&all), two.tokens(&all));
        assert_eq!(of_one, of_two, "a cold start of both is one login for each");
        assert_eq!(endpoint.logins(), 50);
        for _ in 0..1000 {
            pass(5).await;
            let before = Instant::now();
            for name in &all {
                one.token(name).await;
                two.token(name).await;
            }
            assert_eq!(before.elapsed(), Duration::ZERO, "nobody ever waits");
        }
        // After 80 to 90 % of the lifetime each.
        for (device, count) in endpoint.fetches.lock().unwrap().iter() {
            assert!((6..=7).contains(count), "{device}: {count} in five lifetimes");
        }
        assert_eq!(endpoint.used_twice.load(Ordering::SeqCst), 0);
        assert_eq!(endpoint.logins(), if renews { 50 } else { endpoint.fetches() });
        one.stop().await;
        two.stop().await;
        assert_eq!(shared.leases(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_in_a_login_is_followed_by_another_and_nobody_is_refused() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, true)), SharedStore::default());
    let all = names(8);
    let dies = process(&all, &endpoint, &of(&shared), Fleet::default());
    endpoint.take(5);
    let pool = dies.pool.clone();
    for name in all.clone() {
        let (pool, now) = (pool.clone(), dies.clock.now());
        tokio::spawn(async move { pool.get_at(&name, now).await.is_ok() });
    }
    pass(1).await;
    assert_eq!(shared.leases(), 8);
    let stays = process(&all, &endpoint, &of(&shared), Fleet::default());
    let begun = Instant::now();
    let asking = stays.tokens(&all);
    let (tokens, ()) = tokio::join!(asking, async {
        pass(2).await;
        drop(dies);
    });
    assert_eq!(tokens.len(), 8);
    assert!(begun.elapsed() < Duration::from_secs(30), "a lease of 20 s: {:?}", begun.elapsed());
    assert_eq!((endpoint.fetches(), shared.leases()), (8, 0));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_another_process_fetches_for_takes_no_place_from_others() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, false)), SharedStore::default());
    let all = names(2);
    let slots = Slots::new(&of(&shared), "fleet", Definition::default(), Vec::new);
    let slot = slots.of("d0", &Values::from_iter([("login", Secret::new("d0"))]));
    let Claim::Granted(lease, None) = slot.claim(Duration::from_secs(60)).await else { panic!() };
    let fleet = Fleet { max_concurrent_logins: 1, ..Fleet::default() };
    let one = process(&all, &endpoint, &of(&shared), fleet);
    let (pool, now) = (one.pool.clone(), one.clock.now());
    let waiting =
        tokio::spawn(async move { pool.get_at("d0", now).await.map(|issued| issued.item.clone()) });
    pass(1).await;
    let before = Instant::now();
    assert_eq!(one.token("d1").await, "t-d1-1");
    assert!(before.elapsed() < Duration::from_secs(1));
    pass(20).await;
    assert!(!waiting.is_finished(), "it goes on waiting");
    assert_eq!(one.pool.census().failing, 0);
    let looks = shared.claims();
    assert!((20..=110).contains(&looks), "{looks} looks in 21 s");
    let lifetime = Duration::from_secs(1000);
    let fetched = Credential {
        values: Values::from_iter([("token", Secret::new("theirs"))]),
        expires: Some(endpoint.clock.now().after(lifetime)),
        lifetime: Some(lifetime),
        clock_skew_ms: None,
    };
    slot.save(slot.fingerprint(), Some(lease), &fetched, endpoint.clock.now(), false).await;
    assert_eq!(waiting.await.unwrap().unwrap(), "theirs");
    assert_eq!(endpoint.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_serves_while_the_endpoint_wants_to_be_left_alone() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(86_400, false)), SharedStore::default());
    let all = names(3);
    let former = process(&all, &endpoint, &of(&shared), Fleet::default());
    former.token("d1").await;
    former.token("d2").await;
    former.stop().await;
    let next = process(&all, &endpoint, &of(&shared), Fleet::default());
    let status = StatusCode::TOO_MANY_REQUESTS;
    let retry_after = Some(Duration::from_secs(30));
    endpoint.fail(Some(FetchError::Unavailable { status, retry_after }));
    let (pool, now) = (next.pool.clone(), next.clock.now());
    let closed = tokio::spawn(async move { pool.get_at("d0", now).await.is_ok() });
    pass(1).await;
    let before = Instant::now();
    assert_eq!(
        (next.token("d1").await, next.token("d2").await),
        ("t-d1-1".into(), "t-d2-1".into())
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
    endpoint.fail(None);
    assert!(closed.await.unwrap());
    assert_eq!(endpoint.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_may_log_in_for_longer_than_requests_wait_what_is_stored_serves_all_the_same()
{
    let (endpoint, shared) = (Arc::new(Endpoint::new(86_400, false)), SharedStore::default());
    let all = names(3);
    let former = process(&all, &endpoint, &of(&shared), Fleet::default());
    former.token("d1").await;
    former.stop().await;
    let wait = Duration::from_secs(10);
    let next = process_that_waits(wait, &all, &endpoint, &of(&shared), Fleet::default());
    let status = StatusCode::TOO_MANY_REQUESTS;
    let retry_after = Some(Duration::from_secs(300));
    endpoint.fail(Some(FetchError::Unavailable { status, retry_after }));
    for device in ["d0", "d2"] {
        let before = Instant::now();
        assert!(next.pool.get_at(device, next.clock.now()).await.is_err(), "{device}");
        assert!(before.elapsed() < Duration::from_secs(1), "{device} is told at once");
    }
    let before = Instant::now();
    assert_eq!(next.token("d1").await, "t-d1-1");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_device_in_a_long_queue_is_served_when_another_process_has_logged_it_in() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(86_400, false)), SharedStore::default());
    let all = names(500);
    let slow = Fleet { max_logins_per_second: 1.0, ..Fleet::default() };
    let one = process(&all, &endpoint, &of(&shared), slow);
    let (pool, clock, queue) = (one.pool.clone(), one.clock.clone(), all.clone());
    tokio::spawn(async move {
        let asking = queue.iter().map(|name| pool.get_at(name, clock.now()));
        futures_util::future::join_all(asking).await
    });
    pass(2).await;
    let other = process(&all, &endpoint, &of(&shared), Fleet::default());
    let theirs = other.token("d499").await;
    let before = Instant::now();
    assert_eq!(one.token("d499").await, theirs);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_an_end_is_not_fetched_again_however_long_it_is_used() {
    let mut endpoint = Endpoint::new(0, false);
    endpoint.lifetime = None;
    let (endpoint, all) = (Arc::new(endpoint), names(1));
    let one = process(&all, &endpoint, &Store::default(), Fleet::default());
    for _ in 0..100 {
        assert_eq!(one.token("d0").await, "t-d0-1");
        pass(600).await;
    }
    assert_eq!(endpoint.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_of_a_device_costs_one_fetch_whoever_learns_of_it() {
    for at_once in [false, true] {
        let (endpoint, shared) = (Arc::new(Endpoint::new(1000, false)), SharedStore::default());
        let all = names(2);
        let start = || process(&all, &endpoint, &of(&shared), Fleet::default());
        let (one, two) = (start(), start());
        for device in &all {
            assert_eq!(one.token(device).await, two.token(device).await);
        }
        assert_eq!(one.reject("d0").await, Rejection::Renewing);
        if !at_once {
            assert_eq!(one.token("d0").await, "t-d0-2");
        }
        assert_eq!(two.reject("d0").await, Rejection::Renewing);
        assert_eq!(
            (one.token("d0").await, two.token("d0").await),
            ("t-d0-2".into(), "t-d0-2".into())
        );
        pass(60).await;
        assert_eq!((endpoint.fetches(), shared.leases()), (3, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_for_renewals_outlives_its_token_the_memory_of_its_device_and_a_kill() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, true)), SharedStore::default());
    let all = names(1);
    let one = process(&all, &endpoint, &of(&shared), Fleet::default());
    assert_eq!(one.token("d0").await, "t-d0-1");
    // Nobody asks any more.
    pass(8000).await;
    assert!(one.pool.live("d0").is_none());
    assert_eq!(one.token("d0").await, "t-d0-6", "renewed for an hour, then when it was back");
    assert_eq!(endpoint.logins(), 1);
    // A refusal is of the token alone.
    endpoint.take(5);
    assert_eq!(one.reject("d0").await, Rejection::Renewing);
    pass(1).await;
    assert_eq!(endpoint.at_once.load(Ordering::SeqCst), 1);
    drop(one);
    endpoint.take(1);
    let next = process(&all, &endpoint, &of(&shared), Fleet::default());
    assert_eq!(next.token("d0").await, "t-d0-7");
    assert_eq!((endpoint.logins(), endpoint.used_twice.load(Ordering::SeqCst)), (1, 0));
    // What renewed one that is refused again leads nowhere.
    assert_eq!(next.reject("d0").await, Rejection::Renewing);
    assert_eq!((next.token("d0").await, endpoint.logins()), ("t-d0-8".into(), 1));
    pass(61).await;
    assert_eq!(next.reject("d0").await, Rejection::Renewing);
    assert_eq!((next.token("d0").await, endpoint.logins()), ("t-d0-9".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_device_that_comes_back_within_the_lifetime_logs_in_none() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(86_400, false)), SharedStore::default());
    let all = names(1);
    let one = process(&all, &endpoint, &of(&shared), Fleet::default());
    one.token("d0").await;
    pass(70_000).await;
    one.stop().await;
    let next = process(&all, &endpoint, &of(&shared), Fleet::default());
    assert_eq!(next.token("d0").await, "t-d0-1");
    assert_eq!(endpoint.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_while_a_renewal_fails_or_at_the_end_is_not_found_again() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, false)), SharedStore::default());
    let all = names(2);
    let one = process(&all, &endpoint, &of(&shared), Fleet::default());
    one.token("d0").await;
    endpoint.take(5);
    endpoint.fail(Some(FetchError::Timeout(Duration::from_secs(5))));
    while endpoint.at_once.load(Ordering::SeqCst) == 0 {
        pass(1).await;
        one.token("d0").await;
    }
    assert_eq!(one.reject("d0").await, Rejection::Renewing);
    assert_eq!(stored(&shared, "d0").await.as_deref(), Some("t-d0-1"));
    while endpoint.at_once.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(stored(&shared, "d0").await, None, "before the next attempt");

    endpoint.fail(None);
    one.token("d1").await;
    let refused = one.issued("d1").await;
    one.stop.cancel();
    assert_eq!(one.pool.reject("d1", &refused), Rejection::Renewing);
    one.stop().await;
    assert_eq!((stored(&shared, "d1").await, shared.leases()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn renewals_in_flight_at_the_end_are_waited_for_and_logins_are_not() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, true)), SharedStore::default());
    let all = names(2);
    let one = process(&all, &endpoint, &of(&shared), Fleet::default());
    one.token("d0").await;
    endpoint.take(3);
    while endpoint.at_once.load(Ordering::SeqCst) == 0 {
        pass(1).await;
        one.token("d0").await;
    }
    let (pool, now) = (one.pool.clone(), one.clock.now());
    tokio::spawn(async move { pool.get_at("d1", now).await.is_ok() });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((endpoint.at_once.load(Ordering::SeqCst), shared.leases()), (2, 2));
    one.stop().await;
    assert_eq!(stored(&shared, "d0").await.as_deref(), Some("t-d0-2"));
    assert_eq!((stored(&shared, "d1").await, shared.leases()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_devices_are_served_from_memory_and_from_the_endpoint() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, false)), SharedStore::default());
    let all = names(20);
    let start = || process(&all, &endpoint, &of(&shared), Fleet::default());
    let (one, two) = (start(), start());
    for name in all.iter().take(10) {
        assert_eq!(one.token(name).await, two.token(name).await);
    }
    shared.be_away(true);
    for _ in 0..200 {
        pass(10).await;
        for process in [&one, &two] {
            process.tokens(&all).await;
        }
    }
    shared.be_away(false);
    pass(1000).await;
    let before = endpoint.fetches();
    for _ in 0..300 {
        pass(10).await;
        for name in &all {
            one.token(name).await;
            two.token(name).await;
        }
    }
    let together = endpoint.fetches() - before;
    assert!((20 * 3..=20 * 4).contains(&together), "{together} for 20 devices in 3000 s");
    assert_eq!(shared.records(), 20);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_late_goes_over_to_what_was_fetched_for_the_device_meanwhile() {
    let (endpoint, shared) = (Arc::new(Endpoint::new(1000, false)), SharedStore::default());
    let all = names(1);
    let start = || process(&all, &endpoint, &of(&shared), Fleet::default());
    let (late, other) = (start(), start());
    endpoint.take(5);
    let (pool, now) = (late.pool.clone(), late.clock.now());
    let waiting = tokio::spawn(async move { pool.get_at("d0", now).await.unwrap().item.clone() });
    pass(1).await;
    shared.end_leases();
    endpoint.take(1);
    assert_eq!(other.token("d0").await, "t-d0-1");
    assert_eq!(waiting.await.unwrap(), "t-d0-1", "not its own, which is the second");
    assert_eq!(stored(&shared, "d0").await.as_deref(), Some("t-d0-1"));
    assert_eq!(endpoint.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_s_token_is_durable_before_it_is_used() {
    let (file, mut commands) = FileStore::unserved();
    let endpoint = Arc::new(Endpoint::new(1000, false));
    let one = process(&names(1), &endpoint, &Store::over(file), Fleet::default());
    let (pool, now) = (one.pool.clone(), one.clock.now());
    let waiting = tokio::spawn(async move { pool.get_at("d0", now).await.unwrap().item.clone() });
    let Some(Command::Read(_, reply)) = commands.recv().await else { panic!("nothing is read") };
    assert_eq!(endpoint.fetches(), 0, "it is looked for first");
    reply.send(Ok(None)).unwrap();
    let Some(Command::Write(_, Some(_), reply)) = commands.recv().await else { panic!("no write") };
    pass(4).await;
    assert!(!waiting.is_finished(), "it is not durable yet");
    reply.send(Ok(())).unwrap();
    assert_eq!(waiting.await.unwrap(), "t-d0-1");
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_attempts_panic_fails_alone() {
    for store in [Store::default(), of(&SharedStore::default())] {
        let endpoint = Arc::new(Endpoint::new(1000, false));
        let one = process(&names(2), &endpoint, &store, Fleet::default());
        *endpoint.panics.lock().unwrap() = Some("d0".to_owned());
        let error = one.pool.get_at("d0", one.clock.now()).await.unwrap_err().to_string();
        assert!(error.contains("a mistake in countersign"), "{error}");
        assert_eq!(one.token("d1").await, "t-d1-1");
        assert!(one.watch.down().is_empty());
        *endpoint.panics.lock().unwrap() = None;
        pass(2).await;
        assert_eq!(one.token("d0").await, "t-d0-1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_goes_on_with_the_devices_that_it_has() {
    for store in [Store::default(), of(&SharedStore::default())] {
        let endpoint = Arc::new(Endpoint { lifetime: None, ..Endpoint::new(1000, false) });
        let all = names(20);
        let one = process(&all, &endpoint, &store, Fleet::default());
        endpoint.publishing_panics.store(1, Ordering::SeqCst);
        let asked = Instant::now();
        let (tokens, ()) = tokio::join!(one.tokens(&all), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(one.watch.down(), ["fleet"]);
        });
        assert_eq!(tokens.len(), 20);
        assert!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
        assert!(one.watch.down().is_empty());
        assert_eq!(endpoint.publishing_panics.load(Ordering::SeqCst), 0);
    }
}
