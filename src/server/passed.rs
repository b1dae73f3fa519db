//! Sockets that a service manager opened for this process (sd_listen_fds(3)): callers wait in them
//! while the program is started again, and low ports need no privilege of ours.

#[cfg(unix)]
use std::io;

use super::bind::Socket;
use crate::config::Address;

/// Sockets that were passed and not taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    /// By the service manager: all are to be used.
    managed: Vec<Socket>,
    /// By the process before this one, with the addresses in its configuration.
    inherited: Vec<(String, Socket)>,
}

/// A socket that was passed and is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Not one that callers can connect to.
    #[error("socket {0} that the service manager passes is not a stream socket that listens")]
    Kind(usize),
    /// No listener of the configuration has its address.
    #[error(
        "the service manager passes a socket for {0}, where no listener is; add it as the address \
         of one, or take it out of the socket unit"
    )]
    Unused(String),
}

impl Passed {
    /// Those that the environment says were passed to this process.
    ///
    /// # Errors
    /// When one of them is no listening socket.
    #[cfg(unix)]
    pub fn from_environment() -> Result<Self, PassedError> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let socket = of_tcp(&mut passed, index).or_else(|_| of_unix(&mut passed, index));
            sockets.extend(socket.map_err(|_| PassedError::Kind(index))?);
        }
        Ok(Self { managed: sockets, inherited: Vec::new() })
    }

    /// None: this system passes none.
    ///
    /// # Errors
    /// Never.
    #[cfg(not(unix))]
    pub fn from_environment() -> Result<Self, PassedError> {
        Ok(Self::default())
    }

    /// The one at `address`, if it was passed.
    pub fn take(&mut self, address: &Address) -> Option<Socket> {
        if let Some(found) = self.managed.iter().position(|socket| socket.is_at(address)) {
            return Some(self.managed.swap_remove(found));
        }
        let address = address.to_string();
        let found = self.inherited.iter().position(|(of, _)| *of == address)?;
        Some(self.inherited.remove(found).1)
    }

    /// Adds those of the process before this one. What is not taken of these is served no more.
    #[must_use]
    pub fn and_of(self, inherited: Vec<(String, Socket)>) -> Self {
        Self { inherited, ..self }
    }

    /// Makes sure that all were taken.
    ///
    /// # Errors
    /// With one that was not: somebody expects to be served there.
    pub fn finish(self) -> Result<(), PassedError> {
        for (address, _) in &self.inherited {
            tracing::info!(%address, "no listener has this address any more");
        }
        let Some(left) = self.managed.first() else { return Ok(()) };
        Err(PassedError::Unused(left.to_string()))
    }
}

#[cfg(unix)]
fn of_tcp(passed: &mut listenfd::ListenFd, index: usize) -> io::Result<Option<Socket>> {
    let Some(socket) = passed.take_tcp_listener(index)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(Socket::Tcp(socket)))
}

#[cfg(unix)]
fn of_unix(passed: &mut listenfd::ListenFd, index: usize) -> io::Result<Option<Socket>> {
    let Some(socket) = passed.take_unix_listener(index)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(Socket::Unix(socket, None)))
}
