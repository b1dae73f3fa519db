//! A renewal that somebody asks for, whatever the schedule says. The credential that is there stays
//! in use meanwhile, and after a failure.

use std::time::Duration;

use tokio::time::Instant;

use super::{CredentialCache, Slot};
use crate::clock::Deadline;
use crate::credential::FetchError;

/// What became of a renewal that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Refreshed {
    /// There is another credential.
    Fetched {
        /// Its end; `None` if it has none.
        expires: Option<Deadline>,
    },
    /// The attempt failed.
    Failed {
        /// Why.
        error: FetchError,
        /// When the next one is due, from now.
        retry_in: Duration,
        /// The credential from before is still in use.
        usable: bool,
    },
    /// The attempt goes on.
    Waiting,
    /// None was made: the last one that was forced is too short a time ago.
    TooSoon {
        /// When one may be made, from now.
        retry_in: Duration,
    },
    /// None was made: the token endpoint wants to be left alone.
    Closed {
        /// What it did.
        error: FetchError,
        /// When it is asked again, from now.
        retry_in: Duration,
    },
    /// None was made: it is not fetched.
    Fixed,
}

impl<T> CredentialCache<T> {
    /// Has another credential fetched now, or waits for the attempt that is under way, for no longer
    /// than `limit`. Whoever stops waiting cancels nothing.
    pub async fn refresh(&self, limit: Duration) -> Refreshed {
        let give_up_at = Instant::now() + limit;
        let mut changed = self.shared.changed.subscribe();
        let ended = match self.wish() {
            Ok(ended) => ended,
            Err(refused) => return refused,
        };
        loop {
            changed.mark_unchanged();
            let slot = self.shared.slot.load_full();
            if slot.ended != ended {
                return self.outcome(&slot);
            }
            if tokio::time::timeout_at(give_up_at, changed.changed()).await.is_err() {
                return Refreshed::Waiting;
            }
        }
    }

    /// Asks for an attempt, unless one is under way; says how many have ended.
    fn wish(&self) -> Result<u64, Refreshed> {
        if !self.shared.settings.renewable {
            return Err(Refreshed::Fixed);
        }
        let mut writer = self.writer();
        let slot = self.shared.slot.load_full();
        if !slot.renewing {
            let now = self.shared.clock.now().monotonic;
            let last = writer.last_forced.max(writer.last_asked);
            let next = last.map(|last| last + self.shared.settings.min_interval);
            if let Some(next) = next.filter(|next| *next > now) {
                return Err(Refreshed::TooSoon { retry_in: next - now });
            }
            writer.last_asked = Some(now);
            writer.wished = true;
            self.shared.wish.notify_one();
        }
        Ok(slot.ended)
    }

    fn outcome(&self, slot: &Slot<T>) -> Refreshed {
        let now = self.shared.clock.now();
        let issued = slot.issued.as_ref().filter(|issued| issued.is_usable(now));
        match &slot.failure {
            Some(failure) => Refreshed::Failed {
                error: failure.error.clone(),
                retry_in: failure.retry_at.saturating_duration_since(now.monotonic),
                usable: issued.is_some(),
            },
            None => Refreshed::Fetched { expires: issued.and_then(|issued| issued.expires) },
        }
    }

    /// Waits until somebody asks for another credential, whatever the schedule says.
    pub(in crate::credential) async fn wished(&self) {
        loop {
            self.shared.wish.notified().await;
            // An attempt may have begun since.
            if std::mem::take(&mut self.writer().wished) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::credential::cache::{CacheSettings, Failure, Rejection};

    const LIMIT: Duration = Duration::from_secs(9);
    const INTERVAL: Duration = Duration::from_secs(10);

    fn cache() -> CredentialCache<&'static str> {
        let settings = CacheSettings { renewable: true, wait: LIMIT, min_interval: INTERVAL };
        CredentialCache::new(Clock::system(), settings)
    }

    fn refused() -> Failure {
        let error = FetchError::Timeout(Duration::from_secs(1));
        Failure { error, retry_at: Instant::now() + Duration::from_mins(15) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_outcome_is_that_of_the_attempt_and_what_is_there_stays_in_use() {
        let cache = cache();
        cache.publish("old", None, Duration::ZERO);
        let asked = tokio::spawn({
            let cache = cache.clone();
            async move { cache.refresh(LIMIT).await }
        });
        cache.wished().await;
        cache.begin_attempt();
        assert!(cache.get().await.is_ok_and(|issued| issued.item == "old"));
        cache.publish("new", None, Duration::ZERO);
        assert_eq!(asked.await.unwrap(), Refreshed::Fetched { expires: None });
        assert!(cache.get().await.is_ok_and(|issued| issued.item == "new"));

        tokio::time::sleep(INTERVAL).await;
        let asked = tokio::spawn({
            let cache = cache.clone();
            async move { cache.refresh(LIMIT).await }
        });
        cache.wished().await;
        cache.begin_attempt();
        cache.publish_failure(refused());
        let told = asked.await.unwrap();
        assert!(matches!(told, Refreshed::Failed { usable: true, .. }), "{told:?}");
        assert!(cache.get().await.is_ok_and(|issued| issued.item == "new"));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_while_an_attempt_is_under_way_asks_for_no_other() {
        let cache = cache();
        // Asked before the first attempt, and while it is made.
        let asked = cache.wish().unwrap();
        cache.begin_attempt();
        assert_eq!(cache.wish(), Ok(asked));
        let waiting = tokio::time::timeout(LIMIT, cache.wished()).await;
        assert!(waiting.is_err(), "the attempt that began was what was asked for");
        assert_eq!(cache.refresh(LIMIT).await, Refreshed::Waiting);
        cache.publish("new", None, Duration::ZERO);
        assert_eq!(cache.shared.slot.load().ended, asked + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_forced_more_often_than_the_interval_says_whoever_forces_it() {
        let cache = cache();
        cache.publish("old", None, Duration::ZERO);
        let issued = cache.get().await.unwrap();
        cache.reject(&issued);
        let told = cache.refresh(LIMIT).await;
        assert_eq!(told, Refreshed::TooSoon { retry_in: INTERVAL });
        tokio::time::sleep(INTERVAL).await;
        assert!(cache.wish().is_ok());
        let told = cache.refresh(LIMIT).await;
        assert_eq!(told, Refreshed::TooSoon { retry_in: INTERVAL }, "asked just now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_right_after_somebody_asked_is_mended_all_the_same() {
        let cache = cache();
        cache.publish("old", None, Duration::ZERO);
        cache.wish().unwrap();
        let issued = cache.get().await.unwrap();
        assert_eq!(cache.reject(&issued), Rejection::Renewing);
    }

    #[tokio::test]
    async fn what_is_not_fetched_is_not_asked_for() {
        let fixed = CredentialCache::fixed(Clock::system(), "key");
        assert_eq!(fixed.refresh(LIMIT).await, Refreshed::Fixed);
    }
}
