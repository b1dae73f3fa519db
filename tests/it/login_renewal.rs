//! Renewals of a declared login: a value that may be used up is not sent twice, and what a renewal
//! carries is what is configured today.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::app;
use countersign::clock::Clock;
use countersign::credential::secrets::Secrets;
use countersign::credential::source::Source;
use countersign::credential::{Credential, CredentialSource as _, FetchError};
use countersign::permissions::Check;
use countersign::secret::Secret;
use countersign::values::Values;
use tokio::time::timeout;

use crate::harness::authority::path;
use crate::harness::upstream::answer;
use crate::harness::{
    Act, Faulty, PATIENCE, Proxy, Upstream, load, private_directory, route, secret, until,
};

/// An API with a login and a renewal whose value is replaced at each use.
struct Api {
    server: Faulty,
    script: Arc<Mutex<VecDeque<Act>>>,
}

fn say(status: &str, content: &str) -> Act {
    let length = content.len();
    Act::Say(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{content}"))
}

impl Api {
    /// Grants everything that the script does not say otherwise.
    async fn start() -> Self {
        let script: Arc<Mutex<VecDeque<Act>>> = Arc::default();
        let (acts, count) = (Arc::clone(&script), Mutex::new(0));
        let server = Faulty::start(move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let granted = format!("{{\"token\":\"t{count}\",\"refresh\":\"r{count}\"}}");
            acts.lock().unwrap().pop_front().unwrap_or_else(|| say("200 OK", &granted))
        })
        .await;
        Self { server, script }
    }

    fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().unwrap().extend(acts);
    }

    fn config(&self) -> String {
        let url = self.server.url();
        format!(
            "[credential.api]\nkind = \"login\"\nlifetime = \"1h\"\n\
             request = {{ url = \"{url}/login\", json = {{ p = \"{{password}}\" }} }}\n\
             renew = {{ url = \"{url}/renew\", body = \"{{refresh}}\" }}\n\
             secrets = {{ password = {} }}\n\
             values = {{ token = \"/token\", refresh = \"/refresh\" }}\n\
             set = {{ Authorization = \"Bearer {{token}}\" }}\n",
            secret("canary-password"),
        )
    }

    async fn source(&self) -> Source {
        let config = load(&(self.config() + &route("http://127.0.0.1:1", "api", "")));
        let credential = &config.credentials[0];
        let secrets = Secrets::resolve(credential.secrets(), Check::Strict).await.unwrap();
        app::source(credential, &Arc::new(secrets), &Clock::system()).unwrap()
    }

    /// Where it was asked, and with which value if for a renewal.
    fn asked(&self) -> Vec<String> {
        let received = self.server.received();
        let asked = received.iter().map(|received| {
            let content = received.content.clone().unwrap_or_default();
            let renews = received.target() == "/renew";
            let content = if renews { String::from_utf8(content).unwrap() } else { String::new() };
            format!("{} {content}", received.target()).trim_end().to_owned()
        });
        asked.collect()
    }
}

async fn fetch(source: &Source, current: Option<&Credential>) -> Result<Credential, FetchError> {
    timeout(PATIENCE, source.fetch(current)).await.expect("it does not end")
}

#[tokio::test]
async fn what_may_be_used_up_is_not_sent_a_second_time() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"token\":";
    for doubtful in [
        Act::Close,
        Act::Reset,
        Act::PartialHead,
        Act::SayThenClose(cut.to_owned()),
        say("200 OK", "<html>"),
        say("401 Unauthorized", ""),
    ] {
        let what = format!("{doubtful:?}");
        let api = Api::start().await;
        let source = api.source().await;
        let current = fetch(&source, None).await.unwrap();
        // Nor does a login succeed, so that the next attempt has the same to renew with.
        api.will([doubtful, say("500 Oh no", ""), say("500 Oh no", "")]);
        for _ in 0..2 {
            assert!(fetch(&source, Some(&current)).await.is_err(), "{what}");
        }
        let renewed = fetch(&source, Some(&current)).await.unwrap();
        assert_eq!(api.asked(), ["/login", "/renew r1", "/login", "/login", "/login"], "{what}");
        // What that login brought is good.
        fetch(&source, Some(&renewed)).await.unwrap();
        assert_eq!(api.asked()[5..], ["/renew r5"], "{what}");
    }
}

#[tokio::test]
async fn a_renewal_that_is_cut_off_is_not_made_again_with_the_same_value() {
    let api = Api::start().await;
    let source = api.source().await;
    let current = fetch(&source, None).await.unwrap();
    api.will([Act::Silent]);
    tokio::select! {
        fetched = source.fetch(Some(&current)) => panic!("{fetched:?}"),
        // Here the attempt is cut off, as the time limit does.
        () = until("it is asked", || api.asked().len() == 2) => {}
    }
    fetch(&source, Some(&current)).await.unwrap();
    assert_eq!(api.asked(), ["/login", "/renew r1", "/login"]);
}

#[tokio::test]
async fn what_the_api_has_not_used_is_sent_again() {
    let api = Api::start().await;
    let source = api.source().await;
    let current = fetch(&source, None).await.unwrap();
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    api.will([Act::Say(busy.to_owned()), say("500 Oh no", ""), say("500 Oh no", "")]);
    for _ in 0..2 {
        assert!(fetch(&source, Some(&current)).await.is_err());
    }
    fetch(&source, Some(&current)).await.unwrap();
    let asked = ["/login", "/renew r1", "/renew r1", "/login", "/renew r1"];
    assert_eq!(api.asked(), asked);
    // One that is not replaced is good for ever.
    let same = Credential { values: current.values.clone(), ..Credential::default() };
    fetch(&source, Some(&same)).await.unwrap();
    assert_eq!(api.asked()[5..], ["/renew r1"]);
}

#[tokio::test]
async fn what_is_in_doubt_for_one_device_is_not_for_another() {
    let api = Api::start().await;
    let source = api.source().await;
    let current = |refresh: &str| {
        let values = [("token", Secret::new("t")), ("refresh", Secret::new(refresh))];
        Credential { values: Values::from_iter(values), ..Credential::default() }
    };
    api.will([Act::Close, say("500 Oh no", "")]);
    assert!(fetch(&source, Some(&current("one"))).await.is_err());
    fetch(&source, Some(&current("two"))).await.unwrap();
    fetch(&source, Some(&current("one"))).await.unwrap();
    assert_eq!(api.asked(), ["/renew one", "/login", "/renew two", "/login"]);
}

/// The key goes with requests and with renewals, and stands in a file of the device's own.
#[tokio::test]
async fn a_replaced_key_of_a_device_is_used_with_the_next_renewal() {
    let counted = Upstream::answering(|_| answer(200, "{\"token\":\"t\",\"lives\":1}")).await;
    let directory = private_directory();
    let key = directory.path().join("key");
    std::fs::write(&key, "old").unwrap();
    let devices = directory.path().join("devices.csv");
    std::fs::write(&devices, format!("device,key\nline-1,file:{}\n", key.display())).unwrap();
    let url = counted.url();
    let config = format!(
        "[credential.api]\nkind = \"login\"\ndevices = {}\n\
         request = {{ url = \"{url}/login\", json = {{ key = \"{{key}}\" }} }}\n\
         renew = {{ url = \"{url}/renew\", body = \"{{token}} {{key}}\" }}\n\
         values = {{ token = \"/token\" }}\nexpires = {{ in_s = \"/lives\" }}\n\
         set = {{ Authorization = \"Bearer {{token}}\", X-Key = \"{{key}}\" }}\n{}",
        path(&devices),
        route(&url, "api", "identity = { header = \"X-Device\" }\n"),
    );
    let proxy = Proxy::start(&config).await;
    let key_of_a_request = async || {
        let reply = proxy.send("GET", "/x", &[("X-Device", "line-1")], "").await;
        assert_eq!(reply.status, 200);
        let seen = counted.seen();
        let last = seen.iter().rfind(|seen| seen.target == "/x").unwrap();
        last.values("x-key").concat()
    };
    assert_eq!(key_of_a_request().await, "old");
    std::fs::write(&key, "new").unwrap();
    let renewed_with = |key: &str| {
        let content = format!("t {key}");
        counted.seen().iter().filter(|seen| seen.body == content.as_bytes()).count()
    };
    until("it is renewed with the new one", || renewed_with("new") >= 1).await;
    let give_up_at = tokio::time::Instant::now() + PATIENCE;
    while key_of_a_request().await != "new" {
        assert!(tokio::time::Instant::now() < give_up_at, "it is never used");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let logins = counted.seen().iter().filter(|seen| seen.target == "/login").count();
    assert_eq!(logins, 1, "there was no need for another");
}
