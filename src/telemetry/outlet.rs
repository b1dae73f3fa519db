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
    /// `None`: standard error or output.
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
    /// When the file cannot be opened.
    pub(super) fn open(target: LogTarget) -> io::Result<Self> {
        let file = if let LogTarget::File(path) = &target { Some(open(path)?) } else { None };
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
                stdout.flush()?;
                Ok(written)
            }
            (None, LogTarget::Stderr | LogTarget::File(_)) => io::stderr().lock().write(bytes),
        }
    }
}

fn count(lines: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', lines).count()
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
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
}
