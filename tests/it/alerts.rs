//! The alert rules and the dashboard in `deploy/`: every metric and label that they use exists in a
//! scrape of a running countersign, and a real Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use countersign::mock::{StandIn, devo as devo_api};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::program::has;
use crate::harness::scrape::Scrape;
use crate::harness::{
    ANY_PORT, Connection, PATIENCE, Proxy, devo, plant, private_directory, quoted, route, secret,
    twinzo, until,
};

/// Labels that Prometheus itself adds.
const ADDED: [&str; 2] = ["job", "instance"];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap()
}

/// A countersign in which there is something of everything that can be seen.
struct Everything {
    proxy: Proxy,
    _stand_ins: [StandIn; 2],
    _directory: TempDir,
}

impl Everything {
    async fn start() -> Self {
        let vendor = twinzo().await;
        let clock = devo(devo_api::Options::default()).await;
        clock.switches().set_clock_offset_ms(3_600_000);
        let directory = private_directory();
        let devices = directory.path().join("devices.csv");
        std::fs::write(
            &devices,
            "device,login,password\nline-1,gateway-01,demo-password\nline-2,gateway-01,wrong\n",
        )
        .unwrap();
        let named = |name: &str, url: &str, credential: &str, more: &str| {
            route(url, credential, &format!("path = \"/{name}\"\n{more}"))
                .replace("name = \"all\"", &format!("name = \"{name}\""))
        };
        let config = [
            "[admin]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            plant(&vendor.url(), ""),
            plant(&vendor.url(), "")
                .replace("credential.plant", "credential.fleet")
                .replace("login = \"gateway-01\"\n", "")
                .replace(
                    &format!("password = {}\n", secret("demo-password")),
                    &format!("devices = {}\n", quoted(&devices.to_string_lossy())),
                ),
            format!(
                "[credential.domain]\nkind = \"devo-signature\"\ndomain_api_key = {}\n\
                 api_secret = {}\n",
                secret("standin-domain-key"),
                secret("standin-domain-secret")
            ),
            named("plant", &vendor.url(), "plant", ""),
            named("fleet", &vendor.url(), "fleet", "identity = { header = \"X-Device\" }\n"),
            named("probio", &format!("{}/probio", clock.url()), "domain", ""),
            named("gone", "http://127.0.0.1:1", "", ""),
        ]
        .concat();
        let proxy = Proxy::start(&config).await;
        until("it is ready", || proxy.identity("plant").cache.is_ready()).await;
        for (target, device, status) in [
            ("/plant/v3/devices", "", 200),
            ("/fleet/v3/devices", "line-1", 200),
            ("/fleet/v3/devices", "line-2", 502),
            ("/gone", "", 502),
            ("/nothing", "", 404),
        ] {
            let reply = proxy.send("GET", target, &[("X-Device", device)], "").await;
            assert_eq!(reply.status, status, "{target} {device}: {}", reply.text());
        }
        for _ in 0..10 {
            assert_eq!(proxy.get("/probio/any").await.status, 200);
        }
        Self { proxy, _stand_ins: [vendor, clock], _directory: directory }
    }

    async fn scrape(&self) -> Scrape {
        let known = |scrape: &Scrape| {
            scrape.of_name("countersign_clock_skew_seconds").count() > 0
                && scrape.all_requests() >= 15
        };
        Scrape::until(self.proxy.admin(), known).await
    }
}

/// The expressions of the rules: what stands behind `expr:`, on one line or as a block.
fn expressions(rules: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, first)) = line.split_once("expr: ") else { continue };
        if first != "|" {
            found.push(first.to_owned());
            continue;
        }
        let mut block = String::new();
        while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
            block.push_str(next.trim());
            block.push('\n');
        }
        found.push(block);
    }
    found
}

/// Everything in the dashboard that asks Prometheus: expressions of panels, and of variables.
fn asked(dashboard: &Value, found: &mut Vec<String>) {
    if let Some(members) = dashboard.as_object() {
        for (key, value) in members {
            match value.as_str() {
                Some(text) if key == "expr" || key == "definition" => found.push(text.to_owned()),
                _ => asked(value, found),
            }
        }
    }
    for item in dashboard.as_array().into_iter().flatten() {
        asked(item, found);
    }
}

/// A metric as an expression uses it, with what it wants of labels.
#[derive(Debug)]
struct Used {
    name: String,
    matchers: Vec<(String, String, String)>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics that an expression uses.
fn used(expression: &str) -> Vec<Used> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("countersign_") {
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        let matchers = behind.strip_prefix('{').map_or("", |inner| {
            inner.split_once('}').unwrap_or_else(|| panic!("no end: {expression}")).0
        });
        let matchers = matchers.split("\",").filter(|matcher| !matcher.is_empty()).map(|matcher| {
            let (key, value) = matcher.split_once('"').unwrap();
            let label: String = key.chars().take_while(|c| is_word(*c)).collect();
            let operator = key[label.len()..].to_owned();
            (label, operator, value.trim_end_matches('"').to_owned())
        });
        found.push(Used { name: name.to_owned(), matchers: matchers.collect() });
    }
    found
}

/// The labels by which an expression groups and matches.
fn grouped(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in ["by", "without", "on", "ignoring"] {
        for (at, _) in expression.match_indices(&format!("{word} (")) {
            let before = expression[..at].chars().next_back();
            if before.is_some_and(is_word) {
                continue;
            }
            let list = expression[at..].split_once('(').unwrap().1.split_once(')').unwrap().0;
            found.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// What `expressions` use that is not in `scrape`.
fn missing(expressions: &[String], scrape: &Scrape) -> Vec<String> {
    let mut missing = Vec::new();
    for expression in expressions {
        let mut labels: BTreeSet<&str> = ADDED.into_iter().collect();
        let used = used(expression);
        for Used { name, matchers } in &used {
            let there: BTreeMap<&str, BTreeSet<&str>> = scrape.labels(name);
            if scrape.of_name(name).next().is_none() {
                missing.push(format!("{name} in {expression}"));
            }
            labels.extend(there.keys());
            for (label, operator, value) in matchers {
                if ADDED.contains(&label.as_str()) {
                    continue;
                }
                let Some(values) = there.get(label.as_str()) else {
                    missing.push(format!("{name}{{{label}}} in {expression}"));
                    continue;
                };
                let plain = !value.contains(['$', '.']);
                let one = value.split('|').any(|value| values.contains(value));
                if plain && !one {
                    missing.push(format!("{name}{{{label}{operator}{value}}} in {expression}"));
                }
            }
        }
        for label in grouped(expression) {
            if !labels.contains(label.as_str()) {
                missing.push(format!("{label} in {expression}"));
            }
        }
    }
    missing
}

fn names(expressions: &[String]) -> BTreeSet<String> {
    let used = expressions.iter().flat_map(|expression| used(expression));
    used.map(|used| used.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_alerts_and_the_dashboard_use_is_there_and_what_is_there_is_on_the_dashboard() {
    let everything = Everything::start().await;
    let scrape = everything.scrape().await;
    let rules = expressions(&read("prometheus/alerts.yml"));
    let alerts = read("prometheus/alerts.yml").matches("- alert: ").count();
    assert!(alerts >= 11 && rules.len() == alerts, "{rules:#?}");
    assert!(names(&rules).len() >= 9, "{rules:#?}");
    assert_eq!(missing(&rules, &scrape), Vec::<String>::new(), "\n{}", scrape.text);

    let mut panels = Vec::new();
    asked(&serde_json::from_str(&read("grafana/countersign.json")).unwrap(), &mut panels);
    assert!(panels.len() >= 28, "{panels:#?}");
    assert_eq!(missing(&panels, &scrape), Vec::<String>::new(), "\n{}", scrape.text);
    let shown = names(&panels);
    let parts = ["_bucket", "_sum", "_count"];
    for sample in &scrape.samples {
        assert!(shown.contains(&sample.name), "{} is on no panel", sample.name);
    }
    assert!(parts.iter().all(|part| shown.iter().any(|name| name.ends_with(part))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_found_missing() {
    let everything = Everything::start().await;
    let scrape = everything.scrape().await;
    for (expression, count) in [
        ("rate(countersign_requests_total{status=~\"5..\",route=\"plant\"}[5m])", 0),
        ("rate(countersign_request_total[5m]) > 0", 1),
        ("countersign_requests_total{code=\"200\"}", 1),
        ("countersign_requests_total{route=\"no\"}", 1),
        ("countersign_credential_devices{state=~\"refused|tired\"}", 0),
        ("countersign_credential_devices{state=~\"weary|tired\"}", 1),
        ("sum by (job, rout) (countersign_requests_total)", 1),
        ("countersign_ready / on (instance, upstream) countersign_clock_retries_total", 0),
        ("countersign_ready / ignoring (nothing) countersign_clock_retries_total", 1),
    ] {
        let missing = missing(&[expression.to_owned()], &scrape);
        assert_eq!(missing.len(), count, "{expression}: {missing:?}");
    }
}

fn promtool(arguments: &[&str], path: &Path) {
    let output = Command::new("promtool").args(arguments).arg(path).stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(status.success() && said.contains("SUCCESS"), "{said}");
}

#[test]
fn promtool_takes_the_rules_and_their_tests_hold() {
    if !has("promtool_takes_the_rules_and_their_tests_hold", "promtool") {
        return;
    }
    promtool(&["check", "rules"], &deploy("prometheus/alerts.yml"));
    promtool(&["test", "rules"], &deploy("prometheus/alerts_test.yml"));
    // Each alert is tested both ways.
    let tests = read("prometheus/alerts_test.yml");
    let rules = read("prometheus/alerts.yml");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert}");
        assert!(tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")), "{alert}");
        let row = include_str!("../../docs/operations.md").contains(&format!("`{alert}`"));
        assert!(row, "{alert} is in no table of docs/operations.md");
    }
}

/// A Prometheus. Killed when dropped.
struct Prometheus {
    child: Child,
    address: std::net::SocketAddr,
    directory: TempDir,
}

impl Prometheus {
    /// Scrapes `target` every second, and has the rules of `deploy/`.
    fn start(target: std::net::SocketAddr) -> Self {
        let directory = private_directory();
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: countersign\n    static_configs:\n      \
             - targets: [{}]\n",
            quoted(&deploy("prometheus/alerts.yml").to_string_lossy()),
            quoted(&target.to_string()),
        );
        std::fs::write(&config, text).unwrap();
        // It takes no port 0. Whoever takes this one meanwhile makes it fail, which shows.
        let free = std::net::TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address: free, directory }
    }

    /// Asks until the answer's `data` is right.
    async fn until(&mut self, target: &str, mut right: impl FnMut(&Value) -> bool) {
        let give_up_at = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            if let Ok(stream) = tokio::net::TcpStream::connect(self.address).await {
                let mut connection = Connection::over(stream, &self.address.to_string()).await;
                let ask = crate::harness::client::request("GET", target, &[], {
                    crate::harness::client::whole("")
                });
                if let Ok(reply) = connection.try_send(ask).await {
                    reply.text().clone_into(&mut last);
                    let answer: Value = serde_json::from_str(&last).unwrap_or_default();
                    if reply.status == 200 && right(&answer["data"]) {
                        return;
                    }
                }
            }
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "Prometheus ended: {}", log());
            assert!(Instant::now() < give_up_at, "in vain: {target}: {last}\n{}", log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_counts_the_requests_and_evaluates_the_rules() {
    if !has("a_real_prometheus_counts_the_requests_and_evaluates_the_rules", "prometheus") {
        return;
    }
    let everything = Everything::start().await;
    let mut prometheus = Prometheus::start(everything.proxy.admin());
    for _ in 0..7 {
        assert_eq!(everything.proxy.get("/plant/v3/devices").await.status, 200);
    }
    let number = |data: &Value| data["result"][0]["value"][1].as_str().map(str::to_owned);
    let query = "/api/v1/query?query=sum(countersign_requests_total%7Broute%3D%22plant%22%7D)";
    prometheus.until(query, |data| number(data).as_deref() == Some("8")).await;
    let query = "/api/v1/query?query=countersign_request_duration_seconds_count%7Broute%3D%22\
                 plant%22%7D";
    prometheus.until(query, |data| number(data).as_deref() == Some("8")).await;
    let query = "/api/v1/query?query=histogram_quantile(0.99%2C%20sum%20by%20(le)%20(\
                 countersign_request_duration_seconds_bucket))";
    let seconds = |data: &Value| number(data)?.parse::<f64>().ok();
    prometheus.until(query, |data| seconds(data).is_some_and(|s| s > 0.0 && s < 60.0)).await;
    prometheus
        .until("/api/v1/rules", |data| {
            let rules = data["groups"][0]["rules"].as_array();
            let fine = |rule: &Value| rule["health"] == "ok";
            rules.is_some_and(|rules| rules.len() >= 11 && rules.iter().all(fine))
        })
        .await;
    // A device is refused; that is for a quarter of an hour before it is an alert.
    prometheus
        .until("/api/v1/alerts", |data| {
            let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
            let state = |name: &str| {
                let mut all = alerts.iter();
                all.find(|alert| alert["labels"]["alertname"] == name)
                    .map(|alert| alert["state"].clone())
            };
            state("CountersignDevicesFailing") == Some("pending".into())
        })
        .await;
}

#[test]
fn every_runbook_is_a_chapter_that_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let Ok(text) = std::fs::read_to_string(path) else {
        let why = "docs/troubleshooting.md is not there yet";
        return crate::harness::skip("every_runbook_is_a_chapter_that_exists", why);
    };
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchors: BTreeSet<String> = headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    let rules = read("prometheus/alerts.yml");
    let runbooks: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: \"docs/troubleshooting.md#"))
        .map(|anchor| anchor.trim_end_matches('"'))
        .collect();
    assert_eq!(runbooks.len(), rules.matches("- alert: ").count());
    for runbook in runbooks {
        assert!(anchors.contains(runbook), "no chapter {runbook} in {anchors:?}");
    }
}
