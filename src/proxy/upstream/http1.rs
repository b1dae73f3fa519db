//! One HTTP/1.1 connection to an upstream: one exchange at a time.
//!
//! It has no task of its own. Whoever waits for the answer lets it send and receive, and whoever reads
//! the answer's content lets it receive; while it is idle nobody has to, and it is looked at before
//! it is used again.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{Fate, Outgoing, SendError, Target};
use crate::config::HeaderCase;
use crate::connect::Stream;
use crate::http1::{
    self, Case, Content, ContentFailure, Framing, HeadError, HeadSyntax, Input, Output,
    ResponseHead,
};
use crate::proxy::content::{Gate, Progress, RequestContent};
use crate::proxy::interim::Interims;
use crate::proxy::respond::ProxyError;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How much earlier than the upstream we stop using a connection that it lets idle for so long.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 128 << 10;

/// The most fields of an answer.
const MAX_FIELDS: usize = 256;

/// The most interim answers to one request.
const MAX_INTERIMS: usize = 32;

/// A connection. It ends when this is dropped.
pub(super) struct Http1 {
    stream: Stream,
    input: Input,
    output: Output,
    syntax: HeadSyntax,
    header_case: HeaderCase,
    /// What is sent of the request now.
    sending: Option<Sending>,
    /// What is read of its answer now.
    content: Content,
    exchange: Exchange,
    /// Set once and moved only when it fires, so that a request costs no timer of its own.
    patience: Pin<Box<Sleep>>,
    /// How long it may wait for its next request.
    pub(super) idle_timeout: Duration,
    /// When it is too old for another request.
    pub(super) retires_at: Instant,
}

/// The content of a request on its way.
struct Sending {
    content: RequestContent,
    /// How much is still to come; `None` in chunks.
    left: Option<u64>,
}

/// What one exchange is about.
#[derive(Default)]
struct Exchange {
    to_head: bool,
    /// How many bytes of the request the system has taken.
    sent: usize,
    /// The upstream does not get all of the request.
    refused: bool,
    /// The upstream lets the connection serve another exchange.
    lasts: bool,
    /// Opened when the upstream asks for the content.
    gate: Option<Arc<Gate>>,
    /// Where interim answers go.
    interims: Option<Rc<Interims>>,
    interims_seen: usize,
}

impl Http1 {
    /// Speaks HTTP/1.1 over `stream`.
    pub(super) fn begin(stream: Stream, target: &Target) -> Box<Self> {
        let settings = &target.settings;
        Box::new(Self {
            stream,
            input: Input::default(),
            output: Output::default(),
            syntax: HeadSyntax {
                max_bytes: MAX_HEAD,
                max_fields: MAX_FIELDS,
                lenient: settings.lenient,
                remember_spelling: target.remember_case,
            },
            header_case: settings.header_case,
            sending: None,
            content: Content::new(Framing::Empty),
            exchange: Exchange::default(),
            patience: Box::pin(tokio::time::sleep(settings.idle_timeout)),
            idle_timeout: settings.idle_timeout,
            retires_at: Instant::now() + settings.draw_age(),
        })
    }

    /// True if it can take a request, as far as is known: the upstream has not closed it, nor sent
    /// what nobody asked for.
    pub(super) fn is_ready(&mut self) -> bool {
        let Self { stream, input, .. } = self;
        if !input.is_empty() {
            return false;
        }
        // However much the task has done already, this is looked at.
        let look = std::future::poll_fn(|cx| input.poll_fill(stream, cx));
        let mut look = std::pin::pin!(tokio::task::unconstrained(look));
        look.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// True if the exchange has ended as it should and another may follow.
    pub(super) fn is_clean(&self) -> bool {
        let Exchange { lasts, refused, .. } = self.exchange;
        lasts
            && !refused
            && self.sending.is_none()
            && self.output.is_empty()
            && self.input.is_empty()
            && self.content.has_ended()
            // A line that a lenient reader has left out may have said where the answer ends.
            && !self.syntax.lenient
    }

    /// True while some of the request is still to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some() || !self.output.is_empty()
    }

    /// Begins to send `outgoing`. The connection has to be polled for anything to come of it.
    pub(super) fn send(&mut self, outgoing: Outgoing) {
        let Outgoing { method, target, mut headers, spelling, content, needs, interims } = outgoing;
        if needs.upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        let gate = needs.go_ahead.then(|| content.gate()).flatten();
        if gate.is_some() {
            headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        let said = headers.remove(CONTENT_LENGTH).is_some();
        let left = if content.is_end_stream() { Some(0) } else { content.size_hint().exact() };
        let framing = match left {
            None => Framing::Chunked,
            // What expects content is told that there is none (RFC 9110 §8.6).
            Some(0) if !said && !takes_content(&method) => Framing::Empty,
            Some(length) => Framing::Length(length),
        };
        let case = match (self.header_case, &spelling) {
            (HeaderCase::Lower, _) => Case::Lower,
            (HeaderCase::Preserve, Some(spelling)) => Case::As(spelling),
            (HeaderCase::Title | HeaderCase::Preserve, _) => Case::Title,
        };
        http1::request_head(self.output.tail(), &method, &target, &headers, framing, case);
        let to_head = method == Method::HEAD;
        self.exchange = Exchange { to_head, gate, interims, ..Exchange::default() };
        self.sending = (left != Some(0)).then_some(Sending { content, left });
    }

    /// Sends what can be sent.
    ///
    /// # Errors
    /// When the content of the request breaks off. Nothing more of it is sent: it must not look
    /// complete.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let polled = self.poll_send_on(cx);
        if polled == Poll::Ready(Err(Broken)) {
            self.send_no_more();
        }
        polled
    }

    fn send_no_more(&mut self) {
        self.exchange.refused = true;
        self.sending = None;
        self.output = Output::default();
    }

    fn poll_send_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let mut waits = false;
            while let Some(sending) = &mut self.sending
                && !self.output.is_full()
            {
                match Pin::new(&mut sending.content).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if sending.add(frame, &mut self.output)? {
                            self.sending = None;
                        }
                    }
                    Poll::Ready(None) => {
                        sending.end(None, &mut self.output)?;
                        self.sending = None;
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Broken)),
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            let sent = &mut self.exchange.sent;
            if let Err(error) = ready!(self.output.poll_flush(&mut self.stream, cx, sent)) {
                // What it has to say about that may be there to read.
                tracing::debug!(%error, "an upstream takes no more of a request");
                self.send_no_more();
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
            if self.sending.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Waits for the head of the answer, for as long as `wait` says.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        progress: &Progress,
        wait: &mut Wait,
    ) -> Poll<Result<response::Parts, SendError>> {
        if self.poll_send(cx) == Poll::Ready(Err(Broken)) {
            let error = progress.failure().unwrap_or(ProxyError::Internal);
            return Poll::Ready(Err(SendError::last(error)));
        }
        if let Poll::Ready(head) = self.poll_head(cx) {
            return Poll::Ready(head);
        }
        loop {
            ready!(self.patience.as_mut().poll(cx));
            // Content that still moves is a reason to wait on.
            let now = Instant::now();
            if wait.until <= now {
                wait.until = progress.upstream_idle_since().max(wait.from) + wait.first_byte;
            }
            if wait.until <= now {
                return Poll::Ready(Err(SendError::last(ProxyError::FirstByte)));
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
        Wait { from, first_byte, until }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, SendError>> {
        loop {
            match self.input.response_head(self.syntax) {
                Ok(Some(head)) if is_interim(head.status) => {
                    self.exchange.interims_seen += 1;
                    if self.exchange.interims_seen > MAX_INTERIMS {
                        return Poll::Ready(Err(not_http(
                            "too many interim answers come before it",
                        )));
                    }
                    self.interim(head);
                }
                Ok(Some(head)) => return Poll::Ready(self.begin_answer(head)),
                Ok(None) => {
                    let begun = !self.input.is_empty() || self.exchange.interims_seen > 0;
                    let error = match ready!(self.input.poll_fill(&mut self.stream, cx)) {
                        Ok(0) => None,
                        Ok(_) => continue,
                        Err(error) => Some(error),
                    };
                    tracing::debug!(?error, "an upstream's connection ended early");
                    if let Some(refusal) = self.stream.late_refusal().get() {
                        return Poll::Ready(Err(SendError::last(ProxyError::Dial(refusal))));
                    }
                    let fate = match self.exchange.sent {
                        _ if begun => Fate::Final,
                        0 => Fate::Unprocessed,
                        _ => Fate::Unknown,
                    };
                    return Poll::Ready(Err(SendError { error: ProxyError::Closed, fate }));
                }
                Err(error) => return Poll::Ready(Err(not_http(wrong(error)))),
            }
        }
    }

    fn interim(&mut self, head: ResponseHead) {
        if head.status == StatusCode::CONTINUE {
            if let Some(gate) = &self.exchange.gate {
                gate.open();
            }
        } else if let Some(interims) = &self.exchange.interims {
            interims.add(head.status, head.headers);
        }
    }

    fn begin_answer(&mut self, head: ResponseHead) -> Result<response::Parts, SendError> {
        let ResponseHead { status, version, mut headers, spelling, reason } = head;
        let to_head = self.exchange.to_head;
        let framing =
            http1::of_response(to_head, status, version, &mut headers).map_err(not_http)?;
        self.content = Content::new(framing);
        // What an upstream says of content that there cannot be may come all the same.
        let ambiguous = status == StatusCode::NO_CONTENT
            && (headers.contains_key(TRANSFER_ENCODING)
                || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0"));
        self.exchange.lasts = http1::lasts(version, &headers)
            && framing != Framing::UntilClose
            && status != StatusCode::SWITCHING_PROTOCOLS
            && !ambiguous;
        self.learn(&headers);
        let mut parts = Response::new(()).into_parts().0;
        parts.status = status;
        parts.headers = headers;
        if let Some(spelling) = spelling {
            parts.extensions.insert(spelling);
        }
        if let Some(reason) = reason {
            parts.extensions.insert(reason);
        }
        Ok(parts)
    }

    /// The next piece of the answer's content.
    pub(super) fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentFailure>>> {
        self.content.poll_frame(&mut self.input, &mut self.stream, cx)
    }

    /// True if all of the answer's content was read.
    pub(super) fn has_ended(&self) -> bool {
        self.content.has_ended()
    }

    /// How much of the answer's content is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }

    /// What it is when it is no longer HTTP, and what has come of that already.
    pub(super) fn into_upgraded(self) -> (Stream, Bytes) {
        let Self { stream, mut input, .. } = self;
        (stream, input.take_all())
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

/// The content of a request has broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

impl Sending {
    /// Adds a piece. True if it was the last.
    fn add(&mut self, frame: Frame<Bytes>, output: &mut Output) -> Result<bool, Broken> {
        let piece = match frame.into_data() {
            Ok(piece) => piece,
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                self.end(trailers.as_ref(), output)?;
                return Ok(true);
            }
        };
        match &mut self.left {
            Some(left) => {
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or(Broken)?;
                output.push(piece);
            }
            None if piece.is_empty() => {}
            None => {
                http1::chunk(output.tail(), piece.len());
                output.push(piece);
                output.tail().extend_from_slice(b"\r\n");
            }
        }
        if self.content.is_end_stream() {
            self.end(None, output)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, output: &mut Output) -> Result<(), Broken> {
        match self.left {
            None => http1::last_chunk(output.tail(), trailers, Case::Lower),
            Some(0) => {}
            // What was announced and does not come would be taken from the next request.
            Some(_) => return Err(Broken),
        }
        Ok(())
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// True if a request with this method usually has content.
fn takes_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn not_http(why: &'static str) -> SendError {
    tracing::debug!(why, "an upstream's answer is not HTTP");
    SendError::last(ProxyError::Protocol(why))
}

/// What is wrong with the head of an answer.
fn wrong(error: HeadError) -> &'static str {
    match error {
        HeadError::TooLongTarget | HeadError::TooLarge => "its head is longer than 128 KiB",
        HeadError::TooManyFields => "it has more than 256 fields",
        HeadError::Malformed(why) => why,
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
}
