//! The forms of the admin listener's answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;

use super::events::Stream;

/// The content of an answer.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it.
    Whole(Full<Bytes>),
    /// What comes as it happens.
    Events(Stream),
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Events(stream) => {
                stream.poll_next(context).map(|next| Some(Ok(Frame::data(next?))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

pub(super) fn full(kind: &'static str, content: Bytes) -> Response<Content> {
    typed(kind, Content::Whole(Full::new(content)))
}

pub(super) fn typed(kind: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(super) fn json(value: &impl Serialize) -> Response<Content> {
    match serde_json::to_vec(value) {
        Ok(content) => full("application/json", content.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
    }
}

pub(super) fn text(status: StatusCode, line: &str) -> Response<Content> {
    let mut response = full("text/plain; charset=utf-8", Bytes::from(format!("{line}\n")));
    *response.status_mut() = status;
    response
}
