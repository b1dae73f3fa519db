//! One answer on its way to a caller of HTTP/1.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderValue, Method, Response, StatusCode, Version, response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Syntax;
use super::caller::Caller;
use super::patience::Reset;
use crate::http1::{self, Case, Framing, Output, Reason, RequestHead};
use crate::proxy::content::ResponseContent;
use crate::proxy::{Exchange, headers};

/// What a request says about its answer.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) version: Version,
    to_head: bool,
    /// The connection lasts, if it is for the caller to say.
    pub(super) lasts: bool,
    /// The caller waits to be asked for content.
    pub(super) to_continue: bool,
    trailers: bool,
}

impl Default for Asked {
    /// Nothing is known of the request.
    fn default() -> Self {
        Self {
            version: Version::HTTP_11,
            to_head: false,
            lasts: false,
            to_continue: false,
            trailers: false,
        }
    }
}

impl Asked {
    pub(super) fn by(head: &RequestHead) -> Self {
        let RequestHead { parts, .. } = head;
        let (version, fields) = (parts.version, &parts.headers);
        let is_http10 = version == Version::HTTP_10;
        Self {
            version,
            to_head: parts.method == Method::HEAD,
            lasts: http1::lasts(version, fields),
            // Callers of HTTP/1.0 know no interim answers (RFC 9110 §10.1.1).
            to_continue: !is_http10 && fields.contains_key(EXPECT),
            trailers: headers::takes_trailers(fields),
        }
    }
}

/// An answer on its way.
pub(super) struct Answer {
    /// `None` when all of it was taken.
    content: Option<ResponseContent<Exchange>>,
    framing: Framing,
    /// What is still to come of content that has a length.
    left: u64,
    trailers: bool,
    lenient: bool,
    /// The connection may serve another request.
    lasts: bool,
}

/// The answer cannot be sent as a whole.
pub(super) struct Broken;

impl Answer {
    /// Begins `response` to what was `asked`, at `now`.
    pub(super) fn begin<S>(
        caller: &Rc<Caller<S>>,
        asked: Asked,
        response: Response<ResponseContent<Exchange>>,
        syntax: Syntax,
        now: SystemTime,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
    {
        let (mut head, content) = response.into_parts();
        let framing = frame(&mut head, asked, content.size_hint());
        // Content that somebody still reads may yet come to its end.
        let was_read = caller.begin_answer(content.takes_request());
        let lasts = asked.lasts && was_read && framing != Framing::UntilClose;
        let says = if lasts {
            (asked.version == Version::HTTP_10).then_some("keep-alive")
        } else {
            Some("close")
        };
        if let Some(says) = says
            && head.status != StatusCode::SWITCHING_PROTOCOLS
        {
            head.headers.insert(CONNECTION, HeaderValue::from_static(says));
        }
        if !head.headers.contains_key(DATE) {
            http1::date(&mut head.headers, now);
        }
        let case = syntax.case(head.extensions.get());
        let reason = head.extensions.get::<Reason>();
        caller.output(|output| {
            let out = output.tail();
            http1::response_head(out, head.status, reason, &head.headers, framing, case);
        });
        let (left, content) = match framing {
            Framing::Empty | Framing::Length(0) => (0, None),
            Framing::Length(length) => (length, Some(content)),
            Framing::Chunked | Framing::UntilClose => (0, Some(content)),
        };
        Self { content, framing, left, trailers: asked.trailers, lenient: syntax.lenient, lasts }
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// True if the caller was told that the connection may serve another request.
    pub(super) fn lasts(&self) -> bool {
        self.lasts
    }

    /// Sends it.
    pub(super) fn poll<S>(
        &mut self,
        caller: &Rc<Caller<S>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
    {
        loop {
            let mut waits = false;
            while let Some(content) = &mut self.content
                && !caller.output(|output| output.is_full())
            {
                let frame = match Pin::new(content).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => Some(frame),
                    Poll::Ready(Some(Err(_))) => {
                        // What has come of it is the caller's.
                        let _ = caller.poll_flush(cx);
                        return Poll::Ready(Err(Broken));
                    }
                    Poll::Ready(None) => None,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                };
                caller.output(|output| self.add(frame, output))?;
            }
            match caller.poll_flush(cx) {
                Poll::Ready(Ok(())) if self.content.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a caller takes no more of an answer");
                    return Poll::Ready(Err(Broken));
                }
                Poll::Ready(Ok(())) | Poll::Pending => {
                    return caller.poll_end(cx, self.lenient).map(|()| Err(Broken));
                }
            }
        }
    }

    /// Adds a piece of the content, or its end.
    fn add(&mut self, frame: Option<Frame<Bytes>>, output: &mut Output) -> Result<(), Broken> {
        let ended = |content: &Option<ResponseContent<Exchange>>| {
            content.as_ref().is_none_or(http_body::Body::is_end_stream)
        };
        let (last, trailers) = match frame.map(Frame::into_data) {
            Some(Ok(piece)) => {
                match self.framing {
                    Framing::Chunked if piece.is_empty() => {}
                    Framing::Chunked => {
                        http1::chunk(output.tail(), piece.len());
                        output.push(piece);
                        output.tail().extend_from_slice(b"\r\n");
                    }
                    Framing::Length(_) => {
                        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                        self.left = self.left.checked_sub(length).ok_or(Broken)?;
                        output.push(piece);
                    }
                    Framing::Empty | Framing::UntilClose => output.push(piece),
                }
                (ended(&self.content), None)
            }
            Some(Err(frame)) => (true, frame.into_trailers().ok()),
            None => (true, None),
        };
        if !last {
            return Ok(());
        }
        self.content = None;
        if self.left > 0 {
            return Err(Broken);
        }
        if self.framing == Framing::Chunked {
            // Whoever does not ask for trailers would have to be told beforehand which are to come
            // (RFC 9110 §6.5.1).
            let trailers = trailers.filter(|_| self.trailers);
            http1::last_chunk(output.tail(), trailers.as_ref(), Case::Lower);
        }
        Ok(())
    }
}

/// Says how the content of an answer is framed, and leaves in its fields only what else is said
/// about its length (RFC 9110 §8.6).
fn frame(head: &mut response::Parts, asked: Asked, size: SizeHint) -> Framing {
    let status = head.status;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_LENGTH);
        return Framing::Empty;
    }
    if asked.to_head || status == StatusCode::NOT_MODIFIED {
        return Framing::Empty;
    }
    head.headers.remove(CONTENT_LENGTH);
    match size.exact() {
        Some(length) => Framing::Length(length),
        None if asked.version == Version::HTTP_10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}
