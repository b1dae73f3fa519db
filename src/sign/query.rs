//! The `query` scheme: query parameters filled from a credential's values.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{AuthFields, BindError};
use crate::template::Template;
use crate::values::Values;

/// Everything but the unreserved characters of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Query parameters from templates, such as `api_key={key}`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryScheme {
    /// Each parameter (decoded) and what to put into it.
    pub set: Vec<(String, Template)>,
}

impl QueryScheme {
    /// Fills and encodes every parameter.
    ///
    /// # Errors
    /// When a value is missing.
    pub fn bind(&self, values: &Values) -> Result<QuerySigner, BindError> {
        let mut pairs = String::new();
        for (name, template) in &self.set {
            if !pairs.is_empty() {
                pairs.push('&');
            }
            pairs.extend(utf8_percent_encode(name, RESERVED));
            pairs.push('=');
            let text = template.render(|name| values.text(name))?;
            pairs.extend(utf8_percent_encode(&text, RESERVED));
        }
        Ok(QuerySigner { pairs: pairs.into() })
    }
}

/// Encoded parameters, ready to append.
#[derive(Clone)]
pub struct QuerySigner {
    pairs: Arc<str>,
}

impl QuerySigner {
    pub(super) fn sign(&self) -> AuthFields<'_> {
        AuthFields::query(Arc::clone(&self.pairs))
    }
}

impl std::fmt::Debug for QuerySigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuerySigner(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn parameters_are_percent_encoded() {
        let scheme = QueryScheme { set: vec![("api key".into(), Template::value("key"))] };
        let values = Values::from_iter([("key", Secret::new("a&b=c d/ü~"))]);
        let bound = scheme.bind(&values).unwrap();
        let signed = bound.sign();
        assert_eq!(signed.query.as_deref(), Some("api%20key=a%26b%3Dc%20d%2F%C3%BC~"));
    }
}
