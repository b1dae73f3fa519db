//! [`Slot`]: the place of one credential in a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::file::Busy;
use super::seal::{Fingerprint, Place};
use super::stored::Stored;
use super::{Backend, Claimed, Durable, Store, StoreError};
use crate::clock::Now;
use crate::credential::Credential;
use crate::secret::Secret;
use crate::values::Values;

/// How long somebody who tells of a refusal keeps others from renewing.
const TELLING: Duration = Duration::from_secs(10);
/// How long after its end a token with a value for renewals is kept.
const RENEWABLE: Duration = Duration::from_hours(24 * 90);

/// The right to renew what is at one place, for a while. It ends by itself; whoever has no more use
/// for it gives it back with [`Slot::save`] or [`Slot::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    fence: u64,
}

/// What became of a claim.
#[derive(Debug)]
pub enum Claim {
    /// No other process has to do with it, or the store is away: go ahead.
    Alone,
    /// Go ahead, unless what is stored now is good enough.
    Granted(Lease, Option<Stored>),
    /// Another process is at it. Look again after a while, at the latest after so long.
    Held(Option<Stored>, Duration),
}

/// What became of something that was to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It will be there after the process has ended.
    Durable,
    /// It will not, or not yet.
    Unsaved,
    /// Another process was given the lease meanwhile, and what it saves counts.
    Superseded,
}

/// What a credential's definition comes to: its kind, URLs, requests and references of secrets,
/// without what only says when it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Definition([u8; 32]);

impl Definition {
    /// Of a text that says all of it.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

/// The secrets that a credential logs in with, as they are now.
type Login = Box<dyn Fn() -> Vec<Option<Secret>> + Send + Sync>;

/// The place of one credential, or of one of its devices, in a store. The default keeps nothing.
#[derive(Default)]
pub struct Slot {
    credential: String,
    device: Option<String>,
    /// `None` if nothing outlives the process.
    durable: Option<Bound>,
}

struct Bound {
    store: Arc<Durable>,
    place: Place,
    definition: Definition,
    login: Login,
}

impl Slot {
    /// The place of `credential`, or of its `device`. `login` yields the secrets that it logs in
    /// with, always in the same order: what was stored with others is not used.
    pub fn new(
        store: &Store,
        credential: &str,
        device: Option<&str>,
        definition: Definition,
        login: impl Fn() -> Vec<Option<Secret>> + Send + Sync + 'static,
    ) -> Self {
        let durable = store.0.as_ref().map(|store| Bound {
            store: Arc::clone(store),
            place: store.sealer.place(credential, device),
            definition,
            login: Box::new(login),
        });
        Self { credential: credential.to_owned(), device: device.map(str::to_owned), durable }
    }

    /// True if what is saved here outlives the process.
    pub fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// True if other processes may save here as well.
    pub fn is_shared(&self) -> bool {
        self.durable.as_ref().is_some_and(|bound| bound.store.is_shared())
    }

    /// What a token that is fetched from now on will be bound to. To be taken before it is
    /// fetched: the secrets may change meanwhile.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.durable.as_ref().map(Bound::fingerprint)
    }

    /// What was saved, if it fits the definition and the secrets of today. Never fails: what cannot
    /// be read is as good as absent.
    pub async fn load(&self) -> Option<Stored> {
        let bound = self.durable.as_ref()?;
        self.open(bound, self.read(bound).await.as_deref())
    }

    /// Asks to be the one who renews it, for as long as `lease`. Never fails: whoever cannot ask
    /// goes ahead, as if it were alone.
    pub async fn claim(&self, lease: Duration) -> Claim {
        let Some(bound) = &self.durable else { return Claim::Alone };
        match bound.store.claim(bound.place, lease).await {
            Ok(Claimed::Unshared) => Claim::Alone,
            Ok(Claimed::Granted { fence, record }) => {
                Claim::Granted(Lease { fence }, self.open(bound, record.as_deref()))
            }
            Ok(Claimed::Held { record, left }) => {
                Claim::Held(self.open(bound, record.as_deref()), left)
            }
            Err(error) => {
                let (credential, device) = (&self.credential, self.device.as_deref());
                tracing::debug!(%credential, device, %error, "fetching without a lease");
                Claim::Alone
            }
        }
    }

    /// To be held from a claim that was granted until what came of it is saved, so that what is there
    /// is not handed to another process meanwhile.
    pub(in crate::credential) fn busy(&self) -> Option<Busy> {
        match &self.durable.as_ref()?.store.backend {
            Backend::File(file) => Some(file.busy()),
            Backend::Redis(_) => None,
            #[cfg(test)]
            Backend::Shared(_) => None,
        }
    }

    /// Gives a lease back before its end: the fetch has failed, or was not needed.
    pub async fn release(&self, lease: Lease) {
        let Some(bound) = &self.durable else { return };
        if let Err(error) = bound.store.release(bound.place, lease.fence).await {
            let (credential, device) = (&self.credential, self.device.as_deref());
            tracing::debug!(%credential, device, %error, "a lease is not given back");
        }
    }

    async fn read(&self, bound: &Bound) -> Option<Vec<u8>> {
        let record = bound.store.read(bound.place).await;
        record.unwrap_or_else(|error| {
            let (credential, device) = (&self.credential, self.device.as_deref());
            if let StoreError::Away(_) = error {
                tracing::debug!(%credential, device, %error, "the token store is not asked");
            } else {
                tracing::warn!(%credential, device, %error, "the token store cannot be read");
            }
            None
        })
    }

    fn open(&self, bound: &Bound, record: Option<&[u8]>) -> Option<Stored> {
        let opened = bound.store.sealer.open(bound.place, bound.fingerprint(), record?);
        opened
            .inspect_err(|error| {
                let (credential, device) = (&self.credential, self.device.as_deref());
                tracing::info!(%credential, device, reason = %error, "the stored token is not used");
            })
            .ok()
    }

    /// Saves `credential`, fetched at `now` under `lease`, which ends with it; returns when it is
    /// durable, or when there is no sense in waiting for that. `renews_ended`: it is of use after
    /// its end.
    pub async fn save(
        &self,
        fingerprint: Option<Fingerprint>,
        lease: Option<Lease>,
        credential: &Credential,
        now: Now,
        renews_ended: bool,
    ) -> Saved {
        let (Some(bound), Some(fingerprint)) = (&self.durable, fingerprint) else {
            return Saved::Unsaved;
        };
        self.put(bound, fingerprint, lease, &Stored::of(credential, now), renews_ended).await
    }

    async fn put(
        &self,
        bound: &Bound,
        fingerprint: Fingerprint,
        lease: Option<Lease>,
        stored: &Stored,
        renews_ended: bool,
    ) -> Saved {
        let longer = if renews_ended { RENEWABLE } else { Duration::ZERO };
        let keep_until = stored.expires.map(|end| end + longer);
        let saved = match bound.store.sealer.seal(bound.place, fingerprint, stored, keep_until) {
            Ok(record) => bound.store.write(bound.place, record, lease.map(|l| l.fence)).await,
            Err(error) => Err(StoreError::Failed(error.to_string())),
        };
        match saved {
            Ok(true) => Saved::Durable,
            Ok(false) => Saved::Superseded,
            Err(error) => {
                let (credential, device) = (&self.credential, self.device.as_deref());
                tracing::debug!(%credential, device, %error, "a token is used that is not stored");
                Saved::Unsaved
            }
        }
    }

    /// Takes the values of these names out of what is stored, before they are sent to where they are
    /// used up; returns what was stored, for [`put_back`](Self::put_back). To be called by whoever
    /// has the lease.
    pub async fn withhold(&self, names: &[String]) -> Option<Stored> {
        let bound = self.durable.as_ref().filter(|_| !names.is_empty())?;
        let stored = self.open(bound, self.read(bound).await.as_deref())?;
        let mut without = stored.clone();
        if names.iter().filter_map(|name| without.values.remove(name)).count() == 0 {
            return None;
        }
        self.put(bound, bound.fingerprint(), None, &without, false).await;
        Some(stored)
    }

    /// It was not used up.
    pub async fn put_back(&self, stored: &Stored) {
        if let Some(bound) = &self.durable {
            self.put(bound, bound.fingerprint(), None, stored, true).await;
        }
    }

    /// What was saved with these values is never again taken for a token that is good: it was
    /// refused. With `renews_ended` it stays for what it holds for renewals, as one that has ended;
    /// else it is removed. What another process has saved since stays as it is.
    ///
    /// False if that could not be said, or not yet: the store is away, or another process is at it.
    pub async fn refuse(&self, refused: &Values, renews_ended: bool, now: Now) -> bool {
        let Some(bound) = &self.durable else { return true };
        if !renews_ended {
            return self.remove(bound, refused).await;
        }
        let fingerprint = bound.fingerprint();
        // Nobody is to save anything between reading and writing.
        let (lease, stored) = match self.claim(TELLING).await {
            // The store is away.
            Claim::Alone if self.is_shared() => return false,
            Claim::Alone => (None, self.load().await),
            Claim::Granted(lease, stored) => (Some(lease), stored),
            // Whoever has the lease puts another in its place.
            Claim::Held(..) => return false,
        };
        let stored = stored.filter(|stored| stored.values == *refused && !stored.is_refused());
        if let Some(stored) = stored {
            let stored = stored.refused(now);
            return self.put(bound, fingerprint, lease, &stored, renews_ended).await
                != Saved::Unsaved;
        }
        if let Some(lease) = lease {
            self.release(lease).await;
        }
        true
    }

    async fn remove(&self, bound: &Bound, refused: &Values) -> bool {
        let Some(record) = self.read(bound).await else { return true };
        if self.open(bound, Some(&record)).is_some_and(|stored| stored.values != *refused) {
            return true;
        }
        if let Err(error) = bound.store.remove(bound.place, &record).await {
            let (credential, device) = (&self.credential, self.device.as_deref());
            tracing::debug!(%credential, device, %error, "a refused token is not removed yet");
            return false;
        }
        true
    }
}

impl Bound {
    fn fingerprint(&self) -> Fingerprint {
        let secrets = (self.login)();
        let secrets = secrets.iter().map(|secret| secret.as_ref().map(Secret::expose));
        self.store.sealer.fingerprint(&self.definition.0, secrets)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("credential", &self.credential)
            .field("device", &self.device)
            .field("durable", &self.is_durable())
            .finish_non_exhaustive()
    }
}
