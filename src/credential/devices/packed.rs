//! `Packed`: the values of a device's token in one piece of memory, for renewing it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::values::Values;

/// Values, one after the other; wiped from memory when dropped.
pub(super) struct Packed {
    names: Arc<[Box<str>]>,
    /// Each value after its length in four bytes.
    bytes: Zeroizing<Box<[u8]>>,
}

/// The names of values, which are the same for all devices of a credential.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Arc<[Box<str>]>>);

impl Names {
    /// `values`, packed.
    pub(super) fn pack(&self, values: &Values) -> Packed {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().map(|name| &**name).eq(values.names()) {
            *known = values.names().map(Into::into).collect();
        }
        let names = Arc::clone(&known);
        drop(known);
        let size = values.iter().map(|(_, value)| 4 + value.expose().len()).sum();
        let mut bytes = Vec::with_capacity(size);
        for (_, value) in values.iter() {
            let text = value.expose();
            bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Packed { names, bytes: Zeroizing::new(bytes.into_boxed_slice()) }
    }
}

impl Packed {
    /// The values.
    pub(super) fn unpack(&self) -> Values {
        let mut values = Values::default();
        let mut rest = &self.bytes[..];
        for name in self.names.iter() {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let length = u32::from_le_bytes(*length) as usize;
            let Some((text, after)) = after.split_at_checked(length) else { break };
            let text = std::str::from_utf8(text).unwrap_or_default();
            values.insert(&**name, Secret::new(text));
            rest = after;
        }
        values
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_again_and_names_are_shared() {
        let names = Names::default();
        let values = |token| {
            Values::from_iter([("token", Secret::new(token)), ("client", Secret::new("ü"))])
        };
        let (one, two) = (names.pack(&values("a")), names.pack(&values("")));
        assert_eq!(one.unpack(), values("a"));
        assert_eq!(two.unpack(), values(""));
        assert!(Arc::ptr_eq(&one.names, &two.names));
        assert_eq!(format!("{one:?}"), "Packed");
    }
}
