//! What a token endpoint answered: JSON in, named values and a lifetime out. No I/O.

#![expect(clippy::wildcard_enum_match_arm, reason = "kinds of values, of which a few matter here")]

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::clock::{Now, unix_ms};
use crate::credential::{Credential, FetchError, Refusal};
use crate::secret::Secret;
use crate::values::Values;

/// The longest lifetime that is believed.
const LONGEST_LIFETIME: Duration = Duration::from_hours(87600);

/// How to read a reply. Pointers are JSON pointers (RFC 6901).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplySpec {
    /// What must hold beside a success status.
    pub success: Vec<Condition>,
    /// The values to take.
    pub values: Vec<(String, String)>,
    /// Where the end of life is.
    pub expires: Option<Expires>,
    /// The lifetime if the reply does not say.
    pub lifetime: Option<Duration>,
}

/// A condition on a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Where to look.
    pub pointer: String,
    /// What must be found there.
    pub test: Test,
}

/// What a condition asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// This value.
    Equals(Value),
    /// Anything but this value; nothing at all is fine.
    Not(Value),
    /// Nothing, `null` or an empty text.
    Empty,
}

/// Where the end of life is, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expires {
    /// Milliseconds since 1970.
    AtMs(String),
    /// Seconds since 1970.
    AtS(String),
    /// Seconds from now.
    InS(String),
    /// A time in RFC 3339.
    Rfc3339(String),
    /// A JSON Web Token, whose `exp` claim (RFC 7519 §4.1.4) is the end. Its signature is the
    /// upstream's business.
    Jwt(String),
}

impl Expires {
    /// Where it is.
    pub fn pointer(&self) -> &str {
        match self {
            Self::AtMs(pointer)
            | Self::AtS(pointer)
            | Self::InS(pointer)
            | Self::Rfc3339(pointer)
            | Self::Jwt(pointer) => pointer,
        }
    }
}

/// Why a reply cannot be used. Names places, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No content at all.
    #[error("it is empty")]
    Empty,
    /// Not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// More content than any token needs.
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    /// The content is compressed although none was asked for.
    #[error("it is compressed although 'identity' was asked for")]
    Compressed,
    /// A redirect: following it would carry the login to another place.
    #[error("it is a redirect ({0}); redirects are not followed, so configure the final URL")]
    Redirect(http::StatusCode),
    /// A success, but not the one that a token comes with.
    #[error("its status is {0} instead of 200")]
    Status(http::StatusCode),
    /// A token that is no token.
    #[error("the value at '{0}' holds characters that a token cannot have")]
    NotVisible(String),
    /// A page to which nobody should be sent.
    #[error("the page at '{0}' is not https")]
    Page(String),
    /// A kind of token that is not what the configuration expects.
    #[error("the value at '{pointer}' is not '{expected}'")]
    Type {
        /// Where it was found.
        pointer: String,
        /// What the configuration expects.
        expected: String,
    },
    /// A value is missing, empty or not a text or a number.
    #[error("there is no usable value at '{0}'")]
    Value(String),
    /// No end of life, and no lifetime is configured instead.
    #[error("there is no usable end of life at '{0}'; set 'lifetime' if the API does not say")]
    Expiry(String),
    /// The end of life has passed or is absurd.
    #[error("the end of life at '{pointer}' is {seconds} s from now")]
    Lifetime {
        /// Where it was found.
        pointer: String,
        /// How long it would live.
        seconds: i64,
    },
}

/// When a reply came, and what its `Date` field said.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTime {
    /// Just before the request was sent: a lifetime counts from here, so that it ends early rather
    /// than late.
    pub sent: Now,
    /// Half-way between sending the request and receiving the head of the reply, by our clock.
    pub midpoint: SystemTime,
    /// The `Date` field.
    pub date: Option<SystemTime>,
}

impl ReplyTime {
    /// How far the other clock is ahead, in milliseconds. `Date` is exact to a second only, so
    /// half of one is added to it.
    pub fn skew_ms(&self) -> Option<i64> {
        let date = i64::try_from(unix_ms(self.date?)).ok()?.saturating_add(500);
        Some(date.saturating_sub(i64::try_from(unix_ms(self.midpoint)).ok()?))
    }

    /// "Now" by the clock of whoever wrote the times in the reply, in milliseconds since 1970.
    fn their_now_ms(&self) -> i64 {
        let ours = i64::try_from(unix_ms(self.midpoint)).unwrap_or(i64::MAX);
        match self.skew_ms() {
            // Below that, the rounding of `Date` is all there is to see.
            Some(skew) if skew.abs() >= 2_000 => ours.saturating_add(skew),
            _ => ours,
        }
    }
}

impl ReplySpec {
    /// Reads a reply with a success status.
    ///
    /// # Errors
    /// When a condition does not hold ([`FetchError::Refused`]) or the reply cannot be used.
    pub fn read(&self, body: &[u8], time: ReplyTime) -> Result<Credential, FetchError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ReplyError::Empty.into());
        }
        let reply: Value = serde_json::from_slice(body).map_err(|_| ReplyError::NotJson)?;
        for condition in &self.success {
            if !condition.holds(&reply) {
                return Err(FetchError::Refused(Refusal::Condition(condition.pointer.clone())));
            }
        }
        let mut values = Values::default();
        for (name, pointer) in &self.values {
            let value =
                text_at(&reply, pointer).ok_or_else(|| ReplyError::Value(pointer.clone()))?;
            values.insert(name.clone(), Secret::new(value));
        }
        let lifetime = self.lifetime(&reply, time)?;
        Ok(Credential {
            values,
            expires: lifetime.map(|lifetime| time.sent.after(lifetime)),
            lifetime,
            clock_skew_ms: time.skew_ms(),
        })
    }

    fn lifetime(&self, reply: &Value, time: ReplyTime) -> Result<Option<Duration>, ReplyError> {
        let Some(expires) = &self.expires else {
            return Ok(self.lifetime);
        };
        let pointer = expires.pointer();
        let now_ms = time.their_now_ms();
        let found = match expires {
            Expires::AtMs(_) => number_at(reply, pointer).map(|ms| ms - to_f64(now_ms)),
            Expires::AtS(_) => number_at(reply, pointer).map(|s| s * 1000.0 - to_f64(now_ms)),
            Expires::InS(_) => number_at(reply, pointer).map(|s| s * 1000.0),
            Expires::Rfc3339(_) => text_at(reply, pointer)
                .and_then(|text| text.parse::<jiff::Timestamp>().ok())
                .map(|end| to_f64(end.as_millisecond() - now_ms)),
            Expires::Jwt(_) => text_at(reply, pointer)
                .and_then(|token| jwt_expiry_s(&token))
                .map(|s| s * 1000.0 - to_f64(now_ms)),
        };
        let Some(milliseconds) = found else {
            return match self.lifetime {
                Some(lifetime) => Ok(Some(lifetime)),
                None => Err(ReplyError::Expiry(pointer.to_owned())),
            };
        };
        credible_lifetime(milliseconds / 1000.0, pointer).map(Some)
    }
}

impl Condition {
    fn holds(&self, reply: &Value) -> bool {
        let found = reply.pointer(&self.pointer);
        match &self.test {
            Test::Equals(value) => found == Some(value),
            Test::Not(value) => found != Some(value),
            Test::Empty => match found {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(_) => false,
            },
        }
    }
}

/// A lifetime that was found at `pointer`.
///
/// # Errors
/// When it is over already, or longer than any that is believed.
pub(super) fn credible_lifetime(seconds: f64, pointer: &str) -> Result<Duration, ReplyError> {
    let lifetime = Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|lifetime| !lifetime.is_zero() && *lifetime <= LONGEST_LIFETIME);
    #[expect(clippy::cast_possible_truncation, reason = "saturates; it is only shown")]
    let seconds = seconds as i64;
    lifetime.ok_or(ReplyError::Lifetime { pointer: pointer.to_owned(), seconds })
}

/// A non-empty text, or a number as text.
pub(super) fn text_at(reply: &Value, pointer: &str) -> Option<String> {
    match reply.pointer(pointer)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A number, or a number written as text, as some servers do.
pub(super) fn number_at(reply: &Value, pointer: &str) -> Option<f64> {
    let number = match reply.pointer(pointer)? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

#[expect(clippy::cast_precision_loss, reason = "exact to a millisecond for 200,000 years")]
fn to_f64(ms: i64) -> f64 {
    ms as f64
}

fn jwt_expiry_s(token: &str) -> Option<f64> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    number_at(&claims, "/exp")
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
