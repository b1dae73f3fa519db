//! No request is lost while configurations come and go, good ones and broken ones, and while secrets
//! and certificates change.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign::control::{Cause, Outcome};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::authority::{Authority, path};
use crate::harness::client::{request, whole};
use crate::harness::{
    Connection, Proxy, Upstream, plant, private_directory, quoted, route, secret, twinzo, until,
};

/// Callers who ask without a pause over connections that stay.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), answered: Arc::default(), callers: JoinSet::new() }
    }

    /// One more caller, who sends this again and again.
    fn add(&mut self, address: SocketAddr, method: &'static str, target: &'static str) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        self.callers.spawn(async move {
            let mut failed = Vec::new();
            let mut connection = Connection::open(address).await;
            let content = if method == "POST" { "{\"value\":42}" } else { "" };
            while !stop.load(Ordering::Relaxed) {
                let asked = request(method, target, &[], whole(content));
                match connection.try_send(asked).await {
                    Ok(reply) if reply.status == 200 => {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(reply) => {
                        failed.push(format!("{target}: {} {}", reply.status, reply.text()));
                    }
                    Err(error) => {
                        failed.push(format!("{target}: {error}"));
                        connection = Connection::open(address).await;
                    }
                }
            }
            failed
        });
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends it; every request must have been answered with 200.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            failed.extend(caller.unwrap());
        }
        let answered = self.answered();
        assert_eq!(failed, Vec::<String>::new(), "of {answered}");
        answered
    }
}

/// How many configurations come and go.
fn rounds() -> usize {
    let rounds = std::env::var("COUNTERSIGN_TEST_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_configurations_come_and_go() {
    let stand_in = twinzo().await;
    let upstreams = [Upstream::fine().await, Upstream::fine().await];
    // In every good round an upstream, a key, a login, a listener or a route is another one.
    let text = |round: usize| {
        let upstream = &upstreams[round / 2 % 2];
        let key = secret(["one", "two"][round / 4 % 2]);
        let extra = match round / 2 % 4 {
            0 => String::new(),
            number => {
                let upstream = quoted(&upstream.url());
                format!(
                    "[[route]]\nname = \"extra\"\npath = \"/extra-{number}\"\nupstream = {upstream}\n"
                )
            }
        };
        let login = format!("[credential.plant.refresh]\nmin_interval = \"{}s\"\n", 1 + round / 16);
        format!(
            "workers = 2\n[[listen]]\naddress = \"127.0.0.1:0\"\nhosts = [\"round-{}.test\"]\n\
             [credential.sig]\nkind = \"devo-signature\"\nreseller_api_key = {key}\n\
             api_secret = {key}\n{}\
             [[route]]\nname = \"get\"\npath = \"/get\"\nupstream = {url}\n\
             [[route]]\nname = \"post\"\npath = \"/post\"\nupstream = {url}\ncredential = \"sig\"\n\
             [[route]]\nname = \"plant\"\npath = \"/plant\"\nupstream = {}\ncredential = \"plant\"\n\
             {extra}",
            round / 8,
            plant(&stand_in.url(), &login),
            quoted(&stand_in.url()),
            url = quoted(&upstream.url()),
        )
    };
    let broken = |round: usize| match round / 2 % 4 {
        0 => text(round).replace("[[route]]", "[[route]"),
        1 => text(round).replace("path = \"/get\"", "path = \"get\""),
        2 => text(round).replace("workers = 2", "workers = 3"),
        _ => text(round).replace("demo-password", "wrong"),
    };
    let proxy = Proxy::start_with_file(&text(0)).await;
    let mut load = Load::new();
    for _ in 0..2 {
        load.add(proxy.address(), "GET", "/get");
        load.add(proxy.address(), "POST", "/post");
        load.add(proxy.address(), "GET", "/plant/v3/devices");
    }
    until("it is under load", || load.answered() > 100).await;
    let (mut taken, mut refused) = (0, 0);
    for round in 1..=rounds() {
        let before = load.answered();
        if round % 2 == 1 {
            proxy.rewrite(&broken(round));
        } else {
            proxy.rewrite(&text(round));
        }
        let reload = proxy.control().reload(Cause::Signal).await;
        match &reload.outcome {
            Outcome::Taken { .. } if round % 2 == 0 => taken += 1,
            Outcome::Refused { .. } if round % 2 == 1 => refused += 1,
            other @ (Outcome::Unchanged | Outcome::Taken { .. } | Outcome::Refused { .. }) => {
                panic!("round {round}: {other:#?}")
            }
        }
        until("requests go on", || load.answered() >= before + 10).await;
    }
    let answered = load.end().await;
    assert_eq!(taken + refused, rounds());
    println!("{taken} taken, {refused} refused, {answered} requests, none failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_secrets_and_certificates_change() {
    let directory = private_directory();
    let file = directory.path().join("key");
    fs::write(&file, "key-0").unwrap();
    let upstream = Upstream::fine().await;
    let authority = Authority::new();
    authority.write_server("localhost");
    let at = |name: &str| path(&authority.directory().join(name));
    let config = format!(
        "workers = 2\n[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = {}, key = {} }}\n\
         [credential.key]\nkind = \"fields\"\nset = {{ X-Key = {{ file = {} }} }}\n{}",
        at("server.pem"),
        at("server.key"),
        quoted(file.to_str().unwrap()),
        route(&upstream.url(), "key", ""),
    );
    let proxy = Proxy::start(&config).await;
    let mut load = Load::new();
    load.add(proxy.addresses()[0], "GET", "/");
    load.add(proxy.addresses()[0], "POST", "/");
    // A handshake each time.
    let (secure, connector) = (proxy.addresses()[1], authority.connector(None, &[]));
    let shown = Arc::new(std::sync::Mutex::new(Vec::<Vec<u8>>::new()));
    let (stop, seen) = (Arc::clone(&load.stop), Arc::clone(&shown));
    load.callers.spawn(async move {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let asked = async {
                let tcp = TcpStream::connect(secure).await?;
                let name = ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, tcp).await?;
                let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let mut connection =
                    Connection::over(stream, &format!("localhost:{}", secure.port())).await;
                let asked = connection.try_send(request("GET", "/", &[], whole(""))).await;
                let reply = asked.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((certificate, reply.status))
            };
            match asked.await {
                Ok((certificate, 200)) => {
                    let mut seen = seen.lock().unwrap();
                    if seen.last() != Some(&certificate) {
                        seen.push(certificate);
                    }
                }
                other => failed.push(format!("{other:?}")),
            }
        }
        failed
    });
    until("the first certificate is shown", || shown.lock().unwrap().len() == 1).await;
    for number in 1..=2 {
        let value = format!("key-{number}");
        fs::write(directory.path().join("next"), &value).unwrap();
        fs::rename(directory.path().join("next"), &file).unwrap();
        authority.write_server("localhost");
        until("the new key is sent", || {
            upstream.seen().last().is_some_and(|seen| seen.values("x-key") == [&*value])
        })
        .await;
        until("the new certificate is shown", || shown.lock().unwrap().len() > number).await;
    }
    assert!(load.end().await > 0);
}
