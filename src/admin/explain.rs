//! `POST /api/explain`: what would happen to a request, with the credentials that are there now.
//! Nothing is fetched for it, and no secret is ever shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;

use super::sight::Sight;
use crate::credential::secrets::Secrets;
use crate::explain::{Asked, Explanation, Ground, Held, explain};
use crate::proxy::Identity;
use crate::sign::Signer;

/// A request to explain, as it is sent.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    /// The time of signing, in milliseconds since 1970; else now.
    at_ms: Option<u64>,
    /// The device that calls, where its address or certificate says so.
    device: Option<String>,
}

impl Question {
    /// # Errors
    /// With what cannot be a question, for a person.
    pub(super) fn of(content: Value) -> Result<Self, String> {
        Self::deserialize(content).map_err(|error| {
            format!("expected JSON with method, url, headers, body, at_ms and device: {error}")
        })
    }
}

/// The answer to `question`.
///
/// # Errors
/// With what cannot be a request, for a person.
pub(super) fn answer(
    sight: &Sight,
    secrets: &Arc<Secrets>,
    question: &Question,
) -> Result<Explanation, String> {
    let fields = question.headers.iter();
    let asked = Asked {
        method: question.method.trim(),
        url: question.url.trim(),
        fields: fields.map(|(name, value)| (name.trim(), value.trim())).collect(),
        content_length: question.body.len(),
    };
    let listeners = sight.listeners();
    let parts = asked.parts(&listeners)?;
    let at = match question.at_ms {
        None => None,
        Some(at) => Some(
            UNIX_EPOCH
                .checked_add(Duration::from_millis(at))
                .filter(|_| at < 1 << 53)
                .ok_or("at_ms is no time that can be signed")?,
        ),
    };
    let snapshot = sight.proxy.snapshot.load();
    let ground = Ground {
        snapshot: &snapshot,
        proxy: Some(&sight.proxy),
        listeners: &listeners,
        limits: &sight.proxy.limits,
        secrets,
        device: question.device.as_deref().filter(|device| !device.is_empty()),
        now: sight.clock.wall(),
        at,
        reveal: false,
    };
    let hold = |identity: &Identity, device: Option<&str>| {
        let known = sight.credential(&identity.name);
        Ok::<_, Infallible>(Held {
            kind: known.as_ref().map(|known| known.kind.clone()).unwrap_or_default(),
            open: known.map(|known| known.open.clone()).unwrap_or_default(),
            signer: signer(sight, identity, device),
        })
    };
    match explain(&ground, parts, question.body.as_bytes(), hold) {
        Ok(explanation) => Ok(explanation),
        Err(never) => match never {},
    }
}

/// What signs now, or why nothing does.
fn signer(sight: &Sight, identity: &Identity, device: Option<&str>) -> Result<Signer, String> {
    let now = sight.clock.now();
    match identity.cache.peek(device) {
        Some(issued) if issued.is_usable(now) => Ok(issued.item.clone()),
        Some(_) => Err("the one that is there has ended; a request would wait for another".into()),
        None => Err(match failure(identity, device) {
            Some(failure) => failure,
            None => "nobody has needed it yet; a request would have it fetched".into(),
        }),
    }
}

/// Why the last attempt failed; of devices, that of `device`.
fn failure(identity: &Identity, device: Option<&str>) -> Option<String> {
    match identity.cache.devices() {
        Some(pool) => pool.look(device?)?.error.map(|(error, _)| error),
        None => identity.cache.state().failure.map(|failure| failure.error.to_string()),
    }
}
