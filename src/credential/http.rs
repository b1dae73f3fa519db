//! The small HTTP client that sources share: one exchange at a time on a connection, a bounded
//! answer, no redirects, nothing compressed.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, CONNECTION, CONTENT_ENCODING, DATE, HOST, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use zeroize::Zeroizing;

use super::link::{Link, Links, Sender};
use super::reply::{ReplyError, ReplyTime};
use super::{FetchError, Refusal};
use crate::clock::{Clock, Now};
use crate::connect::{DialError, Dialer, ForwardProxy};
use crate::tls::RenewedTls;

/// The largest answer that is read. Tokens are small.
pub const MAX_REPLY: usize = 64 * 1024;

/// What we call ourselves. Some vendors refuse requests without a `User-Agent`.
pub const USER_AGENT_VALUE: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

/// Talks to token endpoints.
#[derive(Clone)]
pub struct TokenClient {
    tls: Option<Arc<RenewedTls>>,
    connect_timeout: Duration,
    clock: Clock,
    links: Arc<Links>,
}

/// A request to a token endpoint.
pub struct TokenRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: Uri,
    /// Fields beside those that the client sets by itself.
    pub headers: HeaderMap,
    /// The content.
    pub content: Zeroizing<Vec<u8>>,
}

/// An answer of a token endpoint, whatever its status.
pub struct TokenAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its content; empty where it was not wanted, or where that of a failure cannot be read.
    pub content: Zeroizing<Vec<u8>>,
    /// When it came.
    pub time: ReplyTime,
    received_at: SystemTime,
}

impl TokenAnswer {
    /// What its status means for the next attempt, if it is no success.
    pub fn failure(&self) -> FetchError {
        error_of(self.status, &self.headers, self.received_at)
    }

    /// An answer that did not come over a network.
    #[cfg(test)]
    pub(super) fn of(status: StatusCode, headers: HeaderMap, content: &[u8], at: Now) -> Self {
        let time = ReplyTime { sent: at, midpoint: at.wall, date: None };
        let content = Zeroizing::new(content.to_vec());
        Self { status, headers, content, time, received_at: at.wall }
    }

    /// How long it asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, self.received_at)
    }
}

/// A success answer of a token endpoint.
pub struct TokenReply {
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
    /// When it came.
    pub time: ReplyTime,
}

impl TokenClient {
    /// A client that trusts what `tls` trusts; without it, it speaks plain HTTP only.
    pub fn new(tls: Option<Arc<RenewedTls>>, connect_timeout: Duration, clock: Clock) -> Self {
        Self { tls, connect_timeout, clock, links: Arc::default() }
    }

    /// The same for many exchanges in a row: keeps up to `most` connections open for a moment.
    #[must_use]
    pub fn keeping(self, most: usize) -> Self {
        Self { links: Arc::new(Links::keeping(most)), ..self }
    }

    #[cfg(test)]
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// Sends `request` and reads the answer.
    ///
    /// # Errors
    /// For every answer but a 2xx whose content is within [`MAX_REPLY`].
    pub async fn send(&self, request: TokenRequest) -> Result<TokenReply, FetchError> {
        let answer = self.exchange(request, |status| status.is_success()).await?;
        if !answer.status.is_success() {
            return Err(answer.failure());
        }
        Ok(TokenReply { content: answer.content, time: answer.time })
    }

    /// Sends `request` and reads the answer, with its content where `wanted` says so of its status.
    ///
    /// # Errors
    /// When there is no answer, or it is a success whose content is not within [`MAX_REPLY`].
    pub async fn exchange(
        &self,
        request: TokenRequest,
        wanted: fn(StatusCode) -> bool,
    ) -> Result<TokenAnswer, FetchError> {
        let url = request.url.clone();
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let broken = |error: &hyper::Error| FetchError::Broken {
            authority: authority.clone(),
            reason: reason(error),
        };
        let mut request = build(request, &authority, self.links.keep())?;
        let answered = async |link: &mut Link, request| {
            let exchange = async |sender: &mut Sender| {
                let sent = self.clock.now();
                let response = sender.try_send_request(request).await;
                let response = response.map_err(|mut error| match error.take_message() {
                    Some(request) => Failed::Unsent(Box::new(request), broken(error.error())),
                    None => Failed::Sent(broken(error.error())),
                })?;
                let received_at = self.clock.wall();
                let answer = read(response, sent, received_at, wanted, &authority).await;
                answer.map_err(Failed::Sent)
            };
            link.drive(exchange).await
        };
        if self.links.keep() {
            // What has come meanwhile, such as the end of a connection, is seen when the runtime
            // has looked.
            tokio::task::yield_now().await;
        }
        if let Some(mut link) = self.links.take(&url) {
            match answered(&mut link, request).await {
                Ok(answer) => {
                    self.links.give_back(&url, link);
                    return Ok(answer);
                }
                // The endpoint may close what was kept at any moment.
                Err(Failed::Unsent(unsent, _)) => request = *unsent,
                // It may have taken the login, with what is good for one use only.
                Err(Failed::Sent(error)) => return Err(error),
            }
        }
        let mut link = self.open(&url, &authority, &broken).await?;
        match answered(&mut link, request).await {
            Ok(answer) => {
                self.links.give_back(&url, link);
                Ok(answer)
            }
            Err(Failed::Unsent(_, error) | Failed::Sent(error)) => Err(error),
        }
    }

    async fn open(
        &self,
        url: &Uri,
        authority: &str,
        broken: &impl Fn(&hyper::Error) -> FetchError,
    ) -> Result<Link, FetchError> {
        let proxy = ForwardProxy::of_environment(url)
            .map_err(|error| FetchError::Request(error.to_string()))?;
        let tls = match &self.tls {
            Some(tls) => Some(tls.now().await),
            None => None,
        };
        let dialer = Dialer::new(url, tls.as_ref(), proxy, self.connect_timeout)
            .map_err(|error| FetchError::Request(error.to_string()))?;
        let stream = dialer.dial().await.map_err(|reason| FetchError::Unreachable {
            authority: authority.to_owned(),
            reason,
        })?;
        Link::over(stream).await.map_err(|error| broken(&error))
    }
}

/// Why there is no answer that can be used.
enum Failed {
    /// Not a byte of the request was written: here it is.
    Unsent(Box<Request<Full<Bytes>>>, FetchError),
    /// The endpoint may have it, or has begun to answer.
    Sent(FetchError),
}

fn build(
    request: TokenRequest,
    authority: &str,
    keep: bool,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let unbuildable = |error: &dyn std::fmt::Display| FetchError::Request(error.to_string());
    // Origin form: only a proxy is sent the whole URL.
    let target = request.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let target: Uri = target.parse().map_err(|error| unbuildable(&error))?;
    let host = HeaderValue::from_str(authority).map_err(|error| unbuildable(&error))?;
    // Wiped when hyper has sent it.
    let mut built = Request::new(Full::new(Bytes::from_owner(request.content)));
    *built.method_mut() = request.method;
    *built.uri_mut() = target;
    let headers = built.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    headers.extend(request.headers);
    headers.insert(HOST, host);
    if !keep {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(built)
}

async fn read(
    response: http::Response<hyper::body::Incoming>,
    sent: Now,
    received_at: SystemTime,
    wanted: fn(StatusCode) -> bool,
    authority: &str,
) -> Result<TokenAnswer, FetchError> {
    let (head, body) = response.into_parts();
    let half = received_at.duration_since(sent.wall).unwrap_or_default() / 2;
    let time = ReplyTime { sent, midpoint: sent.wall + half, date: date(&head.headers) };
    let content = if wanted(head.status) {
        match read_content(&head.headers, body, authority).await {
            // The status of a failure says enough.
            Err(_) if !head.status.is_success() => Zeroizing::default(),
            content => content?,
        }
    } else {
        Zeroizing::default()
    };
    Ok(TokenAnswer { status: head.status, headers: head.headers, content, time, received_at })
}

/// What the clock of the endpoint says. An answer with an `Age` comes from a cache, and its `Date`
/// is that of some time before (RFC 9111 §5.1).
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let date = headers.get(DATE).filter(|_| !headers.contains_key(AGE))?;
    httpdate::parse_http_date(date.to_str().ok()?).ok()
}

async fn read_content(
    headers: &HeaderMap,
    body: hyper::body::Incoming,
    authority: &str,
) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(ReplyError::Compressed.into());
    }
    match Limited::new(body, MAX_REPLY).collect().await {
        Ok(collected) => Ok(Zeroizing::new(collected.to_bytes().to_vec())),
        Err(error) if error.is::<LengthLimitError>() => Err(ReplyError::TooLarge(MAX_REPLY).into()),
        Err(error) => {
            let reason = error.downcast_ref().map_or_else(|| error.to_string(), reason);
            Err(FetchError::Broken {
                authority: authority.to_owned(),
                reason: format!("in the middle of the answer: {reason}"),
            })
        }
    }
}

/// What went wrong with an exchange, in words for whoever has to mend it.
fn reason(error: &hyper::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return DialError::from_tls(error)
                .map_or_else(|| reason_of_io(error.kind()), |failure| failure.to_string());
        }
        cause = inner.source();
    }
    if error.is_parse_too_large() {
        "the head of its answer is too long, or has too many fields".to_owned()
    } else if error.is_parse() {
        format!("its answer is not HTTP ({error})")
    } else if error.is_incomplete_message() {
        reason_of_io(io::ErrorKind::UnexpectedEof)
    } else {
        error.to_string()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the system has many, of which two matter")]
fn reason_of_io(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        // What hyper finds wrong with chunks.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => "it is not HTTP".to_owned(),
        kind => kind.to_string(),
    }
}

/// What an answer without success means for the next attempt.
fn error_of(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> FetchError {
    if status.is_redirection() {
        return ReplyError::Redirect(status).into();
    }
    // The last three speak of the endpoint and not of the login; a deployment may be under way.
    let passing = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::MISDIRECTED_REQUEST
    );
    if status.is_client_error() && !passing {
        return FetchError::Refused(Refusal::Status(status));
    }
    FetchError::Unavailable { status, retry_after: retry_after(headers, now) }
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| parse_retry_after(value, now))
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds or a date; a date in the past is zero.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

impl std::fmt::Debug for TokenClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenClient").finish_non_exhaustive()
    }
}

/// Only method and URL: the rest holds the login.
impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenRequest({} {})", self.method, self.url)
    }
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenAnswer({}, {} bytes)", self.status, self.content.len())
    }
}

impl std::fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenReply({} bytes)", self.content.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let parse = |value| parse_retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(parse("120"), Some(120));
        assert_eq!(parse("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "the past");
        assert_eq!(parse("99999999999999999999999"), Some(u64::MAX), "absurd, but a number");
        assert_eq!(parse(""), None);
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("soon"), None);
    }

    #[tokio::test]
    async fn the_date_of_an_answer_out_of_a_cache_is_no_clock() {
        for (age, expected) in [("", Some(784_111_777)), ("age: 0\r\n", None), ("age: x\r\n", None)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
            let answer = async {
                let mut stream = listener.accept().await.unwrap().0;
                stream.read_u8().await.unwrap();
                let head = "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
                let answer = format!("{head}{age}content-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Until the other side has it.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            };
            let client = TokenClient::new(None, Duration::from_secs(5), Clock::system());
            let request = TokenRequest {
                method: Method::GET,
                url,
                headers: HeaderMap::new(),
                content: Zeroizing::default(),
            };
            let (reply, ()) = tokio::join!(client.send(request), answer);
            let date = reply.unwrap().time.date;
            let expected = expected.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date, expected, "{age:?}");
        }
    }

    #[test]
    fn refusals_and_passing_failures_are_told_apart() {
        let now = UNIX_EPOCH;
        for status in [400, 401, 403, 422] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(error_of(status, &HeaderMap::new(), now).is_refusal(), "{status}");
        }
        for status in [404, 405, 408, 421, 425, 429, 500, 502, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!error_of(status, &HeaderMap::new(), now).is_refusal(), "{status}");
        }
        let redirect = error_of(StatusCode::FOUND, &HeaderMap::new(), now);
        assert_eq!(redirect, FetchError::Reply(ReplyError::Redirect(StatusCode::FOUND)));
    }
}
