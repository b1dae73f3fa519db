//! The new process: it takes over what the old one has.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::giving::is_ours;
use super::wire::{GOING_ON, HELLO, Kind, SERVING, receive};
use super::{HandoverError, Role};
use crate::server::bind::Socket;
use crate::server::passed::Inherited;

/// How long the old process may take: it lets a login that is under way end first.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to be there for another one that asks.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long it may take to say that it ends.
const LAST_WORD: Duration = Duration::from_secs(5);
/// More sockets than a configuration has listeners.
const MOST: usize = 1024;

/// The process before this one, which serves until it is told.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    sockets: Vec<Inherited>,
    listener: Option<UnixListener>,
}

/// Asks the process that listens at `path` for its sockets; `None` if there is none.
///
/// # Errors
/// When there is one that cannot be believed or does not want to.
pub fn ask(path: &Path) -> Result<Option<Predecessor>, HandoverError> {
    // First: what others can put there is not even connected to.
    private(path)?;
    let stream = match connect(path, CONNECTING) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(HandoverError::Socket(path.to_owned(), error)),
    };
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    if !peer.is_ok_and(|peer| is_ours(peer.uid.as_raw())) {
        return Err(HandoverError::Stranger(path.to_owned()));
    }
    let (sockets, listener) = take(&stream)?;
    Ok(Some(Predecessor { stream, sockets, listener: Some(listener) }))
}

/// Connects within a time limit: a process that has stopped takes nobody from a queue that is full.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It is that of connecting as well (socket(7)).
    socket.set_write_timeout(Some(limit))?;
    let address = SockAddr::unix(path)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => return Ok(socket.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers there"));
            }
            Err(error) => return Err(error),
        }
    }
}

type Taken = (Vec<Inherited>, UnixListener);

fn take(mut stream: &UnixStream) -> Result<Taken, HandoverError> {
    let broken = HandoverError::Broken;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.write_all(&HELLO).map_err(broken)?;
    let mut sockets = Vec::new();
    let odd = || broken(io::Error::new(io::ErrorKind::InvalidData, "it says something else"));
    while sockets.len() < MOST {
        let frame = receive(stream).map_err(broken)?;
        let (role, socket, removes_path) = match (frame.kind, frame.socket) {
            (Kind::Refused, _) => return Err(HandoverError::Refused(frame.text)),
            (Kind::Upgrade, Some(socket)) => return Ok((sockets, UnixListener::from(socket))),
            (Kind::Socket, Some(socket)) => (Role::Listener, socket, false),
            (Kind::SocketAndPath, Some(socket)) => (Role::Listener, socket, true),
            (Kind::Admin, Some(socket)) => (Role::Admin, socket, false),
            (_, None) => return Err(odd()),
        };
        let socket = match frame.text.strip_prefix("unix:") {
            Some(path) => {
                let path = removes_path.then(|| PathBuf::from(path));
                Socket::Unix(UnixListener::from(socket), path)
            }
            None => Socket::Tcp(TcpListener::from(socket)),
        };
        sockets.push(Inherited { role, address: frame.text, socket });
    }
    Err(odd())
}

impl Predecessor {
    /// The listening sockets, by their addresses in its configuration.
    pub fn sockets(&mut self) -> Vec<Inherited> {
        std::mem::take(&mut self.sockets)
    }

    /// Tells it that this process serves, so that it ends. If it is gone already, so much the
    /// better.
    ///
    /// # Errors
    /// When it has given this process up, and goes on itself.
    pub fn take_over(&mut self) -> Result<(), HandoverError> {
        let _ = self.stream.set_read_timeout(Some(LAST_WORD));
        // An answer may be there that was not asked for; if it cannot be told, it is gone.
        let _ = self.stream.write_all(&[SERVING]);
        let mut said = [0];
        match self.stream.read_exact(&mut said) {
            Ok(()) if said == [GOING_ON] => Err(HandoverError::GivenUp),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The socket at which the process after this one is to ask.
    pub(super) fn listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

/// Makes sure that only this user can put something into the directory of `path`.
pub(super) fn private(path: &Path) -> Result<(), HandoverError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let metadata = std::fs::metadata(directory)
        .map_err(|error| HandoverError::Socket(directory.to_owned(), error))?;
    let writable = metadata.permissions().mode() & 0o022 != 0;
    let owner = std::os::unix::fs::MetadataExt::uid(&metadata);
    if writable || !is_ours(owner) {
        return Err(HandoverError::Directory(directory.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    #[test]
    fn a_process_that_takes_nobody_from_its_queue_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        stopped.listen(0).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            assert!(waiting.len() < 8, "the queue is never full");
            match connect(&path, Duration::from_millis(50)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(!waiting.is_empty());
    }

    #[test]
    fn whoever_listens_where_others_can_write_is_not_even_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(ask(&path), Err(HandoverError::Directory(_))));
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
