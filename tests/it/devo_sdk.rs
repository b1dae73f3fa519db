//! The vendor's own Python client behind the proxy: it signs with dummies, the proxy with the real
//! thing.

use std::path::Path;

use countersign::mock::devo::Options;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{PATIENCE, Proxy, devo, quoted, secret, skip};

#[tokio::test]
async fn the_devo_sdk_queries_through_the_proxy_in_every_form() {
    let probe = Command::new("python3").args(["-c", "import devo.api"]).output().await;
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("devo_sdk", "python3 cannot import devo (pip install devo-sdk)");
        return;
    }
    let stand_in = devo(Options::default()).await;
    let proxy = Proxy::start(&format!(
        "[credential.query]\nkind = \"devo-signature\"\napi = \"query\"\n\
         api_key = {}\napi_secret = {}\n\
         [[route]]\npath = \"/search/query\"\nupstream = {}\ncredential = \"query\"\n",
        secret("standin-query-key"),
        secret("standin-query-secret"),
        quoted(&format!("{}/search/query", stand_in.url())),
    ))
    .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/devo_sdk.py");
    let run = Command::new("python3")
        .arg(script)
        .arg(proxy.address().to_string())
        .env("UNSECURE_HTTP", "TRUE")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 9, "{stderr}");
    for line in &lines {
        assert_eq!(line["robot"], true, "{line} {stderr}");
    }
    let received = stand_in.recorder().all();
    assert_eq!(received.len(), 9, "no retries");
    for recorded in received {
        assert!(recorded.accepted, "{}", recorded.verdict);
        assert_eq!(recorded.verdict, "signature of the query key is right");
        let mut values = recorded.headers.values();
        let dummies = values.any(|value| value.to_str().unwrap().contains("dummy"));
        assert!(!dummies, "its own credentials are gone");
        assert!(!recorded.headers.contains_key("authorization"));
    }
}
