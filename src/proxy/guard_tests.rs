use super::*;
use crate::config::load;
use crate::credential::secret_ref::SecretRef;
use crate::permissions::Check;
use crate::secret::Secret;
use http::Request;

async fn gate(rules: AccessRules) -> Gate {
    let references = rules.caller_token.iter().map(|token| token.secret.clone()).collect();
    let secrets = Arc::new(Secrets::resolve(references, Check::Strict).await.unwrap());
    let text = "[[listen]]\naddress = \"127.0.0.1:8080\"\n\
                [[route]]\nupstream = \"https://api.example.com\"\n";
    let limits = load(text, &|_| None).config.unwrap().limits;
    Gate::new(rules, Some("127.0.0.1:8080".parse().unwrap()), &limits, secrets)
}

fn table() -> RouteTable {
    let text = r#"
        [[listen]]
        address = "127.0.0.1:8080"
        [[route]]
        host = "api.example.com"
        upstream = "https://api.example.com"
    "#;
    RouteTable::new(&load(text, &|_| None).config.unwrap().routes)
}

const LOOPBACK: Ends = Ends {
    peer: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
    local: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
    user: None,
    secure: false,
    client: None,
};

fn request(target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn word(rules: AccessRules, parts: &Parts) -> &'static str {
    match gate(rules).await.admit(parts, &LOOPBACK, &table()) {
        Ok(_) => "admitted",
        Err(error) => error.verdict().word,
    }
}

#[tokio::test]
async fn only_the_listeners_own_names_are_accepted() {
    let accepted = ["127.0.0.1:8080", "127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080"];
    for host in accepted {
        let parts = request("/", &[("host", host)]);
        assert_eq!(word(AccessRules::default(), &parts).await, "admitted", "{host}");
    }
    let refused =
        ["evil.test:8080", "evil.test", "127.0.0.1.evil.test", "10.0.0.1", "localhost:9090"];
    for host in refused {
        let parts = request("/", &[("host", host)]);
        assert_eq!(word(AccessRules::default(), &parts).await, "host", "{host}");
    }
}

#[tokio::test]
async fn configured_names_and_hosts_of_routes_are_accepted() {
    let hosts = vec!["gateway.test".to_owned(), "mapped:9090".to_owned()];
    let rules = AccessRules { hosts, ..AccessRules::default() };
    for (host, expected) in [
        ("gateway.test", "admitted"),
        ("Gateway.test:8080", "admitted"),
        ("mapped:9090", "admitted"),
        ("mapped:9091", "host"),
        ("api.example.com", "admitted"),
    ] {
        let parts = request("/", &[("host", host)]);
        assert_eq!(word(rules.clone(), &parts).await, expected, "{host}");
    }
    let parts = request("http://api.example.com/x", &[("host", "api.example.com")]);
    assert_eq!(word(rules.clone(), &parts).await, "admitted", "absolute form");
    let parts = request("http://evil.test/x", &[("host", "evil.test")]);
    assert_eq!(word(rules.clone(), &parts).await, "host", "absolute form of somebody else");
    let mut parts = request("http://api.example.com/x", &[]);
    for (version, expected) in [
        (Version::HTTP_10, "admitted"),
        (Version::HTTP_11, "malformed"),
        (Version::HTTP_2, "admitted"),
    ] {
        parts.version = version;
        assert_eq!(word(rules.clone(), &parts).await, expected, "without Host: {version:?}");
    }
}

#[tokio::test]
async fn a_request_addresses_exactly_one_host() {
    for (target, hosts) in [
        ("/", [].as_slice()),
        ("/", &["localhost", "localhost"]),
        ("/", &["localhost, evil.test"]),
        ("/", &["user@localhost"]),
        ("/", &["localhost:"]),
        ("/", &["localhost:http"]),
        ("/", &["localhost:+8080"]),
        ("/", &["[::1]:+8080"]),
        ("/", &["localhost:8080@localhost"]),
        ("/", &[""]),
        ("http://localhost/", &["evil.test"]),
    ] {
        let fields: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
        let parts = request(target, &fields);
        assert_eq!(word(AccessRules::default(), &parts).await, "malformed", "{hosts:?}");
    }
}

#[tokio::test]
async fn web_pages_are_refused_unless_their_origin_is_listed() {
    let origins = vec!["http://localhost:3000".parse().unwrap()];
    let rules = AccessRules { origins, ..AccessRules::default() };
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("origin", "http://localhost:3000")], "admitted"),
        (&[("origin", "http://localhost:3000"), ("sec-fetch-site", "cross-site")], "admitted"),
        (&[("origin", "http://evil.test")], "origin"),
        (&[("origin", "null")], "origin"),
        (&[("origin", "http://localhost:3000"), ("origin", "null")], "origin"),
        (&[("sec-fetch-site", "cross-site")], "origin"),
        (&[("sec-fetch-site", "same-site")], "origin"),
        (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], "origin"),
        (&[("sec-fetch-site", "none")], "admitted"),
        (&[("sec-fetch-site", "same-origin")], "admitted"),
    ];
    for (fields, expected) in cases {
        let fields = [&[("host", "localhost")], *fields].concat();
        let parts = request("/", &fields);
        assert_eq!(word(rules.clone(), &parts).await, *expected, "{fields:?}");
    }
}

#[tokio::test]
async fn peers_are_judged_by_their_socket_and_nothing_they_say() {
    let rules =
        AccessRules { allow: vec!["10.1.0.0/16".parse().unwrap()], ..AccessRules::default() };
    let gate = gate(rules).await;
    let parts = request("/", &[("host", "localhost"), ("x-forwarded-for", "10.1.0.1")]);
    let from = |peer: &str| {
        let ends = Ends { peer: Some(peer.parse().unwrap()), ..LOOPBACK };
        gate.admit(&parts, &ends, &table()).map_err(|error| error.verdict().word)
    };
    assert!(from("10.1.2.3").is_ok());
    assert!(from("::ffff:10.1.2.3").is_ok(), "the same address in IPv6 clothes");
    assert_eq!(from("10.2.0.1").unwrap_err(), "peer");
}

#[tokio::test]
async fn a_caller_token_is_asked_for_compared_and_marked_for_removal() {
    let token = |header: Option<&str>| AccessRules {
        caller_token: Some(CallerToken {
            secret: SecretRef::Value(Secret::new("open-sesame")),
            header: header.map(|name| name.parse().unwrap()),
        }),
        ..AccessRules::default()
    };
    let with = |fields: &[(&str, &str)]| request("/", &[&[("host", "localhost")], fields].concat());
    for (fields, expected) in [
        ([].as_slice(), "caller-token-missing"),
        (&[("authorization", "Bearer open-sesame")], "admitted"),
        (&[("authorization", "bearer open-sesame")], "admitted"),
        (&[("authorization", "Bearer wrong")], "caller-token"),
        (&[("authorization", "Basic b3Blbg==")], "caller-token-missing"),
        (&[("authorization", "Bearer open-sesame"), ("authorization", "x")], "malformed"),
    ] {
        assert_eq!(word(token(None), &with(fields)).await, expected, "{fields:?}");
    }
    let parts = with(&[("x-gate", "open-sesame")]);
    let admitted = gate(token(Some("x-gate"))).await.admit(&parts, &LOOPBACK, &table()).unwrap();
    assert_eq!(admitted.token_field, Some("x-gate".parse().unwrap()));
}

#[tokio::test]
async fn odd_methods_targets_and_expectations_are_refused() {
    let mut parts = request("/", &[("host", "localhost")]);
    parts.method = Method::TRACE;
    assert_eq!(word(AccessRules::default(), &parts).await, "never-forwarded");
    parts.method = Method::OPTIONS;
    parts.uri = "*".parse().unwrap();
    assert_eq!(word(AccessRules::default(), &parts).await, "malformed");
    let parts = request("/", &[("host", "localhost"), ("expect", "the-moon")]);
    assert_eq!(word(AccessRules::default(), &parts).await, "expectation");
    let two = [("host", "localhost"), ("expect", "100-continue"), ("expect", "the-moon")];
    assert_eq!(word(AccessRules::default(), &request("/", &two)).await, "expectation");
    let parts = request(&format!("/{}", "a".repeat(9000)), &[("host", "localhost")]);
    assert_eq!(word(AccessRules::default(), &parts).await, "target");
    let many = [("accept", "*/*"); 100];
    let parts = request("/", &[&[("host", "localhost")][..], &many].concat());
    assert_eq!(word(AccessRules::default(), &parts).await, "fields");
}
