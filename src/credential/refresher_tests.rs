use super::*;
use crate::credential::Refusal;
use crate::credential::cache::{CacheSettings, Rejection, Unavailable};
use crate::credential::schedule::Span;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::credential::store::file::{Command, FileStore};
use crate::credential::store::{self, Definition, Slot, Store, StoreSpec};
use crate::permissions::Check;
use crate::secret::Secret;
use crate::values::Values;
use http::StatusCode;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A source that counts, takes a while, and answers what it was told to: then ever the last.
#[derive(Debug, Clone)]
struct Scripted {
    calls: Arc<AtomicU64>,
    renewals: Arc<AtomicU64>,
    given_up: Arc<Mutex<Vec<String>>>,
    takes: Duration,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    clock: Clock,
}

#[derive(Debug, Clone)]
enum Answer {
    Lives(u64),
    Fails(FetchError),
}

impl CredentialSource for Scripted {
    async fn fetch(&self, current: Option<&Credential>) -> Result<Credential, FetchError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if current.is_some() {
            self.renewals.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(self.takes).await;
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        match answer.unwrap() {
            Answer::Fails(error) => Err(error),
            Answer::Lives(seconds) => {
                let lifetime = Duration::from_secs(seconds);
                let values = Values::from_iter([("token", Secret::new(format!("t{call}")))]);
                let expires = Some(self.clock.now().after(lifetime));
                Ok(Credential { values, expires, lifetime: Some(lifetime), clock_skew_ms: None })
            }
        }
    }

    async fn give_up(&self, current: &Credential) {
        let token = current.values.text("token").unwrap().to_owned();
        self.given_up.lock().unwrap().push(token);
    }
}

fn keep(mut keeper: impl Keeper + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { keeper.keep().await })
}

struct Scene {
    cache: CredentialCache<String>,
    source: Scripted,
    secrets: watch::Sender<u64>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn scene(answers: &[Answer], policy: RefreshPolicy, clock: &Clock) -> Scene {
    let source = Scripted {
        calls: Arc::default(),
        renewals: Arc::default(),
        given_up: Arc::default(),
        takes: Duration::from_millis(50),
        answers: Arc::new(Mutex::new(answers.iter().cloned().collect())),
        clock: clock.clone(),
    };
    let settings =
        CacheSettings { renewable: true, wait: policy.wait, min_interval: policy.min_interval };
    let cache = CredentialCache::new(clock.clone(), settings);
    let secrets = watch::Sender::new(0);
    let stop = CancellationToken::new();
    let refresher = Refresher {
        name: "x".to_owned(),
        source: source.clone(),
        prepare: |credential: &Credential| {
            Ok(credential.values.text("token").unwrap_or_default().to_owned())
        },
        cache: cache.clone(),
        policy,
        clock: clock.clone(),
        slot: Slot::default(),
        secrets: Changes::from_iter([secrets.subscribe()]),
        stop: stop.clone(),
        progress: Progress::default(),
    };
    let task = keep(refresher);
    Scene { cache, source, secrets, stop, task }
}

impl Scene {
    fn calls(&self) -> u64 {
        self.source.calls.load(Ordering::SeqCst)
    }

    async fn token(&self) -> String {
        self.cache.get().await.unwrap().item.clone()
    }
}

fn lazy() -> RefreshPolicy {
    RefreshPolicy { eager: false, ..RefreshPolicy::default() }
}

fn unavailable(retry_after: Option<u64>) -> Answer {
    Answer::Fails(FetchError::Unavailable {
        status: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: retry_after.map(Duration::from_secs),
    })
}

fn refused() -> Answer {
    Answer::Fails(FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED)))
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cold_callers_share_one_fetch() {
    let scene = scene(&[Answer::Lives(3600)], lazy(), &Clock::system());
    tokio::task::yield_now().await;
    assert_eq!(scene.calls(), 0, "nothing is fetched before it is needed");
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let cache = scene.cache.clone();
            tokio::spawn(async move { cache.get().await.unwrap().item.clone() })
        })
        .collect();
    for caller in waiting {
        assert_eq!(caller.await.unwrap(), "t1");
    }
    assert_eq!(scene.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_does_not_cancel_the_fetch_for_the_others() {
    let scene = scene(&[Answer::Lives(3600)], lazy(), &Clock::system());
    let first = scene.cache.clone();
    let first = tokio::spawn(async move { first.get().await.is_ok() });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.calls(), 1);
    first.abort();
    assert_eq!(scene.token().await, "t1");
    assert_eq!(scene.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_eager_credential_is_there_before_anybody_asks() {
    let scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    assert!(scene.cache.is_ready());
    assert_eq!(scene.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn renewal_happens_before_the_end_and_nobody_ever_waits() {
    let scene = scene(&[Answer::Lives(100)], RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    for _ in 0..2000 {
        let before = Instant::now();
        scene.cache.get().await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO, "a usable credential is there at once");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let renewals = scene.calls() - 1;
    assert!((10..=16).contains(&renewals), "{renewals} renewals in ten lifetimes");
    assert_eq!(scene.source.renewals.load(Ordering::SeqCst), renewals, "each from a live one");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_rest_of_the_lifetime_is_not_noticed() {
    let answers = [Answer::Lives(100), unavailable(None), unavailable(None), Answer::Lives(100)];
    let scene = scene(&answers, RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    for _ in 0..400 {
        scene.cache.get().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(scene.calls() >= 4);
}

#[tokio::test(start_paused = true)]
async fn an_ended_credential_is_never_handed_out_and_the_failure_is_shared() {
    let answers = [Answer::Lives(20), unavailable(None)];
    let scene = scene(&answers, RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    assert_eq!(scene.token().await, "t1");
    pass(20).await;
    let error = scene.cache.get().await.unwrap_err();
    let Unavailable::Failed { retry_in, .. } = error else { panic!("{error:?}") };
    assert!(retry_in <= Duration::from_secs(60));
    let calls = scene.calls();
    for _ in 0..1000 {
        assert!(scene.cache.get().await.is_err());
    }
    assert!(scene.calls() <= calls + 1, "callers do not make the attempts");
}

#[tokio::test(start_paused = true)]
async fn attempts_during_a_long_outage_are_few_and_recovery_needs_nobody() {
    let scene = scene(&[unavailable(None)], RefreshPolicy::default(), &Clock::system());
    pass(600).await;
    assert!((10..=22).contains(&scene.calls()), "{} attempts in ten minutes", scene.calls());
    *scene.source.answers.lock().unwrap() = VecDeque::from([Answer::Lives(3600)]);
    pass(61).await;
    assert!(scene.cache.is_ready(), "within one step of the back-off");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    let answers = [unavailable(Some(120)), Answer::Lives(3600)];
    let scene = scene(&answers, RefreshPolicy::default(), &Clock::system());
    pass(119).await;
    assert_eq!(scene.calls(), 1);
    pass(2).await;
    assert_eq!(scene.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_not_tried_again_until_the_secret_changes() {
    let scene = scene(&[refused(), Answer::Lives(3600)], lazy(), &Clock::system());
    for _ in 0..100 {
        let error = scene.cache.get().await.unwrap_err();
        let refused = matches!(&error, Unavailable::Failed { error, .. } if error.is_refusal());
        assert!(refused, "{error:?}");
        pass(5).await;
    }
    assert_eq!(scene.calls(), 1);
    scene.secrets.send_modify(|count| *count += 1);
    pass(1).await;
    assert_eq!(scene.token().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_rejections_discards_one_credential_and_not_its_successor() {
    let scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    let refused = scene.cache.get().await.unwrap();
    assert_eq!(scene.cache.reject(&refused), Rejection::Renewing);
    assert_eq!(scene.cache.reject(&refused), Rejection::Replaced);
    assert_eq!(scene.token().await, "t2");
    assert_eq!(scene.cache.reject(&refused), Rejection::Replaced);
    assert_eq!(scene.token().await, "t2");
    assert_eq!(scene.calls(), 2);
    assert_eq!(scene.source.renewals.load(Ordering::SeqCst), 0, "a refused one is not renewed");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_everything_costs_two_logins_a_minute_at_most() {
    let scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    for _ in 0..600 {
        let current = scene.cache.get().await.unwrap();
        scene.cache.reject(&current);
        pass(1).await;
    }
    assert!(scene.calls() <= 1 + 20, "{} logins in ten minutes", scene.calls());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up_and_tried_again() {
    let mut scene = scene(&[Answer::Lives(3600)], lazy(), &Clock::system());
    scene.task.abort();
    let mut hanging = scene.source.clone();
    hanging.takes = Duration::from_secs(3600);
    let refresher = Refresher {
        name: "x".to_owned(),
        source: hanging,
        prepare: |_: &Credential| Ok("never".to_owned()),
        cache: scene.cache.clone(),
        policy: RefreshPolicy { wait: Duration::from_secs(5), ..lazy() },
        clock: Clock::system(),
        slot: Slot::default(),
        secrets: Changes::from_iter([scene.secrets.subscribe()]),
        stop: scene.stop.clone(),
        progress: Progress::default(),
    };
    scene.task = keep(refresher);
    let error = scene.cache.get().await.unwrap_err();
    assert!(matches!(error, Unavailable::Waiting(_)), "callers wait a bounded time: {error:?}");
    pass(60).await;
    assert!(scene.calls() >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_does_not_use_what_ended_meanwhile() {
    let offset = Arc::new(AtomicI64::new(0));
    let clock = Clock::shifted(Arc::clone(&offset));
    let scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &clock);
    pass(1).await;
    assert_eq!(scene.token().await, "t1");
    // The wall clock goes on while the monotonic one stands still.
    offset.store(7_200_000, Ordering::Relaxed);
    assert_eq!(scene.token().await, "t2", "the first request after waking up gets a new one");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_causes_no_renewal() {
    let offset = Arc::new(AtomicI64::new(0));
    let clock = Clock::shifted(Arc::clone(&offset));
    let scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &clock);
    pass(1).await;
    offset.store(-3_600_000, Ordering::Relaxed);
    pass(600).await;
    assert_eq!(scene.token().await, "t1");
    assert_eq!(scene.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_task_and_gives_up_the_last_credential() {
    let mut scene = scene(&[Answer::Lives(3600)], RefreshPolicy::default(), &Clock::system());
    pass(1).await;
    scene.stop.cancel();
    (&mut scene.task).await.unwrap();
    assert_eq!(*scene.source.given_up.lock().unwrap(), ["t1"]);
}

/// A store in a file, with the refresher's own idea of what it logs in with.
async fn store(directory: &std::path::Path) -> (Store, store::running::Running) {
    let key = SecretRef::Value(Secret::new("0123456789abcdef"));
    let spec = StoreSpec::File { path: directory.join("tokens"), key: key.clone() };
    let secrets = Secrets::resolve(vec![key], Check::Off).await.unwrap();
    let (store, writer) = Store::open(&spec, &secrets.into(), &Clock::system()).await.unwrap();
    (store, writer.unwrap().start())
}

fn slot(store: &Store) -> Slot {
    Slot::new(store, "x", None, Definition::default(), Vec::new)
}

fn with_slot(scene: &Scene, slot: Slot, policy: RefreshPolicy) -> tokio::task::JoinHandle<()> {
    let refresher = Refresher {
        name: "x".to_owned(),
        source: scene.source.clone(),
        prepare: |credential: &Credential| {
            Ok(credential.values.text("token").unwrap_or_default().to_owned())
        },
        cache: scene.cache.clone(),
        policy,
        clock: Clock::system(),
        slot,
        secrets: Changes::from_iter([scene.secrets.subscribe()]),
        stop: scene.stop.clone(),
        progress: Progress::default(),
    };
    keep(refresher)
}

#[tokio::test(start_paused = true)]
async fn a_restored_token_serves_at_once_and_is_renewed_when_it_would_have_been() {
    let directory = tempfile::tempdir().unwrap();
    let (store, running) = store(directory.path()).await;
    let minutes = Duration::from_mins;
    let now = Clock::system().now();
    let credential = Credential {
        values: Values::from_iter([("token", Secret::new("stored"))]),
        expires: Some(now.after(minutes(10))),
        lifetime: Some(minutes(60)),
        clock_skew_ms: None,
    };
    let fetched = crate::clock::Now { wall: now.wall - minutes(50), ..now };
    let slot_of_former = slot(&store);
    let fingerprint = slot_of_former.fingerprint();
    slot_of_former.save(fingerprint, None, &credential, fetched, false).await;

    let policy = RefreshPolicy { jitter: Some(Span::Share(0.0)), ..lazy() };
    let mut scene = scene(&[Answer::Lives(3600)], policy, &Clock::system());
    scene.task.abort();
    scene.task = with_slot(&scene, slot(&store), policy);
    assert_eq!(scene.token().await, "stored");
    // After 54 of its 60 minutes.
    pass(3 * 60 + 50).await;
    assert_eq!(scene.calls(), 0);
    pass(20).await;
    assert_eq!((scene.calls(), scene.source.renewals.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(scene.token().await, "t1");
    let stored = slot(&store).load().await.unwrap();
    assert_eq!(stored.values.text("token"), Some("t1"), "what is used is stored");
    scene.stop.cancel();
    (&mut scene.task).await.unwrap();
    assert!(scene.source.given_up.lock().unwrap().is_empty(), "it is kept");
    running.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_leaves_the_store_before_another_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (store, running) = store(directory.path()).await;
    let mut scene = scene(&[Answer::Lives(3600), unavailable(None)], lazy(), &Clock::system());
    scene.task.abort();
    scene.task = with_slot(&scene, slot(&store), lazy());
    assert_eq!(scene.token().await, "t1");
    assert!(slot(&store).load().await.is_some());
    let current = scene.cache.get().await.unwrap();
    assert_eq!(scene.cache.reject(&current), Rejection::Renewing);
    assert!(scene.cache.get().await.is_err());
    assert!(slot(&store).load().await.is_none());
    running.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_in_flight_at_the_end_is_waited_for_and_stored() {
    let directory = tempfile::tempdir().unwrap();
    let (store, running) = store(directory.path()).await;
    let policy = RefreshPolicy { jitter: Some(Span::Share(0.0)), ..lazy() };
    let mut scene = scene(&[Answer::Lives(1000)], policy, &Clock::system());
    scene.task.abort();
    scene.source.takes = Duration::from_secs(3);
    scene.task = with_slot(&scene, slot(&store), policy);
    assert_eq!(scene.token().await, "t1");
    pass(901).await;
    assert_eq!(scene.calls(), 2, "it is being renewed");
    scene.stop.cancel();
    (&mut scene.task).await.unwrap();
    let stored = slot(&store).load().await.unwrap();
    assert_eq!(stored.values.text("token"), Some("t2"));
    running.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_durable_before_it_is_used_unless_the_store_takes_too_long() {
    let (file, mut commands) = FileStore::unserved();
    let store = Store::over(file);
    let policy = RefreshPolicy { jitter: Some(Span::Share(0.0)), ..RefreshPolicy::default() };
    let mut scene = scene(&[Answer::Lives(1000)], policy, &Clock::system());
    scene.task.abort();
    scene.task = with_slot(&scene, slot(&store), policy);
    let Some(Command::Read(_, reply)) = commands.recv().await else { panic!("nothing is read") };
    assert_eq!(scene.calls(), 0, "it is looked for first");
    reply.send(Ok(None)).unwrap();
    let Some(Command::Write(_, Some(_), reply)) = commands.recv().await else { panic!("no write") };
    assert_eq!(scene.calls(), 1);
    pass(4).await;
    assert!(!scene.cache.is_ready(), "it is not durable yet");
    reply.send(Ok(())).unwrap();
    assert_eq!(scene.token().await, "t1");

    pass(900).await;
    let Some(Command::Write(_, Some(_), reply)) = commands.recv().await else { panic!("no write") };
    assert_eq!(scene.token().await, "t1", "the former is still good");
    pass(6).await;
    assert_eq!(scene.token().await, "t2", "nobody waits for ever");
    drop(reply);
}
