//! Devices: one credential, many identities.
//!
//! [`table`] is what the file of devices says, kept compactly; [`pool`] is what requests see of the
//! credentials of all devices; [`scheduler`] is the one task that fetches and renews them; [`gate`]
//! is what all who ask one token endpoint have in common; [`follow`] reads the file again; [`sight`]
//! is what people see.

mod attempt;
pub mod follow;
pub mod gate;
pub mod packed;
pub mod pool;
pub mod queue;
pub mod scheduler;
pub mod sight;
pub mod source;
pub mod table;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The devices of a credential as the configuration says it. Who they are is in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct DevicesSpec {
    /// The file.
    pub file: PathBuf,
    /// The columns that it may have beside `device`.
    pub columns: Vec<Column>,
    /// How their tokens are fetched and renewed.
    pub fleet: Fleet,
}

/// A column of the file of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What it is called in the file.
    pub name: String,
    /// The value of the credential that its cells are.
    pub value: String,
    /// What may stand in a cell.
    pub form: Form,
    /// True if every device needs one.
    pub required: bool,
}

/// What may stand in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A secret: `env:NAME`, `file:PATH`, or itself.
    Secret,
    /// Text that is no secret.
    Text,
    /// A user name, in which RFC 7617 has no way to write a colon.
    User,
    /// A GUID.
    Guid,
}

/// How the tokens of many devices are fetched and renewed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// Logins in flight.
    pub max_concurrent_logins: usize,
    /// Logins per second.
    pub max_logins_per_second: f64,
    /// A device without requests for so long is not renewed any more.
    pub idle_after: Duration,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            max_concurrent_logins: 8,
            max_logins_per_second: 50.0,
            idle_after: Duration::from_hours(1),
        }
    }
}

impl Fleet {
    /// The least time between the beginnings of two logins.
    pub fn pace(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.max_logins_per_second).unwrap_or_default()
    }
}

/// Something wrong with a file of devices. Holds no cell that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProblem {
    /// Where; `None` for the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// A place in a file of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line, counted from 1.
    Line(u32),
    /// A device of a file whose lines are not known, counted from 1.
    Entry(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(entry) => write!(f, "entry {entry}"),
        }
    }
}

impl DeviceProblem {
    /// A problem at `place`.
    pub fn new(place: Option<Place>, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    /// The same problem with a way out.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for DeviceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// A file of devices that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the devices in {} cannot be used", file.display())]
pub struct DevicesError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub problems: Vec<DeviceProblem>,
}
