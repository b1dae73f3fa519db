//! One HTTP/1.1 connection to an upstream: one exchange at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::{Fate, Outgoing, SendError, Target, classify};
use crate::config::HeaderCase;
use crate::connect::{Received, Stream};
use crate::proxy::content::{Progress, RequestContent};
use crate::proxy::respond::ProxyError;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much earlier than the upstream we stop using a connection that it lets idle for so long.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestContent>,
    received: Received,
    driver: AbortHandle,
    /// Set once and moved only when it fires, so that a request costs no timer of its own.
    patience: Pin<Box<Sleep>>,
    /// How long it may wait for its next request.
    pub(super) idle_timeout: Duration,
    /// When it is too old for another request.
    pub(super) retires_at: Instant,
}

/// A request that got nowhere, or one whose answer did not come.
pub(super) enum Failure {
    /// The connection was closed before anything was written.
    Unsent(Box<Request<RequestContent>>),
    /// It was sent, or begun.
    Sent(SendError),
}

impl Http1 {
    /// Speaks HTTP/1.1 over `stream`.
    pub(super) async fn begin(stream: Stream, target: &Target) -> Result<Self, SendError> {
        let settings = &target.settings;
        let received = stream.received();
        let mut builder = http1::Builder::new();
        builder
            .title_case_headers(settings.header_case != HeaderCase::Lower)
            .preserve_header_case(
                settings.header_case == HeaderCase::Preserve || target.remember_case,
            )
            .allow_spaces_after_header_name_in_responses(settings.lenient)
            .allow_obsolete_multiline_headers_in_responses(settings.lenient)
            .ignore_invalid_headers_in_responses(settings.lenient);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| SendError::last(classify(&error)))?;
        let driver = tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream's connection ended early");
            }
        });
        Ok(Self {
            sender,
            received,
            driver: driver.abort_handle(),
            patience: Box::pin(tokio::time::sleep(settings.idle_timeout)),
            idle_timeout: settings.idle_timeout,
            retires_at: super::pool::retirement(settings.max_age),
        })
    }

    /// True if it can take a request, as far as we know.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// True if it can take a request at once.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until it can take a request; false if it is closed.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends `request` and waits for the head of the answer, at most `first_byte` after the last
    /// piece of the request was taken.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestContent>,
        progress: &Arc<Progress>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let received_before = self.received.bytes();
        let mut wait_until = progress.started() + first_byte;
        let answer = self.sender.try_send_request(request);
        tokio::pin!(answer);
        let sent = loop {
            tokio::select! {
                biased;
                sent = &mut answer => break sent,
                () = &mut self.patience => {
                    // Content that still moves is a reason to wait on.
                    let now = Instant::now();
                    if wait_until <= now {
                        wait_until = progress.upstream_idle_since() + first_byte;
                    }
                    if wait_until <= now {
                        return Err(Failure::Sent(SendError::last(ProxyError::FirstByte)));
                    }
                    self.patience.as_mut().reset(wait_until);
                }
            }
        };
        let mut failed = match sent {
            Ok(response) => {
                self.learn(response.headers());
                return Ok(response);
            }
            Err(failed) => failed,
        };
        if let Some(request) = failed.take_message() {
            return Err(Failure::Unsent(Box::new(request)));
        }
        let error = failed.into_error();
        let fate = if self.received.bytes() == received_before && !error.is_parse() {
            Fate::Unknown
        } else {
            Fate::Final
        };
        let error = progress.failure().unwrap_or_else(|| classify(&error));
        Err(Failure::Sent(SendError { error, fate }))
    }

    /// Believes the upstream when it says how long it lets a connection idle.
    fn learn(&mut self, headers: &HeaderMap) {
        let Some(value) = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else {
            return;
        };
        let said = value.split(',').find_map(|parameter| {
            let (name, seconds) = parameter.split_once('=')?;
            let seconds = seconds.trim().trim_matches('"').parse().ok()?;
            name.trim().eq_ignore_ascii_case("timeout").then_some(Duration::from_secs(seconds))
        });
        if let Some(said) = said {
            // A second for what is on its way; half of it where there is no second to spare.
            let safe = said.saturating_sub(KEEP_ALIVE_MARGIN).max(said.min(KEEP_ALIVE_MARGIN) / 2);
            self.idle_timeout = self.idle_timeout.min(safe);
        }
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        // What is half sent or half read cannot be used again.
        self.driver.abort();
    }
}

/// `outgoing` as HTTP/1.1 sends it.
pub(super) fn request(outgoing: Outgoing) -> Request<RequestContent> {
    let Outgoing { method, target, mut headers, extensions, content, needs } = outgoing;
    // Without it hyper takes GET and HEAD to have no content, and drops what there is.
    if !content.is_end_stream() && content.size_hint().exact().is_none() {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if needs.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let go_ahead = needs.go_ahead.then(|| content.gate()).flatten();
    if go_ahead.is_some() {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    let mut request = Request::new(content);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    if let Some(gate) = go_ahead {
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() == http::StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    request
}

/// Waits for `connection` to be ready for another request, for as long as it may idle.
pub(super) async fn settle(mut connection: Http1) -> Option<Http1> {
    let limit = connection.idle_timeout;
    let ready = tokio::time::timeout(limit, connection.ready()).await;
    matches!(ready, Ok(true)).then_some(connection)
}
