//! The answers that countersign itself gives: one type, one table, one form (RFC 9457).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::path::AmbiguousPath;
use crate::config::Answers;
use crate::connect::DialError;
use crate::credential::cache::Unavailable;
use crate::observe::Whose;
use crate::observe::times::Phase;
use crate::sign::SignError;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request gets an answer of ours instead of the upstream's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProxyError {
    /// No route for the path.
    #[error("no route matches this path; `countersign routes` lists them")]
    NoRoute,
    /// The route is for other methods. Holds those.
    #[error("the route for this path takes other methods")]
    Method(String),
    /// The method is never forwarded.
    #[error("this method is not forwarded")]
    NeverForwarded,
    /// The Host is not one of the listener's.
    #[error(
        "this Host is not accepted here; use the listener's address, or add the name to 'hosts' \
         of the listener"
    )]
    Host,
    /// The Origin is not one of the listener's.
    #[error("requests from web pages are refused; 'origins' of the listener lists exceptions")]
    Origin,
    /// The peer's address is not one of the listener's.
    #[error("this address may not call; 'allow' of the listener says who may")]
    Peer,
    /// No caller token.
    #[error("this listener asks for a caller token")]
    CallerTokenMissing,
    /// A wrong caller token.
    #[error("the caller token is wrong")]
    CallerToken,
    /// The certificate is of none of the route's callers.
    #[error("this route is not open to callers with this certificate; 'clients' lists them")]
    Client,
    /// Nothing says which device the caller is.
    #[error("the request does not say which device sends it; 'identity' of the route says where")]
    DeviceMissing,
    /// There is no such device.
    #[error("this device is not known")]
    Device,
    /// The path is not for callers.
    #[error("this path is not open to callers")]
    Denied,
    /// The request is malformed.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// The path means different things to different servers.
    #[error("the path is ambiguous: {0}")]
    Path(AmbiguousPath),
    /// An `Expect` that is not `100-continue`.
    #[error("only 'Expect: 100-continue' can be met")]
    Expectation,
    /// The target is longer than the limit.
    #[error("the target is longer than 'limits.target_bytes' and 'limits.header_bytes' allow")]
    Target,
    /// A head that is longer than the limit.
    #[error("the request's head is longer than 'limits.header_bytes' allows")]
    Head,
    /// More fields than the limit.
    #[error("the request has more fields than 'limits.fields' allows")]
    Fields,
    /// More content than the route takes.
    #[error("the content is larger than 'max_body' of the route allows")]
    ContentTooLarge,
    /// The caller stopped sending.
    #[error("the content did not arrive in time")]
    ContentTimeout,
    /// The caller's content broke off or is malformed.
    #[error("the content broke off")]
    ContentAborted,
    /// Content cannot be held.
    #[error("there is no room to hold the content: {0}")]
    Spool(std::io::ErrorKind),
    /// All memory for content is in use.
    #[error("too much content is held at the moment; 'limits.memory' is the bound")]
    Memory,
    /// The system has no file descriptor for a connection or a file.
    #[error("no file descriptor is left; raise the limit, or lower 'limits.connections'")]
    Descriptors,
    /// Too many requests.
    #[error("too many requests are in flight; 'limits.requests' is the bound")]
    Busy,
    /// Too many requests of one route.
    #[error("too many requests of this route are in flight; 'max_in_flight' is the bound")]
    RouteBusy,
    /// The request came through before.
    #[error("the request came through this proxy before")]
    Loop,
    /// There is no usable credential.
    #[error("no credential: {0}")]
    Credential(Unavailable),
    /// The request cannot be signed.
    #[error("the request cannot be signed: {0}")]
    Sign(SignError),
    /// The upstream cannot be reached.
    #[error("the upstream cannot be reached: {0}")]
    Dial(DialError),
    /// The upstream closed the connection instead of answering.
    #[error("the upstream closed the connection without an answer")]
    Closed,
    /// The upstream answers something that is not HTTP.
    #[error("the upstream's answer is not HTTP: {0}")]
    Protocol(&'static str),
    /// The upstream does not answer.
    #[error("the upstream did not answer in time")]
    FirstByte,
    /// The whole exchange takes too long.
    #[error("the exchange took longer than 'timeouts.total' of the route allows")]
    Total,
    /// A mistake of ours.
    #[error("an internal error")]
    Internal,
}

/// What a [`ProxyError`] is called and answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The status.
    pub status: StatusCode,
    /// One word for the problem document, metrics and logs.
    pub word: &'static str,
    /// What it is called in general.
    pub title: &'static str,
    /// The error type of RFC 9209 §2.3.
    pub error: &'static str,
}

impl ProxyError {
    /// The one table of answers.
    #[expect(clippy::too_many_lines, reason = "one table, read as a whole")]
    pub fn verdict(&self) -> Verdict {
        use StatusCode as S;
        let verdict = |status, word, title, error| Verdict { status, word, title, error };
        let denied = "http_request_denied";
        let invalid = "http_request_error";
        match self {
            Self::NoRoute => verdict(S::NOT_FOUND, "no-route", "No route", "destination_not_found"),
            Self::Method(_) => {
                verdict(S::METHOD_NOT_ALLOWED, "method", "Method not allowed", denied)
            }
            Self::NeverForwarded => {
                verdict(S::METHOD_NOT_ALLOWED, "never-forwarded", "Method not allowed", denied)
            }
            Self::Host => verdict(S::MISDIRECTED_REQUEST, "host", "Host not accepted", denied),
            Self::Origin => verdict(S::FORBIDDEN, "origin", "Origin not accepted", denied),
            Self::Peer => verdict(S::FORBIDDEN, "peer", "Address not accepted", denied),
            Self::CallerTokenMissing => {
                verdict(S::UNAUTHORIZED, "caller-token-missing", "Caller token missing", denied)
            }
            Self::CallerToken => {
                verdict(S::FORBIDDEN, "caller-token", "Caller token not accepted", denied)
            }
            Self::Client => verdict(S::FORBIDDEN, "client", "Certificate not accepted", denied),
            Self::DeviceMissing => {
                verdict(S::FORBIDDEN, "device-missing", "Device not named", denied)
            }
            Self::Device => verdict(S::FORBIDDEN, "device", "Device not known", denied),
            Self::Denied => verdict(S::FORBIDDEN, "denied", "Path not open to callers", denied),
            Self::Malformed(_) => {
                verdict(S::BAD_REQUEST, "malformed", "Malformed request", invalid)
            }
            Self::Path(_) => verdict(S::BAD_REQUEST, "path", "Ambiguous path", invalid),
            Self::Expectation => {
                verdict(S::EXPECTATION_FAILED, "expectation", "Expectation failed", invalid)
            }
            Self::Head => {
                verdict(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "head", "Head too long", invalid)
            }
            Self::Fields => {
                verdict(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "fields", "Too many fields", invalid)
            }
            Self::Target => verdict(S::URI_TOO_LONG, "target", "Target too long", invalid),
            Self::ContentTooLarge => {
                verdict(S::PAYLOAD_TOO_LARGE, "content-too-large", "Content too large", invalid)
            }
            Self::ContentTimeout => {
                verdict(S::REQUEST_TIMEOUT, "content-timeout", "Content timeout", invalid)
            }
            Self::ContentAborted => {
                verdict(S::BAD_REQUEST, "content-aborted", "Content broke off", invalid)
            }
            Self::Spool(_) => verdict(
                S::INSUFFICIENT_STORAGE,
                "spool",
                "No room for the content",
                "proxy_internal_error",
            ),
            Self::Memory => verdict(
                S::SERVICE_UNAVAILABLE,
                "memory",
                "Too much content at once",
                "connection_limit_reached",
            ),
            Self::Descriptors => verdict(
                S::SERVICE_UNAVAILABLE,
                "descriptors",
                "No file descriptor left",
                "connection_limit_reached",
            ),
            Self::Busy => verdict(
                S::SERVICE_UNAVAILABLE,
                "busy",
                "Too many requests in flight",
                "connection_limit_reached",
            ),
            Self::RouteBusy => verdict(
                S::SERVICE_UNAVAILABLE,
                "route-busy",
                "Too many requests of this route in flight",
                "connection_limit_reached",
            ),
            Self::Loop => verdict(S::LOOP_DETECTED, "loop", "Loop detected", "proxy_loop_detected"),
            Self::Credential(Unavailable::Failed { error, .. }) if error.is_refusal() => verdict(
                S::BAD_GATEWAY,
                "credential-refused",
                "Login refused",
                "proxy_configuration_error",
            ),
            Self::Credential(Unavailable::Failed { .. } | Unavailable::Waiting(_)) => verdict(
                S::SERVICE_UNAVAILABLE,
                "credential-unavailable",
                "No credential",
                "destination_unavailable",
            ),
            Self::Sign(_) => verdict(S::BAD_REQUEST, "sign", "Request not signable", invalid),
            Self::Dial(error) => dial_verdict(error),
            Self::Closed => verdict(
                S::BAD_GATEWAY,
                "upstream-closed",
                "Upstream closed the connection",
                "connection_terminated",
            ),
            Self::Protocol(_) => verdict(
                S::BAD_GATEWAY,
                "upstream-protocol",
                "Upstream protocol error",
                "http_protocol_error",
            ),
            Self::FirstByte => verdict(
                S::GATEWAY_TIMEOUT,
                "upstream-timeout",
                "Upstream timeout",
                "http_response_timeout",
            ),
            Self::Total => verdict(
                S::GATEWAY_TIMEOUT,
                "total-timeout",
                "Exchange timeout",
                "http_response_timeout",
            ),
            Self::Internal => verdict(
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
                "proxy_internal_error",
            ),
        }
    }

    /// Whose error it is. One that took too long is that of whoever was waited for.
    pub fn whose(&self, waiting_for: Phase) -> Whose {
        match self {
            Self::NoRoute
            | Self::Method(_)
            | Self::NeverForwarded
            | Self::Host
            | Self::Origin
            | Self::Peer
            | Self::CallerTokenMissing
            | Self::CallerToken
            | Self::Client
            | Self::DeviceMissing
            | Self::Device
            | Self::Denied
            | Self::Malformed(_)
            | Self::Path(_)
            | Self::Expectation
            | Self::Target
            | Self::Head
            | Self::Fields
            | Self::ContentTooLarge
            | Self::ContentTimeout
            | Self::ContentAborted
            | Self::Sign(_) => Whose::Callers,
            Self::Spool(_)
            | Self::Memory
            | Self::Descriptors
            | Self::Busy
            | Self::RouteBusy
            | Self::Loop
            | Self::Credential(_)
            | Self::Dial(DialError::Exhausted)
            | Self::Internal => Whose::Ours,
            Self::Dial(_) | Self::Closed | Self::Protocol(_) | Self::FirstByte => Whose::Upstreams,
            Self::Total => match waiting_for {
                Phase::Upstream => Whose::Upstreams,
                Phase::Wait | Phase::Sign => Whose::Ours,
                Phase::Other => Whose::Callers,
            },
        }
    }

    /// How long to wait before trying again, where that is known.
    fn retry_after(&self) -> Option<Duration> {
        if let Self::Credential(Unavailable::Failed { retry_in, error }) = self {
            return (!error.is_refusal()).then_some(*retry_in);
        }
        let soon = matches!(
            self,
            Self::Busy
                | Self::RouteBusy
                | Self::Memory
                | Self::Descriptors
                | Self::Credential(Unavailable::Waiting(_))
        );
        soon.then_some(Duration::from_secs(1))
    }

    /// The problem document (RFC 9457) of the request that is called `id`.
    fn problem(&self, verdict: Verdict, id: Option<&str>) -> String {
        let mut problem = serde_json::json!({
            "type": format!("urn:countersign:problem:{}", verdict.word),
            "title": verdict.title,
            "status": verdict.status.as_u16(),
            "detail": self.to_string(),
        });
        if let (Some(id), Some(members)) = (id, problem.as_object_mut()) {
            members.insert("request_id".to_owned(), id.into());
        }
        problem.to_string()
    }

    /// The answer to the request that is called `id`, in the form that `answers` says.
    pub fn response(&self, answers: Answers, id: Option<&str>) -> Response<Bytes> {
        let verdict = self.verdict();
        let (content_type, content) = match answers {
            Answers::Problem => ("application/problem+json", self.problem(verdict, id)),
            Answers::Text => {
                ("text/plain", format!("{} {}\n", verdict.status.as_u16(), verdict.title))
            }
        };
        let mut response = Response::new(Bytes::from(content));
        *response.status_mut() = verdict.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let status = format!("countersign; error={}; details=\"{}\"", verdict.error, verdict.word);
        if let Ok(status) = HeaderValue::try_from(status) {
            headers.insert(PROXY_STATUS, status);
        }
        if let Some(wait) = self.retry_after() {
            // Rounded up: coming back early would only be told to wait again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if matches!(self, Self::Host | Self::Origin) {
            // A browser may show this as a page, and would ask for more on its own behalf: the
            // page's icon.
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        }
        if let Self::Method(allow) = self {
            headers.extend(HeaderValue::try_from(allow).map(|allow| (ALLOW, allow)).ok());
        }
        if let Self::CallerTokenMissing = self {
            let challenge = HeaderValue::from_static("Bearer realm=\"countersign\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn dial_verdict(error: &DialError) -> Verdict {
    let (status, word, title, error) = match error {
        DialError::Name => {
            (StatusCode::BAD_GATEWAY, "upstream-name", "Upstream unknown", "dns_error")
        }
        DialError::Prohibited => (
            StatusCode::BAD_GATEWAY,
            "upstream-prohibited",
            "Upstream address not allowed",
            "destination_ip_prohibited",
        ),
        DialError::Refused => (
            StatusCode::BAD_GATEWAY,
            "upstream-refused",
            "Upstream refused the connection",
            "connection_refused",
        ),
        DialError::Unroutable(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream-unroutable",
            "Upstream unreachable",
            "destination_ip_unroutable",
        ),
        DialError::Exhausted => return ProxyError::Descriptors.verdict(),
        DialError::Timeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "upstream-connect-timeout",
            "Upstream connect timeout",
            "connection_timeout",
        ),
        DialError::Certificate(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream-certificate",
            "Upstream certificate not accepted",
            "tls_certificate_error",
        ),
        DialError::Handshake(_) => {
            (StatusCode::BAD_GATEWAY, "upstream-tls", "Upstream TLS failure", "tls_protocol_error")
        }
        DialError::Proxy(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream-proxy",
            "Proxy to the upstream failed",
            "destination_unavailable",
        ),
    };
    Verdict { status, word, title, error }
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
