//! The connections of one worker to one upstream: which one a request gets, and what becomes of it
//! afterwards.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;

use super::content::UpstreamContent;
use super::http1::Http1;
use super::http2::{self, Http2, SharedStream};
use super::outcome::Failure;
use super::{Answer, Fate, Needs, Outgoing, SendError, Target};
use crate::config::Http2 as Protocols;
use crate::connect::{DialError, Stream};
use crate::proxy::content::Progress;
use crate::proxy::respond::ProxyError;

/// How many new connections may end, one after the other, before a request is written.
const MAX_UNSENT: usize = 3;

/// How often connections are looked at while there are idle ones: what the upstream has closed is
/// given up by then.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections to one target.
#[derive(Debug)]
pub struct Pool {
    target: Arc<Target>,
    /// HTTP/1.1 connections without a request; the one used last is at the end.
    idle: RefCell<Vec<Idle>>,
    /// HTTP/2 connections, with and without requests.
    shared: RefCell<Vec<Rc<Http2>>>,
    /// What the upstream chose last, where it may choose.
    speaks_http2: Cell<Option<bool>>,
    /// Held by whoever connects on behalf of all others who could share that connection.
    connecting: tokio::sync::Mutex<()>,
    /// Failed attempts so far, and what came of the last, for those who waited for it.
    failures: RefCell<(u64, Option<DialError>)>,
    sweeping: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Http1>,
    until: Instant,
}

impl Pool {
    pub(super) fn new(target: Arc<Target>) -> Self {
        let speaks_http2 = match target.settings.http2 {
            Protocols::Never => Some(false),
            Protocols::Always => Some(true),
            Protocols::Auto => (!target.origin.is_secure()).then_some(false),
        };
        Self {
            target,
            idle: RefCell::default(),
            shared: RefCell::default(),
            speaks_http2: Cell::new(speaks_http2),
            connecting: tokio::sync::Mutex::default(),
            failures: RefCell::default(),
            sweeping: Cell::new(false),
        }
    }

    /// True if these are connections to `target`.
    pub(super) fn is_for(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(&self.target, target)
    }

    /// True if no route leads here any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.target.removed.load(Ordering::Relaxed)
    }

    /// Sends `outgoing` and waits for the head of the answer, at most `first_byte` after the last
    /// piece of the request was taken.
    ///
    /// # Errors
    /// With the answer to give, and whether the request may be sent again.
    pub async fn send(
        self: Rc<Self>,
        outgoing: Box<Outgoing>,
        progress: &Arc<Progress>,
        first_byte: Duration,
    ) -> Result<Answer, SendError> {
        let needs = outgoing.needs;
        let kept = self.kept(needs, progress.started());
        let mut from = progress.started();
        let mut connection = match kept {
            Some(connection) => connection,
            // Boxed, here and below: what is rare does not make every request's future larger.
            None => match Box::pin(self.other(needs)).await? {
                Connection::Http1(connection) => {
                    from = Instant::now();
                    connection
                }
                Connection::Http2(stream) => {
                    return Box::pin(self.send_http2(stream, *outgoing, progress, first_byte))
                        .await;
                }
            },
        };
        let mut wait = connection.wait(from, first_byte);
        connection.send(*outgoing);
        let answer = std::future::poll_fn(|cx| connection.poll_answer(cx, progress, &mut wait));
        let head = answer.await?;
        let request = unfinished(progress);
        let pool = Rc::downgrade(&self);
        let content = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            UpstreamContent::upgraded(connection, pool)
        } else {
            let mut content = UpstreamContent::http1(connection, pool);
            content.settle();
            content
        };
        let response = Response::from_parts(head, content);
        Ok(Answer { response, request, scrub: None })
    }

    /// A connection that has served before, if one will do.
    fn kept(&self, needs: Needs, now: Instant) -> Option<Box<Http1>> {
        let any = needs.upgrade || needs.fresh_connection || self.speaks_http2.get() == Some(true);
        if any { None } else { self.take_idle(now) }
    }

    /// Another connection.
    async fn other(self: &Rc<Self>, needs: Needs) -> Result<Connection, SendError> {
        if needs.upgrade {
            return self.connect_http1().await.map(Connection::Http1);
        }
        match self.speaks_http2.get() {
            Some(false) => self.connect().await,
            Some(true) | None => self.shared_or_new().await,
        }
    }

    async fn send_http2(
        self: &Rc<Self>,
        mut stream: SharedStream,
        outgoing: Outgoing,
        progress: &Arc<Progress>,
        first_byte: Duration,
    ) -> Result<Answer, SendError> {
        let mut request = http2::request(outgoing, &self.target)?;
        for made in 0.. {
            match stream.exchange(request, progress, first_byte).await {
                Ok(response) => {
                    let request = unfinished(progress);
                    let response =
                        response.map(|incoming| UpstreamContent::http2(incoming, stream, progress));
                    return Ok(Answer { response, request, scrub: None });
                }
                Err(Failure::Sent(error)) => return Err(error),
                // The connection was about to end: nothing was written.
                Err(Failure::Unsent(unsent)) => request = *unsent,
            }
            if made == MAX_UNSENT {
                break;
            }
            stream = match Box::pin(self.shared_or_new()).await? {
                Connection::Http2(stream) => stream,
                // It has changed its mind about what it speaks.
                Connection::Http1(_) => break,
            };
        }
        Err(closed_unsent())
    }

    /// The idle connection that was used last, and therefore has the longest to live.
    fn take_idle(&self, now: Instant) -> Option<Box<Http1>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, until }) = idle.pop() {
            if now < until && connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// A connection that others may use as well; a new one where none has room.
    async fn shared_or_new(self: &Rc<Self>) -> Result<Connection, SendError> {
        if let Some(stream) = self.with_room() {
            return Ok(Connection::Http2(stream));
        }
        let failures = self.failures.borrow().0;
        let connecting = self.connecting.lock().await;
        if let Some(stream) = self.with_room() {
            return Ok(Connection::Http2(stream));
        }
        if self.speaks_http2.get() == Some(false) {
            drop(connecting);
            return self.connect().await;
        }
        // Whoever waited for an attempt that failed does not begin one more.
        let failed = match &*self.failures.borrow() {
            (number, Some(error)) if *number != failures => Some(error.clone()),
            _ => None,
        };
        if let Some(error) = failed {
            return Err(not_connected(error));
        }
        self.connect().await
    }

    /// A shared connection that has room.
    fn with_room(&self) -> Option<SharedStream> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| connection.is_open());
        let found = shared.iter().find(|connection| connection.has_room(now));
        found.map(|connection| SharedStream::begin(Rc::clone(connection)))
    }

    async fn connect(self: &Rc<Self>) -> Result<Connection, SendError> {
        let stream: Stream = match self.target.dialer.dial().await {
            Ok(stream) => stream,
            Err(error) => {
                let mut failures = self.failures.borrow_mut();
                *failures = (failures.0 + 1, Some(error.clone()));
                return Err(not_connected(error));
            }
        };
        let http2 = match self.target.settings.http2 {
            Protocols::Always => true,
            Protocols::Auto => stream.negotiated_http2(),
            Protocols::Never => false,
        };
        self.speaks_http2.set(Some(http2));
        if http2 {
            let connection = Rc::new(Http2::begin(stream, &self.target).await?);
            self.shared.borrow_mut().push(Rc::clone(&connection));
            self.sweep();
            return Ok(Connection::Http2(SharedStream::begin(connection)));
        }
        Ok(Connection::Http1(Http1::begin(stream, &self.target)))
    }

    /// A connection for HTTP/1.1, whatever the upstream prefers.
    async fn connect_http1(&self) -> Result<Box<Http1>, SendError> {
        let stream = self.target.http1_dialer.dial().await.map_err(not_connected)?;
        Ok(Http1::begin(stream, &self.target))
    }

    /// Keeps `connection` for another exchange.
    pub(super) fn give_back(self: Rc<Self>, connection: Box<Http1>) {
        let now = Instant::now();
        let until = connection.retires_at.min(now + connection.idle_timeout);
        let mut idle = self.idle.borrow_mut();
        if until <= now || idle.len() >= self.target.settings.pool_size {
            return;
        }
        idle.push(Idle { connection, until });
        drop(idle);
        self.sweep();
    }

    /// Closes connections whose time is over, for as long as there are any.
    fn sweep(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            while let Some(next) = sweep_once(&pool) {
                tokio::time::sleep_until(next).await;
            }
        });
    }
}

/// Closes what is over, and says when to look again; `None` if there is nothing left to close.
fn sweep_once(pool: &Weak<Pool>) -> Option<Instant> {
    let pool = pool.upgrade()?;
    let now = Instant::now();
    // Not more often than is of use.
    let idle_timeout = pool.target.settings.idle_timeout.max(Duration::from_millis(10));
    let mut idle = pool.idle.borrow_mut();
    idle.retain_mut(|idle| now < idle.until && idle.connection.is_ready());
    let mut shared = pool.shared.borrow_mut();
    let ends =
        |connection: &Http2| connection.retires_at.min(connection.idle_since.get() + idle_timeout);
    shared.retain(|connection| {
        connection.is_open() && !(connection.is_idle() && ends(connection) <= now)
    });
    let next = idle.iter().map(|idle| idle.until).min();
    let next_shared = shared
        .iter()
        .map(|connection| if connection.is_idle() { ends(connection) } else { now + idle_timeout })
        .min();
    let next = next.into_iter().chain(next_shared).min().map(|next| next.min(now + SWEEP));
    if next.is_none() {
        pool.sweeping.set(false);
    }
    next
}

/// The progress of a request that is still being sent although its answer has begun.
fn unfinished(progress: &Arc<Progress>) -> Option<Arc<Progress>> {
    (!progress.is_complete()).then(|| {
        progress.answered();
        Arc::clone(progress)
    })
}

/// The upstream takes connections and closes them before anything is written.
fn closed_unsent() -> SendError {
    SendError { error: ProxyError::Closed, fate: Fate::Final }
}

fn not_connected(error: DialError) -> SendError {
    let error = if error == DialError::Exhausted {
        ProxyError::Descriptors
    } else {
        ProxyError::Dial(error)
    };
    SendError { error, fate: Fate::Final }
}

enum Connection {
    Http1(Box<Http1>),
    Http2(SharedStream),
}
