//! From what the file says to what runs: every reference resolved, every text parsed, and every
//! problem reported at the place it comes from.

mod credential;
mod hmac;
mod identity;
mod listen;
mod log;
mod login;
mod oauth;
mod route;
mod store;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::context::Context;
use super::document::Node;
use super::problem::Problem;
use super::raw::{RawConfig, RawCredential, RawSize};
use super::shape::Shaped;
use super::{Config, Limits};
use crate::permissions::Check;

/// Compiles what [`shape::check`](super::shape::check) left over.
///
/// Returns the configuration, unless an error makes it meaningless, and each credential in terms of
/// the generic kinds.
pub fn compile(
    document: &Node,
    shaped: &Shaped,
    problems: &mut Vec<Problem>,
) -> (Option<Config>, Vec<(String, RawCredential)>) {
    let mut context =
        Context { document, removed: &shaped.removed, problems, written_as: Vec::new() };
    let raw = match RawConfig::deserialize(&shaped.value) {
        Ok(raw) => raw,
        Err(error) => {
            context.error("", error.to_string(), None);
            return (None, Vec::new());
        }
    };
    let limits = limits(&mut context, &raw);
    let drain = context.duration("drain", raw.drain.as_deref(), Duration::from_secs(30));
    let linger = linger(&mut context, raw.linger.as_deref());
    let upgrade_socket = upgrade_socket(&mut context, raw.upgrade_socket.as_deref());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = raw.workers.and_then(|n| usize::try_from(n).ok()).unwrap_or(cores);
    let listeners = listen::listeners(&mut context, &raw.listen);
    let admin = raw.admin.as_ref().and_then(|admin| listen::admin(&mut context, admin, &listeners));
    let token_store = store::token_store(&mut context, raw.token_store.as_ref());
    let mut expanded = Vec::new();
    let mut credentials = Vec::new();
    for (name, credential) in &raw.credential {
        let (generic, compiled) = credential::credential(&mut context, name, credential);
        expanded.push((name.clone(), generic));
        credentials.extend(compiled);
    }
    store::needed(&mut context, &token_store, &credentials);
    let declared: Vec<&str> = raw.credential.keys().map(String::as_str).collect();
    let routes = route::routes(&mut context, &raw.route, &declared, &credentials, &listeners);
    let log = log::log(&mut context, &raw.log, &listeners, &credentials);
    let trace = raw.trace.as_ref().and_then(|raw| trace::trace(&mut context, raw));
    let check_permissions =
        if raw.check_permissions == Some(false) { Check::Off } else { Check::Strict };
    let sandbox = raw.sandbox.unwrap_or_default();
    let config = Config {
        workers,
        drain,
        linger,
        upgrade_socket,
        check_permissions,
        sandbox,
        watch: raw.watch.unwrap_or(false),
        limits,
        log,
        trace,
        listeners,
        admin,
        token_store,
        credentials,
        routes,
    };
    (Some(config), expanded)
}

/// The longest time for which somebody who stops can be meant to go on.
const MAX_LINGER: Duration = Duration::from_mins(10);

/// How long new calls are served after the signal to end.
fn linger(context: &mut Context<'_>, raw: Option<&str>) -> Duration {
    // The one duration that may be zero: it is so if nothing is said.
    let raw = raw.filter(|text| text.trim() != "0s");
    let linger = context.duration("linger", raw, Duration::ZERO);
    if linger > MAX_LINGER {
        let hint = Some("what stops it waits for no longer than a minute or two: \"10s\"");
        context.error("linger", "this is more than 10 minutes", hint);
    }
    linger
}

/// Where a new process asks for the listening sockets.
fn upgrade_socket(context: &mut Context<'_>, raw: Option<&str>) -> Option<PathBuf> {
    const KEY: &str = "upgrade_socket";
    let path = raw?;
    let hint = Some("upgrade_socket = \"/run/countersign/upgrade.sock\"");
    if path.is_empty() || path.starts_with("unix:") {
        context.error(KEY, "this is not the path of a file", hint);
    } else if !cfg!(target_os = "linux") {
        context.error(KEY, "only Linux can hand sockets over", Some("leave it out"));
    } else {
        return Some(PathBuf::from(path));
    }
    None
}

fn limits(context: &mut Context<'_>, raw: &RawConfig) -> Limits {
    let raw = &raw.limits;
    let count = |value: Option<u64>, default: usize| {
        value.map_or(default, |value| usize::try_from(value).unwrap_or(usize::MAX))
    };
    let seconds = Duration::from_secs;
    let mut size = |path: &str, value: Option<&RawSize>, default: usize| {
        let size = context.size(path, value, u64::try_from(default).unwrap_or(u64::MAX));
        usize::try_from(size).unwrap_or(usize::MAX)
    };
    let header_bytes = size("limits.header_bytes", raw.header_bytes.as_ref(), 32 << 10);
    let target_bytes = size("limits.target_bytes", raw.target_bytes.as_ref(), 8 << 10);
    let per_request = raw.memory_per_request.as_ref();
    let memory_per_request = size("limits.memory_per_request", per_request, 1 << 20);
    let memory = size("limits.memory", raw.memory.as_ref(), 256 << 20);
    if target_bytes < 64 {
        let hint = Some("the least is 64");
        context.error("limits.target_bytes", "no request could be that short", hint);
    }
    if !(1 << 10..=1 << 20).contains(&header_bytes) {
        let hint = Some("between \"1KiB\" and \"1MiB\"");
        context.error("limits.header_bytes", "no such length of a request's head", hint);
    }
    Limits {
        connections: count(raw.connections, 1024),
        connections_per_address: count(raw.connections_per_address, 128),
        requests: count(raw.requests, 1024),
        header_bytes,
        fields: count(raw.fields, 100),
        target_bytes,
        memory_per_request,
        memory,
        spool_directory: raw.spool_directory.as_ref().map(Into::into),
        header_timeout: context.duration(
            "limits.header_timeout",
            raw.header_timeout.as_deref(),
            seconds(10),
        ),
        idle_timeout: context.duration(
            "limits.idle_timeout",
            raw.idle_timeout.as_deref(),
            seconds(60),
        ),
        write_timeout: context.duration(
            "limits.write_timeout",
            raw.write_timeout.as_deref(),
            seconds(900),
        ),
    }
}
