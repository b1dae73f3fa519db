//! twinzo: a device that logs in, or a static API key; with the GUIDs of client and branch.
//!
//! Facts: the fields are `Client`, `Branch`, `Token` (raw, no scheme word) and `Api-Key`; the login
//! is `POST {base}/v3/authorization/authenticate` with `Client` (a name), `Login`, `Password`, and
//! answers `Token`, `Expiration` (Unix milliseconds), `Client`, `Branch` (GUIDs). `GET
//! {base}/v3/authorization/token` with the current fields returns a new one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{fields, secrets, stand_in, template, texts, verbatim};
use crate::config::context::Context;
use crate::config::devices::is_guid;
use crate::config::raw::{
    RawCondition, RawCredential, RawExpires, RawFields, RawLogin, RawRequest, RawSecret,
    RawTwinzoApiKey, RawTwinzoDevice, RawValue,
};

/// What devices send by themselves, some of them empty. `mApi-Key` is the vendor's own tooling's.
const REMOVED: [&str; 7] =
    ["Api-Key", "Authorization", "Branch", "Client", "Cookie", "mApi-Key", "Token"];

/// `{base}/v3/authorization`: its GET returns the shared token and its DELETE revokes it, so it is
/// not for callers. The version is written in several ways, and the base may have a path of its own.
const TOKEN_ENDPOINTS: [&str; 1] = ["/**/v*/authorization"];

pub(super) const DEVICE_KEYS: [(&str, &str); 4] = [
    ("request.url", "base_url"),
    ("renew.url", "base_url"),
    ("secrets.password", "password"),
    ("set.Api-Key", "api_key"),
];

pub(super) const API_KEY_KEYS: [(&str, &str); 1] = [("set.Api-Key", "api_key")];

pub(super) fn device(
    context: &mut Context<'_>,
    path: &str,
    raw: &RawTwinzoDevice,
) -> RawCredential {
    let hint = "base_url = \"https://api.platform.twinzo.eu\"";
    let base = context.require(raw.base_url.as_deref(), &format!("{path}.base_url"), hint);
    let many = raw.devices.is_some();
    let (login, password) = login_and_password(context, path, raw);
    let base = base.and_then(|base| {
        context.url(&format!("{path}.base_url"), base)?;
        Some(base.trim_end_matches('/'))
    });
    for (key, guid) in [("client_guid", &raw.client_guid), ("branch_guid", &raw.branch_guid)] {
        check_guid(context, &format!("{path}.{key}"), guid.as_deref());
    }
    for (key, text) in [("login", &raw.login), ("client", &raw.client)] {
        if text.as_ref().is_some_and(String::is_empty) {
            context.error(&format!("{path}.{key}"), format!("'{key}' is empty"), None);
        }
    }
    let base = base.unwrap_or("https://missing.invalid");
    let guid = |configured: &Option<String>, from_reply: &str| match configured {
        // The vendor writes them in lower case.
        Some(guid) => verbatim(&guid.to_ascii_lowercase()),
        None => template(from_reply),
    };
    let (client_value, branch_value) =
        if many { ("client_guid", "branch_guid") } else { ("client", "branch") };
    let client = guid(&raw.client_guid, &format!("{{{client_value}}}"));
    let branch = guid(&raw.branch_guid, &format!("{{{branch_value}}}"));
    let headers = [("Client", &client), ("Branch", &branch)].map(|(name, value)| match value {
        RawValue::Template(text) => (name.to_owned(), text.clone()),
        RawValue::Secret(_) => (name.to_owned(), String::new()),
    });
    let renewal = RawRequest {
        method: Some("GET".to_owned()),
        url: Some(format!("{base}/v3/authorization/token")),
        headers: Some(
            headers.into_iter().chain([("Token".to_owned(), "{token}".to_owned())]).collect(),
        ),
        ..RawRequest::default()
    };
    // A super-user has no client; everybody else names theirs.
    let client_name = raw.client.iter().map(|client| ("Client", escaped(client)));
    let login = [("Login", login), ("Password", "{password}".to_owned())];
    let json: BTreeMap<String, Value> = client_name
        .chain(login)
        .map(|(name, text)| (name.to_owned(), Value::String(text)))
        .collect();
    let mut set = fields([("Token", template("{token}")), ("Client", client), ("Branch", branch)]);
    if let Some(key) = &raw.api_key {
        set.insert("Api-Key".to_owned(), RawValue::Secret(key.clone()));
    }
    let mut values = BTreeMap::from([("token".to_owned(), "/Token".to_owned())]);
    if raw.client_guid.is_none() {
        values.insert(client_value.to_owned(), "/Client".to_owned());
    }
    if raw.branch_guid.is_none() {
        values.insert(branch_value.to_owned(), "/Branch".to_owned());
    }
    RawCredential::Login(RawLogin {
        request: Some(RawRequest {
            method: Some("POST".to_owned()),
            url: Some(format!("{base}/v3/authorization/authenticate")),
            json: Some(json),
            ..RawRequest::default()
        }),
        secrets: password.map(|password| secrets([("password", password)])),
        devices: raw.devices.clone(),
        success: Some(vec![
            RawCondition {
                pointer: Some("/Success".to_owned()),
                not: Some(Value::Bool(false)),
                ..RawCondition::default()
            },
            RawCondition {
                pointer: Some("/ErrorMessage".to_owned()),
                empty: Some(true),
                ..RawCondition::default()
            },
        ]),
        values: Some(values),
        expires: Some(RawExpires {
            at_ms: Some("/Expiration".to_owned()),
            ..RawExpires::default()
        }),
        renew: raw.renew.unwrap_or(true).then_some(renewal),
        set: Some(set),
        remove: Some(texts(REMOVED)),
        deny: Some(texts(TOKEN_ENDPOINTS)),
        upstreams: raw.upstreams.clone(),
        refresh: raw.refresh.clone(),
        tls: raw.tls.clone(),
        allow_plaintext: raw.allow_plaintext,
        ..RawLogin::default()
    })
}

pub(super) fn api_key(
    context: &mut Context<'_>,
    path: &str,
    raw: &RawTwinzoApiKey,
) -> RawCredential {
    let hint = "api_key = { env = \"TWINZO_API_KEY\" }";
    let key = context.require(raw.api_key.as_ref(), &format!("{path}.api_key"), hint);
    let mut guid = |name: &str, guid: Option<&str>| {
        let path = format!("{path}.{name}");
        let hint = format!("{name} = \"00000000-0000-0000-0000-000000000000\"");
        check_guid(context, &path, guid);
        let guid = context.require(guid, &path, &hint).unwrap_or_default();
        verbatim(&guid.to_ascii_lowercase())
    };
    let client = guid("client_guid", raw.client_guid.as_deref());
    let branch = guid("branch_guid", raw.branch_guid.as_deref());
    RawCredential::Fields(RawFields {
        set: Some(fields([
            ("Api-Key", RawValue::Secret(key.cloned().unwrap_or_else(stand_in))),
            ("Client", client),
            ("Branch", branch),
        ])),
        remove: Some(texts(REMOVED)),
        deny: Some(texts(TOKEN_ENDPOINTS)),
        upstreams: raw.upstreams.clone(),
        ..RawFields::default()
    })
}

/// The device's login, as a template, and its password. What differs from device to device is a
/// column of their file.
fn login_and_password(
    context: &mut Context<'_>,
    path: &str,
    raw: &RawTwinzoDevice,
) -> (String, Option<RawSecret>) {
    let many = raw.devices.is_some();
    let hint = "the device's login, such as login = \"gateway-01\"";
    let login = match raw.login.as_deref() {
        None if many => "{login}".to_owned(),
        login => {
            let login = context.require(login, &format!("{path}.login"), hint);
            escaped(login.unwrap_or_default())
        }
    };
    let hint = "password = { env = \"TWINZO_PASSWORD\" }";
    let password = match raw.password.as_ref() {
        None if many => None,
        password => {
            let password = context.require(password, &format!("{path}.password"), hint);
            Some(password.cloned().unwrap_or_else(stand_in))
        }
    };
    (login, password)
}

fn escaped(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

fn check_guid(context: &mut Context<'_>, path: &str, guid: Option<&str>) {
    let Some(guid) = guid else { return };
    if !is_guid(guid) {
        let hint = Some("a GUID looks like \"3f2b8c1e-5a4d-4e6f-9b7a-0c1d2e3f4a5b\"");
        context.error(path, format!("\"{guid}\" is not a GUID"), hint);
    }
}
