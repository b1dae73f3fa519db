//! How a client shows who it is, and the assertions that we sign.

use std::time::Duration;

use super::devices::Columns;
use crate::config::compile::credential::Builder;
use crate::config::document::join;
use crate::config::raw::{RawAssertion, RawClientAuth, RawGrant, RawOauth};
use crate::credential::oauth::{AssertionSpec, ClientAuth, JwtAlgorithm, LONGEST_LIFE};
use crate::credential::secret_ref::SecretRef;

/// Whose client asserts, where the assertion does not say it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Id<'r> {
    /// The one that all share.
    Shared(Option<&'r str>),
    /// That of each device.
    OfDevice,
}

/// What we claim by ourselves.
const OWN_CLAIMS: [&str; 6] = ["iss", "sub", "aud", "exp", "iat", "jti"];

impl Builder<'_, '_> {
    pub(super) fn client_auth(
        &mut self,
        raw: &RawOauth,
        grant: RawGrant,
        columns: &mut Columns,
    ) -> ClientAuth {
        let of_devices = raw.devices.is_some()
            && grant == RawGrant::ClientCredentials
            && !self.context.was_removed_below(&self.at("client_secret"));
        let auth = match (raw.client_auth, &raw.client_secret, &raw.client_assertion) {
            (Some(auth), _, _) => auth,
            (None, Some(_), _) => RawClientAuth::Basic,
            (None, None, Some(_)) => RawClientAuth::PrivateKeyJwt,
            // Each device is a client with a secret of its own.
            (None, None, None) if of_devices => RawClientAuth::Basic,
            (None, None, None) => RawClientAuth::None,
        };
        let with_secret = matches!(auth, RawClientAuth::Basic | RawClientAuth::Post);
        let with_key = auth == RawClientAuth::PrivateKeyJwt;
        for (key, is_set, belongs) in [
            ("client_secret", raw.client_secret.is_some(), with_secret),
            ("client_assertion", raw.client_assertion.is_some(), with_key),
        ] {
            if is_set && !belongs {
                let message = format!("'{key}' is not used with this client_auth");
                self.context.error(&self.at(key), message, Some("leave one of them out"));
            }
        }
        match auth {
            RawClientAuth::Basic => ClientAuth::Basic(self.client_secret(raw, columns)),
            RawClientAuth::Post => ClientAuth::Post(self.client_secret(raw, columns)),
            RawClientAuth::PrivateKeyJwt => {
                let at = self.at("client_assertion");
                let hint = "client_assertion = { key = { file = \"/run/secrets/client.pem\" } }";
                let id = raw.client_id.as_deref();
                let many = raw.devices.is_some();
                let own_key = many
                    && raw.client_assertion.as_ref().is_none_or(|signed| signed.key.is_none())
                    && !self.context.was_removed_below(&format!("{at}.key"));
                let signed = if own_key {
                    columns.take("client_assertion_key", true);
                    raw.client_assertion.as_ref()
                } else {
                    self.context.require(raw.client_assertion.as_ref(), &at, hint)
                };
                let signed = signed.cloned().unwrap_or_default();
                let id = if many && id.is_none() { Id::OfDevice } else { Id::Shared(id) };
                let signed = self.signed("client_assertion", &signed, id, own_key);
                ClientAuth::PrivateKeyJwt(signed)
            }
            RawClientAuth::Tls => {
                let certificate =
                    raw.tls.as_ref().is_some_and(|tls| tls.client_certificate.is_some());
                let at = self.at("tls.client_certificate");
                if !certificate {
                    let hint = "tls = { client_certificate = \"client.pem\", client_key = \
                                \"client.key\" }";
                    self.context.missing(&at, hint);
                }
                ClientAuth::Tls
            }
            RawClientAuth::None => {
                let undecided = raw.client_auth.is_none()
                    && grant == RawGrant::ClientCredentials
                    && !self.context.was_removed_below(&self.at("client_auth"))
                    && !self.context.was_removed_below(&self.at("client_assertion"));
                if undecided {
                    let hint = "client_secret = { env = \"CLIENT_SECRET\" }, client_assertion, or \
                                client_auth = \"tls\" or \"none\"";
                    let at = self.at("client_secret");
                    self.context.missing(&at, hint);
                }
                ClientAuth::None
            }
        }
    }

    fn client_secret(&mut self, raw: &RawOauth, columns: &mut Columns) -> Option<SecretRef> {
        let at = self.at("client_secret");
        let misshapen = self.context.was_removed_below(&at);
        if raw.client_secret.is_none() && !misshapen && columns.take("client_secret", true) {
            return None;
        }
        let hint = "client_secret = { env = \"CLIENT_SECRET\" }";
        Some(self.required_secret(raw.client_secret.as_ref(), &at, hint))
    }

    /// An assertion that we sign: by the client and about itself, unless it says otherwise.
    /// `own_key`: each device has its own.
    pub(super) fn signed(
        &mut self,
        key: &str,
        raw: &RawAssertion,
        client: Id<'_>,
        own_key: bool,
    ) -> AssertionSpec {
        let path = self.at(key);
        let at = |key: &str| format!("{path}.{key}");
        let hint = "key = { file = \"/run/secrets/client.pem\" }";
        let secret = (!own_key).then(|| self.required_secret(raw.key.as_ref(), &at("key"), hint));
        let issuer = match (raw.issuer.as_deref(), client) {
            (None, Id::OfDevice) => None,
            (issuer, Id::OfDevice) => issuer,
            (issuer, Id::Shared(client)) => {
                self.context.require(issuer.or(client), &at("issuer"), "issuer = \"…\"")
            }
        };
        let issuer = issuer.map(str::to_owned);
        let subject = raw.subject.clone().or_else(|| issuer.clone());
        let default = Duration::from_mins(2);
        let lifetime = self.context.duration(&at("lifetime"), raw.lifetime.as_deref(), default);
        if !(Duration::from_secs(30)..=LONGEST_LIFE).contains(&lifetime) {
            let hint = Some("from \"30s\" to \"5m\"");
            self.context.error(&at("lifetime"), "an assertion does not live that long", hint);
        }
        let mut claims = serde_json::Map::new();
        for (name, value) in raw.claims.iter().flatten() {
            if OWN_CLAIMS.contains(&name.as_str()) {
                let path = join(&at("claims"), name);
                let hint = Some("iss, sub and aud are 'issuer', 'subject' and 'audience'");
                self.context.error(&path, format!("'{name}' is claimed already"), hint);
            }
            claims.insert(name.clone(), value.clone());
        }
        AssertionSpec {
            key: secret,
            algorithm: raw.algorithm.unwrap_or(JwtAlgorithm::RS256),
            key_id: raw.key_id.clone(),
            issuer,
            subject,
            audience: raw.audience.clone(),
            lifetime,
            claims,
        }
    }
}
