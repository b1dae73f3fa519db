//! The `fields` scheme: fields filled from a credential's values, the same for every request.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};

use super::shared::SharedValues;
use super::{AuthFields, BindError, sensitive_value};
use crate::template::Template;
use crate::values::Values;

/// Fields from templates, such as `Token: {token}` or `Authorization: Bearer {token}`.
#[derive(Debug, Clone)]
pub struct FieldsScheme {
    /// Each field and what to put into it.
    pub set: Vec<(HeaderName, Template)>,
}

impl FieldsScheme {
    /// Fills every field with `values`.
    ///
    /// # Errors
    /// When a value is missing or cannot stand in a field.
    pub fn bind(&self, values: &Values) -> Result<FieldsSigner, BindError> {
        let mut fields = Vec::with_capacity(self.set.len());
        for (name, template) in &self.set {
            let text = template.render(|name| values.text(name))?;
            let value = sensitive_value(&text).ok_or_else(|| BindError::Field(name.clone()))?;
            fields.push((name.clone(), value));
        }
        Ok(FieldsSigner { fields })
    }
}

/// Fields ready to set: names and values are shared, so a request costs reference counts.
#[derive(Debug, Clone)]
pub struct FieldsSigner {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl FieldsSigner {
    /// The fields.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// The same with values that share their memory with equal ones of others.
    pub(super) fn sharing(self, shared: &SharedValues) -> Self {
        let fields = self.fields.into_iter();
        Self { fields: fields.map(|(name, value)| (name, shared.shared(value))).collect() }
    }

    pub(super) fn sign(&self) -> AuthFields<'_> {
        AuthFields { fields: Cow::Borrowed(&self.fields), query: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn scheme(template: &str) -> FieldsScheme {
        let template = Template::parse(template).unwrap();
        FieldsScheme { set: vec![(HeaderName::from_static("token"), template)] }
    }

    #[test]
    fn values_are_set_as_they_are_and_marked_sensitive() {
        let values = Values::from_iter([("token", Secret::new("Zm9v="))]);
        let bound = scheme("{token}").bind(&values).unwrap();
        let signed = bound.sign();
        assert_eq!(*signed.fields, [("token".parse().unwrap(), "Zm9v=".parse().unwrap())]);
        assert!(signed.fields[0].1.is_sensitive());
        assert!(!format!("{signed:?}").contains("Zm9v"));
    }

    #[test]
    fn a_value_that_would_split_the_header_is_refused() {
        for token in ["a\r\nX-Admin: 1", "a\0", " a", "a ", "a\u{7f}"] {
            let values = Values::from_iter([("token", Secret::new(token))]);
            let refused = scheme("{token}").bind(&values).unwrap_err();
            assert_eq!(refused, BindError::Field("token".parse().unwrap()), "{token:?}");
        }
    }

    #[test]
    fn a_missing_value_is_named() {
        let refused = scheme("{token}").bind(&Values::default()).unwrap_err();
        assert_eq!(refused.to_string(), "there is no value 'token'");
    }
}
