//! Content in a file without a name.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::lane::{Batch, Lane};
use super::pieces::Pieces;
use crate::connect::is_out_of_descriptors;
use crate::proxy::respond::ProxyError;
use crate::sign::hmac::ContentDigest;

/// How many batches of one request may wait to be written.
const BATCHES: usize = 2;

/// A file that is being written, and a digest of what is written. Both are done beside receiving.
pub(super) struct Spool {
    write: Lane<Arc<Spooled>>,
    digest: Option<Lane<ContentDigest>>,
    file: Arc<Spooled>,
    /// One for each batch that may wait.
    places: Arc<Semaphore>,
    /// What is being written: memory is freed where it was allocated, because threads that free what
    /// others have allocated keep much more than they use.
    under_way: Vec<Arc<Pieces>>,
}

impl Spool {
    /// Makes a file in `directory`, or where the system has such, and begins to write `pieces`,
    /// which `digest` has read.
    pub(super) async fn begin(
        directory: Option<PathBuf>,
        digest: Option<ContentDigest>,
        pieces: Pieces,
    ) -> Result<Self, ProxyError> {
        let created = tokio::task::spawn_blocking(move || match directory {
            Some(directory) => tempfile::tempfile_in(directory),
            None => tempfile::tempfile(),
        });
        let file = created.await.map_err(|_| ProxyError::Internal)?;
        let file = file.map_err(|error| {
            if is_out_of_descriptors(&error) {
                ProxyError::Descriptors
            } else {
                ProxyError::Spool(error.kind())
            }
        })?;
        let file = Arc::new(Spooled(Some(file)));
        let mut spool = Self {
            write: Lane::new(Arc::clone(&file), |file, pieces| pieces.write(file.get()?)),
            digest: digest.map(|digest| {
                Lane::new(digest, |digest, pieces| {
                    pieces.iter().for_each(|piece| digest.update(piece));
                    Ok(())
                })
            }),
            file,
            places: Arc::new(Semaphore::new(BATCHES)),
            under_way: Vec::with_capacity(BATCHES),
        };
        let batch = spool.batch(pieces).await?;
        spool.write.add(batch)?;
        Ok(spool)
    }

    /// Begins to write `pieces`, and to read them into the digest, when there is a place for them.
    pub(super) async fn write(&mut self, pieces: Pieces) -> Result<(), ProxyError> {
        let Batch { pieces, place } = self.batch(pieces).await?;
        if let Some(digest) = &self.digest {
            digest.add(Batch { pieces: Arc::clone(&pieces), place: Arc::clone(&place) })?;
        }
        self.write.add(Batch { pieces, place })
    }

    async fn batch(&mut self, pieces: Pieces) -> Result<Batch, ProxyError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = Arc::new(place.map_err(|_| ProxyError::Internal)?);
        self.under_way.retain(|pieces| Arc::strong_count(pieces) > 1);
        let pieces = Arc::new(pieces);
        self.under_way.push(Arc::clone(&pieces));
        Ok(Batch { pieces, place })
    }

    /// Waits until all is written.
    pub(super) async fn settle(&mut self) -> Result<(), ProxyError> {
        let all = u32::try_from(BATCHES).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await.map_err(|_| ProxyError::Internal)?);
        self.under_way.clear();
        self.write.check()?;
        self.digest.as_ref().map_or(Ok(()), Lane::check)
    }

    /// The file and the digest, when all is written.
    pub(super) async fn end(mut self) -> Result<(Arc<Spooled>, Option<ContentDigest>), ProxyError> {
        self.settle().await?;
        let digest = self.digest.map(|lane| lane.end().ok_or(ProxyError::Internal)).transpose()?;
        Ok((self.file, digest))
    }
}

/// A file without a name. Its end gives back what may be a gigabyte, which takes a while: somebody
/// else does that.
#[derive(Debug)]
pub(super) struct Spooled(Option<File>);

impl Spooled {
    pub(super) fn get(&self) -> io::Result<&File> {
        self.0.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let file = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}
