use super::*;
use crate::clock::Clock;
use http::HeaderMap;
use serde_json::json;
use std::cell::RefCell;
use std::collections::VecDeque;

fn answer(status: u16, content: &str) -> TokenAnswer {
    let status = StatusCode::from_u16(status).unwrap();
    TokenAnswer::of(status, HeaderMap::new(), content.as_bytes(), Clock::system().now())
}

/// The answer of the RFC (§3.2), changed.
fn begun(change: impl FnOnce(&mut Value)) -> Result<DeviceAuthorization, FetchError> {
    let mut reply = json!({
        "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://example.com/device",
        "verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT",
        "expires_in": 1800,
        "interval": 5,
    });
    change(&mut reply);
    DeviceAuthorization::read(&answer(200, &reply.to_string()), false)
}

#[test]
fn the_answer_of_the_rfc_is_read() {
    let begun = begun(|_| ()).unwrap();
    assert_eq!(begun.user_code, "WDJB-MJHT");
    assert_eq!(begun.verification_uri, "https://example.com/device");
    let complete = "https://example.com/device?user_code=WDJB-MJHT";
    assert_eq!(begun.verification_uri_complete.as_deref(), Some(complete));
    assert_eq!(begun.expires_in, Duration::from_mins(30));
    assert_eq!(begun.interval, Duration::from_secs(5));
    assert!(!format!("{begun:?}").contains("GmRhmhcxhwAzkoEqiMEg"));
}

#[test]
fn times_that_nobody_should_ask_for_are_bounded() {
    let interval = |value: Value| begun(|reply| reply["interval"] = value).unwrap().interval;
    let seconds = |value: Value| interval(value).as_millis();
    assert_eq!(seconds(Value::Null), 5_000);
    assert_eq!(seconds(json!("soon")), 5_000);
    assert_eq!(seconds(json!("7")), 7_000);
    for (asked, kept) in [(json!(0), 1_000), (json!(-3), 1_000), (json!(1e300), 60_000)] {
        assert_eq!(seconds(asked), kept);
    }
    let lives = |value: Value| begun(|reply| reply["expires_in"] = value).map(|b| b.expires_in);
    assert_eq!(lives(json!(1e300)).unwrap(), Duration::from_mins(30));
    assert_eq!(lives(json!("60")).unwrap(), Duration::from_mins(1));
    for none in [json!(0), json!(-1), json!(0.5), Value::Null, json!("soon")] {
        assert!(matches!(lives(none.clone()), Err(FetchError::Reply(_))), "{none}");
    }
}

#[test]
fn nothing_is_shown_that_a_terminal_would_obey_or_that_leads_astray() {
    for (key, value) in [
        ("user_code", "\u{1b}[2JWDJB"),
        ("user_code", "WDJB\u{9b}31m"),
        ("user_code", "WDJB\nMJHT"),
        ("user_code", "WDJB MJHT"),
        ("user_code", "\u{202e}THJM"),
        ("user_code", ""),
        ("user_code", &"A".repeat(65)),
        ("verification_uri", "https://example.com/\u{1b}]8;;"),
        ("verification_uri", "https://examplе.com/device"),
        ("verification_uri", "http://example.com/device"),
        ("verification_uri", "https://user:password@example.com/device"),
        ("verification_uri", "javascript:alert(1)"),
        ("verification_uri", "example.com/device"),
        ("verification_uri", &format!("https://example.com/{}", "a".repeat(2048))),
        ("verification_uri", ""),
        ("device_code", ""),
    ] {
        let refused = begun(|reply| reply[key] = json!(value));
        assert!(matches!(refused, Err(FetchError::Reply(_))), "{key}: {value:?}");
        let gone = begun(|reply| {
            reply.as_object_mut().unwrap().remove(key);
        });
        assert!(matches!(gone, Err(FetchError::Reply(_))), "{key}");
    }
    for (url, complete) in
        [("http://example.com/device?c=1", None), ("https://h.test/#/d?c=1", Some(()))]
    {
        let begun = begun(|reply| reply["verification_uri_complete"] = json!(url)).unwrap();
        assert_eq!(
            begun.verification_uri_complete.map(drop),
            complete,
            "{url}: left out, or shown"
        );
    }
    let local = begun(|reply| reply["verification_uri"] = json!("http://127.0.0.1:8080/device"));
    assert_eq!(local.unwrap().verification_uri, "http://127.0.0.1:8080/device");
    // As before the RFC.
    let former = begun(|reply| {
        let url = reply.as_object_mut().unwrap().remove("verification_uri").unwrap();
        reply["verification_url"] = url;
    });
    assert_eq!(former.unwrap().verification_uri, "https://example.com/device");
}

#[test]
fn answers_that_begin_nothing_are_failures() {
    let read = |status, content: &str| {
        DeviceAuthorization::read(&answer(status, content), false).unwrap_err()
    };
    let refused = read(400, "{\"error\":\"unauthorized_client\"}");
    assert!(refused.is_refusal() && refused.to_string().contains("may not use this grant"));
    assert!(read(401, "{}").is_refusal());
    assert!(!read(503, "").is_refusal());
    for (status, content) in [(200, "<html>"), (200, ""), (201, "{}"), (204, ""), (200, "[]")] {
        assert!(matches!(read(status, content), FetchError::Reply(_)), "{status} {content}");
    }
}

#[test]
fn what_a_question_is_answered() {
    let polled = |status, content: Value| {
        Polled::<()>::read(&answer(status, &content.to_string()))
            .map(|polled| format!("{polled:?}"))
    };
    for (code, said) in [
        ("authorization_pending", Some("Pending")),
        ("slow_down", Some("SlowDown")),
        ("expired_token", Some("Expired")),
        ("access_denied", Some("Denied")),
        ("invalid_grant", None),
        ("invalid_client", None),
        ("", None),
    ] {
        assert_eq!(polled(400, json!({ "error": code })).as_deref(), said, "{code}");
    }
    assert_eq!(polled(200, json!({ "error": "authorization_pending" })).unwrap(), "Pending");
    let token = json!({ "access_token": "t", "error": "access_denied" });
    assert_eq!(polled(200, token), None);
}

/// A server with a script, and when it was asked.
struct Server {
    script: RefCell<VecDeque<Result<Polled<u8>, FetchError>>>,
    asked: RefCell<Vec<u64>>,
}

/// What comes of it, when it was asked, and when it ended: seconds from the beginning.
async fn run(
    (interval, expires_in): (u64, u64),
    script: impl IntoIterator<Item = Result<Polled<u8>, FetchError>>,
) -> (Result<u8, LoginError>, Vec<u64>, u64) {
    let begin = Instant::now();
    let server =
        Server { script: RefCell::new(script.into_iter().collect()), asked: RefCell::default() };
    let terms = Terms {
        interval: Duration::from_secs(interval),
        expires_in: Duration::from_secs(expires_in),
        timeout: Duration::from_secs(10),
    };
    let granted = poll(terms, async || {
        server.asked.borrow_mut().push(begin.elapsed().as_secs());
        let said = server.script.borrow_mut().pop_front();
        match said {
            // It hangs.
            Some(Err(FetchError::Timeout(_))) => std::future::pending().await,
            Some(said) => said,
            None => Ok(Polled::Pending),
        }
    })
    .await;
    (granted, server.asked.into_inner(), begin.elapsed().as_secs())
}

fn hangs() -> Result<Polled<u8>, FetchError> {
    Err(FetchError::Timeout(Duration::ZERO))
}

fn unavailable(retry_after: Option<u64>) -> Result<Polled<u8>, FetchError> {
    let retry_after = retry_after.map(Duration::from_secs);
    Err(FetchError::Unavailable { status: StatusCode::SERVICE_UNAVAILABLE, retry_after })
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_at_the_interval_until_somebody_approves() {
    let script = [Ok(Polled::Pending), Ok(Polled::Pending), Ok(Polled::Granted(7))];
    assert_eq!(run((5, 600), script).await, (Ok(7), vec![5, 10, 15], 15));
}

#[tokio::test(start_paused = true)]
async fn each_slow_down_makes_it_five_seconds_slower_for_good() {
    let slow = || Ok(Polled::SlowDown);
    let script = [Ok(Polled::Pending), slow(), Ok(Polled::Pending), slow(), Ok(Polled::Pending)];
    let (granted, asked, _) = run((5, 100), script).await;
    assert_eq!(granted, Err(LoginError::Expired));
    assert_eq!(asked, [5, 10, 20, 30, 45, 60, 75, 90]);
}

#[tokio::test(start_paused = true)]
async fn without_answers_it_backs_off_and_comes_back_to_the_interval() {
    let script = [hangs(), hangs(), hangs(), Ok(Polled::Pending), Ok(Polled::Granted(1))];
    let (granted, asked, _) = run((5, 600), script).await;
    assert_eq!(granted, Ok(1));
    // Each takes ten seconds to be given up.
    assert_eq!(asked, [5, 25, 55, 105, 110]);
    let busy = || (0..20).map(|_| unavailable(None));
    let (granted, asked, _) = run((5, 600), busy()).await;
    assert_eq!(granted, Err(LoginError::Expired));
    assert_eq!(asked[..6], [5, 15, 35, 75, 135, 195], "a minute at most");
    let (_, asked, _) = run((5, 600), [unavailable(Some(120)), unavailable(Some(100_000))]).await;
    assert_eq!(asked, [5, 125], "as it asks, and no longer than the code lives");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_what_is_final_and_at_the_latest_with_the_code() {
    for (last, ended) in [
        (Ok(Polled::Expired), LoginError::Expired),
        (Ok(Polled::Denied), LoginError::Denied),
        (Err(refused("invalid_grant")), LoginError::Void),
        (Err(refused("invalid_client")), LoginError::Failed(refused("invalid_client"))),
        (Err(ReplyError::NotJson.into()), LoginError::Failed(ReplyError::NotJson.into())),
    ] {
        let (granted, asked, _) = run((5, 600), [Ok(Polled::Pending), last]).await;
        assert_eq!((granted, asked), (Err(ended), vec![5, 10]));
    }
    for (interval, expires_in, times) in [(5, 23, 4), (60, 30, 0), (1, 1800, 1799)] {
        let (granted, asked, end) = run((interval, expires_in), []).await;
        assert_eq!(granted, Err(LoginError::Expired));
        assert_eq!((asked.len(), end), (times, expires_in));
    }
}

fn refused(code: &str) -> FetchError {
    failure(&answer(400, &json!({ "error": code }).to_string()))
}
