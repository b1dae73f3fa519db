//! `Queue`: whose turn it is. Pure: it knows no clock, no token and no network.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

/// A place in the schedule, by which an entry is taken out again.
pub(super) type Key = (Instant, u32);

/// Who is to be fetched: those for whom requests wait, in the order in which they came; then those
/// whose time has come.
///
/// A device is in each part at most once, which bounds both by the number of devices.
#[derive(Debug)]
pub(super) struct Queue<D> {
    demanded: VecDeque<D>,
    scheduled: BTreeMap<Key, D>,
    /// Tells those apart whose time is the same.
    counter: u32,
}

impl<D> Default for Queue<D> {
    fn default() -> Self {
        Self { demanded: VecDeque::new(), scheduled: BTreeMap::new(), counter: 0 }
    }
}

/// Why somebody is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<D> {
    /// Requests wait for it.
    Demanded(D),
    /// Its time has come.
    Due(D),
}

impl<D> Queue<D> {
    /// Requests wait for `device`.
    pub(super) fn demand(&mut self, device: D) {
        self.demanded.push_back(device);
    }

    /// Requests still wait for `device`, whose turn it was.
    pub(super) fn demand_first(&mut self, device: D) {
        self.demanded.push_front(device);
    }

    /// It is the turn of `device` at `due`.
    pub(super) fn schedule(&mut self, due: Instant, device: D) -> Key {
        self.counter = self.counter.wrapping_add(1);
        let key = (due, self.counter);
        self.scheduled.insert(key, device);
        key
    }

    /// Takes an entry out of the schedule.
    pub(super) fn unschedule(&mut self, key: Key) {
        self.scheduled.remove(&key);
    }

    /// Whose turn it is at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next<D>> {
        if let Some(device) = self.demanded.pop_front() {
            return Some(Next::Demanded(device));
        }
        let first = self.scheduled.first_entry().filter(|first| first.key().0 <= now)?;
        Some(Next::Due(first.remove()))
    }

    /// When the schedule wants something next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.scheduled.first_key_value().map(|(key, _)| key.0)
    }

    /// Those for whom requests wait.
    pub(super) fn demanded(&self) -> impl Iterator<Item = &D> {
        self.demanded.iter()
    }

    /// For how many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.demanded.len()
    }

    /// How many wait: on demand, and in the schedule.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.demanded.len(), self.scheduled.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn demand_comes_before_schedule_and_each_in_its_order() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.schedule(after(2), "later");
        queue.schedule(after(1), "one");
        queue.schedule(after(1), "two");
        let gone = queue.schedule(after(1), "gone");
        queue.unschedule(gone);
        queue.demand("first");
        queue.demand("second");
        queue.demand_first("again");
        let order: Vec<_> = std::iter::from_fn(|| queue.next(after(1))).collect();
        let expected = [
            Next::Demanded("again"),
            Next::Demanded("first"),
            Next::Demanded("second"),
            Next::Due("one"),
            Next::Due("two"),
        ];
        assert_eq!(order, expected);
        assert_eq!(queue.next_due(), Some(after(2)));
        assert_eq!(queue.len(), (0, 1));
    }
}
