//! A Redis of a test's own, for the tests of this crate and, included by its path, for those of the
//! program.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than it takes to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that keeps nothing on a disk. Killed when dropped.
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one on a free port with more options, such as `["--requirepass", "…"]`; `None` if it
    /// is not installed.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let server = (0..10).find_map(|_| Self::start_at(free_port(), options));
        Some(server.expect("redis-server starts on one of ten ports that were free"))
    }

    /// Starts one on this port; `None` if that is in use.
    pub(crate) fn start_at(port: u16, options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("redis-server");
        if options.contains(&"--sentinel") {
            // It writes down what it finds out, so it wants a file.
            let file = directory.path().join("sentinel.conf");
            fs::write(&file, "").unwrap();
            command.arg(file);
        }
        let has_port = options.contains(&"--tls-port");
        if !has_port {
            command.args(["--port", &port.to_string()]);
        }
        command.args(["--bind", "127.0.0.1", "--dir"]).arg(directory.path());
        command.arg("--logfile").arg(&log);
        if !options.contains(&"--sentinel") {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        for option in options {
            command.arg(option.replace("PORT", &port.to_string()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child: command.spawn().unwrap(), port, directory };
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.contains("Ready to accept connections") || text.contains("Sentinel ID is") {
                return Some(server);
            }
            if server.child.try_wait().unwrap().is_some() {
                assert!(text.contains("Address already in use"), "{options:?}: {text}");
                return None;
            }
            assert!(Instant::now() < give_up_at, "it does not start: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends it a signal, such as `-STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// What it answers to a command, without the last line break.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &port, "--no-auth-warning"]).args(words);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path);
    let there = directories.any(|directory| directory.join("redis-server").is_file());
    assert!(
        there || std::env::var_os("COUNTERSIGN_TEST_NOTHING_SKIPPED").is_none(),
        "a test with Redis must not be skipped here: there is no redis-server (.ci/run installs it)"
    );
    if !there {
        eprintln!("skipped: a test with Redis: there is no redis-server (.ci/run installs it)");
    }
    there
}

/// A port of the loopback interface that was free just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
