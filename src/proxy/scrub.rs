//! Blotting out what credentials add to a request in the fields of the answer.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use zeroize::Zeroizing;

/// What is shorter is in too many places by chance.
const SHORTEST: usize = 4;

/// What has to be encoded to stand for itself anywhere in a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What stands in the place of what was blotted out.
const BLOT: &[u8] = b"***";

/// The texts that were added to a request.
#[derive(Clone, Default)]
pub struct Scrub(Vec<Zeroizing<Vec<u8>>>);

/// How many, not which.
impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrub({})", self.0.len())
    }
}

impl Scrub {
    /// Adds the value of a field: as it is, what follows a scheme word such as `Bearer`, and of
    /// `Basic` what is encoded there and its password.
    pub fn add_field(&mut self, value: &HeaderValue) {
        self.add(value.as_bytes());
        let Some(space) = memchr::memchr(b' ', value.as_bytes()) else { return };
        let (scheme, rest) = value.as_bytes().split_at(space);
        let rest = rest.trim_ascii_start();
        self.add(rest);
        if scheme.eq_ignore_ascii_case(b"basic")
            && let Ok(decoded) = STANDARD.decode(rest).map(Zeroizing::new)
        {
            self.add(&decoded);
            if let Some(colon) = memchr::memchr(b':', &decoded) {
                self.add(decoded.get(colon + 1..).unwrap_or_default());
            }
        }
    }

    /// Adds the values of encoded query parameters, encoded and decoded.
    pub fn add_query(&mut self, pairs: &str) {
        for (_, value) in pairs.split('&').filter_map(|pair| pair.split_once('=')) {
            self.add(value.as_bytes());
            self.add(&Zeroizing::new(percent_decode_str(value).collect::<Vec<u8>>()));
        }
    }

    /// Adds a text, and as it would be encoded in a URL (RFC 3986 §2.1), in either case.
    fn add(&mut self, text: &[u8]) {
        self.add_as_it_is(text);
        let encoded = percent_encode(text, RESERVED).to_string();
        if encoded.len() > text.len() {
            self.add_as_it_is(encoded.as_bytes());
            self.add_as_it_is(lower_case_digits(&Zeroizing::new(encoded)).as_bytes());
        }
    }

    fn add_as_it_is(&mut self, text: &[u8]) {
        if text.len() >= SHORTEST && !self.0.iter().any(|known| known[..] == *text) {
            self.0.push(Zeroizing::new(text.to_vec()));
            // A longer one first: it may hold a shorter one.
            self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
    }

    /// Blots them out of every value in `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            for text in &self.0 {
                if let Some(blotted) = without(value.as_bytes(), text) {
                    // It was a value before, and asterisks are allowed in one.
                    *value = HeaderValue::from_bytes(&blotted)
                        .unwrap_or_else(|_| HeaderValue::from_static("***"));
                }
            }
        }
    }
}

/// The same with `%2f` for `%2F`.
fn lower_case_digits(encoded: &str) -> Zeroizing<String> {
    let mut digits = 0;
    let lower = |character: char| {
        let is_digit = digits > 0;
        digits = if character == '%' { 2 } else { u8::saturating_sub(digits, 1) };
        if is_digit { character.to_ascii_lowercase() } else { character }
    };
    Zeroizing::new(encoded.chars().map(lower).collect())
}

/// `value` with a blot in every place where it has `text`; `None` if it has none.
fn without(value: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let finder = memmem::Finder::new(text);
    let mut rest = value;
    let mut blotted = Vec::new();
    while let Some(at) = finder.find(rest) {
        let (before, from) = rest.split_at(at);
        blotted.extend_from_slice(before);
        blotted.extend_from_slice(BLOT);
        rest = from.get(text.len()..).unwrap_or_default();
    }
    if rest.len() == value.len() {
        return None;
    }
    blotted.extend_from_slice(rest);
    Some(blotted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(scrub: &Scrub, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.append("x-echo", "first".parse().unwrap());
        headers.append("x-echo", value.parse().unwrap());
        scrub.apply(&mut headers);
        let values: Vec<_> = headers.get_all("x-echo").iter().collect();
        assert_eq!(values[0], "first");
        values[1].to_str().unwrap().to_owned()
    }

    #[test]
    fn what_was_added_is_blotted_out_wherever_it_stands() {
        let mut scrub = Scrub::default();
        scrub.add_field(&HeaderValue::from_static("Bearer token-1234"));
        scrub.add_query("key=a%2Fsecret%20key&n=1");
        for (value, left) in [
            ("you sent Bearer token-1234, I think", "you sent ***, I think"),
            ("token-1234;token-1234", "***;***"),
            ("/x?key=a%2Fsecret%20key&y", "/x?key=***&y"),
            ("a/secret key", "***"),
            ("n=1, token-123", "n=1, token-123"),
            ("/x?again=a%2fsecret%20key", "/x?again=***"),
        ] {
            assert_eq!(scrubbed(&scrub, value), left);
        }
    }

    #[test]
    fn a_password_is_found_behind_its_encoding() {
        let mut scrub = Scrub::default();
        let encoded = STANDARD.encode("anna:pass:word");
        scrub.add_field(&HeaderValue::from_str(&format!("Basic {encoded}")).unwrap());
        let echoed = format!("{encoded} anna:pass:word pass:word anna");
        assert_eq!(scrubbed(&scrub, &echoed), "*** *** *** anna");
        assert!(!format!("{scrub:?}").contains("pass"));
    }
}
