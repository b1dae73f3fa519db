//! Vendors: a kind of their own, written in terms of the generic kinds.
//!
//! A preset is data in, data out. It knows names of fields and paths; it has no code that runs when
//! a request comes. `countersign check --print` shows what it returns.

mod devo;
mod twinzo;

use std::collections::BTreeMap;

use super::compile::Context;
use super::raw::{RawCredential, RawSecret, RawValue};

/// The credential in terms of the generic kinds; generic kinds stay as they are.
///
/// `None` if something is missing, which is then reported.
pub(super) fn expand(
    context: &mut Context<'_>,
    path: &str,
    credential: &RawCredential,
) -> Option<RawCredential> {
    match credential {
        RawCredential::TwinzoDevice(device) => twinzo::device(context, path, device),
        RawCredential::TwinzoApiKey(key) => twinzo::api_key(context, path, key),
        RawCredential::DevoToken(token) => devo::token(context, path, token),
        RawCredential::DevoSignature(signature) => devo::signature(context, path, signature),
        generic @ (RawCredential::Fields(_)
        | RawCredential::Query(_)
        | RawCredential::Bearer(_)
        | RawCredential::Basic(_)
        | RawCredential::Login(_)
        | RawCredential::Hmac(_)) => Some(generic.clone()),
    }
}

/// A text of the configuration as a template that stands for itself.
fn verbatim(text: &str) -> RawValue {
    RawValue::Template(text.replace('{', "{{").replace('}', "}}"))
}

/// A template.
fn template(text: &str) -> RawValue {
    RawValue::Template(text.to_owned())
}

fn fields(
    set: impl IntoIterator<Item = (&'static str, RawValue)>,
) -> Option<BTreeMap<String, RawValue>> {
    Some(
        set.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn secrets(
    secrets: impl IntoIterator<Item = (&'static str, RawSecret)>,
) -> Option<BTreeMap<String, RawSecret>> {
    Some(
        secrets
            .into_iter()
            .map(|(name, secret)| (name.to_owned(), secret))
            .collect(),
    )
}

fn texts<const N: usize>(texts: [&str; N]) -> Option<Vec<String>> {
    Some(texts.map(str::to_owned).to_vec())
}
