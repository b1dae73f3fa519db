//! Tasks of a worker's own thread.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use hyper::rt::Executor;
use tokio::task::JoinSet;

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

/// The same, and ends it when nobody has this any more.
#[derive(Debug, Clone, Default)]
pub struct LocalTasks(Rc<RefCell<JoinSet<()>>>);

impl<F> Executor<F> for LocalTasks
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(async move {
            future.await;
        });
    }
}
