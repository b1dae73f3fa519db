//! What the upstream says about places, in the caller's terms: redirects and cookies that point to
//! the upstream itself point to the route instead. A redirect is never followed.

use std::borrow::Cow;

use http::header::{CONTENT_LOCATION, HeaderName, LOCATION, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::UpstreamConfig;

/// What RFC 3986 §2.3 calls reserved or does not allow in a segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where callers find what an upstream has.
#[derive(Debug, Clone, Copy)]
pub struct Mount<'m> {
    /// The route's prefix.
    pub prefix: &'m str,
    /// How many segments stand between the prefix and the one that says which device the caller is,
    /// and the device.
    pub device: Option<(usize, &'m str)>,
}

impl Mount<'_> {
    /// `rest`, what follows the upstream's base, as callers write it after the prefix: with their
    /// device in it. `None` if it has too few segments for that.
    fn rest<'r>(&self, rest: &'r str) -> Option<Cow<'r, str>> {
        let Some((before, device)) = self.device else { return Some(rest.into()) };
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, after) = rest.split_at_checked(end)?;
        let slashes = path.match_indices('/').map(|(at, _)| at);
        let at = slashes.chain([path.len()]).nth(before)?;
        let (before, behind) = path.split_at_checked(at)?;
        let device = utf8_percent_encode(device, SEGMENT);
        Some(format!("{before}/{device}{behind}{after}").into())
    }
}

/// Rewrites the fields of an answer from `upstream` for callers who find it at `mount`.
pub fn rewrite(headers: &mut HeaderMap, upstream: &UpstreamConfig, mount: Mount<'_>) {
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite_location(headers, &name, upstream, mount);
    }
    if headers.contains_key(SET_COOKIE) {
        rewrite_cookies(headers, upstream, mount);
    }
}

fn rewrite_location(
    headers: &mut HeaderMap,
    name: &HeaderName,
    upstream: &UpstreamConfig,
    mount: Mount<'_>,
) {
    let Some(location) = headers.get(name).and_then(|value| value.to_str().ok()) else { return };
    let rewritten = local(location, upstream, mount).and_then(|l| HeaderValue::try_from(l).ok());
    if let Some(rewritten) = rewritten {
        headers.insert(name.clone(), rewritten);
    }
}

/// `location` as a path of ours; `None` if it is not below the upstream, or needs no change.
///
/// A path without host (RFC 9110 §10.2.2 allows it) is right however the caller addresses us.
fn local(location: &str, upstream: &UpstreamConfig, mount: Mount<'_>) -> Option<String> {
    let prefix = mount.prefix;
    let (path, was_absolute) = path_at(location, upstream)?;
    let rest = below(path, &upstream.base)?;
    // Browsers read '\\' as '/', and skip tabs: such a path could become another host's.
    if rest.bytes().any(|byte| byte == b'\\' || byte.is_ascii_control()) {
        return None;
    }
    if !was_absolute && upstream.base == prefix && mount.device.is_none() {
        return None;
    }
    let rest = &*mount.rest(rest)?;
    let bare = prefix.is_empty() && !rest.starts_with('/');
    // Two slashes in front would name a host.
    let (slash, rest) = if prefix.is_empty() && rest.starts_with("//") {
        ("/.", rest)
    } else {
        (if bare { "/" } else { "" }, rest)
    };
    Some(format!("{prefix}{slash}{rest}"))
}

/// The path, query and fragment of `location` if it leads to the upstream, and whether it said so
/// in full.
fn path_at<'l>(location: &'l str, upstream: &UpstreamConfig) -> Option<(&'l str, bool)> {
    let after_scheme = match location.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
            if !scheme.eq_ignore_ascii_case(upstream.origin.scheme.as_str()) {
                return None;
            }
            Some(rest)
        }
        _ => location.strip_prefix("//"),
    };
    let Some(rest) = after_scheme else {
        return location.starts_with('/').then_some((location, false));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let authority: Authority = authority.parse().ok()?;
    let default = if upstream.origin.is_secure() { 443 } else { 80 };
    let port = authority.port_u16().unwrap_or(default);
    let same = !authority.as_str().contains('@')
        && authority.host().eq_ignore_ascii_case(upstream.origin.authority.host())
        && port == upstream.origin.port();
    same.then_some((path, true))
}

/// What of `path` follows `base`, on a segment boundary.
fn below<'p>(path: &'p str, base: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
}

fn rewrite_cookies(headers: &mut HeaderMap, upstream: &UpstreamConfig, mount: Mount<'_>) {
    let cookies: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .map(|cookie| rewritten_cookie(cookie, upstream, mount).unwrap_or_else(|| cookie.clone()))
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie);
    }
}

/// `cookie` for our host and path; `None` if it needs no change.
///
/// A `Domain` that is the upstream's host is left out, which makes the cookie the host's that was
/// asked (RFC 6265 §5.3). Any other is for more hosts than this one and stays.
fn rewritten_cookie(
    cookie: &HeaderValue,
    upstream: &UpstreamConfig,
    mount: Mount<'_>,
) -> Option<HeaderValue> {
    let prefix = mount.prefix;
    let text = cookie.to_str().ok()?;
    let mut changed = false;
    let mut parts = Vec::new();
    for (index, part) in text.split(';').enumerate() {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (name.trim(), value.trim());
        let host = upstream.origin.authority.host();
        if index > 0
            && name.eq_ignore_ascii_case("domain")
            && value.strip_prefix('.').unwrap_or(value).eq_ignore_ascii_case(host)
        {
            changed = true;
        } else if index > 0
            && name.eq_ignore_ascii_case("path")
            && (upstream.base != prefix || mount.device.is_some())
            // Browsers take these for the whole host only (RFC 6265bis §4.1.3.2).
            && !text.starts_with("__Host-")
            // Without a value it means the directory of what was asked for (RFC 6265 §5.2.4).
            && !value.is_empty()
            && let Some(rest) = below(value, &upstream.base)
        {
            changed = true;
            // Else it is for all devices, of which the caller is one.
            let rest = &*mount.rest(rest).unwrap_or(rest.into());
            let path = if prefix.is_empty() && rest.is_empty() { "/" } else { prefix };
            parts.push(format!(" {name}={path}{rest}"));
        } else {
            parts.push(part.to_owned());
        }
    }
    let cookie = HeaderValue::try_from(parts.join(";")).ok()?;
    changed.then_some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::tls::TlsSettings;
    use http::Uri;

    fn upstream(url: &str) -> UpstreamConfig {
        let uri: Uri = url.parse().unwrap();
        UpstreamConfig {
            origin: Origin {
                scheme: uri.scheme().unwrap().clone(),
                authority: uri.authority().unwrap().clone(),
            },
            base: uri.path().trim_end_matches('/').to_owned(),
            trailing_slash: false,
            tls: TlsSettings::default(),
        }
    }

    fn location(url: &str, prefix: &str, location: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        rewrite(&mut headers, &upstream(url), Mount { prefix, device: None });
        headers[LOCATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_to_the_upstream_leads_to_the_route() {
        let moved = |to| location("https://h.test/base", "/devo", to);
        assert_eq!(moved("https://h.test/base/x?a=1#f"), "/devo/x?a=1#f");
        assert_eq!(moved("https://H.TEST:443/base"), "/devo");
        assert_eq!(moved("//h.test/base/x"), "/devo/x");
        assert_eq!(moved("/base/x"), "/devo/x");
        let root = |to| location("http://h.test:8080", "", to);
        assert_eq!(root("http://h.test:8080/x"), "/x");
        assert_eq!(root("http://h.test:8080"), "/");
        assert_eq!(root("http://h.test:8080?q"), "/?q");
        assert_eq!(root("http://h.test:8080//evil.test/x"), "/.//evil.test/x", "no host");
        let backslash = "http://h.test:8080/\\evil.test";
        assert_eq!(root(backslash), backslash, "no host");
    }

    #[test]
    fn a_redirect_to_anywhere_else_is_left_alone() {
        let url = "https://h.test/base";
        for elsewhere in [
            "http://h.test/base/x",
            "https://h.test:8443/base/x",
            "https://other.test/base/x",
            "https://user@h.test/base/x",
            "https://h.test/elsewhere",
            "https://h.test/baseless",
            "https://h.test.evil.test/base",
            "/elsewhere",
            "relative/x",
            "?q=https://h.test/base/x",
            "https://h.test/base/\\evil.test",
            "/base/\t/evil.test",
        ] {
            assert_eq!(location(url, "/devo", elsewhere), elsewhere);
        }
        assert_eq!(location("https://h.test", "", "/x"), "/x");
    }

    fn cookie(url: &str, prefix: &str, cookie: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, cookie.parse().unwrap());
        rewrite(&mut headers, &upstream(url), Mount { prefix, device: None });
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_cookie_of_the_upstream_is_one_of_ours() {
        let mapped = |text| cookie("https://h.test/base", "/devo", text);
        assert_eq!(mapped("a=b; Domain=h.test; Secure"), "a=b; Secure");
        assert_eq!(mapped("a=b; domain=.H.test"), "a=b");
        assert_eq!(mapped("a=b; Path=/base/x; HttpOnly"), "a=b; Path=/devo/x; HttpOnly");
        assert_eq!(mapped("a=b; Path=/"), "a=b; Path=/");
        assert_eq!(mapped("a=b; Domain=test"), "a=b; Domain=test");
        assert_eq!(cookie("https://h.test", "/devo", "a=b; Path"), "a=b; Path");
        let whole_host = "__Host-a=b; Path=/; Secure";
        assert_eq!(cookie("https://h.test", "/devo", whole_host), whole_host);
        assert_eq!(mapped("Domain=h.test"), "Domain=h.test", "a cookie of that name");
    }

    #[test]
    fn where_a_segment_names_the_device_it_is_put_back() {
        let moved = |url: &str, before, to: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, to.parse().unwrap());
            headers.insert(SET_COOKIE, format!("a=b; Path={to}").parse().unwrap());
            let mount = Mount { prefix: "/t", device: Some((before, "line 1/ü")) };
            rewrite(&mut headers, &upstream(url), mount);
            let text = |name| headers[name].to_str().unwrap().to_owned();
            (text(LOCATION), text(SET_COOKIE))
        };
        let device = "line%201%2F%C3%BC";
        for (before, to, expected) in [
            (0, "/base/x?a=/1#/f", format!("/t/{device}/x?a=/1#/f")),
            (0, "/base", format!("/t/{device}")),
            (0, "/base//evil.test", format!("/t/{device}//evil.test")),
            (1, "/base/x/y", format!("/t/x/{device}/y")),
            (1, "/base/x?a", format!("/t/x/{device}?a")),
        ] {
            let (location, cookie) = moved("https://h.test/base", before, to);
            assert_eq!(location, expected);
            assert_eq!(cookie, format!("a=b; Path={expected}"));
        }
        // Nowhere to put it: the redirect leads nowhere, the cookie is for all devices.
        let (location, cookie) = moved("https://h.test/base", 2, "/base/x");
        assert_eq!(location, "/base/x");
        assert_eq!(cookie, "a=b; Path=/t/x");
        // The same path at both ends is another all the same.
        assert_eq!(moved("https://h.test/t", 0, "/t/x").0, format!("/t/{device}/x"));
    }

    #[test]
    fn every_cookie_stays() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, "a=1; Domain=h.test".parse().unwrap());
        headers.append(SET_COOKIE, "b=2".parse().unwrap());
        rewrite(&mut headers, &upstream("https://h.test"), Mount { prefix: "/p", device: None });
        let all: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(all, ["a=1", "b=2"]);
    }
}
