//! What runs for a store, and its end.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::file::Writer;
use super::redis::keeper::Keeper;

/// How long the last changes may take to be written.
const CLOSING: Duration = Duration::from_secs(5);

/// What has to run for a store, not running yet.
#[derive(Debug)]
pub struct Task(Kind);

#[derive(Debug)]
enum Kind {
    File(Writer),
    Redis(Box<Keeper>),
}

impl From<Writer> for Task {
    fn from(writer: Writer) -> Self {
        Self(Kind::File(writer))
    }
}

impl From<Keeper> for Task {
    fn from(keeper: Keeper) -> Self {
        Self(Kind::Redis(Box::new(keeper)))
    }
}

impl Task {
    /// Starts it on the runtime of the caller.
    pub fn start(self) -> Running {
        match self.0 {
            Kind::File(writer) => writer.start(),
            Kind::Redis(keeper) => keeper.start(),
        }
    }
}

/// What runs for a store.
#[derive(Debug)]
pub struct Running {
    close: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// A task that ends by itself once `close` is cancelled.
    pub(super) fn new(close: CancellationToken, task: JoinHandle<()>) -> Self {
        Self { close, task }
    }

    /// Writes what is still to be written, within a time limit.
    pub async fn close(mut self) {
        self.close.cancel();
        // It ends by itself, or has panicked, which was said then.
        if tokio::time::timeout(CLOSING, &mut self.task).await.is_err() {
            self.task.abort();
            let waited_s = CLOSING.as_secs();
            tracing::warn!(waited_s, "the token store did not end in time; changes may be lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_end_is_not_waited_for_for_ever() {
        let task = tokio::spawn(std::future::pending());
        let stuck = task.abort_handle();
        Running::new(CancellationToken::new(), task).close().await;
        while !stuck.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
