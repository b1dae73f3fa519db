//! HTTP/2 as somebody speaks it who wants to bring the program down, or to get something past it:
//! floods, stalls, and requests that are none. Whatever comes, the program stays up, its memory
//! stays bounded, other callers are served, and the upstream sees what it should and no more.

use serde::Deserialize;

use crate::harness::Connection;
use crate::harness::abuse::{
    ACK, Abuser, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, GOAWAY, HEADERS, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, length,
};
use crate::harness::program::Program;
use crate::harness::strict::{Arrived, Strict};
use crate::harness::until;
use crate::hostile::corpus::{self, Wanted};
use crate::hostile::judge;
use crate::hostile::{configuration, rules};

/// By how much the memory in use may grow, in bytes.
const GROWTH: u64 = 32 << 20;

/// Requests at once that one connection of HTTP/2 may have (RFC 9113 §5.1.2).
const STREAMS: u32 = 100;

const CANCEL: [u8; 4] = [0, 0, 0, 8];
const REFUSED_STREAM: u32 = 7;

/// The largest window that there is (RFC 9113 §6.9.1).
const LARGEST_WINDOW: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// The program, an upstream that checks everything, and a caller that means well.
struct Scene {
    program: Program,
    upstream: Strict,
    before: u64,
}

impl Scene {
    async fn start() -> Self {
        let upstream = Strict::start(rules(false)).await;
        let program = Program::start(&configuration(&upstream.host())).await;
        let mut scene = Self { program, upstream, before: 0 };
        for _ in 0..20 {
            scene.serve().await;
        }
        scene.before = scene.memory();
        scene
    }

    /// The memory in use, in bytes.
    fn memory(&self) -> u64 {
        self.program.memory("VmRSS") << 10
    }

    async fn abuser(&self) -> Abuser {
        Abuser::open(self.program.address(), &[]).await
    }

    async fn deaf_abuser(&self, settings: &[u8]) -> Abuser {
        Abuser::deaf(self.program.address(), settings).await
    }

    fn host(&self) -> String {
        self.program.address().to_string()
    }

    /// A caller who means well is served.
    async fn serve(&self) {
        let mut connection = Connection::open(self.program.address()).await;
        let reply = connection.send("GET", "/ok/well", &[], "").await;
        assert_eq!((reply.status, reply.text()), (200, "xxxx"));
    }

    /// A request's head as one frame.
    fn head(&self, method: &str, target: &str, stream: u32, flags: u8) -> Vec<u8> {
        let host = self.host();
        let fields =
            [(":method", method), (":scheme", "http"), (":path", target), (":authority", &host)];
        frame(HEADERS, END_HEADERS | flags, stream, &block(&fields))
    }

    /// Says `count` times, which are some hundreds, what `frames` says, as long as it is taken.
    /// Meanwhile others are served.
    async fn flood(&self, abuser: &mut Abuser, count: u32, frames: impl Fn(u32) -> Vec<u8>) {
        let mut batch = Vec::new();
        for number in 0..count {
            batch.extend(frames(number));
            if number % (count / 5) == 0 {
                self.serve().await;
            }
            if number % 100 == 99 && !abuser.say(&std::mem::take(&mut batch)).await {
                break;
            }
        }
        self.serve().await;
        self.check_memory();
    }

    fn check_memory(&self) {
        let after = self.memory();
        assert!(after < self.before + GROWTH, "{} KiB became {}", self.before >> 10, after >> 10);
    }

    /// Whatever was done, nothing has come of it. At most `in_flight` requests were at the upstream
    /// at once.
    async fn end(mut self, abuser: Abuser, in_flight: usize) {
        self.serve().await;
        self.check_memory();
        drop(abuser);
        self.serve().await;
        self.upstream.idle().await;
        self.check_memory();
        let most = self.upstream.most_in_flight();
        assert!(most <= in_flight, "{most} requests at once");
        assert_eq!(self.upstream.take_violations(), [""; 0]);
        for one in self.upstream.take() {
            let line = one.line();
            assert!(line.contains(" /base/well") || line.contains(" /base/x"), "{line}");
        }
        assert!(self.program.runs(), "{:#?}", self.program.log());
        assert_eq!(self.program.panics(), [""; 0]);
    }
}

/// The number of a caller's stream.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

/// CVE-2023-44487.
#[tokio::test]
async fn requests_that_are_reset_as_soon_as_they_are_sent_end_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let request = |number| {
        let head = scene.head("GET", "/ok/x?hold", stream(number), END_STREAM);
        [head, frame(RST_STREAM, 0, stream(number), &CANCEL)].concat()
    };
    scene.flood(&mut abuser, 10_000, request).await;
    abuser.refused().await;
    scene.end(abuser, 102).await;
}

#[tokio::test]
async fn requests_that_are_reset_are_given_up_at_the_upstream() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    for round in 0..20 {
        let streams = (0..STREAMS).map(|number| stream(round * STREAMS + number));
        for stream in streams.clone() {
            assert!(abuser.say(&scene.head("GET", "/ok/x?hold", stream, END_STREAM)).await);
        }
        until("they are in flight", || scene.upstream.in_flight() == 100).await;
        for stream in streams {
            assert!(abuser.say(&frame(RST_STREAM, 0, stream, &CANCEL)).await);
        }
        scene.upstream.idle().await;
        scene.serve().await;
    }
    scene.end(abuser, 101).await;
}

/// CVE-2025-8671: the caller makes the server reset its streams, which do not count as streams any
/// more while their requests still cost something.
#[tokio::test]
async fn requests_that_the_caller_makes_us_reset_end_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let mut sent = 0;
    while sent < 5_000 && !abuser.is_refused() {
        for _ in 0..50 {
            let request = scene.head("GET", "/ok/x?hold", stream(sent), END_STREAM);
            // The window has been something before, so it overflows.
            let update = frame(WINDOW_UPDATE, 0, stream(sent), &LARGEST_WINDOW);
            let _ = abuser.say(&[request, update].concat()).await;
            sent += 1;
        }
        let resets = usize::try_from(sent).unwrap();
        until("they are reset", || abuser.is_refused() || abuser.resets() == resets).await;
        scene.upstream.idle().await;
        scene.serve().await;
    }
    assert!(abuser.is_refused(), "{sent} requests are borne with");
    assert!(abuser.resets() > 50, "{}", abuser.resets());
    scene.end(abuser, 102).await;
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    assert!(abuser.say(&frame(HEADERS, 0, 1, &block(&[(":method", "GET")]))).await);
    let more = block(&[("x-a", &"b".repeat(1000))]);
    scene.flood(&mut abuser, 20_000, |_| frame(CONTINUATION, 0, 1, &more)).await;
    abuser.refused().await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn a_head_that_goes_on_with_nothing_ends_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    assert!(abuser.say(&frame(HEADERS, 0, 1, &[])).await);
    scene.flood(&mut abuser, 20_000, |_| frame(CONTINUATION, 0, 1, &[])).await;
    abuser.refused().await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn pings_whose_answers_nobody_reads_pile_up_nothing() {
    let scene = Scene::start().await;
    let mut abuser = scene.deaf_abuser(&[]).await;
    scene.flood(&mut abuser, 20_000, |_| frame(PING, 0, 0, &[7; 8])).await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn settings_whose_acknowledgements_nobody_reads_pile_up_nothing() {
    let scene = Scene::start().await;
    let mut abuser = scene.deaf_abuser(&[]).await;
    let sizes = [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 16, 0]].concat();
    scene.flood(&mut abuser, 20_000, |_| frame(SETTINGS, 0, 0, &sizes)).await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn content_of_nothing_without_end_ends_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    assert!(abuser.say(&scene.head("POST", "/ok/x", 1, 0)).await);
    scene.flood(&mut abuser, 20_000, |_| frame(DATA, 0, 1, &[])).await;
    abuser.refused().await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn priorities_without_end_change_nothing() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let priority = |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 200]);
    scene.flood(&mut abuser, 20_000, priority).await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn frames_that_nobody_knows_change_nothing() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    scene.flood(&mut abuser, 10_000, |number| frame(200, 255, number, &[1; 1000])).await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn answers_for_which_there_is_no_window_are_not_kept_in_memory() {
    let scene = Scene::start().await;
    let none = [&INITIAL_WINDOW_SIZE[..], &[0; 4]].concat();
    let mut abuser = scene.deaf_abuser(&none).await;
    let request = |number| scene.head("GET", "/ok/x?size=10000000", stream(number), END_STREAM);
    scene.flood(&mut abuser, STREAMS, request).await;
    until("they are in flight", || scene.upstream.in_flight() == 100).await;
    // Byte by byte, which nobody reads either.
    let one = [0, 0, 0, 1];
    scene
        .flood(&mut abuser, 10_000, |number| {
            frame(WINDOW_UPDATE, 0, stream(number % STREAMS), &one)
        })
        .await;
    scene.end(abuser, 101).await;
}

/// The windows are as large as they can be, so only the socket says that nobody reads.
#[tokio::test]
async fn answers_that_nobody_reads_are_not_kept_in_memory() {
    let scene = Scene::start().await;
    let largest = [&INITIAL_WINDOW_SIZE[..], &LARGEST_WINDOW].concat();
    let mut abuser = scene.deaf_abuser(&largest).await;
    assert!(abuser.say(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])).await);
    let request = |number| scene.head("GET", "/ok/x?size=10000000", stream(number), END_STREAM);
    scene.flood(&mut abuser, STREAMS, request).await;
    until("they are in flight", || scene.upstream.in_flight() == 100).await;
    scene.end(abuser, 101).await;
}

#[tokio::test]
async fn a_window_that_overflows_ends_its_stream_or_the_connection() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    assert!(abuser.say(&scene.head("GET", "/ok/x?hold", 1, END_STREAM)).await);
    for _ in 0..2 {
        assert!(abuser.say(&frame(WINDOW_UPDATE, 0, 1, &LARGEST_WINDOW)).await);
    }
    // FLOW_CONTROL_ERROR.
    assert_eq!(abuser.ending(1).await, Ending::Reset(3));
    for _ in 0..2 {
        let _ = abuser.say(&frame(WINDOW_UPDATE, 0, 0, &LARGEST_WINDOW)).await;
    }
    abuser.refused().await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let host = scene.host();
    let long = "b".repeat(1000);
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/ok/x"), (":authority", &host)];
    fields.extend([("x-a", long.as_str()); 40]);
    let block = block(&fields);
    let mut pieces = block.chunks(16_000);
    let first = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
    let second = frame(CONTINUATION, 0, 1, pieces.next().unwrap());
    let third = frame(CONTINUATION, END_HEADERS, 1, pieces.next().unwrap());
    let _ = abuser.say(&[first, second, third].concat()).await;
    assert_ne!(abuser.ending(1).await, Ending::Answered(200, None));
    assert!(scene.upstream.take().iter().all(|one| one.line() == "GET /base/well"));
    scene.end(abuser, 2).await;
}

/// A few bytes that stand for many: each is a field of four thousand from the table of HPACK.
#[tokio::test]
async fn a_head_that_unpacks_to_much_more_is_refused() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let host = scene.host();
    let mut bomb = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/ok/x"),
        (":authority", &host),
    ]);
    bomb.extend([0x40, 1, b'a']);
    length(&mut bomb, 3900);
    bomb.extend([b'x'; 3900]);
    let references = [0xbe; 12_000];
    bomb.extend(references);
    assert!(bomb.len() < 1 << 14);
    for number in 0..20 {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &bomb);
        if !abuser.say(&head).await {
            break;
        }
        assert_ne!(abuser.ending(stream(number)).await, Ending::Answered(200, None));
        scene.check_memory();
    }
    assert!(scene.upstream.take().iter().all(|one| one.line() == "GET /base/well"));
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    let request = |number| scene.head("GET", "/ok/x?hold", stream(number), END_STREAM);
    for number in 0..STREAMS {
        assert!(abuser.say(&request(number)).await);
    }
    until("they are in flight", || scene.upstream.in_flight() == 100).await;
    for number in STREAMS..STREAMS + 200 {
        assert!(abuser.say(&request(number)).await);
        let ending = abuser.ending(stream(number)).await;
        assert_eq!(ending, Ending::Reset(REFUSED_STREAM), "{number}");
    }
    scene.end(abuser, 101).await;
}

#[tokio::test]
async fn content_on_a_stream_that_has_ended_is_not_kept() {
    let scene = Scene::start().await;
    let mut abuser = scene.abuser().await;
    assert!(abuser.say(&scene.head("GET", "/ok/x", 1, END_STREAM)).await);
    assert_eq!(abuser.ending(1).await, Ending::Answered(200, None));
    scene.flood(&mut abuser, 20_000, |_| frame(DATA, 0, 1, &[b'x'; 1000])).await;
    // An error of the stream is enough (RFC 9113 §5.1).
    until("it is told", || abuser.resets() > 0 || abuser.is_refused()).await;
    scene.end(abuser, 2).await;
}

#[tokio::test]
async fn frames_that_are_against_the_rules_end_the_connection() {
    let scene = Scene::start().await;
    let get = |stream| scene.head("GET", "/ok/x", stream, END_STREAM);
    let open = frame(HEADERS, 0, 1, &block(&[(":method", "GET")]));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a head on no stream", get(0)),
        ("a head on a stream of the server", get(2)),
        ("streams whose numbers go down", [get(5), get(3)].concat()),
        ("content on no stream", frame(DATA, 0, 0, b"x")),
        ("content on a stream that has not begun", frame(DATA, 0, 1, b"x")),
        ("a reset of a stream that has not begun", frame(RST_STREAM, 0, 1, &CANCEL)),
        ("a reset of no stream", frame(RST_STREAM, 0, 0, &CANCEL)),
        ("a reset of three bytes", [get(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window of three bytes", frame(WINDOW_UPDATE, 0, 0, &[1; 3])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[7; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[7; 8])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("an acknowledgement with content", frame(SETTINGS, ACK, 0, &[0, 3, 0, 0, 0, 1])),
        ("a window larger than there is", frame(SETTINGS, 0, 0, &[0, 4, 255, 255, 255, 255])),
        ("a frame size of nothing", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 0])),
        ("a push that is neither", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])),
        ("a promise of the caller", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385])),
        ("a head that goes on before it begins", frame(CONTINUATION, END_HEADERS, 1, &[])),
        ("a head that goes on as content", [open.clone(), frame(DATA, 0, 1, b"x")].concat()),
        ("a head that goes on elsewhere", [open, frame(CONTINUATION, 0, 3, &[])].concat()),
        ("padding longer than its frame", frame(HEADERS, 8 | END_HEADERS, 1, &[200, 0])),
        ("a table's entry that is not there", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 1])),
        ("an integer without end", frame(HEADERS, END_HEADERS, 1, &[0xff; 20])),
        ("a goodbye of three bytes", frame(GOAWAY, 0, 0, &[0; 3])),
        ("a second preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a request of HTTP/1", b"GET /ok/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut abuser = scene.abuser().await;
        let _ = abuser.say(&bytes).await;
        let gone = tokio::time::timeout(std::time::Duration::from_secs(20), abuser.refused()).await;
        assert!(gone.is_ok(), "{name} is borne with");
        scene.serve().await;
    }
    let last = scene.abuser().await;
    scene.end(last, 3).await;
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    fields: Vec<(String, String)>,
    data: Option<String>,
    #[serde(default)]
    trailers: Vec<(String, String)>,
    answer: Answer,
    reason: Option<String>,
    upstream: Vec<corpus::Entry>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Answer {
    Status(u16),
    /// `refused`: with an error of stream or connection, or 400.
    Word(String),
}

impl Case {
    fn frames(&self, host: &str) -> Vec<u8> {
        let of = |fields: &[(String, String)]| {
            let filled: Vec<(String, String)> = fields
                .iter()
                .map(|(name, value)| (name.clone(), value.replace("{{host}}", host)))
                .collect();
            let borrowed: Vec<(&str, &str)> =
                filled.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            block(&borrowed)
        };
        let end = |last: bool| if last { END_STREAM } else { 0 };
        let (no_data, no_trailers) = (self.data.is_none(), self.trailers.is_empty());
        let head = END_HEADERS | end(no_data && no_trailers);
        let mut frames = frame(HEADERS, head, 1, &of(&self.fields));
        if let Some(data) = &self.data {
            frames.extend(frame(DATA, end(no_trailers), 1, data.as_bytes()));
        }
        if !no_trailers {
            frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &of(&self.trailers)));
        }
        frames
    }

    /// What is wrong with what came of it.
    async fn faults(&self, scene: &Scene) -> Vec<String> {
        let mut abuser = scene.abuser().await;
        let _ = abuser.say(&self.frames(&scene.host())).await;
        let ending = abuser.ending(1).await;
        scene.serve().await;
        scene.upstream.idle().await;
        let right = match &self.answer {
            Answer::Status(status) => ending == Ending::Answered(*status, self.reason.clone()),
            Answer::Word(_) => match &ending {
                Ending::Answered(status, _) => *status == 400,
                Ending::Reset(_) | Ending::Gone => true,
            },
        };
        let mut faults = scene.upstream.take_violations();
        if !right {
            faults.push(format!("it ends as {ending:?}"));
        }
        let arrived = scene.upstream.take();
        let own = |one: &&Arrived| !one.line().ends_with("/well");
        let complete: Vec<_> = arrived.iter().filter(|one| one.complete).filter(own).collect();
        let cut = arrived.iter().filter(|one| !one.complete && !one.target.ends_with("/cut"));
        faults.extend(cut.map(|one| format!("a part of {} arrives", one.line())));
        let lines: Vec<String> = complete.iter().map(|one| one.line()).collect();
        let wanted: Vec<Wanted> = self.upstream.iter().map(corpus::Entry::wanted).collect();
        if !lines.iter().eq(wanted.iter().map(|wanted| &wanted.request)) {
            faults.push(format!("the upstream sees {lines:?}"));
        }
        for (one, wanted) in complete.iter().zip(&wanted) {
            faults.extend(judge::fields(one, wanted));
            if !one.trailers.is_empty() {
                faults.push(format!("trailers go on: {:?}", one.trailers));
            }
        }
        faults
    }
}

#[tokio::test]
async fn malformed_requests_are_refused_and_reach_nobody() {
    let path = corpus::directory().join("http2/requests.toml");
    let file: File = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(file.case.len() >= 60, "{} cases", file.case.len());
    let scene = Scene::start().await;
    let _ = (scene.upstream.take(), scene.upstream.take_violations());
    let mut failures = Vec::new();
    for case in &file.case {
        if let Answer::Word(word) = &case.answer {
            assert_eq!(word, "refused", "{}", case.name);
        }
        let faults = case.faults(&scene).await;
        if !faults.is_empty() {
            failures.push(format!("{}\n  {:?}\n  {faults:#?}", case.name, case.fields));
        }
    }
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
    let last = scene.abuser().await;
    scene.end(last, 2).await;
}
