//! Tasks of a worker's own thread.

use std::future::Future;

use hyper::rt::Executor;

/// Runs what hyper spawns on the thread it is on, within a `LocalSet`.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
