//! Logs: what is written, where, and in which form.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{AccessLog, Level, LogConfig, LogFormat};
use crate::proxy::ACCESS;

/// Sends everything that is logged from now on where `config` says.
///
/// # Errors
/// When the log file cannot be opened.
pub fn init(config: &LogConfig) -> io::Result<()> {
    let subscriber = Registry::default().with(vec![
        layer(config, config.format, false)?,
        layer(config, access_format(config), true)?,
    ]);
    // A second call, as in tests, leaves the first in place.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

fn access_format(config: &LogConfig) -> LogFormat {
    match config.access {
        AccessLog::Off => config.format,
        AccessLog::Text => LogFormat::Text,
        AccessLog::Json => LogFormat::Json,
    }
}

/// Either the lines per request or all others. Only our own: what libraries log is not written
/// with secrets in mind.
fn layer(
    config: &LogConfig,
    format: LogFormat,
    access: bool,
) -> io::Result<Box<dyn Layer<Registry> + Send + Sync>>
where
{
    let level = match config.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let filter = if access {
        let wanted = config.access != AccessLog::Off || level >= LevelFilter::DEBUG;
        let level = if wanted { LevelFilter::INFO } else { LevelFilter::OFF };
        Targets::new().with_target(ACCESS, level)
    } else {
        Targets::new().with_target(env!("CARGO_CRATE_NAME"), level)
    };
    let to_terminal = config.file.is_none() && io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !to_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let writer = match &config.file {
        Some(path) => BoxMakeWriter::new(Mutex::new(open(path)?)),
        None => BoxMakeWriter::new(io::stderr),
    };
    let colours = to_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_writer(writer).with_target(false);
    Ok(if json {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        layer.with_ansi(colours).with_filter(filter).boxed()
    })
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}
