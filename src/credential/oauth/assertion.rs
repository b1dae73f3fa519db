//! Assertions that we sign (RFC 7523): a JSON Web Token with a life of minutes, fresh for each
//! attempt.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::clock::{Clock, unix_ms};
use crate::credential::FetchError;
use crate::credential::secret_ref::SecretRef;
use crate::secret::Secret;

/// The longest life of an assertion.
pub const LONGEST_LIFE: Duration = Duration::from_mins(5);
/// How far back it is dated: clocks differ.
const BACKDATED: u64 = 10;

/// How an assertion is signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    RS256,
    /// RSA, PSS, SHA-256.
    PS256,
    /// ECDSA, P-256, SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// An assertion as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct AssertionSpec {
    /// The private key, in PEM.
    pub key: Option<SecretRef>,
    /// How it signs.
    pub algorithm: JwtAlgorithm,
    /// The key's identifier.
    pub key_id: Option<String>,
    /// Who asserts; the client if not given.
    pub issuer: Option<String>,
    /// About whom; whoever asserts if not given.
    pub subject: Option<String>,
    /// For whom; the authorization server if not given.
    pub audience: Option<String>,
    /// How long it lives.
    pub lifetime: Duration,
    /// Further claims.
    pub claims: Map<String, Value>,
}

impl AssertionSpec {
    /// The same by `client`, unless somebody else is configured.
    pub(super) fn of(&self, client: Option<&str>) -> Self {
        let issuer = self.issuer.clone().or_else(|| client.map(str::to_owned));
        let subject = self.subject.clone().or_else(|| issuer.clone());
        Self { issuer, subject, ..self.clone() }
    }

    /// The assertion for `audience`, unless the configuration names another.
    pub(super) fn sign(
        &self,
        key: &Secret,
        audience: &str,
        clock: &Clock,
    ) -> Result<Zeroizing<String>, FetchError> {
        let mut id = [0; 16];
        let random = SystemRandom::new().fill(&mut id);
        random.map_err(|_| cannot("the system has no random numbers"))?;
        let now = unix_ms(clock.wall()) / 1000;
        self.sign_at(key, audience, now, &hex::encode(id))
    }

    fn sign_at(
        &self,
        key: &Secret,
        audience: &str,
        now: u64,
        id: &str,
    ) -> Result<Zeroizing<String>, FetchError> {
        let mut header = Map::new();
        header.insert("alg".to_owned(), json!(self.algorithm));
        header.insert("typ".to_owned(), json!("JWT"));
        if let Some(key_id) = &self.key_id {
            header.insert("kid".to_owned(), json!(key_id));
        }
        let issued = now.saturating_sub(BACKDATED);
        let mut claims = self.claims.clone();
        for (name, value) in [
            ("iss", json!(self.issuer)),
            ("sub", json!(self.subject)),
            ("aud", json!(self.audience.as_deref().unwrap_or(audience))),
            ("iat", json!(issued)),
            ("exp", json!(issued + self.lifetime.min(LONGEST_LIFE).as_secs())),
            ("jti", json!(id)),
        ] {
            claims.insert(name.to_owned(), value);
        }
        let encode = |part: Map<String, Value>| {
            URL_SAFE_NO_PAD.encode(Value::Object(part).to_string().as_bytes())
        };
        let mut token = Zeroizing::new(format!("{}.{}", encode(header), encode(claims)));
        let signature = self.algorithm.sign(key, token.as_bytes())?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

impl JwtAlgorithm {
    fn scheme(self) -> SignatureScheme {
        match self {
            Self::RS256 => SignatureScheme::RSA_PKCS1_SHA256,
            Self::PS256 => SignatureScheme::RSA_PSS_SHA256,
            Self::ES256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::EdDSA => SignatureScheme::ED25519,
        }
    }

    /// Signs with a key in PEM: PKCS #8, PKCS #1 (RSA) or SEC 1 (elliptic curves).
    fn sign(self, key: &Secret, message: &[u8]) -> Result<Vec<u8>, FetchError> {
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|_| cannot("the key is not a private key in PEM"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| cannot("the key is of a kind that is not supported"))?;
        let signer = key
            .choose_scheme(&[self.scheme()])
            .ok_or_else(|| cannot("the key does not fit the algorithm"))?;
        let signature = signer.sign(message).map_err(|_| cannot("the key cannot sign"))?;
        match self {
            Self::ES256 => two_numbers(&signature).ok_or_else(|| cannot("the key cannot sign")),
            Self::RS256 | Self::PS256 | Self::EdDSA => Ok(signature),
        }
    }
}

/// The two numbers of an ECDSA signature side by side, as a token has them (RFC 7518 §3.4), out of
/// the ASN.1 that TLS has.
fn two_numbers(der: &[u8]) -> Option<Vec<u8>> {
    fn number<'d>(der: &'d [u8], out: &mut [u8]) -> Option<&'d [u8]> {
        let (&[0x02, length], rest) = der.split_first_chunk::<2>()? else { return None };
        let (number, rest) = rest.split_at_checked(usize::from(length))?;
        // A zero in front tells a large number from a negative one.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        let start = out.len().checked_sub(number.len())?;
        out.get_mut(start..)?.copy_from_slice(number);
        Some(rest)
    }
    let mut both = vec![0; 64];
    let (first, second) = both.split_at_mut(32);
    let (&[0x30, _], rest) = der.split_first_chunk::<2>()? else { return None };
    let rest = number(rest, first)?;
    let rest = number(rest, second)?;
    rest.is_empty().then_some(both)
}

fn cannot(why: &str) -> FetchError {
    FetchError::Request(format!("an assertion cannot be signed: {why}"))
}

#[cfg(test)]
#[path = "assertion_tests.rs"]
mod tests;
