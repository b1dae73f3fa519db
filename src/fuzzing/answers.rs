//! Redirects and cookies of an upstream, pointed to the route.

use http::HeaderMap;
use http::header::{CONTENT_LOCATION, LOCATION, SET_COOKIE};

use super::paths::template;
use super::{by_name, fields, flags};
use crate::config::UpstreamConfig;
use crate::proxy::rewrite;

/// The same origin in several places. Flags: 1 a base, 2 a prefix.
fn upstream(flags: u8) -> (UpstreamConfig, &'static str) {
    let mut upstream = template().0.upstream.clone();
    if flags & 1 != 0 {
        "/base".clone_into(&mut upstream.base);
    }
    (upstream, if flags & 2 == 0 { "" } else { "/route" })
}

/// The host that a browser goes to from a page of `http://ours.test` for `location`, and the path;
/// `None` for no host that this finds.
fn followed(location: &str) -> Option<(String, String)> {
    // As browsers do it: no control characters, backslashes are slashes (WHATWG URL).
    let text: String = location.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let text = text.trim_matches(|c: char| c <= ' ').to_owned();
    let slashed = text.replace('\\', "/");
    let scheme = slashed.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    let rest = match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => {
            slashed.get(scheme.len() + 1..)?.trim_start_matches('/')
        }
        Some(_) => return None,
        None if slashed.starts_with("//") => slashed.trim_start_matches('/'),
        None => return Some(("ours.test".to_owned(), slashed)),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next()?.to_ascii_lowercase();
    Some((host, path.to_owned()))
}

/// Answers. Flags: 1 the upstream has a base, 2 the route has a prefix.
pub fn rewrite(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let (upstream, prefix) = upstream(flags);
    let original = fields(bytes);
    let mut rewritten = original.clone();
    let mount = rewrite::Mount { prefix, device: None };
    rewrite::rewrite(&mut rewritten, &upstream, mount);
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(before) = original.get(&name) else { continue };
        let after = rewritten.get(&name).expect("a place stays one");
        if before == after {
            continue;
        }
        let before = before.to_str().expect("only text is changed");
        let after = after.to_str().expect("and stays text");
        let (host, path) = followed(after).expect("a path");
        assert_eq!(host, "ours.test", "{before} became {after}, which leads to {host}");
        let below = path.strip_prefix(prefix).expect("it leads to the route");
        assert!(below.is_empty() || below.starts_with(['/', '?', '#']), "{after}");
        let (host, _) = followed(before).expect("only what leads to a host is changed");
        let own = ["upstream.test:8081", "ours.test"];
        assert!(own.contains(&&*host), "{before} is {host}'s and became {after}");
    }
    check_cookies(&original, &rewritten, &upstream, prefix);
    let mut all_else = (by_name(&original), by_name(&rewritten));
    for name in ["location", "content-location", "set-cookie"] {
        all_else.0.remove(name);
        all_else.1.remove(name);
    }
    assert_eq!(all_else.0, all_else.1, "nothing else is changed");
}

fn check_cookies(before: &HeaderMap, after: &HeaderMap, upstream: &UpstreamConfig, prefix: &str) {
    let (before, after) = (before.get_all(SET_COOKIE), after.get_all(SET_COOKIE));
    assert_eq!(before.iter().count(), after.iter().count(), "every cookie stays");
    for (before, after) in before.iter().zip(after.iter()) {
        if before == after {
            continue;
        }
        let (before, after) = (before.to_str().unwrap(), after.to_str().unwrap());
        let mut ours = after.split(';');
        assert_eq!(ours.next(), before.split(';').next(), "name and value");
        let mut ours = ours.peekable();
        for part in before.split(';').skip(1) {
            if ours.peek() == Some(&part) {
                ours.next();
                continue;
            }
            let (name, value) = part.split_once('=').expect("an attribute with a value");
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match &*name {
                "domain" => {
                    let host = value.trim_start_matches('.').to_ascii_lowercase();
                    assert_eq!(host, "upstream.test", "only its own host is left out");
                }
                "path" => {
                    let written = ours.next().expect("a path becomes a path");
                    let (_, to) = written.split_once('=').expect("a value");
                    let rest = value.strip_prefix(&*upstream.base).expect("below the base");
                    let root = if prefix.is_empty() && rest.is_empty() { "/" } else { prefix };
                    assert_eq!(to, format!("{root}{rest}"));
                }
                _ => panic!("{part} was changed: {after}"),
            }
        }
        assert_eq!(ours.next(), None, "nothing is added: {after}");
    }
}
