//! [`DevicePool`]: the credentials of all devices as requests read them.

mod refresh;

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::gate::EndpointGate;
use super::packed::Packed;
use super::queue::Key;
use super::table::Table;
use crate::clock::{Clock, Now};
use crate::credential::cache::{
    CacheSettings, Failure, Issued, Rejection, Standing, Unavailable, judge_rejection, standing,
};
use crate::credential::record::Record;

/// The credentials of all devices: cheap to clone, no I/O. In the ready case a look-up and one lock
/// that only requests of the same device share.
pub struct DevicePool<T>(Arc<Shared<T>>);

pub(super) struct Shared<T> {
    pub(super) roster: ArcSwap<Roster<T>>,
    /// Tells that the roster was replaced.
    replaced: watch::Sender<()>,
    /// Serialises those who add devices to the roster, remove them, or replace it.
    writer: Mutex<()>,
    /// Devices for which the scheduler has something to do.
    calls: Mutex<Vec<Arc<Device<T>>>>,
    called: Notify,
    /// When somebody asked for an attempt for a device, as long as that keeps others from it: few do,
    /// so it is not in the state that each has.
    asked: Mutex<HashMap<Box<str>, Instant>>,
    gate: Arc<EndpointGate>,
    pub(super) record: Arc<Record>,
    pub(super) clock: Clock,
    settings: CacheSettings,
    /// True if tokens are stored: those who are called are looked for there first.
    pub(super) stored: AtomicBool,
    /// From which the times of use are counted.
    epoch: Instant,
    /// Tells values that were refused from others.
    pub(super) hasher: RandomState,
}

/// The devices there are, and the live ones among them by row.
pub(super) struct Roster<T> {
    pub(super) table: Arc<Table>,
    pub(super) live: Box<[ArcSwapOption<Device<T>>]>,
}

/// A device that has a token, or is to get one, or was refused one.
pub(super) struct Device<T> {
    pub(super) name: Box<str>,
    state: Mutex<State<T>>,
}

/// An attempt that failed, and a digest of the device's own values that it was made with.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) tried: u64,
}

/// What is known of a live device. Small, because there may be a hundred thousand of them.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(super) struct State<T> {
    pub(super) issued: Option<Arc<Issued<T>>>,
    pub(super) failed: Option<Box<Failed>>,
    /// What renews the token, beside what is published of it.
    pub(super) hidden: Option<Box<Packed>>,
    /// What was published last and was refused: what renews may be in it.
    pub(super) former: Option<Arc<Issued<T>>>,
    /// A digest of the values of the last token; zero if there was none.
    pub(super) held: u64,
    /// Those who wait for the attempt; there only while somebody does.
    waiters: Option<Arc<Notify>>,
    last_forced: Option<Instant>,
    /// Its place in the schedule.
    pub(super) due: Option<Key>,
    /// When a request asked last, in seconds since the epoch.
    used: u32,
    /// When the last token was fetched, in seconds since 1970.
    pub(super) fetched: u32,
    /// Attempts that failed in a row.
    pub(super) failures: u16,
    /// Attempts in a row that closed the gate.
    pub(super) closings: u8,
    /// The scheduler was called, or is at it.
    pub(super) called: bool,
    /// An attempt is in flight.
    pub(super) renewing: bool,
    /// The next token is the fruit of a rejection.
    pub(super) forcing: bool,
    /// It is not renewed any more, unless somebody asks.
    pub(super) lapsing: bool,
    /// The last renewal took all the time there was.
    pub(super) renewal_hangs: bool,
    /// It is in the queue of those for whom requests wait.
    pub(super) queued: bool,
    /// It is to be looked for again because requests wait.
    pub(super) sought: bool,
    /// What is stored of it is being looked at.
    pub(super) looking: bool,
    /// It was, and it is the device's turn.
    pub(super) looked: bool,
    /// Another process fetches for it.
    pub(super) busy: bool,
    /// Somebody asks for an attempt, whatever the schedule says, and none has ended since.
    pub(super) wished: bool,
    /// It is not in the roster any more.
    pub(super) gone: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            issued: None,
            failed: None,
            hidden: None,
            former: None,
            held: 0,
            waiters: None,
            last_forced: None,
            due: None,
            used: 0,
            fetched: 0,
            failures: 0,
            closings: 0,
            called: false,
            renewing: false,
            forcing: false,
            lapsing: false,
            renewal_hangs: false,
            queued: false,
            sought: false,
            looking: false,
            looked: false,
            busy: false,
            wished: false,
            gone: false,
        }
    }
}

impl<T> State<T> {
    /// Wakes those who wait.
    pub(super) fn changed(&mut self) {
        if let Some(waiters) = self.waiters.take() {
            waiters.notify_waiters();
        }
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.waiters.as_ref().is_some_and(|waiters| Arc::strong_count(waiters) > 1)
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failed.as_ref().map(|failed| &failed.failure)
    }

    fn standing(&self, now: Now) -> Standing<'_, T> {
        standing(self.issued.as_ref(), self.failure(), self.renewing, now)
    }

    /// The last token was refused.
    pub(super) fn is_refused(&self) -> bool {
        self.held != 0 && self.issued.is_none() && !self.gone
    }

    pub(super) fn is_usable(&self, now: Now) -> bool {
        self.issued.as_ref().is_some_and(|issued| issued.is_usable(now))
    }
}

impl<T> Device<T> {
    fn new(name: &str) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request of a device gets no credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoCredential {
    /// There is no such device.
    #[error("the device is not known")]
    Unknown,
    /// There is, but no usable credential for it.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl<T> Clone for DevicePool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> DevicePool<T> {
    /// A pool for the devices in `table`, none of which has a token yet.
    pub fn new(
        table: Table,
        clock: Clock,
        settings: CacheSettings,
        gate: Arc<EndpointGate>,
    ) -> Self {
        let epoch = clock.now().monotonic;
        Self(Arc::new(Shared {
            roster: ArcSwap::from_pointee(Roster::new(table)),
            replaced: watch::Sender::new(()),
            writer: Mutex::default(),
            calls: Mutex::default(),
            called: Notify::new(),
            asked: Mutex::default(),
            gate,
            record: Arc::default(),
            clock,
            settings,
            stored: AtomicBool::new(false),
            epoch,
            hasher: RandomState::new(),
        }))
    }

    /// True if the device is in the file.
    pub fn knows(&self, device: &str) -> bool {
        self.0.roster.load().table.find(device).is_some()
    }

    /// Waits until the device is not in the file any more.
    pub async fn until_unknown(&self, device: &str) {
        let mut replaced = self.0.replaced.subscribe();
        // The sender lives as long as this.
        while self.knows(device) && replaced.changed().await.is_ok() {}
    }

    /// The credential of `device`; if none is usable, waits for the attempt in flight.
    ///
    /// A caller who stops waiting does not cancel the attempt.
    ///
    /// # Errors
    /// When there is no such device, when the last attempt failed and the next is not due, or takes
    /// too long.
    pub async fn get_at(&self, device: &str, now: Now) -> Result<Arc<Issued<T>>, NoCredential> {
        if let Some(live) = self.live(device) {
            let mut state = live.lock();
            state.used = self.0.seconds(now.monotonic);
            // One that lapses is renewed again; else nothing is to be done.
            if !state.lapsing
                && let Standing::Ready(issued) = state.standing(now)
            {
                return Ok(Arc::clone(issued));
            }
        }
        // Boxed, so that what is rare does not make every request's future larger.
        Box::pin(self.wait(device)).await
    }

    /// The token of `device` without waiting, usable or not. Nobody is called for it.
    pub fn peek(&self, device: &str) -> Option<Arc<Issued<T>>> {
        self.live(device)?.lock().issued.clone()
    }

    pub(super) fn live(&self, device: &str) -> Option<Arc<Device<T>>> {
        let roster = self.0.roster.load();
        let row = roster.table.find(device)?;
        roster.live.get(row)?.load_full()
    }

    #[cold]
    async fn wait(&self, device: &str) -> Result<Arc<Issued<T>>, NoCredential> {
        let limit = self.0.settings.wait;
        let give_up_at = Instant::now() + limit;
        loop {
            let now = self.0.clock.now();
            let live = self.0.enter(device).ok_or(NoCredential::Unknown)?;
            let waiting = self.ask(&live, now, give_up_at)?;
            let changed = match waiting {
                Asked::Ready(issued) => return Ok(issued),
                Asked::Gone => continue,
                Asked::Waiting(changed) => changed,
            };
            if tokio::time::timeout_at(give_up_at, changed).await.is_err() {
                return Err(Unavailable::Waiting(limit).into());
            }
        }
    }

    /// What is there at `now`, or the way to learn of a change; the scheduler is called if it has
    /// to do something for it.
    fn ask(
        &self,
        live: &Arc<Device<T>>,
        now: Now,
        give_up_at: Instant,
    ) -> Result<Asked<T>, Unavailable> {
        let mut state = live.lock();
        if state.gone {
            return Ok(Asked::Gone);
        }
        state.used = self.0.seconds(now.monotonic);
        let ready = match state.standing(now) {
            Standing::Ready(issued) => Some(Arc::clone(issued)),
            Standing::Failed(unavailable) => return Err(unavailable),
            Standing::Wanting => None,
        };
        let call = !state.called && !state.renewing && (ready.is_none() || state.lapsing);
        state.lapsing = false;
        let asked = if let Some(issued) = ready {
            Asked::Ready(issued)
        } else {
            // Whoever would wait in vain is told at once; but what is stored needs no gate, and is
            // looked at before a device is put into the queue.
            let waits_for_gate = state.queued || !self.0.stored.load(Ordering::Relaxed);
            if waits_for_gate
                && let Some(closed) = self.0.gate.closed(now.monotonic)
                && closed.until > give_up_at
            {
                let retry_in = closed.until - now.monotonic;
                return Err(Unavailable::Failed { error: closed.error, retry_in });
            }
            let waiters = state.waiters.get_or_insert_with(Arc::default);
            // Made while the state is locked, so that no change is missed.
            Asked::Waiting(Arc::clone(waiters).notified_owned())
        };
        if call {
            state.called = true;
            drop(state);
            self.0.call(Arc::clone(live));
        }
        Ok(asked)
    }

    /// The upstream refused `refused`, which was the credential of `device`. Asks for another
    /// unless it was already replaced.
    pub fn reject(&self, device: &str, refused: &Arc<Issued<T>>) -> Rejection {
        if !self.0.settings.renewable {
            return Rejection::Fixed;
        }
        let Some(live) = self.live(device) else { return Rejection::Replaced };
        let now = self.0.clock.now().monotonic;
        let mut state = live.lock();
        let judged = judge_rejection(
            refused,
            state.issued.as_ref(),
            state.failure(),
            state.last_forced,
            now,
            self.0.settings.min_interval,
        );
        if judged == Rejection::Renewing {
            state.last_forced = Some(now);
            // An attempt that is under way is not the fruit of this rejection.
            state.forcing = !state.renewing;
            state.former = state.issued.take();
            // What renewed one that is refused again leads nowhere.
            if refused.is_forced() {
                (state.former, state.hidden) = (None, None);
            }
            if !state.called && !state.renewing {
                state.called = true;
                drop(state);
                self.0.call(live);
            }
        }
        judged
    }

    /// Serves the devices in `table` from now on. Those about whom it says the same keep what they
    /// have; the others begin anew, and those who are not in it are gone.
    pub fn replace(&self, table: Table) {
        let roster = Roster::new(table);
        let _writer = self.0.writer();
        let before = self.0.roster.load_full();
        let mut gone = Vec::new();
        for (row, live) in before.live.iter().enumerate() {
            let Some(live) = live.load_full() else { continue };
            let found = roster.table.find(&live.name);
            let same = found.filter(|found| before.table.is_same(row, &roster.table, *found));
            match same.and_then(|row| roster.live.get(row)) {
                Some(place) => place.store(Some(live)),
                None => gone.push(live),
            }
        }
        self.0.roster.store(Arc::new(roster));
        self.0.replaced.send_replace(());
        for device in gone {
            let mut state = device.lock();
            state.gone = true;
            state.issued = None;
            // Those who wait look again, and find another or none.
            state.changed();
            drop(state);
            self.0.call(device);
        }
    }

    /// What has become of attempts to fetch for any of its devices.
    pub fn record(&self) -> &Arc<Record> {
        &self.0.record
    }

    /// The devices there are.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.roster.load().table)
    }

    pub(super) fn shared(&self) -> &Arc<Shared<T>> {
        &self.0
    }
}

enum Asked<T> {
    Ready(Arc<Issued<T>>),
    Waiting(OwnedNotified),
    /// The device has left the roster meanwhile, and has to enter it again.
    Gone,
}

impl<T> Shared<T> {
    /// The live device of that name; `None` if there is no such device.
    pub(super) fn enter(&self, name: &str) -> Option<Arc<Device<T>>> {
        let _writer = self.writer();
        let roster = self.roster.load();
        let row = roster.table.find(name)?;
        let place = roster.live.get(row)?;
        if let Some(live) = place.load_full() {
            return Some(live);
        }
        let live = Arc::new(Device::new(name));
        place.store(Some(Arc::clone(&live)));
        Some(live)
    }

    /// Takes a device out of the live ones, if nobody needs it `now`: its memory is given back.
    pub(super) fn leave(&self, device: &Arc<Device<T>>, needed: impl FnOnce(&State<T>) -> bool) {
        let _writer = self.writer();
        let mut state = device.lock();
        if state.called || state.is_waited_for() || needed(&state) {
            return;
        }
        state.gone = true;
        drop(state);
        let roster = self.roster.load();
        let place = roster.table.find(&device.name).and_then(|row| roster.live.get(row));
        if let Some(place) = place
            && place.load().as_ref().is_some_and(|live| Arc::ptr_eq(live, device))
        {
            place.store(None);
        }
    }

    fn call(&self, device: Arc<Device<T>>) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(device);
        self.called.notify_one();
    }

    /// Every live device.
    pub(super) fn all(&self) -> Vec<Arc<Device<T>>> {
        let roster = self.roster.load();
        roster.live.iter().filter_map(ArcSwapOption::load_full).collect()
    }

    /// Those for whom something is to be done, in the order of their calls.
    pub(super) fn calls(&self) -> Vec<Arc<Device<T>>> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the next call.
    pub(super) async fn called(&self) {
        self.called.notified().await;
    }

    pub(super) fn gate(&self) -> &EndpointGate {
        &self.gate
    }

    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.roster.load().table)
    }

    /// For how long no request of the device has come.
    pub(super) fn idle(&self, state: &State<T>, now: Instant) -> Duration {
        let since = self.seconds(now).saturating_sub(state.used);
        Duration::from_secs(u64::from(since))
    }

    fn seconds(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.epoch).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Roster<T> {
    fn new(table: Table) -> Self {
        let live = (0..table.len()).map(|_| ArcSwapOption::empty()).collect();
        Self { table: Arc::new(table), live }
    }
}

impl<T> fmt::Debug for DevicePool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevicePool({:?})", self.0.roster.load().table)
    }
}
