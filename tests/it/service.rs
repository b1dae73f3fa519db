//! Under a service manager: sockets that it opened, and what it is told.
#![cfg(unix)]

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};

use crate::harness::program::{BINARY, Program, has};
use crate::harness::{Upstream, private_directory, quoted, route, until};

/// A place of a test's own where the program can be told of.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = private_directory();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, _directory: directory }
    }

    /// What it was told since it was asked last.
    fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            told.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        told
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.env("NOTIFY_SOCKET", &self.path);
        command
    }
}

#[tokio::test]
async fn the_service_manager_learns_when_callers_are_served_and_when_no_more() {
    let upstream = Upstream::fine().await;
    let manager = Manager::new();
    let config = route(&upstream.url(), "", "");
    let mut program = Program::start_by(manager.command(), &config, private_directory()).await;
    let mut told = Vec::new();
    until("it is told", || {
        told.extend(manager.told());
        !told.is_empty()
    })
    .await;
    assert_eq!(told, ["READY=1"]);
    program.signal("-TERM");
    assert!(program.ended().await.success());
    assert_eq!(manager.told(), ["STOPPING=1"]);
}

#[tokio::test]
async fn the_service_manager_learns_when_a_reload_begins_and_ends() {
    let upstream = Upstream::fine().await;
    let manager = Manager::new();
    let config = route(&upstream.url(), "", "");
    let program = Program::start_by(manager.command(), &config, private_directory()).await;
    let mut told = Vec::new();
    let mut until_told = async |count: usize| {
        until("it is told", || {
            told.extend(manager.told());
            told.len() >= count
        })
        .await;
        told.clone()
    };
    assert_eq!(until_told(1).await, ["READY=1"]);
    for (round, text) in
        [format!("drain = \"2s\"\n{config}"), "broken".to_owned()].iter().enumerate()
    {
        program.rewrite(text);
        program.signal("-HUP");
        let told = until_told(3 + 2 * round).await;
        let [reloading, ready] = &told[told.len() - 2..] else { panic!("{told:?}") };
        let us = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(us.parse::<u64>().unwrap() > 0);
        assert_eq!(ready, "READY=1");
    }
}

#[tokio::test]
async fn signs_of_life_come_as_often_as_they_are_wanted() {
    let upstream = Upstream::fine().await;
    let manager = Manager::new();
    let mut command = manager.command();
    command.env("WATCHDOG_USEC", "200000");
    let config = format!("workers = 2\n{}", route(&upstream.url(), "", ""));
    let _program = Program::start_by(command, &config, private_directory()).await;
    let mut told = Vec::new();
    until("there were three", || {
        told.extend(manager.told());
        told.len() >= 4
    })
    .await;
    assert_eq!(told[..4], ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
}

#[tokio::test]
async fn who_is_not_meant_gives_no_sign_of_life() {
    let upstream = Upstream::fine().await;
    let manager = Manager::new();
    let mut command = manager.command();
    command.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let config = route(&upstream.url(), "", "");
    let mut program = Program::start_by(command, &config, private_directory()).await;
    program.signal("-TERM");
    assert!(program.ended().await.success());
    assert_eq!(manager.told(), ["READY=1", "STOPPING=1"]);
}

/// `systemd-socket-activate` becomes the program when the first caller comes to `sockets`.
fn activated(sockets: &[&str], config: &std::path::Path) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    for socket in sockets {
        command.arg(format!("--listen={socket}"));
    }
    command.arg(BINARY).args(["run", "--config"]).arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// curl's answer from a path of the upstream, by way of a Unix socket.
async fn curl(socket: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--unix-socket", socket, "http://localhost/x"]);
    command.args(["-o", "/dev/null", "-w", "%{http_code}"]);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_wait_in_a_socket_that_was_opened_before_the_program() {
    if !has(
        "callers_wait_in_a_socket_that_was_opened_before_the_program",
        "systemd-socket-activate",
    ) {
        return;
    }
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let socket = directory.path().join("callers").display().to_string();
    let config = directory.path().join("countersign.toml");
    let listen = format!("[[listen]]\naddress = {}\n", quoted(&format!("unix:{socket}")));
    std::fs::write(&config, listen + &route(&upstream.url(), "", "")).unwrap();
    let mut child = activated(&[&socket], &config).spawn().unwrap();
    let opened = std::path::Path::new(&socket);
    until("the socket is there", || opened.exists()).await;
    // The program starts because of this caller, who waits for it.
    let answer = curl(&socket).await;
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "200", "{answer:?}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait());
    assert!(ended.await.unwrap().unwrap().success());
    assert!(opened.exists(), "it belongs to whoever opened it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_no_listener_wants_is_told() {
    if !has("a_socket_that_no_listener_wants_is_told", "systemd-socket-activate") {
        return;
    }
    let upstream = Upstream::fine().await;
    let directory = private_directory();
    let socket = directory.path().join("callers").display().to_string();
    let config = directory.path().join("countersign.toml");
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n".to_owned();
    std::fs::write(&config, listen + &route(&upstream.url(), "", "")).unwrap();
    let child = activated(&[&socket], &config).spawn().unwrap();
    until("the socket is there", || std::path::Path::new(&socket).exists()).await;
    let asked = curl(&socket).await;
    assert_ne!(asked.status.code(), Some(0));
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    let expected =
        format!("the service manager passes a socket for unix:{socket}, where no listener");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn the_units_are_what_systemd_takes() {
    if !has("the_units_are_what_systemd_takes", "systemd-analyze") {
        return;
    }
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let directory = private_directory();
    for unit in ["countersign.service", "countersign.socket"] {
        let text = std::fs::read_to_string(units.join(unit)).unwrap();
        // It wants to find the program.
        let text = text.replace("/usr/local/bin/countersign", BINARY);
        std::fs::write(directory.path().join(unit), text).unwrap();
        let path = directory.path().join(unit);
        let verified = Command::new("systemd-analyze").arg("verify").arg(path).output().unwrap();
        assert!(verified.status.success(), "{unit}: {verified:?}");
        assert_eq!(String::from_utf8_lossy(&verified.stderr), "", "{unit}");
    }
}

/// systemd 252, for one, does not count the system calls of Landlock among those of services.
#[test]
fn the_unit_lets_the_program_confine_itself_and_refuses_other_calls_instead_of_ending_it() {
    let unit = include_str!("../../deploy/countersign.service");
    let allowed: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .filter(|names| !names.starts_with('~'))
        .flat_map(str::split_whitespace)
        .collect();
    for name in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(allowed.contains(&name), "{name}: {allowed:?}");
    }
    assert!(unit.lines().any(|line| line == "SystemCallErrorNumber=EPERM"));
}
