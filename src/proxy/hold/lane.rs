//! Work on pieces of content, in their order, beside the thread that receives them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::pieces::Pieces;
use crate::proxy::respond::ProxyError;

/// Pieces to work on, and the place they take up until nobody works on them any more.
pub(super) struct Batch {
    pub(super) pieces: Arc<Pieces>,
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

/// One kind of work, done with `T` by one thread at a time. A thread works as long as there is
/// something, and waits for nothing: slow callers take up none.
pub(super) struct Lane<T> {
    state: Arc<Mutex<State<T>>>,
    work: Work<T>,
}

/// What is done with a batch.
type Work<T> = fn(&mut T, &Pieces) -> io::Result<()>;

struct State<T> {
    /// Not here while a thread has it.
    tool: Option<T>,
    running: bool,
    waiting: VecDeque<Batch>,
    failed: Option<io::ErrorKind>,
}

impl<T: Send + 'static> Lane<T> {
    pub(super) fn new(tool: T, work: Work<T>) -> Self {
        let waiting = VecDeque::new();
        let state = State { tool: Some(tool), running: false, waiting, failed: None };
        Self { state: Arc::new(Mutex::new(state)), work }
    }

    /// Has `batch` worked on.
    ///
    /// # Errors
    /// When the work on one before it has failed.
    pub(super) fn add(&self, batch: Batch) -> Result<(), ProxyError> {
        let mut state = lock(&self.state);
        state.check()?;
        state.waiting.push_back(batch);
        if !std::mem::replace(&mut state.running, true) {
            let (state, work) = (Arc::clone(&self.state), self.work);
            tokio::task::spawn_blocking(move || Worker { state, work }.run());
        }
        Ok(())
    }

    /// # Errors
    /// When any of the work has failed.
    pub(super) fn check(&self) -> Result<(), ProxyError> {
        lock(&self.state).check()
    }

    /// What it worked with, now that nothing is left to do.
    pub(super) fn end(self) -> Option<T> {
        lock(&self.state).tool.take()
    }
}

impl<T> State<T> {
    fn check(&self) -> Result<(), ProxyError> {
        self.failed.map_or(Ok(()), |kind| Err(ProxyError::Spool(kind)))
    }
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread at work.
struct Worker<T> {
    state: Arc<Mutex<State<T>>>,
    work: Work<T>,
}

impl<T> Worker<T> {
    fn run(self) {
        loop {
            let (batch, mut tool) = {
                let mut state = lock(&self.state);
                match (state.waiting.pop_front(), state.tool.take()) {
                    (Some(batch), Some(tool)) => (batch, tool),
                    (_, tool) => {
                        (state.tool, state.running) = (tool, false);
                        return;
                    }
                }
            };
            let Batch { pieces, place } = batch;
            let done = (self.work)(&mut tool, &pieces);
            drop(pieces);
            lock(&self.state).tool = Some(tool);
            if let Err(error) = done {
                self.fail(error.kind());
            }
            // The last: whoever waits for it takes the rest to be done.
            drop(place);
        }
    }

    /// Nothing more is worked on, and whoever waits for a place shall not wait for ever.
    fn fail(&self, kind: io::ErrorKind) {
        let mut state = lock(&self.state);
        state.failed = Some(kind);
        state.waiting.clear();
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(io::ErrorKind::Other);
        }
    }
}
