//! Stand-ins of the two vendor APIs, for the demo, the `mock` command and the tests.
//!
//! Each listens on a real socket and behaves on the wire like the vendor's API as far as public
//! material tells; where it does not tell, the stand-in's own choice is marked as an assumption
//! beside the code. They are stricter than the vendors in one respect: a credential field that is
//! empty or sent twice is refused, so that a proxy which adds its credential beside the caller's,
//! instead of replacing it, is found out.
//!
//! Reading order: this file (what the server and a vendor say to each other), [`twinzo`], [`devo`],
//! then the server, the [`Switches`] that make it misbehave, and the [`Recorder`] that tells what
//! arrived. Everything accepted here is invented; nothing in this module ever calls out.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};

pub mod devo;
mod faults;
mod record;
mod server;
#[cfg(test)]
mod testing;
pub mod twinzo;

pub use faults::{Failure, Offset, Period, SwitchError, Switches};
pub use record::{Recorded, Recorder};
pub use server::{CONTROL_PATH, StandIn};

/// The vendor's part of a stand-in: judges credentials and writes answers.
///
/// It does no input or output: the server reads the content, applies the [`Switches`] and records
/// the exchange.
pub trait Api: fmt::Debug + Send + Sync + 'static {
    /// What the head of a request settled and its content is still to decide.
    type Pending: Send;

    /// The vendor's name, as the control answer gives it.
    const NAME: &'static str;

    /// Looks at the head of a request, before any content was read. `now_ms` is the stand-in's time
    /// in Unix milliseconds.
    fn open(&self, head: &Parts, now_ms: i64) -> Opened<Self::Pending>;

    /// Takes the next piece of content, in order. Never called for a request without content.
    fn absorb(pending: &mut Self::Pending, chunk: &[u8]);

    /// Answers a request whose content was read to its end.
    fn answer(
        &self,
        head: &Parts,
        pending: Self::Pending,
        content: &Content,
        switches: &Switches,
    ) -> Answer;

    /// An error answer in the vendor's own form, for what the server itself refuses.
    fn error(&self, head: &Parts, status: StatusCode, message: &str) -> Answer;

    /// A 200 whose content says that the call failed ([`Failure::SuccessFalse`]).
    fn success_false(&self) -> Answer;

    /// Adds the fields that every answer of this vendor carries.
    fn decorate(&self, fields: &mut HeaderMap);

    /// What this vendor counts beside the [`Recorder`], by name.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Which switches apply to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token is handed out or taken back.
    Token,
    /// Any other known call.
    Data,
    /// No known route: no latency, no failure.
    Unknown,
}

/// The result of [`Api::open`].
#[derive(Clone, Copy, Debug)]
pub struct Opened<P> {
    /// Which switches apply.
    pub kind: Kind,
    /// Whether [`Api::answer`] needs the content itself, not only its length and digest.
    pub keep: bool,
    /// Handed to [`Api::absorb`] and [`Api::answer`].
    pub pending: P,
}

/// What is known of a request's content once it was read.
#[derive(Clone, Debug)]
pub struct Content {
    /// Bytes received.
    pub len: u64,
    /// SHA-256 of the bytes received, in lower-case hexadecimal.
    pub sha256: String,
    /// The bytes, if [`Opened::keep`] asked for them and there were at most 1 MiB.
    pub kept: Option<Bytes>,
}

/// What an answer did to the tokens, for the counters of the [`Recorder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    #[default]
    None,
    /// A login handed out a token.
    Login,
    /// A renewal handed out a token.
    Refresh,
    /// A token was taken back at the caller's wish.
    Revocation,
}

/// An answer and why it was given. Its `Debug` form leaves out the content, which may be a token.
#[derive(Clone)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The fields, `Content-Type` among them; `Date` and `Content-Length` are added by the server.
    pub fields: HeaderMap,
    /// The content.
    pub body: Bytes,
    /// Whether the request's credentials were accepted.
    pub accepted: bool,
    /// One plain sentence of why. Holds no credential.
    pub verdict: Cow<'static, str>,
    /// What happened to the tokens.
    pub event: Event,
}

impl Answer {
    /// An answer without content and without `Content-Type`, not accepted and without a verdict.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            fields: HeaderMap::new(),
            body: Bytes::new(),
            accepted: false,
            verdict: Cow::Borrowed(""),
            event: Event::None,
        }
    }

    /// An answer with content, not accepted and without a verdict.
    pub fn with_body(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        let mut answer = Self::empty(status);
        answer.body = body.into();
        answer.field(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// An answer whose content is `value` as JSON, with the keys in the order in which `value` has
    /// them.
    pub fn json(
        status: StatusCode,
        content_type: &'static str,
        value: &impl serde::Serialize,
    ) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::with_body(status, content_type, body),
            Err(_) => Self::empty(StatusCode::INTERNAL_SERVER_ERROR)
                .refused("the answer could not be written"),
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.append(name, value);
        self
    }

    /// Says that the credentials were accepted, and why.
    #[must_use]
    pub fn accepted(mut self, verdict: impl Into<Cow<'static, str>>) -> Self {
        self.accepted = true;
        self.verdict = verdict.into();
        self
    }

    /// Says that the request was refused, and why.
    #[must_use]
    pub fn refused(mut self, verdict: impl Into<Cow<'static, str>>) -> Self {
        self.accepted = false;
        self.verdict = verdict.into();
        self
    }

    /// Says what happened to the tokens.
    #[must_use]
    pub fn event(mut self, event: Event) -> Self {
        self.event = event;
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_len", &self.body.len())
            .field("accepted", &self.accepted)
            .field("verdict", &self.verdict)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

/// The value of a field that must not be sent twice and must not be empty: `Ok(None)` if it is
/// absent.
///
/// # Errors
/// A sentence that says what is wrong, if the field is empty or there are several of it.
fn sole<'a>(fields: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, String> {
    let mut values = fields.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(format!("{name} was sent more than once"));
    }
    if first.is_empty() {
        return Err(format!("{name} is empty"));
    }
    Ok(Some(first.as_bytes()))
}

/// The path and query of a request target, byte for byte as received.
fn target(head: &Parts) -> String {
    head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&'static str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append("token", HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn a_sole_field_is_neither_doubled_nor_empty() {
        assert_eq!(sole(&fields(&[]), "Token"), Ok(None));
        assert_eq!(sole(&fields(&["a"]), "Token"), Ok(Some(b"a".as_slice())));
        assert!(sole(&fields(&["a", "a"]), "Token").is_err());
        assert!(sole(&fields(&["", "a"]), "Token").is_err());
        assert!(sole(&fields(&[""]), "Token").is_err());
    }

    #[test]
    fn the_debug_form_of_an_answer_hides_its_content() {
        let answer =
            Answer::with_body(StatusCode::OK, "application/json", "canary-token").accepted("fine");
        assert!(!format!("{answer:?}").contains("canary"));
    }
}
