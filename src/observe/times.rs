//! Where the time of an exchange goes.

use std::time::Duration;

use tokio::time::Instant;

/// What an exchange is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Anything else, such as content of the caller's that is received before it is signed.
    Other,
    /// Waits for a credential.
    Wait,
    /// A signature is made, or whatever else a credential adds.
    Sign,
    /// The upstream has it: from sending, a new connection included, to the head of its answer.
    Upstream,
}

/// A stopwatch with a hand for each phase. Phases may come more than once; their times add up.
///
/// In microseconds, each up to 71 minutes.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    phase: Phase,
    since: Instant,
    wait_us: u32,
    sign_us: u32,
    upstream_us: u32,
}

impl Times {
    /// Begins in [`Phase::Other`].
    pub fn begin(at: Instant) -> Self {
        Self { phase: Phase::Other, since: at, wait_us: 0, sign_us: 0, upstream_us: 0 }
    }

    /// The phase that is under way gives way to `next`.
    pub fn turn(&mut self, next: Phase, at: Instant) {
        let hand = match self.phase {
            Phase::Other => None,
            Phase::Wait => Some(&mut self.wait_us),
            Phase::Sign => Some(&mut self.sign_us),
            Phase::Upstream => Some(&mut self.upstream_us),
        };
        if let Some(hand) = hand {
            let passed = micros(at.saturating_duration_since(self.since));
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            *hand = hand.saturating_add(passed);
        }
        self.phase = next;
        self.since = at;
    }

    /// The phase that is under way.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When that began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How long it waited for credentials.
    pub fn wait_us(&self) -> u32 {
        self.wait_us
    }

    /// How long it took to apply credentials.
    pub fn sign_us(&self) -> u32 {
        self.sign_us
    }

    /// How long the upstream took.
    pub fn upstream_us(&self) -> u32 {
        self.upstream_us
    }
}

/// Whole microseconds, without the 128 bits that the standard library takes for them.
pub fn micros(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000);
    seconds.saturating_add(u64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_time_and_those_that_come_again_add_up() {
        let begun = Instant::now();
        let at = |us| begun + Duration::from_micros(us);
        let mut times = Times::begin(begun);
        times.turn(Phase::Wait, at(5));
        times.turn(Phase::Sign, at(105));
        times.turn(Phase::Other, at(112));
        times.turn(Phase::Sign, at(5_112));
        times.turn(Phase::Upstream, at(5_115));
        times.turn(Phase::Other, at(9_115));
        times.turn(Phase::Wait, at(9_115));
        times.turn(Phase::Sign, at(9_115));
        times.turn(Phase::Upstream, at(9_116));
        times.turn(Phase::Other, at(10_116));
        assert_eq!((times.wait_us(), times.sign_us(), times.upstream_us()), (100, 11, 5_000));
        assert_eq!((times.phase(), times.since()), (Phase::Other, at(10_116)));
    }

    #[test]
    fn a_phase_longer_than_can_be_told_is_as_long_as_can_be_told() {
        let begun = Instant::now();
        let mut times = Times::begin(begun);
        times.turn(Phase::Upstream, begun);
        times.turn(Phase::Upstream, begun + Duration::from_secs(100_000));
        times.turn(Phase::Other, begun + Duration::from_secs(200_000));
        assert_eq!(times.upstream_us(), u32::MAX);
    }
}
