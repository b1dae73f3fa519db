//! The file as a tree in which every key and value knows its place.

#![expect(clippy::wildcard_enum_match_arm, reason = "kinds of values, of which a few matter here")]

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// A value and where it stands (bytes of the text).
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub span: Range<usize>,
    /// What.
    pub value: NodeValue,
}

/// What a TOML value is.
#[derive(Debug, Clone)]
pub enum NodeValue {
    /// A text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// true or false.
    Boolean(bool),
    /// A date or time.
    Datetime(String),
    /// A list.
    Array(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Range<usize>,
    /// Its value.
    pub node: Node,
}

impl NodeValue {
    /// What a person calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Parses `text`. What cannot be read is reported, the rest is returned.
pub fn parse(text: &str) -> (Node, Vec<Problem>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| {
            let hint = if error.message().contains("duplicate") {
                "each key, and each table, may stand once"
            } else {
                "this is not TOML; quotes, brackets and '=' are the usual suspects"
            };
            let problem = Problem::error("", error.span(), error.message().to_owned());
            Problem { syntax: true, ..problem.hint(hint) }
        })
        .collect();
    let span = document.span();
    let value = table(document.into_inner(), &mut problems);
    (Node { span, value }, problems)
}

fn table(table: DeTable<'_>, problems: &mut Vec<Problem>) -> NodeValue {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| {
            let key_span = key.span();
            Entry { key: key.into_inner().into_owned(), key_span, node: node(value, problems) }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    NodeValue::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => NodeValue::String(text.into_owned()),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            if read.is_err() {
                let message = "the number is too large";
                problems.push(Problem::error("", Some(span.clone()), message));
            }
            NodeValue::Integer(read.unwrap_or(i64::MAX))
        }
        DeValue::Float(number) => NodeValue::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => NodeValue::Boolean(value),
        DeValue::Datetime(value) => NodeValue::Datetime(value.to_string()),
        DeValue::Array(items) => {
            NodeValue::Array(items.into_iter().map(|item| node(item, problems)).collect())
        }
        DeValue::Table(entries) => table(entries, problems),
    };
    Node { span, value }
}

impl Node {
    /// The text that stands at `span`, and nowhere else.
    pub fn text_at(&self, span: &Range<usize>) -> Option<&str> {
        match &self.value {
            NodeValue::Table(entries) => entries.iter().find_map(|entry| entry.node.text_at(span)),
            NodeValue::Array(items) => items.iter().find_map(|item| item.text_at(span)),
            NodeValue::String(text) => (self.span == *span).then_some(text),
            NodeValue::Integer(_)
            | NodeValue::Float(_)
            | NodeValue::Boolean(_)
            | NodeValue::Datetime(_) => None,
        }
    }

    /// The node at `path`, such as `route[0].upstream`, or the nearest one above it.
    ///
    /// Returns the place to point at: the value for a path that exists, else the last key on the
    /// way to it.
    pub fn locate(&self, path: &str) -> Option<Range<usize>> {
        let mut place = None;
        let mut node = self;
        for step in steps(path) {
            match (&node.value, step) {
                (NodeValue::Table(entries), Step::Key(key)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == key) else {
                        break;
                    };
                    // A table's own span is its header or braces; its key reads better.
                    place = Some(match entry.node.value {
                        NodeValue::Table(_) => entry.key_span.clone(),
                        _ => entry.node.span.clone(),
                    });
                    node = &entry.node;
                }
                (NodeValue::Array(items), Step::Index(index)) => {
                    let Some(item) = items.get(index) else { break };
                    place = Some(item.span.clone());
                    node = item;
                }
                _ => break,
            }
        }
        place
    }
}

enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

/// Splits a path. Keys that are not bare are quoted: `set."X-Key"`.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
        } else if let Some((index, after)) =
            rest.strip_prefix('[').and_then(|after| after.split_once(']'))
        {
            steps.push(Step::Index(index.parse().unwrap_or(usize::MAX)));
            rest = after;
        } else if let Some((key, after)) =
            rest.strip_prefix('"').and_then(|after| after.split_once('"'))
        {
            steps.push(Step::Key(key));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            steps.push(Step::Key(key));
            rest = after;
        }
    }
    steps
}

/// `path` with `key` appended, quoted where it is not a bare key.
pub fn join(path: &str, key: &str) -> String {
    let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let dot = if path.is_empty() { "" } else { "." };
    if bare && !key.is_empty() {
        format!("{path}{dot}{key}")
    } else {
        format!("{path}{dot}\"{key}\"")
    }
}
