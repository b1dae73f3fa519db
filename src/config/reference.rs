//! All keys of the configuration, as Markdown: the schema in a form for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::shape;

const INTRODUCTION: &str = "# All keys, from the schema\n\n\
    What `countersign schema --markdown` prints: every table of the configuration and every key, \
    with\nthe words of the schema that editors get. [Configuration](configuration.md) has the rules \
    and\nexamples. A key without a default is off or empty, or has to be there: `countersign check` \
    says so.\n";

/// The reference: a section for each table, a line for each key.
pub fn markdown() -> String {
    let root = shape::schema();
    let mut reference = Reference { root: &root, out: INTRODUCTION.to_owned(), later: Vec::new() };
    let (tables, plain): (Vec<_>, Vec<_>) = properties(&root)
        .into_iter()
        .flatten()
        .partition(|(_, schema)| reference.leads_to_tables(schema));
    reference.heading("Top of the file", "Before any table.");
    reference.keys(&plain);
    for (key, schema) in tables {
        reference.table(key, schema);
    }
    // Those that others refer to, and those that these refer to.
    let mut written = BTreeSet::new();
    while let Some(name) = next(&reference.later, &written) {
        reference.definition(&name);
        written.insert(name);
    }
    reference.out
}

fn next(later: &[String], written: &BTreeSet<String>) -> Option<String> {
    later.iter().find(|name| !written.contains(*name)).cloned()
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn list<'s>(schema: &'s Value, key: &str) -> &'s [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'s>(schema: &'s Value, key: &str) -> &'s str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What a `$ref` names.
fn referred(schema: &Value) -> Option<&str> {
    text(schema, "$ref").strip_prefix("#/$defs/")
}

struct Reference<'r> {
    root: &'r Value,
    out: String,
    /// Definitions that have been referred to.
    later: Vec<String>,
}

impl<'r> Reference<'r> {
    fn defined(&self, name: &str) -> Option<&'r Value> {
        self.root.get("$defs")?.get(name)
    }

    /// Without the alternative of not being there.
    fn alternatives(schema: &Value) -> Vec<&Value> {
        let not_null = |schema: &&Value| text(schema, "type") != "null";
        list(schema, "anyOf").iter().filter(not_null).collect()
    }

    /// What it refers to, if it is a table with keys of its own.
    fn leads_to(&self, schema: &'r Value) -> Option<&'r Value> {
        if let Some(name) = referred(schema) {
            let target = self.defined(name)?;
            let of_kinds = list(target, "oneOf").iter().any(|kind| properties(kind).is_some());
            return (properties(target).is_some() || of_kinds).then_some(target);
        }
        match *Self::alternatives(schema) {
            [only] => self.leads_to(only),
            _ => None,
        }
    }

    /// True for a table, a list of tables, and a table of them.
    fn leads_to_tables(&self, schema: &'r Value) -> bool {
        let inner = schema.get("items").or_else(|| schema.get("additionalProperties"));
        self.leads_to(inner.unwrap_or(schema)).is_some()
    }

    fn heading(&mut self, title: &str, about: &str) {
        let _ = write!(self.out, "\n## {title}\n\n");
        let about = in_a_cell(about);
        if !about.is_empty() {
            let _ = write!(self.out, "{about}\n\n");
        }
    }

    /// A table at the top of the file.
    fn table(&mut self, key: &str, schema: &'r Value) {
        let (inner, title) = match (schema.get("items"), schema.get("additionalProperties")) {
            (Some(items), _) => (items, format!("`[[{key}]]`")),
            (None, Some(values)) => (values, format!("`[{key}.NAME]`")),
            (None, None) => (schema, format!("`[{key}]`")),
        };
        self.heading(&title, text(schema, "description"));
        let Some(target) = self.leads_to(inner) else { return };
        if let Some(keys) = properties(target) {
            self.keys(&keys.iter().collect::<Vec<_>>());
            return;
        }
        let kinds = list(target, "oneOf");
        let _ = writeln!(self.out, "| `kind` | what it is |\n|---|---|");
        for kind in kinds {
            let name = kind_of(kind);
            let link = format!("{key}-{name}");
            let about = in_a_cell(text(kind, "description"));
            let _ = writeln!(self.out, "| [`{name}`](#{link}) | {about} |");
        }
        for kind in kinds {
            let name = kind_of(kind);
            let _ = write!(self.out, "\n### `{key}` `{name}`\n\n");
            let keys = properties(kind).into_iter().flatten().filter(|(key, _)| *key != "kind");
            self.keys(&keys.collect::<Vec<_>>());
        }
    }

    /// A table that others refer to.
    fn definition(&mut self, name: &str) {
        let Some(definition) = self.defined(name) else { return };
        let (title, about) = (title(definition), text(definition, "description"));
        let more = about.strip_prefix(title).unwrap_or(about);
        self.heading(title, more.trim_start_matches(['.', ':', ' ']));
        let keys = properties(definition).into_iter().flatten();
        self.keys(&keys.collect::<Vec<_>>());
    }

    fn keys(&mut self, keys: &[(&String, &'r Value)]) {
        if keys.is_empty() {
            self.out.push_str("It has no further keys.\n");
            return;
        }
        self.out.push_str("| key | type | default | what it is |\n|---|---|---|---|\n");
        for (key, schema) in keys {
            let kind = self.kind(schema);
            let (about, default) = about_and_default(text(schema, "description"));
            let about = format!("{about}{}", self.words(schema));
            let _ = writeln!(self.out, "| `{key}` | {kind} | {default} | {} |", about.trim());
        }
    }

    /// The type in words.
    fn kind(&mut self, schema: &'r Value) -> String {
        if let Some(name) = referred(schema) {
            let Some(target) = self.defined(name) else { return String::new() };
            if properties(target).is_none() {
                return self.kind(target);
            }
            if !self.later.iter().any(|later| later == name) {
                self.later.push(name.to_owned());
            }
            let secret = target.get("x-secret").is_some();
            let word = if secret { "secret" } else { "table" };
            return format!("[{word}](#{})", anchor(title(target)));
        }
        if let Some(one) = schema.get("const").and_then(Value::as_str) {
            return format!("`{one}`");
        }
        let one_of = match (list(schema, "oneOf"), list(schema, "enum")) {
            ([], []) => None,
            ([], words) => Some(words.iter().filter_map(Value::as_str).map(code).collect()),
            (kinds, _) => Some(kinds.iter().map(|kind| self.kind(kind)).collect::<Vec<_>>()),
        };
        let several = Self::alternatives(schema);
        if let Some(one_of) = one_of {
            return one_of.join(", ");
        }
        if !several.is_empty() {
            let kinds: Vec<String> = several.into_iter().map(|kind| self.kind(kind)).collect();
            return kinds.join(" or ");
        }
        match of_type(schema) {
            "string" => "text".to_owned(),
            "boolean" => "boolean".to_owned(),
            "integer" | "number" => number(schema),
            "array" => {
                let items = schema.get("items").map(|items| self.kind(items));
                format!("list: {}", items.unwrap_or_default())
            }
            "object" => {
                let values = schema.get("additionalProperties").map(|values| self.kind(values));
                format!("names, each with: {}", values.unwrap_or_default())
            }
            other => other.to_owned(),
        }
    }

    /// What each of the words means that a key can have.
    fn words(&self, schema: &'r Value) -> String {
        let target = match (referred(schema), Self::alternatives(schema).as_slice()) {
            (Some(name), _) => self.defined(name),
            (None, [only]) => referred(only).and_then(|name| self.defined(name)),
            (None, _) => None,
        };
        let words = target.map_or(&[][..], |target| list(target, "oneOf"));
        words.iter().fold(String::new(), |mut all, word| {
            let about = in_a_cell(text(word, "description"));
            if let (Some(word), false) =
                (word.get("const").and_then(Value::as_str), about.is_empty())
            {
                let _ = write!(all, " {}: {about}", code(word));
            }
            all
        })
    }
}

fn kind_of(schema: &Value) -> &str {
    schema.pointer("/properties/kind/const").and_then(Value::as_str).unwrap_or_default()
}

/// The type beside `null`.
fn of_type(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(only)) => only,
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).find(|one| *one != "null").unwrap_or_default()
        }
        _ => "",
    }
}

fn number(schema: &Value) -> String {
    let bound = |key: &str| schema.get(key).filter(|bound| bound.as_f64() != Some(0.0));
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("number, {least} to {most}"),
        (Some(least), None) => format!("number, {least} or more"),
        (None, Some(most)) => format!("number, up to {most}"),
        (None, None) => "number".to_owned(),
    }
}

/// The first sentence, without its end.
fn title(definition: &Value) -> &str {
    let about = text(definition, "description");
    let first = about.split_once(['.', ':']).map_or(about, |(first, _)| first);
    first.trim()
}

/// A description, and what it says last of the default.
fn about_and_default(description: &str) -> (String, String) {
    let description = in_a_cell(description);
    let Some((about, default)) = description.rsplit_once("Default: ") else {
        return (description, String::new());
    };
    let default = default.trim_end_matches('.');
    let plain = default.starts_with('"') && default.ends_with('"') && default.len() > 1;
    let value = plain || ["true", "false"].contains(&default) || default.parse::<u64>().is_ok();
    (about.trim_end().to_owned(), if value { code(default) } else { default.to_owned() })
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// On one line, with nothing that would end the cell or look like HTML.
fn in_a_cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('|', "\\|").replace('<', "&lt;")
}

/// What a heading is called in a link, as code hosts and mdBook have it.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
