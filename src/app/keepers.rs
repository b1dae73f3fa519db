//! The tasks that keep credentials fresh, from when they are put together to when they run.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::credential::devices::gate::EndpointGate;
use crate::credential::keeper::{Keeper, Watch};

/// The tasks that keep credentials fresh.
#[derive(Default)]
pub(super) struct Keepers(pub(super) Vec<Start>, pub(super) Gates);

/// What those share whose token endpoint is the same, by its URL.
pub(super) type Gates = HashMap<String, Arc<EndpointGate>>;

/// Starts what keeps one credential fresh.
pub(super) type Start = Box<dyn FnOnce(&Nursery<'_>) + Send>;

/// Where the tasks run that keep credentials fresh.
pub(super) struct Nursery<'a> {
    pub(super) tracker: &'a TaskTracker,
    pub(super) watch: &'a Watch,
    pub(super) stop: &'a CancellationToken,
    /// Held as long as one of them runs.
    pub(super) runs: &'a Arc<()>,
}

impl Nursery<'_> {
    /// Runs `keeper` of `credential` until the end, also if it panics.
    pub(super) fn keep(&self, credential: &str, keeper: impl Keeper + 'static) {
        let watch = self.watch.clone();
        let kept = watch.over(keeper, credential.to_owned(), self.stop.clone());
        let runs = Arc::clone(self.runs);
        self.tracker.spawn(async move {
            kept.await;
            drop(runs);
        });
    }
}

impl std::fmt::Debug for Keepers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keepers({})", self.0.len())
    }
}
