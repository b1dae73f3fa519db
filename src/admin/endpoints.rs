//! What can be asked of the admin listener: a table of paths, methods and what is meant.

use http::{Method, Request};
use percent_encoding::percent_decode_str;

use super::explain::Question;
use super::page::Asset;
use crate::config::AdminConfig;

/// What stands in a path for the name of a credential.
const NAME: &str = "NAME";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Something that is known without a look.
    Probe(Probe),
    /// A file of the page.
    Page(&'static Asset),
    /// What happens, as it happens.
    Events,
    /// Something that takes a look at everything.
    Look(Look),
    /// Something is to be done.
    Change(Change),
}

/// Probes need no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    Ready,
}

/// What is looked at for an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    Metrics,
    Status,
    Devices { credential: String, query: String },
    Explain(Box<Question>),
    Log,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Refresh { credential: String, query: String },
    Explain,
    Log,
    Reload,
    Quit,
}

/// What the target of a request says beside the path of the table.
struct Said<'t> {
    /// In place of [`NAME`].
    name: String,
    query: &'t str,
}

struct Endpoint {
    path: &'static str,
    /// False for what changes something.
    reads: bool,
    /// Where it is there only by configuration.
    when: fn(&AdminConfig) -> bool,
    ask: fn(Said<'_>) -> Asked,
}

/// One line for each.
const ENDPOINTS: &[Endpoint] = &[
    read("/livez", |_| Asked::Probe(Probe::Live)),
    read("/readyz", |_| Asked::Probe(Probe::Ready)),
    read("/metrics", |_| Asked::Look(Look::Metrics)),
    read("/api/status", |_| Asked::Look(Look::Status)),
    read("/api/credentials/NAME/devices", |said| {
        Asked::Look(Look::Devices { credential: said.name, query: said.query.to_owned() })
    }),
    change("/api/credentials/NAME/refresh", |said| {
        Asked::Change(Change::Refresh { credential: said.name, query: said.query.to_owned() })
    }),
    read("/api/events", |_| Asked::Events),
    change("/api/explain", |_| Asked::Change(Change::Explain)),
    read("/api/log", |_| Asked::Look(Look::Log)),
    change("/api/log", |_| Asked::Change(Change::Log)),
    change("/api/reload", |_| Asked::Change(Change::Reload)),
    Endpoint { when: |config| config.quit, ..change("/quit", |_| Asked::Change(Change::Quit)) },
];

const fn read(path: &'static str, ask: fn(Said<'_>) -> Asked) -> Endpoint {
    Endpoint { path, reads: true, when: |_| true, ask }
}

const fn change(path: &'static str, ask: fn(Said<'_>) -> Asked) -> Endpoint {
    Endpoint { path, reads: false, when: |_| true, ask }
}

/// Why nothing is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unmeant {
    /// There is nothing at this path.
    Path,
    /// There is, but only these methods are for it.
    Method(&'static str),
}

/// What `request` asks for.
pub(super) fn find<B>(request: &Request<B>, config: &AdminConfig) -> Result<Asked, Unmeant> {
    let (path, method) = (request.uri().path(), request.method());
    if let Some(asset) = Asset::at(path) {
        let meant = method == Method::GET || method == Method::HEAD;
        return if meant { Ok(Asked::Page(asset)) } else { Err(Unmeant::Method("GET, HEAD")) };
    }
    let query = request.uri().query().unwrap_or_default();
    let (mut reads, mut changes) = (false, false);
    for endpoint in ENDPOINTS.iter().filter(|endpoint| (endpoint.when)(config)) {
        let Some(name) = name_in(endpoint.path, path) else { continue };
        let meant = if endpoint.reads {
            reads = true;
            method == Method::GET || method == Method::HEAD
        } else {
            changes = true;
            method == Method::POST
        };
        if meant {
            return Ok((endpoint.ask)(Said { name, query }));
        }
    }
    Err(match (reads, changes) {
        (false, false) => Unmeant::Path,
        (true, false) => Unmeant::Method("GET, HEAD"),
        (false, true) => Unmeant::Method("POST"),
        (true, true) => Unmeant::Method("GET, HEAD, POST"),
    })
}

/// What stands in `path` for the name in `pattern`, nothing if that has none; `None` if it is
/// another path.
fn name_in(pattern: &str, path: &str) -> Option<String> {
    let Some((before, after)) = pattern.split_once(NAME) else {
        return (pattern == path).then(String::new);
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    if name.is_empty() || name.contains('/') {
        return None;
    }
    Some(percent_decode_str(name).decode_utf8().ok()?.into_owned())
}

/// True for the paths that need no token: probes, and the page, which holds nothing itself and has to
/// be there to ask for the token.
pub(super) fn is_open(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz") || Asset::at(path).is_some()
}

/// Every path, for people.
pub(super) fn known(config: &AdminConfig) -> String {
    let there = ENDPOINTS.iter().filter(|endpoint| (endpoint.when)(config));
    let paths = there.map(|endpoint| {
        if endpoint.reads { endpoint.path.to_owned() } else { format!("POST {}", endpoint.path) }
    });
    format!("known here: /, {}", paths.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(quit: bool) -> AdminConfig {
        let address = ([127, 0, 0, 1], 8081).into();
        AdminConfig { address, hosts: Vec::new(), token: None, quit }
    }

    fn meant(method: &str, target: &str) -> Result<Asked, Unmeant> {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        find(&request, &config(false))
    }

    #[test]
    fn a_path_a_method_and_a_name_say_what_is_meant() {
        let refresh = |credential: &str, query: &str| {
            let (credential, query) = (credential.to_owned(), query.to_owned());
            Ok(Asked::Change(Change::Refresh { credential, query }))
        };
        assert_eq!(meant("GET", "/livez"), Ok(Asked::Probe(Probe::Live)));
        assert_eq!(meant("HEAD", "/metrics?x"), Ok(Asked::Look(Look::Metrics)));
        assert_eq!(meant("POST", "/api/credentials/plant/refresh"), refresh("plant", ""));
        let target = "/api/credentials/a%2Fb/refresh?device=x";
        assert_eq!(meant("POST", target), refresh("a/b", "device=x"));
        for (method, target, allowed) in [
            ("POST", "/api/status", "GET, HEAD"),
            ("DELETE", "/livez", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("PUT", "/api/log", "GET, HEAD, POST"),
            ("GET", "/api/credentials/plant/refresh", "POST"),
            ("OPTIONS", "/api/credentials/plant/refresh", "POST"),
        ] {
            assert_eq!(meant(method, target), Err(Unmeant::Method(allowed)), "{method} {target}");
        }
        for target in [
            "/page",
            "/livez/",
            "/api/credentials//refresh",
            "/api/credentials/a/b/refresh",
            "/api/credentials/%ff/refresh",
            "/api/credentials/refresh",
        ] {
            assert_eq!(meant("POST", target), Err(Unmeant::Path), "{target}");
        }
    }

    #[test]
    fn what_is_not_configured_is_not_there() {
        let quit = Request::post("/quit").body(()).unwrap();
        assert_eq!(find(&quit, &config(false)), Err(Unmeant::Path));
        assert_eq!(find(&quit, &config(true)), Ok(Asked::Change(Change::Quit)));
        assert!(!known(&config(false)).contains("quit"));
        let known = known(&config(true));
        assert!(known.starts_with("known here: /, /livez, "), "{known}");
        assert!(known.ends_with(", POST /api/reload, POST /quit"), "{known}");
    }
}
