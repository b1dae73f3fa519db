//! The secrets that the configuration refers to: read at start, read again when a file changes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::credential::secret_ref::SecretRef;
use crate::permissions::{Check, Exposed};
use crate::secret::{Secret, StoredSecretError};
use crate::stamp::Stamp;

/// The largest secret that is read.
const MAX_SECRET: u64 = 64 * 1024;
/// How long reading a file may take: it may be on a disk behind a network.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a command may take to print a secret.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a file is read that changes while it is read.
const MAX_READS: usize = 5;

/// Every secret of a configuration, resolved.
#[derive(Debug)]
pub struct Secrets {
    cells: Vec<Arc<Cell>>,
    /// What was read for a configuration that nobody serves by yet.
    ahead: Arc<ArcSwapOption<Vec<Ahead>>>,
    check: Check,
}

/// A value that is read but not yet everybody's.
#[derive(Debug)]
struct Ahead {
    cell: Arc<Cell>,
    value: Secret,
    /// What was there when it was read.
    before: Arc<Secret>,
}

#[derive(Debug)]
struct Cell {
    reference: SecretRef,
    value: ArcSwap<Secret>,
    /// Counts up whenever the value has changed.
    changed: watch::Sender<u64>,
}

impl Cell {
    fn new(reference: SecretRef, value: Secret) -> Self {
        Self { reference, value: ArcSwap::from_pointee(value), changed: watch::Sender::new(0) }
    }

    /// Sets the value and tells of it, if it is another one: true then.
    fn set(&self, value: Secret) -> bool {
        let changes = value != **self.value.load();
        if changes {
            self.value.store(Arc::new(value));
            tracing::info!(secret = %self.reference, "a secret has changed");
            self.changed.send_modify(|count| *count += 1);
        }
        changes
    }
}

/// Tells when one of several secrets has changed.
#[derive(Debug)]
pub struct Changes(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    changed: watch::Receiver<u64>,
    /// A value that whoever waits has already, before it is everybody's.
    ahead: Option<(Arc<Cell>, Secret)>,
}

impl Watched {
    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        loop {
            self.changed.changed().await?;
            match self.ahead.take() {
                Some((cell, value)) if value == **cell.value.load() => {}
                _ => return Ok(()),
            }
        }
    }
}

impl Changes {
    /// Waits until one of them changes; for ever if none can.
    pub async fn next(&mut self) {
        let mut waiting: Vec<_> =
            self.0.iter_mut().map(|changed| Box::pin(changed.changed())).collect();
        while !waiting.is_empty() {
            let (changed, index, _) = futures_util::future::select_all(waiting.iter_mut()).await;
            if changed.is_ok() {
                return;
            }
            // That one cannot change any more.
            drop(waiting.swap_remove(index));
        }
        std::future::pending::<()>().await;
    }

    /// Forgets changes that were not waited for.
    pub fn mark_seen(&mut self) {
        for Watched { changed, ahead } in &mut self.0 {
            if changed.has_changed().unwrap_or_default() {
                *ahead = None;
            }
            changed.mark_unchanged();
        }
    }
}

impl FromIterator<watch::Receiver<u64>> for Changes {
    fn from_iter<I: IntoIterator<Item = watch::Receiver<u64>>>(changes: I) -> Self {
        Self(changes.into_iter().map(|changed| Watched { changed, ahead: None }).collect())
    }
}

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the secret in the {reference} cannot be read: {reason}")]
pub struct SecretError {
    /// Where it should be.
    pub reference: SecretRef,
    /// Why not.
    #[source]
    pub reason: SecretReason,
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretReason {
    /// There is no such variable.
    #[error("the variable is not set")]
    NotSet,
    /// systemd passed no credentials.
    #[error("$CREDENTIALS_DIRECTORY is not set; add LoadCredential= to the unit")]
    NoCredentialsDirectory,
    /// There is no such file.
    #[error("there is no such file")]
    NoFile,
    /// The file cannot be read.
    #[error("{0}")]
    Io(std::io::ErrorKind),
    /// A pipe or a device, which can be read once or never ends.
    #[error("it is not a regular file, which could be read again")]
    NotAFile,
    /// Somebody writes it again and again.
    #[error("it changes while it is read")]
    Changing,
    /// Reading hangs.
    #[error("reading it took over {} s", FILE_TIMEOUT.as_secs())]
    Slow,
    /// Others can get at the file.
    #[error("{0}, or check_permissions = false lets it be")]
    Exposed(Exposed),
    /// The command failed.
    #[error("the command {0}")]
    Command(String),
    /// What was read is no secret.
    #[error(transparent)]
    Stored(#[from] StoredSecretError),
    /// What was read is too long.
    #[error("it is longer than {MAX_SECRET} bytes")]
    TooLong,
}

impl Secrets {
    /// Reads every secret in `references`, now and whenever it changes, from files that pass `check`.
    ///
    /// # Errors
    /// With every secret that cannot be read, not only the first.
    pub async fn resolve(
        references: Vec<SecretRef>,
        check: Check,
    ) -> Result<Self, Vec<SecretError>> {
        let (secrets, errors) = Self::resolve_or_stand_in(references, check).await;
        if errors.is_empty() { Ok(secrets) } else { Err(errors) }
    }

    /// Reads what can be read, and puts a stand-in for the rest: for showing what would happen.
    pub async fn resolve_or_stand_in(
        references: Vec<SecretRef>,
        check: Check,
    ) -> (Self, Vec<SecretError>) {
        let mut cells: Vec<Arc<Cell>> = Vec::new();
        let mut errors = Vec::new();
        for reference in references {
            if cells.iter().any(|cell| cell.reference == reference) {
                continue;
            }
            let value = match read(&reference, check).await {
                Ok(secret) => secret,
                Err(reason) => {
                    errors.push(SecretError { reference: reference.clone(), reason });
                    Secret::new("missing")
                }
            };
            cells.push(Arc::new(Cell::new(reference, value)));
        }
        (Self { cells, ahead: Arc::default(), check }, errors)
    }

    /// The secrets in `references`, for another configuration: those that are here already stay
    /// what they are, for all who were told to look at them. Those who look at what is returned have
    /// the values that are read now; the others get them by [`publish`](Self::publish). What commands
    /// print is read again only if they `can_run`. The second value says which have changed.
    ///
    /// # Errors
    /// With every secret that cannot be read.
    pub async fn read_again(
        &self,
        references: Vec<SecretRef>,
        can_run: bool,
    ) -> Result<(Self, Vec<SecretRef>), Vec<SecretError>> {
        let mut cells: Vec<Arc<Cell>> = Vec::new();
        let (mut ahead, mut errors) = (Vec::new(), Vec::new());
        for reference in references {
            if cells.iter().any(|cell| cell.reference == reference) {
                continue;
            }
            let known = self.cells.iter().find(|cell| cell.reference == reference).cloned();
            let stays = match &reference {
                // These cannot change.
                SecretRef::Env(_) | SecretRef::Value(_) => true,
                SecretRef::Exec(_) => !can_run,
                SecretRef::File(_) | SecretRef::Systemd(_) => false,
            };
            if let Some(cell) = known.as_ref().filter(|_| stays) {
                cells.push(Arc::clone(cell));
                continue;
            }
            // Before it is read: what is set meanwhile is newer.
            let before = known.as_ref().map(|cell| cell.value.load_full());
            let value = match read_whole(&reference, self.check).await {
                Ok(value) => value,
                Err(reason) => {
                    errors.push(SecretError { reference, reason });
                    continue;
                }
            };
            let Some((cell, before)) = known.zip(before) else {
                cells.push(Arc::new(Cell::new(reference, value)));
                continue;
            };
            if value != *before {
                ahead.push(Ahead { cell: Arc::clone(&cell), value, before });
            }
            cells.push(cell);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let changed = ahead.iter().map(|ahead| ahead.cell.reference.clone()).collect();
        let ahead = (!ahead.is_empty()).then(|| Arc::new(ahead));
        let ahead = Arc::new(ArcSwapOption::new(ahead));
        Ok((Self { cells, ahead, check: self.check }, changed))
    }

    /// Gives the values that were [read again](Self::read_again) to all who look at these secrets.
    pub fn publish(&self) {
        let ahead = self.ahead.load_full();
        for Ahead { cell, value, before } in ahead.iter().flat_map(|ahead| ahead.iter()) {
            // Else somebody else has read it later.
            if Arc::ptr_eq(&cell.value.load(), before) {
                cell.set(value.clone());
            }
        }
        self.ahead.store(None);
    }

    /// Those in `references`, for somebody who needs no others.
    #[must_use]
    pub fn only(&self, references: &[SecretRef]) -> Arc<Self> {
        let cells = self.cells.iter().filter(|cell| references.contains(&cell.reference));
        let (cells, ahead) = (cells.cloned().collect(), Arc::clone(&self.ahead));
        Arc::new(Self { cells, ahead, check: self.check })
    }

    /// Whether files that others can get at are refused.
    pub fn check(&self) -> Check {
        self.check
    }

    /// The current value; `None` for a reference that was not resolved.
    pub fn get(&self, reference: &SecretRef) -> Option<Secret> {
        let cell = self.cells.iter().find(|cell| cell.reference == *reference)?;
        Some(self.ahead_of(cell).unwrap_or_else(|| Secret::clone(&cell.value.load())))
    }

    /// The value that was read of it, as long as it is not everybody's.
    fn ahead_of(&self, cell: &Arc<Cell>) -> Option<Secret> {
        let ahead = self.ahead.load();
        let found = ahead.as_ref()?.iter().find(|ahead| Arc::ptr_eq(&ahead.cell, cell))?;
        Some(found.value.clone())
    }

    /// Tells when one of `references` changes.
    pub fn changes_of(&self, references: &[SecretRef]) -> Changes {
        let cells = self.cells.iter().filter(|cell| references.contains(&cell.reference));
        let watched = |cell: &Arc<Cell>| {
            let changed = cell.changed.subscribe();
            Watched { changed, ahead: self.ahead_of(cell).map(|value| (Arc::clone(cell), value)) }
        };
        Changes(cells.map(watched).collect())
    }

    /// Looks at every secret file again and again until stopped. While a file is missing or
    /// unusable, its last good value stays.
    pub async fn watch(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut seen: Vec<(usize, PathBuf, Option<Stamp>)> = Vec::new();
        for (index, cell) in self.cells.iter().enumerate() {
            if let Some(path) = file_of(&cell.reference) {
                seen.push((index, path, None));
            }
        }
        if seen.is_empty() {
            return;
        }
        loop {
            for (index, path, stamp) in &mut seen {
                let current = Stamp::of(path).await;
                if current.is_some() && current == *stamp {
                    continue;
                }
                let Some(cell) = self.cells.get(*index) else {
                    continue;
                };
                match read(&cell.reference, self.check).await {
                    // Written meanwhile: the beginning may be of the old one, the end of the new.
                    Ok(_) if Stamp::of(path).await != current => {}
                    Ok(secret) => {
                        cell.set(secret);
                        *stamp = current;
                    }
                    Err(reason) if *stamp != current => {
                        tracing::warn!(
                            secret = %cell.reference, %reason,
                            "a secret cannot be read again; its last value stays in use"
                        );
                        *stamp = current;
                    }
                    Err(_) => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// The file that a secret is read from, if it is one.
pub fn file_of(reference: &SecretRef) -> Option<PathBuf> {
    match reference {
        SecretRef::File(path) => Some(path.clone()),
        SecretRef::Systemd(name) => credentials_directory().map(|directory| directory.join(name)),
        SecretRef::Env(_) | SecretRef::Exec(_) | SecretRef::Value(_) => None,
    }
}

fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Reads one secret, now.
///
/// # Errors
/// With the reason why it cannot be read.
pub async fn read(reference: &SecretRef, check: Check) -> Result<Secret, SecretReason> {
    let stored = match reference {
        SecretRef::Value(secret) => return Ok(secret.clone()),
        SecretRef::Env(name) => match std::env::var_os(name) {
            Some(value) => value.into_encoded_bytes(),
            None => return Err(SecretReason::NotSet),
        },
        SecretRef::File(path) => read_file(path, check).await?,
        SecretRef::Systemd(name) => {
            let directory = credentials_directory().ok_or(SecretReason::NoCredentialsDirectory)?;
            read_file(&directory.join(name), check).await?
        }
        SecretRef::Exec(command) => run(command).await?,
    };
    Ok(Secret::from_stored(stored)?)
}

/// The same of a file that nobody writes meanwhile: the beginning may be of the old one, the end of the
/// new.
async fn read_whole(reference: &SecretRef, check: Check) -> Result<Secret, SecretReason> {
    let Some(path) = file_of(reference) else { return read(reference, check).await };
    for _ in 0..MAX_READS {
        let stamp = Stamp::of(&path).await;
        let secret = read(reference, check).await?;
        if Stamp::of(&path).await == stamp {
            return Ok(secret);
        }
    }
    Err(SecretReason::Changing)
}

async fn read_file(path: &Path, check: Check) -> Result<Vec<u8>, SecretReason> {
    let read = tokio::time::timeout(FILE_TIMEOUT, read_regular_file(path, check));
    read.await.unwrap_or(Err(SecretReason::Slow))
}

async fn read_regular_file(path: &Path, check: Check) -> Result<Vec<u8>, SecretReason> {
    let io = |error: std::io::Error| {
        let kind = error.kind();
        let gone = kind == std::io::ErrorKind::NotFound;
        if gone { SecretReason::NoFile } else { SecretReason::Io(kind) }
    };
    // Opening a pipe that nobody writes to would wait, in a thread that nothing can end.
    let there = tokio::fs::metadata(path).await.map_err(io)?;
    if !there.is_file() && !there.is_dir() {
        return Err(SecretReason::NotAFile);
    }
    let file = tokio::fs::File::open(path).await.map_err(io)?;
    // What was opened, whatever is at its place by now.
    let opened = file.metadata().await.map_err(io)?;
    check.secret(path, &opened).map_err(SecretReason::Exposed)?;
    let mut stored = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut stored).await.map_err(io)?;
    within_limit(stored)
}

async fn run(command: &[String]) -> Result<Vec<u8>, SecretReason> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| SecretReason::Command("is empty".to_owned()))?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it complains of may quote the secret.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SecretReason::Command(format!("cannot be started: {}", error.kind())))?;
    let mut stored = Vec::new();
    let stdout = child.stdout.take();
    let finished = tokio::time::timeout(EXEC_TIMEOUT, async {
        if let Some(stdout) = stdout {
            stdout.take(MAX_SECRET + 1).read_to_end(&mut stored).await?;
        }
        child.wait().await
    });
    let finished = finished.await;
    let stored = within_limit(stored)?;
    match finished {
        Ok(Ok(status)) if status.success() => Ok(stored),
        Ok(Ok(status)) => Err(SecretReason::Command(format!("failed: {status}"))),
        Ok(Err(error)) => Err(SecretReason::Command(format!("failed: {}", error.kind()))),
        Err(_) => Err(SecretReason::Command(format!("took over {} s", EXEC_TIMEOUT.as_secs()))),
    }
}

fn within_limit(stored: Vec<u8>) -> Result<Vec<u8>, SecretReason> {
    let length = u64::try_from(stored.len()).unwrap_or(u64::MAX);
    if length > MAX_SECRET { Err(SecretReason::TooLong) } else { Ok(stored) }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
