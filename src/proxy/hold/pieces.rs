//! Content in memory, in the pieces that it came in.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};

use bytes::{Bytes, BytesMut};

use super::budget::Share;

/// Pieces smaller than this are copied together, in bytes.
const SMALL: usize = 4 << 10;

/// Content that has come, and the memory it takes.
#[derive(Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    /// Comes behind them.
    tail: BytesMut,
    pub(super) length: usize,
    share: Option<Share>,
}

impl Pieces {
    /// Adds a piece, whose memory is `share`.
    pub(super) fn add(&mut self, piece: Bytes, share: Share) {
        match &mut self.share {
            Some(all) => all.join(share),
            None => self.share = Some(share),
        }
        self.length += piece.len();
        // A piece of its own takes more memory than a small one is large.
        if piece.len() < SMALL && self.length > piece.len() {
            self.tail.extend_from_slice(&piece);
            return;
        }
        if !self.tail.is_empty() {
            self.whole.push(std::mem::take(&mut self.tail).freeze());
        }
        self.whole.push(piece);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.whole.iter().map(|piece| &piece[..]).chain([&self.tail[..]])
    }

    /// As one.
    pub(super) fn join(mut self) -> (Bytes, Option<Share>) {
        let all = match (self.whole.pop(), self.whole.is_empty() && self.tail.is_empty()) {
            (None, _) => self.tail.freeze(),
            (Some(only), true) => only,
            (Some(last), false) => {
                self.whole.push(last);
                let mut all = BytesMut::with_capacity(self.length);
                for piece in self.iter() {
                    all.extend_from_slice(piece);
                }
                all.freeze()
            }
        };
        (all, self.share)
    }

    pub(super) fn write(&self, mut file: &File) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.iter().map(IoSlice::new).collect();
        let mut left = &mut slices[..];
        // Empty ones in front would look like a file that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
