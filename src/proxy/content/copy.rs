//! A copy of content that passes, for the case that it has to be sent again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::proxy::hold::{Budget, Share};

/// A copy of streamed content, kept up to a limit so that it can be sent a second time.
#[derive(Debug)]
pub struct Copy {
    limit: usize,
    /// `None` once the limit was passed, or the memory for all copies was used up.
    kept: Mutex<Option<(BytesMut, Share)>>,
}

impl Copy {
    /// A copy of up to `limit` bytes, out of `budget`.
    pub fn new(limit: usize, budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { limit, kept: Mutex::new(Some((BytesMut::new(), budget.share()))) })
    }

    /// The content, if all of what passed was kept.
    pub fn take(&self) -> Option<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take().map(|(bytes, share)| Kept { bytes: bytes.freeze(), _share: share })
    }

    /// Keeps nothing any more: the content is not sent again.
    pub fn discard(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn keep(&self, piece: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, share)) = &mut *kept {
            if bytes.len() + piece.len() <= self.limit && share.take(piece.len()).is_ok() {
                bytes.extend_from_slice(piece);
            } else {
                *kept = None;
            }
        }
    }
}

/// Content that was copied. It counts as held for as long as this lives.
#[derive(Debug)]
pub struct Kept {
    /// The content.
    pub bytes: Bytes,
    _share: Share,
}
