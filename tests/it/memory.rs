//! What a request costs in memory while it is under way: no more than a hundred times its own size,
//! beyond a fixed amount for its connections.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::client::whole;
use crate::harness::http2::Http2;
use crate::harness::program::Program;
use crate::harness::upstream::read_head;
use crate::harness::{Connection, Upstream, until};

/// Requests that are under way at once.
const REQUESTS: usize = 100;

/// What a request of no size at all may cost: two connections and what becomes of it, in bytes. The
/// allocator gives memory out in larger pieces, so this is several times what is in use.
const FIXED: usize = 32 << 10;

/// What is promised of a request, in times its size as it is read (after HPACK).
const FACTOR: usize = 100;

/// What is kept, so that a request that costs more is noticed long before the promise is broken.
const EXPECTED: usize = 24;

/// An upstream that reads and never answers, and counts the requests whose end it has read.
async fn silent() -> (Upstream, Arc<Semaphore>) {
    let arrived = Arc::new(Semaphore::new(0));
    let count = Arc::clone(&arrived);
    let upstream = Upstream::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let head = read_head(&mut stream).await;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut content = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut content).await.unwrap();
            count.add_permits(1);
            let _ = stream.read_u8().await;
        }
    })
    .await;
    (upstream, arrived)
}

fn config(upstream: &Upstream) -> String {
    format!(
        "workers = 1\n\
         [credential.signed]\nkind = \"devo-signature\"\nreseller_api_key = {{ value = \"key\" }}\n\
         api_secret = {{ value = \"secret\" }}\n\
         [credential.token]\nkind = \"bearer\"\ntoken = {{ value = \"token\" }}\n\
         [[route]]\npath = \"/signed\"\nupstream = \"{0}\"\ncredential = \"signed\"\n\
         [[route]]\npath = \"/token\"\nupstream = \"{0}\"\ncredential = \"token\"\n",
        upstream.url()
    )
}

/// Sends a request over many connections, and checks what each of them costs.
async fn check(what: &str, bytes: &[u8], size: usize) {
    let (upstream, arrived) = silent().await;
    let program = Program::start(&config(&upstream)).await;
    let mut callers = Vec::new();
    let mut send = async |count: usize| {
        for _ in 0..count {
            let mut caller = TcpStream::connect(program.address()).await.unwrap();
            caller.write_all(bytes).await.unwrap();
            callers.push(caller);
        }
        let expected = callers.len();
        until("they are under way", || arrived.available_permits() == expected).await;
    };
    // What comes with the first of them comes once.
    send(4).await;
    let before = program.memory("VmRSS");
    send(REQUESTS).await;
    judge(what, size, before, program.memory("VmRSS"));
}

fn judge(what: &str, size: usize, before: u64, after: u64) {
    let grown = usize::try_from(after.saturating_sub(before)).unwrap() << 10;
    let each = grown / REQUESTS;
    assert!(each <= FIXED + FACTOR * size, "{what}: {each} bytes for {size}");
    assert!(each <= FIXED + EXPECTED * size, "{what}: {each} bytes for {size}");
}

#[tokio::test]
async fn a_head_costs_what_it_is_long() {
    let plain = "GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    check("a short head", plain.as_bytes(), plain.len()).await;
    let long = format!("X-Long: {}\r\n\r\n", "x".repeat(30_000));
    let long = plain.replace("\r\n\r\n", &format!("\r\n{long}"));
    check("a long field", long.as_bytes(), long.len()).await;
    let fields = (0..98).map(|n| format!("a{n}:\r\n")).collect::<Vec<_>>().concat();
    let many = plain.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    check("many short fields", many.as_bytes(), many.len()).await;
    let target = format!("/token/{}?{}", "a/".repeat(2000), "b&".repeat(2000));
    let target = plain.replace("/token", &target);
    check("a long target", target.as_bytes(), target.len()).await;
}

/// What it costs only for a moment counts as well.
#[tokio::test]
async fn a_path_that_is_read_in_many_ways_costs_no_more_than_others() {
    let upstream = Upstream::fine().await;
    let program = Program::start(&config(&upstream)).await;
    let disguised = "/x\\y;z/%25255c%25253b/%255c%253b/%5c%3b/%25252f/q%25253f";
    let ask = async |path: &str| {
        let mut connection = Connection::open(program.address()).await;
        connection.send("GET", path, &[], "").await.status
    };
    assert_eq!(ask("/token/x").await, 200);
    let before = program.memory("VmHWM");
    let (many, few) =
        (format!("/token{}", "/".repeat(7_000)), "/token".to_owned() + &"/a".repeat(3_500));
    for _ in 0..10 {
        assert_eq!(ask(&format!("{many}{disguised}")).await, 400, "too many places");
        // The only route there is leads elsewhere.
        let answer = ask(&format!("{few}{disguised}")).await;
        assert!([200, 400].contains(&answer), "{answer}");
    }
    let grown = usize::try_from(program.memory("VmHWM") - before).unwrap() << 10;
    // They come one after the other, but what is given back is not always used again.
    assert!(grown <= FIXED + FACTOR * 7_200, "{grown}");
}

#[tokio::test]
async fn content_that_is_held_costs_what_it_is_long_however_it_comes() {
    let head = "POST /signed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "1\r\nx\r\n".repeat(8_000);
    let tiny = format!("{head}{chunks}0\r\n\r\n");
    check("chunks of a byte", tiny.as_bytes(), tiny.len()).await;
    let large = format!("{head}10000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x10000));
    check("a large chunk", large.as_bytes(), large.len()).await;
    let extensions = format!("{head}{}0\r\n\r\n", "1;x=yyyyyyyy\r\nx\r\n".repeat(500));
    check("chunks with extensions", extensions.as_bytes(), extensions.len()).await;
}

/// In HTTP/2 a field that was sent before is sent as a number: the size is that of the fields.
#[tokio::test]
async fn fields_that_hpack_makes_small_cost_what_they_are_long() {
    let (upstream, arrived) = silent().await;
    let program = Program::start(&config(&upstream)).await;
    let large = "x".repeat(3_000);
    let fields: Vec<_> = (0..9).map(|_| ("x-large", large.as_str())).collect();
    let size = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    let mut tasks = tokio::task::JoinSet::new();
    let mut send = async |count: usize| {
        let caller = Arc::new(Http2::open(program.address()).await);
        for _ in 0..count {
            let (caller, large) = (Arc::clone(&caller), large.clone());
            tasks.spawn(async move {
                let fields: Vec<_> = (0..9).map(|_| ("x-large", large.as_str())).collect();
                caller.begin("GET", "/token", &fields, whole("")).await
            });
        }
        let expected = tasks.len();
        until("they are under way", || arrived.available_permits() == expected).await;
    };
    send(4).await;
    let before = program.memory("VmRSS");
    send(REQUESTS).await;
    judge("fields of HTTP/2", size, before, program.memory("VmRSS"));
}
