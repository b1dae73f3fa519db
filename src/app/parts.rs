//! What a configuration is put together to. What the one before has that is the same is kept: the
//! credentials with their tokens and tasks, the upstreams with their connections, the routes with
//! their requests in flight.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::StartError;
use super::credentials::{cache, identity};
use super::devices::pool;
use super::keepers::{Gates, Keepers, Start};
use super::targets::Targets;
use crate::admin::Known;
use crate::clock::Clock;
use crate::config::{Address, Config, CredentialConfig, HeaderCase, ListenerConfig, RouteConfig};
use crate::credential::devices::table::Table;
use crate::credential::secrets::Secrets;
use crate::credential::store::Store;
use crate::proxy::guard::Gate;
use crate::proxy::identity::Cache;
use crate::proxy::route::RouteTable;
use crate::proxy::{Identity, Route, Snapshot};
use crate::server::tls::ListenerTls;
use crate::server::{Settings, Syntax};

/// What credentials need that does not change with the configuration.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// Ends all tasks.
    pub(super) stop: CancellationToken,
}

/// A credential, and the end of the tasks that keep it fresh.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) config: CredentialConfig,
    pub(super) identity: Arc<Identity>,
    pub(super) stop: CancellationToken,
    /// Held by these tasks.
    pub(super) runs: Arc<()>,
}

/// Everything that a configuration is put together to, but for listeners.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) credentials: Vec<Part>,
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) targets: Targets,
    gates: Gates,
}

/// What keeps a new credential fresh, not running yet.
pub(super) struct Starting {
    pub(super) part: Part,
    pub(super) start: Start,
}

impl Parts {
    /// Puts `config` together, with `tables` of devices for those credentials that are not in
    /// `before`. The second value is what has to be started.
    ///
    /// # Errors
    /// With everything that cannot be put together.
    pub(super) fn build(
        config: Config,
        secrets: Secrets,
        mut tables: HashMap<String, Table>,
        ground: &Ground,
        before: Option<&Self>,
    ) -> Result<(Self, Vec<Starting>), Vec<StartError>> {
        let mut errors = Vec::new();
        let mut keepers = Keepers::default();
        if let Some(before) = before {
            keepers.1.clone_from(&before.gates);
        }
        let (mut credentials, mut starting) = (Vec::new(), Vec::new());
        for credential in &config.credentials {
            if let Some(same) = before.and_then(|before| before.same_credential(credential)) {
                credentials.push(same.clone());
                continue;
            }
            let own = secrets.only(&credential.secrets());
            let Ground { store, clock, stop } = ground;
            let cache = match tables.remove(&credential.name) {
                Some(table) => {
                    pool(credential, table, &own, store, clock, &mut keepers).map(Cache::Devices)
                }
                None => cache(credential, &own, store, clock, &mut keepers),
            };
            match cache {
                Ok(cache) => {
                    let part = Part {
                        config: credential.clone(),
                        identity: Arc::new(identity(credential, cache)),
                        stop: stop.child_token(),
                        runs: Arc::default(),
                    };
                    let starts = keepers.0.drain(..);
                    starting.extend(starts.map(|start| Starting { part: part.clone(), start }));
                    credentials.push(part);
                }
                Err(error) => errors.push(error),
            }
        }
        let mut targets = match before {
            Some(before) => before.targets.next(remembers_case(&config)),
            None => Targets::new(remembers_case(&config), config.check_permissions),
        };
        // Without all credentials there is nothing to give to routes.
        let identities: Vec<_> =
            credentials.iter().map(|part| Arc::clone(&part.identity)).collect();
        let complete = errors.is_empty();
        let known = before.map_or(&[][..], |before| &before.routes);
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            match targets.target(route) {
                Ok(target) if complete => {
                    let new = self::route(route, target, &identities);
                    routes.push(same_route(known, &new).unwrap_or_else(|| Arc::new(new)));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        targets.keep_those_of(&routes);
        let mut gates = keepers.1;
        gates.retain(|url, gate| {
            let also_before = before.is_some_and(|before| before.gates.contains_key(url));
            Arc::strong_count(gate) > 1 + usize::from(also_before)
        });
        let (config, secrets) = (Arc::new(config), Arc::new(secrets));
        Ok((Self { config, secrets, credentials, routes, targets, gates }, starting))
    }

    /// The credential that is configured in the same way.
    pub(super) fn same_credential(&self, config: &CredentialConfig) -> Option<&Part> {
        self.credentials.iter().find(|part| part.config == *config)
    }

    /// What requests are served by.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot { table: RouteTable::new(&self.config.routes), routes: self.routes.clone() }
    }

    /// The credentials.
    pub(super) fn identities(&self) -> Vec<Arc<Identity>> {
        self.credentials.iter().map(|part| Arc::clone(&part.identity)).collect()
    }

    /// The credentials as the admin listener knows them.
    pub(super) fn known(&self) -> Vec<Known> {
        let known = |part: &Part| Known::of(&part.config, &part.identity);
        self.credentials.iter().map(known).collect()
    }

    /// The listeners, each where it is `bound`: at the port that the system chose for port 0.
    pub(super) fn listeners(
        &self,
        bound: impl Iterator<Item = Option<SocketAddr>>,
    ) -> Vec<ListenerConfig> {
        let listeners = self.config.listeners.iter().zip(bound);
        let bound = |(listener, bound): (&ListenerConfig, Option<SocketAddr>)| match bound {
            Some(bound) => ListenerConfig { address: Address::Tcp(bound), ..listener.clone() },
            None => listener.clone(),
        };
        listeners.map(bound).collect()
    }

    /// How the listener at `bound` is used, with the TLS that `same` would have.
    pub(super) fn settings(
        &self,
        listener: &ListenerConfig,
        bound: Option<SocketAddr>,
        tls: Option<Arc<ListenerTls>>,
    ) -> Settings {
        let config = &self.config;
        let preserves = |route: &RouteConfig| route.connection.header_case == HeaderCase::Preserve;
        let syntax = Syntax {
            protocol: listener.protocol,
            header_case: listener.header_case,
            remember_case: config.routes.iter().any(preserves),
            lenient: listener.lenient,
        };
        let access = listener.access.clone();
        let token = access.caller_token.as_ref().map(|token| token.secret.clone());
        let secrets = self.secrets.only(token.as_slice());
        let gate = Arc::new(Gate::new(access, bound, &config.limits, secrets));
        Settings { tls, syntax, gate }
    }
}

/// A route of `known` that does the same as `new`.
fn same_route(known: &[Arc<Route>], new: &Route) -> Option<Arc<Route>> {
    let same = |old: &&Arc<Route>| {
        let identities = old.identities.iter().zip(&new.identities);
        // Credentials are counted anew when one comes or goes; which they are is compared here.
        let config =
            RouteConfig { credentials: new.config.credentials.clone(), ..old.config.clone() };
        Arc::ptr_eq(&old.target, &new.target)
            && old.identities.len() == new.identities.len()
            && { identities }.all(|(old, new)| Arc::ptr_eq(old, new))
            && config == new.config
    };
    known.iter().find(same).cloned()
}

fn route(
    config: &RouteConfig,
    target: Arc<crate::proxy::upstream::Target>,
    identities: &[Arc<Identity>],
) -> Route {
    let used = config.credentials.iter().filter_map(|index| identities.get(*index).cloned());
    Route::new(config.clone(), target, used.collect())
}

/// True if upstreams' names of fields are to be remembered, for a listener that repeats them.
fn remembers_case(config: &Config) -> bool {
    let preserve = |listener: &ListenerConfig| listener.header_case == HeaderCase::Preserve;
    config.listeners.iter().any(preserve)
}

/// TLS of a listener that has it.
///
/// # Errors
/// When its files cannot be used.
pub(super) fn listener_tls(
    listener: &ListenerConfig,
    config: &Config,
) -> Result<Option<Arc<ListenerTls>>, StartError> {
    let Some(settings) = &listener.tls else { return Ok(None) };
    let check = config.check_permissions;
    let tls = ListenerTls::new(settings.clone(), listener.protocol, check);
    let tls = tls.map_err(|reason| StartError::Tls {
        what: format!("the listener at {}", listener.address),
        reason,
    })?;
    Ok(Some(Arc::new(tls)))
}

/// The route table and the routes of `config`.
///
/// # Errors
/// When TLS to an upstream cannot be set up.
pub fn snapshot(config: &Config, identities: &[Arc<Identity>]) -> Result<Snapshot, StartError> {
    let mut targets = Targets::new(remembers_case(config), config.check_permissions);
    let mut routes = Vec::with_capacity(config.routes.len());
    for config in &config.routes {
        let target = targets.target(config)?;
        routes.push(Arc::new(route(config, target, identities)));
    }
    Ok(Snapshot { table: RouteTable::new(&config.routes), routes })
}
