//! One credential, many devices: each logs in by itself, and none touches another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::app::StartError;
use countersign::mock::twinzo::{Account, Options};
use countersign::mock::{Failure, StandIn, twinzo};
use http_body_util::Full;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::authority::{Authority, for_clients, path};
use crate::harness::{
    ANY_PORT, Act, Connection, Faulty, Proxy, Reply, Upstream, is_data, private_directory, quoted,
    route, until,
};

/// A twinzo stand-in with accounts for so many devices.
async fn fleet(devices: usize) -> StandIn {
    let accounts = (1..=devices).map(Account::of_device).collect();
    twinzo::start(ANY_PORT, Options { accounts, ..Options::default() }).await.unwrap()
}

/// The file of devices, where others cannot read it.
struct File {
    directory: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = private_directory();
        let path = directory.path().join("devices.csv");
        std::fs::write(&path, text).unwrap();
        Self { directory, path }
    }

    /// Replaced as a whole, as editors and deployments do.
    fn replace(&self, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.path).unwrap();
    }
}

/// `device-1` and so on, with the accounts of the stand-in.
fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut text = "device,login,password\n".to_owned();
    for number in numbers {
        let Account { login, password, .. } = Account::of_device(number);
        writeln!(text, "device-{number},{login},{password}").unwrap();
    }
    text
}

/// The credential `plant`, all of whose devices are in `file`.
fn plant(stand_in: &StandIn, file: &File, refresh: &str) -> String {
    format!(
        "[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
         devices = {}\n[credential.plant.refresh]\nmax_logins_per_second = 1000\n{refresh}\n",
        quoted(&stand_in.url()),
        quoted(&file.path.to_string_lossy()),
    )
}

const BY_HEADER: &str = "identity = { header = \"X-Device\" }\n";

async fn start(devices: usize) -> (StandIn, File, Proxy) {
    let stand_in = fleet(devices).await;
    let file = File::new(&lines(1..=devices));
    let config = plant(&stand_in, &file, "") + &route(&stand_in.url(), "plant", BY_HEADER);
    let proxy = Proxy::start(&config).await;
    (stand_in, file, proxy)
}

async fn of(proxy: &Proxy, device: &str) -> Reply {
    proxy.send("GET", "/v3/devices", &[("X-Device", device)], "").await
}

#[tokio::test]
async fn every_device_calls_with_a_token_of_its_own() {
    let (stand_in, _file, proxy) = start(300).await;
    let recorder = stand_in.recorder();
    assert_eq!(recorder.token_calls(), 0, "nobody asked yet");
    for _ in 0..2 {
        let mut requests = JoinSet::new();
        for number in 1..=300 {
            let address = proxy.address();
            requests.spawn(async move {
                let mut connection = Connection::open(address).await;
                let device = format!("device-{number}");
                let fields = [("X-Device", device.as_str())];
                let reply = connection.send("GET", "/v3/devices", &fields, "").await;
                (number, reply.status)
            });
        }
        for (number, status) in requests.join_all().await {
            assert_eq!(status, 200, "device-{number}");
        }
    }
    assert_eq!(recorder.logins(), 300, "one for each");
    assert_eq!(recorder.count_where(|recorded| !recorded.accepted), 0);
    let mut tokens = BTreeMap::new();
    for recorded in recorder.all().iter().filter(|recorded| is_data(recorded)) {
        assert!(!recorded.headers.contains_key("x-device"));
        let token = recorded.headers.get("token").unwrap().to_str().unwrap().to_owned();
        *tokens.entry(token).or_insert(0) += 1;
    }
    assert_eq!(tokens.len(), 300);
}

#[tokio::test]
async fn two_hundred_first_requests_of_one_device_share_one_login() {
    let (stand_in, _file, proxy) = start(2).await;
    stand_in.switches().set_token_latency(Duration::from_millis(300));
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let address = proxy.address();
        requests.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("GET", "/v3/devices", &[("X-Device", "device-1")], "").await.status
        });
    }
    assert_eq!(requests.join_all().await, [200; 200]);
    assert_eq!(stand_in.recorder().token_calls(), 1);
}

#[tokio::test]
async fn who_is_unknown_or_says_nothing_is_refused_and_no_login_is_tried() {
    let (stand_in, _file, proxy) = start(1).await;
    for (fields, word) in [
        (&[("X-Device", "device-2")][..], "device"),
        (&[("X-Device", "DEVICE-1")], "device"),
        (&[("X-Device", "")], "device-missing"),
        (&[], "device-missing"),
        (&[("Connection", "X-Device")], "device-missing"),
    ] {
        let reply = proxy.send("POST", "/v3/localization", fields, "{}").await;
        assert_eq!(reply.problem(403, "http_request_denied"), word, "{fields:?}");
        assert!(!reply.text().contains("device-2"), "{fields:?}");
    }
    let twice = [("X-Device", "device-1"), ("X-Device", "device-1")];
    let reply = proxy.send("GET", "/v3/devices", &twice, "").await;
    assert_eq!(reply.problem(400, "http_request_error"), "malformed");
    assert!(stand_in.recorder().all().is_empty());
    // Naming it in Connection does not hide who it is.
    let hidden = [("X-Device", "device-1"), ("Connection", "X-Device")];
    assert_eq!(proxy.send("GET", "/v3/devices", &hidden, "").await.status, 200);
}

#[tokio::test]
async fn a_refused_device_is_tried_once_and_the_others_do_not_notice() {
    let stand_in = fleet(2).await;
    let file = File::new(
        "device,login,password\ngood,device-000001,password-000001\nbad,device-000002,wrong\n",
    );
    let config = plant(&stand_in, &file, "") + &route(&stand_in.url(), "plant", BY_HEADER);
    let proxy = Proxy::start(&config).await;
    for _ in 0..5 {
        let reply = of(&proxy, "bad").await;
        assert_eq!(reply.problem(502, "proxy_configuration_error"), "credential-refused");
        assert_eq!(reply.field("retry-after"), "", "nobody should try again soon");
        assert_eq!(of(&proxy, "good").await.status, 200);
    }
    let recorder = stand_in.recorder();
    assert_eq!(recorder.token_calls(), 2, "one for each");
    assert_eq!(recorder.count_where(is_data), 5);
    // With another password it is another attempt.
    file.replace(&lines([1, 2]).replace("device-1,", "good,").replace("device-2,", "bad,"));
    let mut status = 0;
    for _ in 0..200 {
        status = of(&proxy, "bad").await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 200);
    assert_eq!(of(&proxy, "good").await.status, 200);
    assert_eq!(recorder.logins(), 2, "the other one keeps its token");
}

#[tokio::test]
async fn a_401_replaces_the_token_of_one_device_and_the_request_is_sent_again() {
    let stand_in = fleet(2).await;
    let file = File::new(&lines(1..=2));
    // The data go to a server that refuses the first token of one device.
    let refused = std::sync::Mutex::new(None::<String>);
    let upstream = Faulty::start(move |request| {
        let token = request.field("token").unwrap_or_default().to_owned();
        let mut refused = refused.lock().unwrap();
        if request.target() == "/refuse" && refused.is_none() {
            *refused = Some(token.clone());
        }
        if refused.as_ref() == Some(&token) {
            return Act::Say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".into());
        }
        Act::Fine
    })
    .await;
    let config = plant(&stand_in, &file, "") + &route(&upstream.url(), "plant", BY_HEADER);
    let proxy = Proxy::start(&config).await;
    for device in ["device-1", "device-2"] {
        let reply = proxy.send("GET", "/fine", &[("X-Device", device)], "").await;
        assert_eq!(reply.status, 200);
    }
    let reply = proxy.send("POST", "/refuse", &[("X-Device", "device-1")], "once more").await;
    assert_eq!(reply.status, 200, "with another token");
    assert_eq!(upstream.count("POST", "/refuse"), 2);
    assert_eq!(stand_in.recorder().logins(), 3);
    let before = upstream.received().len();
    let reply = proxy.send("GET", "/fine", &[("X-Device", "device-2")], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.received().len(), before + 1);
    assert_eq!(stand_in.recorder().token_calls(), 3, "its own token is good as ever");
}

#[tokio::test]
async fn a_changed_file_adds_and_removes_devices_and_a_broken_one_changes_nothing() {
    let (stand_in, file, proxy) = start(2).await;
    let recorder = stand_in.recorder();
    assert_eq!(of(&proxy, "device-1").await.status, 200);
    assert_eq!(of(&proxy, "device-2").await.status, 200);
    let census = || proxy.identity("plant").cache.devices().unwrap().census();
    file.replace(&format!("{}device-1,twice,there\n", lines([1, 1, 3])));
    // It is looked at every two seconds; the next file shows that this one was seen.
    for _ in 0..30 {
        assert_eq!(census().known, 2);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    file.replace(&lines([1, 3, 4]).replace("password-000004", "wrong"));
    until("the file was read again", || census().known == 3).await;
    assert_eq!(of(&proxy, "device-2").await.problem(403, "http_request_denied"), "device");
    assert_eq!(of(&proxy, "device-1").await.status, 200);
    assert_eq!(recorder.logins(), 2, "an unchanged device keeps its token");
    std::fs::remove_file(&file.path).unwrap();
    assert_eq!(of(&proxy, "device-1").await.status, 200);
    assert_eq!(census().known, 3);
}

#[tokio::test]
async fn a_route_finds_the_device_where_it_is_told_to_look() {
    let stand_in = fleet(2).await;
    let mut text = lines(1..=2);
    text.push_str("127.0.0.1,device-000001,password-000001\n");
    let file = File::new(&text);
    let mut config = plant(&stand_in, &file, "");
    for (path, identity) in [
        ("/segment", "{ path_segment = 1 }"),
        ("/second", "{ path_segment = 2 }"),
        ("/query", "{ query = \"device\" }"),
        ("/basic", "{ basic_user = true }"),
        ("/address", "{ source_ip = true }"),
    ] {
        writeln!(
            config,
            "[[route]]\npath = \"{path}\"\nupstream = {}\ncredential = \"plant\"\n\
             identity = {identity}\n",
            quoted(&stand_in.url()),
        )
        .unwrap();
    }
    let proxy = Proxy::start(&config).await;
    let user = |name: &str| format!("Basic {}", STANDARD.encode(format!("{name}:whatever")));
    let (known, unknown) = (user("device-2"), user("device-3"));
    for (target, authorization, status, seen) in [
        ("/segment/device-1/v3/devices?a=1", "", 200, "/v3/devices?a=1"),
        ("/segment/device-3/v3/devices", "", 403, ""),
        ("/segment", "", 403, ""),
        ("/second/v3/device-1/devices", "", 200, "/v3/devices"),
        ("/query/v3/devices?a=1&device=device-1&b", "", 200, "/v3/devices?a=1&b"),
        ("/query/v3/devices?device=device-3", "", 403, ""),
        ("/query/v3/devices", "", 403, ""),
        ("/basic/v3/devices", known.as_str(), 200, "/v3/devices"),
        ("/basic/v3/devices", unknown.as_str(), 403, ""),
        ("/basic/v3/devices", "", 403, ""),
        ("/address/v3/devices", "", 200, "/v3/devices"),
        // What is closed is not reached by what stands in front of it.
        ("/segment/device-1/v3/authorization/token", "", 403, ""),
        ("/second/v3/device-1/authorization/token", "", 403, ""),
        ("/second/v3/device-1/%61uthorization/token", "", 403, ""),
    ] {
        stand_in.recorder().clear();
        let fields = [("Authorization", authorization)];
        let fields = if authorization.is_empty() { &[][..] } else { &fields[..] };
        let reply = proxy.send("GET", target, fields, "").await;
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        let sent = stand_in.recorder().all().into_iter().find(is_data);
        assert_eq!(sent.as_ref().map_or("", |sent| &sent.target), seen, "{target}");
        if let Some(sent) = sent {
            assert!(sent.headers.get("authorization").is_none(), "{target}");
        }
    }
}

#[tokio::test]
async fn a_certificate_names_the_device() {
    let (authority, clients) = (Authority::new(), Authority::new());
    authority.write_server("localhost");
    let at = |name: &str| path(&authority.directory().join(name));
    let listen = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = {}, key = {}, \
         client_ca = {} }}\n",
        at("server.pem"),
        at("server.key"),
        path(&clients.ca()),
    );
    let stand_in = fleet(2).await;
    let file = File::new(&lines(1..=2).replace("device-1,", "line-1.plant.test,"));
    let identity = "identity = { client_certificate = \"san\" }\n";
    let config = listen + &plant(&stand_in, &file, "") + &route(&stand_in.url(), "plant", identity);
    let proxy = Proxy::start(&config).await;
    for (name, status) in [("line-1.plant.test", 200), ("line-2.plant.test", 403)] {
        let own = clients.issue(name, for_clients);
        let connector = authority.connector(Some(&own), &[]);
        let tcp = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        let server = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(server, tcp).await.unwrap();
        let host = format!("localhost:{}", proxy.address().port());
        let mut connection = Connection::over(stream, &host).await;
        // What the caller says itself makes no difference.
        let fields = [("X-Device", "line-1.plant.test")];
        let reply = connection.send("GET", "/v3/devices", &fields, "").await;
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
    }
    assert_eq!(stand_in.recorder().logins(), 1);
}

#[tokio::test]
async fn a_token_endpoint_that_wants_to_be_left_alone_is_and_all_are_served_in_the_end() {
    let (stand_in, _file, proxy) = start(40).await;
    let failure = Failure::TooManyRequests { retry_after: Some(2) };
    stand_in.switches().fail_token_calls(failure, Some(1));
    let mut requests = JoinSet::new();
    for number in 1..=40 {
        let address = proxy.address();
        requests.spawn(async move {
            let mut connection = Connection::open(address).await;
            let device = format!("device-{number}");
            connection.send("GET", "/v3/devices", &[("X-Device", &device)], "").await.status
        });
    }
    assert_eq!(requests.join_all().await, [200; 40]);
    assert_eq!(stand_in.recorder().logins(), 40);
    assert_eq!(stand_in.recorder().token_calls(), 41);
}

#[tokio::test]
async fn kinds_without_a_login_have_devices_too() {
    let upstream = Faulty::always(Act::Fine).await;
    let directory = private_directory();
    let key = directory.path().join("key");
    std::fs::write(&key, "key-of-two\n").unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        quoted(&path.to_string_lossy())
    };
    let bearer = file("bearer.csv", "device,token\none,token-1\ntwo,token-2\n");
    let basic = file("basic.json", r#"[{"device":"one","username":"u","password":"p"}]"#);
    let hmac = file(
        "hmac.toml",
        &format!(
            "[[device]]\ndevice = \"one\"\nkey = \"k1\"\nid = \"id-1\"\n[[device]]\n\
             device = \"two\"\nkey = {}\nid = \"id-2\"\n",
            quoted(&format!("file:{}", key.display()))
        ),
    );
    let mut config = format!(
        "[credential.bearer]\nkind = \"bearer\"\ndevices = {bearer}\n\
         [credential.basic]\nkind = \"basic\"\ndevices = {basic}\n\
         [credential.hmac]\nkind = \"hmac\"\ndevices = {hmac}\nbase = [\"path\"]\n\
         set = {{ X-Id = \"{{id}}\", X-Sign = \"{{signature}}\" }}\n"
    );
    for kind in ["bearer", "basic", "hmac"] {
        write!(
            config,
            "[[route]]\npath = \"/{kind}\"\nupstream = {}\ncredential = \"{kind}\"\n{BY_HEADER}",
            quoted(&upstream.url())
        )
        .unwrap();
    }
    let proxy = Proxy::start(&config).await;
    let sign = |key: &str| {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let mut hmac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
        hmac.update(b"/x");
        hex::encode(hmac.finalize().into_bytes())
    };
    for (target, device, field, value) in [
        ("/bearer/x", "one", "authorization", "Bearer token-1".to_owned()),
        ("/bearer/x", "two", "authorization", "Bearer token-2".to_owned()),
        ("/basic/x", "one", "authorization", format!("Basic {}", STANDARD.encode("u:p"))),
        ("/hmac/x", "one", "x-id", "id-1".to_owned()),
        ("/hmac/x", "one", "x-sign", sign("k1")),
        ("/hmac/x", "two", "x-sign", sign("key-of-two")),
    ] {
        let reply = proxy.send("GET", target, &[("X-Device", device)], "").await;
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        assert_eq!(upstream.last().field(field), Some(value.as_str()), "{target}");
    }
}

#[tokio::test]
async fn a_redirect_of_the_upstream_leads_the_device_back_to_its_own_place() {
    let upstream = Upstream::answering(|_| {
        let moved = http::Response::builder().status(302).header("location", "/base/next?a=1");
        moved.body(Full::default()).unwrap()
    })
    .await;
    let file = File::new("device,token\nline 1,token-1\n");
    let config = format!(
        "[credential.each]\nkind = \"bearer\"\ndevices = {}\n\
         [[route]]\npath = \"/t\"\nupstream = {}\ncredential = \"each\"\n\
         identity = {{ path_segment = 1 }}\n",
        quoted(&file.path.to_string_lossy()),
        quoted(&format!("{}/base", upstream.url())),
    );
    let proxy = Proxy::start(&config).await;
    let reply = proxy.get("/t/line%201/x").await;
    assert_eq!(reply.status, 302);
    assert_eq!(reply.field("location"), "/t/line%201/next?a=1");
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_fails_one_device() {
    let stand_in = fleet(1).await;
    let file = File::new(&format!("{}lost,x,file:/does/not/exist\n", lines([1])));
    let config = plant(&stand_in, &file, "") + &route(&stand_in.url(), "plant", BY_HEADER);
    let proxy = Proxy::start(&config).await;
    let reply = of(&proxy, "lost").await;
    assert_eq!(reply.problem(503, "destination_unavailable"), "credential-unavailable");
    assert!(!reply.text().contains("/does/not"), "{}", reply.text());
    assert_eq!(of(&proxy, "device-1").await.status, 200);
    assert_eq!(stand_in.recorder().token_calls(), 1);
}

#[tokio::test]
async fn a_broken_file_is_told_at_start_with_all_its_lines() {
    let stand_in = fleet(1).await;
    let file = File::new("device,login,password\na,b\na,b,c\na,b,c\n");
    let config = plant(&stand_in, &file, "") + &route(&stand_in.url(), "plant", BY_HEADER);
    match Proxy::try_start(&config).await.map(drop) {
        Err(StartError::Devices(errors)) => {
            let problems: Vec<String> =
                errors[0].problems.iter().map(ToString::to_string).collect();
            assert_eq!(problems.len(), 2, "{problems:?}");
            assert!(problems[0].starts_with("line 2: "), "{problems:?}");
            assert!(problems[1].starts_with("line 4: "), "{problems:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_of_a_device_is_shown_by_debug() {
    let (_stand_in, _file, proxy) = start(1).await;
    assert_eq!(of(&proxy, "device-1").await.status, 200);
    let shown = proxy.debug();
    assert!(shown.contains("DevicePool"), "{shown}");
    assert!(!shown.contains("password-000001"));
}

/// What stood in front of a closed path does not open it, in whatever way it is written.
#[tokio::test]
async fn a_segment_that_is_taken_out_opens_no_closed_path() {
    let stand_in = fleet(1).await;
    let file = File::new(&lines(1..=1));
    let config = plant(&stand_in, &file, "")
        + &format!(
            "[[route]]\npath = \"/t\"\nupstream = {}\ncredential = \"plant\"\n\
             identity = {{ path_segment = 1 }}\ndeny = [\"/t/v3/secret\"]\n",
            quoted(&stand_in.url()),
        );
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/t/device-1/v3/devices").await.status, 200);
    for closed in [
        "v3/secret",
        "v3/%73ecret",
        "v3/secret;x",
        "v3/x/%2e%2e/secret",
        "v3//secret",
        "v3%2fsecret",
    ] {
        let reply = proxy.get(&format!("/t/device-1/{closed}")).await;
        assert!([400, 403].contains(&reply.status), "{closed}: {}", reply.status);
        let calls = stand_in.recorder().all();
        assert!(calls.iter().all(|call| !call.target.contains("ecret")), "{closed}");
    }
}
