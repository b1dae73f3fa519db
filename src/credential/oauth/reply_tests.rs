use super::*;
use crate::clock::{Clock, Now};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use proptest::prelude::*;
use serde_json::json;

const BEARER: Expected<'_> = Expected { token_type: "Bearer", lifetime: None, issued: None };

fn answer(status: u16, content: &[u8]) -> TokenAnswer {
    let status = StatusCode::from_u16(status).unwrap();
    let now: Now = Clock::system().now();
    TokenAnswer::of(status, HeaderMap::new(), content, now)
}

fn ok(reply: &Value) -> Result<Granted, FetchError> {
    read(&answer(200, reply.to_string().as_bytes()), BEARER)
}

fn problem(content: &str) -> ReplyError {
    match read(&answer(200, content.as_bytes()), BEARER) {
        Err(FetchError::Reply(error)) => error,
        other => panic!("{content}: {other:?}"),
    }
}

fn lifetime(expires_in: &Value, configured: Option<Duration>) -> Result<f64, FetchError> {
    let reply = json!({ "access_token": "t", "token_type": "bearer", "expires_in": expires_in });
    let expected = Expected { lifetime: configured, ..BEARER };
    let granted = read(&answer(200, reply.to_string().as_bytes()), expected)?;
    Ok(granted.credential.lifetime.unwrap().as_secs_f64())
}

fn seconds(lifetime: &Result<f64, FetchError>) -> u64 {
    Duration::from_secs_f64(*lifetime.as_ref().unwrap()).as_millis().try_into().unwrap()
}

/// RFC 6749 §5.1.
#[test]
fn the_answer_of_the_rfc_is_read() {
    let granted = ok(&json!({
        "access_token": "2YotnFZFEjr1zCsicMWpAA",
        "token_type": "example",
        "expires_in": 3600,
        "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA",
        "example_parameter": "example_value",
    }));
    assert!(granted.is_err(), "of a type that nobody asked for");
    let expected = Expected { token_type: "Example", ..BEARER };
    let reply = json!({
        "access_token": "2YotnFZFEjr1zCsicMWpAA",
        "token_type": "example",
        "expires_in": 3600,
        "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA",
    });
    let granted = read(&answer(200, reply.to_string().as_bytes()), expected).unwrap();
    let values = &granted.credential.values;
    assert_eq!(values.text(ACCESS_TOKEN), Some("2YotnFZFEjr1zCsicMWpAA"));
    assert_eq!(granted.refresh_token, Some(Secret::new("tGzv3JOkF0XG5Qx2TlKWIA")));
    assert_eq!(granted.credential.lifetime, Some(Duration::from_secs(3600)));
    assert!(!format!("{granted:?}").contains("2Yotn"));
}

#[test]
fn lifetimes_are_numbers_however_they_are_written() {
    for (written, milliseconds) in [
        (json!(3600), 3_600_000),
        (json!("3600"), 3_600_000),
        (json!(3600.5), 3_600_500),
        (json!("3600.5"), 3_600_500),
        (json!(1), 1000),
    ] {
        assert_eq!(seconds(&lifetime(&written, None)), milliseconds, "{written}");
    }
}

#[test]
fn a_lifetime_that_is_not_there_is_the_configured_one_or_an_hour() {
    let configured = Some(Duration::from_mins(5));
    assert_eq!(seconds(&lifetime(&Value::Null, None)), 3_600_000);
    assert_eq!(seconds(&lifetime(&Value::Null, configured)), 300_000);
    let without = ok(&json!({ "access_token": "t" })).unwrap();
    assert_eq!(without.credential.lifetime, Some(DEFAULT_LIFETIME), "never for ever");
    for unreadable in [json!("soon"), json!(""), json!([]), json!(true)] {
        assert_eq!(seconds(&lifetime(&unreadable, configured)), 300_000, "{unreadable}");
        let error = lifetime(&unreadable, None).unwrap_err();
        assert_eq!(error, ReplyError::Expiry("/expires_in".to_owned()).into(), "{unreadable}");
    }
}

#[test]
fn absurd_lifetimes_are_errors_that_pass() {
    for absurd in [json!(0), json!(-1), json!("-3600"), json!(1e12), json!(1e300), json!(0.001)] {
        for configured in [None, Some(Duration::from_mins(5))] {
            let error = lifetime(&absurd, configured).unwrap_err();
            let FetchError::Reply(ReplyError::Lifetime { pointer, .. }) = &error else {
                panic!("{absurd}: {error:?}")
            };
            assert_eq!(pointer, "/expires_in");
            assert!(!error.is_refusal());
        }
    }
}

#[test]
fn what_is_no_token_is_an_error_that_passes() {
    assert_eq!(problem(""), ReplyError::Empty);
    assert_eq!(problem(" \r\n"), ReplyError::Empty);
    assert_eq!(problem("<html>canary</html>"), ReplyError::NotJson);
    assert_eq!(problem("{\"access_token\":\"t\""), ReplyError::NotJson, "cut off");
    let missing = ReplyError::Value("/access_token".to_owned());
    for content in ["{}", "[]", "null", "\"t\"", "{\"access_token\":\"\"}", "{\"access_token\":7}"]
    {
        assert_eq!(problem(content), missing, "{content}");
    }
    for token in ["a b", "a\\r\\nX-Injected: b", "\\u0000", "tök", " t", "t\\n"] {
        let error = problem(&format!("{{\"access_token\":\"{token}\"}}"));
        assert_eq!(error, ReplyError::NotVisible("/access_token".to_owned()), "{token}");
    }
}

#[test]
fn only_200_has_a_token() {
    let content = json!({ "access_token": "t" }).to_string();
    for status in [201, 202, 203, 204, 206] {
        let error = read(&answer(status, content.as_bytes()), BEARER).unwrap_err();
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(error, ReplyError::Status(status).into());
    }
}

#[test]
fn types_are_compared_without_regard_to_case() {
    for fine in [json!("Bearer"), json!("bearer"), json!("BEARER"), Value::Null] {
        assert!(ok(&json!({ "access_token": "t", "token_type": fine })).is_ok(), "{fine}");
    }
    for wrong in [json!("DPoP"), json!("mac"), json!(""), json!(1), json!("Bearer ")] {
        let error = ok(&json!({ "access_token": "t", "token_type": wrong })).unwrap_err();
        assert!(matches!(error, FetchError::Reply(ReplyError::Type { .. })), "{wrong}: {error:?}");
        assert!(!error.to_string().contains("DPoP"), "{error}");
    }
}

#[test]
fn an_exchange_issues_what_was_asked_for() {
    const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
    const SAML: &str = "urn:ietf:params:oauth:token-type:saml2";
    let issued = |requested, issued: Option<&str>| {
        let reply = json!({ "access_token": "t", "issued_token_type": issued });
        let expected = Expected { issued: Some(Issued { requested }), ..BEARER };
        read(&answer(200, reply.to_string().as_bytes()), expected).is_ok()
    };
    assert!(issued(None, Some(JWT)));
    assert!(issued(None, Some(BEARABLE[0])));
    assert!(issued(None, None), "many leave it out");
    assert!(!issued(None, Some(SAML)), "it cannot be sent to an API");
    assert!(issued(Some(SAML), Some(SAML)), "as asked for");
    assert!(!issued(Some(JWT), Some(SAML)));
    assert!(!issued(Some(JWT), None));
}

#[test]
fn codes_of_the_rfc_are_refusals_and_nothing_else_of_the_answer_is_told() {
    for (word, status) in [
        ("invalid_request", 400),
        ("invalid_client", 401),
        ("invalid_grant", 400),
        ("unauthorized_client", 400),
        ("unsupported_grant_type", 400),
        ("invalid_scope", 400),
        ("invalid_target", 400),
        ("invalid_client", 400),
    ] {
        let content =
            json!({ "error": word, "error_description": "canary", "error_uri": "canary" });
        let error = read(&answer(status, content.to_string().as_bytes()), BEARER).unwrap_err();
        assert!(error.is_refusal(), "{word}");
        let message = error.to_string();
        assert!(message.contains(word) && !message.contains("canary"), "{message}");
        assert!(!format!("{error:?}").contains("canary"));
    }
    let strange = json!({ "error": "canary" }).to_string();
    let error = read(&answer(400, strange.as_bytes()), BEARER).unwrap_err();
    assert!(error.is_refusal() && !error.to_string().contains("canary"), "{error}");
}

#[test]
fn what_speaks_of_the_moment_passes() {
    for (status, content) in [
        (500, "{\"error\":\"invalid_grant\"}"),
        (503, ""),
        (429, "{\"error\":\"invalid_request\"}"),
        (400, "{\"error\":\"temporarily_unavailable\"}"),
        (400, "{\"error\":\"server_error\"}"),
        (404, "<html>"),
    ] {
        let error = read(&answer(status, content.as_bytes()), BEARER).unwrap_err();
        assert!(!error.is_refusal(), "{status} {content}: {error:?}");
    }
    let mut busy = answer(400, b"{\"error\":\"slow_down\"}");
    busy.headers.insert(RETRY_AFTER, "120".parse().unwrap());
    let error = read(&busy, BEARER).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(120)));
    let redirect = read(&answer(302, b""), BEARER).unwrap_err();
    assert_eq!(redirect, ReplyError::Redirect(StatusCode::FOUND).into());
}

/// A value of any kind, in which what matters is likely.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-10_i64..10_000).prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        "(bearer|invalid_grant|[0-9]{1,12}|-1|1e999|NaN|inf)".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!(["x"])),
    ]
}

proptest! {
    #[test]
    fn a_token_is_visible_and_ends_whatever_is_answered(
        status in 200_u16..600,
        values in proptest::collection::vec(any_value(), 6),
    ) {
        let names =
            ["access_token", "token_type", "expires_in", "refresh_token", "error", "issued_token_type"];
        let reply: Value = names.into_iter().map(str::to_owned).zip(values).collect();
        let granted = read(&answer(status, reply.to_string().as_bytes()), BEARER);
        if let Ok(granted) = granted {
            prop_assert_eq!(status, 200);
            let token = granted.credential.values.text(ACCESS_TOKEN).unwrap();
            prop_assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            let lifetime = granted.credential.lifetime.unwrap();
            prop_assert!(lifetime >= Duration::from_secs(1));
            prop_assert!(lifetime <= Duration::from_hours(87600));
        }
    }

    #[test]
    fn any_bytes_are_read(status in 200_u16..600, content in any::<Vec<u8>>()) {
        prop_assert!(read(&answer(status, &content), BEARER).is_err());
    }
}

#[test]
fn some_say_no_with_200() {
    let error = ok(&json!({ "error": "invalid_grant" })).unwrap_err();
    assert_eq!(error, FetchError::Refused(Refusal::OAuth { code: ErrorCode::InvalidGrant }));
    let error = ok(&json!({ "error": "canary" })).unwrap_err();
    assert_eq!(error, ReplyError::Value("/access_token".to_owned()).into());
}
