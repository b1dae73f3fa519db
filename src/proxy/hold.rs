//! Holding content: in memory up to a limit, in a file without a name beyond it.
//!
//! A signature over the content goes in front of it, so all of it has to be here first.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use super::respond::ProxyError;

/// How much is written to or read from a file at once, in bytes.
pub const FILE_PIECE: usize = 256 << 10;

/// The memory that all held content together may use.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// True if `bytes` more could be held. Others may take them in the meantime.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        let free = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        usize::try_from(bytes).is_ok_and(|bytes| bytes <= free)
    }

    /// An empty share.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// When the budget has no more.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), ProxyError> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.limit {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ProxyError::Memory);
        }
        self.bytes += bytes;
        Ok(())
    }

    fn give_back(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What holding is bounded by.
#[derive(Debug, Clone)]
pub struct HoldLimits {
    /// The largest content, in bytes.
    pub max_body: u64,
    /// Content held in memory before it goes to a file, in bytes.
    pub memory: usize,
    /// The directory for files; `None` for the system's.
    pub directory: Option<PathBuf>,
    /// How long the caller may be silent.
    pub idle: Duration,
}

/// Content that can be read any number of times.
#[derive(Debug, Clone)]
pub struct Held {
    memory: Bytes,
    file: Option<Arc<File>>,
    length: u64,
    _share: Arc<Share>,
}

impl Held {
    /// Reads `content` to its end. `observe` sees every piece as it arrives.
    ///
    /// # Errors
    /// With the answer to give.
    pub async fn read(
        mut content: Incoming,
        limits: &HoldLimits,
        budget: &Arc<Budget>,
        mut observe: impl FnMut(&[u8]),
    ) -> Result<Self, ProxyError> {
        let expected = content.size_hint().exact();
        if expected.is_some_and(|length| length > limits.max_body) {
            return Err(ProxyError::ContentTooLarge);
        }
        let most_in_memory = u64::try_from(limits.memory).unwrap_or(u64::MAX);
        let mut share = budget.share();
        let mut spool: Option<Arc<File>> = None;
        let mut memory = BytesMut::new();
        let mut length: u64 = 0;
        // One piece is written while the next one comes.
        let mut writing: Option<Writing> = None;
        loop {
            let frame = match tokio::time::timeout(limits.idle, content.frame()).await {
                Err(_) => return Err(ProxyError::ContentTimeout),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(ProxyError::ContentAborted),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers of a request end here: they cannot be part of what was signed.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            length += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if length > limits.max_body {
                return Err(ProxyError::ContentTooLarge);
            }
            observe(&piece);
            // What is known to be too large for memory does not fill it first.
            let in_file = spool.is_some() || expected.is_some_and(|length| length > most_in_memory);
            let most = if in_file { FILE_PIECE } else { limits.memory };
            if !memory.is_empty() && memory.len() + piece.len() > most {
                let file = if let Some(file) = &spool {
                    Arc::clone(file)
                } else {
                    let file = Arc::new(create(limits.directory.clone()).await?);
                    spool.insert(file).clone()
                };
                if let Some(writing) = writing.take() {
                    written(writing).await?;
                }
                let full = std::mem::take(&mut memory).freeze();
                let held = std::mem::replace(&mut share, budget.share());
                writing = Some(append(file, full, held));
            }
            if memory.len() + piece.len() > share.bytes {
                let room = if share.bytes == 0 {
                    // Memory is taken for what is announced, but never more than is kept.
                    let announced = expected.and_then(|length| usize::try_from(length).ok());
                    announced.unwrap_or(0).min(most).max(piece.len())
                } else {
                    let needed = memory.len() + piece.len() - share.bytes;
                    needed.max(share.bytes.min(most.saturating_sub(share.bytes)))
                };
                if share.take(room).is_err() {
                    // What is being written is about to be free.
                    if let Some(writing) = writing.take() {
                        written(writing).await?;
                    }
                    share.take(room)?;
                }
                memory.reserve(share.bytes - memory.len());
            }
            memory.extend_from_slice(&piece);
        }
        if let Some(writing) = writing.take() {
            written(writing).await?;
        }
        if !memory.is_empty() && (spool.is_some() || memory.len() > limits.memory) {
            let file = match &spool {
                Some(file) => Arc::clone(file),
                None => spool.insert(Arc::new(create(limits.directory.clone()).await?)).clone(),
            };
            let held = std::mem::replace(&mut share, budget.share());
            let rest = std::mem::take(&mut memory).freeze();
            written(append(file, rest, held)).await?;
        }
        Ok(Self { memory: memory.freeze(), file: spool, length, _share: Arc::new(share) })
    }

    /// Its length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All of it, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.file.is_none().then_some(&self.memory)
    }

    /// The piece at `offset`; empty at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn piece(&self, offset: u64) -> io::Result<Bytes> {
        match &self.file {
            None => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(self.memory.slice(offset.min(self.memory.len())..))
            }
            Some(file) => begin_reading(Arc::clone(file), offset, self.length)
                .await
                .map_err(io::Error::other)?,
        }
    }

    pub(super) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }
}

fn storage(error: &io::Error) -> ProxyError {
    ProxyError::Spool(error.kind())
}

async fn create(directory: Option<PathBuf>) -> Result<File, ProxyError> {
    let created = tokio::task::spawn_blocking(move || match directory {
        Some(directory) => tempfile::tempfile_in(directory),
        None => tempfile::tempfile(),
    });
    created.await.map_err(|_| ProxyError::Internal)?.map_err(|error| storage(&error))
}

/// A piece that is being written. It comes back, because memory is freed most cheaply where it was
/// allocated.
type Writing = JoinHandle<(io::Result<()>, Bytes, Share)>;

/// Begins to append `piece`, whose memory is `held`, to the file.
fn append(file: Arc<File>, piece: Bytes, held: Share) -> Writing {
    use std::io::Write as _;
    tokio::task::spawn_blocking(move || ((&*file).write_all(&piece), piece, held))
}

async fn written(writing: Writing) -> Result<(), ProxyError> {
    let (written, _piece, _held) = writing.await.map_err(|_| ProxyError::Internal)?;
    written.map_err(|error| storage(&error))
}

/// A piece that is being read.
pub(super) type Reading = JoinHandle<io::Result<Bytes>>;

/// Begins to read the piece at `offset` of a file of `length` bytes.
pub(super) fn begin_reading(file: Arc<File>, offset: u64, length: u64) -> Reading {
    // Allocated here, where it will be freed.
    let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut piece = vec![0; left.min(FILE_PIECE)];
    tokio::task::spawn_blocking(move || {
        let read = read_at(&file, &mut piece, offset)?;
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
