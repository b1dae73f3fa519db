//! The phase that sees credentials: get them, sign, send; on a refusal reject them and do it once
//! more; likewise if it is the time of a signature that was refused. A request that may be sent twice
//! is sent once more, too, when its connection breaks.
//!
//! Signing is the last change before sending. A second try is signed anew, so it has a timestamp of
//! its own.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body;
use tokio::time::Instant;

use super::challenge::insufficient_scope;
use super::content::{CallerContent, Copy, Kept, Progress, RequestContent, Streaming};
use super::hold::{Held, HoldLimits, Reader};
use super::interim::Interims;
use super::respond::ProxyError;
use super::retarget::replace_query;
use super::scrub::Scrub;
use super::upstream::{Answer, Fate, Heard, Needs, Outgoing, Pools, UpstreamClock};
use super::{Identity, Proxy, Route};
use crate::clock::{Clock, Now};
use crate::credential::cache::{Issued, Rejection};
use crate::http1::Spelling;
use crate::observe::times::{Phase, Times};
use crate::sign::hmac::ContentDigest;
use crate::sign::{AuthFields, SignableRequest, Signer};
use crate::telemetry::trace::context::{SpanId, TRACEPARENT};
use crate::telemetry::trace::spans::Spans;

/// How often an upstream may say of a request that it did nothing with it (RFC 9113 §8.7).
const MAX_UNPROCESSED: usize = 5;

/// A request that is ready but for its credentials.
#[derive(Clone)]
pub struct Unsigned {
    /// The method.
    pub method: Method,
    /// Path and query at the upstream.
    pub target: PathAndQuery,
    /// The fields.
    pub headers: HeaderMap,
    /// How the caller wrote the names of fields, where that is to be kept.
    pub spelling: Option<Spelling>,
    /// What it needs beyond the ordinary.
    pub needs: Needs,
    /// Trailers may follow the content.
    pub trailers: bool,
    /// Where interim answers go, if the caller takes them.
    pub interims: Option<Rc<Interims>>,
    /// The device that sent it, where a credential asks.
    pub device: Option<Arc<str>>,
    /// Where its phases are noted, if it is traced.
    pub spans: Option<Rc<Spans>>,
}

/// Method and path only: a query credential ends up in the target.
impl std::fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unsigned({} {})", self.method, self.target.path())
    }
}

/// What is left of the content.
enum Content {
    Empty,
    Stream(CallerContent),
    Held(Held),
    /// It was streamed, and a copy of it is being kept.
    Copied(Arc<Copy>),
    /// The copy, ready to be sent.
    Kept(Kept),
    Gone,
}

/// What happens to the content before the request is sent.
enum Arranged {
    Ready(Content),
    /// It is read first.
    ToRead(CallerContent),
}

/// Signs and sends `request`, and says in `times` where the time went.
///
/// # Errors
/// With the answer to give.
pub async fn authorize(
    proxy: &Proxy,
    pools: &Pools,
    route: &Route,
    mut request: Box<Unsigned>,
    incoming: CallerContent,
    times: &mut Times,
) -> Result<Answer, ProxyError> {
    let resends = resends(proxy, route, &request.method);
    let device = request.device.clone();
    // Whoever waits to be asked for the content is asked by the upstream.
    let hold = resends && !request.needs.go_ahead;
    let mut content = match arrange(proxy, route, hold, incoming)? {
        Arranged::Ready(content) => content,
        // Boxed, here and below: what is rare does not make every request's future larger.
        Arranged::ToRead(incoming) => {
            let limits = hold_limits(proxy, route);
            let read = Box::pin(Held::read(incoming, &limits, &proxy.budget, None));
            Content::Held(read.await?.0)
        }
    };
    let mut scrub = route.config.scrub.then(Box::<Scrub>::default);
    if scrub.is_some() {
        // They do not come past here, and are no loss.
        request.interims = None;
    }
    let original = resends.then(|| request.clone());
    let mut attempt = request;
    // Once because of the connection, and once because of the credential or of the clock.
    let (mut broke, mut replayed, mut unprocessed) = (false, false, 0);
    let mut retimed = None;
    let spans = attempt.spans.clone();
    loop {
        let now = proxy.clock.now();
        let span = spans.as_deref().map(|spans| begin_span(spans, route, &mut attempt, now));
        let issued = credentials(route, device.as_deref(), now, times).await?;
        turn(spans.as_deref().filter(|_| !issued.is_empty()), Phase::Sign);
        let mut time = SigningTime::new(proxy, route, retimed, now, times);
        let method = attempt.method.clone();
        let signing = sign(proxy, route, &mut time, &issued, attempt, &mut content, &mut scrub);
        let signed = signing.await?;
        let progress = Progress::new(Instant::now());
        time.times.turn(Phase::Upstream, progress.started());
        let outgoing = outgoing(proxy, route, *signed, resends, &mut content, &progress)?;
        let pool = pools.of(&route.target);
        let first_byte = route.config.timeouts.first_byte;
        if let Some((spans, span)) = spans.as_deref().zip(span) {
            spans.sent(span, progress.started());
        }
        let sent = pool.send(Box::new(outgoing), &progress, first_byte).await;
        let received = Instant::now();
        time.times.turn(Phase::Other, received);
        if let Some(spans) = &spans {
            let status = sent.as_ref().map_or(0, |answer| answer.response.status().as_u16());
            spans.received(status, received);
        }
        match sent {
            Err(failed) => {
                let may_resend = match failed.fate {
                    // It makes no difference how often nothing was done.
                    Fate::Unprocessed => unprocessed < MAX_UNPROCESSED,
                    Fate::Unknown => method.is_idempotent() && !broke,
                    Fate::Final => false,
                };
                let again = original
                    .as_ref()
                    .filter(|_| may_resend && keep_for_replay(&mut content, &progress));
                let Some(again) = again else { return Err(failed.error) };
                tracing::debug!(
                    route = %route.config.name, error = %failed.error,
                    "a connection of the upstream broke; sending once more over another"
                );
                unprocessed += usize::from(failed.fate == Fate::Unprocessed);
                broke |= failed.fate == Fate::Unknown;
                let mut again = again.clone();
                again.needs.fresh_connection = true;
                attempt = again;
            }
            Ok(mut answer) => {
                let refused = route.config.replay.statuses.contains(&answer.response.status())
                    && !insufficient_scope(answer.response.headers());
                let fresh = time.hear(proxy, route, &answer, retimed.is_some());
                let mut rejected = Vec::new();
                let again = original.as_ref().filter(|_| {
                    let mut may_fare_better = || {
                        if fresh.is_none() && refused && replays(route) {
                            rejected = reject(route, device.as_deref(), &issued);
                        }
                        fresh.is_some() || !rejected.is_empty()
                    };
                    !replayed && may_fare_better() && keep_for_replay(&mut content, &progress)
                });
                let Some(again) = again.cloned() else {
                    // It is not sent again, so what is still to come need not be kept.
                    if let Content::Copied(copy) = &content {
                        copy.discard();
                    }
                    answer.scrub = scrub;
                    return Ok(answer);
                };
                replayed = true;
                retimed = fresh;
                sends_again(route, fresh, &rejected);
                attempt = again;
            }
        }
    }
}

/// Begins to note an attempt: a span of its own, which the upstream is told before that is signed.
fn begin_span(spans: &Spans, route: &Route, attempt: &mut Unsigned, now: Now) -> SpanId {
    let span = SpanId::random();
    if let Some(context) = spans.for_upstream(span) {
        attempt.headers.insert(TRACEPARENT, context.value());
    }
    if !route.identities.is_empty() {
        spans.turn(Phase::Wait, now.monotonic);
    }
    span
}

fn turn(spans: Option<&Spans>, phase: Phase) {
    if let Some(spans) = spans {
        spans.turn(phase, Instant::now());
    }
}

/// True if a refusal by the upstream can lead to a second try.
fn replays(route: &Route) -> bool {
    route.renewable && !route.config.replay.statuses.is_empty()
}

/// True if a request may have to be sent a second time: with another credential or another time in
/// its signature, over another connection because it is idempotent, or because HTTP/2 says that
/// nothing was done with it.
fn resends(proxy: &Proxy, route: &Route, method: &Method) -> bool {
    // Last, because it reads the clock: what is sent twice costs a copy of the head.
    let retimes = || retimes(route).is_some_and(|clock| clock.may_refuse(proxy.clock.wall()));
    replays(route) || method.is_idempotent() || route.target.may_speak_http2() || retimes()
}

/// The upstream's clock, if a refusal because of it can lead to a second try.
fn retimes(route: &Route) -> Option<&UpstreamClock> {
    route.clock.as_deref().filter(|_| !route.config.replay.statuses.is_empty())
}

/// Counts a second try: one because of the clock if that is `retimed`, else because of credentials,
/// those that were `rejected`.
fn sends_again(route: &Route, retimed: Option<i64>, rejected: &[&Arc<Identity>]) {
    match (&route.clock, retimed) {
        (Some(clock), Some(corrected_ms)) => clock.signs_again(corrected_ms),
        _ => {
            for identity in rejected {
                identity.cache.record().replayed();
            }
        }
    }
}

/// The time of an attempt's signatures: ours, or corrected where the upstream's differs.
struct SigningTime<'c> {
    /// How long it takes.
    times: &'c mut Times,
    clock: &'c Clock,
    corrected_ms: i64,
    /// When the attempt began.
    now: Now,
    /// When it was read last, uncorrected.
    read_at: SystemTime,
}

impl<'c> SigningTime<'c> {
    fn new(
        proxy: &'c Proxy,
        route: &Route,
        retimed: Option<i64>,
        now: Now,
        times: &'c mut Times,
    ) -> Self {
        let known = || route.clock.as_ref().map(|clock| clock.correction_ms());
        let corrected_ms = retimed.or_else(known).unwrap_or_default();
        Self { times, clock: &proxy.clock, corrected_ms, now, read_at: now.wall }
    }

    fn read(&mut self) -> SystemTime {
        self.read_at = self.clock.wall();
        let distance = Duration::from_millis(self.corrected_ms.unsigned_abs());
        let corrected = if self.corrected_ms < 0 {
            self.read_at.checked_sub(distance)
        } else {
            self.read_at.checked_add(distance)
        };
        corrected.unwrap_or(self.read_at)
    }

    /// Learns from the answer; the correction with which a second try may fare better, if any.
    fn hear(&self, proxy: &Proxy, route: &Route, answer: &Answer, trial: bool) -> Option<i64> {
        let clock = route.clock.as_ref()?;
        let heard = Heard {
            signed: self.read_at,
            corrected_ms: self.corrected_ms,
            trial,
            status: answer.response.status(),
            headers: answer.response.headers(),
        };
        let fresh = clock.hear(heard, &proxy.clock).filter(|_| retimes(route).is_some());
        // The signature was looked at then, and its time was fine.
        fresh.filter(|_| !insufficient_scope(answer.response.headers()))
    }
}

/// The credentials of the route, one per identity. Nearly always they are there, and then the clock
/// need not be read to know that nobody waited.
async fn credentials(
    route: &Route,
    device: Option<&str>,
    now: Now,
    times: &mut Times,
) -> Result<Vec<Arc<Issued<Signer>>>, ProxyError> {
    let mut waited = false;
    let mut issued = Vec::with_capacity(route.identities.len());
    for identity in &route.identities {
        let mut got = pin!(identity.cache.get_at(device, now));
        let got = std::future::poll_fn(|cx| {
            let polled = got.as_mut().poll(cx);
            if polled.is_pending() && !waited {
                waited = true;
                times.turn(Phase::Wait, now.monotonic);
            }
            polled
        });
        issued.push(got.await?);
    }
    let next = if issued.is_empty() { Phase::Other } else { Phase::Sign };
    times.turn(next, if waited { Instant::now() } else { now.monotonic });
    Ok(issued)
}

/// Decides what happens to the content before it is sent.
fn arrange(
    proxy: &Proxy,
    route: &Route,
    hold: bool,
    incoming: CallerContent,
) -> Result<Arranged, ProxyError> {
    if incoming.is_end_stream() {
        return Ok(Arranged::Ready(Content::Empty));
    }
    let announced = incoming.size_hint().exact();
    if announced.is_some_and(|length| length > route.config.max_body) {
        return Err(ProxyError::ContentTooLarge);
    }
    // What is small and may have to be sent twice is read first.
    let kept = u64::try_from(route.config.replay.max_body).unwrap_or(u64::MAX);
    let small = announced.is_some_and(|length| length <= kept);
    // Other credentials may end while a slow caller sends; they are taken when all of it is here.
    let signed_with_others = route.covers_body && route.identities.len() > 1;
    let room = proxy.budget.has_room_for(announced.unwrap_or(0));
    let may_be_sent_twice = hold && !route.covers_body && small && room;
    if signed_with_others || may_be_sent_twice {
        return Ok(Arranged::ToRead(incoming));
    }
    Ok(Arranged::Ready(Content::Stream(incoming)))
}

fn hold_limits(proxy: &Proxy, route: &Route) -> HoldLimits {
    HoldLimits {
        max_body: route.config.max_body,
        memory: proxy.limits.memory_per_request,
        directory: proxy.limits.spool_directory.clone(),
        idle: route.config.timeouts.idle,
    }
}

/// Applies every credential. The one that covers the content comes last and waits for it.
async fn sign(
    proxy: &Proxy,
    route: &Route,
    time: &mut SigningTime<'_>,
    issued: &[Arc<Issued<Signer>>],
    mut request: Box<Unsigned>,
    content: &mut Content,
    scrub: &mut Option<Box<Scrub>>,
) -> Result<Box<Unsigned>, ProxyError> {
    request.headers.insert(HOST, route.target.host.clone());
    for (identity, issued) in route.identities.iter().zip(issued) {
        let signer = &issued.item;
        let digest = if identity.covers_body {
            Box::pin(read_and_digest(proxy, route, time, signer, &mut request, content)).await?
        } else {
            None
        };
        let signable = signable(route, &request);
        // Now, and not before the content has come: a signature's time is checked.
        let at = if signer.is_timed() { time.read() } else { time.now.wall };
        let fields = signer.sign(&signable, digest, at).map_err(ProxyError::Sign)?;
        apply(identity, &fields, &mut request)?;
        if let Some(scrub) = scrub {
            remember(&fields, scrub);
        }
    }
    Ok(request)
}

/// Makes sure that the content is here, and reads it into a signature.
async fn read_and_digest(
    proxy: &Proxy,
    route: &Route,
    time: &mut SigningTime<'_>,
    signer: &Signer,
    request: &mut Unsigned,
    content: &mut Content,
) -> Result<Option<ContentDigest>, ProxyError> {
    let begin = |request: &Unsigned, time: &mut SigningTime<'_>| {
        signer.digest(&signable(route, request), time.read()).map_err(ProxyError::Sign)
    };
    let held = match std::mem::replace(content, Content::Gone) {
        Content::Stream(incoming) => {
            let early = if signer.digests_early() { begin(request, time)? } else { None };
            let limits = hold_limits(proxy, route);
            // The time of whoever sends it; a digest that is made meanwhile takes none of its own.
            time.times.turn(Phase::Other, Instant::now());
            let (held, early) = Held::read(incoming, &limits, &proxy.budget, early).await?;
            time.times.turn(Phase::Sign, Instant::now());
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from(held.length()));
            *content = Content::Held(held.clone());
            if early.is_some() {
                return Ok(early);
            }
            held
        }
        Content::Held(held) => {
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from(held.length()));
            *content = Content::Held(held.clone());
            held
        }
        Content::Empty => {
            *content = Content::Empty;
            return begin(request, time);
        }
        Content::Copied(_) | Content::Kept(_) | Content::Gone => {
            return Err(ProxyError::Internal);
        }
    };
    let mut digest = begin(request, time)?;
    if let Some(digest) = &mut digest {
        let mut reader = Reader::new(held);
        while reader.left() > 0 {
            let piece = std::future::poll_fn(|cx| reader.poll_piece(cx)).await;
            digest.update(&piece.map_err(|error| ProxyError::Spool(error.kind()))?);
        }
    }
    Ok(digest)
}

fn signable<'r>(route: &'r Route, request: &'r Unsigned) -> SignableRequest<'r> {
    SignableRequest {
        method: &request.method,
        authority: route.config.upstream.origin.authority.as_str(),
        path: request.target.path(),
        query: request.target.query(),
        headers: &request.headers,
    }
}

fn apply(
    identity: &Identity,
    fields: &AuthFields<'_>,
    request: &mut Unsigned,
) -> Result<(), ProxyError> {
    if let Some(pairs) = &fields.query {
        request.target = replace_query(&request.target, &identity.owned_query, pairs)
            .ok_or(ProxyError::Internal)?;
    }
    for (name, value) in fields.iter() {
        request.headers.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// Remembers what was added, to know it when it comes back.
fn remember(fields: &AuthFields<'_>, scrub: &mut Scrub) {
    for (_, value) in fields.iter() {
        scrub.add_field(value);
    }
    if let Some(pairs) = &fields.query {
        scrub.add_query(pairs);
    }
}

/// What is sent, with as much of `content` left as is needed to send it again.
fn outgoing(
    proxy: &Proxy,
    route: &Route,
    request: Unsigned,
    resends: bool,
    content: &mut Content,
    progress: &Arc<Progress>,
) -> Result<Outgoing, ProxyError> {
    let shared = Arc::clone(progress);
    let Unsigned { method, target, headers, spelling, needs, trailers, interims, .. } = request;
    let outgoing = match std::mem::replace(content, Content::Gone) {
        Content::Empty => {
            *content = Content::Empty;
            RequestContent::empty(shared)
        }
        Content::Held(held) => {
            *content = Content::Held(held.clone());
            RequestContent::held(held, shared)
        }
        Content::Stream(incoming) => {
            let limit = route.config.replay.max_body;
            let announced = incoming.size_hint().exact();
            let fits =
                announced.is_none_or(|length| usize::try_from(length).is_ok_and(|l| l <= limit));
            let copy = (resends && fits).then(|| Copy::new(limit, &proxy.budget));
            if let Some(copy) = &copy {
                *content = Content::Copied(Arc::clone(copy));
            }
            let streaming = Streaming {
                max_body: route.config.max_body,
                idle: route.config.timeouts.idle,
                copy,
                on_demand: needs.go_ahead.then_some(route.config.timeouts.go_ahead),
                trailers: trailers.then(|| Arc::clone(&route.strip)),
            };
            RequestContent::stream(incoming, streaming, shared)
        }
        Content::Kept(kept) => {
            let bytes = kept.bytes.clone();
            *content = Content::Kept(kept);
            RequestContent::memory(bytes, shared)
        }
        Content::Copied(_) | Content::Gone => return Err(ProxyError::Internal),
    };
    Ok(Outgoing { method, target, headers, spelling, content: outgoing, needs, interims })
}

/// Rejects the credentials. Those that somebody has replaced, or is replacing: if there are any,
/// another try may fare better.
fn reject<'r>(
    route: &'r Route,
    device: Option<&str>,
    issued: &[Arc<Issued<Signer>>],
) -> Vec<&'r Arc<Identity>> {
    let mut rejected = Vec::new();
    for (identity, issued) in route.identities.iter().zip(issued) {
        match identity.cache.reject(device, issued) {
            Rejection::Renewing => {
                tracing::warn!(
                    credential = %identity.name,
                    device,
                    route = %route.config.name,
                    "the upstream refused the credential; fetching another"
                );
                rejected.push(identity);
            }
            Rejection::Replaced => rejected.push(identity),
            Rejection::TooSoon | Rejection::Fixed => {}
        }
    }
    rejected
}

/// True if the content can be sent a second time, which it then is ready for.
fn keep_for_replay(content: &mut Content, progress: &Progress) -> bool {
    match content {
        Content::Empty | Content::Held(_) | Content::Kept(_) => true,
        // All of it has passed, so the copy is whole if it is there.
        Content::Copied(copy) if progress.is_complete() => match copy.take() {
            Some(kept) => {
                *content = Content::Kept(kept);
                true
            }
            None => false,
        },
        Content::Copied(_) | Content::Stream(_) | Content::Gone => false,
    }
}
