//! A store between processes for tests: in memory, with leases that end by the time of the runtime,
//! and a switch that takes it away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::seal::Place;
use super::{Claimed, StoreError};

/// Clones are of the same store.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    places: HashMap<Place, Entry>,
    away: bool,
    claims: usize,
}

#[derive(Debug, Default)]
struct Entry {
    record: Option<Vec<u8>>,
    /// Of the last lease given.
    fence: u64,
    leased_until: Option<Instant>,
}

impl Entry {
    fn lease_left(&self) -> Option<Duration> {
        let left = self.leased_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl SharedStore {
    /// From now on nothing can be read or written, or all can again.
    pub(crate) fn be_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// How many places have a record.
    pub(crate) fn records(&self) -> usize {
        self.lock().places.values().filter(|entry| entry.record.is_some()).count()
    }

    /// How many leases run.
    pub(crate) fn leases(&self) -> usize {
        self.lock().places.values().filter(|entry| entry.lease_left().is_some()).count()
    }

    /// How many leases were asked for so far.
    pub(crate) fn claims(&self) -> usize {
        self.lock().claims
    }

    /// Whoever has a lease has been asleep for so long that it has ended.
    pub(crate) fn end_leases(&self) {
        for entry in self.lock().places.values_mut() {
            entry.leased_until = None;
        }
    }

    pub(super) fn read(&self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = self.there()?;
        Ok(inner.places.get(&place).and_then(|entry| entry.record.clone()))
    }

    pub(super) fn write(
        &self,
        place: Place,
        record: Vec<u8>,
        fence: Option<u64>,
    ) -> Result<bool, StoreError> {
        let mut inner = self.there()?;
        let entry = inner.places.entry(place).or_default();
        if fence.is_some_and(|fence| fence < entry.fence) {
            return Ok(false);
        }
        entry.record = Some(record);
        if fence.is_some() {
            entry.leased_until = None;
        }
        Ok(true)
    }

    pub(super) fn remove(&self, place: Place, record: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.there()?;
        if let Some(entry) = inner.places.get_mut(&place)
            && entry.record.as_deref() == Some(record)
        {
            entry.record = None;
        }
        Ok(())
    }

    pub(super) fn claim(&self, place: Place, lease: Duration) -> Result<Claimed, StoreError> {
        let mut inner = self.there()?;
        inner.claims += 1;
        let entry = inner.places.entry(place).or_default();
        let record = entry.record.clone();
        if let Some(left) = entry.lease_left() {
            return Ok(Claimed::Held { record, left });
        }
        entry.fence += 1;
        entry.leased_until = Some(Instant::now() + lease);
        Ok(Claimed::Granted { fence: entry.fence, record })
    }

    pub(super) fn release(&self, place: Place, fence: u64) -> Result<(), StoreError> {
        let mut inner = self.there()?;
        if let Some(entry) = inner.places.get_mut(&place)
            && entry.fence == fence
        {
            entry.leased_until = None;
        }
        Ok(())
    }

    fn there(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.away { Err(StoreError::Failed("it is away".to_owned())) } else { Ok(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
