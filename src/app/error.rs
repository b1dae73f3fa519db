//! Why the program cannot start, or cannot go over to another configuration.

use crate::connect::{InvalidHost, InvalidProxy};
use crate::credential::devices::DevicesError;
use crate::credential::secrets::SecretError;
use crate::credential::store::open::OpenError;
use crate::server::bind::BindError;
use crate::server::passed::PassedError;
use crate::tls::TlsError;

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Secrets that cannot be read; all of them.
    #[error("{} cannot be read", if .0.len() == 1 { "a secret" } else { "secrets" })]
    Secrets(Vec<SecretError>),
    /// Files of devices that cannot be used; all of them.
    #[error("devices cannot be read")]
    Devices(Vec<DevicesError>),
    /// TLS files that cannot be used.
    #[error("TLS for {what} cannot be set up: {reason}")]
    Tls {
        /// What it is for.
        what: String,
        /// Why not.
        reason: TlsError,
    },
    /// A credential's values do not fit.
    #[error("the credential '{name}' cannot be used: {reason}")]
    Credential {
        /// Its name.
        name: String,
        /// Why not.
        reason: crate::sign::BindError,
    },
    /// A store of tokens that cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An upstream without a usable host.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// A proxy that the environment names and that cannot be used.
    #[error("HTTPS_PROXY cannot be used: {0}; set NO_PROXY, or proxy = \"none\" on the route")]
    Proxy(#[from] InvalidProxy),
    /// An address that cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Sockets of the service manager that cannot be used.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// The system refuses something else.
    #[error("the system refuses a thread or a socket: {0}")]
    System(#[from] std::io::Error),
}
