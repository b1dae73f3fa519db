//! The signature base: the parts of a request, in order, that a keyed hash is computed over.

use http::HeaderName;

use super::{SignError, SignableRequest};
use crate::sign::encoding::Encoding;
use crate::sign::hash::Algorithm;

/// One part of a signature base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text of the configuration, such as a separator.
    Literal(String),
    /// A value of the credential, such as the API key.
    Value(String),
    /// The method, in upper case.
    Method,
    /// The path, byte for byte as it is sent.
    Path,
    /// The query without `?`, byte for byte as it is sent; empty when there is none.
    Query,
    /// The upstream's host, with its port if it is not the default.
    Host,
    /// A field's value; empty when there is none.
    Header(HeaderName),
    /// The time of signing, as the scheme writes it.
    Timestamp,
    /// The content, byte for byte.
    Body,
    /// A digest of the content, as text.
    BodyHash {
        /// Which hash.
        algorithm: Algorithm,
        /// How its digest is written.
        encoding: Encoding,
    },
}

impl Part {
    /// True for the parts that need the content.
    pub fn covers_body(&self) -> bool {
        matches!(self, Self::Body | Self::BodyHash { .. })
    }

    /// What the part is called where a person reads it.
    pub fn label(&self) -> String {
        match self {
            Self::Literal(_) => "literal".to_owned(),
            Self::Value(name) => format!("value {name}"),
            Self::Method => "method".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Query => "query".to_owned(),
            Self::Host => "host".to_owned(),
            Self::Header(name) => format!("header {name}"),
            Self::Timestamp => "timestamp".to_owned(),
            Self::Body => "body".to_owned(),
            Self::BodyHash { algorithm, .. } => format!("body {}", algorithm.name()),
        }
    }
}

/// The bytes of a part that depends on nothing but the head of the request.
///
/// `None` for the parts that come from elsewhere: the credential, the clock, the content.
pub(super) fn head_part<'r>(
    part: &'r Part,
    request: &SignableRequest<'r>,
) -> Result<Option<&'r [u8]>, SignError> {
    Ok(match part {
        Part::Literal(text) => Some(text.as_bytes()),
        Part::Method => Some(request.method.as_str().as_bytes()),
        Part::Path => Some(request.path.as_bytes()),
        Part::Query => Some(request.query.unwrap_or_default().as_bytes()),
        Part::Host => Some(request.authority.as_bytes()),
        Part::Header(name) => {
            let mut values = request.headers.get_all(name).iter();
            let first = values.next();
            if values.next().is_some() {
                return Err(SignError::AmbiguousField(name.clone()));
            }
            Some(first.map_or(b"".as_slice(), http::HeaderValue::as_bytes))
        }
        Part::Value(_) | Part::Timestamp | Part::Body | Part::BodyHash { .. } => None,
    })
}
