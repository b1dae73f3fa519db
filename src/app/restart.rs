//! What of another configuration cannot be taken over while serving.

use std::path::PathBuf;

use crate::config::{Config, CredentialConfig, ListenerConfig, SourceSpec};
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

/// Everything in `new` that needs a restart of a program that serves by `old`.
pub(super) fn needed(old: &Config, new: &Config, confined: &Confined) -> Vec<Restart> {
    let mut all = Vec::new();
    let mut changed = |path: &str, changed: bool| {
        if changed {
            let message = "a change of this needs a restart".to_owned();
            all.push(Restart { path: path.to_owned(), message, hint: RESTART });
        }
    };
    changed("workers", old.workers != new.workers);
    changed("check_permissions", old.check_permissions != new.check_permissions);
    changed("sandbox", old.sandbox != new.sandbox);
    changed("token_store", old.token_store != new.token_store);
    let (one, two) = (&old.limits, &new.limits);
    changed("limits.connections", one.connections != two.connections);
    let per_address = one.connections_per_address != two.connections_per_address;
    changed("limits.connections_per_address", per_address);
    changed("limits.requests", one.requests != two.requests);
    changed("limits.header_bytes", one.header_bytes != two.header_bytes);
    changed("limits.fields", one.fields != two.fields);
    changed("limits.target_bytes", one.target_bytes != two.target_bytes);
    let per_request = one.memory_per_request != two.memory_per_request;
    changed("limits.memory_per_request", per_request);
    changed("limits.memory", one.memory != two.memory);
    changed("limits.spool_directory", one.spool_directory != two.spool_directory);
    changed("limits.header_timeout", one.header_timeout != two.header_timeout);
    changed("limits.idle_timeout", one.idle_timeout != two.idle_timeout);
    changed("limits.write_timeout", one.write_timeout != two.write_timeout);
    let (one, two) = (&old.log, &new.log);
    changed("log.format", one.format != two.format);
    changed("log.file", one.file != two.file);
    changed("log.buffer", one.buffer != two.buffer);
    changed("log.request_id", one.request_id != two.request_id);
    changed("log.access_file", one.access_file != two.access_file);
    changed("trace", old.trace != new.trace);
    match (&old.admin, &new.admin) {
        (Some(one), Some(two)) => changed("admin.address", one.address != two.address),
        (one, two) => changed("admin", one.is_some() != two.is_some()),
    }
    single_use(old, new, &mut all);
    addresses(old, new, &mut all);
    beyond(old, new, confined, &mut all);
    all
}

/// A second task would use up what the first one needs for its next renewal, with nothing to begin
/// anew.
fn single_use(old: &Config, new: &Config, all: &mut Vec<Restart>) {
    for credential in &new.credentials {
        let same = |other: &&CredentialConfig| other.name == credential.name;
        let before = old.credentials.iter().find(same);
        let SourceSpec::Oauth(oauth) = &credential.source else { continue };
        if !oauth.grant.can_ask_anew() && before.is_some_and(|before| before != credential) {
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
    for credential in &new.credentials {
        if credential.secrets().iter().any(is_new) {
            all.push(Restart {
                path: format!("credential.{}", credential.name),
                message: "needs a restart: the confined process cannot run the command of a \
                          secret"
                    .to_owned(),
                hint: CONFINED,
            });
        }
    }
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
        let all = needed(old, new, &Confined::default()).into_iter();
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
    fn every_bound_and_every_key_of_the_log_needs_one() {
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
            (
                "log",
                &[
                    "level = \"warn\"",
                    "format = \"json\"",
                    "access = \"json\"",
                    "file = \"/tmp/log\"",
                    "request_id = \"off\"",
                ][..],
            ),
        ] {
            for line in lines {
                let new = config(&format!("[{table}]\n{line}\n{listen}"));
                let key = line.split(' ').next().unwrap();
                assert_eq!(paths(&old, &new), [format!("{table}.{key}")]);
            }
        }
        let new = config(&format!("drain = \"1s\"\nwatch = true\n{listen}"));
        assert_eq!(paths(&old, &new), Vec::<String>::new());
    }
}
