//! The content of an answer, on its way back to the caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::progress::IdleTimer;
use super::{ContentError, Progress};
use crate::proxy::headers;
use crate::proxy::upstream::Lease;

/// The content of an answer.
pub struct ResponseContent<G> {
    source: Answer,
    /// Told how it ended, and dropped with the content: whatever lasts as long as the exchange.
    guard: Option<G>,
}

enum Answer {
    Own(Option<Bytes>),
    Upstream {
        incoming: Incoming,
        /// Given back at the end.
        lease: Option<Lease>,
        /// Set while content still goes the other way.
        request: Option<Arc<Progress>>,
        idle: IdleTimer,
        deadline: Option<Pin<Box<Sleep>>>,
    },
}

/// What lasts as long as an exchange.
pub trait ExchangeGuard {
    /// A piece of the answer has passed.
    fn passed(&mut self, bytes: usize);
    /// All of the answer has passed.
    fn ended(&mut self);
    /// The answer broke off, for this reason.
    fn broke(&mut self, reason: &'static str);
}

impl<G: ExchangeGuard> ResponseContent<G> {
    /// An answer of ours.
    pub fn own(bytes: Bytes, mut guard: G) -> Self {
        guard.ended();
        let source = Answer::Own((!bytes.is_empty()).then_some(bytes));
        Self { source, guard: Some(guard) }
    }

    /// No content, because another protocol follows; the exchange lasts on.
    pub fn switched() -> Self {
        Self { source: Answer::Own(None), guard: None }
    }

    /// The upstream's answer, never silent for longer than `idle`, and done by `deadline`. The
    /// connection is given back at its end. While content of the `request` still goes the other way,
    /// silence is silence in both directions.
    pub fn upstream(
        incoming: Incoming,
        lease: Lease,
        request: Option<Arc<Progress>>,
        idle: Duration,
        deadline: Option<Instant>,
        mut guard: G,
    ) -> Self {
        let lease = if incoming.is_end_stream() {
            guard.ended();
            lease.give_back();
            None
        } else {
            Some(lease)
        };
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let idle = IdleTimer::new(idle);
        let source = Answer::Upstream { incoming, lease, request, idle, deadline };
        Self { source, guard: Some(guard) }
    }
}

impl<G: ExchangeGuard + Unpin> Body for ResponseContent<G> {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let Self { source, guard } = self.get_mut();
        let (incoming, lease, request, idle, deadline) = match source {
            Answer::Own(bytes) => {
                let frame = bytes.take().map(|bytes| Ok(Frame::data(bytes)));
                return Poll::Ready(frame);
            }
            Answer::Upstream { incoming, lease, request, idle, deadline } => {
                (incoming, lease, request, idle, deadline)
            }
        };
        let mut broke = |lease: &mut Option<Lease>, reason, cause| {
            if let Some(guard) = guard {
                guard.broke(reason);
            }
            // Closed, if nobody else uses it.
            drop(lease.take());
            Poll::Ready(Some(Err(ContentError(cause))))
        };
        if let Some(deadline) = deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return broke(lease, "total timeout", None);
        }
        let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
        if polled.is_pending()
            && let Some(lease) = &mut *lease
        {
            lease.drive(cx);
            polled = Pin::new(&mut *incoming).poll_frame(cx);
        }
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) => {
                idle.reset();
                if let Some(request) = request {
                    request.flowed();
                }
                Some(frame)
            }
            Poll::Ready(Some(Err(error))) => {
                return broke(lease, "upstream broke off", Some(error));
            }
            Poll::Ready(None) => None,
            Poll::Pending => {
                ready!(idle.poll_expired(cx, request.as_deref()));
                return broke(lease, "upstream idle timeout", None);
            }
        };
        let frame = frame.map(without_hop_by_hop);
        if let Some(guard) = guard {
            if let Some(piece) = frame.as_ref().and_then(Frame::data_ref) {
                guard.passed(piece.len());
            }
            if frame.is_none() || incoming.is_end_stream() {
                guard.ended();
                if let Some(lease) = lease.take() {
                    lease.give_back();
                }
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Answer::Own(bytes) => bytes.is_none(),
            Answer::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Answer::Own(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Answer::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A frame of an answer, its trailers without what must not travel on.
fn without_hop_by_hop(frame: Frame<Bytes>) -> Frame<Bytes> {
    if frame.is_data() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_response_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl<G> std::fmt::Debug for ResponseContent<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseContent")
    }
}
