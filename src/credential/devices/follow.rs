//! Reading the file of devices again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pool::DevicePool;
use super::source::unreadable;
use super::table::Table;
use super::{DevicesError, Place};
use crate::permissions::Check;
use crate::stamp::Stamp;

/// How many problems of a file are written to the log.
const SHOWN: usize = 10;

/// Reads the file.
pub type Read = Arc<dyn Fn() -> Result<Table, DevicesError> + Send + Sync>;

/// Looks at `file` again and again until stopped, and has `pool` serve what it says. While it is
/// missing or cannot be used, what it said last stays. Meanwhile, unreadable secrets are told.
pub async fn follow<T: Send + Sync + 'static>(
    name: String,
    file: PathBuf,
    read: Read,
    pool: DevicePool<T>,
    check: Check,
    every: Duration,
    stop: CancellationToken,
) {
    // There may be many files of secrets, on a slow disk: the file of devices does not wait for them.
    let telling = async {
        let table = pool.table();
        tell(&name, &file, &unreadable(&table, check).await);
    };
    let reading = read_again(&name, &file, &read, &pool, every);
    tokio::select! {
        ((), ()) = async { tokio::join!(telling, reading) } => {}
        () = stop.cancelled() => {}
    }
}

/// Never returns.
async fn read_again<T: Send + Sync + 'static>(
    name: &str,
    file: &Path,
    read: &Read,
    pool: &DevicePool<T>,
    every: Duration,
) {
    let mut seen: Option<Stamp> = None;
    let mut first = true;
    loop {
        let current = Stamp::of(file).await;
        if current.is_some() && current != seen {
            let reading = Arc::clone(read);
            // Many lines take a while.
            let table = tokio::task::spawn_blocking(move || reading()).await;
            // Written meanwhile: the beginning may be of the old one, the end of the new.
            if Stamp::of(file).await == current {
                match table {
                    // It was read at start, just before.
                    Ok(Ok(table)) if first && same(&table, &pool.table()) => {}
                    Ok(Ok(table)) => {
                        let devices = table.len();
                        pool.replace(table);
                        tracing::info!(credential = %name, devices, "the devices were read again");
                    }
                    Ok(Err(error)) => warn(name, &error),
                    Err(error) => tracing::error!(credential = %name, %error, "reading failed"),
                }
                seen = current;
                first = false;
            }
        } else if current.is_none() && seen.take().is_some() {
            let file = file.display();
            tracing::warn!(credential = %name, %file, "the file of devices is gone; they stay");
        }
        tokio::time::sleep(every).await;
    }
}

fn same(one: &Table, two: &Table) -> bool {
    one.len() == two.len()
        && (0..one.len())
            .all(|row| two.find(one.device(row)).is_some_and(|other| one.is_same(row, two, other)))
}

/// They fail when they are needed; whoever runs the program learns of them before.
fn tell(name: &str, file: &Path, unreadable: &[(Place, String)]) {
    if unreadable.is_empty() {
        return;
    }
    let (file, count) = (file.display(), unreadable.len());
    tracing::warn!(
        credential = %name, %file, secrets = count,
        "secrets of devices cannot be read; requests of these devices will fail"
    );
    for (place, reason) in unreadable.iter().take(SHOWN) {
        tracing::warn!(credential = %name, %file, "{place}: {reason}");
    }
}

fn warn(name: &str, error: &DevicesError) {
    let count = error.problems.len();
    let file = error.file.display();
    tracing::warn!(
        credential = %name, %file, problems = count,
        "the devices cannot be read again; what they were stays in use"
    );
    for problem in error.problems.iter().take(SHOWN) {
        tracing::warn!(credential = %name, %file, "{problem}");
    }
}
