//! A renewal for one device that somebody asks for, whatever the schedule says.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Device, DevicePool, State};
use crate::credential::cache::Issued;
use crate::credential::cache::refresh::Refreshed;

impl<T> DevicePool<T> {
    /// Has another credential fetched for `device` now, or waits for the attempt that is under way,
    /// for no longer than `limit`. `None` if there is no such device. It waits for its turn as
    /// everybody who has to log in; whoever stops waiting cancels nothing.
    pub async fn refresh(&self, device: &str, limit: Duration) -> Option<Refreshed> {
        let give_up_at = Instant::now() + limit;
        if !self.knows(device) {
            return None;
        }
        if !self.0.settings.renewable {
            return Some(Refreshed::Fixed);
        }
        let now = self.0.clock.now().monotonic;
        if let Some(closed) = self.0.gate.closed(now) {
            let retry_in = closed.until - now;
            return Some(Refreshed::Closed { error: closed.error, retry_in });
        }
        let live = self.0.enter(device)?;
        let before = match self.wish(&live) {
            Ok(before) => before,
            Err(refused) => return Some(refused),
        };
        loop {
            let changed = {
                let mut state = live.lock();
                if state.gone {
                    return None;
                }
                if !state.wished {
                    return Some(self.outcome(&state, before.as_ref()));
                }
                let waiters = state.waiters.get_or_insert_with(Arc::default);
                // Made while the state is locked, so that no change is missed.
                Arc::clone(waiters).notified_owned()
            };
            if tokio::time::timeout_at(give_up_at, changed).await.is_err() {
                return Some(Refreshed::Waiting);
            }
        }
    }

    /// Asks for an attempt, unless one is under way; returns what there is before it.
    fn wish(&self, live: &Arc<Device<T>>) -> Result<Option<Arc<Issued<T>>>, Refreshed> {
        let now = self.0.clock.now().monotonic;
        let mut all_asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = self.0.settings.min_interval;
        all_asked.retain(|_, at| *at + interval > now);
        let mut state = live.lock();
        if !state.renewing {
            let last = state.last_forced.max(all_asked.get(&live.name).copied());
            let next = last.map(|last| last + interval);
            if let Some(next) = next.filter(|next| *next > now) {
                return Err(Refreshed::TooSoon { retry_in: next - now });
            }
            all_asked.insert(live.name.clone(), now);
        }
        drop(all_asked);
        state.used = self.0.seconds(now);
        (state.wished, state.lapsing) = (true, false);
        let before = state.issued.clone();
        if !state.called && !state.renewing && !state.gone {
            state.called = true;
            drop(state);
            self.0.call(Arc::clone(live));
        }
        Ok(before)
    }

    fn outcome(&self, state: &State<T>, before: Option<&Arc<Issued<T>>>) -> Refreshed {
        let now = self.0.clock.now();
        let usable = state.is_usable(now);
        let other = |issued: &&Arc<Issued<T>>| !before.is_some_and(|was| Arc::ptr_eq(was, issued));
        if let Some(issued) = state.issued.as_ref().filter(other)
            && usable
        {
            return Refreshed::Fetched { expires: issued.expires };
        }
        let closed = self.0.gate.closed(now.monotonic);
        let closed = closed.map(|closed| (closed.error, closed.until));
        let failed = state.failure().map(|failure| (failure.error.clone(), failure.retry_at));
        match closed.or(failed) {
            Some((error, retry_at)) => {
                let retry_in = retry_at.saturating_duration_since(now.monotonic);
                Refreshed::Failed { error, retry_in, usable }
            }
            None => Refreshed::Waiting,
        }
    }
}
