//! Calls that bring records: positions and sensor values, for one device or for many.

use bytes::Bytes;
use http::{StatusCode, header, request::Parts};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use super::{
    Answer, Content,
    problem::{Fault, JSON, problem},
    route::Records,
};

/// What the older C++ clients send and want back.
const PROTOBUF: &str = "application/x-protobuf";

/// What a request's content claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    Json,
    Protobuf,
    Other,
}

/// Reads `Content-Type`, without its parameters.
pub(super) fn media_type(head: &Parts) -> MediaType {
    let value = head.headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        MediaType::Json
    } else if essence.eq_ignore_ascii_case(PROTOBUF) {
        MediaType::Protobuf
    } else {
        MediaType::Other
    }
}

/// Answers with one success for each record; protobuf content is not looked into and answered with
/// an empty message.
pub(super) fn answer(head: &Parts, records: Records, login: &str, content: &Content) -> Answer {
    match media_type(head) {
        MediaType::Json => {}
        MediaType::Protobuf => return Answer::with_body(StatusCode::OK, PROTOBUF, Bytes::new()),
        MediaType::Other => {
            return problem(head, Fault::MediaType, "The content must be JSON or protobuf.");
        }
    }
    let Some(text) = &content.kept else {
        return problem(head, Fault::TooLarge, "The content is larger than 1 MiB.");
    };
    let Ok(sent) = serde_json::from_slice::<Vec<Map<String, Value>>>(text) else {
        return problem(head, Fault::BadRequest, "The content must be an array of objects.");
    };
    let incomplete =
        || problem(head, Fault::BadRequest, "A record lacks its Timestamp, its Login or its list.");
    if records.batch {
        let outcomes: Option<Vec<Outcome>> =
            sent.iter().map(|device| of_device(records.list, device)).collect();
        return outcomes
            .map_or_else(incomplete, |outcomes| Answer::json(StatusCode::OK, JSON, &outcomes));
    }
    sent.iter().map(created).collect::<Option<Vec<_>>>().map_or_else(incomplete, |created| {
        Answer::json(StatusCode::OK, JSON, &Outcome::success(login, records.list, created))
    })
}

/// Recorded: the answer to a call whose branch does not own the device.
pub(super) fn no_such_device(login: &str) -> Answer {
    let outcome = Outcome {
        error: Some("The device does not exist."),
        ..Outcome::success(login, "Locations", Vec::new())
    };
    Answer::json(StatusCode::OK, JSON, &outcome)
}

/// What became of one device's records, written with its keys in the recorded order.
struct Outcome<'a> {
    login: &'a str,
    error: Option<&'static str>,
    list: &'static str,
    created: Vec<Created>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    timestamp: i64,
    action: &'static str,
    success: bool,
}

impl<'a> Outcome<'a> {
    fn success(login: &'a str, list: &'static str, created: Vec<Created>) -> Self {
        Self { login, error: None, list, created }
    }
}

impl Serialize for Outcome<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Login", self.login)?;
        map.serialize_entry("Success", &self.error.is_none())?;
        if let Some(error) = self.error {
            map.serialize_entry("ErrorMessage", error)?;
        }
        map.serialize_entry(self.list, &self.created)?;
        map.end()
    }
}

fn of_device<'a>(list: &'static str, device: &'a Map<String, Value>) -> Option<Outcome<'a>> {
    let login = device.get("Login")?.as_str()?;
    let records = device.get(list)?.as_array()?;
    let created =
        records.iter().map(|record| created(record.as_object()?)).collect::<Option<_>>()?;
    Some(Outcome::success(login, list, created))
}

fn created(record: &Map<String, Value>) -> Option<Created> {
    Some(Created { timestamp: record.get("Timestamp")?.as_i64()?, action: "Create", success: true })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ONE: Records = Records { list: "Locations", batch: false };
    const MANY: Records = Records { list: "SensorData", batch: true };

    fn ask(records: Records, content_type: &str, text: &'static str) -> Answer {
        let (head, ()) = http::Request::post("/v3/localization")
            .header("content-type", content_type)
            .body(())
            .unwrap()
            .into_parts();
        let content = Content {
            len: text.len() as u64,
            sha256: String::new(),
            kept: Some(Bytes::from_static(text.as_bytes())),
        };
        answer(&head, records, "gateway-01", &content)
    }

    #[test]
    fn positions_are_answered_in_the_recorded_shape() {
        let answer =
            ask(ONE, "application/json; charset=utf-8", r#"[{"Timestamp":1700000000000,"X":1.5}]"#);
        assert_eq!(
            answer.body,
            r#"{"Login":"gateway-01","Success":true,"Locations":[{"Timestamp":1700000000000,"Action":"Create","Success":true}]}"#
        );
        let refused = no_such_device("gateway-01");
        assert_eq!(refused.status, StatusCode::OK);
        assert_eq!(
            refused.body,
            r#"{"Login":"gateway-01","Success":false,"ErrorMessage":"The device does not exist.","Locations":[]}"#
        );
    }

    #[test]
    fn a_batch_is_answered_device_by_device() {
        let answer =
            ask(MANY, "application/json", r#"[{"Login":"a","SensorData":[{"Timestamp":1}]}]"#);
        assert_eq!(
            answer.body,
            r#"[{"Login":"a","Success":true,"SensorData":[{"Timestamp":1,"Action":"Create","Success":true}]}]"#
        );
        let incomplete = ask(MANY, "application/json", r#"[{"Login":"a","Locations":[]}]"#);
        assert_eq!(incomplete.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn an_object_around_the_array_is_refused() {
        let answer = ask(ONE, "application/json", r#"{"Locations":[]}"#);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(ask(ONE, "application/json", "[{}]").status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn protobuf_is_opaque_and_anything_else_unsupported() {
        let answer = ask(ONE, PROTOBUF, "\u{1}\u{2}");
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
        assert_eq!(answer.fields["content-type"], PROTOBUF);
        assert_eq!(ask(ONE, "text/plain", "[]").status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
