//! What keeps credentials fresh goes on after a mistake of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::FetchError;

/// The longest pause before a keeper that has panicked is started again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// After so long without a panic the next pause is the shortest again.
const RECOVERED: Duration = Duration::from_mins(10);

/// A task that keeps something up to date until it is told to stop.
pub trait Keeper: Send {
    /// Runs until it is told to stop. Called again after a panic: what it needs for going on it has
    /// to keep.
    fn keep(&mut self) -> impl Future<Output = ()> + Send;
}

/// A task that has nothing to keep for going on after a panic.
impl<F, R> Keeper for F
where
    F: FnMut() -> R + Send,
    R: Future<Output = ()> + Send,
{
    fn keep(&mut self) -> impl Future<Output = ()> + Send {
        self()
    }
}

/// Which credentials are not kept fresh at the moment, because of a panic. Clones are of the same.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<BTreeMap<String, usize>>>);

impl Watch {
    /// Their names.
    pub fn down(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Runs `keeper` of `credential`, and again whenever it panics, after a pause that grows, until
    /// it ends or `stop` says so.
    pub async fn over(self, mut keeper: impl Keeper, credential: String, stop: CancellationToken) {
        let mut panics: u32 = 0;
        loop {
            let started = Instant::now();
            // Locks are free again and what they guard can be used; the rest is the keeper's task.
            if AssertUnwindSafe(keeper.keep()).catch_unwind().await.is_ok() {
                return;
            }
            panics = if started.elapsed() > RECOVERED { 1 } else { panics.saturating_add(1) };
            let pause = Duration::from_secs(1 << (panics - 1).min(6)).min(LONGEST_PAUSE);
            tracing::error!(
                %credential, again_in_s = pause.as_secs(),
                "a mistake in countersign ended the task that keeps this credential fresh; it is \
                 started again; the panic's place is on standard error"
            );
            *self.lock().entry(credential.clone()).or_default() += 1;
            let stopped = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = stop.cancelled() => true,
            };
            let mut down = self.lock();
            if let Some(count) = down.get_mut(&credential) {
                *count -= 1;
                if *count == 0 {
                    down.remove(&credential);
                }
            }
            drop(down);
            // Nobody misses it then: its credential is gone.
            if stopped {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.down())
    }
}

/// One attempt to fetch for `credential`, of whose panic nothing else is to take harm.
///
/// # Errors
/// With its own, and [`FetchError::Panicked`].
pub(super) async fn isolated<T>(
    credential: &str,
    attempt: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(
            %credential,
            "a mistake in countersign ended an attempt; the panic's place is on standard error"
        );
        Err(FetchError::Panicked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn whoever_panics_is_missed_and_started_again_after_a_pause_that_grows() {
        let (watch, stop) = (Watch::default(), CancellationToken::new());
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let until = stop.clone();
        let keeper = move || {
            let start = counted.fetch_add(1, Ordering::SeqCst);
            let until = until.clone();
            async move {
                tokio::task::yield_now().await;
                assert!(start >= 3, "a mistake");
                until.cancelled().await;
            }
        };
        let running = tokio::spawn(watch.clone().over(keeper, "plant".to_owned(), stop.clone()));
        let begun = Instant::now();
        let mut seen = Vec::new();
        while starts.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let down = watch.down();
            if starts.load(Ordering::SeqCst) < 4 {
                assert_eq!(down, ["plant"]);
            }
            seen.push(starts.load(Ordering::SeqCst));
        }
        assert!(watch.down().is_empty(), "it runs again");
        assert!((7..=8).contains(&begun.elapsed().as_secs()), "1 + 2 + 4 s: {seen:?}");
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_stopped_before_it_is_started_again_is_not_missed() {
        let (watch, stop) = (Watch::default(), CancellationToken::new());
        let panics = true;
        let keeper = move || async move { assert!(!panics, "a mistake") };
        let kept = tokio::spawn(watch.clone().over(keeper, "plant".to_owned(), stop.clone()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(watch.down(), ["plant"]);
        // Its credential is gone from the configuration.
        stop.cancel();
        kept.await.unwrap();
        assert!(watch.down().is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_an_attempt_is_its_failure() {
        assert_eq!(isolated("x", async { Ok(7) }).await.unwrap(), 7);
        let panicked = isolated::<()>("x", async {
            tokio::task::yield_now().await;
            panic!("a mistake")
        });
        assert_eq!(panicked.await.unwrap_err(), FetchError::Panicked);
    }
}
