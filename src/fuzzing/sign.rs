//! Signatures and templates: what is signed is what a second implementation of HMAC signs, however the
//! content comes; what is put into a field is exactly the text, or refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::{fields, flags, line};
use crate::proxy::retarget::replace_query;
use crate::secret::Secret;
use crate::sign::base::Part;
use crate::sign::encoding::{Encoding, TimestampFormat};
use crate::sign::fields::FieldsScheme;
use crate::sign::hash::Algorithm;
use crate::sign::hmac::{HmacScheme, KeyEncoding};
use crate::sign::query::QueryScheme;
use crate::sign::{AuthFields, BodyCoverage, Scheme, SignError, SignableRequest};
use crate::template::Template;
use crate::values::Values;

const KEY: &str = "canary-key-731946";
const API_KEY: &str = "ak-1";

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

/// Words such as `method`, `lit=x`, `header=x-a`; the content is in a base at most once.
fn base(text: &str) -> Vec<Part> {
    let mut base = Vec::new();
    for word in text.split(' ').take(12) {
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let part = match word {
            "method" => Part::Method,
            "path" => Part::Path,
            "query" => Part::Query,
            "host" => Part::Host,
            "time" => Part::Timestamp,
            "body" => Part::Body,
            "hash" => {
                let algorithm = algorithm(u8::try_from(value.len() % 4).unwrap());
                Part::BodyHash { algorithm, encoding: Encoding::Base64 }
            }
            "lit" => Part::Literal(value.to_owned()),
            "value" => Part::Value("api_key".to_owned()),
            "header" => match HeaderName::from_bytes(value.as_bytes()) {
                Ok(name) => Part::Header(name),
                Err(_) => continue,
            },
            _ => continue,
        };
        if !(part.covers_body() && base.iter().any(Part::covers_body)) {
            base.push(part);
        }
    }
    base
}

fn algorithm(number: u8) -> Algorithm {
    match number & 3 {
        0 => Algorithm::Sha1,
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha384,
        _ => Algorithm::Sha512,
    }
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
    let of_ring = match algorithm {
        Algorithm::Sha1 => &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => &ring::digest::SHA256,
        Algorithm::Sha384 => &ring::digest::SHA384,
        Algorithm::Sha512 => &ring::digest::SHA512,
    };
    ring::digest::digest(of_ring, bytes).as_ref().to_vec()
}

fn hmac(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
    let of_ring = match algorithm {
        Algorithm::Sha1 => ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => ring::hmac::HMAC_SHA256,
        Algorithm::Sha384 => ring::hmac::HMAC_SHA384,
        Algorithm::Sha512 => ring::hmac::HMAC_SHA512,
    };
    let key = ring::hmac::Key::new(of_ring, KEY.as_bytes());
    ring::hmac::sign(&key, bytes).as_ref().to_vec()
}

/// Lines: the base, `METHOD TARGET`, fields up to an empty line; then the content. Flags: 1 and 2 the
/// hash, 4 and 8 how the signature is written.
pub fn signature(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let (first, rest) = line(bytes);
    let (request, rest) = line(rest);
    let end = rest.windows(2).position(|pair| pair == b"\n\n").unwrap_or(rest.len());
    let (head, content) = rest.split_at(end);
    let content = content.get(2..).unwrap_or_default();
    let headers = fields(head);
    let base = base(&String::from_utf8_lossy(first));
    let request = String::from_utf8_lossy(request);
    let Some((method, target)) = request.split_once(' ') else { return };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let Ok(uri) = target.parse::<Uri>() else { return };
    let signable = SignableRequest {
        method: &method,
        authority: "upstream.test:8081",
        path: uri.path(),
        query: uri.query(),
        headers: &headers,
    };
    let formats = [
        TimestampFormat::UnixMs,
        TimestampFormat::UnixS,
        TimestampFormat::Rfc3339,
        TimestampFormat::Iso8601Basic,
        TimestampFormat::HttpDate,
    ];
    let encodings = [Encoding::Hex, Encoding::HexUpper, Encoding::Base64, Encoding::Base64url];
    let template = |text| Template::parse(text).expect("a template");
    let scheme = HmacScheme {
        algorithm: algorithm(flags),
        key: "secret".to_owned(),
        key_encoding: KeyEncoding::Text,
        timestamp: formats[base.len() % formats.len()],
        encoding: encodings[usize::from(flags >> 2) & 3],
        set: vec![
            (HeaderName::from_static("x-signature"), template("v1={signature}")),
            (HeaderName::from_static("x-time"), template("{timestamp}")),
            (HeaderName::from_static("x-key"), template("{api_key}")),
        ],
        base,
    };
    check_signature(&scheme, &signable, content);
}

fn check_signature(scheme: &HmacScheme, signable: &SignableRequest<'_>, content: &[u8]) {
    let values =
        Values::from_iter([("secret", Secret::new(KEY)), ("api_key", Secret::new(API_KEY))]);
    let whole = Scheme::Hmac(scheme.clone());
    let covers = scheme.base.iter().any(Part::covers_body);
    assert_eq!(whole.body_coverage() == BodyCoverage::Whole, covers);
    let signer = whole.bind(&values).expect("the values fit");
    assert!(!format!("{signer:?}").contains(KEY), "the key is shown");

    let twice = scheme.base.iter().any(|part| match part {
        Part::Header(name) => signable.headers.get_all(name).iter().count() > 1,
        _ => false,
    });
    let mut signatures = Vec::new();
    for size in [content.len().max(1), 1, 7] {
        let digest = signer.digest(signable, at());
        let mut digest = match digest {
            Ok(digest) => digest,
            Err(error) => {
                assert!(twice && matches!(error, SignError::AmbiguousField(_)));
                return;
            }
        };
        if let Some(digest) = &mut digest {
            content.chunks(size).for_each(|piece| digest.update(piece));
        }
        match signer.sign(signable, digest, at()) {
            Ok(signed) => signatures.push(owned(&signed)),
            Err(error) => {
                assert!(twice && matches!(error, SignError::AmbiguousField(_)));
                return;
            }
        }
    }
    assert!(!twice, "a field that is there twice was signed");
    if content.is_empty() || !covers {
        let signed = signer.sign(signable, None, at()).expect("as before");
        signatures.push(owned(&signed));
    }
    for signed in &signatures {
        assert_eq!(signed, &signatures[0], "the pieces make a difference");
    }

    let time = scheme.timestamp.format(at());
    let mut base: Vec<u8> = Vec::new();
    for part in &scheme.base {
        match part {
            Part::Literal(text) => base.extend(text.bytes()),
            Part::Value(_) => base.extend(API_KEY.bytes()),
            Part::Method => base.extend(signable.method.as_str().bytes()),
            Part::Path => base.extend(signable.path.bytes()),
            Part::Query => base.extend(signable.query.unwrap_or_default().bytes()),
            Part::Host => base.extend(signable.authority.bytes()),
            Part::Header(name) => {
                base.extend(signable.headers.get(name).map_or(&b""[..], |value| value.as_bytes()));
            }
            Part::Timestamp => base.extend(time.bytes()),
            Part::Body => base.extend(content),
            Part::BodyHash { algorithm, .. } => {
                base.extend(STANDARD.encode(digest(*algorithm, content)).bytes());
            }
        }
    }
    let mac = hmac(scheme.algorithm, &base);
    let written = match scheme.encoding {
        Encoding::Hex => hex::encode(mac),
        Encoding::HexUpper => hex::encode_upper(mac),
        Encoding::Base64 => STANDARD.encode(mac),
        Encoding::Base64url => URL_SAFE_NO_PAD.encode(mac),
    };
    let fields = &signatures[0];
    let expected = [("x-signature", format!("v1={written}")), ("x-time", time)];
    for (name, value) in expected.iter().map(|(n, v)| (*n, &**v)).chain([("x-key", API_KEY)]) {
        let (_, set) = fields.iter().find(|(set, _)| *set == name).expect("it is set");
        assert_eq!(set.as_bytes(), value.as_bytes(), "{name}");
        assert!(set.is_sensitive(), "{name} is shown in logs");
    }

    let crate::sign::Signer::Hmac(signer) = &signer else { panic!("another signer") };
    let parts = signer.explain(signable, content, at(), &[], false).expect("as before");
    let explained: Vec<u8> = parts.iter().flat_map(|part| part.bytes.clone()).collect();
    assert_eq!(explained, base, "what is explained is what is signed");
}

/// The first line is a template, the rest the value of every name.
pub fn template(bytes: &[u8]) {
    let (first, value) = line(bytes);
    let Ok(text) = std::str::from_utf8(first) else { return };
    let Ok(value) = std::str::from_utf8(value) else { return };
    let expected = expanded(text, value);
    let parsed = Template::parse(text);
    assert_eq!(parsed.is_ok(), expected.is_some(), "{text}");
    let (Ok(template), Some((filled, names))) = (parsed, expected) else { return };
    assert_eq!(template.names().collect::<Vec<_>>(), names);
    assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template), "as it is shown");
    let rendered = template.render(|_| Some(value)).expect("every name has a value");
    assert_eq!(*rendered, filled);
    let missing = template.render(|_| None);
    assert_eq!(missing.err().map(|missing| missing.0), names.first().map(|n| (*n).to_owned()));

    let values: Values = names.iter().map(|name| (*name, Secret::new(value))).collect();
    let scheme = FieldsScheme { set: vec![(HeaderName::from_static("x-set"), template.clone())] };
    let splits = |c: char| c.is_control() && c != '\t';
    let trimmed = filled.trim_matches([' ', '\t']);
    match Scheme::Fields(scheme).bind(&values) {
        Ok(signer) => {
            assert!(!filled.contains(|c: char| c.is_ascii_control() && c != '\t'), "{filled:?}");
            let headers = HeaderMap::new();
            let signed = signer.sign(&signable(&headers), None, at()).expect("it only copies");
            let fields: Vec<_> = signed.iter().collect();
            assert_eq!(fields[0].1.as_bytes(), filled.as_bytes());
            assert!(fields[0].1.is_sensitive());
        }
        Err(error) => {
            assert!(filled.contains(splits) || trimmed != filled, "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    let scheme = QueryScheme { set: vec![("a key".to_owned(), template)] };
    let signer = Scheme::Query(scheme).bind(&values).expect("everything can be encoded");
    let headers = HeaderMap::new();
    let signed = signer.sign(&signable(&headers), None, at()).expect("it only copies");
    let query = signed.query.expect("parameters");
    let (name, encoded) = query.split_once('=').expect("a value");
    assert_eq!(name, "a%20key");
    assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8().expect("text");
    assert_eq!(decoded, filled);
    if query.len() < 60_000 {
        let target = PathAndQuery::from_static("/p?a=1&a+key=theirs&b");
        let target = replace_query(&target, &["a key".to_owned()], &query).expect("a target");
        assert_eq!(target.as_str(), format!("/p?a=1&b&{query}"));
        let again = Uri::from_maybe_shared(Bytes::from(target.to_string())).expect("a target");
        assert_eq!(again.path_and_query(), Some(&target));
    }
}

/// The fields, for longer than the signer's.
fn owned(signed: &AuthFields<'_>) -> Vec<(HeaderName, HeaderValue)> {
    signed.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn signable(headers: &HeaderMap) -> SignableRequest<'_> {
    SignableRequest {
        method: &Method::GET,
        authority: "upstream.test",
        path: "/",
        query: None,
        headers,
    }
}

/// What a template becomes, and the names in it.
fn expanded<'t>(text: &'t str, value: &str) -> Option<(String, Vec<&'t str>)> {
    let (mut filled, mut names) = (String::new(), Vec::new());
    let mut rest = text;
    loop {
        let Some(brace) = rest.find(['{', '}']) else {
            filled.push_str(rest);
            return Some((filled, names));
        };
        filled.push_str(&rest[..brace]);
        rest = &rest[brace..];
        if let Some(after) = rest.strip_prefix("{{") {
            filled.push('{');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("}}") {
            filled.push('}');
            rest = after;
        } else {
            let (name, after) = rest.strip_prefix('{')?.split_once('}')?;
            let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !begins || name.contains(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)) {
                return None;
            }
            names.push(name);
            filled.push_str(value);
            rest = after;
        }
    }
}
