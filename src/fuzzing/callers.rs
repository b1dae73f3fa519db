//! What callers send: who may pass, which fields travel on, what is a WebSocket's handshake.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Uri, Version};

use super::{by_name, fields, flags, line};
use crate::config::{AccessRules, CallerToken};
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::permissions::Check;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::headers::{
    lists, strip_request, strip_response, strip_response_trailers, strip_trailers,
};
use crate::proxy::route::RouteTable;
use crate::proxy::websocket;
use crate::secret::Secret;
use crate::sign::owned::OwnedFields;

/// A head: `METHOD TARGET`, then a field per line. Flags: 1 HTTP/2, 2 HTTP/1.0.
fn head(flags: u8, bytes: &[u8]) -> Option<Parts> {
    let (first, rest) = line(bytes);
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(&first[..space]).ok()?;
    parts.uri = Uri::from_maybe_shared(Bytes::copy_from_slice(&first[space + 1..])).ok()?;
    parts.version = match flags & 3 {
        0 => Version::HTTP_11,
        2 => Version::HTTP_10,
        _ => Version::HTTP_2,
    };
    parts.headers = fields(rest);
    Some(parts)
}

const ORIGIN_LISTED: &str = "http://localhost:3000";
const TOKEN: &str = "open-sesame";

struct Gates {
    gates: Vec<(Gate, Option<HeaderName>)>,
    table: RouteTable,
}

fn gates() -> &'static Gates {
    static GATES: OnceLock<Gates> = OnceLock::new();
    GATES.get_or_init(|| {
        let text = "[[listen]]\naddress = \"127.0.0.1:8080\"\n\
                    [[route]]\nhost = \"api.example.com\"\nupstream = \"http://127.0.0.1:9\"\n";
        let config = crate::config::load(text, &|_| None).config.expect("it is valid");
        let secret = SecretRef::Value(Secret::new(TOKEN));
        let resolved = Secrets::resolve(vec![secret.clone()], Check::Strict).now_or_never();
        let secrets = Arc::new(resolved.expect("nothing is read").expect("it is there"));
        let x_gate = HeaderName::from_static("x-gate");
        let token = |header| CallerToken { secret: secret.clone(), header };
        let rules = [None, Some(token(None)), Some(token(Some(x_gate.clone())))];
        let gate = |caller_token: Option<CallerToken>| {
            let header = caller_token.as_ref().map(|token| token.header.clone());
            let rules = AccessRules {
                hosts: vec!["gateway.test".to_owned(), "mapped.test:9090".to_owned()],
                origins: vec![ORIGIN_LISTED.parse().unwrap()],
                caller_token,
                ..AccessRules::default()
            };
            let bound = Some("127.0.0.1:8080".parse().unwrap());
            let gate = Gate::new(rules, bound, &config.limits, Arc::clone(&secrets));
            (gate, header.map(|header| header.unwrap_or(AUTHORIZATION)))
        };
        Gates { gates: rules.map(gate).into(), table: RouteTable::new(&config.routes) }
    })
}

/// True if `host` is one of the names that the gates above answer to.
fn is_ours(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (&*host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return false;
    }
    if matches!(name, "gateway.test" | "api.example.com") || host == "mapped.test:9090" {
        return true;
    }
    let local = match name {
        "localhost" => true,
        "[::1]" => true,
        _ => match (name.strip_prefix('['), name.parse::<Ipv4Addr>()) {
            (Some(v6), _) => v6
                .strip_suffix(']')
                .and_then(|v6| v6.parse::<IpAddr>().ok())
                .is_some_and(|address| address.is_loopback() || is_local(address)),
            (None, Ok(address)) => address.is_loopback(),
            (None, Err(_)) => false,
        },
    };
    local && port.is_none_or(|port| port.parse() == Ok(8080_u16))
}

fn is_local(address: IpAddr) -> bool {
    address.to_canonical() == IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// Who may pass. Flags: 1 HTTP/2, 2 HTTP/1.0, 4 and 8 which caller token.
pub fn guard(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let Some(parts) = head(flags, bytes) else { return };
    let gates = gates();
    let (gate, token_field) = &gates.gates[usize::from(flags >> 2) % 3];
    let local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let admitted =
        gate.admit(&parts, &Ends { peer: local, local, ..Ends::default() }, &gates.table);
    let all = |name: HeaderName| -> Vec<&[u8]> {
        parts.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect()
    };
    let hosts = all(HOST);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let origins = all(ORIGIN);
    let site = all(HeaderName::from_static("sec-fetch-site"));
    let Ok(admitted) = admitted else {
        // An ordinary request for an ordinary name is let in.
        let plain = parts.method == Method::GET
            && authority.is_none()
            && parts.uri.path().starts_with('/')
            && parts.uri.path().len() < 1000
            && parts.uri.query().is_none_or(|query| query.len() < 1000)
            && matches!(hosts.as_slice(), [b"localhost" | b"127.0.0.1:8080" | b"[::1]"])
            && origins.is_empty()
            && site.is_empty()
            && !parts.headers.contains_key(EXPECT)
            && token_field.is_none();
        assert!(!plain, "refused: {parts:?}");
        return;
    };
    assert!(parts.method != Method::CONNECT && parts.method != Method::TRACE);
    assert!(parts.uri.path().starts_with('/'), "a target without a path");
    assert!(hosts.len() <= 1, "more than one Host");
    let addressed = authority.or(hosts.first().copied());
    match addressed {
        None => assert!(parts.version == Version::HTTP_10 && admitted.host.is_empty()),
        Some(host) => {
            let host = std::str::from_utf8(host).expect("a host is text");
            assert!(is_ours(host), "{host} is admitted");
            assert!(!host.contains('@'));
            let lower = host.to_ascii_lowercase();
            let rest = lower.strip_prefix(&*admitted.host).expect("the host itself");
            assert!(rest.is_empty() || rest.starts_with(':'), "{host} became {}", admitted.host);
        }
    }
    if let (Some(target), Some(field)) = (authority, hosts.first()) {
        assert!(target.eq_ignore_ascii_case(field), "the target and Host disagree");
    }
    match origins.as_slice() {
        [] => assert!(site.first().is_none_or(|s| matches!(*s, b"none" | b"same-origin"))),
        [origin] => assert_eq!(*origin, ORIGIN_LISTED.as_bytes()),
        _ => panic!("several origins are admitted"),
    }
    assert_eq!(admitted.token_field, *token_field);
    if let Some(name) = token_field {
        let presented = all(name.clone());
        let [presented] = presented.as_slice() else { panic!("not one caller token") };
        let expected = if *name == AUTHORIZATION { "bearer open-sesame" } else { TOKEN };
        let scheme = presented.len().min(expected.len() - TOKEN.len());
        assert!(presented[..scheme].eq_ignore_ascii_case(&expected.as_bytes()[..scheme]));
        assert_eq!(&presented[scheme..], TOKEN.as_bytes());
    }
    assert!(all(EXPECT).first().is_none_or(|e| e.eq_ignore_ascii_case(b"100-continue")));
}

/// `_` and `-` are one, and so are the cases.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

const HOP_BY_HOP: &str = " connection keep-alive proxy-connection proxy-authenticate \
    proxy-authorization te trailer transfer-encoding upgrade http2-settings ";

const NEVER_FORWARDED: &str = " expect forwarded x-real-ip x-original-url x-rewrite-url \
    x-http-method x-http-method-override x-method-override ";

fn stands_in(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|one| one == name)
}

/// The names that `Connection` lists.
fn listed(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION);
    let tokens = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens
        .filter_map(|token| std::str::from_utf8(token.trim_ascii()).ok())
        // As nearly all write them they name no field.
        .filter(|token| !matches!(*token, "close" | "keep-alive"))
        .map(str::to_ascii_lowercase)
        // Framing is not up to a caller.
        .filter(|name| name != "content-length")
        .collect()
}

/// Fields on their way. The first line has the owned names, with `*` for prefixes.
pub fn headers(bytes: &[u8]) {
    let (first, rest) = line(bytes);
    let mut owned = OwnedFields::default();
    let mut names: Vec<(String, bool)> = Vec::new();
    for name in String::from_utf8_lossy(first).split(',').map(str::trim).take(8) {
        let (bare, prefix) = name.strip_suffix('*').map_or((name, false), |bare| (bare, true));
        let Ok(field) = HeaderName::from_bytes(bare.as_bytes()) else { continue };
        if prefix {
            owned.insert_prefix(bare);
        } else {
            owned.insert(&field);
        }
        names.push((folded(bare), prefix));
    }
    let is_owned =
        |name: &str| {
            let name = folded(name);
            names.iter().any(|(owned, prefix)| {
                if *prefix { name.starts_with(owned.as_str()) } else { name == *owned }
            })
        };
    let original = fields(rest);
    for name in original.keys() {
        assert_eq!(owned.contains(name), is_owned(name.as_str()), "{name}");
    }
    let named = listed(&original);

    let mut request = original.clone();
    strip_request(&mut request, &[&OwnedFields::default(), &owned]);
    let never = |name: &str| {
        let twin = folded(name);
        stands_in(HOP_BY_HOP, &twin)
            || stands_in(NEVER_FORWARDED, &twin)
            || twin.starts_with("x-forwarded-")
    };
    let gone = |name: &str| never(name) || is_owned(name) || named.iter().any(|one| one == name);
    check_stripped(&original, &request, gone, true);
    let mut again = request.clone();
    strip_request(&mut again, &[&owned]);
    assert_eq!(again, request, "there is nothing left to remove");

    let mut answer = original.clone();
    strip_response(&mut answer);
    let gone = |name: &str| {
        (stands_in(HOP_BY_HOP, &folded(name)) && name != "trailer")
            || named.iter().any(|one| one == name)
    };
    check_stripped(&original, &answer, gone, false);

    let mut trailers = original.clone();
    strip_trailers(&mut trailers, &owned);
    for (name, value) in &trailers {
        let name = name.as_str();
        assert!(!never(name) && !is_owned(name), "{name} is no trailer");
        assert!(!matches!(name, "authorization" | "host" | "cookie" | "via" | "range"), "{name}");
        assert!(!name.starts_with("content-"), "{name} is no trailer");
        assert!(original.get_all(name).iter().any(|one| one == value));
    }
    let mut trailers = original.clone();
    strip_response_trailers(&mut trailers);
    for name in trailers.keys() {
        assert!(!stands_in(HOP_BY_HOP, &folded(name.as_str())), "{name} is no trailer");
        assert!(*name != CONTENT_LENGTH && *name != "set-cookie", "{name} is no trailer");
    }
}

/// Exactly what has to go is gone; all else is there as it was, cookies in one field.
fn check_stripped(
    original: &HeaderMap,
    stripped: &HeaderMap,
    gone: impl Fn(&str) -> bool,
    joins_cookies: bool,
) {
    let mut expected = by_name(original);
    expected.retain(|name, _| !gone(name));
    if joins_cookies && let Some(cookies) = expected.get_mut(COOKIE.as_str()) {
        *cookies = vec![cookies.join(&b"; "[..])];
    }
    assert_eq!(by_name(stripped), expected);
}

/// Handshakes. Flags as for [`guard`].
pub fn websocket(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let Some(mut parts) = head(flags, bytes) else { return };
    let all = by_name(&parts.headers);
    let values = |name: &str| all.get(name).map(Vec::as_slice).unwrap_or_default();
    let once = |name: &str| values(name).len() == 1;
    let lists_upgrade = values("connection")
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|token| token.split(|byte| *byte == b';').next())
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let expected = parts.method == "GET"
        && parts.version == Version::HTTP_11
        && lists_upgrade
        && once("upgrade")
        && values("upgrade")[0].eq_ignore_ascii_case(b"websocket")
        && once("sec-websocket-key")
        && once("sec-websocket-version")
        && values("transfer-encoding").is_empty()
        && values("content-length").iter().all(|length| length == b"0");
    assert_eq!(websocket::is_handshake(&parts), expected, "{parts:?}");
    assert_eq!(lists(&parts.headers, CONNECTION, b"upgrade"), lists_upgrade);
    if expected {
        assert!(!parts.headers.contains_key(TRANSFER_ENCODING));
    }
    // What an answer says of another protocol does not travel on, unless it is this one.
    let accepted = websocket::is_accepted(&parts.headers);
    strip_response(&mut parts.headers);
    assert!(!parts.headers.contains_key(UPGRADE) && !parts.headers.contains_key(CONNECTION));
    if accepted {
        websocket::accept(&mut parts.headers);
        assert!(websocket::is_accepted(&parts.headers));
        assert_eq!(parts.headers.get_all(UPGRADE).iter().count(), 1);
        assert!(lists(&parts.headers, CONNECTION, b"upgrade"));
    }
}
