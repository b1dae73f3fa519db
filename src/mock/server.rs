//! The HTTP server under both stand-ins: HTTP/1.1, and HTTP/2 with prior knowledge.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::{body::Body, rt::Executor};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use tower::{Layer, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use super::{Answer, Api, Content, Failure, Kind, Recorded, Recorder, Switches, target};

mod content;
mod control;

use content::{CONTENT_LIMIT, KEPT_LIMIT, Limits, read};
pub use control::CONTROL_PATH;
use control::control;

/// How long a connection may be idle or take for a head: nginx's default, which also closes
/// connections that a client's pool still takes for good.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// How long [`Failure::Hang`] keeps a caller waiting before the connection is closed.
const HANG_LIMIT: Duration = Duration::from_mins(10);

/// Pause after a failed accept, which otherwise (no file descriptors left) would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections at a time; further ones wait in the socket's backlog.
const CONNECTIONS: usize = 16_384;

/// A running stand-in. Dropping it stops it, too, but does not wait for the port to be free.
pub struct StandIn {
    address: SocketAddr,
    switches: Arc<Switches>,
    recorder: Arc<Recorder>,
    /// Holds the accept task, which in turn owns the connections: one falls with the other.
    tasks: JoinSet<()>,
    stop: Arc<Notify>,
}

impl StandIn {
    /// Listens on `listen` (port 0: any free port) and answers as `api` says.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(listen: SocketAddr, api: impl Api) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { api, switches: Arc::default(), recorder: Arc::default() });
        let switches = Arc::clone(&shared.switches);
        let recorder = Arc::clone(&shared.recorder);
        let stop = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared, Arc::clone(&stop)));
        Ok(Self { address, switches, recorder, tasks, stop })
    }

    /// The address listened on, with the port in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, `http://ADDRESS` without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The switches that change its behaviour.
    pub fn switches(&self) -> &Arc<Switches> {
        &self.switches
    }

    /// What it received.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Stops listening and cuts all connections. When this returns the port is free.
    pub async fn stop(mut self) {
        self.stop.notify_one();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl fmt::Debug for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandIn")
            .field("address", &self.address)
            .field("switches", &self.switches)
            .finish_non_exhaustive()
    }
}

/// What all connections of a stand-in share.
#[derive(Debug)]
struct Shared<A> {
    api: A,
    switches: Arc<Switches>,
    recorder: Arc<Recorder>,
}

async fn accept<A: Api>(listener: TcpListener, shared: Arc<Shared<A>>, stop: Arc<Notify>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.notified() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => _ = connections.spawn(serve(stream, Arc::clone(&shared))),
                Err(error) => {
                    tracing::debug!(%error, "the stand-in could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn serve<A: Api>(stream: TcpStream, shared: Arc<Shared<A>>) {
    // hyper has no time limit of its own while it waits for the bytes that tell HTTP/1 from HTTP/2.
    if !matches!(timeout(IDLE_LIMIT, stream.readable()).await, Ok(Ok(()))) {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the stand-in could not turn off Nagle's algorithm");
    }
    let hang_up = Arc::new(Notify::new());
    let service = {
        let hang_up = Arc::clone(&hang_up);
        service_fn(move |request| {
            let shared = Arc::clone(&shared);
            let hang_up = Arc::clone(&hang_up);
            async move { Ok::<_, Infallible>(exchange(&shared, request, &hang_up).await) }
        })
    };
    let service = TowerToHyperService::new(CatchPanicLayer::new().layer(service));
    let mut builder = auto::Builder::new(Streams::default());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE_LIMIT)
        .keep_alive_timeout(CONTENT_LIMIT);
    tokio::select! {
        served = builder.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = served {
                tracing::debug!(error, "a connection of the stand-in ended early");
            }
        }
        () = hang_up.notified() => {}
    }
}

/// Runs the streams of one HTTP/2 connection and ends them with it.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}

/// One request, from its head to its answer.
async fn exchange<A, B>(
    shared: &Shared<A>,
    request: Request<B>,
    hang_up: &Notify,
) -> Response<Full<Bytes>>
where
    A: Api,
    B: Body<Data = Bytes> + Unpin,
{
    let Shared { api, switches, recorder } = shared;
    let (head, body) = request.into_parts();
    if head.uri.path() == CONTROL_PATH {
        return finish(control(shared, &head, body).await, switches);
    }

    let opened = api.open(&head, switches.now_ms());
    let (kind, mut pending) = (opened.kind, opened.pending);
    if kind == Kind::Token {
        recorder.count_token_call();
    }
    let limits =
        Limits { total: switches.body_limit(), kept: if opened.keep { KEPT_LIMIT } else { 0 } };
    let (content, flaw) = read(body, limits, |chunk| A::absorb(&mut pending, chunk)).await;

    let mut answer = if let Some(flaw) = flaw {
        let (status, verdict) = flaw.explain();
        api.error(&head, status, verdict).refused(verdict)
    } else {
        let latency = switches.latency(kind);
        // Even a sleep of nothing takes up to a millisecond.
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let failure = switches.take_failure(kind);
        if let Some(silence) = silence(failure) {
            let unsent = Answer::empty(StatusCode::OK).refused(switched(failure));
            record(recorder, head, content, &unsent, 0);
            tokio::time::sleep(silence).await;
            hang_up.notify_one();
            // The connection is dropped and this future with it.
            return std::future::pending().await;
        }
        if failure == Failure::None {
            api.answer(&head, pending, &content, switches)
        } else {
            fail(api, &head, failure)
        }
    };
    api.decorate(&mut answer.fields);
    let status = answer.status.as_u16();
    record(recorder, head, content, &answer, status);
    finish(answer, switches)
}

/// How long a failure that gives no answer waits before it closes the connection.
fn silence(failure: Failure) -> Option<Duration> {
    match failure {
        Failure::Hang => Some(HANG_LIMIT),
        Failure::CloseConnection => Some(Duration::ZERO),
        Failure::None
        | Failure::TooManyRequests { .. }
        | Failure::ServerError
        | Failure::EmptyOk
        | Failure::Garbage
        | Failure::SuccessFalse => None,
    }
}

/// The answer that a failure switch asks for.
fn fail<A: Api>(api: &A, head: &Parts, failure: Failure) -> Answer {
    let answer = match failure {
        Failure::TooManyRequests { retry_after } => {
            let answer = api.error(head, StatusCode::TOO_MANY_REQUESTS, "Too many requests.");
            match retry_after {
                Some(seconds) => answer.field(header::RETRY_AFTER, HeaderValue::from(seconds)),
                None => answer,
            }
        }
        Failure::ServerError => {
            api.error(head, StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong.")
        }
        Failure::Garbage => {
            Answer::with_body(StatusCode::OK, "application/json", "{\"<html>: \u{fffd}")
        }
        Failure::SuccessFalse => api.success_false(),
        // The two silent ones give no answer and do not come here.
        Failure::None | Failure::EmptyOk | Failure::Hang | Failure::CloseConnection => {
            Answer::empty(StatusCode::OK)
        }
    };
    answer.refused(switched(failure))
}

fn switched(failure: Failure) -> String {
    format!("not judged: the failure switch says {failure}")
}

fn record(recorder: &Recorder, head: Parts, content: Content, answer: &Answer, status: u16) {
    recorder.count_answer(answer);
    recorder.keep(Recorded {
        sequence: 0,
        target: target(&head),
        method: head.method,
        version: head.version,
        headers: head.headers,
        body_len: content.len,
        body_sha256: content.sha256,
        status,
        accepted: answer.accepted,
        verdict: answer.verdict.to_string(),
    });
}

/// Turns an answer into a response that tells the stand-in's time.
fn finish(answer: Answer, switches: &Switches) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.fields;
    let date = Timestamp::from_millisecond(switches.now_ms())
        .and_then(|now| DateTimePrinter::new().timestamp_to_rfc9110_string(&now));
    if let Ok(Ok(date)) = date.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

#[cfg(test)]
mod tests;
