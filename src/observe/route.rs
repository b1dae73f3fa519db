//! What is counted of the requests of one route.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::Padded;
use super::latency::{self, Latencies};
use super::statuses::{self, Statuses};
use super::times::micros;
use super::window::Window;

/// Into how many parts the counts of a route are divided, so that workers do not wait for each
/// other's caches. A part is made when a worker has its first request of the route: with many routes
/// that nobody asks for, nothing is.
const PARTS: usize = 4;

/// The errors of upstreams that are told apart (RFC 9209 §2.3).
const UPSTREAM_ERRORS: [&str; 13] = [
    "connection_read_timeout",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "destination_unavailable",
    "dns_error",
    "http_protocol_error",
    "http_response_incomplete",
    "http_response_timeout",
    "tls_certificate_error",
    "tls_protocol_error",
];

/// What is counted of the requests of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: String,
    parts: [OnceLock<Box<Part>>; PARTS],
    /// Rare, so one for all workers.
    upstream_errors: OnceLock<Box<[AtomicU64; UPSTREAM_ERRORS.len()]>>,
    /// Only of those who look.
    window: Mutex<Window>,
    /// Changed all the time; what is above is only read.
    in_flight: Padded,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Part {
    statuses: Statuses,
    latencies: Latencies,
    sum_us: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
}

/// An error of an upstream; small, because every exchange has room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamError(u8);

impl UpstreamError {
    /// The one that RFC 9209 calls so, if it can be an upstream's.
    pub fn of(word: &str) -> Option<Self> {
        let index = UPSTREAM_ERRORS.iter().position(|known| *known == word)?;
        u8::try_from(index).ok().map(Self)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The answer's status; 0 if there was none.
    pub status: u16,
    /// How long it took.
    pub took: Duration,
    /// True if it was an error of ours or of the upstream's.
    pub is_error: bool,
    /// True if the upstream answered that it does not accept the credential: 401 or 403 to a request
    /// that had one.
    pub is_refused: bool,
    /// What the upstream did wrong.
    pub upstream_error: Option<UpstreamError>,
}

/// What has been counted since the route is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// How long requests took.
    pub latencies: latency::Counts,
    /// Errors of ours and of the upstream's.
    pub errors: u64,
    /// Those that the upstream refused.
    pub refused: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { latencies: latency::NONE, errors: 0, refused: 0 }
    }
}

impl Totals {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.latencies.iter().sum()
    }
}

impl RouteMetrics {
    /// Of the route of that name.
    pub fn new(name: String) -> Self {
        Self {
            name,
            parts: [const { OnceLock::new() }; PARTS],
            upstream_errors: OnceLock::new(),
            window: Mutex::default(),
            in_flight: Padded::default(),
        }
    }

    /// The route's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request has come.
    pub fn began(&self) {
        self.counter().fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over.
    pub fn ended(&self, ended: Ended) {
        self.counter().fetch_sub(1, Ordering::Relaxed);
        let Some(part) = self.parts.get(own_part()) else { return };
        let part = part.get_or_init(Box::default);
        let us = micros(ended.took);
        part.statuses.add(ended.status);
        part.latencies.add(us);
        part.sum_us.fetch_add(us, Ordering::Relaxed);
        if ended.is_error {
            part.errors.fetch_add(1, Ordering::Relaxed);
        }
        if ended.is_refused {
            part.refused.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(error) = ended.upstream_error {
            self.upstream_failed(error);
        }
    }

    fn upstream_failed(&self, UpstreamError(index): UpstreamError) {
        let errors = self
            .upstream_errors
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; UPSTREAM_ERRORS.len()]));
        if let Some(count) = errors.get(usize::from(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self) -> &AtomicUsize {
        let Padded(in_flight) = &self.in_flight;
        in_flight
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.counter().load(Ordering::Relaxed)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter_map(|part| part.get().map(Box::as_ref))
    }

    /// What has been counted; `None` if there was no request.
    pub fn totals(&self) -> Option<Totals> {
        let mut parts = self.parts().peekable();
        parts.peek()?;
        let mut totals = Totals::default();
        for part in parts {
            part.latencies.add_to(&mut totals.latencies);
            totals.errors += part.errors.load(Ordering::Relaxed);
            totals.refused += part.refused.load(Ordering::Relaxed);
        }
        Some(totals)
    }

    /// How many requests were answered with which status, as it is written in labels.
    pub fn statuses(&self) -> Vec<(String, u64)> {
        let mut sums = BTreeMap::new();
        self.parts().for_each(|part| part.statuses.add_to(&mut sums));
        sums.into_iter().map(|(status, count)| (statuses::label(status), count)).collect()
    }

    /// How long all requests took together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.parts().map(|part| part.sum_us.load(Ordering::Relaxed)).sum())
    }

    /// The errors of the upstream that there were.
    pub fn upstream_errors(&self) -> Vec<(&'static str, u64)> {
        let counts = self.upstream_errors.get().into_iter().flat_map(|counts| counts.iter());
        let counts = UPSTREAM_ERRORS.into_iter().zip(counts);
        let counts = counts.map(|(word, count)| (word, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part that this thread counts in.
fn own_part() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let part = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
            own.set(Some(part));
            part
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16) -> Ended {
        let took = Duration::from_millis(3);
        Ended {
            status,
            took,
            is_error: status >= 500,
            is_refused: status == 401,
            upstream_error: None,
        }
    }

    #[test]
    fn nothing_is_kept_of_a_route_without_requests() {
        let route = RouteMetrics::new("api".to_owned());
        assert_eq!((route.totals(), route.statuses(), route.upstream_errors()), Default::default());
        assert!(size_of::<RouteMetrics>() <= 320, "{}", size_of::<RouteMetrics>());
        assert!(size_of::<Part>() <= 768, "{}", size_of::<Part>());
    }

    #[test]
    fn what_threads_count_apart_is_read_together() {
        let route = RouteMetrics::new("api".to_owned());
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for status in [200, 200, 502, 401] {
                        route.began();
                        route.ended(ended(status));
                    }
                });
            }
        });
        let statuses =
            [("200", 12), ("401", 6), ("502", 6)].map(|(word, count)| (word.to_owned(), count));
        assert_eq!(route.statuses(), statuses);
        let totals = route.totals().unwrap();
        assert_eq!((totals.requests(), totals.errors, totals.refused), (24, 6, 6));
        assert_eq!((route.in_flight(), route.sum()), (0, Duration::from_millis(72)));
    }

    #[test]
    fn errors_of_the_upstream_are_told_apart_by_their_word() {
        let route = RouteMetrics::new("api".to_owned());
        for word in ["dns_error", "tls_protocol_error", "dns_error", "no_such_word"] {
            route.began();
            route.ended(Ended { upstream_error: UpstreamError::of(word), ..ended(502) });
        }
        assert_eq!(route.upstream_errors(), [("dns_error", 2), ("tls_protocol_error", 1)]);
        assert!(UPSTREAM_ERRORS.is_sorted());
    }
}
