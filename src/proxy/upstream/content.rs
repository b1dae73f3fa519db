//! The content of an upstream's answer. It has the connection that it comes over, and gives it back
//! at its end; dropped early, the connection is closed, unless others use it too.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::PollSender;

use super::http1::{Broken, Http1};
use super::http2::SharedStream;
use super::pool::Pool;
use crate::connect::Stream;
use crate::http1::ContentFailure;
use crate::proxy::content::{ContentError, Progress};

/// The content of an answer.
pub struct UpstreamContent(Source);

enum Source {
    /// All of it was read, or it is given up.
    Ended,
    Http1 {
        connection: Box<Http1>,
        pool: Weak<Pool>,
    },
    Relayed(Relayed),
    Http2 {
        incoming: Incoming,
        _lease: Http2Lease,
    },
}

/// What comes from a connection that a task of its own lets send and receive.
struct Relayed {
    frames: mpsc::Receiver<Result<Frame<Bytes>, ContentFailure>>,
    /// All of it was read. Without this the end of the task is not the end of the content.
    ended: Rc<Cell<bool>>,
    left: SizeHint,
    _ends_with_this: Task,
}

/// A task that ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A place on a shared connection.
struct Http2Lease {
    stream: SharedStream,
    progress: Arc<Progress>,
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        // An upstream that answers without having taken all content, and does not say that it wants
        // no more, would hold the caller's connection for as long as this one lasts.
        if !self.progress.is_released() {
            self.stream.leave();
        }
    }
}

impl UpstreamContent {
    /// What follows the head of an answer on `connection` that is no longer HTTP.
    pub(super) fn upgraded(connection: Box<Http1>, pool: Weak<Pool>) -> Self {
        Self(Source::Http1 { connection, pool })
    }

    /// The content of the answer that has begun on `connection`.
    pub(super) fn http1(connection: Box<Http1>, pool: Weak<Pool>) -> Self {
        if connection.is_sending() {
            // Whoever waits for the caller to read must not keep it from sending.
            return Self(Source::Relayed(relay(connection, pool)));
        }
        Self(Source::Http1 { connection, pool })
    }

    /// The content of the answer that has begun on `stream`.
    pub(super) fn http2(
        incoming: Incoming,
        stream: SharedStream,
        progress: &Arc<Progress>,
    ) -> Self {
        let lease = Http2Lease { stream, progress: Arc::clone(progress) };
        Self(Source::Http2 { incoming, _lease: lease })
    }

    /// True if this can become what is no longer HTTP.
    pub fn is_upgraded(&self) -> bool {
        matches!(&self.0, Source::Http1 { connection, .. } if !connection.is_sending())
    }

    /// The connection, now that it is no longer HTTP, and what has come over it already; `None` if
    /// it cannot become anything else.
    pub fn into_upgraded(self) -> Option<(Stream, Bytes)> {
        match self.0 {
            Source::Http1 { connection, .. } => Some(connection.into_upgraded()),
            Source::Ended | Source::Relayed(_) | Source::Http2 { .. } => None,
        }
    }

    /// Gives the connection back if there is nothing to read, so that the next request can have it
    /// before the caller has the answer.
    pub fn settle(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Source::Http1 { connection, pool } = std::mem::replace(&mut self.0, Source::Ended) {
            give_back(connection, &pool);
        }
    }
}

fn give_back(connection: Box<Http1>, pool: &Weak<Pool>) {
    if connection.is_clean()
        && let Some(pool) = pool.upgrade()
    {
        pool.give_back(connection);
    }
}

/// Leaves `connection` to a task, which reads ahead by one piece.
fn relay(mut connection: Box<Http1>, pool: Weak<Pool>) -> Relayed {
    let left = connection.size_hint();
    let (sender, frames) = mpsc::channel(1);
    let mut sender = PollSender::new(sender);
    let ended = Rc::new(Cell::new(false));
    let says = Rc::clone(&ended);
    let task = tokio::task::spawn_local(async move {
        std::future::poll_fn(|cx| {
            if connection.poll_send(cx) == Poll::Ready(Err(Broken)) {
                return Poll::Ready(());
            }
            while !connection.has_ended() {
                if ready!(sender.poll_reserve(cx)).is_err() {
                    return Poll::Ready(());
                }
                let Some(frame) = ready!(connection.poll_content(cx)) else { break };
                let broke = frame.is_err();
                if sender.send_item(frame).is_err() || broke {
                    return Poll::Ready(());
                }
            }
            says.set(true);
            Poll::Ready(())
        })
        .await;
        // If it broke off, it is not clean.
        give_back(connection, &pool);
    });
    Relayed { frames, ended, left, _ends_with_this: Task(task.abort_handle()) }
}

impl Body for UpstreamContent {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        let (frame, ended) = match &mut self.0 {
            Source::Ended => return Poll::Ready(None),
            Source::Http1 { connection, .. } => {
                let frame = ready!(connection.poll_content(cx));
                (frame.map(|frame| frame.map_err(|error| broke(&error))), connection.has_ended())
            }
            Source::Relayed(relayed) => {
                let frame = ready!(relayed.frames.poll_recv(cx));
                if let Some(Ok(frame)) = &frame
                    && let Some(piece) = frame.data_ref()
                    && let Some(left) = relayed.left.exact()
                {
                    let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    relayed.left = SizeHint::with_exact(left.saturating_sub(length));
                }
                let frame = match frame {
                    None if !relayed.ended.get() => Some(Err(ContentFailure::Truncated)),
                    frame => frame,
                };
                (frame.map(|frame| frame.map_err(|error| broke(&error))), false)
            }
            Source::Http2 { incoming, .. } => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                let frame = frame.map(|frame| frame.map_err(|error| ContentError(Some(error))));
                (frame, incoming.is_end_stream())
            }
        };
        match &frame {
            Some(Err(_)) => self.0 = Source::Ended,
            None => self.end(),
            Some(Ok(_)) if ended => self.end(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Ended => true,
            Source::Http1 { connection, .. } => connection.has_ended(),
            Source::Relayed(relayed) => relayed.left.exact() == Some(0),
            Source::Http2 { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Ended => SizeHint::with_exact(0),
            Source::Http1 { connection, .. } => connection.size_hint(),
            Source::Relayed(relayed) => relayed.left,
            Source::Http2 { incoming, .. } => incoming.size_hint(),
        }
    }
}

fn broke(error: &ContentFailure) -> ContentError {
    tracing::debug!(%error, "an answer broke off");
    ContentError(None)
}

impl std::fmt::Debug for UpstreamContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamContent").field("left", &self.size_hint()).finish_non_exhaustive()
    }
}
