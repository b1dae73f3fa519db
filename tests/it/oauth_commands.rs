//! What the commands say of OAuth 2.0.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::{PATIENCE, Upstream, private_directory, route, secret};
use crate::oauth::{api, client};

/// Runs a command with a configuration that says `text`.
async fn run(text: &str, arguments: &[&str]) -> Output {
    let directory = private_directory();
    let config = directory.path().join("countersign.toml");
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(&config, format!("{text}\n{listen}")).unwrap();
    let command = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(arguments)
        .arg("--config")
        .arg(&config)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, command).await.unwrap().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn fetch_and_live_checks_name_the_values_and_their_lifetime() {
    let server = AuthorizationServer::start().await;
    let upstream = Upstream::fine().await;
    let text = api(&server, &client()) + &route(&upstream.url(), "api", "");
    let fetched = run(&text, &["fetch", "api"]).await;
    let (stdout, stderr) = texts(&fetched);
    assert!(fetched.status.success(), "{stderr}");
    assert!(stdout.starts_with("values    access_token\nlifetime  60 min\n"), "{stdout}");
    let live = run(&text, &["check", "--live"]).await;
    let (stdout, stderr) = texts(&live);
    assert!(live.status.success(), "{stdout} {stderr}");
    assert!(stdout.contains("credential api: logged in; the token lives 60 min"), "{stdout}");
    assert_eq!(server.count(), 2);

    server.say([Scripted::error("invalid_client")]);
    let refused = run(&text, &["fetch", "api"]).await;
    let (stdout, stderr) = texts(&refused);
    assert_eq!((refused.status.code(), stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("invalid_client") && stderr.contains("client_auth"), "{stderr}");
    assert!(!stderr.contains("canary"), "{stderr}");
}

#[tokio::test]
async fn whoever_uses_up_a_refresh_token_by_looking_at_it_is_told() {
    let server = AuthorizationServer::start().await;
    let upstream = Upstream::fine().await;
    let grant = format!("grant = \"refresh_token\"\nrefresh_token = {}\n", secret("first"));
    let text = api(&server, &grant) + &route(&upstream.url(), "api", "");
    for arguments in [&["fetch", "api"][..], &["check", "--live"]] {
        server.say([Scripted::tokens("a1", "canary-next"), Scripted::token("a2")]);
        let (_, stderr) = texts(&run(&text, arguments).await);
        assert!(stderr.contains("is used up now"), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("canary"), "{stderr}");
        let (_, stderr) = texts(&run(&text, arguments).await);
        assert!(!stderr.contains("used up"), "it stays good: {stderr}");
    }
}

#[tokio::test]
async fn explain_shows_where_the_token_would_stand_and_asks_nobody() {
    let server = AuthorizationServer::start().await;
    let text = api(&server, &client()) + &route("https://api.example.com", "api", "");
    let (stdout, stderr) = texts(&run(&text, &["explain", "GET", "/x"]).await);
    let added = "authorization: Bearer <access token from the authorization server>";
    assert!(stdout.contains(added), "{stdout} {stderr}");
    assert_eq!(server.count(), 0);
}
