//! Whose turn it is to fetch, where several processes keep the same credential: one claims its place
//! in the store, the others go over to what it saves there.

use std::pin::pin;
use std::time::Duration;

use super::{Held, Pause, Refresher};
use crate::clock::Now;
use crate::credential::schedule::usable_guard;
use crate::credential::store::{Claim, LEASE_BEYOND, Lease, Restored, Saved, Stored};
use crate::credential::{Credential, CredentialSource};
use crate::sign::BindError;

/// How long a claim is waited for at the end, to give its lease back.
const LAST_CLAIM: Duration = Duration::from_secs(1);

/// How often what the store does not have is offered to it again.
pub(super) const OFFER: Duration = Duration::from_secs(10);

/// What came of asking whose turn it is to fetch.
pub(super) enum Turn {
    Ours(Option<Lease>),
    /// Another process has fetched.
    Adopted(Pause),
}

impl<S, T, P> Refresher<S, T, P>
where
    S: CredentialSource,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Waits until it is this process's turn to fetch, or another has fetched. `None` if stopped
    /// meanwhile.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        let mut looks: u32 = 0;
        loop {
            let claim = {
                let mut claim = pin!(self.slot.claim(self.policy.timeout + LEASE_BEYOND));
                tokio::select! {
                    claim = &mut claim => claim,
                    () = self.stop.cancelled() => {
                        let claim = tokio::time::timeout(LAST_CLAIM, claim).await;
                        if let Ok(Claim::Granted(lease, _)) = claim {
                            self.slot.release(lease).await;
                        }
                        return None;
                    }
                }
            };
            let left = match claim {
                Claim::Alone => return Some(Turn::Ours(None)),
                Claim::Granted(lease, stored) => {
                    let pause = stored.and_then(|stored| self.take_over(stored));
                    // Usable, but due as well: requests have it while it is renewed.
                    let Some(pause) = pause.filter(|pause| pause.wait != Some(Duration::ZERO))
                    else {
                        return Some(Turn::Ours(Some(lease)));
                    };
                    self.slot.release(lease).await;
                    return Some(Turn::Adopted(pause));
                }
                Claim::Held(stored, left) => {
                    let pause = stored.and_then(|stored| self.take_over(stored));
                    if let Some(pause) = pause.filter(|pause| pause.wait != Some(Duration::ZERO)) {
                        return Some(Turn::Adopted(pause));
                    }
                    left
                }
            };
            // Whoever has a usable one is in no hurry.
            let (first, longest) = if self.cache.is_ready() { (1000, 8000) } else { (100, 1000) };
            let pause = Duration::from_millis((first << looks.min(3)).min(longest));
            let pause = pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(left);
            looks = looks.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.secrets.next() => self.forget(),
                () = self.stop.cancelled() => return None,
            }
        }
    }

    pub(super) async fn give_back(&self, lease: Option<Lease>) {
        if let Some(lease) = lease {
            self.slot.release(lease).await;
        }
    }

    /// As [`adopt`](Self::adopt), of what another process has fetched.
    pub(super) fn take_over(&mut self, stored: Stored) -> Option<Pause> {
        self.adopt(stored, "another process has fetched the credential; taken from the token store")
    }

    /// Goes over to what is stored, if it is newer than what there is. If it can be used it is
    /// published; says how long until its renewal then.
    pub(super) fn adopt(&mut self, stored: Stored, said: &str) -> Option<Pause> {
        let newer = self.progress.held.as_ref().is_none_or(|held| {
            stored.values != held.credential.values && (held.saved || stored.fetched > held.fetched)
        });
        if !newer {
            return None;
        }
        let fetched = stored.fetched;
        let Restored { credential, age, usable } = stored.restore(self.clock.now());
        let item = if usable { (self.prepare)(&credential).ok() } else { None };
        let after_refusal = self.is_refused();
        if item.is_none() && !self.source.renews_ended() {
            return None;
        }
        self.source.restored(&credential);
        let wait = self.renewal(&credential, age);
        let published = item.is_some();
        if let Some(item) = item {
            let guard = credential.lifetime.map(usable_guard).unwrap_or_default();
            self.cache.publish(item, credential.expires, guard);
            self.progress.failures = 0;
            tracing::info!(
                credential = %self.name,
                age_s = age.as_secs(),
                renewal_in_s = wait.map(|wait| wait.as_secs()),
                "{said}"
            );
        }
        self.progress.held = Some(Held {
            credential,
            fingerprint: None,
            fetched,
            published,
            saved: true,
            after_refusal,
            told: false,
            spent: false,
        });
        published.then(|| Pause::until_renewal(wait))
    }

    /// True if other processes would go on with less than this one has.
    pub(super) fn is_to_be_offered(&self) -> bool {
        self.slot.is_shared()
            && self.progress.held.as_ref().is_some_and(|held| !held.saved)
            && !self.is_refused()
    }

    /// Saves what the store does not have because it was away; what it has by now may be newer, and
    /// is taken over then.
    pub(super) async fn offer(&mut self) -> Option<Pause> {
        let Claim::Granted(lease, stored) = self.slot.claim(LEASE_BEYOND).await else {
            return None;
        };
        if let Some(pause) = stored.and_then(|stored| self.take_over(stored)) {
            self.slot.release(lease).await;
            return Some(pause);
        }
        let renews = self.source.renews_ended();
        match &mut self.progress.held {
            Some(held) if !held.saved => {
                let at = Now { wall: held.fetched, ..self.clock.now() };
                let (values, fingerprint) = (&held.credential, held.fingerprint);
                let saved = self.slot.save(fingerprint, Some(lease), values, at, renews).await;
                held.saved = saved == Saved::Durable;
            }
            _ => self.slot.release(lease).await,
        }
        None
    }
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
