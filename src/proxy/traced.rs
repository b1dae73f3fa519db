//! A request that is traced: what is noted of it, and who takes that at the end.

use std::rc::Rc;
use std::sync::Arc;

use http::Uri;
use http::request::Parts;
use tokio::time::Instant;

use super::Route;
use super::request_id::RequestId;
use super::retarget::retarget;
use crate::config::IdentitySource;
use crate::telemetry::trace::spans::{Said, SaidRoute, Spans, without_device};
use crate::telemetry::trace::tracer::Tracer;

/// What an exchange has only if it is traced.
#[derive(Debug)]
pub(super) struct Traced {
    tracer: Arc<Tracer>,
    spans: Rc<Spans>,
    method: String,
    scheme: &'static str,
    /// As it came, until it is known whether it says the device.
    path: String,
    route: Option<SaidRoute>,
}

impl Traced {
    /// Begins at `at` if `tracer` wants the trace of a request with this `head`, which came by TLS
    /// if it is `secure`.
    pub(super) fn begin(
        tracer: Option<&Arc<Tracer>>,
        head: Option<&Parts>,
        secure: bool,
        at: Instant,
    ) -> Option<Box<Self>> {
        let (tracer, head) = tracer.zip(head)?;
        let spans = tracer.begin(&head.headers, at)?;
        Some(Box::new(Self {
            tracer: Arc::clone(tracer),
            spans,
            method: head.method.to_string(),
            scheme: if secure { "https" } else { "http" },
            path: head.uri.path().to_owned(),
            route: None,
        }))
    }

    /// Where its phases are noted.
    pub(super) fn spans(&self) -> &Rc<Spans> {
        &self.spans
    }

    /// It is for this route, which may say that the path says the device.
    pub(super) fn found(&mut self, route: &Route) {
        let (config, prefix) = (&route.config, route.config.prefix.len());
        let device = config.identity.as_ref().and_then(IdentitySource::segments_before);
        let url = match device {
            Some(before) => at_upstream(&without_device(&self.path, prefix, before, None), route),
            None => at_upstream(&self.path, route),
        };
        if let Some(before) = device.filter(|_| !self.tracer.tells_devices()) {
            self.path = without_device(&self.path, prefix, before, Some("{device}"));
        }
        let origin = &config.upstream.origin;
        let prefix = if prefix == 0 { "/" } else { &config.prefix };
        self.route = Some(SaidRoute {
            name: config.name.clone(),
            prefix: prefix.to_owned(),
            upstream: (origin.authority.host().to_owned(), origin.port()),
            url,
        });
    }

    /// It is of this device.
    pub(super) fn identified(&self, device: &str) {
        if self.tracer.tells_devices() {
            self.spans.identified(device);
        }
    }

    /// It has ended: hands over what was noted.
    pub(super) fn end(self, id: Option<&RequestId>) {
        // Of a request that was refused before there was a route nobody knows which part of the path
        // says the device.
        let tells_path = self.route.is_some() || self.tracer.tells_devices();
        let said = Said {
            method: self.method,
            scheme: self.scheme,
            path: if tells_path { self.path } else { String::new() },
            route: self.route,
            request_id: id.map(|id| id.as_str().to_owned()),
        };
        self.tracer.finish(&self.spans, Instant::now(), said);
    }
}

/// Where a request for `path` goes; only the upstream where that cannot be said.
fn at_upstream(path: &str, route: &Route) -> String {
    let config = &route.config;
    let uri = if path.is_empty() { "/" } else { path }.parse::<Uri>();
    let target = uri.ok().and_then(|uri| retarget(&uri, config.prefix.len(), &config.upstream));
    let path = target.as_ref().map_or("/", |target| target.path());
    let origin = &config.upstream.origin;
    format!("{}://{}{path}", origin.scheme, origin.authority)
}
