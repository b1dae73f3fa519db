//! Devices as whoever runs the program meets them: the commands, and the program itself.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use countersign::mock::StandIn;
use countersign::mock::twinzo::{self, Account, Options};
use tempfile::TempDir;

use crate::harness::client::{Connection, Reply};
use crate::harness::program::{BINARY, Program};
use crate::harness::{ANY_PORT, private_directory, quoted, route, until};

const BY_HEADER: &str = "identity = { header = \"X-Device\" }\n";

async fn fleet(devices: usize) -> StandIn {
    let accounts = (1..=devices).map(Account::of_device).collect();
    twinzo::start(ANY_PORT, Options { accounts, ..Options::default() }).await.unwrap()
}

fn config(stand_in: &StandIn, file: &Path, more: &str) -> String {
    format!(
        "[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
         devices = {}\n[credential.plant.refresh]\nmax_logins_per_second = 2000\n{}",
        quoted(&stand_in.url()),
        quoted(&file.to_string_lossy()),
        route(&stand_in.url(), "plant", &format!("{BY_HEADER}{more}")),
    )
}

/// `devices.csv` with `text`, and `countersign.toml` for it.
fn written(stand_in: &StandIn, text: &str) -> TempDir {
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    std::fs::write(&file, text).unwrap();
    let listen = "[[listen]]\naddress = \"127.0.0.1:8080\"\n";
    let text = format!("{listen}{}", config(stand_in, &file, ""));
    std::fs::write(directory.path().join("countersign.toml"), text).unwrap();
    directory
}

async fn run(directory: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--config").arg(directory.path().join("countersign.toml"));
    command.env("NO_COLOR", "1").env("COLUMNS", "100").stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Status, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const TWO: &str = "device,login,password\nline-1,device-000001,password-000001\n\
                   line-2,device-000002,canary-wrong\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reads_the_devices_and_tells_every_problem_by_line() {
    let stand_in = fleet(2).await;
    let (status, out, _) = told(&run(&written(&stand_in, TWO), &["check"]).await);
    // The configuration of these tests is plain HTTP on loopback, and complete.
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("1 route(s), 1 credential(s), 2 device(s)"), "{out}");
    let broken = "device,login,password\nline-1,a\nline-2,,canary-1\nline-2,b,canary-2\n\
                  line-2,b,canary-3\n";
    let (status, out, err) = told(&run(&written(&stand_in, broken), &["check"]).await);
    assert_eq!(status, 2, "{out}{err}");
    for line in ["line 2: 2 cells", "line 3: 'login' is missing", "line 5: this device is there"] {
        assert!(err.contains(line), "{err}");
    }
    assert!(!err.contains("canary") && !out.contains("canary"), "{out}{err}");
    assert_eq!(stand_in.recorder().token_calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_check_reads_all_secrets_and_logs_none_in() {
    let stand_in = fleet(2).await;
    let (status, out, _) = told(&run(&written(&stand_in, TWO), &["check", "--live"]).await);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("the secrets of 2 device(s) are there; none was logged in"), "{out}");
    let text = format!("{TWO}line-3,c,file:/does/not/exist\nline-4,d,env:COUNTERSIGN_NOT_SET\n");
    let (status, out, _) = told(&run(&written(&stand_in, &text), &["check", "--live"]).await);
    assert_eq!(status, 1, "{out}");
    assert!(out.contains("line 4: the secret in the file /does/not/exist"), "{out}");
    assert!(out.contains("line 5: the secret in the environment variable"), "{out}");
    assert_eq!(stand_in.recorder().token_calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_logs_one_device_in() {
    let stand_in = fleet(2).await;
    let directory = written(&stand_in, TWO);
    for (arguments, expected, message) in [
        (&["fetch", "plant", "--device", "line-1"][..], 0, "token, client_guid, branch_guid"),
        (&["fetch", "plant", "--device", "line-2"], 1, "refused the login"),
        (&["fetch", "plant", "--device", "line-3"], 2, "there is no device 'line-3'"),
        (&["fetch", "plant"], 2, "2 device(s); say which with --device ID"),
    ] {
        let (status, out, err) = told(&run(&directory, arguments).await);
        assert_eq!(status, expected, "{out}{err}");
        let said = format!("{out}{err}");
        assert!(message.split(", ").all(|word| said.contains(word)), "{said}");
        assert!(!said.contains("canary") && !said.contains("password-000001"), "{said}");
    }
    assert_eq!(stand_in.recorder().logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_the_device_or_why_there_is_none() {
    let stand_in = fleet(2).await;
    let directory = written(&stand_in, TWO);
    let explain = ["explain", "GET", "/v3/devices", "-H", "X-Device: line-1"];
    let (status, out, err) = told(&run(&directory, &explain).await);
    assert_eq!(status, 0, "{out}{err}");
    let device = out.lines().find(|line| line.starts_with("device ")).expect(&out);
    assert!(device.ends_with(" line-1"), "{out}");
    assert!(out.contains("token from the login"), "{out}");
    for (field, word) in
        [("X-Device: line-3", "403 Device not known"), ("A: b", "403 Device not named")]
    {
        let explain = ["explain", "GET", "/v3/devices", "-H", field];
        let (status, out, _) = told(&run(&directory, &explain).await);
        assert_eq!(status, 1, "{out}");
        assert!(out.contains(word), "{out}");
    }
    assert_eq!(stand_in.recorder().token_calls(), 0);
}

async fn of(program: &Program, device: &str) -> Reply {
    let mut connection = Connection::open(program.address()).await;
    connection.send("GET", "/v3/devices", &[("X-Device", device)], "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_confined_program_reads_secrets_of_devices_and_the_file_again() {
    let stand_in = fleet(3).await;
    let (secrets, files) = (private_directory(), private_directory());
    for number in 1..=3 {
        let Account { login, password, .. } = Account::of_device(number);
        std::fs::write(secrets.path().join(login), password).unwrap();
    }
    let file = files.path().join("devices.csv");
    let lines = |numbers: &[usize]| {
        let line = |number: &usize| {
            let Account { login, .. } = Account::of_device(*number);
            format!("line-{number},{login},file:{}\n", secrets.path().join(&login).display())
        };
        let lines: String = numbers.iter().map(line).collect();
        format!("device,login,password\n{lines}")
    };
    std::fs::write(&file, lines(&[1])).unwrap();
    let program = Program::start(&config(&stand_in, &file, "")).await;
    assert_eq!(of(&program, "line-1").await.status, 200);
    assert_eq!(of(&program, "line-2").await.problem(403, "http_request_denied"), "device");
    let next = files.path().join("next");
    std::fs::write(&next, lines(&[1, 2, 3])).unwrap();
    std::fs::rename(&next, &file).unwrap();
    let read_again =
        || program.log().iter().any(|line| line["message"] == "the devices were read again");
    until("the file was read again", read_again).await;
    for device in ["line-1", "line-2", "line-3"] {
        assert_eq!(of(&program, device).await.status, 200, "{device}");
    }
    assert_eq!(stand_in.recorder().logins(), 3);
    // Lines are written when answers have ended, which callers may know before.
    let names = |device: &str| program.requests().iter().any(|line| line["device"] == device);
    until("the lines name the devices", || names("line-1") && names("line-3")).await;
    let log = serde_json::to_string(&program.log()).unwrap();
    assert!(!log.contains("password-00000"), "{log}");
}

/// Thousands of live tokens, and what one of them takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_device_takes_little_memory() {
    const WARM: usize = 1_000;
    const ALL: usize = 6_000;
    let stand_in = fleet(ALL).await;
    let directory = private_directory();
    let file = directory.path().join("devices.csv");
    let line = |number| {
        let Account { login, password, .. } = Account::of_device(number);
        format!("line-{number},{login},{password}\n")
    };
    let lines: String = (1..=ALL).map(line).collect();
    std::fs::write(&file, format!("device,login,password\n{lines}")).unwrap();
    let config = format!("workers = 1\n{}", config(&stand_in, &file, ""));
    let program = Program::start(&config).await;
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Connection::open(program.address()).await);
    }
    let mut before = 0;
    for number in 1..=ALL / 8 {
        let all = connections.iter_mut().enumerate().map(async |(at, connection)| {
            let device = format!("line-{}", (number - 1) * 8 + at + 1);
            connection.send("GET", "/v3/sectors/1", &[("X-Device", &device)], "").await
        });
        for reply in futures_util::future::join_all(all).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        if number == WARM / 8 {
            before = program.memory("VmRSS");
        }
    }
    assert_eq!(stand_in.recorder().logins(), u64::try_from(ALL).unwrap());
    let grown = program.memory("VmRSS").saturating_sub(before) * 1024;
    let each = grown / u64::try_from(ALL - WARM).unwrap();
    assert!(each <= 2048, "{each} bytes; a kilobyte is promised, and the rest is the allocator's");
}
