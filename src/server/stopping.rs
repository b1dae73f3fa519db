//! Telling the connections of one worker to end: all of them, or one that has no request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

/// Told once; until then, asking whether it was costs a connection next to nothing, which matters
/// because it is asked whenever a byte moves.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    told: Cell<bool>,
    /// The next answer of each connection is its last.
    goodbye: Cell<bool>,
    /// Connections that are to end as soon as they have no request, whichever they are.
    room: Cell<usize>,
    waiting: RefCell<Slab<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    waker: Waker,
    /// It has no request.
    idle: bool,
}

impl Stopping {
    /// Tells all connections, those to come included.
    pub(super) fn tell(&self) {
        self.told.set(true);
        for (_, waiting) in &*self.waiting.borrow() {
            waiting.waker.wake_by_ref();
        }
    }

    /// Has each connection end with its next answer.
    pub(super) fn say_goodbye(&self) {
        self.goodbye.set(true);
    }

    /// Tells one connection to end: one that has no request or, if there is none now, the first that
    /// has none.
    pub(super) fn make_room(&self) {
        self.room.set(self.room.get() + 1);
        for (_, waiting) in &*self.waiting.borrow() {
            if waiting.idle {
                waiting.waker.wake_by_ref();
            }
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
    /// True once all are to end; if not, the task is woken then.
    pub(super) fn is_told(&mut self, cx: &Context<'_>) -> bool {
        self.listen(cx, false)
    }

    /// True once an answer is to be the connection's last.
    pub(super) fn is_goodbye(&self) -> bool {
        self.stopping.goodbye.get()
    }

    /// The same for a connection that has had a request and has none now: it may be the one that is to
    /// make room.
    pub(super) fn is_told_in_a_pause(&mut self, cx: &Context<'_>) -> bool {
        let room = self.stopping.room.get();
        if room > 0 {
            self.stopping.room.set(room - 1);
            return true;
        }
        self.listen(cx, true)
    }

    fn listen(&mut self, cx: &Context<'_>, idle: bool) -> bool {
        if self.stopping.told.get() {
            return true;
        }
        let mut all = self.stopping.waiting.borrow_mut();
        match self.place.and_then(|place| all.get_mut(place)) {
            Some(waiting) => {
                waiting.waker.clone_from(cx.waker());
                waiting.idle = idle;
            }
            None => self.place = Some(all.insert(Waiting { waker: cx.waker().clone(), idle })),
        }
        false
    }

    /// A request has come.
    pub(super) fn is_busy(&mut self) {
        let mut all = self.stopping.waiting.borrow_mut();
        if let Some(waiting) = self.place.and_then(|place| all.get_mut(place)) {
            waiting.idle = false;
        }
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

    #[test]
    fn only_a_connection_in_a_pause_makes_room_and_only_as_often_as_it_is_needed() {
        let stopping = Rc::new(Stopping::default());
        let counters: [Arc<Counter>; 3] = Default::default();
        let wakers = counters.clone().map(Waker::from);
        let mut ears = [stopping.ear(), stopping.ear(), stopping.ear()];
        let contexts = wakers.each_ref().map(Context::from_waker);
        assert!(!ears[0].is_told(&contexts[0]));
        assert!(!ears[1].is_told_in_a_pause(&contexts[1]));
        assert!(!ears[2].is_told_in_a_pause(&contexts[2]));
        ears[2].is_busy();
        stopping.make_room();
        let woken = counters.each_ref().map(|counter| counter.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1, 0]);
        assert!(!ears[0].is_told(&contexts[0]), "it has a request, or had none yet");
        assert!(ears[1].is_told_in_a_pause(&contexts[1]));
        assert!(!ears[2].is_told_in_a_pause(&contexts[2]), "one is enough");
    }
}
