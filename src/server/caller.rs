//! A caller's HTTP/1 connection, shared by whoever answers and whoever reads the content of the
//! request.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::patience::{Patient, Reset};
use super::stopping::Ear;
use crate::http1::{
    self, Case, Content, Framing, HeadError, HeadSyntax, Input, Output, RequestHead,
};
use crate::proxy::content::{CallerContent, CallerStream, ContentError};
use crate::proxy::interim::Interims;
use crate::proxy::respond::ProxyError;

/// How much is read of what nobody wants, so that the caller comes to read its answer.
pub(super) const DISCARDED: usize = 4 << 20;

/// The connection.
pub(super) struct Caller<S: Reset>(RefCell<State<S>>);

struct State<S: Reset> {
    /// `None` when the connection has ended, for whoever still reads the content of the request.
    stream: Option<Patient<S>>,
    input: Input,
    output: Output,
    /// What is still to be read of the current request.
    content: Content,
    /// Woken when that ends: from then on somebody has to see whether the caller is still there.
    watcher: Option<Waker>,
    /// The caller waits to be asked for it.
    to_be_asked: bool,
    /// Something goes in front of the answer.
    preceded: bool,
    /// The caller sends no more, which a lenient listener bears with.
    half_closed: bool,
    /// How much more is read of what nobody wants.
    discards: usize,
}

/// What comes next.
pub(super) enum Next {
    /// A request.
    Request(Box<RequestHead>, Framing),
    /// Something that is none.
    Refused(ProxyError),
    /// Nothing.
    Ended,
}

impl<S> Caller<S>
where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    pub(super) fn new(stream: Patient<S>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State {
            stream: Some(stream),
            input: Input::default(),
            output: Output::default(),
            content: Content::new(Framing::Empty),
            watcher: None,
            to_be_asked: false,
            preceded: false,
            half_closed: false,
            discards: DISCARDED,
        })))
    }

    /// The head of the next request, unless there is none, or the connection is told to end before
    /// it begins.
    pub(super) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        syntax: HeadSyntax,
        stopping: &mut Ear,
        is_first: bool,
    ) -> Poll<Next> {
        let State { stream, input, half_closed, .. } = &mut *self.0.borrow_mut();
        let Some(stream) = stream else { return Poll::Ready(Next::Ended) };
        loop {
            match input.request_head(syntax) {
                Ok(Some(head)) => {
                    stopping.is_busy();
                    let framing = http1::of_request(head.parts.version, &head.parts.headers);
                    return Poll::Ready(match framing {
                        Ok(framing) => Next::Request(Box::new(head), framing),
                        Err(why) => Next::Refused(ProxyError::Malformed(why)),
                    });
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Next::Refused(refusal(error))),
            }
            // Nothing was asked yet, so nothing is lost.
            let mut told =
                || if is_first { stopping.is_told(cx) } else { stopping.is_told_in_a_pause(cx) };
            if *half_closed || (input.is_empty() && told()) {
                return Poll::Ready(Next::Ended);
            }
            match ready!(input.poll_fill(stream, cx)) {
                Ok(0) => return Poll::Ready(Next::Ended),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a caller's connection ended without a request");
                    return Poll::Ready(Next::Ended);
                }
            }
        }
    }

    /// The content of the request whose head was read.
    pub(super) fn begin_content(
        self: &Rc<Self>,
        framing: Framing,
        to_be_asked: bool,
    ) -> CallerContent {
        if framing == Framing::Empty {
            return CallerContent::Empty;
        }
        let state = &mut *self.0.borrow_mut();
        state.content = Content::new(framing);
        state.to_be_asked = to_be_asked;
        CallerContent::Http1(Rc::clone(self) as Rc<dyn CallerStream>)
    }

    /// Passes on the interim answers that have come.
    pub(super) fn add_interims(&self, interims: &Interims, case: Case<'_>) {
        for (status, fields) in interims.take() {
            let state = &mut *self.0.borrow_mut();
            let out = state.output.tail();
            http1::response_head(out, status, None, &fields, Framing::Empty, case);
            state.preceded = true;
        }
    }

    /// Before there is an answer: ready when the caller has gone away.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>, lenient: bool) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        if state.send_ahead(cx).is_err() {
            return Poll::Ready(());
        }
        state.poll_end(cx, lenient)
    }

    /// Begins an answer with what `write` writes, and says whether all content of the request was
    /// read, or still may be if it `may_be` that somebody does. The caller is not asked for it any
    /// more.
    pub(super) fn begin_answer(self: &Rc<Self>, may_be: bool) -> bool {
        let was_asked = {
            let state = &mut *self.0.borrow_mut();
            state.preceded = false;
            !std::mem::take(&mut state.to_be_asked)
        };
        // What the caller was not asked for may not come.
        was_asked && (self.discard() || may_be)
    }

    /// Where the answer is written.
    pub(super) fn output<T>(&self, write: impl FnOnce(&mut Output) -> T) -> T {
        write(&mut self.0.borrow_mut().output)
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// When the caller takes no more, or has gone away.
    pub(super) fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let nobody_reads = Rc::strong_count(self) == 1;
        let state = &mut *self.0.borrow_mut();
        let State { stream, output, .. } = state;
        let stream = stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let flushed = output.poll_flush(stream, cx, &mut 0);
        if flushed.is_pending() && nobody_reads {
            // It may have to send all before it reads.
            state.discard_while_sending(cx);
        }
        flushed
    }

    /// While an answer is sent: ready when the caller has gone away.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>, lenient: bool) -> Poll<()> {
        self.0.borrow_mut().poll_end(cx, lenient)
    }

    /// Reads what has come of content that nobody wants. True if all of it was read.
    pub(super) fn discard(self: &Rc<Self>) -> bool {
        let nobody_reads = Rc::strong_count(self) == 1;
        let State { stream, input, content, .. } = &mut *self.0.borrow_mut();
        if let Some(stream) = stream
            && nobody_reads
        {
            let mut cx = Context::from_waker(Waker::noop());
            while !content.has_ended() && !input.is_empty() {
                if !matches!(content.poll_frame(input, stream, &mut cx), Poll::Ready(Some(Ok(_)))) {
                    break;
                }
            }
        }
        content.has_ended()
    }

    /// Takes the stream out, what was read ahead of it, and whether the caller is sending still.
    /// Nobody else reads any more.
    pub(super) fn end(&self) -> (Option<Patient<S>>, Input, bool) {
        let State { stream, input, content, .. } = &mut *self.0.borrow_mut();
        let sending = !content.has_ended() || !input.is_empty();
        content.abandon();
        (stream.take(), std::mem::take(input), sending)
    }
}

impl<S> State<S>
where
    S: AsyncRead + AsyncWrite + Reset + Unpin,
{
    /// Sends what goes in front of the answer, as far as it can be sent.
    fn send_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.preceded {
            return Ok(());
        }
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        match self.output.poll_flush(stream, cx, &mut 0) {
            Poll::Ready(done) => {
                self.preceded = false;
                done
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Ready when the caller has closed the connection, which nobody else looks at while there is
    /// no content to read.
    fn poll_end(&mut self, cx: &mut Context<'_>, lenient: bool) -> Poll<()> {
        if !self.content.has_ended() {
            self.watcher = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        if !self.input.is_empty() || self.half_closed {
            return Poll::Pending;
        }
        match ready!(self.input.poll_fill(stream, cx)) {
            // The next request comes before this one was answered.
            Ok(read) if read > 0 => Poll::Pending,
            Ok(_) if lenient => {
                self.half_closed = true;
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn discard_while_sending(&mut self, cx: &mut Context<'_>) {
        let Self { stream: Some(stream), input, content, discards, .. } = self else { return };
        while !content.has_ended() && *discards > 0 {
            let Poll::Ready(Some(Ok(frame))) = content.poll_frame(input, stream, cx) else {
                return;
            };
            let length = frame.data_ref().map_or(0, Bytes::len);
            *discards = discards.saturating_sub(length);
        }
    }
}

impl<S> CallerStream for Caller<S>
where
    S: AsyncRead + AsyncWrite + Reset + Unpin,
{
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let state = &mut *self.0.borrow_mut();
        if std::mem::take(&mut state.to_be_asked) && state.input.is_empty() {
            let fields = http::HeaderMap::new();
            let (out, status) = (state.output.tail(), StatusCode::CONTINUE);
            http1::response_head(out, status, None, &fields, Framing::Empty, Case::Lower);
            state.preceded = true;
        }
        let broke = |error: &dyn std::fmt::Display| {
            tracing::debug!(%error, "the content of a request broke off");
            Some(Err(ContentError(None)))
        };
        if let Err(error) = state.send_ahead(cx) {
            return Poll::Ready(broke(&error));
        }
        let State { stream, input, content, watcher, .. } = state;
        let Some(stream) = stream else { return Poll::Ready(broke(&"the connection has ended")) };
        let frame = ready!(content.poll_frame(input, stream, cx));
        if content.has_ended()
            && let Some(watcher) = watcher.take()
        {
            watcher.wake();
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => broke(&error),
            None => None,
        })
    }

    fn has_ended(&self) -> bool {
        self.0.borrow().content.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().content.size_hint()
    }
}

fn refusal(error: HeadError) -> ProxyError {
    match error {
        HeadError::TooLongTarget => ProxyError::Target,
        HeadError::TooLarge => ProxyError::Head,
        HeadError::TooManyFields => ProxyError::Fields,
        HeadError::Malformed(why) => ProxyError::Malformed(why),
    }
}
