//! What became of an exchange that has no answer.

use std::error::Error as _;

use http::Request;

use crate::proxy::content::RequestContent;
use crate::proxy::respond::ProxyError;

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// What to tell the caller.
    pub error: ProxyError,
    /// What the upstream may have done with the request.
    pub fate: Fate,
}

/// What the upstream may have done with a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never got it, or said that it did nothing with it: safe to send again.
    Unprocessed,
    /// It may have acted on it, and nothing of an answer came: only what is idempotent may be sent
    /// again (RFC 9110 §9.2.2).
    Unknown,
    /// Sending it again would not help, or an answer has begun.
    Final,
}

impl SendError {
    pub(super) fn last(error: ProxyError) -> Self {
        Self { error, fate: Fate::Final }
    }
}

/// A request over HTTP/2 that got nowhere, or one whose answer did not come.
pub(super) enum Failure {
    /// The connection was closed before anything was written.
    Unsent(Box<Request<RequestContent>>),
    /// It was sent, or begun.
    Sent(SendError),
}

/// The reason of an HTTP/2 failure, if it is one.
pub(super) fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<h2::Error>() {
            return Some(found);
        }
        cause = current.source();
    }
    None
}
