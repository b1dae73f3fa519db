//! One HTTP/1.1 connection to an upstream: one exchange at a time.
//!
//! It has no task of its own. Whoever waits for the answer drives it, which saves two changes of
//! task per exchange; while it is idle nobody has to, and it is looked at before it is used again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::outcome::{Failure, classify};
use super::{Fate, Outgoing, SendError, Target};
use crate::config::HeaderCase;
use crate::connect::{Received, Stream};
use crate::proxy::content::{Progress, RequestContent};
use crate::proxy::respond::ProxyError;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much earlier than the upstream we stop using a connection that it lets idle for so long.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection. It ends when this is dropped.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestContent>,
    driver: Driver,
    received: Received,
    /// Set once and moved only when it fires, so that a request costs no timer of its own.
    patience: Pin<Box<Sleep>>,
    /// How long it may wait for its next request.
    pub(super) idle_timeout: Duration,
    /// When it is too old for another request.
    pub(super) retires_at: Instant,
}

/// Who drives the connection.
enum Driver {
    /// Whoever has it.
    Owner(Pin<Box<dyn Future<Output = hyper::Result<()>>>>),
    /// A task, because the caller may not read the answer before all of its content is sent.
    Task { _ends_with_this: Task },
    /// Nobody: it has ended.
    Ended,
}

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What hyper makes of a request that was given to it.
type Sent = Result<Response<Incoming>, TrySendError<Request<RequestContent>>>;

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
        Ok(Self {
            sender,
            driver: Driver::Owner(Box::pin(connection.with_upgrades())),
            received,
            patience: Box::pin(tokio::time::sleep(settings.idle_timeout)),
            idle_timeout: settings.idle_timeout,
            retires_at: Instant::now() + settings.draw_age(),
        })
    }

    /// Lets the connection read and write what it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Owner(connection) = &mut self.driver
            && let Poll::Ready(ended) = connection.as_mut().poll(cx)
        {
            if let Err(error) = ended {
                tracing::debug!(%error, "an upstream's connection ended early");
            }
            self.driver = Driver::Ended;
        }
    }

    /// True if it can take a request, as far as is known. Whether the upstream has closed it in the
    /// meantime, or sent what nobody asked for, shows before the request is written.
    pub(super) fn is_ready(&mut self) -> bool {
        self.sender.is_ready() || self.look_again()
    }

    /// True if it can take a request, after a look at what has come.
    pub(super) fn look_again(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready()
    }

    /// Leaves the connection to a task of its own.
    pub(super) fn detach(&mut self) {
        if !matches!(self.driver, Driver::Owner(_)) {
            return;
        }
        if let Driver::Owner(connection) = std::mem::replace(&mut self.driver, Driver::Ended) {
            let task = tokio::task::spawn_local(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "an upstream's connection ended early");
                }
            });
            self.driver = Driver::Task { _ends_with_this: Task(task.abort_handle()) };
        }
    }

    /// Drives it to its end, or to where it is no longer HTTP.
    pub(super) async fn finish(mut self) {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if matches!(self.driver, Driver::Owner(_)) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Gives `request` to the connection, which has to be driven for anything to come of it.
    pub(super) fn send(
        &mut self,
        request: Request<RequestContent>,
    ) -> impl Future<Output = Sent> + use<> {
        self.sender.try_send_request(request)
    }

    /// Waits for the head of the answer, for as long as `wait` says.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        sent: Pin<&mut impl Future<Output = Sent>>,
        progress: &Progress,
        wait: &mut Wait,
    ) -> Poll<Result<Response<Incoming>, Failure>> {
        self.drive(cx);
        if let Poll::Ready(sent) = sent.poll(cx) {
            return Poll::Ready(self.answered(sent, progress, wait));
        }
        loop {
            ready!(self.patience.as_mut().poll(cx));
            // Content that still moves is a reason to wait on.
            let now = Instant::now();
            if wait.until <= now {
                wait.until = progress.upstream_idle_since().max(wait.from) + wait.first_byte;
            }
            if wait.until <= now {
                let error = SendError::last(ProxyError::FirstByte);
                return Poll::Ready(Err(Failure::Sent(error)));
            }
            self.patience.as_mut().reset(wait.until);
        }
    }

    /// A wait for an answer to what is sent `from` now on.
    pub(super) fn wait(&mut self, from: Instant, first_byte: Duration) -> Wait {
        let until = from + first_byte;
        // Later is fine: it is looked at again when it fires.
        if until < self.patience.deadline() {
            self.patience.as_mut().reset(until);
        }
        Wait { from, first_byte, until, received_before: self.received.bytes() }
    }

    fn answered(
        &mut self,
        sent: Sent,
        progress: &Progress,
        wait: &Wait,
    ) -> Result<Response<Incoming>, Failure> {
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
        let nothing_came = self.received.bytes() == wait.received_before;
        let fate = if nothing_came && !error.is_parse() { Fate::Unknown } else { Fate::Final };
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

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").field("retires_at", &self.retires_at).finish_non_exhaustive()
    }
}

/// A wait for the head of an answer.
#[derive(Debug)]
pub(super) struct Wait {
    /// When the upstream could be sent to.
    from: Instant,
    first_byte: Duration,
    until: Instant,
    received_before: u64,
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
