use super::*;
use proptest::prelude::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn owned(names: &[&str]) -> OwnedFields {
    let mut owned = OwnedFields::default();
    for name in names {
        owned.insert(&name.parse().unwrap());
    }
    owned
}

#[test]
fn everything_the_connection_names_is_removed_in_every_line_of_it() {
    let mut headers = map(&[
        ("connection", "close, x-one"),
        ("connection", "X-Two ,, bad name"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-two", "again"),
        ("x-three", "3"),
        ("content-length", "5"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("proxy-authorization", "Basic x"),
    ]);
    strip_request(&mut headers, &[]);
    assert_eq!(headers, map(&[("x-three", "3"), ("content-length", "5")]));
}

#[test]
fn a_caller_cannot_drop_the_length_by_naming_it_in_connection() {
    let mut headers = map(&[("connection", "content-length"), ("content-length", "5")]);
    strip_request(&mut headers, &[]);
    assert_eq!(headers, map(&[("content-length", "5")]));
}

#[test]
fn owned_fields_forwarding_fields_and_twins_are_removed() {
    let mut headers = map(&[
        ("token", ""),
        ("token", "stolen"),
        ("Api_Key", "twin"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("X_Original_URL", "/admin"),
        ("x-http-method-override", "DELETE"),
        ("expect", "100-continue"),
        ("accept", "*/*"),
    ]);
    strip_request(&mut headers, &[&owned(&["token"]), &owned(&["api-key"])]);
    assert_eq!(headers, map(&[("accept", "*/*")]));
}

#[test]
fn a_request_that_came_through_before_is_recognised_among_others() {
    let ours = Via::new(0x0123_4567);
    let came = |hops: &str| ours.is_in(&map(&[("via", hops)]));
    assert!(came("1.0 a, 1.1 countersign-01234567 ,1.1 b"));
    assert!(came("2 countersign-01234567"));
    assert!(!came("1.1 countersign-76543210"));
    assert!(!ours.is_in(&HeaderMap::new()));
    let mut headers = HeaderMap::new();
    ours.add(&mut headers, Version::HTTP_2);
    assert_eq!(headers, map(&[("via", "2 countersign-01234567")]));
}

#[test]
fn cookies_that_came_one_by_one_are_joined() {
    let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("accept", "*/*")]);
    strip_request(&mut headers, &[]);
    assert_eq!(headers, map(&[("cookie", "a=1; b=2"), ("accept", "*/*")]));
}

#[test]
fn the_way_that_a_request_may_go_gets_shorter() {
    for (method, written, left) in [
        (Method::OPTIONS, "0", None),
        (Method::OPTIONS, "000", None),
        (Method::OPTIONS, "1", Some("0")),
        (Method::OPTIONS, "10", Some("9")),
        (Method::OPTIONS, "99999999999999999999999", Some("18446744073709551614")),
        (Method::OPTIONS, "+1", Some("+1")),
        (Method::OPTIONS, "", Some("")),
        (Method::GET, "0", Some("0")),
    ] {
        let mut headers = map(&[("max-forwards", written)]);
        assert_eq!(count_forwards(&method, &mut headers), left.is_some(), "{method} {written}");
        if let Some(left) = left {
            assert_eq!(headers, map(&[("max-forwards", left)]), "{method} {written}");
        }
    }
    assert!(count_forwards(&Method::OPTIONS, &mut HeaderMap::new()));
}

proptest! {
    #[test]
    fn no_hop_by_hop_or_owned_field_survives(
        names in proptest::collection::vec("[a-z]{1,3}(-[a-z]{1,3})?|connection|te|upgrade", 0..12),
        listed in proptest::collection::vec("[a-z]{1,3}", 0..4),
    ) {
        let mut headers = HeaderMap::new();
        for name in &names {
            let value = if name == "connection" { listed.join(", ") } else { "x".to_owned() };
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(&value).unwrap(),
            );
        }
        let ours = owned(&["abc", "token"]);
        let had_connection = headers.contains_key(CONNECTION);
        strip_request(&mut headers, &[&ours]);
        for name in headers.keys() {
            prop_assert!(!is_hop_by_hop(name) && !ours.contains(name));
            prop_assert!(!(had_connection && listed.iter().any(|listed| listed == name.as_str())));
        }
    }
}
