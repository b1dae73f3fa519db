//! The content of an answer, on its way back to the caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::progress::IdleTimer;
use super::{ContentError, Progress};
use crate::proxy::headers;
use crate::proxy::scrub::Scrub;
use crate::proxy::upstream::UpstreamContent;

/// The content of an answer.
pub struct ResponseContent<G> {
    source: Source,
    /// Told how it ended, and dropped with the content: whatever lasts as long as the exchange.
    guard: Option<G>,
}

enum Source {
    Own(Option<Bytes>),
    Upstream(Upstream),
    /// It broke off; whatever it came over is let go.
    Broken,
}

struct Upstream {
    content: UpstreamContent,
    /// Set while content still goes the other way.
    request: Option<Arc<Progress>>,
    idle: IdleTimer,
    deadline: Option<Pin<Box<Sleep>>>,
    /// What is blotted out of trailers.
    scrub: Option<Box<Scrub>>,
}

/// What lasts as long as an exchange.
pub trait ExchangeGuard {
    /// A piece of the answer has passed.
    fn passed(&mut self, bytes: usize);
    /// All of the answer has passed.
    fn ended(&mut self);
    /// The answer broke off.
    fn broke(&mut self, broke: Broke);
}

/// How an answer broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broke {
    /// The upstream ended it.
    Off,
    /// The upstream was silent for too long.
    Silent,
    /// The whole exchange took too long.
    TooLong,
}

impl Broke {
    /// For the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Off => "upstream broke off",
            Self::Silent => "upstream idle timeout",
            Self::TooLong => "total timeout",
        }
    }

    /// The error type of RFC 9209 §2.3.
    pub fn error(self) -> &'static str {
        match self {
            Self::Off => "http_response_incomplete",
            Self::Silent => "connection_read_timeout",
            Self::TooLong => "http_response_timeout",
        }
    }
}

impl<G: ExchangeGuard> ResponseContent<G> {
    /// An answer of ours.
    pub fn own(bytes: Bytes, mut guard: G) -> Self {
        guard.ended();
        let source = Source::Own((!bytes.is_empty()).then_some(bytes));
        Self { source, guard: Some(guard) }
    }

    /// No content, because another protocol follows; the exchange lasts on.
    pub fn switched() -> Self {
        Self { source: Source::Own(None), guard: None }
    }

    /// The upstream's answer, never silent for longer than `idle`, and done by `deadline`, its trailers
    /// without what `scrub` blots out. While
    /// content of the `request` still goes the other way, silence is silence in both directions.
    pub fn upstream(
        content: UpstreamContent,
        request: Option<Arc<Progress>>,
        idle: Duration,
        deadline: Option<Instant>,
        scrub: Option<Box<Scrub>>,
        mut guard: G,
    ) -> Self {
        if content.is_end_stream() {
            guard.ended();
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let idle = IdleTimer::new(idle);
        let source = Source::Upstream(Upstream { content, request, idle, deadline, scrub });
        Self { source, guard: Some(guard) }
    }
}

/// A frame, or why there is none.
type Next = Result<Option<Frame<Bytes>>, (Broke, ContentError)>;

impl Upstream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let Self { content, request, idle, deadline, scrub } = self;
        let broke = |broke| Poll::Ready(Err((broke, ContentError(None))));
        if let Some(deadline) = deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return broke(Broke::TooLong);
        }
        match Pin::new(content).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                idle.reset();
                if let Some(request) = request {
                    request.flowed();
                }
                Poll::Ready(Ok(Some(fit_to_pass(frame, scrub.as_deref()))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err((Broke::Off, error))),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => {
                ready!(idle.poll_expired(cx, request.as_deref()));
                broke(Broke::Silent)
            }
        }
    }
}

impl<G> ResponseContent<G> {
    /// True while content of the request goes the other way.
    pub fn takes_request(&self) -> bool {
        match &self.source {
            Source::Upstream(upstream) => {
                upstream.request.is_some() && !upstream.content.is_end_stream()
            }
            Source::Own(_) | Source::Broken => false,
        }
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
        let upstream = match source {
            Source::Own(bytes) => {
                let frame = bytes.take().map(|bytes| Ok(Frame::data(bytes)));
                return Poll::Ready(frame);
            }
            Source::Upstream(upstream) => upstream,
            Source::Broken => return Poll::Ready(Some(Err(ContentError(None)))),
        };
        match ready!(upstream.poll_next(cx)) {
            Ok(frame) => {
                if let Some(guard) = guard {
                    if let Some(piece) = frame.as_ref().and_then(Frame::data_ref) {
                        guard.passed(piece.len());
                    }
                    // Nobody asks for what is behind trailers.
                    let last = frame.as_ref().is_none_or(Frame::is_trailers);
                    if last || upstream.content.is_end_stream() {
                        guard.ended();
                    }
                }
                Poll::Ready(frame.map(Ok))
            }
            Err((broke, error)) => {
                if let Some(guard) = guard {
                    guard.broke(broke);
                }
                *source = Source::Broken;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(upstream) => upstream.content.is_end_stream(),
            Source::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Source::Upstream(upstream) => upstream.content.size_hint(),
            Source::Broken => SizeHint::default(),
        }
    }
}

/// A frame of an answer, its trailers without what must not travel on.
fn fit_to_pass(frame: Frame<Bytes>, scrub: Option<&Scrub>) -> Frame<Bytes> {
    if frame.is_data() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_response_trailers(&mut trailers);
            if let Some(scrub) = scrub {
                scrub.apply(&mut trailers);
            }
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
