//! Wiring of credentials with devices.

use std::collections::HashMap;
use std::sync::Arc;

use super::StartError;
use super::credentials::{login, login_source, oauth_source};
use super::keepers::Keepers;
use crate::clock::Clock;
use crate::config::{Config, CredentialConfig, SourceSpec, devices};
use crate::credential::Credential;
use crate::credential::cache::CacheSettings;
use crate::credential::devices::DevicesSpec;
use crate::credential::devices::follow::{Read, follow};
use crate::credential::devices::gate::EndpointGate;
use crate::credential::devices::pool::DevicePool;
use crate::credential::devices::scheduler::Scheduler;
use crate::credential::devices::source::{DeviceSource, FixedSource};
use crate::credential::devices::table::Table;
use crate::credential::secrets::Secrets;
use crate::credential::store::Store;
use crate::credential::store::slots::Slots;
use crate::permissions::Check;
use crate::sign::Signer;
use crate::sign::shared::SharedValues;
use crate::stamp::POLL_INTERVAL;

/// The devices of all credentials that have any, by the credential's name.
///
/// # Errors
/// With everything that is wrong with the files.
pub fn tables(config: &Config) -> Result<HashMap<String, Table>, StartError> {
    tables_of(config.credentials.iter(), config.check_permissions)
}

/// The same of some credentials.
///
/// # Errors
/// With everything that is wrong with the files.
pub(super) fn tables_of<'c>(
    credentials: impl Iterator<Item = &'c CredentialConfig>,
    check: Check,
) -> Result<HashMap<String, Table>, StartError> {
    let mut tables = HashMap::new();
    let mut errors = Vec::new();
    for credential in credentials {
        let Some(spec) = &credential.devices else { continue };
        match devices::read(spec, check) {
            Ok(table) => {
                tables.insert(credential.name.clone(), table);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(tables) } else { Err(StartError::Devices(errors)) }
}

/// The credentials of devices, and the tasks that keep them fresh and read the file again.
///
/// # Errors
/// When TLS to the token endpoint cannot be set up.
pub(super) fn pool(
    credential: &CredentialConfig,
    table: Table,
    secrets: &Arc<Secrets>,
    store: &Store,
    clock: &Clock,
    keepers: &mut Keepers,
) -> Result<DevicePool<Signer>, StartError> {
    let Some(spec) = credential.devices.clone() else {
        return Err(StartError::System(std::io::Error::other("this credential has no devices")));
    };
    match &credential.source {
        SourceSpec::Login(request) => {
            let gate = keepers.1.entry(request.request.url.to_string()).or_default();
            let gate = Arc::clone(gate);
            let source = login_source(credential, request, secrets, clock)?;
            let login = login(credential, secrets);
            let slots = Slots::new(store, &credential.name, credential.definition, login);
            Ok(start_pool(credential, spec, table, source, gate, slots, secrets, clock, keepers))
        }
        SourceSpec::Oauth(oauth) => {
            let gate = keepers.1.entry(oauth.url().to_string()).or_default();
            let gate = Arc::clone(gate);
            let source = oauth_source(credential, oauth, secrets, clock)?;
            let login = login(credential, secrets);
            let slots = Slots::new(store, &credential.name, credential.definition, login);
            Ok(start_pool(credential, spec, table, source, gate, slots, secrets, clock, keepers))
        }
        SourceSpec::Fixed(fixed) => {
            let source = FixedSource { spec: fixed.clone(), secrets: Arc::clone(secrets) };
            // Nobody is asked, so nobody has to be spared.
            let mut spec = spec;
            spec.fleet.max_logins_per_second = f64::INFINITY;
            let (gate, slots) = Default::default();
            Ok(start_pool(credential, spec, table, source, gate, slots, secrets, clock, keepers))
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what the kinds of sources have in common")]
fn start_pool<S: DeviceSource>(
    credential: &CredentialConfig,
    spec: DevicesSpec,
    table: Table,
    source: S,
    gate: Arc<EndpointGate>,
    slots: Slots,
    secrets: &Arc<Secrets>,
    clock: &Clock,
    keepers: &mut Keepers,
) -> DevicePool<Signer> {
    let policy = credential.refresh;
    let settings = CacheSettings {
        renewable: credential.source.is_fetched(),
        wait: policy.wait,
        min_interval: policy.min_interval,
    };
    let pool = DevicePool::new(table, clock.clone(), settings, gate);
    let (name, scheme, check) =
        (credential.name.clone(), credential.scheme.clone(), secrets.check());
    let published = pool.clone();
    keepers.0.push(Box::new(move |nursery| {
        let (of, stop) = (name.clone(), nursery.stop.clone());
        let shared = SharedValues::default();
        let scheduler = Scheduler {
            name: name.clone(),
            source,
            prepare: move |credential: &Credential| {
                scheme.bind(&credential.values).map(|signer| signer.sharing(&shared))
            },
            pool: published.clone(),
            policy,
            fleet: spec.fleet,
            slots,
            check,
            stop: stop.clone(),
        };
        nursery.keep(&of, scheduler);
        let file = spec.file.clone();
        let read: Read = Arc::new(move || devices::read(&spec, check));
        nursery.keep(&of, move || {
            let (name, file, read) = (name.clone(), file.clone(), Arc::clone(&read));
            follow(name, file, read, published.clone(), check, POLL_INTERVAL, stop.clone())
        });
    }));
    pool
}
