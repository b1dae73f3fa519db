//! Where lines end: standard error, standard output, or a file that may be rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::LogTarget;

/// How often a file's name is looked up, to see whether it leads to another file.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait for a pipe that takes nothing at the moment.
const FULL: Duration = Duration::from_millis(10);

/// An open destination.
#[derive(Debug)]
pub(super) struct Outlet {
    target: LogTarget,
    /// What is written to; `None`: standard error or output, where a system has no descriptors.
    file: Option<File>,
    looked_at: Option<Instant>,
    /// The last write ended within a line.
    within_line: bool,
    /// The file that is open is not the one of that name, which could not be opened.
    astray: bool,
}

/// What was not written.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) lines: usize,
    pub(super) error: io::Error,
}

impl Outlet {
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(target: LogTarget) -> io::Result<Self> {
        let file = match &target {
            LogTarget::File(path) => Some(open(path)?),
            LogTarget::Stdout => own(&io::stdout())?,
            LogTarget::Stderr => own(&io::stderr())?,
        };
        Ok(Self { target, file, looked_at: None, within_line: false, astray: false })
    }

    pub(super) fn target(&self) -> &LogTarget {
        &self.target
    }

    /// Opens the file anew.
    ///
    /// # Errors
    /// When it cannot be opened; then the one that was open stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let LogTarget::File(path) = &self.target {
            self.astray = true;
            self.file = Some(open(path)?);
            self.astray = false;
            self.within_line = false;
        }
        Ok(())
    }

    /// True while a file stays in use that should not, because the right one cannot be opened.
    pub(super) fn is_astray(&self) -> bool {
        self.astray
    }

    /// Opens the file anew if its name leads to another one, or to none, which is looked up once in
    /// a while.
    ///
    /// # Errors
    /// As [`reopen`](Self::reopen).
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let (LogTarget::File(path), Some(file)) = (&self.target, &self.file) else { return Ok(()) };
        let now = Instant::now();
        if self.looked_at.is_some_and(|before| now.duration_since(before) < LOOK) {
            return Ok(());
        }
        self.looked_at = Some(now);
        if is_there(file, path) { Ok(()) } else { self.reopen() }
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// With what was not written.
    pub(super) fn write(&mut self, mut lines: &[u8]) -> Result<(), Lost> {
        if self.within_line && !lines.is_empty() {
            // What was begun before the disk was full stays a line of its own.
            let ended = self.write_some(b"\n");
            ended.map_err(|error| Lost { lines: count(lines), error })?;
            self.within_line = false;
        }
        while !lines.is_empty() {
            match self.write_some(lines) {
                Ok(0) => {
                    let error = io::ErrorKind::WriteZero.into();
                    return Err(Lost { lines: count(lines), error });
                }
                Ok(written) => {
                    let (done, rest) = lines.split_at(written.min(lines.len()));
                    self.within_line = done.last() != Some(&b'\n');
                    lines = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody who shares the pipe has made it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(FULL);
                }
                Err(error) => return Err(Lost { lines: count(lines), error }),
            }
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (&mut self.file, &self.target) {
            (Some(file), _) => file.write(bytes),
            (None, LogTarget::Stdout) => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write(bytes)?;
                match stdout.flush() {
                    // What it keeps goes with the next write; it was taken.
                    Err(error) if !is_passing(&error) => Err(error),
                    Ok(()) | Err(_) => Ok(written),
                }
            }
            (None, LogTarget::Stderr | LogTarget::File(_)) => io::stderr().lock().write(bytes),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A descriptor of one's own for a standard stream. That of the library has a buffer, of which
/// nobody can tell what was written when a pipe is full, and a lock, for which everybody who says
/// something would wait meanwhile.
#[cfg(unix)]
fn own(stream: &impl std::os::fd::AsFd) -> io::Result<Option<File>> {
    Ok(Some(File::from(stream.as_fd().try_clone_to_owned()?)))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn own<S>(_: &S) -> io::Result<Option<File>> {
    Ok(None)
}

fn count(lines: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', lines).count()
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Opens a file without waiting for anybody: a named pipe would be opened once there is a reader.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;

    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o640).custom_flags(flags.cast_signed());
    match options.open(path) {
        Ok(file) if can_be_appended_to(&file.metadata()?) => Ok(file),
        Ok(_) => Err(no_file()),
        // A pipe that nobody reads, or a socket.
        Err(error) => match std::fs::metadata(path) {
            Ok(found) if !found.is_dir() && !can_be_appended_to(&found) => Err(no_file()),
            Ok(_) | Err(_) => Err(error),
        },
    }
}

/// Files and, such as `/dev/null`, character devices.
#[cfg(unix)]
fn can_be_appended_to(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    found.is_file() || found.file_type().is_char_device()
}

#[cfg(unix)]
fn no_file() -> io::Error {
    let why = "it is neither a file nor a character device; lines go to a pipe by standard error, \
               or by access_file = \"-\", standard output";
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// True if `path` still leads to `file`.
#[cfg(unix)]
fn is_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        (Ok(_), Err(error)) => error.kind() != io::ErrorKind::NotFound,
        (Err(_), _) => true,
    }
}

/// An open file cannot be renamed here.
#[cfg(not(unix))]
fn is_there(_: &File, _: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_again_leaves_the_old_one_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut outlet = Outlet::open(LogTarget::File(path.clone())).unwrap();
        outlet.write(b"one\n").unwrap();
        let moved = directory.path().join("log.1");
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(outlet.follow().is_err());
        assert!(outlet.follow().is_ok(), "it is looked at once in a while");
        assert!(outlet.is_astray(), "and stays so meanwhile");
        outlet.write(b"two\n").unwrap();
        std::fs::remove_dir(&path).unwrap();
        outlet.reopen().unwrap();
        assert!(!outlet.is_astray());
        outlet.write(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_pipe_in_place_of_a_file_is_refused_at_once_whether_it_is_read_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let mkfifo = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(mkfifo.success());
        let refused = || {
            let error = Outlet::open(LogTarget::File(path.clone())).unwrap_err();
            assert!(error.to_string().starts_with("it is neither a file nor"), "{error}");
        };
        refused();
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        refused();
        drop(reader);
        assert!(Outlet::open(LogTarget::File("/dev/null".into())).is_ok());
    }
}
