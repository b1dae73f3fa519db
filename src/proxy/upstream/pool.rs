//! The connections of one worker to one upstream: which one a request gets, and what becomes of it
//! afterwards.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::http1::{self, Http1};
use super::http2::{self, Http2};
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
    connection: Http1,
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
        Arc::strong_count(&self.target) == 1
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
        let mut request = Box::new(http1::request(*outgoing));
        let mut made = 0;
        loop {
            let mut wait = connection.wait(from, first_byte);
            let mut sent = std::pin::pin!(connection.send(*request));
            let answer = std::future::poll_fn(|cx| {
                connection.poll_answer(cx, sent.as_mut(), progress, &mut wait)
            });
            match answer.await {
                Ok(response) => {
                    let request = unfinished(progress);
                    if request.is_some() {
                        // Whoever waits for the caller to read must not keep it from sending.
                        connection.detach();
                    }
                    let (pool, progress) = (Rc::downgrade(&self), Arc::clone(progress));
                    let lease = Lease(Some(Leased::Http1 { connection, pool, progress }));
                    return Ok(Answer { response, lease, request });
                }
                Err(Failure::Sent(error)) => return Err(error),
                // It was closed while it waited for a request: nothing was written, so nothing is
                // sent twice.
                Err(Failure::Unsent(unsent)) => request = unsent,
            }
            connection = match self.kept(needs, progress.started()) {
                Some(connection) => connection,
                None if made == MAX_UNSENT => return Err(closed_unsent()),
                None => {
                    made += 1;
                    let connection = Box::pin(self.connect_http1()).await?;
                    from = Instant::now();
                    connection
                }
            };
        }
    }

    /// A connection that has served before, if one will do.
    fn kept(&self, needs: Needs, now: Instant) -> Option<Http1> {
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
            match stream.0.exchange(request, progress, first_byte).await {
                Ok(response) => {
                    let request = unfinished(progress);
                    let progress = Arc::clone(progress);
                    let lease = Lease(Some(Leased::Http2 { stream, progress }));
                    return Ok(Answer { response, lease, request });
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
    fn take_idle(&self, now: Instant) -> Option<Http1> {
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
        Ok(Connection::Http1(Http1::begin(stream, &self.target).await?))
    }

    /// A connection for HTTP/1.1, whatever the upstream prefers.
    async fn connect_http1(&self) -> Result<Http1, SendError> {
        let stream = self.target.http1_dialer.dial().await.map_err(not_connected)?;
        Http1::begin(stream, &self.target).await
    }

    fn give_back(self: Rc<Self>, connection: Http1) {
        let now = Instant::now();
        let until = connection.retires_at.min(now + connection.idle_timeout);
        let mut idle = self.idle.borrow_mut();
        let Target { settings, .. } = &*self.target;
        // A line that a lenient reader has dropped may have said where the answer ends.
        if until <= now || settings.lenient || idle.len() >= settings.pool_size {
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
    idle.retain_mut(|idle| now < idle.until && idle.connection.look_again());
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
    SendError { error: ProxyError::Dial(error), fate: Fate::Final }
}

enum Connection {
    Http1(Http1),
    Http2(SharedStream),
}

/// One exchange on a shared connection.
#[derive(Debug)]
struct SharedStream(Rc<Http2>);

impl SharedStream {
    fn begin(connection: Rc<Http2>) -> Self {
        connection.begin_stream();
        Self(connection)
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        self.0.end_stream();
    }
}

/// The connection of an exchange under way. Dropped early, it is closed, unless others use it too.
#[derive(Debug)]
pub struct Lease(Option<Leased>);

#[derive(Debug)]
enum Leased {
    Http1 { connection: Http1, pool: Weak<Pool>, progress: Arc<Progress> },
    Http2 { stream: SharedStream, progress: Arc<Progress> },
}

impl Drop for Lease {
    fn drop(&mut self) {
        // An upstream that answers without having taken all content, and does not say that it wants
        // no more, would hold the caller's connection for as long as this one lasts.
        if let Some(Leased::Http2 { stream, progress }) = &self.0
            && !progress.is_released()
        {
            stream.0.leave();
        }
    }
}

impl Lease {
    /// The answer has ended as it should: the connection may serve the next request.
    pub fn give_back(mut self) {
        if let Some(Leased::Http1 { connection, pool, progress }) =
            self.0.take_if(|leased| matches!(leased, Leased::Http1 { .. }))
            && progress.is_complete()
            && let Some(pool) = pool.upgrade()
        {
            pool.give_back(connection);
        }
    }

    /// Lets the connection move on, if it is this exchange that has to.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(Leased::Http1 { connection, .. }) = &mut self.0 {
            connection.drive(cx);
        }
    }

    /// Waits until the connection is no longer HTTP, or no longer there.
    pub async fn finish(mut self) {
        if let Some(Leased::Http1 { connection, .. }) = self.0.take() {
            connection.finish().await;
        }
    }
}
