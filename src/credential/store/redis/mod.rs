//! Records in Redis, or what speaks as it does, for several processes.
//!
//! **While it is away** everything goes on from memory. Whoever asks is told at once; one task
//! (`keeper`) tries to reach it again. What could not be written is kept, the last change of each
//! place, and done before anything else once it is back. So is what was written in the minutes
//! before: another server may have taken over, without the last that the former had acknowledged.
//!
//! **What counts when two processes write.** A record has a version: when it was made, on the clock
//! of Redis. What is written under a lease counts unless a later lease has been given away. What is
//! written without one, because Redis was away when it was asked for or when the lease ended,
//! counts if what is there was made earlier. The process knows how far the clock of Redis is from
//! its own since they met, so that what is late on the way does not look new. Every change can be
//! made twice: whoever got no answer asks again.
//!
//! **Keys** are the prefix and the place, a keyed hash. `PREFIXmeta` holds what only the right key
//! opens. The salt is made of the prefix, so that places are known while Redis is away, and stay the
//! same when everything in it is deleted; a key is random and needs no other.

pub(crate) mod connect;
pub(crate) mod failure;
pub(crate) mod keeper;
mod pending;
mod script;
mod spec;
#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisError, RedisResult};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub use self::spec::{PORT, RedisSpec, SENTINEL_PORT, Topology};

use self::connect::Connection;
use self::failure::{Failure, describe, ends_connection};
use self::pending::{Change, Pending, What};
use self::script::{Answer, LONGEST_LEASE, Scripts};
use super::open::GRACE;
use super::seal::{Place, keep_until};
use super::{Claimed, StoreError};
use crate::clock::Clock;

/// Operations at once. More wait for their turn, within their time.
const IN_FLIGHT: usize = 64;
/// What is kept longer than that is kept.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 100);

/// The way to Redis. Clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct RedisStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    scripts: Scripts,
    prefix: String,
    timeout: Duration,
    clock: Clock,
    link: watch::Sender<Link>,
    turns: Semaphore,
    pending: Pending,
}

/// How things stand with Redis.
#[derive(Debug, Clone)]
enum Link {
    /// It is being connected to, for the first time or because of this loss.
    Joining(Option<Failure>),
    Here(Here),
    /// It is tried again later.
    Away(Failure),
    /// The process ends.
    Closed,
}

/// A connection that works, as far as is known.
#[derive(Debug, Clone)]
struct Here {
    number: u64,
    connection: Connection,
    anchor: Anchor,
}

/// The clock of Redis at a time of ours.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    /// In microseconds since 1970.
    theirs: u64,
    ours: Instant,
}

impl Anchor {
    /// A time of ours on the clock of Redis.
    fn theirs_at(self, ours: Instant) -> u64 {
        let distance = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        match ours.checked_duration_since(self.ours) {
            Some(after) => self.theirs.saturating_add(distance(after)),
            None => self.theirs.saturating_sub(distance(self.ours - ours)),
        }
    }
}

impl RedisStore {
    fn new(spec: &RedisSpec, clock: &Clock) -> Self {
        Self(Arc::new(Shared {
            scripts: Scripts::new(),
            prefix: spec.prefix.clone(),
            timeout: spec.timeout,
            clock: clock.clone(),
            link: watch::Sender::new(Link::Joining(None)),
            turns: Semaphore::new(IN_FLIGHT),
            pending: Pending::default(),
        }))
    }

    pub(super) async fn read(&self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let change = self.0.pending.at(place);
        if let Some(Change { what: What::Write(written), .. }) = change {
            return Ok(Some(written.to_vec()));
        }
        let key = self.0.key(place);
        let record = self
            .0
            .ask(async |mut here: Here| self.0.scripts.read(&mut here.connection, &key).await);
        let record = record.await?;
        Ok(match change {
            Some(change) => change.of(record),
            None => record,
        })
    }

    /// Kept and written later if it cannot be written now. False if something newer counts.
    pub(super) async fn write(
        &self,
        place: Place,
        record: Vec<u8>,
        fence: Option<u64>,
    ) -> Result<bool, StoreError> {
        let record: Arc<[u8]> = record.into();
        // Noted first: nobody may be there any more to note it when it fails.
        let change = self.0.pending.add(place, What::Write(Arc::clone(&record)));
        let written = self.0.ask(|here| self.0.write(here, place, &record, change.made, fence));
        let written = written.await?;
        if written {
            self.0.pending.settle(place, &change);
        } else {
            self.0.pending.forget(place, &change);
        }
        Ok(written)
    }

    /// Removes `record`, later if it cannot be done now.
    pub(super) async fn remove(&self, place: Place, record: &[u8]) -> Result<(), StoreError> {
        let change = self.0.pending.add(place, What::Remove(record.into()));
        let key = self.0.key(place);
        let removed = self.0.ask(async |mut here: Here| {
            self.0.scripts.remove(&mut here.connection, &key, record).await
        });
        removed.await?;
        self.0.pending.settle(place, &change);
        Ok(())
    }

    pub(super) async fn claim(&self, place: Place, lease: Duration) -> Result<Claimed, StoreError> {
        let key = self.0.key(place);
        let lease = lease.clamp(Duration::from_millis(1), LONGEST_LEASE);
        // Of this claim alone: two of the same process are two who want to renew.
        let owner = format!("{:016x}", fastrand::u64(..));
        let claimed = self.0.ask(async |mut here: Here| {
            self.0.scripts.claim(&mut here.connection, &key, lease, &owner).await
        });
        let (answer, record) = claimed.await?;
        let record = match self.0.pending.at(place) {
            Some(change) => change.of(record),
            None => record,
        };
        Ok(match answer {
            Answer::Granted(fence) => Claimed::Granted { fence, record },
            Answer::Held(left) => Claimed::Held { record, left },
        })
    }

    pub(super) async fn release(&self, place: Place, fence: u64) -> Result<(), StoreError> {
        let key = self.0.key(place);
        let released = self.0.ask(async |mut here: Here| {
            self.0.scripts.release(&mut here.connection, &key, fence).await
        });
        released.await
    }
}

impl Shared {
    fn key(&self, place: Place) -> String {
        format!("{}{}", self.prefix, URL_SAFE_NO_PAD.encode(place.as_bytes()))
    }

    async fn write(
        &self,
        mut here: Here,
        place: Place,
        record: &[u8],
        made: Instant,
        fence: Option<u64>,
    ) -> RedisResult<bool> {
        let made = here.anchor.theirs_at(made);
        let now = self.clock.wall();
        let left = keep_until(record).map(|until| until.duration_since(now).unwrap_or_default());
        let keep = left.filter(|left| *left < FOR_EVER).map(|left| left + GRACE);
        let key = self.key(place);
        self.scripts.write(&mut here.connection, &key, (record, made), fence, keep).await
    }

    /// Does what was left undone, or again what may have been lost. Nobody holds a lease for it any
    /// more, as far as it knows.
    async fn catch_up(&self, here: &Here, place: Place, change: Change) -> Result<(), Failure> {
        let doing = async {
            match &change.what {
                What::Write(record) => {
                    let written = self.write(here.clone(), place, record, change.made, None);
                    if !written.await? {
                        return Ok(false);
                    }
                }
                What::Remove(record) => {
                    let mut connection = here.connection.clone();
                    self.scripts.remove(&mut connection, &self.key(place), record).await?;
                }
            }
            Ok(true)
        };
        match tokio::time::timeout(self.timeout, doing).await {
            Err(_) => Err(Failure::Silent(self.timeout)),
            Ok(Err(error)) if ends_connection(&error) => Err(Failure::from(&error)),
            Ok(Err(error)) => {
                tracing::debug!(error = describe(&error), "a token cannot be stored");
                Ok(())
            }
            Ok(Ok(true)) => {
                self.pending.settle(place, &change);
                Ok(())
            }
            Ok(Ok(false)) => {
                self.pending.forget(place, &change);
                Ok(())
            }
        }
    }

    /// Asks Redis, within the time limit; a second time if the connection turns out to be closed.
    async fn ask<T, F>(&self, ask: impl Fn(Here) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut used = None;
        let asking = async {
            let mut again = false;
            loop {
                let here = self.here().await?;
                let turn = self.turns.acquire().await.map_err(|_| StoreError::Closed)?;
                used = Some(here.number);
                let number = here.number;
                let error = match ask(here).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                drop(turn);
                if ends_connection(&error) {
                    self.lose(Some(number), Failure::from(&error));
                }
                if again || !error.is_connection_dropped() {
                    return Err(StoreError::Failed(describe(&error)));
                }
                again = true;
            }
        };
        if let Ok(answer) = tokio::time::timeout(self.timeout, asking).await {
            return answer;
        }
        let silent = Failure::Silent(self.timeout);
        let error = StoreError::Away(silent.to_string());
        self.lose(used, silent);
        Err(error)
    }

    /// A connection; waits while it is being made, unless somebody has waited in vain.
    async fn here(&self) -> Result<Here, StoreError> {
        let mut link = self.link.subscribe();
        let joined = link.wait_for(|link| match link {
            Link::Joining(failure) => matches!(failure, Some(Failure::Silent(_))),
            Link::Here(_) | Link::Away(_) | Link::Closed => true,
        });
        let link = joined.await;
        match link.as_deref() {
            Ok(Link::Here(here)) => Ok(here.clone()),
            Ok(Link::Away(failure) | Link::Joining(Some(failure))) => {
                Err(StoreError::Away(failure.to_string()))
            }
            Ok(Link::Joining(None) | Link::Closed) | Err(_) => Err(StoreError::Closed),
        }
    }

    /// Nothing can be expected of that connection any more, or of the one that is being made.
    fn lose(&self, number: Option<u64>, failure: Failure) {
        self.link.send_if_modified(|link| match link {
            Link::Here(here) if Some(here.number) == number => {
                *link = Link::Joining(Some(failure));
                true
            }
            Link::Joining(_) if matches!(failure, Failure::Silent(_)) => {
                *link = Link::Joining(Some(failure));
                true
            }
            Link::Here(_) | Link::Joining(_) | Link::Away(_) | Link::Closed => false,
        });
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::from(&error)
    }
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
