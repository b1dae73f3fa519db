//! `countersign exec`: serving for as long as one command runs.

use std::process::{Command, Output, Stdio};

use countersign::mock::StandIn;
use countersign::mock::twinzo::{self, Options};
use tempfile::TempDir;

use crate::harness::program::BINARY;
use crate::harness::{ANY_PORT, private_directory, quoted, until};

/// A configuration for a stand-in of the vendor, whose own listeners cannot be opened.
async fn plant() -> (StandIn, TempDir) {
    plant_with("").await
}

/// `listener` goes into the listener.
async fn plant_with(listener: &str) -> (StandIn, TempDir) {
    let stand_in = twinzo::start(ANY_PORT, Options::default()).await.unwrap();
    let directory = private_directory();
    let text = format!(
        "[[listen]]\naddress = \"192.0.2.1:1\"\nopen = true\n{listener}\
         [admin]\naddress = \"127.0.0.1:1\"\n\
         [credential.plant]\nkind = \"twinzo-device\"\nbase_url = {url}\nclient = \"acme\"\n\
         login = \"gateway-01\"\npassword = {{ env = \"PASSWORD\" }}\n\
         [[route]]\nupstream = {url}\ncredential = \"plant\"\n",
        url = quoted(&stand_in.url()),
    );
    std::fs::write(directory.path().join("countersign.toml"), text).unwrap();
    (stand_in, directory)
}

fn exec(directory: &TempDir, script: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["exec", "--config"]).arg(directory.path().join("countersign.toml"));
    command.args(["--", "sh", "-c", script, "sh"]).arg(directory.path());
    command.env("PASSWORD", "demo-password").env("CALLERS", "x".repeat(16)).env("NO_COLOR", "1");
    // What whoever runs the tests says to them is not for the command.
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("COUNTERSIGN_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_finds_the_proxy_and_its_status_is_ours() {
    let (stand_in, directory) = plant().await;
    let script = "curl -sS \"$COUNTERSIGN_URL/v3/devices\"; exit 7";
    let output = output(exec(&directory, script)).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{shown} {errors}");
    assert!(shown.contains("\"Login\":\"gateway-01\""), "{shown} {errors}");
    assert_eq!(errors, "", "nothing is mixed into what the command writes");
    assert_eq!(stand_in.recorder().logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_is_not_confined_and_knows_no_secret_that_was_not_its_own() {
    let (_stand_in, directory) = plant().await;
    let script = "echo free > \"$1/written\"; grep NoNewPrivs /proc/self/status; \
                  env | grep -c ^COUNTERSIGN_";
    let output = output(exec(&directory, script)).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(std::fs::read_to_string(directory.path().join("written")).unwrap(), "free\n");
    assert!(shown.ends_with("\n1\n"), "one variable is added: {shown}");
    #[cfg(target_os = "linux")]
    assert!(shown.contains("NoNewPrivs:\t0"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_callers_are_not_asked_who_they_are_is_said_where_they_would_be() {
    let listener = "caller_token = { env = \"CALLERS\" }\nallow = [\"192.0.2.0/24\"]\n";
    let (_stand_in, directory) = plant_with(listener).await;
    let output = output(exec(&directory, "curl -sS \"$COUNTERSIGN_URL/v3/devices\"")).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("\"Login\":\"gateway-01\""), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("caller_token, allow of the listener: not in effect"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_that_no_terminal_sends_to_both_is_passed_on() {
    use rustix::process::{Pid, Signal, kill_process};
    for (signal, name, status) in [(Signal::INT, "INT", 4), (Signal::QUIT, "QUIT", 5)] {
        let (_stand_in, directory) = plant().await;
        let script = format!(
            "trap 'exit {status}' {name}; echo there > \"$1/there\"; while :; do sleep 0.05; done"
        );
        let mut child = exec(&directory, &script).spawn().unwrap();
        let there = directory.path().join("there");
        until("the command runs", || there.exists()).await;
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        assert_eq!(ended.await.unwrap().unwrap().code(), Some(status));
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_end_is_for_the_command_and_its_end_is_ours() {
    let (_stand_in, directory) = plant().await;
    let script = "trap 'exit 3' TERM; echo there > \"$1/there\"; while :; do sleep 0.05; done";
    let mut child = exec(&directory, script).spawn().unwrap();
    let there = directory.path().join("there");
    until("the command runs", || there.exists()).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait());
    assert_eq!(ended.await.unwrap().unwrap().code(), Some(3));

    let killed = output(exec(&directory, "kill -KILL $$")).await;
    assert_eq!(killed.status.code(), Some(137), "as a shell has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_named() {
    let (stand_in, directory) = plant().await;
    let mut command = exec(&directory, "");
    let config = directory.path().join("countersign.toml");
    command = {
        let mut other = Command::new(BINARY);
        other.args(["exec", "--config"]).arg(config).args(["--", "no-such-program"]);
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other
    };
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("no-such-program cannot be started: "), "{errors}");
    assert_eq!(stand_in.recorder().logins(), 0);
}
