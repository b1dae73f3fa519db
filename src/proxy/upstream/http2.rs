//! One HTTP/2 connection to an upstream: many exchanges at once.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TE};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::outcome::{Failure, http2_error};
use super::{Fate, Outgoing, SendError, Target};
use crate::connect::{LateRefusal, Stream};
use crate::local::LocalTasks;
use crate::proxy::content::{Progress, RequestContent};
use crate::proxy::respond::ProxyError;

/// Exchanges at once over one connection; more get another one.
const MAX_STREAMS: usize = 64;

/// How much of an answer is taken that the caller has not read yet.
const STREAM_WINDOW: u32 = 256 << 10;

/// All of that together, so that callers who read slowly do not hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 64;

/// A connection that says nothing for this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A connection. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<RequestContent>,
    driver: AbortHandle,
    refusal: LateRefusal,
    /// What the connection runs beside it; ends with this.
    _tasks: LocalTasks,
    streams: Cell<usize>,
    /// Exchanges at once that the upstream allows.
    allowed: Rc<Cell<usize>>,
    /// The upstream has said, or shown, that it takes no more requests over it.
    leaving: Cell<bool>,
    /// When its last exchange ended.
    pub(super) idle_since: Cell<Instant>,
    /// When it is too old for another request.
    pub(super) retires_at: Instant,
}

impl Http2 {
    /// Speaks HTTP/2 over `stream`.
    pub(super) async fn begin(stream: Stream, target: &Target) -> Result<Self, SendError> {
        let tasks = LocalTasks::default();
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let refusal = stream.late_refusal();
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, mut connection) =
            handshake.map_err(|_| SendError::last(ProxyError::Closed))?;
        let allowed = Rc::new(Cell::new(MAX_STREAMS));
        let says = Rc::clone(&allowed);
        let driver = tokio::task::spawn_local(async move {
            let driven = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                says.set(connection.current_max_send_streams());
                polled
            });
            if let Err(error) = driven.await {
                tracing::debug!(%error, "an upstream's connection ended early");
            }
        });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
            refusal,
            _tasks: tasks,
            streams: Cell::new(0),
            allowed,
            leaving: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            retires_at: Instant::now() + target.settings.draw_age(),
        })
    }

    /// True if it can take another exchange.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.is_open()
            && !self.leaving.get()
            && now < self.retires_at
            && self.streams.get() < MAX_STREAMS.min(self.allowed.get().max(1))
    }

    pub(super) fn is_open(&self) -> bool {
        let left = self.leaving.get() && self.is_idle();
        !left && !self.sender.is_closed()
    }

    /// True if no exchange is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    /// Takes no more requests; it ends with those under way.
    pub(super) fn leave(&self) {
        self.leaving.set(true);
    }

    /// Sends `request` and waits for the head of the answer, at most `first_byte` after the last
    /// piece of the request was taken.
    pub(super) async fn exchange(
        &self,
        request: Request<RequestContent>,
        progress: &Arc<Progress>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let mut sender = self.sender.clone();
        let answer = sender.try_send_request(request);
        tokio::pin!(answer);
        let patience = tokio::time::sleep(first_byte);
        tokio::pin!(patience);
        let mut failed = loop {
            tokio::select! {
                biased;
                sent = &mut answer => match sent {
                    Ok(response) => return Ok(response),
                    Err(failed) => break failed,
                },
                () = &mut patience => {
                    let until = progress.upstream_idle_since() + first_byte;
                    if until <= Instant::now() {
                        return Err(Failure::Sent(SendError::last(ProxyError::FirstByte)));
                    }
                    patience.as_mut().reset(until);
                }
            }
        };
        if let Some(refusal) = self.refusal.get() {
            self.leaving.set(true);
            return Err(Failure::Sent(SendError::last(ProxyError::Dial(refusal))));
        }
        if let Some(request) = failed.take_message() {
            self.leaving.set(true);
            return Err(Failure::Unsent(Box::new(request)));
        }
        let error = failed.into_error();
        let cause = http2_error(&error).filter(|cause| cause.is_remote());
        let refused_stream =
            cause.is_some_and(|cause| cause.reason() == Some(h2::Reason::REFUSED_STREAM));
        // With both the upstream says itself that it did nothing (RFC 9113 §6.8, §8.7).
        let told = refused_stream || cause.is_some_and(h2::Error::is_go_away);
        let fate = match cause {
            _ if told => Fate::Unprocessed,
            Some(cause) if cause.is_reset() => Fate::Final,
            _ => Fate::Unknown,
        };
        let ours = progress.failure();
        if fate != Fate::Final && !refused_stream && ours.is_none() {
            self.leaving.set(true);
        }

        let error = ours.unwrap_or(ProxyError::Closed);
        Err(Failure::Sent(SendError { error, fate }))
    }
}

/// One exchange on a shared connection.
#[derive(Debug)]
pub(super) struct SharedStream(Rc<Http2>);

impl SharedStream {
    pub(super) fn begin(connection: Rc<Http2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection)
    }
}

impl std::ops::Deref for SharedStream {
    type Target = Http2;

    fn deref(&self) -> &Http2 {
        &self.0
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// `outgoing` as HTTP/2 sends it: the authority is part of the target (RFC 9113 §8.3.1).
pub(super) fn request(
    outgoing: Outgoing,
    target: &Target,
) -> Result<Request<RequestContent>, SendError> {
    let Outgoing { method, target: path, mut headers, content, needs, .. } = outgoing;
    headers.remove(HOST);
    if needs.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // Flow control says here what 100-continue says in HTTP/1.1.
    if let Some(gate) = content.gate() {
        gate.open();
    }
    let uri = Uri::builder()
        .scheme(target.origin.scheme.clone())
        .authority(target.origin.authority.clone())
        .path_and_query(path)
        .build()
        .map_err(|_| SendError::last(ProxyError::Internal))?;
    let mut request = Request::new(content);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}
