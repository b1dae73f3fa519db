//! `countersign explain`: what would happen to a request, step by step. Sends nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::request::Parts;

use super::load::{Source, start_failure};
use super::output::{FAINT, Failure, STRONG, print, say, styled};
use super::run::runtime;
use crate::app::{identity, snapshot, tables};
use crate::clock::Clock;
use crate::config::{Config, CredentialConfig, SourceSpec};
use crate::credential::cache::{CacheSettings, CredentialCache};
use crate::credential::devices::pool::DevicePool;
use crate::credential::devices::table::Table;
use crate::credential::oauth::ACCESS_TOKEN;
use crate::credential::secrets::{Secrets, read};
use crate::explain::{Asked, Explanation, Ground, Held, Part, Shown, explain};
use crate::permissions::Check;
use crate::proxy::Identity;
use crate::proxy::identity::Cache;
use crate::secret::Secret;
use crate::sign::Signer;
use crate::values::Values;

/// A request to explain.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The method
    method: String,
    /// The URL or path, as a caller would use it
    url: String,
    /// A field of the request; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The content, or @FILE
    #[arg(long, value_name = "BODY|@FILE")]
    data: Option<String>,
    /// The time of signing, in milliseconds since 1970; default: now
    #[arg(long, value_name = "UNIX_MS")]
    at: Option<u64>,
    /// The device that calls, where its address or certificate says so
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Show secrets and signatures instead of masking them
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    config: super::ConfigFile,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let config = Source::read(self.config.config.as_deref())?.config()?;
        let content = match self.data.as_deref() {
            None => Vec::new(),
            Some(data) => match data.strip_prefix('@') {
                None => data.as_bytes().to_vec(),
                Some(path) => std::fs::read(path).map_err(|error| {
                    Failure::configuration(format!("{path} cannot be read: {error}"))
                })?,
            },
        };
        let parts = self.request(&config, content.len())?;
        let secrets = runtime()?
            .block_on(Secrets::resolve_or_stand_in(config.secrets(), config.check_permissions));
        let (secrets, missing) = secrets;
        for error in &missing {
            say(format!("note: {error}; a stand-in is used"));
        }
        let secrets = Arc::new(secrets);
        let mut tables = tables(&config).map_err(start_failure)?;
        let identities = identities(&config, &mut tables);
        let snapshot = snapshot(&config, &identities).map_err(start_failure)?;
        let ground = Ground {
            snapshot: &snapshot,
            proxy: None,
            listeners: &config.listeners,
            limits: &config.limits,
            secrets: &secrets,
            device: self.device.as_deref(),
            now: Clock::system().wall(),
            at: self.at.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
            reveal: self.reveal,
        };
        let told = explained(&ground, &config, parts, &content)?;
        print(page(&told))?;
        Ok(if told.refused.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The request as it would arrive.
    fn request(&self, config: &Config, content_length: usize) -> Result<Parts, Failure> {
        let mut fields = Vec::with_capacity(self.header.len());
        for field in &self.header {
            let Some((name, value)) = field.split_once(':') else {
                let what = format!("'{field}' is not a field; write 'Name: value'");
                return Err(Failure::configuration(what));
            };
            fields.push((name.trim(), value.trim()));
        }
        let asked = Asked { method: &self.method, url: &self.url, fields, content_length };
        asked.parts(&config.listeners).map_err(Failure::configuration)
    }
}

/// What would happen.
fn explained(
    ground: &Ground<'_>,
    config: &Config,
    parts: Parts,
    content: &[u8],
) -> Result<Explanation, Failure> {
    explain(ground, parts, content, |identity, device| {
        let named = |credential: &&CredentialConfig| credential.name == identity.name;
        let Some(credential) = config.credentials.iter().find(named) else {
            return Err(Failure::at_run_time(format!("'{}' is not there", identity.name)));
        };
        let own = match (identity.cache.devices(), device) {
            (Some(pool), Some(device)) => own(pool, device, config.check_permissions)?,
            _ => Values::default(),
        };
        let bound = signer(credential, ground.secrets, &own);
        // What a login returns is not known here; what stands in for it is no secret.
        let fetched: Vec<&str> = match &credential.source {
            SourceSpec::Login(login) => {
                login.reply.values.iter().map(|(name, _)| name.as_str()).collect()
            }
            SourceSpec::Oauth(_) => vec![ACCESS_TOKEN],
            SourceSpec::Fixed(_) => Vec::new(),
        };
        Ok(Held {
            kind: credential.kind.clone(),
            open: credential.scheme.sets_openly(&fetched),
            signer: Ok(bound.map_err(|error| Failure::runtime(&error))?),
        })
    })
}

/// The credentials, of which nothing is read but which devices there are.
fn identities(config: &Config, tables: &mut HashMap<String, Table>) -> Vec<Arc<Identity>> {
    let settings =
        CacheSettings { renewable: false, wait: Duration::ZERO, min_interval: Duration::ZERO };
    let of = |credential: &CredentialConfig| {
        let cache = match tables.remove(&credential.name) {
            Some(table) => {
                let gate = Arc::default();
                Cache::Devices(DevicePool::new(table, Clock::system(), settings, gate))
            }
            None => Cache::One(CredentialCache::new(Clock::system(), settings)),
        };
        Arc::new(identity(credential, cache))
    };
    config.credentials.iter().map(of).collect()
}

/// The values of a device, with a stand-in for what cannot be read.
fn own(pool: &DevicePool<Signer>, device: &str, check: Check) -> Result<Values, Failure> {
    let table = pool.table();
    let cells = table.find(device).into_iter().flat_map(|row| table.cells(row));
    let mut own = Values::default();
    for (column, reference) in cells {
        let secret = runtime()?.block_on(read(&reference, check)).unwrap_or_else(|reason| {
            let what = format!("the secret in the {reference} cannot be read: {reason}");
            say(format!("note: {what}; a stand-in is used"));
            Secret::new("missing")
        });
        own.insert(column.value.clone(), secret);
    }
    Ok(own)
}

/// The signer of a credential. What a login would return stands in as its name.
fn signer(
    credential: &CredentialConfig,
    secrets: &Secrets,
    own: &Values,
) -> Result<Signer, crate::sign::BindError> {
    let values = match &credential.source {
        SourceSpec::Fixed(spec) => spec.read_with(secrets, own)?,
        SourceSpec::Login(login) => {
            let fetched =
                login.reply.values.iter().map(|(name, _)| {
                    (name.clone(), Secret::new(format!("<{name} from the login>")))
                });
            let carried = login
                .secrets
                .iter()
                .filter_map(|(name, reference)| Some((name.clone(), secrets.get(reference)?)));
            let shared: Values = fetched.chain(carried).collect();
            shared.and(own)
        }
        SourceSpec::Oauth(_) => {
            let token = Secret::new("<access token from the authorization server>");
            Values::from_iter([(ACCESS_TOKEN, token)])
        }
    };
    credential.scheme.bind(&values)
}

/// An explanation for a terminal.
fn page(told: &Explanation) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{} {value}", styled(STRONG, format!("{label:<12}")));
    };
    if let Some(refused) = &told.refused {
        let status = format!("{} {}", refused.status, refused.title);
        return format!("{:<12} {status}\n{:<12} {}\n", "answer", "reason", refused.reason);
    }
    row("request", &told.request);
    if let Some(route) = &told.route {
        row("route", &format!("{} ({} → {})", route.name, route.path, route.upstream));
        if !route.clients.is_empty() {
            row("only for", &format!("certificates of {}", route.clients.join(", ")));
        }
    }
    if let Some(device) = &told.identity {
        row("device", device);
    }
    let removed = told.removed.join(", ");
    row("removed", if removed.is_empty() { &"nothing" } else { &removed });
    for set in &told.set {
        row("set", &format!("{}: {}", set.name, shown(&set.shown)));
    }
    for applied in &told.credentials {
        row("credential", &format!("{} ({})", applied.name, applied.kind));
        if let Some(signed) = &applied.signed {
            let mut lines = format!("{} over", signed.algorithm);
            for (index, part) in signed.parts.iter().enumerate() {
                let line = format!("{:>2}. {:<24} {}", index + 1, part.label, shown_part(part));
                let _ = write!(lines, "\n{:<13}{line}", "");
            }
            row("signed", &lines);
        }
        for added in &applied.added {
            row("added", &format!("{}: {}", added.name, shown(&added.shown)));
        }
        if let Some(query) = &applied.query {
            row("added", &format!("query parameters {}", shown(query)));
        }
        if !applied.query_removed.is_empty() {
            row("removed", &format!("query parameters {}", applied.query_removed.join(", ")));
        }
    }
    if told.credentials.is_empty() {
        row("credential", &"none (pass-through)");
    }
    if let Some(sent) = &told.sent_as {
        row("sent as", sent);
    }
    text
}

fn shown_part(part: &Part) -> String {
    match &part.shown.value {
        None => shown(&part.shown),
        Some(value) => {
            let more = if part.cut { "…" } else { "" };
            let length = styled(FAINT, format!("({} bytes)", part.shown.length));
            format!("{value}{more} {length}")
        }
    }
}

fn shown(shown: &Shown) -> String {
    if let Some(value) = &shown.value {
        return value.clone();
    }
    let length = styled(FAINT, format!("({} characters)", shown.length));
    format!("{} {length}", "*".repeat(8))
}
