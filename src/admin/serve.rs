//! The admin listener's connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use super::Admin;
use super::events::Connection;
use super::page::RESOURCE_POLICY;
use super::stall::Unstalled;

/// Connections at once. Others are answered if they are probes.
const MAX_CONNECTIONS: usize = 56;
/// Those others at once; more wait to be accepted.
const MAX_PROBES: usize = 8;
/// How long each of them may take, so that the next gets its turn.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the head of an admin request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until an answer begins: a reload waits for what has to be fetched. Those of
/// `/api/events` go on.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// How long an answer may take at the end.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// Accepts until `close`, serves until `stop`, and keeps up what there is to see of requests.
pub async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    close: CancellationToken,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    // Only where somebody can look.
    let sight = &admin.sight;
    tracker.spawn(Arc::clone(sight.proxy.observe()).run(sight.clock.clone(), stop.clone()));
    let places = Places::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (place, probes_only) = tokio::select! {
                    place = places.one() => place,
                    () = close.cancelled() => break,
                };
                let this = Connection { probes_only, stop: stop.clone(), ..Connection::default() };
                let connection = connection(stream, Arc::clone(&admin), this);
                tracker.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Room for connections. Whoever takes all of it cannot keep probes out.
struct Places {
    all: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        let (all, probes) = (Semaphore::new(MAX_CONNECTIONS), Semaphore::new(MAX_PROBES));
        Self { all: Arc::new(all), probes: Arc::new(probes) }
    }

    /// A place, as soon as there is one, and whether it is for probes only.
    async fn one(&self) -> (Option<OwnedSemaphorePermit>, bool) {
        tokio::select! {
            biased;
            place = Arc::clone(&self.all).acquire_owned() => (place.ok(), false),
            place = Arc::clone(&self.probes).acquire_owned() => (place.ok(), true),
        }
    }
}

async fn connection<S>(stream: S, admin: Arc<Admin>, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let this = connection.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let (admin, connection) = (Arc::clone(&admin), this.clone());
        async move { Ok::<_, Infallible>(admin.answer(request, &connection).await) }
    });
    let service = ServiceBuilder::new()
        .layer(SetResponseHeaderLayer::overriding(
            X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .layer(SetResponseHeaderLayer::overriding(
            RESOURCE_POLICY,
            HeaderValue::from_static("same-origin"),
        ))
        .layer(SetResponseHeaderLayer::overriding(
            CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_TIMEOUT))
        .service(answer);
    // Probes speak HTTP/1, where a silent connection can be told to go.
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(TIMEOUT);
    builder.http1().keep_alive(!connection.probes_only);
    let stream = TokioIo::new(Unstalled::new(stream));
    let serving = builder.serve_connection(stream, TowerToHyperService::new(service));
    tokio::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection ended early");
            }
        }
        () = connection.stop.cancelled() => {
            // What is being answered may be what made it stop.
            serving.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_ANSWER, serving).await;
        }
        () = connection.cut.cancelled() => {
            tracing::debug!("an admin connection was cut off: nobody reads its events");
        }
        () = tokio::time::sleep(PROBE_TIMEOUT), if connection.probes_only => {
            tracing::debug!("an admin connection was cut off: others need its place");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::super::stall::STALLED;
    use super::*;
    use crate::credential::keeper::Watch;

    /// A connection to something with nothing to see, over a pipe that holds little.
    async fn open(probes_only: bool) -> (DuplexStream, JoinHandle<()>) {
        let admin = Arc::new(crate::admin::tests::admin(Watch::default()).await);
        let (stream, client) = duplex(256);
        let this = Connection { probes_only, ..Connection::default() };
        (client, tokio::spawn(connection(stream, admin, this)))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_and_does_not_read_is_cut_off() {
        for target in ["/page/style.css", "/api/events"] {
            let (mut client, serving) = open(false).await;
            let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let began = Instant::now();
            serving.await.unwrap();
            assert!(began.elapsed() >= STALLED, "{target}");
            assert!(began.elapsed() <= STALLED * 2, "{target}: {:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_room_for_probes_only_a_probe_is_answered_and_has_to_be_short() {
        for (target, status) in [("/livez", "200"), ("/metrics", "503"), ("/", "503")] {
            let (mut client, serving) = open(true).await;
            let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
            assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
            serving.await.unwrap();
        }
        let (_client, serving) = open(true).await;
        let began = Instant::now();
        serving.await.unwrap();
        assert_eq!(began.elapsed(), PROBE_TIMEOUT);
    }

    #[tokio::test]
    async fn probes_have_places_that_nobody_else_can_take() {
        let places = Places::new();
        let mut taken = Vec::new();
        for number in 0..MAX_CONNECTIONS + MAX_PROBES {
            let (place, probes_only) = places.one().await;
            assert_eq!(probes_only, number >= MAX_CONNECTIONS);
            taken.push(place.unwrap());
        }
        drop(taken.swap_remove(0));
        assert!(!places.one().await.1, "the first that is free again");
    }
}
