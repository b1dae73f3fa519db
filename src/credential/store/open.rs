//! Opening a file of records, or making one: what has to hold before anything is read or written.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableDefinition, TableError,
};

use super::file::{FileStore, Opening, RECORDS, Writer};
use super::redis::failure::Failure;
use super::seal::{MIN_KEY, NoRandom, Sealer, keep_until};
use crate::permissions::{Check, Exposed};
use crate::secret::Secret;
use crate::tls::TlsError;

/// What is not a record.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("countersign");
/// Keys of [`META`].
const FORM: &str = "form";
const SALT: &str = "salt";
const CHECK: &str = "check";
/// The form of the file.
const FORM_1: &[u8] = b"1";

/// What the database may hold in memory of its file, in bytes.
const CACHE: usize = 4 << 20;
/// How long records are left that have ended: the wall clock may be wrong for a while.
pub(super) const GRACE: Duration = Duration::from_hours(24 * 7);

/// Why the store cannot be used.
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
    /// Redis is there and cannot be used.
    #[error("the token store at {0} cannot be used: {1}")]
    Redis(String, Failure),
    /// A file of the TLS of Redis.
    #[error("the token store's TLS: {0}")]
    Tls(#[from] TlsError),
    /// No salt for a new file.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
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
        Ok(there) => match check.secret(path, &there) {
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
    let (store, writer) = Writer::new(database, reopen);
    Ok((store, writer, sealer))
}

/// Opens what is at `path` itself, not where a link leads.
pub(super) fn open_file(path: &Path) -> Result<File, OpenError> {
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
    if matches!(error, DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) {
        return OpenError::InUse(path);
    }
    let DatabaseError::Storage(StorageError::Io(error)) = error else {
        return OpenError::Broken(path, error.to_string());
    };
    if error.kind() == io::ErrorKind::InvalidData {
        OpenError::Foreign(path)
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        // The file is shorter than its head says.
        OpenError::Broken(path, error.to_string())
    } else {
        OpenError::Io(path, error)
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
