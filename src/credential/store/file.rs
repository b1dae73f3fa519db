//! Records in a file of this process: an embedded database, whose commits are atomic and durable.
//!
//! The file is opened before the process confines itself and stays open; one task hands what is to
//! be read and written to a thread for blocking work, in batches, so that tokens that come together
//! cost one commit. The file belongs to one process: the database holds a lock on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::{Database, DatabaseError, ReadableDatabase as _, TableDefinition};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::running::Running;
use super::seal::Place;
use super::{Claimed, LENT, PATIENCE, StoreError};

/// Sealed records by place.
pub(super) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// Requests that wait for the task. More wait to be taken.
const QUEUE: usize = 256;
/// How long those who fetch may take to end before the file is lent.
const ENDING: Duration = Duration::from_secs(20);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long the process that had the file may take to end after it was given up.
const ITS_END: Duration = Duration::from_mins(1);
/// How long it is before somebody asks again for what that process still has.
const AGAIN: Duration = Duration::from_secs(1);

/// What can be asked of the task.
pub(crate) enum Command {
    Read(Place, oneshot::Sender<Result<Option<Vec<u8>>, StoreError>>),
    /// `None` removes.
    Write(Place, Option<Vec<u8>>, oneshot::Sender<Result<(), StoreError>>),
    /// Writes everything and closes the file, so that another process can open it.
    Lend(oneshot::Sender<Result<(), StoreError>>),
    /// The other process has closed it.
    TakeBack,
}

/// The way to the task.
#[derive(Debug, Clone)]
pub struct FileStore {
    commands: mpsc::Sender<Command>,
    lending: Arc<Lending>,
}

/// Whether another process has the file, and who still has to do with it here.
#[derive(Debug, Default)]
struct Lending {
    lent: AtomicBool,
    busy: AtomicUsize,
    /// When another process has last had it: it may hold what is newer than anything here.
    returned: Mutex<Option<Instant>>,
}

impl Lending {
    fn returned(&self) -> MutexGuard<'_, Option<Instant>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody fetches, and will save what comes of it: until this is dropped the file is not lent.
#[derive(Debug)]
pub struct Busy(Arc<Lending>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lends the file of a store to the process that takes over from this one.
#[derive(Debug, Clone, Default)]
pub struct Lender(Option<FileStore>);

impl Lender {
    /// Of `store`; without one there is nothing to lend.
    pub(super) fn new(store: Option<&FileStore>) -> Self {
        Self(store.cloned())
    }

    /// Lends it: from now on nobody here fetches, reads or writes. Waits for those who are at it.
    ///
    /// # Errors
    /// When they do not end, or what they saved cannot be written.
    pub async fn lend(&self) -> Result<(), &'static str> {
        let Some(store) = &self.0 else { return Ok(()) };
        store.lending.lent.store(true, Ordering::Release);
        let give_up_at = Instant::now() + ENDING;
        while store.lending.busy.load(Ordering::Acquire) > 0 {
            if Instant::now() >= give_up_at {
                store.lending.lent.store(false, Ordering::Release);
                return Err("a login is under way that does not end; try again");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if store.ask(Command::Lend).await.is_err() {
            self.take_back().await;
            return Err("its token store cannot be written to");
        }
        Ok(())
    }

    /// Takes it back: nothing came of it. From now on whoever claims a place sees what is there:
    /// the other process may have renewed it.
    pub async fn take_back(&self) {
        if let Some(store) = &self.0 {
            *store.lending.returned() = Some(Instant::now());
            // First: whoever finds it here again reads after this.
            let _ = store.commands.send(Command::TakeBack).await;
            store.lending.lent.store(false, Ordering::Release);
        }
    }
}

impl FileStore {
    pub(super) async fn read(&self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(|reply| Command::Read(place, reply)).await
    }

    pub(super) async fn write(&self, place: Place, record: Vec<u8>) -> Result<(), StoreError> {
        self.ask(|reply| Command::Write(place, Some(record), reply)).await
    }

    pub(super) async fn remove(&self, place: Place) -> Result<(), StoreError> {
        self.ask(|reply| Command::Write(place, None, reply)).await
    }

    fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands, lending: Arc::default() }
    }

    /// True while another process has the file.
    fn is_lent(&self) -> bool {
        self.lending.lent.load(Ordering::Acquire)
    }

    /// The file is for one process at a time. One that had it for a while may have renewed what is
    /// at `place`, so that what is known of it here leads nowhere.
    pub(super) async fn claim(&self, place: Place) -> Result<Claimed, StoreError> {
        let lent = Claimed::Held { record: None, left: LENT };
        if self.is_lent() {
            return Ok(lent);
        }
        let Some(returned) = *self.lending.returned() else { return Ok(Claimed::Unshared) };
        let read = tokio::time::timeout(PATIENCE / 2, self.read(place)).await;
        if self.is_lent() {
            return Ok(lent);
        }
        match read.unwrap_or(Err(StoreError::Timeout)) {
            Ok(record) => Ok(Claimed::Granted { fence: 0, record }),
            // Its lock ends with it.
            Err(_) if returned.elapsed() < ITS_END => {
                Ok(Claimed::Held { record: None, left: AGAIN })
            }
            Err(error) => Err(error),
        }
    }

    /// Somebody begins to fetch.
    pub(super) fn busy(&self) -> Busy {
        self.lending.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(&self.lending))
    }

    /// A way to a task that does not run: what is asked can be seen, and answered.
    #[cfg(test)]
    pub(crate) fn unserved() -> (Self, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(QUEUE);
        (Self::new(sender), commands)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The task, not running yet.
#[derive(Debug)]
pub struct Writer {
    commands: mpsc::Receiver<Command>,
    engine: Arc<Mutex<Engine>>,
}

impl Writer {
    /// The way to a task for `database`, and the task.
    pub(super) fn new(database: Database, reopen: Opening) -> (FileStore, Self) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let engine = Arc::new(Mutex::new(Engine::new(database, reopen)));
        (FileStore::new(sender), Self { commands, engine })
    }

    /// Starts the task on the runtime of the caller.
    pub fn start(self) -> Running {
        let close = CancellationToken::new();
        let task = tokio::spawn(self.run(close.clone()));
        Running::new(close, task)
    }

    async fn run(mut self, close: CancellationToken) {
        let mut retry_at = None;
        loop {
            let mut batch = Vec::new();
            let retry = retry_at.unwrap_or_else(Instant::now);
            tokio::select! {
                count = self.commands.recv_many(&mut batch, QUEUE) => {
                    // Closed, and everything was taken.
                    if count == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(retry), if retry_at.is_some() => {}
                () = close.cancelled(), if !self.commands.is_closed() => {
                    self.commands.close();
                    continue;
                }
            }
            let engine = Arc::clone(&self.engine);
            let patient = retry_at.is_some_and(|at| Instant::now() < at);
            let applied = tokio::task::spawn_blocking(move || {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                engine.apply(batch, patient)
            });
            match applied.await {
                Ok(Applied::Saved) => retry_at = None,
                Ok(Applied::Waiting) => {}
                Ok(Applied::Failed) | Err(_) => retry_at = Some(Instant::now() + RETRY),
            }
        }
        let engine = Arc::clone(&self.engine);
        let closed = tokio::task::spawn_blocking(move || {
            engine.lock().unwrap_or_else(PoisonError::into_inner).close();
        });
        let _ = closed.await;
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Saved,
    /// The last failure is too short a time ago to try again.
    Waiting,
    Failed,
}

/// How the database is opened again.
pub(super) type Opening = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The database, and what it does not have yet.
struct Engine {
    /// Opens it again: a database that failed to write once is of no more use.
    open: Opening,
    database: Option<Database>,
    /// What is still to be written, by place, so there is no more of it than there are places.
    unsaved: HashMap<Place, Option<Vec<u8>>>,
    failing: bool,
    /// Another process has the file.
    lent: bool,
}

impl Engine {
    fn new(database: Database, open: Opening) -> Self {
        Self {
            open,
            database: Some(database),
            unsaved: HashMap::new(),
            failing: false,
            lent: false,
        }
    }

    /// Reads and writes. `patient`: does not try to write now.
    fn apply(&mut self, batch: Vec<Command>, patient: bool) -> Applied {
        let mut waiting = Vec::new();
        for command in batch {
            match command {
                Command::Read(place, reply) => {
                    let record = match self.unsaved.get(&place) {
                        Some(record) => Ok(record.clone()),
                        None => self.read(place),
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(record);
                }
                Command::Write(place, record, reply) => {
                    self.unsaved.insert(place, record);
                    waiting.push(reply);
                }
                Command::Lend(reply) => {
                    let lent = self.lend();
                    let _ = reply.send(lent);
                }
                Command::TakeBack => self.lent = false,
            }
        }
        let (applied, result) = self.write(patient);
        for reply in waiting {
            let _ = reply.send(result.clone());
        }
        applied
    }

    fn write(&mut self, patient: bool) -> (Applied, Result<(), StoreError>) {
        if self.lent {
            return (Applied::Waiting, Err(away()));
        }
        if patient {
            return (Applied::Waiting, Err(StoreError::Failed("it failed lately".to_owned())));
        }
        let result = self.commit();
        match &result {
            Ok(()) if self.failing => {
                tracing::info!("the token store can be written to again");
                self.failing = false;
            }
            Err(error) if !self.failing => {
                tracing::warn!(
                    %error,
                    "the token store cannot be written to; tokens are used all the same, and it is \
                     tried again"
                );
                self.failing = true;
            }
            Ok(()) | Err(_) => {}
        }
        (if result.is_ok() { Applied::Saved } else { Applied::Failed }, result)
    }

    /// Writes everything that is to be written, durably.
    fn commit(&mut self) -> Result<(), StoreError> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        // Taken, so that it is closed if this fails or panics.
        let database = self.take()?;
        write_all(&database, &self.unsaved).map_err(|error| failed(&error))?;
        self.database = Some(database);
        self.unsaved.clear();
        Ok(())
    }

    /// Writes everything and closes the file.
    fn lend(&mut self) -> Result<(), StoreError> {
        self.commit()?;
        self.lent = true;
        match self.database.take().map(Database::close) {
            Some(Err(error)) => Err(StoreError::Failed(error.to_string())),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn read(&mut self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let database = self.take()?;
        let record = read_one(&database, place).map_err(|error| failed(&error))?;
        self.database = Some(database);
        Ok(record)
    }

    fn take(&mut self) -> Result<Database, StoreError> {
        if self.lent {
            return Err(away());
        }
        match self.database.take() {
            Some(database) => Ok(database),
            None => (self.open)().map_err(|error| failed(&error.into())),
        }
    }

    fn close(&mut self) {
        // What was refused here and is not known there is refused there as well.
        if !self.lent && !self.unsaved.is_empty() && self.commit().is_err() {
            let lost = self.unsaved.len();
            tracing::warn!(lost, "the token store ends without the last changes");
        }
        if let Some(Err(error)) = self.database.take().map(Database::close) {
            tracing::warn!(%error, "the token store was not closed in order");
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("unsaved", &self.unsaved.len()).finish_non_exhaustive()
    }
}

fn away() -> StoreError {
    StoreError::Away("the process that takes over has it".to_owned())
}

fn failed(error: &redb::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn write_all(
    database: &Database,
    records: &HashMap<Place, Option<Vec<u8>>>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        for (place, record) in records {
            match record {
                Some(record) => table.insert(place.as_bytes(), record.as_slice())?,
                None => table.remove(place.as_bytes())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn read_one(database: &Database, place: Place) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    Ok(table.get(place.as_bytes())?.map(|record| record.value().to_vec()))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
