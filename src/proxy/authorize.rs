//! The phase that sees credentials: get them, sign, send; on a refusal reject them and do it once
//! more.
//!
//! Signing is the last change before sending. A second try is signed anew, so it has a timestamp of
//! its own.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;

use super::content::{Copy, Kept, Progress, RequestContent};
use super::hold::{Held, HoldLimits};
use super::respond::ProxyError;
use super::retarget::replace_query;
use super::upstream::Pools;
use super::{Identity, Proxy, Route};
use crate::credential::cache::{Issued, Rejection};
use crate::sign::hmac::ContentDigest;
use crate::sign::{AuthFields, SignableRequest, Signer};

/// A request that is ready but for its credentials.
#[derive(Clone)]
pub struct Unsigned {
    /// The method.
    pub method: Method,
    /// Where it goes: the upstream's scheme and authority, and the target.
    pub uri: Uri,
    /// The fields.
    pub headers: HeaderMap,
}

/// Method and path only: a query credential ends up in the target.
impl std::fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unsigned({} {})", self.method, self.uri.path())
    }
}

/// What is left of the content.
enum Content {
    Empty,
    Stream(Incoming),
    Held(Held),
    /// It was streamed, and a copy of it is being kept.
    Copied(Arc<Copy>),
    /// The copy, ready to be sent.
    Kept(Kept),
    Gone,
}

/// Signs and sends `request`.
///
/// # Errors
/// With the answer to give.
pub async fn authorize(
    proxy: &Proxy,
    pools: &Pools,
    route: &Route,
    request: Unsigned,
    incoming: Incoming,
) -> Result<Response<Incoming>, ProxyError> {
    let mut content = arrange(proxy, route, incoming).await?;
    let mut first = replays(route).then(|| request.clone());
    let mut request = Some(request);
    loop {
        let attempt = request.take().ok_or(ProxyError::Internal)?;
        let issued = credentials(route).await?;
        let attempt = sign(proxy, route, &issued, attempt, &mut content).await?;
        let (response, progress) = send(proxy, pools, route, attempt, &mut content).await?;
        if first.is_none() || !route.config.replay.statuses.contains(&response.status()) {
            return Ok(response);
        }
        if !reject(route, &issued) || !keep_for_replay(&mut content, &progress) {
            return Ok(response);
        }
        request = first.take();
    }
}

/// True if a refusal by the upstream can lead to a second try.
fn replays(route: &Route) -> bool {
    route.renewable && !route.config.replay.statuses.is_empty()
}

/// The credentials of the route, one per identity.
async fn credentials(route: &Route) -> Result<Vec<Arc<Issued<Signer>>>, ProxyError> {
    let mut issued = Vec::with_capacity(route.identities.len());
    for identity in &route.identities {
        issued.push(identity.cache.get().await.map_err(ProxyError::Credential)?);
    }
    Ok(issued)
}

/// Decides what happens to the content before it is sent.
async fn arrange(proxy: &Proxy, route: &Route, incoming: Incoming) -> Result<Content, ProxyError> {
    if incoming.is_end_stream() {
        return Ok(Content::Empty);
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
    let may_be_sent_twice = replays(route) && !route.covers_body && small && room;
    if signed_with_others || may_be_sent_twice {
        let held = Held::read(incoming, &hold_limits(proxy, route), &proxy.budget, |_| {}).await?;
        return Ok(Content::Held(held));
    }
    Ok(Content::Stream(incoming))
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
    issued: &[Arc<Issued<Signer>>],
    mut request: Unsigned,
    content: &mut Content,
) -> Result<Unsigned, ProxyError> {
    request.headers.insert(HOST, route.target.host.clone());
    for (identity, issued) in route.identities.iter().zip(issued) {
        let signer = &issued.item;
        let digest = if identity.covers_body {
            read_and_digest(proxy, route, signer, &mut request, content).await?
        } else {
            None
        };
        let signable = signable(route, &request);
        let at = proxy.clock.wall();
        let fields = signer.sign(&signable, digest, at).map_err(ProxyError::Sign)?;
        apply(identity, fields, &mut request)?;
    }
    Ok(request)
}

/// Makes sure that the content is here, and reads it into a signature.
async fn read_and_digest(
    proxy: &Proxy,
    route: &Route,
    signer: &Signer,
    request: &mut Unsigned,
    content: &mut Content,
) -> Result<Option<ContentDigest>, ProxyError> {
    let begin = |request: &Unsigned| {
        let at = proxy.clock.wall();
        signer.digest(&signable(route, request), at).map_err(ProxyError::Sign)
    };
    let held = match std::mem::replace(content, Content::Gone) {
        Content::Stream(incoming) => {
            let mut early = if signer.digests_early() { begin(request)? } else { None };
            let observe = |piece: &[u8]| {
                if let Some(digest) = &mut early {
                    digest.update(piece);
                }
            };
            let limits = hold_limits(proxy, route);
            let held = Held::read(incoming, &limits, &proxy.budget, observe).await?;
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
            return begin(request);
        }
        Content::Copied(_) | Content::Kept(_) | Content::Gone => {
            return Err(ProxyError::Internal);
        }
    };
    let mut digest = begin(request)?;
    if let Some(digest) = &mut digest {
        let mut offset = 0;
        while offset < held.length() {
            let piece = held.piece(offset).await.map_err(|e| ProxyError::Spool(e.kind()))?;
            if piece.is_empty() {
                return Err(ProxyError::Spool(std::io::ErrorKind::UnexpectedEof));
            }
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            digest.update(&piece);
        }
    }
    Ok(digest)
}

fn signable<'r>(route: &'r Route, request: &'r Unsigned) -> SignableRequest<'r> {
    SignableRequest {
        method: &request.method,
        authority: route.config.upstream.origin.authority.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        headers: &request.headers,
    }
}

fn apply(
    identity: &Identity,
    fields: AuthFields,
    request: &mut Unsigned,
) -> Result<(), ProxyError> {
    if let Some(pairs) = &fields.query {
        request.uri = replace_query(&request.uri, &identity.owned_query, pairs)
            .ok_or(ProxyError::Internal)?;
    }
    for (name, value) in fields.fields {
        request.headers.insert(name, value);
    }
    Ok(())
}

async fn send(
    proxy: &Proxy,
    pools: &Pools,
    route: &Route,
    request: Unsigned,
    content: &mut Content,
) -> Result<(Response<Incoming>, Arc<Progress>), ProxyError> {
    let progress = Progress::new();
    let shared = Arc::clone(&progress);
    let timeouts = &route.config.timeouts;
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
            let copy = (replays(route) && fits).then(|| Copy::new(limit, &proxy.budget));
            if let Some(copy) = &copy {
                *content = Content::Copied(Arc::clone(copy));
            }
            let max_body = route.config.max_body;
            RequestContent::stream(incoming, max_body, timeouts.idle, copy, shared)
        }
        Content::Kept(kept) => {
            let bytes = kept.bytes.clone();
            *content = Content::Kept(kept);
            RequestContent::memory(bytes, shared)
        }
        Content::Copied(_) | Content::Gone => return Err(ProxyError::Internal),
    };
    let mut outgoing = Request::new(outgoing);
    *outgoing.method_mut() = request.method;
    *outgoing.uri_mut() = request.uri;
    *outgoing.headers_mut() = request.headers;
    // Without it hyper takes GET and HEAD to have no content, and drops what there is.
    let streams = !outgoing.body().is_end_stream() && outgoing.body().size_hint().exact().is_none();
    if streams {
        let chunked = HeaderValue::from_static("chunked");
        outgoing.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    *outgoing.version_mut() = Version::HTTP_11;
    let response = pools.send(&route.target, outgoing, &progress, timeouts.first_byte).await?;
    // Nobody asked for another protocol: Upgrade is not forwarded.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProxyError::Protocol);
    }
    Ok((response, progress))
}

/// True if another try may fare better: somebody has replaced, or is replacing, a credential.
fn reject(route: &Route, issued: &[Arc<Issued<Signer>>]) -> bool {
    let mut again = false;
    for (identity, issued) in route.identities.iter().zip(issued) {
        match identity.cache.reject(issued) {
            Rejection::Renewing => {
                tracing::warn!(
                    credential = %identity.name,
                    route = %route.config.name,
                    "the upstream refused the credential; fetching another"
                );
                again = true;
            }
            Rejection::Replaced => again = true,
            Rejection::TooSoon | Rejection::Fixed => {}
        }
    }
    again
}

/// True if the content can be sent a second time, which it then is ready for.
fn keep_for_replay(content: &mut Content, progress: &Progress) -> bool {
    match content {
        Content::Empty | Content::Held(_) => true,
        // All of it has passed, so the copy is whole if it is there.
        Content::Copied(copy) if progress.is_complete() => match copy.take() {
            Some(kept) => {
                *content = Content::Kept(kept);
                true
            }
            None => false,
        },
        Content::Copied(_) | Content::Stream(_) | Content::Kept(_) | Content::Gone => false,
    }
}
