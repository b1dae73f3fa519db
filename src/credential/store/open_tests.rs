use super::*;
use std::time::UNIX_EPOCH;

use crate::credential::store::Stored;
use crate::credential::store::seal::Place;
use crate::values::Values;

const KEY: &str = "0123456789abcdef";

fn open_at(path: &Path, key: &str) -> Result<(FileStore, Writer, Sealer), OpenError> {
    open(path, &Secret::new(key), Check::Off, UNIX_EPOCH)
}

fn record(sealer: &Sealer, place: Place, ends: Option<SystemTime>) -> Vec<u8> {
    let stored = Stored {
        values: Values::from_iter([("token", Secret::new("canary"))]),
        fetched: UNIX_EPOCH,
        expires: None,
        lifetime: None,
        clock_skew_ms: None,
    };
    let print = sealer.fingerprint(b"", std::iter::empty());
    sealer.seal(place, print, &stored, ends).unwrap()
}

/// An error's text as a person sees it, with the file's own path taken out.
fn refusal(path: &Path, key: &str) -> String {
    let text = open_at(path, key).unwrap_err().to_string();
    text.replace(&path.display().to_string(), "FILE")
}

#[cfg(unix)]
#[test]
fn a_new_file_is_its_owners_alone_and_nothing_is_left_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    drop(open_at(&path, KEY).unwrap());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["tokens"]);
}

#[test]
fn a_file_that_cannot_be_used_is_left_as_it_is_and_the_message_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    for foreign in [b"".to_vec(), b"[log]\n".to_vec(), vec![0; 1 << 16]] {
        std::fs::write(&path, &foreign).unwrap();
        let text = refusal(&path, KEY);
        assert!(text.starts_with("FILE is not a token store"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), foreign);
    }
    std::fs::remove_file(&path).unwrap();
    drop(Database::create(&path).unwrap());
    assert!(refusal(&path, KEY).starts_with("FILE is not a token store"), "another's database");

    std::fs::remove_file(&path).unwrap();
    drop(open_at(&path, KEY).unwrap());
    let good = std::fs::read(&path).unwrap();
    let text = refusal(&path, "another key, as long");
    assert!(text.starts_with("the key does not fit the token store FILE; put"), "{text}");
    assert!(refusal(&path, "short").contains("openssl rand -base64 32"));
    assert!(open_at(&path, KEY).is_ok(), "the right key still opens it");

    for length in [good.len() / 2, 4096, 64] {
        std::fs::write(&path, &good[..length]).unwrap();
        let text = refusal(&path, KEY);
        assert!(text.starts_with("the token store FILE is damaged"), "{length} bytes: {text}");
        assert_eq!(std::fs::read(&path).unwrap().len(), length, "left as it is");
    }

    let nowhere = directory.path().join("nowhere").join("tokens");
    let text = open_at(&nowhere, KEY).unwrap_err().to_string();
    assert!(text.contains("mkdir -m 700"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_and_places_that_others_can_write_to_are_refused() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let directory = tempfile::tempdir().unwrap();
    set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("tokens");
    let target = directory.path().join("target");
    drop(open_at(&target, KEY).unwrap());
    for leads_to in [target.clone(), directory.path().join("missing")] {
        symlink(leads_to, &path).unwrap();
        assert!(refusal(&path, KEY).contains("FILE is not a file but"));
        std::fs::remove_file(&path).unwrap();
    }
    assert!(open_file(directory.path()).is_err(), "a directory");

    let strict = |path: &Path| open(path, &Secret::new(KEY), Check::Strict, UNIX_EPOCH);
    set_permissions(&target, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(strict(&target), Err(OpenError::Exposed(_, Exposed::Readable))));
    set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
    assert!(strict(&target).is_ok());
    set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let error = strict(&target).unwrap_err();
    assert!(matches!(&error, OpenError::Directory(_, Exposed::Writable)), "{error}");
    assert!(error.to_string().contains("chmod go-w"), "{error}");
}

#[test]
fn a_file_is_for_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let first = open_at(&path, KEY).unwrap();
    let text = refusal(&path, KEY);
    assert_eq!(
        text,
        "the token store FILE is in use by another process; each needs a file of its own"
    );
    drop(first);
    assert!(open_at(&path, KEY).is_ok());
}

#[tokio::test]
async fn records_that_ended_long_ago_are_cleared_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let day = Duration::from_hours(24);
    let ends = UNIX_EPOCH + day;
    let (store, writer, sealer) = open_at(&path, KEY).unwrap();
    let running = writer.start();
    let places = [sealer.place("ends", None), sealer.place("endless", None)];
    for (place, ends) in places.into_iter().zip([Some(ends), None]) {
        store.write(place, record(&sealer, place, ends)).await.unwrap();
    }
    running.close().await;
    for (now, expected) in [(ends + day, [true, true]), (ends + 8 * day, [false, true])] {
        let (store, writer, _) = open(&path, &Secret::new(KEY), Check::Off, now).unwrap();
        let running = writer.start();
        for (place, expected) in places.into_iter().zip(expected) {
            assert_eq!(store.read(place).await.unwrap().is_some(), expected, "{now:?}");
        }
        running.close().await;
    }
}

#[tokio::test]
async fn what_was_asked_for_before_the_end_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let (store, writer, sealer) = open_at(&path, KEY).unwrap();
    let place = |n: usize| sealer.place(&n.to_string(), None);
    let running = writer.start();
    let mut writing = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (store, place) = (store.clone(), place(n));
        let record = record(&sealer, place, None);
        writing.spawn(async move { store.write(place, record).await });
    }
    while let Some(written) = writing.join_next().await {
        written.unwrap().unwrap();
    }
    running.close().await;
    let (store, writer, _) = open_at(&path, KEY).unwrap();
    let running = writer.start();
    for n in 0..100 {
        assert!(store.read(place(n)).await.unwrap().is_some(), "{n}");
    }
    running.close().await;
}
