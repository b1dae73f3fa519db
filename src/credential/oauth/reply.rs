//! What a token endpoint answers (RFC 6749 §5): JSON in, an access token or a reason out. No I/O.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::credential::http::TokenAnswer;
use crate::credential::reply::{ReplyError, credible_lifetime, number_at};
use crate::credential::{Credential, FetchError, Refusal};
use crate::secret::Secret;
use crate::values::Values;

/// The value that schemes use.
pub const ACCESS_TOKEN: &str = "access_token";
/// The value that no scheme uses: the answer had a refresh token.
pub const REFRESH_TOKEN: &str = "refresh_token";

/// The lifetime where neither the answer nor the configuration says: never for ever.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_hours(1);
/// The shortest lifetime, in seconds, that is worth an answer.
const SHORTEST_LIFETIME: f64 = 1.0;

/// A way to say no (RFC 6749 §5.2, RFC 8693 §2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the codes of the RFCs")]
pub enum ErrorCode {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    UnsupportedGrantType,
    InvalidScope,
    InvalidTarget,
    AccessDenied,
}

/// Codes that speak of the moment.
const PASSING: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];

impl ErrorCode {
    const ALL: [Self; 8] = [
        Self::InvalidRequest,
        Self::InvalidClient,
        Self::InvalidGrant,
        Self::UnauthorizedClient,
        Self::UnsupportedGrantType,
        Self::InvalidScope,
        Self::InvalidTarget,
        Self::AccessDenied,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::AccessDenied => "access_denied",
        }
    }

    /// What to look at.
    pub fn hint(self) -> &'static str {
        match self {
            Self::InvalidRequest => "it misses a parameter, or has one too many; check 'extra'",
            Self::InvalidClient => "check 'client_id', the client's secret or key, 'client_auth'",
            Self::InvalidGrant => "check the password, refresh token, assertion or subject token",
            Self::UnauthorizedClient => "the client may not use this grant",
            Self::UnsupportedGrantType => "the server does not know this grant",
            Self::InvalidScope => "check 'scope'",
            Self::InvalidTarget => "check 'resource' and 'audience'",
            Self::AccessDenied => "somebody has said no",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.text() == text)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// What the configuration expects of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'s> {
    /// The type of token.
    pub(super) token_type: &'s str,
    /// The lifetime where the answer does not say.
    pub(super) lifetime: Option<Duration>,
    /// What an exchange is to issue (RFC 8693 §2.2.1).
    pub(super) issued: Option<Issued<'s>>,
}

/// What an exchange is to issue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued<'s> {
    /// As asked for; else any kind of access token.
    pub(super) requested: Option<&'s str>,
}

/// The tokens of an answer.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) credential: Credential,
    pub(super) refresh_token: Option<Secret>,
}

/// Reads an answer.
pub(super) fn read(answer: &TokenAnswer, expected: Expected<'_>) -> Result<Granted, FetchError> {
    if !answer.status.is_success() {
        return Err(failure(answer));
    }
    if answer.status != StatusCode::OK {
        return Err(ReplyError::Status(answer.status).into());
    }
    if answer.content.trim_ascii().is_empty() {
        return Err(ReplyError::Empty.into());
    }
    let reply: Value = serde_json::from_slice(&answer.content).map_err(|_| ReplyError::NotJson)?;
    // Some say no with 200.
    if reply.get(ACCESS_TOKEN).is_none()
        && let Some(code) = code(&reply)
    {
        return Err(FetchError::Refused(Refusal::OAuth { code }));
    }
    check_type(&reply, expected)?;
    let token = token(&reply)?;
    let lifetime = lifetime(&reply, expected.lifetime)?;
    // A refresh token goes into forms only, where everything can be written.
    let refresh_token = reply.get(REFRESH_TOKEN).and_then(Value::as_str);
    let refresh_token = refresh_token.filter(|token| !token.is_empty()).map(Secret::new);
    let mut values = Values::from_iter([(ACCESS_TOKEN, token)]);
    if let Some(refresh_token) = &refresh_token {
        values.insert(REFRESH_TOKEN, refresh_token.clone());
    }
    let credential = Credential {
        values,
        expires: Some(answer.time.sent.after(lifetime)),
        lifetime: Some(lifetime),
        clock_skew_ms: answer.time.skew_ms(),
    };
    Ok(Granted { credential, refresh_token })
}

/// What an answer without success means. Of its content only a known code is looked at.
pub(super) fn failure(answer: &TokenAnswer) -> FetchError {
    let by_status = answer.failure();
    if !by_status.is_refusal() {
        return by_status;
    }
    let reply: Value = serde_json::from_slice(&answer.content).unwrap_or_default();
    let word = reply.get("error").and_then(Value::as_str);
    if word.is_some_and(|word| PASSING.contains(&word)) {
        let (status, retry_after) = (answer.status, answer.retry_after());
        return FetchError::Unavailable { status, retry_after };
    }
    match code(&reply) {
        Some(code) => FetchError::Refused(Refusal::OAuth { code }),
        None => by_status,
    }
}

fn code(reply: &Value) -> Option<ErrorCode> {
    reply.get("error").and_then(Value::as_str).and_then(ErrorCode::parse)
}

/// Types are compared without regard to case (RFC 6749 §7.1). An answer without one is taken at its
/// word: many servers leave it out, none that wants more than a bearer does.
fn check_type(reply: &Value, expected: Expected<'_>) -> Result<(), ReplyError> {
    let wrong = |pointer: &str, expected: &str| ReplyError::Type {
        pointer: pointer.to_owned(),
        expected: expected.to_owned(),
    };
    let fits = match reply.get("token_type") {
        None | Some(Value::Null) => true,
        Some(found) => {
            found.as_str().is_some_and(|found| found.eq_ignore_ascii_case(expected.token_type))
        }
    };
    if !fits {
        return Err(wrong("/token_type", expected.token_type));
    }
    let Some(Issued { requested }) = expected.issued else { return Ok(()) };
    let issued = reply.get("issued_token_type").and_then(Value::as_str);
    match (requested, issued) {
        (Some(requested), found) if found != Some(requested) => {
            Err(wrong("/issued_token_type", requested))
        }
        (None, Some(found)) if !BEARABLE.contains(&found) => {
            Err(wrong("/issued_token_type", "an access token"))
        }
        _ => Ok(()),
    }
}

/// Kinds of tokens that can be sent to an API (RFC 8693 §3).
const BEARABLE: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"];

/// Visible characters of ASCII (RFC 6749 Appendix A.12).
fn token(reply: &Value) -> Result<Secret, ReplyError> {
    let pointer = || format!("/{ACCESS_TOKEN}");
    let token = reply.get(ACCESS_TOKEN).and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() {
        return Err(ReplyError::Value(pointer()));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ReplyError::NotVisible(pointer()));
    }
    Ok(Secret::new(token))
}

fn lifetime(reply: &Value, configured: Option<Duration>) -> Result<Duration, ReplyError> {
    const POINTER: &str = "/expires_in";
    if reply.pointer(POINTER).is_none_or(Value::is_null) {
        return Ok(configured.unwrap_or(DEFAULT_LIFETIME));
    }
    match (number_at(reply, POINTER), configured) {
        (Some(seconds), _) => {
            let lifetime = credible_lifetime(seconds, POINTER)?;
            if seconds < SHORTEST_LIFETIME {
                // To be renewed many times a second.
                return Err(ReplyError::Lifetime { pointer: POINTER.to_owned(), seconds: 0 });
            }
            Ok(lifetime)
        }
        (None, Some(configured)) => Ok(configured),
        (None, None) => Err(ReplyError::Expiry(POINTER.to_owned())),
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
