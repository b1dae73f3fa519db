//! The `login` kind: requests, the reply, and what uses its values.

use std::collections::BTreeSet;

use http::{Method, Uri};
use serde_json::Value;

use super::credential::{Builder, Common, names};
use crate::config::document::join;
use crate::config::raw::{RawCondition, RawExpires, RawLogin, RawRequest};
use crate::config::{CredentialConfig, SourceSpec, units};
use crate::credential::devices::{Column, Form};
use crate::credential::login::{ContentSpec, JsonTemplate, LoginSpec, RequestSpec};
use crate::credential::reply::{Condition, Expires, ReplySpec, Test};
use crate::sign::Scheme;
use crate::sign::fields::FieldsScheme;
use crate::template::Template;

impl Builder<'_, '_> {
    pub(super) fn login(mut self, raw: &RawLogin) -> CredentialConfig {
        let mut secrets = self.secrets("secrets", raw.secrets.as_ref());
        let hint = "request = { url = \"https://…\", json = { user = \"…\", password = \
                    \"{password}\" } }";
        let path = self.at("request");
        let request = self.context.require(raw.request.as_ref(), &path, hint);
        let plaintext = raw.allow_plaintext == Some(true);
        let mut request_at = |key: &str, raw: Option<&RawRequest>| {
            let path = self.at(key);
            raw.map(|raw| self.request(&path, raw, plaintext))
        };
        let request = request_at("request", request);
        let refresh = request_at("renew", raw.renew.as_ref());
        let logout = request_at("logout", raw.logout.as_ref());
        let reply = self.reply(raw);
        let mut set = self.set(raw.set.as_ref(), &mut secrets);

        let secret_names = names(&secrets);
        let reply_names: Vec<&str> = reply.values.iter().map(|(name, _)| name.as_str()).collect();
        // What was misshapen is a name all the same.
        let misshapen = self.context.removed_below(&self.at("values"));
        let misshapen: Vec<&str> = misshapen.iter().map(String::as_str).collect();
        let mut columns = Vec::new();
        if raw.devices.is_some() {
            let requests = [&request, &refresh, &logout].into_iter().flatten();
            let templates = requests.flat_map(RequestSpec::templates).map(|(_, template)| template);
            let templates = templates.chain(set.iter().map(|(_, template)| template));
            let known = [secret_names.clone(), reply_names.clone(), misshapen.clone()].concat();
            self.add_columns(templates.flat_map(Template::names), &known, &mut columns);
            // What a device has takes the place of what the reply says.
            columns.extend(reply_names.iter().map(|name| self.column(name)).filter_map(|column| {
                let own = self.kind() != "twinzo-device" || column.form == Form::Guid;
                own.then_some(Column { required: false, ..column })
            }));
        }
        let of_devices = columns.iter().filter(|column| column.required);
        let of_devices: Vec<&str> = of_devices.map(|column| column.name.as_str()).collect();
        let secret_names = [secret_names, of_devices].concat();
        let both = [secret_names.clone(), reply_names, misshapen].concat();
        let requests = [
            ("request", &request, &secret_names),
            ("renew", &refresh, &both),
            ("logout", &logout, &both),
        ];
        for (key, request, known) in requests {
            for (place, template) in request.iter().flat_map(RequestSpec::templates) {
                self.template_known(&format!("{}.{place}", self.at(key)), template, known);
            }
        }
        self.names_known(raw.set.as_ref(), &set, &both);
        set.sort_by(|(one, _), (two, _)| one.as_str().cmp(two.as_str()));
        let carried = secret_names
            .iter()
            .filter(|name| set.iter().any(|(_, template)| template.names().any(|n| n == **name)))
            .map(|name| (*name).to_owned())
            .collect();
        let is_sent =
            |name: &str| set.iter().any(|(_, template)| template.names().any(|n| n == name));
        let renewing = refresh.iter().flat_map(RequestSpec::templates);
        let renewal_values: BTreeSet<String> = renewing
            .flat_map(|(_, template)| template.names())
            .filter(|name| reply.values.iter().any(|(known, _)| known == name) && !is_sent(name))
            .map(str::to_owned)
            .collect();
        let request = request.unwrap_or_default();
        let source = SourceSpec::Login(LoginSpec {
            request,
            refresh,
            logout,
            reply,
            secrets,
            carried,
            renewal_values: renewal_values.into_iter().collect(),
        });
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            refresh: raw.refresh.as_ref(),
            tls: raw.tls.as_ref(),
            devices: raw.devices.as_deref().map(|file| (file, columns)),
        };
        self.finish(source, Scheme::Fields(FieldsScheme { set }), &common)
    }

    fn request(&mut self, path: &str, raw: &RawRequest, plaintext: bool) -> RequestSpec {
        let at = format!("{path}.url");
        let hint = "url = \"https://api.example.com/login\"";
        let url = self.context.require(raw.url.as_deref(), &at, hint);
        let url = url.and_then(|url| self.token_url(&at, url, plaintext));
        let method = raw.method.as_deref().unwrap_or("POST");
        let at = format!("{path}.method");
        let method = self.context.parse(&at, Some(method), |method| {
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("'{method}' is not a method"))
        });
        let mut headers = Vec::new();
        for (name, text) in raw.headers.iter().flatten() {
            let path = join(&format!("{path}.headers"), name);
            let field = self.context.field_name(&path, name);
            let template = self.template(&path, text);
            headers.extend(field.zip(template));
        }
        let content = match (&raw.json, &raw.form, &raw.body) {
            (None, None, None) => ContentSpec::Empty,
            (Some(json), None, None) => {
                ContentSpec::Json(self.json_object(&format!("{path}.json"), json))
            }
            (None, Some(form), None) => {
                let mut pairs = Vec::new();
                for (name, text) in form {
                    let template = self.template(&join(&format!("{path}.form"), name), text);
                    pairs.extend(template.map(|template| (name.clone(), template)));
                }
                ContentSpec::Form(pairs)
            }
            (None, None, Some(text)) => self
                .template(&format!("{path}.body"), text)
                .map_or(ContentSpec::Empty, ContentSpec::Text),
            _ => {
                let hint = Some("one of json, form and body");
                self.context.error(path, "the request has more than one content", hint);
                ContentSpec::Empty
            }
        };
        let url = url.unwrap_or_default();
        RequestSpec { method: method.unwrap_or_default(), url, headers, content }
    }

    /// A URL to which a login may be sent.
    pub(super) fn token_url(&mut self, path: &str, url: &str, plaintext: bool) -> Option<Uri> {
        let (origin, url) = self.context.url(path, url)?;
        if !origin.is_secure() && !origin.is_loopback() && !plaintext {
            let hint = Some("use https://, or allow_plaintext = true if the way is safe");
            let message = format!("the login would go to {origin} unencrypted");
            self.context.error(path, message, hint);
        }
        Some(url)
    }

    fn json_object<'v>(
        &mut self,
        path: &str,
        object: impl IntoIterator<Item = (&'v String, &'v Value)>,
    ) -> JsonTemplate {
        let entries = object
            .into_iter()
            .map(|(key, value)| (key.clone(), self.json_template(&join(path, key), value)));
        JsonTemplate::Object(entries.collect())
    }

    fn json_template(&mut self, path: &str, value: &Value) -> JsonTemplate {
        match value {
            Value::String(text) => match self.template(path, text) {
                Some(template) => JsonTemplate::Text(template),
                None => JsonTemplate::Constant(Value::Null),
            },
            Value::Array(items) => JsonTemplate::List(
                items.iter().map(|item| self.json_template(path, item)).collect(),
            ),
            Value::Object(object) => self.json_object(path, object),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                JsonTemplate::Constant(value.clone())
            }
        }
    }

    fn reply(&mut self, raw: &RawLogin) -> ReplySpec {
        let path = self.at("values");
        let hint = "values = { token = \"/access_token\" }";
        let raw_values = raw.values.as_ref().filter(|values| !values.is_empty());
        let raw_values = self.context.require(raw_values, &path, hint);
        let mut values = Vec::new();
        for (name, pointer) in raw_values.into_iter().flatten() {
            self.pointer(&join(&path, name), pointer);
            values.push((name.clone(), pointer.clone()));
        }
        let path = self.at("success");
        let mut success = Vec::new();
        for (index, condition) in raw.success.iter().flatten().enumerate() {
            let path = format!("{path}[{index}]");
            success.extend(self.condition(&path, condition));
        }
        let path = self.at("expires");
        let expires = raw.expires.as_ref().and_then(|expires| self.expires(&path, expires));
        let path = self.at("lifetime");
        let lifetime = self.context.parse(&path, raw.lifetime.as_deref(), units::duration);
        let unknown = raw.expires.is_none() && raw.lifetime.is_none();
        let path = self.path.clone();
        if unknown && !self.context.was_removed_below(&path) {
            self.context.warning(
                &path,
                "neither 'expires' nor 'lifetime' is set, so the token is never renewed in time",
                "expires = { in_s = \"/expires_in\" } or lifetime = \"1h\"",
            );
        }
        ReplySpec { success, values, expires, lifetime }
    }

    fn condition(&mut self, path: &str, raw: &RawCondition) -> Option<Condition> {
        let hint = "pointer = \"/success\"";
        let at = format!("{path}.pointer");
        let pointer = self.context.require(raw.pointer.clone(), &at, hint)?;
        self.pointer(&at, &pointer);
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
            if self.context.was_removed_below(path) {
                return None;
            }
            let hint = Some("exactly one of at_ms, at_s, in_s, rfc3339 and jwt");
            self.context.error(path, "it does not say where the end of life is", hint);
            return None;
        }
        let (key, expires) = found.pop()?;
        self.pointer(&format!("{path}.{key}"), expires.pointer());
        Some(expires)
    }

    /// RFC 6901: every token after a slash. The whole document is no value.
    fn pointer(&mut self, path: &str, pointer: &str) {
        if !pointer.starts_with('/') {
            let hint = Some("it begins with '/', such as \"/access_token\"");
            self.context.error(path, "this is not a JSON pointer", hint);
        }
    }
}
