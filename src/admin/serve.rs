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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use super::Admin;
use super::events::Connection;
use super::page::RESOURCE_POLICY;

/// Admin requests at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = close.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, Arc::clone(&admin), stop.clone());
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

async fn connection(stream: TcpStream, admin: Arc<Admin>, stop: CancellationToken) {
    let connection = Connection { stop, ..Connection::default() };
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
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
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
    }
}
