//! The `oauth2` source: one attempt to get an access token.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::device_code::{DeviceAuthorization, LoginError, Polled, poll};
use super::discovery::{Discovery, DiscoveryError, Server};
use super::reply::{ErrorCode, Expected, Issued, REFRESH_TOKEN, read};
use super::request::{Ground, Writer};
use super::rotation::{Basis, Kept, RefreshTokens};
use super::{Grant, OauthSpec};
use crate::clock::Clock;
use crate::credential::devices::source::DeviceSource;
use crate::credential::http::{TokenAnswer, TokenClient};
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::credential::{Credential, CredentialSource, FetchError, Refusal};
use crate::secret::Secret;
use crate::values::Values;

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
        // What has nothing to start anew with is not given up because it is old.
        let refresh_tokens = RefreshTokens::new(spec.grant.can_ask_anew());
        let discovery = Discovery::default();
        Self { name, spec, secrets, client, clock, discovery, refresh_tokens }
    }

    /// One attempt, with values of a device's `own`, which take the place of those that all share.
    ///
    /// # Errors
    /// With the reason, as [`CredentialSource::fetch`].
    pub async fn fetch_with(&self, own: &Values) -> Result<Credential, FetchError> {
        let server = self.discovery.server(&self.spec, &self.client).await?;
        let obtained = self.obtain(&server, own).await;
        if obtained.as_ref().is_err_and(doubts_endpoint) {
            self.discovery.forget(&server);
        }
        obtained
    }

    /// With the refresh token of the last answer if there is one, else with the grant.
    async fn obtain(&self, server: &Server, own: &Values) -> Result<Credential, FetchError> {
        let basis = self.basis(own);
        let Kept::Token(token) = self.refresh_tokens.current(basis) else {
            if self.spec.needs_a_person() {
                return Err(self.needs_a_login(None));
            }
            return self.ask(server, Ground::Grant, own, basis).await;
        };
        let refresh = Ground::Refresh(&token);
        match self.spec.grant {
            // There is nothing else to ask with, until the secret changes,
            Grant::RefreshToken(_) => return self.ask(server, refresh, own, basis).await,
            // or somebody logs in.
            Grant::DeviceCode { .. } => {
                let asked = self.ask(server, refresh, own, basis).await;
                if let Err(FetchError::Refused(refusal)) = &asked
                    && ends_login(refusal)
                {
                    return Err(self.needs_a_login(Some(refusal.clone())));
                }
                return asked;
            }
            Grant::ClientCredentials
            | Grant::Password { .. }
            | Grant::JwtBearer(_)
            | Grant::TokenExchange(_) => {}
        }
        // Should this attempt be cut off, nobody knows whether the token is used up. Where asking
        // anew is possible, it is not sent a second time: servers take that for theft.
        self.refresh_tokens.doubt(token.clone(), basis);
        match self.ask(server, refresh, own, basis).await {
            Err(error) if is_refused_grant(&error) => {
                tracing::warn!(
                    credential = %self.name, %error,
                    "the refresh token was refused; asking anew"
                );
                self.ask(server, Ground::Grant, own, basis).await
            }
            Err(error) => {
                if is_unused(&error) {
                    self.refresh_tokens.keep(token, basis);
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
        own: &Values,
        basis: Basis,
    ) -> Result<Credential, FetchError> {
        let request = self.writer(server, own).write(ground)?;
        let wanted = |status: StatusCode| status.is_success() || status.is_client_error();
        let answer = self.client.exchange(request, wanted).await?;
        self.granted(&answer, ground, own, basis)
    }

    /// What an answer to a request on that `ground` grants.
    fn granted(
        &self,
        answer: &TokenAnswer,
        ground: Ground<'_>,
        own: &Values,
        basis: Basis,
    ) -> Result<Credential, FetchError> {
        let spec = &self.spec;
        let issued = match (&spec.grant, ground) {
            (Grant::TokenExchange(exchange), Ground::Grant) => {
                Some(Issued { requested: exchange.requested_token_type.as_deref() })
            }
            _ => None,
        };
        let expected = Expected { token_type: &spec.token_type, lifetime: spec.lifetime, issued };
        let mut granted = read(answer, expected)?;
        if spec.grant.takes_refresh_tokens() {
            let old = match ground {
                // An answer without a new one leaves the old one in use (RFC 6749 §6).
                Ground::Refresh(token) => Some(token.clone()),
                Ground::Grant | Ground::DeviceCode(_) => None,
            };
            self.warn_if_used_up(granted.refresh_token.as_ref(), ground, own);
            if let Some(token) = granted.refresh_token.or(old) {
                // Where there is a store, it is durable before the access token is used.
                granted.credential.values.insert(REFRESH_TOKEN, token.clone());
                self.refresh_tokens.keep(token, basis);
            } else {
                self.refresh_tokens.forget(basis);
            }
        }
        Ok(granted.credential)
    }

    fn writer<'w>(&'w self, server: &'w Server, own: &'w Values) -> Writer<'w> {
        Writer { spec: &self.spec, secrets: &self.secrets, own, clock: &self.clock, server }
    }

    /// Begins the login of a person (RFC 8628 §3.1).
    ///
    /// # Errors
    /// When the server does not want that, or its answer cannot be used.
    pub async fn begin_login(&self) -> Result<DeviceAuthorization, FetchError> {
        let Grant::DeviceCode { url, plaintext } = &self.spec.grant else {
            return Err(FetchError::Request("no person logs in with this grant".to_owned()));
        };
        let server = self.discovery.server(&self.spec, &self.client).await?;
        let url = url.as_ref().or(server.device_authorization_url.as_ref());
        let url = url.ok_or(FetchError::Discovery(DiscoveryError::DeviceEndpoint))?;
        let own = Values::default();
        let request = self.writer(&server, &own).write_device_authorization(url)?;
        let wanted = |status: StatusCode| status.is_success() || status.is_client_error();
        let answer = self.client.exchange(request, wanted).await?;
        DeviceAuthorization::read(&answer, *plaintext)
    }

    /// Waits until the person has said yes or no, or it is too late. `timeout` is that of a
    /// request.
    ///
    /// # Errors
    /// When there is no token at the end.
    pub async fn finish_login(
        &self,
        begun: &DeviceAuthorization,
        timeout: Duration,
    ) -> Result<Credential, LoginError> {
        let own = Values::default();
        let basis = self.basis(&own);
        let ground = Ground::DeviceCode(&begun.device_code);
        poll(begun.terms(timeout), async || {
            let server = self.discovery.server(&self.spec, &self.client).await?;
            let request = self.writer(&server, &own).write(ground)?;
            let wanted = |status: StatusCode| status.is_success() || status.is_client_error();
            let answer = self.client.exchange(request, wanted).await?;
            match Polled::read(&answer) {
                Some(polled) => Ok(polled),
                None => self.granted(&answer, ground, &own, basis).map(Polled::Granted),
            }
        })
        .await
    }

    fn needs_a_login(&self, because: Option<Refusal>) -> FetchError {
        let credential = self.name.clone();
        FetchError::Refused(match because {
            None => Refusal::NobodyIsLoggedIn { credential },
            Some(because) => Refusal::LoginHasEnded { credential, because: Box::new(because) },
        })
    }

    /// The first rotation uses up what the configuration refers to.
    fn warn_if_used_up(&self, new: Option<&Secret>, ground: Ground<'_>, own: &Values) {
        let Grant::RefreshToken(configured) = &self.spec.grant else { return };
        let configured = self.secret("refresh_token", configured.as_ref(), own);
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

    /// What the tokens of this login come of, as it is now.
    fn basis(&self, own: &Values) -> Basis {
        let grant = self.spec.grant.basis().into_iter();
        let grant = grant.map(|(name, shared)| self.secret(name, shared, own));
        let client = own.get("client_id").cloned();
        let parts: Vec<_> = grant.chain([client]).collect();
        if self.spec.grant.can_ask_anew() {
            // Two devices may have a user in common and want different things, such as a scope.
            return self.refresh_tokens.basis(&parts, own);
        }
        // What has nothing to start anew with goes on when a client's secret is replaced; and
        // devices with the same refresh token would use it up for each other.
        self.refresh_tokens.basis(&parts, &Values::default())
    }

    fn secret(&self, name: &str, shared: Option<&SecretRef>, own: &Values) -> Option<Secret> {
        own.get(name).cloned().or_else(|| self.secrets.get(shared?))
    }
}

/// True if the login of a person is over, and nothing but another will do.
fn ends_login(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::OAuth { code } => {
            matches!(code, ErrorCode::InvalidGrant | ErrorCode::AccessDenied)
        }
        Refusal::Status(_) => true,
        Refusal::Condition(_)
        | Refusal::NobodyIsLoggedIn { .. }
        | Refusal::LoginHasEnded { .. } => false,
    }
}

/// True if the endpoint may have moved.
fn doubts_endpoint(error: &FetchError) -> bool {
    match error {
        // A token endpoint that knows the codes is one, and one that asks to come back is there.
        FetchError::Refused(refusal) => matches!(refusal, Refusal::Status(_)),
        FetchError::Unavailable { status, retry_after } => {
            retry_after.is_none() && *status != StatusCode::TOO_MANY_REQUESTS
        }
        FetchError::Unreachable { .. }
        | FetchError::Broken { .. }
        | FetchError::Timeout(_)
        | FetchError::Discovery(_)
        | FetchError::Reply(_) => true,
        FetchError::Bind(_)
        | FetchError::Secret(_)
        | FetchError::Request(_)
        | FetchError::Panicked => false,
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
        self.fetch_with(&Values::default()).await
    }

    fn restored(&self, credential: &Credential) {
        self.restored_for(&Values::default(), credential);
    }

    fn uses_up(&self, current: Option<&Credential>) -> Vec<String> {
        DeviceSource::uses_up(self, &Values::default(), current)
    }

    fn renews_ended(&self) -> bool {
        self.spec.grant.takes_refresh_tokens()
    }
}

impl DeviceSource for OauthSource {
    async fn fetch_for(
        &self,
        own: &Values,
        _current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        self.fetch_with(own).await
    }

    /// The source has the refresh tokens itself: they outlast the access token and its refusal.
    fn renews(&self) -> bool {
        false
    }

    fn renews_ended(&self) -> bool {
        self.spec.grant.takes_refresh_tokens()
    }

    fn is_renewal(&self, own: &Values, _current: Option<&Credential>) -> bool {
        matches!(self.spec.grant, Grant::RefreshToken(_))
            || matches!(self.refresh_tokens.current(self.basis(own)), Kept::Token(_))
    }

    fn uses_up(&self, own: &Values, _current: Option<&Credential>) -> Vec<String> {
        let known = matches!(self.refresh_tokens.current(self.basis(own)), Kept::Token(_));
        let used = self.spec.grant.can_ask_anew() && known;
        if used { vec![REFRESH_TOKEN.to_owned()] } else { Vec::new() }
    }

    fn restored_for(&self, own: &Values, credential: &Credential) {
        let basis = self.basis(own);
        match credential.values.get(REFRESH_TOKEN) {
            Some(kept) => self.refresh_tokens.restore(kept.clone(), basis),
            // Another process has sent it, and nobody knows what became of that.
            None if self.spec.grant.can_ask_anew() => self.refresh_tokens.forget(basis),
            None => {}
        }
    }
}
