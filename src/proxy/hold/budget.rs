//! How much memory held content may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::proxy::respond::ProxyError;

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
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let free = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        usize::try_from(bytes).is_ok_and(|bytes| bytes <= free)
    }

    /// An empty share.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// When the budget has no more.
    pub fn take(&mut self, bytes: usize) -> Result<(), ProxyError> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.limit {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ProxyError::Memory);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Share {
    /// Takes over what `other` has.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
