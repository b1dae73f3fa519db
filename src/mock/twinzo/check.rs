//! Judges the credential fields of a call.

use std::sync::Arc;

use http::HeaderMap;

use super::{super::sole, Account, Switches, Twinzo, route::Call};

/// Whom a request speaks for.
pub(super) struct Caller {
    pub(super) account: Arc<Account>,
    pub(super) with_token: bool,
    pub(super) with_key: bool,
}

/// Why a request was refused, by the answer it gets.
pub(super) enum Refusal {
    /// The reason, in one sentence.
    Unauthorized(String),
    /// The branch does not own the account's device.
    Branch(Arc<Account>),
}

impl Twinzo {
    /// `Token` and `Api-Key` may come together, as recorded clients send them; then both must be
    /// right. Secrets are compared plainly: they are invented ones.
    pub(super) fn judge(
        &self,
        fields: &HeaderMap,
        call: &Call,
        switches: &Switches,
    ) -> Result<Caller, Refusal> {
        let take = |name| sole(fields, name).map_err(Refusal::Unauthorized);
        let refuse = |verdict: &str| Err(Refusal::Unauthorized(verdict.to_owned()));

        if take("mApi-Key")?.is_some() {
            return refuse("mApi-Key is unknown");
        }
        let (token, api_key) = (take("Token")?, take("Api-Key")?);
        let by_token = match token.map(|token| self.tokens.find(token, switches)) {
            Some(None) => return refuse("Token is unknown, expired or revoked"),
            Some(found) => found,
            None => None,
        };
        let by_key = match api_key {
            Some(key) if key == self.api_key.0.as_bytes() => self.accounts.first().cloned(),
            Some(_) => return refuse("Api-Key is unknown"),
            None => None,
        };
        let (with_token, with_key) = (by_token.is_some(), by_key.is_some());
        if call.needs_key() && !with_key {
            return refuse("this call needs the Api-Key");
        }
        if *call == Call::Renew && !with_token {
            return refuse("this call needs a Token");
        }
        let Some(account) = by_token.or(by_key) else {
            return refuse("neither Token nor Api-Key was sent");
        };
        match take("Client")? {
            Some(client) if same_guid(client, &account.client_guid) => {}
            Some(_) => return refuse("Client is not the client of the credential"),
            None => return refuse("Client is missing"),
        }
        match take("Branch")? {
            Some(branch) if same_guid(branch, &account.branch_guid) => {
                Ok(Caller { account, with_token, with_key })
            }
            Some(_) => Err(Refusal::Branch(account)),
            None => refuse("Branch is missing"),
        }
    }
}

fn same_guid(sent: &[u8], guid: &str) -> bool {
    sent.eq_ignore_ascii_case(guid.as_bytes())
}
