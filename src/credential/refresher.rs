//! The write side of a credential: the task that owns the source.
//!
//! It is the only caller of the source, so that there is one attempt at a time whoever waits, and
//! a caller who goes away cancels nothing. Where other processes keep the same credential, one
//! fetches at a time: whoever wants to claims the place in the store, and goes over to what is
//! there if another was faster.

mod turn;

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::turn::Turn;
use super::cache::{CredentialCache, Failure};
use super::keeper::{Keeper, isolated};
use super::schedule::{RefreshPolicy, retry_after, usable_guard};
use super::secrets::Changes;
use super::store::seal::Fingerprint;
use super::store::{Lease, Saved, Slot};
use super::{Credential, CredentialSource, FetchError};
use crate::clock::{Clock, Deadline, Now};
use crate::sign::BindError;

/// Timers stand still while the machine sleeps, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// How long a renewal in flight may take at the end: its answer may hold the only value by which the
/// next renewal is possible.
pub(super) const LAST_RENEWAL: Duration = Duration::from_secs(5);

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
    /// How far it is: the default is the beginning.
    pub progress: Progress,
}

/// What a refresher needs to go on.
#[derive(Debug, Default)]
pub struct Progress {
    /// The store was looked at.
    begun: bool,
    held: Option<Held>,
    /// Attempts that failed in a row.
    failures: u32,
    /// The last renewal took all the time there was.
    renewal_hangs: bool,
    /// It was said that `refresh.margin` is too long.
    warned: bool,
}

/// The last credential.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
struct Held {
    credential: Credential,
    fingerprint: Option<Fingerprint>,
    /// When it was fetched.
    fetched: SystemTime,
    /// It was published. If it is not there any more, it was refused.
    published: bool,
    /// The store has it, so that anything else there is newer.
    saved: bool,
    /// The one before was refused.
    after_refusal: bool,
    /// The store was told that it was refused.
    told: bool,
    /// It was refused as the one before: what it holds for renewals leads nowhere.
    spent: bool,
}

/// How long until the next attempt; `None` if there is no need for one.
#[derive(Debug, Clone, Copy)]
struct Pause {
    wait: Option<Duration>,
    /// It is because of a failure.
    in_backoff: bool,
}

impl Pause {
    fn until_renewal(wait: Option<Duration>) -> Self {
        Self { wait, in_backoff: false }
    }
}

enum Wake {
    Due,
    SecretsChanged,
    /// Another process has fetched.
    Adopted(Pause),
    Stop,
}

impl<S, T, P> Keeper for Refresher<S, T, P>
where
    S: CredentialSource,
    T: Send + Sync,
    P: Fn(&Credential) -> Result<T, BindError> + Send + Sync,
{
    /// Runs until stopped; then gives up the credential that it has, within the time limit, unless
    /// it is kept for the next start.
    async fn keep(&mut self) {
        self.keep_fresh().await;
        self.tell_of_refusal().await;
        if let Some(last) = &self.progress.held
            && !self.slot.is_durable()
        {
            let giving_up = self.source.give_up(&last.credential);
            if tokio::time::timeout(self.policy.timeout, giving_up).await.is_err() {
                tracing::warn!(credential = %self.name, "logging out took too long");
            }
        }
    }
}

impl<S, T, P> Refresher<S, T, P>
where
    S: CredentialSource,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Fetches and renews until stopped.
    async fn keep_fresh(&mut self) {
        let mut pause = self.begin().await;
        if pause.is_none() && !self.policy.eager && !self.cache.state().renewing {
            tokio::select! {
                () = self.cache.demanded() => {}
                () = self.cache.wished() => {}
                () = self.stop.cancelled() => return,
            }
        }
        loop {
            if let Some(due) = pause {
                match self.sleep(due).await {
                    Wake::Due => {}
                    Wake::SecretsChanged => self.forget(),
                    Wake::Adopted(adopted) => {
                        pause = Some(adopted);
                        continue;
                    }
                    Wake::Stop => return,
                }
            }
            self.cache.begin_attempt();
            self.secrets.mark_seen();
            self.tell_of_refusal().await;
            pause = self.renew().await;
            if pause.is_none() {
                return;
            }
        }
    }

    /// What is left from before the start is published if it is still usable, and renewed when it
    /// would have been. So it is with what is left from before a panic.
    async fn begin(&mut self) -> Option<Pause> {
        if self.progress.begun {
            let state = self.cache.state();
            let held = self.progress.held.as_ref().filter(|_| state.usable && !state.renewing)?;
            let age = self.clock.wall().duration_since(held.fetched).unwrap_or_default();
            return Some(Pause::until_renewal(self.renewal(&held.credential, age)));
        }
        self.progress.begun = true;
        let stored = self.slot.load().await?;
        let pause = self.adopt(stored, "credential restored from the token store")?;
        Some(pause)
    }

    /// A new password owes nothing to what the old one returned.
    fn forget(&mut self) {
        tracing::info!(credential = %self.name, "a secret changed; fetching again");
        self.progress.held = None;
        self.progress.failures = 0;
    }

    /// True if what was published last is not there any more: it was refused.
    fn is_refused(&self) -> bool {
        self.progress.held.as_ref().is_some_and(|held| held.published)
            && self.cache.peek().is_none()
    }

    /// Has the store know that what it holds was refused.
    async fn tell_of_refusal(&mut self) {
        if !self.is_refused() {
            return;
        }
        let Some(held) = self.progress.held.as_mut().filter(|held| !held.told) else { return };
        held.spent = held.after_refusal;
        let renews = self.source.renews_ended() && !held.spent;
        held.told = self.slot.refuse(&held.credential.values, renews, self.clock.now()).await;
    }

    /// Fetches, or goes over to what another process has fetched; says how long until the next
    /// time. `None` if stopped meanwhile.
    async fn renew(&mut self) -> Option<Pause> {
        let lease = match self.turn().await? {
            Turn::Ours(lease) => lease,
            Turn::Adopted(pause) => return Some(pause),
        };
        let _busy = self.slot.busy();
        let leased = lease.is_some();
        let fingerprint = self.slot.fingerprint();
        let after_refusal = self.is_refused();
        let withheld = self.slot.withhold(&self.source.uses_up(self.renewable())).await;
        let started = self.clock.now();
        let attempt = self.attempt_unless_stopped().await;
        if let Some(withheld) = withheld
            && !matches!(attempt, Some(Ok(_)))
            && !self.source.uses_up(self.renewable()).is_empty()
        {
            self.slot.put_back(&withheld).await;
        }
        let Some(attempt) = attempt else {
            self.give_back(lease).await;
            return None;
        };
        self.progress.renewal_hangs = matches!(attempt, Err(FetchError::Timeout(_)));
        match attempt {
            Ok((credential, item)) => {
                self.progress.failures = 0;
                let now = self.clock.now();
                let held = Held {
                    credential,
                    fingerprint,
                    fetched: now.wall,
                    published: true,
                    saved: false,
                    after_refusal,
                    told: false,
                    spent: false,
                };
                let pause = self.save(held, item, lease, now.monotonic - started.monotonic).await;
                Some(pause)
            }
            Err(error) => {
                // Whoever could not ask the store may have been overtaken: what was refused then is
                // what another process has renewed.
                if error.is_refusal()
                    && !leased
                    && self.slot.is_shared()
                    && let Some(stored) = self.slot.load().await
                    && let Some(pause) = self.take_over(stored)
                {
                    return Some(pause);
                }
                self.progress.failures = self.progress.failures.saturating_add(1);
                let pause = Pause { wait: Some(self.failed(error)), in_backoff: true };
                self.give_back(lease).await;
                // It was refused while this attempt was made.
                self.tell_of_refusal().await;
                Some(pause)
            }
        }
    }

    /// How long until the renewal of a credential of that age; `None` if it does not end.
    fn renewal(&self, credential: &Credential, age: Duration) -> Option<Duration> {
        let after = |lifetime| self.policy.renew_after(lifetime, fastrand::f64());
        credential.lifetime.map(|lifetime| after(lifetime).saturating_sub(age))
    }

    /// One attempt; `None` if stopped meanwhile.
    async fn attempt_unless_stopped(&self) -> Option<Result<(Credential, T), FetchError>> {
        let current = self.renewable();
        let renews = (current.is_some() || self.source.renews_ended()) && self.slot.is_durable();
        let mut attempt = std::pin::pin!(isolated(&self.name, self.attempt(current)));
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

    /// What can be renewed: one that still is one, or that holds a value for renewals.
    fn renewable(&self) -> Option<&Credential> {
        // A renewal that takes all the time there is leaves none for a login.
        let held = self.progress.held.as_ref().filter(|_| !self.progress.renewal_hangs)?;
        let now = self.clock.now();
        let usable = self.cache.peek().is_some_and(|issued| issued.is_usable(now))
            && held.credential.expires.is_none_or(|end| !end.is_over(now));
        (usable || (self.source.renews_ended() && !held.spent)).then_some(&held.credential)
    }

    /// One attempt within the time limit.
    async fn attempt(&self, current: Option<&Credential>) -> Result<(Credential, T), FetchError> {
        let fetch = self.source.fetch(current);
        let credential = tokio::time::timeout(self.policy.timeout, fetch)
            .await
            .map_err(|_| FetchError::Timeout(self.policy.timeout))??;
        let item = (self.prepare)(&credential)?;
        Ok((credential, item))
    }

    /// Saves what was fetched under `lease` and publishes it; says how long until its renewal.
    async fn save(&mut self, held: Held, item: T, lease: Option<Lease>, took: Duration) -> Pause {
        // Durable before it is used: whoever renewed has no way back.
        let at = Now { wall: held.fetched, ..self.clock.now() };
        let renews = self.source.renews_ended();
        let saved = self.slot.save(held.fingerprint, lease, &held.credential, at, renews).await;
        let (credential, fetched) = (held.credential.clone(), held.fetched);
        self.progress.held = Some(Held { saved: saved != Saved::Unsaved, ..held });
        if saved == Saved::Superseded {
            tracing::info!(
                credential = %self.name,
                "another process was given the turn to fetch meanwhile; its result counts"
            );
            // Ours can be used as well, unless a second login ends the first.
            if let Some(stored) = self.slot.load().await
                && let Some(pause) = self.take_over(stored)
            {
                return pause;
            }
            if let Some(held) = self.progress.held.as_mut().filter(|held| held.fetched == fetched) {
                held.saved = false;
            }
        }
        Pause::until_renewal(self.published(&credential, item, took))
    }

    /// Publishes and says how long until the renewal; `None` if the credential does not end.
    fn published(&mut self, credential: &Credential, item: T, took: Duration) -> Option<Duration> {
        let lifetime = credential.lifetime;
        let exceeds = |lifetime| self.policy.margin_exceeds(lifetime);
        if !self.progress.warned && lifetime.is_some_and(exceeds) {
            self.progress.warned = true;
            tracing::warn!(
                credential = %self.name,
                "it lives no longer than refresh.margin; renewing after a quarter of its life"
            );
        }
        let guard = lifetime.map(usable_guard).unwrap_or_default();
        self.cache.publish(item, credential.expires, guard);
        let skew_ms = credential.clock_skew_ms;
        self.cache.record().fetched(&self.name, self.clock.now(), took, skew_ms);
        let wait = self.renewal(credential, Duration::ZERO);
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
    fn failed(&self, error: FetchError) -> Duration {
        let wait = retry_after(&error, self.progress.failures, fastrand::f64());
        let usable = self.cache.is_ready();
        let retry_in_s = wait.as_secs_f64();
        if error.is_refusal() {
            tracing::error!(credential = %self.name, %error, usable, retry_in_s, "login refused");
        } else {
            tracing::warn!(credential = %self.name, %error, usable, retry_in_s, "fetch failed");
        }
        self.cache.record().failed(&error);
        self.cache.publish_failure(Failure { error, retry_at: Instant::now() + wait });
        wait
    }

    /// Sleeps until the next attempt is due, by the schedule or because somebody needs it.
    async fn sleep(&mut self, Pause { wait, in_backoff }: Pause) -> Wake {
        let due: Option<Deadline> = wait.map(|wait| self.clock.now().after(wait));
        self.cache.record().sleeps_until(due);
        loop {
            let left = due.map(|due| due.remaining(self.clock.now()));
            if left == Some(Duration::ZERO) {
                return Wake::Due;
            }
            let offering = self.is_to_be_offered();
            let longest = if offering { turn::OFFER } else { LONGEST_SLEEP };
            let slice = left.unwrap_or(longest).min(longest);
            tokio::select! {
                () = tokio::time::sleep(slice) => {}
                () = self.secrets.next() => return Wake::SecretsChanged,
                // A request found nothing usable: rejected, or ended while the machine slept.
                () = self.cache.demanded(), if !in_backoff => {
                    if !self.cache.is_ready() {
                        return Wake::Due;
                    }
                }
                () = self.cache.wished() => {
                    tracing::info!(credential = %self.name, "fetching now, as somebody asks for it");
                    return Wake::Due;
                }
                () = self.stop.cancelled() => return Wake::Stop,
            }
            if offering && let Some(pause) = self.offer().await {
                return Wake::Adopted(pause);
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
