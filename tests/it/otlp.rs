//! Traces, as a collector receives them that reads by the official definitions of OTLP.

use std::net::SocketAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::program::Program;
use crate::harness::python::{Server, has};
use crate::harness::upstream::answer;
use crate::harness::{
    Connection, PATIENCE, Proxy, Upstream, is_data, plant, private_directory, quoted, route,
    secret, twinzo, until,
};

const MODULES: &str = "opentelemetry.proto.collector.trace.v1.trace_service_pb2";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// SERVER, INTERNAL and CLIENT.
const KINDS: [(&str, u64); 3] = [("wait", 1), ("sign", 1), ("upstream", 3)];
const ERROR: u64 = 2;

/// A collector of other people's making.
struct Collector(Server);

impl Collector {
    async fn start() -> Self {
        Self(Server::start("otlp_collector.py", &[]).await)
    }

    fn address(&self) -> SocketAddr {
        self.0.url().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// How the next exports are answered.
    async fn answers(&self, answers: &Value) {
        let mut connection = Connection::open(self.address()).await;
        connection.send("POST", "/answers", &[], answers.to_string()).await;
    }

    /// What was exported so far.
    async fn seen(&self) -> Vec<Value> {
        let mut connection = Connection::open(self.address()).await;
        let seen = connection.send("GET", "/seen", &[], "").await.json();
        seen.as_array().unwrap().clone()
    }

    /// The spans that it took.
    async fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for export in self.seen().await {
            assert_eq!(export["path"], "/v1/traces");
            assert_eq!(export["headers"]["content-type"], "application/x-protobuf");
            assert_eq!(export["unknown"], false, "all of it is of the protocol");
            if export["status"] == 200 {
                spans.extend(export["spans"].as_array().unwrap().iter().cloned());
            }
        }
        spans
    }

    /// The spans of that kind, once there are so many.
    async fn until(&self, kind: u64, count: usize) -> Vec<Value> {
        let give_up_at = tokio::time::Instant::now() + PATIENCE;
        loop {
            let spans = self.spans().await;
            if spans.iter().filter(|span| span["kind"] == kind).count() >= count {
                return spans;
            }
            let late = tokio::time::Instant::now() >= give_up_at;
            assert!(!late, "waited in vain for {count} spans: {spans:#?}");
        }
    }

    /// All bytes that it was sent.
    async fn raw(&self) -> Vec<u8> {
        let seen = self.seen().await;
        let raw = seen.iter().map(|export| export["raw"].as_str().unwrap());
        raw.flat_map(|raw| hex::decode(raw).unwrap()).collect()
    }
}

fn trace(collector: &Collector, more: &str) -> String {
    trace_at(&collector.0.url(), more)
}

fn trace_at(url: &str, more: &str) -> String {
    let delay = if more.contains("delay") { "" } else { "delay = \"20ms\"\n" };
    format!("[trace]\nendpoint = {}\n{delay}{more}\n", quoted(url))
}

fn server(spans: &[Value]) -> &Value {
    spans.iter().find(|span| span["kind"] == 2).unwrap()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// The parent that an upstream was told.
fn told(traceparent: &str) -> &str {
    traceparent.split('-').nth(2).unwrap()
}

#[tokio::test]
async fn a_request_is_a_tree_of_spans_below_that_of_its_caller() {
    if !has("a_request_is_a_tree_of_spans_below_that_of_its_caller", MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    let config = format!(
        "[credential.signed]\nkind = \"hmac\"\nkey = {}\n\
         base = [{{ header = \"traceparent\" }}]\nset = {{ X-Signature = \"{{signature}}\" }}\n{}{}",
        secret("canary-key"),
        route(&upstream.url(), "signed", ""),
        trace(&collector, "service_name = \"gateway-7\""),
    );
    let proxy = Proxy::start(&config).await;
    let fields = [
        ("traceparent", SAMPLED),
        ("tracestate", "vendor=canary-state"),
        ("authorization", "canary-caller"),
        ("x-request-id", "order-17"),
    ];
    let reply = proxy.send("GET", "/orders?token=canary-query", &fields, "").await;
    assert_eq!(reply.status, 200);

    let spans = collector.until(2, 1).await;
    let request = server(&spans);
    assert_eq!(request["parent"], "00f067aa0ba902b7");
    assert_eq!(request["name"], "GET /");
    let mut resource = request["resource"].clone();
    let instance = resource.as_object_mut().unwrap().remove("service.instance.id").unwrap();
    assert_eq!(instance.as_str().unwrap().len(), 36, "a UUID: {instance}");
    let version = env!("CARGO_PKG_VERSION");
    let expected = json!({ "service.name": "gateway-7", "service.version": version });
    assert_eq!(resource, expected);
    assert_eq!(request["scope"], "countersign");
    let expected = json!({
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/orders",
        "http.route": "/",
        "countersign.route": "all",
        "http.response.status_code": 200,
        "countersign.request_id": "order-17",
    });
    assert_eq!(request["attributes"], expected);
    assert_eq!((&request["status"], &request["flags"]), (&json!(0), &json!(0x301)));
    assert_eq!(spans.len(), 4);
    let time = |span: &Value, key: &str| span[key].as_u64().unwrap();
    for (child, (name, kind)) in spans[1..].iter().zip(KINDS) {
        assert_eq!((&child["name"], &child["kind"]), (&json!(name), &json!(kind)));
        assert_eq!(child["trace"], TRACE);
        assert_eq!(child["parent"], request["id"]);
        let within = time(request, "start") <= time(child, "start")
            && time(child, "start") <= time(child, "end")
            && time(child, "end") <= time(request, "end");
        assert!(within, "{child} in {request}");
    }
    assert!(spans.windows(2).skip(1).all(|two| time(&two[0], "end") <= time(&two[1], "start")));
    let expected = json!({
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": upstream.address().port(),
        "url.full": format!("{}/orders", upstream.url()),
        "http.response.status_code": 200,
    });
    assert_eq!(spans[3]["attributes"], expected);

    // The upstream goes on below the last span, and that is what was signed.
    let seen = upstream.last();
    let traceparent = seen.values("traceparent");
    let expected = format!("00-{TRACE}-{}-01", spans[3]["id"].as_str().unwrap());
    assert_eq!(traceparent, [expected.as_str()]);
    assert_eq!(seen.values("tracestate"), ["vendor=canary-state"]);
    let mut mac = Hmac::<Sha256>::new_from_slice(b"canary-key").unwrap();
    mac.update(expected.as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    assert_eq!(seen.values("x-signature"), [signature.as_str()]);
    let raw = collector.raw().await;
    assert!(contains(&raw, "/orders"));
    for hidden in ["canary", "token", &signature] {
        assert!(!contains(&raw, hidden), "{hidden}");
    }
}

#[tokio::test]
async fn what_is_not_sampled_is_not_exported_and_said_to_be_so() {
    let test = "what_is_not_sampled_is_not_exported_and_said_to_be_so";
    if !has(test, MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    let config = route(&upstream.url(), "", "") + &trace(&collector, "sample = 0");
    let proxy = Proxy::start(&config).await;
    let told_with = async |fields: &[(&str, &str)]| {
        assert_eq!(proxy.send("GET", "/x", fields, "").await.status, 200);
        let seen = upstream.last();
        let values = |name| seen.values(name).join(", ");
        (values("traceparent"), values("tracestate"))
    };
    // A caller's decision goes on as it is.
    let (parent, state) = told_with(&[("traceparent", UNSAMPLED), ("tracestate", "a=b")]).await;
    assert_eq!((parent.as_str(), state.as_str()), (UNSAMPLED, "a=b"));
    // Ours, where a trace would begin here, is told; what belongs to no trace is not.
    for fields in [
        &[][..],
        &[("traceparent", "00-garbage"), ("tracestate", "a=b")],
        &[("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        &[("tracestate", "a=b")],
    ] {
        let (parent, state) = told_with(fields).await;
        assert!(parent.starts_with("00-") && parent.ends_with("-02"), "{parent}");
        assert_eq!((parent.len(), state.as_str()), (55, ""), "{parent}");
        assert!(!parent.contains(TRACE), "a new one");
    }
    // That a caller's trace is random is passed on, what is not known of its flags is not.
    let random = UNSAMPLED.replace("b7-00", "b7-02");
    assert_eq!(told_with(&[("traceparent", &random)]).await.0, random);
    // The one who has decided otherwise is the only one exported.
    let (parent, _) = told_with(&[("traceparent", &SAMPLED.replace("b7-01", "b7-ff"))]).await;
    assert!(parent.ends_with("-03") && !parent.contains("00f067aa0ba902b7"), "{parent}");
    let spans = collector.until(3, 1).await;
    assert_eq!(server(&spans)["trace"], TRACE);
    let traces: Vec<_> = spans.iter().filter(|span| span["trace"] != TRACE).collect();
    assert!(traces.is_empty(), "{traces:?}");
}

#[tokio::test]
async fn where_nothing_is_traced_all_passes_as_it_came() {
    let upstream = Upstream::fine().await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "")).await;
    for given in [SAMPLED, UNSAMPLED, "00-garbage", "ff", "01-what-will-be"] {
        let fields = [("traceparent", given), ("tracestate", "a=b"), ("tracestate", "c=d")];
        assert_eq!(proxy.send("GET", "/x", &fields, "").await.status, 200);
        assert_eq!(upstream.last().values("traceparent"), [given]);
        assert_eq!(upstream.last().values("tracestate"), ["a=b", "c=d"]);
    }
    proxy.get("/x").await;
    assert!(upstream.last().values("traceparent").is_empty());
}

#[tokio::test]
async fn a_field_that_the_route_sets_or_removes_is_not_touched() {
    let test = "a_field_that_the_route_sets_or_removes_is_not_touched";
    if !has(test, MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    for (more, expected) in
        [("remove = [\"traceparent\"]", &[][..]), ("set = { traceparent = \"mine\" }", &["mine"])]
    {
        let config = route(&upstream.url(), "", more) + &trace(&collector, "");
        let proxy = Proxy::start(&config).await;
        proxy.send("GET", "/x", &[("traceparent", SAMPLED)], "").await;
        assert_eq!(upstream.last().values("traceparent"), expected);
    }
    collector.until(2, 2).await;
}

#[tokio::test]
async fn failures_are_called_what_they_are_called_elsewhere() {
    let test = "failures_are_called_what_they_are_called_elsewhere";
    if !has(test, MODULES).await {
        return;
    }
    let collector = Collector::start().await;
    let failing = Upstream::answering(|_| answer(503, "")).await;
    let closed = Upstream::fine().await.url();
    let at = |path: &str, upstream: &str| {
        format!(
            "[[route]]\nname = \"{path}\"\npath = \"/{path}\"\nupstream = {}\n",
            quoted(upstream)
        )
    };
    let config = at("failing", &failing.url()) + &at("closed", &closed) + &trace(&collector, "");
    let proxy = Proxy::start(&config).await;
    for (target, status) in [("/failing", 503), ("/closed", 502), ("/nowhere", 404)] {
        assert_eq!(proxy.get(target).await.status, status);
    }
    assert_eq!(proxy.send("FROB", "/failing", &[], "").await.status, 503);
    let spans = collector.until(2, 4).await;
    let of = |path: &str, method: &str, kind: u64| {
        let is_it = |span: &&Value| {
            let server = span["kind"] == 2;
            let attributes = &span["attributes"];
            let there = if path.is_empty() { Value::Null } else { json!(path) };
            server && attributes["url.path"] == there && attributes["http.request.method"] == method
        };
        let server = spans.iter().find(is_it).unwrap();
        let child = |span: &&Value| span["parent"] == server["id"] && span["kind"] == kind;
        let span = if kind == 2 { Some(server) } else { spans.iter().find(child) };
        span.map(|span| {
            let attributes = &span["attributes"];
            let status = attributes["http.response.status_code"].as_u64().unwrap_or(0);
            (attributes["error.type"].as_str().unwrap().to_owned(), status, span["status"].as_u64())
        })
    };
    let failed = |word: &str, status, code| Some((word.to_owned(), status, Some(code)));
    assert_eq!(of("/failing", "GET", 2), failed("503", 503, ERROR));
    assert_eq!(of("/failing", "GET", 3), failed("503", 503, ERROR));
    assert_eq!(of("/closed", "GET", 2), failed("upstream-refused", 502, ERROR));
    assert_eq!(of("/closed", "GET", 3), failed("upstream-refused", 0, ERROR));
    assert_eq!(of("", "GET", 2), failed("no-route", 404, 0));
    assert_eq!(of("", "GET", 3), None);
    assert_eq!(of("/failing", "_OTHER", 2), failed("503", 503, ERROR));
    let other = spans.iter().find(|span| span["name"] == "HTTP /failing").unwrap();
    assert_eq!(other["attributes"]["http.request.method_original"], "FROB");
    assert!(spans.iter().all(|span| span["name"] != "wait"), "there is nothing to wait for");
}

#[tokio::test]
async fn a_second_try_is_a_span_of_its_own() {
    if !has("a_second_try_is_a_span_of_its_own", MODULES).await {
        return;
    }
    let (collector, stand_in) = (Collector::start().await, twinzo().await);
    let config =
        plant(&stand_in.url(), "") + &route(&stand_in.url(), "plant", "") + &trace(&collector, "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    stand_in.recorder().clear();
    stand_in.switches().revoke_all();
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    let spans = collector.until(3, 3).await;
    let again = spans.iter().find(|span| span["attributes"]["http.request.resend_count"] == 1);
    let parent = &again.unwrap()["parent"];
    let children: Vec<_> = spans.iter().filter(|span| span["parent"] == *parent).collect();
    let names: Vec<_> = children.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["wait", "sign", "upstream", "wait", "sign", "upstream"]);
    let status = |span: &Value| span["attributes"]["http.response.status_code"].clone();
    assert_eq!([status(children[2]), status(children[5])], [401, 200]);
    let recorded = stand_in.recorder().all().into_iter().filter(is_data);
    let told: Vec<String> = recorded
        .map(|recorded| told(recorded.headers["traceparent"].to_str().unwrap()).to_owned())
        .collect();
    assert_eq!(told, [children[2]["id"].as_str().unwrap(), children[5]["id"].as_str().unwrap()]);
}

#[tokio::test]
async fn devices_are_told_only_if_that_is_wanted() {
    if !has("devices_are_told_only_if_that_is_wanted", MODULES).await {
        return;
    }
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    std::fs::write(&file, "device,token\ngw-canary,canary-token\n").unwrap();
    for devices in [false, true] {
        let collector = Collector::start().await;
        let config = format!(
            "[credential.each]\nkind = \"bearer\"\ndevices = {}\n\
             [[route]]\nname = \"p\"\npath = \"/p\"\nupstream = {}\ncredential = \"each\"\n\
             methods = [\"GET\"]\nidentity = {{ path_segment = 1 }}\n{}",
            quoted(file.to_str().unwrap()),
            quoted(&upstream.url()),
            trace(&collector, &format!("devices = {devices}")),
        );
        let proxy = Proxy::start(&config).await;
        assert_eq!(proxy.get("/p/gw-canary/x").await.status, 200);
        assert_eq!(proxy.get("/p/gw-unknown/x").await.status, 403);
        // Some are refused before there is a route, which says what of the path is the device.
        let path = "/p/gw-canary/x";
        for (method, path, field, status) in [
            ("GET", path, ("host", "evil.example"), 421),
            ("GET", path, ("origin", "http://evil.example"), 403),
            ("TRACE", path, ("x-any", "x"), 405),
            ("PATCH", path, ("x-any", "x"), 405),
            ("GET", "/wrong/gw-canary/x", ("x-any", "x"), 404),
        ] {
            let reply = proxy.send(method, path, &[field], "").await;
            assert_eq!(reply.status, status, "{method} {path} {field:?}: {}", reply.text());
        }
        let spans = collector.until(2, 7).await;
        let raw = collector.raw().await;
        assert!(!contains(&raw, "canary-token"));
        let attributes = &server(&spans)["attributes"];
        let sent = spans.iter().find(|span| span["kind"] == 3).unwrap();
        assert_eq!(sent["attributes"]["url.full"], format!("{}/x", upstream.url()));
        if devices {
            assert_eq!(attributes["countersign.device"], "gw-canary");
            assert_eq!(attributes["url.path"], "/p/gw-canary/x");
        } else {
            assert_eq!(attributes["url.path"], "/p/{device}/x");
            assert!(!contains(&raw, "gw-canary") && !contains(&raw, "gw-unknown"));
        }
    }
}

#[tokio::test]
async fn many_requests_share_an_export_and_the_collector_sees_its_token() {
    let test = "many_requests_share_an_export_and_the_collector_sees_its_token";
    if !has(test, MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    let more = format!(
        "delay = \"1h\"\nbatch = 10\nheaders = {{ Authorization = {} }}",
        secret("Bearer canary-collector")
    );
    let config = route(&upstream.url(), "", "") + &trace(&collector, &more);
    let proxy = Proxy::start(&config).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/x").await.status, 200);
    }
    // A batch that is full is not waited for.
    collector.until(2, 20).await;
    for export in collector.seen().await {
        let spans = export["spans"].as_array().unwrap();
        let requests = spans.iter().filter(|span| span["kind"] == 2).count();
        assert_eq!(requests, 10, "{export}");
        assert_eq!(export["headers"]["authorization"], "Bearer canary-collector");
    }
    // And what is left at the end is sent.
    assert_eq!(proxy.get("/last").await.status, 200);
    proxy.stop().await;
    let spans = collector.until(2, 21).await;
    assert!(spans.iter().any(|span| span["attributes"]["url.path"] == "/last"));
    assert!(!proxy_debug(&config).await.contains("canary-collector"));
}

/// What `Debug` shows of a proxy.
async fn proxy_debug(config: &str) -> String {
    Proxy::start(config).await.debug()
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_nothing_but_its_traces() {
    let test = "a_collector_that_is_not_there_costs_nothing_but_its_traces";
    if !has(test, MODULES).await {
        return;
    }
    let upstream = Upstream::fine().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = format!(
        "{}{}[admin]\naddress = \"127.0.0.1:0\"\n",
        route(&upstream.url(), "", ""),
        trace_at(&format!("http://{address}"), "queue = 8\nbatch = 4"),
    );
    let mut program = Program::start(&config).await;
    let status = async || {
        let mut connection = Connection::open(program.admin()).await;
        connection.send("GET", "/api/status", &[], "").await.json()["trace"].clone()
    };
    let said = |message: &str| {
        let log = program.log();
        log.iter().filter(|line| line["message"] == message).count()
    };
    let mut connection = Connection::open(program.address()).await;
    for _ in 0..50 {
        assert_eq!(connection.send("GET", "/x", &[], "").await.status, 200);
    }
    until("it is said", || said("traces cannot be exported; requests go on") == 1).await;
    let now = status().await;
    let [waiting, dropped] = ["waiting", "dropped"].map(|key| now[key].as_u64().unwrap());
    // Eight wait, and four may be on the way.
    assert!(waiting <= 8 && (38..=50).contains(&dropped), "{now}");
    assert_eq!((&now["failing"], &now["exported"]), (&json!(true), &json!(0)), "{now}");

    let port = address.port().to_string();
    let collector = Collector(Server::start("otlp_collector.py", &[&port]).await);
    until("it goes on", || said("traces can be exported again") == 1).await;
    assert_eq!(connection.send("GET", "/again", &[], "").await.status, 200);
    let give_up_at = tokio::time::Instant::now() + PATIENCE;
    loop {
        let spans = collector.spans().await;
        if spans.iter().any(|span| span["attributes"]["url.path"] == "/again") {
            break;
        }
        assert!(tokio::time::Instant::now() < give_up_at, "it was never exported");
    }
    let after = status().await;
    assert_eq!(after["failing"], false, "{after}");
    let [exported, dropped] = ["exported", "dropped"].map(|key| after[key].as_u64().unwrap());
    assert!(exported + dropped >= 50, "every request is one or the other: {after}");
    assert_eq!(said("traces cannot be exported; requests go on"), 1, "once, and not each time");
    program.signal("-TERM");
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_collector_is_asked_again_only_if_it_may_answer_otherwise() {
    let test = "a_collector_is_asked_again_only_if_it_may_answer_otherwise";
    if !has(test, MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    let wait = json!({ "status": 429, "headers": { "Retry-After": "0" } });
    let slow = json!({ "after": 3600 });
    let config =
        route(&upstream.url(), "", "") + &trace(&collector, "batch = 1\ntimeout = \"500ms\"");
    let proxy = Proxy::start(&config).await;
    let statuses = async || {
        let seen = collector.seen().await;
        seen.iter().map(|export| export["status"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    collector.answers(&json!([wait, { "status": 503 }])).await;
    proxy.get("/later").await;
    collector.until(2, 1).await;
    assert_eq!(statuses().await, [429, 503, 200]);
    for status in [400, 401, 500] {
        collector.answers(&json!([{ "status": status }])).await;
        let before = statuses().await.len();
        proxy.get("/lost").await;
        let give_up_at = tokio::time::Instant::now() + PATIENCE;
        while statuses().await.len() == before {
            assert!(tokio::time::Instant::now() < give_up_at, "it was not sent");
        }
    }
    // One that does not answer in time is asked again, and nobody waits for it.
    collector.answers(&json!([slow])).await;
    proxy.get("/slow").await;
    let spans = collector.until(2, 2).await;
    let mut paths: Vec<_> = spans.iter().map(|span| &span["attributes"]["url.path"]).collect();
    paths.retain(|path| path.is_string());
    assert_eq!(paths, ["/later", "/slow"]);
    assert_eq!(statuses().await, [429, 503, 200, 400, 401, 500, 200]);

    // Not even the end of the program.
    collector.answers(&json!([slow, slow, slow])).await;
    proxy.get("/last").await;
    tokio::time::timeout(PATIENCE, proxy.stop()).await.expect("it ends");
}

/// What it rejects is not exported, and its words are said once, without what they should not hold.
#[tokio::test]
async fn spans_that_a_collector_rejects_are_not_counted_as_exported() {
    let test = "spans_that_a_collector_rejects_are_not_counted_as_exported";
    if !has(test, MODULES).await {
        return;
    }
    let (collector, upstream) = (Collector::start().await, Upstream::fine().await);
    let more =
        format!("batch = 1\nheaders = {{ Authorization = {} }}", secret("Bearer canary-collector"));
    let config = format!(
        "{}{}[admin]\naddress = \"127.0.0.1:0\"\n",
        route(&upstream.url(), "", ""),
        trace(&collector, &more)
    );
    let program = Program::start(&config).await;
    let message = "quota of canary-collector\u{1b}[2J is used up";
    let rejecting = json!({ "rejected": 2, "message": message });
    collector.answers(&json!([rejecting, rejecting])).await;
    let mut connection = Connection::open(program.address()).await;
    for count in 1..=3 {
        assert_eq!(connection.send("GET", "/x", &[], "").await.status, 200);
        collector.until(2, count).await;
    }
    let give_up_at = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut admin = Connection::open(program.admin()).await;
        let now = admin.send("GET", "/api/status", &[], "").await.json()["trace"].clone();
        if now["exported"] == 1 {
            assert_eq!(now["dropped"], 2, "{now}");
            break;
        }
        assert!(tokio::time::Instant::now() < give_up_at, "{now}");
    }
    let log = program.log();
    let said: Vec<_> = log.iter().filter(|line| line.get("rejected").is_some()).collect();
    assert_eq!(said.len(), 1, "once, and not each time: {said:#?}");
    assert_eq!((&said[0]["level"], &said[0]["rejected"]), (&json!("WARN"), &json!(2)));
    assert_eq!(said[0]["says"], "quota of ***\u{fffd}[2J is used up");
}

#[tokio::test]
async fn a_line_says_which_trace_it_belongs_to() {
    let upstream = Upstream::fine().await;
    let program = Program::start(&route(&upstream.url(), "", "")).await;
    for fields in [&[("traceparent", UNSAMPLED)][..], &[("traceparent", "00-x\"y")], &[]] {
        Connection::open(program.address()).await.send("GET", "/x", fields, "").await;
    }
    until("three lines", || program.requests().len() == 3).await;
    let requests = program.requests();
    let traces: Vec<_> = requests.iter().map(|line| &line["trace_id"]).collect();
    assert_eq!(traces, [&json!(TRACE), &Value::Null, &Value::Null]);
}
