//! What is noted of one request that is traced.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::context::{RANDOM, SAMPLED, SpanId, TraceContext, TraceId};
use crate::observe::times::Phase;

/// More attempts are not sent (`authorize`); it is a bound all the same.
const MOST_LAPS: usize = 64;

/// The reason that is nobody's fault here.
pub const CALLER_LEFT: &str = "caller went away";

/// A phase from its begin to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    /// Which phase; never [`Phase::Other`].
    pub phase: Phase,
    /// What it is called in the trace.
    pub id: SpanId,
    /// When it began, after the request.
    pub began: Duration,
    /// When it ended, after the request.
    pub ended: Duration,
    /// What the upstream answered; 0 if it did not, or was not asked.
    pub status: u16,
}

/// A request while it is under way. Stays on its worker's thread.
#[derive(Debug)]
pub struct Spans {
    trace: TraceId,
    /// The caller's span.
    parent: Option<SpanId>,
    /// What the trace's flags say.
    flags: u8,
    /// That of the request.
    id: SpanId,
    began: (SystemTime, Instant),
    /// What goes on at the moment, since when, and what it is called.
    now: Cell<(Phase, Instant, SpanId)>,
    laps: RefCell<Vec<Lap>>,
    status: Cell<u16>,
    reason: Cell<&'static str>,
    device: RefCell<Option<String>>,
    /// Nothing else sets the field that tells the upstream.
    tells_upstream: Cell<bool>,
}

impl Spans {
    /// A request that came at `began`, by both clocks, in the trace that `caller` says.
    pub fn begin(
        caller: Option<TraceContext>,
        trace: TraceId,
        began: (SystemTime, Instant),
    ) -> Self {
        Self {
            trace,
            parent: caller.map(|caller| caller.parent),
            flags: SAMPLED | caller.map_or(RANDOM, |caller| caller.flags),
            id: SpanId::random(),
            began,
            now: Cell::new((Phase::Other, began.1, SpanId::random())),
            laps: RefCell::default(),
            status: Cell::new(0),
            reason: Cell::new(""),
            device: RefCell::default(),
            tells_upstream: Cell::new(false),
        }
    }

    /// The trace.
    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// The phase that is under way gives way to `next`.
    pub fn turn(&self, next: Phase, at: Instant) {
        let (phase, since, id) = self.now.replace((next, at, SpanId::random()));
        let mut laps = self.laps.borrow_mut();
        if phase != Phase::Other && laps.len() < MOST_LAPS {
            let after = |instant: Instant| instant.saturating_duration_since(self.began.1);
            laps.push(Lap { phase, id, began: after(since), ended: after(at), status: 0 });
        }
    }

    /// The upstream is told its place in the trace, from now on.
    pub fn tell_upstream(&self) {
        self.tells_upstream.set(true);
    }

    /// The place of the next attempt in the trace, if the upstream is told: to be said before it is
    /// signed.
    pub fn for_upstream(&self, attempt: SpanId) -> Option<TraceContext> {
        let told = TraceContext { trace: self.trace, parent: attempt, flags: self.flags };
        self.tells_upstream.get().then_some(told)
    }

    /// From now on the upstream has the request, as the span `attempt`.
    pub fn sent(&self, attempt: SpanId, at: Instant) {
        self.turn(Phase::Upstream, at);
        self.now.set((Phase::Upstream, at, attempt));
    }

    /// The upstream has answered the last attempt, or failed to (0).
    pub fn received(&self, status: u16, at: Instant) {
        self.turn(Phase::Other, at);
        if let Some(lap) = self.laps.borrow_mut().last_mut() {
            lap.status = status;
        }
    }

    /// The caller gets this status.
    pub fn status(&self, status: u16) {
        self.status.set(status);
    }

    /// What went wrong, in our word for it.
    pub fn because(&self, reason: &'static str) {
        self.reason.set(reason);
    }

    /// It ended before its answer did, for which the caller is the reason if no other is known.
    pub fn broke_off(&self) {
        if self.reason.get().is_empty() {
            self.reason.set(CALLER_LEFT);
        }
    }

    /// Which device sent it.
    pub fn identified(&self, device: &str) {
        *self.device.borrow_mut() = Some(device.to_owned());
    }

    /// What became of it, `at` its end.
    pub fn finish(&self, at: Instant, said: Said) -> Finished {
        self.turn(Phase::Other, at);
        Finished {
            trace: self.trace,
            parent: self.parent,
            flags: self.flags,
            id: self.id,
            began: self.began.0,
            took: at.saturating_duration_since(self.began.1),
            laps: self.laps.take(),
            status: self.status.get(),
            reason: self.reason.get(),
            device: self.device.take(),
            said,
        }
    }
}

/// What a request and its route say of themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its method.
    pub method: String,
    /// `http` or `https`, as its caller speaks it.
    pub scheme: &'static str,
    /// Its path, without the query; empty if it may not be told.
    pub path: String,
    /// The route, if there is one.
    pub route: Option<SaidRoute>,
    /// What it is called in the log.
    pub request_id: Option<String>,
}

/// What a route says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaidRoute {
    /// Its name.
    pub name: String,
    /// The path that it begins with.
    pub prefix: String,
    /// Host and port of its upstream.
    pub upstream: (String, u16),
    /// Where the request goes: the upstream's URL, without a query and the device.
    pub url: String,
}

/// A request that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its trace.
    pub trace: TraceId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// What the trace's flags say.
    pub flags: u8,
    /// Its own span.
    pub id: SpanId,
    /// When it came.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Its phases, in their order.
    pub laps: Vec<Lap>,
    /// What the caller got; 0 if nothing.
    pub status: u16,
    /// Our word for what went wrong; empty if nothing did.
    pub reason: &'static str,
    /// Which device sent it, where that may be told.
    pub device: Option<String>,
    /// What it says of itself.
    pub said: Said,
}

/// `path` with the segment that says the device, the one after `before` others behind the prefix,
/// replaced by something else, or left out.
pub fn without_device(path: &str, prefix: usize, before: usize, instead: Option<&str>) -> String {
    let (kept, rest) = path.split_at_checked(prefix).unwrap_or((path, ""));
    let mut told = kept.to_owned();
    for (at, segment) in rest.split('/').skip(1).enumerate() {
        let segment = if at == before { instead } else { Some(segment) };
        for part in segment.into_iter().flat_map(|segment| ["/", segment]) {
            told.push_str(part);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_has_spans_of_its_own() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let spans = Spans::begin(None, TraceId::random(), (began, now));
        assert_eq!(spans.for_upstream(SpanId::random()), None, "somebody else says it");
        spans.tell_upstream();
        let mut attempts = Vec::new();
        for (from, status) in [(1, 401), (11, 200)] {
            let attempt = SpanId::random();
            spans.turn(Phase::Wait, at(from));
            spans.turn(Phase::Sign, at(from + 2));
            assert_eq!(spans.for_upstream(attempt).unwrap().parent, attempt);
            spans.sent(attempt, at(from + 3));
            spans.received(status, at(from + 8));
            attempts.push(attempt);
        }
        spans.status(200);
        let finished = spans.finish(at(30), Said::default());
        let seen: Vec<_> = finished.laps.iter().map(|lap| (lap.phase, lap.status)).collect();
        let one = [(Phase::Wait, 0), (Phase::Sign, 0)];
        let expected = [&one[..], &[(Phase::Upstream, 401)], &one, &[(Phase::Upstream, 200)]];
        assert_eq!(seen, expected.concat());
        let upstream = |lap: &&Lap| lap.phase == Phase::Upstream;
        let ids: Vec<_> = finished.laps.iter().filter(upstream).map(|lap| lap.id).collect();
        assert_eq!(ids, attempts, "what the upstream was told");
        let last = finished.laps.last().unwrap();
        let times = (last.began, last.ended, finished.took);
        assert_eq!(times, (Duration::from_millis(14), Duration::from_millis(19), at(30) - now));
    }

    #[test]
    fn a_device_in_the_path_is_not_told() {
        for (path, prefix, before, masked, cut) in [
            ("/p/gw-1/v3/x", 2, 0, "/p/{device}/v3/x", "/p/v3/x"),
            ("/gw-1", 0, 0, "/{device}", ""),
            ("/p/v3/gw-1/x", 2, 1, "/p/v3/{device}/x", "/p/v3/x"),
            ("/p//gw-1/x", 2, 1, "/p//{device}/x", "/p//x"),
            ("/p/v3", 2, 1, "/p/v3", "/p/v3"),
            ("/p", 2, 0, "/p", "/p"),
        ] {
            assert_eq!(without_device(path, prefix, before, Some("{device}")), masked);
            assert_eq!(without_device(path, prefix, before, None), cut);
        }
    }
}
