//! What compiling and presets share: where problems go, and how common values are read.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use http::{HeaderName, Uri};

use super::document::Node;
use super::problem::Problem;
use super::raw::{RawSecret, RawSize, RawTls};
use super::{DenyPattern, Origin, units};
use crate::credential::secret_ref::SecretRef;
use crate::secret::Secret;
use crate::sign::owned::OwnedFields;
use crate::tls::TlsSettings;

/// Fields that belong to the connection, which countersign looks after.
const CONNECTION: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where problems go, and what is needed to place them.
pub(super) struct Context<'c> {
    pub(super) document: &'c Node,
    pub(super) removed: &'c BTreeSet<String>,
    pub(super) problems: &'c mut Vec<Problem>,
    /// Paths that a preset made up, and the paths that the user wrote instead.
    pub(super) written_as: Vec<(String, String)>,
}

impl Context<'_> {
    /// Reports an error at `path`.
    pub(super) fn error(&mut self, path: &str, message: impl Display, hint: Option<&str>) {
        let path = self.as_written(path);
        let mut problem = Problem::error(&path, self.document.locate(&path), message.to_string());
        problem.hint = hint.map(str::to_owned);
        // Presets make several values of one that the user wrote.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Reports a warning at `path`.
    pub(super) fn warning(&mut self, path: &str, message: impl Display, hint: &str) {
        let path = self.as_written(path);
        let span = self.document.locate(&path);
        self.problems.push(Problem::warning(&path, span, message.to_string()).hint(hint));
    }

    /// True if part of the text is not TOML: what is missing may stand there.
    pub(super) fn unread(&self) -> bool {
        self.problems.iter().any(|problem| problem.syntax)
    }

    fn as_written(&self, path: &str) -> String {
        let made_up_by = |made_up: &str| {
            path.strip_prefix(made_up)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let written = self.written_as.iter().find(|(made_up, _)| made_up_by(made_up));
        written.map_or(path, |(_, written)| written).to_owned()
    }

    /// Reports a missing key, unless it is there and was reported as misshapen.
    pub(super) fn missing(&mut self, path: &str, hint: &str) {
        if !self.was_removed_below(path) {
            let key = path.rsplit('.').next().unwrap_or(path);
            self.error(path, format!("'{key}' is missing"), Some(hint));
        }
    }

    /// True if `path`, or something above it, was reported as misshapen.
    pub(super) fn was_removed(&self, path: &str) -> bool {
        self.removed.iter().any(|removed| {
            path == removed
                || path.strip_prefix(removed.as_str()).is_some_and(|rest| {
                    !removed.is_empty() && (rest.starts_with('.') || rest.starts_with('['))
                })
        })
    }

    /// True if something at or below `path` was reported as misshapen.
    pub(super) fn was_removed_below(&self, path: &str) -> bool {
        let path = &*self.as_written(path);
        let below = |removed: &String| {
            removed
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.was_removed(path) || self.removed.iter().any(below)
    }

    /// The keys right below `path` that were reported as misshapen.
    pub(super) fn removed_below(&self, path: &str) -> Vec<String> {
        let key = |removed: &String| {
            let rest = removed.strip_prefix(path)?.strip_prefix('.')?;
            (!rest.contains(['.', '['])).then(|| rest.trim_matches('"').to_owned())
        };
        self.removed.iter().filter_map(key).collect()
    }

    /// The value, or `None` and a problem.
    pub(super) fn require<T>(&mut self, value: Option<T>, path: &str, hint: &str) -> Option<T> {
        if value.is_none() {
            self.missing(path, hint);
        }
        value
    }

    pub(super) fn duration(
        &mut self,
        path: &str,
        text: Option<&str>,
        default: Duration,
    ) -> Duration {
        self.parse(path, text, units::duration).unwrap_or(default)
    }

    pub(super) fn size(&mut self, path: &str, size: Option<&RawSize>, default: u64) -> u64 {
        match size {
            None => default,
            Some(RawSize::Bytes(bytes)) => *bytes,
            Some(RawSize::Text(text)) => {
                self.parse(path, Some(text), units::size).unwrap_or(default)
            }
        }
    }

    /// Parses a text; `None` if it is absent or wrong.
    pub(super) fn parse<T>(
        &mut self,
        path: &str,
        text: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(path, message, None);
                None
            }
        }
    }

    /// A reference to a secret: exactly one way to find it.
    pub(super) fn secret(&mut self, path: &str, raw: &RawSecret) -> Option<SecretRef> {
        let mut found = Vec::new();
        if let Some(name) = &raw.env {
            if name.is_empty() || name.contains(['=', '\0', '$']) {
                let hint = "only the name: { env = \"NAME\" }";
                self.error(path, "this is not the name of an environment variable", Some(hint));
                return None;
            }
            found.push(SecretRef::Env(name.clone()));
        }
        if raw.file.as_ref().is_some_and(String::is_empty) {
            self.error(path, "'file' needs a path", Some("{ file = \"/run/secrets/name\" }"));
            return None;
        }
        found.extend(raw.file.as_ref().map(|file| SecretRef::File(file.into())));
        if let Some(command) = &raw.exec {
            if command.first().is_none_or(String::is_empty) {
                self.error(path, "'exec' needs a command", Some("{ exec = [\"pass\", \"show\"] }"));
                return None;
            }
            found.push(SecretRef::Exec(command.clone()));
        }
        if let Some(name) = &raw.systemd {
            if name.is_empty() || name.contains('/') {
                self.error(path, "'systemd' takes the name of a credential", None);
                return None;
            }
            found.push(SecretRef::Systemd(name.clone()));
        }
        if let Some(secret) = &raw.value {
            if Secret::from_stored(secret.expose().as_bytes().to_vec()).is_err() {
                self.error(path, "the secret is empty or holds a line break", None);
                return None;
            }
            self.warning(
                path,
                "the secret stands in the configuration itself",
                "for anything but a test, use { env = \"NAME\" } or { file = \"PATH\" }",
            );
            found.push(SecretRef::Value(secret.clone()));
        }
        let hint = "exactly one of env, file, exec, systemd and value";
        match found.len() {
            1 => found.pop(),
            0 => {
                if !self.was_removed_below(path) {
                    self.error(path, "it does not say where the secret is", Some(hint));
                }
                None
            }
            _ => {
                self.error(path, "it says twice where the secret is", Some(hint));
                None
            }
        }
    }

    /// A field name that may be set or removed.
    pub(super) fn field_name(&mut self, path: &str, name: &str) -> Option<HeaderName> {
        let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
            self.error(path, format!("'{name}' is not a field name"), None);
            return None;
        };
        if CONNECTION.contains(&field.as_str()) {
            let hint = Some("it belongs to the connection, which countersign looks after");
            self.error(path, format!("the field '{name}' cannot be set"), hint);
            return None;
        }
        Some(field)
    }

    /// Field names and prefixes (`x-vendor-*`).
    pub(super) fn field_patterns(&mut self, path: &str, patterns: &[String]) -> OwnedFields {
        let mut owned = OwnedFields::default();
        for (index, pattern) in patterns.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match pattern.strip_suffix('*') {
                Some("") => self.error(&path, "'*' alone would remove every field", None),
                Some(prefix) => match HeaderName::from_bytes(prefix.as_bytes()) {
                    Ok(_) => owned.insert_prefix(prefix),
                    Err(_) => self.error(&path, format!("'{pattern}' is not a field name"), None),
                },
                None => {
                    if let Some(name) = self.field_name(&path, pattern) {
                        owned.insert(&name);
                    }
                }
            }
        }
        owned
    }

    /// Path patterns: `/a/*/b`.
    pub(super) fn path_patterns(&mut self, path: &str, patterns: &[String]) -> Vec<DenyPattern> {
        let mut all = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            match pattern.strip_prefix('/') {
                Some(rest) if !rest.contains(['?', '#', '%']) && stars_fit(rest) => {
                    let segments = rest.trim_end_matches('/').split('/');
                    all.push(DenyPattern(segments.map(str::to_ascii_lowercase).collect()));
                }
                _ => self.error(
                    &format!("{path}[{index}]"),
                    format!("'{pattern}' is not a path"),
                    Some(
                        "a path begins with '/' and is written without encoding; '*' stands at the \
                         end of a segment, '**' in front",
                    ),
                ),
            }
        }
        all
    }

    /// An http or https URL without user, query and fragment.
    pub(super) fn url(&mut self, path: &str, text: &str) -> Option<(Origin, Uri)> {
        let hint = "an URL looks like \"https://api.example.com/base\"";
        let wrong = |context: &mut Self, message: &str| {
            context.error(path, message, Some(hint));
            None
        };
        if text.contains('#') {
            return wrong(self, "the URL has a fragment ('#')");
        }
        let Ok(uri) = text.parse::<Uri>() else {
            // Not repeated: it may hold a user and a password.
            return wrong(self, "this is not a URL");
        };
        let Some(scheme) = uri.scheme().cloned() else {
            return wrong(self, "the URL does not begin with https:// or http://");
        };
        if scheme.as_str() != "https" && scheme.as_str() != "http" {
            return wrong(self, &format!("'{scheme}' is not a scheme that can be used here"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let hint = Some("use a credential of kind \"basic\" instead");
            self.error(path, "a URL must not hold a user or password", hint);
            return None;
        }
        if uri.query().is_some() {
            return wrong(self, "the URL has a query ('?')");
        }
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // What follows the host is a port that fits into one, or nothing.
        let port_given = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        let odd_port = port_given && uri.port_u16().is_none_or(|port| port == 0);
        if host.is_empty() || host.contains('*') || odd_port {
            return wrong(self, "the URL has no host or port that can be connected to");
        }
        let default = if scheme.as_str() == "https" { 443 } else { 80 };
        let authority = match uri.port_u16() {
            Some(port) if port != default => format!("{host}:{port}"),
            _ => host,
        };
        match authority.parse() {
            Ok(authority) => Some((Origin { scheme, authority }, uri)),
            Err(_) => wrong(self, "the URL has no host that can be used"),
        }
    }

    pub(super) fn tls(&mut self, path: &str, raw: &RawTls) -> TlsSettings {
        if raw.client_certificate.is_some() != raw.client_key.is_some() {
            let hint = Some("set both, or neither");
            self.error(path, "'client_certificate' and 'client_key' belong together", hint);
        }
        TlsSettings {
            ca: raw.ca.as_ref().map(Into::into),
            client_certificate: raw.client_certificate.as_ref().map(Into::into),
            client_key: raw.client_key.as_ref().map(Into::into),
        }
    }
}

/// True if every `*` of a path pattern stands where it means something.
fn stars_fit(pattern: &str) -> bool {
    pattern.trim_end_matches('/').split('/').enumerate().all(|(at, segment)| {
        (at == 0 && segment == "**") || !segment.strip_suffix('*').unwrap_or(segment).contains('*')
    })
}
