//! The `fields` scheme: fields filled from a credential's values, the same for every request.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::shared::SharedValues;
use super::{AuthFields, BindError, sensitive_value};
use crate::template::Template;
use crate::values::Values;

/// Fields from templates, such as `Token: {token}` or `Authorization: Bearer {token}`.
#[derive(Debug, Clone, PartialEq)]
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
        let mut shape = Vec::with_capacity(self.set.len());
        let mut own = Vec::with_capacity(self.set.len());
        for (name, template) in &self.set {
            let text = template.render(|name| values.text(name))?;
            let value = sensitive_value(&text).ok_or_else(|| BindError::Field(name.clone()))?;
            let shows = template.as_value().map(Into::into);
            shape.push(Field { name: name.clone(), shows, common: None });
            own.push(value);
        }
        Ok(FieldsSigner { shape: Arc::new(shape), own: own.into() })
    }
}

/// Fields ready to set: names and values are shared, so a request costs reference counts.
///
/// There may be a hundred thousand of these: what they have in common is in their shape.
#[derive(Debug, Clone)]
pub struct FieldsSigner {
    /// Not a slice: the pointer to one takes twice as much.
    shape: Arc<Vec<Field>>,
    /// The values of those fields that have none in the shape, in their order.
    own: Box<[HeaderValue]>,
}

/// A field as many signers set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    name: HeaderName,
    /// The value of the credential that it shows as it is, and nothing beside it.
    shows: Option<Box<str>>,
    /// What it is set to, where that is the same for all who have this shape.
    common: Option<HeaderValue>,
}

impl FieldsSigner {
    /// The fields and what they are set to.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields().map(|(field, value)| (&field.name, value))
    }

    /// The values of the credential that can be read from the fields, with their names.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields().filter_map(|(field, value)| {
            let text = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((field.shows.as_deref()?, text))
        })
    }

    fn fields(&self) -> impl Iterator<Item = (&Field, &HeaderValue)> {
        let mut own = self.own.iter();
        self.shape.iter().filter_map(move |field| {
            let value = field.common.as_ref().or_else(|| own.next())?;
            Some((field, value))
        })
    }

    /// The same, but its shape is that of others, with the values that it has in common with them.
    pub(super) fn sharing(self, shared: &SharedValues) -> Self {
        let mut own = Vec::new();
        let mut shape = Vec::with_capacity(self.shape.len());
        let seen = shared.seen(self.fields().map(|(_, value)| value));
        for ((field, value), common) in self.fields().zip(seen) {
            if common.is_none() {
                own.push(value.clone());
            }
            shape.push(Field { common, ..field.clone() });
        }
        Self { shape: shared.shape(shape), own: own.into() }
    }

    pub(super) fn sign(&self) -> AuthFields<'_> {
        AuthFields::same(self)
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
        let fields: Vec<_> = signed.iter().collect();
        assert_eq!(fields, [(&"token".parse().unwrap(), &"Zm9v=".parse().unwrap())]);
        assert!(fields[0].1.is_sensitive());
        assert!(!format!("{signed:?}").contains("Zm9v"));
        assert!(!format!("{bound:?}").contains("Zm9v"));
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

    /// A signer of a fleet: `Client` and `X-Kind` are others', too, and `Authorization` is not the
    /// token alone.
    fn of_fleet(token: &str, client: &str) -> FieldsSigner {
        let set = [
            ("client", "{client}"),
            ("authorization", "Bearer {token}"),
            ("x-kind", "gateway"),
            ("token", "{token}"),
        ];
        let set = set.map(|(name, template)| {
            (HeaderName::from_static(name), Template::parse(template).unwrap())
        });
        let values =
            Values::from_iter([("token", Secret::new(token)), ("client", Secret::new(client))]);
        FieldsScheme { set: set.into() }.bind(&values).unwrap()
    }

    #[test]
    fn what_is_shared_changes_nothing_that_is_set() {
        let shared = SharedValues::default();
        for (token, client) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x"), ("x", "y")] {
            let alone = of_fleet(token, client);
            let sharing = alone.clone().sharing(&shared);
            assert_eq!(sharing.iter().collect::<Vec<_>>(), alone.iter().collect::<Vec<_>>());
            assert!(sharing.iter().all(|(_, value)| value.is_sensitive()));
            let shown: Vec<_> = sharing.shown().collect();
            assert_eq!(shown, [("client", client), ("token", token)]);
        }
    }

    #[test]
    fn what_many_have_in_common_is_there_once() {
        let shared = SharedValues::default();
        let fleet: Vec<_> = (0..10)
            .map(|number| of_fleet(&number.to_string(), "client").sharing(&shared))
            .collect();
        assert_eq!(fleet[0].own.len(), 4, "nothing was known of others");
        for signer in &fleet[1..] {
            assert_eq!(signer.own.len(), 2, "what has the token in it");
            assert!(Arc::ptr_eq(&signer.shape, &fleet[1].shape));
        }
    }
}
