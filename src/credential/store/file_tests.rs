use super::*;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::credential::store::seal::Sealer;
use crate::secret::Secret;

const KEY: &str = "0123456789abcdef";

/// A disk that can be full.
#[derive(Debug, Clone)]
struct Disk {
    bytes: Arc<InMemoryBackend>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        let full = self.full.load(Ordering::SeqCst);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.room()?;
        self.bytes.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.bytes.write(offset, data)
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_nobody_waits_and_what_was_to_be_written_is_written_later() {
    let disk = Disk { bytes: Arc::default(), full: Arc::default() };
    let at = disk.clone();
    let reopen: Opening = Box::new(move || Database::builder().create_with_backend(at.clone()));
    let database = reopen().unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(RECORDS).unwrap();
    transaction.commit().unwrap();
    let (store, writer) = Writer::new(database, reopen);
    let engine = Arc::clone(&writer.engine);
    let running = writer.start();
    let sealer = Sealer::new(&Secret::new(KEY), b"salt").unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|name| sealer.place(name, None));

    store.write(first, b"one".to_vec()).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    assert!(matches!(store.write(second, b"two".to_vec()).await, Err(StoreError::Failed(_))));
    assert!(matches!(store.remove(first).await, Err(StoreError::Failed(_))));
    assert_eq!(store.read(second).await, Ok(Some(b"two".to_vec())), "as if it were written");
    assert_eq!(store.read(first).await, Ok(None));
    tokio::time::sleep(3 * RETRY).await;
    assert!(engine.lock().unwrap().failing);

    disk.full.store(false, Ordering::SeqCst);
    tokio::time::sleep(2 * RETRY).await;
    // Behind whatever is being tried.
    store.read(first).await.unwrap();
    {
        let mut engine = engine.lock().unwrap();
        assert!(!engine.failing && engine.unsaved.is_empty(), "{engine:?}");
        assert_eq!(engine.read(second), Ok(Some(b"two".to_vec())));
        assert_eq!(engine.read(first), Ok(None));
    }
    store.write(third, b"three".to_vec()).await.unwrap();
    running.close().await;
    assert_eq!(store.read(third).await, Err(StoreError::Closed));
    let database = Database::builder().create_with_backend(disk).unwrap();
    assert_eq!(read_one(&database, third).unwrap(), Some(b"three".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_lent_is_another_processs_until_it_is_taken_back() {
    let disk = Disk { bytes: Arc::default(), full: Arc::default() };
    let opened = Arc::new(AtomicUsize::new(0));
    let (at, count) = (disk.clone(), Arc::clone(&opened));
    let reopen: Opening = Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Database::builder().create_with_backend(at.clone())
    });
    let database = reopen().unwrap();
    let (store, writer) = Writer::new(database, reopen);
    let engine = Arc::clone(&writer.engine);
    let running = writer.start();
    let sealer = Sealer::new(&Secret::new(KEY), b"salt").unwrap();
    let [first, second] = ["1", "2"].map(|name| sealer.place(name, None));
    let lender = Lender::new(Some(&store));

    // Whoever fetches is waited for.
    let busy = store.busy();
    let lending = tokio::spawn({
        let lender = lender.clone();
        async move { lender.lend().await }
    });
    tokio::time::sleep(ENDING / 2).await;
    assert!(store.is_lent() && !lending.is_finished());
    store.write(first, b"one".to_vec()).await.unwrap();
    drop(busy);
    assert_eq!(lending.await.unwrap(), Ok(()));
    assert!(engine.lock().unwrap().database.is_none(), "it is closed");
    let theirs = Database::builder().create_with_backend(disk.clone()).unwrap();
    assert_eq!(read_one(&theirs, first).unwrap(), Some(b"one".to_vec()));
    theirs.close().unwrap();
    assert!(matches!(store.read(first).await, Err(StoreError::Away(_))));
    assert!(matches!(store.remove(second).await, Err(StoreError::Away(_))));
    tokio::time::sleep(3 * RETRY).await;
    assert_eq!(opened.load(Ordering::SeqCst), 1, "nobody here opens it");

    lender.take_back().await;
    assert!(!store.is_lent());
    assert_eq!(store.read(first).await, Ok(Some(b"one".to_vec())));
    store.write(second, b"two".to_vec()).await.unwrap();

    // Somebody who does not end keeps it.
    let _busy = store.busy();
    assert!(lender.lend().await.is_err());
    assert!(!store.is_lent());
    assert_eq!(store.read(second).await, Ok(Some(b"two".to_vec())));
    running.close().await;
    assert_eq!(Lender::default().lend().await, Ok(()), "without a store there is nothing to lend");
}
