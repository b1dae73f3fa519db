//! Reads the content of a request within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body;
use ring::digest;
use tokio::time::timeout;

use super::Content;

/// Content kept for those calls that need it, in bytes.
pub(super) const KEPT_LIMIT: usize = 1024 * 1024;

/// How long the next piece of content may take.
pub(super) const CONTENT_LIMIT: Duration = Duration::from_secs(30);

/// How much content is read and how much of it is kept, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) total: u64,
    pub(super) kept: usize,
}

/// Why content was not read to its end.
#[derive(Clone, Copy)]
pub(super) enum Flaw {
    TooLarge,
    Stalled,
    BrokenOff,
}

impl Flaw {
    pub(super) fn explain(self) -> (StatusCode, &'static str) {
        match self {
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the content is larger than the stand-in takes")
            }
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, "the content did not arrive in time"),
            Self::BrokenOff => (StatusCode::BAD_REQUEST, "the content broke off"),
        }
    }
}

/// Reads content piece by piece, handing each piece to `absorb`; holds it only if it is to be kept
/// and small.
pub(super) async fn read<B>(
    mut body: B,
    limits: Limits,
    mut absorb: impl FnMut(&[u8]),
) -> (Content, Option<Flaw>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut kept = (limits.kept > 0).then(BytesMut::new);
    let mut len = 0;
    let flaw = loop {
        if body.size_hint().lower().saturating_add(len) > limits.total {
            break Some(Flaw::TooLarge);
        }
        let frame = match timeout(CONTENT_LIMIT, body.frame()).await {
            Err(_) => break Some(Flaw::Stalled),
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some(Flaw::BrokenOff),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        len += chunk.len() as u64;
        if len > limits.total {
            break Some(Flaw::TooLarge);
        }
        sha256.update(&chunk);
        absorb(&chunk);
        if let Some(held) = &mut kept {
            if held.len() + chunk.len() > limits.kept {
                kept = None;
            } else {
                held.extend_from_slice(&chunk);
            }
        }
    };
    let content =
        Content { len, sha256: hex::encode(sha256.finish()), kept: kept.map(BytesMut::freeze) };
    (content, flaw)
}
