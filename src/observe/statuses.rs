//! Counts per status, of as many statuses as a well-behaved upstream has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many different statuses are told apart, per route and worker.
const PLACES: usize = 15;
/// Where the status begins in a place; what is below is the count.
const SHIFT: u32 = 48;

/// A request that never had an answer.
pub(super) const NO_ANSWER: u16 = 0;
/// What is told apart no further. No status is called that: they have three digits.
pub(super) const OTHER: u16 = 1;

/// Places are taken by statuses as they come. Each is a status and its count in one number, so that
/// nobody sees one without the other.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    places: [AtomicU64; PLACES],
    other: AtomicU64,
}

impl Statuses {
    pub(super) fn add(&self, status: u16) {
        // The answer to no request is 0, which is also what an empty place says.
        let named = (u64::from(status) + 1) << SHIFT;
        for place in &self.places {
            let mut found = place.load(Ordering::Relaxed);
            if found == 0 {
                // Whatever an upstream makes up must not become a series each.
                if !is_known(status) {
                    break;
                }
                match place.compare_exchange(0, named + 1, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(taken) => found = taken,
                }
            }
            if found >> SHIFT == named >> SHIFT {
                place.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        self.other.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, sums: &mut BTreeMap<u16, u64>) {
        for place in &self.places {
            let found = place.load(Ordering::Relaxed);
            let Ok(status) = u16::try_from((found >> SHIFT).saturating_sub(1)) else { continue };
            if found > 0 {
                *sums.entry(status).or_default() += found & ((1 << SHIFT) - 1);
            }
        }
        let other = self.other.load(Ordering::Relaxed);
        if other > 0 {
            *sums.entry(OTHER).or_default() += other;
        }
    }
}

/// True for no answer, and for what the IANA registry of statuses knows.
fn is_known(status: u16) -> bool {
    status == NO_ANSWER
        || http::StatusCode::from_u16(status).is_ok_and(|code| code.canonical_reason().is_some())
}

/// How a status is written in a label.
pub(super) fn label(status: u16) -> String {
    match status {
        NO_ANSWER => "none".to_owned(),
        OTHER => "other".to_owned(),
        status => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(statuses: &Statuses) -> Vec<(String, u64)> {
        let mut sums = BTreeMap::new();
        statuses.add_to(&mut sums);
        sums.into_iter().map(|(status, count)| (label(status), count)).collect()
    }

    #[test]
    fn what_is_known_counts_by_itself_and_what_is_made_up_together() {
        let statuses = Statuses::default();
        assert_eq!(sums(&statuses), []);
        for status in [200, 200, 404, 0, 299, 999, 200, 799, 101] {
            statuses.add(status);
        }
        let expected = [("none", 1), ("other", 3), ("101", 1), ("200", 3), ("404", 1)];
        assert_eq!(sums(&statuses), expected.map(|(label, count)| (label.to_owned(), count)));
    }

    #[test]
    fn whoever_answers_with_every_status_there_is_has_few_places() {
        let statuses = Statuses::default();
        for _ in 0..2 {
            (100..1_000).for_each(|status| statuses.add(status));
        }
        let sums = sums(&statuses);
        assert_eq!(sums.len(), PLACES + 1);
        assert_eq!(sums.iter().map(|(_, count)| count).sum::<u64>(), 1_800);
    }

    #[test]
    fn threads_that_take_a_place_at_once_lose_nothing() {
        let statuses = Statuses::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|turn| statuses.add(200 + turn % 5)));
            }
        });
        let expected = [200, 201, 202, 203, 204].map(|status| (status.to_string(), 4_000));
        assert_eq!(sums(&statuses), expected);
    }
}
