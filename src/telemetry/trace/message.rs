//! The messages of OTLP that traces need (opentelemetry-proto 1.x: `trace.proto`,
//! `trace_service.proto`, `common.proto`, `resource.proto`), and requests as such.
//!
//! Only the fields that are filled. Numbers of fields are fixed for ever by the protocol; a test
//! reads what is sent by the protocol's own definitions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::spans::{CALLER_LEFT, Finished, Lap, SaidRoute};
use crate::observe::times::Phase;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<ExportTracePartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTracePartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[expect(clippy::struct_field_names, reason = "the protocol's names")]
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "SpanKind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum SpanKind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(enumeration = "StatusCode", tag = "3")]
    code: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum StatusCode {
    Unset = 0,
    Ok = 1,
    Error = 2,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// The caller's span, if there is one, was in another process.
const REMOTE: u32 = 0x100 | 0x200;
/// It is known whether it was: it was not.
const LOCAL: u32 = 0x100;

/// Requests as spans of `service`, of which this process is the one that is called `instance`.
pub(super) fn request(service: &str, instance: &str, requests: &[Finished]) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![
            text("service.name", service),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", instance),
        ],
    };
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut spans = Vec::with_capacity(requests.len() * 4);
    for request in requests {
        spans.push(server(request));
        let mut attempts = 0;
        for lap in &request.laps {
            if lap.phase == Phase::Upstream {
                spans.push(client(request, lap, attempts));
                attempts += 1;
            } else {
                spans.push(internal(request, lap));
            }
        }
    }
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// The request as its caller sees it.
fn server(request: &Finished) -> Span {
    let said = &request.said;
    let mut attributes = method(&said.method);
    attributes.push(text("url.scheme", said.scheme));
    if !said.path.is_empty() {
        attributes.push(text("url.path", &said.path));
    }
    if let Some(route) = &said.route {
        attributes.push(text("http.route", &route.prefix));
        attributes.push(text("countersign.route", &route.name));
    }
    attributes.extend(status_code(request.status));
    let failed = !request.reason.is_empty() || request.status >= 500;
    if failed {
        attributes.push(error_type(request.reason, request.status));
    }
    for (key, value) in
        [("countersign.request_id", &said.request_id), ("countersign.device", &request.device)]
    {
        attributes.extend(value.as_ref().map(|value| text(key, value)));
    }
    // A request that is refused rightly is no error of the server's, and nor is one that is given up.
    let broke_off = failed && request.status < 400 && request.reason != CALLER_LEFT;
    let is_error = request.status >= 500 || broke_off;
    Span {
        parent_span_id: request.parent.map(|parent| parent.bytes().to_vec()).unwrap_or_default(),
        name: named(&said.method, said.route.as_ref().map_or("", |route| &route.prefix)),
        flags: u32::from(request.flags) | if request.parent.is_some() { REMOTE } else { LOCAL },
        attributes,
        status: is_error.then_some(Status { code: StatusCode::Error.into() }),
        ..span(request, request.id.bytes(), SpanKind::Server, Duration::ZERO, request.took)
    }
}

/// An attempt, as the upstream sees it.
fn client(request: &Finished, lap: &Lap, before: i64) -> Span {
    let mut attributes = method(&request.said.method);
    if let Some(SaidRoute { upstream: (host, port), url, .. }) = &request.said.route {
        attributes.push(text("server.address", host));
        attributes.push(number("server.port", i64::from(*port)));
        attributes.push(text("url.full", url));
    }
    attributes.extend(status_code(lap.status));
    if before > 0 {
        attributes.push(number("http.request.resend_count", before));
    }
    let failed = lap.status == 0 || lap.status >= 400;
    if failed {
        let reason = if lap.status == 0 { request.reason } else { "" };
        attributes.push(error_type(reason, lap.status));
    }
    Span {
        name: "upstream".to_owned(),
        attributes,
        status: failed.then_some(Status { code: StatusCode::Error.into() }),
        ..child(request, lap, SpanKind::Client)
    }
}

fn internal(request: &Finished, lap: &Lap) -> Span {
    let name = if lap.phase == Phase::Wait { "wait" } else { "sign" };
    Span { name: name.to_owned(), ..child(request, lap, SpanKind::Internal) }
}

fn child(request: &Finished, lap: &Lap, kind: SpanKind) -> Span {
    Span {
        parent_span_id: request.id.bytes().to_vec(),
        ..span(request, lap.id.bytes(), kind, lap.began, lap.ended)
    }
}

fn span(request: &Finished, id: &[u8], kind: SpanKind, began: Duration, ended: Duration) -> Span {
    let at = |after| nanoseconds(request.began + after);
    Span {
        trace_id: request.trace.bytes().to_vec(),
        span_id: id.to_vec(),
        kind: kind.into(),
        start_time_unix_nano: at(began),
        end_time_unix_nano: at(ended),
        flags: u32::from(request.flags) | LOCAL,
        ..Span::default()
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Methods that are known; anybody can make up others.
const METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

fn named(method: &str, route: &str) -> String {
    let method = if METHODS.contains(&method) { method } else { "HTTP" };
    if route.is_empty() { method.to_owned() } else { format!("{method} {route}") }
}

fn method(method: &str) -> Vec<KeyValue> {
    const KEY: &str = "http.request.method";
    match method {
        "" => vec![text(KEY, "_OTHER")],
        known if METHODS.contains(&known) => vec![text(KEY, known)],
        other => vec![text(KEY, "_OTHER"), text("http.request.method_original", other)],
    }
}

fn status_code(status: u16) -> Option<KeyValue> {
    (status != 0).then(|| number("http.response.status_code", i64::from(status)))
}

/// Our word, else the status.
fn error_type(reason: &str, status: u16) -> KeyValue {
    let status = if status == 0 { "_OTHER".to_owned() } else { status.to_string() };
    text("error.type", if reason.is_empty() { &status } else { reason })
}

fn text(key: &str, value: &str) -> KeyValue {
    any(key, Value::Text(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    any(key, Value::Number(value))
}

fn any(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
