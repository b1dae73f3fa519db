//! The faults, and how they are made.

use rcgen::{BasicConstraints, IsCa, date_time_ymd};

use super::server::{self, Trouble};
use crate::harness::authority::{Authority, Presented, for_clients};
use crate::harness::{Act, Upstream};

/// The limits of a cell in which somebody has to wait for one; all others have the usual ones.
const SHORT: &str = "300ms";

/// A fault, as the table calls it, and how it is made.
pub(super) struct Cell {
    pub(super) fault: &'static str,
    pub(super) trouble: Trouble,
    /// What the configuration says of limits.
    pub(super) limits: String,
    /// What it says of certificates.
    pub(super) tls: String,
}

impl Cell {
    fn new(fault: &'static str, trouble: Trouble) -> Self {
        Self { fault, trouble, limits: String::new(), tls: String::new() }
    }

    fn http(fault: &'static str, act: Act) -> Self {
        Self::new(fault, Trouble::Http(act))
    }

    fn says(fault: &'static str, answer: impl Into<String>) -> Self {
        Self::http(fault, Act::Say(answer.into()))
    }

    fn with_limits(mut self, limits: impl Into<String>) -> Self {
        self.limits = limits.into();
        self
    }

    fn with_tls(mut self, tls: impl Into<String>) -> Self {
        self.tls = tls.into();
        self
    }
}

/// What cells share.
pub(super) struct Surroundings {
    pub(super) authority: Authority,
    pub(super) strangers: Authority,
    /// Another authority of the same name.
    pub(super) namesake: Authority,
    /// Where nothing goes wrong.
    pub(super) fine: Upstream,
}

impl Surroundings {
    pub(super) async fn new() -> Self {
        Self {
            authority: Authority::named("an authority"),
            strangers: Authority::named("another authority"),
            namesake: Authority::named("an authority"),
            fine: Upstream::fine().await,
        }
    }
}

fn answer(fields: &str, content: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{content}")
}

/// What either side may do wrong on the way to an answer of HTTP. `head` is the limit on its time.
fn transport(head: &str) -> Vec<Cell> {
    vec![
        Cell::new("nobody listens", Trouble::Port),
        Cell::new("its name does not resolve", Trouble::Name),
        Cell::http("never answers", Act::Silent).with_limits(head),
        Cell::http("answers too slowly", Act::Dripping(server::PACE)).with_limits(head),
        Cell::http("closes without an answer", Act::Close),
        Cell::http("resets without an answer", Act::Reset),
        Cell::http("closes in the head", Act::PartialHead),
        Cell::http("resets in the head", Act::SayThenReset("HTTP/1.1 200 OK\r\nX".to_owned())),
        Cell::http(
            "closes in content with a length",
            Act::SayThenClose(answer("Content-Length: 100\r\n", "half")),
        ),
        Cell::http(
            "closes in content in chunks",
            Act::SayThenClose(answer("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")),
        ),
        Cell::http("resets in content", Act::ResetInContent),
        Cell::says(
            "a chunk without a size",
            answer("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\nno\r\n"),
        ),
        Cell::says("no HTTP", "220 mail.example ESMTP\r\n\r\n"),
        Cell::http("TLS where HTTP is configured", Act::SayThenClose(server::ALERT.to_owned())),
        Cell::says(
            "a head of more than 1 MiB",
            answer(&format!("Content-Length: 4\r\nX: {}\r\n", "x".repeat(1 << 20)), "fine"),
        ),
        Cell::says(
            "300 fields",
            answer(&format!("Content-Length: 4\r\n{}", "X: x\r\n".repeat(299)), "fine"),
        ),
        Cell::says("two lengths", answer("Content-Length: 4\r\nContent-Length: 5\r\n", "fine")),
    ]
}

/// What may be wrong with TLS. `connect` is the limit on its time.
fn tls(around: &Surroundings, connect: &str) -> Vec<Cell> {
    let Surroundings { authority, strangers, namesake, .. } = around;
    let trusted = authority.trusted();
    let certificate = |fault, presented: &Presented| {
        let acceptor = presented.server(None, &[], rustls::ALL_VERSIONS);
        Cell::new(fault, Trouble::Shakes(acceptor)).with_tls(&trusted)
    };
    let versions = [(&rustls::version::TLS13, "1.3"), (&rustls::version::TLS12, "1.2")];
    let demanding =
        |version| authority.issue("localhost", |_| {}).server(Some(authority), &[], &[version]);
    let [demands_13, demands_12] = versions.map(|(version, _)| Trouble::Shakes(demanding(version)));
    let [refuses_13, refuses_12] = versions.map(|(version, _)| Trouble::Shakes(demanding(version)));
    let stranger = format!("{trusted}, {}", strangers.client());
    vec![
        Cell::new("never ends the TLS handshake", Trouble::Mute)
            .with_limits(connect)
            .with_tls(&trusted),
        Cell::new("closes in the TLS handshake", Trouble::Hello("")).with_tls(&trusted),
        Cell::new("HTTP where TLS is configured", Trouble::Hello("HTTP/1.1 400 Bad\r\n\r\n"))
            .with_tls(&trusted),
        Cell::new("no common version of TLS", Trouble::Hello(server::ALERT_VERSION))
            .with_tls(&trusted),
        certificate(
            "an expired certificate",
            &authority.issue("localhost", |params| {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }),
        ),
        certificate(
            "a certificate that is not valid yet",
            &authority.issue("localhost", |params| {
                params.not_before = date_time_ymd(3000, 1, 1);
                params.not_after = date_time_ymd(3001, 1, 1);
            }),
        ),
        certificate("a certificate for another name", &authority.issue("other.example", |_| {})),
        certificate("a certificate of another authority", &strangers.issue("localhost", |_| {})),
        certificate(
            "a certificate of a namesake of the authority",
            &namesake.issue("localhost", |_| {}),
        ),
        certificate("a self-signed certificate", &Presented::self_made("localhost", |_| {})),
        certificate(
            "an authority's own certificate",
            &Presented::self_made("localhost", |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
        ),
        certificate("a certificate for clients", &authority.issue("localhost", for_clients)),
        Cell::new("wants a client certificate, TLS 1.3", demands_13).with_tls(&trusted),
        Cell::new("wants a client certificate, TLS 1.2", demands_12).with_tls(&trusted),
        Cell::new("wants another client certificate, TLS 1.3", refuses_13).with_tls(&stranger),
        Cell::new("wants another client certificate, TLS 1.2", refuses_12).with_tls(&stranger),
    ]
}

pub(super) fn upstream_cells(around: &Surroundings) -> Vec<Cell> {
    let mut cells = transport(&format!("timeouts = {{ first_byte = \"{SHORT}\" }}\n"));
    cells.extend(tls(around, &format!("timeouts = {{ connect = \"{SHORT}\" }}\n")));
    let half = answer("Content-Length: 100\r\n", "half");
    cells.push(
        Cell::http("stops in content", Act::SayThenSilent(half))
            .with_limits(format!("timeouts = {{ idle = \"{SHORT}\" }}\n")),
    );
    cells.push(
        Cell::http("never answers, with a limit on all", Act::Silent)
            .with_limits(format!("timeouts = {{ total = \"{SHORT}\" }}\n")),
    );
    let acceptor = around.authority.issue("localhost", |_| {}).server(
        Some(&around.authority),
        &["h2"],
        &[&rustls::version::TLS13],
    );
    cells.push(
        Cell::new("wants a client certificate, TLS 1.3, HTTP/2", Trouble::Shakes(acceptor))
            .with_tls(around.authority.trusted()),
    );
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    cells.push(Cell::says("a length and chunks", answer(both, "4\r\nfine\r\n0\r\n\r\n")));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    cells.push(Cell::says("switches protocols unasked", switch));
    cells
}

pub(super) fn token(content: &str) -> String {
    reply("200 OK", "", content)
}

fn reply(status: &str, fields: &str, content: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{content}", content.len())
}

pub(super) fn token_cells(around: &Surroundings, elsewhere: &Upstream) -> Vec<Cell> {
    let limit = format!("timeout = \"{SHORT}\"\n");
    let mut cells = transport(&limit);
    cells.extend(tls(around, &limit));
    cells.push(
        Cell::http("stops in content", Act::SayThenSilent(answer("Content-Length: 100\r\n", "{")))
            .with_limits(&limit),
    );
    let html = "<!doctype html><title>Sign in</title>";
    let huge = format!("{{\"token\":\"{}\"}}", "x".repeat(10 << 20));
    let redirect = format!("Location: {}/\r\n", elsewhere.url());
    let failure = "{\"token\":\"x\",\"expires_in\":60,\"error\":\"canary\"}";
    cells.extend([
        Cell::says("200 with HTML", token(html)),
        Cell::says("200 with nothing", token("")),
        Cell::says("200 without the token", token("{\"expires_in\":60}")),
        Cell::says("200 with an empty token", token("{\"token\":\"\",\"expires_in\":60}")),
        Cell::says(
            "200 with a line break in the token",
            token("{\"token\":\"a\\r\\nX-Canary: b\",\"expires_in\":60}"),
        ),
        Cell::says("200 with a token that has ended", token("{\"token\":\"x\",\"expires_in\":0}")),
        Cell::says("200 with 10 MiB", token(&huge)),
        Cell::says("200, compressed", reply("200 OK", "Content-Encoding: gzip\r\n", "x")),
        Cell::says("200 that reports a failure", token(failure)),
        Cell::says("a redirect", reply("307 Temporary Redirect", &redirect, "")),
        Cell::says("400", reply("400 Bad Request", "", "{\"error\":\"invalid_grant\"}")),
        Cell::says("401", reply("401 Unauthorized", "", "")),
        Cell::says("403", reply("403 Forbidden", "", "")),
        Cell::says("404", reply("404 Not Found", "", "")),
        Cell::says("429 with Retry-After", reply("429 Slow Down", "Retry-After: 2\r\n", "")),
        Cell::says("500", reply("500 Internal Server Error", "", html)),
        Cell::says("503", reply("503 Service Unavailable", "", "")),
    ]);
    cells
}
