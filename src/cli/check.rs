//! `countersign check`: every problem of a configuration, and, live, of what it talks to.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::fetch::{fetch_once, human, human_skew, used_up};
use super::hint;
use super::load::Source;
use super::output::{BAD, FAINT, Failure, GOOD, hint_line, print, say, styled};
use super::progress::Progress;
use super::run::runtime;
use crate::app::{snapshot, tables};
use crate::clock::Clock;
use crate::config::problem::any_error;
use crate::config::{Config, CredentialConfig};
use crate::connect::Stream;
use crate::credential::Credential;
use crate::credential::devices::source::unreadable;
use crate::credential::devices::table::Table;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::credential::store::StoreSpec;
use crate::credential::store::open::{OpenError, inspect};
use crate::credential::store::redis::RedisSpec;
use crate::credential::store::redis::keeper::inspect as inspect_redis;
use crate::permissions::Check;

pub(super) fn check(
    path: Option<&Path>,
    live: bool,
    print_expansion: bool,
) -> Result<ExitCode, Failure> {
    let source = Source::read(path)?;
    let report = source.report();
    let failed = any_error(&source.loaded.problems);
    if print_expansion {
        // The expansion is the data then, and the report is about it.
        if !report.is_empty() {
            say(report.trim_end());
        }
        if failed {
            return Err(Failure::silent(2));
        }
        print(expansion(&source)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&report)?;
    if failed {
        return Err(Failure::silent(2));
    }
    let name = source.name.clone();
    let Some(config) = source.loaded.config else {
        return Err(Failure::silent(2));
    };
    let tables = tables(&config).map_err(super::load::start_failure)?;
    if report.is_empty() {
        let (routes, credentials) = (config.routes.len(), config.credentials.len());
        let mut counts = format!("{routes} route(s), {credentials} credential(s)");
        let devices: usize = tables.values().map(Table::len).sum();
        if devices > 0 {
            counts.push_str(&format!(", {devices} device(s)"));
        }
        print(format!("{}: {name}: {counts}\n", styled(GOOD, "ok")))?;
        if !live {
            let next = "secrets, logins and upstreams were not tried: check --live does that";
            print(format!("{}\n", styled(FAINT, next)))?;
        }
    }
    if live {
        return runtime()?.block_on(check_live(&config, &tables));
    }
    Ok(ExitCode::SUCCESS)
}

/// Each credential in terms of the generic kinds, as TOML. Literal secrets are masked.
fn expansion(source: &Source) -> Result<String, Failure> {
    let mut text = String::new();
    for (name, credential) in &source.loaded.expanded {
        let table = std::collections::BTreeMap::from([(
            "credential",
            std::collections::BTreeMap::from([(name.as_str(), credential)]),
        )]);
        let toml = toml::to_string(&table).map_err(|error| Failure::runtime(&error))?;
        text.push_str(&toml);
        text.push('\n');
    }
    Ok(text)
}

/// Logins and connections at once.
const AT_ONCE: usize = 4;

/// What was found out about one thing, and what else is worth knowing.
struct Found {
    lines: Vec<(String, Result<String, String>)>,
    warning: Option<&'static str>,
}

impl Found {
    fn one(what: String, outcome: Result<String, String>) -> Self {
        Self { lines: vec![(what, outcome)], warning: None }
    }

    /// Prints it; true if all of it is good.
    fn print(self) -> Result<bool, Failure> {
        let mut good = true;
        if let Some(warning) = self.warning {
            say(warning);
        }
        for (what, outcome) in self.lines {
            good &= outcome.is_ok();
            print(line(&what, &outcome))?;
        }
        Ok(good)
    }
}

/// Each is printed as soon as it and those before it are known: a few are tried at a time, and the
/// order is that of the configuration.
async fn check_live(config: &Config, tables: &HashMap<String, Table>) -> Result<ExitCode, Failure> {
    let clock = Clock::system();
    let mut progress = Progress::of("credentials", config.credentials.len());
    let found = config.credentials.iter().map(|credential| {
        let table = tables.get(&credential.name);
        check_credential(credential, table, &clock, config.check_permissions)
    });
    let mut found = stream::iter(found).buffered(AT_ONCE);
    let mut all_good = true;
    progress.show();
    while let Some(found) = found.next().await {
        progress.clear();
        all_good &= found.print()?;
        progress.step();
    }
    progress.clear();
    let store = match &config.token_store {
        StoreSpec::Memory => None,
        StoreSpec::File { path, key } => {
            let outcome = token_file(path, key, config.check_permissions).await;
            Some((path.display().to_string(), outcome))
        }
        StoreSpec::Redis(spec) => {
            Some((spec.to_string(), redis(spec, config.check_permissions).await))
        }
    };
    if let Some((what, outcome)) = store {
        all_good &= outcome.is_ok();
        print(line(&format!("token store {what}"), &outcome))?;
    }
    let snapshot = snapshot(config, &[]);
    let snapshot = snapshot.map_err(super::load::start_failure)?;
    let mut progress = Progress::of("routes", snapshot.routes.len());
    let found = snapshot.routes.iter().map(|route| async move {
        let what = format!("route {} → {}", route.config.name, route.config.upstream);
        let connected = match route.target.dialer.dial().await {
            Ok(stream) => Ok(connected(&stream)),
            Err(error) => {
                let host = route.config.upstream.origin.authority.host();
                let hint = hint_line(hint::dial(&error, "upstream", Some(host)));
                Err(format!("{error}{hint}"))
            }
        };
        Found::one(what, connected)
    });
    let mut found = stream::iter(found).buffered(AT_ONCE);
    progress.show();
    while let Some(found) = found.next().await {
        progress.clear();
        all_good &= found.print()?;
        progress.step();
    }
    progress.clear();
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tries one credential.
async fn check_credential(
    credential: &CredentialConfig,
    table: Option<&Table>,
    clock: &Clock,
    check: Check,
) -> Found {
    let name = &credential.name;
    let what = format!("credential {name}");
    if let Some(table) = table {
        let unreadable = unreadable(table, check).await;
        if unreadable.is_empty() {
            let detail = format!(
                "the secrets of {} device(s) are there; none was logged in, which `countersign \
                 fetch {name} --device ID` does",
                table.len()
            );
            return Found::one(what, Ok(detail));
        }
        let file = credential.devices.as_ref().map(|spec| spec.file.display().to_string());
        let file = file.unwrap_or_default();
        let lines = unreadable
            .iter()
            .map(|(place, reason)| (what.clone(), Err(format!("{file}: {place}: {reason}"))));
        return Found { lines: lines.collect(), warning: None };
    }
    if credential.source.needs_a_person() {
        return Found::one(what, person(credential, check).await);
    }
    match fetch_once(credential, None, clock, check).await {
        Ok(fetched) => Found {
            warning: used_up(credential, &fetched),
            ..Found::one(what, Ok(describe(&fetched, credential.source.is_fetched())))
        },
        Err(failure) => Found::one(what, Err(failure.into_message())),
    }
}

/// What can be said of the login of a person without disturbing it: asking with its refresh token
/// may use that up.
async fn person(credential: &CredentialConfig, check: Check) -> Result<String, String> {
    Secrets::resolve(credential.secrets(), check)
        .await
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    Ok(format!(
        "the secrets are there; it needs the login of a person, which is not tried here: \
         countersign login {}",
        credential.name
    ))
}

/// Whether the file of tokens and its key can be used. It is not opened: it may be in use.
async fn token_file(path: &Path, key: &SecretRef, check: Check) -> Result<String, String> {
    let secrets = secrets(vec![key.clone()], check).await?;
    let key = secrets.get(key).ok_or(OpenError::ShortKey).map_err(|error| error.to_string())?;
    match inspect(path, &key, check) {
        Ok(true) => Ok("the file and the key are there".to_owned()),
        Ok(false) => Ok("the key is there; the file will be made".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether Redis can be reached, and its key is this one.
async fn redis(spec: &RedisSpec, check: Check) -> Result<String, String> {
    let secrets = Arc::new(secrets(spec.secrets().cloned().collect(), check).await?);
    inspect_redis(spec, &secrets).await.map_err(|error| error.to_string())
}

async fn secrets(references: Vec<SecretRef>, check: Check) -> Result<Secrets, String> {
    Secrets::resolve(references, check)
        .await
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

fn connected(stream: &Stream) -> String {
    let Some(version) = stream.tls_version() else {
        return "connected, without TLS".to_owned();
    };
    let version = version.as_str().unwrap_or_default().replace('_', ".").replace("TLSv", "TLS ");
    let http = if stream.negotiated_http2() { "HTTP/2" } else { "HTTP/1.1" };
    format!("connected, {version}, certificate accepted, {http}")
}

fn line(what: &str, outcome: &Result<String, String>) -> String {
    match outcome {
        Ok(detail) => format!("{}: {what}: {detail}\n", styled(GOOD, "ok")),
        Err(detail) => format!("{}: {what}: {detail}\n", styled(BAD, "failed")),
    }
}

fn describe(credential: &Credential, logs_in: bool) -> String {
    if !logs_in {
        return "the secrets are there".to_owned();
    }
    let lifetime = match credential.lifetime {
        Some(lifetime) => format!("lives {}", human(lifetime)),
        None => "does not end".to_owned(),
    };
    let skew = credential.clock_skew_ms.map_or_else(
        || "the endpoint does not tell its time".to_owned(),
        |skew| format!("clock skew: {}", human_skew(skew)),
    );
    format!("logged in; the token {lifetime}; {skew}")
}
