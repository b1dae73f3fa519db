//! An upstream that misbehaves on purpose: a script says what it does with each request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{BufReader, sink};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::time::timeout;

use super::upstream::{Upstream, read_head};

/// A request as it was on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Which connection it came on, from 1 on.
    pub(crate) connection: usize,
    /// Which request of its connection it was, from 1 on.
    pub(crate) number: usize,
    pub(crate) head: String,
    /// `None` until all of it is there.
    pub(crate) content: Option<Vec<u8>>,
}

impl Received {
    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(written, _)| written.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// What is done with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answers 200 with the target as content, and takes the next request.
    Fine,
    /// The same once there is a permit for it.
    FineAfter(Arc<Semaphore>),
    /// The same once so many requests have come.
    FineTogether(Arc<Barrier>),
    /// The same, one byte after the other.
    Dripping(Duration),
    /// The same, and promises to keep the connection for so many seconds.
    KeepAlive(u32),
    /// The same, and closes its side without having said so.
    FineThenClose,
    /// The same, and closes if nothing comes for so long.
    FineThenCloseAfter(Duration),
    /// The same, and closes when the next request comes, without reading it.
    FineThenCloseUnread,
    /// Reads the request and closes.
    Close,
    /// Reads the request and resets the connection.
    Reset,
    /// Resets the connection in the middle of the content of its answer.
    ResetInContent,
    /// Says these bytes and resets the connection.
    SayThenReset(String),
    /// Says these bytes and nothing more; waits for the other side to go away.
    SayThenSilent(String),
    /// Closes in the middle of the head of its answer.
    PartialHead,
    /// Answers 413 before it reads the content.
    Early,
    /// Says these bytes before it reads the content, and takes the next one.
    SayEarly(String),
    /// Asks for the content with 100, and then does as usual.
    Continue,
    /// Answers 102, 103 and an unexpected 100 before 200.
    Interim,
    /// Says these bytes once the request is there, and takes the next one.
    Say(String),
    /// Says these bytes and closes.
    SayThenClose(String),
    /// Answers, and once there is a permit for it answers again.
    AgainAfter(Arc<Semaphore>),
    /// Never answers; waits for the other side to go away.
    Silent,
}

/// What becomes of the connection.
enum Next {
    Keep,
    Goodbye,
    CloseAfter(Duration),
    CloseUnread,
    Close,
    Reset,
    Wait,
}

impl Act {
    /// What it says once all of the request is there.
    fn answer(&self, request: &Received) -> String {
        let fine = || fine(request, "");
        match self {
            Self::Silent | Self::Close | Self::Reset | Self::Early | Self::SayEarly(_) => {
                String::new()
            }
            Self::KeepAlive(seconds) => {
                let field = format!("Keep-Alive: timeout={seconds}\r\nConnection: keep-alive\r\n");
                self::fine(request, &field)
            }
            Self::ResetInContent => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned(),
            Self::PartialHead => "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
            Self::Interim => format!(
                "HTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n\
                 HTTP/1.1 100 Continue\r\n\r\n{}",
                fine()
            ),
            Self::Say(bytes)
            | Self::SayThenClose(bytes)
            | Self::SayThenReset(bytes)
            | Self::SayThenSilent(bytes) => bytes.clone(),
            Self::Fine
            | Self::FineAfter(_)
            | Self::FineTogether(_)
            | Self::Dripping(_)
            | Self::FineThenClose
            | Self::FineThenCloseAfter(_)
            | Self::FineThenCloseUnread
            | Self::Continue
            | Self::AgainAfter(_) => fine(),
        }
    }

    fn next(&self) -> Next {
        match self {
            Self::FineThenClose => Next::Goodbye,
            Self::FineThenCloseAfter(idle) => Next::CloseAfter(*idle),
            Self::FineThenCloseUnread => Next::CloseUnread,
            Self::Close | Self::PartialHead | Self::SayThenClose(_) => Next::Close,
            Self::Reset | Self::ResetInContent | Self::SayThenReset(_) => Next::Reset,
            Self::Silent | Self::SayThenSilent(_) => Next::Wait,
            Self::Fine
            | Self::FineAfter(_)
            | Self::FineTogether(_)
            | Self::Dripping(_)
            | Self::KeepAlive(_)
            | Self::Early
            | Self::SayEarly(_)
            | Self::Continue
            | Self::Interim
            | Self::Say(_)
            | Self::AgainAfter(_) => Next::Keep,
        }
    }
}

/// 200 with the target as content, and lines of `more` in its head.
fn fine(request: &Received, more: &str) -> String {
    let target = request.target();
    let content = if request.method() == "HEAD" { "" } else { target };
    format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n{content}", target.len())
}

/// A server that follows a script, and records what it receives. Stops when dropped.
pub(crate) struct Faulty {
    upstream: Upstream,
    received: Arc<Mutex<Vec<Received>>>,
    closed: Arc<AtomicUsize>,
}

impl Faulty {
    /// Does with every request what `script` says when its head is there.
    pub(crate) async fn start<F>(script: F) -> Self
    where
        F: Fn(&Received) -> Act + Send + Sync + 'static,
    {
        let script = Arc::new(script);
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let closed: Arc<AtomicUsize> = Arc::default();
        let (record, ended) = (Arc::clone(&received), Arc::clone(&closed));
        let opened = AtomicUsize::new(0);
        let upstream = Upstream::raw(move |stream| {
            let connection = opened.fetch_add(1, Ordering::Relaxed) + 1;
            let (script, record) = (Arc::clone(&script), Arc::clone(&record));
            let ended = Arc::clone(&ended);
            async move {
                // How it went is for the other side to tell.
                let _ = serve(stream, connection, &*script, &record).await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        Self { upstream, received, closed }
    }

    pub(crate) async fn always(act: Act) -> Self {
        Self::start(move |_| act.clone()).await
    }

    pub(crate) fn url(&self) -> String {
        self.upstream.url()
    }

    /// Connections accepted.
    pub(crate) fn connections(&self) -> usize {
        self.upstream.connections()
    }

    /// Connections that have ended, whoever ended them.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The newest request.
    pub(crate) fn last(&self) -> Received {
        self.received.lock().unwrap().last().cloned().expect("nothing arrived")
    }

    /// How often each request came, by method and target: `GET /x`.
    pub(crate) fn deliveries(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for request in self.received.lock().unwrap().iter() {
            *counts.entry(format!("{} {}", request.method(), request.target())).or_default() += 1;
        }
        counts
    }

    /// How often that request came.
    pub(crate) fn count(&self, method: &str, target: &str) -> usize {
        let key = format!("{method} {target}");
        self.deliveries().get(&key).copied().unwrap_or_default()
    }
}

async fn serve<F>(
    stream: TcpStream,
    connection: usize,
    script: &F,
    record: &Mutex<Vec<Received>>,
) -> std::io::Result<()>
where
    F: Fn(&Received) -> Act,
{
    let mut stream = BufReader::new(stream);
    let mut silent = false;
    for number in 1.. {
        let head = read_head(&mut stream).await;
        if !head.ends_with("\r\n\r\n") {
            break;
        }
        let mut request = Received { connection, number, head, content: None };
        let place = {
            let mut all = record.lock().unwrap();
            all.push(request.clone());
            all.len() - 1
        };
        if silent {
            // It has said goodbye already.
            break;
        }
        let act = script(&request);
        if matches!(act, Act::Early) {
            stream.write_all(EARLY).await?;
        } else if let Act::SayEarly(bytes) = &act {
            stream.write_all(bytes.as_bytes()).await?;
        } else if matches!(act, Act::Continue) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let content = read_content(&mut stream, &request).await?;
        request.content = Some(content);
        record.lock().unwrap()[place] = request.clone();
        if let Act::FineAfter(go) = &act {
            go.acquire().await.unwrap().forget();
        } else if let Act::FineTogether(all) = &act {
            all.wait().await;
        }
        let answer = act.answer(&request);
        if let Act::Dripping(pause) = act {
            let mut ticks = tokio::time::interval(pause);
            for byte in answer.bytes() {
                ticks.tick().await;
                stream.write_all(&[byte]).await?;
            }
        } else {
            stream.write_all(answer.as_bytes()).await?;
        }
        if let Act::AgainAfter(go) = &act {
            go.acquire().await.unwrap().forget();
            stream.write_all(answer.as_bytes()).await?;
        }
        match act.next() {
            Next::Keep => {}
            Next::Goodbye => {
                stream.shutdown().await?;
                silent = true;
            }
            Next::CloseAfter(idle) => match timeout(idle, stream.fill_buf()).await {
                Ok(next) => {
                    next?;
                }
                Err(_) => break,
            },
            Next::CloseUnread => {
                // What has come and was not read makes a reset of the close.
                stream.get_ref().peek(&mut [0]).await?;
                break;
            }
            Next::Close => break,
            Next::Reset => {
                stream.get_ref().set_zero_linger()?;
                break;
            }
            Next::Wait => {
                tokio::io::copy(&mut stream, &mut sink()).await?;
                break;
            }
        }
    }
    Ok(())
}

const EARLY: &[u8] = b"HTTP/1.1 413 Too Much\r\nContent-Length: 5\r\n\r\nearly";

/// The content that the head announces.
async fn read_content(
    stream: &mut (impl AsyncBufRead + Unpin),
    request: &Received,
) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if let Some(length) = request.field("content-length") {
        content.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut content).await?;
    } else if request.field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim(), 16);
            let size = size.map_err(|_| std::io::ErrorKind::InvalidData)?;
            // Each chunk ends with a line break of its own.
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            if size == 0 {
                break;
            }
            content.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(content)
}
