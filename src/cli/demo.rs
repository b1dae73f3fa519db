//! `countersign demo`: the main job with nothing to set up.
//!
//! Stand-ins of the vendors' APIs on loopback, a proxy in front of them with a real configuration
//! file, and requests that carry no credential at all.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;

use super::load::start_failure;
use super::output::{BAD, FAINT, Failure, GOOD, STRONG, print, say, styled};
use super::run::runtime;
use super::signals::Signals;
use crate::app::{App, Running};
use crate::clock::Clock;
use crate::config::problem::Report;
use crate::config::{self};
use crate::mock::{self, Failure as MockFailure, Recorded, StandIn};

/// No exchange of the demo takes longer, or something is wrong.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers of the stand-ins are small.
const MAX_ANSWER: usize = 64 << 10;

/// One request of the demo.
struct Example {
    title: &'static str,
    method: Method,
    path: &'static str,
    content: &'static str,
    /// Which of the fields that arrive are worth showing.
    shown: &'static [&'static str],
    vendor: Vendor,
}

#[derive(Clone, Copy, PartialEq)]
enum Vendor {
    Twinzo,
    Devo,
}

const LOCALIZATION: &str = r#"[{"Timestamp":1700000000000,"SectorId":1,"X":1200.0,"Y":3400.0,"Z":0.0,"Interval":100,"Battery":87,"IsMoving":true,"LocalizationAreas":[],"NoGoAreas":[]}]"#;
const USER: &str = r#"{"email":"operator@example.com","name":"Operator","role":"VIEWER"}"#;
const QUERY: &str = r#"{"query":"from siem.logtrust.web.activity select *","from":0,"to":10,"mode":{"type":"json"}}"#;

fn examples() -> [Example; 6] {
    let example = |title, method, path, content, shown, vendor| Example {
        title,
        method,
        path,
        content,
        shown,
        vendor,
    };
    [
        example(
            "twinzo, a device that logs in",
            Method::POST,
            "/twinzo/v3/localization",
            LOCALIZATION,
            &["token", "client", "branch"],
            Vendor::Twinzo,
        ),
        example(
            "twinzo, an API key",
            Method::GET,
            "/twinzo-key/v3/devices",
            "",
            &["api-key", "client", "branch"],
            Vendor::Twinzo,
        ),
        example(
            "Devo alerts, a token",
            Method::GET,
            "/alerts/v1/alertDefinitions?page=0",
            "",
            &["standalonetoken"],
            Vendor::Devo,
        ),
        example(
            "Devo provisioning, signed with the reseller's key",
            Method::POST,
            "/probio/user/internal?skipMailValidation=true",
            USER,
            &["x-logtrust-timestamp", "x-logtrust-sign", "x-logtrust-reseller-apikey"],
            Vendor::Devo,
        ),
        example(
            "Devo provisioning, signed with the domain's key",
            Method::GET,
            "/probio-domain/domain/child@parent",
            "",
            &["x-logtrust-timestamp", "x-logtrust-sign", "x-logtrust-domain-apikey"],
            Vendor::Devo,
        ),
        example(
            "Devo query, signed",
            Method::POST,
            "/search/query",
            QUERY,
            &["x-logtrust-timestamp", "x-logtrust-sign", "x-logtrust-apikey"],
            Vendor::Devo,
        ),
    ]
}

pub(super) fn demo(once: bool, fail: Option<MockFailure>) -> Result<ExitCode, Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::new().map_err(|error| Failure::runtime(&error))?;
        let stage = Stage::set().await?;
        if let Some(failure) = fail {
            stage.twinzo.switches().fail_data_calls(failure, None);
            stage.devo.switches().fail_data_calls(failure, None);
        }
        print(stage.introduction())?;
        let mut accepted = 0;
        let examples = examples();
        for (index, example) in examples.iter().enumerate() {
            let (text, good) = stage.play(index + 1, example).await?;
            print(text)?;
            accepted += usize::from(good);
        }
        let all = accepted == examples.len();
        let summary =
            format!("{accepted} of {} requests accepted by the stand-ins", examples.len());
        print(format!("{}\n", styled(if all { GOOD } else { BAD }, summary)))?;
        if !once {
            print(stage.invitation())?;
            signals.next().await;
            say("stopping");
        }
        stage.clear().await;
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Everything the demo runs.
struct Stage {
    twinzo: StandIn,
    devo: StandIn,
    proxy: Running,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Result<Self, Failure> {
        let io = |error: std::io::Error| Failure::runtime(&error);
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let twinzo_options = mock::twinzo::Options::default();
        let devo_options = mock::devo::Options::default();
        let twinzo = mock::twinzo::start(loopback, twinzo_options.clone()).await.map_err(io)?;
        let devo = mock::devo::start(loopback, devo_options.clone()).await.map_err(io)?;
        let directory = private_directory().map_err(io)?;
        let secrets = [
            ("twinzo-password", &twinzo_options.password),
            ("twinzo-api-key", &twinzo_options.api_key),
            ("devo-token", &devo_options.standalone_token),
            ("devo-reseller-key", &devo_options.reseller_api_key),
            ("devo-reseller-secret", &devo_options.reseller_api_secret),
            ("devo-domain-key", &devo_options.domain_api_key),
            ("devo-domain-secret", &devo_options.domain_api_secret),
            ("devo-query-key", &devo_options.api_key),
            ("devo-query-secret", &devo_options.api_secret),
        ];
        for (name, secret) in secrets {
            std::fs::write(directory.path().join(name), secret).map_err(io)?;
        }
        let path = directory.path().join("countersign.toml");
        let mut text = configuration(directory.path(), &twinzo.url(), &devo.url(), &twinzo_options);
        // These read best; where they are taken, any port does.
        let preferred = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        for port in [preferred.port(), 8081] {
            if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
            }
        }
        std::fs::write(&path, &text).map_err(io)?;
        let loaded = config::load_with_process_environment(&text);
        let Some(config) = loaded.config else {
            let name = &path.display().to_string();
            let report = Report { name, text: &text, loaded: &loaded };
            return Err(Failure::configuration(report.to_string()));
        };
        let app = App::build(config, Clock::system()).await.map_err(start_failure)?;
        let proxy = app.start().map_err(start_failure)?;
        let address = proxy.addresses().first().copied().unwrap_or(preferred);
        Ok(Self { twinzo, devo, proxy, address, directory })
    }

    fn introduction(&self) -> String {
        let file = self.directory.path().join("countersign.toml");
        format!(
            "countersign listens on {}\n\
             in front of stand-ins of the twinzo API ({}) and the Devo API ({}).\n\
             Its configuration: {}\n\n",
            styled(STRONG, format!("http://{}", self.address)),
            self.twinzo.url(),
            self.devo.url(),
            file.display(),
        )
    }

    /// Sends one request through the proxy and shows both sides of it.
    async fn play(&self, number: usize, example: &Example) -> Result<(String, bool), Failure> {
        let sent = tokio::time::timeout(TIMEOUT, self.send(example)).await;
        let (status, answer) = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Failure::runtime(&*error)),
            Err(elapsed) => return Err(Failure::runtime(&elapsed)),
        };
        let stand_in = if example.vendor == Vendor::Twinzo { &self.twinzo } else { &self.devo };
        let recorded = stand_in.recorder().last();
        let good = status.is_success() && recorded.as_ref().is_some_and(|last| last.accepted);
        let mut text = String::new();
        let mark = if good { styled(GOOD, "accepted") } else { styled(BAD, "refused") };
        let title = styled(STRONG, format!("{number}. {}", example.title));
        let bytes = example.content.len();
        let _ = writeln!(text, "{title}: {mark}");
        let _ = writeln!(
            text,
            "   came in   {} {} ({bytes} bytes, no credential)",
            example.method, example.path
        );
        match recorded {
            Some(recorded) => write_received(&mut text, &recorded, example.shown),
            None => text.push_str("   received  nothing\n"),
        }
        let _ = writeln!(text, "   answer    {status}: {}\n", shorten(&answer));
        Ok((text, good))
    }

    async fn send(
        &self,
        example: &Example,
    ) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let mut request = Request::builder()
                .method(&example.method)
                .uri(example.path)
                .header(HOST, self.address.to_string());
            if !example.content.is_empty() {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            let request =
                request.body(Full::new(Bytes::from_static(example.content.as_bytes())))?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
            Ok((status, String::from_utf8_lossy(&answer).into_owned()))
        };
        tokio::pin!(exchange, connection);
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                _ = &mut connection, if open => open = false,
            }
        }
    }

    /// Lines to paste. Each works while the demo runs.
    fn invitation(&self) -> String {
        let mut text = "\nTry it yourself (Ctrl-C ends the demo):\n\n".to_owned();
        for example in examples() {
            let url = format!("'http://{}{}'", self.address, example.path);
            let data = if example.content.is_empty() {
                String::new()
            } else {
                format!(" -H 'Content-Type: application/json' -d '{}'", example.content)
            };
            let _ = writeln!(text, "  curl {url}{data}");
        }
        let file = self.directory.path().join("countersign.toml");
        let hint = "See what is done to a request, without sending it:";
        // The program itself: it may not be on the PATH.
        let program = std::env::current_exe().unwrap_or_else(|_| "countersign".into());
        let _ = writeln!(
            text,
            "\n{hint}\n\n  '{}' explain --config '{}' POST /probio/domain --data '{{}}'\n",
            program.display(),
            file.display()
        );
        if let Some(admin) = self.proxy.admin_address() {
            let _ = writeln!(
                text,
                "See its credentials, its routes and these requests live:\n\n  {}\n",
                styled(STRONG, format!("http://{admin}/"))
            );
        }
        text
    }

    async fn clear(self) {
        self.proxy.stop().await;
        self.twinzo.stop().await;
        self.devo.stop().await;
    }
}

/// A directory that nobody else can enter: the files in it hold the secrets.
fn private_directory() -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.prefix("countersign-demo-").tempdir()
}

/// The fields that countersign added, masked, and what the stand-in made of them.
fn write_received(text: &mut String, recorded: &Recorded, shown: &[&str]) {
    let _ = writeln!(text, "   received  {} {}", recorded.method, recorded.target);
    for name in shown {
        let value = single(&recorded.headers, name);
        let _ = writeln!(text, "             {name}: {}", mask(name, value));
    }
    let _ = writeln!(text, "   verdict   {}", styled(FAINT, &recorded.verdict));
}

fn single<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("(missing)")
}

/// Enough to recognise a value, not enough to use it. Times and tenants are no secrets.
fn mask(name: &str, value: &str) -> String {
    if matches!(name, "client" | "branch" | "x-logtrust-timestamp") || value == "(missing)" {
        return value.to_owned();
    }
    let seen: String = value.chars().take(4).collect();
    format!("{seen}… ({} characters)", value.chars().count())
}

fn shorten(answer: &str) -> String {
    let line: String = answer.chars().filter(|c| !c.is_control()).take(110).collect();
    if line.len() < answer.trim_end().len() { format!("{line}…") } else { line }
}

/// A configuration as a user would write it; only the hosts are the stand-ins'.
fn configuration(
    directory: &Path,
    twinzo: &str,
    devo: &str,
    options: &mock::twinzo::Options,
) -> String {
    // A literal string, in which backslashes of Windows paths stand for themselves.
    let file = |name: &str| format!("{{ file = '{}' }}", directory.join(name).display());
    let mock::twinzo::Options { client, login, client_guid, branch_guid, .. } = options;
    format!(
        r#"[[listen]]
address = "127.0.0.1:8080"

[admin]
address = "127.0.0.1:8081"

[credential.device]
kind = "twinzo-device"
base_url = "{twinzo}"
client = "{client}"
login = "{login}"
password = {password}

[credential.key]
kind = "twinzo-api-key"
api_key = {api_key}
client_guid = "{client_guid}"
branch_guid = "{branch_guid}"

[credential.alerts]
kind = "devo-token"
token = {token}

[credential.reseller]
kind = "devo-signature"
reseller_api_key = {reseller_key}
api_secret = {reseller_secret}

[credential.domain]
kind = "devo-signature"
domain_api_key = {domain_key}
api_secret = {domain_secret}

[credential.query]
kind = "devo-signature"
api = "query"
api_key = {query_key}
api_secret = {query_secret}

[[route]]
name = "twinzo"
path = "/twinzo"
upstream = "{twinzo}"
credential = "device"

[[route]]
name = "twinzo-key"
path = "/twinzo-key"
upstream = "{twinzo}"
credential = "key"

[[route]]
name = "alerts"
path = "/alerts/v1"
upstream = "{devo}/alerts/v1"
credential = "alerts"

[[route]]
name = "provisioning"
path = "/probio"
upstream = "{devo}/probio"
credential = "reseller"

[[route]]
name = "provisioning-domain"
path = "/probio-domain"
upstream = "{devo}/probio"
credential = "domain"

[[route]]
name = "query"
path = "/search/query"
upstream = "{devo}/search/query"
credential = "query"
"#,
        password = file("twinzo-password"),
        api_key = file("twinzo-api-key"),
        token = file("devo-token"),
        reseller_key = file("devo-reseller-key"),
        reseller_secret = file("devo-reseller-secret"),
        domain_key = file("devo-domain-key"),
        domain_secret = file("devo-domain-secret"),
        query_key = file("devo-query-key"),
        query_secret = file("devo-query-secret"),
    )
}
