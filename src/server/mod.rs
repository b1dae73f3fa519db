//! Listeners, workers, and how the one deals connections to the other.
//!
//! Each worker is a thread with a runtime and upstream connections of its own; an accepted
//! connection goes to the least busy worker and stays there.

mod answer;
pub mod bind;
mod caller;
mod http1;
pub mod passed;
mod patience;
mod serve;
mod stopping;
pub mod tls;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{HeaderCase, Limits, Protocol};
use crate::http1::{Case, Spelling};
use crate::proxy::Proxy;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::upstream::Pools;
use bind::{Accepted, Bound, Socket};
use tls::ListenerTls;
use worker::Workers;

/// How long to wait when the system has no file descriptor left. As many callers as there are
/// descriptors are served between two pauses, also of those who have gone away meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long connections that have no request are waited for that are to end with their next answer.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Connections at once of callers who may not call, to be told so.
const STRANGERS: usize = 16;

/// A listener and how it is used.
#[derive(Debug)]
pub struct Listener {
    /// The open socket.
    pub socket: Socket,
    /// How it is used at the moment.
    pub settings: Arc<ArcSwap<Settings>>,
}

/// What may change of a listener while it serves. A connection keeps its TLS and syntax; who may
/// call is asked for every request.
#[derive(Debug, Clone)]
pub struct Settings {
    /// TLS; none for plain HTTP.
    pub tls: Option<Arc<ListenerTls>>,
    /// What is spoken.
    pub syntax: Syntax,
    /// Who may call.
    pub gate: Arc<Gate>,
}

/// What a listener speaks, and how strictly.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    /// Which HTTP versions.
    pub protocol: Protocol,
    /// How names of fields are written in answers.
    pub header_case: HeaderCase,
    /// Requests remember how the caller wrote the names of fields.
    pub remember_case: bool,
    /// Bear with odd syntax.
    pub lenient: bool,
}

impl Syntax {
    /// How names of fields are written in an answer whose own are spelled like that.
    fn case(self, spelling: Option<&Spelling>) -> Case<'_> {
        match (self.header_case, spelling) {
            (HeaderCase::Lower, _) => Case::Lower,
            (HeaderCase::Preserve, Some(spelling)) => Case::As(spelling),
            (HeaderCase::Title | HeaderCase::Preserve, _) => Case::Title,
        }
    }
}

/// A connection on its way to a worker.
struct Connection {
    accepted: Accepted,
    ends: Ends,
    settings: Arc<ArcSwap<Settings>>,
    _slots: Slots,
}

/// Whom a connection hands its requests to.
struct Service {
    proxy: Arc<Proxy>,
    pools: Rc<Pools>,
    settings: Arc<ArcSwap<Settings>>,
    ends: Ends,
}

impl Service {
    /// Who may call now.
    fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.settings.load().gate)
    }
}

/// The places a connection takes up, given back when it ends.
struct Slots {
    _total: OwnedSemaphorePermit,
    _stranger: Option<OwnedSemaphorePermit>,
    _peer: Option<PeerSlot>,
}

/// The running data plane.
#[derive(Debug)]
pub struct Server {
    workers: Workers,
    acceptors: Option<std::thread::JoinHandle<()>>,
    doors: Doors,
    stop: CancellationToken,
}

/// When the listeners begin to accept, and when they end.
#[derive(Debug, Clone, Default)]
struct Doors {
    open: CancellationToken,
    close: CancellationToken,
    /// Another process has the sockets: paths of theirs are not ours to remove.
    handed: CancellationToken,
}

impl Server {
    /// Starts `workers` threads, and accepts on every listener as soon as it is told to.
    ///
    /// # Errors
    /// When the system refuses a thread or a socket.
    pub fn start(listeners: Vec<Listener>, proxy: &Arc<Proxy>, workers: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let workers = Workers::start(workers, proxy, &stop)?;
        let dealer = Arc::new(Dealer {
            workers: workers.handles(),
            connections: Arc::new(Semaphore::new(proxy.limits.connections)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            peers: Arc::default(),
            limits: proxy.limits.clone(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let doors = Doors::default();
        let accepting = doors.clone();
        let acceptors = std::thread::Builder::new().name("accept".to_owned()).spawn(move || {
            let tracker = TaskTracker::new();
            runtime.block_on(async {
                for listener in listeners {
                    let dealer = Arc::clone(&dealer);
                    tracker.spawn(dealer.accept(listener, accepting.clone()));
                }
                tracker.close();
                tracker.wait().await;
            });
        })?;
        Ok(Self { workers, acceptors: Some(acceptors), doors, stop })
    }

    /// True once every worker has said that it is there, and the thread that accepts is.
    pub async fn is_alive(&self) -> bool {
        let accepting = self.acceptors.as_ref().is_some_and(|thread| !thread.is_finished());
        accepting && self.workers.answer().await
    }

    /// What tells the workers that routes are gone.
    pub fn broom(&self) -> Broom {
        Broom(self.workers.handles())
    }

    /// Begins to accept.
    pub fn open(&self) {
        self.doors.open.cancel();
    }

    /// From now on connections of HTTP/1.1 end with their next answer, which says so: unlike one
    /// that is closed while it is idle, nobody sends a request into it that is lost.
    pub fn say_goodbye(&self) {
        self.workers.say_goodbye();
    }

    /// Another process has the sockets and accepts: this one stops to, and those who are connected
    /// here have a moment for a last request.
    pub async fn hand_over(&mut self) {
        self.doors.handed.cancel();
        self.say_goodbye();
        self.close().await;
        self.workers.all_ended(LAST_REQUESTS).await;
    }

    /// Stops accepting, lets requests in flight finish for up to `drain`, and ends.
    ///
    /// Returns the number of connections that had to be cut off.
    pub async fn stop(mut self, drain: Duration) -> usize {
        self.stop.cancel();
        self.close().await;
        self.workers.drain(drain).await
    }

    async fn close(&mut self) {
        self.doors.close.cancel();
        // First: what was accepted last is on its way to a worker before these are counted.
        let acceptors = self.acceptors.take();
        let Some(acceptors) = acceptors else { return };
        let joined = tokio::task::spawn_blocking(move || acceptors.join());
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("an acceptor ended badly");
        }
    }
}

/// Has every worker close the connections to where no route leads any more.
#[derive(Debug, Clone)]
pub struct Broom(Vec<worker::Handle>);

impl Broom {
    /// Does not wait for it.
    pub fn sweep(&self) {
        self.0.iter().for_each(worker::Handle::sweep);
    }
}

/// Accepts connections and deals them out.
struct Dealer {
    workers: Vec<worker::Handle>,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limits: Limits,
}

impl Dealer {
    async fn accept(self: Arc<Self>, listener: Listener, doors: Doors) {
        let Listener { socket, settings } = listener;
        let bound = match socket.attach() {
            Ok(bound) => bound,
            Err(error) => {
                tracing::error!(%error, "a listener cannot be served");
                return;
            }
        };
        let Doors { open, close, handed } = doors;
        tokio::select! {
            biased;
            () = open.cancelled() => self.accept_from(&bound, &settings, &close).await,
            // Never opened: whoever waits in the socket is another process's.
            () = close.cancelled() => {}
        }
        if !handed.is_cancelled() {
            bound.close();
        }
    }

    /// Accepts until told to stop.
    async fn accept_from(
        &self,
        bound: &Bound,
        settings: &Arc<ArcSwap<Settings>>,
        stop: &CancellationToken,
    ) {
        let mut complaints = Complaints::default();
        loop {
            if self.connections.available_permits() == 0 {
                self.make_room();
            }
            // A connection that has no place stays in the system's queue.
            let permit = tokio::select! {
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
                () = stop.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = bound.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (accepted, ends) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The caller is gone already, or there is no descriptor left for it.
                    if error.kind() != std::io::ErrorKind::ConnectionAborted {
                        complaints.say(&error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            // Who may not call does not take the places of those who may.
            let mut stranger = None;
            if !settings.load().gate.knows(&ends) {
                let Ok(place) = Arc::clone(&self.strangers).try_acquire_owned() else { continue };
                stranger = Some(place);
            }
            let peer = ends.peer.map(|peer| peer.to_canonical());
            let peer = match peer.filter(|peer| !peer.is_loopback()) {
                None => None,
                Some(peer) => match self.peer_slot(peer) {
                    Some(slot) => Some(slot),
                    None => continue,
                },
            };
            self.deal(Connection {
                accepted,
                ends,
                settings: Arc::clone(settings),
                _slots: Slots { _total: permit, _stranger: stranger, _peer: peer },
            });
        }
    }

    fn deal(&self, connection: Connection) {
        let least_busy = self.workers.iter().min_by_key(|worker| worker.connections());
        if let Some(worker) = least_busy {
            worker.hand(connection);
        }
    }

    /// All places are taken: a connection without a request is to give its own up.
    fn make_room(&self) {
        let busiest = self.workers.iter().max_by_key(|worker| worker.connections());
        if let Some(worker) = busiest {
            worker.make_room();
        }
    }

    /// A place for one more connection from `peer`; `None` if it has too many.
    fn peer_slot(&self, peer: IpAddr) -> Option<PeerSlot> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_insert(0);
        if *count >= self.limits.connections_per_address {
            tracing::debug!(%peer, "too many connections from one address");
            return None;
        }
        *count += 1;
        Some(PeerSlot { peer, peers: Arc::clone(&self.peers) })
    }
}

/// Says once a second that connections cannot be accepted, not fifty times.
#[derive(Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn say(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.0.is_none_or(|last| now - last >= Duration::from_secs(1)) {
            self.0 = Some(now);
            tracing::warn!(%error, "connections cannot be accepted");
        }
    }
}

struct PeerSlot {
    peer: IpAddr,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}
