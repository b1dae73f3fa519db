//! Bytes that arrive in pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};

use crate::http1::Input;

/// Ways to cut bytes into pieces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    Whole,
    /// Each byte on its own.
    Bytes,
    /// Two pieces.
    At(usize),
    /// Pieces of sizes that follow from this number.
    Odd(u32),
}

impl Cut {
    /// Ways that show most differences: line ends are cut apart somewhere in each.
    pub(super) fn ways(bytes: &[u8]) -> Vec<Self> {
        let mut ways = vec![Self::Bytes];
        let length = bytes.len();
        ways.extend([1, length / 3, length / 2, length.saturating_sub(1)].map(Self::At));
        let number = bytes.iter().fold(17_u32, |sum, b| sum.wrapping_mul(31) ^ u32::from(*b));
        ways.extend([Self::Odd(number), Self::Odd(number ^ 0x5555_5555)]);
        ways
    }

    pub(super) fn pieces(self, bytes: &[u8]) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        let mut state = 0;
        while !rest.is_empty() {
            let length = match self {
                Self::Whole => rest.len(),
                Self::Bytes => 1,
                Self::At(at) if pieces.is_empty() && at > 0 => at,
                Self::At(_) => rest.len(),
                Self::Odd(number) => {
                    state = if pieces.is_empty() { number | 1 } else { state };
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    usize::try_from(state % 23 + 1).unwrap()
                }
            };
            let (piece, after) = rest.split_at(length.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// Adds `bytes` to what was received.
pub(super) fn fill(input: &mut Input, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let filled = input.poll_fill(&mut bytes, &mut Context::from_waker(Waker::noop()));
        assert!(matches!(filled, Poll::Ready(Ok(read)) if read > 0), "memory can always be read");
    }
}

/// A stream that yields one piece at a time, says in between that there is none yet, and ends.
pub(super) struct Wire<'b> {
    pieces: std::collections::VecDeque<&'b [u8]>,
    asked: bool,
}

impl<'b> Wire<'b> {
    pub(super) fn new(pieces: Vec<&'b [u8]>) -> Self {
        Self { pieces: pieces.into(), asked: false }
    }

    pub(super) fn rest(&self) -> Vec<u8> {
        self.pieces.iter().copied().flatten().copied().collect()
    }
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.asked = !self.asked;
        if self.asked {
            return Poll::Pending;
        }
        if let Some(piece) = self.pieces.pop_front() {
            let (now, later) = piece.split_at(piece.len().min(buffer.remaining()));
            buffer.put_slice(now);
            if !later.is_empty() {
                self.pieces.push_front(later);
            }
        }
        Poll::Ready(Ok(()))
    }
}
