//! Listeners: where callers connect and who may.

use std::net::{Ipv4Addr, SocketAddr};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::credential::placeholder;
use crate::config::context::Context;
use crate::config::raw::{RawAdmin, RawListen, RawListenTls};
use crate::config::{AccessRules, Address, AdminConfig, CallerToken, ListenerConfig, Protocol};
use crate::tls::ServerTls;

pub(super) fn listeners(context: &mut Context<'_>, raw: &[RawListen]) -> Vec<ListenerConfig> {
    if raw.is_empty() && !context.was_removed("listen") && !context.unread() {
        let hint = Some("add [[listen]] with address = \"127.0.0.1:8080\"");
        context.error("", "there is no listener", hint);
    }
    let mut all: Vec<ListenerConfig> = Vec::new();
    for (index, listen) in raw.iter().enumerate() {
        let path = format!("listen[{index}]");
        let Some(listener) = listener(context, &path, listen) else {
            continue;
        };
        let twice = all.iter().any(|other| match (&other.address, &listener.address) {
            (Address::Tcp(one), Address::Tcp(two)) => one == two && one.port() != 0,
            (Address::Unix { path: one, .. }, Address::Unix { path: two, .. }) => one == two,
            _ => false,
        });
        if twice {
            let message = "another listener has this address already";
            context.error(&format!("{path}.address"), message, None);
        }
        all.push(listener);
    }
    all
}

fn listener(context: &mut Context<'_>, path: &str, raw: &RawListen) -> Option<ListenerConfig> {
    let hosts = hosts(context, &format!("{path}.hosts"), raw.hosts.as_deref());
    let origins = origins(context, &format!("{path}.origins"), raw.origins.as_deref());
    let allow = networks(context, &format!("{path}.allow"), raw.allow.as_deref());
    let token_path = format!("{path}.caller_token");
    let caller_token = raw.caller_token.as_ref().and_then(|raw_token| {
        let secret = context.secret(&token_path, raw_token).unwrap_or_else(placeholder);
        let at = format!("{path}.caller_token_header");
        let header = match &raw.caller_token_header {
            Some(name) => Some(context.field_name(&at, name)?),
            None => None,
        };
        Some(CallerToken { secret, header: header.filter(|name| *name != AUTHORIZATION) })
    });
    if raw.caller_token_header.is_some() && raw.caller_token.is_none() {
        context.missing(&token_path, "caller_token = { env = \"NAME\" }");
    }
    let tls = raw.tls.as_ref().map(|raw| tls(context, &format!("{path}.tls"), raw));
    let at = format!("{path}.address");
    let text = context.require(raw.address.as_deref(), &at, "address = \"127.0.0.1:8080\"")?;
    let address = address(context, path, text, raw)?;
    match &address {
        Address::Tcp(tcp) => {
            let guarded = raw.allow.is_some()
                || raw.caller_token.is_some()
                || raw.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
                || ["allow", "caller_token", "tls"]
                    .iter()
                    .any(|key| context.was_removed_below(&format!("{path}.{key}")));
            if !tcp.ip().is_loopback() && !guarded && raw.open != Some(true) {
                let hint = "say who may call: allow = [\"10.1.0.0/16\"], caller_token = { … } or \
                            client_ca in tls; open = true lets everybody use your credentials";
                context.error(&at, "this address can be reached from other machines", Some(hint));
            }
            for (key, there) in [
                ("mode", raw.mode.is_some()),
                ("group", raw.group.is_some()),
                ("users", raw.users.is_some()),
            ] {
                if there {
                    let message = format!("'{key}' is for Unix sockets only");
                    context.error(&format!("{path}.{key}"), message, None);
                }
            }
        }
        Address::Unix { .. } => {
            if raw.allow.is_some() {
                let hint = Some("its mode, its group and 'users' say who may connect");
                context.error(&format!("{path}.allow"), "a Unix socket has no peer address", hint);
            }
            if raw.tls.is_some() {
                let hint = Some("leave tls out: nobody is between the two sides");
                context.error(&format!("{path}.tls"), "there is no TLS on Unix sockets", hint);
            }
        }
    }
    if raw.users.as_ref().is_some_and(Vec::is_empty) {
        let hint = Some("name who may connect, or leave 'users' out");
        let message = "an empty list lets nobody connect";
        context.error(&format!("{path}.users"), message, hint);
    }
    let says_case = raw.header_case.is_some() || raw.lenient == Some(true);
    if raw.protocol == Some(Protocol::Http2) && says_case {
        let key = if raw.header_case.is_some() { "header_case" } else { "lenient" };
        let hint = Some("leave it out, or set protocol = \"http1\" or \"auto\"");
        context.error(&format!("{path}.{key}"), "this is for HTTP/1 only", hint);
    }
    let answers = raw.answers.unwrap_or_default();
    let users = raw.users.clone().unwrap_or_default();
    let access = AccessRules { hosts, origins, allow, users, caller_token, answers };
    Some(ListenerConfig {
        address,
        protocol: raw.protocol.unwrap_or_default(),
        tls: tls.flatten(),
        access,
        header_case: raw.header_case.unwrap_or_default(),
        lenient: raw.lenient == Some(true),
    })
}

const AUTHORIZATION: HeaderName = http::header::AUTHORIZATION;

fn tls(context: &mut Context<'_>, path: &str, raw: &RawListenTls) -> Option<ServerTls> {
    let hint = "tls = { certificate = \"server.pem\", key = \"server.key\" }";
    let certificate =
        context.require(raw.certificate.as_ref(), &format!("{path}.certificate"), hint);
    let key = context.require(raw.key.as_ref(), &format!("{path}.key"), hint);
    Some(ServerTls {
        certificate: certificate?.into(),
        key: key?.into(),
        client_ca: raw.client_ca.as_ref().map(Into::into),
    })
}

fn address(context: &mut Context<'_>, path: &str, text: &str, raw: &RawListen) -> Option<Address> {
    let at = format!("{path}.address");
    if let Some(socket) = text.strip_prefix("unix:") {
        if cfg!(not(unix)) {
            context.error(&at, "this platform has no Unix sockets", Some("use a TCP address"));
            return None;
        }
        if socket.is_empty() || !socket.starts_with(['/', '.']) {
            let hint = Some("address = \"unix:/run/countersign.sock\"");
            context.error(&at, "this is not the path of a socket", hint);
            return None;
        }
        let mode = match raw.mode.as_deref() {
            None => 0o600,
            Some(mode) => match u32::from_str_radix(mode, 8) {
                Ok(mode) if mode <= 0o777 => mode,
                _ => {
                    let hint = Some("permissions in octal, such as mode = \"0660\"");
                    context.error(&format!("{path}.mode"), "this is not a mode", hint);
                    return None;
                }
            },
        };
        if raw.group.as_ref().is_some_and(String::is_empty) {
            let hint = Some("group = \"plant\", or its number: group = \"1001\"");
            context.error(&format!("{path}.group"), "this is not a group", hint);
        }
        return Some(Address::Unix { path: socket.into(), mode, group: raw.group.clone() });
    }
    tcp(context, &at, text).map(Address::Tcp)
}

fn tcp(context: &mut Context<'_>, path: &str, text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    if let Ok(address) = text.parse() {
        Some(address)
    } else {
        let hint = "an address and a port: \"127.0.0.1:8080\", \"[::1]:8080\" or \
                    \"unix:/run/countersign.sock\"";
        context.error(path, format!("\"{text}\" is not an address"), Some(hint));
        None
    }
}

fn hosts(context: &mut Context<'_>, path: &str, raw: Option<&[String]>) -> Vec<String> {
    let mut hosts = Vec::new();
    for (index, host) in raw.unwrap_or_default().iter().enumerate() {
        let valid = host.parse::<http::uri::Authority>().is_ok_and(|authority| {
            !authority.as_str().contains('@') && !authority.host().contains('*')
        });
        if valid {
            hosts.push(host.to_ascii_lowercase());
        } else {
            let hint = Some("names only, such as \"gateway.plant.test\"; there are no wildcards");
            context.error(&format!("{path}[{index}]"), format!("'{host}' is not a host"), hint);
        }
    }
    hosts
}

fn origins(context: &mut Context<'_>, path: &str, raw: Option<&[String]>) -> Vec<HeaderValue> {
    let mut origins = Vec::new();
    for (index, origin) in raw.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some((parsed, uri)) = context.url(&path, origin) else {
            continue;
        };
        if uri.path() != "/" || origin.ends_with('/') {
            let hint = format!("write \"{parsed}\"");
            context.error(&path, "an origin has no path", Some(&hint));
            continue;
        }
        origins.extend(HeaderValue::from_str(&parsed.to_string()).ok());
    }
    origins
}

fn networks(context: &mut Context<'_>, path: &str, raw: Option<&[String]>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    if raw.is_some_and(<[String]>::is_empty) {
        let hint = Some("name who may connect, or leave 'allow' out");
        context.error(path, "an empty list lets nobody connect", hint);
    }
    for (index, text) in raw.unwrap_or_default().iter().enumerate() {
        let network =
            text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        if let Ok(network) = network {
            networks.push(network);
        } else {
            let hint = Some("write \"10.1.0.0/16\" or \"10.1.2.3\"");
            let message = format!("\"{text}\" is not an address or a network");
            context.error(&format!("{path}[{index}]"), message, hint);
        }
    }
    networks
}

pub(super) fn admin(
    context: &mut Context<'_>,
    raw: &RawAdmin,
    listeners: &[ListenerConfig],
) -> Option<AdminConfig> {
    let token = raw
        .token
        .as_ref()
        .map(|token| context.secret("admin.token", token).unwrap_or_else(placeholder));
    let hosts = hosts(context, "admin.hosts", raw.hosts.as_deref());
    let hint = "address = \"127.0.0.1:8081\"";
    let text = context.require(raw.address.as_deref(), "admin.address", hint)?;
    let address = tcp(context, "admin.address", text)?;
    let in_use = |listener: &ListenerConfig| {
        address.port() != 0 && listener.address == Address::Tcp(address)
    };
    if listeners.iter().any(in_use) {
        context.error("admin.address", "a listener has this address already", None);
    }
    if !address.ip().is_loopback() && token.is_none() && !context.was_removed_below("admin.token") {
        let hint = Some("add token = { file = \"…\" }, or listen on 127.0.0.1");
        context.error("admin.address", "this address can be reached from other machines", hint);
    }
    Some(AdminConfig { address, hosts, token, quit: raw.quit.unwrap_or(false) })
}
