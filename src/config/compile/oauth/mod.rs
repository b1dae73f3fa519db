//! `kind = "oauth2"`: each grant with what belongs to it, and nothing that belongs to another.

mod client;
mod devices;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, Uri};

use self::client::Id;
use self::devices::Columns;
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
const OWN_PARAMETERS: [&str; 16] = [
    "grant_type",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "username",
    "password",
    "refresh_token",
    "device_code",
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
        let mut columns = Columns::new(raw.devices.is_some());
        let grant = self.grant(raw, grant_kind, &mut columns);
        let client_auth = self.client_auth(raw, grant_kind, &mut columns);
        self.client_id(raw, grant_kind, &client_auth, &mut columns);
        columns.take_optional(raw);
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
            devices: raw.devices.as_deref().map(|file| (file, columns.into_columns(&self))),
        };
        self.finish(SourceSpec::Oauth(spec), scheme, &common)
    }

    /// The client's identifier is there, where there has to be one.
    fn client_id(
        &mut self,
        raw: &RawOauth,
        grant: RawGrant,
        client_auth: &ClientAuth,
        columns: &mut Columns,
    ) {
        let by_grant = matches!(grant, RawGrant::ClientCredentials | RawGrant::DeviceCode);
        let required = !matches!(client_auth, ClientAuth::None) || by_grant;
        let at = self.at("client_id");
        if raw.client_id.is_none() && !columns.take("client_id", required) && required {
            self.context.missing(&at, "client_id = \"…\"");
        }
        if raw.client_id.as_ref().is_some_and(String::is_empty) {
            self.context.error(&at, "the client's identifier is empty", None);
        }
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

    /// Where a login begins: the place has to be known if that of the token endpoint is given, which
    /// is found at the same place otherwise.
    fn device_code(&mut self, raw: &RawOauth) -> Grant {
        let plaintext = raw.allow_plaintext == Some(true);
        let at = self.at("device_authorization_url");
        if raw.device_authorization_url.is_none() && raw.token_url.is_some() {
            let hint = "device_authorization_url = \"https://id.example.com/device_authorization\", \
                        or issuer instead of token_url";
            self.context.missing(&at, hint);
        }
        let url = raw.device_authorization_url.as_deref();
        let url = url.and_then(|url| self.token_url(&at, url, plaintext));
        if raw.devices.is_some() {
            let hint = Some("leave 'devices' out, or use another grant");
            let message = "a person cannot log in for each device";
            self.context.error(&self.at("devices"), message, hint);
        }
        Grant::DeviceCode { url, plaintext }
    }

    /// What belongs to a grant that was not chosen would be left out without a word.
    fn nothing_of_other_grants(&mut self, raw: &RawOauth, grant: RawGrant) {
        use RawGrant::{DeviceCode, JwtBearer, Password, RefreshToken, TokenExchange};
        let keys = [
            ("username", Password, raw.username.is_some()),
            ("password", Password, raw.password.is_some()),
            ("refresh_token", RefreshToken, raw.refresh_token.is_some()),
            ("device_authorization_url", DeviceCode, raw.device_authorization_url.is_some()),
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

    fn grant(&mut self, raw: &RawOauth, kind: RawGrant, columns: &mut Columns) -> Grant {
        match kind {
            RawGrant::ClientCredentials => Grant::ClientCredentials,
            RawGrant::Password => {
                let at = self.at("username");
                let username = if raw.username.is_none() && columns.take("username", true) {
                    None
                } else {
                    let hint = "username = \"…\"";
                    let username = self.context.require(raw.username.as_deref(), &at, hint);
                    Some(plain(username.unwrap_or_default()))
                };
                let password = self.grant_secret(raw.password.as_ref(), "password", columns);
                Grant::Password { username, password }
            }
            RawGrant::RefreshToken => {
                let token = raw.refresh_token.as_ref();
                Grant::RefreshToken(self.grant_secret(token, "refresh_token", columns))
            }
            RawGrant::DeviceCode => self.device_code(raw),
            RawGrant::JwtBearer => Grant::JwtBearer(self.assertion(raw, columns)),
            RawGrant::TokenExchange => Grant::TokenExchange(self.exchange(raw, columns)),
        }
    }

    /// A secret of the grant; `None` if each device has its own.
    fn grant_secret(
        &mut self,
        raw: Option<&RawSecret>,
        key: &'static str,
        columns: &mut Columns,
    ) -> Option<SecretRef> {
        let at = self.at(key);
        let misshapen = self.context.was_removed_below(&at);
        if raw.is_none() && !misshapen && columns.take(key, true) {
            return None;
        }
        let hint = format!("{key} = {{ file = \"/run/secrets/{key}\" }}");
        Some(self.required_secret(raw, &at, &hint))
    }

    fn assertion(&mut self, raw: &RawOauth, columns: &mut Columns) -> Assertion {
        match (&raw.assertion, &raw.signed_assertion) {
            (Some(given), None) => {
                Assertion::Given(self.grant_secret(Some(given), "assertion", columns))
            }
            (None, Some(signed)) => {
                let id = if raw.devices.is_some() && raw.client_id.is_none() {
                    Id::OfDevice
                } else {
                    Id::Shared(raw.client_id.as_deref())
                };
                Assertion::Signed(self.signed("signed_assertion", signed, id, false))
            }
            (None, None) if columns.take("assertion", true) => Assertion::Given(None),
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
                Assertion::Given(Some(placeholder()))
            }
        }
    }

    fn exchange(&mut self, raw: &RawOauth, columns: &mut Columns) -> Exchange {
        let subject = raw.subject_token.as_ref();
        let subject_token = self.grant_secret(subject, "subject_token", columns);
        let kind =
            |kind: &Option<String>| kind.clone().unwrap_or_else(|| ANY_ACCESS_TOKEN.to_owned());
        let actor_token = raw.actor_token.as_ref().map(|actor| {
            let at = self.at("actor_token");
            let actor = self.context.secret(&at, actor).unwrap_or_else(placeholder);
            (actor, kind(&raw.actor_token_type))
        });
        if raw.actor_token.is_none() && raw.actor_token_type.is_some() {
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
        RawGrant::DeviceCode => "device_code",
        RawGrant::JwtBearer => "jwt_bearer",
        RawGrant::TokenExchange => "token_exchange",
    }
}

#[cfg(test)]
mod tests;
