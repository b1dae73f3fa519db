//! Opening the sockets that callers connect to.

use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::{fmt, io};

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use crate::config::Address;
use crate::handover::{Offered, Role};
use crate::proxy::guard::Ends;

/// The groups of the system (group(5)).
#[cfg(unix)]
const GROUPS: &str = "/etc/group";

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// An open listening socket, not yet attached to a runtime.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket, and its path if that is ours to remove.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener, Option<PathBuf>),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct BindError {
    address: Address,
    #[source]
    reason: io::Error,
}

impl Socket {
    /// Opens `address`.
    ///
    /// # Errors
    /// When the system refuses it, or somebody answers on the Unix socket.
    pub fn open(address: &Address) -> Result<Self, BindError> {
        let opened = match address {
            Address::Tcp(tcp) => open_tcp(*tcp).map(Self::Tcp),
            Address::Unix { path, mode, group } => open_unix(path, *mode, group.as_deref()),
        };
        opened.map_err(|reason| BindError { address: address.clone(), reason })
    }

    /// True if it listens at `address`.
    pub fn is_at(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Tcp(socket), Address::Tcp(tcp)) => {
                socket.local_addr().is_ok_and(|local| local == *tcp)
            }
            #[cfg(unix)]
            (Self::Unix(socket, _), Address::Unix { path, .. }) => {
                socket.local_addr().is_ok_and(|local| local.as_pathname() == Some(path))
            }
            _ => false,
        }
    }

    /// The same socket once more, to be handed to another process as that of `role` at `address`.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub fn offer(&self, role: Role, address: &Address) -> io::Result<Offered> {
        #[cfg(unix)]
        let (socket, removes_path) = match self {
            Self::Tcp(socket) => (socket.try_clone()?.into(), false),
            Self::Unix(socket, path) => (socket.try_clone()?.into(), path.is_some()),
        };
        #[cfg(not(unix))]
        let removes_path = false;
        Ok(Offered {
            role,
            address: address.to_string(),
            removes_path,
            #[cfg(unix)]
            socket,
        })
    }

    /// The TCP address it is bound to, with the port the system chose for port 0.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(..) => None,
        }
    }
}

/// Where it listens.
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => match socket.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("an unknown address"),
            },
            #[cfg(unix)]
            Self::Unix(socket, _) => {
                let address = socket.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("a Unix socket without a path"),
                }
            }
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows this option means something else: that two programs may listen at once.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(unix)]
fn open_unix(path: &std::path::Path, mode: u32, group: Option<&str>) -> io::Result<Socket> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    if let Ok(metadata) = std::fs::metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket"));
        }
        // Replaced only if nobody is at home.
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let message = "another process answers there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
        }
        // It stays until the new one takes its place.
    }
    // Bound inside a directory that only we can enter, opened up there, and only then moved to its
    // place: at no time can somebody else connect who should not.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| std::path::Path::new("."));
    let owner_only = std::fs::Permissions::from_mode(0o700);
    let nursery = tempfile::Builder::new()
        .prefix(".countersign-")
        .permissions(owner_only)
        .tempdir_in(parent)?;
    let newborn = nursery.path().join("socket");
    let listener = UnixListener::bind(&newborn)?;
    if let Some(group) = group {
        let number = group_number(group, &std::fs::read_to_string(GROUPS).unwrap_or_default())
            .ok_or_else(|| io::Error::other(format!("there is no group '{group}' in {GROUPS}")))?;
        std::os::unix::fs::chown(&newborn, None, Some(number))?;
    }
    std::fs::set_permissions(&newborn, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&newborn, path)?;
    listener.set_nonblocking(true)?;
    Ok(Socket::Unix(listener, Some(path.to_owned())))
}

/// The number of a group that is named or numbered, by the lines of `groups`. A system's other
/// sources of groups can be asked by modules of libc only, which a static program does not have.
#[cfg(unix)]
fn group_number(group: &str, groups: &str) -> Option<u32> {
    let named = || {
        let mut lines = groups.lines().map(|line| line.split(':'));
        lines.find_map(|mut parts| (parts.next()? == group).then(|| parts.nth(1)?.parse().ok())?)
    };
    group.parse().ok().or_else(named)
}

#[cfg(not(unix))]
fn open_unix(_: &std::path::Path, _: u32, _: Option<&str>) -> io::Result<Socket> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this platform has no Unix sockets"))
}

/// A listening socket attached to a runtime.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, and its path if that is ours to remove.
    #[cfg(unix)]
    Unix(UnixListener, Option<PathBuf>),
}

/// An accepted connection, attached to no runtime: the worker that serves it has its own.
#[derive(Debug)]
pub enum Accepted {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// Attaches the socket to the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn attach(self) -> io::Result<Bound> {
        Ok(match self {
            Self::Tcp(socket) => Bound::Tcp(TcpListener::from_std(socket)?),
            #[cfg(unix)]
            Self::Unix(socket, path) => Bound::Unix(UnixListener::from_std(socket)?, path),
        })
    }
}

impl Bound {
    /// Waits for a connection.
    ///
    /// # Errors
    /// When the system has no file descriptor left, or the caller is gone already.
    pub async fn accept(&self) -> io::Result<(Accepted, Ends)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr().ok().map(|local| local.ip());
                let ends = Ends { peer: Some(peer.ip()), local, ..Ends::default() };
                Ok((Accepted::Tcp(TcpStream::into_std(stream)?), ends))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                let ends = Ends { user, ..Ends::default() };
                Ok((Accepted::Unix(UnixStream::into_std(stream)?), ends))
            }
        }
    }

    /// Closes the socket and removes its path.
    pub fn close(self) {
        match self {
            Self::Tcp(_) => {}
            #[cfg(unix)]
            Self::Unix(_, path) => {
                if let Some(path) = path {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::group_number;

    #[test]
    fn a_group_is_found_by_name_or_is_a_number() {
        let groups = "root:x:0:\nplant:x:1001:anna,ben\nodd\nworse:x:many:\n";
        for (group, number) in
            [("root", Some(0)), ("plant", Some(1001)), ("1234", Some(1234)), ("odd", None)]
        {
            assert_eq!(group_number(group, groups), number, "{group}");
        }
        for unknown in ["worse", "plan", "plant:x", ""] {
            assert_eq!(group_number(unknown, groups), None, "{unknown}");
        }
    }
}
