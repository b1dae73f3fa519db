//! What is still to be done in Redis, and what was done lately: at most one change per place, so
//! there is no more of it than there are credentials and devices.
//!
//! What was done is kept for a while because a server that takes over from another may lack what
//! that one had acknowledged, and a server that was taken over from goes on acknowledging until it
//! is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::seal::Place;

/// Longer than a server goes on acknowledging after another has taken over.
const LATELY: Duration = Duration::from_mins(2);

/// A change of one place.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Tells changes apart.
    number: u64,
    /// When it came about.
    pub(super) made: Instant,
    pub(super) what: What,
    /// It was acknowledged, or is of no more use.
    done: Option<Instant>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// Write this record.
    Write(Arc<[u8]>),
    /// Remove this record, unless another is there.
    Remove(Arc<[u8]>),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    changes: HashMap<Place, Change>,
    last: u64,
}

impl Pending {
    /// Notes a change, instead of what was still to be done at that place.
    pub(super) fn add(&self, place: Place, what: What) -> Change {
        let mut inner = self.lock();
        inner.last += 1;
        let change = Change { number: inner.last, made: Instant::now(), what, done: None };
        if let What::Remove(removed) = &change.what
            && let Some(Change { what: What::Write(written), .. }) = inner.changes.get(&place)
            && removed != written
        {
            // What is to be written takes the place of what is to be removed.
            return change;
        }
        inner.changes.insert(place, change.clone());
        change
    }

    /// It was done.
    pub(super) fn settle(&self, place: Place, change: &Change) {
        let mut inner = self.lock();
        if let Some(there) = inner.changes.get_mut(&place)
            && there.number == change.number
        {
            there.done = Some(Instant::now());
        }
    }

    /// It is of no more use: something newer is there.
    pub(super) fn forget(&self, place: Place, change: &Change) {
        let mut inner = self.lock();
        if inner.changes.get(&place).is_some_and(|there| there.number == change.number) {
            inner.changes.remove(&place);
        }
    }

    /// What is still to be done at `place`.
    pub(super) fn at(&self, place: Place) -> Option<Change> {
        self.lock().changes.get(&place).filter(|change| change.done.is_none()).cloned()
    }

    /// Everything that is still to be done.
    pub(super) fn undone(&self) -> Vec<(Place, Change)> {
        self.those(|change| change.done.is_none())
    }

    /// The same, and what was done lately.
    pub(super) fn undone_or_lately_done(&self) -> Vec<(Place, Change)> {
        self.those(|_| true)
    }

    /// Forgets what was done long ago.
    pub(super) fn clear_up(&self) {
        let mut inner = self.lock();
        inner.changes.retain(|_, change| change.done.is_none_or(|at| at.elapsed() < LATELY));
        // Most of the time there is hardly anything, after a while without Redis a lot.
        if inner.changes.capacity() > 2 * inner.changes.len() + 64 {
            inner.changes.shrink_to_fit();
        }
    }

    fn those(&self, which: impl Fn(&Change) -> bool) -> Vec<(Place, Change)> {
        let inner = self.lock();
        let those = inner.changes.iter().filter(|(_, change)| which(change));
        those.map(|(place, change)| (*place, change.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    /// What is at the place once it is done, where `record` is what is there before.
    pub(super) fn of(self, record: Option<Vec<u8>>) -> Option<Vec<u8>> {
        match self.what {
            What::Write(written) => Some(written.to_vec()),
            What::Remove(removed) => record.filter(|record| **record != *removed),
        }
    }
}
