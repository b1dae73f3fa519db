//! One request, from the caller's head to the last byte of the answer.
//!
//! The phases run in one order, in [`Proxy::handle`]: guard, find, strip, retarget, forward,
//! authorize and send, strip the answer. Each is a function in a file of its own; only
//! [`mod@authorize`] sees credentials, and none reads the configuration's text.

pub mod authorize;
mod challenge;
pub mod content;
mod exchange;
pub mod guard;
pub mod headers;
pub mod hold;
pub mod identity;
pub mod interim;
pub mod isolate;
pub mod path;
pub mod request_id;
pub mod respond;
pub mod retarget;
pub mod rewrite;
pub mod route;
pub mod scrub;
mod traced;
pub mod upstream;
pub mod websocket;

use std::borrow::Cow;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{ClockSource, DenyPattern, HeaderCase, IdentitySource, Limits, RouteConfig};
use crate::http1::Spelling;
use crate::observe::route::RouteMetrics;
use crate::observe::times::Times;
use crate::observe::{Observe, Padded};
use crate::sign::owned::OwnedFields;
use crate::telemetry::trace::context::TRACEPARENT;
use crate::telemetry::trace::tracer::Tracer;
use authorize::{Unsigned, authorize};
use content::{CallerContent, ResponseContent};
pub use exchange::Exchange;
use guard::{Admitted, Ends, Gate};
use headers::Via;
use hold::Budget;
use identity::{Cache, identify};
use interim::Interims;
use isolate::{isolated, isolated_future};
use request_id::RequestId;
use respond::ProxyError;
use rewrite::Mount;
use route::{Found, RouteTable};
use scrub::Scrub;
use upstream::{Answer, Needs, Pools, Target, UpstreamClock};
use websocket::{Ground, Tunnel};

/// The tracing target of the line per request.
pub const ACCESS: &str = "access";

/// A credential as a route uses it.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Debug)]
pub struct Identity {
    /// The credential's name.
    pub name: String,
    /// Where it is read.
    pub cache: Cache,
    /// True if its signature covers the content.
    pub covers_body: bool,
    /// True if its signature holds the time.
    pub timed: bool,
    /// True if a refused one can be replaced.
    pub renewable: bool,
    /// Fields that are removed from what the caller sent.
    pub owned: OwnedFields,
    /// Query parameters that are removed from what the caller sent.
    pub owned_query: Vec<String>,
    /// Paths of the upstream that callers may not reach.
    pub deny: Vec<DenyPattern>,
    /// True if it sets `Authorization`.
    pub sets_authorization: bool,
}

/// A route, ready to serve.
#[derive(Debug)]
pub struct Route {
    /// What the configuration says.
    pub config: RouteConfig,
    /// Where its requests go.
    pub target: Arc<Target>,
    /// Its credentials, in the order of signing.
    pub identities: Vec<Arc<Identity>>,
    /// Everything that is removed from the caller's request.
    pub strip: Arc<OwnedFields>,
    /// True if a signature covers the content.
    pub covers_body: bool,
    /// True if a refused credential can be replaced.
    pub renewable: bool,
    /// The upstream's clock, where signatures hold the time and follow it.
    pub clock: Option<Arc<UpstreamClock>>,
    /// What is counted of its requests, from when a proxy serves by it. One that replaces a route of
    /// its name goes on with the counts of that.
    metrics: OnceLock<Arc<RouteMetrics>>,
    /// Cancelled when the route is no longer served: tunnels end then.
    removed: CancellationToken,
}

impl Route {
    /// Puts a route together.
    pub fn new(config: RouteConfig, target: Arc<Target>, identities: Vec<Arc<Identity>>) -> Self {
        let mut strip = config.remove.clone();
        for identity in &identities {
            strip.extend(&identity.owned);
        }
        // It has been read by then; in trailers it has no business either.
        if let Some(IdentitySource::Header(name)) = &config.identity {
            strip.insert(name);
        }
        let sets_authorization = identities.iter().any(|identity| identity.sets_authorization);
        if config.keep_caller_authorization && !sets_authorization {
            strip.remove(&http::header::AUTHORIZATION);
        }
        let follows = config.clock == ClockSource::Follow;
        let timed = identities.iter().any(|identity| identity.timed);
        Self {
            clock: (timed && follows).then(|| Arc::clone(&target.clock)),
            covers_body: identities.iter().any(|identity| identity.covers_body),
            renewable: identities.iter().any(|identity| identity.renewable),
            config,
            target,
            identities,
            strip: Arc::new(strip),
            metrics: OnceLock::new(),
            removed: CancellationToken::new(),
        }
    }
}

impl Route {
    /// True if `path`, as callers write it, is closed.
    fn denies(&self, path: &str) -> bool {
        self.config.deny.iter().any(|pattern| pattern.covers("", path))
    }

    /// Which device sent the request, where a credential asks. What said so is taken out of `head`.
    ///
    /// # Errors
    /// With the answer to give.
    pub fn device(&self, head: &mut Parts, ends: &Ends) -> Result<Option<Arc<str>>, ProxyError> {
        let Some(source) = &self.config.identity else { return Ok(None) };
        let is_known =
            |device: &str| self.identities.iter().all(|identity| identity.cache.knows(device));
        let device = identify(source, head, self.config.prefix.len(), ends, is_known)?;
        if matches!(source, IdentitySource::PathSegment(_)) {
            // What is closed must not be reached by what stood in front of it.
            let path = head.uri.path();
            let rest = path.get(self.config.prefix.len()..).unwrap_or_default();
            let mut closed = self.denies_there(rest) || self.denies(path);
            let mut judge = |path, denies: &dyn Fn(&str) -> bool| {
                path::each_reading(path, |read| {
                    closed |= denies(read);
                    Ok(())
                })
                .map_err(ProxyError::Path)
            };
            judge(path, &|read| self.denies(read))?;
            judge(rest, &|read| self.denies_there(read))?;
            if closed {
                return Err(ProxyError::Denied);
            }
        }
        Ok(Some(device))
    }

    /// What is counted of its requests.
    pub fn metrics(&self) -> &Arc<RouteMetrics> {
        self.metrics.get_or_init(|| Arc::new(RouteMetrics::new(self.config.name.clone())))
    }

    /// Waits until the route is no longer served.
    pub async fn removed(&self) {
        self.removed.cancelled().await;
    }

    /// True if `rest`, what follows the prefix, is closed at the upstream.
    fn denies_there(&self, rest: &str) -> bool {
        let base = &self.config.upstream.base;
        let mut of_credentials = self.identities.iter().flat_map(|identity| &identity.deny);
        of_credentials.any(|pattern| pattern.covers(base, rest))
    }
}

/// What requests are served by: immutable, replaced as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// Finds routes.
    pub table: RouteTable,
    /// The routes, by index.
    pub routes: Vec<Arc<Route>>,
}

/// A request as it comes from a caller.
#[derive(Debug)]
pub struct Received {
    /// Method, target, version and fields.
    pub head: Parts,
    /// Its content.
    pub content: CallerContent,
    /// Both ends of the connection.
    pub ends: Ends,
    /// How the caller wrote the names of fields, if that is remembered.
    pub spelling: Option<Spelling>,
    /// Where interim answers go, if the caller takes them.
    pub interims: Option<Rc<Interims>>,
}

/// An answer, and what follows it on the caller's connection if that becomes another protocol.
pub type Handled = (Response<ResponseContent<Exchange>>, Option<Tunnel>);

/// The part of the proxy that all workers share.
#[derive(Debug)]
pub struct Proxy {
    /// What requests are served by.
    pub snapshot: ArcSwap<Snapshot>,
    /// The time.
    pub clock: Clock,
    /// Bounds.
    pub limits: Limits,
    /// Memory for held content.
    pub budget: Arc<Budget>,
    via: Via,
    /// The field that says what a request is called; `None` if nobody wants to know.
    request_id: Option<HeaderName>,
    /// Which requests are traced; `None` if none is.
    tracer: Option<Arc<Tracer>>,
    observe: Arc<Observe>,
}

impl Proxy {
    /// A proxy that serves `snapshot`.
    pub fn new(snapshot: Snapshot, clock: Clock, limits: Limits) -> Self {
        let observe = Arc::new(Observe::new(clock.now()));
        count(&snapshot, &observe);
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            clock,
            budget: Budget::new(limits.memory),
            limits,
            via: Via::new(fastrand::u32(..)),
            request_id: None,
            tracer: None,
            observe,
        }
    }

    /// The same, where requests are called something, and `field` says what.
    #[must_use]
    pub fn with_request_id(self, field: Option<HeaderName>) -> Self {
        Self { request_id: field, ..self }
    }

    /// The same, where requests are traced.
    #[must_use]
    pub fn with_tracer(self, tracer: Option<Arc<Tracer>>) -> Self {
        Self { tracer, ..self }
    }

    /// What decides which requests are traced.
    pub fn tracer(&self) -> Option<&Arc<Tracer>> {
        self.tracer.as_ref()
    }

    /// What begins with the `head` of a request, or with one that could not be read.
    fn begin(&self, head: Option<&Parts>, ends: Option<&Ends>) -> Exchange {
        let field = self.request_id.as_ref();
        let id = field.map(|field| RequestId::of(head.map(|head| &head.headers), field));
        let client = ends.and_then(|ends| ends.client.as_deref());
        let begun = Exchange::begin(&self.observe, &self.clock, head, client, id);
        begun.traced(self.tracer.as_ref(), head, ends.is_some_and(|ends| ends.secure))
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        let Padded(in_flight) = &self.observe.in_flight;
        in_flight.load(Ordering::Relaxed)
    }

    /// What has been seen of requests.
    pub fn observe(&self) -> &Arc<Observe> {
        &self.observe
    }

    /// Serves by `snapshot` from now on. Tunnels of routes that are not in it end; requests in
    /// flight finish. Returns these routes: once nobody else holds one, its last request is over.
    pub fn replace(&self, snapshot: Snapshot) -> Vec<Arc<Route>> {
        count(&snapshot, &self.observe);
        let snapshot = Arc::new(snapshot);
        let before = self.snapshot.swap(Arc::clone(&snapshot));
        let stays = |route| snapshot.routes.iter().any(|other| Arc::ptr_eq(route, other));
        let removed: Vec<Arc<Route>> =
            before.routes.iter().filter(|route| !stays(route)).cloned().collect();
        for route in &removed {
            route.removed.cancel();
        }
        removed
    }

    /// Serves one request, whatever becomes of it. With an answer that switches to another protocol
    /// comes what follows it on the caller's connection.
    ///
    /// The phases that need not wait are done before the future is made, which keeps it small: it is
    /// copied more than once on its way to where it is polled.
    pub fn handle(
        self: Arc<Self>,
        pools: Rc<Pools>,
        gate: Arc<Gate>,
        received: Received,
    ) -> impl Future<Output = Handled> {
        let Received { head, content, ends, spelling, interims } = received;
        let mut exchange = self.begin(Some(&head), Some(&ends));
        let without_content = head.method == Method::HEAD;
        let mut prepared = isolated(|| self.prepare(&gate, &ends, head, &mut exchange));
        if let Ok((route, unsigned)) = &mut prepared {
            let keep = route.config.connection.header_case == HeaderCase::Preserve;
            unsigned.spelling = spelling.filter(|_| keep);
            unsigned.interims = interims;
        }
        async move {
            let answered = match prepared {
                Ok((route, unsigned)) => {
                    let device = unsigned.device.clone();
                    let times = exchange.times();
                    let answer = self.forward(&pools, &route, unsigned, content, times);
                    isolated_future(answer).await.map(|answer| (answer, route, device))
                }
                Err(error) => Err(error),
            };
            match answered {
                Ok((answer, route, device)) => answer_of_upstream(answer, &route, device, exchange),
                Err(error) => {
                    let field = self.request_id.as_ref();
                    (answer_of_ours(&error, &gate, without_content, field, exchange), None)
                }
            }
        }
    }

    /// The answer to what came instead of a request.
    pub fn refuse(&self, gate: &Gate, error: &ProxyError) -> Response<ResponseContent<Exchange>> {
        answer_of_ours(error, gate, false, self.request_id.as_ref(), self.begin(None, None))
    }

    /// The phases up to the credentials, in order.
    fn prepare(
        &self,
        gate: &Gate,
        ends: &Ends,
        mut head: Parts,
        exchange: &mut Exchange,
    ) -> Result<(Arc<Route>, Box<Unsigned>), ProxyError> {
        if self.in_flight() > self.limits.requests {
            return Err(ProxyError::Busy);
        }
        let snapshot = self.snapshot.load();
        let Admitted { host, token_field } = gate.admit(&head, ends, &snapshot.table)?;
        if self.via.is_in(&head.headers) {
            return Err(ProxyError::Loop);
        }
        let route = find(&snapshot, &host, &head.method, head.uri.path())?;
        drop((snapshot, host));
        exchange.found(&route);
        let clients = &route.config.clients;
        let names = ends.client.as_deref();
        if !clients.is_empty() && !names.is_some_and(|own| clients.iter().any(|n| own.include(n))) {
            return Err(ProxyError::Client);
        }
        if exchange.is_one_too_many() {
            return Err(ProxyError::RouteBusy);
        }
        if !headers::count_forwards(&head.method, &mut head.headers) {
            return Err(ProxyError::NeverForwarded);
        }

        // Before fields are removed: a caller may name in Connection what says who it is.
        let device = route.device(&mut head, ends)?;
        exchange.identified(device.as_deref());

        let needs = Needs {
            upgrade: route.config.websocket && websocket::is_handshake(&head),
            // Callers of HTTP/1.0 know no interim answers (RFC 9110 §10.1.1).
            go_ahead: head.version != Version::HTTP_10 && head.headers.contains_key(EXPECT),
            trailers: head.version == Version::HTTP_2 && headers::takes_trailers(&head.headers),
            fresh_connection: false,
        };
        if let Some(token_field) = &token_field {
            head.headers.remove(token_field);
        }
        headers::strip_request(&mut head.headers, &[&route.strip]);
        let target =
            retarget::retarget(&head.uri, route.config.prefix.len(), &route.config.upstream)
                .ok_or(ProxyError::Malformed("the target cannot be forwarded"))?;
        self.introduce(&mut head.headers, head.version, &route, exchange.id());
        if let Some(tracer) = &self.tracer
            && !route.strip.contains(&TRACEPARENT)
            && route.config.set.iter().all(|(name, _)| *name != TRACEPARENT)
        {
            tracer.pass_on(&mut head.headers, exchange.spans().map(AsRef::as_ref));
        }
        for (name, value) in &route.config.set {
            head.headers.insert(name.clone(), value.clone());
        }
        let unsigned = Unsigned {
            // Only gRPC cannot do without them.
            trailers: needs.trailers && headers::is_grpc(&head.headers),
            method: head.method,
            target,
            headers: head.headers,
            spelling: None,
            needs,
            interims: None,
            device,
            spans: exchange.spans().cloned(),
        };
        Ok((route, Box::new(unsigned)))
    }

    /// Adds to a request what says how it came, and what it is called.
    pub fn introduce(
        &self,
        fields: &mut HeaderMap,
        version: Version,
        route: &Route,
        id: Option<&RequestId>,
    ) {
        self.via.add(fields, version);
        headers::ensure_user_agent(fields);
        if let (Some(field), Some(id)) = (&self.request_id, id)
            && !route.strip.contains(field)
        {
            fields.insert(field.clone(), id.value().clone());
        }
    }

    /// What a request with these fields is called, if it is called anything.
    pub fn name(&self, fields: &HeaderMap) -> Option<RequestId> {
        self.request_id.as_ref().map(|field| RequestId::of(Some(fields), field))
    }

    /// The phases that wait.
    async fn forward(
        &self,
        pools: &Pools,
        route: &Route,
        unsigned: Box<Unsigned>,
        content: CallerContent,
        times: &mut Times,
    ) -> Result<Answer, ProxyError> {
        let asked_to_switch = unsigned.needs.upgrade;
        let device = unsigned.device.clone();
        let mut sent = std::pin::pin!(authorize(self, pools, route, unsigned, content, times));
        let mut answer = match route.config.timeouts.total {
            None => sent.as_mut().await?,
            Some(total) => {
                let sent = tokio::time::timeout(total, sent.as_mut()).await;
                sent.map_err(|_| ProxyError::Total)??
            }
        };
        let response = &answer.response;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && !(asked_to_switch
                && websocket::is_accepted(response.headers())
                && response.body().is_upgraded())
        {
            return Err(ProxyError::Protocol("it switches protocols and nobody asked"));
        }
        let head = answer.response.headers_mut();
        fit_to_pass(head, answer.scrub.as_deref(), route, device.as_deref());
        Ok(answer)
    }
}

/// Lets the routes that are served from now on go on with what was counted under their names.
fn count(snapshot: &Snapshot, observe: &Observe) {
    for route in &snapshot.routes {
        route.metrics.get_or_init(|| observe.route(&route.config.name));
    }
}

/// Leaves of an answer's fields what the caller may get.
fn fit_to_pass(fields: &mut HeaderMap, scrub: Option<&Scrub>, route: &Route, device: Option<&str>) {
    headers::strip_response(fields);
    if let Some(scrub) = scrub {
        scrub.apply(fields);
    }
    if route.config.rewrite_location {
        let config = &route.config;
        let before = config.identity.as_ref().and_then(IdentitySource::segments_before);
        let device = before.zip(device);
        let mount = Mount { prefix: &config.prefix, device };
        rewrite::rewrite(fields, &config.upstream, mount);
    }
}

/// The upstream's answer, as the caller gets it.
fn answer_of_upstream(
    answer: Answer,
    route: &Arc<Route>,
    device: Option<Arc<str>>,
    mut exchange: Exchange,
) -> Handled {
    let Answer { response, request, scrub } = answer;
    let (mut head, content) = response.into_parts();
    exchange.answered(head.status);
    let timeouts = &route.config.timeouts;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        websocket::accept(&mut head.headers);
        let tunnel = content.into_upgraded().map(|(upstream, read_ahead)| Tunnel {
            upstream,
            read_ahead,
            idle: timeouts.websocket,
            ground: Ground { route: Arc::clone(route), device },
            exchange,
        });
        return (Response::from_parts(head, ResponseContent::switched()), tunnel);
    }
    let deadline = timeouts.total.map(|total| exchange.started + total);
    let idle = timeouts.idle;
    let content = ResponseContent::upstream(content, request, idle, deadline, scrub, exchange);
    (Response::from_parts(head, content), None)
}

/// An answer of countersign's own.
fn answer_of_ours(
    error: &ProxyError,
    gate: &Gate,
    without_content: bool,
    id_field: Option<&HeaderName>,
    mut exchange: Exchange,
) -> Response<ResponseContent<Exchange>> {
    let verdict = error.verdict();
    if verdict.status.is_server_error() {
        let (route, reason) = (exchange.route(), verdict.word);
        let request_id = exchange.id().map(RequestId::as_str);
        tracing::warn!(route, reason, %error, request_id, "a request failed");
    }
    exchange.failed(error, &verdict);
    let id = exchange.id();
    let (mut head, bytes) = error.response(gate.answers(), id.map(RequestId::as_str)).into_parts();
    if let (Some(field), Some(id)) = (id_field, id) {
        head.headers.insert(field.clone(), id.value().clone());
    }
    let length = HeaderValue::from(bytes.len());
    head.headers.insert(http::header::CONTENT_LENGTH, length);
    let bytes = if without_content { Bytes::new() } else { bytes };
    Response::from_parts(head, ResponseContent::own(bytes, exchange))
}

/// The route of a request: the one that all readings of its path lead to, unless the path is closed
/// in one of them.
///
/// # Errors
/// With the answer to give.
pub fn find(
    snapshot: &Snapshot,
    host: &str,
    method: &Method,
    written: &str,
) -> Result<Arc<Route>, ProxyError> {
    // Nearly always there is one reading only.
    let disguised =
        matches!(path::generous_reading(written).map_err(ProxyError::Path)?, Cow::Owned(_));
    let found = snapshot.table.find(host, written, method);
    if disguised {
        let agrees = |read: &str| snapshot.table.find(host, read, method) == found;
        path::each_reading(written, |read| {
            if agrees(read) { Ok(()) } else { Err(path::AmbiguousPath::Routes) }
        })
        .map_err(ProxyError::Path)?;
    }
    let index = match found {
        Found::Route(index) => index,
        Found::OtherMethods(index) => {
            let methods = snapshot.routes.get(index).map(|route| &route.config.methods);
            let names: Vec<&str> = methods.into_iter().flatten().map(Method::as_str).collect();
            return Err(ProxyError::Method(names.join(", ")));
        }
        Found::Nothing => return Err(ProxyError::NoRoute),
    };
    let route = snapshot.routes.get(index).ok_or(ProxyError::Internal)?;
    let rest = written.get(route.config.prefix.len()..).unwrap_or_default();
    let mut denied = route.denies(written) || route.denies_there(rest);
    if disguised {
        let mut judge = |path, denies: &dyn Fn(&str) -> bool| {
            path::each_reading(path, |read| {
                denied |= denies(read);
                Ok(())
            })
            .map_err(ProxyError::Path)
        };
        judge(written, &|read| route.denies(read))?;
        // What is sent is the upstream's path and this rest, which must not lead out of that path.
        judge(rest, &|rest| route.denies_there(rest))?;
    }
    if denied {
        return Err(ProxyError::Denied);
    }
    Ok(Arc::clone(route))
}
