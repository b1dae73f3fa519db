//! The admin listener: alive at once, ready when the credentials are.

use std::net::SocketAddr;

use countersign::mock::Failure;

use crate::harness::{Connection, Proxy, Reply, plant, route, secret, twinzo, until};

async fn ask(address: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Reply {
    let mut connection = Connection::open(address).await;
    connection.send("GET", target, fields, "").await
}

#[tokio::test]
async fn it_is_ready_once_the_eager_login_succeeded() {
    let stand_in = twinzo().await;
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let config = plant(&stand_in.url(), "")
        + &route(&stand_in.url(), "plant", "")
        + "[admin]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&config).await;
    let admin = proxy.admin();
    assert_eq!(ask(admin, "/livez", &[]).await.status, 200);
    let recorder = stand_in.recorder();
    until("a login fails", || recorder.token_calls() >= 1).await;
    let ready = ask(admin, "/readyz", &[]).await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("plant"), "it says what is missing");
    assert_eq!(ask(admin, "/livez", &[]).await.status, 200);

    stand_in.switches().fail_token_calls(Failure::None, None);
    until("it is ready", || proxy.identity("plant").cache.is_ready()).await;
    assert_eq!(ask(admin, "/readyz", &[]).await.status, 200);
}

#[tokio::test]
async fn a_credential_that_is_fetched_on_demand_is_not_waited_for() {
    let stand_in = twinzo().await;
    let lazy = "[credential.plant.refresh]\neager = false\n";
    let config = plant(&stand_in.url(), lazy)
        + &route(&stand_in.url(), "plant", "")
        + "[admin]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&config).await;
    assert_eq!(ask(proxy.admin(), "/readyz", &[]).await.status, 200);
    assert_eq!(stand_in.recorder().token_calls(), 0);
}

#[tokio::test]
async fn other_hosts_and_missing_tokens_are_refused() {
    let stand_in = twinzo().await;
    let config = route(&stand_in.url(), "", "")
        + &format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken = {}\n", secret("admins"));
    let proxy = Proxy::start(&config).await;
    let admin = proxy.admin();
    let rebound = ask(admin, "/livez", &[("host", "evil.example")]).await;
    assert_eq!(rebound.status, 421);
    assert_eq!(ask(admin, "/livez", &[]).await.status, 200);
    assert_eq!(ask(admin, "/readyz", &[]).await.status, 200);
    assert_eq!(ask(admin, "/nothing", &[]).await.status, 401);
    let wrong = [("authorization", "Bearer others")];
    assert_eq!(ask(admin, "/nothing", &wrong).await.status, 401);
    let right = [("authorization", "Bearer admins")];
    assert_eq!(ask(admin, "/nothing", &right).await.status, 404);
}

#[tokio::test]
async fn the_admin_paths_are_no_paths_of_the_proxy() {
    let stand_in = twinzo().await;
    let config = route(&stand_in.url(), "", "") + "[admin]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/livez").await.status, 404, "the upstream's own");
    assert_eq!(stand_in.recorder().last().unwrap().target, "/livez");
}
