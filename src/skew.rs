//! How far another clock is from ours, as the `Date` fields of its answers tell. Pure: it reads no
//! clock and knows no network.
//!
//! `Date` has whole seconds and was written at some moment between sending and receiving, so that an
//! answer is a [`Sample`]: a range. An [`Estimate`] follows only what several samples in a row have
//! in common, so that one strange answer, or two servers that disagree, change nothing.

use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::clock::unix_ms;

/// Less than that is not told from the rounding of `Date` and the time on the way.
pub const VISIBLE_MS: i64 = 2_000;
/// More than that is not believed: whoever says so has a clock of its own that is wrong.
pub const CREDIBLE_MS: i64 = 24 * 3_600_000;
/// Servers write `Date` from a copy that they renew now and then.
const SLACK_MS: i64 = 500;
/// An answer that took longer says too little.
const LONGEST_EXCHANGE_MS: i64 = 20_000;
/// The least time between two lines on one clock, which may be set again and again.
const PAUSE: Duration = Duration::from_mins(1);

/// What one answer says: the other clock is between so much and so much ahead of ours, in
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    low: i64,
    high: i64,
}

impl Sample {
    /// Of an answer with this `Date` to a request that was `sent` and whose answer was `received` at
    /// these times by our clock. `None` if that says nothing.
    pub fn new(date: SystemTime, sent: SystemTime, received: SystemTime) -> Option<Self> {
        let [date, sent, received] = [date, sent, received].map(ms);
        // Our clock was set meanwhile, or it took so long that it makes no difference.
        if !(0..=LONGEST_EXCHANGE_MS).contains(&received.saturating_sub(sent)) {
            return None;
        }
        let low = date.saturating_sub(received).saturating_sub(SLACK_MS);
        let high = date.saturating_sub(sent).saturating_add(1_000 + SLACK_MS);
        Some(Self { low, high })
    }

    /// Around a difference that somebody else has worked out, half-way between sending and
    /// receiving.
    pub fn about(skew_ms: i64) -> Self {
        let reach = 500 + SLACK_MS;
        Self { low: skew_ms.saturating_sub(reach), high: skew_ms.saturating_add(reach) }
    }

    /// True if the other clock may be ahead by so much.
    pub fn allows(self, skew_ms: i64) -> bool {
        (self.low..=self.high).contains(&skew_ms)
    }

    /// True if it cannot be anywhere near so much.
    pub fn contradicts(self, skew_ms: i64) -> bool {
        self.low.saturating_sub(skew_ms) > VISIBLE_MS
            || skew_ms.saturating_sub(self.high) > VISIBLE_MS
    }

    /// The best guess: nothing where that is possible, else the middle.
    pub fn middle(self) -> i64 {
        if self.allows(0) { 0 } else { self.low.saturating_add(self.high) / 2 }
    }

    fn common(self, other: Self) -> Option<Self> {
        let common = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        (common.low <= common.high).then_some(common)
    }
}

fn ms(time: SystemTime) -> i64 {
    i64::try_from(unix_ms(time)).unwrap_or(i64::MAX)
}

/// What is believed of another clock.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// How many samples in a row have to agree.
    agreement: usize,
    /// The last ones, no more than have to agree.
    recent: Vec<Sample>,
    agreed: Option<i64>,
    told: Option<i64>,
    told_at: Option<Instant>,
}

impl Estimate {
    /// Nothing is known yet; `agreement` samples in a row have to agree before it is.
    pub fn new(agreement: usize) -> Self {
        Self { agreement, recent: Vec::new(), agreed: None, told: None, told_at: None }
    }

    /// Takes a sample in.
    pub fn observe(&mut self, sample: Sample) {
        if self.recent.len() >= self.agreement {
            self.recent.remove(0);
        }
        self.recent.push(sample);
        if self.recent.len() < self.agreement {
            return;
        }
        let mut recent = self.recent.iter().copied().map(Some);
        let first = recent.next().flatten();
        let common = recent.fold(first, |common, next| common?.common(next?));
        let Some(common) = common else { return };
        // What is still possible stays, so that it does not wander about within the rounding.
        if !self.agreed.is_some_and(|agreed| common.allows(agreed)) {
            self.agreed = Some(common.middle());
        }
    }

    /// Believes a difference at once: a request has shown that it is right.
    pub fn adopt(&mut self, skew_ms: i64) {
        self.recent.clear();
        self.agreed = Some(skew_ms);
    }

    /// How far the other clock is ahead of ours, in milliseconds; negative if it is behind.
    pub fn skew_ms(&self) -> Option<i64> {
        self.agreed
    }

    /// By how much times that are meant for the other clock are to be corrected, in milliseconds:
    /// nothing where the difference is too small to be sure of, or too large to be believed.
    pub fn correction_ms(&self) -> i64 {
        self.agreed.filter(|skew| is_visible(*skew) && is_credible(*skew)).unwrap_or_default()
    }

    /// What is to be said about it at `now`, if there is anything new.
    pub fn news(&mut self, now: Instant) -> Option<News> {
        let skew = self.agreed?;
        let visible = is_visible(skew);
        let paused = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        let changed = match self.told {
            None => visible,
            Some(told) => {
                let material = VISIBLE_MS.max(told.saturating_abs() / 10);
                !visible || skew.saturating_sub(told).saturating_abs() > material
            }
        };
        if !changed || paused {
            return None;
        }
        self.told = visible.then_some(skew);
        self.told_at = Some(now);
        Some(match visible {
            true if is_credible(skew) => News::Off(Off(skew)),
            true => News::Incredible(Off(skew)),
            false => News::Over,
        })
    }
}

fn is_visible(skew_ms: i64) -> bool {
    skew_ms.saturating_abs() > VISIBLE_MS
}

/// True if the difference is one that clocks have.
pub fn is_credible(skew_ms: i64) -> bool {
    skew_ms.saturating_abs() <= CREDIBLE_MS
}

/// What there is to say about a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The clocks differ.
    Off(Off),
    /// They differ by more than is believed.
    Incredible(Off),
    /// They do not differ any more.
    Over,
}

/// How far another clock is ahead of ours, in milliseconds, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Off(pub i64);

/// `1 h 0 min 3 s behind`: where our clock is, seen from the other.
impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs().saturating_add(500) / 1_000;
        let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
        let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
        if days > 0 {
            write!(f, "{days} d ")?;
        }
        if seconds >= 3_600 {
            write!(f, "{hours} h ")?;
        }
        if seconds >= 60 {
            write!(f, "{minutes} min ")?;
        }
        write!(f, "{rest} s {}", if self.0 < 0 { "ahead" } else { "behind" })
    }
}

#[cfg(test)]
#[path = "skew_tests.rs"]
mod tests;
