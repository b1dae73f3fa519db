//! Writing: data to standard output, everything else to standard error.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Success, for a person to see at a glance.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Failure.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// Headings.
pub(super) const STRONG: Style = Style::new().bold();
/// What is less important.
pub(super) const FAINT: Style = Style::new().dimmed();

/// `text` in `style`, where standard output is a terminal that has colours.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Why a command ends without success.
#[derive(Debug)]
pub(super) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// Something failed while running.
    pub(super) fn runtime(error: &(dyn Error + 'static)) -> Self {
        Self { status: 1, message: chain(error) }
    }

    /// The same in words.
    pub(super) fn at_run_time(message: impl Into<String>) -> Self {
        Self { status: 1, message: message.into() }
    }

    /// The configuration or the usage is wrong.
    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self { status: 2, message: message.into() }
    }

    /// Everything worth saying was said.
    pub(super) fn silent(status: u8) -> Self {
        Self { status, message: String::new() }
    }

    /// The same with what to do about it.
    pub(super) fn hint(mut self, hint: Option<impl Display>) -> Self {
        if let Some(hint) = hint {
            self.message.push_str(&hint_line(hint));
        }
        self
    }

    /// The reason alone.
    pub(super) fn into_message(self) -> String {
        self.message
    }

    /// Writes the reason and returns the status to exit with.
    pub(super) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            let word = styled(BAD, "error");
            say(format!("{word}: {}", self.message));
        }
        ExitCode::from(self.status)
    }
}

/// What to do about what was said, on a line of its own.
pub(super) fn hint_line(hint: impl Display) -> String {
    format!("\n  = hint: {hint}")
}

/// An error and its causes on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let next = current.to_string();
        // Transparent errors and those that quote their cause would say it twice.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = current.source();
    }
    text
}

/// Writes data to standard output. A reader that has gone away is no failure.
pub(super) fn print(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let written = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush());
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::silent(0)),
        Err(error) => Err(Failure::runtime(&error)),
    }
}

/// Writes a line to standard error.
pub(super) fn say(text: impl AsRef<str>) {
    let mut err = anstream::stderr().lock();
    // There is nowhere left to complain to.
    let _ = writeln!(err, "{}", text.as_ref());
}
