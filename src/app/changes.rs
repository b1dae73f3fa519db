//! What is different in another configuration, in words.

use std::sync::Arc;

use super::parts::Parts;
use super::restart::pairs;
use crate::config::{Config, LogConfig};

/// What is different in `new`.
pub(super) fn changes(old: &Parts, new: &Parts) -> Vec<String> {
    let mut changes = Vec::new();
    let named = |parts: &Parts| -> Vec<_> {
        let all = parts.credentials.iter();
        all.map(|part| (part.config.name.clone(), Arc::clone(&part.identity))).collect()
    };
    compare("credential", &named(old), &named(new), &mut changes);
    let named = |parts: &Parts| -> Vec<_> {
        let all = parts.routes.iter();
        all.map(|route| (route.config.name.clone(), Arc::clone(route))).collect()
    };
    compare("route", &named(old), &named(new), &mut changes);
    let (one, two) = (&old.config, &new.config);
    // Each key is decided on, here or in `restart`.
    let Config {
        workers: _,
        drain,
        linger,
        upgrade_socket: _,
        check_permissions: _,
        sandbox: _,
        watch,
        limits: _,
        log,
        trace: _,
        listeners: _,
        admin,
        token_store: _,
        credentials: _,
        routes: _,
    } = &**one;
    let LogConfig { level, format: _, access, file: _, access_file: _, buffer: _, request_id: _ } =
        log;
    let (pairs, _) = pairs(&one.listeners, &two.listeners);
    for (listener, pair) in two.listeners.iter().zip(pairs) {
        if pair.and_then(|pair| one.listeners.get(pair)) != Some(listener) {
            changes.push(format!("the listener at {} changed", listener.address));
        }
    }
    for (name, differs) in [
        ("the admin listener", *admin != two.admin),
        ("log.level", *level != two.log.level),
        ("log.access", *access != two.log.access),
        ("linger", *linger != two.linger),
        ("drain", *drain != two.drain),
        ("watch", *watch != two.watch),
    ] {
        if differs {
            changes.push(format!("{name} changed"));
        }
    }
    if changes.is_empty() {
        changes.push("the order changed".to_owned());
    }
    changes
}

fn compare<T>(
    what: &str,
    old: &[(String, Arc<T>)],
    new: &[(String, Arc<T>)],
    changes: &mut Vec<String>,
) {
    for (name, part) in new {
        match old.iter().find(|(other, _)| other == name) {
            None => changes.push(format!("the {what} '{name}' is new")),
            Some((_, other)) if !Arc::ptr_eq(part, other) => {
                changes.push(format!("the {what} '{name}' changed"));
            }
            Some(_) => {}
        }
    }
    for (name, _) in old {
        if !new.iter().any(|(other, _)| other == name) {
            changes.push(format!("the {what} '{name}' is gone"));
        }
    }
}
