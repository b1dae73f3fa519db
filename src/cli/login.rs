//! `countersign login`: a person logs in, on any device that has a browser (RFC 8628).

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::{find, human};
use super::load::{Source, start_failure};
use super::output::{Failure, STRONG, chain, print, say, styled};
use super::run::runtime;
use super::signals::Signals;
use crate::app::{StartError, oauth_source, slot};
use crate::clock::Clock;
use crate::config::{Config, CredentialConfig, SourceSpec};
use crate::credential::Credential;
use crate::credential::oauth::{
    DeviceAuthorization, LoginError, OauthSource, OauthSpec, REFRESH_TOKEN,
};
use crate::credential::secrets::Secrets;
use crate::credential::store::open::OpenError;
use crate::credential::store::running::Task;
use crate::credential::store::{Claim, Slot, Store};

/// Long enough for writing to a store.
const LEASE: Duration = Duration::from_secs(30);

pub(super) fn login(name: &str, path: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = Source::read(path)?.config()?;
    let credential = find(&config, name)?;
    match &credential.source {
        SourceSpec::Oauth(spec) if spec.needs_a_person() => {
            runtime()?.block_on(log_in(&config, credential, spec))?;
            Ok(ExitCode::SUCCESS)
        }
        SourceSpec::Oauth(_) | SourceSpec::Login(_) | SourceSpec::Fixed(_) => {
            let message = format!(
                "nobody logs in for the credential '{name}': countersign gets what it needs by \
                 itself. A person logs in for kind = \"oauth2\" with grant = \"device_code\""
            );
            Err(Failure::configuration(message))
        }
    }
}

async fn log_in(
    config: &Config,
    credential: &CredentialConfig,
    spec: &OauthSpec,
) -> Result<(), Failure> {
    let clock = Clock::system();
    let mut references = credential.secrets();
    references.extend(config.token_store.secrets().into_iter().cloned());
    let secrets = Secrets::resolve(references, config.check_permissions).await;
    let secrets = Arc::new(secrets.map_err(|errors| start_failure(StartError::Secrets(errors)))?);
    let source = oauth_source(credential, spec, &secrets, &clock).map_err(start_failure)?;
    let mut signals = Signals::new().map_err(|error| Failure::runtime(&error))?;
    // Opened before anybody is asked: what a person has done is not to be lost.
    let (place, task) = place(config, credential, &secrets, &clock).await?;
    let running = task.map(Task::start);
    if place.is_shared() {
        match place.claim(LEASE).await {
            Claim::Granted(lease, _) => place.release(lease).await,
            Claim::Held(..) => {}
            Claim::Alone => {
                let message = "the token store cannot be reached, so that a login would be lost";
                return Err(Failure::at_run_time(message));
            }
        }
    }
    let granted = tokio::select! {
        granted = ask(&source, credential) => granted,
        _ = signals.next() => Err(Failure::at_run_time("it was ended; nobody is logged in")),
    };
    let saved = match granted {
        Ok(granted) => {
            // What replicas renew meanwhile is of the former login.
            let lease = match place.claim(LEASE).await {
                Claim::Granted(lease, _) => Some(lease),
                Claim::Alone | Claim::Held(..) => None,
            };
            place.save(place.fingerprint(), lease, &granted, clock.now(), true).await;
            Ok(granted)
        }
        Err(failure) => Err(failure),
    };
    if let Some(running) = running {
        running.close().await;
    }
    let granted = saved?;
    if !is_kept(config, credential, &secrets, &clock, &granted).await? {
        let message = "the login was approved, and its tokens cannot be kept: the token store does \
                       not have what was written to it. See whether the disk is full, or Redis is \
                       away, and run the command again";
        return Err(Failure::at_run_time(message));
    }
    print(done(&credential.name, &granted))
}

/// Where the tokens go.
async fn place(
    config: &Config,
    credential: &CredentialConfig,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<(Slot, Option<Task>), Failure> {
    let opened = Store::open(&config.token_store, secrets, clock).await;
    if let Err(OpenError::InUse(path)) = &opened {
        return Err(in_use(path, &credential.name));
    }
    let opened = opened.map_err(|error| start_failure(StartError::Store(error)));
    let (store, task) = opened?;
    Ok((slot(credential, secrets, &store), task))
}

fn in_use(path: &Path, name: &str) -> Failure {
    let holder = holder(path).unwrap_or_else(|| {
        "another process, most likely `countersign run` with this configuration".to_owned()
    });
    Failure::at_run_time(format!(
        "the token store {} is in use by {holder}. A file belongs to one process at a time: stop \
         that one, run `countersign login {name}`, and start it again",
        path.display()
    ))
}

/// The process that has the file locked, where the system tells.
fn holder(path: &Path) -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt as _;
        let suffix = format!(":{}", path.metadata().ok()?.ino());
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        // "1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF", see proc_locks(5). Locks that are not a
        // process's have no number of one.
        let id = locks.lines().find_map(|lock| {
            let mut fields = lock.split_whitespace();
            let id: u32 = fields.nth(4)?.parse().ok()?;
            fields.next()?.ends_with(&suffix).then_some(id)
        })?;
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
        let name: String = name.chars().filter(char::is_ascii_graphic).collect();
        Some(format!("process {id} ({name})"))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

/// The whole conversation: with the server, and with whoever sits in front of the terminal.
async fn ask(source: &OauthSource, credential: &CredentialConfig) -> Result<Credential, Failure> {
    let limit = credential.refresh.timeout;
    let begun = tokio::time::timeout(limit, source.begin_login()).await;
    let begun = begun.unwrap_or(Err(crate::credential::FetchError::Timeout(limit)));
    let begun = begun.map_err(|error| Failure::runtime(&error))?;
    print(instructions(&begun))?;
    let wait = human(begun.expires_in);
    say(format!("Waiting for up to {wait} until somebody has approved it. Ctrl-C ends this."));
    let granted = source.finish_login(&begun, limit).await;
    let granted = granted.map_err(|error| failed(&error, &credential.name))?;
    let bound = credential.scheme.bind(&granted.values);
    bound.map_err(|error| Failure::runtime(&error))?;
    Ok(granted)
}

fn failed(error: &LoginError, name: &str) -> Failure {
    let again = match error {
        LoginError::Expired | LoginError::Void => {
            format!(". For a new code, run: countersign login {name}")
        }
        LoginError::Denied | LoginError::Failed(_) => String::new(),
    };
    Failure::at_run_time(format!("nobody is logged in: {}{again}", chain(error)))
}

fn instructions(begun: &DeviceAuthorization) -> String {
    let mut text =
        "To log in, open this page in a browser, on this or any other device:\n".to_owned();
    let (page, code) = (&begun.verification_uri, &begun.user_code);
    let _ = writeln!(text, "\n    {}\n", styled(STRONG, page));
    let _ = writeln!(text, "and enter this code:\n\n    {}\n", styled(STRONG, code));
    if let Some(page) = &begun.verification_uri_complete {
        text.push_str("Or open this page, and see that it shows the same code:\n");
        let _ = writeln!(text, "\n    {page}\n");
    }
    text
}

/// Whether a store that is opened anew has what was saved.
async fn is_kept(
    config: &Config,
    credential: &CredentialConfig,
    secrets: &Arc<Secrets>,
    clock: &Clock,
    granted: &Credential,
) -> Result<bool, Failure> {
    let (place, task) = place(config, credential, secrets, clock).await?;
    let running = task.map(Task::start);
    let stored = place.load().await;
    if let Some(running) = running {
        running.close().await;
    }
    Ok(stored.is_some_and(|stored| stored.values == granted.values))
}

fn done(name: &str, granted: &Credential) -> String {
    let lives = granted.lifetime.map_or_else(|| "for ever".to_owned(), human);
    let renewed = granted.values.get(REFRESH_TOKEN).is_some();
    let lasts = if renewed {
        format!(
            "The access token lives {lives} and is renewed by itself, for as long as the server \
             takes its refresh token"
        )
    } else {
        format!(
            "The login lasts {lives}: the server gave no refresh token. Many servers want a scope \
             such as offline_access for that"
        )
    };
    format!(
        "Logged in for the credential '{name}'. The tokens are in the token store, where \
         `countersign run` finds them when it starts.\n{lasts}.\n"
    )
}
