//! The store of tokens.

use super::credential::placeholder;
use crate::config::CredentialConfig;
use crate::config::context::Context;
use crate::config::document::join;
use crate::config::raw::RawTokenStore;
use crate::credential::store::StoreSpec;

pub(super) fn token_store(context: &mut Context<'_>, raw: Option<&RawTokenStore>) -> StoreSpec {
    let Some(RawTokenStore::File(raw)) = raw else { return StoreSpec::Memory };
    let hint = "path = \"/var/lib/countersign/tokens\"";
    let path = context.require(raw.path.as_deref(), "token_store.path", hint).unwrap_or_default();
    if raw.path.as_ref().is_some_and(|path| path.is_empty() || path.ends_with('/')) {
        context.error("token_store.path", "this is not the path of a file", Some(hint));
    }
    let hint = "key = { file = \"PATH\" }, with what this prints: openssl rand -base64 32";
    let key = context.require(raw.key.as_ref(), "token_store.key", hint);
    let key = key.and_then(|key| context.secret("token_store.key", key));
    StoreSpec::File { path: path.into(), key: key.unwrap_or_else(placeholder) }
}

/// What a person has logged in for is not lost with a process: another one is told of it by the
/// store.
pub(super) fn needed(
    context: &mut Context<'_>,
    store: &StoreSpec,
    credentials: &[CredentialConfig],
) {
    if *store != StoreSpec::Memory || context.was_removed_below("token_store") {
        return;
    }
    for credential in credentials {
        if credential.source.needs_a_person() {
            let path = format!("{}.grant", join("credential", &credential.name));
            let message = "the login of a person needs a [token_store] that outlives the process";
            let hint = "[token_store] with kind = \"file\", path = \"/var/lib/countersign/tokens\" \
                        and key = { file = \"PATH\" }";
            context.error(&path, message, Some(hint));
        }
    }
}
