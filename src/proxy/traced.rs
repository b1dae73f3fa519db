//! A request that is traced: what is noted of it, and who takes that at the end.

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use tokio::time::Instant;

use super::Route;
use super::request_id::RequestId;
use crate::config::IdentitySource;
use crate::telemetry::trace::spans::{Said, Spans, without_device};
use crate::telemetry::trace::tracer::Tracer;

/// What an exchange has only if it is traced.
#[derive(Debug)]
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    spans: Rc<Spans>,
    method: String,
    path: String,
}

impl Traced {
    /// Begins at `at` if `tracer` wants the trace of a request with this `head`.
    pub(super) fn begin(
        tracer: Option<&Arc<Tracer>>,
        head: Option<&Parts>,
        at: Instant,
    ) -> Option<Box<Self>> {
        let (tracer, head) = tracer.zip(head)?;
        let spans = tracer.begin(&head.headers, at)?;
        Some(Box::new(Self {
            tracer: Arc::clone(tracer),
            spans,
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
        }))
    }

    /// Where its phases are noted.
    pub(super) fn spans(&self) -> &Rc<Spans> {
        &self.spans
    }

    /// It is for this route, which may say that the path says the device.
    pub(super) fn found(&mut self, route: &Route) {
        let identity = route.config.identity.as_ref().filter(|_| !self.tracer.tells_devices());
        if let Some(before) = identity.and_then(IdentitySource::segments_before) {
            self.path = without_device(&self.path, route.config.prefix.len(), before);
        }
    }

    /// It is of this device.
    pub(super) fn identified(&self, device: &str) {
        if self.tracer.tells_devices() {
            self.spans.identified(device);
        }
    }

    /// It has ended: hands over what was noted.
    pub(super) fn end(self, route: Option<&Route>, id: Option<&RequestId>) {
        let upstream = route.map(|route| &route.config.upstream.origin);
        let said = Said {
            method: self.method,
            path: self.path,
            route: route.map(|route| route.config.name.clone()).unwrap_or_default(),
            upstream: upstream.map(|origin| (origin.authority.host().to_owned(), origin.port())),
            request_id: id.map(|id| id.as_str().to_owned()),
        };
        self.tracer.finish(&self.spans, Instant::now(), said);
    }
}
