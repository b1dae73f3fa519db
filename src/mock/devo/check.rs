//! Judges the credentials of a request, its signature included.

use std::borrow::Cow;

use super::{super::faults::whole_ms, super::sole, Options, Verifier};
use http::{HeaderMap, header};

const STANDALONE: &str = "standalonetoken";
const TIMESTAMP: &str = "x-logtrust-timestamp";
const SIGN: &str = "x-logtrust-sign";
const KEY: &str = "x-logtrust-apikey";
const DOMAIN_KEY: &str = "x-logtrust-domain-apikey";
const RESELLER_KEY: &str = "x-logtrust-reseller-apikey";

/// The APIs, as far as they differ in the credentials they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// A signature with the domain's or the reseller's key, or a token.
    Provisioning,
    /// A signature with the plain key, a Bearer token, or a token.
    Query,
    /// A Bearer token or a token.
    Alerts,
    /// A token.
    Other,
}

impl Area {
    fn key_fields(self) -> &'static [&'static str] {
        match self {
            Self::Provisioning => &[RESELLER_KEY, DOMAIN_KEY],
            Self::Query => &[KEY],
            Self::Alerts | Self::Other => &[],
        }
    }

    fn takes_bearer(self) -> bool {
        matches!(self, Self::Query | Self::Alerts)
    }
}

/// Why a request was refused, by the answer it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No credential, or a wrong token.
    Unauthorized(Cow<'static, str>),
    /// Anything wrong with a signature or with the set of fields.
    Signature(Cow<'static, str>),
}

/// What is known before the content was read.
#[derive(Debug)]
pub(super) enum Judgement {
    /// The content does not matter.
    Settled(Result<Cow<'static, str>, Refusal>),
    /// One of the candidates must turn out to have signed.
    Open { candidates: Vec<(&'static str, Verifier)>, timestamp: Vec<u8>, sign: Vec<u8> },
}

impl Judgement {
    /// Takes the next piece of content.
    pub(super) fn absorb(&mut self, chunk: &[u8]) {
        match self {
            Self::Settled(_) => {}
            Self::Open { candidates, .. } => {
                for (_, verifier) in candidates {
                    verifier.absorb(chunk);
                }
            }
        }
    }

    /// The verdict, once the content was read to its end.
    pub(super) fn close(self) -> Result<Cow<'static, str>, Refusal> {
        let (candidates, timestamp, sign) = match self {
            Self::Settled(verdict) => return verdict,
            Self::Open { candidates, timestamp, sign } => (candidates, timestamp, sign),
        };
        candidates
            .into_iter()
            .find_map(|(field, verifier)| verifier.accepts(&timestamp, &sign).then_some(field))
            .map(|field| format!("signature of the {} is right", name(field)).into())
            .ok_or(Refusal::Signature(Cow::Borrowed("the signature is wrong")))
    }
}

/// Judges the fields of a request to `area`.
pub(super) fn open(options: &Options, area: Area, fields: &HeaderMap, now_ms: i64) -> Judgement {
    judge(options, area, fields, now_ms).unwrap_or_else(|refusal| Judgement::Settled(Err(refusal)))
}

fn judge(
    options: &Options,
    area: Area,
    fields: &HeaderMap,
    now_ms: i64,
) -> Result<Judgement, Refusal> {
    let take = |name| sole(fields, name).map_err(|flaw| Refusal::Signature(flaw.into()));
    let standalone = take(STANDALONE)?;
    let authorization = take(header::AUTHORIZATION.as_str())?;
    // The vendor's Python client sends a timestamp beside a Bearer token, too.
    let with_bearer = authorization.is_some() && area.takes_bearer();
    let mut signed = false;
    for field in fields.keys().map(header::HeaderName::as_str) {
        if field.starts_with("x-logtrust-") {
            let known = field == TIMESTAMP || field == SIGN || area.key_fields().contains(&field);
            if !known {
                return wrong(format!("{field} does not belong to this API"));
            }
            signed |= !(with_bearer && field == TIMESTAMP);
        }
    }
    match (standalone, authorization, signed) {
        (None, None, false) => Err(Refusal::Unauthorized("no credential was sent".into())),
        (Some(token), None, false) => Ok(Judgement::Settled(judge_token(
            token == options.standalone_token.as_bytes(),
            "standAloneToken",
        ))),
        (None, Some(value), false) => {
            if !area.takes_bearer() {
                return wrong("Authorization does not belong to this API");
            }
            let is_right = value.strip_prefix(b"Bearer ") == Some(options.bearer_token.as_bytes());
            Ok(Judgement::Settled(judge_token(is_right, "Bearer token")))
        }
        (None, None, true) => signature(options, area, &take, now_ms),
        (Some(_), Some(_), _) | (Some(_), _, true) | (_, Some(_), true) => {
            wrong("more than one kind of credential was sent")
        }
    }
}

fn judge_token(is_right: bool, what: &str) -> Result<Cow<'static, str>, Refusal> {
    if is_right {
        Ok(format!("{what} is right").into())
    } else {
        Err(Refusal::Unauthorized(format!("{what} is unknown").into()))
    }
}

fn signature<'a>(
    options: &Options,
    area: Area,
    take: &impl Fn(&'static str) -> Result<Option<&'a [u8]>, Refusal>,
    now_ms: i64,
) -> Result<Judgement, Refusal> {
    let Some(timestamp) = take(TIMESTAMP)? else {
        return wrong("x-logtrust-timestamp is missing");
    };
    let Some(sign) = take(SIGN)? else {
        return wrong("x-logtrust-sign is missing");
    };
    let Some(signed_at) = milliseconds(timestamp) else {
        return wrong("x-logtrust-timestamp is not a decimal number of milliseconds");
    };
    if let Some(max_skew) = options.max_skew
        && signed_at.abs_diff(now_ms) > whole_ms(max_skew).unsigned_abs()
    {
        return wrong("x-logtrust-timestamp is too far from the stand-in's clock");
    }
    let mut candidates = Vec::new();
    for field in area.key_fields().iter().copied() {
        if let Some(key) = take(field)? {
            let before = candidates.len();
            for secret in secrets(options, field, key) {
                candidates.push((field, Verifier::new(key, secret.as_bytes())));
            }
            if candidates.len() == before {
                return wrong(format!("the key in {field} is unknown"));
            }
        }
    }
    if candidates.is_empty() {
        return wrong("no key was sent");
    }
    Ok(Judgement::Open { candidates, timestamp: timestamp.to_vec(), sign: sign.to_vec() })
}

/// The secrets of a key, if it may stand in that field.
fn secrets<'a>(options: &'a Options, field: &str, key: &[u8]) -> impl Iterator<Item = &'a str> {
    let own = match field {
        DOMAIN_KEY => (&options.domain_api_key, &options.domain_api_secret),
        RESELLER_KEY => (&options.reseller_api_key, &options.reseller_api_secret),
        _ => (&options.api_key, &options.api_secret),
    };
    let further = options.keys.iter().map(|(key, secret)| (key, secret));
    std::iter::once(own)
        .chain(further)
        .filter(move |(known, _)| known.as_bytes() == key)
        .map(|(_, secret)| secret.as_str())
}

fn name(field: &str) -> &'static str {
    match field {
        DOMAIN_KEY => "domain key",
        RESELLER_KEY => "reseller key",
        _ => "query key",
    }
}

/// Digits only: what is signed is the text, and a sign or a space in it would not be a number to
/// everyone.
fn milliseconds(text: &[u8]) -> Option<i64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn wrong<T>(verdict: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal::Signature(verdict.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use http::{HeaderName, HeaderValue};
    use ring::hmac;

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    /// The verdict on a request without content.
    fn verdict(options: &Options, area: Area, sent: &[(&str, &str)]) -> Result<String, Refusal> {
        let mut fields = HeaderMap::new();
        for (name, value) in sent {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        open(options, area, &fields, NOW).close().map(Cow::into_owned)
    }

    fn sign(key: &str, secret: &str, timestamp: &str) -> String {
        let key_and_time = format!("{key}{timestamp}");
        hex::encode(hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            key_and_time.as_bytes(),
        ))
    }

    fn signature_refused(result: Result<String, Refusal>, part: &str) {
        match result {
            Err(Refusal::Signature(verdict)) if verdict.contains(part) => {}
            other => panic!("expected a refusal with {part:?}, got {other:?}"),
        }
    }

    #[test]
    fn each_token_is_accepted_where_it_belongs_and_nowhere_else() {
        let options = Options::default();
        let bearer = format!("Bearer {}", options.bearer_token);
        for area in [Area::Provisioning, Area::Query, Area::Alerts, Area::Other] {
            let token = [("standAloneToken", options.standalone_token.as_str())];
            assert_eq!(verdict(&options, area, &token), Ok("standAloneToken is right".to_owned()));
            let by_bearer = verdict(&options, area, &[("Authorization", &bearer)]);
            assert_eq!(by_bearer.is_ok(), area.takes_bearer());
        }
        let beside = [("Authorization", bearer.as_str()), (TIMESTAMP, "1700000000000")];
        assert!(verdict(&options, Area::Query, &beside).is_ok());
        for wrong in ["Bearer other", "jwt other", "standin-bearer-token"] {
            let refused = verdict(&options, Area::Query, &[("Authorization", wrong)]);
            assert_eq!(refused, Err(Refusal::Unauthorized("Bearer token is unknown".into())));
        }
        assert_eq!(
            verdict(&options, Area::Other, &[]),
            Err(Refusal::Unauthorized("no credential was sent".into()))
        );
    }

    #[test]
    fn either_provisioning_key_may_sign_when_both_are_sent() {
        let options = Options::default();
        let keys = [
            (DOMAIN_KEY, options.domain_api_key.as_str()),
            (RESELLER_KEY, options.reseller_api_key.as_str()),
        ];
        let by_domain = sign(&options.domain_api_key, &options.domain_api_secret, "1");
        let by_reseller = sign(&options.reseller_api_key, &options.reseller_api_secret, "1");
        let crossed = sign(&options.reseller_api_key, &options.domain_api_secret, "1");
        let ask = |sent: &[(&str, &str)], sign: &str| {
            let mut sent = sent.to_vec();
            sent.extend([(TIMESTAMP, "1"), (SIGN, sign)]);
            verdict(&options, Area::Provisioning, &sent)
        };
        let [domain, reseller] = keys;
        let right_domain = Ok("signature of the domain key is right".to_owned());
        let right_reseller = Ok("signature of the reseller key is right".to_owned());
        assert_eq!(ask(&[domain], &by_domain), right_domain);
        assert_eq!(ask(&[reseller], &by_reseller), right_reseller);
        assert_eq!(ask(&keys, &by_domain), right_domain);
        assert_eq!(ask(&keys, &by_reseller), right_reseller);
        signature_refused(ask(&keys, &crossed), "wrong");
        signature_refused(ask(&[domain], &by_reseller), "wrong");
        signature_refused(ask(&[(DOMAIN_KEY, &options.reseller_api_key)], &by_reseller), "unknown");
        signature_refused(ask(&[domain, (RESELLER_KEY, "other")], &by_domain), "unknown");
    }

    #[test]
    fn fields_too_many_or_too_few_are_refused() {
        let options = Options::default();
        let right = sign(&options.api_key, &options.api_secret, "1");
        let (key, time, tag) =
            ((KEY, options.api_key.as_str()), (TIMESTAMP, "1"), (SIGN, right.as_str()));
        let token = ("standAloneToken", options.standalone_token.as_str());
        let ask = |sent: &[(&str, &str)]| verdict(&options, Area::Query, sent);
        assert_eq!(ask(&[key, time, tag]), Ok("signature of the query key is right".to_owned()));
        signature_refused(ask(&[key, tag]), "timestamp is missing");
        signature_refused(ask(&[key, time]), "sign is missing");
        signature_refused(ask(&[time, tag]), "no key");
        signature_refused(ask(&[key, time, tag, tag]), "more than once");
        signature_refused(ask(&[key, time, tag, token]), "more than one kind");
        signature_refused(ask(&[token, ("Authorization", "Bearer x")]), "more than one kind");
        signature_refused(ask(&[token, time]), "more than one kind");
        signature_refused(ask(&[token, token]), "more than once");
        signature_refused(ask(&[key, time, tag, (DOMAIN_KEY, "x")]), "does not belong");
        signature_refused(ask(&[key, time, tag, ("x-logtrust-extra", "x")]), "does not belong");
        signature_refused(ask(&[(KEY, ""), time, tag]), "is empty");
        for text in ["+1", "1.0", "1e3", "99999999999999999999", "now"] {
            signature_refused(ask(&[key, (TIMESTAMP, text), tag]), "not a decimal");
        }
        let at_alerts = verdict(&options, Area::Alerts, &[key, time, tag]);
        signature_refused(at_alerts, "does not belong");
    }

    #[test]
    fn a_timestamp_is_judged_by_its_age_only_if_asked() {
        let ask = |options: &Options, timestamp: &str| {
            let tag = sign(&options.api_key, &options.api_secret, timestamp);
            let sent = [(KEY, options.api_key.as_str()), (TIMESTAMP, timestamp), (SIGN, &tag)];
            verdict(options, Area::Query, &sent)
        };
        assert!(ask(&Options::default(), "1").is_ok());
        let strict = Options { max_skew: Some(Duration::from_secs(5)), ..Options::default() };
        assert!(ask(&strict, "1700000005000").is_ok());
        assert!(ask(&strict, "1699999995000").is_ok());
        signature_refused(ask(&strict, "1700000005001"), "too far");
        signature_refused(ask(&strict, "1699999994999"), "too far");
    }
}
