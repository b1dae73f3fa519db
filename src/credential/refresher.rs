//! The write side of a credential: the task that owns the source.
//!
//! It is the only caller of the source, so that there is one attempt at a time whoever waits, and
//! a caller who goes away cancels nothing.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::{CredentialCache, Failure};
use super::schedule::{RefreshPolicy, retry_after, usable_guard};
use super::secrets::Changes;
use super::store::{Restored, Slot};
use super::{Credential, CredentialSource, FetchError};
use crate::clock::{Clock, Deadline};
use crate::sign::BindError;

/// Timers stand still while the machine sleeps, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// How long a renewal in flight may take at the end: its answer may hold the only value by which the
/// next renewal is possible.
const LAST_RENEWAL: Duration = Duration::from_secs(5);

/// Keeps one credential fresh until it is told to stop.
pub struct Refresher<S, T, P>
where
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// The credential's name, for the log.
    pub name: String,
    /// Where it comes from.
    pub source: S,
    /// What is published of it.
    pub prepare: P,
    /// Where it is published.
    pub cache: CredentialCache<T>,
    /// When to renew.
    pub policy: RefreshPolicy,
    /// The time.
    pub clock: Clock,
    /// Where it is kept beyond the process.
    pub slot: Slot,
    /// Tells when a secret that the source uses has changed.
    pub secrets: Changes,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// How it begins.
#[derive(Default)]
struct Begin {
    current: Option<Credential>,
    /// There is something in the store that may have to be removed.
    kept: bool,
    /// `current` has ended, and can be renewed all the same.
    ended: bool,
    /// How long until the first attempt, and whether that is because of a failure; `None`: now.
    pause: Option<(Option<Duration>, bool)>,
}

enum Wake {
    Due,
    SecretsChanged,
    Stop,
}

impl<S, T, P> Refresher<S, T, P>
where
    S: CredentialSource,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Runs until stopped; then gives up the credential that it has, within the time limit, unless
    /// it is kept for the next start.
    pub async fn run(mut self) {
        if let Some(last) = self.keep_fresh().await
            && !self.slot.is_durable()
        {
            let giving_up = self.source.give_up(&last);
            if tokio::time::timeout(self.policy.timeout, giving_up).await.is_err() {
                tracing::warn!(credential = %self.name, "logging out took too long");
            }
        }
    }

    /// Fetches and renews until stopped. Returns the last credential.
    async fn keep_fresh(&mut self) -> Option<Credential> {
        let Begin { mut current, mut kept, mut ended, mut pause } = self.restore().await;
        if pause.is_none() && !self.policy.eager {
            tokio::select! {
                () = self.cache.demanded() => {}
                () = self.stop.cancelled() => return current,
            }
        }
        let mut failures: u32 = 0;
        let mut renewal_hangs = false;
        let mut warned = false;
        loop {
            if let Some((wait, in_backoff)) = pause {
                match self.sleep(wait, in_backoff).await {
                    Wake::Due => {}
                    Wake::SecretsChanged => {
                        tracing::info!(credential = %self.name, "a secret changed; fetching again");
                        // A new password owes nothing to what the old one returned.
                        current = None;
                        failures = 0;
                    }
                    Wake::Stop => return current,
                }
            }
            // What was published is not there any more: it was refused.
            if kept && !ended && self.cache.peek().is_none() {
                let refused = current.as_ref().map(|current| current.values.clone());
                self.slot.remove(&refused.unwrap_or_default()).await;
                kept = false;
            }
            self.cache.begin_attempt();
            self.secrets.mark_seen();
            let fingerprint = self.slot.fingerprint();
            let started = self.clock.now();
            // A renewal that takes all the time there is leaves none for a login.
            let renewed = current.as_ref().filter(|_| !renewal_hangs);
            let Some(attempt) = self.attempt_unless_stopped(renewed, ended).await else {
                return current;
            };
            renewal_hangs = matches!(attempt, Err(FetchError::Timeout(_)));
            let took = self.clock.now().monotonic - started.monotonic;
            pause = Some(match attempt {
                Ok((credential, item)) => {
                    failures = 0;
                    let exceeds = |lifetime| self.policy.margin_exceeds(lifetime);
                    if !warned && credential.lifetime.is_some_and(exceeds) {
                        warned = true;
                        tracing::warn!(
                            credential = %self.name,
                            "it lives no longer than refresh.margin; renewing after a quarter of \
                             its life"
                        );
                    }
                    (kept, ended) = (true, false);
                    // Durable before it is used: whoever renewed has no way back.
                    let (now, renews) = (self.clock.now(), self.source.renews_ended());
                    self.slot.save(fingerprint, None, &credential, now, renews).await;
                    let wait = self.published(&credential, item, took);
                    current = Some(credential);
                    (wait, false)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    (Some(self.failed(error, failures)), true)
                }
            });
        }
    }

    /// What is left from before the start. What is still usable is published, and renewed when it
    /// would have been.
    async fn restore(&self) -> Begin {
        let mut begin = Begin::default();
        let Some(stored) = self.slot.load().await else { return begin };
        let Restored { credential, age, usable } = stored.restore(self.clock.now());
        self.source.restored(&credential);
        let item = if usable { (self.prepare)(&credential).ok() } else { None };
        if let Some(item) = item {
            let guard = credential.lifetime.map(usable_guard).unwrap_or_default();
            self.cache.publish(item, credential.expires, guard);
            let after = |lifetime| self.policy.renew_after(lifetime, fastrand::f64());
            let wait = credential.lifetime.map(|lifetime| after(lifetime).saturating_sub(age));
            tracing::info!(
                credential = %self.name,
                age_s = age.as_secs(),
                renewal_in_s = wait.map(|wait| wait.as_secs()),
                "credential restored from the token store"
            );
            begin = Begin { kept: true, pause: Some((wait, false)), ..begin };
            begin.current = Some(credential);
        } else if !usable && self.source.renews_ended() {
            begin = Begin { kept: true, ended: true, ..begin };
            begin.current = Some(credential);
        }
        begin
    }

    /// One attempt; `None` if stopped meanwhile.
    async fn attempt_unless_stopped(
        &self,
        current: Option<&Credential>,
        ended: bool,
    ) -> Option<Result<(Credential, T), FetchError>> {
        let renews = current.is_some() && self.slot.is_durable();
        let mut attempt = std::pin::pin!(self.attempt(current, ended));
        tokio::select! {
            attempt = &mut attempt => Some(attempt),
            () = self.stop.cancelled() => {
                if !renews {
                    return None;
                }
                tokio::time::timeout(LAST_RENEWAL, attempt).await.ok()
            }
        }
    }

    /// One attempt within the time limit. `ended`: `current` is known to have ended, and of use for
    /// a renewal all the same.
    async fn attempt(
        &self,
        current: Option<&Credential>,
        ended: bool,
    ) -> Result<(Credential, T), FetchError> {
        // Only a credential that still is one can be renewed.
        let now = self.clock.now();
        let current = current.filter(|credential| {
            ended
                || (self.cache.peek().is_some_and(|issued| issued.is_usable(now))
                    && credential.expires.is_none_or(|end| !end.is_over(now)))
        });
        let fetch = self.source.fetch(current);
        let credential = tokio::time::timeout(self.policy.timeout, fetch)
            .await
            .map_err(|_| FetchError::Timeout(self.policy.timeout))??;
        let item = (self.prepare)(&credential)?;
        Ok((credential, item))
    }

    /// Publishes and says how long until the renewal; `None` if the credential does not end.
    fn published(&self, credential: &Credential, item: T, took: Duration) -> Option<Duration> {
        let lifetime = credential.lifetime;
        let guard = lifetime.map(usable_guard).unwrap_or_default();
        self.cache.publish(item, credential.expires, guard);
        let wait = lifetime.map(|lifetime| self.policy.renew_after(lifetime, fastrand::f64()));
        if let (Some(lifetime), Some(wait)) = (lifetime, wait) {
            tracing::info!(
                credential = %self.name,
                lifetime_s = lifetime.as_secs(),
                renewal_in_s = wait.as_secs(),
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "credential fetched"
            );
        } else {
            tracing::info!(credential = %self.name, "credential fetched; it does not end");
        }
        wait
    }

    /// Publishes the failure and says how long until the next attempt.
    fn failed(&self, error: FetchError, failures: u32) -> Duration {
        let wait = retry_after(&error, failures, fastrand::f64());
        let usable = self.cache.is_ready();
        let retry_in_s = wait.as_secs_f64();
        if error.is_refusal() {
            tracing::error!(credential = %self.name, %error, usable, retry_in_s, "login refused");
        } else {
            tracing::warn!(credential = %self.name, %error, usable, retry_in_s, "fetch failed");
        }
        self.cache.publish_failure(Failure { error, retry_at: Instant::now() + wait });
        wait
    }

    /// Sleeps until the next attempt is due, by the schedule or because somebody needs it.
    async fn sleep(&mut self, wait: Option<Duration>, in_backoff: bool) -> Wake {
        let due: Option<Deadline> = wait.map(|wait| self.clock.now().after(wait));
        loop {
            let left = due.map(|due| due.remaining(self.clock.now()));
            if left == Some(Duration::ZERO) {
                return Wake::Due;
            }
            let slice = left.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            tokio::select! {
                () = tokio::time::sleep(slice) => {}
                () = self.secrets.next() => return Wake::SecretsChanged,
                // A request found nothing usable: rejected, or ended while the machine slept.
                () = self.cache.demanded(), if !in_backoff => {
                    if !self.cache.is_ready() {
                        return Wake::Due;
                    }
                }
                () = self.stop.cancelled() => return Wake::Stop,
            }
        }
    }
}

impl<S: CredentialSource, T, P> std::fmt::Debug for Refresher<S, T, P>
where
    P: Fn(&Credential) -> Result<T, BindError>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresher")
            .field("name", &self.name)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "refresher_tests.rs"]
mod tests;
