//! `countersign fetch`: one fetch of one credential, without showing what it returned.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::hint;
use super::load::{Source, start_failure};
use super::output::{Failure, print, say};
use super::run::runtime;
use crate::app::{StartError, source};
use crate::clock::Clock;
use crate::config::shape::nearest;
use crate::config::{Config, CredentialConfig, SourceSpec, devices};
use crate::credential::devices::source::own_values;
use crate::credential::devices::table::Table;
use crate::credential::oauth::{Grant, REFRESH_TOKEN};
use crate::credential::secrets::Secrets;
use crate::credential::{Credential, FetchError};
use crate::permissions::Check;
use crate::values::Values;

pub(super) fn fetch(
    name: &str,
    device: Option<&str>,
    path: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let config = Source::read(path)?.config()?;
    let credential = find(&config, name)?;
    if credential.source.needs_a_person() {
        let message = format!(
            "nothing is fetched for the credential '{name}', which a person logs in with: \
             countersign login {name}"
        );
        return Err(Failure::configuration(message));
    }
    let own = own(credential, device, config.check_permissions)?;
    let clock = Clock::system();
    let fetched = fetch_once(credential, own, &clock, config.check_permissions);
    let fetched = runtime()?.block_on(fetched)?;
    print(describe(&fetched))?;
    if let Some(warning) = used_up(credential, &fetched) {
        say(warning);
    }
    Ok(ExitCode::SUCCESS)
}

/// The credential of that name.
pub(super) fn find<'c>(config: &'c Config, name: &str) -> Result<&'c CredentialConfig, Failure> {
    config.credentials.iter().find(|credential| credential.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.credentials.iter().map(|c| c.name.as_str()).collect();
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("there are: {}", names.join(", ")),
        };
        Failure::configuration(format!("there is no credential '{name}'; {hint}"))
    })
}

/// The table and the row of the device, where the credential has devices.
fn own(
    credential: &CredentialConfig,
    device: Option<&str>,
    check: Check,
) -> Result<Option<(Table, usize)>, Failure> {
    let name = &credential.name;
    match (&credential.devices, device) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let message = format!("the credential '{name}' has no devices; leave --device out");
            Err(Failure::configuration(message))
        }
        (Some(spec), device) => {
            let table = devices::read(spec, check);
            let table = table.map_err(|error| start_failure(StartError::Devices(vec![error])))?;
            let Some(device) = device else {
                let count = table.len();
                let message = format!(
                    "the credential '{name}' has {count} device(s); say which with --device ID"
                );
                return Err(Failure::configuration(message));
            };
            let Some(row) = table.find(device) else {
                let file = spec.file.display();
                let message = format!("there is no device '{device}' in {file}");
                return Err(Failure::configuration(message));
            };
            Ok(Some((table, row)))
        }
    }
}

/// One attempt, within the credential's time limit. Bound to its scheme, so that values that could
/// not be used are an error here and not later.
pub(super) async fn fetch_once(
    credential: &CredentialConfig,
    own: Option<(Table, usize)>,
    clock: &Clock,
    check: Check,
) -> Result<Credential, Failure> {
    let secrets = Secrets::resolve(credential.secrets(), check).await;
    let secrets = Arc::new(secrets.map_err(|errors| start_failure(StartError::Secrets(errors)))?);
    let own = match own {
        Some((table, row)) => {
            let own = own_values(&table, row, check).await;
            own.map_err(|error| Failure::configuration(error.to_string()))?
        }
        None => Values::default(),
    };
    let fetched = match &credential.source {
        SourceSpec::Fixed(spec) => {
            let values =
                spec.read_with(&secrets, &own).map_err(|error| Failure::runtime(&error))?;
            Credential { values, ..Credential::default() }
        }
        SourceSpec::Login(_) | SourceSpec::Oauth(_) => {
            let source = source(credential, &secrets, clock).map_err(start_failure)?;
            let limit = credential.refresh.timeout;
            let fetched = tokio::time::timeout(limit, source.fetch_with(&own, None)).await;
            let fetched = fetched.unwrap_or(Err(FetchError::Timeout(limit)));
            fetched
                .map_err(|error| Failure::runtime(&error).hint(hint::fetch(credential, &error)))?
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
