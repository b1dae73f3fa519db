use super::testing::RedisServer;
use super::*;
use crate::clock::Clock;
use crate::credential::Credential;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::credential::store::open::OpenError;
use crate::credential::store::running::Running;
use crate::credential::store::seal::Sealer;
use crate::credential::store::{Backend, Claim, Definition, Saved, Slot, Store, StoreSpec};
use crate::permissions::Check;
use crate::secret::Secret;
use crate::values::Values;

/// What a user needs, as the documentation has it.
const PERMITTED: &str = "~countersign:* -@all +evalsha +script|load +time +hget +hmget +hset \
                         +hsetnx +hdel +hstrlen +pttl +pexpire +persist +select +role +info \
                         +cluster|slots";

/// A secret of the tests.
fn value(text: &str) -> SecretRef {
    SecretRef::Value(Secret::new(text))
}

fn spec(port: u16) -> RedisSpec {
    RedisSpec {
        servers: vec![("127.0.0.1".to_owned(), port)],
        topology: Topology::One,
        tls: None,
        database: 0,
        username: None,
        password: None,
        key: value("0123456789abcdef"),
        prefix: "countersign:".to_owned(),
        // As long as may be: only what does not answer at all takes it.
        timeout: Duration::from_secs(4),
        node_ports: Vec::new(),
    }
}

async fn try_open(spec: RedisSpec) -> Result<(Store, Running), OpenError> {
    let references = spec.secrets().cloned().collect();
    let secrets = Arc::new(Secrets::resolve(references, Check::Off).await.unwrap());
    let spec = StoreSpec::Redis(Box::new(spec));
    let (store, task) = Store::open(&spec, &secrets, &Clock::system()).await?;
    Ok((store, task.unwrap().start()))
}

async fn open(spec: RedisSpec) -> (Store, Running) {
    try_open(spec).await.unwrap()
}

async fn refusal(spec: RedisSpec) -> String {
    try_open(spec).await.map(|_| ()).unwrap_err().to_string()
}

fn slot_of(store: &Store, definition: &str) -> Slot {
    Slot::new(store, "plant", None, Definition::of(definition.as_bytes()), Vec::new)
}

fn slot(store: &Store) -> Slot {
    slot_of(store, "d")
}

fn credential(token: &str) -> Credential {
    let lifetime = Duration::from_secs(3_600);
    Credential {
        values: Values::from_iter([("token", Secret::new(token))]),
        expires: Some(Clock::system().now().after(lifetime)),
        lifetime: Some(lifetime),
        clock_skew_ms: None,
    }
}

async fn save(slot: &Slot, token: &str) -> Saved {
    let (credential, now) = (credential(token), Clock::system().now());
    slot.save(slot.fingerprint(), None, &credential, now, false).await
}

async fn token(slot: &Slot) -> Option<String> {
    slot.load().await.map(|stored| stored.values.text("token").unwrap().to_owned())
}

/// Waits until `slot` loads `expected`.
async fn until_loaded(slot: &Slot, expected: Option<&str>) {
    until(async || token(slot).await.as_deref() == expected).await;
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let give_up_at = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < give_up_at, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The one key that a server has beside `countersign:meta`.
fn key_of_place(server: &RedisServer) -> String {
    let keys = server.command(&["KEYS", "countersign:*"]);
    let mut keys = keys.lines().filter(|key| *key != "countersign:meta");
    let key = keys.next().unwrap().to_owned();
    assert_eq!(keys.next(), None);
    key
}

#[tokio::test]
async fn one_process_finds_what_another_saved_with_the_same_definition() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, _one) = open(spec(server.port())).await;
    let (two, _two) = open(spec(server.port())).await;
    assert_eq!(token(&slot(&two)).await, None);
    assert_eq!(save(&slot(&one), "t").await, Saved::Durable);
    assert_eq!(token(&slot(&two)).await.as_deref(), Some("t"));
    assert_eq!(token(&slot_of(&two, "d2")).await, None);
    let (elsewhere, _elsewhere) =
        open(RedisSpec { prefix: "countersign:b:".to_owned(), ..spec(server.port()) }).await;
    assert_eq!(token(&slot(&elsewhere)).await, None);
    slot(&two).refuse(&credential("t").values, false, Clock::system().now()).await;
    assert_eq!(token(&slot(&one)).await, None);
}

#[tokio::test]
async fn of_two_processes_one_is_given_the_lease_and_a_late_one_overwrites_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, _one) = open(spec(server.port())).await;
    let (two, _two) = open(spec(server.port())).await;
    let (one, two) = (slot(&one), slot(&two));
    let lease = Duration::from_secs(600);
    let Claim::Granted(late, None) = one.claim(lease).await else { panic!("free") };
    let Claim::Held(None, left) = two.claim(lease).await else { panic!("held") };
    assert!(left <= lease);
    // As if it had ended.
    server.command(&["HDEL", &key_of_place(&server), "e"]);
    let Claim::Granted(lease, None) = two.claim(lease).await else { panic!("it has ended") };
    let now = Clock::system().now();
    let saved = two.save(two.fingerprint(), Some(lease), &credential("new"), now, false).await;
    assert_eq!(saved, Saved::Durable);
    let saved = one.save(one.fingerprint(), Some(late), &credential("old"), now, false).await;
    assert_eq!(saved, Saved::Superseded);
    assert_eq!(token(&one).await.as_deref(), Some("new"), "nor is it kept for later");
}

#[tokio::test]
async fn what_could_not_be_written_is_written_when_redis_is_back() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, _one) = open(spec(server.port())).await;
    let (two, _two) = open(spec(server.port())).await;
    let (one, two) = (slot(&one), slot(&two));
    assert_eq!(save(&one, "a").await, Saved::Durable);
    server.signal("-STOP");
    for value in ["b", "c"] {
        assert_eq!(save(&one, value).await, Saved::Unsaved);
        assert_eq!(token(&one).await.as_deref(), Some(value), "as if it were written");
    }
    let claim = one.claim(Duration::from_secs(10)).await;
    assert!(matches!(claim, Claim::Alone), "{claim:?}");
    server.signal("-CONT");
    until_loaded(&two, Some("c")).await;
}

#[tokio::test]
async fn while_redis_is_away_whoever_asks_is_told_at_once() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (store, _running) = open(spec(server.port())).await;
    let slot = slot(&store);
    server.signal("-STOP");
    assert_eq!(token(&slot).await, None, "after the time limit");
    // From now on it is known. Each of these would take four seconds.
    let asking = async {
        for _ in 0..1_000 {
            assert_eq!(token(&slot).await, None);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap();
    server.signal("-CONT");
}

#[tokio::test]
async fn what_another_process_saved_meanwhile_is_not_overwritten() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    let (store, _running) = open(spec(port)).await;
    assert_eq!(save(&slot(&store), "a").await, Saved::Durable);
    let key = key_of_place(&server);
    drop(server);
    assert_eq!(save(&slot(&store), "b").await, Saved::Unsaved);
    // Nobody gets in until the other has saved.
    let server = RedisServer::start_at(port, &["--requirepass", "p"]).unwrap();
    // As if made in half a minute.
    let script = "local t = redis.call('TIME') \
                  local v = string.format('%.0f', (t[1] + 30) * 1000000) \
                  redis.call('HSET', KEYS[1], 'r', 'newer', 'v', v)";
    server.command(&["-a", "p", "EVAL", script, "1", &key]);
    server.command(&["-a", "p", "CONFIG", "SET", "requirepass", ""]);
    let Backend::Redis(redis) = &store.0.as_ref().unwrap().backend else { panic!() };
    until(async || matches!(*redis.0.link.borrow(), Link::Here(_))).await;
    assert!(redis.0.pending.undone().is_empty());
    assert_eq!(server.command(&["HGET", &key, "r"]), "newer");
}

#[tokio::test]
async fn what_a_server_forgot_though_it_had_acknowledged_it_is_written_again() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    let (store, _running) = open(spec(port)).await;
    assert_eq!(save(&slot(&store), "a").await, Saved::Durable);
    drop(server);
    // It keeps nothing on a disk, and is as empty as another that takes over too early.
    let server = RedisServer::start_at(port, &[]).unwrap();
    let (other, _other) = open(spec(server.port())).await;
    until_loaded(&slot(&store), Some("a")).await;
    assert_eq!(token(&slot(&other)).await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_record_that_could_not_be_removed_is_not_found_again() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, _one) = open(spec(server.port())).await;
    let (two, _two) = open(spec(server.port())).await;
    assert_eq!(save(&slot(&one), "refused").await, Saved::Durable);
    let Backend::Redis(redis) = &one.0.as_ref().unwrap().backend else { panic!() };
    let place = one.0.as_ref().unwrap().sealer.place("plant", None);
    let record = redis.read(place).await.unwrap().unwrap();
    server.signal("-STOP");
    assert!(redis.remove(place, &record).await.is_err());
    server.signal("-CONT");
    until_loaded(&slot(&two), None).await;
    assert_eq!(token(&slot(&one)).await, None);
}

#[tokio::test]
async fn without_redis_it_opens_and_joins_later() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    drop(server);
    let (store, running) = open(spec(port)).await;
    let slot = slot(&store);
    assert_eq!(token(&slot).await, None);
    assert!(matches!(slot.claim(Duration::from_secs(1)).await, Claim::Alone));
    assert_eq!(save(&slot, "t").await, Saved::Unsaved);
    let server = RedisServer::start_at(port, &[]).unwrap();
    let (other, _other) = open(spec(server.port())).await;
    until_loaded(&self::slot(&other), Some("t")).await;
    running.close().await;
    assert_eq!(save(&slot, "u").await, Saved::Unsaved, "it is closed");
}

#[tokio::test]
async fn what_is_left_undone_is_done_at_the_end() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port();
    let (store, running) = open(spec(port)).await;
    assert_eq!(save(&slot(&store), "a").await, Saved::Durable);
    drop(server);
    assert_eq!(save(&slot(&store), "b").await, Saved::Unsaved);
    let server = RedisServer::start_at(port, &[]).unwrap();
    running.close().await;
    let (other, _other) = open(spec(server.port())).await;
    assert_eq!(token(&slot(&other)).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_connection_that_was_closed_costs_nobody_anything() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (store, _running) = open(spec(server.port())).await;
    let slot = slot(&store);
    for round in 0..3 {
        let value = format!("t{round}");
        assert_eq!(save(&slot, &value).await, Saved::Durable);
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_eq!(token(&slot).await.as_deref(), Some(value.as_str()));
    }
}

#[tokio::test]
async fn a_user_who_may_do_what_the_documentation_lists_can_do_all_of_it() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let words: Vec<&str> = ["ACL", "SETUSER", "proxy", "on", ">canary-password"]
        .into_iter()
        .chain(PERMITTED.split_ascii_whitespace())
        .collect();
    assert_eq!(server.command(&words), "OK");
    let user = RedisSpec {
        username: Some("proxy".to_owned()),
        password: Some(value("canary-password")),
        ..spec(server.port())
    };
    let (store, running) = open(user.clone()).await;
    let slot = slot(&store);
    let Claim::Granted(lease, _) = slot.claim(Duration::from_secs(10)).await else { panic!() };
    slot.release(lease).await;
    assert_eq!(save(&slot, "t").await, Saved::Durable);
    slot.refuse(&credential("t").values, false, Clock::system().now()).await;
    assert_eq!(token(&slot).await, None);
    running.close().await;
    for (permission, refused) in [("-evalsha", true), ("-time", true), ("-info", false)] {
        server.command(&["ACL", "SETUSER", "proxy", permission]);
        let opened = try_open(user.clone()).await.map(|_| ());
        assert_eq!(opened.is_err(), refused, "{permission}: {opened:?}");
        server.command(&["ACL", "SETUSER", "proxy", &permission.replace('-', "+")]);
    }
    let docs = include_str!("../../../../docs/configuration.md");
    assert!(docs.contains(PERMITTED), "the documentation lists something else");
}

#[tokio::test]
async fn what_does_not_pass_by_itself_is_said_at_the_start() {
    let Some(server) = RedisServer::start(&["--requirepass", "canary-right"]) else { return };
    let port = server.port();
    let right = RedisSpec { password: Some(value("canary-right")), ..spec(port) };
    drop(open(right.clone()).await);
    let with_password = |password| RedisSpec { password: Some(value(password)), ..spec(port) };
    let with_key = |key| RedisSpec { key: value(key), ..right.clone() };
    let cli = |words: &[&str]| server.command(&[&["-a", "canary-right"], words].concat());
    for (spec, expected) in [
        (spec(port), "it wants a password, and the configuration has none"),
        (with_password("canary-wrong"), "it does not accept the user name and the password"),
        (with_key("canary-another-key"), "put the former key back, or set another prefix"),
        (with_key("canary"), "openssl rand -base64 32"),
    ] {
        let text = refusal(spec).await;
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
    cli(&["HSET", "countersign:meta", "form", "2"]);
    assert!(refusal(right.clone()).await.contains("by a later version of countersign"));
    cli(&["DEL", "countersign:meta"]);
    cli(&["SET", "countersign:meta", "something"]);
    let text = refusal(right.clone()).await;
    assert!(text.contains("no token store; set another prefix"), "{text}");
    assert!(text.contains(&format!("redis://127.0.0.1:{port}")), "{text}");
    assert_eq!(cli(&["GET", "countersign:meta"]), "something", "left as it is");
}

#[tokio::test]
async fn a_replica_and_a_full_redis_are_away_and_not_wrong() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for (settings, expected) in [
        (["replica-read-only yes", "replicaof 127.0.0.1 1"].as_slice(), "takes no writes"),
        (["maxmemory 1"].as_slice(), "it has no memory left (OOM)"),
    ] {
        for setting in settings {
            let mut words: Vec<&str> = setting.split(' ').collect();
            if words[0] != "replicaof" {
                words.splice(0..0, ["CONFIG", "SET"]);
            }
            assert_eq!(server.command(&words), "OK", "{setting}");
        }
        let (store, _running) = open(spec(server.port())).await;
        let Backend::Redis(redis) = &store.0.as_ref().unwrap().backend else { panic!() };
        until(async || match &*redis.0.link.borrow() {
            Link::Away(failure) => failure.to_string().contains(expected),
            Link::Joining(_) | Link::Here(_) | Link::Closed => false,
        })
        .await;
        server.command(&["REPLICAOF", "NO", "ONE"]);
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
        until(async || matches!(*redis.0.link.borrow(), Link::Here(_))).await;
    }
}

#[test]
fn a_time_of_ours_is_known_on_the_clock_of_redis() {
    let ours = Instant::now();
    let anchor = Anchor { theirs: 1_000_000, ours };
    assert_eq!(anchor.theirs_at(ours + Duration::from_millis(3)), 1_003_000);
    assert_eq!(anchor.theirs_at(ours - Duration::from_millis(3)), 997_000);
}

/// Takes the only place that a server has for clients.
fn occupy(server: &RedisServer) -> std::net::TcpStream {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert!([*b"+PONG", *b"-NOAU"].contains(&answer), "{answer:?}");
    stream
}

#[tokio::test]
async fn a_redis_with_no_room_for_another_client_is_away_and_not_wrong() {
    for password in [None, Some("canary-right")] {
        let mut options = vec!["--maxclients", "1"];
        options.extend(password.iter().flat_map(|password| ["--requirepass", password]));
        let Some(server) = RedisServer::start(&options) else { return };
        let spec = RedisSpec { password: password.map(value), ..spec(server.port()) };
        let occupied = occupy(&server);
        let (store, _running) = open(spec).await;
        let Backend::Redis(redis) = &store.0.as_ref().unwrap().backend else { panic!() };
        // It may close the connection before its words are read.
        until(async || match &*redis.0.link.borrow() {
            Link::Away(failure) => {
                assert!(!failure.is_lasting(), "{failure}");
                failure.to_string().contains("as many clients as it takes")
            }
            Link::Joining(_) | Link::Here(_) | Link::Closed => false,
        })
        .await;
        drop(occupied);
        until(async || matches!(*redis.0.link.borrow(), Link::Here(_))).await;
    }
}

#[tokio::test]
async fn a_password_that_redis_does_not_want_is_said_at_the_start() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let spec = RedisSpec { password: Some(value("canary")), ..spec(server.port()) };
    let text = refusal(spec).await;
    assert!(text.contains("it has no password, and the configuration has one"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn what_another_process_removed_is_not_written_again_by_who_connects_again() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (one, _one) = open(spec(server.port())).await;
    let (two, _two) = open(spec(server.port())).await;
    assert_eq!(save(&slot(&one), "refused").await, Saved::Durable);
    slot(&two).refuse(&credential("refused").values, false, Clock::system().now()).await;
    let Backend::Redis(redis) = &one.0.as_ref().unwrap().backend else { panic!() };
    let number = || match &*redis.0.link.borrow() {
        Link::Here(here) => Some(here.number),
        Link::Joining(_) | Link::Away(_) | Link::Closed => None,
    };
    let before = number().unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until(async || token(&slot(&one)).await.is_none() && number() > Some(before)).await;
    assert_eq!(server.command(&["HEXISTS", &key_of_place(&server), "r"]), "0");
    assert_eq!(token(&slot(&two)).await, None);
    assert_eq!(save(&slot(&two), "another").await, Saved::Durable);
    assert_eq!(token(&slot(&one)).await.as_deref(), Some("another"));
}

#[tokio::test(start_paused = true)]
async fn while_it_is_connected_to_only_the_first_waits() {
    let store = RedisStore::new(&spec(1), &Clock::system());
    let key = Secret::new("0123456789abcdef");
    let place = Sealer::new(&key, b"salt").unwrap().place("plant", None);
    for lost in [None, Some(Failure::Away("closed".to_owned()))] {
        store.0.link.send_replace(Link::Joining(lost));
        for waits in [spec(1).timeout, Duration::ZERO, Duration::ZERO] {
            let begun = Instant::now();
            assert!(matches!(store.read(place).await, Err(StoreError::Away(_))));
            assert!(begun.elapsed().abs_diff(waits) < Duration::from_millis(100), "{waits:?}");
        }
    }
}
