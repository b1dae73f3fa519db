//! Values for renewals of which nobody knows whether they are used up.
//!
//! An API that replaces them at each use takes the second use of one for theft, and then everything
//! back. Whether a request has arrived is not known when its answer does not come.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::values::Values;

/// The most that are remembered. Of a hundred thousand devices all may be renewed when the endpoint
/// breaks down.
const MOST: usize = 1 << 17;

/// A digest of values that a renewal sends.
pub(super) type Digest = u64;

/// What may be used up.
#[derive(Debug, Default)]
pub(super) struct Spent {
    /// Its key lives as long as the process.
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    all: HashSet<Digest>,
    /// In the order in which they came, to forget the oldest; may hold some that are gone.
    order: VecDeque<Digest>,
}

impl Spent {
    /// The digest of those `values` that have one of these names.
    pub(super) fn digest<'n>(
        &self,
        values: &Values,
        names: impl Iterator<Item = &'n str>,
    ) -> Digest {
        let sent: Vec<Option<&str>> = names.map(|name| values.text(name)).collect();
        self.hasher.hash_one(sent)
    }

    /// True if they may be used up.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.lock().all.contains(&digest)
    }

    /// They are sent. Said before that, because whoever sends may be cut off.
    pub(super) fn add(&self, digest: Digest) {
        let mut known = self.lock();
        if known.all.insert(digest) {
            known.order.push_back(digest);
        }
        while known.order.len() > MOST {
            let oldest = known.order.pop_front();
            oldest.map(|oldest| known.all.remove(&oldest));
        }
    }

    /// They were not used, or nobody will send them any more.
    pub(super) fn remove(&self, digest: Digest) {
        let mut known = self.lock();
        known.all.remove(&digest);
        if known.order.back() == Some(&digest) {
            known.order.pop_back();
        }
        if known.all.is_empty() {
            known.order.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn what_may_be_used_up_is_known_until_it_is_not_needed_and_the_oldest_goes_first() {
        let spent = Spent::default();
        let digest = |value: &str| {
            let values =
                Values::from_iter([("refresh", Secret::new(value)), ("token", Secret::new("t"))]);
            spent.digest(&values, ["refresh"].into_iter())
        };
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        spent.add(digest("a"));
        assert!(spent.has(digest("a")) && !spent.has(digest("b")));
        spent.remove(digest("a"));
        assert!(!spent.has(digest("a")));
        spent.add(digest("first"));
        for number in 0..MOST {
            spent.add(digest(&number.to_string()));
        }
        assert!(!spent.has(digest("first")));
        assert!(spent.has(digest("0")));
        assert_eq!(spent.lock().all.len(), MOST);
        assert!(!format!("{spent:?}").contains("first"));
    }
}
