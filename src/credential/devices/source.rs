//! Where the credentials of devices come from: the generic part of every kind that has devices.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::credential::fixed::FixedSpec;
use crate::credential::login::LoginSource;
use crate::credential::secrets::{Secrets, read};
use crate::credential::{Credential, CredentialSource, FetchError};
use crate::permissions::Check;
use crate::values::Values;

use super::Place;
use super::table::Table;
use crate::credential::secret_ref::SecretRef;

/// Fetches the credential of one device. One call is one attempt, as for
/// [`CredentialSource`].
pub trait DeviceSource: std::fmt::Debug + Send + Sync + 'static {
    /// Fetches for the device whose own values are `own`. `current` is what is to be replaced.
    ///
    /// # Errors
    /// With the reason, which says whether trying again soon can help.
    fn fetch_for(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> impl Future<Output = Result<Credential, FetchError>> + Send;

    /// True if it can make use of what is to be replaced, which is kept for it then.
    fn renews(&self) -> bool;

    /// True if a credential that has ended, or was refused, is of use for
    /// [`fetch_for`](Self::fetch_for), because it holds a value for renewals that lives longer.
    fn renews_ended(&self) -> bool {
        false
    }

    /// A store has `credential` of the device whose own values are `own`, and it is newer than what
    /// was known of it. Called before the fetch that goes on from there, if there is one.
    fn restored_for(&self, own: &Values, credential: &Credential) {
        let _ = (own, credential);
    }

    /// True if the next fetch with `current` is a renewal, whose answer may hold the only value by
    /// which the next renewal is possible.
    fn is_renewal(&self, own: &Values, current: Option<&Credential>) -> bool {
        let _ = own;
        current.is_some()
    }

    /// The names of the values that the next fetch for the device whose own values are `own` may
    /// use up, as [`CredentialSource::uses_up`].
    fn uses_up(&self, own: &Values, current: Option<&Credential>) -> Vec<String> {
        let _ = (own, current);
        Vec::new()
    }

    /// How long until a credential without an end is looked at again; `None` for never.
    fn look_again_after(&self) -> Option<Duration> {
        None
    }
}

impl DeviceSource for LoginSource {
    async fn fetch_for(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        self.fetch_with(own, current).await
    }

    fn renews(&self) -> bool {
        LoginSource::renews(self)
    }

    fn renews_ended(&self) -> bool {
        CredentialSource::renews_ended(self)
    }

    fn uses_up(&self, _own: &Values, current: Option<&Credential>) -> Vec<String> {
        CredentialSource::uses_up(self, current)
    }
}

/// Values that the configuration and the file of devices name.
#[derive(Debug)]
pub struct FixedSource {
    /// What all devices share.
    pub spec: FixedSpec,
    /// Their secrets.
    pub secrets: Arc<Secrets>,
}

impl DeviceSource for FixedSource {
    async fn fetch_for(
        &self,
        own: &Values,
        _current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        let values = self.spec.read_with(&self.secrets, own);
        let values = values.map_err(|missing| FetchError::Request(missing.to_string()))?;
        Ok(Credential { values, ..Credential::default() })
    }

    fn renews(&self) -> bool {
        false
    }

    /// A key in a file may have been replaced.
    fn look_again_after(&self) -> Option<Duration> {
        Some(Duration::from_mins(1))
    }
}

/// The own values of the device in `row` of `table`. Secrets are read now: there may be too many
/// files to read them at start.
///
/// # Errors
/// When a secret cannot be read.
pub async fn own_values(table: &Table, row: usize, check: Check) -> Result<Values, FetchError> {
    let mut values = Values::default();
    // Collected first: nothing borrowed from the table is held while files are read.
    let cells: Vec<_> =
        table.cells(row).map(|(column, cell)| (column.value.clone(), cell)).collect();
    for (name, reference) in cells {
        let secret = read(&reference, check).await.map_err(|reason| {
            tracing::warn!(
                device = table.device(row), place = %table.place(row), %reference, %reason,
                "a secret of a device cannot be read"
            );
            FetchError::Secret(reason.to_string())
        })?;
        values.insert(name, secret);
    }
    Ok(values)
}

/// The secrets of devices that cannot be read now, by their places in the file. Reads every one.
pub async fn unreadable(table: &Table, check: Check) -> Vec<(Place, String)> {
    let mut unreadable = Vec::new();
    for row in 0..table.len() {
        let cells: Vec<SecretRef> = table.cells(row).map(|(_, reference)| reference).collect();
        for reference in cells {
            if let Err(reason) = read(&reference, check).await {
                let reason = format!("the secret in the {reference} cannot be read: {reason}");
                unreadable.push((table.place(row), reason));
            }
        }
    }
    unreadable
}
