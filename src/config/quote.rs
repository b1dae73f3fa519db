//! Which parts of a configuration text may be repeated to a person.
//!
//! A report quotes the line a problem is on. People write secrets where they do not belong, so the
//! rule is a list of what may be shown, and everything else is masked: a value under a mistyped key
//! is masked because the key is unknown.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::OnceLock;

use serde_json::Value;

use super::document::{Node, NodeValue};
use super::problem::Problem;
use super::shape::schema;

/// The places of all values in `document` that must not be shown, in order.
pub fn masks(document: &Node) -> Vec<Range<usize>> {
    let mut masks = Vec::new();
    collect(document, &mut Vec::new(), &mut masks);
    masks.sort_by_key(|mask| mask.start);
    masks
}

fn collect<'n>(node: &'n Node, path: &mut Vec<&'n str>, masks: &mut Vec<Range<usize>>) {
    match &node.value {
        NodeValue::Table(entries) => {
            for entry in entries {
                path.push(&entry.key);
                collect(&entry.node, path, masks);
                path.pop();
            }
        }
        NodeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // A command may be shown, its arguments may be secrets.
                if path.last() == Some(&"exec") && index > 0 {
                    masks.push(item.span.clone());
                } else {
                    collect(item, path, masks);
                }
            }
        }
        NodeValue::String(text) => {
            if !is_open(path, text) {
                masks.push(node.span.clone());
            }
        }
        NodeValue::Integer(_) | NodeValue::Float(_) | NodeValue::Datetime(_) => {
            if !is_open(path, "") {
                masks.push(node.span.clone());
            }
        }
        NodeValue::Boolean(_) => {}
    }
}

/// A text of so many bytes does not stand in a message by chance.
const LONG: usize = 6;

/// Takes out of the messages what is masked where they point: a message may repeat the value it is
/// about.
pub fn withhold(document: &Node, masks: &[Range<usize>], problems: &mut [Problem]) {
    for problem in problems {
        let Some(span) = problem.span.clone() else { continue };
        // A message may be about a list and repeat one of its values.
        let covered = |mask: &&Range<usize>| span.start <= mask.start && mask.end <= span.end;
        for mask in masks.iter().filter(covered) {
            let Some(text) = document.text_at(mask).map(str::trim) else { continue };
            // Messages quote what they repeat; hints may not. What is short stands in any sentence.
            let mut shown = vec![format!("'{text}'"), format!("\"{text}\"")];
            if text.len() >= LONG {
                shown.push(text.to_owned());
            }
            // A brace alone is no secret, and some messages are about braces.
            for shown in shown.iter().filter(|_| text.len() > 1) {
                problem.message = problem.message.replace(shown, "***");
                problem.hint = problem.hint.take().map(|hint| hint.replace(shown, "***"));
            }
        }
    }
}

/// True if the text at `path` may be shown.
#[expect(clippy::match_same_arms, reason = "one arm per table of the file")]
fn is_open(path: &[&str], text: &str) -> bool {
    // A user and password before the host, or a key in the query, whether it is a URL yet or not.
    if text.contains(['@', '?']) {
        return false;
    }
    match path {
        ["workers" | "drain" | "linger" | "upgrade_socket" | "sandbox"] => true,
        ["limits" | "log", _] => true,
        [
            "trace",
            "endpoint" | "service_name" | "sample" | "timeout" | "queue" | "batch" | "delay",
        ]
        | ["trace", "tls", _] => true,
        [
            "listen",
            "address"
            | "mode"
            | "group"
            | "users"
            | "protocol"
            | "hosts"
            | "origins"
            | "allow"
            | "open"
            | "caller_token_header"
            | "header_case"
            | "answers"
            | "lenient",
        ]
        | ["listen" | "token_store", "tls", _]
        | ["admin", "address" | "hosts" | "quit"]
        | [
            "token_store",
            "kind" | "path" | "url" | "urls" | "cluster" | "prefix" | "allow_plaintext" | "timeout"
            | "node_ports",
        ]
        | ["token_store", "sentinel", "master"] => true,
        [
            "route",
            "name" | "host" | "path" | "methods" | "clients" | "upstream" | "credential" | "deny"
            | "max_body" | "remove" | "http2" | "websocket" | "header_case" | "lenient"
            | "rewrite_location" | "max_in_flight" | "proxy" | "clock",
        ]
        | ["route", "timeouts" | "tls" | "replay" | "pool" | "identity", _] => true,
        [
            "credential",
            _,
            "kind"
            | "base_url"
            | "devices"
            | "client"
            | "login"
            | "client_guid"
            | "branch_guid"
            | "upstreams"
            | "header"
            | "api"
            | "sign_with"
            | "key_header"
            | "remove"
            | "deny"
            | "algorithm"
            | "key_encoding"
            | "timestamp"
            | "encoding"
            | "lifetime"
            | "grant"
            | "token_url"
            | "device_authorization_url"
            | "issuer"
            | "client_id"
            | "client_auth"
            | "scope"
            | "audience"
            | "resource"
            | "subject_token_type"
            | "actor_token_type"
            | "requested_token_type"
            | "token_type",
        ]
        | [
            "credential",
            _,
            "client_assertion" | "signed_assertion",
            "algorithm" | "key_id" | "issuer" | "subject" | "audience" | "lifetime",
        ]
        | ["credential", _, "refresh" | "tls" | "expires", _]
        | ["credential", _, "base", ..]
        | ["credential", _, "success", "pointer"]
        | ["credential", _, "request" | "renew" | "logout", "method" | "url"] => true,
        // JSON pointers of a login.
        ["credential", _, "values", _] => text.starts_with('/'),
        ["credential" | "listen" | "admin" | "token_store", .., "env" | "file" | "systemd"] => true,
        ["credential" | "listen" | "admin" | "token_store", .., "exec"] => {
            !text.contains(char::is_whitespace)
        }
        _ => false,
    }
}

/// A text cut into lines, with what must not be shown masked.
#[derive(Debug)]
pub struct Quoter<'t> {
    text: &'t str,
    starts: Vec<usize>,
    masks: &'t [Range<usize>],
}

/// A line as it may be shown, and what to point at in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Quote {
    /// The number of the line, from 1.
    pub line: usize,
    /// The column in the text itself, in characters, from 1.
    pub column: usize,
    /// The line, masked.
    pub shown: String,
    /// Characters before the marked part of `shown`.
    pub indent: usize,
    /// Characters to mark.
    pub width: usize,
}

impl<'t> Quoter<'t> {
    /// Prepares to quote `text`.
    pub fn new(text: &'t str, masks: &'t [Range<usize>]) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { text, starts, masks }
    }

    /// The line on which `span` begins. With `cut`, no more of it is shown than a known key or the name
    /// of a table at its beginning: what TOML could not read has no values to be masked one by one,
    /// and may be a line of a secret that has several.
    pub fn quote(&self, span: &Range<usize>, cut: bool) -> Option<Quote> {
        let start = span.start.min(self.text.len());
        let line = self.starts.partition_point(|begin| *begin <= start);
        let begin = *self.starts.get(line.checked_sub(1)?)?;
        let content = self.text.get(begin..)?.lines().next().unwrap_or_default();
        let content = content.trim_end_matches('\r');
        let end = begin + content.len();
        let start = start.min(end);
        let marked = start..span.end.clamp(start, end);
        let column = self.text.get(begin..start)?.chars().count() + 1;

        let shown_end = if cut { begin + known_beginning(content).len() } else { end };
        let mut shown = String::new();
        let mut indent = None;
        let mut width = 0;
        let mut at = begin;
        while at < shown_end {
            if at >= marked.start && indent.is_none() {
                indent = Some(shown.chars().count());
            }
            let rest = self.text.get(at..end)?;
            let mask = self.masks.iter().find(|mask| mask.contains(&at));
            let (step, piece) = if let Some(mask) = mask {
                (mask.end.min(end) - at, "***")
            } else {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                (length, rest.get(..length).unwrap_or_default())
            };
            // The marked part may lie inside a masked one.
            if indent.is_none() && mask.is_some() && marked.start < at + step {
                indent = Some(shown.chars().count());
            }
            if at < marked.end && indent.is_some() {
                width += piece.chars().count();
            }
            shown.push_str(piece);
            at += step;
        }
        if at < end {
            shown.push_str(if shown.is_empty() { "…" } else { " …" });
        }
        let length = shown.chars().count();
        let indent = indent.unwrap_or(length).min(length);
        Some(Quote { line, column, shown, indent, width: width.max(1) })
    }
}

/// The names of all keys of ours.
fn words() -> &'static BTreeSet<String> {
    static WORDS: OnceLock<BTreeSet<String>> = OnceLock::new();
    WORDS.get_or_init(|| {
        let mut words = BTreeSet::new();
        collect_keys(&schema(), &mut words);
        words
    })
}

/// A path as far as its keys are ours, and its last key if that is not.
pub(super) fn known_path(path: &str) -> (&str, &str) {
    let mut end = 0;
    for step in path.split_inclusive(['.', '[']) {
        let key = step.trim_end_matches(['.', '[']);
        let index = key.strip_suffix(']').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if !(index || words().contains(key)) {
            let last = path.rsplit('.').next().unwrap_or_default().trim_matches('"');
            return (path.get(..end).unwrap_or_default().trim_end_matches(['.', '[']), last);
        }
        end += step.len();
    }
    (path, "")
}

/// What of a line is a key of ours up to its `=` or `:`, or begins a table of ours.
fn known_beginning(line: &str) -> &str {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_known = |key: &str| {
        let mut names = key.split('.').map(|name| name.trim().trim_matches(['"', '\'']));
        names.next().is_some_and(|first| words().contains(first))
            && names.all(|name| name.chars().all(bare))
    };
    let opening = line.len() - line.trim_start_matches([' ', '\t', '[']).len();
    let (before, rest) = line.split_at(opening);
    let ends: &[char] = if before.contains('[') { &[']'] } else { &['=', ':'] };
    let end = rest.find(ends).unwrap_or(rest.len());
    if !rest.get(..end).is_some_and(is_known) {
        return "";
    }
    let closing = rest.get(end..).unwrap_or_default();
    let closing = match ends {
        [']'] => closing.len() - closing.trim_start_matches(']').len(),
        _ => closing.len().min(1),
    };
    line.get(..opening + end + closing).unwrap_or_default()
}

/// The names of all keys in a schema.
fn collect_keys(schema: &Value, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        keys.extend(properties.keys().cloned());
    }
    let parts = schema.as_object().into_iter().flat_map(|parts| parts.values());
    for part in parts.chain(schema.as_array().into_iter().flatten()) {
        collect_keys(part, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::parse;
    use crate::config::problem::Report;

    fn quote(text: &str, marked: &str) -> Quote {
        let masks = masks(&parse(text).0);
        let start = text.find(marked).unwrap();
        Quoter::new(text, &masks).quote(&(start..start + marked.len()), false).unwrap()
    }

    #[test]
    fn what_is_known_to_be_harmless_is_shown_and_pointed_at() {
        let quoted = quote("workers = 2\r\ndrain = \"soön\" # x\r\n", "\"soön\"");
        assert_eq!(quoted.shown, "drain = \"soön\" # x");
        assert_eq!((quoted.line, quoted.column, quoted.indent, quoted.width), (2, 9, 8, 6));
    }

    #[test]
    fn secrets_are_masked_wherever_somebody_might_write_them() {
        for line in [
            "token = \"canary\"",
            "token = 731946",
            "token = [\"canary\"]",
            "token = { value = \"canary\" }",
            "token = { vlaue=\"canary\" }",
            "token = { \"value\"\t= \"canary\" }",
            "token = { exec = [\"pass\", \"canary\"] }",
            "token = { exec = [\"echo canary\"] }",
            "tokn = \"canary\"",
            "set = { Authorization = \"Bearer canary\" }",
            "values = { key = \"canary\" }",
            "base_url = \"https://user:canary@h.test\"",
            "base_url = \"https://h.test/?key=canary\"",
            "base_url = \"https//u:canary@h.test\"",
            "upstreams = [\"canary@x\"]",
            "request = { url = \"https://h.test\", json = { p = \"canary\" } }",
            "username = \"u:canary\"",
        ] {
            let text = format!("[credential.a]\n{line}\n");
            let key = line.split(' ').next().unwrap();
            let quoted = quote(&text, key);
            assert!(quoted.shown.contains("***"), "{quoted:?}");
            assert!(!quoted.shown.contains("canary") && !quoted.shown.contains("731946"));
        }
        let inline = "listen = [{ address = \"x\", caller_token = \"canary\" }]\n";
        let quoted = quote(inline, "\"canary\"");
        assert_eq!(quoted.shown, "listen = [{ address = \"x\", caller_token = *** }]");
        assert_eq!((quoted.indent, quoted.width), (42, 3));
    }

    #[test]
    fn what_toml_cannot_read_is_cut() {
        let text = "token: \"canary\"\n";
        let quoted = Quoter::new(text, &[]).quote(&(5..6), true).unwrap();
        assert_eq!(quoted.shown, "token: …");
        for (line, shown) in [
            ("address = 127.0.0.1:8080", "address = …"),
            ("credential.x.token = \"a", "credential.x.token = …"),
            ("  [[route]", "  [[route]"),
            ("[credential.x # y", "…"),
            ("[listen]] # canary", "[listen]] …"),
            ("workers", "workers"),
            // Lines of a secret that has several.
            ("canary", "…"),
            ("Y2FuYXJ5=", "…"),
            ("-----BEGIN canary-----", "…"),
            ("[\"canary\"", "…"),
            ("token canary = 1", "…"),
        ] {
            let quoted = Quoter::new(line, &[]).quote(&(0..line.len()), true).unwrap();
            assert_eq!(quoted.shown, shown, "{line}");
        }
    }

    fn report(text: &str) -> String {
        let loaded = crate::config::load(text, &|_| None);
        Report { name: "countersign.toml", text, loaded: &loaded }.to_string()
    }

    #[test]
    fn a_message_does_not_repeat_what_is_masked() {
        let shown = report(
            "[[listen]]\naddress = \"u:canary@127.0.0.1:80\"\nhosts = [\"u:canary@h\"]\n\
             [credential.x]\nkind = \"fields\"\nset = { X-A = \"p{canary ss}\" }\n",
        );
        assert!(shown.contains("*** is not an address"), "{shown}");
        assert!(shown.contains("*** is not a host"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn a_path_is_known_as_far_as_its_keys_are_ours() {
        for (path, known, unknown) in [
            ("listen[0].address", "listen[0].address", ""),
            ("credential.x.values.canary", "credential", "canary"),
            ("route[1].set.\"can ary\"", "route[1].set", "can ary"),
            ("canary", "", "canary"),
            ("", "", ""),
        ] {
            assert_eq!(known_path(path), (known, unknown), "{path}");
        }
    }

    #[test]
    fn the_lines_of_a_secret_are_not_shown_when_a_quote_is_missing() {
        for token in [
            "''\ncanary\ncanary=\n\u{27}''",
            "\"\"\"\ncanary\ncanary:\n\"\"",
            "[\n\"x\",\n\"canary\"\n",
            "{ value = \"\", canary }",
            "\"\"\nset = { A = \"x\", canary }\nvalues = { canary, \"canary b\" = \"\" }",
        ] {
            let shown = report(&format!("[credential.a]\nkind = \"bearer\"\ntoken = {token}\n"));
            assert!(!shown.is_empty() && !shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn places_at_the_edges_of_lines_and_of_the_text_are_quoted() {
        let text = "drain = \"x\r\n[[listen]]\r\n";
        for start in 0..=text.len() + 1 {
            for end in start..=text.len() + 2 {
                Quoter::new(text, &[]).quote(&(start..end), false).unwrap();
            }
        }
    }
}
