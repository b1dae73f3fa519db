//! Vendors: a kind of their own, written in terms of the generic kinds.
//!
//! A preset is data in, data out. It knows names of fields and paths; it has no code that runs when
//! a request comes. `countersign check --print` shows what it returns.

mod devo;
mod twinzo;

use std::collections::BTreeMap;

use super::context::Context;
use super::raw::{RawCredential, RawSecret, RawValue};

/// The credential in terms of the generic kinds; generic kinds stay as they are.
///
/// What is missing is reported, and something stands in for it, so that the rest is looked at too.
pub(super) fn expand(
    context: &mut Context<'_>,
    path: &str,
    credential: &RawCredential,
) -> RawCredential {
    match credential {
        RawCredential::TwinzoDevice(device) => twinzo::device(context, path, device),
        RawCredential::TwinzoApiKey(key) => twinzo::api_key(context, path, key),
        RawCredential::DevoToken(token) => devo::token(context, path, token),
        RawCredential::DevoSignature(signature) => devo::signature(context, path, signature),
        generic @ (RawCredential::Fields(_)
        | RawCredential::Query(_)
        | RawCredential::Bearer(_)
        | RawCredential::Basic(_)
        | RawCredential::Oauth2(_)
        | RawCredential::Login(_)
        | RawCredential::Hmac(_)) => generic.clone(),
    }
}

/// The keys that [`expand`] makes up, and the ones that the user wrote for them: problems are
/// reported where they can be mended.
pub(super) fn written_as(credential: &RawCredential) -> &'static [(&'static str, &'static str)] {
    match credential {
        RawCredential::TwinzoDevice(_) => &twinzo::DEVICE_KEYS,
        RawCredential::TwinzoApiKey(_) => &twinzo::API_KEY_KEYS,
        RawCredential::DevoToken(_) => &devo::TOKEN_KEYS,
        RawCredential::DevoSignature(_) => &devo::SIGNATURE_KEYS,
        RawCredential::Fields(_)
        | RawCredential::Query(_)
        | RawCredential::Bearer(_)
        | RawCredential::Basic(_)
        | RawCredential::Oauth2(_)
        | RawCredential::Login(_)
        | RawCredential::Hmac(_) => &[],
    }
}

/// Stands in for a secret that is missing.
fn stand_in() -> RawSecret {
    RawSecret { env: Some("MISSING".to_owned()), ..RawSecret::default() }
}

/// A text of the configuration as a template that stands for itself.
fn verbatim(text: &str) -> RawValue {
    RawValue::Template(text.replace('{', "{{").replace('}', "}}"))
}

/// A template.
fn template(text: &str) -> RawValue {
    RawValue::Template(text.to_owned())
}

fn fields(set: impl IntoIterator<Item = (&'static str, RawValue)>) -> BTreeMap<String, RawValue> {
    set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn secrets(
    secrets: impl IntoIterator<Item = (&'static str, RawSecret)>,
) -> BTreeMap<String, RawSecret> {
    secrets.into_iter().map(|(name, secret)| (name.to_owned(), secret)).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}
