use super::shared::SharedStore;
use super::slots::Slots;
use super::*;
use std::time::UNIX_EPOCH;

use crate::clock::Now;
use crate::credential::Credential;
use crate::permissions::Check;
use crate::secret::Secret;
use crate::values::Values;

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
    let secrets = Arc::new(Secrets::resolve(vec![key], Check::Off).await.unwrap());
    let clock = Clock::system();
    {
        let (store, writer) = Store::open(&spec, &secrets, &clock).await.unwrap();
        let running = writer.unwrap().start();
        for (device, value) in [(None, "t"), (Some("a"), "t-a"), (Some("b"), "t-b")] {
            let slot = slot(&store, "plant", device, "d", "p");
            assert_eq!(token(&slot).await, None);
            slot.save(slot.fingerprint(), None, &credential(value, &clock), clock.now(), false)
                .await;
            assert_eq!(token(&slot).await.as_deref(), Some(value));
        }
        let refused = credential("t-b", &clock).values;
        slot(&store, "plant", Some("b"), "d", "p").refuse(&refused, false, clock.now()).await;
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
async fn what_another_process_left_in_a_file_that_it_had_is_there_for_who_claims_next() {
    let directory = tempfile::tempdir().unwrap();
    let key = SecretRef::Value(Secret::new("0123456789abcdef"));
    let path = directory.path().join("tokens");
    let spec = StoreSpec::File { path, key: key.clone() };
    let secrets = Arc::new(Secrets::resolve(vec![key], Check::Off).await.unwrap());
    let clock = Clock::system();
    let save = async |slot: &Slot, value: &str| {
        let credential = credential(value, &clock);
        slot.save(slot.fingerprint(), None, &credential, clock.now(), true).await
    };
    let lease = Duration::from_secs(10);
    let claimed = |claim| match claim {
        Claim::Granted(_, stored) => stored.map(|it| it.values.text("token").unwrap().to_owned()),
        other @ (Claim::Alone | Claim::Held(..)) => panic!("{other:?}"),
    };

    let (store, writer) = Store::open(&spec, &secrets, &clock).await.unwrap();
    let running = writer.unwrap().start();
    let (ours, device) =
        (slot(&store, "plant", None, "d", "p"), slot(&store, "plant", Some("a"), "d", "p"));
    assert_eq!(save(&ours, "t1").await, Saved::Durable);
    assert!(matches!(ours.claim(lease).await, Claim::Alone), "nobody else has ever had it");
    let lender = store.lender();
    lender.lend().await.unwrap();
    let (other, writer) = Store::open(&spec, &secrets, &clock).await.unwrap();
    let others = writer.unwrap().start();
    assert_eq!(save(&slot(&other, "plant", None, "d", "p"), "t2").await, Saved::Durable);
    save(&slot(&other, "plant", Some("a"), "d", "p"), "a2").await;
    assert!(matches!(ours.claim(lease).await, Claim::Held(None, _)), "it is away");

    // Given up, and not gone yet: what it has is not known.
    lender.take_back().await;
    assert!(matches!(ours.claim(lease).await, Claim::Held(None, _)), "its lock is on it");
    others.close().await;
    assert_eq!(claimed(ours.claim(lease).await).as_deref(), Some("t2"));
    assert_eq!(claimed(device.claim(lease).await).as_deref(), Some("a2"));
    assert_eq!(save(&ours, "t3").await, Saved::Durable);
    assert_eq!(claimed(ours.claim(lease).await).as_deref(), Some("t3"), "its own by now");
    running.close().await;
}

#[tokio::test]
async fn without_a_store_nothing_is_kept_and_nothing_is_waited_for() {
    let clock = Clock::system();
    let slot = slot(&Store::default(), "plant", None, "d", "p");
    assert!(!slot.is_durable());
    slot.save(slot.fingerprint(), None, &credential("t", &clock), clock.now(), false).await;
    assert_eq!(token(&slot).await, None);
}

/// Two processes that share a store: the slots of the same credential in each.
fn two_processes() -> (Slot, Slot, SharedStore) {
    let shared = SharedStore::default();
    let slot = || {
        let store = Store::sharing(shared.clone());
        Slot::new(&store, "plant", None, Definition::of(b"d"), Vec::new)
    };
    (slot(), slot(), shared)
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_one_renews_and_the_other_sees_what_it_saved() {
    let clock = Clock::system();
    let (one, two, shared) = two_processes();
    let Claim::Granted(lease, None) = one.claim(Duration::from_secs(10)).await else {
        panic!("the first claim of an empty place is granted");
    };
    let Claim::Held(None, left) = two.claim(Duration::from_secs(10)).await else {
        panic!("a place is leased to one at a time");
    };
    assert!(left <= Duration::from_secs(10));
    let fetched = credential("t-1", &clock);
    let saved = one.save(one.fingerprint(), Some(lease), &fetched, clock.now(), false).await;
    assert_eq!(saved, Saved::Durable);
    assert_eq!(shared.leases(), 0, "saving gives the lease back");
    let Claim::Granted(lease, Some(stored)) = two.claim(Duration::from_secs(10)).await else {
        panic!("it is free again");
    };
    assert_eq!(stored.values, fetched.values);
    two.release(lease).await;
    assert_eq!(shared.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_late_does_not_overwrite_what_was_saved_since() {
    let clock = Clock::system();
    let (one, two, _) = two_processes();
    let Claim::Granted(late, _) = one.claim(Duration::from_secs(10)).await else { panic!() };
    tokio::time::advance(Duration::from_secs(11)).await;
    let Claim::Granted(lease, _) = two.claim(Duration::from_secs(10)).await else {
        panic!("a lease ends by itself");
    };
    let (old, new) = (credential("old", &clock), credential("new", &clock));
    let saved = two.save(two.fingerprint(), Some(lease), &new, clock.now(), false).await;
    assert_eq!(saved, Saved::Durable);
    let saved = one.save(one.fingerprint(), Some(late), &old, clock.now(), false).await;
    assert_eq!(saved, Saved::Superseded);
    assert_eq!(one.load().await.map(|stored| stored.values), Some(new.values));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_removed_but_not_another_that_is_there_by_now() {
    let clock = Clock::system();
    let (one, two, shared) = two_processes();
    let (old, new) = (credential("old", &clock), credential("new", &clock));
    two.save(two.fingerprint(), None, &new, clock.now(), false).await;
    one.refuse(&old.values, false, clock.now()).await;
    assert_eq!(shared.records(), 1);
    one.refuse(&new.values, false, clock.now()).await;
    assert_eq!(shared.records(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_everybody_goes_ahead_alone() {
    let clock = Clock::system();
    let (one, _, shared) = two_processes();
    shared.be_away(true);
    assert!(matches!(one.claim(Duration::from_secs(10)).await, Claim::Alone));
    let fetched = credential("t", &clock);
    let saved = one.save(one.fingerprint(), None, &fetched, clock.now(), false).await;
    assert_eq!(saved, Saved::Unsaved);
    assert!(one.load().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_kept_for_what_renews_it_and_is_never_good_again() {
    let clock = Clock::system();
    let (one, two, shared) = two_processes();
    let (old, new) = (credential("old", &clock), credential("new", &clock));
    two.save(two.fingerprint(), None, &old, clock.now(), true).await;
    one.refuse(&new.values, true, clock.now()).await;
    let restored = two.load().await.unwrap().restore(clock.now());
    assert!(restored.usable, "another was refused");
    one.refuse(&old.values, true, clock.now()).await;
    let stored = two.load().await.unwrap();
    assert_eq!(stored.values, old.values);
    let hours = Duration::from_hours;
    for wall in [clock.wall(), clock.wall() + hours(1), clock.wall() - hours(1)] {
        let at = Now { wall, ..clock.now() };
        assert!(!stored.clone().restore(at).usable, "whatever a clock says");
    }
    // Whoever renews it meanwhile has the last word.
    let Claim::Granted(lease, _) = two.claim(Duration::from_secs(10)).await else { panic!() };
    one.refuse(&old.values, true, clock.now()).await;
    assert_eq!(shared.leases(), 1);
    let saved = two.save(two.fingerprint(), Some(lease), &new, clock.now(), true).await;
    assert_eq!(saved, Saved::Durable);
    one.refuse(&old.values, true, clock.now()).await;
    assert!(two.load().await.unwrap().restore(clock.now()).usable);
    assert_eq!(shared.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_s_place_is_bound_to_its_own_values_in_any_order_of_the_columns() {
    let clock = Clock::system();
    let store = Store::sharing(SharedStore::default());
    let slots = |password: &str| {
        let password = Secret::new(password);
        Slots::new(&store, "plant", Definition::of(b"d"), move || vec![Some(password.clone())])
    };
    let own = |pairs: [(&str, &str); 2]| {
        Values::from_iter(pairs.map(|(name, value)| (name.to_owned(), Secret::new(value))))
    };
    let a = own([("login", "l"), ("password", "p")]);
    let slot = slots("s").of("a", &a);
    slot.save(slot.fingerprint(), None, &credential("t", &clock), clock.now(), false).await;
    let swapped = own([("password", "p"), ("login", "l")]);
    assert_eq!(token(&slots("s").of("a", &swapped)).await.as_deref(), Some("t"));
    assert_eq!(token(&slots("s").of("b", &a)).await, None, "another device");
    assert_eq!(token(&slots("other").of("a", &a)).await, None, "another shared secret");
    for other in [[("login", "l"), ("password", "q")], [("login", "p"), ("password", "l")]] {
        assert_eq!(token(&slots("s").of("a", &own(other))).await, None, "{other:?}");
    }
    assert!(!Slots::default().of("a", &a).is_durable());
}
