//! A server with one kind of trouble, which can be mended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::authority::Authority;
use crate::harness::upstream::read_head;
use crate::harness::{ANY_PORT, Act, Faulty, Upstream};

/// The time between two bytes of an answer that is too slow.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// A fatal alert that says nothing in particular (RFC 8446 §6).
pub(super) const ALERT: &str = "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{32}";

/// A fatal alert that says that no version of TLS will do.
pub(super) const ALERT_VERSION: &str = "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{46}";

/// What a server does wrong.
pub(super) enum Trouble {
    /// It does not listen.
    Port,
    /// It has a name that nobody knows.
    Name,
    /// It does this with every request.
    Http(Act),
    /// It takes connections for TLS and says nothing.
    Mute,
    /// It says these bytes to whoever begins with TLS, and closes.
    Hello(&'static str),
    /// It shakes hands like this.
    Shakes(TlsAcceptor),
}

/// A server, and what it would be if nothing were wrong with it.
pub(super) struct Server {
    url: String,
    fine: Arc<AtomicBool>,
    /// What has to be kept so that it goes on.
    parts: Parts,
}

enum Parts {
    /// The port, and what it answers when it listens.
    Port(Option<TcpSocket>, String),
    Name,
    Http(#[expect(dead_code, reason = "stops when dropped")] Faulty),
    Raw(#[expect(dead_code, reason = "stops when dropped")] Upstream),
}

impl Server {
    /// A server that answers `answer` when it is fine, over TLS with a certificate of `authority`.
    pub(super) async fn start(
        trouble: Trouble,
        authority: &Authority,
        answer: impl Into<String>,
    ) -> Self {
        let answer = answer.into();
        let fine = Arc::new(AtomicBool::new(false));
        let is_fine = Arc::clone(&fine);
        match trouble {
            Trouble::Port => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(ANY_PORT).unwrap();
                let url = plain(socket.local_addr().unwrap());
                Self { url, fine, parts: Parts::Port(Some(socket), answer) }
            }
            Trouble::Name => {
                Self { url: "https://name.invalid".to_owned(), fine, parts: Parts::Name }
            }
            Trouble::Http(act) => {
                let server = Faulty::start(move |_| {
                    let fine = is_fine.load(Ordering::SeqCst);
                    if fine { Act::Say(answer.clone()) } else { act.clone() }
                })
                .await;
                Self { url: server.url(), fine, parts: Parts::Http(server) }
            }
            Trouble::Mute | Trouble::Hello(_) | Trouble::Shakes(_) => {
                let good = authority.server("localhost", None);
                let trouble = Arc::new(trouble);
                let upstream = Upstream::raw(move |stream| {
                    let (good, answer) = (good.clone(), answer.clone());
                    let (trouble, fine) = (Arc::clone(&trouble), is_fine.load(Ordering::SeqCst));
                    async move {
                        // How it went is for the other side to tell.
                        let _ = match (&*trouble, fine) {
                            (_, true) => secure(&good, stream, &answer).await,
                            (Trouble::Shakes(bad), false) => secure(bad, stream, &answer).await,
                            (Trouble::Hello(bytes), false) => hello(stream, bytes).await,
                            (_, false) => drain(stream).await,
                        };
                    }
                })
                .await;
                let url = format!("https://localhost:{}", upstream.address().port());
                Self { url, fine, parts: Parts::Raw(upstream) }
            }
        }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// Nothing is wrong with requests for now. False if what is wrong is not about requests.
    pub(super) fn pretend_to_be_fine(&self) -> bool {
        let can = matches!(self.parts, Parts::Http(_));
        self.fine.store(can, Ordering::SeqCst);
        can
    }

    /// What is wrong with it is wrong again.
    pub(super) fn fail(&self) {
        self.fine.store(false, Ordering::SeqCst);
    }

    /// Nothing is wrong with it any more. False if it cannot be mended.
    pub(super) fn heal(&mut self) -> bool {
        self.fine.store(true, Ordering::SeqCst);
        if let Parts::Port(socket, answer) = &mut self.parts {
            let listener = socket.take().unwrap().listen(16).unwrap();
            let answer = answer.clone();
            self.parts = Parts::Raw(Upstream::raw_on(listener, move |mut stream| {
                let answer = answer.clone();
                async move {
                    let _ = one_answer(&mut stream, &answer).await;
                }
            }));
        }
        !matches!(self.parts, Parts::Name)
    }
}

fn plain(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Shakes hands and answers one request.
async fn secure(acceptor: &TlsAcceptor, stream: TcpStream, answer: &str) -> std::io::Result<()> {
    match acceptor.accept(stream).into_fallible().await {
        Ok(mut stream) => {
            one_answer(&mut stream, answer).await?;
            stream.shutdown().await
        }
        // Closing what was not read would be a reset, which may overtake the alert.
        Err((_, stream)) => drain(stream).await,
    }
}

async fn one_answer(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    answer: &str,
) -> std::io::Result<()> {
    let head = read_head(stream).await.to_ascii_lowercase();
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await?;
    }
    let (status, rest) = answer.split_once("\r\n").unwrap();
    let answer = format!("{status}\r\nConnection: close\r\n{rest}");
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

/// Says `bytes` once the other side has begun.
async fn hello(mut stream: TcpStream, bytes: &str) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 100]).await?;
    stream.write_all(bytes.as_bytes()).await?;
    stream.shutdown().await?;
    drain(stream).await
}

/// Waits for the other side to go away.
async fn drain(mut stream: TcpStream) -> std::io::Result<()> {
    copy(&mut stream, &mut sink()).await.map(drop)
}
