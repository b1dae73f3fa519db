//! Connections of whoever asks and does not read: they end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long nothing may be taken of what is to be written.
pub(super) const STALLED: Duration = Duration::from_secs(10);

/// A connection on which writing fails if it has not gone on for [`STALLED`].
#[derive(Debug)]
pub(super) struct Unstalled<S> {
    inner: S,
    /// Runs while writing has to wait.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, waiting: None }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads the answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.bounded(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, bytes);
        this.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // Nothing waits in a socket to be flushed.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writing_fails_once_nothing_has_been_taken_for_ten_seconds() {
        let (stream, mut reader) = duplex(4);
        let mut stream = Unstalled::new(stream);
        let began = Instant::now();
        let reading = async {
            let mut some = [0; 4];
            // As slow as may be, and then not at all.
            for _ in 0..5 {
                tokio::time::sleep(STALLED.saturating_sub(Duration::from_millis(1))).await;
                reader.read_exact(&mut some).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            () = reading => unreachable!(),
            written = stream.write_all(&[7; 64]) => written.unwrap_err(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let slow = STALLED.saturating_sub(Duration::from_millis(1)) * 5;
        assert_eq!(began.elapsed(), slow + STALLED);
    }
}
