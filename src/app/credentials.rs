//! Wiring of credentials with one identity, and of the sources of all.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;

use super::StartError;
use super::keepers::Keepers;
use crate::clock::Clock;
use crate::config::{CredentialConfig, SourceSpec};
use crate::credential::cache::{CacheSettings, CredentialCache};
use crate::credential::http::TokenClient;
use crate::credential::login::{LoginSource, LoginSpec};
use crate::credential::oauth::{OauthSource, OauthSpec};
use crate::credential::refresher::{Progress, Refresher};
use crate::credential::secrets::Secrets;
use crate::credential::source::Source;
use crate::credential::store::{Slot, Store};
use crate::credential::{Credential, fixed};
use crate::proxy::Identity;
use crate::proxy::identity::Cache;
use crate::secret::Secret;
use crate::sign::{BodyCoverage, Scheme};
use crate::tls::RenewedTls;
use crate::values::Values;

/// A credential's cache, and the task that keeps it fresh.
pub(super) fn cache(
    credential: &CredentialConfig,
    secrets: &Arc<Secrets>,
    store: &Store,
    clock: &Clock,
    keepers: &mut Keepers,
) -> Result<Cache, StartError> {
    let name = credential.name.clone();
    let scheme = credential.scheme.clone();
    let references = credential.secrets();
    match &credential.source {
        SourceSpec::Fixed(spec) => {
            let bound = spec.read(secrets).map_err(crate::sign::BindError::from);
            let bound = bound.and_then(|values| scheme.bind(&values));
            let signer =
                bound.map_err(|reason| StartError::Credential { name: name.clone(), reason })?;
            let cache = CredentialCache::fixed(clock.clone(), signer);
            let (spec, secrets, published) = (spec.clone(), Arc::clone(secrets), cache.clone());
            keepers.0.push(Box::new(move |nursery| {
                let (of, stop) = (name.clone(), nursery.stop.clone());
                nursery.keep(&of, move || {
                    let (name, spec, secrets) = (name.clone(), spec.clone(), Arc::clone(&secrets));
                    let changes = secrets.changes_of(&references);
                    let (published, scheme) = (published.clone(), scheme.clone());
                    let prepare = move |values: &Values| scheme.bind(values);
                    fixed::follow(name, spec, secrets, changes, published, prepare, stop.clone())
                });
            }));
            Ok(Cache::One(cache))
        }
        SourceSpec::Login(_) | SourceSpec::Oauth(_) => {
            let source = source(credential, secrets, clock)?;
            let policy = credential.refresh;
            let settings = CacheSettings {
                renewable: true,
                wait: policy.wait,
                min_interval: policy.min_interval,
            };
            let cache = CredentialCache::new(clock.clone(), settings);
            let published = cache.clone();
            let slot = slot(credential, secrets, store);
            let (secrets, clock) = (Arc::clone(secrets), clock.clone());
            keepers.0.push(Box::new(move |nursery| {
                let of = name.clone();
                let refresher = Refresher {
                    name,
                    source,
                    prepare: move |credential: &Credential| scheme.bind(&credential.values),
                    cache: published,
                    policy,
                    clock,
                    slot,
                    secrets: secrets.changes_of(&references),
                    stop: nursery.stop.clone(),
                    progress: Progress::default(),
                };
                nursery.keep(&of, refresher);
            }));
            Ok(Cache::One(cache))
        }
    }
}

/// Where a credential with one identity is kept.
pub fn slot(credential: &CredentialConfig, secrets: &Arc<Secrets>, store: &Store) -> Slot {
    let login = login(credential, secrets);
    Slot::new(store, &credential.name, None, credential.definition, login)
}

/// The secrets that a credential logs in with, whatever they are at the moment.
pub(super) fn login(
    credential: &CredentialConfig,
    secrets: &Arc<Secrets>,
) -> impl Fn() -> Vec<Option<Secret>> + Send + Sync + use<> {
    let (secrets, references) = (Arc::clone(secrets), credential.bound_secrets());
    move || references.iter().map(|reference| secrets.get(reference)).collect()
}

/// The source of a credential that is fetched.
///
/// # Errors
/// When TLS to the token endpoint cannot be set up, or the credential is not fetched.
pub fn source(
    credential: &CredentialConfig,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<Source, StartError> {
    match &credential.source {
        SourceSpec::Fixed(_) => {
            Err(StartError::System(std::io::Error::other("this credential is not fetched")))
        }
        SourceSpec::Login(spec) => {
            Ok(Source::Login(login_source(credential, spec, secrets, clock)?))
        }
        SourceSpec::Oauth(spec) => {
            Ok(Source::Oauth(oauth_source(credential, spec, secrets, clock)?))
        }
    }
}

/// A source of access tokens, whose refresh tokens it has itself.
///
/// # Errors
/// When TLS to the authorization server cannot be set up.
pub fn oauth_source(
    credential: &CredentialConfig,
    spec: &OauthSpec,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<OauthSource, StartError> {
    let client = token_client(credential, secrets, clock, spec.may_be_secure())?;
    let (name, secrets) = (credential.name.clone(), Arc::clone(secrets));
    Ok(OauthSource::new(name, spec.clone(), secrets, client, clock.clone()))
}

pub(super) fn login_source(
    credential: &CredentialConfig,
    spec: &LoginSpec,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<LoginSource, StartError> {
    let mut requests = std::iter::once(&spec.request).chain(&spec.refresh).chain(&spec.logout);
    let secure = requests.any(|request| request.url.scheme_str() == Some("https"));
    let client = token_client(credential, secrets, clock, secure)?;
    let (name, secrets) = (credential.name.clone(), Arc::clone(secrets));
    Ok(LoginSource::new(name, spec.clone(), secrets, client))
}

fn token_client(
    credential: &CredentialConfig,
    secrets: &Secrets,
    clock: &Clock,
    secure: bool,
) -> Result<TokenClient, StartError> {
    let tls = if secure {
        let tls = RenewedTls::new(credential.tls.clone(), secrets.check());
        Some(Arc::new(tls.map_err(|reason| StartError::Tls {
            what: format!("the credential '{}'", credential.name),
            reason,
        })?))
    } else {
        None
    };
    // Some of the time has to be left for the answer.
    let connect_timeout = (credential.refresh.timeout / 2).min(Duration::from_secs(5));
    let client = TokenClient::new(tls, connect_timeout, clock.clone());
    Ok(match &credential.devices {
        Some(devices) => client.keeping(devices.fleet.max_concurrent_logins),
        None => client,
    })
}

/// A credential as routes use it, read from `cache`.
pub fn identity(credential: &CredentialConfig, cache: Cache) -> Identity {
    let scheme: &Scheme = &credential.scheme;
    Identity {
        name: credential.name.clone(),
        cache,
        covers_body: scheme.body_coverage() == BodyCoverage::Whole,
        timed: scheme.is_timed(),
        renewable: credential.source.is_fetched(),
        owned: credential.owned.clone(),
        owned_query: scheme.sets_query(),
        deny: credential.deny.clone(),
        sets_authorization: scheme.sets().contains(&AUTHORIZATION),
    }
}
