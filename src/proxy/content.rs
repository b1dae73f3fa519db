//! Content on its way: towards the upstream, and back to the caller.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::headers;
use super::hold::{Budget, Held, Share, read_piece};
use super::respond::ProxyError;
use super::upstream::Lease;
use crate::sign::owned::OwnedFields;

/// Why content broke off. The reason for the caller is in [`Progress`]; hyper looks in the source
/// for the reason with which HTTP/2 ends a stream.
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
pub struct ContentError(#[source] Option<hyper::Error>);

/// Holds content back until the upstream asks for it (`100 Continue`).
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waiting: AtomicWaker,
}

impl Gate {
    /// Lets the content pass.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waiting.wake();
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // It may have been opened in between.
        if self.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// How far the content of one request has come; shared between the content and whoever waits for
/// the answer.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started` at which something moved last.
    moved_at: AtomicU64,
    /// The upstream would take more, but the caller has not sent it yet.
    waiting: AtomicBool,
    complete: AtomicBool,
    /// Milliseconds after `started`, and at least 1, at which a piece last passed in either
    /// direction; 0 until the answer has begun.
    flowed_at: AtomicU64,
    failure: AtomicU8,
}

const TOO_LARGE: u8 = 1;
const TIMED_OUT: u8 = 2;
const ABORTED: u8 = 3;
const UNREADABLE: u8 = 4;

impl Progress {
    /// Nothing has moved yet, at `now`.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            moved_at: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            flowed_at: AtomicU64::new(0),
            failure: AtomicU8::new(0),
        })
    }

    /// When the exchange with the upstream began.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn moved(&self) {
        self.moved_at.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// The answer has begun: from now on silence is silence in both directions.
    pub fn answered(&self) {
        self.flowed_at.store(self.elapsed_ms().max(1), Ordering::Relaxed);
    }

    /// A piece has passed.
    fn flowed(&self) {
        if self.flowed_at.load(Ordering::Relaxed) > 0 {
            self.answered();
        }
    }

    /// When a piece last passed in either direction; `None` before the answer has begun.
    fn last_flow(&self) -> Option<Instant> {
        let at = self.flowed_at.load(Ordering::Relaxed);
        (at > 0).then(|| self.started + Duration::from_millis(at))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn fail(&self, failure: u8) {
        self.failure.store(failure, Ordering::Relaxed);
    }

    /// Since when the upstream could have answered; now, while it waits for the caller's content.
    pub fn upstream_idle_since(&self) -> Instant {
        if self.waiting.load(Ordering::Relaxed) {
            return Instant::now();
        }
        self.started + Duration::from_millis(self.moved_at.load(Ordering::Relaxed))
    }

    /// True once all content was handed on.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// What went wrong with the caller's content, if anything did.
    pub fn failure(&self) -> Option<ProxyError> {
        match self.failure.load(Ordering::Relaxed) {
            TOO_LARGE => Some(ProxyError::ContentTooLarge),
            TIMED_OUT => Some(ProxyError::ContentTimeout),
            ABORTED => Some(ProxyError::ContentAborted),
            UNREADABLE => Some(ProxyError::Spool(io::ErrorKind::Other)),
            _ => None,
        }
    }
}

/// The content of a request to an upstream.
pub struct RequestContent {
    source: Source,
    progress: Arc<Progress>,
}

enum Source {
    Empty,
    Memory(Bytes),
    File { held: Held, offset: u64, reading: Option<Reading> },
    Stream(Box<Stream>),
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

struct Stream {
    incoming: Incoming,
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

/// A copy of streamed content, kept up to a limit so that it can be sent a second time.
#[derive(Debug)]
pub struct Copy {
    limit: usize,
    /// `None` once the limit was passed, or the memory for all copies was used up.
    kept: Mutex<Option<(BytesMut, Share)>>,
}

impl Copy {
    /// A copy of up to `limit` bytes, out of `budget`.
    pub fn new(limit: usize, budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { limit, kept: Mutex::new(Some((BytesMut::new(), budget.share()))) })
    }

    /// The content, if all of what passed was kept.
    pub fn take(&self) -> Option<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take().map(|(bytes, share)| Kept { bytes: bytes.freeze(), _share: share })
    }

    /// Keeps nothing any more: the content is not sent again.
    pub fn discard(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn keep(&self, piece: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, share)) = &mut *kept {
            if bytes.len() + piece.len() <= self.limit && share.take(piece.len()).is_ok() {
                bytes.extend_from_slice(piece);
            } else {
                *kept = None;
            }
        }
    }
}

/// Content that was copied. It counts as held for as long as this lives.
#[derive(Debug)]
pub struct Kept {
    /// The content.
    pub bytes: Bytes,
    _share: Share,
}

impl RequestContent {
    /// No content.
    pub fn empty(progress: Arc<Progress>) -> Self {
        progress.complete.store(true, Ordering::Relaxed);
        Self { source: Source::Empty, progress }
    }

    /// Content that was held.
    pub fn held(held: Held, progress: Arc<Progress>) -> Self {
        let source = match held.in_memory() {
            Some(bytes) if bytes.is_empty() => return Self::empty(progress),
            Some(bytes) => Source::Memory(bytes.clone()),
            None => Source::File { held, offset: 0, reading: None },
        };
        Self { source, progress }
    }

    /// Content from memory.
    pub fn memory(bytes: Bytes, progress: Arc<Progress>) -> Self {
        if bytes.is_empty() {
            return Self::empty(progress);
        }
        Self { source: Source::Memory(bytes), progress }
    }

    /// Content as it comes from the caller.
    pub fn stream(incoming: Incoming, streaming: Streaming, progress: Arc<Progress>) -> Self {
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
            Source::Empty | Source::Memory(_) | Source::File { .. } => None,
        }
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
            Source::File { held, offset, reading } => {
                if *offset >= held.length() {
                    None
                } else {
                    let Some(file) = held.file().cloned() else {
                        return Poll::Ready(None);
                    };
                    let pending =
                        reading.get_or_insert_with(|| Box::pin(read_piece(file, *offset)));
                    let piece = ready!(pending.as_mut().poll(cx));
                    *reading = None;
                    match piece {
                        Ok(piece) if !piece.is_empty() => {
                            *offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                            Some(Ok(Frame::data(piece)))
                        }
                        _ => Some(Err((UNREADABLE, None))),
                    }
                }
            }
            Source::Stream(stream) => {
                if let Some((gate, patience)) = &mut stream.gate {
                    if gate.poll_open(cx).is_pending() {
                        ready!(patience.poll_expired(cx, None));
                    }
                    stream.gate = None;
                    progress.moved();
                }
                let piece = stream.poll_piece(cx, progress);
                progress.waiting.store(piece.is_pending(), Ordering::Relaxed);
                ready!(piece)
            }
        };
        Poll::Ready(match piece {
            None => {
                progress.complete.store(true, Ordering::Relaxed);
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
            Source::File { held, offset, .. } => *offset >= held.length(),
            Source::Stream(stream) => stream.incoming.is_end_stream(),
        };
        // Whoever asks and hears "yes" does not poll again.
        if ended {
            self.progress.complete.store(true, Ordering::Relaxed);
        }
        ended
    }

    fn size_hint(&self) -> SizeHint {
        let exact = |length: usize| SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX));
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Memory(bytes) => exact(bytes.len()),
            Source::File { held, offset, .. } => {
                SizeHint::with_exact(held.length().saturating_sub(*offset))
            }
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
                    return Poll::Ready(Some(Err((ABORTED, Some(error)))));
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
                    progress.complete.store(true, Ordering::Relaxed);
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

/// A timer that costs nothing while content flows: it is set only when there is a wait.
struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    fn reset(&mut self) {
        self.sleep = None;
    }

    /// Ready when the limit has passed, or, with `flow`, when nothing has passed in the other
    /// direction for that long either.
    fn poll_expired(&mut self, cx: &mut Context<'_>, flow: Option<&Progress>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            match flow.and_then(Progress::last_flow) {
                Some(last) if last + limit > Instant::now() => sleep.as_mut().reset(last + limit),
                _ => return Poll::Ready(()),
            }
        }
    }
}

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
