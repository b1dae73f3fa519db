use super::*;
use crate::permissions::Check;
use std::time::UNIX_EPOCH;

fn now(ms: u64) -> Now {
    Now { wall: UNIX_EPOCH + Duration::from_millis(ms), ..Clock::system().now() }
}

fn stored(fetched: u64, lifetime: Option<u64>) -> Stored {
    let fetched = UNIX_EPOCH + Duration::from_secs(fetched);
    let lifetime = lifetime.map(Duration::from_secs);
    Stored {
        values: Values::from_iter([("token", Secret::new("t"))]),
        fetched,
        expires: lifetime.map(|lifetime| fetched + lifetime),
        lifetime,
        clock_skew_ms: Some(0),
    }
}

#[test]
fn a_stored_token_is_usable_until_shortly_before_its_end() {
    let restore = |at: u64| stored(1_000, Some(100)).restore(now(at * 1_000));
    let restored = restore(1_030);
    assert!(restored.usable);
    assert_eq!(restored.age, Duration::from_secs(30));
    let at = now(1_030_000);
    assert_eq!(
        stored(1_000, Some(100)).restore(at).credential.expires.unwrap().remaining(at).as_secs(),
        70
    );
    assert!(restore(1_094).usable);
    assert!(!restore(1_095).usable, "a twentieth of its lifetime is left");
    assert!(!restore(5_000).usable);
    let endless = stored(1_000, None).restore(now(1_000_000_000));
    assert!(endless.usable && endless.credential.expires.is_none());
}

#[test]
fn a_clock_that_is_behind_does_not_keep_an_ended_token_alive() {
    assert!(!stored(100_000, Some(3_600)).restore(now(0)).usable, "a clock that lost its time");
    assert!(stored(100_000, None).restore(now(0)).usable, "what never ends has not");
    let at = now(99_990_000);
    let restored = stored(100_000, Some(3_600)).restore(at);
    assert!(restored.usable, "a little behind");
    let left = restored.credential.expires.unwrap().remaining(at);
    assert_eq!(left.as_secs(), 3_600, "no longer than it lives");
    assert_eq!(restored.age, Duration::ZERO);
}

fn credential(token: &str, clock: &Clock) -> Credential {
    let lifetime = Duration::from_secs(3_600);
    Credential {
        values: Values::from_iter([("token", Secret::new(token))]),
        expires: Some(clock.now().after(lifetime)),
        lifetime: Some(lifetime),
        clock_skew_ms: None,
    }
}

fn slot(store: &Store, name: &str, device: Option<&str>, definition: &str, password: &str) -> Slot {
    let password = Secret::new(password);
    let login = move || vec![Some(password.clone())];
    Slot::new(store, name, device, Definition::of(definition.as_bytes()), login)
}

async fn token(slot: &Slot) -> Option<String> {
    slot.load().await.map(|stored| stored.values.text("token").unwrap().to_owned())
}

#[tokio::test]
async fn what_is_saved_is_there_after_a_restart_for_whom_it_belongs_to() {
    let directory = tempfile::tempdir().unwrap();
    let key = SecretRef::Value(Secret::new("0123456789abcdef"));
    let path = directory.path().join("tokens");
    let spec = StoreSpec::File { path, key: key.clone() };
    let secrets = Secrets::resolve(vec![key], Check::Off).await.unwrap();
    let clock = Clock::system();
    {
        let (store, writer) = Store::open(&spec, &secrets, &clock).await.unwrap();
        let running = writer.unwrap().start();
        for (device, value) in [(None, "t"), (Some("a"), "t-a"), (Some("b"), "t-b")] {
            let slot = slot(&store, "plant", device, "d", "p");
            assert_eq!(token(&slot).await, None);
            slot.save(slot.fingerprint(), &credential(value, &clock), clock.now(), false).await;
            assert_eq!(token(&slot).await.as_deref(), Some(value));
        }
        slot(&store, "plant", Some("b"), "d", "p").remove().await;
        running.close().await;
    }
    let (store, writer) = Store::open(&spec, &secrets, &clock).await.unwrap();
    let running = writer.unwrap().start();
    for (name, device, definition, password, expected) in [
        ("plant", None, "d", "p", Some("t")),
        ("plant", Some("a"), "d", "p", Some("t-a")),
        ("plant", Some("b"), "d", "p", None),
        ("plant", Some("c"), "d", "p", None),
        ("other", None, "d", "p", None),
        ("plant", None, "d2", "p", None),
        ("plant", None, "d", "p2", None),
    ] {
        let found = token(&slot(&store, name, device, definition, password)).await;
        assert_eq!(found.as_deref(), expected, "{name} {device:?} {definition} {password}");
    }
    running.close().await;
}

#[tokio::test]
async fn without_a_store_nothing_is_kept_and_nothing_is_waited_for() {
    let clock = Clock::system();
    let slot = slot(&Store::default(), "plant", None, "d", "p");
    assert!(!slot.is_durable());
    slot.save(slot.fingerprint(), &credential("t", &clock), clock.now(), false).await;
    assert_eq!(token(&slot).await, None);
}
