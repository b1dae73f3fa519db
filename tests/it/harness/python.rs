//! Servers and clients of other people's making, in Python.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{PATIENCE, skip};

/// True if Python has `modules`; else it says that `test` is skipped.
pub(crate) async fn has(test: &str, modules: &str) -> bool {
    let import = format!("import {modules}");
    let probe = Command::new("python3").args(["-c", &import]).output().await;
    let there = probe.is_ok_and(|output| output.status.success());
    if !there {
        skip(test, &format!("python3 cannot import {modules} (.ci/run installs it)"));
    }
    there
}

/// A script of the tests.
fn command(script: &str, arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    _child: Child,
    port: u16,
}

impl Server {
    /// Starts a script that prints the port it listens on.
    pub(crate) async fn start(script: &str, arguments: &[&str]) -> Self {
        let mut child = command(script, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("no port").unwrap();
        Self { port: line.trim().parse().expect("a port"), _child: child }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// The lines of JSON that a script prints.
pub(crate) async fn run(script: &str, arguments: &[&str]) -> Vec<Value> {
    let run = command(script, arguments).output();
    let output = timeout(PATIENCE, run).await.expect("it does not end").unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {stderr}\n{stdout}", output.status);
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
