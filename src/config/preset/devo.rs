//! Devo: a token in a field, or a signature over key, content and timestamp.
//!
//! Facts: `x-logtrust-sign` is the lower-case hexadecimal HMAC-SHA256, under the API secret, of the
//! API key, the content as sent and the timestamp (Unix milliseconds, as in
//! `x-logtrust-timestamp`), without separators. Provisioning names its keys in
//! `x-logtrust-domain-apikey` and `x-logtrust-reseller-apikey`, query and relay theirs in
//! `x-logtrust-apikey`. Which key signs when a multitenant request carries both is not documented;
//! every published script signs with the reseller's.

use std::collections::BTreeMap;

use super::{fields, stand_in, template, texts};
use crate::config::context::Context;
use crate::config::raw::{
    RawCredential, RawDevoApi, RawDevoSignature, RawDevoToken, RawFields, RawHmac, RawNamedPart,
    RawPart, RawPartWith, RawSecret, RawSignWith, RawValue,
};

/// Clients of these APIs send some credential of their own; none of it may arrive beside ours.
const REMOVED: [&str; 3] = ["Authorization", "standAloneToken", "x-logtrust-*"];

pub(super) const TOKEN_KEYS: [(&str, &str); 2] = [("values.token", "token"), ("set", "header")];

pub(super) const SIGNATURE_KEYS: [(&str, &str); 5] = [
    ("set", "key_header"),
    ("key", "api_secret"),
    ("values.api_key", "api_key"),
    ("values.domain_api_key", "domain_api_key"),
    ("values.reseller_api_key", "reseller_api_key"),
];

pub(super) fn token(context: &mut Context<'_>, path: &str, raw: &RawDevoToken) -> RawCredential {
    let hint = "token = { env = \"DEVO_TOKEN\" }";
    let token = context.require(raw.token.as_ref(), &format!("{path}.token"), hint);
    let token = token.cloned().unwrap_or_else(stand_in);
    let header = raw.header.clone().unwrap_or_else(|| "standAloneToken".to_owned());
    let mut prefix = raw.prefix.as_deref().unwrap_or_default();
    if prefix.chars().any(char::is_control) {
        let message = "this has a character that a field cannot hold";
        context.error(&format!("{path}.prefix"), message, None);
        prefix = "";
    }
    let prefix = prefix.replace('{', "{{").replace('}', "}}");
    let value = RawValue::Template(format!("{prefix}{{token}}"));
    RawCredential::Fields(RawFields {
        set: Some(BTreeMap::from([(header, value)])),
        values: Some(BTreeMap::from([("token".to_owned(), token)])),
        remove: Some(texts(REMOVED)),
        upstreams: raw.upstreams.clone(),
        ..RawFields::default()
    })
}

pub(super) fn signature(
    context: &mut Context<'_>,
    path: &str,
    raw: &RawDevoSignature,
) -> RawCredential {
    let hint = "api_secret = { env = \"DEVO_API_SECRET\" }";
    let secret = context.require(raw.api_secret.as_ref(), &format!("{path}.api_secret"), hint);
    let unclear =
        ["api", "sign_with"].iter().any(|key| context.was_removed_below(&format!("{path}.{key}")));
    let keys = match raw.api.unwrap_or_default() {
        // Which keys belong there cannot be told.
        _ if unclear => vec![("x-logtrust-apikey", "api_key", stand_in())],
        RawDevoApi::Provisioning => provisioning_keys(context, path, raw),
        RawDevoApi::Query => query_keys(context, path, raw),
    };
    if let Some(header) = &raw.key_header
        && matches!(
            header.to_ascii_lowercase().as_str(),
            "x-logtrust-sign" | "x-logtrust-timestamp"
        )
    {
        let message = format!("'{header}' carries something else");
        context.error(&format!("{path}.key_header"), message, Some("x-logtrust-apikey"));
    }
    let mut set = fields([
        ("x-logtrust-timestamp", template("{timestamp}")),
        ("x-logtrust-sign", template("{signature}")),
    ]);
    let mut values = BTreeMap::new();
    let mut signing = String::new();
    for (index, (header, value, key)) in keys.into_iter().enumerate() {
        let header = match (&raw.key_header, index) {
            (Some(header), 0) => header.clone(),
            _ => header.to_owned(),
        };
        if index == 0 {
            value.clone_into(&mut signing);
        }
        set.insert(header, RawValue::Template(format!("{{{value}}}")));
        values.insert(value.to_owned(), key);
    }
    let part = RawPart::Named;
    RawCredential::Hmac(RawHmac {
        key: Some(secret.cloned().unwrap_or_else(stand_in)),
        values: Some(values),
        base: Some(vec![
            RawPart::With(RawPartWith { value: Some(signing), ..RawPartWith::default() }),
            part(RawNamedPart::Body),
            part(RawNamedPart::Timestamp),
        ]),
        set: Some(set),
        remove: Some(texts(REMOVED)),
        upstreams: raw.upstreams.clone(),
        ..RawHmac::default()
    })
}

/// Field, name of the value, and key; the key that signs comes first.
type Keys = Vec<(&'static str, &'static str, RawSecret)>;

fn provisioning_keys(context: &mut Context<'_>, path: &str, raw: &RawDevoSignature) -> Keys {
    if raw.api_key.is_some() {
        let hint =
            Some("provisioning takes domain_api_key or reseller_api_key; or set api = \"query\"");
        context.error(&format!("{path}.api_key"), "this key is for the query API", hint);
    }
    let domain = raw.domain_api_key.clone();
    let domain = domain.map(|key| ("x-logtrust-domain-apikey", "domain_api_key", key));
    let reseller = raw.reseller_api_key.clone();
    let reseller = reseller.map(|key| ("x-logtrust-reseller-apikey", "reseller_api_key", key));
    let default = if reseller.is_some() { RawSignWith::Reseller } else { RawSignWith::Domain };
    let (signing, other, name) = match raw.sign_with.unwrap_or(default) {
        RawSignWith::Reseller => (reseller, domain, "reseller_api_key"),
        RawSignWith::Domain => (domain, reseller, "domain_api_key"),
    };
    let hint =
        "the key that signs: domain_api_key or reseller_api_key = { env = \"DEVO_API_KEY\" }";
    let signing = context.require(signing, &format!("{path}.{name}"), hint);
    let signing = signing.unwrap_or(("x-logtrust-apikey", name, stand_in()));
    [Some(signing), other].into_iter().flatten().collect()
}

fn query_keys(context: &mut Context<'_>, path: &str, raw: &RawDevoSignature) -> Keys {
    let strangers = [
        ("domain_api_key", raw.domain_api_key.is_some()),
        ("reseller_api_key", raw.reseller_api_key.is_some()),
        ("sign_with", raw.sign_with.is_some()),
    ];
    for (name, present) in strangers {
        if present {
            let hint = Some("the query API takes api_key and api_secret");
            context.error(&format!("{path}.{name}"), "this is for provisioning", hint);
        }
    }
    let hint = "api_key = { env = \"DEVO_API_KEY\" }";
    let key = context.require(raw.api_key.clone(), &format!("{path}.api_key"), hint);
    vec![("x-logtrust-apikey", "api_key", key.unwrap_or_else(stand_in))]
}
