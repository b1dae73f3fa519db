//! Targets and routes: the table agrees with a linear scan, what was matched is what is forwarded,
//! and no server that reads a path in its own way is led past a route, a closed path or its base.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, Uri};

use crate::config::{DenyPattern, RouteConfig};
use crate::proxy::path::{AmbiguousPath, generous_reading};
use crate::proxy::retarget::{replace_query, retarget};
use crate::proxy::route::{Found, RouteTable};
use crate::proxy::upstream::Target;
use crate::proxy::{Route, Snapshot, find};

/// A route to copy, and where it leads.
pub(super) fn template() -> &'static (RouteConfig, Arc<Target>) {
    static TEMPLATE: OnceLock<(RouteConfig, Arc<Target>)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let text = "[[listen]]\naddress = \"127.0.0.1:8080\"\n\
                    [[route]]\nproxy = \"none\"\nupstream = \"http://upstream.test:8081\"\n";
        let config = crate::config::load(text, &|_| None).config.expect("it is valid");
        let snapshot = crate::app::snapshot(&config, &[]).expect("it needs nothing");
        (config.routes[0].clone(), Arc::clone(&snapshot.routes[0].target))
    })
}

/// The prefix that a configuration may have, or nothing.
fn prefix(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~:@!$&'()*+,=".contains(&byte);
    let prefix = text.trim_end_matches('/');
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    (text.starts_with('/') && text.bytes().all(plain) && !prefix.split('/').skip(1).any(odd))
        .then(|| prefix.to_owned())
}

struct Case<'t> {
    routes: Vec<RouteConfig>,
    request: Option<(Method, &'t str, &'t str)>,
}

/// Lines: `r HOST PATH BASE METHODS` is a route, `! PATTERN` closes paths of all of them,
/// `> METHOD HOST TARGET` is the request; `-` stands for nothing.
fn case(text: &str) -> Case<'_> {
    let mut routes: Vec<RouteConfig> = Vec::new();
    let mut deny = Vec::new();
    let mut request = None;
    for line in text.lines().take(16) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["r", host, path, base, methods] => {
                let base = if *base == "-" { Some(String::new()) } else { prefix(base) };
                let (Some(prefix), Some(base)) = (prefix(path), base) else { continue };
                let mut route = template().0.clone();
                route.host = (*host != "-").then(|| host.to_ascii_lowercase());
                route.prefix = prefix;
                route.upstream.base = base;
                let methods = methods.split(',').filter(|name| *name != "-");
                route.methods =
                    methods.filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect();
                let overlap = |other: &RouteConfig| {
                    other.host == route.host
                        && other.prefix == route.prefix
                        && (other.methods.is_empty()
                            || route.methods.is_empty()
                            || other.methods.iter().any(|method| route.methods.contains(method)))
                };
                if !routes.iter().any(overlap) {
                    routes.push(route);
                }
            }
            ["!", pattern] => {
                let segments = pattern.trim_matches('/').split('/').map(str::to_ascii_lowercase);
                deny.push(DenyPattern(segments.collect()));
            }
            [">", method, host, target] => {
                let method = Method::from_bytes(method.as_bytes()).ok();
                request = method.map(|method| (method, *host, *target));
            }
            _ => {}
        }
    }
    for route in &mut routes {
        route.deny.clone_from(&deny);
    }
    Case { routes, request }
}

/// What the table has to find, looked for in all routes.
fn linear(routes: &[RouteConfig], host: &str, path: &str, method: &Method) -> Found {
    let mut matching: Vec<(usize, &RouteConfig)> = routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.host.as_deref().is_none_or(|name| name == host))
        .filter(|(_, route)| {
            path.strip_prefix(&*route.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .collect();
    // Those for the host first, then the longest prefix, then the order of the file.
    matching.sort_by_key(|(index, route)| {
        (route.host.is_none(), std::cmp::Reverse(route.prefix.len()), *index)
    });
    let takes = |route: &RouteConfig| route.methods.is_empty() || route.methods.contains(method);
    match (matching.iter().find(|(_, route)| takes(route)), matching.first()) {
        (Some((index, _)), _) => Found::Route(*index),
        (None, Some((index, _))) => Found::OtherMethods(*index),
        (None, None) => Found::Nothing,
    }
}

/// Routes and a request.
pub fn route(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Case { routes, request } = case(text);
    let Some((method, host, target)) = request else { return };
    let Ok(uri) = Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes())) else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    let table = RouteTable::new(&routes);
    assert_eq!(
        table.find(host, uri.path(), &method),
        linear(&routes, host, uri.path(), &method),
        "the table and a linear scan"
    );
    let made = |config: &RouteConfig| {
        Arc::new(Route::new(config.clone(), Arc::clone(&template().1), Vec::new()))
    };
    let snapshot = Snapshot { table, routes: routes.iter().map(made).collect() };
    let Ok(route) = find(&snapshot, host, &method, uri.path()) else { return };
    let config = &route.config;
    let rest = uri.path().strip_prefix(&*config.prefix).expect("it begins with the prefix");
    assert!(rest.is_empty() || rest.starts_with('/'), "a prefix ends with a segment");

    // What was matched is what is forwarded.
    let forwarded = retarget(&uri, config.prefix.len(), &config.upstream);
    let forwarded = forwarded.expect("what was found can be forwarded");
    let base = &config.upstream.base;
    let slash = if base.is_empty() && rest.is_empty() { "/" } else { "" };
    assert_eq!(forwarded.path(), format!("{base}{slash}{rest}"), "every byte as it was");
    assert_eq!(forwarded.query(), uri.query(), "every byte of the query");
    let unchanged = replace_query(&forwarded, &["key".to_owned()], "key=ours").expect("valid");
    assert_eq!(unchanged.path(), forwarded.path(), "a parameter changes no path");
    assert_eq!(
        unchanged.query().into_iter().flat_map(|query| query.split('&')).next_back(),
        Some("key=ours")
    );
    let named = |pair: &&str| pair.split('=').next() == Some("key");
    let pairs = unchanged.query().into_iter().flat_map(|query| query.split('&'));
    assert_eq!(pairs.filter(named).count(), 1, "ours alone");

    // Whatever a server makes of it.
    for server in servers() {
        let there = server.read(uri.path());
        let shown = there.join("/");
        if !there.iter().any(|segment| segment.contains('/')) {
            let found = snapshot.table.find(host, &format!("/{shown}"), &method);
            let same = matches!(found, Found::Route(index)
                if Arc::ptr_eq(&snapshot.routes[index], &route));
            assert!(same, "{server:?} reads {} as /{shown}: another route", uri.path());
        }
        for pattern in &config.deny {
            let whole: Vec<String> = there.iter().map(|one| one.replace('/', "%2f")).collect();
            let closed = pattern.covers("", &whole.join("/"));
            assert!(!closed, "{server:?} reads {} as /{shown}: closed", uri.path());
        }
        let there = server.read(forwarded.path());
        let inside: Vec<&str> = base.split('/').skip(1).collect();
        let begins = there.iter().map(String::as_str).take(inside.len()).collect::<Vec<_>>();
        assert_eq!(begins, inside, "{server:?} reads {} outside its base", forwarded.path());
    }
}

/// A server that reads paths in one of the ways that servers have.
#[derive(Debug, Clone, Copy)]
struct Server {
    /// How often it decodes.
    layers: usize,
    /// Whether it splits the path before that, so that an encoded slash is part of a name.
    splits_first: bool,
    backslashes: bool,
    params: Params,
    merges_slashes: bool,
}

/// What a server makes of `;`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Params {
    Kept,
    CutBeforeDecoding,
    CutAfterDecoding,
}

fn servers() -> impl Iterator<Item = Server> {
    let both = [false, true];
    let params = [Params::Kept, Params::CutBeforeDecoding, Params::CutAfterDecoding];
    (0..=2).flat_map(move |layers| {
        both.into_iter().flat_map(move |splits_first| {
            both.into_iter().flat_map(move |backslashes| {
                params.into_iter().flat_map(move |params| {
                    both.into_iter().map(move |merges_slashes| Server {
                        layers,
                        splits_first,
                        backslashes,
                        params,
                        merges_slashes,
                    })
                })
            })
        })
    })
}

impl Server {
    /// The names that lead to what it serves for `path`.
    fn read(self, path: &str) -> Vec<String> {
        let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
        let mut segments: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        if self.params == Params::CutBeforeDecoding {
            segments = segments.iter().map(|segment| cut(segment)).collect();
        }
        for _ in 0..self.layers {
            segments = segments.iter().map(|segment| decoded(segment)).collect();
        }
        if self.backslashes {
            segments = segments.iter().map(|segment| segment.replace('\\', "/")).collect();
        }
        if !self.splits_first {
            segments = segments.join("/").split('/').map(str::to_owned).collect();
            // It finds the query only now.
            if self.layers > 0
                && let Some(end) = segments.iter().position(|one| one.contains(['?', '#']))
            {
                segments.truncate(end + 1);
                if let Some(last) = segments.last_mut() {
                    *last = last.split(['?', '#']).next().unwrap_or_default().to_owned();
                }
            }
        }
        if self.params == Params::CutAfterDecoding {
            segments = segments.iter().map(|segment| cut(segment)).collect();
        }
        let mut names: Vec<String> = Vec::new();
        for segment in segments {
            match &*segment {
                "" if self.merges_slashes => {}
                "." => {}
                ".." => {
                    names.pop();
                }
                _ => names.push(segment),
            }
        }
        names
    }
}

/// One layer of encoding taken off; what is none stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            bytes.push(u8::try_from(high * 16 + low).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The generous reading of a path.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if !text.starts_with('/') {
        return;
    }
    let read = match generous_reading(text) {
        Ok(read) => read,
        Err(AmbiguousPath::Nul) => {
            let mut layers = text.to_owned();
            for _ in 0..4 {
                layers = decoded(&layers);
            }
            assert!(layers.contains('\0'), "there is a NUL");
            return;
        }
        Err(AmbiguousPath::AboveRoot) => {
            assert!(text.contains("..") || text.to_ascii_lowercase().contains("2e"));
            return;
        }
        Err(_) => {
            assert!(text.contains('%'), "nothing else is ambiguous");
            return;
        }
    };
    assert!(read.starts_with('/'));
    if matches!(read, std::borrow::Cow::Borrowed(_)) {
        assert_eq!(read, text, "nothing is changed without saying so");
    } else {
        let odd = |segment: &str| segment.contains(['\\', ';', '?', '#', '\0']);
        assert!(!read.split('/').any(odd), "{read:?}");
        let dots = |segment: &str| matches!(segment, "." | "..");
        assert!(!read.split('/').any(dots), "{read:?}");
        assert!(read == "/" || !read.split('/').skip(1).any(str::is_empty), "{read:?}");
    }
    // Whoever decodes everything and then looks finds the same.
    if !text.contains(['%', ';', '\\', '?', '#']) {
        let mut names: Vec<&str> = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => assert!(names.pop().is_some(), "above the root"),
                name => names.push(name),
            }
        }
        let plain = read.split('/').filter(|segment| !segment.is_empty());
        assert_eq!(plain.collect::<Vec<_>>(), names);
    }
}
