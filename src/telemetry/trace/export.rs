//! Sends traces to a collector: OTLP over HTTP, as protobuf.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::message::{self, ExportTraceServiceResponse};
use super::spans::Finished;
use super::tracer::Tracer;
use crate::clock::Clock;
use crate::config::TraceConfig;
use crate::credential::FetchError;
use crate::credential::http::{TokenAnswer, TokenClient, TokenRequest};
use crate::credential::secrets::Secrets;
use crate::permissions::Check;
use crate::telemetry::harmful::is_harmful;
use crate::tls::{RenewedTls, TlsError};

/// How often a batch is sent again, if the collector may take it another time.
const MOST_ATTEMPTS: u32 = 5;
/// How long to wait before the second attempt; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No collector is waited for longer, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two reports of what was dropped.
const REPORT: Duration = Duration::from_secs(60);
/// How long what is left may take at the end.
const LAST: Duration = Duration::from_secs(5);
/// How many characters of a collector's words are repeated.
const MOST_WORDS: usize = 200;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The one who sends.
#[derive(Debug)]
pub struct Exporter {
    config: TraceConfig,
    tracer: Arc<Tracer>,
    secrets: Arc<Secrets>,
    client: TokenClient,
    /// What this process is called among those of the same service.
    instance: String,
    /// What was dropped when that was said last, and when it was.
    said: (u64, Option<Instant>),
    /// Why it failed when that was said last.
    why: Why,
    /// When the collector's own words were repeated last.
    repeated: Option<Instant>,
}

/// The reason that was said last, and when.
#[derive(Debug, Default)]
struct Why(Option<(String, Instant)>);

impl Why {
    /// True for the first failure since it `worked`, and for another reason than the one that was
    /// said, but that once in a while only: two may alternate.
    fn is_worth_saying(&mut self, why: &str, worked: bool, now: Instant) -> bool {
        let known = self.0.as_ref().is_some_and(|(before, at)| {
            let lately = now.saturating_duration_since(*at) < REPORT;
            before == why || lately
        });
        let worth = worked || !known;
        if worth {
            self.0 = Some((why.to_owned(), now));
        }
        worth
    }
}

/// What a collector says of a batch that it has taken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    /// Spans that it has not taken.
    rejected: u64,
    /// Its words; may be empty.
    message: String,
}

/// Why a batch was not taken.
enum Failure {
    /// It may be another time, after so long if the collector says so.
    Passing(String, Option<Duration>),
    /// It never will.
    Final(String),
}

impl Exporter {
    /// One for what `tracer` takes.
    ///
    /// # Errors
    /// When TLS to the collector cannot be set up.
    pub fn new(
        config: &TraceConfig,
        tracer: Arc<Tracer>,
        secrets: Arc<Secrets>,
        clock: Clock,
        check: Check,
    ) -> Result<Self, TlsError> {
        let secure = config.endpoint.scheme_str() == Some("https");
        let tls =
            if secure { Some(Arc::new(RenewedTls::new(config.tls.clone(), check)?)) } else { None };
        let client = TokenClient::new(tls, config.timeout / 2, clock).keeping(1);
        Ok(Self {
            config: config.clone(),
            tracer,
            secrets,
            client,
            instance: random_uuid(),
            said: (0, None),
            why: Why::default(),
            repeated: None,
        })
    }

    /// Sends what comes until told to stop, and then what is left, within a bound.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = sleep(self.config.delay) => {}
                () = self.tracer.enough.notified() => {}
                () = stop.cancelled() => break,
            }
            loop {
                let (batch, more) = self.tracer.take();
                if batch.is_empty() || self.deliver(batch, &stop).await.is_none() || !more {
                    break;
                }
            }
        }
        let last = Instant::now() + LAST;
        loop {
            let (batch, _) = self.tracer.take();
            if batch.is_empty() {
                break;
            }
            let count = batch.len();
            if let Ok(Ok(taken)) = timeout_at(last, self.send(&batch)).await {
                self.took(count, &taken);
            } else {
                self.tracer.drop_some(count + self.tracer.waiting());
                break;
            }
        }
        let dropped = self.tracer.dropped();
        if dropped > self.said.0 {
            tracing::warn!(dropped, "requests were traced and not exported, since the start");
        }
    }

    /// Sends a batch, more than once if need be; `None` if it is time to stop.
    async fn deliver(&mut self, batch: Vec<Finished>, stop: &CancellationToken) -> Option<()> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=MOST_ATTEMPTS {
            let sent = tokio::select! {
                sent = self.send(&batch) => sent,
                () = stop.cancelled() => {
                    self.tracer.give_back(batch);
                    return None;
                }
            };
            let wanted = match sent {
                Ok(taken) => {
                    self.took(batch.len(), &taken);
                    self.works();
                    return Some(());
                }
                Err(Failure::Final(why)) => {
                    self.fails(&why);
                    break;
                }
                Err(Failure::Passing(why, wanted)) => {
                    self.fails(&why);
                    wanted
                }
            };
            if attempt < MOST_ATTEMPTS {
                // Not all at once, when a collector is there again.
                let spread = pause.mul_f64(0.75 + 0.5 * fastrand::f64());
                let wait = wanted.unwrap_or(spread).min(LONGEST_PAUSE);
                tokio::select! {
                    () = sleep(wait) => {}
                    () = stop.cancelled() => {
                        self.tracer.give_back(batch);
                        return None;
                    }
                }
                pause *= 2;
            }
        }
        self.tracer.drop_some(batch.len());
        Some(())
    }

    /// Says once that it does not work, and again, once in a while, when it is for another reason.
    fn fails(&mut self, why: &str) {
        let worked = !self.tracer.failing.swap(true, Ordering::Relaxed);
        if self.why.is_worth_saying(why, worked, Instant::now()) {
            let endpoint = self.config.endpoint.to_string();
            tracing::warn!(endpoint, why, "traces cannot be exported; requests go on");
        }
    }

    /// Counts a batch of so many requests, and repeats what the collector says of it, once in a
    /// while.
    fn took(&mut self, requests: usize, taken: &Taken) {
        // How many requests the rejected spans are of is not said.
        let dropped = usize::try_from(taken.rejected).unwrap_or(usize::MAX).min(requests);
        self.tracer.drop_some(dropped);
        self.tracer.exported_some(requests - dropped);
        // It would be said as more than can be exported.
        self.said.0 += u64::try_from(dropped).unwrap_or(u64::MAX);
        let now = Instant::now();
        let quiet = self.repeated.is_some_and(|at| now.duration_since(at) < REPORT);
        if *taken == Taken::default() || quiet {
            return;
        }
        self.repeated = Some(now);
        let endpoint = self.config.endpoint.to_string();
        let says = self.repeatable(&taken.message);
        if taken.rejected > 0 {
            let rejected = taken.rejected;
            tracing::warn!(endpoint, rejected, says, "the collector rejects some of the spans");
        } else {
            tracing::warn!(endpoint, says, "the collector took the spans and warns of something");
        }
    }

    /// The begin of somebody else's words, without what a terminal would obey, and without what the
    /// collector was sent to know us by.
    fn repeatable(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for (_, reference) in &self.config.headers {
            let Some(secret) = self.secrets.get(reference) else { continue };
            for part in secret.expose().split_whitespace().filter(|part| part.len() >= 8) {
                message = message.replace(part, "***");
            }
            message = message.replace(secret.expose(), "***");
        }
        let visible = message.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c });
        visible.take(MOST_WORDS).collect()
    }

    fn works(&mut self) {
        let (before, at) = self.said;
        let dropped = self.tracer.dropped();
        let (lost, now) = (dropped - before, Instant::now());
        if self.tracer.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(dropped = lost, "traces can be exported again");
        } else if lost > 0 && at.is_none_or(|at| now.duration_since(at) >= REPORT) {
            tracing::warn!(dropped = lost, "more requests are traced than can be exported");
        } else {
            return;
        }
        self.said = (dropped, Some(now));
    }

    async fn send(&self, batch: &[Finished]) -> Result<Taken, Failure> {
        let content = message::request(&self.config.service_name, &self.instance, batch);
        let request = TokenRequest {
            method: Method::POST,
            url: self.config.endpoint.clone(),
            headers: self.headers()?,
            content: Zeroizing::new(content),
        };
        let exchange = self.client.exchange(request, |status| status.is_success());
        let answer = match timeout(self.config.timeout, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Failure::Passing(reason(error), None)),
            Err(_) => return Err(Failure::Passing("it did not answer in time".to_owned(), None)),
        };
        judge(&answer)
    }

    fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.insert(ACCEPT, PROTOBUF);
        for (name, reference) in &self.config.headers {
            let secret = self.secrets.get(reference);
            let value = secret.and_then(|secret| HeaderValue::from_str(secret.expose()).ok());
            let unusable =
                || Failure::Passing(format!("the secret for '{name}' is no value"), None);
            let mut value = value.ok_or_else(unusable)?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }
}

/// What the protocol says of answers (OTLP 1.x, "OTLP/HTTP Response").
fn judge(answer: &TokenAnswer) -> Result<Taken, Failure> {
    let status = answer.status;
    if status.is_success() {
        let read = ExportTraceServiceResponse::decode(answer.content.as_slice());
        let partial = read.ok().and_then(|read| read.partial_success).unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
        return Ok(Taken { rejected, message: partial.error_message });
    }
    let why = format!("it answered {status}");
    let passing = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    Err(if passing.contains(&status) {
        Failure::Passing(why, answer.retry_after())
    } else {
        Failure::Final(why)
    })
}

/// Version 4 of RFC 9562.
fn random_uuid() -> String {
    let bits = fastrand::u128(..);
    let versioned = bits & !(0xf << 76) | 4 << 76;
    let mut id = format!("{:032x}", versioned & !(0b11 << 62) | 0b10 << 62);
    for at in [20, 16, 12, 8] {
        id.insert(at, '-');
    }
    id
}

/// The client's errors speak of token endpoints.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are about tokens")]
fn reason(error: FetchError) -> String {
    match error {
        FetchError::Unreachable { reason, .. } => reason.to_string(),
        FetchError::Broken { reason, .. } | FetchError::Request(reason) => reason,
        FetchError::Reply(error) => error.to_string(),
        _ => "its answer cannot be used".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_again_when_it_is_another_but_not_each_time() {
        let (mut why, begin) = (Why::default(), Instant::now());
        let said = [
            ("refused", true, 0, true),
            ("refused", false, 1, false),
            ("refused", false, 120, false),
            ("401", false, 121, true),
            ("503", false, 122, false),
            ("401", false, 123, false),
            ("503", false, 182, true),
            ("503", true, 183, true),
        ];
        for (reason, worked, seconds, expected) in said {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(why.is_worth_saying(reason, worked, now), expected, "{reason} {seconds}");
        }
    }

    #[test]
    fn a_process_is_called_by_a_uuid_of_its_own() {
        let (one, other) = (random_uuid(), random_uuid());
        assert_ne!(one, other);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{one}");
        assert!(one[14..].starts_with('4') && one[19..].starts_with(['8', '9', 'a', 'b']), "{one}");
    }
}
