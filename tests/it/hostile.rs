//! Bytes that try to make a proxy and its upstream understand two different things, said to the
//! program itself. The cases are data, in `tests/hostile`; the upstream checks every request that
//! reaches it, whatever the case says.

mod checker;
pub(crate) mod corpus;
pub(crate) mod judge;
mod peers;
mod table;
mod talk;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::harness::program::Program;
use crate::harness::skip;
use crate::harness::strict::{Arrived, Rules, Strict};
use corpus::{Case, Peers};
use judge::Outcome;
use peers::{Job, Peer};
use talk::{Place, Said, talk};

/// The fewest cases that a run may have.
const FEWEST: usize = 150;

/// How long an answer of countersign's may take; it never does.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long another proxy is listened to that waits for more. Nothing is made of its silence.
const PATIENCE_WITH_PEERS: Duration = Duration::from_millis(700);

/// How often each case is said to another proxy. What some of them make of a few cases depends on
/// how the bytes happen to come together.
const RUNS_WITH_PEERS: usize = 3;

/// The listeners of the configuration, in order.
pub(crate) const LISTENERS: [&str; 6] = ["plain", "web", "token", "key", "fenced", "lenient"];

fn credentials() -> Vec<(String, String)> {
    [("authorization", "Bearer ours-1f0c"), ("x-api-key", "ours-77aa")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

pub(crate) fn rules(lax: bool) -> Rules {
    Rules {
        credentials: credentials(),
        base: "/base".to_owned(),
        closed: "/base/closed".to_owned(),
        websocket: "/base/ws/x".to_owned(),
        lax,
    }
}

pub(crate) fn configuration(upstream: &str) -> String {
    format!(
        r#"
workers = 1
[[listen]]
address = "127.0.0.1:0"

[[listen]]
address = "127.0.0.1:0"
hosts = ["gateway.plant.test"]
origins = ["https://dashboard.plant.test"]

[[listen]]
address = "127.0.0.1:0"
caller_token = {{ value = "open-sesame" }}

[[listen]]
address = "127.0.0.1:0"
caller_token = {{ value = "open-sesame" }}
caller_token_header = "X-Caller-Key"

[[listen]]
address = "127.0.0.1:0"
allow = ["192.0.2.0/24"]

[[listen]]
address = "127.0.0.1:0"
lenient = true

[credential.it]
kind = "fields"
values = {{ token = {{ value = "ours-1f0c" }} }}
set = {{ Authorization = "Bearer {{token}}", X-Api-Key = {{ value = "ours-77aa" }} }}

[[route]]
path = "/ok"
upstream = "http://{upstream}/base"
credential = "it"
deny = ["/ok/closed"]

[[route]]
path = "/read"
methods = ["GET", "HEAD"]
upstream = "http://{upstream}/base"
credential = "it"

[[route]]
path = "/ws"
upstream = "http://{upstream}/base/ws"
credential = "it"
websocket = true
"#
    )
}

/// Runs one case, and then asks for something harmless on a connection of its own: whatever the
/// case has left behind at the upstream shows there at the latest.
async fn run(
    case: &Case,
    place: &Place,
    fence: &Place,
    upstream: &Strict,
    patience: Duration,
) -> Outcome {
    let host = place.host();
    let more = match case.listener.as_str() {
        "token" => "Authorization: Bearer open-sesame\r\n",
        "key" => "X-Caller-Key: open-sesame\r\n",
        _ => "",
    };
    let probe = get("/ok/probe", &host, more);
    let said = Said {
        bytes: &case.bytes(&host),
        answers: case.answer.status.len(),
        probe: probe.as_bytes(),
        shut: case.shut,
    };
    let heard = talk(place, said, patience).await;
    let harmless = get("/ok/fence", &fence.host(), "");
    let said = Said { bytes: harmless.as_bytes(), answers: 1, probe: b"", shut: false };
    let answered = talk(fence, said, PATIENCE).await;
    let arrived = upstream.take();
    let fences = arrived.iter().filter(|one| one.line() == judge::FENCE).count();
    let fence = fences == 1 && answered.answers.iter().map(|answer| answer.status).eq([200]);
    Outcome { heard, arrived, violations: upstream.take_violations(), fence }
}

fn get(target: &str, host: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")
}

fn escaped(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], bytes.len()),
        None => text,
    }
}

fn report(case: &Case, host: &str, outcome: &Outcome, faults: &[String]) -> String {
    let mut report = format!("{}: {}\n", case.class, case.name);
    let _ = writeln!(report, "  sent: {}", escaped(&case.bytes(host)));
    let _ = writeln!(report, "  expected: {:?}, {:?}", case.answer, case.upstream);
    let _ = writeln!(report, "  answered: {}", escaped(&outcome.heard.bytes));
    for one in &outcome.arrived {
        let _ = writeln!(report, "  upstream: {one:?}");
    }
    for fault in faults {
        let _ = writeln!(report, "  FAULT: {fault}");
    }
    report
}

#[tokio::test]
async fn every_case_is_answered_as_it_says_and_reaches_the_upstream_as_it_says() {
    let cases = corpus::all();
    let only = std::env::var("COUNTERSIGN_HOSTILE_CASE").unwrap_or_default();
    if !only.is_empty() {
        skip("most hostile cases", "COUNTERSIGN_HOSTILE_CASE says which to run");
    }
    let mut run_so_far = 0;
    let upstream = Strict::start(rules(false)).await;
    let mut program = Program::start(&configuration(&upstream.host())).await;
    let places: BTreeMap<&str, Place> =
        LISTENERS.into_iter().zip(program.addresses().iter().copied().map(Place::Tcp)).collect();
    let (mut failures, mut parts) = (Vec::new(), Vec::new());
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        let place = &places[case.listener.as_str()];
        let outcome = run(case, place, &places["plain"], &upstream, PATIENCE).await;
        run_so_far += 1;
        // A request that breaks off may be seen to end later than its answer.
        parts.extend(outcome.arrived.iter().filter(|one| !one.complete).map(Arrived::line));
        let faults = outcome.faults(case);
        if !faults.is_empty() {
            failures.push(report(case, &place.host(), &outcome, &faults));
        }
    }
    assert!(run_so_far >= FEWEST || !only.is_empty(), "{run_so_far} cases");
    upstream.idle().await;
    let mut left = (upstream.take(), upstream.take_violations());
    parts.extend(left.0.extract_if(.., |one| !one.complete).map(|one| one.line()));
    parts.retain(|line| !cases.iter().any(|case| case.cut.contains(line)));
    assert!(parts.is_empty(), "parts of these arrive: {parts:?}");
    assert!(program.runs(), "{:#?}", program.log());
    assert_eq!(program.panics(), [""; 0]);
    assert!(
        failures.is_empty() && left.0.is_empty() && left.1.is_empty(),
        "{} of {} cases failed; left at the end: {left:?}\n\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// What became of the cases at another proxy.
struct Sight {
    name: &'static str,
    version: String,
    classes: BTreeMap<String, Class>,
}

#[derive(Default)]
struct Class {
    cases: usize,
    /// The names of those that went wrong, with what was wrong.
    wrong: Vec<(String, Vec<String>)>,
}

async fn look_at(peer: &Peer, upstream: &Strict, cases: &[Case]) -> Sight {
    // That the set-up is right, so that what follows means something.
    let host = peer.place.host();
    for (target, arrives) in
        [("/ok/x?y", "GET /base/x?y"), ("/ok", "GET /base"), ("/read/x", "GET /base/x")]
    {
        let get = get(target, &host, "");
        let said = Said { bytes: get.as_bytes(), answers: 1, probe: b"", shut: false };
        let heard = talk(&peer.place, said, PATIENCE).await;
        let status: Vec<u16> = heard.answers.iter().map(|answer| answer.status).collect();
        assert_eq!(status, [200], "{} {target}: {}", peer.name, escaped(&heard.bytes));
        let lines: Vec<String> = upstream.take().iter().map(Arrived::line).collect();
        assert_eq!(lines, [arrives], "{}", peer.name);
        assert_eq!(upstream.take_violations(), [""; 0], "{} {target}", peer.name);
    }
    let mut classes: BTreeMap<String, Class> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.peers != Peers::Skip) {
        let mut faults = Vec::new();
        for _ in 0..RUNS_WITH_PEERS {
            let place = &peer.place;
            let outcome = run(case, place, place, upstream, PATIENCE_WITH_PEERS).await;
            faults.extend(outcome.faults_of_peer(case));
        }
        // The port is another one each time.
        for fault in &mut faults {
            *fault = fault.replace(&upstream.host(), "upstream.test");
        }
        let class = classes.entry(case.class.clone()).or_default();
        class.cases += 1;
        if !faults.is_empty() {
            class.wrong.push((case.name.clone(), faults));
        }
    }
    Sight { name: peer.name, version: peer.version.clone(), classes }
}

/// Both, as far as they are there, each with an upstream of its own.
async fn look_at_peers() -> Vec<Sight> {
    let cases = corpus::all();
    let mut sights = Vec::new();
    for name in ["nginx", "HAProxy"] {
        let upstream = Strict::start(rules(true)).await;
        let (host, credentials) = (upstream.host(), credentials());
        let job = Job { upstream: &host, credentials: &credentials };
        let peer = if name == "nginx" { Peer::nginx(job).await } else { Peer::haproxy(job).await };
        match peer {
            Some(peer) => sights.push(look_at(&peer, &upstream, &cases).await),
            None => skip(&format!("the hostile cases against {name}"), "it is not installed"),
        }
    }
    sights
}

/// What they make of the cases is theirs; that the cases can be run against them is ours. With
/// `COUNTERSIGN_HOSTILE_TABLE=1` the document is written anew.
#[tokio::test]
async fn the_cases_run_against_other_proxies_too() {
    let sights = look_at_peers().await;
    for sight in &sights {
        let run: usize = sight.classes.values().map(|class| class.cases).sum();
        assert!(run >= FEWEST, "{}: {run} cases", sight.name);
    }
    if std::env::var_os("COUNTERSIGN_HOSTILE_TABLE").is_some() {
        table::write(&corpus::all(), &sights);
    }
}

#[test]
fn the_document_counts_the_cases_that_there_are() {
    table::check(&corpus::all());
}

#[test]
fn every_case_has_a_name_of_its_own_that_is_a_sentence() {
    let mut names: Vec<String> = corpus::all().into_iter().map(|case| case.name).collect();
    for name in &names {
        assert!(name.split(' ').count() >= 3, "{name}");
    }
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "two cases have one name");
}
