//! The admin listener: is the program alive, is it ready, how are its credentials?
//!
//! It is a listener of its own, so that no path of an upstream is taken and no probe costs an
//! upstream anything.

mod answer;
pub mod devices;
mod guard;
mod metrics;
mod reload;
mod serve;
mod sight;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;

use answer::{full, json, text};
use devices::NoPage;
use metrics::Metrics;
pub use serve::serve;
pub use sight::{Known, Sight};
use status::Status;

use crate::config::AdminConfig;
use crate::control::{Cause, Control};
use crate::credential::keeper::Watch;
use crate::credential::secrets::Secrets;

/// Looks at everything at once; more wait. Each takes a thread and memory for as long as it takes,
/// also when nobody waits for it any more.
const MAX_LOOKS: usize = 2;

/// What the admin listener knows.
#[derive(Debug)]
pub struct Admin {
    access: ArcSwap<Access>,
    bound: SocketAddr,
    sight: Arc<Sight>,
    metrics: Metrics,
    control: Control,
    /// Which credentials are not kept fresh, because of a panic.
    watch: Watch,
    looks: Arc<Semaphore>,
}

/// Who may ask, as the configuration says it now.
#[derive(Debug)]
struct Access {
    config: AdminConfig,
    secrets: Arc<Secrets>,
}

impl Admin {
    /// The admin side of a program in which there is this to see, and that `control` controls.
    pub fn new(
        config: AdminConfig,
        bound: SocketAddr,
        sight: Sight,
        secrets: Arc<Secrets>,
        watch: Watch,
        control: Control,
    ) -> Self {
        let sight = Arc::new(sight);
        let metrics = Metrics::new(&sight, &control);
        let looks = Arc::new(Semaphore::new(MAX_LOOKS));
        let access = ArcSwap::from_pointee(Access { config, secrets });
        Self { access, bound, sight, metrics, control, watch, looks }
    }

    /// From now on the configuration is another one.
    pub fn go_over(&self, config: AdminConfig, secrets: Arc<Secrets>, credentials: Vec<Known>) {
        self.access.store(Arc::new(Access { config, secrets }));
        self.sight.show(credentials);
    }

    async fn answer<B>(self: Arc<Self>, request: &Request<B>) -> Response<Full<Bytes>> {
        let asked = match self.at_once(request) {
            Ok(asked) => asked,
            Err(response) => return *response,
        };
        if asked == Asked::Reload {
            let reload = self.control.reload(Cause::Admin).await;
            return reload::answer(&reload, self.sight.clock.wall());
        }
        // There may be a hundred thousand devices to look at.
        let Ok(permit) = Arc::clone(&self.looks).acquire_owned().await else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "it failed");
        };
        let looking = tokio::task::spawn_blocking(move || {
            let response = self.look(&asked);
            drop(permit);
            response
        });
        looking.await.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))
    }

    /// What takes a while, or else the answer.
    fn at_once<B>(&self, request: &Request<B>) -> Result<Asked, Box<Response<Full<Bytes>>>> {
        let asked = Asked::of(request.uri());
        match self.judge(request, asked.as_ref()) {
            Some(response) => Err(Box::new(response)),
            None => asked.ok_or_else(|| {
                let known = "known here: /livez, /readyz, /metrics, /api/status, \
                             /api/credentials/NAME/devices and POST /api/reload";
                Box::new(text(StatusCode::NOT_FOUND, known))
            }),
        }
    }

    /// The answer to whatever needs none from elsewhere.
    fn judge<B>(
        &self,
        request: &Request<B>,
        asked: Option<&Asked>,
    ) -> Option<Response<Full<Bytes>>> {
        if !self.accepts_host(request) {
            let detail = "this Host is not accepted here; add it to 'hosts' of [admin]";
            return Some(text(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        let reading = request.method() == Method::GET || request.method() == Method::HEAD;
        let probe = matches!(request.uri().path(), "/livez" | "/readyz");
        if !probe && !self.has_token(request) {
            let mut refused = text(StatusCode::UNAUTHORIZED, "a token is needed");
            let challenge = HeaderValue::from_static("Bearer realm=\"countersign admin\"");
            refused.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return Some(refused);
        }
        if asked.is_some_and(Asked::changes) {
            if request.method() != Method::POST {
                return Some(not_allowed("only POST", "POST"));
            }
            return self.may_change(request).err().map(|why| text(StatusCode::FORBIDDEN, why));
        }
        if (probe || asked.is_some()) && !reading {
            return Some(not_allowed("only GET and HEAD", "GET, HEAD"));
        }
        match request.uri().path() {
            "/livez" => Some(text(StatusCode::OK, "alive")),
            "/readyz" => Some(self.ready()),
            _ => None,
        }
    }

    fn look(&self, asked: &Asked) -> Response<Full<Bytes>> {
        match asked {
            Asked::Metrics => match self.metrics.scrape() {
                Ok(scrape) => full(metrics::TYPE, scrape.into()),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
            },
            Asked::Status => json(&Status::of(&self.sight, &self.control)),
            // It is waited for, which is nothing for a thread.
            Asked::Reload => text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
            Asked::Devices { credential, query } => {
                match devices::page(&self.sight, credential, query) {
                    Ok(page) => json(&page),
                    Err(NoPage::Missing(why)) => text(StatusCode::NOT_FOUND, &why),
                    Err(NoPage::Query(why)) => text(StatusCode::BAD_REQUEST, &why),
                }
            }
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
        let credentials = self.sight.credentials();
        let waiting: Vec<&str> = credentials
            .iter()
            .filter(|known| known.eager && !known.identity.cache.is_ready())
            .map(|known| known.identity.name.as_str())
            .collect();
        if waiting.is_empty() {
            text(StatusCode::OK, "ready")
        } else {
            let detail = format!("no usable credential: {}", waiting.join(", "));
            text(StatusCode::SERVICE_UNAVAILABLE, &detail)
        }
    }
}

fn not_allowed(line: &str, allowed: &'static str) -> Response<Full<Bytes>> {
    let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, line);
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// What is looked at for an answer, or done.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Metrics,
    Status,
    Reload,
    Devices { credential: String, query: String },
}

impl Asked {
    fn of(target: &http::Uri) -> Option<Self> {
        match target.path() {
            "/metrics" => Some(Self::Metrics),
            "/api/status" => Some(Self::Status),
            "/api/reload" => Some(Self::Reload),
            path => {
                let name = path.strip_prefix("/api/credentials/")?.strip_suffix("/devices")?;
                let credential = percent_decode_str(name).decode_utf8().ok()?.into_owned();
                let query = target.query().unwrap_or_default().to_owned();
                (!name.contains('/')).then_some(Self::Devices { credential, query })
            }
        }
    }
}

impl Asked {
    /// True if it changes anything.
    fn changes(&self) -> bool {
        match self {
            Self::Reload => true,
            Self::Metrics | Self::Status | Self::Devices { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::HOST;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::Clock;
    use crate::permissions::Check;
    use crate::proxy::route::RouteTable;
    use crate::proxy::{Proxy, Snapshot};

    async fn admin(watch: Watch) -> Admin {
        let config =
            AdminConfig { address: ([127, 0, 0, 1], 8081).into(), hosts: Vec::new(), token: None };
        let secrets = Secrets::resolve(Vec::new(), Check::Off).await.unwrap();
        let nothing = Snapshot { table: RouteTable::new(&[]), routes: Vec::new() };
        let text =
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"http://u.test\"\n";
        let limits = crate::config::load(text, &|_| None).config.unwrap().limits;
        let clock = Clock::system();
        let proxy = Arc::new(Proxy::new(nothing, clock.clone(), limits));
        let sight = Sight::new(Vec::new(), proxy, clock);
        let (control, _) = Control::new();
        Admin::new(config.clone(), config.address, sight, Arc::new(secrets), watch, control)
    }

    #[tokio::test]
    async fn a_look_waits_for_its_turn_and_a_probe_does_not() {
        let admin = Arc::new(admin(Watch::default()).await);
        let ask = |path: &str| {
            let request = Request::get(path).header(HOST, "localhost").body(()).unwrap();
            let admin = Arc::clone(&admin);
            async move { admin.answer(&request).await.status() }
        };
        let others = u32::try_from(MAX_LOOKS).unwrap();
        let others = Arc::clone(&admin.looks).acquire_many_owned(others).await.unwrap();
        let looking = tokio::spawn(ask("/metrics"));
        assert_eq!(ask("/livez").await, StatusCode::OK);
        assert_eq!(ask("/readyz").await, StatusCode::OK);
        assert!(!looking.is_finished());
        drop(others);
        assert_eq!(looking.await.unwrap(), StatusCode::OK);
        assert_eq!(ask("/api/status").await, StatusCode::OK);
        assert_eq!(admin.looks.available_permits(), MAX_LOOKS, "each is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_ready_while_a_credential_is_not_kept_fresh() {
        let watch = Watch::default();
        let admin = admin(watch.clone()).await;
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
