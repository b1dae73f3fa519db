//! The recent past of a route: the last sixty intervals of ten seconds.
//!
//! Requests only ever add to totals. Once per interval the totals are looked at, and the difference
//! is what came in it: a request costs nothing here. Routes without requests cost nothing either.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::INTERVAL;
use super::latency::{self, NONE, quantile};
use super::route::Totals;
use crate::clock::Now;

/// How many intervals are remembered.
pub const REMEMBERED: u64 = 60;
/// The intervals that, with the one under way, are the last minute.
const OF_A_MINUTE: u64 = 5;

/// When intervals began, for all routes.
#[derive(Debug)]
pub(super) struct Intervals {
    /// The number of the one that is under way.
    current: u64,
    /// When it began.
    began: Now,
    /// When those before it began, in seconds since 1970; the oldest first.
    past: VecDeque<u64>,
    /// How long the last of those was.
    last: Duration,
}

impl Intervals {
    pub(super) fn new(now: Now) -> Self {
        Self { current: 0, began: now, past: VecDeque::new(), last: INTERVAL }
    }

    /// Ends the interval that is under way, begins the next, and says the number of the one that
    /// ended.
    pub(super) fn close(&mut self, now: Now) -> u64 {
        let began = self.began.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.past.push_back(began);
        while self.past.len() > usize::try_from(REMEMBERED).unwrap_or(usize::MAX) {
            self.past.pop_front();
        }
        self.last = now.monotonic.saturating_duration_since(self.began.monotonic);
        self.began = now;
        self.current += 1;
        self.current - 1
    }

    /// The number of the one that is under way.
    pub(super) fn current(&self) -> u64 {
        self.current
    }

    /// The numbers of those remembered, and when they began.
    fn remembered(&self) -> impl Iterator<Item = (u64, u64)> {
        let count = u64::try_from(self.past.len()).unwrap_or_default();
        (self.current.saturating_sub(count)..).zip(self.past.iter().copied())
    }
}

/// What came in one interval.
#[derive(Debug)]
struct Interval {
    number: u64,
    requests: u64,
    errors: u64,
    refused: u64,
    p50_us: u64,
    p99_us: u64,
    /// What its quantiles come from, bucket by bucket, as long as it is of the last minute.
    latencies: Box<[(u8, u64)]>,
}

/// What is remembered of one route.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The totals at the end of the last interval.
    totals: Option<Box<Totals>>,
    /// Those in which requests ended, the oldest first.
    intervals: VecDeque<Interval>,
}

/// What there is to see of a route, as `GET /api/status` says it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// Requests that have not ended.
    pub in_flight: usize,
    /// Requests that have ended, since the route is there.
    pub requests: u64,
    /// Those of them that were errors of ours or of the upstream's.
    pub errors: u64,
    /// Those of them that the upstream answered with 401 or 403 although they had a credential.
    pub refused: u64,
    /// Requests per second, in the last ten seconds.
    pub rate_per_s: f64,
    /// Errors among requests, in the last minute; null without requests.
    pub error_share: Option<f64>,
    /// Those refused by the upstream among requests, in the last minute; null without requests.
    pub refused_share: Option<f64>,
    /// Half of the requests of the last minute took at most so long, in milliseconds.
    pub p50_ms: Option<f64>,
    /// All but a hundredth.
    pub p99_ms: Option<f64>,
    /// The last intervals of ten seconds that are over, the oldest first; empty if nothing came in
    /// any of them. None where whoever is told knows it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Past>>,
}

/// An interval that is over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Past {
    /// When it began, in seconds since 1970.
    pub at_s: u64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those of them that were errors of ours or of the upstream's.
    pub errors: u64,
    /// Half of them took at most so long, in milliseconds; null without requests.
    pub p50_ms: Option<f64>,
    /// All but a hundredth.
    pub p99_ms: Option<f64>,
}

impl Window {
    /// Closes the interval of that number, with the `totals` at its end, if there are any.
    pub(super) fn close(&mut self, number: u64, totals: impl FnOnce() -> Option<Totals>) {
        let oldest = (number + 1).saturating_sub(REMEMBERED);
        while self.intervals.front().is_some_and(|first| first.number < oldest) {
            self.intervals.pop_front();
        }
        let minute = (number + 1).saturating_sub(OF_A_MINUTE);
        for interval in self.intervals.iter_mut().rev().take(8) {
            if interval.number < minute {
                interval.latencies = Box::default();
            }
        }
        let Some(totals) = totals() else { return };
        let since = self.since(&totals);
        let requests = since.requests();
        if requests == 0 {
            if self.intervals.is_empty() {
                self.intervals = VecDeque::new();
            }
            return;
        }
        let counted = (0..=u8::MAX).zip(since.latencies).filter(|(_, count)| *count > 0);
        self.intervals.push_back(Interval {
            number,
            requests,
            errors: since.errors,
            refused: since.refused,
            p50_us: quantile(&since.latencies, 0.5).unwrap_or_default(),
            p99_us: quantile(&since.latencies, 0.99).unwrap_or_default(),
            latencies: counted.collect(),
        });
        self.totals = Some(Box::new(totals));
    }

    /// What was added to the totals since the last interval ended.
    fn since(&self, totals: &Totals) -> Totals {
        let Some(before) = &self.totals else { return *totals };
        let mut since = *totals;
        for (count, before) in since.latencies.iter_mut().zip(&before.latencies) {
            *count = count.saturating_sub(*before);
        }
        since.errors = since.errors.saturating_sub(before.errors);
        since.refused = since.refused.saturating_sub(before.refused);
        since
    }

    /// What there is to see `now`.
    pub(super) fn view(
        &mut self,
        intervals: &Intervals,
        now: Now,
        in_flight: usize,
        totals: impl FnOnce() -> Option<Totals>,
    ) -> View {
        let totals = totals().unwrap_or_default();
        let mut minute = self.since(&totals);
        let under_way = minute.requests();
        let first = intervals.current.saturating_sub(OF_A_MINUTE);
        for interval in self.intervals.iter().filter(|interval| interval.number >= first) {
            minute.errors += interval.errors;
            minute.refused += interval.refused;
            for (bucket, count) in &interval.latencies {
                if let Some(sum) = minute.latencies.get_mut(usize::from(*bucket)) {
                    *sum += count;
                }
            }
        }
        let last = intervals.current.checked_sub(1);
        let last = self.intervals.back().filter(|interval| Some(interval.number) == last);
        let last = last.map_or(0, |interval| interval.requests);
        View {
            in_flight,
            requests: totals.requests(),
            errors: totals.errors,
            refused: totals.refused,
            rate_per_s: intervals.rate(now, under_way, last),
            error_share: share(minute.errors, minute.requests()),
            refused_share: share(minute.refused, minute.requests()),
            p50_ms: quantile_ms(&minute.latencies, 0.5),
            p99_ms: quantile_ms(&minute.latencies, 0.99),
            history: Some(self.history(intervals)),
        }
    }

    fn history(&self, intervals: &Intervals) -> Vec<Past> {
        if self.intervals.is_empty() {
            return Vec::new();
        }
        let mut own = self.intervals.iter().peekable();
        let all = intervals.remembered().map(|(number, at_s)| {
            while own.next_if(|one| one.number < number).is_some() {}
            let found = own.next_if(|one| one.number == number);
            Past {
                at_s,
                requests: found.map_or(0, |one| one.requests),
                errors: found.map_or(0, |one| one.errors),
                p50_ms: found.map(|one| ms(one.p50_us)),
                p99_ms: found.map(|one| ms(one.p99_us)),
            }
        });
        all.collect()
    }
}

impl Intervals {
    /// Requests per second in the last ten seconds: those of the interval under way, and of the one
    /// before the part that ten seconds reach into, as if they had come evenly.
    fn rate(&self, now: Now, under_way: u64, last: u64) -> f64 {
        let passed = now.monotonic.saturating_duration_since(self.began.monotonic);
        // Intervals end a little late, when the machine is busy or has slept.
        let over = passed.max(INTERVAL);
        let reach = INTERVAL.saturating_sub(passed).as_secs_f64();
        let share = (reach / self.last.as_secs_f64().max(f64::EPSILON)).min(1.0);
        #[expect(clippy::cast_precision_loss, reason = "fewer requests than that")]
        let requests = under_way as f64 + last as f64 * share;
        (requests / over.as_secs_f64() * 1_000.0).round() / 1_000.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer requests than that")]
fn share(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| of as f64 / all as f64)
}

fn quantile_ms(counts: &latency::Counts, q: f64) -> Option<f64> {
    if *counts == NONE { None } else { quantile(counts, q).map(ms) }
}

#[expect(clippy::cast_precision_loss, reason = "up to 1,000 seconds")]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}
