//! The content of a request, on its way to the upstream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::progress::{ABORTED, IdleTimer, TIMED_OUT, TOO_LARGE, UNREADABLE};
use super::{CallerContent, ContentError, Copy, Gate, Progress};
use crate::proxy::headers;
use crate::proxy::hold::{Held, Reader};
use crate::sign::owned::OwnedFields;

/// The content of a request to an upstream.
pub struct RequestContent {
    source: Source,
    progress: Arc<Progress>,
}

enum Source {
    Empty,
    Memory(Bytes),
    Held(Reader),
    Stream(Box<Stream>),
}

struct Stream {
    incoming: CallerContent,
    /// What is still to come, where the caller has said how much there is.
    announced: Option<u64>,
    left: u64,
    idle: IdleTimer,
    copy: Option<Arc<Copy>>,
    gate: Option<(Arc<Gate>, IdleTimer)>,
    trailers: Option<Arc<OwnedFields>>,
}

/// How content is streamed.
#[derive(Debug)]
pub struct Streaming {
    /// The most that may come, in bytes.
    pub max_body: u64,
    /// How long the caller may be silent.
    pub idle: Duration,
    /// Where a copy is kept.
    pub copy: Option<Arc<Copy>>,
    /// Hold the content back until the upstream asks for it, for this long at most.
    pub on_demand: Option<Duration>,
    /// Let trailers pass, without these fields; otherwise they are dropped.
    pub trailers: Option<Arc<OwnedFields>>,
}

impl RequestContent {
    /// No content.
    pub fn empty(progress: Arc<Progress>) -> Self {
        progress.completed();
        Self { source: Source::Empty, progress }
    }

    /// Content that was held.
    pub fn held(held: Held, progress: Arc<Progress>) -> Self {
        if held.length() == 0 {
            return Self::empty(progress);
        }
        Self { source: Source::Held(Reader::new(held)), progress }
    }

    /// Content from memory.
    pub fn memory(bytes: Bytes, progress: Arc<Progress>) -> Self {
        if bytes.is_empty() {
            return Self::empty(progress);
        }
        Self { source: Source::Memory(bytes), progress }
    }

    /// Content as it comes from the caller.
    pub fn stream(incoming: CallerContent, streaming: Streaming, progress: Arc<Progress>) -> Self {
        let Streaming { max_body, idle, copy, on_demand, trailers } = streaming;
        let gate = on_demand.map(|limit| (Arc::default(), IdleTimer::new(limit)));
        let idle = IdleTimer::new(idle);
        let announced = incoming.size_hint().exact();
        let stream = Stream { incoming, announced, left: max_body, idle, copy, gate, trailers };
        Self { source: Source::Stream(Box::new(stream)), progress }
    }

    /// What holds the content back, if anything does.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        match &self.source {
            Source::Stream(stream) => stream.gate.as_ref().map(|(gate, _)| Arc::clone(gate)),
            Source::Empty | Source::Memory(_) | Source::Held(_) => None,
        }
    }
}

impl Drop for RequestContent {
    fn drop(&mut self) {
        self.progress.release();
    }
}

impl Body for RequestContent {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let Self { source, progress } = self.get_mut();
        progress.moved();
        let piece = match source {
            Source::Empty => None,
            Source::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then_some(Ok(Frame::data(bytes)))
            }
            Source::Held(reader) => match ready!(reader.poll_piece(cx)) {
                Ok(piece) => (!piece.is_empty()).then_some(Ok(Frame::data(piece))),
                Err(error) => {
                    tracing::warn!(%error, "held content cannot be read");
                    Some(Err((UNREADABLE, None)))
                }
            },
            Source::Stream(stream) => {
                if let Some((gate, patience)) = &mut stream.gate {
                    if gate.poll_open(cx).is_pending() {
                        ready!(patience.poll_expired(cx, None));
                    }
                    stream.gate = None;
                    progress.moved();
                }
                let piece = stream.poll_piece(cx, progress);
                progress.waits_for_caller(piece.is_pending());
                ready!(piece)
            }
        };
        Poll::Ready(match piece {
            None => {
                progress.completed();
                None
            }
            Some(Ok(piece)) => Some(Ok(piece)),
            Some(Err((failure, cause))) => {
                progress.fail(failure);
                Some(Err(ContentError(cause)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let ended = match &self.source {
            Source::Empty => true,
            Source::Memory(bytes) => bytes.is_empty(),
            Source::Held(reader) => reader.left() == 0,
            Source::Stream(stream) => stream.incoming.is_end_stream(),
        };
        // Whoever asks and hears "yes" does not poll again.
        if ended {
            self.progress.completed();
        }
        ended
    }

    fn size_hint(&self) -> SizeHint {
        let exact = |length: usize| SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX));
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Memory(bytes) => exact(bytes.len()),
            Source::Held(reader) => SizeHint::with_exact(reader.left()),
            Source::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

/// A piece of content, or why there is none, and the cause of that.
type Piece = Result<Frame<Bytes>, (u8, Option<hyper::Error>)>;

impl Stream {
    fn poll_piece(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Option<Piece>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => {
                    ready!(self.idle.poll_expired(cx, Some(progress)));
                    return Poll::Ready(Some(Err((TIMED_OUT, None))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err((ABORTED, error.0))));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            self.idle.reset();
            let piece = match frame.into_data() {
                Ok(piece) => piece,
                // A field in a trailer would arrive behind everything that was checked.
                Err(frame) => match (frame.into_trailers(), &self.trailers) {
                    (Ok(mut trailers), Some(strip)) => {
                        headers::strip_trailers(&mut trailers, strip);
                        // Nobody polls for what is behind them.
                        progress.completed();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    _ => continue,
                },
            };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if length > self.left {
                return Poll::Ready(Some(Err((TOO_LARGE, None))));
            }
            self.left -= length;
            progress.flowed();
            if let Some(announced) = &mut self.announced {
                *announced = announced.saturating_sub(length);
                // Nobody polls for the end of what is known to have ended.
                if *announced == 0 {
                    progress.completed();
                }
            }
            if let Some(copy) = &self.copy {
                copy.keep(&piece);
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
    }
}

impl std::fmt::Debug for RequestContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestContent").field("size", &self.size_hint()).finish_non_exhaustive()
    }
}
