//! What a request is called: to the upstream, in the log, and in answers of countersign's own.

use crate::harness::program::Program;
use crate::harness::{Connection, Proxy, Upstream, route, secret, until};

#[tokio::test]
async fn the_upstream_learns_what_the_caller_calls_a_request() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    proxy.send("GET", "/x", &[("X-Request-Id", "order-17")], "").await;
    assert_eq!(upstream.last().values("x-request-id"), ["order-17"]);
    // W3C Trace Context is the caller's and the upstream's own business.
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    proxy.send("GET", "/x", &[("traceparent", trace), ("tracestate", "a=b")], "").await;
    assert_eq!(upstream.last().values("traceparent"), [trace]);
    assert_eq!(upstream.last().values("tracestate"), ["a=b"]);
}

#[tokio::test]
async fn a_request_without_a_name_gets_a_new_one() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    let mut seen = Vec::new();
    for fields in [
        &[][..],
        &[],
        &[("X-Request-Id", "two words")],
        &[("X-Request-Id", "a"), ("X-Request-Id", "b")],
    ] {
        proxy.send("GET", "/x", fields, "").await;
        let upstream_saw = upstream.last();
        let values = upstream_saw.values("x-request-id");
        assert_eq!(values.len(), 1, "{values:?}");
        assert_eq!(values[0].len(), 32, "{values:?}");
        assert!(!seen.contains(&values[0].to_owned()), "{values:?}");
        seen.push(values[0].to_owned());
    }
}

#[tokio::test]
async fn a_field_of_a_credential_is_not_taken_for_a_name() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "[credential.key]\nkind = \"fields\"\nset = {{ X-Request-Id = {} }}\n{}",
        secret("the-key"),
        route(&upstream.url(), "key", ""),
    );
    let proxy = Proxy::start(&config).await;
    proxy.send("GET", "/x", &[("X-Request-Id", "order-17")], "").await;
    assert_eq!(upstream.last().values("x-request-id"), ["the-key"]);
    // Nobody knows whether what a caller sends in it is a secret.
    let refused =
        proxy.send("GET", "/x", &[("X-Request-Id", "k"), ("Origin", "http://e.test")], "");
    let refused = refused.await;
    assert_eq!((refused.status, refused.field("x-request-id")), (403, ""));
    assert!(refused.json().get("request_id").is_none(), "{}", refused.text());
    // Another one can be named, but not this.
    let named = |name: &str| format!("[log]\nrequest_id = \"{name}\"\n{config}");
    let proxy = Proxy::start(&named("X-Trace")).await;
    proxy.send("GET", "/x", &[("X-Trace", "order-18")], "").await;
    assert_eq!(upstream.last().values("x-trace"), ["order-18"]);
    for name in ["X-Request-Id", "x_request_id"] {
        let problems = countersign::config::load(&named(name), &|_| None).problems;
        let told: Vec<String> =
            problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        let name = name.to_ascii_lowercase();
        let expected = format!("log.request_id: '{name}' belongs to the credential 'key'");
        assert!(told.contains(&expected), "{told:?}");
    }
}

#[test]
fn the_token_of_callers_is_not_taken_for_a_name() {
    let with = |log: &str| {
        format!(
            "{log}[[listen]]\naddress = \"127.0.0.1:0\"\ncaller_token_header = \"X-Request-Id\"\n\
             caller_token = {{ env = \"T\" }}\n[[route]]\nupstream = \"http://u.test\"\n"
        )
    };
    let loaded = countersign::config::load(&with(""), &|_| None);
    assert_eq!(loaded.problems.len(), 0, "{:?}", loaded.problems);
    assert_eq!(loaded.config.unwrap().log.request_id, None);
    let loaded =
        countersign::config::load(&with("[log]\nrequest_id = \"X-Request-ID\"\n"), &|_| None);
    let told: Vec<(&str, &str)> =
        loaded.problems.iter().map(|p| (p.path.as_str(), p.message.as_str())).collect();
    let message = "the field 'x-request-id' holds the token of callers, which a log must not";
    assert_eq!(told, [("log.request_id", message)]);
}

#[tokio::test]
async fn the_field_may_have_another_name_but_not_that_of_a_secret() {
    let upstream = Upstream::fine().await;
    let config = format!("[log]\nrequest_id = \"X-Trace\"\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    proxy.send("GET", "/x", &[("X-Trace", "order-17")], "").await;
    assert_eq!(upstream.last().values("x-trace"), ["order-17"]);
    assert!(upstream.last().values("x-request-id").is_empty());
    for secret in ["Authorization", "cookie", "Connection", "no field"] {
        let text = config.replace("X-Trace", secret);
        let loaded = countersign::config::load(&text, &|_| None);
        let paths: Vec<&str> = loaded.problems.iter().map(|p| p.path.as_str()).collect();
        assert!(paths.contains(&"log.request_id"), "{secret}: {paths:?}");
    }
}

#[tokio::test]
async fn switched_off_nothing_is_added_and_what_the_caller_sends_passes() {
    let upstream = Upstream::fine().await;
    let config = format!("[log]\nrequest_id = \"off\"\n{}", route(&upstream.url(), "", ""));
    let proxy = Proxy::start(&config).await;
    proxy.get("/x").await;
    assert!(upstream.last().values("x-request-id").is_empty());
    proxy.send("GET", "/x", &[("X-Request-Id", "two words")], "").await;
    assert_eq!(upstream.last().values("x-request-id"), ["two words"]);
    let refused = proxy.send("GET", "/x", &[("Origin", "https://evil.test")], "").await;
    assert_eq!(refused.status, 403);
    assert!(refused.json().get("request_id").is_none(), "{}", refused.text());
}

#[tokio::test]
async fn what_a_caller_is_told_can_be_found_in_the_log() {
    let upstream = Upstream::fine().await;
    let url = upstream.url();
    drop(upstream);
    let program = Program::start(&route(&url, "", "")).await;
    let mut caller = Connection::open(program.address()).await;
    let failed = caller.send("GET", "/x", &[("X-Request-Id", "order-17")], "").await;
    assert_eq!(failed.status, 502);
    assert_eq!(failed.field("x-request-id"), "order-17");
    assert_eq!(failed.json()["request_id"], "order-17");
    until("its line is written", || !program.requests().is_empty()).await;
    assert_eq!(program.requests()[0]["request_id"], "order-17");
    let warned = program.log().into_iter().find(|line| line["message"] == "a request failed");
    assert_eq!(warned.unwrap()["request_id"], "order-17");

    // What cannot even be read is called something as well.
    let refused = caller.send("GET", "/x", &[("Host", "evil.test")], "").await;
    assert_eq!(refused.status, 421);
    assert_eq!(refused.field("x-request-id"), refused.json()["request_id"]);
    assert_eq!(refused.field("x-request-id").len(), 32);
}
