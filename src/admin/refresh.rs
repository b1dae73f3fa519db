//! `POST /api/credentials/NAME/refresh`: fetches a credential now, whatever the schedule says.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::time::Instant;

use super::answer::{Content, json};
use super::sight::{Sight, seconds};
use crate::credential::FetchError;
use crate::credential::cache::refresh::Refreshed;
use crate::proxy::identity::Cache;

/// How long the outcome is waited for: less than any admin request may take.
const WAIT: Duration = Duration::from_secs(9);

/// What is answered; fields that do not apply are left out.
#[derive(Debug, Default, Serialize)]
struct Told<'a> {
    /// "fetched", "failed", "waiting" or "not_asked".
    outcome: &'static str,
    credential: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    /// How long the new one is good; left out if it does not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_word: Option<&'static str>,
    /// When the next attempt is due, or when it may be asked for again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_in_s: Option<f64>,
    /// The one from before is still in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    usable: Option<bool>,
}

/// The answer, and after how long to come back if that is what it says.
struct Answer<'a>(StatusCode, Told<'a>, Option<Duration>);

/// Has `name` fetched, for the device that `query` names if it has devices.
pub(super) async fn refresh(sight: &Sight, name: &str, query: &str) -> Response<Content> {
    let device = match device_in(query) {
        Ok(device) => device,
        Err(why) => return Answer::refused(StatusCode::BAD_REQUEST, name, why).response(),
    };
    let device = device.as_deref();
    let Some(known) = sight.credential(name) else {
        let why = format!("there is no credential '{name}'");
        return Answer::refused(StatusCode::NOT_FOUND, name, why).response();
    };
    let began = Instant::now();
    let refreshed = match (&known.identity.cache, device) {
        (Cache::One(cache), None) => cache.refresh(WAIT).await,
        (Cache::Devices(pool), Some(of)) => {
            let Some(refreshed) = pool.refresh(of, WAIT).await else {
                let why = "there is no such device".to_owned();
                return Answer::refused(StatusCode::NOT_FOUND, name, why).of(device).response();
            };
            refreshed
        }
        (Cache::One(_), Some(_)) => {
            let why = "this credential has no devices; leave 'device' out".to_owned();
            return Answer::refused(StatusCode::BAD_REQUEST, name, why).response();
        }
        (Cache::Devices(_), None) => {
            let why = "this credential has devices; say which: ?device=NAME".to_owned();
            return Answer::refused(StatusCode::BAD_REQUEST, name, why).response();
        }
    };
    let left = |end: crate::clock::Deadline| seconds(end.remaining(sight.clock.now()));
    let told = Told { credential: name, device, ..Told::default() };
    let took_s = Some(seconds(began.elapsed()));
    let answer = match refreshed {
        Refreshed::Fetched { expires } => {
            let expires_in_s = expires.map(left);
            Answer(StatusCode::OK, Told { outcome: "fetched", expires_in_s, took_s, ..told }, None)
        }
        Refreshed::Failed { error, retry_in, usable } => {
            let told = Told { outcome: "failed", took_s, usable: Some(usable), ..told };
            let told = told.because(&error, retry_in);
            if error.passes() {
                Answer(StatusCode::SERVICE_UNAVAILABLE, told, Some(retry_in))
            } else {
                Answer(StatusCode::BAD_GATEWAY, told, None)
            }
        }
        Refreshed::Waiting => {
            let error =
                Some("it is still under way; the status shows what becomes of it".to_owned());
            Answer(StatusCode::ACCEPTED, Told { outcome: "waiting", error, took_s, ..told }, None)
        }
        Refreshed::TooSoon { retry_in } => {
            let error = Some(
                "a renewal was forced too short a time ago; 'min_interval' of the credential's \
                 refresh says how often it may be"
                    .to_owned(),
            );
            let retry_in_s = Some(seconds(retry_in));
            let told = Told { outcome: "not_asked", error, retry_in_s, ..told };
            Answer(StatusCode::TOO_MANY_REQUESTS, told, Some(retry_in))
        }
        Refreshed::Closed { error, retry_in } => {
            let told = Told { outcome: "not_asked", ..told }.because(&error, retry_in);
            Answer(StatusCode::TOO_MANY_REQUESTS, told, Some(retry_in))
        }
        Refreshed::Fixed => {
            let why = "it is not fetched: its secrets are in the configuration or in files, which \
                       are read again by themselves when they change"
                .to_owned();
            Answer::refused(StatusCode::CONFLICT, name, why).of(device)
        }
    };
    answer.response()
}

impl Told<'_> {
    fn because(self, error: &FetchError, retry_in: Duration) -> Self {
        Self {
            error: Some(error.to_string()),
            error_word: Some(error.word()),
            retry_in_s: Some(seconds(retry_in)),
            ..self
        }
    }
}

impl<'a> Answer<'a> {
    fn refused(status: StatusCode, credential: &'a str, why: String) -> Self {
        let told = Told { outcome: "not_asked", credential, error: Some(why), ..Told::default() };
        Self(status, told, None)
    }

    fn of(mut self, device: Option<&'a str>) -> Self {
        self.1.device = device;
        self
    }

    fn response(self) -> Response<Content> {
        let Self(status, told, retry_in) = self;
        let mut response = json(&told);
        if response.status() == StatusCode::OK {
            *response.status_mut() = status;
        }
        if let Some(retry_in) = retry_in {
            // Whole seconds, and not too early.
            let whole = retry_in.as_secs() + u64::from(retry_in.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole.max(1)));
        }
        response
    }
}

/// The device that `query` names.
fn device_in(query: &str) -> Result<Option<String>, String> {
    let mut device = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != "device" || device.is_some() {
            return Err("known here: device, once".to_owned());
        }
        let value = value.replace('+', " ");
        let decoded = percent_decode_str(&value).decode_utf8();
        let decoded = decoded.map_err(|_| "'device' is not UTF-8 text".to_owned())?;
        device = Some(decoded.into_owned());
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_one_device_or_none() {
        assert_eq!(device_in(""), Ok(None));
        assert_eq!(device_in("device=line+1%2Fb"), Ok(Some("line 1/b".to_owned())));
        for wrong in ["device=a&device=b", "devices=a", "device=%ff"] {
            assert!(device_in(wrong).is_err(), "{wrong}");
        }
    }
}
