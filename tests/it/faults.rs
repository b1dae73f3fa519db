//! What callers are told when something fails: each fault of an upstream and of a token endpoint,
//! against the table in docs/responses.md, which is complete and right because of this.

mod cells;
mod outcome;
mod server;
mod table;

use futures_util::StreamExt as _;
use rcgen::date_time_ymd;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::authority::Authority;
use crate::harness::{PATIENCE, Proxy, Upstream, until};
use cells::{Cell, Surroundings, token, token_cells, upstream_cells};
use outcome::{Seen, ask};
use server::{Server, Trouble};

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// Cells that are looked at side by side.
const AT_ONCE: usize = 8;

#[tokio::test]
async fn what_an_upstream_does_wrong_is_told_as_documented_and_the_next_request_is_fine() {
    let around = Surroundings::new().await;
    let cells = upstream_cells(&around);
    let around = &around;
    let seen = futures_util::stream::iter(cells).map(|cell| upstream_fails(cell, around));
    let seen: Vec<_> = seen.buffer_unordered(AT_ONCE).collect().await;
    table::compare("upstream", seen);
}

/// The answers to a request with and without content, which are to be the same.
async fn upstream_fails(cell: Cell, around: &Surroundings) -> Seen {
    let Cell { fault, trouble, limits, tls } = cell;
    let mut server = Server::start(trouble, &around.authority, FINE).await;
    let (url, fine) = (server.url(), around.fine.url());
    // A route with the usual limits for what has to be fine, over the same connections.
    let config = format!(
        "workers = 1\n\
         [[route]]\npath = \"/\"\nupstream = \"{url}\"\ntls = {{ {tls} }}\n{limits}\
         [[route]]\npath = \"/healed\"\nupstream = \"{url}\"\ntls = {{ {tls} }}\n\
         [[route]]\npath = \"/other\"\nupstream = \"{fine}\"\n"
    );
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let mut seen = Seen::new(fault);
    for method in ["GET", "POST"] {
        // What fails is a connection that has served already, where it can be.
        if server.pretend_to_be_fine() {
            seen.expect_fine(&ask(address, method, "/healed/before").await);
        }
        server.fail();
        seen.outcomes.push(ask(address, method, "/x").await);
        seen.expect_fine(&ask(address, method, "/other").await);
    }
    if server.heal() {
        for method in ["GET", "POST"] {
            seen.expect_fine(&ask(address, method, "/healed/after").await);
        }
    }
    seen
}

#[tokio::test]
async fn what_a_token_endpoint_does_wrong_is_told_as_documented_and_passes() {
    let around = Surroundings::new().await;
    let elsewhere = Upstream::fine().await;
    let cells = token_cells(&around, &elsewhere);
    let around = &around;
    let seen = futures_util::stream::iter(cells).map(|cell| token_endpoint_fails(cell, around));
    let seen: Vec<_> = seen.buffer_unordered(AT_ONCE).collect().await;
    assert!(elsewhere.seen().is_empty(), "a redirect of a token endpoint was followed");
    table::compare("token endpoint", seen);
}

async fn token_endpoint_fails(cell: Cell, around: &Surroundings) -> Seen {
    let Cell { fault, trouble, limits, tls } = cell;
    let good = token("{\"token\":\"good\",\"expires_in\":3600}");
    let mut server = Server::start(trouble, &around.authority, good).await;
    let data = Upstream::fine().await;
    let config = format!(
        "workers = 1\n\
         [credential.it]\nkind = \"login\"\nvalues = {{ token = \"/token\" }}\n\
         success = [{{ pointer = \"/error\", empty = true }}]\n\
         expires = {{ in_s = \"/expires_in\" }}\n\
         set = {{ Authorization = \"Bearer {{token}}\" }}\ntls = {{ {tls} }}\n\
         [credential.it.request]\nurl = \"{}/login\"\njson = {{ user = \"x\" }}\n\
         [credential.it.refresh]\neager = false\n{limits}\
         [[route]]\npath = \"/\"\nupstream = \"{}\"\ncredential = \"it\"\n\
         [[route]]\npath = \"/other\"\nupstream = \"{}\"\n",
        server.url(),
        data.url(),
        around.fine.url(),
    );
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let mut seen = Seen::new(fault);
    for method in ["GET", "POST"] {
        seen.outcomes.push(ask(address, method, "/x").await);
        seen.expect_fine(&ask(address, method, "/other").await);
    }
    assert!(data.seen().is_empty(), "{fault}: sent without a credential");
    // A refusal lasts for a quarter of an hour.
    let lasts = seen.outcomes.iter().any(|outcome| outcome.status == "502");
    if server.heal() && !lasts {
        let cache = &proxy.identity("it").cache;
        until(&format!("{fault}: logged in after all"), || cache.is_ready()).await;
        seen.expect_fine(&ask(address, "GET", "/x").await);
        assert_eq!(data.last().values("authorization"), ["Bearer good"], "{fault}");
    }
    seen
}

#[tokio::test]
async fn check_live_names_what_is_wrong_with_a_certificate() {
    let authority = Authority::new();
    let expired = authority.issue("localhost", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let acceptor = expired.server(None, &[], rustls::ALL_VERSIONS);
    let server = Server::start(Trouble::Shakes(acceptor), &authority, FINE).await;
    let (url, tls) = (server.url(), authority.trusted());
    let config = authority.write(
        "live.toml",
        &format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [credential.it]\nkind = \"login\"\nvalues = {{ token = \"/token\" }}\n\
             lifetime = \"1h\"\nset = {{ X-Token = \"{{token}}\" }}\ntls = {{ {tls} }}\n\
             [credential.it.request]\nurl = \"{url}/login\"\n\
             [[route]]\nname = \"it\"\nupstream = \"{url}\"\ncredential = \"it\"\n\
             tls = {{ {tls} }}\n"
        ),
    );
    let mut check = Command::new(env!("CARGO_BIN_EXE_countersign"));
    check.args(["check", "--live", "--config"]).arg(config).env("NO_COLOR", "1");
    let output = timeout(PATIENCE, check.kill_on_drop(true).output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for what in ["credential it", "route it"] {
        let line = text.lines().find(|line| line.starts_with(&format!("failed: {what}")));
        let line = line.unwrap_or_else(|| panic!("nothing on {what}: {text}"));
        assert!(line.ends_with("its certificate is not accepted: it has expired"), "{line}");
    }
}
