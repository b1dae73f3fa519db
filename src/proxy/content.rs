//! Content on its way: towards the upstream, and back to the caller.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::hold::{Budget, Held, Share, read_piece};
use super::respond::ProxyError;

/// Why content broke off. The reason for the caller is in [`Progress`].
#[derive(Debug, thiserror::Error)]
#[error("the content broke off")]
pub struct ContentError;

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
    failure: AtomicU8,
}

const TOO_LARGE: u8 = 1;
const TIMED_OUT: u8 = 2;
const ABORTED: u8 = 3;
const UNREADABLE: u8 = 4;

impl Progress {
    /// Nothing has moved yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            moved_at: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            failure: AtomicU8::new(0),
        })
    }

    fn moved(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_at.store(elapsed, Ordering::Relaxed);
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
    left: u64,
    idle: IdleTimer,
    copy: Option<Arc<Copy>>,
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

    /// Content as it comes from the caller: at most `max_body` bytes, never silent for longer than
    /// `idle`.
    pub fn stream(
        incoming: Incoming,
        max_body: u64,
        idle: Duration,
        copy: Option<Arc<Copy>>,
        progress: Arc<Progress>,
    ) -> Self {
        let idle = IdleTimer::new(idle);
        let stream = Stream { incoming, left: max_body, idle, copy };
        Self { source: Source::Stream(Box::new(stream)), progress }
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
                (!bytes.is_empty()).then_some(Ok(bytes))
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
                            Some(Ok(piece))
                        }
                        _ => Some(Err(UNREADABLE)),
                    }
                }
            }
            Source::Stream(stream) => {
                let piece = stream.poll_piece(cx);
                progress.waiting.store(piece.is_pending(), Ordering::Relaxed);
                ready!(piece)
            }
        };
        Poll::Ready(match piece {
            None => {
                progress.complete.store(true, Ordering::Relaxed);
                None
            }
            Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
            Some(Err(failure)) => {
                progress.fail(failure);
                Some(Err(ContentError))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Memory(bytes) => bytes.is_empty(),
            Source::File { held, offset, .. } => *offset >= held.length(),
            Source::Stream(stream) => {
                let ended = stream.incoming.is_end_stream();
                // Whoever asks and hears "yes" does not poll again.
                if ended {
                    self.progress.complete.store(true, Ordering::Relaxed);
                }
                ended
            }
        }
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

impl Stream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, u8>>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => {
                    ready!(self.idle.poll_expired(cx));
                    return Poll::Ready(Some(Err(TIMED_OUT)));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(ABORTED))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            self.idle.reset();
            // Trailers are dropped: a field in them would arrive behind everything that was checked.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if length > self.left {
                return Poll::Ready(Some(Err(TOO_LARGE)));
            }
            self.left -= length;
            if let Some(copy) = &self.copy {
                copy.keep(&piece);
            }
            return Poll::Ready(Some(Ok(piece)));
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

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}

/// The content of an answer.
pub struct ResponseContent<G> {
    source: Answer,
    /// Told how it ended, and dropped with the content: whatever lasts as long as the exchange.
    guard: G,
}

enum Answer {
    Own(Option<Bytes>),
    Upstream { incoming: Incoming, idle: IdleTimer, deadline: Option<Pin<Box<Sleep>>> },
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
        Self { source: Answer::Own((!bytes.is_empty()).then_some(bytes)), guard }
    }

    /// The upstream's answer, never silent for longer than `idle`, and done by `deadline`.
    pub fn upstream(
        incoming: Incoming,
        idle: Duration,
        deadline: Option<Instant>,
        mut guard: G,
    ) -> Self {
        if incoming.is_end_stream() {
            guard.ended();
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let idle = IdleTimer::new(idle);
        Self { source: Answer::Upstream { incoming, idle, deadline }, guard }
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
        let frame = match source {
            Answer::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Answer::Upstream { incoming, idle, deadline } => {
                if let Some(deadline) = deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    guard.broke("total timeout");
                    return Poll::Ready(Some(Err(ContentError)));
                }
                match Pin::new(incoming).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        idle.reset();
                        Some(Ok(frame))
                    }
                    Poll::Ready(Some(Err(_))) => {
                        guard.broke("upstream broke off");
                        Some(Err(ContentError))
                    }
                    Poll::Ready(None) => None,
                    Poll::Pending => {
                        ready!(idle.poll_expired(cx));
                        guard.broke("upstream idle timeout");
                        Some(Err(ContentError))
                    }
                }
            }
        };
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            guard.passed(piece.len());
        }
        let ended = match source {
            Answer::Own(bytes) => bytes.is_none(),
            Answer::Upstream { incoming, .. } => frame.is_none() || incoming.is_end_stream(),
        };
        if ended && !matches!(frame, Some(Err(_))) {
            guard.ended();
        }
        Poll::Ready(frame)
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

impl<G> std::fmt::Debug for ResponseContent<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseContent")
    }
}
