//! Handing the listening sockets over to the next process: an upgrade without a gap.
//!
//! A running process that has an `upgrade_socket` listens there. A new one that finds it alive asks
//! for the sockets, puts everything together, fetches its credentials, and then tells the old one
//! that it serves. Both have the same sockets, so that a connection that waits to be accepted is lost
//! at no time: whoever still accepts takes it. The old one serves until it is told, and goes on if
//! the new one ends before that.
//!
//! A store of tokens in a file is for one process at a time: it is lent to the new one, and taken
//! back if nothing comes of it. Meanwhile the old one fetches nothing.

#[cfg(target_os = "linux")]
mod giving;
#[cfg(not(target_os = "linux"))]
mod none;
#[cfg(target_os = "linux")]
mod taking;
#[cfg(target_os = "linux")]
mod wire;

use std::io;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
pub use giving::Giver;
#[cfg(not(target_os = "linux"))]
pub use none::{Giver, Predecessor, ask};
#[cfg(target_os = "linux")]
pub use taking::{Predecessor, ask};

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Requests that are passed on.
    Listener,
    /// `[admin]`.
    Admin,
}

/// A listening socket to be handed over.
#[derive(Debug)]
pub struct Offered {
    /// What it is for.
    pub role: Role,
    /// Its address, as the configuration says it.
    pub address: String,
    /// The path of a Unix socket is to be removed by whoever has it last.
    pub removes_path: bool,
    /// The socket.
    #[cfg(unix)]
    pub socket: std::os::fd::OwnedFd,
}

/// Why nothing can be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket cannot be made.
    #[error("upgrade_socket: {}: {}", .0.display(), .1)]
    Socket(PathBuf, io::Error),
    /// Others could put theirs in its place.
    #[error(
        "upgrade_socket: other users can write to the directory {}, so whoever listens there may be \
         anybody; use one of its own, such as /run/countersign", .0.display()
    )]
    Directory(PathBuf),
    /// It is somebody else who listens.
    #[error("upgrade_socket: the process that listens at {} is another user's", .0.display())]
    Stranger(PathBuf),
    /// The process that runs does not want to.
    #[error("the countersign that runs does not hand over: {0}")]
    Refused(String),
    /// What came is not what was expected.
    #[error("the countersign that runs does not hand over: {0}")]
    Broken(io::Error),
    /// It is over by now.
    #[error(
        "the countersign that runs has given this one up, because it took longer than {} s; it goes \
         on", LIMIT.as_secs()
    )]
    GivenUp,
    /// Credentials are missing.
    #[error(
        "no usable credential within {} s: {missing}; the countersign that runs goes on",
        READY.as_secs()
    )]
    NotReady {
        /// Their names.
        missing: String,
    },
}

/// How long the new process may take from asking to serving.
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);
/// How long of it its credentials may take.
pub const READY: std::time::Duration = std::time::Duration::from_secs(60);
