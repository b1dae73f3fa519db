//! Content on its way: towards the upstream, and back to the caller.

mod answer;
mod caller;
mod copy;
mod progress;
mod request;

pub use answer::{Broke, ExchangeGuard, ResponseContent};
pub use caller::{CallerContent, CallerStream};
pub use copy::{Copy, Kept};
pub use progress::{Gate, Progress};
pub use request::{RequestContent, Streaming};

/// Why content broke off. The reason for the caller is in [`Progress`]; hyper looks in the source
/// for the reason with which HTTP/2 ends a stream.
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
pub struct ContentError(#[source] pub Option<hyper::Error>);
