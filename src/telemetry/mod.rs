//! Logs, and [traces](trace): what is written, where, and in which form.
//!
//! There is one log per process, as there is one of tracing's subscribers, so that what may be
//! changed while it runs is asked for by functions: [`reopen`], [`change`], [`state`].

mod access;
mod levels;
mod outlet;
mod sink;
pub mod trace;

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
    let change = Mutex::new(Change { configured, end: None });
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
    let change = logs.change.lock().unwrap_or_else(PoisonError::into_inner);
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
    let mut change = logs.change.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, task)) = change.end.take() {
        task.abort();
    }
    let before = logs.levels.get();
    let setting =
        Setting { level: level.unwrap_or(before.level), access: access.unwrap_or(before.access) };
    logs.levels.set(setting);
    change.end = time.filter(|_| setting != change.configured).map(|time| {
        let task = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            turn_back();
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
    let Some(logs) = LOGS.get() else { return };
    let mut change = logs.change.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, task)) = change.end.take() {
        task.abort();
    }
    let configured = change.configured;
    drop(change);
    if logs.levels.get() != configured {
        logs.levels.set(configured);
        tracing::warn!(now = %configured, "what is logged is as configured again");
    }
}

/// Takes over what another configuration says of levels; files stay what they are. Nothing happens
/// where it says the same as the one before, so that a change for the time being goes on.
pub fn reconfigure(config: &LogConfig) {
    let Some(logs) = LOGS.get() else { return };
    let configured = Setting { level: config.level, access: config.access };
    let mut change = logs.change.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut change.configured, configured) != configured {
        drop(change);
        turn_back();
    }
}
