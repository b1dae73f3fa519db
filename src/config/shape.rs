//! The shape of the file: every key known, every value of the right type.
//!
//! The schema that users' editors get ([`schema`]) is the one that is checked here, so the two
//! cannot disagree. Everything wrong is reported at once; what is right is passed on.

#![expect(clippy::wildcard_enum_match_arm, reason = "kinds of values, of which a few matter here")]

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::document::{Entry, Node, NodeValue, join};
use super::problem::Problem;
use super::raw::RawConfig;

/// The JSON Schema (2020-12) of the configuration.
pub fn schema() -> Value {
    schemars::schema_for!(RawConfig).to_value()
}

/// What is left of a document when everything misshapen is taken out.
#[derive(Debug)]
pub struct Shaped {
    /// The rest, ready to be read.
    pub value: Value,
    /// The paths that were taken out: there is no point in calling them missing as well.
    pub removed: BTreeSet<String>,
}

/// Where plain strings get `${NAME}` from.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Checks `document` against the schema.
pub fn check(document: &Node, environment: Environment<'_>, problems: &mut Vec<Problem>) -> Shaped {
    let root = schema();
    let mut walk = Walk { root: &root, environment, problems, removed: BTreeSet::new() };
    let value = walk.node(document, &root, "").unwrap_or_else(|| Value::Object(Map::new()));
    Shaped { value, removed: walk.removed }
}

struct Walk<'w> {
    root: &'w Value,
    environment: Environment<'w>,
    problems: &'w mut Vec<Problem>,
    removed: BTreeSet<String>,
}

impl<'w> Walk<'w> {
    fn problem(&mut self, problem: Problem) {
        self.removed.insert(problem.path.clone());
        self.problems.push(problem);
    }

    /// The schema that `schema` refers to, with the alternative `null` of optional keys taken off.
    fn resolve(&self, schema: &'w Value) -> &'w Value {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let target = self.root.pointer(reference.trim_start_matches('#'));
            return target.map_or(schema, |target| self.resolve(target));
        }
        if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
            let mut others = alternatives
                .iter()
                .filter(|other| other.get("type").and_then(Value::as_str) != Some("null"));
            if let (Some(only), None) = (others.next(), others.next()) {
                return self.resolve(only);
            }
        }
        schema
    }

    fn node(&mut self, node: &Node, schema: &'w Value, path: &str) -> Option<Value> {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(node, alternatives, path);
        }
        if schema.get("oneOf").is_some() {
            return self.one_of(node, schema, path);
        }
        let accepts = |kind: &str| match schema.get("type") {
            None => true,
            Some(Value::String(only)) => only == kind,
            Some(Value::Array(several)) => several.iter().any(|one| one == kind),
            Some(_) => false,
        };
        match &node.value {
            NodeValue::Table(entries) if accepts("object") => {
                Some(Value::Object(self.table(entries, schema, path)))
            }
            NodeValue::Array(items) if accepts("array") => self.list(items, schema, path),
            NodeValue::String(text) if accepts("string") => self.text(text, node, schema, path),
            NodeValue::Integer(number) if accepts("integer") || accepts("number") => {
                self.number(*number, node, schema, path)
            }
            NodeValue::Float(number) if accepts("number") => Some(Value::from(*number)),
            NodeValue::Boolean(value) if accepts("boolean") => Some(Value::Bool(*value)),
            other => {
                let problem = Problem::error(
                    path,
                    Some(node.span.clone()),
                    format!("expected {}, found {}", expected(schema), other.kind()),
                );
                self.problem(match (is_secret(schema), other) {
                    (true, NodeValue::String(_)) => Problem {
                        message: "a secret cannot stand in the file itself".to_owned(),
                        ..problem
                    }
                    .hint(secret_hint(path)),
                    (true, _) => problem.hint(secret_hint(path)),
                    (false, _) => match type_hint(schema, other, path) {
                        Some(hint) => problem.hint(hint),
                        None => problem,
                    },
                });
                None
            }
        }
    }

    fn list(&mut self, items: &[Node], schema: &'w Value, path: &str) -> Option<Value> {
        let of = schema.get("items").unwrap_or(&Value::Bool(true));
        let of_tables = self.resolve(of).get("properties").is_some();
        let mut kept = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match self.node(item, of, &format!("{path}[{index}]")) {
                Some(item) => kept.push(item),
                // A place in the list stays taken, so that indices go on meaning the same.
                None if of_tables => kept.push(Value::Object(Map::new())),
                None => {
                    self.removed.insert(path.to_owned());
                }
            }
        }
        (!self.removed.contains(path)).then_some(Value::Array(kept))
    }

    fn table(&mut self, entries: &[Entry], schema: &'w Value, path: &str) -> Map<String, Value> {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        let mut kept = Map::new();
        for entry in entries {
            let at = join(path, &entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key));
            match (known, others) {
                (Some(known), _) => {
                    kept.extend(
                        self.node(&entry.node, known, &at).map(|value| (entry.key.clone(), value)),
                    );
                }
                (None, Some(Value::Bool(false))) => {
                    let names: Vec<&str> =
                        properties.into_iter().flat_map(|p| p.keys().map(String::as_str)).collect();
                    let message = format!("unknown key '{}'", entry.key);
                    let hint = nearest(&entry.key, &names).map_or_else(
                        || format!("known here: {}", names.join(", ")),
                        |name| format!("did you mean '{name}'?"),
                    );
                    // The key counts as missing under its right name as well, so not twice.
                    if let Some(name) = nearest(&entry.key, &names) {
                        self.removed.insert(join(path, name));
                    }
                    let span = Some(entry.key_span.clone());
                    // Where a quote or a bracket is missing, a line of a secret may seem a key.
                    let (shown, message) = if self.problems.iter().any(|problem| problem.syntax) {
                        (path.to_owned(), "unknown key".to_owned())
                    } else {
                        (at.clone(), message)
                    };
                    self.removed.insert(at);
                    self.problems.push(Problem::error(shown, span, message).hint(hint));
                }
                (None, others) => {
                    let of = others.unwrap_or(&Value::Bool(true));
                    kept.extend(
                        self.node(&entry.node, of, &at).map(|value| (entry.key.clone(), value)),
                    );
                }
            }
        }
        kept
    }

    fn text(&mut self, text: &str, node: &Node, schema: &'w Value, path: &str) -> Option<Value> {
        let verbatim = schema.get("x-verbatim").is_some();
        let text = if verbatim { text.to_owned() } else { self.expand(text, node, path)? };
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            return self.one_word(&text, &names, node, path);
        }
        Some(Value::String(text))
    }

    fn one_word(&mut self, text: &str, names: &[&str], node: &Node, path: &str) -> Option<Value> {
        if names.contains(&text) {
            return Some(Value::String(text.to_owned()));
        }
        let hint = match nearest(text, names) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("one of: {}", names.join(", ")),
        };
        let message = format!("\"{text}\" is not known here");
        self.problem(Problem::error(path, Some(node.span.clone()), message).hint(hint));
        None
    }

    fn number(&mut self, number: i64, node: &Node, schema: &'w Value, path: &str) -> Option<Value> {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "only compared with small bounds")]
        let value = number as f64;
        let least = bound("minimum").filter(|least| value < *least);
        let most = bound("maximum").filter(|most| value > *most);
        let message = match (least, most) {
            (Some(least), _) => format!("{number} is too small; the least is {least}"),
            (_, Some(most)) => format!("{number} is too large; the most is {most}"),
            (None, None) => return Some(Value::from(number)),
        };
        self.problem(Problem::error(path, Some(node.span.clone()), message));
        None
    }

    /// One of several shapes: the one that fits the type of the value.
    fn any_of(&mut self, node: &Node, alternatives: &'w [Value], path: &str) -> Option<Value> {
        let wanted: &[&str] = match &node.value {
            NodeValue::String(_) => &["string"],
            NodeValue::Integer(_) => &["integer", "number"],
            NodeValue::Float(_) => &["number"],
            NodeValue::Boolean(_) => &["boolean"],
            NodeValue::Datetime(_) => &[],
            NodeValue::Array(_) => &["array"],
            NodeValue::Table(_) => &["object"],
        };
        let resolved: Vec<&'w Value> =
            alternatives.iter().map(|alternative| self.resolve(alternative)).collect();
        let kind = |schema: &Value| {
            let word = schema.get("type").and_then(Value::as_str).map(str::to_owned);
            // A list of words, each with its own description, is a text as well.
            word.or_else(|| schema.get("oneOf").map(|_| "string".to_owned()))
        };
        let fitting = resolved
            .iter()
            .find(|schema| kind(schema).is_some_and(|kind| wanted.contains(&kind.as_str())));
        if let Some(fitting) = fitting {
            return self.node(node, fitting, path);
        }
        let names: Vec<String> = resolved.iter().map(|schema| expected(schema)).collect();
        let message = format!("expected {}, found {}", names.join(" or "), node.value.kind());
        self.problem(Problem::error(path, Some(node.span.clone()), message));
        None
    }

    /// A word out of a list, or a table whose `kind` says which of several it is.
    fn one_of(&mut self, node: &Node, schema: &'w Value, path: &str) -> Option<Value> {
        let alternatives: Vec<&'w Value> = schema
            .get("oneOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|alternative| self.resolve(alternative))
            .collect();
        let words: Vec<&str> = alternatives.iter().flat_map(|schema| words_of(schema)).collect();
        let NodeValue::Table(entries) = &node.value else {
            return match &node.value {
                NodeValue::String(text) if !words.is_empty() => {
                    let text = self.expand(text, node, path)?;
                    self.one_word(&text, &words, node, path)
                }
                other => {
                    let what = if words.is_empty() { "a table" } else { "a text" };
                    let message = format!("expected {what}, found {}", other.kind());
                    self.problem(Problem::error(path, Some(node.span.clone()), message));
                    None
                }
            };
        };
        let kind_of =
            |schema: &'w Value| schema.pointer("/properties/kind/const").and_then(Value::as_str);
        let kinds: Vec<&str> = alternatives.iter().filter_map(|schema| kind_of(schema)).collect();
        let Some(kind) = entries.iter().find(|entry| entry.key == "kind") else {
            let hint = format!("add kind = \"…\", one of: {}", kinds.join(", "));
            let problem = Problem::error(path, Some(node.span.clone()), "'kind' is missing");
            self.problem(problem.hint(hint));
            return None;
        };
        let NodeValue::String(word) = &kind.node.value else {
            let message = format!("expected a text, found {}", kind.node.value.kind());
            let at = join(path, "kind");
            self.problem(Problem::error(at, Some(kind.node.span.clone()), message));
            self.removed.insert(path.to_owned());
            return None;
        };
        let chosen = alternatives.iter().find(|schema| kind_of(schema) == Some(word));
        let Some(chosen) = chosen else {
            // Nothing else in the table can be judged without knowing what it is.
            self.one_word(word, &kinds, &kind.node, &join(path, "kind"));
            self.removed.insert(path.to_owned());
            return None;
        };
        Some(self.tagged(entries, chosen, path))
    }

    /// A table of a known kind: the kind itself plus the keys of what it refers to.
    fn tagged(&mut self, entries: &[Entry], schema: &'w Value, path: &str) -> Value {
        let (kind, rest): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| entry.key == "kind");
        let rest: Vec<Entry> = rest.into_iter().cloned().collect();
        // schemars writes the variant's own keys either inline or behind a reference.
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference
            .and_then(|reference| self.root.pointer(reference.trim_start_matches('#')))
            .unwrap_or(schema);
        let mut kept = self.table(&rest, target, path);
        for entry in kind {
            if let NodeValue::String(word) = &entry.node.value {
                kept.insert("kind".to_owned(), Value::String(word.clone()));
            }
        }
        Value::Object(kept)
    }

    /// Replaces `${NAME}` and `${NAME:-default}`; `$${` stands for `${`.
    fn expand(&mut self, text: &str, node: &Node, path: &str) -> Option<String> {
        let mut expanded = String::with_capacity(text.len());
        let mut complete = true;
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            let after = after.get(2..).unwrap_or_default();
            if let Some(literal) = before.strip_suffix('$') {
                expanded.push_str(literal);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let Some((inner, following)) = after.split_once('}') else {
                let problem = Problem::error(path, Some(node.span.clone()), "a '${' has no '}'");
                self.problem(problem.hint("write '$${' for the characters themselves"));
                return None;
            };
            rest = following;
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            let is_name = |name: &str| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            if !is_name(name) || default.is_some_and(|default| default.contains("${")) {
                let message = "this is not ${NAME} or ${NAME:-default}";
                let problem = Problem::error(path, Some(node.span.clone()), message);
                let hint = "letters, digits and '_'; one inside another is not read";
                self.problem(problem.hint(hint));
                return None;
            }
            let value = (self.environment)(name).filter(|value| !value.is_empty());
            if let Some(value) = value.as_deref().or(default) {
                expanded.push_str(value);
            } else {
                let message = format!("the environment variable {name} is not set");
                let hint = format!("set it, or write ${{{name}:-default}}");
                let problem = Problem::error(path, Some(node.span.clone()), message);
                self.problem(problem.hint(hint));
                complete = false;
            }
        }
        expanded.push_str(rest);
        complete.then_some(expanded)
    }
}

/// The words a text may be: `enum`, or a `const` per alternative.
fn words_of(schema: &Value) -> Vec<&str> {
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return vec![word];
    }
    let several = schema.get("enum").and_then(Value::as_array);
    several.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn is_secret(schema: &Value) -> bool {
    schema.get("x-secret").is_some()
}

fn secret_hint(path: &str) -> String {
    let key = path.rsplit('.').next().unwrap_or(path);
    format!(
        "say where it is: {key} = {{ env = \"NAME\" }}, {{ file = \"/run/secrets/name\" }}, \
         {{ exec = [\"command\"] }} or {{ systemd = \"name\" }}"
    )
}

/// The way out. It never repeats what was found: that may be a secret in the wrong place.
fn type_hint(schema: &Value, found: &NodeValue, path: &str) -> Option<String> {
    let key = path.rsplit('.').next().unwrap_or(path);
    let kind = expected(schema);
    let hint = match (kind.as_str(), found) {
        ("a text", NodeValue::Integer(_) | NodeValue::Float(_)) => {
            "write it in quotes, with a unit where it has one: \"30s\""
        }
        ("a list", NodeValue::String(_)) => "write it in square brackets: [\"…\"]",
        ("a list", NodeValue::Table(_)) if !path.contains('.') => {
            return Some(format!("write [[{key}]] with two brackets: there may be several"));
        }
        ("a table", NodeValue::Array(_)) if path.starts_with("credential") => {
            "each credential has a name: [credential.NAME]"
        }
        ("a table", NodeValue::Array(_)) => "write it with single brackets: [NAME]",
        ("true or false", _) => "write true or false, without quotes",
        ("a whole number", NodeValue::String(text)) if text.parse::<i64>().is_ok() => {
            "write it without quotes"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn expected(schema: &Value) -> String {
    if is_secret(schema) {
        return "a secret, such as { env = \"NAME\" }".to_owned();
    }
    let kind = match schema.get("type") {
        Some(Value::Array(several)) => several.iter().find(|one| *one != "null"),
        other => other,
    };
    match kind.and_then(Value::as_str) {
        Some("string") => "a text",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("object") => "a table",
        _ => "something else",
    }
    .to_owned()
}

/// The known name that a mistyped one most likely stands for.
pub fn nearest<'n>(typed: &str, known: &[&'n str]) -> Option<&'n str> {
    let folded = typed.to_ascii_lowercase().replace('-', "_");
    let fold = |name: &str| name.replace('-', "_");
    // The beginning of one name only, such as `client_cert`.
    let mut begun =
        known.iter().filter(|name| folded.len() >= 4 && fold(name).starts_with(&folded));
    if let (Some(only), None) = (begun.next(), begun.next()) {
        return Some(only);
    }
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&folded, &fold(name)), *name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .map(|(_, name)| name)
}
