//! What is written: levels that may change while the program runs.
//!
//! A callsite that is off costs one load: tracing remembers that nobody is interested, and is told
//! to ask again when something changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level as TracingLevel, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use crate::config::{AccessLog, Level};
use crate::proxy::ACCESS;

/// What is written at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The least important messages.
    pub level: Level,
    /// The lines per request.
    pub access: AccessLog,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let access = match self.access {
            AccessLog::Off => "off",
            AccessLog::Text => "text",
            AccessLog::Json => "json",
        };
        write!(f, "level {level}, access {access}")
    }
}

impl Setting {
    /// True if there is a line per request.
    fn has_access(self) -> bool {
        self.access != AccessLog::Off || matches!(self.level, Level::Debug | Level::Trace)
    }
}

/// The present [`Setting`], as callsites ask for it.
#[derive(Debug)]
pub(super) struct Levels {
    level: AtomicU8,
    access: AtomicU8,
}

const LEVELS: [(Level, LevelFilter); 5] = [
    (Level::Error, LevelFilter::ERROR),
    (Level::Warn, LevelFilter::WARN),
    (Level::Info, LevelFilter::INFO),
    (Level::Debug, LevelFilter::DEBUG),
    (Level::Trace, LevelFilter::TRACE),
];
const ACCESS_LOGS: [AccessLog; 3] = [AccessLog::Off, AccessLog::Text, AccessLog::Json];

fn number(at: Option<usize>) -> u8 {
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default()
}

impl Levels {
    pub(super) fn new(setting: Setting) -> Self {
        let levels = Self { level: AtomicU8::new(0), access: AtomicU8::new(0) };
        levels.store(setting);
        levels
    }

    fn store(&self, setting: Setting) {
        let level = LEVELS.iter().position(|(level, _)| *level == setting.level);
        let access = ACCESS_LOGS.iter().position(|access| *access == setting.access);
        self.level.store(number(level), Ordering::Relaxed);
        self.access.store(number(access), Ordering::Relaxed);
    }

    /// Writes by `setting` from now on.
    pub(super) fn set(&self, setting: Setting) {
        self.store(setting);
        tracing_core::callsite::rebuild_interest_cache();
    }

    fn level(&self) -> (Level, LevelFilter) {
        let at = usize::from(self.level.load(Ordering::Relaxed));
        LEVELS.get(at).copied().unwrap_or((Level::Info, LevelFilter::INFO))
    }

    pub(super) fn access(&self) -> AccessLog {
        let at = usize::from(self.access.load(Ordering::Relaxed));
        ACCESS_LOGS.get(at).copied().unwrap_or(AccessLog::Off)
    }

    pub(super) fn get(&self) -> Setting {
        Setting { level: self.level().0, access: self.access() }
    }
}

/// Lets through what the levels say of one kind of lines. Only our own: what libraries log is not
/// written with secrets in mind.
#[derive(Debug, Clone)]
pub(super) enum Lines {
    /// Those that are not about one request.
    General(Arc<Levels>),
    /// Those per request.
    Access(Arc<Levels>),
}

impl Lines {
    fn pass(&self, metadata: &Metadata<'_>) -> bool {
        match self {
            Self::General(levels) => {
                metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
                    && *metadata.level() <= levels.level().1
            }
            Self::Access(levels) => {
                metadata.target() == ACCESS
                    && *metadata.level() <= TracingLevel::INFO
                    && levels.get().has_access()
            }
        }
    }
}

impl<S> Filter<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.pass(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.pass(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self {
            Self::General(levels) => levels.level().1,
            Self::Access(levels) if levels.get().has_access() => LevelFilter::INFO,
            Self::Access(_) => LevelFilter::OFF,
        })
    }
}
