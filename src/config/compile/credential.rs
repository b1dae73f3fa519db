//! Credentials: presets expanded, templates parsed, values and their users matched.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use serde_json::Value;

use super::Context;
use crate::config::raw::{
    RawBasic, RawBearer, RawCondition, RawCredential, RawExpires, RawFields, RawHmac, RawLogin,
    RawNamedPart, RawPart, RawQuery, RawRefresh, RawRequest, RawSecret, RawTls, RawValue,
};
use crate::config::secret_ref::SecretRef;
use crate::config::shape::nearest;
use crate::config::{CredentialConfig, DenyPattern, Origin, SourceSpec, preset, units};
use crate::credential::fixed::{BasicPair, FixedSpec};
use crate::credential::login::{ContentSpec, JsonTemplate, LoginSpec, RequestSpec};
use crate::credential::reply::{Condition, Expires, ReplySpec, Test};
use crate::credential::schedule::RefreshPolicy;
use crate::sign::Scheme;
use crate::sign::base::Part;
use crate::sign::fields::FieldsScheme;
use crate::sign::hmac::{HmacScheme, SIGNATURE, TIMESTAMP};
use crate::sign::owned::OwnedFields;
use crate::sign::query::QueryScheme;
use crate::template::Template;
use crate::tls::TlsSettings;

type NamedSecrets = Vec<(String, SecretRef)>;
type NamedTemplates = Vec<(HeaderName, Template)>;

/// The credential in terms of the generic kinds, and compiled.
pub(super) fn credential(
    context: &mut Context<'_>,
    name: &str,
    raw: &RawCredential,
) -> (Option<RawCredential>, Option<CredentialConfig>) {
    let path = crate::config::document::join("credential", name);
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.') {
        let hint = Some("letters, digits, '_', '-' and '.'");
        context.error(&path, format!("'{name}' cannot be the name of a credential"), hint);
    }
    let Some(generic) = preset::expand(context, &path, raw) else {
        return (None, None);
    };
    context.written_as = preset::written_as(raw)
        .iter()
        .map(|(made_up, written)| (format!("{path}.{made_up}"), format!("{path}.{written}")))
        .collect();
    let builder = Builder { context, path, name, kind: kind(raw) };
    let compiled = match &generic {
        RawCredential::Fields(fields) => builder.fields(fields),
        RawCredential::Query(query) => builder.query(query),
        RawCredential::Bearer(bearer) => builder.bearer(bearer),
        RawCredential::Basic(basic) => builder.basic(basic),
        RawCredential::Login(login) => builder.login(login),
        RawCredential::Hmac(hmac) => builder.hmac(hmac),
        RawCredential::TwinzoDevice(_)
        | RawCredential::TwinzoApiKey(_)
        | RawCredential::DevoToken(_)
        | RawCredential::DevoSignature(_) => None,
    };
    (Some(generic), compiled)
}

fn kind(raw: &RawCredential) -> &'static str {
    match raw {
        RawCredential::TwinzoDevice(_) => "twinzo-device",
        RawCredential::TwinzoApiKey(_) => "twinzo-api-key",
        RawCredential::DevoToken(_) => "devo-token",
        RawCredential::DevoSignature(_) => "devo-signature",
        RawCredential::Fields(_) => "fields",
        RawCredential::Query(_) => "query",
        RawCredential::Bearer(_) => "bearer",
        RawCredential::Basic(_) => "basic",
        RawCredential::Login(_) => "login",
        RawCredential::Hmac(_) => "hmac",
    }
}

struct Builder<'b, 'c> {
    context: &'b mut Context<'c>,
    path: String,
    name: &'b str,
    kind: &'static str,
}

/// What every credential has beside source and scheme.
#[derive(Default)]
struct Common<'r> {
    remove: Option<&'r [String]>,
    deny: Option<&'r [String]>,
    upstreams: Option<&'r [String]>,
    refresh: Option<&'r RawRefresh>,
    tls: Option<&'r RawTls>,
}

impl Builder<'_, '_> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn finish(self, source: SourceSpec, scheme: Scheme, common: &Common<'_>) -> CredentialConfig {
        let mut owned = OwnedFields::default();
        // Whatever the scheme, the caller's own login has no business upstream.
        owned.insert(&http::header::AUTHORIZATION);
        for name in scheme.sets() {
            owned.insert(&name);
        }
        let remove = self.at("remove");
        owned.extend(&self.context.field_patterns(&remove, common.remove.unwrap_or_default()));
        let at = self.at("deny");
        let deny: Vec<DenyPattern> =
            self.context.path_patterns(&at, common.deny.unwrap_or_default());
        let at = self.at("upstreams");
        let upstreams: Option<Vec<Origin>> = common.upstreams.map(|urls| {
            let origin = |(index, url): (usize, &String)| {
                self.context.url(&format!("{at}[{index}]"), url).map(|(origin, _)| origin)
            };
            urls.iter().enumerate().filter_map(origin).collect()
        });
        let at = self.at("refresh");
        let refresh = refresh(self.context, &at, common.refresh);
        let at = self.at("tls");
        let tls = common.tls.map_or_else(TlsSettings::default, |tls| self.context.tls(&at, tls));
        CredentialConfig {
            name: self.name.to_owned(),
            kind: self.kind.to_owned(),
            source,
            scheme,
            owned,
            deny,
            upstreams,
            refresh,
            tls,
        }
    }

    fn fields(mut self, raw: &RawFields) -> Option<CredentialConfig> {
        let mut values = self.secrets("values", raw.values.as_ref())?;
        let set = self.set(raw.set.as_ref(), &mut values)?;
        self.names_known(&set, &names(&values))?;
        let source = SourceSpec::Fixed(FixedSpec { values, basic: None });
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            ..Common::default()
        };
        Some(self.finish(source, Scheme::Fields(FieldsScheme { set }), &common))
    }

    fn query(self, raw: &RawQuery) -> Option<CredentialConfig> {
        let hint = "set = { api_key = { env = \"API_KEY\" } }";
        let path = self.at("set");
        let raw_set = raw.set.as_ref().filter(|set| !set.is_empty());
        let raw_set = self.context.require(raw_set, &path, hint)?;
        let mut values = Vec::new();
        let mut set = Vec::new();
        for (index, (name, secret)) in raw_set.iter().enumerate() {
            let path = crate::config::document::join(&path, name);
            let value = format!("value-{index}");
            let Some(reference) = self.context.secret(&path, secret) else {
                continue;
            };
            set.push((name.clone(), Template::value(&value)));
            values.push((value, reference));
        }
        let source = SourceSpec::Fixed(FixedSpec { values, basic: None });
        let common = Common { upstreams: raw.upstreams.as_deref(), ..Common::default() };
        Some(self.finish(source, Scheme::Query(QueryScheme { set }), &common))
    }

    fn bearer(self, raw: &RawBearer) -> Option<CredentialConfig> {
        let path = self.at("token");
        let hint = "token = { env = \"API_TOKEN\" }";
        let token = self.context.require(raw.token.as_ref(), &path, hint)?;
        let token = self.context.secret(&path, token)?;
        let fixed = FixedSpec { values: vec![("token".to_owned(), token)], basic: None };
        let common = Common { upstreams: raw.upstreams.as_deref(), ..Common::default() };
        let scheme = authorization("Bearer {token}");
        Some(self.finish(SourceSpec::Fixed(fixed), scheme, &common))
    }

    fn basic(self, raw: &RawBasic) -> Option<CredentialConfig> {
        let path = self.at("password");
        let hint = "password = { env = \"API_PASSWORD\" }";
        let password = self.context.require(raw.password.as_ref(), &path, hint);
        let password = password.and_then(|password| self.context.secret(&path, password));
        let path = self.at("username");
        let username = self.context.require(raw.username.as_ref(), &path, "username = \"…\"")?;
        if username.contains(':') || username.chars().any(char::is_control) {
            let hint = Some("RFC 7617 has no way to write it");
            self.context.error(&path, "a user name must not hold ':'", hint);
            return None;
        }
        let username = SecretRef::Value(crate::secret::Secret::new(username.as_str()));
        let values = vec![("username".to_owned(), username), ("password".to_owned(), password?)];
        let pair = BasicPair {
            name: "basic".to_owned(),
            username: "username".to_owned(),
            password: "password".to_owned(),
        };
        let source = SourceSpec::Fixed(FixedSpec { values, basic: Some(pair) });
        let common = Common { upstreams: raw.upstreams.as_deref(), ..Common::default() };
        Some(self.finish(source, authorization("Basic {basic}"), &common))
    }

    fn login(mut self, raw: &RawLogin) -> Option<CredentialConfig> {
        let mut secrets = self.secrets("secrets", raw.secrets.as_ref())?;
        let hint = "request = { url = \"https://…\", json = { user = \"…\", password = \
                    \"{password}\" } }";
        let path = self.at("request");
        let request = self.context.require(raw.request.as_ref(), &path, hint);
        let plaintext = raw.allow_plaintext == Some(true);
        let request = request.and_then(|request| self.request(&path, request, plaintext));
        let refresh = self.optional_request("renew", raw.renew.as_ref(), plaintext);
        let logout = self.optional_request("logout", raw.logout.as_ref(), plaintext);
        let reply = self.reply(raw);
        let mut set = self.set(raw.set.as_ref(), &mut secrets)?;
        let (request, reply) = (request?, reply?);
        let (refresh, logout) = (refresh.ok()?, logout.ok()?);

        let secret_names = names(&secrets);
        let reply_names: Vec<&str> = reply.values.iter().map(|(name, _)| name.as_str()).collect();
        let both = [secret_names.clone(), reply_names].concat();
        let path = self.at("request");
        for template in request.templates() {
            self.template_known(&path, template, &secret_names)?;
        }
        for (key, request) in [("renew", &refresh), ("logout", &logout)] {
            let path = self.at(key);
            for template in request.iter().flat_map(RequestSpec::templates) {
                self.template_known(&path, template, &both)?;
            }
        }
        self.names_known(&set, &both)?;
        set.sort_by(|(one, _), (two, _)| one.as_str().cmp(two.as_str()));
        let carried = secret_names
            .iter()
            .filter(|name| set.iter().any(|(_, template)| template.names().any(|n| n == **name)))
            .map(|name| (*name).to_owned())
            .collect();
        let source =
            SourceSpec::Login(LoginSpec { request, refresh, logout, reply, secrets, carried });
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            refresh: raw.refresh.as_ref(),
            tls: raw.tls.as_ref(),
        };
        Some(self.finish(source, Scheme::Fields(FieldsScheme { set }), &common))
    }

    fn hmac(mut self, raw: &RawHmac) -> Option<CredentialConfig> {
        let mut values = self.secrets("values", raw.values.as_ref())?;
        let path = self.at("key");
        let hint = "key = { env = \"API_SECRET\" }";
        let key = self.context.require(raw.key.as_ref(), &path, hint);
        let key = key.and_then(|key| self.context.secret(&path, key));
        let base = self.base(raw.base.as_deref());
        let set = self.set(raw.set.as_ref(), &mut values)?;
        let mut known = names(&values);
        known.extend([SIGNATURE, TIMESTAMP]);
        self.names_known(&set, &known)?;
        if !set.iter().any(|(_, template)| template.names().any(|name| name == SIGNATURE)) {
            let hint = Some("one of the fields has to be \"{signature}\"");
            let path = self.at("set");
            self.context.error(&path, "no field carries the signature", hint);
        }
        let base = base?;
        for (index, part) in base.iter().enumerate() {
            if let Part::Value(name) = part
                && !values.iter().any(|(known, _)| known == name)
            {
                let path = format!("{}[{index}]", self.at("base"));
                self.unknown_name(&path, name, &names(&values));
            }
        }
        // No template can reach this name, so the key never ends up in a field by mistake.
        let key_name = "(key)".to_owned();
        values.push((key_name.clone(), key?));
        let scheme = Scheme::Hmac(HmacScheme {
            algorithm: raw.algorithm.unwrap_or_default(),
            key: key_name,
            key_encoding: raw.key_encoding.unwrap_or_default(),
            base,
            timestamp: raw.timestamp.unwrap_or_default(),
            encoding: raw.encoding.unwrap_or_default(),
            set,
        });
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            ..Common::default()
        };
        Some(self.finish(SourceSpec::Fixed(FixedSpec { values, basic: None }), scheme, &common))
    }

    fn base(&mut self, raw: Option<&[RawPart]>) -> Option<Vec<Part>> {
        let path = self.at("base");
        let hint = "base = [{ value = \"api_key\" }, \"body\", \"timestamp\"]";
        let raw = self.context.require(raw.filter(|raw| !raw.is_empty()), &path, hint)?;
        let mut parts = Vec::with_capacity(raw.len());
        for (index, part) in raw.iter().enumerate() {
            let path = format!("{path}[{index}]");
            parts.extend(self.part(&path, part));
        }
        if parts.iter().filter(|part| part.covers_body()).count() > 1 {
            let hint = Some("use \"body\" or body_hash, once");
            self.context.error(&path, "the content is in the base more than once", hint);
        }
        Some(parts)
    }

    fn part(&mut self, path: &str, raw: &RawPart) -> Option<Part> {
        let with = match raw {
            RawPart::Named(named) => {
                return Some(match named {
                    RawNamedPart::Method => Part::Method,
                    RawNamedPart::Path => Part::Path,
                    RawNamedPart::Query => Part::Query,
                    RawNamedPart::Host => Part::Host,
                    RawNamedPart::Timestamp => Part::Timestamp,
                    RawNamedPart::Body => Part::Body,
                });
            }
            RawPart::With(with) => with,
        };
        let header = match &with.header {
            Some(name) => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    Some(name)
                } else {
                    self.context.error(path, format!("'{name}' is not a field name"), None);
                    return None;
                }
            }
            None => None,
        };
        if with.encoding.is_some() && with.body_hash.is_none() {
            self.context.error(path, "'encoding' belongs to 'body_hash'", None);
        }
        let mut found: Vec<Part> = [
            with.literal.clone().map(Part::Literal),
            with.value.clone().map(Part::Value),
            header.map(Part::Header),
            with.body_hash.map(|algorithm| Part::BodyHash {
                algorithm,
                encoding: with.encoding.unwrap_or_default(),
            }),
        ]
        .into_iter()
        .flatten()
        .collect();
        if found.len() != 1 && !self.context.was_removed(path) {
            let hint = Some("exactly one of literal, value, header and body_hash");
            self.context.error(path, "it does not say which part this is", hint);
            return None;
        }
        found.pop()
    }

    fn secrets(
        &mut self,
        key: &str,
        raw: Option<&BTreeMap<String, RawSecret>>,
    ) -> Option<NamedSecrets> {
        let mut secrets = Vec::new();
        let mut complete = true;
        for (name, secret) in raw.into_iter().flatten() {
            let path = crate::config::document::join(&self.at(key), name);
            if Template::parse(&format!("{{{name}}}")).is_err()
                || name == SIGNATURE
                || name == TIMESTAMP
            {
                let hint = Some("a letter, then letters, digits, '_' or '-'");
                self.context.error(&path, format!("'{name}' cannot be the name of a value"), hint);
                complete = false;
            }
            match self.context.secret(&path, secret) {
                Some(reference) => secrets.push((name.clone(), reference)),
                None => complete = false,
            }
        }
        complete.then_some(secrets)
    }

    /// The fields to set. Secrets that stand there themselves join `values`.
    fn set(
        &mut self,
        raw: Option<&BTreeMap<String, RawValue>>,
        values: &mut NamedSecrets,
    ) -> Option<NamedTemplates> {
        let path = self.at("set");
        let hint = "set = { \"X-Api-Key\" = { env = \"API_KEY\" } }";
        let raw = self.context.require(raw.filter(|raw| !raw.is_empty()), &path, hint)?;
        let mut set: NamedTemplates = Vec::new();
        let mut complete = true;
        for (index, (name, value)) in raw.iter().enumerate() {
            let path = crate::config::document::join(&path, name);
            let Some(field) = self.context.field_name(&path, name) else {
                complete = false;
                continue;
            };
            if set.iter().any(|(known, _)| *known == field) {
                let message = format!("the field '{name}' is set twice; case makes no difference");
                self.context.error(&path, message, None);
            }
            match value {
                RawValue::Template(text) => match Template::parse(text) {
                    Ok(template) => set.push((field, template)),
                    Err(error) => {
                        self.context.error(&path, error, None);
                        complete = false;
                    }
                },
                RawValue::Secret(secret) => match self.context.secret(&path, secret) {
                    Some(reference) => {
                        let value = format!("field-{index}");
                        set.push((field, Template::value(&value)));
                        values.push((value, reference));
                    }
                    None => complete = false,
                },
            }
        }
        complete.then_some(set)
    }

    fn names_known(&mut self, set: &NamedTemplates, known: &[&str]) -> Option<()> {
        let path = self.at("set");
        for (field, template) in set {
            let path = crate::config::document::join(&path, field.as_str());
            self.template_known(&path, template, known)?;
        }
        Some(())
    }

    fn template_known(&mut self, path: &str, template: &Template, known: &[&str]) -> Option<()> {
        match template.names().find(|name| !known.contains(name)) {
            None => Some(()),
            Some(unknown) => {
                self.unknown_name(path, unknown, known);
                None
            }
        }
    }

    fn unknown_name(&mut self, path: &str, name: &str, known: &[&str]) {
        let shown: Vec<&str> =
            known.iter().copied().filter(|name| !name.starts_with("field-")).collect();
        let hint = match nearest(name, &shown) {
            Some(near) => format!("did you mean {{{near}}}?"),
            None if shown.is_empty() => "no values are declared here".to_owned(),
            None => format!("known here: {}", shown.join(", ")),
        };
        self.context.error(path, format!("there is no value '{name}'"), Some(&hint));
    }

    /// A request that may be left out; an error if it is there and wrong, which is then reported.
    fn optional_request(
        &mut self,
        key: &str,
        raw: Option<&RawRequest>,
        plaintext: bool,
    ) -> Result<Option<RequestSpec>, ()> {
        let path = self.at(key);
        raw.map(|raw| self.request(&path, raw, plaintext).ok_or(())).transpose()
    }

    fn request(&mut self, path: &str, raw: &RawRequest, plaintext: bool) -> Option<RequestSpec> {
        let at = format!("{path}.url");
        let hint = "url = \"https://api.example.com/login\"";
        let url = self.context.require(raw.url.as_deref(), &at, hint);
        let url = url.and_then(|url| self.context.url(&at, url));
        if let Some((origin, _)) = &url
            && !origin.is_secure()
            && !origin.is_loopback()
            && !plaintext
        {
            // For a preset the URL is made of the base URL, which is what the user wrote.
            let at = if self.kind == "login" { at } else { self.at("base_url") };
            let hint = Some("use https://, or allow_plaintext = true if the way is safe");
            let message = format!("the login would go to {origin} unencrypted");
            self.context.error(&at, message, hint);
        }
        let method = raw.method.as_deref().unwrap_or("POST");
        let at = format!("{path}.method");
        let method = self.context.parse(&at, Some(method), |method| {
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("'{method}' is not a method"))
        });
        let mut headers = Vec::new();
        for (name, text) in raw.headers.iter().flatten() {
            let path = crate::config::document::join(&format!("{path}.headers"), name);
            let field = self.context.field_name(&path, name)?;
            headers.push((field, self.template(&path, text)?));
        }
        let content = match (&raw.json, &raw.form, &raw.body) {
            (None, None, None) => ContentSpec::Empty,
            (Some(json), None, None) => {
                let path = format!("{path}.json");
                let mut entries = Vec::new();
                for (key, value) in json {
                    entries.push((key.clone(), self.json_template(&path, value)?));
                }
                ContentSpec::Json(JsonTemplate::Object(entries))
            }
            (None, Some(form), None) => {
                let mut pairs = Vec::new();
                for (name, text) in form {
                    pairs.push((name.clone(), self.template(&format!("{path}.form"), text)?));
                }
                ContentSpec::Form(pairs)
            }
            (None, None, Some(text)) => {
                ContentSpec::Text(self.template(&format!("{path}.body"), text)?)
            }
            _ => {
                let hint = Some("one of json, form and body");
                self.context.error(path, "the request has more than one content", hint);
                return None;
            }
        };
        Some(RequestSpec { method: method?, url: url?.1, headers, content })
    }

    fn template(&mut self, path: &str, text: &str) -> Option<Template> {
        match Template::parse(text) {
            Ok(template) => Some(template),
            Err(error) => {
                self.context.error(path, error, None);
                None
            }
        }
    }

    fn json_template(&mut self, path: &str, value: &Value) -> Option<JsonTemplate> {
        Some(match value {
            Value::String(text) => JsonTemplate::Text(self.template(path, text)?),
            Value::Array(items) => JsonTemplate::List(
                items
                    .iter()
                    .map(|item| self.json_template(path, item))
                    .collect::<Option<Vec<_>>>()?,
            ),
            Value::Object(object) => {
                let mut entries = Vec::new();
                for (key, value) in object {
                    entries.push((key.clone(), self.json_template(path, value)?));
                }
                JsonTemplate::Object(entries)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                JsonTemplate::Constant(value.clone())
            }
        })
    }

    fn reply(&mut self, raw: &RawLogin) -> Option<ReplySpec> {
        let path = self.at("values");
        let hint = "values = { token = \"/access_token\" }";
        let raw_values = raw.values.as_ref().filter(|values| !values.is_empty());
        let raw_values = self.context.require(raw_values, &path, hint)?;
        let mut values = Vec::new();
        for (name, pointer) in raw_values {
            let path = crate::config::document::join(&path, name);
            self.pointer(&path, pointer)?;
            values.push((name.clone(), pointer.clone()));
        }
        let path = self.at("success");
        let mut success = Vec::new();
        for (index, condition) in raw.success.iter().flatten().enumerate() {
            let path = format!("{path}[{index}]");
            success.extend(self.condition(&path, condition));
        }
        let path = self.at("expires");
        let expires = match &raw.expires {
            Some(expires) => Some(self.expires(&path, expires)?),
            None => None,
        };
        let path = self.at("lifetime");
        let lifetime = self.context.parse(&path, raw.lifetime.as_deref(), units::duration);
        if expires.is_none() && raw.lifetime.is_none() {
            self.context.warning(
                &self.path,
                "neither 'expires' nor 'lifetime' is set, so the token is never renewed in time",
                "expires = { in_s = \"/expires_in\" } or lifetime = \"1h\"",
            );
        }
        Some(ReplySpec { success, values, expires, lifetime })
    }

    fn condition(&mut self, path: &str, raw: &RawCondition) -> Option<Condition> {
        let hint = "pointer = \"/success\"";
        let at = format!("{path}.pointer");
        let pointer = self.context.require(raw.pointer.clone(), &at, hint)?;
        self.pointer(&at, &pointer)?;
        let mut tests: Vec<Test> = [
            raw.equals.clone().map(Test::Equals),
            raw.not.clone().map(Test::Not),
            (raw.empty == Some(true)).then_some(Test::Empty),
        ]
        .into_iter()
        .flatten()
        .collect();
        if tests.len() != 1 {
            let hint = Some("exactly one of equals, not and empty = true");
            self.context.error(path, "it does not say what to test", hint);
            return None;
        }
        Some(Condition { pointer, test: tests.pop()? })
    }

    fn expires(&mut self, path: &str, raw: &RawExpires) -> Option<Expires> {
        let mut found: Vec<(&str, Expires)> = [
            ("at_ms", raw.at_ms.clone().map(Expires::AtMs)),
            ("at_s", raw.at_s.clone().map(Expires::AtS)),
            ("in_s", raw.in_s.clone().map(Expires::InS)),
            ("rfc3339", raw.rfc3339.clone().map(Expires::Rfc3339)),
            ("jwt", raw.jwt.clone().map(Expires::Jwt)),
        ]
        .into_iter()
        .filter_map(|(key, expires)| Some((key, expires?)))
        .collect();
        if found.len() != 1 {
            let hint = Some("exactly one of at_ms, at_s, in_s, rfc3339 and jwt");
            self.context.error(path, "it does not say where the end of life is", hint);
            return None;
        }
        let (key, expires) = found.pop()?;
        self.pointer(&format!("{path}.{key}"), expires.pointer())?;
        Some(expires)
    }

    /// RFC 6901: empty, or every token after a slash.
    fn pointer(&mut self, path: &str, pointer: &str) -> Option<()> {
        if pointer.starts_with('/') {
            return Some(());
        }
        let hint = format!("write \"/{pointer}\"");
        self.context.error(path, format!("\"{pointer}\" is not a JSON pointer"), Some(&hint));
        None
    }
}

fn authorization(template: &str) -> Scheme {
    let template = Template::parse(template).unwrap_or_else(|_| Template::literal(""));
    Scheme::Fields(FieldsScheme { set: vec![(http::header::AUTHORIZATION, template)] })
}

fn names(secrets: &NamedSecrets) -> Vec<&str> {
    secrets.iter().map(|(name, _)| name.as_str()).collect()
}

fn refresh(context: &mut Context<'_>, path: &str, raw: Option<&RawRefresh>) -> RefreshPolicy {
    let default = RefreshPolicy::default();
    let Some(raw) = raw else { return default };
    let at = |key: &str| format!("{path}.{key}");
    RefreshPolicy {
        margin: context.parse(&at("margin"), raw.margin.as_deref(), units::span),
        jitter: context.parse(&at("jitter"), raw.jitter.as_deref(), units::span),
        eager: raw.eager.unwrap_or(default.eager),
        timeout: context.duration(&at("timeout"), raw.timeout.as_deref(), default.timeout),
        min_interval: context.duration(
            &at("min_interval"),
            raw.min_interval.as_deref(),
            default.min_interval,
        ),
        wait: context.duration(&at("wait"), raw.wait.as_deref(), default.wait),
    }
}
