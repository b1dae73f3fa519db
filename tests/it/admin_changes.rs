//! What changes something over the admin listener: who may, and a credential that is fetched now.

use std::net::SocketAddr;
use std::time::Duration;

use countersign::mock::twinzo::{self, Account, Options};
use countersign::mock::{Failure, StandIn};

use crate::harness::{
    ANY_PORT, Connection, Proxy, Reply, plant, private_directory, quoted, route, secret, twinzo,
    until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const OFTEN: &str = "[credential.plant.refresh]\nmin_interval = \"1us\"\n";
const REFRESH: &str = "/api/credentials/plant/refresh";

async fn post(admin: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Reply {
    let mut connection = Connection::open(admin).await;
    connection.send("POST", target, fields, "").await
}

/// A proxy whose credential is there, fetched once.
async fn fetched(stand_in: &StandIn, refresh: &str, admin: &str) -> Proxy {
    let url = stand_in.url();
    let config = [plant(&url, refresh), route(&url, "plant", ""), admin.to_owned()].concat();
    let proxy = Proxy::start(&config).await;
    until("it is there", || proxy.identity("plant").cache.is_ready()).await;
    assert_eq!(stand_in.recorder().token_calls(), 1);
    proxy
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing_and_are_told_why() {
    let stand_in = twinzo().await;
    let proxy = fetched(&stand_in, OFTEN, ADMIN).await;
    let admin = proxy.admin();
    let port = admin.port();
    let own = format!("http://127.0.0.1:{port}");
    let hostile = [
        ("origin", "http://evil.example".to_owned()),
        ("origin", "null".to_owned()),
        ("origin", String::new()),
        ("origin", format!("https://127.0.0.1:{port}")),
        ("origin", format!("http://localhost:{port}")),
        ("origin", format!("http://127.0.0.1:{}", port ^ 1)),
        ("origin", "http://127.0.0.1".to_owned()),
        ("origin", format!("http://127.0.0.1:{port}.evil.example")),
        ("origin", format!("http://127.0.0.1:{port}@evil.example")),
        ("origin", format!("http://evil.example@127.0.0.1:{port}")),
        ("origin", format!("{own}, http://evil.example")),
        ("origin", format!("{own}/")),
        ("origin", format!("ftp://127.0.0.1:{port}")),
        ("sec-fetch-site", "cross-site".to_owned()),
        ("sec-fetch-site", "same-site".to_owned()),
        ("sec-fetch-site", "SAME-ORIGIN".to_owned()),
    ];
    for (name, value) in &hostile {
        let reply = post(admin, REFRESH, &[(name, value)]).await;
        assert_eq!(reply.status, 403, "{name}: {value}");
        assert!(reply.text().contains("may change nothing here"), "{}", reply.text());
        assert!(reply.text().contains("without"), "it says what to do: {}", reply.text());
    }
    // One that is right beside one that is not.
    let twice = [("origin", own.as_str()), ("origin", "http://evil.example")];
    assert_eq!(post(admin, REFRESH, &twice).await.status, 403);
    let mixed = [("origin", own.as_str()), ("sec-fetch-site", "cross-site")];
    assert_eq!(post(admin, REFRESH, &mixed).await.status, 403);
    // A name that was pointed here, whatever the page says of itself.
    let host = format!("evil.example:{port}");
    let origin = format!("http://{host}");
    let rebound = [("host", host.as_str()), ("origin", &origin), ("sec-fetch-site", "same-origin")];
    assert_eq!(post(admin, REFRESH, &rebound).await.status, 421);
    // What a form can send without asking.
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""] {
        let reply = post(admin, REFRESH, &[("content-type", kind)]).await;
        assert_eq!(reply.status, 403, "{kind}");
        assert!(reply.text().contains("Content-Type: application/json"), "{}", reply.text());
    }
    let mut connection = Connection::open(admin).await;
    let untyped = connection.send("POST", REFRESH, &[], "{}").await;
    assert_eq!(untyped.status, 403);
    assert_eq!(stand_in.recorder().token_calls(), 1, "nothing was done");

    let same = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(post(admin, REFRESH, &same).await.status, 200);
    let by_name = (format!("localhost:{port}"), format!("http://localhost:{port}"));
    let by_name = [("host", by_name.0.as_str()), ("origin", by_name.1.as_str())];
    assert_eq!(post(admin, REFRESH, &by_name).await.status, 200);
}

#[tokio::test]
async fn a_listed_name_may_be_reached_over_something_that_ends_tls() {
    let stand_in = twinzo().await;
    let admin = format!("{ADMIN}hosts = [\"admin.example.com\"]\n");
    let proxy = fetched(&stand_in, "", &admin).await;
    let with = |host: &'static str, origin: &'static str| {
        let admin = proxy.admin();
        async move { post(admin, REFRESH, &[("host", host), ("origin", origin)]).await.status }
    };
    assert_eq!(with("admin.example.com", "https://admin.example.com:8443").await, 403);
    assert_eq!(with("localhost", "https://localhost").await, 403, "nobody said that it has TLS");
    assert_eq!(with("admin.example.com", "https://admin.example.com").await, 200);
}

#[tokio::test]
async fn a_change_needs_the_token_and_its_method_and_is_read_within_bounds() {
    let stand_in = twinzo().await;
    let admin = format!("{ADMIN}token = {}\n", secret("admins"));
    let proxy = fetched(&stand_in, OFTEN, &admin).await;
    let admin = proxy.admin();
    let token = ("authorization", "Bearer admins");
    assert_eq!(post(admin, REFRESH, &[]).await.status, 401);
    assert_eq!(post(admin, "/quit", &[token]).await.status, 404, "it is not configured");
    let mut connection = Connection::open(admin).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let reply = connection.send(method, REFRESH, &[token], "").await;
        assert_eq!((reply.status, reply.field("allow")), (405, "POST"), "{method}");
    }
    let json = ("content-type", "application/json; charset=utf-8");
    for (content, status) in
        [("{".to_owned(), 400), ("{\"a\":1}".to_owned(), 400), (" ".repeat(70_000), 413)]
    {
        let mut connection = Connection::open(admin).await;
        let reply = connection.send("POST", REFRESH, &[token, json], content).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    assert_eq!(stand_in.recorder().token_calls(), 1);
    let mut connection = Connection::open(admin).await;
    let reply = connection.send("POST", REFRESH, &[token, json], "{}").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_credential_is_fetched_now_and_the_one_before_stays_if_that_fails() {
    let stand_in = twinzo().await;
    let proxy = fetched(&stand_in, OFTEN, ADMIN).await;
    let admin = proxy.admin();
    let told = post(admin, REFRESH, &[]).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.json();
    assert_eq!((&told["outcome"], &told["credential"]), (&"fetched".into(), &"plant".into()));
    let ends = told["expires_in_s"].as_f64().unwrap();
    assert!(ends > 80_000.0 && ends <= 86_400.0, "{told}");
    assert!(told["took_s"].as_f64().unwrap() < 9.0, "{told}");
    assert_eq!(stand_in.recorder().token_calls(), 2);

    // A password that was refused is not tried again for a quarter of an hour, unless somebody asks.
    for (failure, status, word) in
        [(Failure::ServerError, 503, "unavailable"), (Failure::Garbage, 502, "reply")]
    {
        stand_in.switches().fail_token_calls(failure, None);
        let before = stand_in.recorder().token_calls();
        let told = post(admin, REFRESH, &[]).await;
        assert_eq!(told.status, status, "{}", told.text());
        assert_eq!(!told.field("retry-after").is_empty(), status == 503);
        let told = told.json();
        assert_eq!((&told["outcome"], &told["error_word"]), (&"failed".into(), &word.into()));
        assert_eq!(told["usable"], true, "{told}");
        assert!(told["error"].as_str().unwrap().contains("token endpoint"), "{told}");
        // One attempt: a renewal, and a login where that is of no avail.
        let calls = stand_in.recorder().token_calls() - before;
        assert!((1..=2).contains(&calls), "{calls}");
        assert_eq!(proxy.get("/v3/devices").await.status, 200, "what was there is in use");
    }
    stand_in.switches().fail_token_calls(Failure::None, None);
    assert_eq!(post(admin, REFRESH, &[]).await.status, 200, "its own schedule would wait");
}

#[tokio::test]
async fn nobody_forces_more_logins_than_min_interval_allows() {
    let stand_in = twinzo().await;
    let hour = "[credential.plant.refresh]\nmin_interval = \"1h\"\n";
    let proxy = fetched(&stand_in, hour, ADMIN).await;
    assert_eq!(post(proxy.admin(), REFRESH, &[]).await.status, 200);
    let told = post(proxy.admin(), REFRESH, &[]).await;
    assert_eq!(told.status, 429, "{}", told.text());
    assert!((3_000..=3_600).contains(&told.retry_after()), "{}", told.retry_after());
    assert!(told.json()["error"].as_str().unwrap().contains("min_interval"));
    assert_eq!(stand_in.recorder().token_calls(), 2);
}

#[tokio::test]
async fn whoever_asks_at_once_shares_one_login() {
    let stand_in = twinzo().await;
    let proxy = fetched(&stand_in, OFTEN, ADMIN).await;
    stand_in.switches().set_token_latency(Duration::from_millis(300));
    let admin = proxy.admin();
    let first = tokio::spawn(post(admin, REFRESH, &[]));
    until("it is under way", || proxy.identity("plant").cache.state().renewing).await;
    let others = tokio::join!(post(admin, REFRESH, &[]), post(admin, REFRESH, &[]));
    let statuses = [first.await.unwrap().status, others.0.status, others.1.status];
    assert_eq!(statuses, [200, 200, 200]);
    assert_eq!(stand_in.recorder().token_calls(), 2);
}

#[tokio::test]
async fn what_is_not_fetched_or_not_there_is_not_refreshed() {
    let stand_in = twinzo().await;
    let key = format!("[credential.key]\nkind = \"bearer\"\ntoken = {}\n", secret("canary"));
    let proxy = fetched(&stand_in, "", &format!("{ADMIN}{key}")).await;
    let admin = proxy.admin();
    let told = post(admin, "/api/credentials/key/refresh", &[]).await;
    assert_eq!(told.status, 409, "{}", told.text());
    assert!(told.json()["error"].as_str().unwrap().contains("not fetched"));
    for (target, status) in [
        ("/api/credentials/nobody/refresh", 404),
        ("/api/credentials/plant/refresh?device=x", 400),
        ("/api/credentials/plant/refresh?x=y", 400),
    ] {
        let told = post(admin, target, &[]).await;
        assert_eq!((told.status, &told.json()["outcome"]), (status, &"not_asked".into()));
        assert!(!told.text().contains("canary"));
    }
    assert_eq!(stand_in.recorder().token_calls(), 1);
}

#[tokio::test]
async fn a_device_is_fetched_now_also_if_its_password_was_refused() {
    let accounts = (1..=2).map(Account::of_device).collect();
    let stand_in = twinzo::start(ANY_PORT, Options { accounts, ..Options::default() }).await;
    let stand_in = stand_in.unwrap();
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    let devices = "device,login,password\nline-1,device-000001,password-000001\n\
                   line-2,device-000002,canary-wrong\n";
    std::fs::write(&file, devices).unwrap();
    let config = format!(
        "{ADMIN}[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
         devices = {}\n{OFTEN}{}",
        quoted(&stand_in.url()),
        quoted(&file.to_string_lossy()),
        route(&stand_in.url(), "plant", "identity = { header = \"X-Device\" }"),
    );
    let proxy = Proxy::start(&config).await;
    let of = |device: &'static str| post_device(proxy.admin(), device);
    let told = of("line-1").await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(told.json()["device"], "line-1");
    assert_eq!(stand_in.recorder().token_calls(), 1);
    assert_eq!(of("line-1").await.status, 200, "it has one, and gets another");
    assert_eq!(stand_in.recorder().token_calls(), 2);
    for calls in [3, 4] {
        let told = of("line-2").await;
        assert_eq!((told.status, &told.json()["error_word"]), (502, &"refused".into()));
        assert!(!told.text().contains("canary"));
        assert_eq!(stand_in.recorder().token_calls(), calls, "it is tried each time");
    }
    assert_eq!(of("line-3").await.status, 404);
    assert_eq!(post(proxy.admin(), REFRESH, &[]).await.status, 400, "which device?");

    // The endpoint wants to be left alone: by nobody is it asked then.
    stand_in.switches().fail_token_calls(Failure::TooManyRequests { retry_after: Some(30) }, None);
    let told = of("line-1").await;
    assert_eq!(told.status, 503, "{}", told.text());
    assert_eq!(told.json()["usable"], true);
    let calls = stand_in.recorder().token_calls();
    let told = of("line-1").await;
    assert_eq!(told.status, 429, "{}", told.text());
    assert!((20..=40).contains(&told.retry_after()), "{}", told.retry_after());
    assert_eq!(stand_in.recorder().token_calls(), calls);
    let request = proxy.send("GET", "/v3/devices", &[("X-Device", "line-1")], "").await;
    assert_eq!(request.status, 200, "what was there is in use");
}

async fn post_device(admin: SocketAddr, device: &str) -> Reply {
    post(admin, &format!("{REFRESH}?device={device}"), &[]).await
}
