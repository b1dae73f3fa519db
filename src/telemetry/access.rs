//! The line per request, as text for people or as flat JSON.
//!
//! Whatever a caller sends stays within its value: what could end a line, begin another value or
//! speak to a terminal is escaped.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::harmful::is_harmful;
use super::levels::Levels;
use super::sink::{Share, Sink};
use crate::clock::Clock;
use crate::config::AccessLog;

/// Writes the lines per request.
#[derive(Debug)]
pub(super) struct AccessLines {
    pub(super) levels: Arc<Levels>,
    pub(super) sink: Arc<Sink>,
    /// What lines look like that are written only because of the level.
    pub(super) otherwise: AccessLog,
}

thread_local! {
    static LINE: RefCell<(String, Fields)> = RefCell::default();
}

impl<S: Subscriber> Layer<S> for AccessLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let form = match self.levels.access() {
            AccessLog::Off => self.otherwise,
            form @ (AccessLog::Text | AccessLog::Json) => form,
        };
        LINE.with_borrow_mut(|(line, fields)| {
            line.clear();
            fields.clear();
            event.record(fields);
            match form {
                AccessLog::Json => json(line, fields),
                AccessLog::Off | AccessLog::Text => text(line, fields),
            }
            self.sink.push(line.as_bytes(), Share::Most);
        });
    }
}

/// The fields of a line in their order, in one piece of memory that is used again.
#[derive(Debug, Default)]
struct Fields {
    text: String,
    /// Where each ends in `text`, and whether it is a number or a truth value.
    ends: Vec<(&'static str, usize, bool)>,
}

impl Fields {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, &str, bool)> {
        let mut begin = 0;
        self.ends.iter().map(move |(name, end, plain)| {
            let value = self.text.get(begin..*end).unwrap_or_default();
            begin = *end;
            (*name, value, *plain)
        })
    }

    fn get(&self, name: &str) -> &str {
        self.iter().find(|field| field.0 == name).map_or("", |field| field.1)
    }

    fn end(&mut self, field: &Field, plain: bool) {
        self.ends.push((field.name(), self.text.len(), plain));
    }

    fn push(&mut self, field: &Field, value: &dyn std::fmt::Display) {
        let _ = write!(self.text, "{value}");
        self.end(field, true);
    }
}

impl Visit for Fields {
    /// Also what is displayed.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.text, "{value:?}");
        self.end(field, false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text.push_str(value);
        self.end(field, false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.push(field, &value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &value);
    }
}

/// In UTC, to a microsecond (RFC 3339).
fn timestamp(line: &mut String) {
    if let Ok(now) = Timestamp::try_from(Clock::system().wall()) {
        let _ = write!(line, "{now:.6}");
    }
}

fn json(line: &mut String, fields: &Fields) {
    line.push_str("{\"timestamp\":\"");
    timestamp(line);
    line.push_str("\",\"level\":\"INFO\"");
    for (name, value, plain) in fields.iter() {
        let _ = write!(line, ",\"{name}\":");
        if plain {
            line.push_str(value);
        } else {
            quote(line, value, json_escape);
        }
    }
    line.push_str("}\n");
}

/// What one looks for first comes first.
fn text(line: &mut String, fields: &Fields) {
    timestamp(line);
    for name in ["status", "method", "path"] {
        let value = fields.get(name);
        line.push(' ');
        word(line, if value.is_empty() { "-" } else { value });
    }
    for (name, value, _) in fields.iter() {
        if matches!(name, "status" | "method" | "path" | "message") || value.is_empty() {
            continue;
        }
        let _ = write!(line, " {name}=");
        word(line, value);
    }
    line.push('\n');
}

/// In quotation marks only if it needs them.
fn word(line: &mut String, value: &str) {
    let harmless = |c: char| !c.is_whitespace() && !is_harmful(c) && !matches!(c, '"' | '\\' | '=');
    // An equals sign is common in paths, and no harm where there is no name before it.
    let path = value.starts_with('/');
    if value.chars().all(|c| harmless(c) || (path && c == '=')) {
        line.push_str(value);
    } else {
        quote(line, value, text_escape);
    }
}

fn quote(line: &mut String, value: &str, escape: fn(&mut String, char)) {
    line.push('"');
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            odd if is_harmful(odd) => escape(line, odd),
            usual => line.push(usual),
        }
    }
    line.push('"');
}

/// All of them are in the plane for which JSON has one escape.
fn json_escape(line: &mut String, c: char) {
    let _ = write!(line, "\\u{:04x}", u32::from(c));
}

fn text_escape(line: &mut String, c: char) {
    line.extend(c.escape_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&'static str, &str, bool)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value, plain) in all {
            fields.text.push_str(value);
            fields.ends.push((name, fields.text.len(), *plain));
        }
        fields
    }

    /// Without the time, which is checked.
    fn line(form: fn(&mut String, &Fields), all: &[(&'static str, &str, bool)]) -> String {
        let mut line = String::new();
        form(&mut line, &fields(all));
        let at = line.find("20").unwrap();
        let (time, rest) = line[at..].split_at("2026-01-01T00:00:00.000000Z".len());
        assert!(time.parse::<Timestamp>().is_ok(), "{line}");
        format!("{}{rest}", &line[..at])
    }

    const USUAL: [(&str, &str, bool); 7] = [
        ("message", "request", false),
        ("method", "GET", false),
        ("path", "/plant/v3=x", false),
        ("route", "plant", false),
        ("status", "200", true),
        ("reason", "", false),
        ("ms", "12", true),
    ];

    #[test]
    fn a_line_says_first_what_one_looks_for() {
        assert_eq!(line(text, &USUAL), " 200 GET /plant/v3=x route=plant ms=12\n");
        let expected = "{\"timestamp\":\"\",\"level\":\"INFO\",\"message\":\"request\",\
                        \"method\":\"GET\",\"path\":\"/plant/v3=x\",\"route\":\"plant\",\
                        \"status\":200,\"reason\":\"\",\"ms\":12}\n";
        assert_eq!(line(json, &USUAL), expected);
        let unread = [("status", "400", true), ("reason", "malformed", false)];
        assert_eq!(line(text, &unread), " 400 - - reason=malformed\n");
    }

    #[test]
    fn no_value_ends_its_line_or_speaks_to_a_terminal() {
        let hostile = [
            "/a\nb\r\n2026-01-01T00:00:00Z 200 GET /forged",
            "/a\u{1b}[2J\u{9b}31m\u{7f}",
            "x\" status=200 y=\"",
            "back\\slash\\\"",
            "route=other ms=1",
            "\u{202e}gpj.exe\u{61c}\u{2028}\u{2066}\u{feff}\0",
            "spaces and\ttabs\u{a0}",
        ];
        for value in hostile {
            let all = [("path", value, false), ("client", value, false), ("ms", "1", true)];
            let written = line(text, &all);
            assert!(written.ends_with(" ms=1\n"), "{written:?}");
            let body = written.trim_end_matches('\n');
            assert!(!body.chars().any(is_harmful), "{written:?}");
            assert_eq!(unquoted(&written, "client="), value, "{written:?}");
            let written = line(json, &all);
            let body = written.trim_end_matches('\n');
            assert!(!body.chars().any(is_harmful), "{written:?}");
            let read: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(read["path"], value);
            assert_eq!(read["client"], value);
            assert_eq!(read.as_object().unwrap().len(), 5, "{written}");
        }
    }

    /// The quoted value behind `name`, read by the rules by which it was written.
    fn unquoted(line: &str, name: &str) -> String {
        let quoted = &line[line.find(&format!(" {name}\"")).unwrap() + name.len() + 2..];
        let (mut value, mut rest) = (String::new(), quoted.chars());
        loop {
            match rest.next().unwrap() {
                '"' => return value,
                '\\' => match rest.next().unwrap() {
                    'n' => value.push('\n'),
                    'r' => value.push('\r'),
                    't' => value.push('\t'),
                    'u' => {
                        assert_eq!(rest.next(), Some('{'));
                        let digits: String = rest.by_ref().take_while(|c| *c != '}').collect();
                        value.push(u32::from_str_radix(&digits, 16).unwrap().try_into().unwrap());
                    }
                    c => value.push(c),
                },
                c => value.push(c),
            }
        }
    }
}
