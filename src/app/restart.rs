//! What of another configuration cannot be taken over while serving.

use std::path::PathBuf;

use crate::config::{Config, CredentialConfig, Limits, ListenerConfig, LogConfig, SourceSpec};
use crate::credential::oauth::Grant;
use crate::credential::secret_ref::SecretRef;
use crate::sandbox::{Confined, Missing};

/// A key whose change needs a restart, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Restart {
    pub(super) path: String,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// What to do where the new value would do, but not while serving.
const RESTART: &str = "restart the program to use it";
/// What to do where the process has confined itself too far.
const CONFINED: &str = "restart the program: it confines itself at its start to what its \
                        configuration names then (sandbox)";

/// Everything in `new` that needs a restart of a program that serves by `old`, and where the credentials
/// in `ending` are still kept for requests in flight.
pub(super) fn needed(
    old: &Config,
    ending: &[CredentialConfig],
    new: &Config,
    confined: &Confined,
) -> Vec<Restart> {
    let mut all = Vec::new();
    // Each key is decided on, here or in `changes`.
    let Config {
        workers,
        drain: _,
        linger: _,
        upgrade_socket,
        check_permissions,
        sandbox,
        watch: _,
        limits,
        log,
        trace,
        listeners: _,
        admin,
        token_store,
        credentials: _,
        routes: _,
    } = old;
    let mut changed = |path: &str, changed: bool| {
        if changed {
            let message = "a change of this needs a restart".to_owned();
            all.push(Restart { path: path.to_owned(), message, hint: RESTART });
        }
    };
    changed("workers", *workers != new.workers);
    changed("upgrade_socket", *upgrade_socket != new.upgrade_socket);
    changed("check_permissions", *check_permissions != new.check_permissions);
    changed("sandbox", *sandbox != new.sandbox);
    changed("token_store", *token_store != new.token_store);
    bounds(limits, &new.limits, &mut changed);
    logging(log, &new.log, &mut changed);
    changed("trace", *trace != new.trace);
    match (admin, &new.admin) {
        (Some(one), Some(two)) => changed("admin.address", one.address != two.address),
        (one, two) => changed("admin", one.is_some() != two.is_some()),
    }
    single_use(old, ending, new, &mut all);
    addresses(old, new, &mut all);
    beyond(old, new, confined, &mut all);
    all
}

fn bounds(old: &Limits, new: &Limits, changed: &mut impl FnMut(&str, bool)) {
    let Limits {
        connections,
        connections_per_address,
        requests,
        header_bytes,
        fields,
        target_bytes,
        memory_per_request,
        memory,
        spool_directory,
        header_timeout,
        idle_timeout,
        write_timeout,
    } = old;
    changed("limits.connections", *connections != new.connections);
    let per_address = *connections_per_address != new.connections_per_address;
    changed("limits.connections_per_address", per_address);
    changed("limits.requests", *requests != new.requests);
    changed("limits.header_bytes", *header_bytes != new.header_bytes);
    changed("limits.fields", *fields != new.fields);
    changed("limits.target_bytes", *target_bytes != new.target_bytes);
    changed("limits.memory_per_request", *memory_per_request != new.memory_per_request);
    changed("limits.memory", *memory != new.memory);
    changed("limits.spool_directory", *spool_directory != new.spool_directory);
    changed("limits.header_timeout", *header_timeout != new.header_timeout);
    changed("limits.idle_timeout", *idle_timeout != new.idle_timeout);
    changed("limits.write_timeout", *write_timeout != new.write_timeout);
}

fn logging(old: &LogConfig, new: &LogConfig, changed: &mut impl FnMut(&str, bool)) {
    let LogConfig { level: _, format, access: _, file, access_file, buffer, request_id } = old;
    changed("log.format", *format != new.format);
    changed("log.file", *file != new.file);
    changed("log.buffer", *buffer != new.buffer);
    changed("log.request_id", *request_id != new.request_id);
    changed("log.access_file", *access_file != new.access_file);
}

/// A second task would use up what the first one needs for its next renewal, with nothing to begin
/// anew.
fn single_use(old: &Config, ending: &[CredentialConfig], new: &Config, all: &mut Vec<Restart>) {
    for credential in &new.credentials {
        // That one goes on as it is.
        if old.credentials.contains(credential) {
            continue;
        }
        let mut others = old.credentials.iter().chain(ending);
        if others.any(|other| uses_up(credential, other)) {
            all.push(Restart {
                path: format!("credential.{}", credential.name),
                message: "a change of a credential whose refresh token is good for one use needs \
                          a restart"
                    .to_owned(),
                hint: "restart the program, or give the changed credential a name and a refresh \
                       token of its own",
            });
        }
    }
}

/// True if `credential` would use up what `other` needs, or the other way round.
fn uses_up(credential: &CredentialConfig, other: &CredentialConfig) -> bool {
    let (SourceSpec::Oauth(oauth), SourceSpec::Oauth(of_other)) =
        (&credential.source, &other.source)
    else {
        return false;
    };
    if oauth.grant.can_ask_anew() || of_other.grant.can_ask_anew() {
        return false;
    }
    let devices = |credential: &CredentialConfig| {
        credential.devices.as_ref().map(|devices| devices.file.clone())
    };
    credential.name == other.name
        || match (&oauth.grant, &of_other.grant) {
            (Grant::RefreshToken(Some(one)), Grant::RefreshToken(Some(two))) => one == two,
            // Each device has its own, in the file.
            (Grant::RefreshToken(None), Grant::RefreshToken(None)) => {
                devices(credential) == devices(other)
            }
            // What a person has logged in for is found by the credential's name.
            _ => false,
        }
}

/// Sockets are opened at the start: before the process confines itself, and perhaps by others.
fn addresses(old: &Config, new: &Config, all: &mut Vec<Restart>) {
    let (pairs, gone) = pairs(&old.listeners, &new.listeners);
    for (index, pair) in pairs.iter().enumerate() {
        if pair.is_none() {
            all.push(Restart {
                path: format!("listen[{index}].address"),
                message: "listening at another address needs a restart".to_owned(),
                hint: RESTART,
            });
        }
    }
    // Where an address was changed, that says enough.
    if pairs.iter().all(Option::is_some) {
        for index in gone {
            let address = old.listeners.get(index).map(|listener| listener.address.to_string());
            let address = address.unwrap_or_default();
            all.push(Restart {
                path: "listen".to_owned(),
                message: format!("no longer listening at {address} needs a restart"),
                hint: RESTART,
            });
        }
    }
}

/// For each listener in `new` which of `old` is at its address, and those of `old` that are nobody's.
pub(super) fn pairs(
    old: &[ListenerConfig],
    new: &[ListenerConfig],
) -> (Vec<Option<usize>>, Vec<usize>) {
    let mut free: Vec<usize> = (0..old.len()).collect();
    let mut pair = |listener: &ListenerConfig| {
        let at = |index: &usize| old.get(*index).is_some_and(|o| o.address == listener.address);
        let place = free.iter().position(at)?;
        Some(free.remove(place))
    };
    let pairs = new.iter().map(&mut pair).collect();
    (pairs, free)
}

/// What a confined process cannot do.
fn beyond(old: &Config, new: &Config, confined: &Confined, all: &mut Vec<Restart>) {
    if !confined.is_confined() {
        return;
    }
    let mut lacks = |path: String, missing: Vec<Missing>| {
        all.extend(missing.into_iter().map(|missing| Restart {
            path: path.clone(),
            message: format!("needs a restart: {missing} by the confined process"),
            hint: CONFINED,
        }));
    };
    for (index, listener) in new.listeners.iter().enumerate() {
        lacks(format!("listen[{index}]"), confined.lacks_for_listener(listener));
    }
    if let Some(admin) = &new.admin {
        lacks("admin".to_owned(), confined.lacks_for_admin(admin));
    }
    for credential in &new.credentials {
        let path = format!("credential.{}", credential.name);
        lacks(path, confined.lacks_for_credential(credential));
    }
    for (index, route) in new.routes.iter().enumerate() {
        lacks(format!("route[{index}].upstream"), confined.lacks_for_route(route));
    }
    let known = old.secrets();
    let is_new =
        |secret: &SecretRef| matches!(secret, SecretRef::Exec(_)) && !known.contains(secret);
    let mut told: Vec<SecretRef> = Vec::new();
    for secret in new.secrets() {
        if is_new(&secret)
            && !told.contains(&secret)
            && let Some(path) = user_of(new, &secret)
        {
            all.push(Restart {
                path,
                message: "needs a restart: the confined process cannot run the command of a \
                          secret"
                    .to_owned(),
                hint: CONFINED,
            });
            told.push(secret);
        }
    }
}

/// The path of what names `secret`, if a change of that alone would not need a restart.
fn user_of(config: &Config, secret: &SecretRef) -> Option<String> {
    let is_callers = |listener: &ListenerConfig| {
        listener.access.caller_token.as_ref().is_some_and(|token| token.secret == *secret)
    };
    if let Some(index) = config.listeners.iter().position(is_callers) {
        return Some(format!("listen[{index}].caller_token"));
    }
    if config.admin.as_ref().is_some_and(|admin| admin.token.as_ref() == Some(secret)) {
        return Some("admin.token".to_owned());
    }
    let mut credentials = config.credentials.iter();
    let credential = credentials.find(|credential| credential.secrets().contains(secret))?;
    Some(format!("credential.{}", credential.name))
}

/// The same for the files that devices name.
pub(super) fn beyond_for_devices(files: &[PathBuf], confined: &Confined) -> Vec<String> {
    let missing = confined.lacks_for_files(files).into_iter();
    missing
        .map(|missing| format!("devices need a restart: {missing} by the confined process"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[[route]]\nupstream = \"http://u.test\"\n");
        let loaded = load(&text, &|_| None);
        let problems = loaded.problems;
        loaded.config.unwrap_or_else(|| panic!("{problems:#?}"))
    }

    fn listening(addresses: &[&str]) -> Config {
        let listen = addresses.iter().map(|at| format!("[[listen]]\naddress = \"{at}\"\n"));
        config(&listen.collect::<Vec<_>>().concat())
    }

    fn paths(old: &Config, new: &Config) -> Vec<String> {
        let all = needed(old, &[], new, &Confined::default()).into_iter();
        all.map(|restart| restart.path).collect()
    }

    #[test]
    fn listeners_are_known_by_their_addresses_whatever_their_order() {
        let (a, b, c) = ("127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003");
        let (one, two) = (listening(&[a, b]), listening(&[b, a]));
        assert_eq!(pairs(&one.listeners, &two.listeners), (vec![Some(1), Some(0)], vec![]));
        assert_eq!(paths(&one, &two), Vec::<String>::new());
        assert_eq!(paths(&one, &listening(&[c, a])), ["listen[0].address"]);
        assert_eq!(paths(&one, &listening(&[a, b, c])), ["listen[2].address"]);
        assert_eq!(paths(&one, &listening(&[b])), ["listen"]);
        // Any port is another one each time, but not for one that is there.
        let any = listening(&["127.0.0.1:0", "127.0.0.1:0"]);
        assert_eq!(pairs(&any.listeners, &any.listeners), (vec![Some(0), Some(1)], vec![]));
    }

    #[test]
    fn every_bound_and_every_key_of_the_log_but_its_levels_needs_one() {
        let listen = "[[listen]]\naddress = \"127.0.0.1:1001\"\n";
        let old = config(listen);
        for (table, lines) in [
            (
                "limits",
                &[
                    "connections = 5",
                    "connections_per_address = 5",
                    "requests = 5",
                    "header_bytes = 5000",
                    "fields = 5",
                    "target_bytes = 500",
                    "memory_per_request = 5",
                    "memory = 5",
                    "spool_directory = \"/var/tmp\"",
                    "header_timeout = \"5s\"",
                    "idle_timeout = \"5s\"",
                    "write_timeout = \"5s\"",
                ][..],
            ),
            ("log", &["format = \"json\"", "file = \"/tmp/log\"", "request_id = \"off\""][..]),
        ] {
            for line in lines {
                let new = config(&format!("[{table}]\n{line}\n{listen}"));
                let key = line.split(' ').next().unwrap();
                assert_eq!(paths(&old, &new), [format!("{table}.{key}")]);
            }
        }
        let new = config(&format!("upgrade_socket = \"/run/up.sock\"\n{listen}"));
        assert_eq!(paths(&old, &new), ["upgrade_socket"]);
        let log = "[log]\nlevel = \"warn\"\naccess = \"json\"\n";
        let new = config(&format!("drain = \"1s\"\nwatch = true\n{log}{listen}"));
        assert_eq!(paths(&old, &new), Vec::<String>::new());
    }

    #[test]
    fn a_refresh_token_for_one_use_is_of_one_task_whatever_its_credential_is_called() {
        let with = |name: &str, token: &str, scope: &str| {
            config(&format!(
                "[[listen]]\naddress = \"127.0.0.1:1001\"\n[credential.{name}]\n\
                 kind = \"oauth2\"\ntoken_url = \"https://id.test/token\"\nclient_id = \"c\"\n\
                 scope = \"{scope}\"\ngrant = \"refresh_token\"\n\
                 refresh_token = {{ file = \"/{token}\" }}\n"
            ))
        };
        let old = with("a", "one", "x");
        assert_eq!(paths(&old, &with("a", "one", "x")), Vec::<String>::new());
        assert_eq!(paths(&old, &with("a", "one", "y")), ["credential.a"]);
        assert_eq!(paths(&old, &with("b", "one", "x")), ["credential.b"], "it is renamed");
        assert_eq!(paths(&old, &with("b", "two", "x")), Vec::<String>::new());
        // What is gone may still be kept for requests in flight, and come back meanwhile.
        let none = config("[[listen]]\naddress = \"127.0.0.1:1001\"\n");
        let of_ending = |new: &Config| {
            let all = needed(&none, &old.credentials, new, &Confined::default());
            all.into_iter().map(|restart| restart.path).collect::<Vec<_>>()
        };
        assert_eq!(of_ending(&old), ["credential.a"]);
        assert_eq!(of_ending(&with("b", "one", "x")), ["credential.b"]);
        assert_eq!(of_ending(&with("b", "two", "x")), Vec::<String>::new());
    }
}
