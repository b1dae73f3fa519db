//! `countersign exec`: serve for as long as one command runs, on a port that nobody else knows.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::load::{Source, start_failure};
use super::output::Failure;
use super::run::{open_log, raise_file_descriptor_limit, runtime};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{AccessRules, Address, Config, Level};
use crate::sandbox;

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
        for_one_command(&mut config);
        open_log(&config)?;
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
        serving.block_on(async {
            let running = app.start().map_err(start_failure)?;
            let status = child.wait(signals).await.map_err(|error| Failure::runtime(&error))?;
            running.stop().await;
            Ok(exit_code(status))
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
fn for_one_command(config: &mut Config) {
    config.admin = None;
    config.listeners.truncate(1);
    for listener in &mut config.listeners {
        listener.address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        listener.tls = None;
        let answers = listener.access.answers;
        listener.access = AccessRules { answers, ..AccessRules::default() };
    }
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
    async fn wait(mut self, signals: Signals) -> io::Result<ExitStatus> {
        let Some(mut child) = self.0.take() else { return Err(io::ErrorKind::NotFound.into()) };
        #[cfg(unix)]
        let id = rustix::process::Pid::from_child(&child);
        #[cfg(not(unix))]
        let id = child.id();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        tokio::select! {
            status = ended => status.map_err(io::Error::other)?,
            error = signals.pass_on(id) => Err(error),
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
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hang_up: tokio::signal::unix::Signal,
    /// Taken and let be: Ctrl-C reaches all that the terminal runs, the command included.
    #[cfg(unix)]
    _interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    _quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
                _interrupt: signal(SignalKind::interrupt())?,
                _quit: signal(SignalKind::quit())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Passes them on for as long as this is polled. Returns only if that fails.
    #[cfg(unix)]
    async fn pass_on(mut self, child: rustix::process::Pid) -> io::Error {
        loop {
            use rustix::process::{Signal, kill_process};
            let signal = tokio::select! {
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hang_up.recv() => Signal::HUP,
            };
            // Whatever fails here, the command is ending.
            let _ = kill_process(child, signal);
        }
    }

    /// Takes Ctrl-C, and lets it be.
    #[cfg(not(unix))]
    async fn pass_on(self, _child: u32) -> io::Error {
        loop {
            if let Err(error) = tokio::signal::ctrl_c().await {
                return error;
            }
        }
    }
}

/// The command's own status; as shells have it, 128 and the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    let code = signal.map_or(status.code(), |signal: i32| Some(128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
