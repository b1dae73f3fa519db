//! gRPC through the proxy, as its reference implementation speaks it.

use crate::harness::python::{self, Server};
use crate::harness::{Proxy, route, secret};

#[tokio::test]
async fn calls_of_every_kind_pass_and_carry_the_credential() {
    if !python::has("grpc", "grpc").await {
        return;
    }
    let server = Server::start("grpc_server.py", &[]).await;
    let config = format!(
        "[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n{}",
        secret("ours"),
        route(&server.url(), "key", "http2 = \"always\"\n"),
    );
    let proxy = Proxy::start(&config).await;
    let checks = python::run("grpc_client.py", &[&proxy.address().to_string(), "ours"]).await;
    for check in &checks {
        assert_eq!(check["good"], true, "{check}");
    }
    assert_eq!(checks.len(), 21, "{checks:?}");
}
