//! The `login` kind: requests, the reply, and what uses its values.

use http::Method;
use serde_json::Value;

use super::credential::{Builder, Common, names};
use crate::config::document::join;
use crate::config::raw::{RawCondition, RawExpires, RawLogin, RawRequest};
use crate::config::{CredentialConfig, SourceSpec, units};
use crate::credential::login::{ContentSpec, JsonTemplate, LoginSpec, RequestSpec};
use crate::credential::reply::{Condition, Expires, ReplySpec, Test};
use crate::sign::Scheme;
use crate::sign::fields::FieldsScheme;

impl Builder<'_, '_> {
    pub(super) fn login(mut self, raw: &RawLogin) -> Option<CredentialConfig> {
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
            let path = join(&format!("{path}.headers"), name);
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
            let path = join(&path, name);
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
