use super::*;
use crate::sign::{Scheme, Signer};
use ::hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method};
use sha2::Sha256;
use std::time::{Duration, UNIX_EPOCH};

fn scheme(base: Vec<Part>) -> HmacScheme {
    HmacScheme {
        algorithm: Algorithm::Sha256,
        key: "secret".into(),
        key_encoding: KeyEncoding::Text,
        base,
        timestamp: TimestampFormat::UnixMs,
        encoding: Encoding::Hex,
        set: vec![
            (HeaderName::from_static("x-time"), Template::value(TIMESTAMP)),
            (HeaderName::from_static("x-sign"), Template::value(SIGNATURE)),
            (HeaderName::from_static("x-key"), Template::value("key")),
        ],
    }
}

fn values(key: &str, secret: &str) -> Values {
    Values::from_iter([("key", Secret::new(key)), ("secret", Secret::new(secret))])
}

fn request<'a>(method: &'a Method, headers: &'a HeaderMap) -> SignableRequest<'a> {
    SignableRequest {
        method,
        authority: "api.example.com",
        path: "/a%2Fb",
        query: Some("x=1&x=2"),
        headers,
    }
}

fn signature(signer: &Signer, content: &[&[u8]], at: SystemTime) -> String {
    let headers = HeaderMap::new();
    let request = request(&Method::POST, &headers);
    let mut digest = signer.digest(&request, at).unwrap();
    for piece in content {
        digest.as_mut().unwrap().update(piece);
    }
    let result = signer.sign(&request, digest, at).unwrap();
    result.iter().find(|(name, _)| *name == "x-sign").unwrap().1.to_str().unwrap().to_owned()
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// The vendor's known answers: key, content, timestamp and the signature three other
/// implementations agree on.
#[test]
fn every_known_answer_of_devo_is_reproduced() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/devo-vectors.json")).unwrap();
    let rows = vectors.as_array().unwrap();
    assert!(rows.len() >= 14);
    let devo = Scheme::Hmac(scheme(vec![Part::Value("key".into()), Part::Body, Part::Timestamp]));
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap();
        let body = STANDARD.decode(text("body_base64")).unwrap();
        let signer = devo.bind(&values(text("api_key"), text("api_secret"))).unwrap();
        let at = at(text("timestamp").parse().unwrap());
        assert_eq!(signature(&signer, &[&body], at), text("sign"), "{}", text("id"));
        let halves = body.split_at(body.len() / 2);
        assert_eq!(signature(&signer, &[halves.0, b"", halves.1], at), text("sign"), "in pieces");
    }
}

#[test]
fn the_explained_base_is_what_was_signed() {
    let parts = vec![
        Part::Method,
        Part::Literal("\n".into()),
        Part::Path,
        Part::Query,
        Part::Host,
        Part::Header(HeaderName::from_static("content-type")),
        Part::Timestamp,
        Part::Value("key".into()),
        Part::BodyHash { algorithm: Algorithm::Sha256, encoding: Encoding::Hex },
    ];
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "text/plain".parse().unwrap());
    let request = request(&Method::PUT, &headers);
    let signer = scheme(parts).bind(&values("k1", "s1")).unwrap();
    let at = at(1_700_000_000_123);
    let explained = signer.explain(&request, b"hello", at, &[], false).unwrap();
    let base: Vec<u8> = explained.iter().flat_map(|part| part.bytes.clone()).collect();
    assert_eq!(
        String::from_utf8(base.clone()).unwrap(),
        "PUT\n/a%2Fbx=1&x=2api.example.comtext/plain1700000000123k1\
         2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    let mut expected = Hmac::<Sha256>::new_from_slice(b"s1").unwrap();
    expected.update(&base);
    let expected = hex::encode(expected.finalize().into_bytes());

    let mut digest = signer.digest(&request, at).unwrap();
    digest.update(b"hello");
    let result = signer.sign(&request, Some(digest), at).unwrap();
    let fields: Vec<_> = result.iter().map(|(_, value)| value).collect();
    assert_eq!(fields, ["1700000000123", &expected, "k1"]);
}

#[test]
fn a_timestamp_before_the_content_waits_for_it() {
    let before = scheme(vec![Part::Timestamp, Part::Body]);
    let after = scheme(vec![Part::Value("key".into()), Part::Body, Part::Timestamp]);
    assert!(!before.bind(&values("k", "s")).unwrap().digests_early());
    assert!(after.bind(&values("k", "s")).unwrap().digests_early());
    let signer = Signer::Hmac(Box::new(before.bind(&values("k", "s")).unwrap()));
    let mut expected = Hmac::<Sha256>::new_from_slice(b"s").unwrap();
    expected.update(b"5content");
    let expected = hex::encode(expected.finalize().into_bytes());
    assert_eq!(signature(&signer, &[b"con", b"tent"], at(5)), expected);
}

#[test]
fn a_signed_field_that_is_there_twice_is_refused() {
    let field = HeaderName::from_static("content-type");
    let signer = scheme(vec![Part::Header(field.clone())]).bind(&values("k", "s")).unwrap();
    let mut headers = HeaderMap::new();
    headers.append(&field, "a/b".parse().unwrap());
    headers.append(&field, "c/d".parse().unwrap());
    let refused = signer.sign(&request(&Method::GET, &headers), None, at(1)).unwrap_err();
    assert_eq!(refused, SignError::AmbiguousField(field));
}

#[test]
fn keys_may_be_hexadecimal_or_base64() {
    let mut encoded = scheme(vec![Part::Literal("x".into())]);
    let headers = HeaderMap::new();
    let method = Method::GET;
    let plain = encoded.bind(&values("k", "\u{1}\u{2}")).unwrap();
    let expected = plain.sign(&request(&method, &headers), None, at(1)).unwrap();
    let expected: Vec<_> = expected.iter().collect();
    for (encoding, key) in [(KeyEncoding::Hex, "0102"), (KeyEncoding::Base64, "AQI=")] {
        encoded.key_encoding = encoding;
        let signer = encoded.bind(&values("k", key)).unwrap();
        let result = signer.sign(&request(&method, &headers), None, at(1)).unwrap();
        assert_eq!(result.iter().collect::<Vec<_>>(), expected);
        let refused = encoded.bind(&values("k", "not it!")).unwrap_err();
        assert!(matches!(refused, BindError::KeyEncoding(..)));
        assert!(!refused.to_string().contains("not it!"));
    }
}

#[test]
fn debug_of_a_bound_signer_shows_no_secret() {
    let signer = scheme(vec![Part::Value("key".into()), Part::Body])
        .bind(&values("canary-key", "canary-secret"))
        .unwrap();
    assert!(!format!("{signer:?}").contains("canary"));
}
