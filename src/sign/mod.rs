//! Applying a credential: from a request as it will be sent to the fields that authenticate it.
//!
//! A [`Scheme`] is what the configuration says; [`Scheme::bind`] fits it to one credential's values
//! and yields a [`Signer`], in which everything that does not change per request is already built.
//! Signing is pure: no I/O, no clock, no state; it reads the request exactly as it will be sent and
//! never rewrites it. A new scheme is one file here and one variant of each of the two enums.

pub mod base;
pub mod encoding;
pub mod fields;
pub mod hash;
pub mod hmac;
pub mod owned;
pub mod query;
pub mod shared;

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::template::MissingValue;
use crate::values::Values;
use fields::{FieldsScheme, FieldsSigner};
use hmac::{ContentDigest, HmacScheme, HmacSigner};
use query::{QueryScheme, QuerySigner};

/// A request as it will be sent upstream, apart from what signing adds.
#[derive(Debug, Clone, Copy)]
pub struct SignableRequest<'a> {
    /// The method.
    pub method: &'a Method,
    /// Host and port of the upstream, as in the `Host` field.
    pub authority: &'a str,
    /// The path, byte for byte.
    pub path: &'a str,
    /// The query without `?`, byte for byte.
    pub query: Option<&'a str>,
    /// The fields, after everything but signing has touched them.
    pub headers: &'a HeaderMap,
}

/// How much of the content a signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyCoverage {
    /// Nothing: content may stream past.
    None,
    /// All of it: content is held until its end is known, because the fields go first.
    Whole,
}

/// What authenticates one request. All values are marked sensitive.
#[derive(Clone, Default)]
pub struct AuthFields<'s> {
    /// Those of a signer that sets the same for every request.
    same: Option<&'s FieldsSigner>,
    /// Those that were made for this request.
    made: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters to append, encoded, without a leading `?` or `&`.
    pub query: Option<Arc<str>>,
}

impl<'s> AuthFields<'s> {
    fn same(signer: &'s FieldsSigner) -> Self {
        Self { same: Some(signer), ..Self::default() }
    }

    fn made(fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { made: fields, ..Self::default() }
    }

    fn query(pairs: Arc<str>) -> Self {
        Self { query: Some(pairs), ..Self::default() }
    }

    /// Fields to set; each replaces every field of its name.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let made = self.made.iter().map(|(name, value)| (name, value));
        self.same.into_iter().flat_map(FieldsSigner::iter).chain(made)
    }
}

/// Only the names of the fields.
impl std::fmt::Debug for AuthFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.iter().map(|(name, _)| name);
        f.debug_set().entries(names).entries(self.query.iter().map(|_| "(query)")).finish()
    }
}

/// A scheme as configured: how values become fields.
#[derive(Debug, Clone, PartialEq)]
pub enum Scheme {
    /// Fields from templates.
    Fields(FieldsScheme),
    /// Query parameters from templates.
    Query(QueryScheme),
    /// A keyed hash over parts of the request.
    Hmac(HmacScheme),
}

impl Scheme {
    /// How much of the content has to be known before [`Signer::sign`].
    pub fn body_coverage(&self) -> BodyCoverage {
        match self {
            Self::Fields(_) | Self::Query(_) => BodyCoverage::None,
            Self::Hmac(scheme) => scheme.body_coverage(),
        }
    }

    /// True if what it adds depends on the time of signing.
    pub fn is_timed(&self) -> bool {
        matches!(self, Self::Hmac(_))
    }

    /// The fields it sets. What a caller sends under these names is removed.
    pub fn sets(&self) -> Vec<HeaderName> {
        match self {
            Self::Fields(scheme) => scheme.set.iter().map(|(name, _)| name.clone()).collect(),
            Self::Query(_) => Vec::new(),
            Self::Hmac(scheme) => scheme.set.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The fields it sets that hold no secret: nothing but literals, the time of signing and the
    /// values called `open`.
    pub fn sets_openly(&self, open: &[&str]) -> Vec<HeaderName> {
        let set = match self {
            Self::Fields(scheme) => &scheme.set,
            Self::Query(_) => return Vec::new(),
            Self::Hmac(scheme) => &scheme.set,
        };
        let is_open = |name: &str| name == hmac::TIMESTAMP || open.contains(&name);
        set.iter()
            .filter(|(_, template)| template.names().all(is_open))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The query parameters it sets.
    pub fn sets_query(&self) -> Vec<String> {
        match self {
            Self::Fields(_) | Self::Hmac(_) => Vec::new(),
            Self::Query(scheme) => scheme.set.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Fits the scheme to one credential's values.
    ///
    /// # Errors
    /// When a value is missing or cannot stand in a field.
    pub fn bind(&self, values: &Values) -> Result<Signer, BindError> {
        Ok(match self {
            Self::Fields(scheme) => Signer::Fields(scheme.bind(values)?),
            Self::Query(scheme) => Signer::Query(scheme.bind(values)?),
            Self::Hmac(scheme) => Signer::Hmac(Box::new(scheme.bind(values)?)),
        })
    }
}

/// A scheme bound to one credential: ready to sign.
#[derive(Debug, Clone)]
pub enum Signer {
    /// Fields that do not change from request to request.
    Fields(FieldsSigner),
    /// Query parameters that do not change from request to request.
    Query(QuerySigner),
    /// A keyed hash over parts of the request. Boxed: there may be one of the others per device.
    Hmac(Box<HmacSigner>),
}

impl Signer {
    /// The same, but what it has in common with others is in memory once.
    #[must_use]
    pub fn sharing(self, shared: &shared::SharedValues) -> Self {
        match self {
            Self::Fields(signer) => Self::Fields(signer.sharing(shared)),
            other @ (Self::Query(_) | Self::Hmac(_)) => other,
        }
    }

    /// The values of the credential that can be read back from it, with their names.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = match self {
            Self::Fields(signer) => Some(signer),
            Self::Query(_) | Self::Hmac(_) => None,
        };
        fields.into_iter().flat_map(FieldsSigner::shown)
    }

    /// Begins to read the content of a request; `None` if the signature does not cover it.
    ///
    /// `at` is the time of signing for schemes whose base has the timestamp before the content.
    ///
    /// # Errors
    /// When a field that the signature covers is there more than once.
    pub fn digest(
        &self,
        request: &SignableRequest<'_>,
        at: SystemTime,
    ) -> Result<Option<ContentDigest>, SignError> {
        match self {
            Self::Fields(_) | Self::Query(_) => Ok(None),
            Self::Hmac(signer) => signer.digest(request, at).map(Some),
        }
    }

    /// True if the content may be read for the signature while it is still arriving. False where
    /// the timestamp comes before it: a slow upload would age the signature.
    pub fn digests_early(&self) -> bool {
        match self {
            Self::Fields(_) | Self::Query(_) => true,
            Self::Hmac(signer) => signer.digests_early(),
        }
    }

    /// True if what it adds depends on the time of signing.
    pub fn is_timed(&self) -> bool {
        matches!(self, Self::Hmac(_))
    }

    /// The fields for one request, at the time `at`.
    ///
    /// `content` is the digest begun by [`Signer::digest`] after it has read the whole content;
    /// `None` stands for empty content.
    ///
    /// # Errors
    /// When a field that the signature covers is not text.
    pub fn sign(
        &self,
        request: &SignableRequest<'_>,
        content: Option<ContentDigest>,
        at: SystemTime,
    ) -> Result<AuthFields<'_>, SignError> {
        match self {
            Self::Fields(signer) => Ok(signer.sign()),
            Self::Query(signer) => Ok(signer.sign()),
            Self::Hmac(signer) => signer.sign(request, content, at),
        }
    }
}

/// Why a credential's values do not fit a scheme. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A value that the scheme needs is not among the credential's.
    #[error(transparent)]
    Missing(#[from] MissingValue),
    /// A value has a character that no field can hold, or begins or ends with a space.
    #[error("the value for the field '{0}' has a character that a field cannot hold")]
    Field(HeaderName),
    /// The key is not what the configuration says it is encoded in.
    #[error("the key '{0}' is not valid {1}")]
    KeyEncoding(String, &'static str),
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A signed field is not text or is there more than once.
    #[error("the field '{0}' is part of the signature and must be there at most once")]
    AmbiguousField(HeaderName),
    /// A computed value cannot stand in a field.
    #[error("the signature cannot be written into the field '{0}'")]
    Field(HeaderName),
}

/// A sensitive field value, or `None` if `text` cannot stand in a field unchanged.
///
/// RFC 9110 §5.5: visible characters, inner spaces and tabs, and bytes above 127 (`obs-text`).
pub(crate) fn sensitive_value(text: &str) -> Option<HeaderValue> {
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return None;
    }
    let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
