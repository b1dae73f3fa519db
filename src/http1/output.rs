//! What is to be sent and was not yet taken.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Pieces up to this many bytes are copied behind the others, which costs less than a piece more.
const COPIED: usize = 1 << 10;

/// How many bytes wait to be sent before no more are taken.
const HIGH: usize = 128 << 10;

/// Pieces written at once.
const SLICES: usize = 16;

/// Bytes that are to be sent.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    /// Comes behind the pieces.
    tail: BytesMut,
    waiting: usize,
    /// The stream has taken bytes that it may not have sent yet, as TLS does.
    unflushed: bool,
}

impl Output {
    /// True if all was sent.
    pub fn is_empty(&self) -> bool {
        self.is_taken() && !self.unflushed
    }

    /// True if the stream has taken all.
    fn is_taken(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// True if no more should be added before some of it was sent.
    pub fn is_full(&self) -> bool {
        self.waiting + self.tail.len() >= HIGH
    }

    /// Where heads and other small things are written.
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Adds content.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPIED {
            self.tail.extend_from_slice(&piece);
            return;
        }
        if !self.tail.is_empty() {
            self.waiting += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.waiting += piece.len();
        self.pieces.push_back(piece);
    }

    /// Sends all of it; says how much was sent by this call in `sent`, also when it fails.
    ///
    /// # Errors
    /// When writing fails.
    pub fn poll_flush(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.is_taken() {
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
                let mut count = 0;
                for (slice, bytes) in slices.iter_mut().zip(all) {
                    *slice = IoSlice::new(bytes);
                    count += 1;
                }
                let slices = slices.get(..count).unwrap_or_default();
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += written;
            self.unflushed = true;
            self.advance(written);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                self.waiting -= written;
                return;
            }
            written -= first.len();
            self.waiting -= first.len();
            self.pieces.pop_front();
        }
        if written < self.tail.len() {
            self.tail.advance(written);
        } else {
            // What waits for its next message holds no memory.
            self.tail = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    async fn flush(output: &mut Output, stream: &mut (impl AsyncWrite + Unpin)) -> usize {
        let mut sent = 0;
        std::future::poll_fn(|cx| output.poll_flush(stream, cx, &mut sent)).await.unwrap();
        sent
    }

    #[tokio::test]
    async fn bytes_leave_in_their_order_whatever_their_size() {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for length in [1, COPIED, COPIED + 1, 3, 100_000, 5, 1, COPIED + 1, COPIED + 1] {
            let piece: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            expected.extend_from_slice(&piece);
            output.push(piece.into());
            output.tail().extend_from_slice(b"-");
            expected.push(b'-');
        }
        // So small that pieces are taken in parts.
        let (mut ours, mut theirs) = tokio::io::duplex(700);
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all
        });
        assert_eq!(flush(&mut output, &mut ours).await, expected.len());
        assert!(output.is_empty() && !output.is_full());
        drop(ours);
        assert!(read.await.unwrap() == expected);
    }

    /// Takes everything, and needs to be asked twice to send it.
    struct Reluctant {
        taken: usize,
        flushes: usize,
    }

    impl AsyncWrite for Reluctant {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.taken += bytes.len();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes == 1 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_the_stream_keeps_back_is_asked_for_until_it_is_sent() {
        let mut output = Output::default();
        output.push(Bytes::from_static(b"hello"));
        let mut stream = Reluctant { taken: 0, flushes: 0 };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(output.poll_flush(&mut stream, &mut cx, &mut 0).is_pending());
        assert_eq!(stream.taken, 5);
        assert!(!output.is_empty(), "it was taken, but not sent");
        assert!(output.poll_flush(&mut stream, &mut cx, &mut 0).is_ready());
        assert!(output.is_empty());
    }

    #[tokio::test]
    async fn it_is_full_until_enough_is_sent() {
        let mut output = Output::default();
        assert!(!output.is_full());
        output.push(Bytes::from(vec![1; HIGH - 1]));
        assert!(!output.is_full());
        output.push(Bytes::from_static(b"x"));
        assert!(output.is_full());
        let (mut ours, _theirs) = tokio::io::duplex(2 * HIGH);
        flush(&mut output, &mut ours).await;
        assert!(!output.is_full());
    }
}
