//! Saying the bytes of a case to a proxy, and hearing what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Where a proxy listens.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Place {
    /// What callers write in `Host`.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// A final answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 for something that is none.
    pub(crate) status: u16,
    /// The word of an answer of countersign's own.
    pub(crate) reason: Option<String>,
}

/// What came of a connection.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// What was answered to the case itself.
    pub(crate) answers: Vec<Answer>,
    /// What was answered when the connection was used once more; nothing if it had ended.
    pub(crate) after: Vec<Answer>,
    /// True if the proxy had neither ended the connection nor answered when patience did.
    pub(crate) hung: bool,
    pub(crate) bytes: Vec<u8>,
}

/// What is said on one connection.
#[derive(Debug)]
pub(crate) struct Said<'s> {
    pub(crate) bytes: &'s [u8],
    /// Answers to hear before anything else is said.
    pub(crate) answers: usize,
    /// A request to send then, after which the connection has to end.
    pub(crate) probe: &'s [u8],
    /// Says that there is no more, instead of sending the probe.
    pub(crate) shut: bool,
}

/// Says it, and listens until the connection ends or `patience` does.
pub(crate) async fn talk(place: &Place, said: Said<'_>, patience: Duration) -> Heard {
    let give_up_at = Instant::now() + patience;
    let mut heard = Heard::default();
    let stream = place.connect().await.expect("it listens");
    let (mut reading, mut writing) = tokio::io::split(stream);
    let answered = Notify::new();
    let write = async {
        // Who refuses early may close before all of it is written.
        let _ = writing.write_all(said.bytes).await;
        if said.shut {
            let _ = writing.shutdown().await;
        } else {
            answered.notified().await;
            let _ = writing.write_all(said.probe).await;
        }
        // It stays open until everything was read.
        std::future::pending::<bool>().await
    };
    let read = async {
        let mut piece = [0; 4096];
        loop {
            if answers(&heard.bytes).len() >= said.answers {
                answered.notify_one();
            }
            match timeout_at(give_up_at, reading.read(&mut piece)).await {
                Ok(Ok(read)) if read > 0 => heard.bytes.extend_from_slice(&piece[..read]),
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
    };
    heard.hung = tokio::select! {
        never = write => never,
        hung = read => hung,
    };
    heard.answers = answers(&heard.bytes);
    if heard.answers.len() > said.answers {
        heard.after = heard.answers.split_off(said.answers);
    }
    heard
}

/// The final answers that are there as a whole, or to the end of the connection.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = find(bytes, b"\r\n\r\n") else { break };
        let (head, rest) = bytes.split_at(end + 4);
        let head = String::from_utf8_lossy(head);
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let Some(status) = status else {
            answers.push(Answer { status: 0, reason: None });
            break;
        };
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            let mut values = lines.filter(|(written, _)| written.eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.trim().to_owned())
        };
        let length = field("content-length").and_then(|length| length.parse().ok());
        let without_content = status < 200 || status == 204 || status == 304;
        let content = match (without_content, length, field("transfer-encoding")) {
            (true, ..) => Some(0),
            (_, Some(length), _) => (rest.len() >= length).then_some(length),
            (_, None, Some(_)) => find(rest, b"0\r\n\r\n").map(|end| end + 5),
            (_, None, None) => Some(rest.len()),
        };
        let Some(content) = content else { break };
        if status >= 200 {
            let word =
                field("proxy-status").filter(|value| value.starts_with("countersign; error"));
            let word = word.and_then(|value| Some(value.split('"').nth(1)?.to_owned()));
            answers.push(Answer { status, reason: word });
        }
        bytes = &rest[content..];
    }
    answers
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
