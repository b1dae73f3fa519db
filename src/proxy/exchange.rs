//! What lasts as long as one exchange: its places among the requests in flight, and its line in the
//! log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::request::Parts;
use tokio::time::Instant;

use super::content::ExchangeGuard;
use super::request_id::RequestId;
use super::{ACCESS, Route};
use crate::tls::PeerNames;

/// What lasts as long as an exchange: its place among the requests in flight, and its line in the
/// log, which is written when it ends.
#[derive(Debug)]
pub struct Exchange {
    in_flight: Arc<AtomicUsize>,
    pub(super) started: Instant,
    route: Option<Arc<Route>>,
    /// What the request is called, if it is called anything.
    id: Option<RequestId>,
    /// True once all of the answer has passed.
    ended: bool,
    /// Only if somebody reads the line.
    line: Option<Box<Line>>,
}

#[derive(Debug)]
struct Line {
    /// Empty, as the path is, for a request that could not be read.
    method: String,
    path: String,
    /// What its certificate calls the caller; empty without one.
    client: String,
    /// The device that the caller is; empty where nobody asks.
    device: String,
    status: u16,
    bytes: u64,
    reason: &'static str,
}

impl Exchange {
    /// Begins with the `head` of a request, or with one that could not be read, of a caller with
    /// these names in its certificate, which is called `id`.
    pub(super) fn begin(
        in_flight: &Arc<AtomicUsize>,
        head: Option<&Parts>,
        client: Option<&PeerNames>,
        id: Option<RequestId>,
    ) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        let line = tracing::enabled!(target: ACCESS, tracing::Level::INFO).then(|| {
            Box::new(Line {
                method: head.map(|head| head.method.to_string()).unwrap_or_default(),
                path: head.map(|head| head.uri.path().to_owned()).unwrap_or_default(),
                client: client.and_then(PeerNames::first).unwrap_or_default().to_owned(),
                device: String::new(),
                status: 0,
                bytes: 0,
                reason: "",
            })
        });
        let in_flight = Arc::clone(in_flight);
        Self { in_flight, started: Instant::now(), route: None, id, ended: false, line }
    }

    /// What the request is called, if it is called anything.
    pub(super) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    pub(super) fn found(&mut self, route: &Arc<Route>) {
        route.in_flight.fetch_add(1, Ordering::Relaxed);
        self.route = Some(Arc::clone(route));
    }

    pub(super) fn identified(&mut self, device: Option<&str>) {
        if let (Some(line), Some(device)) = (&mut self.line, device) {
            device.clone_into(&mut line.device);
        }
    }

    /// True if the route has more requests in flight than it may have.
    pub(super) fn is_one_too_many(&self) -> bool {
        self.route.as_ref().is_some_and(|route| {
            let most = route.config.max_in_flight;
            most.is_some_and(|most| route.in_flight.load(Ordering::Relaxed) > most)
        })
    }

    pub(super) fn route(&self) -> &str {
        self.route.as_ref().map_or("", |route| &route.config.name)
    }

    pub(super) fn status(&mut self, status: u16, reason: &'static str) {
        if let Some(line) = &mut self.line {
            line.status = status;
            line.reason = reason;
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Exchange {
    /// It ended, for this reason, which is nobody's fault.
    pub(super) fn ended_by(&mut self, reason: &'static str) {
        self.ended = true;
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

    fn broke(&mut self, reason: &'static str) {
        let request_id = self.id().map(RequestId::as_str);
        tracing::warn!(route = self.route(), reason, request_id, "an answer broke off");
        if let Some(line) = &mut self.line {
            line.reason = reason;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(route) = &self.route {
            route.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(mut line) = self.line.take() {
            if !self.ended && line.reason.is_empty() {
                line.reason = "caller went away";
            }
            // No query: it may hold secrets of the caller's.
            tracing::info!(
                target: ACCESS,
                method = %line.method,
                path = %line.path,
                client = (!line.client.is_empty()).then_some(line.client.as_str()),
                device = (!line.device.is_empty()).then_some(line.device.as_str()),
                route = self.route(),
                status = line.status,
                reason = line.reason,
                bytes = line.bytes,
                request_id = self.id().map(RequestId::as_str),
                ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX),
                "request"
            );
        }
    }
}
