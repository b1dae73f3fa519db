//! [`SharedValues`]: what many devices have in common is in memory once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

/// How many values are remembered: more than a fleet has clients and branches.
const REMEMBERED: usize = 256;

/// The values of fields that were set lately. Equal ones share their memory.
#[derive(Default)]
pub struct SharedValues(Mutex<VecDeque<HeaderValue>>);

impl SharedValues {
    /// `value`, or an equal one that is there already.
    pub(super) fn shared(&self, value: HeaderValue) -> HeaderValue {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are needed again and again come to stand in front.
        let known = match lately.iter().position(|known| *known == value) {
            Some(at) => lately.remove(at).unwrap_or(value),
            None => value,
        };
        lately.push_front(known.clone());
        lately.truncate(REMEMBERED);
        known
    }
}

/// Not the values.
impl std::fmt::Debug for SharedValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedValues")
    }
}
