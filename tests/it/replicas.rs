//! Two processes on one Redis: one login per device and lifetime, and none is lost with a process.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use countersign::mock::twinzo::{Account, Options};
use countersign::mock::{StandIn, twinzo};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::harness::program::Program;
use crate::harness::redis::RedisServer;
use crate::harness::{ANY_PORT, Connection, private_directory, quoted, secret};

/// A Redis, and what both processes are told.
struct Scene {
    _redis: RedisServer,
    stand_in: StandIn,
    config: String,
    names: Vec<String>,
    _directory: TempDir,
}

impl Scene {
    /// `None` if there is no Redis here. `refresh` stands in the table of that name.
    async fn new(devices: usize, refresh: &str) -> Option<Self> {
        let redis = RedisServer::start(&[])?;
        let accounts = (1..=devices).map(Account::of_device).collect();
        let options = Options { accounts, ..Options::default() };
        let stand_in = twinzo::start(ANY_PORT, options).await.unwrap();
        let mut text = "device,login,password\n".to_owned();
        for number in 1..=devices {
            let Account { login, password, .. } = Account::of_device(number);
            writeln!(text, "device-{number},{login},{password}").unwrap();
        }
        let directory = private_directory();
        let file: PathBuf = directory.path().join("devices.csv");
        fs::write(&file, text).unwrap();
        let (url, key) = (quoted(&stand_in.url()), secret("canary-key-0123456789abcdef"));
        let config = format!(
            "[token_store]\nkind = \"redis\"\nkey = {key}\nurl = \"redis://127.0.0.1:{}\"\n\
             [credential.plant]\nkind = \"twinzo-device\"\nbase_url = {url}\nclient = \"acme\"\n\
             devices = {}\n[credential.plant.refresh]\nmax_logins_per_second = 10000\n{refresh}\n\
             [[route]]\nupstream = {url}\ncredential = \"plant\"\n\
             identity = {{ header = \"X-Device\" }}\n",
            redis.port(),
            quoted(file.to_str().unwrap()),
        );
        let names = (1..=devices).map(|number| format!("device-{number}")).collect();
        Some(Self { _redis: redis, stand_in, config, names, _directory: directory })
    }

    /// Every device asks `program` once; all are served.
    async fn ask(&self, program: &Program) {
        let mut connection = Connection::open(program.address()).await;
        for name in &self.names {
            let fields = [("X-Device", name.as_str())];
            let reply = connection.send("GET", "/v3/echo", &fields, "").await;
            assert_eq!(reply.status, 200, "{name}: {:#?}", program.log());
        }
    }
}

#[tokio::test]
async fn two_processes_log_every_device_in_once() {
    let Some(scene) = Scene::new(100, "").await else { return };
    let recorder = scene.stand_in.recorder();
    let (one, two) = (Program::start(&scene.config).await, Program::start(&scene.config).await);
    tokio::join!(scene.ask(&one), scene.ask(&two));
    assert_eq!(recorder.token_calls(), 100);
    drop(one);
    let three = Program::start(&scene.config).await;
    tokio::join!(scene.ask(&two), scene.ask(&three));
    assert_eq!(recorder.token_calls(), 100);
    assert_eq!(recorder.refused(), 0);
}

#[tokio::test]
async fn processes_that_are_killed_again_and_again_lose_no_device() {
    const ROUNDS: usize = 10;
    // Each is renewed about twice a second, by one of the two.
    let Some(scene) = Scene::new(20, "margin = \"75%\"\ntimeout = \"1s\"\n").await else { return };
    scene.stand_in.switches().set_token_lifetime(Duration::from_secs(2));
    let recorder = scene.stand_in.recorder();
    let stays = Program::start(&scene.config).await;
    for _ in 0..ROUNDS {
        let mut dies = Program::start(&scene.config).await;
        tokio::join!(scene.ask(&stays), scene.ask(&dies));
        // The moment is what is drawn here.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..500))).await;
        dies.signal("-KILL");
        dies.ended().await;
        assert_eq!(dies.panics(), [""; 0]);
        scene.ask(&stays).await;
    }
    assert_eq!(stays.panics(), [""; 0]);
    assert_eq!(recorder.refused(), 0);
}

#[tokio::test]
async fn a_token_that_one_process_renews_is_taken_over_by_the_other() {
    let Some(scene) = Scene::new(5, "margin = \"50%\"\njitter = \"20%\"\n").await else { return };
    let lifetime = Duration::from_secs(6);
    scene.stand_in.switches().set_token_lifetime(lifetime);
    let recorder = scene.stand_in.recorder();
    let (one, two) = (Program::start(&scene.config).await, Program::start(&scene.config).await);
    let begun = Instant::now();
    while begun.elapsed() < 3 * lifetime {
        tokio::join!(scene.ask(&one), scene.ask(&two));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // After 30 to 50 % of the lifetime each; alone they would need twice as many.
    let most = 5 * (begun.elapsed().as_millis() / (lifetime.as_millis() * 3 / 10) + 2);
    assert!(u128::from(recorder.token_calls()) <= most, "{} calls", recorder.token_calls());
    assert_eq!(recorder.refused(), 0);
}
