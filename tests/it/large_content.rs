//! A gigabyte where a mebibyte is allowed: it is refused early, and costs no memory and no disk.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::client::parse;
use crate::harness::program::Program;
use crate::harness::{Connection, PATIENCE, Upstream, quoted, secret, until};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most that the memory may grow by one such request, in KiB.
const FOR_ONE: u64 = 3 << 10;

/// The same for one of a hundred at once that stream: buffers that are on loan.
const STREAMED: u64 = 128;

/// The same where the content is held: 256 KiB in memory, and three pieces of 256 KiB on their way
/// to the file.
const HELD: u64 = 4 * 256;

/// The most bytes of one caller's that may wait in the system's buffers of both sides, beside what
/// the program has read.
const IN_BUFFERS: u64 = 16 * MIB;

/// Sends up to a gigabyte in chunks until it is refused. Returns how much it got rid of, and the
/// status.
async fn send(address: SocketAddr, target: &str) -> (u64, u16) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    write.write_all(head.as_bytes()).await.unwrap();
    let sender = async {
        let mut chunk = b"10000\r\n".to_vec();
        chunk.extend(vec![b'x'; 0x10000]);
        chunk.extend(b"\r\n");
        let mut sent = 0;
        // Until the other side will have no more of it.
        while sent < GIB && write.write_all(&chunk).await.is_ok() {
            sent += 0x10000;
        }
        sent
    };
    let answer = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        parse(&answer).status
    };
    let both = async { tokio::join!(sender, answer) };
    timeout(PATIENCE, both).await.expect("neither refused nor closed")
}

async fn start(upstream: &Upstream, spool: &std::path::Path) -> Program {
    let url = quoted(&upstream.url());
    let config = format!(
        "workers = 2\n\
         [limits]\nmemory_per_request = \"256KiB\"\nspool_directory = {}\n\
         [credential.signed]\nkind = \"hmac\"\nkey = {}\nbase = [\"body\"]\n\
         set = {{ X-Signature = \"{{signature}}\" }}\n\
         [[route]]\npath = \"/streamed\"\nupstream = {url}\nmax_body = \"1MiB\"\n\
         [[route]]\npath = \"/signed\"\nupstream = {url}\nmax_body = \"1MiB\"\n\
         credential = \"signed\"\n",
        quoted(spool.to_str().unwrap()),
        secret("key"),
    );
    Program::start(&config).await
}

async fn no_gigabyte(target: &str, for_each: u64) {
    let upstream = Upstream::fine().await;
    let spool = tempfile::tempdir().unwrap();
    let program = start(&upstream, spool.path()).await;
    let empty = || std::fs::read_dir(spool.path()).unwrap().next().is_none();
    // What it needs for its first request at all.
    let mut connection = Connection::open(program.address()).await;
    assert_eq!(connection.send("POST", target, &[], "small").await.status, 200);
    let before = program.memory("VmHWM");
    let (sent, status) = send(program.address(), target).await;
    assert_eq!(status, 413);
    assert!(sent < MIB + IN_BUFFERS, "{sent} bytes went in");
    let one = program.memory("VmHWM") - before;

    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (address, target) = (program.address(), target.to_owned());
        callers.spawn(async move { send(address, &target).await });
    }
    while let Some(sent) = callers.join_next().await {
        let (sent, status) = sent.unwrap();
        assert_eq!(status, 413);
        assert!(sent < MIB + IN_BUFFERS, "{sent} bytes went in");
    }
    let hundred = program.memory("VmHWM") - before;
    eprintln!("{target}: {one} KiB for one, {hundred} KiB for a hundred at once, of {before} KiB");
    assert!(one <= FOR_ONE, "{one} KiB for one");
    assert!(hundred <= 100 * for_each, "{hundred} KiB for a hundred");
    assert!(empty(), "no file has a name");
    let spooled = || {
        let spool = spool.path().to_str().unwrap();
        program.descriptors().iter().filter(|path| path.starts_with(spool)).count()
    };
    until("no file is left", || spooled() == 0).await;
    assert_eq!(upstream.seen().len(), 1, "only what was allowed came through whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_would_stream_is_refused_and_costs_nothing() {
    no_gigabyte("/streamed", STREAMED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_would_be_signed_is_refused_and_costs_nothing() {
    no_gigabyte("/signed", HELD).await;
}
