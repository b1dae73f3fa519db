//! What the tests start: a proxy from a configuration text, clients, and upstreams of our own.

#[cfg(target_os = "linux")]
pub(crate) mod abuse;
pub(crate) mod authority;
pub(crate) mod authorization;
pub(crate) mod client;
pub(crate) mod faulty;
pub(crate) mod frames;
pub(crate) mod http2;
#[cfg(target_os = "linux")]
pub(crate) mod place;
#[cfg(target_os = "linux")]
pub(crate) mod program;
pub(crate) mod python;
#[cfg(target_os = "linux")]
pub(crate) mod redis;
pub(crate) mod scrape;
#[cfg(target_os = "linux")]
pub(crate) mod strict;
pub(crate) mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign::app::{App, Origin, Reloading, Running, StartError};
use countersign::clock::Clock;
use countersign::config;
use countersign::control::{Cause, Control, Outcome};
use countersign::mock::{StandIn, devo, twinzo};
use countersign::observe::Observe;
use countersign::proxy::Identity;
use countersign::stamp::Stamp;
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub(crate) use client::{Connection, Reply};
pub(crate) use faulty::{Act, Faulty};
pub(crate) use http2::{Http2, Upstream2};
#[cfg(target_os = "linux")]
pub(crate) use place::Place;
pub(crate) use upstream::Upstream;

/// Any free port of the loopback interface.
pub(crate) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Longer than anything here takes: a bound for what would otherwise hang.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running proxy with a control-plane runtime of its own. Stops when dropped.
pub(crate) struct Proxy {
    running: Option<(Running, Runtime)>,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    identities: Vec<Arc<Identity>>,
    /// Where its configuration is, if it is in a file.
    file: Option<ConfigFile>,
}

/// A configuration in a file of its own.
pub(crate) struct ConfigFile {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn new(text: &str) -> Self {
        let directory = private_directory();
        let path = directory.path().join("countersign.toml");
        let file = Self { directory, path };
        file.replace(text);
        file
    }

    /// One that is in `directory` already.
    pub(crate) fn there(directory: tempfile::TempDir, path: PathBuf) -> Self {
        Self { directory, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaced as a whole, as deployments do.
    pub(crate) fn replace(&self, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &self.path).unwrap();
    }
}

impl Proxy {
    /// Starts what `text` says; a listener on any port is added if it names none.
    pub(crate) async fn start(text: &str) -> Self {
        match Self::try_start(text).await {
            Ok(proxy) => proxy,
            Err(error) => panic!("the proxy does not start: {error} ({error:?})"),
        }
    }

    pub(crate) async fn try_start(text: &str) -> Result<Self, StartError> {
        Self::try_start_at(text, Clock::system()).await
    }

    /// Starts what `text` says in a file, which can be replaced and read again.
    pub(crate) async fn start_with_file(text: &str) -> Self {
        Self::start_from(ConfigFile::new(&complete(text))).await
    }

    /// Starts what a file says.
    pub(crate) async fn start_from(file: ConfigFile) -> Self {
        let origin = Origin::File(file.path.clone(), Stamp::of_blocking(&file.path));
        let text = std::fs::read_to_string(&file.path).unwrap();
        let reloading = Reloading { origin, ..Reloading::default() };
        let mut proxy = Self::start_as(&text, Clock::system(), reloading).await.unwrap();
        proxy.file = Some(file);
        proxy
    }

    /// The same by a clock that the test moves.
    pub(crate) async fn try_start_at(text: &str, clock: Clock) -> Result<Self, StartError> {
        Self::start_as(text, clock, Reloading::default()).await
    }

    async fn start_as(text: &str, clock: Clock, reloading: Reloading) -> Result<Self, StartError> {
        let config = load(text);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control")
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.spawn(async move {
            let app = App::build(config, clock).await?;
            let running = app.start_closed(reloading)?;
            running.open();
            Ok::<_, StartError>(running)
        });
        let running = match started.await.unwrap() {
            Ok(running) => running,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self {
            addresses: running.addresses().to_vec(),
            admin: running.admin_address(),
            identities: running.identities(),
            running: Some((running, runtime)),
            file: None,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses, in the order of the listeners.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.unwrap()
    }

    /// The credential of that name.
    pub(crate) fn identity(&self, name: &str) -> &Identity {
        let mut all = self.identities.iter();
        all.find(|identity| identity.name == name).unwrap()
    }

    /// The credential of that name now.
    pub(crate) fn identity_now(&self, name: &str) -> Option<Arc<Identity>> {
        let (running, _) = self.running.as_ref().unwrap();
        running.identities().into_iter().find(|identity| identity.name == name)
    }

    /// What can be asked of it.
    pub(crate) fn control(&self) -> Control {
        self.running.as_ref().unwrap().0.control().clone()
    }

    /// The file of its configuration.
    pub(crate) fn config_file(&self) -> &ConfigFile {
        self.file.as_ref().unwrap()
    }

    /// Replaces the text in its file.
    pub(crate) fn rewrite(&self, text: &str) {
        self.config_file().replace(&complete(text));
    }

    /// Replaces the text in its file and has it taken over; says what is different.
    pub(crate) async fn go_over(&self, text: &str) -> Vec<String> {
        self.rewrite(text);
        let reload = self.control().reload(Cause::Signal).await;
        let Outcome::Taken { changes } = &reload.outcome else {
            panic!("it is not taken: {:#?}", reload.outcome);
        };
        changes.clone()
    }

    /// Replaces the text in its file, which is not to be taken over; says why not.
    pub(crate) async fn refuses(&self, text: &str) -> Vec<String> {
        self.rewrite(text);
        let reload = self.control().reload(Cause::Signal).await;
        let Outcome::Refused { problems } = &reload.outcome else {
            panic!("it is not refused: {:#?}", reload.outcome);
        };
        problems.iter().map(|problem| problem.message.clone()).collect()
    }

    /// What it has seen of requests.
    pub(crate) fn observe(&self) -> &Arc<Observe> {
        let (running, _) = self.running.as_ref().unwrap();
        running.proxy().observe()
    }

    /// What `Debug` shows of it.
    pub(crate) fn debug(&self) -> String {
        format!("{:?}", self.running.as_ref().map(|(running, _)| running))
    }

    /// Serves by the routes of another configuration, which have no credentials.
    pub(crate) fn replace_routes(&self, text: &str) {
        let snapshot = countersign::app::snapshot(&load(text), &[]).unwrap();
        let (running, _) = self.running.as_ref().unwrap();
        drop(running.proxy().replace(snapshot));
    }

    /// One request over a connection of its own, its content with a `Content-Length`.
    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: impl Into<Bytes>,
    ) -> Reply {
        let mut connection = Connection::open(self.address()).await;
        connection.send(method, target, fields, content).await
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], "").await
    }

    /// One request over a connection of its own, its content in chunks.
    pub(crate) async fn send_chunked(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        content: impl Into<Bytes>,
    ) -> Reply {
        let mut connection = Connection::open(self.address()).await;
        connection.send_chunked(method, target, fields, content).await
    }

    /// Ends gracefully, as on SIGTERM; says how many connections had to be cut off.
    pub(crate) async fn stop(mut self) -> usize {
        let (running, runtime) = self.running.take().unwrap();
        let cut_off = runtime.spawn(running.stop()).await.unwrap();
        runtime.shutdown_background();
        cut_off
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some((running, runtime)) = self.running.take() {
            // Stopping waits for connections that the dropping test may still hold.
            std::thread::spawn(move || runtime.block_on(running.stop()));
        }
    }
}

/// A directory that nobody else can enter, for files that others must not read.
pub(crate) fn private_directory() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir().unwrap()
}

/// The configuration that `text` says, with a listener on any port if it names none.
pub(crate) fn load(text: &str) -> config::Config {
    let text = complete(text);
    let loaded = config::load(&text, &|_| None);
    let problems = loaded.problems;
    loaded.config.unwrap_or_else(|| panic!("{problems:#?}\nin\n{text}"))
}

/// `text`, with a listener on any port if it names none.
fn complete(text: &str) -> String {
    let listen = "\n[[listen]]\naddress = \"127.0.0.1:0\"\n";
    if text.contains("[[listen]]") { text.to_owned() } else { format!("{text}{listen}") }
}

/// `text` as a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A secret that stands in the configuration itself.
pub(crate) fn secret(text: &str) -> String {
    format!("{{ value = {} }}", quoted(text))
}

/// A twinzo stand-in with its default account.
pub(crate) async fn twinzo() -> StandIn {
    twinzo::start(ANY_PORT, twinzo::Options::default()).await.unwrap()
}

/// A Devo stand-in that wants timestamps of about now.
pub(crate) async fn devo(options: devo::Options) -> StandIn {
    let options = devo::Options { max_skew: Some(Duration::from_mins(1)), ..options };
    devo::start(ANY_PORT, options).await.unwrap()
}

/// `[credential.plant]` for the stand-in's account; `more` goes below it.
pub(crate) fn plant(base_url: &str, more: &str) -> String {
    plant_with_password(base_url, "demo-password", more)
}

pub(crate) fn plant_with_password(base_url: &str, password: &str, more: &str) -> String {
    format!(
        "[credential.plant]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
         login = \"gateway-01\"\npassword = {}\n{more}\n",
        quoted(base_url),
        secret(password),
    )
}

/// A route for everything; `more` goes below it.
pub(crate) fn route(upstream: &str, credential: &str, more: &str) -> String {
    let credential = if credential.is_empty() {
        String::new()
    } else {
        format!("credential = {}\n", quoted(credential))
    };
    format!("[[route]]\nname = \"all\"\nupstream = {}\n{credential}{more}\n", quoted(upstream))
}

/// A bound on how long something may take: `promised` where the times are asked for
/// (`COUNTERSIGN_TEST_TIMES=1`, on a machine that does nothing else), else one that only what hangs
/// exceeds.
#[cfg(target_os = "linux")]
pub(crate) fn at_most(promised: Duration) -> Duration {
    if std::env::var_os("COUNTERSIGN_TEST_TIMES").is_some() { promised } else { PATIENCE }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up_at, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says that a test could not run here; an error where nothing may be skipped.
pub(crate) fn skip(name: &str, why: &str) {
    assert!(
        std::env::var_os("COUNTERSIGN_TEST_NOTHING_SKIPPED").is_none(),
        "{name} must not be skipped here: {why}"
    );
    eprintln!("skipped: {name}: {why}");
}

/// The SHA-256 of `bytes`, as the stand-ins record it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// True for a recorded exchange that is no call of twinzo's token endpoints.
pub(crate) fn is_data(recorded: &countersign::mock::Recorded) -> bool {
    !recorded.target.to_ascii_lowercase().contains("authorization")
}
