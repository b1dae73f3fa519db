//! Checks a signature while its content streams by.

use std::fmt;

use ring::hmac;

/// Checks one signature: HMAC-SHA256, keyed with the secret, over key, content and timestamp
/// without separators.
///
/// It is built on another implementation than the program's own signer, so that the two can check
/// each other.
pub struct Verifier(hmac::Context);

impl Verifier {
    /// Starts with the key, the first part of what is signed.
    pub fn new(api_key: &[u8], api_secret: &[u8]) -> Self {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, api_secret));
        context.update(api_key);
        Self(context)
    }

    /// Takes the next piece of content, as it is on the wire.
    pub fn absorb(&mut self, chunk: &[u8]) {
        self.0.update(chunk);
    }

    /// Whether `sign` is the signature of the key, the content so far and `timestamp`, in
    /// lower-case hexadecimal.
    pub fn accepts(mut self, timestamp: &[u8], sign: &[u8]) -> bool {
        let lower_case = sign.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let Ok(sign) = hex::decode(sign) else {
            return false;
        };
        self.0.update(timestamp);
        lower_case && same(self.0.sign().as_ref(), &sign)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// Compares in constant time, by way of the one such comparison that ring offers.
fn same(one: &[u8], other: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"compare");
    hmac::verify(&key, one, hmac::sign(&key, other).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        id: String,
        api_key: String,
        api_secret: String,
        timestamp: String,
        body_base64: String,
        sign: String,
    }

    fn vectors() -> Vec<Vector> {
        serde_json::from_str(include_str!("../../../tests/vectors/devo-vectors.json")).unwrap()
    }

    impl Vector {
        fn body(&self) -> Vec<u8> {
            STANDARD.decode(&self.body_base64).unwrap()
        }
    }

    fn accepts(key: &[u8], secret: &[u8], body: &[u8], timestamp: &[u8], sign: &[u8]) -> bool {
        let mut verifier = Verifier::new(key, secret);
        for chunk in body.chunks(3) {
            verifier.absorb(chunk);
        }
        verifier.accepts(timestamp, sign)
    }

    #[test]
    fn every_known_answer_is_accepted() {
        let vectors = vectors();
        assert!(vectors.len() >= 14);
        for row in vectors {
            let (key, secret) = (row.api_key.as_bytes(), row.api_secret.as_bytes());
            let (timestamp, sign) = (row.timestamp.as_bytes(), row.sign.as_bytes());
            assert!(accepts(key, secret, &row.body(), timestamp, sign), "{}", row.id);
        }
    }

    #[test]
    fn a_null_text_is_not_an_absent_content() {
        let sign_of =
            |id: &str| vectors().into_iter().find(|row| row.id.starts_with(id)).unwrap().sign;
        assert_ne!(sign_of("V01"), sign_of("V03"));
    }

    #[test]
    fn a_signature_made_or_written_differently_is_refused() {
        for row in vectors() {
            let (key, secret) = (row.api_key.as_bytes(), row.api_secret.as_bytes());
            let (body, timestamp) = (row.body(), row.timestamp.as_bytes());
            let raw = hex::decode(&row.sign).unwrap();
            let refused = |sign: &str| {
                assert!(!accepts(key, secret, &body, timestamp, sign.as_bytes()), "{}", row.id);
            };
            refused(&row.sign.to_uppercase());
            refused(&STANDARD.encode(&raw));
            refused(row.sign.get(..62).unwrap());
            refused(&format!("{}00", row.sign));
            refused("");

            let by = |secret: &[u8], parts: [&[u8]; 3]| {
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &parts.concat());
                hex::encode(tag)
            };
            refused(&by(key, [secret, &body, timestamp]));
            if !body.is_empty() {
                refused(&by(secret, [key, timestamp, &body]));
                refused(&by(secret, [key, timestamp, b""]));
            }
        }
    }
}
