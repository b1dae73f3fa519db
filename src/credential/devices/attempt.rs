//! One attempt for one device, and the look at what is stored of it before.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::packed::{Published, unpack};
use super::pool::{Device, Shared};
use super::scheduler::Scheduler;
use super::source::{DeviceSource, own_values};
use crate::clock::Now;
use crate::credential::keeper::isolated;
use crate::credential::refresher::LAST_RENEWAL;
use crate::credential::secret_ref::SecretRef;
use crate::credential::store::{Claim, LEASE_BEYOND, Lease, Restored, Saved, Slot, Stored};
use crate::credential::{Credential, FetchError};
use crate::sign::BindError;
use crate::values::Values;

/// A credential to be published.
pub(super) struct Fresh<T> {
    pub(super) credential: Credential,
    /// What is made of it.
    pub(super) item: T,
    /// A digest of its values.
    pub(super) digest: u64,
    /// How long ago it was fetched.
    pub(super) age: Duration,
}

/// What came of an attempt.
pub(super) struct Attempt<T> {
    pub(super) device: Arc<Device<T>>,
    /// A digest of the device's own values.
    pub(super) tried: u64,
    /// True if these may change by themselves.
    pub(super) from_files: bool,
    pub(super) began: Now,
    pub(super) outcome: Outcome<T>,
}

pub(super) enum Outcome<T> {
    Fetched(Fresh<T>),
    /// Another process was faster; its token was in the store.
    Adopted(Fresh<T>),
    Failed(FetchError),
    /// It was not made: the same values were refused before.
    AsBefore,
    /// It was not made: another process is at it, for so long at most.
    Busy(Duration),
    /// The program ends.
    Stopped,
}

/// What came of a look at the store.
pub(super) struct Look<T> {
    pub(super) device: Arc<Device<T>>,
    pub(super) found: Looked<T>,
}

pub(super) enum Looked<T> {
    /// It can be published.
    Fresh(Fresh<T>),
    /// It has ended, and can be renewed all the same.
    Renewable(Values),
    /// Nothing, or nothing new.
    Nothing,
}

/// What a device logs in with.
struct Own {
    values: Values,
    /// Some of them may change by themselves.
    from_files: bool,
}

impl<S, T, P> Scheduler<S, T, P>
where
    S: DeviceSource,
    T: Published,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Looks at what is stored of the device. What was refused is not to be found there again.
    pub(super) async fn look(&self, shared: &Shared<T>, device: Arc<Device<T>>) -> Look<T> {
        let looking = isolated(&self.name, async {
            let own = tokio::time::timeout(self.policy.timeout, self.own(shared, &device)).await;
            // What is wrong with them is told by the attempt that follows.
            let Ok(Ok(own)) = own else { return Ok(Looked::Nothing) };
            let slot = self.slots.of(&device.name, &own.values);
            let Some(stored) = slot.load().await else { return Ok(Looked::Nothing) };
            if self.tell_of_refusal(shared, &device, &slot, &stored).await {
                return Ok(Looked::Nothing);
            }
            Ok(self.judge(shared, &device, &own.values, stored))
        });
        let found = looking.await.unwrap_or(Looked::Nothing);
        Look { device, found }
    }

    /// What the device may be served with.
    async fn own(&self, shared: &Shared<T>, device: &Device<T>) -> Result<Own, FetchError> {
        let table = shared.table();
        let row = table.find(&device.name);
        let row = row.ok_or_else(|| FetchError::Secret("the device is gone".to_owned()))?;
        let from_files = table.cells(row).any(|(_, cell)| matches!(cell, SecretRef::File(_)));
        Ok(Own { values: own_values(&table, row, self.check).await?, from_files })
    }

    /// True if `stored` is the device's last token, which was refused: the store is told so.
    async fn tell_of_refusal(
        &self,
        shared: &Shared<T>,
        device: &Device<T>,
        slot: &Slot,
        stored: &Stored,
    ) -> bool {
        let renews = {
            let state = device.lock();
            if !state.is_refused() || state.held != digest(&stored.values, &shared.hasher) {
                return false;
            }
            // A source that keeps nothing of it here has what it renews with itself.
            self.source.renews_ended() && (state.former.is_some() || !self.source.renews())
        };
        slot.refuse(&stored.values, renews, shared.clock.now()).await;
        true
    }

    /// What is to be done with what is stored, beside what the device has.
    fn judge(
        &self,
        shared: &Shared<T>,
        device: &Device<T>,
        own: &Values,
        stored: Stored,
    ) -> Looked<T> {
        let now = shared.clock.now();
        let digest = digest(&stored.values, &shared.hasher);
        {
            let state = device.lock();
            if state.gone || state.held == digest {
                return Looked::Nothing;
            }
            // Only while the store was away does anybody have what is newer. What a value was taken
            // out of is what it was before.
            let theirs = seconds(stored.fetched);
            if state.is_usable(now) && theirs <= state.fetched {
                return Looked::Nothing;
            }
        }
        let Restored { credential, age, usable } = stored.restore(now);
        if !usable {
            if !self.source.renews_ended() {
                return Looked::Nothing;
            }
            self.source.restored_for(own, &credential);
            return Looked::Renewable(credential.values);
        }
        match (self.prepare)(&credential) {
            Ok(item) => {
                self.source.restored_for(own, &credential);
                Looked::Fresh(Fresh { credential, item, digest, age })
            }
            Err(_) => Looked::Nothing,
        }
    }

    /// One attempt within the time limit.
    pub(super) async fn attempt(&self, shared: &Shared<T>, device: Arc<Device<T>>) -> Attempt<T> {
        let began = shared.clock.now();
        let (mut tried, mut from_files) = (0, false);
        let outcome = {
            let prepared = isolated(&self.name, async {
                let own = tokio::time::timeout(self.policy.timeout, self.own(shared, &device));
                let own = own.await.unwrap_or(Err(FetchError::Timeout(self.policy.timeout)))?;
                (tried, from_files) = (digest(&own.values, &shared.hasher), own.from_files);
                if was_refused(shared, &device, tried) {
                    return Ok(Outcome::AsBefore);
                }
                Ok(self.attempt_with(shared, &device, &own.values).await)
            });
            prepared.await.unwrap_or_else(Outcome::Failed)
        };
        Attempt { device, tried, from_files, began, outcome }
    }

    async fn attempt_with(
        &self,
        shared: &Shared<T>,
        device: &Device<T>,
        own: &Values,
    ) -> Outcome<T> {
        let slot = self.slots.of(&device.name, own);
        let mut current = self.renewable(shared, device);
        let lease = match slot.claim(self.policy.timeout + LEASE_BEYOND).await {
            Claim::Alone => None,
            Claim::Held(stored, left) => {
                return match stored.map(|stored| self.judge(shared, device, own, stored)) {
                    Some(Looked::Fresh(fresh)) => Outcome::Adopted(fresh),
                    _ => Outcome::Busy(left),
                };
            }
            Claim::Granted(lease, stored) => {
                // What a process has taken out of it before it sent it is not sent again.
                let spends = self.source.uses_up(own, current.as_ref());
                if let Some(stored) = &stored
                    && spends.iter().any(|name| stored.values.get(name).is_none())
                {
                    let now = shared.clock.now();
                    self.source.restored_for(own, &stored.clone().restore(now).credential);
                    current = None;
                }
                match stored.map(|stored| self.judge(shared, device, own, stored)) {
                    Some(Looked::Fresh(fresh)) => {
                        slot.release(lease).await;
                        return Outcome::Adopted(fresh);
                    }
                    Some(Looked::Renewable(values)) => {
                        current = Some(Credential { values, ..Credential::default() });
                    }
                    Some(Looked::Nothing) | None => {}
                }
                Some(lease)
            }
        };
        let _busy = slot.busy();
        let fingerprint = slot.fingerprint();
        let withheld = slot.withhold(&self.source.uses_up(own, current.as_ref())).await;
        let fetched = self.fetch_unless_stopped(own, current.as_ref()).await;
        if let Some(withheld) = withheld
            && !matches!(fetched, Some(Ok(_)))
            && !self.source.uses_up(own, current.as_ref()).is_empty()
        {
            slot.put_back(&withheld).await;
        }
        let (credential, item) = match fetched {
            Some(Ok(fetched)) => fetched,
            Some(Err(error)) => {
                // Whoever could not ask the store may have been overtaken: what was refused then is
                // what another process has renewed.
                if error.is_refusal()
                    && lease.is_none()
                    && slot.is_shared()
                    && let Some(stored) = slot.load().await
                    && let Looked::Fresh(fresh) = self.judge(shared, device, own, stored)
                {
                    return Outcome::Adopted(fresh);
                }
                give_back(&slot, lease).await;
                self.settle(shared, device, &slot).await;
                return Outcome::Failed(error);
            }
            None => {
                give_back(&slot, lease).await;
                return Outcome::Stopped;
            }
        };
        // Durable before it is used: whoever renewed has no way back.
        let (now, renews) = (shared.clock.now(), self.source.renews_ended());
        let saved = slot.save(fingerprint, lease, &credential, now, renews).await;
        if saved == Saved::Superseded
            && let Some(stored) = slot.load().await
            && let Looked::Fresh(fresh) = self.judge(shared, device, own, stored)
        {
            return Outcome::Adopted(fresh);
        }
        let digest = digest(&credential.values, &shared.hasher);
        let age = shared.clock.now().monotonic - now.monotonic;
        Outcome::Fetched(Fresh { credential, item, digest, age })
    }

    /// What can be renewed: one that still is one, or that holds a value for renewals.
    fn renewable(&self, shared: &Shared<T>, device: &Device<T>) -> Option<Credential> {
        let state = device.lock();
        let usable = state.is_usable(shared.clock.now());
        // A renewal that takes all the time there is leaves none for a login.
        let renewable = self.source.renews() && (usable || self.source.renews_ended());
        if !renewable || state.renewal_hangs {
            return None;
        }
        let hidden = state.hidden.as_deref();
        let values = match state.issued.as_ref().or(state.former.as_ref()) {
            Some(published) => unpack(&published.item, hidden),
            None => unpack(&(), Some(hidden?)),
        };
        let expires = state.issued.as_ref().and_then(|issued| issued.expires);
        Some(Credential { values, expires, ..Credential::default() })
    }

    /// `None` if stopped meanwhile; what renews has a while to end.
    async fn fetch_unless_stopped(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> Option<Result<(Credential, T), FetchError>> {
        let renews = self.source.is_renewal(own, current);
        let fetch = async {
            let fetched = self.source.fetch_for(own, current);
            let fetched = tokio::time::timeout(self.policy.timeout, fetched).await;
            let credential = fetched.unwrap_or(Err(FetchError::Timeout(self.policy.timeout)))?;
            let item = (self.prepare)(&credential)?;
            Ok((credential, item))
        };
        let mut fetch = std::pin::pin!(isolated(&self.name, fetch));
        tokio::select! {
            fetched = &mut fetch => Some(fetched),
            () = self.stop.cancelled() => {
                if !renews {
                    return None;
                }
                tokio::time::timeout(LAST_RENEWAL, fetch).await.ok()
            }
        }
    }

    /// The device's token may have been refused while another was asked for in vain.
    async fn settle(&self, shared: &Shared<T>, device: &Device<T>, slot: &Slot) {
        let refused = slot.is_durable() && device.lock().is_refused();
        if refused && let Some(stored) = slot.load().await {
            self.tell_of_refusal(shared, device, slot, &stored).await;
        }
    }
}

/// True if the login with these own values was refused and is not to be tried again yet, unless
/// somebody asks for just that.
fn was_refused<T>(shared: &Shared<T>, device: &Device<T>, tried: u64) -> bool {
    let now = shared.clock.now().monotonic;
    let state = device.lock();
    if state.wished {
        return false;
    }
    let refused = state.failed.as_ref().filter(|failed| failed.failure.error.is_refusal());
    refused.is_some_and(|failed| failed.tried == tried && failed.failure.retry_at > now)
}

/// Whole seconds since 1970; enough for two tokens of one device to be told apart.
pub(super) fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

async fn give_back(slot: &Slot, lease: Option<Lease>) {
    if let Some(lease) = lease {
        slot.release(lease).await;
    }
}

/// A digest by which to tell whether values are the same. Its key lives as long as the process.
fn digest(values: &Values, hasher: &RandomState) -> u64 {
    let values: Vec<(&str, &str)> =
        values.iter().map(|(name, value)| (name, value.expose())).collect();
    // Zero stands for none.
    hasher.hash_one(values).max(1)
}
