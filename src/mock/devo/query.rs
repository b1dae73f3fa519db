//! What the query API answers: always the same few invented events, in the form asked for.

use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, CID, Content, JSON};

/// Columns and their types, in the order of the rows' values.
const COLUMNS: [(&str, &str); 4] =
    [("eventdate", "timestamp"), ("machine", "str"), ("level", "str"), ("count", "int8")];

/// What encloses the result of a query, keys in the vendor's order.
#[derive(Serialize)]
struct Envelope<'a> {
    msg: &'static str,
    timestamp: i64,
    cid: &'a str,
    status: u8,
    object: Value,
}

/// Answers in the form that the query's `mode.type` names: `json/compact`, `json/simple`,
/// `json/simple/compact`, and `json` for anything else, content that is no query included, so that
/// any signed content can be sent here.
pub(super) fn answer(content: &Content, cid: &str, now_ms: i64) -> Answer {
    let query: Value = content
        .kept
        .as_deref()
        .and_then(|text| serde_json::from_slice(text).ok())
        .unwrap_or_default();
    let mode = query.pointer("/mode/type").and_then(Value::as_str);
    let rows = rows(now_ms);
    let enveloped = |object| Envelope { msg: "", timestamp: now_ms, cid, status: 0, object };
    let answer = match mode {
        Some("json/compact") => {
            let object = json!({ "m": columns(), "d": rows });
            Answer::json(StatusCode::OK, JSON, &enveloped(object))
        }
        Some("json/simple") => lines(rows.iter().map(named)),
        Some("json/simple/compact") => {
            let head = std::iter::once(json!({ "m": columns() }));
            lines(head.chain(rows.iter().map(|row| json!({ "d": row }))))
        }
        _ => {
            let object = rows.iter().map(named).collect();
            Answer::json(StatusCode::OK, JSON, &enveloped(object))
        }
    };
    match HeaderValue::try_from(cid) {
        Ok(value) => answer.field(CID, value),
        Err(_) => answer,
    }
}

fn rows(now_ms: i64) -> Vec<[Value; 4]> {
    let row = |age: i64, machine: &str, level: &str, count: u64| {
        [json!(now_ms.saturating_sub(age)), json!(machine), json!(level), json!(count)]
    };
    vec![
        row(3_000, "press-01", "INFO", 12),
        row(2_000, "press-02", "WARN", 3),
        row(1_000, "robot-07", "INFO", 41),
    ]
}

fn named(row: &[Value; 4]) -> Value {
    COLUMNS.iter().zip(row).map(|((name, _), value)| ((*name).to_owned(), value.clone())).collect()
}

fn columns() -> Value {
    (0..)
        .zip(COLUMNS)
        .map(|(index, (name, kind)): (u64, _)| {
            (name.to_owned(), json!({ "type": kind, "index": index }))
        })
        .collect()
}

/// One value a line.
fn lines(values: impl Iterator<Item = Value>) -> Answer {
    let text = values.fold(String::new(), |text, value| text + &value.to_string() + "\n");
    Answer::with_body(StatusCode::OK, JSON, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use bytes::Bytes;

    use super::*;

    fn ask(query: &'static str) -> Bytes {
        let content = Content {
            len: query.len() as u64,
            sha256: String::new(),
            kept: Some(Bytes::from_static(query.as_bytes())),
        };
        answer(&content, "c1d", 1_700_000_000_000).body
    }

    #[test]
    fn json_comes_in_an_envelope_with_the_keys_in_order() {
        for query in [r#"{"mode":{"type":"json"}}"#, "", "no json"] {
            let body = ask(query);
            let head = r#"{"msg":"","timestamp":1700000000000,"cid":"c1d","status":0,"object":[{"#;
            assert!(body.starts_with(head.as_bytes()), "{query}");
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["object"][1]["machine"], "press-02");
        }
    }

    #[test]
    fn compact_rows_come_beside_their_columns() {
        let value: Value =
            serde_json::from_slice(&ask(r#"{"mode":{"type":"json/compact"}}"#)).unwrap();
        let index = value["object"]["m"]["count"]["index"].as_u64().unwrap();
        assert_eq!(value["object"]["d"][2][usize::try_from(index).unwrap()], 41);
    }

    #[test]
    fn simple_forms_come_line_by_line() {
        let simple = ask(r#"{"mode":{"type":"json/simple"}}"#);
        assert_eq!(simple.split(|byte| *byte == b'\n').count(), 4);
        let compact = ask(r#"{"mode":{"type":"json/simple/compact"}}"#);
        assert!(compact.starts_with(br#"{"m":{"#));
        assert_eq!(compact.split(|byte| *byte == b'\n').count(), 5);
    }
}
