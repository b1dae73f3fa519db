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
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The one who sends.
#[derive(Debug)]
pub struct Exporter {
    config: TraceConfig,
    tracer: Arc<Tracer>,
    secrets: Arc<Secrets>,
    client: TokenClient,
    /// What was dropped when that was said last, and when it was.
    said: (u64, Option<Instant>),
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
        Ok(Self { config: config.clone(), tracer, secrets, client, said: (0, None) })
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
            if let Ok(Ok(())) = timeout_at(last, self.send(&batch)).await {
                self.tracer.exported_some(count);
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
                Ok(()) => {
                    self.tracer.exported_some(batch.len());
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

    /// Says once that it does not work.
    fn fails(&mut self, why: &str) {
        if !self.tracer.failing.swap(true, Ordering::Relaxed) {
            let endpoint = self.config.endpoint.to_string();
            tracing::warn!(endpoint, why, "traces cannot be exported; requests go on");
        }
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

    async fn send(&self, batch: &[Finished]) -> Result<(), Failure> {
        let content = message::request(&self.config.service_name, batch);
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
fn judge(answer: &TokenAnswer) -> Result<(), Failure> {
    let status = answer.status;
    if status.is_success() {
        let read = ExportTraceServiceResponse::decode(answer.content.as_slice());
        let rejected = read.ok().and_then(|read| read.partial_success);
        let rejected = rejected.map_or(0, |partial| partial.rejected_spans);
        if rejected > 0 {
            tracing::debug!(rejected, "the collector took some of the spans only");
        }
        return Ok(());
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
