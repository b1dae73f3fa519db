use super::*;
use std::sync::Arc;

const HOUR: i64 = 3_600_000;

/// An upstream whose clock is `ahead` of ours, and our clock, which can be moved.
struct Bench {
    upstream: UpstreamClock,
    clock: Clock,
    offset: Arc<AtomicI64>,
}

impl Bench {
    fn new() -> Self {
        let offset = Arc::new(AtomicI64::new(0));
        let clock = Clock::shifted(Arc::clone(&offset));
        Self { upstream: UpstreamClock::new("api.example.com"), clock, offset }
    }

    /// Time passes for our clock, and the other's.
    fn pass(&self, ms: i64) {
        self.offset.fetch_add(ms, Ordering::Relaxed);
    }

    fn fields(&self, ahead: i64) -> HeaderMap {
        let theirs = i64::try_from(unix_ms(self.clock.wall())).unwrap() + ahead;
        let theirs = Duration::from_millis(u64::try_from(theirs).unwrap());
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + theirs);
        HeaderMap::from_iter([(DATE, date.parse().unwrap())])
    }

    fn hear(
        &self,
        status: u16,
        headers: &HeaderMap,
        corrected_ms: i64,
        trial: bool,
    ) -> Option<i64> {
        let status = StatusCode::from_u16(status).unwrap();
        let signed = self.clock.wall();
        let heard = Heard { signed, corrected_ms, trial, status, headers };
        self.upstream.hear(heard, &self.clock)
    }
}

fn near(one: i64, other: i64) -> bool {
    (one - other).abs() <= 1_500
}

#[test]
fn a_refusal_says_how_to_correct_the_second_signature_whose_success_settles_it() {
    let bench = Bench::new();
    assert!(bench.upstream.may_refuse(bench.clock.wall()));
    let skew = bench.hear(401, &bench.fields(HOUR), 0, false).unwrap();
    assert!(near(skew, HOUR), "{skew}");
    assert_eq!(bench.upstream.correction_ms(), 0, "not before it is shown to be right");
    assert_eq!(bench.hear(200, &bench.fields(HOUR), skew, true), None);
    assert_eq!(bench.upstream.correction_ms(), skew);
    assert!(!bench.upstream.may_refuse(bench.clock.wall()));
    assert_eq!(bench.hear(401, &bench.fields(HOUR), skew, false), None, "it has other reasons");
    assert!(bench.upstream.may_refuse(bench.clock.wall()));
}

#[test]
fn a_refusal_whose_date_agrees_or_comes_from_a_cache_is_no_reason_to_sign_again() {
    let bench = Bench::new();
    assert_eq!(bench.hear(401, &bench.fields(0), 0, false), None);
    assert_eq!(bench.hear(403, &bench.fields(1_000), 0, false), None);
    assert_eq!(bench.hear(401, &HeaderMap::new(), 0, false), None);
    let mut cached = bench.fields(HOUR);
    cached.insert(AGE, "1".parse().unwrap());
    assert_eq!(bench.hear(401, &cached, 0, false), None);
    assert_eq!(bench.hear(401, &bench.fields(25 * HOUR), 0, false), None, "absurd");
    assert_eq!(bench.hear(500, &bench.fields(HOUR), 0, false), None, "no refusal");
    let garbage = HeaderMap::from_iter([(DATE, "yesterday".parse().unwrap())]);
    assert_eq!(bench.hear(401, &garbage, 0, false), None);
    assert!(bench.hear(403, &bench.fields(HOUR), 0, false).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_ends_the_attempts_for_a_minute() {
    let bench = Bench::new();
    let skew = bench.hear(401, &bench.fields(HOUR), 0, false).unwrap();
    assert_eq!(bench.hear(401, &bench.fields(HOUR), skew, true), None);
    assert_eq!(bench.upstream.correction_ms(), 0);
    assert_eq!(bench.hear(401, &bench.fields(HOUR), 0, false), None);
    tokio::time::advance(TRIAL_PAUSE).await;
    assert!(bench.hear(401, &bench.fields(HOUR), 0, false).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_that_says_nothing_of_the_signature_settles_nothing() {
    for status in [429, 404, 302, 500, 503] {
        let bench = Bench::new();
        let skew = bench.hear(403, &bench.fields(10 * HOUR), 0, false).unwrap();
        assert!(near(skew, 10 * HOUR), "{skew}");
        assert_eq!(bench.hear(status, &bench.fields(10 * HOUR), skew, true), None, "{status}");
        assert_eq!(bench.upstream.skew_ms(), None, "{status}");
        assert_eq!(bench.upstream.correction_ms(), 0, "{status}");
        assert!(bench.upstream.may_refuse(bench.clock.wall()), "{status}");
    }
    // Nor does it end the pause after one that was refused again.
    let bench = Bench::new();
    let skew = bench.hear(403, &bench.fields(HOUR), 0, false).unwrap();
    bench.hear(403, &bench.fields(HOUR), skew, true);
    bench.hear(429, &bench.fields(HOUR), skew, true);
    assert_eq!(bench.hear(403, &bench.fields(HOUR), 0, false), None);
    // What it says of the clock counts as much as what any other answer says.
    let bench = Bench::new();
    for _ in 0..3 {
        assert_eq!(bench.upstream.correction_ms(), 0);
        bench.hear(429, &bench.fields(HOUR), HOUR, true);
        bench.pass(1_000);
    }
    assert!(near(bench.upstream.correction_ms(), HOUR));
}

#[test]
fn without_a_refusal_three_answers_in_three_seconds_have_to_agree() {
    let bench = Bench::new();
    for _ in 0..100 {
        bench.hear(200, &bench.fields(HOUR), 0, false);
    }
    assert_eq!(bench.upstream.skew_ms(), None, "all of one moment");
    for _ in 0..2 {
        assert_eq!(bench.upstream.correction_ms(), 0);
        bench.pass(1_000);
        bench.hear(200, &bench.fields(HOUR), 0, false);
    }
    assert!(near(bench.upstream.correction_ms(), HOUR));
    // Nothing is heard of it, so nothing is learned.
    let mut cached = bench.fields(0);
    cached.insert(AGE, "1".parse().unwrap());
    for _ in 0..10 {
        bench.pass(1_000);
        bench.hear(200, &cached, 0, false);
    }
    assert!(near(bench.upstream.correction_ms(), HOUR));
}

#[test]
fn a_date_that_swings_does_not_swing_signatures() {
    let bench = Bench::new();
    for n in 0..100 {
        let ahead = if n % 2 == 0 { HOUR } else { -2 * HOUR };
        assert_eq!(bench.hear(200, &bench.fields(ahead), 0, false), None);
        assert_eq!(bench.upstream.correction_ms(), 0);
        bench.pass(1_000);
    }
}

#[test]
fn when_our_clock_is_set_back_answers_are_looked_at_all_the_same() {
    let bench = Bench::new();
    bench.hear(200, &bench.fields(0), 0, false);
    bench.pass(-HOUR);
    for _ in 0..3 {
        bench.hear(200, &bench.fields(HOUR), 0, false);
        bench.pass(1_000);
    }
    assert!(near(bench.upstream.correction_ms(), HOUR));
}
