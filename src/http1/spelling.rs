//! How the other side wrote what means the same in any spelling.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// How the names of fields were written, for those who tell `X-Name` from `x-name`.
#[derive(Debug, Clone, Default)]
pub struct Spelling(HeaderMap<Bytes>);

impl Spelling {
    pub(super) fn add(&mut self, name: &HeaderName, written: Bytes) {
        // Beyond what a map takes, names are spelled as ours are.
        let _ = self.0.try_append(name, written);
    }

    /// How each of the fields called `name` was written, in their order.
    pub(super) fn of(&self, name: &HeaderName) -> impl Iterator<Item = &Bytes> {
        self.0.get_all(name).iter()
    }
}

/// The reason phrase of an answer where it is not the usual one (RFC 9112 §4).
#[derive(Debug, Clone)]
pub struct Reason(pub(super) Bytes);
