//! Which requests are traced, and where what was noted of them waits to be exported.
//!
//! Workers never wait: what does not fit is dropped and counted.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::context::{RANDOM, SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
use super::spans::{Finished, Said, Spans};
use crate::clock::Clock;
use crate::config::TraceConfig;

/// Decides, and takes.
#[derive(Debug)]
pub struct Tracer {
    sample: f64,
    devices: bool,
    clock: Clock,
    /// Requests that wait.
    waiting: Mutex<Vec<Finished>>,
    most: usize,
    /// So many are worth sending.
    pub(super) batch: usize,
    pub(super) enough: Notify,
    dropped: AtomicU64,
    exported: AtomicU64,
    pub(super) failing: AtomicBool,
}

impl Tracer {
    /// As `config` says.
    pub fn new(config: &TraceConfig, clock: Clock) -> Self {
        Self {
            sample: config.sample,
            devices: config.devices,
            clock,
            waiting: Mutex::default(),
            most: config.queue,
            batch: config.batch,
            enough: Notify::new(),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// What is to be noted of a request with these fields that came at `at`; `None` for nothing:
    /// what its caller has decided holds, and the share counts where a trace begins here.
    pub fn begin(&self, headers: &HeaderMap, at: Instant) -> Option<Rc<Spans>> {
        let caller = TraceContext::of(headers);
        let trace = match caller {
            Some(caller) => caller.is_sampled().then_some(caller.trace),
            None => Some(TraceId::random()).filter(|trace| trace.is_in(self.sample)),
        };
        let spans = Spans::begin(caller, trace?, (self.clock.wall(), at));
        Some(Rc::new(spans))
    }

    /// True if devices may be told.
    pub fn tells_devices(&self) -> bool {
        self.devices
    }

    /// Leaves in the fields of a request what its upstream is told: of a request that is traced
    /// (`spans`) nothing yet, since each attempt is a span of its own; that a trace is not kept, if
    /// that was decided here; else what the caller says.
    pub fn pass_on(&self, headers: &mut HeaderMap, spans: Option<&Spans>) {
        let known = TraceContext::of(headers).is_some();
        if !known {
            headers.remove(TRACESTATE);
        }
        match spans {
            Some(spans) => spans.tell_upstream(),
            None if known => {}
            None => {
                let (trace, parent) = (TraceId::random(), SpanId::random());
                let kept_by_nobody = TraceContext { trace, parent, flags: RANDOM };
                headers.insert(TRACEPARENT, kept_by_nobody.value());
            }
        }
    }

    /// Takes a request that has ended `at`.
    pub fn finish(&self, spans: &Spans, at: Instant, said: Said) {
        let finished = spans.finish(at, said);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.most {
            drop(waiting);
            self.drop_some(1);
            return;
        }
        waiting.push(finished);
        let enough = waiting.len() == self.batch;
        drop(waiting);
        if enough {
            self.enough.notify_one();
        }
    }

    pub(super) fn drop_some(&self, requests: usize) {
        self.dropped.fetch_add(u64::try_from(requests).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Requests that were traced and exported, since the start.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Requests that were traced and not exported, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// True while the collector takes nothing.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Requests that wait to be exported.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What the one who sends does.
#[cfg(feature = "otlp")]
impl Tracer {
    /// The next ones to send, in their order, and whether there are enough left for another time.
    pub(super) fn take(&self) -> (Vec<Finished>, bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(self.batch);
        let taken = waiting.drain(..count).collect();
        (taken, waiting.len() >= self.batch)
    }

    /// Takes back what was not sent, in front of the others.
    pub(super) fn give_back(&self, batch: Vec<Finished>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.splice(..0, batch);
    }

    pub(super) fn exported_some(&self, requests: usize) {
        self.exported.fetch_add(u64::try_from(requests).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
