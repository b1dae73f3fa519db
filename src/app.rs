//! Wiring: from a [`Config`] to a running program.

mod devices;
mod targets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Known, Sight};
use crate::clock::Clock;
use crate::config::{Config, CredentialConfig, HeaderCase, ListenerConfig, SourceSpec};
use crate::connect::{InvalidHost, InvalidProxy};
use crate::credential::cache::{CacheSettings, CredentialCache};
use crate::credential::devices::DevicesError;
use crate::credential::devices::gate::EndpointGate;
use crate::credential::http::TokenClient;
use crate::credential::keeper::{Keeper, Watch};
use crate::credential::login::{LoginSource, LoginSpec};
use crate::credential::oauth::{OauthSource, OauthSpec};
use crate::credential::refresher::{Progress, Refresher};
use crate::credential::secrets::{SecretError, Secrets};
use crate::credential::source::Source;
use crate::credential::store::open::OpenError;
use crate::credential::store::running::{Running as RunningStore, Task};
use crate::credential::store::{Slot, Store};
use crate::credential::{Credential, fixed};
use crate::permissions::Check;
use crate::proxy::guard::Gate;
use crate::proxy::identity::Cache;
use crate::proxy::route::RouteTable;
use crate::proxy::{Identity, Proxy, Route, Snapshot};
use crate::secret::Secret;
use crate::server::bind::{BindError, Socket};
use crate::server::passed::{Passed, PassedError};
use crate::server::tls::ListenerTls;
use crate::server::{Listener, Server, Syntax};
use crate::sign::{BodyCoverage, Scheme};
use crate::stamp::POLL_INTERVAL;
use crate::tls::{TlsError, client_config};
use crate::values::Values;
use devices::pool;
pub use devices::tables;
use targets::Targets;

/// Everything that runs, put together but not started.
#[derive(Debug)]
pub struct App {
    config: Config,
    secrets: Arc<Secrets>,
    clock: Clock,
    listeners: Vec<(Socket, Option<Arc<ListenerTls>>, Arc<Gate>)>,
    admin: Option<std::net::TcpListener>,
    identities: Vec<Arc<Identity>>,
    proxy: Arc<Proxy>,
    /// The tasks that keep credentials fresh, not running yet.
    keepers: Keepers,
    /// Which of these do not run because of a panic.
    watch: Watch,
    /// What runs for the store of tokens.
    store: Option<Task>,
}

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Secrets that cannot be read; all of them.
    #[error("{} cannot be read", if .0.len() == 1 { "a secret" } else { "secrets" })]
    Secrets(Vec<SecretError>),
    /// Files of devices that cannot be used; all of them.
    #[error("devices cannot be read")]
    Devices(Vec<DevicesError>),
    /// TLS files that cannot be used.
    #[error("TLS for {what} cannot be set up: {reason}")]
    Tls {
        /// What it is for.
        what: String,
        /// Why not.
        reason: TlsError,
    },
    /// A credential's values do not fit.
    #[error("the credential '{name}' cannot be used: {reason}")]
    Credential {
        /// Its name.
        name: String,
        /// Why not.
        reason: crate::sign::BindError,
    },
    /// A store of tokens that cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An upstream without a usable host.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// A proxy that the environment names and that cannot be used.
    #[error("HTTPS_PROXY cannot be used: {0}; set NO_PROXY, or proxy = \"none\" on the route")]
    Proxy(#[from] InvalidProxy),
    /// An address that cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Sockets of the service manager that cannot be used.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The system refuses something else.
    #[error("the system refuses a thread or a socket: {0}")]
    System(#[from] std::io::Error),
}

/// The tasks that keep credentials fresh.
#[derive(Default)]
struct Keepers(Vec<Start>, Gates);

/// What those share whose token endpoint is the same, by its URL.
type Gates = HashMap<String, Arc<EndpointGate>>;

/// Starts what keeps one credential fresh.
type Start = Box<dyn FnOnce(&Nursery<'_>) + Send>;

/// Where the tasks run that keep credentials fresh.
struct Nursery<'a> {
    tracker: &'a TaskTracker,
    watch: &'a Watch,
    stop: &'a CancellationToken,
}

impl Nursery<'_> {
    /// Runs `keeper` of `credential` until the end, also if it panics.
    fn keep(&self, credential: &str, keeper: impl Keeper + 'static) {
        let watch = self.watch.clone();
        let kept = watch.over(keeper, credential.to_owned(), self.stop.clone());
        self.tracker.spawn(kept);
    }
}

impl std::fmt::Debug for Keepers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keepers({})", self.0.len())
    }
}

impl App {
    /// Reads the secrets, opens the sockets and puts everything together.
    ///
    /// # Errors
    /// With the reason why it cannot run.
    pub async fn build(config: Config, clock: Clock) -> Result<Self, StartError> {
        Self::build_with(config, clock, Passed::default()).await
    }

    /// The same with sockets that are open already.
    ///
    /// # Errors
    /// With the reason why it cannot run.
    pub async fn build_with(
        config: Config,
        clock: Clock,
        mut passed: Passed,
    ) -> Result<Self, StartError> {
        let secrets = Secrets::resolve(config.secrets(), config.check_permissions).await;
        let secrets = secrets.map_err(StartError::Secrets)?;
        let secrets = Arc::new(secrets);
        let mut tables = tables(&config)?;
        let (store, task) = Store::open(&config.token_store, &secrets, &clock).await?;
        let mut keepers = Keepers::default();
        let mut identities = Vec::with_capacity(config.credentials.len());
        for credential in &config.credentials {
            let cache = match tables.remove(&credential.name) {
                Some(table) => {
                    Cache::Devices(pool(credential, table, &secrets, &store, &clock, &mut keepers)?)
                }
                None => cache(credential, &secrets, &store, &clock, &mut keepers)?,
            };
            identities.push(Arc::new(identity(credential, cache)));
        }
        let snapshot = snapshot(&config, &identities)?;
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let tls = listener_tls(listener, config.check_permissions)?;
            let socket = match passed.take(&listener.address) {
                Some(socket) => socket,
                None => Socket::open(&listener.address)?,
            };
            let gate = Gate::new(
                listener.access.clone(),
                socket.tcp_address(),
                &config.limits,
                Arc::clone(&secrets),
            );
            listeners.push((socket, tls, Arc::new(gate)));
        }
        let admin = match &config.admin {
            Some(admin) => {
                let address = crate::config::Address::Tcp(admin.address);
                let socket = match passed.take(&address) {
                    Some(socket) => socket,
                    None => Socket::open(&address)?,
                };
                match socket {
                    Socket::Tcp(socket) => Some(socket),
                    #[cfg(unix)]
                    Socket::Unix(..) => None,
                }
            }
            None => None,
        };
        passed.finish()?;
        let proxy = Proxy::new(snapshot, clock.clone(), config.limits.clone());
        let proxy = Arc::new(proxy.with_request_id(config.log.request_id.clone()));
        Ok(Self {
            config,
            secrets,
            clock,
            listeners,
            admin,
            identities,
            proxy,
            keepers,
            watch: Watch::default(),
            store: task,
        })
    }

    /// Where callers connect: the TCP addresses, with the ports the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(socket, ..)| socket.tcp_address()).collect()
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// The files that the devices of credentials name as their secrets.
    pub fn device_files(&self) -> Vec<std::path::PathBuf> {
        let pools = self.identities.iter().filter_map(|identity| identity.cache.devices());
        pools.flat_map(|pool| pool.table().directories()).collect()
    }

    /// Starts everything. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// When the system refuses a thread or a socket.
    pub fn start(self) -> Result<Running, StartError> {
        let addresses = self.addresses();
        let admin_address = self.admin_address();
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        let store = self.store.map(Task::start);
        let nursery = Nursery { tracker: &tracker, watch: &self.watch, stop: &stop };
        for start in self.keepers.0 {
            start(&nursery);
        }
        let watching = Arc::clone(&self.secrets).watch(POLL_INTERVAL, stop.clone());
        tracker.spawn(watching);
        for tls in self.listeners.iter().filter_map(|(_, tls, _)| tls.as_ref()) {
            tracker.spawn(Arc::clone(tls).watch(POLL_INTERVAL, stop.clone()));
        }
        if let (Some(socket), Some(config)) = (self.admin, &self.config.admin) {
            let known = self.config.credentials.iter().zip(&self.identities);
            let known = known.map(|(credential, identity)| Known::of(credential, identity));
            let sight = Sight::new(known.collect(), Arc::clone(&self.proxy), self.clock.clone());
            let (bound, secrets) = (socket.local_addr()?, Arc::clone(&self.secrets));
            let admin = Admin::new(config.clone(), bound, sight, secrets, self.watch);
            let listener = tokio::net::TcpListener::from_std(socket)?;
            tracker.spawn(admin::serve(listener, Arc::new(admin), stop.clone()));
        }
        tracker.close();
        let remember_case = self
            .config
            .routes
            .iter()
            .any(|route| route.connection.header_case == HeaderCase::Preserve);
        let listeners = self
            .listeners
            .into_iter()
            .zip(&self.config.listeners)
            .map(|((socket, tls, gate), config)| {
                let syntax = Syntax {
                    protocol: config.protocol,
                    header_case: config.header_case,
                    remember_case,
                    lenient: config.lenient,
                };
                Listener { socket, tls, syntax, gate }
            })
            .collect();
        let server = Server::start(listeners, &self.proxy, self.config.workers)?;
        Ok(Running {
            addresses,
            admin_address,
            identities: self.identities,
            proxy: self.proxy,
            clock: self.clock,
            server,
            tracker,
            stop,
            store,
            drain: self.config.drain,
        })
    }
}

/// The running program.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    identities: Vec<Arc<Identity>>,
    proxy: Arc<Proxy>,
    clock: Clock,
    server: Server,
    tracker: TaskTracker,
    stop: CancellationToken,
    store: Option<RunningStore>,
    drain: Duration,
}

impl Running {
    /// Where callers connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The credentials.
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// What requests are served by.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// True once everything that serves has said that it is there.
    pub async fn is_alive(&self) -> bool {
        self.server.is_alive().await
    }

    /// Ends gracefully: no new connections, requests in flight may finish within the drain time.
    ///
    /// Returns the number of connections that had to be cut off.
    pub async fn stop(self) -> usize {
        let cut_off = self.server.stop(self.drain).await;
        self.stop.cancel();
        self.tracker.wait().await;
        // After all who have something to save.
        if let Some(store) = self.store {
            store.close().await;
        }
        cut_off
    }
}

/// TLS of a listener that has it.
fn listener_tls(
    listener: &ListenerConfig,
    check: Check,
) -> Result<Option<Arc<ListenerTls>>, StartError> {
    let Some(settings) = &listener.tls else { return Ok(None) };
    let tls = ListenerTls::new(settings.clone(), listener.protocol, check);
    let tls = tls.map_err(|reason| StartError::Tls {
        what: format!("the listener at {}", listener.address),
        reason,
    })?;
    Ok(Some(Arc::new(tls)))
}

/// A credential's cache, and the task that keeps it fresh.
fn cache(
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
fn login(
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

fn login_source(
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
        Some(client_config(&credential.tls, secrets.check()).map_err(|reason| StartError::Tls {
            what: format!("the credential '{}'", credential.name),
            reason,
        })?)
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

/// The route table and the routes of `config`.
///
/// # Errors
/// When TLS to an upstream cannot be set up.
pub fn snapshot(config: &Config, identities: &[Arc<Identity>]) -> Result<Snapshot, StartError> {
    let preserve = |listener: &ListenerConfig| listener.header_case == HeaderCase::Preserve;
    let remember_case = config.listeners.iter().any(preserve);
    let check = config.check_permissions;
    let mut targets = Targets::new(remember_case, check);
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let target = targets.target(route)?;
        let identities =
            route.credentials.iter().filter_map(|index| identities.get(*index).cloned()).collect();
        routes.push(Arc::new(Route::new(route.clone(), target, identities)));
    }
    Ok(Snapshot { table: RouteTable::new(&config.routes), routes })
}
