//! [`SecretRef`]: where a secret is, as the configuration says it.

use std::fmt;
use std::path::PathBuf;

use crate::secret::Secret;

/// A reference to a secret. The configuration never holds secrets, so that `check` works without
/// them and a reload compares configurations without seeing any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file; one trailing line break is not part of the secret.
    File(PathBuf),
    /// A command and its arguments; its standard output is read like a file.
    Exec(Vec<String>),
    /// A file of that name in `$CREDENTIALS_DIRECTORY`, as systemd provides.
    Systemd(String),
    /// The secret itself: for tests and demonstrations only.
    Value(Secret),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Exec(command) => {
                // Its arguments may be secrets, also those that were written into its name.
                let name = command.first().and_then(|name| name.split_whitespace().next());
                write!(f, "command {}", name.unwrap_or_default())
            }
            Self::Systemd(name) => write!(f, "systemd credential {name}"),
            Self::Value(_) => f.write_str("value in the configuration"),
        }
    }
}
