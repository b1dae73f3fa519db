//! Sending a request to its upstream, over connections that one worker keeps for itself.

mod clock;
mod content;
mod http1;
mod http2;
mod outcome;
mod pool;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response};
use rustls::ClientConfig;

use super::content::{Progress, RequestContent};
use super::interim::Interims;
use super::scrub::Scrub;
use crate::config::{ConnectionSettings, Http2, Origin};
use crate::connect::Dialer;
use crate::http1::Spelling;
use crate::tls::offering;
pub(crate) use clock::Heard;
pub use clock::UpstreamClock;
pub use content::UpstreamContent;
pub use outcome::{Fate, SendError};
pub use pool::Pool;

/// The protocol of connections that become another one.
pub const HTTP_1: &[&[u8]] = &[b"http/1.1"];

/// An upstream as every worker sees it.
#[derive(Debug)]
pub struct Target {
    /// Tells targets apart that are there at the same time, and counts from zero.
    pub id: usize,
    /// Set when no route leads here any more.
    pub removed: AtomicBool,
    /// How to connect; negotiates what the settings say.
    pub dialer: Dialer,
    /// How to connect where only HTTP/1.1 will do.
    pub http1_dialer: Dialer,
    /// Where it is.
    pub origin: Origin,
    /// The `Host` field.
    pub host: HeaderValue,
    /// Its clock; all targets of one origin share what is known of it.
    pub clock: Arc<UpstreamClock>,
    /// How connections are made and kept.
    pub settings: ConnectionSettings,
    /// Answers remember how the upstream wrote the names of their fields.
    pub remember_case: bool,
}

/// A request, ready to be sent.
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: PathAndQuery,
    /// The fields, `Host` included.
    pub headers: HeaderMap,
    /// How the caller wrote the names of fields, where that is to be kept.
    pub spelling: Option<Spelling>,
    /// The content.
    pub content: RequestContent,
    /// What this request needs beyond the ordinary.
    pub needs: Needs,
    /// Where interim answers go, if the caller takes them.
    pub interims: Option<Rc<Interims>>,
}

/// Method and path only: a query credential ends up in the target.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} {})", self.method, self.target.path())
    }
}

/// What a request needs beyond the ordinary.
#[expect(clippy::struct_excessive_bools, reason = "each is a need of its own")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// To become another protocol, which only HTTP/1.1 can.
    pub upgrade: bool,
    /// The caller waits to be asked for the content (`Expect: 100-continue`).
    pub go_ahead: bool,
    /// The caller takes trailers (`TE: trailers`).
    pub trailers: bool,
    /// A connection that no request was sent over before.
    pub fresh_connection: bool,
}

/// The upstream's answer.
#[derive(Debug)]
pub struct Answer {
    /// The head, and the content as it comes.
    pub response: Response<UpstreamContent>,
    /// Set if content of the request is still on its way.
    pub request: Option<Arc<Progress>>,
    /// What is to be blotted out of its fields and trailers.
    pub scrub: Option<Box<Scrub>>,
}

impl Target {
    /// The protocols that are offered where both sides choose.
    pub fn protocols(settings: &ConnectionSettings) -> &'static [&'static [u8]] {
        match settings.http2 {
            Http2::Never => &[b"http/1.1"],
            Http2::Auto => &[b"h2", b"http/1.1"],
            Http2::Always => &[b"h2"],
        }
    }

    /// Makes new connections in this way from now on, if they are under TLS.
    pub fn renew_tls(&self, tls: &ClientConfig) {
        self.dialer.renew_tls(offering(tls, Self::protocols(&self.settings)));
        self.http1_dialer.renew_tls(offering(tls, HTTP_1));
    }

    /// True if the upstream may be spoken to by HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        match self.settings.http2 {
            Http2::Always => true,
            Http2::Auto => self.origin.is_secure(),
            Http2::Never => false,
        }
    }
}

/// One worker's connections.
#[derive(Debug, Default)]
pub struct Pools {
    /// By the number of the target.
    pools: RefCell<Vec<Option<Rc<Pool>>>>,
}

impl Pools {
    /// The connections to `target`.
    pub fn of(&self, target: &Arc<Target>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        // A number is given again when its target is gone; connections are not for another one that
        // happens to have it.
        if let Some(Some(pool)) = pools.get(target.id)
            && pool.is_for(target)
        {
            return Rc::clone(pool);
        }
        // Requests that are still under way there end with their connections.
        if target.removed.load(Ordering::Relaxed) {
            return Rc::new(Pool::new(Arc::clone(target)));
        }
        if pools.len() <= target.id {
            pools.resize(target.id + 1, None);
        }
        let pool = Rc::new(Pool::new(Arc::clone(target)));
        if let Some(place) = pools.get_mut(target.id) {
            *place = Some(Rc::clone(&pool));
        }
        pool
    }

    /// Closes the connections without a request to where no route leads any more; the others end
    /// with theirs.
    pub fn sweep(&self) {
        for place in self.pools.borrow_mut().iter_mut() {
            place.take_if(|pool| pool.is_abandoned());
        }
    }
}
