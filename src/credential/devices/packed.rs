//! `Packed`: the values of a device's token in one piece of memory, for renewing it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::sign::Signer;
use crate::values::Values;

/// What is published of a credential, from which some of its values can be read again.
pub trait Published {
    /// These values and their names.
    fn shown(&self) -> impl Iterator<Item = (&str, &str)>;
}

impl Published for Signer {
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        Signer::shown(self)
    }
}

/// Nothing is published.
impl Published for () {
    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }
}

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
    /// Those of `values` that `item`, which is kept anyhow, does not show; most often none.
    pub(super) fn pack(&self, values: &Values, item: &impl Published) -> Option<Box<Packed>> {
        let shows = |name: &str| item.shown().any(|(shown, _)| shown == name);
        let hidden: Vec<_> = values.iter().filter(|(name, _)| !shows(name)).collect();
        if hidden.is_empty() {
            return None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().map(|name| &**name).eq(hidden.iter().map(|(name, _)| *name)) {
            *known = hidden.iter().map(|(name, _)| (*name).into()).collect();
        }
        let names = Arc::clone(&known);
        drop(known);
        let size = hidden.iter().map(|(_, value)| 4 + value.expose().len()).sum();
        let mut bytes = Vec::with_capacity(size);
        for (_, value) in hidden {
            let text = value.expose();
            bytes.extend(u32::try_from(text.len()).unwrap_or_default().to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Some(Box::new(Packed { names, bytes: Zeroizing::new(bytes.into_boxed_slice()) }))
    }
}

/// The values of which `item` shows some, and the others were packed.
pub(super) fn unpack(item: &impl Published, hidden: Option<&Packed>) -> Values {
    let shown = item.shown().map(|(name, text)| (name, Secret::new(text)));
    let mut values: Values = shown.collect();
    if let Some(hidden) = hidden {
        hidden.unpack_into(&mut values);
    }
    values
}

impl Packed {
    fn unpack_into(&self, values: &mut Values) {
        let mut rest = &self.bytes[..];
        for name in self.names.iter() {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let length = u32::from_le_bytes(*length) as usize;
            let Some((text, after)) = after.split_at_checked(length) else { break };
            let text = std::str::from_utf8(text).unwrap_or_default();
            values.insert(&**name, Secret::new(text));
            rest = after;
        }
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

    /// Shows these names and values.
    struct Item(Vec<(&'static str, &'static str)>);

    impl Published for Item {
        fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
            self.0.iter().copied()
        }
    }

    fn sorted(values: &Values) -> Vec<(&str, &str)> {
        let mut values: Vec<_> =
            values.iter().map(|(name, value)| (name, value.expose())).collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn what_was_packed_comes_out_again_and_names_are_shared() {
        let names = Names::default();
        let values = |token| {
            Values::from_iter([("client", Secret::new("ü")), ("token", Secret::new(token))])
        };
        let nothing = Item(Vec::new());
        let [one, two] = ["a", ""].map(|token| names.pack(&values(token), &nothing).unwrap());
        assert_eq!(unpack(&nothing, Some(&one)), values("a"));
        assert_eq!(unpack(&nothing, Some(&two)), values(""));
        assert!(Arc::ptr_eq(&one.names, &two.names));
        assert_eq!(format!("{one:?}"), "Packed");
    }

    #[test]
    fn what_is_shown_is_not_packed_as_well() {
        let names = Names::default();
        let values = ["token", "client", "renewal"].map(|name| (name, Secret::new(name)));
        let values = Values::from_iter(values);
        let most = Item(vec![("token", "token"), ("client", "client")]);
        let packed = names.pack(&values, &most).unwrap();
        assert_eq!(packed.bytes.len(), 4 + "renewal".len());
        assert_eq!(sorted(&unpack(&most, Some(&packed))), sorted(&values));
        let all = Item(["token", "client", "renewal"].map(|name| (name, name)).into());
        assert!(names.pack(&values, &all).is_none());
        assert_eq!(sorted(&unpack(&all, None)), sorted(&values));
    }
}
