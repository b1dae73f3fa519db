//! Configuration texts: every text is read to a configuration or to problems, and whatever secret
//! stands where none belongs is not in the report.

use std::ops::Range;
use std::time::Duration;

use super::flags;
use crate::config::document::{self, Node, NodeValue};
use crate::config::problem::{Report, any_error};
use crate::config::quote::Quoter;
use crate::config::{Loaded, load, units};
use crate::credential::schedule::Span;
use crate::proxy::route::RouteTable;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("api.example.com".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn report(text: &str, loaded: &Loaded) -> String {
    Report { name: "countersign.toml", text, loaded }.to_string()
}

/// Whole configurations.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let loaded = load(text, &environment);
    let shown = report(text, &loaded);
    assert_eq!(shown.is_empty(), loaded.problems.is_empty());
    assert_eq!(loaded.config.is_none(), any_error(&loaded.problems), "{shown}");
    for problem in &loaded.problems {
        let broken = loaded.problems.iter().any(|problem| problem.syntax);
        assert!(broken || shown.contains(&problem.message), "{problem:?} is not in {shown}");
        if let Some(span) = &problem.span {
            assert!(span.start <= span.end && span.end <= text.len(), "{problem:?}");
        }
    }
    let mut end = 0;
    for mask in &loaded.masks {
        assert!(mask.start >= end && mask.start <= mask.end, "masks overlap");
        assert!(text.get(mask.clone()).is_some(), "a mask cuts a character");
        end = mask.end;
    }
    if let Some(config) = &loaded.config {
        assert!(!config.listeners.is_empty() && !config.routes.is_empty());
        let table = RouteTable::new(&config.routes);
        for (index, route) in config.routes.iter().enumerate() {
            assert!(route.credentials.iter().all(|one| *one < config.credentials.len()));
            let host = route.host.as_deref().unwrap_or("another.test");
            let method = route.methods.first().unwrap_or(&http::Method::GET);
            let path = format!("{}/", route.prefix);
            assert_eq!(
                table.find(host, &path, method),
                crate::proxy::route::Found::Route(index),
                "a route that can be configured can be reached"
            );
        }
    }
    put_secrets(text);
}

/// Puts a secret in the place of values that are not shown, one after the other.
fn put_secrets(text: &str) {
    let (document, problems) = document::parse(text);
    // Where that is broken already, a secret may come to stand in a key, and keys are shown. Nor can
    // one be told from what stands elsewhere as well.
    if !problems.is_empty() || text.contains("731946") {
        return;
    }
    let mut places = Vec::new();
    collect(&document, false, &mut places);
    places.retain(|place| text.get(place.span.clone()).is_some_and(|old| !old.is_empty()));
    let number = text
        .bytes()
        .fold(5_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let secrets = [
        "\"canary-731946\"",
        "\"u:canary-731946@h.test\"",
        "\"{canary 731946}\"",
        "'''\ncanary-731946\ncanary-731946'''",
        "canary-731946",
        "[\"canary-731946\", 731946]",
    ];
    for at in 0..places.len().min(2) {
        let place = &places[number.wrapping_add(at) % places.len()];
        let secret = secrets[(number / 7 + at) % secrets.len()];
        let (before, behind) = (&text[..place.span.start], &text[place.span.end..]);
        let put = format!("{before}{secret}{behind}");
        let loaded = load(&put, &environment);
        let span = place.span.start..place.span.start + secret.len();
        let masked = loaded.masks.contains(&span);
        let read = !loaded.problems.iter().any(|problem| problem.syntax);
        if place.secret || masked {
            assert!(masked || !read || secret.starts_with('['), "{put} is not masked");
            check_hidden(&put, &loaded);
            // Nor may it be seen because something is missing.
            let broken = match number % 4 {
                0 => put[..span.end].to_owned(),
                1 => put[..span.end - 1].to_owned(),
                2 => format!("{before}{}{behind}", &secret[..secret.len() - 1]),
                _ => format!("{before}{}{behind}", &secret[1..]),
            };
            check_hidden(&broken, &load(&broken, &environment));
        }
    }
}

fn check_hidden(text: &str, loaded: &Loaded) {
    let shown = report(text, loaded);
    assert!(!shown.contains("731946"), "{shown}\nof\n{text}");
}

struct Place {
    span: Range<usize>,
    /// Whatever the rules say, a secret stands here.
    secret: bool,
}

const SECRETS: [&str; 8] = [
    "password",
    "token",
    "caller_token",
    "api_key",
    "api_secret",
    "value",
    "domain_api_key",
    "reseller_api_key",
];

/// The values of a document, and which of them can be nothing but secrets.
fn collect(node: &Node, secret: bool, places: &mut Vec<Place>) {
    match &node.value {
        NodeValue::Table(entries) => {
            for entry in entries {
                let key = &*entry.key;
                let within = matches!(key, "set" | "json" | "form" | "headers");
                // A "value" in there is the name of one.
                if key == "base" {
                    continue;
                }
                // Where it is found is no secret.
                let open = matches!(key, "env" | "file" | "systemd" | "exec");
                let named = SECRETS.contains(&key)
                    && matches!(entry.node.value, NodeValue::String(_) | NodeValue::Integer(_));
                collect(&entry.node, !open && (secret || within || named), places);
            }
        }
        NodeValue::Array(items) => items.iter().for_each(|item| collect(item, secret, places)),
        NodeValue::String(_) | NodeValue::Integer(_) => {
            places.push(Place { span: node.span.clone(), secret });
        }
        _ => {}
    }
}

/// What may be quoted of a text. `<` and `>` stand around what is masked, `[` and `]` around what is
/// pointed at; flag 1 cuts the line.
pub fn quote(bytes: &[u8]) {
    let Some((flags, bytes)) = flags(bytes) else { return };
    let Ok(marked) = std::str::from_utf8(bytes) else { return };
    if marked.contains('\u{e000}') {
        return;
    }
    let (mut text, mut masks) = (String::new(), Vec::new());
    let (mut masked, mut from, mut to) = (None, None, None);
    for c in marked.chars() {
        match c {
            '<' if masked.is_none() => masked = Some(text.len()),
            '>' if masked.is_some() => masks.extend(masked.take().map(|start| start..text.len())),
            '[' if from.is_none() => from = Some(text.len()),
            ']' if to.is_none() => to = Some(text.len()),
            '\n' | '\r' => text.push(c),
            // A character that stands nowhere else.
            _ if masked.is_some() => text.push('\u{e000}'),
            c => text.push(c),
        }
    }
    masks.extend(masked.map(|start| start..text.len()));
    masks.retain(|mask| !mask.is_empty());
    let start = from.unwrap_or(0);
    let span = start..to.unwrap_or(text.len()).max(start);
    let cut = flags & 1 != 0;
    let quote = Quoter::new(&text, &masks).quote(&span, cut).expect("every place is on a line");
    assert!(!quote.shown.contains('\u{e000}'), "{quote:?} shows what is masked");
    assert!(!quote.shown.contains('\n'));

    let begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[begin..].split('\n').next().unwrap().trim_end_matches('\r');
    assert_eq!(quote.line, text[..start].matches('\n').count() + 1);
    let column = text[begin..start.min(begin + line.len())].chars().count() + 1;
    assert_eq!(quote.column, column);
    let mut shown = String::new();
    let mut at = begin;
    let end = begin + line.len();
    while at < end {
        if let Some(mask) = masks.iter().find(|mask| mask.contains(&at)) {
            shown.push_str("***");
            at = mask.end.min(end);
            continue;
        }
        let c = text[at..].chars().next().unwrap();
        shown.push(c);
        at += c.len_utf8();
    }
    if cut {
        let (known, rest) = match quote.shown.strip_suffix('…') {
            Some(known) => (known.trim_end(), true),
            None => (&*quote.shown, false),
        };
        assert!(shown.starts_with(known), "{quote:?} is no part of {shown}");
        assert!(rest || known == shown, "{quote:?} is all there is of {shown}");
        let key = known.trim_matches(|c: char| c.is_whitespace() || "[]=:".contains(c));
        assert!(!key.contains([' ', '=', ':']) || key.contains('.'), "{quote:?} shows no key");
    } else {
        assert_eq!(quote.shown, shown);
    }
    assert!(quote.width >= 1 && quote.indent <= quote.shown.chars().count(), "{quote:?}");
    let pointed = &text[start.min(end)..span.end.min(end).max(start.min(end))];
    let touched = masks.iter().any(|mask| mask.start <= span.end && mask.end >= begin);
    if !cut && !touched && !pointed.is_empty() {
        let chars = shown.chars().skip(quote.indent).take(quote.width);
        assert_eq!(chars.collect::<String>(), pointed);
    }
}

/// Durations, sizes and shares.
pub fn units(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let decade = Duration::from_hours(87_600);
    if let Ok(duration) = units::duration(text) {
        assert!(!duration.is_zero() && duration <= decade, "{text} is {duration:?}");
        let written = format!("{}ns", duration.as_nanos());
        if let Ok(again) = units::duration(&written) {
            assert_eq!(again, duration);
        }
    }
    match units::span(text) {
        Ok(Span::Share(share)) => assert!((0.0..=0.9).contains(&share), "{text} is {share}"),
        Ok(Span::Duration(duration)) => assert_eq!(units::duration(text), Ok(duration)),
        Err(message) => assert!(message.len() <= text.len() + 200),
    }
    if let Ok(size) = units::size(text) {
        let text = text.trim();
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        let number: u128 = digits.parse().expect("a size begins with a number");
        let factor = match text[digits.len()..].trim().to_ascii_lowercase().as_bytes() {
            [] | [b'b'] => 1,
            [b'k'] | [b'k', b'b'] => 1000,
            [b'm'] | [b'm', b'b'] => 1_000_000,
            [b'g'] | [b'g', b'b'] => 1_000_000_000,
            [b'k', b'i', ..] => 1 << 10,
            [b'm', b'i', ..] => 1 << 20,
            [b'g', b'i', ..] => 1 << 30,
            other => panic!("{other:?} is taken for a unit"),
        };
        assert_eq!(u128::from(size), number * factor, "{text}");
    }
}
