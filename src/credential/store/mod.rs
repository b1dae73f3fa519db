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
mod slot;
pub mod slots;
mod stored;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::file::{FileStore, Lender, Writer};
use self::open::OpenError;
use self::redis::{RedisSpec, RedisStore};
use self::running::Task;
use self::seal::{Place, Sealer};
pub use self::slot::{Claim, Definition, Lease, Saved, Slot};
pub use self::stored::{Restored, Stored};
use super::secret_ref::SecretRef;
use super::secrets::Secrets;
use crate::clock::Clock;

/// How long anybody waits for a store. What is to be written is written later, then.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is before somebody asks again whose store is lent to the next process.
const LENT: Duration = Duration::from_secs(5);
/// How much longer than an attempt a lease is: what was fetched has to be saved within it.
pub(super) const LEASE_BEYOND: Duration = Duration::from_secs(10);

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

    /// Lends it to the process that takes over, where it is for one at a time.
    pub fn lender(&self) -> Lender {
        Lender::new(self.0.as_ref().and_then(|durable| match &durable.backend {
            Backend::File(file) => Some(file),
            Backend::Redis(_) => None,
            #[cfg(test)]
            Backend::Shared(_) => None,
        }))
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

    /// True if what is in it outlives the process.
    pub fn is_durable(&self) -> bool {
        self.0.is_some()
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
        let sealer = Sealer::new(&crate::secret::Secret::new("0123456789abcdef"), b"salt");
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
                Backend::File(file) => file.claim(place).await,
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

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
