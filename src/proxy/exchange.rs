//! What lasts as long as one exchange: its places among the requests in flight, what is counted of
//! it, its line in the log, and its entry in the feed of those who look.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use tokio::time::Instant;

use super::content::{Broke, ExchangeGuard};
use super::request_id::RequestId;
use super::respond::{ProxyError, Verdict};
use super::traced::Traced;
use super::{ACCESS, Route};
use crate::clock::{Clock, unix_ms};
use crate::observe::recent::{Seen, told};
use crate::observe::route::{Ended, RouteMetrics, UpstreamError};
use crate::observe::times::{Phase, Times, micros};
use crate::observe::{Observe, Padded, Whose};
use crate::telemetry::trace::context::{TraceContext, TraceId};
use crate::telemetry::trace::spans::Spans;
use crate::telemetry::trace::tracer::Tracer;
use crate::tls::PeerNames;

/// What lasts as long as an exchange: its place among the requests in flight, what is counted of it
/// when it ends, and its line in the log, which is written then.
#[derive(Debug)]
pub struct Exchange {
    observe: Arc<Observe>,
    pub(super) started: Instant,
    times: Times,
    route: Option<Arc<Route>>,
    /// What the request is called, if it is called anything.
    id: Option<RequestId>,
    /// 0 until there is an answer.
    status: u16,
    whose: Whose,
    /// True if the upstream answered a request with a credential as if it had none that is good.
    refused: bool,
    /// What the upstream did wrong.
    upstream_error: Option<UpstreamError>,
    /// True once all of the answer has passed.
    ended: bool,
    /// Only if somebody reads the line.
    line: Option<Box<Line>>,
    /// Only if it is traced.
    traced: Option<Box<Traced>>,
}

#[derive(Debug)]
struct Line {
    /// When the request came, in milliseconds since 1970.
    at_ms: u64,
    /// Empty, as the path is, for a request that could not be read.
    method: String,
    path: String,
    /// What its certificate calls the caller; empty without one.
    client: String,
    /// The device that the caller is; empty where nobody asks.
    device: String,
    /// The trace that it belongs to, whoever keeps that.
    trace: Option<TraceId>,
    bytes: u64,
    reason: &'static str,
}

impl Exchange {
    /// Begins with the `head` of a request, or with one that could not be read, of a caller with
    /// these names in its certificate, which is called `id`.
    pub(super) fn begin(
        observe: &Arc<Observe>,
        clock: &Clock,
        head: Option<&Parts>,
        client: Option<&PeerNames>,
        id: Option<RequestId>,
    ) -> Self {
        let Padded(in_flight) = &observe.in_flight;
        in_flight.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let logged = tracing::enabled!(target: ACCESS, tracing::Level::INFO);
        let line = (logged || observe.recent.is_watched(started)).then(|| {
            Box::new(Line {
                at_ms: unix_ms(clock.wall()),
                method: head.map(|head| head.method.to_string()).unwrap_or_default(),
                path: head.map(|head| head.uri.path().to_owned()).unwrap_or_default(),
                client: client.and_then(PeerNames::first).unwrap_or_default().to_owned(),
                device: String::new(),
                trace: head.and_then(|head| TraceContext::of(&head.headers)).map(|c| c.trace),
                bytes: 0,
                reason: "",
            })
        });
        Self {
            observe: Arc::clone(observe),
            started,
            times: Times::begin(started),
            route: None,
            id,
            status: 0,
            whose: Whose::Nobodys,
            refused: false,
            upstream_error: None,
            ended: false,
            line,
            traced: None,
        }
    }

    /// The same, noted for a trace if `tracer` wants that of a request with this `head`, which came
    /// by TLS if it is `secure`.
    #[must_use]
    pub(super) fn traced(
        mut self,
        tracer: Option<&Arc<Tracer>>,
        head: Option<&Parts>,
        secure: bool,
    ) -> Self {
        self.traced = Traced::begin(tracer, head, secure, self.started);
        if let (Some(line), Some(traced)) = (&mut self.line, &self.traced) {
            line.trace = Some(traced.spans().trace());
        }
        self
    }

    /// Where its phases are noted, if it is traced.
    pub(super) fn spans(&self) -> Option<&Rc<Spans>> {
        self.traced.as_ref().map(|traced| traced.spans())
    }

    /// What there is to note, if it is traced.
    fn note(&self, note: impl FnOnce(&Spans)) {
        if let Some(traced) = &self.traced {
            note(traced.spans());
        }
    }

    /// What the request is called, if it is called anything.
    pub(super) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// Where its time goes.
    pub(super) fn times(&mut self) -> &mut Times {
        &mut self.times
    }

    pub(super) fn found(&mut self, route: &Arc<Route>) {
        route.metrics().began();
        if let Some(traced) = &mut self.traced {
            traced.found(route);
        }
        self.route = Some(Arc::clone(route));
    }

    pub(super) fn identified(&mut self, device: Option<&str>) {
        if let (Some(line), Some(device)) = (&mut self.line, device) {
            device.clone_into(&mut line.device);
        }
        if let (Some(traced), Some(device)) = (&self.traced, device) {
            traced.identified(device);
        }
    }

    /// True if the route has more requests in flight than it may have.
    pub(super) fn is_one_too_many(&self) -> bool {
        self.route.as_ref().is_some_and(|route| {
            let most = route.config.max_in_flight;
            most.is_some_and(|most| route.metrics().in_flight() > most)
        })
    }

    pub(super) fn route(&self) -> &str {
        self.route.as_ref().map_or("", |route| &route.config.name)
    }

    /// The upstream has answered.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.note(|spans| spans.status(status.as_u16()));
        if status.is_client_error() || status.is_server_error() {
            self.whose = Whose::Upstreams;
        }
        self.refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && self.route.as_ref().is_some_and(|route| !route.identities.is_empty());
    }

    /// There is an answer of ours instead.
    pub(super) fn failed(&mut self, error: &ProxyError, verdict: &Verdict) {
        self.status = verdict.status.as_u16();
        self.refused = false;
        self.note(|spans| {
            spans.status(verdict.status.as_u16());
            spans.because(verdict.word);
        });
        self.whose = error.whose(self.times.phase());
        if self.whose == Whose::Upstreams {
            self.upstream_error = UpstreamError::of(verdict.error);
        }
        // What was under way has come to nothing.
        if self.times.phase() != Phase::Other {
            self.times.turn(Phase::Other, Instant::now());
        }
        self.because(verdict.word);
    }

    /// It ended, for this reason, which is nobody's fault.
    pub(super) fn ended_by(&mut self, reason: &'static str) {
        self.ended = true;
        self.because(reason);
    }

    fn because(&mut self, reason: &'static str) {
        if let Some(line) = &mut self.line {
            line.reason = reason;
        }
    }
}

impl ExchangeGuard for Exchange {
    fn passed(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        }
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn broke(&mut self, broke: Broke) {
        let reason = broke.reason();
        let request_id = self.id().map(RequestId::as_str);
        tracing::warn!(route = self.route(), reason, request_id, "an answer broke off");
        self.ended = true;
        self.whose = Whose::Upstreams;
        self.upstream_error = UpstreamError::of(broke.error());
        self.note(|spans| spans.because(reason));
        self.because(reason);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Padded(in_flight) = &self.observe.in_flight;
        in_flight.fetch_sub(1, Ordering::Relaxed);
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        if !self.ended {
            if self.times.phase() != Phase::Other {
                self.times.turn(Phase::Other, now);
            }
            if self.whose == Whose::Nobodys {
                self.whose = Whose::Callers;
            }
        }
        self.count(took);
        if let Some(traced) = self.traced.take() {
            if !self.ended {
                traced.spans().broke_off();
            }
            traced.end(self.id());
        }
        if let Some(mut line) = self.line.take() {
            if !self.ended && line.reason.is_empty() {
                line.reason = "caller went away";
            }
            self.log(&line, took);
            if self.observe.recent.is_watched(now) {
                self.observe.recent.record(self.seen(*line, took));
            }
        }
    }
}

impl Exchange {
    fn count(&self, took: Duration) {
        let ended = Ended {
            status: self.status,
            // What follows a switch of protocols is no answer that anybody waits for.
            took: if self.status == StatusCode::SWITCHING_PROTOCOLS.as_u16() {
                self.times.since().saturating_duration_since(self.started)
            } else {
                took
            },
            is_error: self.status >= 500 || self.upstream_error.is_some(),
            is_refused: self.refused,
            upstream_error: self.upstream_error,
        };
        if let Some(route) = &self.route {
            route.metrics().ended(ended);
        } else {
            let unrouted: &RouteMetrics = self.observe.unrouted();
            unrouted.began();
            unrouted.ended(ended);
        }
    }

    fn log(&self, line: &Line, took: Duration) {
        // No query: it may hold secrets of the caller's.
        tracing::info!(
            target: ACCESS,
            method = %line.method,
            path = %line.path,
            client = (!line.client.is_empty()).then_some(line.client.as_str()),
            device = (!line.device.is_empty()).then_some(line.device.as_str()),
            route = self.route(),
            status = self.status,
            whose = self.whose.word(),
            reason = line.reason,
            bytes = line.bytes,
            request_id = self.id().map(RequestId::as_str),
            wait_us = self.times.wait_us(),
            sign_us = self.times.sign_us(),
            upstream_us = self.times.upstream_us(),
            trace_id = line.trace.map(tracing::field::display),
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "request"
        );
    }

    fn seen(&self, line: Line, took: Duration) -> Seen {
        Seen {
            // Whoever passes it on numbers it.
            seq: 0,
            at_ms: line.at_ms,
            path: told(&line.path).to_owned(),
            method: line.method,
            route: self.route().to_owned(),
            identity: if line.device.is_empty() { line.client } else { line.device },
            status: self.status,
            whose: self.whose.word(),
            reason: line.reason,
            request_id: self.id().map(|id| id.as_str().to_owned()).unwrap_or_default(),
            wait_us: self.times.wait_us(),
            sign_us: self.times.sign_us(),
            upstream_us: self.times.upstream_us(),
            total_us: micros(took),
            bytes: line.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_small_because_it_is_moved_more_than_once() {
        // From here on, a move is a call instead of a few instructions.
        assert!(size_of::<Exchange>() <= 128, "{}", size_of::<Exchange>());
    }

    #[test]
    fn every_error_of_the_upstream_can_be_counted() {
        for broke in [Broke::Off, Broke::Silent, Broke::TooLong] {
            assert!(UpstreamError::of(broke.error()).is_some(), "{broke:?}");
        }
    }
}
