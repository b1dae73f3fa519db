//! Records in a file of this process: an embedded database, whose commits are atomic and durable.
//!
//! The file is opened before the process confines itself and stays open; one task hands what is to
//! be read and written to a thread for blocking work, in batches, so that tokens that come together
//! cost one commit. The file belongs to one process: the database holds a lock on it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use super::seal::{MIN_KEY, NoRandom, Place, Sealer, keep_until};
use crate::permissions::{Check, Exposed};
use crate::secret::Secret;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("countersign");
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// Keys of [`META`].
const FORM: &str = "form";
const SALT: &str = "salt";
const CHECK: &str = "check";
/// The form of the file.
const FORM_1: &[u8] = b"1";

/// What the database may hold in memory of its file, in bytes.
const CACHE: usize = 4 << 20;
/// Requests that wait for the task. More wait to be taken.
const QUEUE: usize = 256;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long records are left that have ended: the wall clock may be wrong for a while.
const GRACE: Duration = Duration::from_hours(24 * 7);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key could be guessed.
    #[error(
        "the key of the token store is shorter than {MIN_KEY} bytes; make one with: \
         openssl rand -base64 32"
    )]
    ShortKey,
    /// There is no such directory.
    #[error("the token store's directory {} is not there; make it with: mkdir -m 700 {}", .0.display(), .0.display())]
    NoDirectory(PathBuf),
    /// Others can put another file there.
    #[error("the token store's directory {}: {}, or check_permissions = false lets it be", .0.display(), .1)]
    Directory(PathBuf, Exposed),
    /// Others can get at the file.
    #[error("the token store {}: {}, or check_permissions = false lets it be", .0.display(), .1)]
    Exposed(PathBuf, Exposed),
    /// Not a file of its own.
    #[error("the token store {} is not a file but a directory, a link or something else", .0.display())]
    NotAFile(PathBuf),
    /// Something else is in the file.
    #[error("{} is not a token store; it was left as it is: name another path, or remove it", .0.display())]
    Foreign(PathBuf),
    /// A later version wrote it.
    #[error("the token store {} was written by a later version of countersign", .0.display())]
    Later(PathBuf),
    /// It cannot be read.
    #[error(
        "the token store {} is damaged ({}); it was left as it is: remove it, and every credential \
         logs in anew", .0.display(), .1
    )]
    Broken(PathBuf, String),
    /// Another process has it.
    #[error("the token store {} is in use by another process; each needs a file of its own", .0.display())]
    InUse(PathBuf),
    /// Sealed with another key.
    #[error(
        "the key does not fit the token store {}; put the former key back, or remove the file, and \
         every credential logs in anew", .0.display()
    )]
    WrongKey(PathBuf),
    /// The system refuses.
    #[error("the token store {} cannot be opened: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
    /// No salt for a new file.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// What can be asked of the task.
enum Command {
    Read(Place, oneshot::Sender<Result<Option<Vec<u8>>, StoreError>>),
    /// `None` removes.
    Write(Place, Option<Vec<u8>>, oneshot::Sender<Result<(), StoreError>>),
}

/// The way to the task.
#[derive(Debug, Clone)]
pub struct FileStore(mpsc::Sender<Command>);

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

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The task, not running yet.
#[derive(Debug)]
pub struct Writer {
    commands: mpsc::Receiver<Command>,
    engine: Arc<Mutex<Engine>>,
}

/// The task, running.
#[derive(Debug)]
pub struct Running {
    close: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Writes what is still to be written, and closes the file.
    pub async fn close(self) {
        self.close.cancel();
        // It ends by itself, or has panicked, which was said then.
        let _ = self.task.await;
    }
}

impl Writer {
    /// Starts the task on the runtime of the caller.
    pub fn start(self) -> Running {
        let close = CancellationToken::new();
        let task = tokio::spawn(self.run(close.clone()));
        Running { close, task }
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

type Opening = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The database, and what it does not have yet.
struct Engine {
    /// Opens it again: a database that failed to write once is of no more use.
    open: Opening,
    database: Option<Database>,
    /// What is still to be written, by place, so there is no more of it than there are places.
    unsaved: HashMap<Place, Option<Vec<u8>>>,
    failing: bool,
}

impl Engine {
    fn new(database: Database, open: Opening) -> Self {
        Self { open, database: Some(database), unsaved: HashMap::new(), failing: false }
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
            }
        }
        let (applied, result) = self.write(patient);
        for reply in waiting {
            let _ = reply.send(result.clone());
        }
        applied
    }

    fn write(&mut self, patient: bool) -> (Applied, Result<(), StoreError>) {
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
        write_all(&database, &self.unsaved).map_err(failed)?;
        self.database = Some(database);
        self.unsaved.clear();
        Ok(())
    }

    fn read(&mut self, place: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let database = self.take()?;
        let record = read_one(&database, place).map_err(failed)?;
        self.database = Some(database);
        Ok(record)
    }

    fn take(&mut self) -> Result<Database, StoreError> {
        match self.database.take() {
            Some(database) => Ok(database),
            None => (self.open)().map_err(|error| failed(error.into())),
        }
    }

    fn close(&mut self) {
        if !self.unsaved.is_empty() && self.commit().is_err() {
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

fn failed(error: redb::Error) -> StoreError {
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

/// Whether the store at `path` could be opened or made, as far as that shows without opening it: a
/// process that runs has it locked. True if the file is there.
///
/// # Errors
/// With the reason why not.
pub fn inspect(path: &Path, key: &Secret, check: Check) -> Result<bool, OpenError> {
    if key.expose().len() < MIN_KEY {
        return Err(OpenError::ShortKey);
    }
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory(directory.to_owned()));
    }
    let ours = check.directory(directory);
    ours.map_err(|exposed| OpenError::Directory(directory.to_owned(), exposed))?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::Io(path.to_owned(), error)),
        Ok(there) if !there.is_file() => Err(OpenError::NotAFile(path.to_owned())),
        Ok(_) => match check.file(path) {
            Ok(()) => Ok(true),
            Err(exposed) => Err(OpenError::Exposed(path.to_owned(), exposed)),
        },
    }
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Opens the store at `path`, or makes one there. Blocks.
///
/// # Errors
/// With the reason. A file that is no token store, or one of another key, is left as it is.
pub(super) fn open(
    path: &Path,
    key: &Secret,
    check: Check,
    now: SystemTime,
) -> Result<(FileStore, Writer, Sealer), OpenError> {
    if !inspect(path, key, check)? {
        create(path, key)?;
    }
    let io = |error| OpenError::Io(path.to_owned(), error);
    let file = open_file(path)?;
    // An empty one would be made a database.
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let reopen: Opening = Box::new(move || database(file.try_clone()?));
    let database = reopen().map_err(|error| unusable(path, error))?;
    let sealer = unlock(path, &database, key)?;
    clear_up(&database, now)
        .map_err(|error| OpenError::Broken(path.to_owned(), error.to_string()))?;
    let (sender, commands) = mpsc::channel(QUEUE);
    let engine = Arc::new(Mutex::new(Engine::new(database, reopen)));
    Ok((FileStore(sender), Writer { commands, engine }, sealer))
}

/// Opens what is at `path` itself, not where a link leads.
fn open_file(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path).map_err(|error| OpenError::Io(path.to_owned(), error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(OpenError::NotAFile(path.to_owned())),
        Err(error) => Err(OpenError::Io(path.to_owned(), error)),
    }
}

fn database(file: File) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)
}

/// Makes a store under another name and gives it its own when it is complete: a process that ends
/// half-way leaves nothing that looks like one.
fn create(path: &Path, key: &Secret) -> Result<(), OpenError> {
    let directory = directory_of(path);
    let io = |error| OpenError::Io(path.to_owned(), error);
    // A new file that only its owner can read and write.
    let mut making = tempfile::Builder::new();
    let making =
        making.prefix(".countersign-").suffix(".new").tempfile_in(directory).map_err(io)?;
    let salt = Sealer::salt()?;
    let check = Sealer::new(key, &salt).ok_or(OpenError::ShortKey)?.check()?;
    let write = || -> Result<(), redb::Error> {
        let database = database(making.as_file().try_clone()?)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORM, FORM_1)?;
            meta.insert(SALT, salt.as_slice())?;
            meta.insert(CHECK, check.as_slice())?;
            transaction.open_table(RECORDS)?;
        }
        transaction.commit()?;
        database.close()?;
        Ok(())
    };
    write().map_err(|error| io(io::Error::other(error.to_string())))?;
    making.as_file().sync_all().map_err(io)?;
    match making.persist_noclobber(path) {
        Ok(_) => {}
        // Another process was faster.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io(error.error)),
    }
    // The name is to outlive a loss of power as well.
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(())
}

/// What the key and the salt of the store come to, if the key is the right one.
fn unlock(path: &Path, database: &Database, key: &Secret) -> Result<Sealer, OpenError> {
    let broken = |error: redb::Error| OpenError::Broken(path.to_owned(), error.to_string());
    let foreign = || OpenError::Foreign(path.to_owned());
    let transaction = database.begin_read().map_err(|error| broken(error.into()))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(broken(error.into())),
        Err(_) => return Err(foreign()),
    };
    let read = |name: &str| match meta.get(name) {
        Ok(Some(value)) => Ok(value.value().to_vec()),
        Ok(None) => Err(foreign()),
        Err(error) => Err(broken(error.into())),
    };
    if read(FORM)? != FORM_1 {
        return Err(OpenError::Later(path.to_owned()));
    }
    let sealer = Sealer::new(key, &read(SALT)?).ok_or(OpenError::ShortKey)?;
    if !sealer.is_right(&read(CHECK)?) {
        return Err(OpenError::WrongKey(path.to_owned()));
    }
    Ok(sealer)
}

/// Removes what ended long ago, of devices and credentials that are no more.
fn clear_up(database: &Database, now: SystemTime) -> Result<(), redb::Error> {
    let ended = |record: &[u8]| keep_until(record).is_none_or(|until| until + GRACE < now);
    let any = {
        let table = database.begin_read()?.open_table(RECORDS)?;
        let mut any = false;
        for entry in table.iter()? {
            any |= ended(entry?.1.value());
        }
        any
    };
    if any {
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?.retain(|_, record| !ended(record))?;
        transaction.commit()?;
    }
    Ok(())
}

fn unusable(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    let in_use =
        matches!(error, DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch);
    match error {
        _ if in_use => OpenError::InUse(path),
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => OpenError::Foreign(path),
            // The file is shorter than its head says.
            io::ErrorKind::UnexpectedEof => OpenError::Broken(path, error.to_string()),
            _ => OpenError::Io(path, error),
        },
        other => OpenError::Broken(path, other.to_string()),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
