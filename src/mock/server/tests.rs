#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::{
    super::{
        Event, Opened,
        testing::{LOOPBACK, json as json_of, request, send, send_h2},
    },
    *,
};

/// Accepts everything; `/token` is a token endpoint, `/panic` panics.
#[derive(Debug)]
struct Plain;

impl Api for Plain {
    type Pending = u64;

    const NAME: &'static str = "plain";

    fn open(&self, head: &Parts, _now_ms: i64) -> Opened<u64> {
        let kind = match head.uri.path() {
            "/token" => Kind::Token,
            "/nowhere" => Kind::Unknown,
            _ => Kind::Data,
        };
        Opened { kind, keep: true, pending: 0 }
    }

    fn absorb(pending: &mut u64, chunk: &[u8]) {
        *pending += chunk.len() as u64;
    }

    fn answer(
        &self,
        head: &Parts,
        pending: u64,
        content: &Content,
        _switches: &Switches,
    ) -> Answer {
        assert_ne!(head.uri.path(), "/panic", "as the test wants");
        let kept = content.kept.as_ref().map(Bytes::len);
        Answer::json(
            StatusCode::OK,
            "application/json",
            &json!({ "absorbed": pending, "kept": kept }),
        )
        .accepted("anything is right")
        .event(Event::Login)
    }

    fn error(&self, _head: &Parts, status: StatusCode, message: &str) -> Answer {
        Answer::with_body(status, "text/plain", message.to_owned())
    }

    fn success_false(&self) -> Answer {
        Answer::json(StatusCode::OK, "application/json", &json!({ "Success": false }))
    }

    fn decorate(&self, fields: &mut http::HeaderMap) {
        fields.insert("x-plain", HeaderValue::from_static("1"));
    }
}

async fn plain() -> StandIn {
    StandIn::start(LOOPBACK, Plain).await.unwrap()
}

#[tokio::test]
async fn both_http_versions_are_answered() {
    let stand_in = plain().await;
    let one = send(stand_in.address(), request("POST", "/a", &[], "abc")).await.unwrap();
    let two = send_h2(stand_in.address(), request("POST", "/a?b=%20", &[], "abc")).await.unwrap();
    for response in [one, two] {
        assert_eq!(json_of(&response), json!({ "absorbed": 3, "kept": 3 }));
        assert_eq!(response.headers()["x-plain"], "1");
    }
    let versions: Vec<_> =
        stand_in.recorder().all().iter().map(|recorded| recorded.version).collect();
    assert_eq!(versions, [http::Version::HTTP_11, http::Version::HTTP_2]);
    assert_eq!(stand_in.recorder().last().unwrap().target, "/a?b=%20");
}

#[tokio::test]
async fn content_above_a_mebibyte_is_read_but_not_kept() {
    let stand_in = plain().await;
    let call = request("POST", "/a", &[], vec![0; KEPT_LIMIT + 1]);
    let response = send(stand_in.address(), call).await.unwrap();
    assert_eq!(json_of(&response), json!({ "absorbed": KEPT_LIMIT + 1, "kept": null }));
}

#[tokio::test]
async fn failures_that_answer_do_so_as_often_as_asked() {
    let stand_in = plain().await;
    let retry_after = Some(7);
    for (failure, status) in [
        (Failure::TooManyRequests { retry_after }, 429),
        (Failure::ServerError, 500),
        (Failure::EmptyOk, 200),
        (Failure::Garbage, 200),
        (Failure::SuccessFalse, 200),
    ] {
        stand_in.switches().fail_token_calls(failure, Some(1));
        let data = send(stand_in.address(), request("GET", "/data", &[], "")).await.unwrap();
        assert_eq!(json_of(&data)["absorbed"], 0);
        let failed = send(stand_in.address(), request("GET", "/token", &[], "")).await.unwrap();
        assert_eq!(failed.status(), status);
        assert!(failed.headers().contains_key("x-plain"));
        match failure {
            Failure::TooManyRequests { .. } => assert_eq!(failed.headers()["retry-after"], "7"),
            Failure::EmptyOk => assert!(failed.body().is_empty()),
            Failure::Garbage => assert!(serde_json::from_slice::<Value>(failed.body()).is_err()),
            Failure::SuccessFalse => assert_eq!(json_of(&failed)["Success"], false),
            Failure::None | Failure::ServerError | Failure::Hang | Failure::CloseConnection => {}
        }
        let recorded = stand_in.recorder().last().unwrap();
        assert_eq!(recorded.verdict, format!("not judged: the failure switch says {failure}"));
        let after = send(stand_in.address(), request("GET", "/token", &[], "")).await.unwrap();
        assert_eq!(json_of(&after)["absorbed"], 0);
    }
    let recorder = stand_in.recorder();
    assert_eq!((recorder.token_calls(), recorder.logins(), recorder.refused()), (10, 10, 5));
}

#[tokio::test]
async fn a_connection_can_be_closed_instead_of_answered() {
    let stand_in = plain().await;
    stand_in.switches().fail_data_calls(Failure::CloseConnection, Some(2));
    assert!(send(stand_in.address(), request("GET", "/a", &[], "")).await.is_err());
    assert!(send_h2(stand_in.address(), request("GET", "/a", &[], "")).await.is_err());
    assert_eq!(stand_in.recorder().last().unwrap().status, 0);
    assert!(send(stand_in.address(), request("GET", "/a", &[], "")).await.is_ok());
}

/// A stand-in without a socket, for tests that pause time.
fn shared() -> Shared<Plain> {
    Shared { api: Plain, switches: Arc::default(), recorder: Arc::default() }
}

#[tokio::test(start_paused = true)]
async fn latency_is_kept_apart_for_tokens_and_data() {
    let shared = shared();
    shared.switches.set_token_latency(Duration::from_secs(3));
    shared.switches.set_data_latency(Duration::from_secs(5));
    let hang_up = Notify::new();
    for (target, seconds) in [("/token", 3), ("/data", 5), ("/nowhere", 0)] {
        let before = tokio::time::Instant::now();
        exchange(&shared, request("GET", target, &[], ""), &hang_up).await;
        assert_eq!(before.elapsed().as_secs(), seconds, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_ends_by_closing_the_connection() {
    let shared = shared();
    shared.switches.fail_data_calls(Failure::Hang, None);
    let hang_up = Notify::new();
    let before = tokio::time::Instant::now();
    tokio::select! {
        _ = exchange(&shared, request("GET", "/a", &[], ""), &hang_up) => panic!("answered"),
        () = hang_up.notified() => {}
    }
    // The paused clock is a wheel of milliseconds.
    assert!(before.elapsed().abs_diff(HANG_LIMIT) < Duration::from_millis(10));
    assert_eq!(shared.recorder.last().unwrap().status, 0);
}

/// Content of which nothing ever arrives.
struct Stalled;

impl Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_stalls_is_given_up() {
    let shared = shared();
    let response =
        exchange(&shared, Request::post("/a").body(Stalled).unwrap(), &Notify::new()).await;
    assert_eq!(response.status(), 408);
}

#[tokio::test]
async fn the_date_follows_the_clock_switch() {
    let stand_in = plain().await;
    stand_in.switches().set_clock_offset_ms(-stand_in.switches().now_ms());
    let response = send(stand_in.address(), request("GET", "/a", &[], "")).await.unwrap();
    let date = response.headers()["date"].to_str().unwrap();
    assert!(date.starts_with("Thu, 01 Jan 1970 00:00:0") && date.ends_with(" GMT"), "{date}");
    assert_eq!(response.headers().get_all("date").iter().count(), 1);
}

#[tokio::test]
async fn the_control_path_reads_and_sets_the_switches_unrecorded() {
    let stand_in = plain().await;
    send(stand_in.address(), request("GET", "/token", &[], "")).await.unwrap();
    let state =
        json_of(&send(stand_in.address(), request("GET", "/_mock", &[], "")).await.unwrap());
    assert_eq!(state["vendor"], "plain");
    assert_eq!(state["switches"]["token_failure"], "none");
    assert_eq!(state["counters"]["logins"], 1);

    let change = r#"{"token_failure":"too_many_requests:9","token_failure_times":2,"revoke":true}"#;
    let state =
        json_of(&send(stand_in.address(), request("POST", "/_mock", &[], change)).await.unwrap());
    assert_eq!(state["switches"]["token_failure_times"], 2);
    assert_eq!(
        stand_in.switches().token_failure(),
        Failure::TooManyRequests { retry_after: Some(9) }
    );

    let unknown =
        send(stand_in.address(), request("POST", "/_mock", &[], r#"{"zeal":1}"#)).await.unwrap();
    assert_eq!(unknown.status(), 400);
    assert_eq!(json_of(&unknown)["known"], json!(Switches::KEYS));
    let no_object = send(stand_in.address(), request("POST", "/_mock", &[], "[]")).await.unwrap();
    assert_eq!(no_object.status(), 400);
    let wrong_method = send(stand_in.address(), request("PUT", "/_mock", &[], "")).await.unwrap();
    assert_eq!(wrong_method.headers()["allow"], "GET, POST");
    let large = request("POST", "/_mock", &[], vec![b' '; 65 * 1024]);
    assert_eq!(send(stand_in.address(), large).await.unwrap().status(), 413);
    assert_eq!(stand_in.recorder().count(), 1);
}

#[tokio::test]
async fn a_panic_becomes_a_500_and_the_stand_in_goes_on() {
    let stand_in = plain().await;
    let response = send(stand_in.address(), request("GET", "/panic", &[], "")).await.unwrap();
    assert_eq!(response.status(), 500);
    assert!(send(stand_in.address(), request("GET", "/a", &[], "")).await.is_ok());
}

/// Waits until nobody but the test holds the recorder.
async fn released(recorder: &Arc<Recorder>) {
    let wait = async {
        while Arc::strong_count(recorder) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap();
}

#[tokio::test]
async fn stopping_cuts_connections_and_frees_the_port() {
    let stand_in = plain().await;
    let (address, recorder) = (stand_in.address(), Arc::clone(stand_in.recorder()));
    assert_eq!(stand_in.url(), format!("http://{address}"));
    stand_in.switches().fail_data_calls(Failure::Hang, None);
    let stop = async {
        while recorder.count() < 2 {
            tokio::task::yield_now().await;
        }
        stand_in.stop().await;
    };
    let (one, two, ()) = tokio::join!(
        send(address, request("GET", "/a", &[], "")),
        send_h2(address, request("GET", "/a", &[], "")),
        stop
    );
    assert!(one.is_err() && two.is_err());
    // Nothing of the stand-in lives on, neither its connections nor their streams.
    released(&recorder).await;
    assert!(TcpListener::bind(address).await.is_ok());
}

#[tokio::test]
async fn dropping_stops_it_too() {
    let stand_in = plain().await;
    let (address, recorder) = (stand_in.address(), Arc::clone(stand_in.recorder()));
    drop(stand_in);
    released(&recorder).await;
    assert!(TcpStream::connect(address).await.is_err());
}
