//! Stores of tokens: what is left of a credential when the process ends.
//!
//! A store keeps sealed records by place ([`seal`]) and knows nothing of what is in them. A
//! [`Slot`] is the place of one credential, or of one of its devices, and all that those who fetch
//! have to do with: load at the start, claim before fetching, save before a token is used, refuse
//! what was refused. None of these fails a request: a store that is away costs logins after the
//! next start, no more.

pub mod file;
pub mod open;
pub mod redis;
pub mod running;
pub mod seal;
#[cfg(test)]
pub(crate) mod shared;
pub mod slots;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use self::file::{FileStore, Writer};
use self::open::OpenError;
use self::redis::{RedisSpec, RedisStore};
use self::running::Task;
use self::seal::{Fingerprint, Place, Sealer};
use super::Credential;
use super::schedule::usable_guard;
use super::secret_ref::SecretRef;
use super::secrets::Secrets;
use crate::clock::{Clock, Now};
use crate::secret::Secret;
use crate::values::Values;

/// How long anybody waits for a store. What is to be written is written later, then.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far the wall clock may seem to be behind the time when a token was fetched.
const TOLERANCE: Duration = Duration::from_mins(1);
/// How much longer than an attempt a lease is: what was fetched has to be saved within it.
pub(super) const LEASE_BEYOND: Duration = Duration::from_secs(10);
/// How long somebody who tells of a refusal keeps others from renewing.
const TELLING: Duration = Duration::from_secs(10);
/// How long after its end a token with a value for renewals is kept.
const RENEWABLE: Duration = Duration::from_hours(24 * 90);

/// Which store, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreSpec {
    /// None: tokens end with the process.
    #[default]
    Memory,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// The key that records are sealed with.
        key: SecretRef,
    },
    /// Redis, which other processes use as well.
    Redis(Box<RedisSpec>),
}

impl StoreSpec {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<&SecretRef> {
        match self {
            Self::Memory => Vec::new(),
            Self::File { key, .. } => vec![key],
            Self::Redis(spec) => spec.secrets().collect(),
        }
    }
}

/// A store, open. Clones are of the same.
#[derive(Debug, Clone, Default)]
pub struct Store(Option<Arc<Durable>>);

/// What outlives the process.
#[derive(Debug)]
struct Durable {
    sealer: Sealer,
    backend: Backend,
}

/// Where records are. What is to be done with them may take a while, and fail.
#[derive(Debug)]
enum Backend {
    File(FileStore),
    Redis(RedisStore),
    #[cfg(test)]
    Shared(shared::SharedStore),
}

/// What a backend says to somebody who wants to renew what is at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// No other process has to do with it.
    Unshared,
    /// Nobody else will renew it before the lease ends. `fence` grows from lease to lease of a
    /// place: what the holder of an earlier one writes late is refused.
    Granted {
        /// The number of the lease.
        fence: u64,
        /// What is there now.
        record: Option<Vec<u8>>,
    },
    /// Somebody else is at it.
    Held {
        /// What is there now.
        record: Option<Vec<u8>>,
        /// How long their lease has to run.
        left: Duration,
    },
}

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

/// A store could not do what it was asked. It says so in the log itself, once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// It is not there, which is nothing new.
    #[error("it is away: {0}")]
    Away(String),
    /// It did not answer in time.
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The process ends.
    #[error("it is closed")]
    Closed,
}

impl Store {
    /// Opens the store, and what has to run for it.
    ///
    /// # Errors
    /// When it cannot be used at all. A store of tokens of thousands of devices is not silently
    /// done without. One that cannot be reached is opened, and joined when it can.
    pub async fn open(
        spec: &StoreSpec,
        secrets: &Arc<Secrets>,
        clock: &Clock,
    ) -> Result<(Self, Option<Task>), OpenError> {
        let (backend, task, sealer) = match spec {
            StoreSpec::Memory => return Ok((Self(None), None)),
            StoreSpec::File { path, key } => {
                let (store, writer, sealer) = Self::open_file(path, key, secrets, clock).await?;
                (Backend::File(store), Task::from(writer), sealer)
            }
            StoreSpec::Redis(spec) => {
                let (store, keeper, sealer) = redis::keeper::open(spec, secrets, clock).await?;
                (Backend::Redis(store), Task::from(keeper), sealer)
            }
        };
        Ok((Self(Some(Arc::new(Durable { sealer, backend }))), Some(task)))
    }

    async fn open_file(
        path: &Path,
        key: &SecretRef,
        secrets: &Secrets,
        clock: &Clock,
    ) -> Result<(FileStore, Writer, Sealer), OpenError> {
        let key = secrets.get(key).ok_or(OpenError::ShortKey)?;
        let (path, check, now) = (path.to_owned(), secrets.check(), clock.wall());
        // What is broken enough may make the database panic.
        let at = path.clone();
        let opened = tokio::task::spawn_blocking(move || open::open(&path, &key, check, now));
        opened.await.unwrap_or_else(|_| Err(OpenError::Broken(at, "it cannot be read".to_owned())))
    }

    /// A store of records that go to `file`.
    #[cfg(test)]
    pub(crate) fn over(file: FileStore) -> Self {
        Self::of(Backend::File(file))
    }

    /// A store of records that other processes see as well.
    #[cfg(test)]
    pub(crate) fn sharing(shared: shared::SharedStore) -> Self {
        Self::of(Backend::Shared(shared))
    }

    #[cfg(test)]
    fn of(backend: Backend) -> Self {
        let sealer = Sealer::new(&Secret::new("0123456789abcdef"), b"salt");
        Self(sealer.map(|sealer| Arc::new(Durable { sealer, backend })))
    }
}

impl Durable {
    fn is_shared(&self) -> bool {
        !matches!(self.backend, Backend::File(_))
    }

    async fn read(&self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let read = async {
            match &self.backend {
                Backend::File(file) => file.read(place).await,
                Backend::Redis(redis) => redis.read(place).await,
                #[cfg(test)]
                Backend::Shared(shared) => shared.read(place),
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(StoreError::Timeout))
    }

    /// Returns when it is durable. `fence` is that of the writer's lease, which ends with it; false
    /// if a later one has been given away.
    async fn write(
        &self,
        place: Place,
        record: Vec<u8>,
        fence: Option<u64>,
    ) -> Result<bool, StoreError> {
        let write = async {
            match &self.backend {
                Backend::File(file) => file.write(place, record).await.map(|()| true),
                Backend::Redis(redis) => redis.write(place, record, fence).await,
                #[cfg(test)]
                Backend::Shared(shared) => shared.write(place, record, fence),
            }
        };
        tokio::time::timeout(PATIENCE, write).await.unwrap_or(Err(StoreError::Timeout))
    }

    /// Removes `record`, unless another is there by now.
    async fn remove(&self, place: Place, record: &[u8]) -> Result<(), StoreError> {
        let remove = async {
            match &self.backend {
                Backend::File(file) => file.remove(place).await,
                Backend::Redis(redis) => redis.remove(place, record).await,
                #[cfg(test)]
                Backend::Shared(shared) => shared.remove(place, record),
            }
        };
        tokio::time::timeout(PATIENCE, remove).await.unwrap_or(Err(StoreError::Timeout))
    }

    async fn claim(&self, place: Place, lease: Duration) -> Result<Claimed, StoreError> {
        let claim = async {
            match &self.backend {
                Backend::File(_) => Ok(Claimed::Unshared),
                Backend::Redis(redis) => redis.claim(place, lease).await,
                #[cfg(test)]
                Backend::Shared(shared) => shared.claim(place, lease),
            }
        };
        tokio::time::timeout(PATIENCE, claim).await.unwrap_or(Err(StoreError::Timeout))
    }

    async fn release(&self, place: Place, fence: u64) -> Result<(), StoreError> {
        let release = async {
            match &self.backend {
                Backend::File(_) => Ok(()),
                Backend::Redis(redis) => redis.release(place, fence).await,
                #[cfg(test)]
                Backend::Shared(shared) => shared.release(place, fence),
            }
        };
        tokio::time::timeout(PATIENCE, release).await.unwrap_or(Err(StoreError::Timeout))
    }
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

/// A credential as it is stored: by the wall clock alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The values.
    pub values: Values,
    /// When it was fetched.
    pub fetched: SystemTime,
    /// When it ends; `None` if it does not.
    pub expires: Option<SystemTime>,
    /// The whole lifetime; `None` if it does not end.
    pub lifetime: Option<Duration>,
    /// How far the clock of the token endpoint was ahead of ours, if it said.
    pub clock_skew_ms: Option<i64>,
}

/// A credential that came out of a store.
#[derive(Debug)]
pub struct Restored {
    /// The credential, on the clocks of this process.
    pub credential: Credential,
    /// How long ago it was fetched.
    pub age: Duration,
    /// False if it has ended, or may have: of use for a renewal at most.
    pub usable: bool,
}

impl Stored {
    fn of(credential: &Credential, now: Now) -> Self {
        Self {
            values: credential.values.clone(),
            fetched: now.wall,
            expires: credential.expires.map(|end| end.wall),
            lifetime: credential.lifetime,
            clock_skew_ms: credential.clock_skew_ms,
        }
    }

    /// The same, ended by all clocks.
    fn refused(self, now: Now) -> Self {
        Self { expires: Some(now.wall), lifetime: Some(Duration::ZERO), ..self }
    }

    fn is_refused(&self) -> bool {
        self.lifetime == Some(Duration::ZERO)
    }

    /// The credential as of `now`. A wall clock that is behind the time when the token was fetched,
    /// as on a machine that lost it, does not tell whether it has ended, so it has if it ever does.
    pub fn restore(self, now: Now) -> Restored {
        let untrusted = now.wall + TOLERANCE < self.fetched;
        let left = self.expires.map(|end| {
            let left = end.duration_since(now.wall).unwrap_or_default();
            self.lifetime.map_or(left, |lifetime| left.min(lifetime))
        });
        let guard = self.lifetime.map(usable_guard).unwrap_or_default();
        let usable = left.is_none_or(|left| left > guard && !untrusted);
        Restored {
            credential: Credential {
                values: self.values,
                expires: left.map(|left| now.after(left)),
                lifetime: self.lifetime,
                clock_skew_ms: self.clock_skew_ms,
            },
            age: now.wall.duration_since(self.fetched).unwrap_or_default(),
            usable,
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
