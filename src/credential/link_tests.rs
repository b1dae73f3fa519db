use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Method, Uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::*;
use crate::clock::Clock;
use crate::connect::Dialer;
use crate::credential::FetchError;
use crate::credential::http::{TokenClient, TokenRequest};

/// What a server does with a connection after an answer.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// Waits for the next request.
    Stay,
    /// Closes it at once, without having said so.
    Close,
    /// Takes the next request, and closes without an answer.
    TakeAndClose,
}

/// Connections, and requests over them.
#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    /// By either side.
    ended: AtomicUsize,
    requests: AtomicUsize,
}

struct Server {
    url: Uri,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(after: After) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/login", listener.local_addr().unwrap());
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.opened.fetch_add(1, Ordering::Relaxed);
                let counted = Arc::clone(&counted);
                tokio::spawn(async move { serve(stream, after, &counted).await });
            }
        });
        Self { url: url.parse().unwrap(), counts, task }
    }

    fn connections(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    fn ended(&self) -> usize {
        self.counts.ended.load(Ordering::Relaxed)
    }
}

/// Answers each request with whether it asked for the end of the connection.
async fn serve(mut stream: TcpStream, after: After, counts: &Counts) {
    let mut answered = false;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else {
                counts.ended.fetch_add(1, Ordering::Relaxed);
                return;
            };
            head.push(byte);
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        if answered && after == After::TakeAndClose {
            return;
        }
        let head = String::from_utf8(head).unwrap();
        let last = head.contains("connection: close\r\n");
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{last}", last.to_string().len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        answered = true;
        if last || after == After::Close {
            drop(stream);
            counts.ended.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}

fn client() -> TokenClient {
    TokenClient::new(None, Duration::from_secs(5), Clock::system())
}

async fn ask(client: &TokenClient, server: &Server) -> String {
    try_ask(client, server).await.unwrap()
}

async fn try_ask(client: &TokenClient, server: &Server) -> Result<String, FetchError> {
    let request = TokenRequest {
        method: Method::GET,
        url: server.url.clone(),
        headers: HeaderMap::new(),
        content: Zeroizing::default(),
    };
    let reply = client.send(request).await?;
    Ok(String::from_utf8(reply.content.to_vec()).unwrap())
}

#[tokio::test]
async fn exchanges_in_a_row_share_a_connection_where_they_are_many() {
    let server = Server::start(After::Stay).await;
    let fleet = client().keeping(2);
    for _ in 0..5 {
        assert_eq!(ask(&fleet, &server).await, "false");
    }
    assert_eq!(server.connections(), 1);
    let single = client();
    for _ in 0..3 {
        assert_eq!(ask(&single, &server).await, "true", "it says that there will be no other");
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_agreed() {
    let server = Server::start(After::Stay).await;
    let fleet = client().keeping(2);
    futures_util::future::join_all((0..5).map(|_| ask(&fleet, &server))).await;
    assert_eq!(server.connections(), 5, "at once");
    assert_eq!(format!("{:?}", fleet.links()), "Links(2 of 2)");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let server = Server::start(After::Close).await;
    let fleet = client().keeping(2);
    for number in 1..=5 {
        ask(&fleet, &server).await;
        assert_eq!((server.connections(), server.requests()), (number, number));
    }
    assert!(server.ended() >= 4);
}

#[tokio::test]
async fn a_request_that_a_kept_connection_took_without_an_answer_is_not_sent_again() {
    let server = Server::start(After::TakeAndClose).await;
    let fleet = client().keeping(2);
    ask(&fleet, &server).await;
    let error = try_ask(&fleet, &server).await.unwrap_err();
    assert!(matches!(error, FetchError::Broken { .. }), "{error}");
    assert_eq!((server.connections(), server.requests()), (1, 2));
    ask(&fleet, &server).await;
    assert_eq!((server.connections(), server.requests()), (2, 3), "the next attempt");
}

#[tokio::test]
async fn a_request_that_meets_the_end_of_its_connection_comes_back_unsent() {
    // Whether the request or the end is seen first is left to chance.
    for _ in 0..32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let dialer = Dialer::new(&url, None, None, Duration::from_secs(5)).unwrap();
        let mut stream = dialer.dial().await.unwrap();
        drop(listener.accept().await.unwrap());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the end has come");
        let mut link = Link::over(stream).await.unwrap();
        let sent = link.drive(async |sender: &mut Sender| {
            let sent = sender.try_send_request(http::Request::new(Full::default()));
            sent.await.map(drop).map_err(|mut error| error.take_message().is_some())
        });
        let sent = tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
        assert_eq!(sent, Err(true));
        assert!(!link.is_ready());
    }
}

#[tokio::test]
async fn a_link_leads_to_one_origin_only() {
    let (one, other) = (Server::start(After::Stay).await, Server::start(After::Stay).await);
    let fleet = client().keeping(2);
    for _ in 0..3 {
        ask(&fleet, &one).await;
        ask(&fleet, &other).await;
    }
    assert_eq!((one.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn a_link_that_nobody_takes_up_is_closed_after_a_moment() {
    let server = Server::start(After::Stay).await;
    let fleet = client().keeping(2);
    for number in 1..=2 {
        ask(&fleet, &server).await;
        assert_eq!(server.connections(), number);
        tokio::time::pause();
        let closed = async {
            while server.ended() < number {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // Two turns of the task at most, and some for what the server has yet to see.
        tokio::time::timeout(LONGEST_IDLE * 10, closed).await.unwrap();
        tokio::time::resume();
    }
}

#[tokio::test]
async fn links_end_with_the_client_that_keeps_them() {
    let server = Server::start(After::Stay).await;
    let fleet = client().keeping(2);
    ask(&fleet, &server).await;
    drop(fleet);
    let closed = async {
        while server.ended() < 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
}
