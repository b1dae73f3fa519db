//! The control path: switches and counters over HTTP.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use hyper::body::Body;
use serde_json::{Map, Value, json};

use super::{
    Answer, Api, Shared, Switches,
    content::{KEPT_LIMIT, Limits, read},
};

/// Where a stand-in takes its switches and tells its counters: `GET` reads them, `POST` changes
/// them.
pub const CONTROL_PATH: &str = "/_mock";

/// Content of a control call, in bytes.
const CONTROL_LIMIT: u64 = 64 * 1024;

/// Answers a control call; it is not recorded.
pub(super) async fn control<A, B>(shared: &Shared<A>, head: &Parts, body: B) -> Answer
where
    A: Api,
    B: Body<Data = Bytes> + Unpin,
{
    if head.method == Method::GET {
        return state(shared);
    }
    if head.method != Method::POST {
        return Answer::empty(StatusCode::METHOD_NOT_ALLOWED)
            .field(header::ALLOW, HeaderValue::from_static("GET, POST"));
    }
    let limits = Limits { total: CONTROL_LIMIT, kept: KEPT_LIMIT };
    let (content, flaw) = read(body, limits, |_| {}).await;
    if let Some(flaw) = flaw {
        let (status, message) = flaw.explain();
        return Answer::json(status, "application/json", &json!({ "error": message }));
    }
    let changes =
        content.kept.and_then(|text| serde_json::from_slice::<Map<String, Value>>(&text).ok());
    let problem = match changes.map(|changes| shared.switches.apply(&changes)) {
        Some(Ok(())) => return state(shared),
        Some(Err(error)) => error.to_string(),
        None => "the content must be a JSON object".to_owned(),
    };
    let problem = json!({ "error": problem, "known": Switches::KEYS });
    Answer::json(StatusCode::BAD_REQUEST, "application/json", &problem)
}

/// Switches and counters, no credential.
fn state<A: Api>(shared: &Shared<A>) -> Answer {
    let recorder = &shared.recorder;
    let mut state = json!({
        "vendor": A::NAME,
        "switches": shared.switches.to_json(),
        "counters": {
            "token_calls": recorder.token_calls(),
            "logins": recorder.logins(),
            "refreshes": recorder.refreshes(),
            "revocations": recorder.revocations(),
            "accepted": recorder.accepted(),
            "refused": recorder.refused(),
            "recorded": recorder.count(),
        },
    });
    if let Some(counters) = state.get_mut("counters").and_then(Value::as_object_mut) {
        let own = shared.api.counters().into_iter();
        counters.extend(own.map(|(name, count)| (name.to_owned(), count.into())));
    }
    Answer::json(StatusCode::OK, "application/json", &state)
}
