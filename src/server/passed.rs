//! Sockets that a service manager opened for this process (sd_listen_fds(3)): callers wait in them
//! while the program is started again, and low ports need no privilege of ours.

#[cfg(unix)]
use std::io;

use super::bind::Socket;
use crate::config::Address;
use crate::handover::Role;

/// Sockets that were passed and not taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    /// By the service manager: all are to be used.
    managed: Vec<Socket>,
    /// By the process before this one.
    inherited: Vec<Inherited>,
}

/// A socket of the process before this one.
#[derive(Debug)]
pub struct Inherited {
    /// What it was for: an address alone does not tell, where the system chooses the port.
    pub role: Role,
    /// Its address in the configuration of that process.
    pub address: String,
    /// The socket.
    pub socket: Socket,
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

    /// The one at `address`, if it was passed; of the process before this one only if it was for
    /// the same.
    pub fn take(&mut self, role: Role, address: &Address) -> Option<Socket> {
        if let Some(found) = self.managed.iter().position(|socket| socket.is_at(address)) {
            return Some(self.managed.swap_remove(found));
        }
        let address = address.to_string();
        let is_it = |it: &Inherited| it.role == role && it.address == address;
        let found = self.inherited.iter().position(is_it)?;
        // The others stay in their order.
        Some(self.inherited.remove(found).socket)
    }

    /// Adds those of the process before this one. What is not taken of these is served no more.
    #[must_use]
    pub fn and_of(self, inherited: Vec<Inherited>) -> Self {
        Self { inherited, ..self }
    }

    /// Makes sure that all were taken.
    ///
    /// # Errors
    /// With one that was not: somebody expects to be served there.
    pub fn finish(self) -> Result<(), PassedError> {
        for Inherited { address, .. } in &self.inherited {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_listener_never_gets_a_socket_of_callers_nor_they_its() {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let roles = [Role::Listener, Role::Listener, Role::Admin];
        let (mut ports, mut inherited) = (Vec::new(), Vec::new());
        for role in roles {
            let socket = Socket::open(&address).unwrap();
            ports.push(socket.tcp_address());
            inherited.push(Inherited { role, address: address.to_string(), socket });
        }
        let mut passed = Passed::default().and_of(inherited);
        let mut take = |role| passed.take(role, &address).and_then(|it| it.tcp_address());
        assert_eq!(take(Role::Listener), ports[0], "in their order");
        assert_eq!(take(Role::Admin), ports[2], "with one listener fewer than before");
        assert_eq!(take(Role::Admin), None);
        assert_eq!(take(Role::Listener), ports[1]);
        passed.finish().unwrap();
    }
}
