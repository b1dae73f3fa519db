//! What a request is called, from the caller's log by way of ours to the upstream's.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The longest identifier that is taken over, in bytes.
const LONGEST: usize = 128;

/// What a request is called: visible ASCII that may stand in any log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// What the caller calls it in `field`, if that is one harmless word; else a new one.
    pub fn of(headers: Option<&HeaderMap>, field: &HeaderName) -> Self {
        let given = headers.and_then(|headers| {
            let mut all = headers.get_all(field).iter();
            all.next().filter(|given| is_harmless(given.as_bytes()) && all.next().is_none())
        });
        given.map_or_else(Self::new, |given| Self(given.clone()))
    }

    /// One that no other request has: 32 hexadecimal digits.
    pub fn new() -> Self {
        let mut digits = [0; 32];
        // Never fails: the length is right.
        let _ = hex::encode_to_slice(fastrand::u128(..).to_be_bytes(), &mut digits);
        Self(HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("-")))
    }

    /// As a field has it.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

/// Nothing that could be taken for more than one word, by a log, a shell or a page.
fn is_harmless(given: &[u8]) -> bool {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
    !given.is_empty() && given.len() <= LONGEST && given.iter().all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const FIELD: HeaderName = HeaderName::from_static("x-request-id");

    fn of(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FIELD, HeaderValue::try_from(*value).unwrap());
        }
        RequestId::of(Some(&headers), &FIELD).as_str().to_owned()
    }

    #[test]
    fn a_harmless_word_of_the_callers_is_taken_over() {
        for word in ["a", "7f3b-01.x_~", "00-4bf92f-00f067aa-01", "a/b+c==", "h:1@x"] {
            assert_eq!(of(&[word]), word);
        }
        assert_eq!(of(&["x".repeat(128).as_str()]), "x".repeat(128));
    }

    #[test]
    fn whatever_else_comes_gets_a_new_one() {
        let long = "x".repeat(129);
        for words in
            [&[][..], &[""], &["a b"], &["a\"b"], &["<b>"], &["a,b"], &["a", "b"], &[&long]]
        {
            let made = of(words);
            assert_eq!(made.len(), 32, "{words:?}");
            assert!(made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
    }

    #[test]
    fn no_two_are_the_same() {
        let many: HashSet<String> =
            (0..10_000).map(|_| RequestId::new().as_str().to_owned()).collect();
        assert_eq!(many.len(), 10_000);
    }
}
