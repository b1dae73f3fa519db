//! Wiring: from a [`Config`] to a running program.

mod changes;
mod credentials;
mod devices;
mod error;
mod exchange;
mod keepers;
mod parts;
mod reload;
mod restart;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Sight};
use crate::clock::Clock;
use crate::config::{Address, Config};
use crate::control::Control;
use crate::credential::keeper::Watch;
use crate::credential::secrets::Secrets;
use crate::credential::store::Store;
use crate::credential::store::file::Lender;
use crate::credential::store::running::{Running as RunningStore, Task};
use crate::handover::{Offered, Role};
use crate::proxy::{Identity, Proxy};
use crate::server::bind::Socket;
use crate::server::passed::Passed;
use crate::server::{Listener, Server, Settings};
use crate::stamp::POLL_INTERVAL;
#[cfg(feature = "otlp")]
use crate::telemetry::trace;
use crate::telemetry::trace::tracer::Tracer;
pub use credentials::{identity, oauth_source, slot, source};
pub use devices::tables;
pub use error::StartError;
use keepers::Nursery;
pub use parts::snapshot;
use parts::{Ground, Parts, Starting, listener_tls};
pub use reload::{Origin, Reloading};
use reload::{Place, Reloader};

/// Everything that runs, put together but not started.
pub struct App {
    parts: Parts,
    /// What keeps the credentials fresh, not running yet.
    starting: Vec<Starting>,
    ground: Ground,
    listeners: Vec<(Socket, Settings)>,
    admin: Option<std::net::TcpListener>,
    proxy: Arc<Proxy>,
    /// What runs for the store of tokens.
    store: Option<Task>,
    /// Who sends traces, where there are any.
    #[cfg(feature = "otlp")]
    exporter: Option<trace::Exporter>,
    lender: Lender,
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
        let tables = tables(&config)?;
        let of_store: Vec<_> = config.token_store.secrets().into_iter().cloned().collect();
        let of_store = secrets.only(&of_store);
        let (store, task) = Store::open(&config.token_store, &of_store, &clock).await?;
        let lender = store.lender();
        let ground = Ground { store, clock: clock.clone(), stop: CancellationToken::new() };
        let built = Parts::build(config, secrets, tables, &ground, None);
        // What was wrong first is told; `check` tells of the rest.
        let (parts, starting) = built.map_err(|errors| {
            let mut errors = errors.into_iter();
            errors.next().unwrap_or_else(|| std::io::Error::other("it is not put together").into())
        })?;
        let config = Arc::clone(&parts.config);
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let tls = listener_tls(listener, &config)?;
            let socket = match passed.take(Role::Listener, &listener.address) {
                Some(socket) => socket,
                None => Socket::open(&listener.address)?,
            };
            let settings = parts.settings(listener, socket.tcp_address(), tls);
            listeners.push((socket, settings));
        }
        let admin = match &config.admin {
            Some(admin) => {
                let address = Address::Tcp(admin.address);
                let socket = match passed.take(Role::Admin, &address) {
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
        let proxy = Proxy::new(parts.snapshot(), clock.clone(), config.limits.clone());
        let tracer = config.trace.as_ref().map(|trace| Tracer::new(trace, clock.clone()));
        let tracer = tracer.map(Arc::new);
        #[cfg(feature = "otlp")]
        let exporter = exporter(&config, tracer.as_ref(), &parts.secrets, &clock)?;
        let proxy = proxy.with_request_id(config.log.request_id.clone()).with_tracer(tracer);
        let proxy = Arc::new(proxy);
        Ok(Self {
            parts,
            starting,
            ground,
            listeners,
            admin,
            proxy,
            store: task,
            #[cfg(feature = "otlp")]
            exporter,
            lender,
        })
    }

    /// Where callers connect: the TCP addresses, with the ports the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(socket, _)| socket.tcp_address()).collect()
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// Lends the store of tokens to the process that takes over.
    pub fn lender(&self) -> Lender {
        self.lender.clone()
    }

    /// The listening sockets, to be handed to the process that takes over.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn offered(&self) -> std::io::Result<Vec<Offered>> {
        let config = &self.parts.config;
        let listeners = self.listeners.iter().zip(&config.listeners);
        let mut offered = listeners
            .map(|((socket, ..), config)| socket.offer(Role::Listener, &config.address))
            .collect::<std::io::Result<Vec<_>>>()?;
        if let (Some(socket), Some(admin)) = (&self.admin, &config.admin) {
            let address = Address::Tcp(admin.address);
            offered.push(Socket::Tcp(socket.try_clone()?).offer(Role::Admin, &address)?);
        }
        Ok(offered)
    }

    /// The files that the devices of credentials name as their secrets.
    pub fn device_files(&self) -> Vec<std::path::PathBuf> {
        let parts = self.parts.credentials.iter();
        let pools = parts.filter_map(|part| part.identity.cache.devices());
        pools.flat_map(|pool| pool.table().directories()).collect()
    }

    /// Starts everything. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// When the system refuses a thread or a socket.
    pub fn start(self) -> Result<Running, StartError> {
        let running = self.start_closed(Reloading::default())?;
        running.open();
        Ok(running)
    }

    /// The same for a program that can go over to another configuration, and without accepting
    /// anybody yet: credentials are fetched, and callers wait.
    ///
    /// # Errors
    /// When the system refuses a thread or a socket.
    pub fn start_closed(self, reloading: Reloading) -> Result<Running, StartError> {
        let addresses = self.addresses();
        let admin_address = self.admin_address();
        #[cfg(feature = "otlp")]
        let exporter = self.exporter;
        let Self { parts, starting, ground, listeners, admin, proxy, store, .. } = self;
        let (tracker, watch, stop) = (TaskTracker::new(), Watch::default(), &ground.stop);
        // For the admin listener; the others have doors of their own.
        let (open, close) = (CancellationToken::new(), stop.child_token());
        let store = store.map(Task::start);
        for Starting { part, start } in starting {
            start(&Nursery {
                tracker: &tracker,
                watch: &watch,
                stop: &part.stop,
                runs: &part.runs,
            });
        }
        let (control, requests) = Control::new();
        let of_secrets = stop.child_token();
        let watching = Arc::clone(&parts.secrets).watch(POLL_INTERVAL, of_secrets.clone());
        let secrets = (of_secrets, tracker.spawn(watching));
        let tls_stop = stop.child_token();
        parts.targets.watch(POLL_INTERVAL, &tls_stop, &tracker);
        let (mut places, mut sockets) = (Vec::new(), Vec::new());
        for (socket, settings) in listeners {
            let tls_stop = stop.child_token();
            if let Some(tls) = &settings.tls {
                tracker.spawn(Arc::clone(tls).watch(POLL_INTERVAL, tls_stop.clone()));
            }
            let (bound, settings) =
                (socket.tcp_address(), Arc::new(ArcSwap::from_pointee(settings)));
            sockets.push(Listener { socket, settings: Arc::clone(&settings) });
            places.push(Place { bound, settings, tls_stop });
        }
        let admin = match (admin, &parts.config.admin) {
            (Some(socket), Some(config)) => {
                let sight = Sight::new(Arc::clone(&proxy), ground.clock.clone());
                sight.show(parts.known(), parts.listeners(places.iter().map(|place| place.bound)));
                let (bound, secrets) = (socket.local_addr()?, Arc::clone(&parts.secrets));
                let (config, watch, control) = (config.clone(), watch.clone(), control.clone());
                let admin = Arc::new(Admin::new(config, bound, sight, secrets, watch, control));
                let listener = tokio::net::TcpListener::from_std(socket)?;
                let doors = (open.clone(), close.clone());
                tracker.spawn(serve_admin(listener, Arc::clone(&admin), doors, stop.clone()));
                Some(admin)
            }
            _ => None,
        };
        let server = Server::start(sockets, &proxy, parts.config.workers)?;
        let now = Arc::new(ArcSwap::from_pointee(Now::of(&parts)));
        let eager = parts.credentials.iter().filter(|part| part.config.refresh.eager);
        let eager = eager.map(|part| Arc::clone(&part.identity)).collect();
        let (clock, stop) = (ground.clock.clone(), stop.clone());
        let settled = stop.child_token();
        let reloader = Reloader {
            reloading,
            parts,
            ground,
            places,
            proxy: Arc::clone(&proxy),
            admin,
            watch,
            tracker: tracker.clone(),
            broom: server.broom(),
            now: Arc::clone(&now),
            control: control.clone(),
            secrets,
            tls_stop,
            removed: Vec::new(),
            ending: Vec::new(),
            again: None,
        };
        tracker.spawn(reloader.run(requests, open.clone(), settled.clone()));
        #[cfg(feature = "otlp")]
        if let Some(exporter) = exporter {
            tracker.spawn(exporter.run(stop.clone()));
        }
        tracker.close();
        Ok(Running {
            addresses,
            admin_address,
            now,
            eager,
            proxy,
            clock,
            control,
            server,
            tracker,
            open,
            close,
            settled,
            stop,
            store,
        })
    }
}

/// Serves what the admin listener is asked from the moment on when the first of `doors` opens until
/// the second closes.
async fn serve_admin(
    listener: tokio::net::TcpListener,
    admin: Arc<Admin>,
    (open, close): (CancellationToken, CancellationToken),
    stop: CancellationToken,
) {
    tokio::select! {
        biased;
        () = open.cancelled() => {}
        // Never opened: whoever waits in the socket is another process's.
        () = close.cancelled() => return,
    }
    admin::serve(listener, admin, close, stop).await;
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// What changes when the running program goes over to another configuration.
#[derive(Debug)]
struct Now {
    identities: Vec<Arc<Identity>>,
    linger: Duration,
    drain: Duration,
}

impl Now {
    fn of(parts: &Parts) -> Self {
        let Config { linger, drain, .. } = *parts.config;
        Self { identities: parts.identities(), linger, drain }
    }
}

/// The running program.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    now: Arc<ArcSwap<Now>>,
    /// The credentials that are fetched at start.
    eager: Vec<Arc<Identity>>,
    proxy: Arc<Proxy>,
    clock: Clock,
    control: Control,
    server: Server,
    tracker: TaskTracker,
    /// The admin listener begins to accept.
    open: CancellationToken,
    /// It accepts no more.
    close: CancellationToken,
    /// It goes over to no other configuration.
    settled: CancellationToken,
    stop: CancellationToken,
    store: Option<RunningStore>,
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
    pub fn identities(&self) -> Vec<Arc<Identity>> {
        self.now.load().identities.clone()
    }

    /// What requests are served by.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What can be asked of it.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// How long it goes on serving after the signal to end, as configured now.
    pub fn linger(&self) -> Duration {
        self.now.load().linger
    }

    /// How long requests in flight may take to finish then, as configured now.
    pub fn drain(&self) -> Duration {
        self.now.load().drain
    }

    /// True once everything that serves has said that it is there.
    pub async fn is_alive(&self) -> bool {
        self.server.is_alive().await
    }

    /// Begins to accept callers.
    pub fn open(&self) {
        self.server.open();
        self.open.cancel();
    }

    /// Waits until every credential is usable that is fetched at start.
    pub async fn fetched(&self) {
        while !self.missing().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The credentials that are fetched at start and are not usable.
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.eager.iter().filter(|identity| !identity.cache.is_ready());
        missing.map(|identity| identity.name.as_str()).collect()
    }

    /// Ends after another process has taken over the sockets: those who are connected here have a
    /// last answer, and requests in flight may finish within the drain time.
    ///
    /// Returns the number of connections that had to be cut off.
    pub async fn hand_over(mut self) -> usize {
        self.control.stop();
        self.settled.cancel();
        self.close.cancel();
        self.server.hand_over().await;
        self.end().await
    }

    /// Ends gracefully: goes on serving for the linger time, but is not ready any more; then takes
    /// no new connections, and requests in flight may finish within the drain time.
    ///
    /// Returns the number of connections that had to be cut off.
    pub async fn stop(self) -> usize {
        self.control.stop();
        self.settled.cancel();
        let linger = self.linger();
        if !linger.is_zero() {
            self.server.say_goodbye();
            tokio::time::sleep(linger).await;
        }
        self.end().await
    }

    async fn end(self) -> usize {
        let drain = self.drain();
        let cut_off = self.server.stop(drain).await;
        self.stop.cancel();
        self.tracker.wait().await;
        // After all who have something to save.
        if let Some(store) = self.store {
            store.close().await;
        }
        cut_off
    }
}

/// Who sends what `tracer` takes.
#[cfg(feature = "otlp")]
fn exporter(
    config: &Config,
    tracer: Option<&Arc<Tracer>>,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<Option<trace::Exporter>, StartError> {
    let Some((config, tracer)) = config.trace.as_ref().zip(tracer) else { return Ok(None) };
    let (tracer, secrets, check) = (Arc::clone(tracer), Arc::clone(secrets), secrets.check());
    let exporter = trace::Exporter::new(config, tracer, secrets, clock.clone(), check);
    let what = || "the collector of traces".to_owned();
    exporter.map(Some).map_err(|reason| StartError::Tls { what: what(), reason })
}
