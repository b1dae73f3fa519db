//! [`Secret`]: text that must not be seen, and the only way to see it.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: redacted in `Debug`, without `Display`, wiped from memory with its last clone.
///
/// Cloning shares the text. Comparing takes the same time wherever two secrets of one length differ.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes ownership of `text` as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// Reads a secret as files and commands hold it: UTF-8, one trailing line break removed.
    ///
    /// # Errors
    /// When the text is empty, is not UTF-8, or holds a NUL or a line break inside. Only PEM, as
    /// private keys are written, has lines; it cannot stand in a field all the same.
    pub fn from_stored(bytes: Vec<u8>) -> Result<Self, StoredSecretError> {
        let mut text =
            Zeroizing::new(String::from_utf8(bytes).map_err(|_| StoredSecretError::NotText)?);
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() {
            return Err(StoredSecretError::Empty);
        }
        let breaks = text.bytes().any(|byte| matches!(byte, b'\r' | b'\n'));
        if text.contains('\0') || (breaks && !is_pem(&text)) {
            return Err(StoredSecretError::LineBreak);
        }
        Ok(Self(Arc::new(text)))
    }

    /// The text itself. Every call is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// True for text that begins and ends as PEM does (RFC 7468).
fn is_pem(text: &str) -> bool {
    let last = text.trim_end().lines().next_back();
    text.starts_with("-----BEGIN ") && last.is_some_and(|line| line.starts_with("-----END "))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// Why stored bytes are not a usable secret. Never holds a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredSecretError {
    /// Nothing, or nothing but a line break.
    #[error("it is empty")]
    Empty,
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// A line break or a NUL before the end.
    #[error("it holds a line break or a NUL inside; a secret is one line")]
    LineBreak,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_text() {
        assert_eq!(format!("{:?}", Secret::new("canary")), "Secret(***)");
    }

    #[test]
    fn one_trailing_line_break_is_removed() {
        for stored in ["token", "token\n", "token\r\n"] {
            assert_eq!(Secret::from_stored(stored.into()).unwrap().expose(), "token");
        }
        assert_eq!(
            Secret::from_stored("token\n\n".into()),
            Err(StoredSecretError::LineBreak),
            "only one is removed"
        );
    }

    #[test]
    fn only_pem_has_lines() {
        let key = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n";
        assert_eq!(Secret::from_stored(key.into()).unwrap().expose(), key.trim_end());
        let unended = "-----BEGIN PRIVATE KEY-----\r\nX-Injected: y";
        assert_eq!(Secret::from_stored(unended.into()), Err(StoredSecretError::LineBreak));
        assert!(crate::sign::sensitive_value(key.trim_end()).is_none(), "it fits no field");
    }

    #[test]
    fn empty_and_broken_secrets_are_refused() {
        assert_eq!(Secret::from_stored(b"\n".to_vec()), Err(StoredSecretError::Empty));
        assert_eq!(Secret::from_stored(Vec::new()), Err(StoredSecretError::Empty));
        assert_eq!(Secret::from_stored(vec![0xff]), Err(StoredSecretError::NotText));
        let injected = Secret::from_stored(b"a\r\nX-Y: b".to_vec());
        assert_eq!(injected, Err(StoredSecretError::LineBreak));
    }
}
