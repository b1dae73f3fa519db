//! [`Link`]: one connection to a token endpoint; [`Links`]: those that wait for the next exchange.
//!
//! A credential that logs in once a day has no use for an open connection. A fleet that logs in a
//! hundred times a second would spend most of its time, and the endpoint's, on handshakes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Uri;
use http::uri::{Authority, Scheme};
use http_body_util::Full;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::connect::Stream;

/// How long a link waits for the next exchange: less than any server keeps one open, so that one
/// that is taken up again is not closed at the same moment.
const LONGEST_IDLE: Duration = Duration::from_secs(1);
/// How old a link may get: a host that moves, or has more than one address, is found again.
const OLDEST: Duration = Duration::from_mins(1);

/// Where a link leads.
type Origin = (Option<Scheme>, Option<Authority>);

/// What requests go into.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// What moves the bytes.
type Driven = Connection<TokioIo<Stream>, Full<Bytes>>;

/// A connection that somebody has to drive while it is in use.
pub(super) struct Link {
    sender: Sender,
    /// None once it has come to its end. hyper hands back a request that it has not written only
    /// when the connection is dropped.
    connection: Option<Pin<Box<Driven>>>,
    opened: Instant,
}

impl Link {
    /// A link over `stream`.
    ///
    /// # Errors
    /// When the connection broke at once.
    pub(super) async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, connection: Some(Box::pin(connection)), opened: Instant::now() })
    }

    /// Lets `exchange` come to its end.
    pub(super) async fn drive<T>(&mut self, exchange: impl AsyncFnOnce(&mut Sender) -> T) -> T {
        let exchange = exchange(&mut self.sender);
        tokio::pin!(exchange);
        if let Some(connection) = &mut self.connection {
            tokio::select! {
                result = &mut exchange => return result,
                _ = connection => {}
            }
        }
        self.connection = None;
        exchange.await
    }

    /// True if another request can be sent: the last answer has ended, and nobody has closed.
    fn is_ready(&mut self) -> bool {
        if self.connection.as_mut().is_none_or(|connection| connection.now_or_never().is_some()) {
            self.connection = None;
            return false;
        }
        self.sender.is_ready()
    }
}

/// Links that wait for the next exchange.
#[derive(Default)]
pub(super) struct Links {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// A task closes those that wait for too long.
    swept: bool,
}

struct Waiting {
    origin: Origin,
    since: Instant,
    link: Link,
}

impl Links {
    /// So many of them at most.
    pub(super) fn keeping(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// True if links are kept at all.
    pub(super) fn keep(&self) -> bool {
        self.most > 0
    }

    /// The link to the origin of `url` that was used last, if it is still open.
    pub(super) fn take(&self, url: &Uri) -> Option<Link> {
        let origin = origin(url);
        loop {
            let mut state = self.lock();
            state.close_idle();
            let at = state.waiting.iter().rposition(|one| one.origin == origin)?;
            let mut link = state.waiting.remove(at).link;
            drop(state);
            if link.is_ready() {
                return Some(link);
            }
        }
    }

    /// Keeps `link` for the next exchange, if there can be one over it.
    pub(super) fn give_back(self: &Arc<Self>, url: &Uri, mut link: Link) {
        if !self.keep() || link.opened.elapsed() > OLDEST || !link.is_ready() {
            return;
        }
        let mut state = self.lock();
        if state.waiting.len() < self.most {
            state.waiting.push(Waiting { origin: origin(url), since: Instant::now(), link });
            if !std::mem::replace(&mut state.swept, true) {
                tokio::spawn(sweep(Arc::downgrade(self)));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close_idle(&mut self) {
        self.waiting.retain(|one| one.since.elapsed() < LONGEST_IDLE);
    }
}

/// Closes links that nobody takes up again. Ends with the last of them, or with their owner.
async fn sweep(links: Weak<Links>) {
    loop {
        tokio::time::sleep(LONGEST_IDLE).await;
        let Some(links) = links.upgrade() else { return };
        let mut state = links.lock();
        state.close_idle();
        if state.waiting.is_empty() {
            state.swept = false;
            return;
        }
    }
}

fn origin(url: &Uri) -> Origin {
    (url.scheme().cloned(), url.authority().cloned())
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({} of {})", self.lock().waiting.len(), self.most)
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
