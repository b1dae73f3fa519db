//! `countersign run`: serve until told to stop.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::load::{Source, start_failure};
use super::output::Failure;
use super::signals::Signals;
use crate::app::{App, Origin, Reloading, Running};
use crate::clock::Clock;
use crate::config::{Address, Config};
use crate::control::{Cause, Control};
use crate::credential::store::file::Lender;
use crate::handover::{self, Giver, HandoverError, Offered, Predecessor};
use crate::notify::Notifier;
use crate::server::passed::Passed;
use crate::{sandbox, telemetry};

/// File descriptors to ask for: each caller takes one, and its upstream connection another.
const FILE_DESCRIPTORS: u64 = 65_536;

pub(super) fn run(path: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut source = Source::read(path)?;
    let origin = source.origin();
    let config = source.config()?;
    open_log(&config)?;
    raise_file_descriptor_limit();
    // The runtime that serves, so that no signal falls between it and the one that puts together.
    let serving = runtime()?;
    let signals = serving.block_on(async { Ok((Signals::new()?, Hangups::new()?)) });
    let (mut signals, mut hangups) =
        signals.map_err(|error: std::io::Error| Failure::runtime(&error))?;
    let notifier = Arc::new(Notifier::from_environment());
    let passed = Passed::from_environment();
    let mut passed = passed.map_err(|error| Failure::configuration(error.to_string()))?;
    let mut upgrade = Upgrade::begin(&config)?;
    if let Some(before) = &mut upgrade.before {
        passed = passed.and_of(before.sockets());
    }
    let Some(app) = build(&config, passed, &mut signals)? else { return Ok(ExitCode::FAILURE) };
    let (offered, lender) = (app.offered(), app.lender());
    let offered = offered.map_err(|error| Failure::runtime(&error))?;
    upgrade.offer()?;
    // Before there are threads that it would not reach.
    let mut files = app.device_files();
    // It is read again when the configuration changes.
    if let Origin::File(path, _) = &origin {
        files.push(path.clone());
    }
    let confined = sandbox::confine(&config, &files, sandbox::Signals::Within)
        .map_err(|error| Failure::runtime(&error))?;
    let reloading = Reloading { origin, notifier: Arc::clone(&notifier), confined };
    telemetry::start().map_err(|error| Failure::runtime(&error))?;
    serving.block_on(async {
        let running = start(app, reloading)?;
        let taken = tokio::select! {
            biased;
            taken = upgrade.take_over(&running) => taken,
            _ = signals.next() => Err(Failure::at_run_time("it was ended before it served")),
        };
        if let Err(failure) = taken {
            // The sockets are still of the process that ran before.
            running.hand_over().await;
            return Err(failure);
        }
        running.open();
        tell_where(&config, &running);
        notifier.ready();
        let handed = {
            let mut serving = std::pin::pin!(async {
                tokio::select! {
                    () = upgrade.serve(&offered, &lender) => true,
                    () = signs_of_life(&notifier, &running) => false,
                }
            });
            let handed = tokio::select! {
                _ = signals.next() => false,
                () = reloads(&mut hangups, running.control()) => false,
                () = running.control().asked_to_quit() => false,
                handed = &mut serving => handed,
            };
            handed || upgrade.decide(serving, &mut signals).await
        };
        // A new process that has the sockets serves in any case.
        let handed = upgrade.close(handed);
        drop(offered);
        notifier.stopping();
        tracing::info!(
            linger_s = running.linger().as_secs_f64(),
            drain_s = running.drain().as_secs_f64(),
            "stopping; a second signal ends at once"
        );
        let stopping =
            async { if handed { running.hand_over().await } else { running.stop().await } };
        tokio::select! {
            cut_off = stopping => {
                tracing::info!(cut_off, "stopped");
                Ok(ExitCode::SUCCESS)
            }
            _ = signals.next() => {
                tracing::warn!("stopped at once");
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

/// From now on what is logged goes where the configuration says.
pub(super) fn open_log(config: &Config) -> Result<(), Failure> {
    telemetry::init(&config.log).map_err(|error| {
        let key = if error.access { "access_file" } else { "file" };
        Failure::configuration(format!("log.{key}: {error}"))
    })
}

/// Reads the secrets and opens the sockets, on a runtime of its own, whose threads end with it; `None`
/// if it is told to stop meanwhile.
fn build(config: &Config, passed: Passed, signals: &mut Signals) -> Result<Option<App>, Failure> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workers = config.workers,
        routes = config.routes.len(),
        credentials = config.credentials.len(),
        "starting"
    );
    runtime()?.block_on(async {
        tokio::select! {
            app = App::build_with(config.clone(), Clock::system(), passed) => {
                app.map(Some).map_err(start_failure)
            }
            _ = signals.next() => Ok(None),
        }
    })
}

/// Has the program go over to what the configuration says at every SIGHUP. Returns when the terminal
/// that it was started from is gone.
async fn reloads(hangups: &mut Hangups, control: &Control) {
    while hangups.next().await {
        // Whoever rotates logs says so in the same way.
        telemetry::reopen();
        control.reload(Cause::Signal).await;
    }
}

/// Gives the service manager the signs of life that it wants: each one only once all that serves has
/// said that it is there. Never returns.
async fn signs_of_life(notifier: &Notifier, running: &Running) {
    let Some(interval) = notifier.interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if running.is_alive().await {
            notifier.alive();
        } else {
            tracing::error!(
                "a thread that serves has ended; the service manager gets no sign of life"
            );
        }
    }
}

/// Starts everything but callers.
fn start(app: App, reloading: Reloading) -> Result<Running, Failure> {
    app.start_closed(reloading).map_err(start_failure)
}

/// Says where it listens.
fn tell_where(config: &Config, running: &Running) {
    let mut tcp = running.addresses().iter();
    for listener in &config.listeners {
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        match &listener.address {
            // With the port that the system chose for port 0.
            Address::Tcp(_) => {
                if let Some(bound) = tcp.next() {
                    tracing::info!(address = %format_args!("{scheme}://{bound}"), "listening");
                }
            }
            address @ Address::Unix { .. } => tracing::info!(%address, "listening"),
        }
    }
    if let Some(address) = running.admin_address() {
        tracing::info!(address = %format_args!("http://{address}"), "admin listening");
    }
}

/// The process before this one, and the one after it.
struct Upgrade {
    socket: Option<PathBuf>,
    /// Serves until it is told.
    before: Option<Predecessor>,
    giver: Option<Giver>,
}

impl Upgrade {
    /// Asks the process that runs for its sockets, if there is one.
    fn begin(config: &Config) -> Result<Self, Failure> {
        let socket = config.upgrade_socket.clone();
        let before = socket.as_deref().map(handover::ask).transpose();
        let before = before.map_err(|error| Failure::runtime(&error))?.flatten();
        if before.is_some() {
            tracing::info!("another countersign runs here; it serves until this one is ready");
        }
        Ok(Self { socket, before, giver: None })
    }

    /// Listens for the process after this one.
    fn offer(&mut self) -> Result<(), Failure> {
        if let Some(path) = &self.socket {
            let giver = Giver::open(path, self.before.as_mut());
            self.giver = Some(giver.map_err(|error| Failure::runtime(&error))?);
        }
        Ok(())
    }

    /// Waits until this process can serve, and has the one before it end.
    async fn take_over(&mut self, running: &Running) -> Result<(), Failure> {
        let Some(before) = &mut self.before else { return Ok(()) };
        if tokio::time::timeout(handover::READY, running.fetched()).await.is_err() {
            let missing = running.missing().join(", ");
            return Err(Failure::runtime(&HandoverError::NotReady { missing }));
        }
        before.take_over().map_err(|error| Failure::runtime(&error))?;
        tracing::info!("took over from the countersign that ran here");
        self.before = None;
        Ok(())
    }

    /// Hands the sockets to whoever asks and may; returns once another process serves.
    async fn serve(&self, offered: &[Offered], lender: &Lender) {
        match &self.giver {
            Some(giver) => giver.serve(offered, lender).await,
            None => std::future::pending().await,
        }
    }

    /// If a new process is about to take over, `serving` goes on until it does, or is given up:
    /// nobody else accepts meanwhile. True if it has taken over. A second signal does not wait.
    async fn decide(&self, serving: impl Future<Output = bool>, signals: &mut Signals) -> bool {
        let Some(giver) = self.giver.as_ref().filter(|giver| giver.is_asked()) else {
            return false;
        };
        tracing::info!(
            at_most_s = handover::LIMIT.as_secs(),
            "told to stop while a new process is about to take over; serving until it does"
        );
        tokio::select! {
            biased;
            handed = serving => handed,
            () = giver.given_up() => false,
            _ = signals.next() => false,
        }
    }

    /// Ends it; true if another process has the sockets.
    fn close(self, handed: bool) -> bool {
        let Some(giver) = self.giver else { return false };
        let handed = handed || giver.is_handing();
        giver.close(handed);
        handed
    }
}

/// The control plane's runtime: the data plane has threads of its own.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(&error))
}

/// The default of many systems, 1024, is less than a gateway needs.
pub(super) fn raise_file_descriptor_limit() {
    match rlimit::increase_nofile_limit(FILE_DESCRIPTORS) {
        Ok(limit) => tracing::debug!(limit, "file descriptors"),
        Err(error) => tracing::debug!(%error, "the file descriptor limit stays as it is"),
    }
}

/// SIGHUP, which no other platform has.
struct Hangups {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
    /// It also says that a terminal is gone.
    #[cfg(unix)]
    at_terminal: bool,
}

impl Hangups {
    fn new() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use std::io::IsTerminal as _;
            use tokio::signal::unix::{SignalKind, signal};
            let at_terminal = std::io::stdin().is_terminal();
            Ok(Self { hangup: signal(SignalKind::hangup())?, at_terminal })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one; false if it is because the terminal is gone.
    async fn next(&mut self) -> bool {
        #[cfg(unix)]
        {
            use std::io::IsTerminal as _;
            if self.hangup.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            !self.at_terminal || std::io::stdin().is_terminal()
        }
        #[cfg(not(unix))]
        std::future::pending().await
    }
}
