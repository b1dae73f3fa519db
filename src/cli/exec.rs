//! `countersign exec`: serve for as long as one command runs, on a port that nobody else knows.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::load::{Source, start_failure};
use super::output::{Failure, say};
use super::run::{open_log, raise_file_descriptor_limit, runtime};
use super::signals;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{AccessRules, Address, Config, Level};
use crate::{sandbox, telemetry};

/// Where the command finds the proxy.
const URL: &str = "COUNTERSIGN_URL";

/// `countersign exec`.
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    #[command(flatten)]
    config: super::ConfigFile,
    /// The least important messages that are written to standard error, which the command writes to
    /// as well
    #[arg(long, value_name = "LEVEL", default_value = "warn", value_parser = levels())]
    log_level: Level,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut config = Source::read(self.config.config.as_deref())?.config()?;
        config.log.level = self.log_level;
        let dropped = for_one_command(&mut config);
        open_log(&config)?;
        if !dropped.is_empty() {
            // Whatever is logged, and wherever to.
            say(format!(
                "warning: {} of the listener: not in effect here; while the command runs, every \
                 program of this machine can use its port",
                dropped.join(", ")
            ));
        }
        let app = runtime()?.block_on(App::build(config.clone(), Clock::system()));
        let app = app.map_err(start_failure)?;
        let Some(address) = app.addresses().first().copied() else {
            return Err(Failure::configuration("there is no listener"));
        };
        // From now on a signal is for the command, even one that comes before it is there.
        let serving = runtime()?;
        let signals = serving.block_on(async { Signals::new() });
        let signals = signals.map_err(|error| Failure::runtime(&error))?;
        // Before this process confines itself, and for it alone. The socket is there by now: what
        // the command asks waits until it is served.
        let child = Running(Some(start(&self.command, address)?));
        raise_file_descriptor_limit();
        sandbox::confine(&config, &app.device_files(), sandbox::Signals::Beyond)
            .map_err(|error| Failure::runtime(&error))?;
        telemetry::start().map_err(|error| Failure::runtime(&error))?;
        serving.block_on(async {
            let running = app.start().map_err(start_failure)?;
            let mut signals = signals;
            let status = child.wait(&mut signals).await;
            let status = exit_status(status.map_err(|error| Failure::runtime(&error))?);
            // The one that ended the command may have been sent to this process, too.
            let spare = usize::from(status > 128 && !signals.passed_on);
            tokio::select! {
                _ = running.stop() => {}
                () = signals.further(spare) => tracing::warn!("stopped at once"),
            }
            Ok(ExitCode::from(status))
        })
    }
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]).map(|level| match level
        .as_str()
    {
        "error" => Level::Error,
        "info" => Level::Info,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Warn,
    })
}

/// One listener on a free port, whatever the file says of listeners: others may be serving by it.
/// The keys of it that said who may call and do not count here.
fn for_one_command(config: &mut Config) -> Vec<&'static str> {
    config.admin = None;
    // The command has ended by then.
    config.linger = Duration::ZERO;
    config.upgrade_socket = None;
    config.listeners.truncate(1);
    let mut dropped = Vec::new();
    for listener in &mut config.listeners {
        let access = &listener.access;
        let with_certificate = listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        for (key, there) in [
            ("caller_token", access.caller_token.is_some()),
            ("allow", !access.allow.is_empty()),
            ("users", !access.users.is_empty()),
            ("client_ca", with_certificate),
        ] {
            dropped.extend(there.then_some(key));
        }
        listener.address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        listener.tls = None;
        let answers = listener.access.answers;
        listener.access = AccessRules { answers, ..AccessRules::default() };
    }
    dropped
}

fn start(command: &[OsString], address: SocketAddr) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().ok_or_else(|| Failure::silent(2))?;
    let mut command = Command::new(program);
    command.args(arguments).env(URL, format!("http://{address}"));
    command.spawn().map_err(|error| {
        let program = PathBuf::from(program);
        Failure::configuration(format!("{} cannot be started: {error}", program.display()))
    })
}

/// The command. It does not outlive this program's failure to serve it.
struct Running(Option<Child>);

impl Running {
    /// Waits until it ends.
    async fn wait(mut self, signals: &mut Signals) -> io::Result<ExitStatus> {
        let Some(mut child) = self.0.take() else { return Err(io::ErrorKind::NotFound.into()) };
        #[cfg(unix)]
        let id = rustix::process::Pid::from_child(&child);
        #[cfg(not(unix))]
        let id = child.id();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        tokio::select! {
            // What came before the end was for the command.
            biased;
            error = signals.pass_on(id) => Err(error),
            status = ended => status.map_err(io::Error::other)?,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Signals that are meant to end this program are for the command to obey: this program ends with
/// it.
struct Signals {
    ending: signals::Signals,
    #[cfg(unix)]
    hang_up: tokio::signal::unix::Signal,
    #[cfg(unix)]
    quit: tokio::signal::unix::Signal,
    /// On a terminal Ctrl-C reaches all that it runs in the foreground, the command included, which
    /// must not get it twice.
    #[cfg(unix)]
    at_terminal: bool,
    /// The command has been told of one.
    passed_on: bool,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let ending = signals::Signals::new()?;
        #[cfg(unix)]
        {
            use std::io::IsTerminal as _;
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                ending,
                hang_up: signal(SignalKind::hangup())?,
                quit: signal(SignalKind::quit())?,
                at_terminal: io::stdin().is_terminal(),
                passed_on: false,
            })
        }
        #[cfg(not(unix))]
        Ok(Self { ending, passed_on: false })
    }

    /// Passes them on for as long as this is polled. Returns only if that fails.
    #[cfg(unix)]
    async fn pass_on(&mut self, child: rustix::process::Pid) -> io::Error {
        loop {
            use rustix::process::{Signal, kill_process};
            let (signal, by_terminal) = tokio::select! {
                end = self.ending.next() => match end {
                    signals::End::Terminate => (Signal::TERM, false),
                    signals::End::Interrupt => (Signal::INT, self.at_terminal),
                },
                _ = self.hang_up.recv() => (Signal::HUP, false),
                _ = self.quit.recv() => (Signal::QUIT, self.at_terminal),
            };
            self.passed_on = true;
            if !by_terminal {
                // Whatever fails here, the command is ending.
                let _ = kill_process(child, signal);
            }
        }
    }

    /// Takes Ctrl-C, and lets it be.
    #[cfg(not(unix))]
    async fn pass_on(&mut self, _child: u32) -> io::Error {
        loop {
            self.ending.next().await;
            self.passed_on = true;
        }
    }

    /// Waits for one more than `spare` that say to end.
    async fn further(&mut self, spare: usize) {
        for _ in 0..=spare {
            self.ending.next().await;
        }
    }
}

/// The command's own status; as shells have it, 128 and the number of the signal that ended it.
fn exit_status(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    let code = signal.map_or(status.code(), |signal: i32| Some(128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
