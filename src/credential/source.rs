//! The sources that fetch, as one type: what a refresher, `fetch` and `check --live` call.

use super::devices::source::DeviceSource as _;
use super::login::LoginSource;
use super::oauth::OauthSource;
use super::{Credential, CredentialSource, FetchError};
use crate::values::Values;

/// A source that asks a token endpoint.
#[derive(Debug)]
pub enum Source {
    /// A declared login.
    Login(LoginSource),
    /// OAuth 2.0.
    Oauth(OauthSource),
}

impl Source {
    /// One attempt, with values of a device's `own`.
    ///
    /// # Errors
    /// With the reason.
    pub async fn fetch_with(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        match self {
            Self::Login(login) => login.fetch_with(own, current).await,
            Self::Oauth(oauth) => oauth.fetch_for(own, current).await,
        }
    }
}

impl CredentialSource for Source {
    async fn fetch(&self, current: Option<&Credential>) -> Result<Credential, FetchError> {
        match self {
            Self::Login(login) => login.fetch(current).await,
            Self::Oauth(oauth) => oauth.fetch(current).await,
        }
    }

    fn restored(&self, credential: &Credential) {
        match self {
            Self::Login(login) => login.restored(credential),
            Self::Oauth(oauth) => oauth.restored(credential),
        }
    }

    fn uses_up(&self, current: Option<&Credential>) -> Vec<String> {
        match self {
            Self::Login(login) => CredentialSource::uses_up(login, current),
            Self::Oauth(oauth) => CredentialSource::uses_up(oauth, current),
        }
    }

    fn renews_ended(&self) -> bool {
        match self {
            Self::Login(login) => CredentialSource::renews_ended(login),
            Self::Oauth(oauth) => CredentialSource::renews_ended(oauth),
        }
    }

    async fn give_up(&self, current: &Credential) {
        match self {
            Self::Login(login) => login.give_up(current).await,
            Self::Oauth(oauth) => oauth.give_up(current).await,
        }
    }
}
