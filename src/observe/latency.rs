//! Durations in buckets: ten for each power of ten, so that a bucket ends at each limit that people
//! like to ask about, and what is read from it is within an eighth of what was.

use std::sync::atomic::{AtomicU64, Ordering};

/// The ends of the buckets, in microseconds: rounded powers of the tenth root of ten (the preferred
/// numbers of ISO 3, series R10), from 100 µs to 1,000 s. A bucket holds what is as long as its end
/// or shorter; one more holds what is longer than all.
const ENDS: [u64; 71] = ends();

/// How many buckets there are.
pub const BUCKETS: usize = ENDS.len() + 1;

const fn ends() -> [u64; 71] {
    // In hundredths; the first stands for a full power.
    const STEPS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
    let mut ends = [0; 71];
    let mut index = 0;
    let mut power = 1;
    while index < ends.len() {
        #[expect(clippy::indexing_slicing, reason = "made by the compiler")]
        {
            ends[index] = STEPS[index % 10] * power;
        }
        index += 1;
        if index % 10 == 0 {
            power *= 10;
        }
    }
    ends
}

/// The ends of buckets that a scrape shows, in seconds: few enough for a thousand routes, many enough
/// to tell a fast upstream from a slow one, and each an end of `ENDS`.
pub const SHOWN: [(u64, f64); 14] = [
    (1_000, 0.001),
    (2_500, 0.002_5),
    (5_000, 0.005),
    (10_000, 0.01),
    (25_000, 0.025),
    (50_000, 0.05),
    (100_000, 0.1),
    (250_000, 0.25),
    (500_000, 0.5),
    (1_000_000, 1.0),
    (2_500_000, 2.5),
    (5_000_000, 5.0),
    (10_000_000, 10.0),
    (50_000_000, 50.0),
];

/// How many durations fell into which bucket.
pub type Counts = [u64; BUCKETS];

/// None.
pub const NONE: Counts = [0; BUCKETS];

/// The bucket of a duration.
pub fn bucket(us: u64) -> usize {
    ENDS.partition_point(|end| *end < us)
}

/// The quantile `q` (0 to 1) of what was counted, in microseconds: the middle, by ratio, of the
/// bucket in which it is. `None` if nothing was.
pub fn quantile(counts: &Counts, q: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among what can be counted"
    )]
    let rank = ((total as f64 * q).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    let index = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })?;
    Some(middle(index))
}

/// The middle of a bucket, by ratio; of the last, where it begins.
fn middle(index: usize) -> u64 {
    let last = ENDS.last().copied().unwrap_or_default();
    let end = ENDS.get(index).copied().unwrap_or(last);
    let begin = match index.checked_sub(1) {
        None => return end / 2,
        Some(before) => ENDS.get(before).copied().unwrap_or(last),
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "up to 1,000 seconds"
    )]
    let middle = ((begin as f64) * (end as f64)).sqrt().round() as u64;
    middle
}

/// The counts between the ends that a scrape shows, the last up to infinity.
pub fn shown(counts: &Counts) -> Vec<(f64, u64)> {
    let mut rest = counts.iter().zip(ENDS.iter().copied().chain([u64::MAX])).peekable();
    let ends = SHOWN.into_iter().chain([(u64::MAX, f64::MAX)]);
    ends.map(|(us, seconds)| {
        let mut count = 0;
        while let Some((next, _)) = rest.next_if(|(_, end)| *end <= us) {
            count += next;
        }
        (seconds, count)
    })
    .collect()
}

/// Counts that threads add to.
#[derive(Debug)]
pub(super) struct Latencies([AtomicU64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Latencies {
    pub(super) fn add(&self, us: u64) {
        if let Some(count) = self.0.get(bucket(us)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add_to(&self, sums: &mut Counts) {
        for (sum, count) in sums.iter_mut().zip(&self.0) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(durations: &[u64]) -> Counts {
        let mut counts = NONE;
        for us in durations {
            counts[bucket(*us)] += 1;
        }
        counts
    }

    #[test]
    fn a_bucket_ends_at_what_it_says_and_each_is_a_quarter_wider_than_the_one_before() {
        assert_eq!((ENDS[0], ENDS[1], ENDS[70]), (100, 125, 1_000_000_000));
        for pair in ENDS.windows(2) {
            let ratio = pair[1] as f64 / pair[0] as f64;
            assert!((1.24..=1.29).contains(&ratio), "{pair:?}");
        }
        for (index, end) in ENDS.iter().enumerate() {
            assert_eq!((bucket(*end), bucket(end + 1)), (index, index + 1));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, 71));
    }

    #[test]
    fn what_a_scrape_shows_ends_where_buckets_end_and_holds_everything() {
        for (us, seconds) in SHOWN {
            assert!(ENDS.contains(&us), "{us}");
            assert!((us as f64 / 1e6 - seconds).abs() < 1e-9, "{us}");
        }
        let counts = counted(&[0, 1_000, 1_001, 2_500, 49_999_999, 50_000_001, u64::MAX]);
        let shown = shown(&counts);
        assert_eq!(shown.len(), 15);
        assert_eq!((shown[0], shown[1]), ((0.001, 2), (0.002_5, 2)));
        assert_eq!((shown[13], shown[14]), ((50.0, 1), (f64::MAX, 2)));
    }

    #[test]
    fn of_nothing_there_is_no_quantile_and_of_one_it_is_that_one() {
        assert_eq!(quantile(&NONE, 0.5), None);
        let one = counted(&[1_100]);
        assert_eq!((quantile(&one, 0.0), quantile(&one, 1.0)), (Some(1_118), Some(1_118)));
        assert_eq!(quantile(&counted(&[u64::MAX]), 0.5), Some(1_000_000_000));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_an_eighth_of_the_true_one(
            mut durations in prop::collection::vec(100..1_000_000_000_u64, 1..400),
            q in 0.0..=1.0_f64,
        ) {
            let estimate = quantile(&counted(&durations), q).unwrap() as f64;
            durations.sort_unstable();
            let rank = ((durations.len() as f64 * q).ceil() as usize).clamp(1, durations.len());
            let ratio = estimate / durations[rank - 1] as f64;
            prop_assert!((0.88..=1.135).contains(&ratio), "{ratio}");
        }
    }
}
