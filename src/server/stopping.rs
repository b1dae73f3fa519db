//! Telling the connections of one worker to end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

/// Told once; until then, asking whether it was costs a connection next to nothing, which matters
/// because it is asked whenever a byte moves.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    told: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

impl Stopping {
    /// Tells all connections, those to come included.
    pub(super) fn tell(&self) {
        self.told.set(true);
        for (_, waker) in &*self.waiting.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The ear of one connection.
    pub(super) fn ear(self: &Rc<Self>) -> Ear {
        Ear { stopping: Rc::clone(self), place: None }
    }
}

/// Hears when a connection is to end.
#[derive(Debug)]
pub(super) struct Ear {
    stopping: Rc<Stopping>,
    place: Option<usize>,
}

impl Ear {
    /// True once it is to end; if not, the task is woken then.
    pub(super) fn is_told(&mut self, cx: &Context<'_>) -> bool {
        if self.stopping.told.get() {
            return true;
        }
        let mut waiting = self.stopping.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.place = Some(waiting.insert(cx.waker().clone())),
        }
        false
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.stopping.waiting.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_connection_that_is_there_is_told_once_and_every_later_one_at_once() {
        let stopping = Rc::new(Stopping::default());
        let counters: [Arc<Counter>; 2] = Default::default();
        let wakers = counters.clone().map(Waker::from);
        let mut ears = [stopping.ear(), stopping.ear()];
        for (ear, waker) in ears.iter_mut().zip(&wakers) {
            assert!(!ear.is_told(&Context::from_waker(waker)));
            assert!(!ear.is_told(&Context::from_waker(waker)), "asked again");
        }
        let [first, mut second] = ears;
        drop(first);
        stopping.tell();
        let woken = counters.each_ref().map(|counter| counter.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1], "whoever is gone is not told");
        assert!(second.is_told(&Context::from_waker(&wakers[1])));
        assert!(stopping.ear().is_told(&Context::from_waker(&wakers[0])));
    }
}
