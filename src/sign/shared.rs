//! [`SharedValues`]: what many devices have in common is in memory once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;

use super::fields::Field;

/// How many values are remembered: more than a fleet has clients and branches.
const REMEMBERED: usize = 256;

/// What was bound lately: values of fields, and the shapes of signers. Equal ones share their memory.
#[derive(Default)]
pub struct SharedValues(Mutex<Lately>);

#[derive(Default)]
struct Lately {
    values: VecDeque<HeaderValue>,
    shapes: VecDeque<Arc<Vec<Field>>>,
}

impl SharedValues {
    /// For each of the `values` of one device the equal one that another has, if that was seen
    /// lately.
    pub(super) fn seen<'v>(
        &self,
        values: impl Iterator<Item = &'v HeaderValue>,
    ) -> Vec<Option<HeaderValue>> {
        let lately = &mut self.lock().values;
        let mut seen = Vec::new();
        let mut news = Vec::new();
        for value in values {
            let known = take(lately, |known| known == value);
            match &known {
                Some(known) => remember(lately, known.clone()),
                // Not at once: a device has nothing in common with itself.
                None => news.push(value.clone()),
            }
            seen.push(known);
        }
        for value in news {
            remember(lately, value);
        }
        seen
    }

    /// `shape`, or an equal one that is there already.
    pub(super) fn shape(&self, shape: Vec<Field>) -> Arc<Vec<Field>> {
        let lately = &mut self.lock().shapes;
        let shape = take(lately, |known| **known == shape).unwrap_or_else(|| Arc::new(shape));
        remember(lately, Arc::clone(&shape));
        shape
    }

    fn lock(&self) -> MutexGuard<'_, Lately> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take<T>(lately: &mut VecDeque<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let at = lately.iter().position(is_it)?;
    lately.remove(at)
}

/// Those that are needed again and again come to stand in front.
fn remember<T>(lately: &mut VecDeque<T>, item: T) {
    lately.push_front(item);
    lately.truncate(REMEMBERED);
}

/// Not the values.
impl std::fmt::Debug for SharedValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedValues")
    }
}
