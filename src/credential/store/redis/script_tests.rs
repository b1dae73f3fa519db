use ::redis::aio::MultiplexedConnection;

use super::super::testing::RedisServer;
use super::*;

const LEASE: Duration = Duration::from_secs(60);

/// A server, and one who talks to it.
struct Talk {
    server: RedisServer,
    connection: MultiplexedConnection,
    scripts: Scripts,
}

impl Talk {
    async fn start() -> Option<Self> {
        let server = RedisServer::start(&[])?;
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", server.port())).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Some(Self { server, connection, scripts: Scripts::new() })
    }

    async fn claim(&mut self, owner: &str) -> (Answer, Option<Vec<u8>>) {
        self.scripts.claim(&mut self.connection, "place", LEASE, owner).await.unwrap()
    }

    async fn granted(&mut self, owner: &str) -> u64 {
        match self.claim(owner).await.0 {
            Answer::Granted(fence) => fence,
            held @ Answer::Held(_) => panic!("{held:?}"),
        }
    }

    async fn write(&mut self, record: &str, made: u64, fence: Option<u64>) -> bool {
        let record = (record.as_bytes(), made);
        self.scripts.write(&mut self.connection, "place", record, fence, None).await.unwrap()
    }

    async fn read(&mut self) -> Option<String> {
        let record = self.scripts.read(&mut self.connection, "place").await.unwrap();
        record.map(|record| String::from_utf8(record).unwrap())
    }

    /// Its clock.
    async fn now(&mut self) -> u64 {
        self.scripts.meet(&mut self.connection, "meta", b"1", b"c").await.unwrap().time
    }

    fn ttl(&self) -> i64 {
        self.server.command(&["PTTL", "place"]).parse().unwrap()
    }
}

#[tokio::test]
async fn a_place_is_leased_to_one_at_a_time_and_each_lease_has_a_greater_number() {
    let Some(mut talk) = Talk::start().await else { return };
    let first = talk.granted("one").await;
    let (Answer::Held(left), None) = talk.claim("two").await else { panic!("it is held") };
    assert!(left <= LEASE && left > Duration::ZERO, "{left:?}");
    assert_eq!(talk.granted("one").await, first, "asked again, because no answer came");
    talk.scripts.release(&mut talk.connection, "place", first + 1).await.unwrap();
    assert!(matches!(talk.claim("two").await.0, Answer::Held(_)), "not the number of the lease");
    talk.scripts.release(&mut talk.connection, "place", first).await.unwrap();
    let second = talk.granted("two").await;
    assert!(second > first);
    talk.server.command(&["FLUSHALL"]);
    assert!(talk.granted("three").await > second, "though nothing of the former ones is left");
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_by_saving() {
    let Some(mut talk) = Talk::start().await else { return };
    let short = Duration::from_millis(1);
    let claim = talk.scripts.claim(&mut talk.connection, "place", short, "one").await.unwrap();
    let (Answer::Granted(first), None) = claim else { panic!("{claim:?}") };
    let second = loop {
        if let Answer::Granted(fence) = talk.claim("two").await.0 {
            break fence;
        }
    };
    assert!(second > first);
    let made = talk.now().await;
    assert!(talk.write("a", made, Some(second)).await);
    let (Answer::Granted(_), Some(record)) = talk.claim("three").await else { panic!("free") };
    assert_eq!(record, b"a");
    talk.server.command(&["HSET", "place", "e", "9000000000000000"]);
    assert!(matches!(talk.claim("four").await.0, Answer::Granted(_)), "a clock was set back");
}

#[tokio::test]
async fn the_holder_of_an_earlier_lease_overwrites_nothing() {
    let Some(mut talk) = Talk::start().await else { return };
    let early = talk.granted("one").await;
    talk.server.command(&["HDEL", "place", "e"]);
    let late = talk.granted("two").await;
    let made = talk.now().await;
    assert!(talk.write("new", made, Some(late)).await);
    assert!(!talk.write("old", made + 1_000_000, Some(early)).await);
    assert_eq!(talk.read().await.as_deref(), Some("new"));
    assert!(talk.write("new", made, Some(late)).await, "the same again is no change");
    talk.server.command(&["FLUSHALL"]);
    assert!(
        talk.write("new", made, Some(late)).await,
        "the lease was lost, and nobody has another"
    );
}

#[tokio::test]
async fn without_a_lease_what_was_made_later_counts() {
    let Some(mut talk) = Talk::start().await else { return };
    let now = talk.now().await;
    assert!(talk.write("b", now, None).await);
    assert!(!talk.write("a", now - 1, None).await);
    assert!(!talk.write("a", now, None).await);
    assert!(talk.write("b", now, None).await, "the same again");
    assert!(talk.write("c", now + 1, None).await);
    assert_eq!(talk.read().await.as_deref(), Some("c"));
    let fence = talk.granted("one").await;
    let later = talk.now().await;
    assert!(talk.write("d", later, None).await, "whoever has the lease does not have it yet");
    assert!(talk.write("e", later + 1, Some(fence)).await);
    assert!(!talk.write("d", later, None).await);
    assert_eq!(talk.read().await.as_deref(), Some("e"));
    talk.server.command(&["HSET", "place", "v", "9000000000000000"]);
    assert!(talk.write("f", later + 2, None).await, "a clock was set back");
}

#[tokio::test]
async fn only_the_record_that_was_refused_is_removed() {
    let Some(mut talk) = Talk::start().await else { return };
    let now = talk.now().await;
    talk.write("a", now, None).await;
    talk.scripts.remove(&mut talk.connection, "place", b"b").await.unwrap();
    assert_eq!(talk.read().await.as_deref(), Some("a"));
    talk.granted("one").await;
    talk.scripts.remove(&mut talk.connection, "place", b"a").await.unwrap();
    assert_eq!(talk.read().await, None);
    assert!(matches!(talk.claim("two").await.0, Answer::Held(_)), "the lease is another matter");
    assert!((86_000_000..=86_400_000).contains(&talk.ttl()), "what it was is known for a day");
    assert_eq!(talk.server.command(&["HEXISTS", "place", "r"]), "0");
}

#[tokio::test]
async fn redis_clears_up_by_itself() {
    let Some(mut talk) = Talk::start().await else { return };
    let now = talk.now().await;
    talk.granted("one").await;
    assert!(talk.ttl() > 60_000, "a lease alone");
    talk.server.command(&["FLUSHALL"]);
    let day = Duration::from_hours(24);
    let record = (b"a".as_slice(), now);
    talk.scripts.write(&mut talk.connection, "place", record, None, Some(day)).await.unwrap();
    assert!((86_000_000..=86_400_000).contains(&talk.ttl()), "a record with an end");
    talk.granted("one").await;
    assert!((86_000_000..=86_400_000).contains(&talk.ttl()), "a lease does not prolong it");
    talk.server.command(&["PEXPIRE", "place", "1000"]);
    talk.server.command(&["HDEL", "place", "e"]);
    talk.granted("two").await;
    assert!(talk.ttl() > 60_000, "as long as the lease");
    talk.write("b", now + 1, None).await;
    assert_eq!(talk.ttl(), -1, "a record without an end");
    talk.server.command(&["HDEL", "place", "e"]);
    talk.granted("three").await;
    assert_eq!(talk.ttl(), -1);
}

#[tokio::test]
async fn the_first_to_come_founds_the_store() {
    let Some(mut talk) = Talk::start().await else { return };
    for check in [b"first", b"later"] {
        let meeting = talk.scripts.meet(&mut talk.connection, "meta", b"1", check).await.unwrap();
        assert_eq!((meeting.form.as_slice(), meeting.check.as_slice()), (&b"1"[..], &b"first"[..]));
        assert!(meeting.time > 1_700_000_000_000_000, "microseconds");
    }
    assert_eq!(talk.server.command(&["TTL", "meta"]), "-1");
}

#[tokio::test]
async fn what_is_too_long_to_be_ours_is_not_fetched() {
    let Some(mut talk) = Talk::start().await else { return };
    for (length, expected) in [(LONGEST_RECORD, true), (LONGEST_RECORD + 1, false)] {
        let script = "redis.call('HSET', KEYS[1], 'r', string.rep('x', ARGV[1]))";
        talk.server.command(&["EVAL", script, "1", "place", &length.to_string()]);
        assert_eq!(talk.read().await.is_some(), expected, "{length}");
        assert_eq!(talk.claim("one").await.1.is_some(), expected, "{length}");
    }
}

#[tokio::test]
async fn what_was_removed_is_not_written_again_and_hinders_nobody() {
    let Some(mut talk) = Talk::start().await else { return };
    let now = talk.now().await;
    assert!(talk.write("a", now, None).await);
    talk.scripts.remove(&mut talk.connection, "place", b"a").await.unwrap();
    assert!(!talk.write("a", now, None).await);
    assert!(!talk.write("a", now + 1_000, None).await, "though clocks are read a bit differently");
    assert!(!talk.write("z", now - 1, None).await, "one before it");
    assert_eq!(talk.read().await, None);
    let (Answer::Granted(fence), None) = talk.claim("one").await else { panic!("free, no record") };
    assert!(talk.ttl() > 86_000_000, "a lease does not shorten it");
    assert!(!talk.write("a", now, Some(fence)).await);
    let made = talk.now().await;
    assert!(talk.write("b", made, Some(fence)).await);
    assert_eq!((talk.read().await.as_deref(), talk.ttl()), (Some("b"), -1));
    talk.scripts.remove(&mut talk.connection, "place", b"b").await.unwrap();
    let made = talk.now().await;
    assert!(talk.write("c", made, None).await, "without a lease");
    talk.server.command(&["FLUSHALL"]);
    talk.scripts.remove(&mut talk.connection, "place", b"c").await.unwrap();
    assert!(!talk.write("c", made, None).await, "this server had not heard of it");
    assert!(talk.write("d", made, None).await);
}

#[tokio::test]
async fn who_asks_for_a_short_lease_waits_for_a_long_one() {
    let Some(mut talk) = Talk::start().await else { return };
    let (scripts, connection) = (&talk.scripts, &mut talk.connection);
    let long = scripts.claim(connection, "place", LONGEST_LEASE, "one").await.unwrap().0;
    assert!(matches!(long, Answer::Granted(_)), "{long:?}");
    let second = Duration::from_secs(1);
    let short = scripts.claim(connection, "place", second, "two").await.unwrap().0;
    assert!(matches!(short, Answer::Held(_)), "{short:?}");
}
