//! The login of a person on another device (RFC 8628): what the server says of it, which goes to a
//! terminal, and waiting until somebody has approved it.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::discovery::usable;
use super::reply::failure;
use crate::credential::http::TokenAnswer;
use crate::credential::reply::{ReplyError, number_at};
use crate::credential::schedule::MAX_RETRY_AFTER;
use crate::credential::{FetchError, Refusal};
use crate::secret::Secret;

/// How long to wait between two questions where the server does not say (RFC 8628 §3.2).
const INTERVAL: Duration = Duration::from_secs(5);
/// The shortest and the longest time between two questions that a server may ask for.
const INTERVALS: (f64, f64) = (1.0, 60.0);
/// How much longer it is for each time that the server finds it too short (RFC 8628 §3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The longest time between two questions when there are no answers.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// How long a person has at most, in seconds.
const LONGEST_LIFE: f64 = 1800.0;
/// The longest text that is shown.
const LONGEST_TEXT: usize = 2048;
/// The longest code that anybody types.
const LONGEST_CODE: usize = 64;

/// A login that a person is to approve. Everything in it may be shown but the device code, which is
/// what the token is asked for with.
#[derive(Debug)]
pub struct DeviceAuthorization {
    pub(super) device_code: Secret,
    /// What the person enters.
    pub user_code: String,
    /// Where the person enters it.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// How long the person has.
    pub expires_in: Duration,
    interval: Duration,
}

/// Why a login came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Nobody has said anything in time.
    #[error("the code has expired before anybody has approved the login")]
    Expired,
    /// Somebody has said no.
    #[error("the login was declined")]
    Denied,
    /// The server does not know the code any more.
    #[error("the authorization server says that the code is not good any more")]
    Void,
    /// Something else.
    #[error(transparent)]
    Failed(#[from] FetchError),
}

/// What an answer to a question says.
#[derive(Debug)]
pub(super) enum Polled<T> {
    Granted(T),
    Pending,
    SlowDown,
    Expired,
    Denied,
}

/// How long, and how often, a server is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    interval: Duration,
    expires_in: Duration,
    /// Of one question.
    timeout: Duration,
}

impl DeviceAuthorization {
    /// Reads an answer. Nothing is let through that could do anything to a terminal, or that leads
    /// the person to a page that others can alter.
    pub(super) fn read(answer: &TokenAnswer, plaintext: bool) -> Result<Self, FetchError> {
        if !answer.status.is_success() {
            return Err(failure(answer));
        }
        if answer.status != StatusCode::OK {
            return Err(ReplyError::Status(answer.status).into());
        }
        let reply: Value =
            serde_json::from_slice(&answer.content).map_err(|_| ReplyError::NotJson)?;
        Ok(Self {
            device_code: Secret::new(text(&reply, "/device_code")?),
            user_code: visible(&reply, "/user_code", LONGEST_CODE)?.to_owned(),
            verification_uri: verification_uri(&reply, plaintext)?,
            verification_uri_complete: page(&reply, "/verification_uri_complete", plaintext).ok(),
            expires_in: expires_in(&reply)?,
            interval: interval(&reply),
        })
    }

    pub(super) fn terms(&self, timeout: Duration) -> Terms {
        Terms { interval: self.interval, expires_in: self.expires_in, timeout }
    }
}

fn text<'r>(reply: &'r Value, pointer: &str) -> Result<&'r str, ReplyError> {
    let text = reply.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| ReplyError::Value(pointer.to_owned()))
}

/// A text that may be written to a terminal.
fn visible<'r>(reply: &'r Value, pointer: &str, longest: usize) -> Result<&'r str, ReplyError> {
    let text = text(reply, pointer)?;
    if text.len() > longest || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ReplyError::NotVisible(pointer.to_owned()));
    }
    Ok(text)
}

/// The page that a person is sent to. Before the RFC it had another name, which some have kept.
fn verification_uri(reply: &Value, plaintext: bool) -> Result<String, ReplyError> {
    const POINTER: &str = "/verification_uri";
    let former = "/verification_url";
    let has = |pointer: &str| reply.pointer(pointer).is_some();
    page(reply, if has(POINTER) || !has(former) { POINTER } else { former }, plaintext)
}

fn page(reply: &Value, pointer: &str, plaintext: bool) -> Result<String, ReplyError> {
    let url = visible(reply, pointer, LONGEST_TEXT)?;
    // Pages have parts, other than endpoints.
    let (address, _) = url.split_once('#').unwrap_or((url, ""));
    match usable(address, plaintext) {
        Some(_) => Ok(url.to_owned()),
        None => Err(ReplyError::Page(pointer.to_owned())),
    }
}

fn expires_in(reply: &Value) -> Result<Duration, ReplyError> {
    const POINTER: &str = "/expires_in";
    let Some(seconds) = number_at(reply, POINTER) else {
        return Err(ReplyError::Value(POINTER.to_owned()));
    };
    // Also what is no number at all.
    if seconds >= 1.0 {
        Ok(Duration::from_secs_f64(seconds.min(LONGEST_LIFE)))
    } else {
        Err(ReplyError::Lifetime { pointer: POINTER.to_owned(), seconds: 0 })
    }
}

fn interval(reply: &Value) -> Duration {
    let (shortest, longest) = INTERVALS;
    match number_at(reply, "/interval") {
        Some(seconds) => Duration::from_secs_f64(seconds.clamp(shortest, longest)),
        None => INTERVAL,
    }
}

impl<T> Polled<T> {
    /// What an answer without a token says, if it is one that a person's login has (RFC 8628 §3.5).
    pub(super) fn read(answer: &TokenAnswer) -> Option<Self> {
        let reply: Value = serde_json::from_slice(&answer.content).ok()?;
        let code = reply.get("error").and_then(Value::as_str)?;
        // Whatever else it says.
        if answer.status.is_success() && reply.get(super::ACCESS_TOKEN).is_some() {
            return None;
        }
        match code {
            "authorization_pending" => Some(Self::Pending),
            "slow_down" => Some(Self::SlowDown),
            "expired_token" => Some(Self::Expired),
            "access_denied" => Some(Self::Denied),
            _ => None,
        }
    }
}

/// Asks until there is a token, a reason why there will be none, or the time is over.
pub(super) async fn poll<T>(
    terms: Terms,
    mut ask: impl AsyncFnMut() -> Result<Polled<T>, FetchError>,
) -> Result<T, LoginError> {
    let end = Instant::now() + terms.expires_in;
    let mut interval = terms.interval;
    let mut wait = interval;
    loop {
        let next = Instant::now() + wait;
        if next >= end {
            sleep_until(end).await;
            return Err(LoginError::Expired);
        }
        sleep_until(next).await;
        let polled = tokio::time::timeout(terms.timeout, ask()).await;
        wait = match polled.unwrap_or(Err(FetchError::Timeout(terms.timeout))) {
            Ok(Polled::Granted(granted)) => return Ok(granted),
            Ok(Polled::Pending) => interval,
            Ok(Polled::SlowDown) => {
                interval += SLOWER;
                interval
            }
            Ok(Polled::Expired) => return Err(LoginError::Expired),
            Ok(Polled::Denied) => return Err(LoginError::Denied),
            Err(error) if error.passes() => {
                let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
                (wait * 2).min(LONGEST_BACKOFF.max(interval)).max(asked)
            }
            Err(FetchError::Refused(Refusal::OAuth { code: super::ErrorCode::InvalidGrant })) => {
                return Err(LoginError::Void);
            }
            Err(error) => return Err(error.into()),
        };
    }
}

#[cfg(test)]
#[path = "device_code_tests.rs"]
mod tests;
