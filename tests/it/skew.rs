//! A clock that is off: signatures follow the upstream's, and nothing that is said once or out of a
//! cache leads them astray.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use countersign::clock::Clock;
use countersign::mock::StandIn;
use countersign::mock::devo::Options;
use http::Response;
use http_body_util::Full;
use serde_json::Value;

use crate::harness::upstream::answer;
use crate::harness::{
    Connection, Proxy, Upstream, devo, plant, route, secret, sha256, twinzo, until,
};

const HOUR: i64 = 3_600_000;
const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A signature with the domain's key; `more` goes into the route.
fn signed(url: &str, key_secret: &str, more: &str) -> String {
    format!(
        "{ADMIN}[credential.domain]\nkind = \"devo-signature\"\ndomain_api_key = {}\n\
         api_secret = {}\n{}",
        secret("standin-domain-key"),
        secret(key_secret),
        route(url, "domain", more),
    )
}

/// A signature over the time alone, so that content streams.
fn timed(url: &str) -> String {
    format!(
        "{ADMIN}[credential.time]\nkind = \"hmac\"\nkey = {}\nbase = [\"method\", \"timestamp\"]\n\
         set = {{ X-Time = \"{{timestamp}}\", X-Signature = \"{{signature}}\" }}\n{}",
        secret("key"),
        route(url, "time", ""),
    )
}

async fn ahead(ms: i64) -> StandIn {
    let stand_in = devo(Options::default()).await;
    stand_in.switches().set_clock_offset_ms(ms);
    stand_in
}

async fn status(proxy: &Proxy) -> Value {
    let mut connection = Connection::open(proxy.admin()).await;
    connection.send("GET", "/api/status", &[], "").await.json()
}

/// What is told of the only upstream: how far it is ahead, what is corrected, and second signatures.
async fn told(proxy: &Proxy) -> (Option<f64>, f64, u64) {
    let status = status(proxy).await;
    let upstreams = status["upstreams"].as_array().unwrap();
    assert_eq!(upstreams.len(), 1, "{status}");
    let number = |key: &str| upstreams[0][key].as_f64();
    let retries = upstreams[0]["retries"].as_u64().unwrap();
    (number("clock_skew_s"), number("corrected_s").unwrap(), retries)
}

/// Corrections of less than two seconds there are none.
fn near(seconds: f64, hours: i32) -> bool {
    (seconds - f64::from(hours) * 3_600.0).abs() <= 2.0
}

#[tokio::test]
async fn a_machine_an_hour_behind_is_refused_once_and_signs_right_from_the_second_request_on() {
    for hours in [1, -1] {
        let stand_in = ahead(i64::from(hours) * HOUR).await;
        let proxy = Proxy::start(&signed(&stand_in.url(), "standin-domain-secret", "")).await;
        assert_eq!(told(&proxy).await, (None, 0.0, 0));
        let content = "x".repeat(300_000);
        for number in 0..10 {
            // The first one is a POST.
            let (method, content) =
                if number % 2 == 0 { ("POST", content.as_str()) } else { ("GET", "") };
            let reply = proxy.send(method, "/probio/any", &[], content.to_owned()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let recorded = stand_in.recorder().last().unwrap();
            assert_eq!(recorded.body_sha256, sha256(content.as_bytes()), "all of it, again");
            assert_eq!(stand_in.recorder().refused(), 1, "the first alone");
        }
        let (skew, corrected, retries) = told(&proxy).await;
        assert!(near(skew.unwrap(), hours) && near(corrected, hours), "{skew:?} {corrected}");
        assert_eq!(retries, 1);
        // Somebody sets the clock.
        stand_in.switches().set_clock_offset_ms(0);
        for _ in 0..3 {
            assert_eq!(proxy.get("/probio/domain").await.status, 200);
        }
        assert_eq!(stand_in.recorder().refused(), 2);
        assert!(near(told(&proxy).await.1, 0));
    }
}

#[tokio::test]
async fn clocks_that_agree_cost_nothing_and_change_nothing() {
    let stand_in = ahead(0).await;
    let proxy = Proxy::start(&signed(&stand_in.url(), "wrong", "")).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/probio/domain").await.status, 401, "it has other reasons");
    }
    assert_eq!(stand_in.recorder().count(), 3, "none is sent twice");
    assert!(near(told(&proxy).await.1, 0));
}

#[tokio::test]
async fn a_wrong_secret_is_tried_a_second_time_once_and_not_believed() {
    let stand_in = ahead(HOUR).await;
    let proxy = Proxy::start(&signed(&stand_in.url(), "wrong", "")).await;
    for _ in 0..5 {
        let reply = proxy.get("/probio/domain").await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_u64()), (401, Some(12)));
    }
    assert_eq!(stand_in.recorder().count(), 6);
    assert!(near(told(&proxy).await.1, 0));
}

#[tokio::test]
async fn the_route_says_whether_the_clock_is_followed_and_whether_anything_is_sent_twice() {
    for more in ["clock = \"own\"", "replay = { statuses = [] }"] {
        let stand_in = ahead(HOUR).await;
        let proxy = Proxy::start(&signed(&stand_in.url(), "standin-domain-secret", more)).await;
        for count in 1..=2 {
            assert_eq!(proxy.get("/probio/domain").await.status, 401, "{more}");
            assert_eq!(stand_in.recorder().count(), count, "{more}");
        }
        let upstreams = status(&proxy).await["upstreams"].as_array().unwrap().len();
        assert_eq!(upstreams, usize::from(!more.contains("own")));
    }
}

/// An answer with a `Date` that is `ahead`, of a server whose clock `clock` is.
fn dated(status: u16, clock: &Clock, ahead: i64) -> Response<Full<Bytes>> {
    let ms = clock.wall().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let ms = i64::try_from(ms).unwrap() + ahead;
    let date = UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap());
    let mut response = answer(status, "");
    response.headers_mut().insert("date", httpdate::fmt_http_date(date).parse().unwrap());
    response
}

#[tokio::test]
async fn an_answer_out_of_a_cache_says_nothing_about_a_clock() {
    let upstream = Upstream::answering(|_| {
        let mut response = dated(401, &Clock::system(), HOUR);
        response.headers_mut().insert("age", "3".parse().unwrap());
        response
    })
    .await;
    let proxy = Proxy::start(&timed(&upstream.url())).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/x").await.status, 401);
    }
    assert_eq!(upstream.seen().len(), 3);
    assert_eq!(told(&proxy).await, (None, 0.0, 0));
}

#[tokio::test]
async fn a_second_try_that_meets_a_limit_is_not_taken_for_a_signature_that_was_accepted() {
    let number = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |_| {
        let second = number.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        dated(if second { 429 } else { 403 }, &Clock::system(), 10 * HOUR)
    })
    .await;
    let proxy = Proxy::start(&timed(&upstream.url())).await;
    assert_eq!(proxy.get("/x").await.status, 429);
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(told(&proxy).await, (None, 0.0, 1));
}

#[tokio::test]
async fn a_scope_that_does_not_suffice_is_no_reason_to_sign_once_more() {
    let upstream = Upstream::answering(|_| {
        let mut response = dated(403, &Clock::system(), HOUR);
        let challenge = "Bearer error=\"insufficient_scope\"".parse().unwrap();
        response.headers_mut().insert("www-authenticate", challenge);
        response
    })
    .await;
    let proxy = Proxy::start(&timed(&upstream.url())).await;
    assert_eq!(proxy.get("/x").await.status, 403);
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(told(&proxy).await.2, 0);
}

#[tokio::test]
async fn content_that_cannot_be_sent_again_is_not_sent_again() {
    let upstream = Upstream::answering(|_| dated(401, &Clock::system(), HOUR)).await;
    let proxy = Proxy::start(&timed(&upstream.url())).await;
    let large = "x".repeat(1 << 20);
    assert_eq!(proxy.send_chunked("POST", "/x", &[], large).await.status, 401);
    assert_eq!(upstream.seen().len(), 1);
    let (_, _, retries) = told(&proxy).await;
    assert_eq!(retries, 0);
    assert_eq!(proxy.send("POST", "/x", &[], "small").await.status, 401);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3, "what is small is kept");
    assert_eq!((&seen[1].body[..], &seen[2].body[..]), (&b"small"[..], &b"small"[..]));
}

#[tokio::test]
async fn a_date_that_swings_does_not_swing_signatures_and_one_that_stays_is_followed() {
    let offset = Arc::new(AtomicI64::new(0));
    let clock = Clock::shifted(Arc::clone(&offset));
    let (theirs, number, swings) =
        (clock.clone(), AtomicUsize::new(0), Arc::new(AtomicI64::new(1)));
    let swing = Arc::clone(&swings);
    let upstream = Upstream::answering(move |_| {
        let odd = number.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let swing = swing.load(Ordering::Relaxed);
        dated(200, &theirs, if odd && swing == 1 { -2 * HOUR } else { HOUR })
    })
    .await;
    let proxy = Proxy::try_start_at(&timed(&upstream.url()), clock.clone()).await.unwrap();
    let error = || {
        let seen = upstream.seen();
        let signed: i64 = seen.last().unwrap().values("x-time")[0].parse().unwrap();
        let now = clock.wall().duration_since(UNIX_EPOCH).unwrap().as_millis();
        signed - i64::try_from(now).unwrap()
    };
    for _ in 0..20 {
        assert_eq!(proxy.get("/x").await.status, 200);
        assert!(error().abs() < HOUR / 2, "{}", error());
        offset.fetch_add(1_000, Ordering::Relaxed);
    }
    assert!(near(told(&proxy).await.1, 0));
    swings.store(0, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(proxy.get("/x").await.status, 200);
        offset.fetch_add(1_000, Ordering::Relaxed);
    }
    assert!((error() - HOUR).abs() < HOUR / 2, "{}", error());
    assert!(near(told(&proxy).await.1, 1));
}

#[tokio::test]
async fn a_date_beyond_a_day_is_not_followed() {
    let upstream = Upstream::answering(|_| dated(401, &Clock::system(), 30 * 24 * HOUR)).await;
    let proxy = Proxy::start(&timed(&upstream.url())).await;
    assert_eq!(proxy.get("/x").await.status, 401);
    assert_eq!(upstream.seen().len(), 1);
    assert!(near(told(&proxy).await.1, 0));
}

#[tokio::test]
async fn the_clock_of_a_token_endpoint_is_shown() {
    let stand_in = twinzo().await;
    stand_in.switches().set_clock_offset_ms(HOUR);
    let config = plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", "") + ADMIN;
    let proxy = Proxy::start(&config).await;
    until("it is ready", || proxy.identity("plant").cache.is_ready()).await;
    let skew = status(&proxy).await["credentials"][0]["clock_skew_s"].as_f64();
    assert!(near(skew.unwrap(), 1), "{skew:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_said_once_and_in_plain_words() {
    use crate::harness::program::Program;
    let stand_in = ahead(HOUR).await;
    let program = Program::start(&signed(&stand_in.url(), "standin-domain-secret", "")).await;
    for _ in 0..5 {
        let mut connection = Connection::open(program.address()).await;
        let reply = connection.send("GET", "/probio/domain", &[], "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    until("the requests are in the log", || program.requests().len() == 5).await;
    let log = program.log();
    let said: Vec<&Value> =
        log.iter().filter(|line| line.to_string().contains("clock of this machine")).collect();
    assert_eq!(said.len(), 1, "{said:#?}");
    assert_eq!(said[0]["level"], "WARN", "{said:#?}");
    let message = said[0]["message"].as_str().unwrap();
    let (begin, end) = message.split_once(" behind that of ").unwrap();
    // A second more or less is the rounding of Date.
    assert!(
        begin == "the clock of this machine is 1 h 0 min 0 s"
            || begin == "the clock of this machine is 1 h 0 min 1 s"
            || begin == "the clock of this machine is 59 min 59 s",
        "{begin}"
    );
    let words = "; signatures are corrected, but certificates and tokens may not be: set the clock \
                 (NTP)";
    assert_eq!(end, format!("{}{words}", stand_in.address()));
}
