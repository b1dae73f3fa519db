//! The program itself, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use super::PATIENCE;

/// `countersign run`. Killed when dropped.
pub(crate) struct Binary {
    child: Child,
    addresses: Vec<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

impl Binary {
    /// Starts it with this configuration and waits until it listens in `listeners` places.
    pub(crate) fn start(config: &str, listeners: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("countersign.toml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, listening) = follow(child.stderr.take().unwrap());
        let mut binary = Self { child, addresses: Vec::new(), log, _directory: directory };
        while binary.addresses.len() < listeners {
            let next = listening.recv_timeout(PATIENCE);
            let next =
                next.unwrap_or_else(|error| panic!("no start, {error}: {:#?}", binary.log()));
            binary.addresses.push(next);
        }
        binary
    }

    /// Where it listens, in the order of the configuration.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The lines of its log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// True if it has ended, which it was never told to.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The memory it has in use, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects a log, and says where it listens as soon as it says so itself.
fn follow(
    stderr: impl std::io::Read + Send + 'static,
) -> (Arc<Mutex<Vec<String>>>, Receiver<SocketAddr>) {
    let (sender, listening) = std::sync::mpsc::channel();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let written = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let message = json["message"].as_str().unwrap_or_default();
            if message.ends_with("listening") {
                let url = json["address"].as_str().unwrap_or_default();
                let address = url.trim_start_matches("http://").parse();
                let _ = address.map(|address| sender.send(address));
            }
            written.lock().unwrap().push(line);
        }
    });
    (log, listening)
}
