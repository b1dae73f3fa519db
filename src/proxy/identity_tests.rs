use super::*;
use http::Request;
use proptest::prelude::*;

use crate::tls::PeerNames;

fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Device and target, or the word of the refusal.
fn by(source: &IdentitySource, prefix: &str, mut head: Parts) -> Result<(String, String), String> {
    let ends = Ends::default();
    let found = identify(source, &mut head, prefix.len(), &ends, |name| name != "unknown");
    found
        .map(|device| (device.to_string(), head.uri.to_string()))
        .map_err(|error| error.verdict().word.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "to be compared with what may be refused")]
fn found(device: &str, target: &str) -> Result<(String, String), String> {
    Ok((device.to_owned(), target.to_owned()))
}

fn refused(word: &str) -> Result<(String, String), String> {
    Err(word.to_owned())
}

#[test]
fn a_field_names_the_device_once_and_is_removed() {
    let source = IdentitySource::Header(HeaderName::from_static("x-device"));
    let by = |fields: &[(&str, &str)]| by(&source, "", head("/a", fields));
    assert_eq!(by(&[("x-device", "one")]), found("one", "/a"));
    assert_eq!(by(&[]), refused("device-missing"));
    assert_eq!(by(&[("x-device", "")]), refused("device-missing"));
    assert_eq!(by(&[("x-device", "unknown")]), refused("device"));
    assert_eq!(by(&[("x-device", "one"), ("x-device", "two")]), refused("malformed"));
    let mut parts = head("/a", &[("x-device", "one")]);
    identify(&source, &mut parts, 0, &Ends::default(), |_| true).unwrap();
    assert!(parts.headers.is_empty());
}

#[test]
fn a_segment_of_the_path_is_taken_out() {
    let segment = |number, prefix: &str, target: &str| {
        by(&IdentitySource::PathSegment(number), prefix, head(target, &[]))
    };
    assert_eq!(segment(0, "/p", "/p/one/v3/x?a=1"), found("one", "/p/v3/x?a=1"));
    assert_eq!(segment(0, "", "/one/v3/x"), found("one", "/v3/x"));
    assert_eq!(segment(0, "", "/one"), found("one", "/"));
    assert_eq!(segment(0, "", "/one?a"), found("one", "/?a"));
    assert_eq!(segment(0, "", "/one/"), found("one", "/"));
    assert_eq!(segment(0, "/p", "/p/one"), found("one", "/p"));
    assert_eq!(segment(1, "/p", "/p/v3/one/x"), found("one", "/p/v3/x"));
    assert_eq!(segment(0, "/p", "/p/gr%C3%BC%2Fn/x%2Fy"), found("grü/n", "/p/x%2Fy"));
    assert_eq!(segment(0, "/p", "/p"), refused("device-missing"));
    assert_eq!(segment(0, "/p", "/p//x"), refused("device-missing"));
    assert_eq!(segment(1, "/p", "/p/one"), refused("device-missing"));
    assert_eq!(segment(0, "/p", "/p/unknown/x"), refused("device"));
    assert_eq!(segment(0, "/p", "/p/%FF/x"), refused("malformed"));
}

#[test]
fn a_query_parameter_is_taken_out_and_the_others_stay_as_they_are() {
    let source = IdentitySource::Query("device".to_owned());
    let by = |target: &str| by(&source, "", head(target, &[]));
    assert_eq!(by("/a?device=one"), found("one", "/a"));
    assert_eq!(by("/a?x=%zz&device=one&&y"), found("one", "/a?x=%zz&&y"));
    assert_eq!(by("/a?d%65vice=line+7%2C"), found("line 7,", "/a"));
    assert_eq!(by("/a?device=one&device=one"), refused("malformed"));
    assert_eq!(by("/a?device"), refused("device-missing"));
    assert_eq!(by("/a?devices=one"), refused("device-missing"));
    assert_eq!(by("/a"), refused("device-missing"));
}

#[test]
fn the_user_of_basic_is_the_device() {
    let by =
        |value: &str| by(&IdentitySource::BasicUser, "", head("/a", &[("authorization", value)]));
    let basic = |pair: &str| format!("bAsIc {}", STANDARD.encode(pair));
    assert_eq!(by(&basic("one:any:thing")), found("one", "/a"));
    assert_eq!(by(&basic("unknown:x")), refused("device"));
    assert_eq!(by(&basic(":x")), refused("device-missing"));
    assert_eq!(by(&basic("one")), refused("malformed"));
    assert_eq!(by("Basic !"), refused("malformed"));
    assert_eq!(by("Bearer one"), refused("device-missing"));
}

#[test]
fn the_address_and_the_certificate_name_the_device() {
    let by = |source, ends: &Ends| {
        let known = |name: &str| ["192.0.2.7", "line 7", "line-7.plant.test"].contains(&name);
        identify(&source, &mut head("/a", &[]), 0, ends, known)
            .map(|device| device.to_string())
            .map_err(|error| error.verdict().word)
    };
    let mapped = Ends { peer: Some("::ffff:192.0.2.7".parse().unwrap()), ..Ends::default() };
    assert_eq!(by(IdentitySource::SourceIp, &mapped), Ok("192.0.2.7".to_owned()));
    assert_eq!(by(IdentitySource::SourceIp, &Ends::default()), Err("device-missing"));
    let cn = IdentitySource::ClientCertificate(CertificateName::Cn);
    let san = IdentitySource::ClientCertificate(CertificateName::San);
    assert_eq!(by(cn.clone(), &Ends::default()), Err("device-missing"));
    let with = |common_name: Option<&str>, alternative: &[&str]| Ends {
        client: Some(Arc::new(PeerNames {
            common_name: common_name.map(str::to_owned),
            alternative: alternative.iter().map(|name| (*name).to_owned()).collect(),
        })),
        ..Ends::default()
    };
    let both = with(Some("line 7"), &["other.test", "line-7.plant.test"]);
    assert_eq!(by(cn.clone(), &both), Ok("line 7".to_owned()));
    assert_eq!(by(san.clone(), &both), Ok("line-7.plant.test".to_owned()));
    assert_eq!(by(cn, &with(None, &["line 7"])), Err("device-missing"), "not the other one");
    assert_eq!(by(san.clone(), &with(Some("line 7"), &[])), Err("device-missing"));
    assert_eq!(by(san, &with(None, &["line 7.test"])), Err("device"));
}

proptest! {
    /// Taking a segment out leaves every other byte as it is.
    #[test]
    fn the_rest_of_the_path_keeps_its_bytes(
        before in proptest::collection::vec("[a-z%.;:]{0,6}", 0..3),
        device in "[a-z0-9-]{1,12}",
        after in proptest::collection::vec("[a-z.;:~]{0,6}", 0..3),
    ) {
        let join = |parts: &[String]| parts.iter().fold(String::new(), |all, part| all + "/" + part);
        let target = format!("/p{}/{device}{}", join(&before), join(&after));
        let source = IdentitySource::PathSegment(before.len());
        let (seen, rest) = by(&source, "/p", head(&target, &[])).unwrap();
        prop_assert_eq!(seen, device);
        prop_assert_eq!(rest, format!("/p{}{}", join(&before), join(&after)));
    }
}
