//! Holding content: in memory up to a limit, in a file without a name beyond it.
//!
//! A signature over the content goes in front of it, so all of it has to be here first.

mod budget;
mod lane;
mod pieces;
mod read;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;

use super::content::CallerContent;
use super::respond::ProxyError;
use crate::sign::hmac::ContentDigest;
pub use budget::{Budget, Share};
use pieces::Pieces;
pub use read::Reader;
use spool::{Spool, Spooled};

/// How much is written to or read from a file at once, in bytes.
pub const FILE_PIECE: usize = 256 << 10;

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
    file: Option<Arc<Spooled>>,
    length: u64,
    _share: Arc<Option<Share>>,
}

impl Held {
    /// Reads `content` to its end, and into `digest`, which is given back.
    ///
    /// # Errors
    /// With the answer to give.
    pub async fn read(
        mut content: CallerContent,
        limits: &HoldLimits,
        budget: &Arc<Budget>,
        digest: Option<ContentDigest>,
    ) -> Result<(Self, Option<ContentDigest>), ProxyError> {
        let expected = content.size_hint().exact();
        if expected.is_some_and(|length| length > limits.max_body) {
            return Err(ProxyError::ContentTooLarge);
        }
        let most_in_memory = u64::try_from(limits.memory).unwrap_or(u64::MAX);
        let mut digest = digest;
        let mut spool: Option<Spool> = None;
        let mut pieces = Pieces::default();
        let mut length: u64 = 0;
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
            // What is known to be too large for memory does not fill it first.
            let too_large = expected.unwrap_or(length).max(length) > most_in_memory;
            let mut share = budget.share();
            let short = share.take(piece.len()).is_err();
            match &mut spool {
                None if too_large || short => {
                    let directory = limits.directory.clone();
                    spool = Some(
                        Spool::begin(directory, digest.take(), std::mem::take(&mut pieces)).await?,
                    );
                }
                Some(spool) if pieces.length >= FILE_PIECE || short => {
                    spool.write(std::mem::take(&mut pieces)).await?;
                }
                None | Some(_) => {}
            }
            if let Some(spool) = &mut spool {
                if short {
                    // There is more memory when what has come is in the file.
                    spool.settle().await?;
                    share.take(piece.len())?;
                }
            } else if let Some(digest) = &mut digest {
                digest.update(&piece);
            }
            pieces.add(piece, share);
        }
        let Some(mut spool) = spool else {
            let (memory, share) = pieces.join();
            let held = Self { memory, file: None, length, _share: Arc::new(share) };
            return Ok((held, digest));
        };
        spool.write(pieces).await?;
        let (file, digest) = spool.end().await?;
        let held = Self { memory: Bytes::new(), file: Some(file), length, _share: Arc::default() };
        Ok((held, digest))
    }

    /// Its length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All of it, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        self.file.is_none().then_some(&self.memory)
    }
}
