//! Callers who are slow on purpose, by slowhttptest: they are cut off, and keep nobody waiting.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use http::Response;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::harness::program::{Program, has};
use crate::harness::upstream::answer;
use crate::harness::{PATIENCE, Upstream, at_most, quoted, until};

/// How long anybody else may wait for an answer meanwhile.
const PROMPT: Duration = Duration::from_secs(1);

/// Attacks for at most ten seconds.
fn attack(address: SocketAddr, connections: usize, arguments: &[&str]) -> Child {
    let connections = connections.to_string();
    Command::new("slowhttptest")
        .args(["-c", &connections, "-r", &connections, "-l", "10"])
        .args(["-u", &format!("http://{address}/")])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// From the connect to the end of the answer.
async fn one_request(address: SocketAddr) -> Duration {
    let begun = Instant::now();
    let served = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "GET /well HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
    };
    timeout(PATIENCE, served).await.expect("no answer");
    begun.elapsed()
}

/// Connections at `address` for which the system still keeps something: those that are accepted or
/// about to be, and those that are closed but for what is unsent.
fn open_connections(address: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    // Established, and those that wait for the other side to take the rest, or for ours to close.
    let states = ["01", "04", "08", "09"];
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let here = words.next().is_some_and(|local| local.ends_with(&port));
        here && words.nth(1).is_some_and(|state| states.contains(&state))
    };
    table.lines().filter(is_one).count()
}

/// What everybody else sees of an attack.
#[derive(Debug, Default)]
struct Meanwhile {
    /// The longest wait for an answer of the proxy.
    proxied: Duration,
    /// The longest wait without the proxy: what the machine, busy as it may be, costs.
    direct: Duration,
    requests: u32,
    /// The most connections at once.
    peak: usize,
}

impl Meanwhile {
    fn check(&self) {
        assert!(self.requests > 10, "{self:?}");
        // By the proxy there are several steps, which the machine may hold up as long as one.
        assert!(self.proxied < at_most(PROMPT) + 3 * self.direct, "{self:?}");
    }
}

/// Asks again and again until the attack with so many `connections` has lost them all.
async fn meanwhile(
    mut attack: Child,
    connections: usize,
    proxy: SocketAddr,
    upstream: SocketAddr,
) -> Meanwhile {
    let mut seen = Meanwhile::default();
    loop {
        seen.proxied = seen.proxied.max(one_request(proxy).await);
        seen.direct = seen.direct.max(one_request(upstream).await);
        seen.requests += 1;
        // The system takes its time to list them.
        if !seen.requests.is_multiple_of(10) {
            continue;
        }
        let open = open_connections(proxy);
        seen.peak = seen.peak.max(open);
        if seen.peak >= connections / 2 && open == 0 {
            break;
        }
        if attack.try_wait().unwrap().is_some() {
            // It may have seen its own failure first, and says so.
            let mut said = String::new();
            attack.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            assert!(said.contains("No open connections left"), "{seen:?} {said}");
            break;
        }
    }
    let _ = attack.kill().await;
    seen
}

/// Small for `/well`, large for others.
async fn upstream() -> Upstream {
    let large: &'static str = Box::leak("x".repeat(4 << 20).into_boxed_str());
    Upstream::answering(move |seen| match seen.target.as_str() {
        "/well" => answer(200, "fine"),
        _ => answer(200, large),
    })
    .await
}

async fn start(upstream: &Upstream, limits: &str) -> Program {
    let config = format!(
        "workers = 2\n[limits]\nidle_timeout = \"2s\"\nwrite_timeout = \"2s\"\n{limits}\n\
         [[route]]\nupstream = {}\ntimeouts = {{ idle = \"2s\", total = \"4s\" }}\n",
        quoted(&upstream.url()),
    );
    Program::start(&config).await
}

/// The most that the memory may grow meanwhile, in KiB.
const MEMORY: u64 = 64 << 10;

async fn is_borne(test: &str, connections: usize, arguments: &[&str]) {
    if !has(test, "slowhttptest") {
        return;
    }
    let upstream = upstream().await;
    let program = start(&upstream, "header_timeout = \"2s\"").await;
    one_request(program.address()).await;
    let (before, memory) = (program.descriptors().len(), program.memory("VmHWM"));
    let attack = attack(program.address(), connections, arguments);
    let seen = meanwhile(attack, connections, program.address(), upstream.address()).await;
    let memory = program.memory("VmHWM") - memory;
    eprintln!("{test}: {seen:?}, {memory} KiB");
    seen.check();
    assert!(memory < MEMORY, "{memory} KiB");
    // One to the upstream may wait for the next request on each worker.
    until("nothing is left of it", || program.descriptors().len() <= before + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_send_their_head_slowly_keep_nobody_waiting() {
    let test = "callers_who_send_their_head_slowly_keep_nobody_waiting";
    is_borne(test, 300, &["-H", "-i", "1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_send_their_content_slowly_keep_nobody_waiting() {
    let test = "callers_who_send_their_content_slowly_keep_nobody_waiting";
    is_borne(test, 300, &["-B", "-i", "1", "-s", "8192", "-x", "10"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_read_their_answer_slowly_keep_nobody_waiting() {
    let test = "callers_who_read_their_answer_slowly_keep_nobody_waiting";
    // Fewer, and not all at once, because what waits for each of them fills buffers of megabytes.
    let arguments = ["-X", "-r", "50", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3"];
    is_borne(test, 100, &arguments).await;
}

/// More of them than there are places: others wait for as long as a head may take, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_callers_who_take_every_place_have_to_give_them_back() {
    let test = "slow_callers_who_take_every_place_have_to_give_them_back";
    if !has(test, "slowhttptest") {
        return;
    }
    let upstream = upstream().await;
    let program = start(&upstream, "connections = 100\nheader_timeout = \"2s\"").await;
    let attack = attack(program.address(), 300, &["-H", "-i", "1"]);
    let seen = meanwhile(attack, 300, program.address(), upstream.address()).await;
    eprintln!("{test}: {seen:?}");
    assert!(seen.proxied > Duration::from_millis(200), "others had to wait: {seen:?}");
    let after = one_request(program.address()).await;
    let direct = one_request(upstream.address()).await;
    assert!(after < at_most(PROMPT) + direct, "{after:?}");
}

/// What fits into the system's buffers is out of the program's hands, and megabytes of it.
#[tokio::test]
async fn the_system_forgets_callers_who_never_read_once_the_program_has() {
    let upstream = Upstream::answering(|_| Response::new(Full::from(vec![b'x'; 1 << 20]))).await;
    let limits = "limits = { write_timeout = \"1s\" }\n";
    let config = format!("{limits}[[route]]\nupstream = {}\n", quoted(&upstream.url()));
    let program = Program::start(&config).await;
    let port = format!(":{:04X}", program.address().port());
    // Neither the listener nor what only waits for its port to be forgotten.
    let held = || {
        let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let columns = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        columns.filter(|line| line[1].ends_with(&port) && !["0A", "06"].contains(&line[3])).count()
    };
    let mut callers = Vec::new();
    for _ in 0..10 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut caller = socket.connect(program.address()).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        caller.write_all(request).await.unwrap();
        callers.push(caller);
    }
    until("all have been asked for", || upstream.seen().len() == 10).await;
    assert_eq!(held(), 10);
    until("they are forgotten", || held() == 0).await;
}
