//! The commands that ask a running program how it is, and have it fetch a credential.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use countersign::mock::StandIn;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Act, Faulty, Proxy, plant, plant_with_password, private_directory, quoted, route, secret,
    twinzo, until,
};

const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

/// A program that runs, and the configuration by which it is found.
struct Place {
    proxy: Proxy,
    stand_in: StandIn,
    directory: TempDir,
}

impl Place {
    /// With the credential `plant` and whatever `more` says.
    async fn start(more: &str) -> Self {
        let stand_in = twinzo().await;
        let directory = private_directory();
        let token = directory.path().join("token");
        std::fs::write(&token, "canary-admin\n").unwrap();
        let config = [
            "[admin]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            format!("token = {{ file = {} }}\n", quoted(token.to_str().unwrap())),
            plant(&stand_in.url(), ""),
            route(&stand_in.url(), "plant", ""),
            more.replace("URL", &stand_in.url()),
        ]
        .concat();
        let proxy = Proxy::start(&config).await;
        until("it is there", || proxy.identity("plant").cache.is_ready()).await;
        let text = format!("{config}[[listen]]\naddress = \"127.0.0.1:8080\"\n");
        let text = text.replace("127.0.0.1:0", &proxy.admin().to_string());
        std::fs::write(directory.path().join("countersign.toml"), text).unwrap();
        Self { proxy, stand_in, directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.directory.path().join("countersign.toml"));
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Status, standard output, standard error.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output { status, stdout, stderr } = ran.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[tokio::test]
async fn the_status_is_a_table_and_its_exit_status_says_whether_all_is_well() {
    let place = Place::start("").await;
    let (status, out, err) = place.run(&["status"]).await;
    assert_eq!(status, 0, "{out}{err}");
    assert!(!err.contains("error"), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("countersign 0.1.0, up "), "{out}");
    let head = "CREDENTIAL  STATE  ENDS IN  RENEWAL IN  LAST RENEWAL  FAILURES  ERROR";
    let head = lines.iter().position(|line| *line == head).unwrap_or_else(|| panic!("{out}"));
    assert!(lines[head + 1].starts_with("plant       fresh     24 h"), "{out}");
    assert!(lines[head + 1].ends_with(" ago         -"), "{out}");
    assert!(!out.contains('\u{1b}') && !out.contains("canary"), "{out}");

    let (status, out, _) = place.run(&["status", "--json"]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &json["credentials"][0]["name"]), (0, &"plant".into()));
}

#[tokio::test]
async fn a_credential_in_trouble_is_told_by_the_exit_status() {
    let refused = plant_with_password("URL", "canary-wrong", "");
    let place = Place::start(&refused.replace("credential.plant", "credential.mail")).await;
    let failed = || place.proxy.identity("mail").cache.state().failure.is_some();
    until("it is refused", failed).await;
    let (status, out, _) = place.run(&["status"]).await;
    assert_eq!(status, 1, "{out}");
    let line = out.lines().find(|line| line.starts_with("mail")).unwrap();
    assert!(line.contains("refused") && line.contains("check the login and password"), "{line}");
    let (status, json, _) = place.run(&["status", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["ready"]), (1, &false.into()));
    assert_eq!(json["not_ready_because"], "no usable credential: mail");
    let credentials = json["credentials"].as_array().unwrap();
    let trouble = |name: &str| {
        credentials.iter().find(|one| one["name"] == name).map(|one| one["trouble"].clone())
    };
    assert_eq!((trouble("plant"), trouble("mail")), (Some(Value::Null), Some("all".into())));
    assert!(!out.contains("canary"), "{out}");
}

#[tokio::test]
async fn an_api_that_refuses_is_told_by_the_exit_status() {
    let refuse = "HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n";
    let upstream = Faulty::start(|_| Act::Say(refuse.to_owned())).await;
    let route = route(&upstream.url(), "plant", "path = \"/refuses\"\n");
    let place = Place::start(&route.replace("name = \"all\"", "name = \"refuses\"")).await;
    assert_eq!(place.run(&["status"]).await.0, 0, "nobody has asked yet");
    assert_eq!(place.proxy.get("/refuses").await.status, 403);
    let (status, out, _) = place.run(&["status"]).await;
    let line = out.lines().find(|line| line.starts_with("refuses")).unwrap();
    assert!(status == 1 && line.contains("100.0 %"), "{out}");
}

#[tokio::test]
async fn whoever_cannot_be_asked_is_said_with_what_to_do() {
    let place = Place::start("").await;
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for command in [&["status"][..], &["refresh", "plant"]] {
        let (status, out, err) = place.run(&[command, &["--address", &free]].concat()).await;
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("is countersign running?"), "{err}");
    }
    std::fs::write(place.directory.path().join("token"), "canary-other\n").unwrap();
    let (status, _, err) = place.run(&["status"]).await;
    assert_eq!(status, 1);
    assert!(err.contains("does not accept the token") && !err.contains("canary"), "{err}");
}

#[tokio::test]
async fn it_is_shown_again_and_again_until_it_is_ended() {
    let place = Place::start("").await;
    let mut command = place.command(&["status", "--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let lines = out.lines().take(2).map(|line| line.unwrap());
        lines.map(|line| serde_json::from_str::<Value>(&line).unwrap()).collect::<Vec<_>>()
    });
    let told = read.await.unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    let up = |told: &Value| told["uptime_s"].as_f64().unwrap();
    assert!(up(&told[1]) > up(&told[0]), "{told:#?}");
}

#[tokio::test]
async fn a_credential_is_fetched_by_a_command() {
    let key = format!("[credential.key]\nkind = \"bearer\"\ntoken = {}\n", secret("canary"));
    let place = Place::start(&key).await;
    let (status, out, err) = place.run(&["refresh", "plant"]).await;
    assert_eq!(status, 0, "{out}{err}");
    assert!(!err.contains("error"), "{err}");
    assert!(out.starts_with("fetched in ") && out.contains("it is good for 24 h"), "{out}");
    assert_eq!(place.stand_in.recorder().token_calls(), 2);
    let (status, out, err) = place.run(&["refresh", "plant"]).await;
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains("min_interval") && err.contains("may be made in"), "{err}");
    let (status, out, _) = place.run(&["refresh", "plant", "--json"]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &told["outcome"]), (1, &"not_asked".into()));
    for (arguments, why) in [
        (&["refresh", "nobody"][..], "there is no credential 'nobody'"),
        (&["refresh", "key"], "it is not fetched"),
        (&["refresh", "plant", "--device", "x"], "has no devices"),
    ] {
        let (status, _, err) = place.run(arguments).await;
        assert_eq!(status, 1, "{err}");
        assert!(err.contains(why), "{err}");
    }
    assert_eq!(place.stand_in.recorder().token_calls(), 2);
}
