//! Logs, and [traces](trace): what is written, where, and in which form.
//!
//! There is one log per process, as there is one of tracing's subscribers, so that what may be
//! changed while it runs is asked for by functions: [`reopen`], [`change`], [`state`].

mod access;
pub mod harmful;
mod levels;
mod outlet;
mod sink;
pub mod trace;

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{AccessLog, Level, LogConfig, LogFormat, LogTarget};
use access::AccessLines;
pub use levels::Setting;
use levels::{Levels, Lines};
use outlet::Outlet;
use sink::{Mouth, Sink};

/// How long a change lasts unless it says otherwise: whoever looks for a fault forgets to turn the
/// level back.
pub const DEFAULT_CHANGE: Duration = Duration::from_mins(15);
/// How long lines may take to be written at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

static LOGS: OnceLock<Logs> = OnceLock::new();

/// The log of the process.
#[derive(Debug)]
struct Logs {
    levels: Arc<Levels>,
    /// One, or that of the lines per request behind the other.
    sinks: Vec<Arc<Sink>>,
    change: Mutex<Change>,
}

/// What the configuration says, and what departs from it for the time being.
#[derive(Debug)]
struct Change {
    configured: Setting,
    /// Until when, if it ends by itself, and what ends it.
    end: Option<(Instant, AbortHandle)>,
    /// Which change this is: what was to end a former one must not end another.
    number: u64,
}

impl Change {
    /// It gives way to another, or to what is configured.
    fn over(&mut self) -> u64 {
        if let Some((_, task)) = self.end.take() {
            task.abort();
        }
        self.number += 1;
        self.number
    }
}

impl Logs {
    fn lock(&self) -> MutexGuard<'_, Change> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what the configuration says again.
    fn turn_back(&self, mut change: MutexGuard<'_, Change>) {
        change.over();
        let configured = change.configured;
        let turned = self.levels.get() != configured;
        if turned {
            self.levels.set(configured);
        }
        drop(change);
        if turned {
            tracing::warn!(now = %configured, "what is logged is as configured again");
        }
    }

    /// The time of the change with this number is over, if another has not come meanwhile.
    fn expire(&self, number: u64) {
        let change = self.lock();
        if change.number == number {
            self.turn_back(change);
        }
    }
}

/// Why there is no log to write to.
#[derive(Debug, thiserror::Error)]
#[error("{target} cannot be opened: {error}")]
pub struct NoLog {
    /// Where it should have gone.
    pub target: LogTarget,
    /// True if it is that of the lines per request.
    pub access: bool,
    error: io::Error,
}

/// Sends everything that is logged from now on where `config` says.
///
/// # Errors
/// When a file cannot be opened.
pub fn init(config: &LogConfig) -> Result<(), NoLog> {
    let open = |target: LogTarget, access: bool, reports_to_log: bool| {
        let outlet = Outlet::open(target.clone());
        let outlet = outlet.map_err(|error| NoLog { target, access, error })?;
        Ok(Arc::new(Sink::new(outlet, config.buffer, reports_to_log)))
    };
    let sink = open(config.target(), false, false)?;
    let access_sink = if config.access_target() == config.target() {
        Arc::clone(&sink)
    } else {
        open(config.access_target(), true, true)?
    };
    let configured = Setting { level: config.level, access: config.access };
    let levels = Arc::new(Levels::new(configured));
    let to_terminal = config.file.is_none() && io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !to_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let colours = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let general = fmt::layer().with_writer(Mouth(Arc::clone(&sink))).with_target(false);
    let general = if json {
        general.json().flatten_event(true).boxed()
    } else {
        general.with_ansi(colours).boxed()
    };
    let access = AccessLines {
        levels: Arc::clone(&levels),
        sink: Arc::clone(&access_sink),
        otherwise: if json { AccessLog::Json } else { AccessLog::Text },
    };
    let subscriber = Registry::default()
        .with(general.with_filter(Lines::General(Arc::clone(&levels))))
        .with(access.with_filter(Lines::Access(Arc::clone(&levels))));
    let mut sinks = vec![sink];
    if !sinks.iter().any(|sink| Arc::ptr_eq(sink, &access_sink)) {
        sinks.push(access_sink);
    }
    let change = Mutex::new(Change { configured, end: None, number: 0 });
    // A second call, as in tests, leaves the first in place.
    if LOGS.set(Logs { levels, sinks, change }).is_ok() {
        let _ = tracing::subscriber::set_global_default(subscriber);
    }
    Ok(())
}

/// From now on lines are written by a thread of their own, so that nobody waits for a disk or a
/// pipe. To be called when the process is confined, because threads that there are already are not.
///
/// # Errors
/// When there can be no thread.
pub fn start() -> io::Result<()> {
    sinks().iter().try_for_each(Sink::serve)
}

fn sinks() -> &'static [Arc<Sink>] {
    LOGS.get().map_or(&[], |logs| &logs.sinks)
}

/// From now on panics are lines of the log, once there is one: standard error may be a pipe that
/// nobody empties. They say where, and not why, which may have a value in it that is secret.
pub fn log_panics() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if LOGS.get().is_none() {
            otherwise(panic);
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::error!(place, thread = name, "a panic, which is a mistake in countersign");
        if name == "main" {
            // It may be the last that is heard of it.
            finish();
        }
    }));
}

/// Waits a moment for the lines that are not written yet.
pub fn finish() {
    for sink in sinks() {
        sink.flush(LAST_LINES);
    }
}

/// Opens files anew, which somebody has renamed. A file is followed without that, too, within a
/// second of the next line.
pub fn reopen() {
    for sink in sinks() {
        sink.reopen();
    }
}

/// What is written at the moment; `None` if nobody has called [`init`].
pub fn state() -> Option<State> {
    let logs = LOGS.get()?;
    let change = logs.lock();
    let left = change.end.as_ref().map(|(end, _)| end.duration_since(Instant::now()));
    let Setting { level, access } = logs.levels.get();
    Some(State {
        level,
        access,
        back_in_s: left.map(|left| left.as_secs()),
        dropped: logs.sinks.iter().map(|sink| sink.dropped()).sum(),
    })
}

/// What is written at a moment, for people and programs that ask.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct State {
    /// The least important messages.
    pub level: Level,
    /// The lines per request.
    pub access: AccessLog,
    /// Seconds until it is again as configured; `None` if it is, or stays as it is.
    pub back_in_s: Option<u64>,
    /// Lines that were not written since the start.
    pub dropped: u64,
}

/// Writes at this level, and these lines per request, for so long (`None`: until the end of the
/// process); what is `None` stays as it is. Must be called within a runtime, which turns it back.
pub fn change(level: Option<Level>, access: Option<AccessLog>, time: Option<Duration>) {
    let Some(logs) = LOGS.get() else { return };
    let mut change = logs.lock();
    let number = change.over();
    let before = logs.levels.get();
    let setting =
        Setting { level: level.unwrap_or(before.level), access: access.unwrap_or(before.access) };
    logs.levels.set(setting);
    change.end = time.filter(|_| setting != change.configured).map(|time| {
        let task = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(logs) = LOGS.get() {
                logs.expire(number);
            }
        });
        (Instant::now() + time, task.abort_handle())
    });
    drop(change);
    let Setting { level, access } = setting;
    tracing::warn!(
        ?level,
        ?access,
        seconds = time.map(|time| time.as_secs()),
        "what is logged was changed"
    );
}

/// Writes what the configuration says again.
pub fn turn_back() {
    if let Some(logs) = LOGS.get() {
        logs.turn_back(logs.lock());
    }
}

/// Takes over what another configuration says of levels; files stay what they are. Nothing happens
/// where it says the same as the one before, so that a change for the time being goes on.
pub fn reconfigure(config: &LogConfig) {
    let Some(logs) = LOGS.get() else { return };
    let configured = Setting { level: config.level, access: config.access };
    let mut change = logs.lock();
    if std::mem::replace(&mut change.configured, configured) != configured {
        logs.turn_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_to_end_a_change_does_not_end_the_next() {
        let configured = Setting { level: Level::Info, access: AccessLog::Off };
        let levels = Arc::new(Levels::new(configured));
        let change = Mutex::new(Change { configured, end: None, number: 0 });
        let logs = Logs { levels, sinks: Vec::new(), change };
        let first = logs.lock().over();
        // Its time is over, and its task was about to take the lock, when there is another.
        let second = logs.lock().over();
        let debug = Setting { level: Level::Debug, access: AccessLog::Off };
        logs.levels.set(debug);
        logs.expire(first);
        assert_eq!(logs.levels.get(), debug);
        logs.expire(second);
        assert_eq!(logs.levels.get(), configured);
    }

    /// In a process of its own, which has its own log and its own hook.
    #[test]
    fn a_panic_is_a_line_with_its_place_and_without_its_words() {
        const TEST: &str =
            "telemetry::tests::a_panic_is_a_line_with_its_place_and_without_its_words";
        const CHILD: &str = "COUNTERSIGN_TEST_PANIC";
        if std::env::var_os(CHILD).is_some() {
            init(&LogConfig {
                level: Level::Info,
                format: LogFormat::Json,
                access: AccessLog::Off,
                file: None,
                access_file: None,
                buffer: 1 << 16,
                request_id: None,
            })
            .unwrap();
            log_panics();
            assert!(std::panic::catch_unwind(|| panic!("canary")).is_err());
            return;
        }
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let ended =
            command.args(["--exact", TEST, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{said}");
        let line = said.lines().find(|line| line.contains("a panic, which is a mistake"));
        assert!(line.is_some_and(|line| line.contains("src/telemetry/mod.rs:")), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
