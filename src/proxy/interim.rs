//! Interim answers on their way from the upstream to the caller (RFC 9110 §15.2): `103 Early Hints`
//! and the like. `100 Continue` is not among them: each side asks for content by itself.

use std::cell::RefCell;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use super::headers;

/// Interim answers that the caller has not been given yet. They are few: an upstream that sends
/// many is given up.
#[derive(Debug, Default)]
pub struct Interims(RefCell<Vec<(StatusCode, HeaderMap)>>);

impl Interims {
    /// Adds one, without what must not travel on.
    pub fn add(&self, status: StatusCode, mut fields: HeaderMap) {
        headers::strip_response(&mut fields);
        fields.remove(CONTENT_LENGTH);
        self.0.borrow_mut().push((status, fields));
    }

    /// Those that have come since this was asked last.
    pub fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}
