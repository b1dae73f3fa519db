//! The field names that belong to a credential: whatever a caller sends under them is removed.

use http::HeaderName;

/// A set of field names, matched without regard to case and with `_` and `-` taken for the same
/// character: some servers fold the two, so a twin (`X_Api_Key`) could pass for the real field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedFields {
    names: Vec<String>,
    /// A bit for each length that a name has, so that most others need not be compared.
    lengths: u128,
    prefixes: Vec<String>,
}

impl OwnedFields {
    /// Adds one name.
    pub fn insert(&mut self, name: &HeaderName) {
        let folded = fold(name.as_str());
        if !self.names.contains(&folded) {
            self.lengths |= length_bit(folded.len());
            self.names.push(folded);
        }
    }

    /// Takes one name out again.
    pub fn remove(&mut self, name: &HeaderName) {
        let folded = fold(name.as_str());
        self.names.retain(|owned| *owned != folded);
    }

    /// Adds every name that begins with `prefix`.
    pub fn insert_prefix(&mut self, prefix: &str) {
        let folded = fold(&prefix.to_ascii_lowercase());
        if !self.prefixes.contains(&folded) {
            self.prefixes.push(folded);
        }
    }

    /// Adds everything in `other`.
    pub fn extend(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        self.prefixes.extend(other.prefixes.iter().cloned());
        self.names.sort_unstable();
        self.names.dedup();
        self.lengths |= other.lengths;
        self.prefixes.sort_unstable();
        self.prefixes.dedup();
    }

    /// True if `name`, or a twin of it, is in the set.
    pub fn contains(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        let may_be_there = self.lengths & length_bit(name.len()) != 0;
        (may_be_there
            && self.names.iter().any(|owned| owned.len() == name.len() && begins_with(name, owned)))
            || self.prefixes.iter().any(|prefix| begins_with(name, prefix))
    }

    /// Names and prefixes (with a `*`), for display.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        self.names.iter().cloned().chain(prefixes)
    }
}

/// All names of 127 bytes and more share a bit.
fn length_bit(length: usize) -> u128 {
    1 << length.min(127)
}

fn fold(name: &str) -> String {
    name.replace('_', "-")
}

/// `folded` has no `_`; `HeaderName` is lower case already.
fn begins_with(name: &[u8], folded: &str) -> bool {
    name.len() >= folded.len()
        && name.iter().zip(folded.as_bytes()).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_and_prefixes_are_owned_and_neighbours_are_not() {
        let mut owned = OwnedFields::default();
        owned.insert(&HeaderName::from_static("api-key"));
        owned.insert_prefix("X-Logtrust-");
        for name in ["api-key", "Api_Key", "API-KEY", "x-logtrust-sign", "x_logtrust_anything"] {
            assert!(owned.contains(&name.parse().unwrap()), "{name}");
        }
        for name in ["api-keys", "api", "x-logtrust", "xlogtrust-sign"] {
            assert!(!owned.contains(&name.parse().unwrap()), "{name}");
        }
    }
}
