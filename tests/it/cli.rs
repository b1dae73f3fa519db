//! The commands, run as a user runs them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use countersign::mock;

const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

fn countersign(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    // Nothing of the surroundings: no colours, one width, no configuration of whoever runs this.
    command.args(arguments).env("NO_COLOR", "1").env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    countersign(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A directory with `countersign.toml`, and the file's path.
fn written(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("countersign.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

const DEVO: &str = r#"
[[listen]]
address = "127.0.0.1:8080"
[credential.tenants]
kind = "devo-signature"
reseller_api_key = { env = "DEVO_KEY" }
api_secret = { env = "DEVO_SECRET" }
[[route]]
name = "devo"
path = "/probio"
upstream = "https://api-us.devo.com/probio"
credential = "tenants"
"#;

#[test]
fn every_command_has_a_manual_page_that_man_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let made = output(&["man", &directory.path().display().to_string()]);
    assert_eq!(status(&made), 0, "{}", stderr(&made));
    let page = |name: &str| {
        let page = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page.starts_with(".ie"), "{name}: {page}");
        page
    };
    assert!(page("countersign.1").contains("countersign\\-explain(1)"));
    assert!(page("countersign-explain.1").contains("Example: countersign explain"));
    for command in ["run", "demo", "check", "fetch", "exec", "man", "mock"] {
        page(&format!("countersign-{command}.1"));
    }
    assert_eq!(stdout(&output(&["man"])), page("countersign.1"));
    let nowhere = output(&["man", "/no/such/directory"]);
    assert_eq!(status(&nowhere), 1);
    assert!(stderr(&nowhere).contains("/no/such/directory"), "{}", stderr(&nowhere));
}

/// A running stand-in, driven by a runtime of its own.
struct StandIn {
    runtime: tokio::runtime::Runtime,
    stand_in: Option<mock::StandIn>,
}

impl StandIn {
    fn twinzo() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let started =
            mock::twinzo::start("127.0.0.1:0".parse().unwrap(), mock::twinzo::Options::default());
        let stand_in = Some(runtime.block_on(started).unwrap());
        Self { runtime, stand_in }
    }

    fn get(&self) -> &mock::StandIn {
        self.stand_in.as_ref().unwrap()
    }

    fn config(&self, listen: &str) -> String {
        let url = self.get().url();
        format!(
            "[[listen]]\naddress = \"{listen}\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [credential.plant]\nkind = \"twinzo-device\"\nbase_url = \"{url}\"\n\
             client = \"acme\"\nlogin = \"gateway-01\"\npassword = {{ env = \"TWINZO_PASSWORD\" }}\n\
             [[route]]\nname = \"twinzo\"\npath = \"/twinzo\"\nupstream = \"{url}\"\n\
             credential = \"plant\"\n"
        )
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(stand_in) = self.stand_in.take() {
            self.runtime.block_on(stand_in.stop());
        }
    }
}

/// `countersign run`, ended at the latest when dropped.
struct Run {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    /// Addresses that it says it listens on, in order.
    addresses: Vec<String>,
}

impl Run {
    /// Starts it and waits until it listens in `listeners` places.
    fn start(mut command: Command, listeners: usize) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut run = Self { child, lines, addresses: Vec::new() };
        while run.addresses.len() < listeners {
            let line = run.line();
            let json: serde_json::Value = serde_json::from_str(&line).expect(&line);
            let message = json["message"].as_str().unwrap();
            if message.ends_with("listening") {
                run.addresses.push(json["address"].as_str().unwrap().to_owned());
            }
        }
        run
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(std::time::Duration::from_secs(20)).expect("another line")
    }

    fn wait_for(&self, word: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(word) {
                return line;
            }
        }
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_command_explains_itself() {
    insta::assert_snapshot!(stdout(&output(&["--help"])));
    for command in [
        "run",
        "demo",
        "mock",
        "init",
        "check",
        "routes",
        "explain",
        "fetch",
        "exec",
        "login",
        "devices",
        "status",
        "refresh",
        "healthcheck",
        "schema",
        "completions",
        "man",
    ] {
        let help = output(&[command, "--help"]);
        assert_eq!(status(&help), 0);
        let help = stdout(&help);
        assert!(help.contains("Example: countersign"), "{command} has an example\n{help}");
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
}

#[test]
fn wrong_usage_is_status_2_on_standard_error() {
    for arguments in [&["frobnicate"][..], &["explain", "GET"], &["init", "nonsense"]] {
        let output = output(arguments);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty());
    }
    let nothing = countersign(&["run"])
        .current_dir(std::env::temp_dir())
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(status(&nothing), 2);
    assert!(stderr(&nothing).contains("countersign init"), "{}", stderr(&nothing));
}

#[test]
fn check_reports_to_standard_output_and_fails_with_2() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ten-mistakes.toml");
    let checked = countersign(&["check", "--config", path]).env_remove("HOST_NAME").output();
    let checked = checked.unwrap();
    assert_eq!(status(&checked), 2);
    let report = stdout(&checked);
    assert!(report.matches("\nerror: ").count() + 1 >= 10, "{report}");
    assert!(!report.contains("canary"), "{report}");
}

#[test]
fn every_starter_passes_check() {
    for kind in countersign::config::starter::KINDS {
        let starter = stdout(&output(&["init", kind]));
        let mut check = countersign(&["check", "--config", "-"]);
        let check = check.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut check = check.spawn().unwrap();
        check.stdin.take().unwrap().write_all(starter.as_bytes()).unwrap();
        let checked = check.wait_with_output().unwrap();
        assert_eq!(status(&checked), 0, "{kind}: {}", stdout(&checked));
        assert!(stdout(&checked).starts_with("ok: standard input: "), "{}", stdout(&checked));
    }
}

#[test]
fn the_expansion_is_printed_without_secrets() {
    let (_directory, path) =
        written(&DEVO.replace("{ env = \"DEVO_SECRET\" }", "{ value = \"canary\" }"));
    let printed = output(&["check", "--print", "--config", &path]);
    assert_eq!(status(&printed), 0);
    let printed = stdout(&printed);
    assert!(printed.contains("kind = \"hmac\"") && printed.contains("value = \"***\""));
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn routes_are_listed_in_the_order_in_which_they_are_tried() {
    let more = "[[route]]\nname = \"all\"\nupstream = \"https://api.example.com/base/\"\n\
        methods = [\"get\", \"HEAD\"]\n[[route]]\nname = \"host\"\nhost = \"Alerts.test\"\n\
        upstream = \"https://api.example.com\"\n";
    let (_directory, path) = written(&format!("{DEVO}{more}"));
    insta::assert_snapshot!(stdout(&output(&["routes", "--config", &path])));
}

fn explain(path: &str, arguments: &[&str]) -> Output {
    countersign(&[&["explain", "--config", path], arguments].concat())
        .env("DEVO_KEY", "canary-key")
        .env("DEVO_SECRET", "canary-secret")
        .output()
        .unwrap()
}

#[test]
fn explain_shows_every_step_and_masks_what_is_secret() {
    let (_directory, path) = written(DEVO);
    let explained = explain(
        &path,
        &[
            "POST",
            "/probio/domain/child@parent?x=1",
            "-H",
            "X-Logtrust-Sign: forged",
            "-H",
            "Connection: close, x-thing",
            "-H",
            "X-Thing: 1",
            "--data",
            "{\"name\":\"x\"}",
            "--at",
            "1700000000000",
        ],
    );
    assert_eq!(status(&explained), 0, "{}", stderr(&explained));
    let text = stdout(&explained);
    assert!(!text.contains("canary"), "{text}");
    insta::assert_snapshot!(text);
}

/// A signature over what other credentials add must not show it, whatever its field is called and
/// however the secret begins.
#[test]
fn explain_masks_by_origin_and_not_by_looks() {
    let (_directory, path) = written(
        r#"
[[listen]]
address = "127.0.0.1:8080"
[credential.q]
kind = "query"
set = { key = { env = "DEVO_KEY" } }
[credential.f]
kind = "fields"
set = { "X-Key-Timestamp" = { env = "DEVO_SECRET" }, "X-Lt" = "<{v}", "X-Open" = "plain" }
values = { v = { env = "DEVO_KEY" } }
[credential.h]
kind = "hmac"
key = { env = "DEVO_SECRET" }
base = ["query", { header = "x-lt" }, { header = "x-open" }, "timestamp"]
set = { "X-Sign" = "{signature}", "X-Time" = "{timestamp}" }
[[route]]
name = "r"
path = "/r"
upstream = "https://api.example.com"
credential = ["h", "q", "f"]
"#,
    );
    let explained = explain(&path, &["GET", "/r/x?y=1", "--at", "1700000000000"]);
    assert_eq!(status(&explained), 0, "{}", stderr(&explained));
    let text = stdout(&explained);
    assert!(!text.contains("canary"), "{text}");
    assert!(text.contains("x-open: plain") && text.contains("x-time: 1700000000000"), "{text}");
}

#[test]
fn explain_says_what_would_be_answered_instead() {
    let (_directory, path) = written(DEVO);
    for (arguments, answer) in [
        (&["GET", "/other"][..], "404 No route"),
        (&["GET", "http://evil.test/probio"], "421 Host not accepted"),
        (&["GET", "/probio", "-H", "Origin: http://evil.test"], "403 Origin not accepted"),
        (&["TRACE", "/probio"], "405 Method not allowed"),
        (&["GET", "/probio/%2e%2e/x"], "400 Ambiguous path"),
    ] {
        let explained = explain(&path, arguments);
        assert_eq!(status(&explained), 1, "{arguments:?}");
        assert!(stdout(&explained).contains(answer), "{arguments:?}: {}", stdout(&explained));
    }
}

#[test]
fn explain_works_without_the_secrets() {
    let (_directory, path) = written(DEVO);
    let explained = countersign(&["explain", "--config", &path, "GET", "/probio/domain"])
        .env_remove("DEVO_KEY")
        .env_remove("DEVO_SECRET")
        .output()
        .unwrap();
    assert_eq!(status(&explained), 0);
    assert!(stderr(&explained).contains("DEVO_SECRET"), "{}", stderr(&explained));
}

/// With the time given and secrets revealed, `explain` is a signer that can be compared.
#[test]
fn explain_reproduces_every_known_answer() {
    let vectors = include_str!("../vectors/devo-vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let (directory, path) = written(DEVO);
    let body = directory.path().join("body");
    let data = format!("@{}", body.display());
    for row in vectors.as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text("body_base64")).unwrap();
        std::fs::write(&body, bytes).unwrap();
        let explained = countersign(&["explain", "--config", &path, "POST", "/probio/domain"])
            .args(["--data", &data, "--at", text("timestamp"), "--reveal"])
            .env("DEVO_KEY", text("api_key"))
            .env("DEVO_SECRET", text("api_secret"))
            .output()
            .unwrap();
        let expected = format!("x-logtrust-sign: {}\n", text("sign"));
        assert!(stdout(&explained).contains(&expected), "{}: {}", text("id"), stdout(&explained));
    }
}

#[test]
fn fetch_and_live_checks_name_lifetimes_and_skew_and_no_secret() {
    let stand_in = StandIn::twinzo();
    stand_in.get().switches().set_token_lifetime(std::time::Duration::from_secs(3600));
    let (_directory, path) = written(&stand_in.config("127.0.0.1:0"));
    let run = |arguments: &[&str], password: &str| {
        let mut command = countersign(arguments);
        command.args(["--config", &path]).env("TWINZO_PASSWORD", password).output().unwrap()
    };
    let fetched = run(&["fetch", "plant"], "demo-password");
    assert_eq!(status(&fetched), 0, "{}", stderr(&fetched));
    let text = stdout(&fetched);
    assert!(text.contains("token") && text.contains("lifetime  "), "{text}");
    assert!(text.contains("skew      none that can be seen"), "{text}");

    stand_in.get().switches().set_clock_offset_ms(3_600_000);
    let live = run(&["check", "--live"], "demo-password");
    assert_eq!(status(&live), 0, "{}", stdout(&live));
    let text = stdout(&live);
    assert!(text.contains("our clock is 60 min behind"), "{text}");
    assert!(text.contains("ok: route twinzo"), "{text}");

    let refused = run(&["fetch", "plant"], "canary-wrong");
    assert_eq!(status(&refused), 1);
    assert!(stderr(&refused).contains("check the login and password"), "{}", stderr(&refused));
    let live = run(&["check", "--live"], "canary-wrong");
    assert_eq!(status(&live), 1);
    for text in [stdout(&fetched), stderr(&refused), stdout(&live), stderr(&live)] {
        assert!(!text.contains("canary") && !text.contains("demo-password"), "{text}");
    }
    let unknown = run(&["fetch", "plnt"], "x");
    assert_eq!(status(&unknown), 2);
    assert!(stderr(&unknown).contains("did you mean 'plant'?"), "{}", stderr(&unknown));
}

#[test]
fn the_demo_succeeds_and_fails_with_the_stand_ins() {
    let demo = output(&["demo", "--once"]);
    assert_eq!(status(&demo), 0, "{}", stdout(&demo));
    let text = stdout(&demo);
    assert!(text.contains("6 of 6 requests accepted by the stand-ins"), "{text}");
    assert_eq!(text.matches(": accepted\n").count(), 6, "{text}");
    let options = mock::twinzo::Options::default();
    assert!(!text.contains(&options.api_key) && !text.contains(&options.password), "{text}");

    let demo = output(&["demo", "--once", "--fail", "server_error"]);
    assert_eq!(status(&demo), 1, "{}", stdout(&demo));
    assert!(stdout(&demo).contains("0 of 6 requests accepted"), "{}", stdout(&demo));
}

#[test]
fn every_missing_secret_is_named_before_anything_starts() {
    let (_directory, path) = written(DEVO);
    let failed = countersign(&["run", "--config", &path])
        .env_remove("DEVO_KEY")
        .env_remove("DEVO_SECRET")
        .output()
        .unwrap();
    assert_eq!(status(&failed), 2);
    let text = stderr(&failed);
    assert!(text.contains("DEVO_KEY") && text.contains("DEVO_SECRET"), "{text}");
}

#[test]
fn schema_and_completions_are_printed() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&output(&["schema"]))).unwrap();
    assert_eq!(schema["title"], "RawConfig");
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = stdout(&output(&["completions", shell]));
        assert!(script.contains("countersign") && script.contains("healthcheck"), "{shell}");
    }
}

#[cfg(unix)]
#[test]
fn run_says_where_it_listens_is_healthy_and_ends_on_sigterm() {
    let stand_in = StandIn::twinzo();
    let (directory, path) = written("");
    let socket = directory.path().join("c.sock");
    let listen = format!(
        "{}\n[[listen]]\naddress = \"unix:{}\"\n",
        stand_in.config("127.0.0.1:0"),
        socket.display()
    );
    std::fs::write(&path, listen).unwrap();
    let mut command = countersign(&["run", "--config", &path]);
    command.env("TWINZO_PASSWORD", "demo-password");
    let mut run = Run::start(command, 3);
    assert_eq!(run.addresses[1], format!("unix:{}", socket.display()));
    run.wait_for("credential fetched");
    let admin = run.addresses[2].strip_prefix("http://").unwrap().to_owned();
    assert_eq!(status(&output(&["healthcheck", "--address", &admin])), 0);
    assert_eq!(mode(&socket), 0o600);

    run.signal("-TERM");
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
    assert!(!socket.exists(), "the socket's path is removed");
    assert_eq!(status(&output(&["healthcheck", "--address", &admin])), 1);
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[test]
fn the_log_can_go_to_a_file_that_others_cannot_write() {
    let stand_in = StandIn::twinzo();
    let (directory, path) = written("");
    let log: PathBuf = directory.path().join("log");
    let text = format!(
        "log = {{ file = \"{}\", format = \"text\", access = \"json\" }}\n{}",
        log.display(),
        stand_in.config("127.0.0.1:0")
    );
    std::fs::write(&path, text).unwrap();
    let mut command = countersign(&["run", "--config", &path]);
    command.env("TWINZO_PASSWORD", "demo-password");
    let mut run = Run::start(command, 0);
    let listening = |text: &str| text.contains("listening") && text.contains("fetched");
    let begun = tokio::time::Instant::now();
    while !listening(&std::fs::read_to_string(&log).unwrap_or_default()) {
        assert!(begun.elapsed().as_secs() < 20, "the log says that it listens");
        std::thread::yield_now();
    }
    assert_eq!(mode(&log) & 0o022, 0);
    run.signal("-INT");
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
}
