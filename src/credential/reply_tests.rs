use super::*;
use crate::clock::Clock;
use serde_json::json;
use std::time::UNIX_EPOCH;

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

const NOW_MS: u64 = 1_700_000_000_000;

fn read(spec: &ReplySpec, reply: &Value) -> Result<Credential, FetchError> {
    let time = ReplyTime { sent: Clock::system().now(), midpoint: at(NOW_MS), date: None };
    spec.read(reply.to_string().as_bytes(), time)
}

fn twinzo() -> ReplySpec {
    ReplySpec {
        success: vec![
            Condition { pointer: "/Success".into(), test: Test::Not(json!(false)) },
            Condition { pointer: "/ErrorMessage".into(), test: Test::Empty },
        ],
        values: vec![("token".into(), "/Token".into()), ("client".into(), "/Client".into())],
        expires: Some(Expires::AtMs("/Expiration".into())),
        lifetime: None,
    }
}

fn expiring(expires: Expires) -> ReplySpec {
    ReplySpec { expires: Some(expires), ..ReplySpec::default() }
}

fn lifetime_s(spec: &ReplySpec, reply: &Value) -> Result<u64, FetchError> {
    read(spec, reply).map(|credential| credential.lifetime.unwrap().as_secs())
}

#[test]
fn a_twinzo_reply_yields_its_values_and_lifetime() {
    let reply = json!({"Client": "c", "Token": "t", "Expiration": NOW_MS + 86_400_000,
        "Created": NOW_MS, "Branch": "b"});
    let credential = read(&twinzo(), &reply).unwrap();
    assert_eq!(credential.values.text("token"), Some("t"));
    assert_eq!(credential.values.text("client"), Some("c"));
    assert_eq!(credential.lifetime, Some(Duration::from_secs(86_400)));
}

#[test]
fn a_failure_inside_a_success_status_is_a_refusal_that_names_the_place_only() {
    let token = json!({"Client": "c", "Token": "t", "Expiration": NOW_MS + 1000});
    for (key, value) in [("Success", json!(false)), ("ErrorMessage", json!("canary: no"))] {
        let mut reply = token.clone();
        reply[key] = value;
        let refused = read(&twinzo(), &reply).unwrap_err();
        assert!(refused.is_refusal(), "{key}");
        assert!(refused.to_string().contains(key) && !refused.to_string().contains("canary"));
    }
    let mut fine = token.clone();
    fine["Success"] = json!(true);
    fine["ErrorMessage"] = Value::Null;
    assert!(read(&twinzo(), &fine).is_ok());
}

#[test]
fn every_way_of_writing_an_end_of_life_is_read() {
    let in_s = expiring(Expires::InS("/expires_in".into()));
    assert_eq!(lifetime_s(&in_s, &json!({"expires_in": 3600})).unwrap(), 3600);
    assert_eq!(lifetime_s(&in_s, &json!({"expires_in": "3600"})).unwrap(), 3600);
    assert_eq!(lifetime_s(&in_s, &json!({"expires_in": 3600.5})).unwrap(), 3600);
    let at_s = expiring(Expires::AtS("/e".into()));
    assert_eq!(lifetime_s(&at_s, &json!({"e": NOW_MS / 1000 + 60})).unwrap(), 60);
    let rfc3339 = expiring(Expires::Rfc3339("/e".into()));
    assert_eq!(lifetime_s(&rfc3339, &json!({"e": "2023-11-15T00:13:20+01:00"})).unwrap(), 3600);
    let jwt = expiring(Expires::Jwt("/t".into()));
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": NOW_MS / 1000 + 90}).to_string());
    assert_eq!(lifetime_s(&jwt, &json!({"t": format!("e30.{claims}.sig")})).unwrap(), 90);
}

#[test]
fn absurd_ends_of_life_are_errors() {
    let spec = expiring(Expires::InS("/expires_in".into()));
    for absurd in [json!(0), json!(-1), json!("-5"), json!(1e12), json!(1e300)] {
        let error = lifetime_s(&spec, &json!({"expires_in": absurd})).unwrap_err();
        assert!(matches!(error, FetchError::Reply(ReplyError::Lifetime { .. })), "{absurd}");
    }
    for missing in [json!({}), json!({"expires_in": null}), json!({"expires_in": "soon"})] {
        let error = lifetime_s(&spec, &missing).unwrap_err();
        assert!(matches!(error, FetchError::Reply(ReplyError::Expiry(_))), "{missing}");
    }
}

#[test]
fn a_configured_lifetime_stands_in_for_a_missing_one() {
    let lifetime = Some(Duration::from_secs(600));
    let spec = ReplySpec { lifetime, ..expiring(Expires::InS("/expires_in".into())) };
    assert_eq!(lifetime_s(&spec, &json!({})).unwrap(), 600);
    assert_eq!(lifetime_s(&spec, &json!({"expires_in": 5})).unwrap(), 5, "the reply comes first");
}

#[test]
fn absolute_times_are_read_by_the_clock_that_wrote_them() {
    let spec = expiring(Expires::AtMs("/e".into()));
    let hour_ahead = NOW_MS + 3_600_000;
    let time =
        ReplyTime { sent: Clock::system().now(), midpoint: at(NOW_MS), date: Some(at(hour_ahead)) };
    let reply = json!({"e": hour_ahead + 60_000}).to_string();
    let credential = spec.read(reply.as_bytes(), time).unwrap();
    assert_eq!(credential.lifetime.unwrap().as_secs(), 59, "half a second is added to Date");
    assert_eq!(credential.clock_skew_ms, Some(3_600_500));
}

#[test]
fn empty_html_and_incomplete_replies_are_told_apart() {
    let spec = twinzo();
    let time = ReplyTime { sent: Clock::system().now(), midpoint: at(NOW_MS), date: None };
    let read = |body: &str| match spec.read(body.as_bytes(), time) {
        Err(FetchError::Reply(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(""), ReplyError::Empty);
    assert_eq!(read(" \r\n"), ReplyError::Empty);
    assert_eq!(read("<html>canary</html>"), ReplyError::NotJson);
    assert_eq!(read("{}"), ReplyError::Value("/Token".into()));
    assert_eq!(read(r#"{"Token":""}"#), ReplyError::Value("/Token".into()));
    assert_eq!(read(r#"{"Token":{}}"#), ReplyError::Value("/Token".into()));
}
