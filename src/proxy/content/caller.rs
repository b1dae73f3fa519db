//! The content of a request, as it comes from the caller.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::ContentError;

/// The content of a request, as it comes from the caller.
pub enum CallerContent {
    /// There is none.
    Empty,
    /// It comes over a connection of which it is a part.
    Http1(Rc<dyn CallerStream>),
    /// It is a stream of its own.
    Http2(Incoming),
}

/// The part of a caller's HTTP/1 connection that is the content of a request.
pub trait CallerStream {
    /// The next piece, or the trailers; `None` at the end.
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ContentError>>>;
    /// True if all of it was read.
    fn has_ended(&self) -> bool;
    /// How much is still to come.
    fn size_hint(&self) -> SizeHint;
}

impl Body for CallerContent {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(stream) => stream.poll_frame(cx),
            Self::Http2(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|error| ContentError(Some(error)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(stream) => stream.has_ended(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(stream) => stream.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

impl std::fmt::Debug for CallerContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerContent").field("left", &self.size_hint()).finish_non_exhaustive()
    }
}
