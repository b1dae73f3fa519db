//! Credentials: presets expanded, templates parsed, values and their users matched.

use std::collections::BTreeMap;

use http::HeaderName;
use serde_json::{Map, Value};

use crate::config::context::Context;
use crate::config::document::join;
use crate::config::raw::{
    RawBasic, RawBearer, RawCredential, RawFields, RawQuery, RawRefresh, RawSecret, RawTls,
    RawValue,
};
use crate::config::shape::nearest;
use crate::config::{CredentialConfig, DenyPattern, Origin, SourceSpec, preset, units};
use crate::credential::devices::{Column, DevicesSpec, Fleet, Form};
use crate::credential::fixed::{BasicPair, FixedSpec};
use crate::credential::schedule::RefreshPolicy;
use crate::credential::secret_ref::SecretRef;
use crate::credential::store::Definition;
use crate::sign::fields::FieldsScheme;
use crate::sign::hmac::{SIGNATURE, TIMESTAMP};
use crate::sign::owned::OwnedFields;
use crate::sign::query::QueryScheme;
use crate::sign::{Scheme, sensitive_value};
use crate::template::Template;
use crate::tls::TlsSettings;

pub(super) type NamedSecrets = Vec<(String, SecretRef)>;
pub(super) type NamedTemplates = Vec<(HeaderName, Template)>;

/// Stands for a secret whose reference is missing or wrong. That was reported, so nothing ever runs
/// with it; going on with it finds the other problems as well.
pub(super) fn placeholder() -> SecretRef {
    SecretRef::Env(String::new())
}

/// The credential in terms of the generic kinds, and compiled.
pub(super) fn credential(
    context: &mut Context<'_>,
    name: &str,
    raw: &RawCredential,
) -> (RawCredential, Option<CredentialConfig>) {
    let path = join("credential", name);
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.') {
        let hint = Some("letters, digits, '_', '-' and '.'");
        context.error(&path, format!("'{name}' cannot be the name of a credential"), hint);
    }
    let generic = preset::expand(context, &path, raw);
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
        RawCredential::Oauth2(oauth) => builder.oauth(oauth),
        RawCredential::Login(login) => builder.login(login),
        RawCredential::Hmac(hmac) => builder.hmac(hmac),
        RawCredential::TwinzoDevice(_)
        | RawCredential::TwinzoApiKey(_)
        | RawCredential::DevoToken(_)
        | RawCredential::DevoSignature(_) => return (generic, None),
    };
    let definition = definition(compiled.kind.as_str(), &generic);
    (generic, Some(CredentialConfig { definition, ..compiled }))
}

/// What identifies the credential's tokens: everything it says but when they are renewed. What it
/// does not say is left out, so that a later version with more keys comes to the same.
fn definition(kind: &str, generic: &RawCredential) -> Definition {
    fn said(value: Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Object(all) => {
                let all = all.into_iter().filter_map(|(key, value)| Some((key, said(value)?)));
                Some(Value::Object(all.collect())).filter(|all| *all != Value::Object(Map::new()))
            }
            Value::Array(all) => Some(all.into_iter().filter_map(said).collect()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value),
        }
    }
    let mut value = serde_json::to_value(generic).unwrap_or_default();
    if let Some(all) = value.as_object_mut() {
        all.remove("refresh");
    }
    let text = said(value).map(|value| value.to_string()).unwrap_or_default();
    Definition::of(format!("{kind}\n{text}").as_bytes())
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
        RawCredential::Oauth2(_) => "oauth2",
        RawCredential::Login(_) => "login",
        RawCredential::Hmac(_) => "hmac",
    }
}

/// A credential being compiled.
pub(super) struct Builder<'b, 'c> {
    pub(super) context: &'b mut Context<'c>,
    pub(super) path: String,
    name: &'b str,
    kind: &'static str,
}

/// What every credential has beside source and scheme.
#[derive(Default)]
pub(super) struct Common<'r> {
    pub(super) remove: Option<&'r [String]>,
    pub(super) deny: Option<&'r [String]>,
    pub(super) upstreams: Option<&'r [String]>,
    pub(super) refresh: Option<&'r RawRefresh>,
    pub(super) tls: Option<&'r RawTls>,
    /// The file of devices, and what differs between them.
    pub(super) devices: Option<(&'r str, Vec<Column>)>,
}

impl Builder<'_, '_> {
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    pub(super) fn finish(
        mut self,
        source: SourceSpec,
        scheme: Scheme,
        common: &Common<'_>,
    ) -> CredentialConfig {
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
        // With an origin missing from the list, nothing can be said about what is not in it.
        let upstreams =
            upstreams.filter(|known| common.upstreams.is_none_or(|urls| known.len() == urls.len()));
        let at = self.at("refresh");
        let refresh = refresh(self.context, &at, common.refresh, common.devices.is_some());
        let at = self.at("refresh");
        let fleet = fleet(self.context, &at, common.refresh, common.devices.is_some());
        let devices =
            common.devices.as_ref().map(|(file, columns)| self.devices(file, columns, fleet));
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
            definition: Definition::default(),
            devices,
        }
    }

    fn devices(&mut self, file: &str, columns: &[Column], fleet: Fleet) -> DevicesSpec {
        let at = self.at("devices");
        if file.is_empty() {
            self.context.error(&at, "'devices' needs a path", Some("devices = \"devices.csv\""));
        }
        if !columns.iter().any(|column| column.required) {
            let hint = Some("leave out of the configuration what is different for each device");
            self.context.error(&at, "nothing differs from device to device", hint);
        }
        DevicesSpec { file: file.into(), columns: columns.to_vec(), fleet }
    }

    /// A column that every device needs a cell of.
    pub(super) fn column(&self, name: &str) -> Column {
        let form = match (self.kind, name) {
            ("twinzo-device", "login")
            | ("oauth2", "client_id" | "username" | "scope" | "audience") => Form::Text,
            ("twinzo-device", "client_guid" | "branch_guid") => Form::Guid,
            ("basic", "username") => Form::User,
            _ => Form::Secret,
        };
        Column { name: name.to_owned(), value: name.to_owned(), form, required: true }
    }

    fn fields(mut self, raw: &RawFields) -> CredentialConfig {
        let mut values = self.secrets("values", raw.values.as_ref());
        let set = self.set(raw.set.as_ref(), &mut values);
        self.names_known(raw.set.as_ref(), &set, &names(&values));
        let source = SourceSpec::Fixed(FixedSpec { values, basic: None });
        let common = Common {
            remove: raw.remove.as_deref(),
            deny: raw.deny.as_deref(),
            upstreams: raw.upstreams.as_deref(),
            ..Common::default()
        };
        self.finish(source, Scheme::Fields(FieldsScheme { set }), &common)
    }

    fn query(self, raw: &RawQuery) -> CredentialConfig {
        let hint = "set = { api_key = { env = \"API_KEY\" } }";
        let path = self.at("set");
        let raw_set = raw.set.as_ref().filter(|set| !set.is_empty());
        let raw_set = self.context.require(raw_set, &path, hint);
        let mut values = Vec::new();
        let mut set = Vec::new();
        for (index, (name, secret)) in raw_set.into_iter().flatten().enumerate() {
            let path = join(&path, name);
            if name.is_empty() {
                self.context.error(&path, "a query parameter needs a name", None);
            }
            let value = format!("value-{index}");
            let reference = self.context.secret(&path, secret).unwrap_or_else(placeholder);
            set.push((name.clone(), Template::value(&value)));
            values.push((value, reference));
        }
        let source = SourceSpec::Fixed(FixedSpec { values, basic: None });
        let common = Common { upstreams: raw.upstreams.as_deref(), ..Common::default() };
        self.finish(source, Scheme::Query(QueryScheme { set }), &common)
    }

    fn bearer(mut self, raw: &RawBearer) -> CredentialConfig {
        let path = self.at("token");
        let hint = "token = { env = \"API_TOKEN\" }";
        let mut columns = Vec::new();
        let mut values = Vec::new();
        if raw.token.is_none() && raw.devices.is_some() {
            columns.push(self.column("token"));
        } else {
            values
                .push(("token".to_owned(), self.required_secret(raw.token.as_ref(), &path, hint)));
        }
        let common = Common {
            upstreams: raw.upstreams.as_deref(),
            devices: raw.devices.as_deref().map(|file| (file, columns)),
            ..Common::default()
        };
        let source = SourceSpec::Fixed(FixedSpec { values, basic: None });
        self.finish(source, authorization("Bearer {token}"), &common)
    }

    fn basic(mut self, raw: &RawBasic) -> CredentialConfig {
        let many = raw.devices.is_some();
        let mut columns = Vec::new();
        let mut values = Vec::new();
        let path = self.at("password");
        let hint = "password = { env = \"API_PASSWORD\" }";
        if raw.password.is_none() && many {
            columns.push(self.column("password"));
        } else {
            let password = self.required_secret(raw.password.as_ref(), &path, hint);
            values.push(("password".to_owned(), password));
        }
        let path = self.at("username");
        if raw.username.is_none() && many {
            columns.push(self.column("username"));
        } else {
            let username = self.context.require(raw.username.as_ref(), &path, "username = \"…\"");
            let username = username.map(String::as_str).unwrap_or_default();
            if username.contains(':') || username.chars().any(char::is_control) {
                let hint = Some("RFC 7617 has no way to write it");
                self.context.error(&path, "a user name must not hold ':'", hint);
            }
            let username = SecretRef::Value(crate::secret::Secret::new(username));
            values.push(("username".to_owned(), username));
        }
        let pair = BasicPair {
            name: "basic".to_owned(),
            username: "username".to_owned(),
            password: "password".to_owned(),
        };
        let source = SourceSpec::Fixed(FixedSpec { values, basic: Some(pair) });
        let common = Common {
            upstreams: raw.upstreams.as_deref(),
            devices: raw.devices.as_deref().map(|file| (file, columns)),
            ..Common::default()
        };
        self.finish(source, authorization("Basic {basic}"), &common)
    }

    /// A column for each of `names` that is not `known` otherwise.
    pub(super) fn add_columns<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        known: &[&str],
        columns: &mut Vec<Column>,
    ) {
        for name in names {
            if !known.contains(&name) && !columns.iter().any(|column| column.name == name) {
                columns.push(self.column(name));
            }
        }
    }

    /// A secret that has to be there.
    pub(super) fn required_secret(
        &mut self,
        raw: Option<&RawSecret>,
        path: &str,
        hint: &str,
    ) -> SecretRef {
        let raw = self.context.require(raw, path, hint);
        raw.and_then(|raw| self.context.secret(path, raw)).unwrap_or_else(placeholder)
    }

    pub(super) fn secrets(
        &mut self,
        key: &str,
        raw: Option<&BTreeMap<String, RawSecret>>,
    ) -> NamedSecrets {
        let mut secrets = Vec::new();
        for (name, secret) in raw.into_iter().flatten() {
            let path = join(&self.at(key), name);
            if Template::parse(&format!("{{{name}}}")).is_err()
                || name == SIGNATURE
                || name == TIMESTAMP
            {
                let hint = Some("a letter, then letters, digits, '_' or '-'");
                self.context.error(&path, format!("'{name}' cannot be the name of a value"), hint);
            }
            let reference = self.context.secret(&path, secret).unwrap_or_else(placeholder);
            secrets.push((name.clone(), reference));
        }
        // What was misshapen is a name all the same.
        for name in self.context.removed_below(&self.at(key)) {
            secrets.push((name, placeholder()));
        }
        secrets
    }

    /// The fields to set. Secrets that stand there themselves join `values`.
    pub(super) fn set(
        &mut self,
        raw: Option<&BTreeMap<String, RawValue>>,
        values: &mut NamedSecrets,
    ) -> NamedTemplates {
        let path = self.at("set");
        let hint = "set = { \"X-Api-Key\" = { env = \"API_KEY\" } }";
        let raw = self.context.require(raw.filter(|raw| !raw.is_empty()), &path, hint);
        let mut set: NamedTemplates = Vec::new();
        for (index, (name, value)) in raw.into_iter().flatten().enumerate() {
            let path = join(&path, name);
            let Some(field) = self.context.field_name(&path, name) else { continue };
            if set.iter().any(|(known, _)| *known == field) {
                let message = format!("the field '{name}' is set twice; case makes no difference");
                self.context.error(&path, message, None);
            }
            match value {
                RawValue::Template(text) => {
                    let Some(template) = self.template(&path, text) else { continue };
                    // The places may hold anything that a field can; what is written must, too.
                    let written = template.render(|_| Some("x"));
                    if written.is_ok_and(|text| sensitive_value(&text).is_none()) {
                        let message = "this has a character that a field cannot hold";
                        self.context.error(&path, message, None);
                    }
                    set.push((field, template));
                }
                RawValue::Secret(secret) => {
                    let reference = self.context.secret(&path, secret).unwrap_or_else(placeholder);
                    let value = format!("field-{index}");
                    set.push((field, Template::value(&value)));
                    values.push((value, reference));
                }
            }
        }
        set
    }

    /// Every template of `set` needs only names that are known.
    pub(super) fn names_known(
        &mut self,
        raw: Option<&BTreeMap<String, RawValue>>,
        set: &NamedTemplates,
        known: &[&str],
    ) {
        for (field, template) in set {
            let mut written = raw.into_iter().flat_map(BTreeMap::keys);
            let written = written.find(|name| name.eq_ignore_ascii_case(field.as_str()));
            let path = join(&self.at("set"), written.map_or(field.as_str(), String::as_str));
            self.template_known(&path, template, known);
        }
    }

    pub(super) fn template_known(&mut self, path: &str, template: &Template, known: &[&str]) {
        for name in template.names() {
            if !known.contains(&name) {
                self.unknown_name(path, name, known);
            }
        }
    }

    pub(super) fn unknown_name(&mut self, path: &str, name: &str, known: &[&str]) {
        let shown: Vec<&str> =
            known.iter().copied().filter(|name| !name.starts_with("field-")).collect();
        let hint = match nearest(name, &shown) {
            Some(near) => format!("did you mean {{{near}}}?"),
            None if shown.is_empty() => "no values are declared here".to_owned(),
            None => format!("known here: {}", shown.join(", ")),
        };
        self.context.error(path, format!("there is no value '{name}'"), Some(&hint));
    }

    pub(super) fn template(&mut self, path: &str, text: &str) -> Option<Template> {
        match Template::parse(text) {
            Ok(template) => Some(template),
            Err(error) => {
                self.context.error(path, error, None);
                None
            }
        }
    }
}

fn authorization(template: &str) -> Scheme {
    let template = Template::parse(template).unwrap_or_else(|_| Template::literal(""));
    Scheme::Fields(FieldsScheme { set: vec![(http::header::AUTHORIZATION, template)] })
}

pub(super) fn names(secrets: &NamedSecrets) -> Vec<&str> {
    secrets.iter().map(|(name, _)| name.as_str()).collect()
}

fn refresh(
    context: &mut Context<'_>,
    path: &str,
    raw: Option<&RawRefresh>,
    devices: bool,
) -> RefreshPolicy {
    let default = RefreshPolicy::default();
    // Devices are many, and not all of them come.
    let default = RefreshPolicy { eager: default.eager && !devices, ..default };
    let Some(raw) = raw else { return default };
    let at = |key: &str| format!("{path}.{key}");
    if devices && raw.eager == Some(true) {
        let hint = Some("leave it out: a device is fetched when its first request comes");
        context.error(&at("eager"), "devices are not fetched at start", hint);
    }
    RefreshPolicy {
        margin: context.parse(&at("margin"), raw.margin.as_deref(), units::span),
        jitter: context.parse(&at("jitter"), raw.jitter.as_deref(), units::span),
        eager: raw.eager.unwrap_or(default.eager) && !devices,
        timeout: context.duration(&at("timeout"), raw.timeout.as_deref(), default.timeout),
        min_interval: context.duration(
            &at("min_interval"),
            raw.min_interval.as_deref(),
            default.min_interval,
        ),
        wait: context.duration(&at("wait"), raw.wait.as_deref(), default.wait),
    }
}

fn fleet(context: &mut Context<'_>, path: &str, raw: Option<&RawRefresh>, devices: bool) -> Fleet {
    let default = Fleet::default();
    let Some(raw) = raw else { return default };
    let at = |key: &str| format!("{path}.{key}");
    let given = [
        ("max_concurrent_logins", raw.max_concurrent_logins.is_some()),
        ("max_logins_per_second", raw.max_logins_per_second.is_some()),
        ("idle_after", raw.idle_after.is_some()),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given && !devices) {
        let hint = "leave it out, or set 'devices'";
        context.warning(&at(key), "this is for credentials with devices", hint);
    }
    let count = |given: Option<u64>| given.and_then(|count| usize::try_from(count).ok());
    let rate = raw.max_logins_per_second.and_then(|rate| u32::try_from(rate).ok());
    Fleet {
        max_concurrent_logins: count(raw.max_concurrent_logins)
            .unwrap_or(default.max_concurrent_logins),
        max_logins_per_second: rate.map_or(default.max_logins_per_second, f64::from),
        idle_after: context.duration(
            &at("idle_after"),
            raw.idle_after.as_deref(),
            default.idle_after,
        ),
    }
}
