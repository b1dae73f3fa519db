//! [`Values`]: the named secret values that a credential consists of.

use crate::secret::Secret;

/// Named secret values: what one login returned, or what the configuration names.
///
/// A bearer token is `{token}`, an HMAC key `{api_key, api_secret}`, a twinzo login
/// `{token, client, branch}`. Sources yield values by name and schemes use them by name; that the
/// two fit is checked once, when the configuration is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(Vec<(String, Secret)>);

impl Values {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, secret)| secret)
    }

    /// The text of the value called `name`, as templates take it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(Secret::expose)
    }

    /// Adds a value, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, secret: Secret) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => *value = secret,
            None => self.0.push((name, secret)),
        }
    }

    /// Takes the value called `name` out.
    pub fn remove(&mut self, name: &str) -> Option<Secret> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// These values and `others`, which come first where both have a name.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        for (name, secret) in others.iter() {
            self.insert(name, secret.clone());
        }
        self
    }

    /// Names and values, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    /// The names alone: what may be shown.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<N: Into<String>> FromIterator<(N, Secret)> for Values {
    fn from_iter<I: IntoIterator<Item = (N, Secret)>>(values: I) -> Self {
        let mut all = Self::default();
        for (name, secret) in values {
            all.insert(name, secret);
        }
        all
    }
}
