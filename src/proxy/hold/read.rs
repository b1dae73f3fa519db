//! Reading what is held.

use std::fs::File;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::spool::Spooled;
use super::{FILE_PIECE, Held};

/// Reads held content from its beginning. While one piece is used, the next one is read.
#[derive(Debug)]
pub struct Reader {
    held: Held,
    offset: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Reader {
    /// Reads `held`.
    pub fn new(held: Held) -> Self {
        Self { held, offset: 0, reading: None }
    }

    /// How much is still to be read, in bytes.
    pub fn left(&self) -> u64 {
        self.held.length - self.offset
    }

    /// The next piece; empty at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than what was written to it.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.left() == 0 {
            return Poll::Ready(Ok(Bytes::new()));
        }
        let piece = match &self.held.file {
            None => self.held.memory.clone(),
            Some(file) => {
                let file = Arc::clone(file);
                let pending = match &mut self.reading {
                    Some(pending) => pending,
                    None => self.reading.insert(begin(&file, self.offset, self.left())),
                };
                let piece = ready!(Pin::new(pending).poll(cx)).map_err(io::Error::other)??;
                self.reading = None;
                piece
            }
        };
        if piece.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if let Some(file) = &self.held.file
            && self.left() > 0
        {
            self.reading = Some(begin(file, self.offset, self.left()));
        }
        Poll::Ready(Ok(piece))
    }
}

/// Begins to read at `offset`, where there are `left` bytes.
fn begin(file: &Arc<Spooled>, offset: u64, left: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = Arc::clone(file);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    // Allocated here, where it will be freed.
    let mut piece = vec![0; left.min(FILE_PIECE)];
    tokio::task::spawn_blocking(move || {
        let read = read_at(file.get()?, &mut piece, offset)?;
        piece.truncate(read);
        Ok(Bytes::from(piece))
    })
}

/// Reads without the file's own position, which clones of the content share.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, buffer, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, buffer, offset);
}
