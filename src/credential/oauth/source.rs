//! The `oauth2` source: one attempt to get an access token.

use std::sync::Arc;

use http::StatusCode;

use super::discovery::{Discovery, Server};
use super::reply::{ErrorCode, Expected, Issued, REFRESH_TOKEN, read};
use super::request::{Ground, Writer};
use super::rotation::RefreshTokens;
use super::{Grant, OauthSpec};
use crate::clock::Clock;
use crate::credential::http::TokenClient;
use crate::credential::secrets::Secrets;
use crate::credential::{Credential, CredentialSource, FetchError, Refusal};
use crate::secret::Secret;

/// Asks an authorization server for access tokens.
#[derive(Debug)]
pub struct OauthSource {
    name: String,
    spec: OauthSpec,
    secrets: Arc<Secrets>,
    client: TokenClient,
    clock: Clock,
    discovery: Discovery,
    refresh_tokens: RefreshTokens,
}

impl OauthSource {
    /// A source that asks with `client`. `name` is the credential's, for the log.
    pub fn new(
        name: String,
        spec: OauthSpec,
        secrets: Arc<Secrets>,
        client: TokenClient,
        clock: Clock,
    ) -> Self {
        let (discovery, refresh_tokens) = Default::default();
        Self { name, spec, secrets, client, clock, discovery, refresh_tokens }
    }

    /// With the refresh token of the last answer if there is one, else with the grant.
    async fn obtain(&self, server: &Server) -> Result<Credential, FetchError> {
        let basis = self.basis();
        let Some(token) = self.refresh_tokens.current(&basis) else {
            return self.ask(server, Ground::Grant, &basis).await;
        };
        let refresh = Ground::Refresh(&token);
        if matches!(self.spec.grant, Grant::RefreshToken(_)) {
            // There is nothing else to ask with, until the secret changes.
            return self.ask(server, refresh, &basis).await;
        }
        // Should this attempt be cut off, nobody knows whether the token is used up. Where asking
        // anew is possible, it is not sent a second time: servers take that for theft.
        self.refresh_tokens.forget();
        match self.ask(server, refresh, &basis).await {
            Err(error) if is_refused_grant(&error) => {
                tracing::warn!(
                    credential = %self.name, %error,
                    "the refresh token was refused; asking anew"
                );
                self.ask(server, Ground::Grant, &basis).await
            }
            Err(error) => {
                if is_unused(&error) {
                    self.refresh_tokens.keep(token, &basis);
                }
                Err(error)
            }
            Ok(credential) => Ok(credential),
        }
    }

    /// One request. What has to outlast the access token is kept before that is handed on.
    async fn ask(
        &self,
        server: &Server,
        ground: Ground<'_>,
        basis: &[Secret],
    ) -> Result<Credential, FetchError> {
        let (spec, secrets, clock) = (&self.spec, &*self.secrets, &self.clock);
        let request = Writer { spec, secrets, clock, server }.write(ground)?;
        let wanted = |status: StatusCode| status.is_success() || status.is_client_error();
        let answer = self.client.exchange(request, wanted).await?;
        let issued = match (&spec.grant, ground) {
            (Grant::TokenExchange(exchange), Ground::Grant) => {
                Some(Issued { requested: exchange.requested_token_type.as_deref() })
            }
            _ => None,
        };
        let expected = Expected { token_type: &spec.token_type, lifetime: spec.lifetime, issued };
        let mut granted = read(&answer, expected)?;
        if spec.grant.takes_refresh_tokens() {
            let old = match ground {
                // An answer without a new one leaves the old one in use (RFC 6749 §6).
                Ground::Refresh(token) => Some(token.clone()),
                Ground::Grant => None,
            };
            self.warn_if_used_up(granted.refresh_token.as_ref(), ground);
            if let Some(token) = granted.refresh_token.or(old) {
                // Where there is a store, it is durable before the access token is used.
                granted.credential.values.insert(REFRESH_TOKEN, token.clone());
                self.refresh_tokens.keep(token, basis);
            }
        }
        Ok(granted.credential)
    }

    /// The first rotation uses up what the configuration refers to.
    fn warn_if_used_up(&self, new: Option<&Secret>, ground: Ground<'_>) {
        let Grant::RefreshToken(configured) = &self.spec.grant else { return };
        let configured = self.secrets.get(configured);
        if matches!(ground, Ground::Grant)
            && new.is_some_and(|new| Some(new) != configured.as_ref())
        {
            tracing::warn!(
                credential = %self.name,
                "the server has replaced the configured refresh token by another: without a \
                 [token_store] that outlives the process, a restart needs a new one"
            );
        }
    }

    /// The secrets that the grant rests on, as they are now.
    fn basis(&self) -> Vec<Secret> {
        let references = self.spec.grant.basis();
        references.into_iter().filter_map(|reference| self.secrets.get(reference)).collect()
    }
}

/// True if the server said no to the refresh token, and not to who brought it.
fn is_refused_grant(error: &FetchError) -> bool {
    let client = FetchError::Refused(Refusal::OAuth { code: ErrorCode::InvalidClient });
    error.is_refusal() && *error != client
}

/// True if the server did nothing with a refresh token, as far as can be told.
fn is_unused(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Unreachable { .. }
            | FetchError::Unavailable { .. }
            | FetchError::Refused(_)
            | FetchError::Request(_)
    )
}

impl CredentialSource for OauthSource {
    async fn fetch(&self, _current: Option<&Credential>) -> Result<Credential, FetchError> {
        let server = self.discovery.server(&self.spec, &self.client).await?;
        let obtained = self.obtain(&server).await;
        if obtained.is_err() {
            // Perhaps the endpoint has moved.
            self.discovery.forget();
        }
        obtained
    }

    fn restored(&self, credential: &Credential) {
        if let Some(kept) = credential.values.get(REFRESH_TOKEN) {
            self.refresh_tokens.keep(kept.clone(), &self.basis());
        }
    }

    fn renews_ended(&self) -> bool {
        self.spec.grant.takes_refresh_tokens()
    }
}
