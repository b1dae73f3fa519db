//! What token endpoints say, and what stores of secrets hold.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use serde_json::{Value, json};

use super::flags;
use crate::clock::{Clock, Now};
use crate::credential::FetchError;
use crate::credential::http::parse_retry_after;
use crate::credential::reply::{Condition, Expires, ReplySpec, ReplyTime, Test};
use crate::credential::schedule::retry_after;
use crate::secret::Secret;

const NOW_MS: u64 = 1_700_000_000_000;
const TEN_YEARS: Duration = Duration::from_hours(87_600);

fn spec(flags: u8) -> ReplySpec {
    let condition = |pointer: &str, test| Condition { pointer: pointer.to_owned(), test };
    let expires = match flags & 7 {
        0 => Some(Expires::AtMs("/Expiration".to_owned())),
        1 => Some(Expires::AtS("/e".to_owned())),
        2 => Some(Expires::InS("/expires_in".to_owned())),
        3 => Some(Expires::Rfc3339("/e".to_owned())),
        4 => Some(Expires::Jwt("/Token".to_owned())),
        5 => Some(Expires::InS("/deep/0/e".to_owned())),
        _ => None,
    };
    let value = |name: &str, pointer: &str| (name.to_owned(), pointer.to_owned());
    ReplySpec {
        success: vec![
            condition("/Success", Test::Not(json!(false))),
            condition("/ErrorMessage", Test::Empty),
        ],
        values: vec![value("token", "/Token"), value("client", "/Client")],
        lifetime: (flags & 7 == 5).then_some(Duration::from_mins(10)),
        expires,
    }
}

/// Replies. Flags: 1, 2 and 4 where the end of life is, 8 another clock.
pub fn reply(bytes: &[u8]) {
    let Some((flags, body)) = flags(bytes) else { return };
    let spec = spec(flags);
    let wall = UNIX_EPOCH + Duration::from_millis(NOW_MS);
    let sent = Now { wall, ..Clock::system().now() };
    let date = (flags & 8 != 0).then(|| wall + Duration::from_hours(1));
    let read = spec.read(body, ReplyTime { sent, midpoint: wall, date });
    let shown = match &read {
        Ok(credential) => format!("{credential:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!shown.contains("canary"), "{shown}");
    let reply: Option<Value> = serde_json::from_slice(body).ok();
    let refused = reply.as_ref().is_some_and(|reply| {
        let fails = reply.pointer("/Success") == Some(&Value::Bool(false));
        let says = match reply.pointer("/ErrorMessage") {
            None | Some(Value::Null) => false,
            Some(message) => message != "",
        };
        fails || says
    });
    let credential = match read {
        Ok(credential) => credential,
        Err(error) => {
            assert_eq!(error.is_refusal(), refused, "{error}");
            return;
        }
    };
    assert!(!refused, "a failure is taken for a token");
    let reply = reply.expect("what is read is JSON");
    for (name, pointer) in &spec.values {
        let text = match reply.pointer(pointer).expect("there is a value") {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            other => panic!("{other} is taken for a text"),
        };
        assert!(!text.is_empty());
        assert_eq!(credential.values.text(name), Some(&*text));
    }
    assert_eq!(credential.lifetime.is_some(), spec.expires.is_some());
    if let Some(lifetime) = credential.lifetime {
        assert!(!lifetime.is_zero() && lifetime <= TEN_YEARS, "{lifetime:?}");
        let end = credential.expires.expect("it ends");
        assert_eq!(end.wall, wall + lifetime);
        assert_eq!(end.monotonic, sent.monotonic + lifetime);
        assert!(!end.is_over(sent));
        let seconds = |pointer| reply.pointer(pointer).and_then(Value::as_f64);
        if let (Some(Expires::InS(pointer)), None) = (&spec.expires, spec.lifetime)
            && let Some(said) = seconds(pointer)
        {
            assert!((lifetime.as_secs_f64() - said).abs() < 0.01, "{said} became {lifetime:?}");
        }
    }
    assert_eq!(credential.clock_skew_ms.is_some(), flags & 8 != 0);
}

/// `Retry-After`, dates, and how long is waited after a failure.
pub fn times(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let date = httpdate::parse_http_date(text.trim());
    if let Ok(date) = date {
        let written = httpdate::fmt_http_date(date);
        assert_eq!(httpdate::parse_http_date(&written).ok(), Some(date), "{text}");
    }
    let wait = parse_retry_after(text, now);
    let digits = text.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = digits.bytes().try_fold(0_u64, |number, digit| {
            number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        });
        assert_eq!(wait, Some(Duration::from_secs(number.unwrap_or(u64::MAX))));
    } else {
        let expected = date.ok().map(|date| date.duration_since(now).unwrap_or_default());
        assert_eq!(wait, expected, "{text}");
    }
    let status = StatusCode::TOO_MANY_REQUESTS;
    let error = FetchError::Unavailable { status, retry_after: wait };
    for (failures, random) in [(1, 0.0), (7, 0.5), (u32::MAX, 1.0)] {
        let pause = retry_after(&error, failures, random);
        let believed = wait.unwrap_or_default().min(Duration::from_mins(10));
        assert!(pause >= believed, "{pause:?} after {text}");
        assert!(pause > Duration::ZERO && pause <= Duration::from_mins(10), "{pause:?}");
    }
}

/// Secrets as files and commands hold them.
pub fn secret(bytes: &[u8]) {
    // The only secrets of several lines.
    let is_pem = |text: &[u8]| {
        let last = text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        text.starts_with(b"-----BEGIN ") && last.is_some_and(|line| line.starts_with(b"-----END "))
    };
    let one_break_less = bytes.strip_suffix(b"\r\n").or(bytes.strip_suffix(b"\n")).unwrap_or(bytes);
    let usable = std::str::from_utf8(bytes).is_ok()
        && !one_break_less.is_empty()
        && !one_break_less.contains(&0)
        && (is_pem(one_break_less) || !one_break_less.iter().any(|byte| b"\r\n".contains(byte)));
    match Secret::from_stored(bytes.to_vec()) {
        Ok(secret) => {
            assert!(usable, "{bytes:?} is taken");
            assert_eq!(secret.expose().as_bytes(), one_break_less);
            assert_eq!(format!("{secret:?}"), "Secret(***)");
            assert_eq!(secret, Secret::new(secret.expose()));
            assert_ne!(secret, Secret::new(format!("{}x", secret.expose())));
        }
        Err(error) => {
            assert!(!usable, "{bytes:?}: {error}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary"), "{shown}");
        }
    }
}
