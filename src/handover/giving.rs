//! The old process: it hands over, and goes on until it is told that the new one serves.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::taking::Predecessor;
use super::wire::{ENDING, GOING_ON, HELLO, Kind, SERVING, send};
use super::{HandoverError, LIMIT, Offered};
use crate::config::Address;
use crate::credential::store::file::Lender;
use crate::server::bind::Socket;

/// How long the new process may take to say what it wants, and to take what it gets.
const PATIENCE: Duration = Duration::from_secs(5);

/// The place where a new process asks.
#[derive(Debug)]
pub struct Giver {
    listener: UnixListener,
    path: PathBuf,
    /// A new process has the sockets: what it has got is not to be removed.
    handing: AtomicBool,
}

/// What came of an upgrade that was asked for.
enum Came {
    /// The new process serves.
    Over,
    /// Nothing, and why.
    Nothing(String),
}

impl Giver {
    /// Listens at `path`, for this user alone; with the socket of the process before, if there is
    /// one.
    ///
    /// # Errors
    /// When it cannot, or others could take its place.
    pub fn open(path: &Path, before: Option<&mut Predecessor>) -> Result<Self, HandoverError> {
        let refused = |error| HandoverError::Socket(path.to_owned(), error);
        let listener = if let Some(listener) = before.and_then(Predecessor::listener) {
            listener
        } else {
            super::taking::private(path)?;
            let address = Address::Unix { path: path.to_owned(), mode: 0o600, group: None };
            match Socket::open(&address).map_err(|error| refused(io::Error::other(error)))? {
                Socket::Unix(listener, _) => listener,
                Socket::Tcp(_) => return Err(refused(io::ErrorKind::InvalidInput.into())),
            }
        };
        listener.set_nonblocking(true).map_err(refused)?;
        Ok(Self { listener, path: path.to_owned(), handing: AtomicBool::new(false) })
    }

    /// Hands `offered` to whoever asks and may; returns once a new process serves.
    pub async fn serve(&self, offered: &[Offered], store: &Lender) {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        let Ok(listener) = listener.inspect_err(|error| {
            tracing::error!(%error, "no upgrade is possible: its socket cannot be used");
        }) else {
            return std::future::pending().await;
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match self.hand(stream, offered, store).await {
                    Came::Over => return,
                    Came::Nothing(why) => tracing::warn!(%why, "no upgrade; this process goes on"),
                },
                Err(error) => {
                    tracing::warn!(%error, "an upgrade could not be asked for");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn hand(
        &self,
        mut stream: tokio::net::UnixStream,
        offered: &[Offered],
        store: &Lender,
    ) -> Came {
        let nothing = |why: &str| Came::Nothing(why.to_owned());
        match stream.peer_cred() {
            Ok(peer) if is_ours(peer.uid()) => {}
            _ => return nothing("the process that asked is another user's"),
        }
        let mut hello = [0; HELLO.len()];
        match timeout(PATIENCE, stream.read_exact(&mut hello)).await {
            Ok(Ok(_)) if hello == HELLO => {}
            _ => return nothing("the process that asked is not this version's"),
        }
        tracing::info!("a new process asks for the listening sockets");
        let lent = store.lend().await;
        let Ok(mut stream) = self.send(stream, offered, lent.as_ref().err().copied()).await else {
            store.take_back().await;
            return nothing("the sockets could not be handed over");
        };
        if let Err(why) = lent {
            return nothing(why);
        }
        self.handing.store(true, Ordering::Relaxed);
        let mut said = [0];
        let came = match timeout(LIMIT, stream.read_exact(&mut said)).await {
            Ok(Ok(_)) if said == [SERVING] => {
                // Whether it is heard or not: the new one serves.
                let _ = timeout(PATIENCE, stream.write_all(&[ENDING])).await;
                tracing::info!("a new process serves; this one ends");
                return Came::Over;
            }
            Ok(_) => nothing("the new process has ended"),
            Err(_) => {
                let _ = timeout(PATIENCE, stream.write_all(&[GOING_ON])).await;
                nothing("the new process took too long")
            }
        };
        self.handing.store(false, Ordering::Relaxed);
        store.take_back().await;
        came
    }

    /// Sends everything, or why there is nothing. Blocks a thread of its own.
    async fn send(
        &self,
        stream: tokio::net::UnixStream,
        offered: &[Offered],
        refused: Option<&'static str>,
    ) -> io::Result<tokio::net::UnixStream> {
        let stream = stream.into_std()?;
        let listener = self.listener.try_clone()?;
        let mut sockets = Vec::with_capacity(offered.len());
        for Offered { address, removes_path, socket } in offered {
            let kind = if *removes_path { Kind::SocketAndPath } else { Kind::Socket };
            sockets.push((kind, address.clone(), socket.try_clone()?));
        }
        let sending = tokio::task::spawn_blocking(move || -> io::Result<UnixStream> {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            if let Some(why) = refused {
                send(&stream, Kind::Refused, why, None)?;
            } else {
                for (kind, address, socket) in &sockets {
                    send(&stream, *kind, address, Some(socket.as_fd()))?;
                }
                send(&stream, Kind::Upgrade, "", Some(listener.as_fd()))?;
            }
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let stream = sending.await.map_err(io::Error::other)??;
        tokio::net::UnixStream::from_std(stream)
    }

    /// True while a new process has the sockets.
    pub fn is_handing(&self) -> bool {
        self.handing.load(Ordering::Relaxed)
    }

    /// Closes the socket, and removes its path unless another process has it by now.
    pub fn close(self, handed: bool) {
        if !handed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// True for this user and the administrator.
pub(super) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}
