//! The content of requests that change something: JSON, bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

/// The most that is read.
const MAX_CONTENT: usize = 64 << 10;
/// How long it may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A status and why.
pub(super) type Unreadable = (StatusCode, &'static str);

/// The content as JSON; null if there is none.
pub(super) async fn read<B>(content: B) -> Result<Value, Unreadable>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if content.size_hint().lower() > MAX_CONTENT as u64 {
        return Err(TOO_LARGE);
    }
    let reading = Limited::new(content, MAX_CONTENT).collect();
    let Ok(read) = tokio::time::timeout(TIMEOUT, reading).await else {
        return Err((StatusCode::REQUEST_TIMEOUT, "the content did not arrive within 5 s"));
    };
    let content = match read {
        Ok(content) => content.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(TOO_LARGE),
        Err(_) => return Err((StatusCode::BAD_REQUEST, "the content broke off")),
    };
    if content.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&content)
        .map_err(|_| (StatusCode::BAD_REQUEST, "the content is not valid JSON"))
}

const TOO_LARGE: Unreadable = (StatusCode::PAYLOAD_TOO_LARGE, "the content is larger than 64 KiB");

/// True for what asks for nothing beyond the path: no content, or an empty object.
pub(super) fn is_nothing(content: &Value) -> bool {
    content.is_null() || content.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    async fn of(content: impl Into<Bytes>) -> Result<Value, StatusCode> {
        read(Full::new(content.into())).await.map_err(|(status, _)| status)
    }

    #[tokio::test]
    async fn it_is_json_of_no_more_than_64_kib_or_nothing() {
        assert_eq!(of("").await, Ok(Value::Null));
        assert_eq!(of("{\"a\": 1}").await, Ok(serde_json::json!({ "a": 1 })));
        assert_eq!(of("{\"a\": ").await, Err(StatusCode::BAD_REQUEST));
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert!(of(text(MAX_CONTENT)).await.is_ok());
        assert_eq!(of(text(MAX_CONTENT + 1)).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        let endless = futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(&[b' '; 1024])))
        });
        let endless = read(http_body_util::StreamBody::new(endless)).await;
        assert_eq!(endless.unwrap_err(), TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_arrive_is_not_waited_for() {
        let never =
            futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
        let told = read(http_body_util::StreamBody::new(never)).await;
        assert_eq!(told.unwrap_err().0, StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn an_empty_object_asks_for_nothing() {
        assert!(is_nothing(&Value::Null) && is_nothing(&serde_json::json!({})));
        assert!(!is_nothing(&serde_json::json!({ "device": "x" })));
        assert!(!is_nothing(&serde_json::json!([])));
    }
}
