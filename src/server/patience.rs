//! How long a caller may be silent: before its first request, between requests, and in the middle
//! of a request's head.
//!
//! One timer per connection, looked at when it fires and moved only then: a request costs two
//! readings of the clock and no timer of its own.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Enough for most heads, so that the first request of a connection is read at once.
const FIRST_READ: usize = 1024;

/// What a connection is doing; shared between its stream and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests under way.
    requests: Cell<usize>,
    /// When the current silence began.
    since: Cell<Instant>,
    /// Bytes came since the last request ended: a head is on its way.
    in_head: Cell<bool>,
    /// An answer is under way whose end only the end of the connection can tell.
    open_ended: Cell<bool>,
    /// HTTP/2 speaks between requests as well, so bytes there do not mean a head.
    multiplexed: Cell<bool>,
    idle: Duration,
    head: Duration,
    write: Duration,
}

impl Activity {
    /// A connection that was just accepted. It may be idle for `idle`, take `head` for a head, and
    /// take nothing of an answer for `write`.
    ///
    /// `write` has to be long: a system says that there is room again only when a good part of its
    /// buffers, which are megabytes, is free, so a slow caller looks stuck for minutes.
    pub(super) fn new(idle: Duration, head: Duration, write: Duration) -> Rc<Self> {
        Rc::new(Self {
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            in_head: Cell::new(false),
            open_ended: Cell::new(false),
            multiplexed: Cell::new(false),
            idle,
            head,
            write,
        })
    }

    /// A request has begun; it ends when the result is dropped.
    pub(super) fn request(self: &Rc<Self>, multiplexed: bool) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.multiplexed.set(multiplexed);
        Busy(Rc::clone(self))
    }

    /// Says whether an answer is under way whose end only the end of the connection can tell.
    pub(super) fn set_open_ended(&self, open_ended: bool) {
        self.open_ended.set(open_ended);
    }

    /// True if there was a request, and there is none now. (HTTP/2 only.)
    pub(super) fn is_paused(&self) -> bool {
        self.multiplexed.get() && self.requests.get() == 0
    }

    fn received(&self) {
        if self.requests.get() > 0 {
            return;
        }
        if self.multiplexed.get() || !self.in_head.replace(true) {
            self.since.set(Instant::now());
        }
    }

    /// When the patience ends, as things are now; `None` while a request is under way.
    fn ends(&self) -> Option<Instant> {
        let limit = if self.in_head.get() { self.head } else { self.idle };
        (self.requests.get() == 0).then(|| self.since.get() + limit)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Busy(Rc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.requests.set(activity.requests.get().saturating_sub(1));
        activity.in_head.set(false);
        activity.since.set(Instant::now());
    }
}

/// A stream that can be made to end so that the caller sees that something is missing.
pub(super) trait Reset {
    /// Makes the end of this stream look like what it is.
    fn reset(&self);
}

impl Reset for tokio::net::TcpStream {
    fn reset(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl<S: Reset> Reset for tokio_rustls::server::TlsStream<S> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

#[cfg(unix)]
impl Reset for tokio::net::UnixStream {
    // Unix sockets know one kind of end only.
    fn reset(&self) {}
}

/// A caller's stream that ends when patience does.
pub(super) struct Patient<S: Reset> {
    stream: S,
    /// What was read to find out what is spoken.
    read_ahead: Bytes,
    activity: Rc<Activity>,
    timer: Pin<Box<Sleep>>,
    /// Set while a write waits for the caller to read.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: Reset> Drop for Patient<S> {
    fn drop(&mut self) {
        if self.activity.open_ended.get() {
            // An orderly end would look like the end of the answer.
            self.stream.reset();
        }
    }
}

impl<S: Reset> Patient<S> {
    pub(super) fn new(stream: S, activity: Rc<Activity>) -> Self {
        let timer = Box::pin(tokio::time::sleep(activity.head.min(activity.idle)));
        Self { stream, read_ahead: Bytes::new(), activity, timer, stalled: None }
    }

    /// Says goodbye, as TLS does, if that can be done without waiting and is true.
    pub(super) fn part(&mut self)
    where
        S: AsyncWrite + Unpin,
    {
        if !self.activity.open_ended.get() && self.stalled.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx);
        }
    }

    /// Ends a write that the caller does not let through for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let write = self.activity.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(write)));
        ready!(stalled.as_mut().poll(cx));
        // Else the system would keep what is unsent, megabytes of it, for as long as such a caller
        // likes.
        self.stream.reset();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Reset + Unpin> Patient<S> {
    /// True if the first bytes are these. They stay to be read.
    ///
    /// # Errors
    /// When reading fails, or patience ends.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut begun = BytesMut::with_capacity(FIRST_READ);
        let is_expected = loop {
            if self.read_buf(&mut begun).await? == 0 {
                break false;
            }
            let length = begun.len().min(expected.len());
            if begun.get(..length) != expected.get(..length) {
                break false;
            }
            if begun.len() >= expected.len() {
                break true;
            }
        };
        self.read_ahead = begun.freeze();
        Ok(is_expected)
    }
}

impl<S: AsyncRead + Reset + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read_ahead.is_empty() {
            let length = this.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(this.read_ahead.get(..length).unwrap_or_default());
            this.read_ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before {
                this.activity.received();
            }
            return Poll::Ready(read);
        }
        loop {
            ready!(this.timer.as_mut().poll(cx));
            let now = Instant::now();
            match this.activity.ends() {
                Some(end) if end <= now => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Some(end) => this.timer.as_mut().reset(end),
                None => this.timer.as_mut().reset(now + this.activity.head),
            }
        }
    }
}

impl<S: AsyncWrite + Reset + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Under TLS something is said at the end, too.
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    impl Reset for tokio::io::DuplexStream {
        fn reset(&self) {}
    }

    const IDLE: Duration = Duration::from_secs(60);
    const HEAD: Duration = Duration::from_secs(10);
    const WRITE: Duration = Duration::from_secs(900);

    fn patient() -> (Patient<tokio::io::DuplexStream>, tokio::io::DuplexStream, Rc<Activity>) {
        let (ours, theirs) = tokio::io::duplex(64);
        let activity = Activity::new(IDLE, HEAD, WRITE);
        (Patient::new(ours, Rc::clone(&activity)), theirs, activity)
    }

    async fn silence(stream: &mut Patient<tokio::io::DuplexStream>) -> Duration {
        let begun = Instant::now();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_caller_is_waited_for_longer_than_one_in_a_head() {
        let (mut stream, mut caller, activity) = patient();
        assert_eq!(silence(&mut stream).await.as_secs(), 60);
        drop(activity.request(false));
        caller.write_u8(b'G').await.unwrap();
        stream.read_u8().await.unwrap();
        assert_eq!(silence(&mut stream).await.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_make_a_head_last_for_ever() {
        let (mut stream, mut caller, _activity) = patient();
        let begun = Instant::now();
        let error = loop {
            caller.write_u8(b'x').await.unwrap();
            if let Err(error) = stream.read_u8().await {
                break error;
            }
            let pause = tokio::time::timeout(Duration::from_secs(4), stream.read_u8()).await;
            if let Ok(Err(error)) = pause {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_is_left_alone() {
        let (mut stream, _caller, activity) = patient();
        let busy = activity.request(false);
        let waited = tokio::time::timeout(Duration::from_secs(3600), stream.read_u8()).await;
        assert!(waited.is_err(), "still open after an hour");
        drop(busy);
        let left = silence(&mut stream).await.as_secs();
        assert!((60..=70).contains(&left), "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_does_not_read_is_given_up() {
        let (mut stream, _caller, activity) = patient();
        let _busy = activity.request(false);
        let begun = Instant::now();
        let error = stream.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), WRITE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_http2_says_between_requests_is_no_head() {
        let (mut stream, mut caller, activity) = patient();
        drop(activity.request(true));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            caller.write_u8(b'P').await.unwrap();
            stream.read_u8().await.unwrap();
        }
        assert_eq!(silence(&mut stream).await.as_secs(), 60);
    }
}
