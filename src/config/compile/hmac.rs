//! The `hmac` kind: the parts of the signature base, and the fields that carry the result.

use http::HeaderName;

use super::credential::{Builder, Common, names};
use crate::config::raw::{RawHmac, RawNamedPart, RawPart};
use crate::config::{CredentialConfig, SourceSpec};
use crate::credential::devices::Column;
use crate::credential::fixed::FixedSpec;
use crate::sign::Scheme;
use crate::sign::base::Part;
use crate::sign::hmac::{HmacScheme, SIGNATURE, TIMESTAMP};

impl Builder<'_, '_> {
    pub(super) fn hmac(mut self, raw: &RawHmac) -> CredentialConfig {
        let mut values = self.secrets("values", raw.values.as_ref());
        let path = self.at("key");
        let hint = "key = { env = \"API_SECRET\" }";
        let mut columns = Vec::new();
        // No template can reach this name, so the key never ends up in a field by mistake.
        let key_name = "(key)".to_owned();
        let key = if raw.key.is_none() && raw.devices.is_some() {
            columns.push(Column { value: key_name.clone(), ..self.column("key") });
            None
        } else {
            Some(self.required_secret(raw.key.as_ref(), &path, hint))
        };
        let base = self.base(raw.base.as_deref());
        let set = self.set(raw.set.as_ref(), &mut values);
        if raw.devices.is_some() {
            let in_fields = set.iter().flat_map(|(_, template)| template.names());
            let in_base = base.iter().filter_map(|part| match part {
                Part::Value(name) => Some(name.as_str()),
                Part::Literal(_)
                | Part::Method
                | Part::Path
                | Part::Query
                | Part::Host
                | Part::Header(_)
                | Part::Timestamp
                | Part::Body
                | Part::BodyHash { .. } => None,
            });
            let known = [names(&values), vec![SIGNATURE, TIMESTAMP]].concat();
            self.add_columns(in_fields.chain(in_base), &known, &mut columns);
        }
        let mut known = names(&values);
        known.extend([SIGNATURE, TIMESTAMP]);
        // The column of the key is no value that templates could reach.
        let values_of = columns.iter().filter(|column| column.value == column.name);
        let values_of: Vec<&str> = values_of.map(|column| column.name.as_str()).collect();
        known.extend(&values_of);
        self.names_known(raw.set.as_ref(), &set, &known);
        let signed = set.iter().any(|(_, template)| template.names().any(|name| name == SIGNATURE));
        if !signed && !set.is_empty() {
            let hint = Some("one of the fields has to be \"{signature}\"");
            let path = self.at("set");
            self.context.error(&path, "no field carries the signature", hint);
        }
        for (index, part) in base.iter().enumerate() {
            if let Part::Value(name) = part
                && !values.iter().any(|(known, _)| known == name)
                && !values_of.contains(&name.as_str())
            {
                let path = format!("{}[{index}]", self.at("base"));
                self.unknown_name(&path, name, &names(&values));
            }
        }
        values.extend(key.map(|key| (key_name.clone(), key)));
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
            devices: raw.devices.as_deref().map(|file| (file, columns)),
            ..Common::default()
        };
        self.finish(SourceSpec::Fixed(FixedSpec { values, basic: None }), scheme, &common)
    }

    fn base(&mut self, raw: Option<&[RawPart]>) -> Vec<Part> {
        let path = self.at("base");
        let hint = "base = [{ value = \"api_key\" }, \"body\", \"timestamp\"]";
        let raw = self.context.require(raw.filter(|raw| !raw.is_empty()), &path, hint);
        let mut parts = Vec::new();
        for (index, part) in raw.unwrap_or_default().iter().enumerate() {
            let path = format!("{path}[{index}]");
            parts.extend(self.part(&path, part));
        }
        if parts.iter().filter(|part| part.covers_body()).count() > 1 {
            let hint = Some("use \"body\" or body_hash, once");
            self.context.error(&path, "the content is in the base more than once", hint);
        }
        parts
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
        if found.len() != 1 {
            if !self.context.was_removed_below(path) {
                let hint = Some("exactly one of literal, value, header and body_hash");
                self.context.error(path, "it does not say which part this is", hint);
            }
            return None;
        }
        found.pop()
    }
}
