//! `countersign fetch`: one fetch of one credential, without showing what it returned.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::load::{Source, start_failure};
use super::output::{Failure, print, say};
use super::run::runtime;
use crate::app::{StartError, source};
use crate::clock::Clock;
use crate::config::shape::nearest;
use crate::config::{CredentialConfig, SourceSpec};
use crate::credential::oauth::{Grant, REFRESH_TOKEN};
use crate::credential::secrets::Secrets;
use crate::credential::{Credential, CredentialSource, FetchError};
use crate::permissions::Check;

pub(super) fn fetch(name: &str, path: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = Source::read(path)?.config()?;
    let Some(credential) = config.credentials.iter().find(|credential| credential.name == name)
    else {
        let names: Vec<&str> = config.credentials.iter().map(|c| c.name.as_str()).collect();
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("there are: {}", names.join(", ")),
        };
        let message = format!("there is no credential '{name}'; {hint}");
        return Err(Failure::configuration(message));
    };
    let fetched =
        runtime()?.block_on(fetch_once(credential, &Clock::system(), config.check_permissions))?;
    print(describe(&fetched))?;
    if let Some(warning) = used_up(credential, &fetched) {
        say(warning);
    }
    Ok(ExitCode::SUCCESS)
}

/// One attempt, within the credential's time limit. Bound to its scheme, so that values that could
/// not be used are an error here and not later.
pub(super) async fn fetch_once(
    credential: &CredentialConfig,
    clock: &Clock,
    check: Check,
) -> Result<Credential, Failure> {
    let secrets = Secrets::resolve(credential.secrets(), check).await;
    let secrets = Arc::new(secrets.map_err(|errors| start_failure(StartError::Secrets(errors)))?);
    let fetched = match &credential.source {
        SourceSpec::Fixed(spec) => {
            let values = spec.read(&secrets).map_err(|error| Failure::runtime(&error))?;
            Credential { values, ..Credential::default() }
        }
        SourceSpec::Login(_) | SourceSpec::Oauth(_) => {
            let source = source(credential, &secrets, clock).map_err(start_failure)?;
            let limit = credential.refresh.timeout;
            let fetched = tokio::time::timeout(limit, source.fetch(None)).await;
            let fetched = fetched.unwrap_or(Err(FetchError::Timeout(limit)));
            fetched.map_err(|error| Failure::runtime(&error))?
        }
    };
    let bound = credential.scheme.bind(&fetched.values);
    bound.map_err(|error| Failure::runtime(&error))?;
    Ok(fetched)
}

/// What whoever asked for one fetch has to know: the secret that the configuration refers to may be
/// good for one use only.
pub(super) fn used_up(credential: &CredentialConfig, fetched: &Credential) -> Option<&'static str> {
    let SourceSpec::Oauth(spec) = &credential.source else { return None };
    let replaced = fetched.values.get(REFRESH_TOKEN).is_some();
    (matches!(spec.grant, Grant::RefreshToken(_)) && replaced).then_some(
        "warning: the answer had a new refresh token, which is not kept; if this server takes each \
         only once, the configured one is used up now",
    )
}

/// Names, lifetime and skew: what may be shown.
fn describe(credential: &Credential) -> String {
    let names: Vec<&str> =
        credential.values.names().map(|name| name.trim_matches(['(', ')'])).collect();
    let mut text = format!("values    {}\n", names.join(", "));
    let lifetime = match credential.lifetime {
        Some(lifetime) => human(lifetime),
        None => "does not end".to_owned(),
    };
    let _ = writeln!(text, "lifetime  {lifetime}");
    if let Some(skew) = credential.clock_skew_ms {
        let _ = writeln!(text, "skew      {}", human_skew(skew));
    }
    text
}

/// A duration as a person says it.
pub(super) fn human(duration: Duration) -> String {
    let seconds = (duration + Duration::from_millis(500)).as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", (seconds + 30) / 60),
        7_200..172_800 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// How two clocks differ. `Date` has whole seconds, so below two there is nothing to tell.
pub(super) fn human_skew(skew_ms: i64) -> String {
    let distance = Duration::from_millis(skew_ms.unsigned_abs());
    match skew_ms {
        -1_999..=1_999 => "none that can be seen".to_owned(),
        2_000.. => format!("our clock is {} behind the token endpoint's", human(distance)),
        _ => format!("our clock is {} ahead of the token endpoint's", human(distance)),
    }
}
