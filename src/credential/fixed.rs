//! Values that the configuration names: API keys, static tokens, HMAC keys.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use super::cache::CredentialCache;
use super::secrets::{Changes, Secrets};
use crate::credential::secret_ref::SecretRef;
use crate::secret::Secret;
use crate::sign::BindError;
use crate::template::MissingValue;
use crate::values::Values;

/// Values from secrets, and one that is computed from others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FixedSpec {
    /// Each value's name and where it is.
    pub values: Vec<(String, SecretRef)>,
    /// A value that is computed: user and password, as the Basic scheme writes them.
    pub basic: Option<BasicPair>,
}

/// The value `name` becomes the base64 of `username:password` (RFC 7617 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicPair {
    /// The name of the computed value.
    pub name: String,
    /// The name of the value that is the user.
    pub username: String,
    /// The name of the value that is the password.
    pub password: String,
}

impl FixedSpec {
    /// The values as the secrets are now.
    ///
    /// # Errors
    /// When a secret was not resolved.
    pub fn read(&self, secrets: &Secrets) -> Result<Values, MissingValue> {
        self.read_with(secrets, &Values::default())
    }

    /// The same for a device, which has values of its `own`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when a value is nobody's.
    pub fn read_with(&self, secrets: &Secrets, own: &Values) -> Result<Values, MissingValue> {
        let mut values = Values::default();
        for (name, reference) in &self.values {
            let secret = secrets.get(reference).ok_or_else(|| MissingValue(name.clone()))?;
            values.insert(name.clone(), secret);
        }
        let mut values = values.and(own);
        if let Some(BasicPair { name, username, password }) = &self.basic {
            let text = |name: &str| values.text(name).ok_or_else(|| MissingValue(name.to_owned()));
            let pair = zeroize::Zeroizing::new(format!("{}:{}", text(username)?, text(password)?));
            values.insert(name.clone(), Secret::new(STANDARD.encode(pair.as_bytes())));
        }
        Ok(values)
    }
}

/// Publishes the values again whenever a secret has changed. Unusable ones are reported and the
/// last good values stay.
pub async fn follow<T, P>(
    name: String,
    spec: FixedSpec,
    secrets: Arc<Secrets>,
    mut changes: Changes,
    cache: CredentialCache<T>,
    prepare: P,
    stop: CancellationToken,
) where
    P: Fn(&Values) -> Result<T, BindError>,
{
    let mut current = spec.read(&secrets).unwrap_or_default();
    loop {
        tokio::select! {
            () = changes.next() => {}
            () = stop.cancelled() => return,
        }
        let read = spec.read(&secrets).map_err(BindError::from);
        match read.and_then(|values| prepare(&values).map(|item| (values, item))) {
            Ok((values, _)) if values == current => {}
            Ok((values, item)) => {
                current = values;
                cache.publish(item, None, std::time::Duration::ZERO);
                tracing::info!(credential = %name, "a secret changed; using the new value");
            }
            Err(error) => tracing::warn!(
                credential = %name, %error,
                "a changed secret cannot be used; its last value stays in use"
            ),
        }
    }
}
