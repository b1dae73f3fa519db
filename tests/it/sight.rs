//! What whoever runs the program sees of credentials and devices: status, metrics and pages of
//! devices on the admin listener, and the command that asks it.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use countersign::mock::StandIn;
use countersign::mock::twinzo::{self, Account, Options};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    ANY_PORT, Connection, Proxy, Reply, plant, plant_with_password, private_directory, quoted,
    route, secret, twinzo, until,
};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const TOKEN: [(&str, &str); 1] = [("authorization", "Bearer canary-admin")];

async fn ask(proxy: &Proxy, target: &str, fields: &[(&str, &str)]) -> Reply {
    let mut connection = Connection::open(proxy.admin()).await;
    connection.send("GET", target, fields, "").await
}

async fn status(proxy: &Proxy) -> Value {
    ask(proxy, "/api/status", &TOKEN).await.json()
}

async fn scrape(proxy: &Proxy) -> String {
    let reply = ask(proxy, "/metrics", &TOKEN).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.field("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    reply.text().to_owned()
}

/// The value of a series, as it is written.
fn value<'s>(scrape: &'s str, series: &str) -> Option<&'s str> {
    scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// A fleet whose first device is fresh, whose second is refused, and whose third nobody asks for.
struct Fleet {
    proxy: Proxy,
    stand_in: StandIn,
    directory: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let accounts = (1..=3).map(Account::of_device).collect();
        let options = Options { accounts, ..Options::default() };
        let stand_in = twinzo::start(ANY_PORT, options).await.unwrap();
        let directory = private_directory();
        std::fs::write(
            directory.path().join("devices.csv"),
            "device,login,password\nline-1,device-000001,password-000001\n\
             line-2,device-000002,canary-wrong\nline-3,device-000003,password-000003\n",
        )
        .unwrap();
        std::fs::write(directory.path().join("token"), "canary-admin\n").unwrap();
        let proxy = Proxy::start(&Self::config(&stand_in, &directory)).await;
        let fleet = Self { proxy, stand_in, directory };
        assert_eq!(fleet.of("line-1").await, 200);
        assert_eq!(fleet.of("line-2").await, 502);
        fleet
    }

    fn config(stand_in: &StandIn, directory: &TempDir) -> String {
        let path = |name: &str| quoted(&directory.path().join(name).to_string_lossy());
        format!(
            "[admin]\naddress = \"127.0.0.1:0\"\ntoken = {{ file = {} }}\n\
             [credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
             devices = {}\n{}",
            path("token"),
            quoted(&stand_in.url()),
            path("devices.csv"),
            route(&stand_in.url(), "plant", "identity = { header = \"X-Device\" }"),
        )
    }

    async fn of(&self, device: &str) -> u16 {
        self.proxy.send("GET", "/v3/devices", &[("X-Device", device)], "").await.status
    }

    async fn page(&self, query: &str) -> Reply {
        ask(&self.proxy, &format!("/api/credentials/plant/devices{query}"), &TOKEN).await
    }

    /// Runs a command with this fleet's configuration, where the admin listener is.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let file = self.directory.path().join("countersign.toml");
        let listen = "[[listen]]\naddress = \"127.0.0.1:8080\"\n";
        let text = format!("{listen}{}", Self::config(&self.stand_in, &self.directory));
        let text = text.replace("127.0.0.1:0", &self.proxy.admin().to_string());
        std::fs::write(&file, text).unwrap();
        run(&file.to_string_lossy(), arguments).await
    }
}

async fn run(config: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(arguments).args(["--config", config]);
    command.env("NO_COLOR", "1").env("COLUMNS", "100").stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = ran.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn the_status_shows_how_many_devices_are_in_which_state_and_the_worst_of_them() {
    let fleet = Fleet::start().await;
    let status = status(&fleet.proxy).await;
    let credential = &status["credentials"][0];
    assert_eq!(credential["name"], "plant");
    assert_eq!(
        (&credential["kind"], &credential["source"]),
        (&"twinzo-device".into(), &"login".into())
    );
    assert_eq!(credential["state"], "refused");
    assert!(credential["last_renewal"]["took_s"].as_f64().is_some(), "{status:#}");
    let devices = &credential["devices"];
    let counts = serde_json::json!({
        "known": 3, "fresh": 1, "renewing": 0, "failing": 0, "refused": 1, "idle": 1,
    });
    assert_eq!(devices["counts"], counts);
    assert_eq!((&devices["login_queue"], &devices["logins_in_flight"]), (&0.into(), &0.into()));
    assert_eq!(devices["max_logins_per_second"], 50.0);
    assert!(devices["gate"].is_null());
    let soonest = devices["renewals"]["soonest"].as_array().unwrap();
    assert_eq!(soonest.len(), 1, "{status:#}");
    assert_eq!(soonest[0]["device"], "line-1");
    assert_eq!(devices["renewals"]["within_15m"], 0, "its token lives a day");
    let failing = devices["failing"].as_array().unwrap();
    assert_eq!(failing.len(), 1);
    assert_eq!((&failing[0]["device"], &failing[0]["failures"]), (&"line-2".into(), &1.into()));
    assert!(failing[0]["error"].as_str().unwrap().contains("refused the login"), "{status:#}");
    let next = failing[0]["next_attempt_in_s"].as_f64().unwrap();
    assert!(next > 600.0 && next <= 900.0, "{next}");
    assert!(!status.to_string().contains("canary"));
}

#[tokio::test]
async fn devices_are_listed_page_by_page_by_state_and_by_name() {
    let fleet = Fleet::start().await;
    let all = fleet.page("").await;
    assert_eq!((all.status, all.field("content-type")), (200, "application/json"));
    let all = all.json();
    let states: Vec<(&str, &str)> = all["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| (device["device"].as_str().unwrap(), device["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("line-1", "fresh"), ("line-2", "refused"), ("line-3", "idle")]);
    assert_eq!((&all["counts"]["known"], &all["next"]), (&3.into(), &Value::Null));
    let ends = all["devices"][0]["expires_in_s"].as_f64().unwrap();
    assert!(ends > 80_000.0 && ends <= 86_400.0, "{ends}");
    assert!(all["devices"][2]["idle_for_s"].is_null());

    let first = fleet.page("?limit=2").await.json();
    assert_eq!(first["devices"].as_array().unwrap().len(), 2);
    assert_eq!(first["next"], "line-2");
    let second = fleet.page("?limit=2&after=line-2").await.json();
    assert_eq!(second["devices"][0]["device"], "line-3");
    assert!(second["next"].is_null());
    let refused = fleet.page("?state=refused&search=LINE").await.json();
    assert_eq!(refused["devices"].as_array().unwrap().len(), 1);
    assert_eq!(refused["devices"][0]["error_word"], "refused");

    for (query, status) in [
        ("?state=tired", 400),
        ("?limit=0", 400),
        ("?limit=1001", 400),
        ("?after=nobody", 400),
        ("?color=red", 400),
    ] {
        assert_eq!(fleet.page(query).await.status, status, "{query}");
    }
    for target in ["/api/credentials/nobody/devices", "/api/credentials/a/b/devices"] {
        assert_eq!(ask(&fleet.proxy, target, &TOKEN).await.status, 404, "{target}");
    }
}

#[tokio::test]
async fn metrics_count_devices_and_outcomes_and_name_no_device() {
    let fleet = Fleet::start().await;
    let text = scrape(&fleet.proxy).await;
    for (series, expected) in [
        ("countersign_build_info{version=\"0.1.0\"}", "1"),
        ("countersign_credential_devices{credential=\"plant\",state=\"known\"}", "3.0"),
        ("countersign_credential_devices{credential=\"plant\",state=\"fresh\"}", "1.0"),
        ("countersign_credential_devices{credential=\"plant\",state=\"refused\"}", "1.0"),
        ("countersign_credential_devices{credential=\"plant\",state=\"idle\"}", "1.0"),
        ("countersign_credential_refreshes_total{credential=\"plant\",outcome=\"ok\"}", "1"),
        ("countersign_credential_refreshes_total{credential=\"plant\",outcome=\"refused\"}", "1"),
        ("countersign_credential_replays_total{credential=\"plant\"}", "0"),
        ("countersign_credential_login_queue{credential=\"plant\"}", "0.0"),
        ("countersign_credential_logins_in_flight{credential=\"plant\"}", "0.0"),
        ("countersign_credential_gate_closed{credential=\"plant\"}", "0.0"),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
    assert!(!text.contains("line-") && !text.contains("canary"), "{text}");
    // A token that is refused is replaced, and the request sent again.
    fleet.stand_in.switches().revoke_all();
    assert_eq!(fleet.of("line-1").await, 200);
    let text = scrape(&fleet.proxy).await;
    let replays = "countersign_credential_replays_total{credential=\"plant\"}";
    assert_eq!(value(&text, replays), Some("1"), "{text}");
}

#[tokio::test]
async fn everything_but_the_probes_asks_for_the_token_and_takes_only_what_reads() {
    let fleet = Fleet::start().await;
    for target in ["/metrics", "/api/status", "/api/credentials/plant/devices", "/nothing"] {
        assert_eq!(ask(&fleet.proxy, target, &[]).await.status, 401, "{target}");
        let wrong = [("authorization", "Bearer canary")];
        assert_eq!(ask(&fleet.proxy, target, &wrong).await.status, 401, "{target}");
        let rebound = [TOKEN[0], ("host", "evil.example")];
        assert_eq!(ask(&fleet.proxy, target, &rebound).await.status, 421, "{target}");
    }
    let mut connection = Connection::open(fleet.proxy.admin()).await;
    let reply = connection.send("POST", "/api/status", &TOKEN, "").await;
    assert_eq!((reply.status, reply.field("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn a_single_credential_is_shown_in_every_state_that_it_can_be_in() {
    let stand_in = twinzo().await;
    let url = stand_in.url();
    let named = |name: &str, text: String| {
        let text = text.replace("credential.plant", &format!("credential.{name}"));
        let route = route(&url, name, &format!("path = \"/{name}\""));
        text + &route.replace("name = \"all\"", &format!("name = \"{name}\""))
    };
    let lazy = "[credential.plant.refresh]\neager = false\n";
    let config = [
        ADMIN.to_owned(),
        named("fresh", plant(&url, "")),
        named("refused", plant_with_password(&url, "canary-wrong", "")),
        named("waiting", plant(&url, lazy)),
        named(
            "key",
            format!("[credential.key]\nkind = \"bearer\"\ntoken = {}\n", secret("canary")),
        ),
    ]
    .concat();
    let proxy = Proxy::start(&config).await;
    let states = async || {
        let status = ask(&proxy, "/api/status", &[]).await.json();
        let all = status["credentials"].as_array().unwrap().clone();
        let state = |name: &str| all.iter().find(|one| one["name"] == name).unwrap().clone();
        ["fresh", "refused", "waiting", "key"].map(state)
    };
    until("it is ready", || proxy.identity("fresh").cache.is_ready()).await;
    let failed = || proxy.identity("refused").cache.state().failure.is_some();
    until("it is refused", failed).await;
    let [fresh, refused, waiting, key] = states().await;
    assert_eq!(fresh["state"], "fresh");
    let (left, next) = (&fresh["expires_in_s"], &fresh["next_attempt_in_s"]);
    assert!(left.as_f64().unwrap() > next.as_f64().unwrap(), "{fresh}");
    assert!(fresh["last_renewal"]["ago_s"].as_f64().is_some(), "{fresh}");
    assert!(fresh["error"].is_null() && fresh.get("devices").is_none(), "{fresh}");
    assert_eq!((&refused["state"], &refused["error_word"]), (&"refused".into(), &"refused".into()));
    assert_eq!(refused["failures"], 1);
    assert!(refused["next_attempt_in_s"].as_f64().unwrap() > 600.0, "{refused}");
    assert_eq!(
        (&waiting["state"], &waiting["next_attempt_in_s"]),
        (&"waiting".into(), &Value::Null)
    );
    assert_eq!((&key["state"], &key["source"]), (&"fresh".into(), &"fixed".into()));
    let text = scrape(&proxy).await;
    let expiry = |name: &str| {
        let series =
            format!("countersign_credential_expiry_timestamp_seconds{{credential=\"{name}\"}}");
        value(&text, &series).map(|value| value.parse::<f64>().unwrap())
    };
    assert!(expiry("fresh").unwrap() > 1_700_000_000.0, "{text}");
    assert_eq!((expiry("refused"), expiry("waiting"), expiry("key")), (Some(0.0), Some(0.0), None));
    assert!(!text.contains("canary"), "{text}");
}

/// The names of metrics, as a scrape declares them.
fn declared(scrape: &str) -> BTreeSet<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let fleet = Fleet::start().await;
    let declared = declared(&scrape(&fleet.proxy).await);
    let text = include_str!("../../docs/operations.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `countersign_"));
    let documented: BTreeSet<String> =
        rows.map(|row| format!("countersign_{}", row.split(['`', '{']).next().unwrap())).collect();
    assert_eq!(documented, declared);
    assert!(declared.len() >= 11, "{declared:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_scrape_is_what_prometheus_expects() {
    use std::io::Write as _;
    if !crate::harness::program::has("a_scrape_is_what_prometheus_expects", "promtool") {
        return;
    }
    let fleet = Fleet::start().await;
    let text = scrape(&fleet.proxy).await;
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = [stdout, stderr].concat();
    assert!(status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_the_devices_of_the_running_program() {
    let fleet = Fleet::start().await;
    let (status, out, err) = fleet.run(&["devices", "plant"]).await;
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "3 device(s): 1 fresh, 0 renewing, 0 failing, 1 refused, 1 idle");
    assert!(lines[3].starts_with("line-1  fresh") && lines[3].contains(" h "), "{out}");
    assert!(lines[4].starts_with("line-2  refused") && lines[4].contains("refused the login"));
    assert!(lines[5].starts_with("line-3  idle"), "{out}");
    let (status, out, _) = fleet.run(&["devices", "plant", "--state", "refused"]).await;
    assert_eq!((status, out.lines().count()), (0, 4), "{out}");
    let (status, out, err) = fleet.run(&["devices", "plant", "--limit", "2"]).await;
    assert_eq!((status, out.lines().count()), (0, 5), "{out}");
    assert!(err.contains("there are more"), "{err}");
    let (status, out, _) = fleet.run(&["devices", "plant", "--search", "3", "--json"]).await;
    let page: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &page["devices"][0]["device"]), (0, &"line-3".into()));
    assert_eq!(page["devices"].as_array().unwrap().len(), 1);
    assert_eq!(fleet.stand_in.recorder().logins(), 1, "looking logs nobody in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_why_it_has_nothing_to_show() {
    let fleet = Fleet::start().await;
    let (status, _, err) = fleet.run(&["devices", "plnt"]).await;
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("did you mean 'plant'?"), "{err}");
    std::fs::write(fleet.directory.path().join("token"), "canary-other\n").unwrap();
    let (status, _, err) = fleet.run(&["devices", "plant"]).await;
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("does not accept the token") && !err.contains("canary"), "{err}");
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap();
    let (status, _, err) = fleet.run(&["devices", "plant", "--address", &free.to_string()]).await;
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("nothing listens on"), "{err}");

    let directory = private_directory();
    let file = directory.path().join("countersign.toml");
    let write = |text: String| {
        std::fs::write(&file, format!("[[listen]]\naddress = \"127.0.0.1:8080\"\n{text}")).unwrap();
    };
    let url = fleet.stand_in.url();
    let file = file.to_string_lossy().into_owned();
    write(plant(&url, "") + &route(&url, "plant", ""));
    let (status, _, err) = run(&file, &["devices", "plant"]).await;
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("the credential 'plant' has no devices"), "{err}");
    let with_devices = Fleet::config(&fleet.stand_in, &fleet.directory);
    let (_, without_admin) = with_devices.split_once("[credential.plant]").unwrap();
    write(format!("[credential.plant]{without_admin}"));
    let (status, _, err) = run(&file, &["devices", "plant"]).await;
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("has no [admin]"), "{err}");
    write(with_devices);
    let (status, _, err) = run(&file, &["devices", "plant"]).await;
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("--address"), "{err}");
}
