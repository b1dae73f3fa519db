//! [`Stamp`]: noticing that a file was written or replaced.

use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often files are looked at that may change. Polling sees through the symbolic links that
/// Kubernetes swaps, which watching an inode does not.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What shows that a file was written or replaced, without reading it.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    /// That of the file at `path`, or where links from there lead; `None` if there is none.
    pub async fn of(path: &Path) -> Option<Self> {
        Some(Self::from(&tokio::fs::metadata(path).await.ok()?))
    }

    /// The same where waiting for the disk is no harm.
    pub fn of_blocking(path: &Path) -> Option<Self> {
        Some(Self::from(&std::fs::metadata(path).ok()?))
    }

    fn from(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode }
    }
}
