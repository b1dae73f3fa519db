//! The admin listener: is the program alive, is it ready?
//!
//! It is a listener of its own, so that no path of an upstream is taken and no probe costs an
//! upstream anything.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use crate::config::AdminConfig;
use crate::credential::keeper::Watch;
use crate::credential::secrets::Secrets;
use crate::proxy::Identity;

/// Admin requests at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long any admin request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin listener knows.
#[derive(Debug)]
pub struct Admin {
    config: AdminConfig,
    bound: SocketAddr,
    /// Every credential, and whether it is fetched at start.
    credentials: Vec<(Arc<Identity>, bool)>,
    secrets: Arc<Secrets>,
    /// Which credentials are not kept fresh, because of a panic.
    watch: Watch,
}

impl Admin {
    /// The admin side of a program with these credentials; true marks the ones that are fetched at
    /// start.
    pub fn new(
        config: AdminConfig,
        bound: SocketAddr,
        credentials: Vec<(Arc<Identity>, bool)>,
        secrets: Arc<Secrets>,
        watch: Watch,
    ) -> Self {
        Self { config, bound, credentials, secrets, watch }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !self.accepts_host(request) {
            let detail = "this Host is not accepted here; add it to 'hosts' of [admin]";
            return text(StatusCode::MISDIRECTED_REQUEST, detail);
        }
        let reading = request.method() == Method::GET || request.method() == Method::HEAD;
        match request.uri().path() {
            "/livez" | "/readyz" if !reading => {
                let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                refused
            }
            "/livez" => text(StatusCode::OK, "alive"),
            "/readyz" => self.ready(),
            _ if !self.has_token(request) => {
                let mut refused = text(StatusCode::UNAUTHORIZED, "a token is needed");
                let challenge = HeaderValue::from_static("Bearer realm=\"countersign admin\"");
                refused.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                refused
            }
            _ => text(StatusCode::NOT_FOUND, "known here: /livez and /readyz"),
        }
    }

    /// Ready as soon as every credential that is fetched at start is there, while all are kept
    /// fresh.
    fn ready(&self) -> Response<Full<Bytes>> {
        let down = self.watch.down();
        if !down.is_empty() {
            let detail = format!("not kept fresh at the moment: {}", down.join(", "));
            return text(StatusCode::SERVICE_UNAVAILABLE, &detail);
        }
        let waiting: Vec<&str> = self
            .credentials
            .iter()
            .filter(|(identity, eager)| *eager && !identity.cache.is_ready())
            .map(|(identity, _)| identity.name.as_str())
            .collect();
        if waiting.is_empty() {
            text(StatusCode::OK, "ready")
        } else {
            let detail = format!("no usable credential: {}", waiting.join(", "));
            text(StatusCode::SERVICE_UNAVAILABLE, &detail)
        }
    }

    /// As for every listener: a web page whose name was pointed here must not get an answer.
    fn accepts_host<B>(&self, request: &Request<B>) -> bool {
        let field = request.headers().get(HOST).map(HeaderValue::as_bytes);
        let authority = match (request.uri().authority(), field) {
            (Some(authority), _) => authority.clone(),
            (None, Some(field)) => match Authority::try_from(field) {
                Ok(authority) => authority,
                Err(_) => return false,
            },
            (None, None) => return request.version() == http::Version::HTTP_10,
        };
        let host = authority.host().to_ascii_lowercase();
        let listed = |accepted: &String| *accepted == host || accepted == authority.as_str();
        if self.config.hosts.iter().any(listed) || host == "localhost" {
            return true;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        // A literal address cannot be pointed anywhere; with the token there is no need to ask.
        literal.is_ok_and(|address| {
            address.is_loopback() || address == self.bound.ip() || self.config.token.is_some()
        })
    }

    fn has_token<B>(&self, request: &Request<B>) -> bool {
        let Some(reference) = &self.config.token else {
            return true;
        };
        let Some(expected) = self.secrets.get(reference) else {
            return false;
        };
        let presented = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let presented = presented.and_then(|value| value.strip_prefix(b"Bearer "));
        presented.is_some_and(|token| token.ct_eq(expected.expose().as_bytes()).into())
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{line}\n"))));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// Serves until stopped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let tracker = TaskTracker::new();
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
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
    tracker.close();
    tracker.wait().await;
}

async fn connection(stream: TcpStream, admin: Arc<Admin>, stop: CancellationToken) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = admin.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let service = ServiceBuilder::new()
        .layer(SetResponseHeaderLayer::overriding(
            CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT))
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
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::Check;

    #[tokio::test(start_paused = true)]
    async fn it_is_not_ready_while_a_credential_is_not_kept_fresh() {
        let config =
            AdminConfig { address: ([127, 0, 0, 1], 8081).into(), hosts: Vec::new(), token: None };
        let secrets = Secrets::resolve(Vec::new(), Check::Off).await.unwrap();
        let watch = Watch::default();
        let admin = Admin::new(
            config.clone(),
            config.address,
            Vec::new(),
            Arc::new(secrets),
            watch.clone(),
        );
        assert_eq!(admin.ready().status(), StatusCode::OK);
        let stop = CancellationToken::new();
        let (mut first, until) = (true, stop.clone());
        let keeper = move || {
            let (panics, until) = (std::mem::take(&mut first), until.clone());
            async move {
                assert!(!panics, "a mistake");
                until.cancelled().await;
            }
        };
        let kept = tokio::spawn(watch.clone().over(keeper, "plant".to_owned(), stop.clone()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let answer = admin.ready();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert_eq!(text, "not kept fresh at the moment: plant\n");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(admin.ready().status(), StatusCode::OK);
        stop.cancel();
        kept.await.unwrap();
    }
}
