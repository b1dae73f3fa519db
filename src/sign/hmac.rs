//! The `hmac` scheme: a keyed hash (RFC 2104) over parts of the request.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::base::{Part, head_part};
use super::encoding::{Encoding, TimestampFormat};
use super::hash::{Algorithm, Hash, KeyedHash};
use super::{AuthFields, BindError, BodyCoverage, SignError, SignableRequest, sensitive_value};
use crate::secret::Secret;
use crate::template::{MissingValue, Template};
use crate::values::Values;

/// The name under which templates find the signature.
pub const SIGNATURE: &str = "signature";
/// The name under which templates find the time of signing.
pub const TIMESTAMP: &str = "timestamp";

/// How the configured key becomes bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyEncoding {
    /// The UTF-8 bytes of the text itself.
    #[default]
    Text,
    /// The text is hexadecimal.
    Hex,
    /// The text is standard base64.
    Base64,
}

/// An HMAC scheme as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct HmacScheme {
    /// The hash function.
    pub algorithm: Algorithm,
    /// The name of the value that is the key.
    pub key: String,
    /// How that value becomes bytes.
    pub key_encoding: KeyEncoding,
    /// What the hash is computed over, in order, without separators. At most one part covers the
    /// content.
    pub base: Vec<Part>,
    /// How the time of signing is written.
    pub timestamp: TimestampFormat,
    /// How the signature is written.
    pub encoding: Encoding,
    /// The fields to set; templates may use the credential's values, `{timestamp}` and
    /// `{signature}`.
    pub set: Vec<(HeaderName, Template)>,
}

impl HmacScheme {
    pub(super) fn body_coverage(&self) -> BodyCoverage {
        if self.base.iter().any(Part::covers_body) {
            BodyCoverage::Whole
        } else {
            BodyCoverage::None
        }
    }

    /// Fits the scheme to one credential: keys the hash and reads the constant head of the base.
    ///
    /// # Errors
    /// When a value is missing, cannot stand in a field, or the key is not in its encoding.
    pub fn bind(&self, values: &Values) -> Result<HmacSigner, BindError> {
        let value =
            |name: &str| values.get(name).cloned().ok_or_else(|| MissingValue(name.to_owned()));
        let key = decode_key(&self.key, &value(&self.key)?, self.key_encoding)?;
        let mut keyed = KeyedHash::new(self.algorithm, &key);
        let mut base = Vec::with_capacity(self.base.len());
        for part in &self.base {
            let secret = match part {
                Part::Value(name) => Some(value(name)?),
                Part::Literal(_)
                | Part::Method
                | Part::Path
                | Part::Query
                | Part::Host
                | Part::Header(_)
                | Part::Timestamp
                | Part::Body
                | Part::BodyHash { .. } => None,
            };
            base.push(BoundPart { part: part.clone(), value: secret });
        }
        let constant = base.iter().take_while(|bound| bound.constant().is_some()).count();
        for bound in base.iter().take(constant) {
            keyed.update(bound.constant().unwrap_or_default());
        }
        let mut set = Vec::with_capacity(self.set.len());
        for (name, template) in &self.set {
            let per_request = template.names().any(|name| name == SIGNATURE || name == TIMESTAMP);
            let value = if per_request {
                // Filled once with stand-ins, so that a bad value shows now and not per request.
                let text = template.render(|name| match name {
                    SIGNATURE | TIMESTAMP => Some("0"),
                    name => values.text(name),
                })?;
                sensitive_value(&text).ok_or_else(|| BindError::Field(name.clone()))?;
                BoundField::PerRequest(template.clone())
            } else {
                let text = template.render(|name| values.text(name))?;
                let value = sensitive_value(&text).ok_or_else(|| BindError::Field(name.clone()))?;
                BoundField::Constant(value)
            };
            set.push((name.clone(), value));
        }
        Ok(HmacSigner {
            keyed,
            base,
            constant,
            timestamp: self.timestamp,
            encoding: self.encoding,
            set,
            values: values.clone(),
        })
    }
}

fn decode_key(
    name: &str,
    key: &Secret,
    encoding: KeyEncoding,
) -> Result<Zeroizing<Vec<u8>>, BindError> {
    let invalid = |encoding| BindError::KeyEncoding(name.to_owned(), encoding);
    Ok(Zeroizing::new(match encoding {
        KeyEncoding::Text => key.expose().as_bytes().to_vec(),
        KeyEncoding::Hex => hex::decode(key.expose()).map_err(|_| invalid("hexadecimal"))?,
        KeyEncoding::Base64 => STANDARD.decode(key.expose()).map_err(|_| invalid("base64"))?,
    }))
}

#[derive(Debug, Clone)]
struct BoundPart {
    part: Part,
    value: Option<Secret>,
}

impl BoundPart {
    /// The bytes, where they are the same for every request.
    fn constant(&self) -> Option<&[u8]> {
        match (&self.part, &self.value) {
            (Part::Literal(text), _) => Some(text.as_bytes()),
            (_, Some(value)) => Some(value.expose().as_bytes()),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
enum BoundField {
    Constant(HeaderValue),
    PerRequest(Template),
}

/// An HMAC scheme bound to one credential.
#[derive(Debug, Clone)]
pub struct HmacSigner {
    /// The keyed hash after the first `constant` parts of the base.
    keyed: KeyedHash,
    base: Vec<BoundPart>,
    constant: usize,
    timestamp: TimestampFormat,
    encoding: Encoding,
    set: Vec<(HeaderName, BoundField)>,
    values: Values,
}

impl HmacSigner {
    /// True if the content may be hashed as it arrives: neither a timestamp nor the length, which
    /// may not be known yet, stands before it.
    pub(super) fn digests_early(&self) -> bool {
        let covers_raw = self.base.iter().any(|bound| bound.part == Part::Body);
        let before = self.base.iter().take_while(|bound| bound.part != Part::Body);
        let length = Part::Header(CONTENT_LENGTH);
        let late = |bound: &BoundPart| bound.part == Part::Timestamp || bound.part == length;
        !(covers_raw && before.into_iter().any(late))
    }

    pub(super) fn digest(
        &self,
        request: &SignableRequest<'_>,
        at: SystemTime,
    ) -> Result<ContentDigest, SignError> {
        let mut keyed = self.keyed.clone();
        let mut timestamp = None;
        // If the content itself is in the base, read up to it; a digest of it comes on its own.
        let until =
            self.base.iter().position(|bound| bound.part == Part::Body).unwrap_or(self.constant);
        for bound in self.base.iter().take(until).skip(self.constant) {
            if bound.part == Part::Timestamp {
                let text = self.timestamp.format(at);
                keyed.update(text.as_bytes());
                timestamp = Some(text);
            } else {
                update_head(&mut keyed, bound, request)?;
            }
        }
        let body_hash = self.base.iter().find_map(|bound| {
            let Part::BodyHash { algorithm, encoding } = &bound.part else { return None };
            Some((Hash::new(*algorithm), *encoding))
        });
        let covers_raw = self.base.iter().any(|bound| bound.part == Part::Body);
        Ok(ContentDigest { keyed, next: until, covers_raw, body_hash, timestamp })
    }

    pub(super) fn sign(
        &self,
        request: &SignableRequest<'_>,
        content: Option<ContentDigest>,
        at: SystemTime,
    ) -> Result<AuthFields<'static>, SignError> {
        let ContentDigest { mut keyed, next, covers_raw, body_hash, timestamp } = match content {
            Some(content) => content,
            None => self.digest(request, at)?,
        };
        let timestamp = timestamp.unwrap_or_else(|| self.timestamp.format(at));
        let mut body_hash = body_hash.map(|(hash, encoding)| encoding.encode(&hash.finalize()));
        for bound in self.base.iter().skip(next) {
            match &bound.part {
                Part::Body => debug_assert!(covers_raw, "the digest has read it"),
                Part::BodyHash { .. } => {
                    keyed.update(body_hash.take().unwrap_or_default().as_bytes());
                }
                Part::Timestamp => keyed.update(timestamp.as_bytes()),
                Part::Literal(_)
                | Part::Value(_)
                | Part::Method
                | Part::Path
                | Part::Query
                | Part::Host
                | Part::Header(_) => update_head(&mut keyed, bound, request)?,
            }
        }
        let signature = self.encoding.encode(&keyed.finalize());
        let mut fields = Vec::with_capacity(self.set.len());
        for (name, field) in &self.set {
            let value = match field {
                BoundField::Constant(value) => value.clone(),
                BoundField::PerRequest(template) => {
                    let text = template
                        .render(|name| match name {
                            SIGNATURE => Some(signature.as_str()),
                            TIMESTAMP => Some(timestamp.as_str()),
                            name => self.values.text(name),
                        })
                        .map_err(|_| SignError::Field(name.clone()))?;
                    sensitive_value(&text).ok_or_else(|| SignError::Field(name.clone()))?
                }
            };
            fields.push((name.clone(), value));
        }
        Ok(AuthFields::made(fields))
    }

    /// The name of the hash function.
    pub fn algorithm_name(&self) -> &'static str {
        self.keyed.name()
    }

    /// The signature base part by part, for a person to compare with what the upstream computed.
    ///
    /// # Errors
    /// As [`Signer::sign`](super::Signer::sign).
    ///
    /// `added` holds the fields that other credentials have added to the request, and `query` says
    /// whether one has added to the query: parts that cover these are secret as well.
    pub fn explain(
        &self,
        request: &SignableRequest<'_>,
        content: &[u8],
        at: SystemTime,
        added: &[HeaderName],
        query: bool,
    ) -> Result<Vec<BasePart>, SignError> {
        self.base
            .iter()
            .map(|bound| {
                let bytes = match (&bound.part, bound.constant()) {
                    (_, Some(constant)) => constant.to_vec(),
                    (Part::Timestamp, _) => self.timestamp.format(at).into_bytes(),
                    (Part::Body, _) => content.to_vec(),
                    (Part::BodyHash { algorithm, encoding }, _) => {
                        let mut hash = Hash::new(*algorithm);
                        hash.update(content);
                        encoding.encode(&hash.finalize()).into_bytes()
                    }
                    (part, None) => head_part(part, request)?.unwrap_or_default().to_vec(),
                };
                let secret = match &bound.part {
                    Part::Value(_) => true,
                    Part::Header(name) => added.contains(name),
                    Part::Query => query,
                    Part::Literal(_)
                    | Part::Method
                    | Part::Path
                    | Part::Host
                    | Part::Timestamp
                    | Part::Body
                    | Part::BodyHash { .. } => false,
                };
                Ok(BasePart { label: bound.part.label(), bytes, secret })
            })
            .collect()
    }
}

fn update_head(
    keyed: &mut KeyedHash,
    bound: &BoundPart,
    request: &SignableRequest<'_>,
) -> Result<(), SignError> {
    match bound.constant() {
        Some(constant) => keyed.update(constant),
        None => keyed.update(head_part(&bound.part, request)?.unwrap_or_default()),
    }
    Ok(())
}

/// One part of a signature base as it went into the hash.
#[derive(Clone)]
pub struct BasePart {
    /// What it is.
    pub label: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// True if it comes from the credential and must not be shown unasked.
    pub secret: bool,
}

impl std::fmt::Debug for BasePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BasePart({}, {} bytes)", self.label, self.bytes.len())
    }
}

/// A signature under way: reads content in pieces of any size, in order.
#[derive(Debug, Clone)]
pub struct ContentDigest {
    keyed: KeyedHash,
    /// The first part of the base that is not read yet, the content aside.
    next: usize,
    covers_raw: bool,
    body_hash: Option<(Hash, Encoding)>,
    timestamp: Option<String>,
}

impl ContentDigest {
    /// Reads the next piece of content.
    pub fn update(&mut self, piece: &[u8]) {
        if self.covers_raw {
            self.keyed.update(piece);
        }
        if let Some((hash, _)) = &mut self.body_hash {
            hash.update(piece);
        }
    }
}

#[cfg(test)]
#[path = "hmac_tests.rs"]
mod tests;
