//! The sources that fetch, as one type: what a refresher, `fetch` and `check --live` call.

use super::login::LoginSource;
use super::oauth::OauthSource;
use super::{Credential, CredentialSource, FetchError};

/// A source that asks a token endpoint.
#[derive(Debug)]
pub enum Source {
    /// A declared login.
    Login(LoginSource),
    /// OAuth 2.0.
    Oauth(OauthSource),
}

impl CredentialSource for Source {
    async fn fetch(&self, current: Option<&Credential>) -> Result<Credential, FetchError> {
        match self {
            Self::Login(login) => login.fetch(current).await,
            Self::Oauth(oauth) => oauth.fetch(current).await,
        }
    }

    async fn give_up(&self, current: &Credential) {
        match self {
            Self::Login(login) => login.give_up(current).await,
            Self::Oauth(oauth) => oauth.give_up(current).await,
        }
    }
}
