//! What people see of devices: how many are in which state, pages of them, and what is next. Looks at
//! one device after the other and holds no lock but the one's that it looks at.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::gate::Closed;
use super::pool::{Device, DevicePool, Roster, Shared, State};
use crate::clock::Now;

/// What state a device is in. Exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// It has a usable token, or the key that it was given.
    Fresh,
    /// A login is in flight, or waits for its turn.
    Renewing,
    /// The last login failed. There may still be a usable token.
    Failing,
    /// The last login was refused.
    Refused,
    /// It has nothing, and nobody asks for it.
    Idle,
}

impl DeviceState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Fresh, Self::Renewing, Self::Failing, Self::Refused, Self::Idle];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Renewing => "renewing",
            Self::Failing => "failing",
            Self::Refused => "refused",
            Self::Idle => "idle",
        }
    }

    /// The state of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// How many devices are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// In the file: the sum of the others.
    pub known: usize,
    /// [`DeviceState::Fresh`].
    pub fresh: usize,
    /// [`DeviceState::Renewing`].
    pub renewing: usize,
    /// [`DeviceState::Failing`].
    pub failing: usize,
    /// [`DeviceState::Refused`].
    pub refused: usize,
    /// [`DeviceState::Idle`].
    pub idle: usize,
}

impl Census {
    /// How many are in `state`.
    pub fn of(&self, state: DeviceState) -> usize {
        match state {
            DeviceState::Fresh => self.fresh,
            DeviceState::Renewing => self.renewing,
            DeviceState::Failing => self.failing,
            DeviceState::Refused => self.refused,
            DeviceState::Idle => self.idle,
        }
    }

    fn count(&mut self, state: DeviceState) {
        *match state {
            DeviceState::Fresh => &mut self.fresh,
            DeviceState::Renewing => &mut self.renewing,
            DeviceState::Failing => &mut self.failing,
            DeviceState::Refused => &mut self.refused,
            DeviceState::Idle => &mut self.idle,
        } += 1;
    }
}

/// A device. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighted {
    /// Its name.
    pub device: String,
    /// Its state.
    pub state: DeviceState,
    /// How long its token is still good, if it has one that ends.
    pub expires_in: Option<Duration>,
    /// Logins that failed in a row.
    pub failures: u16,
    /// Why the last one failed, and the word for that.
    pub error: Option<(String, &'static str)>,
    /// When the next login is due, if one is.
    pub next_in: Option<Duration>,
    /// How long ago a request came, if it has come since the device has a token or waits for one.
    pub idle_for: Option<Duration>,
}

/// Which devices are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'w> {
    /// In this state only.
    pub state: Option<DeviceState>,
    /// With this in their name, letters of either case.
    pub search: Option<&'w str>,
    /// Behind this one, in the order of the file.
    pub after: Option<&'w str>,
    /// No more than so many.
    pub limit: usize,
}

/// Some of the devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of the file.
    pub devices: Vec<Sighted>,
    /// True if there are more behind the last one.
    pub more: bool,
}

/// All devices at one glance.
#[derive(Debug, Clone)]
pub struct Overview {
    /// How many are in which state.
    pub census: Census,
    /// The next renewals, and in how long.
    pub soonest: Vec<(String, Duration)>,
    /// How many renewals are due within [`HORIZONS`].
    pub within: [usize; HORIZONS.len()],
    /// Those that fail the longest, by failures in a row.
    pub failing: Vec<Sighted>,
    /// Why nobody may ask the token endpoint, and for how long.
    pub closed: Option<(Closed, Duration)>,
}

/// How far ahead renewals are counted.
pub const HORIZONS: [Duration; 3] =
    [Duration::from_mins(1), Duration::from_mins(5), Duration::from_mins(15)];

/// How many renewals an overview names.
const SOONEST: usize = 5;
/// How many failing devices an overview names.
const FAILING: usize = 10;

/// What a device is looked at with.
struct Lens<'p, T> {
    shared: &'p Shared<T>,
    now: Now,
    /// The time of the schedule.
    time: Instant,
}

impl<T> DevicePool<T> {
    /// How many devices are in which state. Looks at every live one.
    pub fn census(&self) -> Census {
        let lens = self.lens();
        let roster = self.shared().roster.load_full();
        let mut census = Census { known: roster.table.len(), ..Census::default() };
        for (_, live) in live(&roster) {
            census.count(lens.state(&live.lock()));
        }
        census.idle =
            census.known - (census.fresh + census.renewing + census.failing) - census.refused;
        census
    }

    /// The devices that are `wanted`; `None` if there is none of the name behind which they are to
    /// stand.
    pub fn page(&self, wanted: &Wanted<'_>) -> Option<Page> {
        let lens = self.lens();
        let roster = self.shared().roster.load_full();
        let first = match wanted.after {
            Some(after) => roster.table.find(after)? + 1,
            None => 0,
        };
        let mut page = Page { devices: Vec::new(), more: false };
        for row in first..roster.table.len() {
            let device = roster.table.device(row);
            if wanted.search.is_some_and(|part| !contains(device, part)) {
                continue;
            }
            let live = roster.live.get(row).and_then(ArcSwapOption::load_full);
            let state = live.as_ref().map_or(DeviceState::Idle, |live| lens.state(&live.lock()));
            if wanted.state.is_some_and(|wanted| wanted != state) {
                continue;
            }
            if page.devices.len() >= wanted.limit {
                page.more = true;
                break;
            }
            page.devices.push(lens.sight(device, live.as_deref()));
        }
        Some(page)
    }

    /// The device of that name; `None` if there is none.
    pub fn look(&self, device: &str) -> Option<Sighted> {
        let roster = self.shared().roster.load_full();
        let row = roster.table.find(device)?;
        let live = roster.live.get(row).and_then(ArcSwapOption::load_full);
        Some(self.lens().sight(device, live.as_deref()))
    }

    /// All devices at one glance. Looks at every live one.
    pub fn overview(&self) -> Overview {
        let lens = self.lens();
        let roster = self.shared().roster.load_full();
        let mut census = Census { known: roster.table.len(), ..Census::default() };
        let mut within = [0; HORIZONS.len()];
        let mut soonest = Best::new(SOONEST);
        let mut failing = Best::new(FAILING);
        for (row, live) in live(&roster) {
            let state = live.lock();
            let kind = lens.state(&state);
            census.count(kind);
            if state.failed.is_some() {
                failing.offer(std::cmp::Reverse(state.failures), row);
            }
            let renewal = state.due.filter(|_| kind == DeviceState::Fresh && !state.lapsing);
            drop(state);
            if let Some((due, _)) = renewal {
                soonest.offer(due, row);
                let left = due.saturating_duration_since(lens.time);
                for (count, horizon) in within.iter_mut().zip(HORIZONS) {
                    *count += usize::from(left <= horizon);
                }
            }
        }
        census.idle =
            census.known - (census.fresh + census.renewing + census.failing) - census.refused;
        let name = |row| roster.table.device(row);
        let soonest = soonest
            .into_iter()
            .map(|(due, row)| (name(row).to_owned(), due.saturating_duration_since(lens.time)));
        let failing = failing.into_iter().map(|(_, row)| {
            let live = roster.live.get(row).and_then(ArcSwapOption::load_full);
            lens.sight(name(row), live.as_deref())
        });
        let now = lens.now.monotonic;
        let closed = self.shared().gate().closed(now);
        Overview {
            census,
            soonest: soonest.collect(),
            within,
            failing: failing.collect(),
            closed: closed.map(|closed| {
                let left = closed.until.saturating_duration_since(now);
                (closed, left)
            }),
        }
    }

    /// True if the token endpoint wants to be left alone.
    pub fn is_closed(&self) -> bool {
        let shared = self.shared();
        shared.gate().closed(shared.clock.now().monotonic).is_some()
    }

    fn lens(&self) -> Lens<'_, T> {
        let shared = self.shared();
        let now = shared.clock.now();
        Lens { shared, now, time: now.monotonic + shared.record.missed() }
    }
}

/// The live devices by their rows.
fn live<T>(roster: &Roster<T>) -> impl Iterator<Item = (usize, std::sync::Arc<Device<T>>)> {
    let rows = roster.live.iter().enumerate();
    rows.filter_map(|(row, live)| Some((row, live.load_full()?)))
}

/// True if `part` is in `name`, letters of either case.
fn contains(name: &str, part: &str) -> bool {
    part.is_empty()
        || name
            .as_bytes()
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

impl<T> Lens<'_, T> {
    fn state(&self, state: &State<T>) -> DeviceState {
        match state.failure() {
            Some(failure) if failure.error.is_refusal() => DeviceState::Refused,
            Some(_) => DeviceState::Failing,
            None if state.renewing || state.called => DeviceState::Renewing,
            None if state.is_usable(self.now) => DeviceState::Fresh,
            None => DeviceState::Idle,
        }
    }

    fn sight(&self, name: &str, device: Option<&Device<T>>) -> Sighted {
        let mut sighted = Sighted {
            device: name.to_owned(),
            state: DeviceState::Idle,
            expires_in: None,
            failures: 0,
            error: None,
            next_in: None,
            idle_for: None,
        };
        let Some(device) = device else { return sighted };
        let state = device.lock();
        sighted.state = self.state(&state);
        let issued = state.issued.as_ref().filter(|issued| issued.is_usable(self.now));
        let expires = issued.and_then(|issued| issued.expires);
        sighted.expires_in = expires.map(|end| end.remaining(self.now));
        sighted.failures = state.failures;
        let retry_at = state.failure().map(|failure| failure.retry_at);
        sighted.next_in = match retry_at {
            Some(retry_at) => Some(retry_at.saturating_duration_since(self.now.monotonic)),
            // One that lapses is looked at then, and not fetched.
            None => state
                .due
                .filter(|_| !state.lapsing)
                .map(|(due, _)| due.saturating_duration_since(self.time)),
        };
        sighted.idle_for = Some(self.shared.idle(&state, self.now.monotonic));
        // Not put into words while the device is locked.
        let error = state.failure().map(|failure| failure.error.clone());
        drop(state);
        sighted.error = error.map(|error| (error.to_string(), error.word()));
        sighted
    }
}

/// The few smallest of many.
struct Best<K> {
    most: usize,
    kept: Vec<(K, usize)>,
}

impl<K: Ord> Best<K> {
    fn new(most: usize) -> Self {
        Self { most, kept: Vec::with_capacity(most + 1) }
    }

    fn offer(&mut self, key: K, row: usize) {
        if self.kept.len() >= self.most && self.kept.last().is_some_and(|(last, _)| *last <= key) {
            return;
        }
        let place = self.kept.partition_point(|(kept, _)| *kept <= key);
        self.kept.insert(place, (key, row));
        self.kept.truncate(self.most);
    }

    fn into_iter(self) -> impl Iterator<Item = (K, usize)> {
        self.kept.into_iter()
    }
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
