//! Tokens of devices in a file: a restart logs none of them in.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign::mock::twinzo::{Account, Options};
use countersign::mock::{Failure, StandIn, twinzo};
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::program::Program;
use crate::harness::upstream::Seen;
use crate::harness::{ANY_PORT, Connection, Place, Upstream, quoted, secret, until};

/// A directory with a file of devices.
fn place(devices: &str) -> Place {
    Place::with(&[("devices.csv", devices)])
}

/// `[token_store]` in `place`.
fn store_in(place: &Place) -> String {
    place.store(&secret("canary-key-0123456789abcdef"))
}

/// Each device of `names` asks once, over a few connections side by side; the statuses.
async fn ask(program: &Program, names: &[String]) -> Vec<u16> {
    const CONNECTIONS: usize = 64;
    let mut asking = JoinSet::new();
    for share in names.chunks(names.len().div_ceil(CONNECTIONS)) {
        let (share, address) = (share.to_vec(), program.address());
        asking.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut statuses = Vec::new();
            for name in share {
                let fields = [("X-Device", name.as_str())];
                let reply = connection.send("GET", "/v3/echo", &fields, "").await;
                statuses.push((name, reply.status));
            }
            statuses
        });
    }
    let statuses: HashMap<String, u16> = asking.join_all().await.into_iter().flatten().collect();
    names.iter().map(|name| statuses[name]).collect()
}

/// A number that the environment may set, for runs that take longer.
fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

fn plant(stand_in: &StandIn, place: &Place, refresh: &str) -> String {
    let url = quoted(&stand_in.url());
    format!(
        "{}[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {url}\nclient = \"acme\"\n\
         devices = {}\n[credential.plant.refresh]\nmax_logins_per_second = 100000\n\
         max_concurrent_logins = 64\n{refresh}\n\
         [[route]]\nupstream = {url}\ncredential = \"plant\"\n\
         identity = {{ header = \"X-Device\" }}\n",
        store_in(place),
        place.quoted("devices.csv"),
    )
}

async fn fleet(devices: usize) -> (StandIn, Place, Vec<String>) {
    let accounts = (1..=devices).map(Account::of_device).collect();
    let options = Options { accounts, ..Options::default() };
    let stand_in = twinzo::start(ANY_PORT, options).await.unwrap();
    let mut text = "device,login,password\n".to_owned();
    for number in 1..=devices {
        let Account { login, password, .. } = Account::of_device(number);
        writeln!(text, "device-{number},{login},{password}").unwrap();
    }
    let names = (1..=devices).map(|number| format!("device-{number}")).collect();
    (stand_in, place(&text), names)
}

/// With `COUNTERSIGN_TEST_DEVICES=10000` for as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_logs_in_none_of_thousands_of_devices() {
    let devices = number("COUNTERSIGN_TEST_DEVICES", 2_000);
    let (stand_in, place, names) = fleet(devices).await;
    let recorder = stand_in.recorder();
    let config = plant(&stand_in, &place, "");
    let program = Program::start(&config).await;
    let begun = Instant::now();
    assert_eq!(ask(&program, &names).await, vec![200; devices]);
    let first = begun.elapsed();
    assert_eq!(recorder.token_calls(), devices as u64);
    // From now on nobody could log in.
    stand_in.switches().fail_token_calls(Failure::CloseConnection, None);
    let mut took = Vec::new();
    let mut program = Some(program);
    for signal in ["-TERM", "-KILL", "-KILL"] {
        let mut former = program.take().unwrap();
        former.signal(signal);
        assert_eq!(former.ended().await.success(), signal == "-TERM", "{:#?}", former.log());
        let next = Program::start(&config).await;
        let begun = Instant::now();
        assert_eq!(ask(&next, &names).await, vec![200; devices], "after {signal}");
        took.push(begun.elapsed());
        assert_eq!(next.panics(), [""; 0]);
        program = Some(next);
    }
    assert_eq!(recorder.token_calls(), devices as u64, "not one more");
    assert_eq!(recorder.refused(), 0);
    eprintln!("{devices} devices: {first:?} with logins, {took:?} after restarts");
}

#[tokio::test]
async fn a_device_s_token_is_bound_to_its_own_password_and_a_refused_one_is_not_found_again() {
    let (stand_in, place, names) = fleet(3).await;
    let recorder = stand_in.recorder();
    let config = plant(&stand_in, &place, "");
    let mut program = Program::start(&config).await;
    assert_eq!(ask(&program, &names).await, [200; 3]);
    program.signal("-TERM");
    assert!(program.ended().await.success());
    let text = fs::read_to_string(place.path("devices.csv")).unwrap();
    let changed = text.replace("password-000002", "another");
    assert_ne!(text, changed);
    fs::write(place.path("devices.csv"), changed).unwrap();
    let mut program = Program::start(&config).await;
    assert_eq!(ask(&program, &names).await, [200, 502, 200]);
    assert_eq!((recorder.logins(), recorder.token_calls()), (3, 4));

    stand_in.switches().revoke_all();
    stand_in.switches().fail_token_calls(Failure::ServerError, None);
    let one = &names[..1];
    assert_ne!(ask(&program, one).await, [200]);
    until("it tried again", || recorder.token_calls() >= 5).await;
    program.signal("-KILL");
    program.ended().await;
    let refused = recorder.refused();
    stand_in.switches().fail_token_calls(Failure::None, None);
    let program = Program::start(&config).await;
    assert_eq!(ask(&program, one).await, [200]);
    assert_eq!((recorder.logins(), recorder.refused()), (4, refused));
    let bytes = fs::read(place.path("tokens")).unwrap();
    for text in ["device-1", "device-000001", "password-000001", "canary", "plant"] {
        let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!found, "{text} stands in the file");
    }
    drop(program);
}

/// An API whose values for renewals are good once.
#[derive(Default)]
struct Rotating {
    issued: usize,
    logins: usize,
    renewals: usize,
    used: HashSet<String>,
    used_twice: usize,
}

impl Rotating {
    fn answer(&mut self, seen: &Seen) -> Response<Full<Bytes>> {
        let content: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let answer = |status: u16, content: String| {
            Response::builder().status(status).body(Full::from(content)).unwrap()
        };
        match seen.target.as_str() {
            "/login" => self.logins += 1,
            "/renew" => {
                let value = content["refresh"].as_str().unwrap_or_default().to_owned();
                if !self.used.insert(value) {
                    self.used_twice += 1;
                    return answer(401, String::new());
                }
                self.renewals += 1;
            }
            _ => return answer(200, String::new()),
        }
        self.issued += 1;
        let reply = json!({
            "token": format!("token-{}", self.issued),
            "refresh": format!("refresh-{}", self.issued),
            "lives": 2,
        });
        answer(200, reply.to_string())
    }
}

/// With `COUNTERSIGN_TEST_ROUNDS=300` for as many kills.
#[tokio::test]
async fn a_process_that_is_killed_while_tokens_of_devices_rotate_loses_what_was_in_flight_at_most()
{
    const DEVICES: usize = 20;
    let rounds = number("COUNTERSIGN_TEST_ROUNDS", 20);
    let state: Arc<Mutex<Rotating>> = Arc::default();
    let answering = Arc::clone(&state);
    let upstream = Upstream::answering(move |seen| answering.lock().unwrap().answer(seen)).await;
    let names: Vec<String> = (1..=DEVICES).map(|number| format!("d{number}")).collect();
    let mut lines = "device,password\n".to_owned();
    for name in &names {
        writeln!(lines, "{name},password of {name}").unwrap();
    }
    let place = place(&lines);
    let url = upstream.url();
    let config = format!(
        "{}[credential.fleet]\nkind = \"login\"\n\
         request = {{ url = \"{url}/login\", json = {{ p = \"{{password}}\" }} }}\n\
         renew = {{ url = \"{url}/renew\", json = {{ refresh = \"{{refresh}}\" }} }}\n\
         values = {{ token = \"/token\", refresh = \"/refresh\" }}\n\
         expires = {{ in_s = \"/lives\" }}\n\
         set = {{ Authorization = \"Bearer {{token}}\" }}\n\
         refresh = {{ margin = \"75%\", max_logins_per_second = 10000 }}\n\
         devices = {}\n\
         [[route]]\nupstream = \"{url}\"\ncredential = \"fleet\"\n\
         identity = {{ header = \"X-Device\" }}\n",
        store_in(&place),
        place.quoted("devices.csv"),
    );
    for round in 0..rounds {
        let mut program = Program::start(&config).await;
        let statuses = ask(&program, &names).await;
        assert_eq!(statuses, [200; DEVICES], "round {round}: {:#?}", program.log());
        // The moment is what is drawn here.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..700))).await;
        assert_eq!(program.panics(), [""; 0]);
        program.signal("-KILL");
        assert!(!program.ended().await.success());
    }
    let Rotating { logins, renewals, used_twice, .. } = &*state.lock().unwrap();
    eprintln!("{rounds} rounds: {logins} logins, {renewals} renewals, {used_twice} in vain");
    assert!(*renewals > 0, "nothing was renewed meanwhile");
    assert_eq!(*used_twice, 0, "a value that renews is sent once, whoever is killed");
    // Whose answer to a renewal was lost logs in; most were not.
    assert!(*logins < DEVICES + renewals / 2, "{logins} logins, {renewals} renewals");
}
