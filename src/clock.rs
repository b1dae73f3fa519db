//! Time: one reading of both clocks, and the end of a lifetime measured on both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where the program takes the time from.
///
/// The wall clock signs requests and can be set back; the monotonic clock measures lifetimes and
/// stands still while the machine sleeps. [`Deadline`] asks both.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    wall_offset_ms: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The machine's own clocks.
    pub fn system() -> Self {
        Self::default()
    }

    /// The machine's clocks with the wall clock moved by `offset_ms` milliseconds, which may
    /// change at any time: how tests set the clock, and how a known skew is corrected.
    pub fn shifted(offset_ms: Arc<AtomicI64>) -> Self {
        Self { wall_offset_ms: Some(offset_ms) }
    }

    /// Both clocks, read once.
    pub fn now(&self) -> Now {
        Now { wall: self.wall(), monotonic: Instant::now() }
    }

    /// The wall clock.
    pub fn wall(&self) -> SystemTime {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
        let wall = SystemTime::now();
        match &self.wall_offset_ms {
            None => wall,
            Some(offset) => {
                let offset = offset.load(Ordering::Relaxed);
                let distance = Duration::from_millis(offset.unsigned_abs());
                if offset >= 0 { wall + distance } else { wall - distance }
            }
        }
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The time of day: what signatures and `Date` fields speak of.
    pub wall: SystemTime,
    /// Time passed while the machine was awake.
    pub monotonic: Instant,
}

impl Now {
    /// The end of a lifetime that begins at this reading.
    pub fn after(self, lifetime: Duration) -> Deadline {
        // A lifetime beyond what the clocks can hold is as good as a century.
        let lifetime = lifetime.min(Duration::from_hours(876_000));
        Deadline { wall: self.wall + lifetime, monotonic: self.monotonic + lifetime }
    }
}

/// The end of a lifetime: over as soon as either clock says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The end by the time of day.
    pub wall: SystemTime,
    /// The end by the monotonic clock.
    pub monotonic: Instant,
}

impl Deadline {
    /// True from the deadline on.
    pub fn is_over(&self, now: Now) -> bool {
        now.monotonic >= self.monotonic || now.wall >= self.wall
    }

    /// What is left by the clock that ends first; zero when it is over.
    pub fn remaining(&self, now: Now) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(now.monotonic);
        let wall = self.wall.duration_since(now.wall).unwrap_or_default();
        monotonic.min(wall)
    }

    /// The same deadline, earlier by `margin`.
    #[must_use]
    pub fn earlier_by(self, margin: Duration) -> Self {
        Self {
            wall: self.wall.checked_sub(margin).unwrap_or(UNIX_EPOCH),
            monotonic: self.monotonic.checked_sub(margin).unwrap_or(self.monotonic),
        }
    }
}

/// Milliseconds since 1970 (UTC); zero before.
pub fn unix_ms(wall: SystemTime) -> u64 {
    let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_as_soon_as_either_clock_says_so() {
        let now = Clock::system().now();
        let end = now.after(Duration::from_secs(60));
        assert!(!end.is_over(now));
        let awake = Now { monotonic: now.monotonic + Duration::from_secs(61), ..now };
        assert!(end.is_over(awake), "the wall clock was set back");
        let woken = Now { wall: now.wall + Duration::from_secs(61), ..now };
        assert!(end.is_over(woken), "the machine slept");
    }

    #[test]
    fn a_clock_set_back_does_not_end_a_lifetime_early() {
        let now = Clock::system().now();
        let end = now.after(Duration::from_secs(60));
        let set_back = Now { wall: now.wall - Duration::from_secs(3600), ..now };
        assert_eq!(end.remaining(set_back), Duration::from_secs(60));
    }

    #[test]
    fn a_shifted_clock_moves_the_wall_only() {
        let offset = Arc::new(AtomicI64::new(-3_600_000));
        let shifted = Clock::shifted(Arc::clone(&offset)).wall();
        let behind = Clock::system().wall().duration_since(shifted).unwrap();
        assert!(behind >= Duration::from_secs(3599) && behind < Duration::from_secs(3700));
    }
}
