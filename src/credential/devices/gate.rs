//! [`EndpointGate`]: what all who ask one token endpoint have in common. It paces them, and closes
//! when the endpoint says that it is too much or cannot be reached.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::credential::FetchError;
use crate::credential::schedule::retry_after;

/// A device whose attempts closed the gate so often in a row, while others were served in between,
/// is told by the endpoint of itself: its account may be locked.
const MOST_CLOSINGS: u8 = 3;

/// How late those who wait may be told that they may pass, which costs nobody a turn.
const LATE: Duration = Duration::from_millis(10);

/// The way to one token endpoint, shared by all devices that log in there.
#[derive(Debug, Default)]
pub struct EndpointGate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the next may pass.
    next: Option<Instant>,
    closed: Option<Closed>,
    /// How often in a row the endpoint closed it.
    failures: u32,
}

/// Why nobody may pass, and until when.
#[derive(Debug, Clone)]
pub struct Closed {
    /// What the endpoint did.
    pub error: FetchError,
    /// When the next attempt is due.
    pub until: Instant,
}

impl EndpointGate {
    /// Lets one pass, and keeps the next back for `pace`.
    ///
    /// # Errors
    /// With the time before which nobody may pass.
    pub fn pass(&self, now: Instant, pace: Duration) -> Result<(), Instant> {
        let mut state = self.lock();
        let closed = state.closed.as_ref().map(|closed| closed.until);
        if let Some(until) = closed.max(state.next).filter(|until| *until > now) {
            return Err(until);
        }
        state.closed = None;
        // What was not used is not saved up: a burst is what the endpoint does not want. But for
        // what a timer is late by, without which many in a second would be fewer than configured.
        let late = pace.max(LATE);
        let from = state.next.filter(|next| now.saturating_duration_since(*next) < late);
        state.next = Some(from.unwrap_or(now) + pace);
        Ok(())
    }

    /// Whoever passed last did not ask the endpoint after all: the next may pass so much earlier.
    pub fn was_not_used(&self, pace: Duration) {
        let mut state = self.lock();
        state.next = state.next.and_then(|next| next.checked_sub(pace));
    }

    /// Why nobody may pass now.
    pub fn closed(&self, now: Instant) -> Option<Closed> {
        self.lock().closed.clone().filter(|closed| closed.until > now)
    }

    /// An attempt ended so. True if that was the endpoint's doing and says nothing of the device:
    /// the gate is closed then, for as long as the endpoint asks, or else longer each time.
    ///
    /// `closings` is how often in a row the device's attempts have closed it.
    pub fn ended(
        &self,
        outcome: Result<(), &FetchError>,
        closings: &mut u8,
        now: Instant,
        random: f64,
    ) -> bool {
        let mut state = self.lock();
        let Err(error) = outcome else {
            state.failures = 0;
            *closings = 0;
            return false;
        };
        if !is_of_endpoint(error) {
            *closings = 0;
            return false;
        }
        // Those that were under way when it closed tell nothing new.
        if state.closed.is_none() {
            let served_others = state.failures == 0;
            if *closings >= MOST_CLOSINGS && served_others {
                return false;
            }
            *closings = closings.saturating_add(1);
            state.failures = state.failures.saturating_add(1);
        }
        let wait = retry_after(error, state.failures, random);
        // Whoever else was told the same does not come back at the same moment.
        let until = now + wait + wait.mul_f64(0.1 * random.clamp(0.0, 1.0));
        if state.closed.as_ref().is_none_or(|closed| closed.until < until) {
            state.closed = Some(Closed { error: error.clone(), until });
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if the failure would be every device's.
fn is_of_endpoint(error: &FetchError) -> bool {
    match error {
        FetchError::Unreachable { .. } => true,
        FetchError::Unavailable { status, retry_after } => {
            *status == StatusCode::TOO_MANY_REQUESTS || retry_after.is_some()
        }
        FetchError::Broken { .. }
        | FetchError::Timeout(_)
        | FetchError::Refused(_)
        | FetchError::Reply(_)
        | FetchError::Bind(_)
        | FetchError::Secret(_)
        | FetchError::Discovery(_)
        | FetchError::Request(_)
        | FetchError::Panicked => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Refusal;

    fn too_many(seconds: Option<u64>) -> FetchError {
        FetchError::Unavailable {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn they_pass_one_by_one_and_what_was_not_used_is_not_saved_up() {
        let (gate, start) = (EndpointGate::default(), Instant::now());
        let pace = Duration::from_millis(20);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(gate.pass(at(0), pace), Ok(()));
        assert_eq!(gate.pass(at(0), pace), Err(at(20)));
        assert_eq!(gate.pass(at(20), pace), Ok(()));
        assert_eq!(gate.pass(at(1000), pace), Ok(()));
        assert_eq!(gate.pass(at(1001), pace), Err(at(1020)));
        let passed = (0..1000).filter(|ms| gate.pass(at(2000 + ms), pace).is_ok()).count();
        assert_eq!(passed, 50, "a second's worth, however often it is asked");
    }

    #[test]
    fn late_timers_do_not_slow_down_those_who_are_many() {
        let (gate, start) = (EndpointGate::default(), Instant::now());
        let pace = Duration::from_micros(900);
        let passed = |from: u64, step: usize| -> usize {
            let times = (from..from + 1000).step_by(step).map(Duration::from_millis);
            times.map(|at| std::iter::from_fn(|| gate.pass(start + at, pace).ok()).count()).sum()
        };
        assert!((1110..=1112).contains(&passed(0, 1)));
        assert!((1100..=1124).contains(&passed(1000, 7)));
        assert_eq!(passed(3000, 100), 10, "nothing is saved up for longer than that");
    }

    #[test]
    fn it_closes_for_as_long_as_the_endpoint_asks_and_says_why() {
        let (gate, now) = (EndpointGate::default(), Instant::now());
        assert!(gate.ended(Err(&too_many(Some(30))), &mut 0, now, 0.0));
        let closed = gate.closed(now).unwrap();
        assert_eq!(closed.until, now + Duration::from_secs(30));
        assert_eq!(gate.pass(now, Duration::ZERO), Err(closed.until));
        assert!(gate.closed(closed.until).is_none());
        assert_eq!(gate.pass(closed.until, Duration::ZERO), Ok(()));
    }

    #[test]
    fn without_a_time_it_stays_closed_longer_each_time_until_one_succeeds() {
        let gate = EndpointGate::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..4 {
            assert!(gate.ended(Err(&too_many(None)), &mut 0, now, 1.0));
            assert!(
                gate.ended(Err(&too_many(None)), &mut 0, now, 0.0),
                "another that was under way"
            );
            let until = gate.closed(now).unwrap().until;
            waits.push((until - now).as_millis());
            now = until;
            assert_eq!(gate.pass(now, Duration::ZERO), Ok(()));
        }
        assert_eq!(waits, [1100, 2200, 4400, 8800]);
        assert!(!gate.ended(Ok(()), &mut 0, now, 1.0));
        assert!(gate.ended(Err(&too_many(None)), &mut 0, now, 1.0));
        assert_eq!((gate.closed(now).unwrap().until - now).as_millis(), 1100);
    }

    #[test]
    fn one_device_does_not_close_it_again_and_again_while_others_are_served() {
        let gate = EndpointGate::default();
        let mut now = Instant::now();
        let mut closings = 0;
        let mut close = |served: bool| {
            assert_eq!(gate.pass(now, Duration::ZERO), Ok(()));
            if served {
                gate.ended(Ok(()), &mut 0, now, 0.0);
            }
            let closed = gate.ended(Err(&too_many(Some(30))), &mut closings, now, 0.0);
            now += Duration::from_secs(30);
            closed
        };
        assert_eq!([true; 5].map(&mut close), [true, true, true, false, false]);
        assert_eq!([false; 3].map(&mut close), [false, false, false], "others were served");
        let other = gate.ended(Err(&too_many(Some(30))), &mut 0, now, 0.0);
        assert!(other, "another is told the same");
        now += Duration::from_secs(30);
        assert_eq!(gate.pass(now, Duration::ZERO), Ok(()));
        let closed = gate.ended(Err(&too_many(Some(30))), &mut closings, now, 0.0);
        assert!(closed, "nobody was served since");
    }

    #[test]
    fn what_concerns_one_device_closes_it_for_nobody() {
        let (gate, now) = (EndpointGate::default(), Instant::now());
        let refused = FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED));
        let failed = FetchError::Unavailable {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            retry_after: None,
        };
        for error in [refused, failed, FetchError::Timeout(Duration::from_secs(1))] {
            assert!(!gate.ended(Err(&error), &mut 0, now, 1.0), "{error}");
        }
        assert!(gate.closed(now).is_none());
    }
}
