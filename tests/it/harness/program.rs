//! The program itself, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::{private_directory, until};

/// Where the program is.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

/// `countersign run` with a line per request in its log. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    addresses: Vec<SocketAddr>,
    directory: TempDir,
}

impl Program {
    /// Runs what `config` says. Where it has no `[log]`, all is logged as JSON, a line per request
    /// included; a listener on any port is added if it names none.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_under(&[], config).await
    }

    /// The same, started by a program that becomes it, such as `prlimit --nofile=64`.
    pub(crate) async fn start_under(wrapper: &[&str], config: &str) -> Self {
        let directory = private_directory();
        let words = [wrapper, &[BINARY]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::start_by(command, config, directory).await
    }

    /// The same by a command of one's own, to which the arguments are added, with the configuration
    /// in `directory`.
    pub(crate) async fn start_by(mut command: Command, config: &str, directory: TempDir) -> Self {
        let text = complete(config);
        let path = directory.path().join("countersign.toml");
        std::fs::write(&path, &text).unwrap();
        command.args(["run", "--config"]).arg(&path).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log: Arc<Mutex<Vec<Value>>> = Arc::default();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(line);
            }
        });
        let mut program = Self { child, log, addresses: Vec::new(), directory };
        let listeners = text.matches("[[listen]]").count();
        until("the program listens", || {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "it does not start: {:#?}", program.log());
            let admin = || program.log().iter().any(|line| line["message"] == "admin listening");
            program.listening().len() == listeners && (!text.contains("[admin]") || admin())
        })
        .await;
        let tcp = program.listening();
        let tcp = tcp.iter().filter_map(|address| address.strip_prefix("http://"));
        program.addresses = tcp.map(|address| address.parse().unwrap()).collect();
        program
    }

    fn listening(&self) -> Vec<String> {
        let listening = |line: &Value| {
            let address = line["address"].as_str()?;
            (line["message"] == "listening").then(|| address.to_owned())
        };
        self.log().iter().filter_map(listening).collect()
    }

    /// Where its first TCP listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All TCP addresses, in the order of the listeners.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where its admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        let log = self.log();
        let line = log.iter().find(|line| line["message"] == "admin listening").unwrap();
        line["address"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Where its configuration is, as `countersign.toml`.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Replaces the text in its file, which is completed as at the start.
    pub(crate) fn rewrite(&self, config: &str) {
        let at = |name: &str| self.directory.path().join(name);
        std::fs::write(at("next"), complete(config)).unwrap();
        std::fs::rename(at("next"), at("countersign.toml")).unwrap();
    }

    /// Everything it has logged so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// What it has said of panics.
    pub(crate) fn panics(&self) -> Vec<String> {
        let lines = self.log().into_iter().map(|line| line.to_string());
        lines.filter(|line| line.contains("panic")).collect()
    }

    /// The lines per request so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let mut log = self.log();
        log.retain(|line| line["message"] == "request");
        log
    }

    /// A file of `/proc/PID`.
    pub(crate) fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.id())).unwrap()
    }

    /// A figure of `/proc/PID/status` in KiB, such as `VmHWM`, the most memory that it ever had.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// What its file descriptors lead to; nothing where only the administrator may see it.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        let entries = entries.into_iter().flatten();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// True as long as it has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn complete(config: &str) -> String {
    let log = "[log]\nformat = \"json\"\naccess = \"json\"\n";
    let log = if config.contains("[log]") { "" } else { log };
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let listen = if config.contains("[[listen]]") { "" } else { listen };
    format!("{config}\n{log}{listen}")
}

/// True if the tests run as the administrator, who can become somebody else.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// True if `program` is installed; else it says that `test` is skipped.
pub(crate) fn has(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !there {
        super::skip(test, &format!("there is no {program} (.ci/run installs it)"));
    }
    there
}
