//! The old process: it hands over, and goes on until it is told that the new one serves.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::taking::Predecessor;
use super::wire::{ENDING, GOING_ON, HELLO, Kind, SERVING, send};
use super::{HandoverError, LIMIT, Offered, Role};
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
    stage: watch::Sender<Stage>,
}

/// How far a new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Alone,
    /// It has asked, and has nothing yet.
    Asked,
    /// It has sockets, or some of them: what it has got is not to be removed.
    Handing,
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
        let (stage, _) = watch::channel(Stage::Alone);
        Ok(Self { listener, path: path.to_owned(), stage })
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
        self.stage.send_replace(Stage::Asked);
        let came = self.hand_to(stream, offered, store).await;
        if matches!(came, Came::Nothing(_)) {
            self.stage.send_replace(Stage::Alone);
        }
        came
    }

    /// Lends the store and hands everything over.
    async fn hand_to(
        &self,
        stream: tokio::net::UnixStream,
        offered: &[Offered],
        store: &Lender,
    ) -> Came {
        if let Err(why) = store.lend().await {
            // It ends in any case.
            let _ = self.send(stream, offered, Some(why)).await;
            return Came::Nothing(why.to_owned());
        }
        // Before the first is sent: it may get some of them only.
        self.stage.send_replace(Stage::Handing);
        let came = match self.send(stream, offered, None).await {
            Ok(stream) => wait_for(stream).await,
            Err(error) => Came::Nothing(format!("the sockets could not be handed over: {error}")),
        };
        if matches!(came, Came::Nothing(_)) {
            store.take_back().await;
        }
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
        for Offered { role, address, removes_path, socket } in offered {
            let kind = match role {
                Role::Admin => Kind::Admin,
                Role::Listener if *removes_path => Kind::SocketAndPath,
                Role::Listener => Kind::Socket,
            };
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

    /// True from when a new process has asked until it is clear what comes of it.
    pub fn is_asked(&self) -> bool {
        *self.stage.borrow() != Stage::Alone
    }

    /// True while a new process has the sockets.
    pub fn is_handing(&self) -> bool {
        *self.stage.borrow() == Stage::Handing
    }

    /// Waits until no new process is about to take over, while [`serve`](Self::serve) goes on.
    pub async fn given_up(&self) {
        // It ends with this.
        let _ = self.stage.subscribe().wait_for(|stage| *stage == Stage::Alone).await;
    }

    /// Closes the socket, and removes its path unless another process has it by now.
    pub fn close(self, handed: bool) {
        if !handed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Waits for what the new process says.
async fn wait_for(mut stream: tokio::net::UnixStream) -> Came {
    let mut said = [0];
    match timeout(LIMIT, stream.read_exact(&mut said)).await {
        Ok(Ok(_)) if said == [SERVING] => {
            // Whether it is heard or not: the new one serves.
            let _ = timeout(PATIENCE, stream.write_all(&[ENDING])).await;
            tracing::info!("a new process serves; this one ends");
            Came::Over
        }
        Ok(_) => Came::Nothing("the new process has ended".to_owned()),
        Err(_) => {
            let _ = timeout(PATIENCE, stream.write_all(&[GOING_ON])).await;
            Came::Nothing("the new process took too long".to_owned())
        }
    }
}

/// True for this user and the administrator.
pub(super) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}
