//! `kind = "oauth2"`: each grant with what belongs to it, and nothing that belongs to another.

mod client;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, Uri};

use crate::config::compile::credential::{Builder, Common, placeholder};
use crate::config::document::join;
use crate::config::raw::{RawGrant, RawNames, RawOauth, RawSecret, RawText};
use crate::config::{CredentialConfig, SourceSpec, units};
use crate::credential::oauth::{
    ACCESS_TOKEN, Assertion, ClientAuth, Endpoint, Exchange, Grant, OauthSpec,
};
use crate::credential::secret_ref::SecretRef;
use crate::secret::Secret;
use crate::sign::fields::FieldsScheme;
use crate::sign::{Scheme, sensitive_value};
use crate::template::Template;

const ANY_ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What we set in the request by ourselves.
const OWN_PARAMETERS: [&str; 15] = [
    "grant_type",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "username",
    "password",
    "refresh_token",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
];

impl Builder<'_, '_> {
    pub(super) fn oauth(mut self, raw: &RawOauth) -> CredentialConfig {
        let grant_kind = raw.grant.unwrap_or_default();
        self.nothing_of_other_grants(raw, grant_kind);
        let (endpoint, issuer) = self.endpoint(raw);
        let grant = self.grant(raw, grant_kind);
        let client_auth = self.client_auth(raw, grant_kind);
        let needs_id =
            !matches!(client_auth, ClientAuth::None) || grant_kind == RawGrant::ClientCredentials;
        let at = self.at("client_id");
        if needs_id && raw.client_id.is_none() {
            self.context.missing(&at, "client_id = \"…\"");
        }
        if raw.client_id.as_ref().is_some_and(String::is_empty) {
            self.context.error(&at, "the client's identifier is empty", None);
        }
        let mut parameters = Vec::new();
        for (name, values) in [("audience", &raw.audience), ("resource", &raw.resource)] {
            for value in listed(values.as_ref()) {
                parameters.push((name.to_owned(), plain(value)));
            }
        }
        self.extra(raw, &mut parameters);
        let headers = self.request_headers(raw, &client_auth);
        let scope: Vec<&str> = listed(raw.scope.as_ref()).collect();
        let at = self.at("lifetime");
        let lifetime = self.context.parse(&at, raw.lifetime.as_deref(), units::duration);
        let scheme = self.set_token(raw);
        let spec = OauthSpec {
            endpoint,
            issuer,
            grant,
            client_id: raw.client_id.clone(),
            client_auth,
            scope: Some(scope.join(" ")).filter(|scope| !scope.is_empty()),
            parameters,
            headers,
            token_type: raw.token_type.clone().unwrap_or_else(|| "Bearer".to_owned()),
            lifetime,
        };
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            refresh: raw.refresh.as_ref(),
            tls: raw.tls.as_ref(),
            devices: None,
        };
        self.finish(SourceSpec::Oauth(spec), scheme, &common)
    }

    /// Where tokens are asked for, and what the server calls itself.
    fn endpoint(&mut self, raw: &RawOauth) -> (Endpoint, Option<String>) {
        let plaintext = raw.allow_plaintext == Some(true);
        let at = self.at("issuer");
        let issuer = raw.issuer.as_ref().and_then(|text| {
            let url = self.token_url(&at, text, plaintext)?;
            Some((text.clone(), url))
        });
        let name = issuer.as_ref().map(|(text, _)| text.clone());
        let at = self.at("token_url");
        let endpoint = match (&raw.token_url, issuer) {
            (Some(url), _) => {
                Endpoint::Url(self.token_url(&at, url, plaintext).unwrap_or_default())
            }
            (None, Some((_, issuer))) => Endpoint::Discovered { issuer, plaintext },
            (None, None) => {
                if raw.issuer.is_none() {
                    let hint = "token_url = \"https://id.example.com/token\", or issuer = \
                                \"https://id.example.com\"";
                    if !self.context.was_removed_below(&self.at("issuer")) {
                        self.context.missing(&at, hint);
                    }
                }
                Endpoint::Url(Uri::default())
            }
        };
        (endpoint, name)
    }

    /// What belongs to a grant that was not chosen would be left out without a word.
    fn nothing_of_other_grants(&mut self, raw: &RawOauth, grant: RawGrant) {
        use RawGrant::{JwtBearer, Password, RefreshToken, TokenExchange};
        let keys = [
            ("username", Password, raw.username.is_some()),
            ("password", Password, raw.password.is_some()),
            ("refresh_token", RefreshToken, raw.refresh_token.is_some()),
            ("assertion", JwtBearer, raw.assertion.is_some()),
            ("signed_assertion", JwtBearer, raw.signed_assertion.is_some()),
            ("subject_token", TokenExchange, raw.subject_token.is_some()),
            ("subject_token_type", TokenExchange, raw.subject_token_type.is_some()),
            ("actor_token", TokenExchange, raw.actor_token.is_some()),
            ("actor_token_type", TokenExchange, raw.actor_token_type.is_some()),
            ("requested_token_type", TokenExchange, raw.requested_token_type.is_some()),
        ];
        let unclear = self.context.was_removed_below(&self.at("grant"));
        for (key, of, is_set) in keys {
            if is_set && of != grant && !unclear {
                let of = name_of(of);
                let hint = format!("grant = \"{of}\"");
                let message = format!("'{key}' belongs to the grant \"{of}\"");
                self.context.error(&self.at(key), message, Some(&hint));
            }
        }
    }

    fn grant(&mut self, raw: &RawOauth, kind: RawGrant) -> Grant {
        match kind {
            RawGrant::ClientCredentials => Grant::ClientCredentials,
            RawGrant::Password => {
                let at = self.at("username");
                let username =
                    self.context.require(raw.username.as_deref(), &at, "username = \"…\"");
                Grant::Password {
                    username: plain(username.unwrap_or_default()),
                    password: self.grant_secret(raw.password.as_ref(), "password"),
                }
            }
            RawGrant::RefreshToken => {
                Grant::RefreshToken(self.grant_secret(raw.refresh_token.as_ref(), "refresh_token"))
            }
            RawGrant::JwtBearer => Grant::JwtBearer(self.assertion(raw)),
            RawGrant::TokenExchange => Grant::TokenExchange(self.exchange(raw)),
        }
    }

    fn grant_secret(&mut self, raw: Option<&RawSecret>, key: &str) -> SecretRef {
        let hint = format!("{key} = {{ file = \"/run/secrets/{key}\" }}");
        let at = self.at(key);
        self.required_secret(raw, &at, &hint)
    }

    fn assertion(&mut self, raw: &RawOauth) -> Assertion {
        match (&raw.assertion, &raw.signed_assertion) {
            (Some(given), None) => Assertion::Given(self.grant_secret(Some(given), "assertion")),
            (None, Some(signed)) => {
                let id = raw.client_id.as_deref();
                Assertion::Signed(self.signed("signed_assertion", signed, id))
            }
            (given, _) => {
                let hint = "signed_assertion = { key = { file = \"key.pem\" }, issuer = \"…\" }, \
                            or assertion = { file = \"…\" }";
                if given.is_some() {
                    let at = self.at("assertion");
                    let message = "there are two assertions";
                    self.context.error(&at, message, Some("one of assertion, signed_assertion"));
                } else if !self.context.was_removed_below(&self.at("assertion")) {
                    self.context.missing(&self.at("signed_assertion"), hint);
                }
                Assertion::Given(placeholder())
            }
        }
    }

    fn exchange(&mut self, raw: &RawOauth) -> Exchange {
        let subject_token = self.grant_secret(raw.subject_token.as_ref(), "subject_token");
        let kind =
            |kind: &Option<String>| kind.clone().unwrap_or_else(|| ANY_ACCESS_TOKEN.to_owned());
        let actor = raw.actor_token.as_ref();
        let actor_token = actor.map(|actor| {
            (self.grant_secret(Some(actor), "actor_token"), kind(&raw.actor_token_type))
        });
        if actor.is_none() && raw.actor_token_type.is_some() {
            let at = self.at("actor_token");
            self.context.missing(&at, "actor_token = { file = \"/run/secrets/actor_token\" }");
        }
        Exchange {
            subject_token,
            subject_token_type: kind(&raw.subject_token_type),
            actor_token,
            requested_token_type: raw.requested_token_type.clone(),
        }
    }

    fn extra(&mut self, raw: &RawOauth, parameters: &mut Vec<(String, SecretRef)>) {
        for (name, value) in raw.extra.iter().flatten() {
            let path = join(&self.at("extra"), name);
            let set_twice = parameters.iter().any(|(known, _)| known == name);
            if OWN_PARAMETERS.contains(&name.as_str()) || set_twice {
                let hint = format!("it is a key of its own: {name} = …");
                let hint = Some(hint.as_str()).filter(|_| name != "grant_type");
                self.context.error(&path, format!("'{name}' is set already"), hint);
            }
            if let Some(value) = self.text(&path, value) {
                parameters.push((name.clone(), value));
            }
        }
    }

    fn request_headers(
        &mut self,
        raw: &RawOauth,
        client_auth: &ClientAuth,
    ) -> Vec<(HeaderName, SecretRef)> {
        let mut headers = Vec::new();
        for (name, value) in raw.headers.iter().flatten() {
            let path = join(&self.at("headers"), name);
            let Some(field) = self.context.field_name(&path, name) else { continue };
            let basic = matches!(client_auth, ClientAuth::Basic(_));
            if field == CONTENT_TYPE || (basic && field == AUTHORIZATION) {
                self.context.error(&path, format!("'{name}' is set already"), None);
            }
            if let RawText::Text(text) = value
                && sensitive_value(text).is_none()
            {
                let message = "this has a character that a field cannot hold";
                self.context.error(&path, message, None);
            }
            headers.extend(self.text(&path, value).map(|value| (field, value)));
        }
        headers
    }

    fn text(&mut self, path: &str, raw: &RawText) -> Option<SecretRef> {
        match raw {
            RawText::Text(text) => Some(plain(text)),
            RawText::Secret(secret) => self.context.secret(path, secret),
        }
    }

    /// What requests get.
    fn set_token(&mut self, raw: &RawOauth) -> Scheme {
        let at = self.at("header");
        let header = raw.header.as_ref().and_then(|name| self.context.field_name(&at, name));
        let header = header.unwrap_or(AUTHORIZATION);
        let default = if header == AUTHORIZATION { "Bearer " } else { "" };
        let prefix = raw.prefix.as_deref().unwrap_or(default);
        let at = self.at("prefix");
        if sensitive_value(&format!("{prefix}x")).is_none() {
            self.context.error(&at, "this has a character that a field cannot hold", None);
        }
        let literal = prefix.replace('{', "{{").replace('}', "}}");
        let template = self.template(&at, &format!("{literal}{{{ACCESS_TOKEN}}}"));
        let template = template.unwrap_or_else(|| Template::value(ACCESS_TOKEN));
        Scheme::Fields(FieldsScheme { set: vec![(header, template)] })
    }
}

/// What is no secret, where a secret could stand.
fn plain(text: &str) -> SecretRef {
    SecretRef::Value(Secret::new(text))
}

fn listed(names: Option<&RawNames>) -> impl Iterator<Item = &str> {
    let names = match names {
        None => &[],
        Some(RawNames::One(name)) => std::slice::from_ref(name),
        Some(RawNames::Many(names)) => names.as_slice(),
    };
    names.iter().map(String::as_str)
}

fn name_of(grant: RawGrant) -> &'static str {
    match grant {
        RawGrant::ClientCredentials => "client_credentials",
        RawGrant::Password => "password",
        RawGrant::RefreshToken => "refresh_token",
        RawGrant::JwtBearer => "jwt_bearer",
        RawGrant::TokenExchange => "token_exchange",
    }
}

#[cfg(test)]
mod tests;
