//! The admin listener: is the program alive, is it ready, how are its credentials?
//!
//! It is a listener of its own, so that no path of an upstream is taken and no probe costs an
//! upstream anything.

mod answer;
mod content;
pub mod devices;
mod endpoints;
mod events;
mod explain;
mod guard;
mod log;
mod metrics;
mod page;
mod refresh;
mod reload;
mod serve;
mod sight;
mod stall;
mod status;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use answer::{Content, full, json, text};
use devices::NoPage;
use endpoints::{Asked, Change, Look, Probe, Unmeant};
use events::{Connection, Lasting, Told};
use explain::Question;
use metrics::Metrics;
pub use serve::serve;
pub use sight::{Known, Sight};
use status::Status;

use crate::config::{AdminConfig, ListenerConfig};
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
    streams: Arc<Semaphore>,
    /// The status as it was sent last.
    sent: Mutex<Option<Arc<Told>>>,
}

/// Who may ask, as the configuration says it now.
#[derive(Debug)]
struct Access {
    config: AdminConfig,
    secrets: Arc<Secrets>,
    /// Cancelled when the configuration says something else.
    over: CancellationToken,
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
        let access =
            ArcSwap::from_pointee(Access { config, secrets, over: CancellationToken::new() });
        let streams = Arc::new(Semaphore::new(events::MAX_STREAMS));
        let sent = Mutex::default();
        Self { access, bound, sight, metrics, control, watch, looks, streams, sent }
    }

    /// From now on the configuration is another one.
    pub fn go_over(
        &self,
        config: AdminConfig,
        secrets: Arc<Secrets>,
        credentials: Vec<Known>,
        listeners: Vec<ListenerConfig>,
    ) {
        let before = self.access.load_full();
        let same = before.config == config;
        let over = if same { before.over.clone() } else { CancellationToken::new() };
        self.access.store(Arc::new(Access { config, secrets, over }));
        if !same {
            before.over.cancel();
        }
        self.sight.show(credentials, listeners);
    }

    /// The answer to `request`.
    async fn answer<B>(
        self: Arc<Self>,
        request: Request<B>,
        connection: &Connection,
    ) -> Response<Content>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asked = match self.admit(&request) {
            Ok(asked) => asked,
            Err(response) => return *response,
        };
        if connection.probes_only && !matches!(asked, Asked::Probe(_)) {
            let detail = "too many connections: only probes are answered; try again later";
            return text(StatusCode::SERVICE_UNAVAILABLE, detail);
        }
        match asked {
            Asked::Probe(Probe::Live) => text(StatusCode::OK, "alive"),
            Asked::Probe(Probe::Ready) => self.ready(),
            Asked::Page(asset) => asset.answer(),
            Asked::Events => {
                let access = Lasting::of(&self.access.load());
                // Once more: what changes from here on ends the stream.
                if self.has_token(&request) && self.accepts_host(&request) {
                    self.events(access, connection)
                } else {
                    needs_token()
                }
            }
            Asked::Look(look) => self.look_in_turn(look).await,
            Asked::Change(change) => match content::read(request.into_body()).await {
                Ok(content) => self.change(change, content).await,
                Err((status, why)) => text(status, why),
            },
        }
    }

    /// What is asked for by somebody who may, or else the answer.
    fn admit<B: Body>(&self, request: &Request<B>) -> Result<Asked, Box<Response<Content>>> {
        if !self.accepts_host(request) {
            let detail = "this Host is not accepted here; add it to 'hosts' of [admin]";
            return Err(Box::new(text(StatusCode::MISDIRECTED_REQUEST, detail)));
        }
        if !endpoints::is_open(request.uri().path()) && !self.has_token(request) {
            return Err(Box::new(needs_token()));
        }
        let config = &self.access.load().config;
        let asked = endpoints::find(request, config).map_err(|unmeant| match unmeant {
            Unmeant::Path => text(StatusCode::NOT_FOUND, &endpoints::known(config)),
            Unmeant::Method(methods) => {
                let mut refused =
                    text(StatusCode::METHOD_NOT_ALLOWED, &format!("the methods here: {methods}"));
                refused.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
                refused
            }
        })?;
        let may = match asked {
            // Probes say nothing, and pages may lead to this one.
            Asked::Probe(_) | Asked::Page(_) => Ok(()),
            Asked::Events | Asked::Look(_) => self.may_look(request),
            Asked::Change(_) => self.may_change(request),
        };
        match may {
            Ok(()) => Ok(asked),
            Err(why) => Err(Box::new(text(StatusCode::FORBIDDEN, why))),
        }
    }

    /// Looks, as soon as there is a place for it: there may be a hundred thousand devices.
    async fn look_in_turn(self: Arc<Self>, look: Look) -> Response<Content> {
        let looked = self.aside(move |admin| admin.look(&look)).await;
        looked.unwrap_or_else(|| text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"))
    }

    /// Looks where nobody is kept waiting by it; `None` if that fails.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.looks).acquire_owned().await.ok()?;
        let admin = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || {
            let seen = look(&admin);
            drop(permit);
            seen
        });
        looking.await.ok()
    }

    fn look(&self, look: &Look) -> Response<Content> {
        match look {
            Look::Metrics => match self.metrics.scrape(self.not_ready_because().is_none()) {
                Ok(scrape) => full(metrics::TYPE, scrape.into()),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
            },
            Look::Log => log::shown(),
            Look::Status => json(&self.status()),
            Look::Devices { credential, query } => {
                match devices::page(&self.sight, credential, query) {
                    Ok(page) => json(&page),
                    Err(NoPage::Missing(why)) => text(StatusCode::NOT_FOUND, &why),
                    Err(NoPage::Query(why)) => text(StatusCode::BAD_REQUEST, &why),
                }
            }
            Look::Explain(question) => {
                let secrets = &self.access.load().secrets;
                match explain::answer(&self.sight, secrets, question) {
                    Ok(explanation) => json(&explanation),
                    Err(why) => text(StatusCode::BAD_REQUEST, &why),
                }
            }
        }
    }

    /// Does what is asked for by somebody who may.
    async fn change(self: Arc<Self>, change: Change, content: Value) -> Response<Content> {
        if change == Change::Log {
            return log::change(content);
        }
        // It changes nothing, but says more than a page of somebody else's may know.
        if change == Change::Explain {
            return match Question::of(content) {
                Ok(question) => self.look_in_turn(Look::Explain(Box::new(question))).await,
                Err(why) => text(StatusCode::BAD_REQUEST, &why),
            };
        }
        if !content::is_nothing(&content) {
            let why = "this takes no content: what is meant is in the path and the query";
            return text(StatusCode::BAD_REQUEST, why);
        }
        match change {
            Change::Refresh { credential, query } => {
                refresh::refresh(&self.sight, &credential, &query).await
            }
            Change::Explain | Change::Log => log::shown(),
            Change::Reload => {
                let reload = self.control.reload(Cause::Admin).await;
                reload::answer(&reload, self.sight.clock.wall())
            }
            Change::Quit => {
                tracing::info!("told over the admin listener to end");
                self.control.quit();
                let mut response = text(StatusCode::ACCEPTED, "stopping");
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }

    fn ready(&self) -> Response<Content> {
        match self.not_ready_because() {
            None => text(StatusCode::OK, "ready"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// The state of everything.
    fn status(&self) -> Status {
        Status::of(&self.sight, &self.control, self.not_ready_because())
    }

    /// Ready as soon as every credential that is fetched at start is there, while all are kept
    /// fresh, until the end begins.
    fn not_ready_because(&self) -> Option<String> {
        if self.control.is_stopping() {
            return Some("stopping".to_owned());
        }
        let down = self.watch.down();
        if !down.is_empty() {
            return Some(format!("not kept fresh at the moment: {}", down.join(", ")));
        }
        let credentials = self.sight.credentials();
        let waiting: Vec<&str> = credentials
            .iter()
            .filter(|known| known.eager && !known.identity.cache.is_ready())
            .map(|known| known.identity.name.as_str())
            .collect();
        (!waiting.is_empty()).then(|| format!("no usable credential: {}", waiting.join(", ")))
    }
}

fn needs_token() -> Response<Content> {
    let mut refused = text(StatusCode::UNAUTHORIZED, "a token is needed");
    let challenge = HeaderValue::from_static("Bearer realm=\"countersign admin\"");
    refused.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    refused
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

    pub(super) async fn admin(watch: Watch) -> Admin {
        let address = ([127, 0, 0, 1], 8081).into();
        let config = AdminConfig { address, hosts: Vec::new(), token: None, quit: false };
        let secrets = Secrets::resolve(Vec::new(), Check::Off).await.unwrap();
        let nothing = Snapshot { table: RouteTable::new(&[]), routes: Vec::new() };
        let text =
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"http://u.test\"\n";
        let limits = crate::config::load(text, &|_| None).config.unwrap().limits;
        let clock = Clock::system();
        let proxy = Arc::new(Proxy::new(nothing, clock.clone(), limits));
        let sight = Sight::new(proxy, clock);
        let (control, _) = Control::new();
        Admin::new(config.clone(), config.address, sight, Arc::new(secrets), watch, control)
    }

    #[tokio::test]
    async fn a_look_waits_for_its_turn_and_a_probe_does_not() {
        let admin = Arc::new(admin(Watch::default()).await);
        let ask = |path: &str| {
            let content = http_body_util::Empty::<Bytes>::new();
            let request = Request::get(path).header(HOST, "localhost").body(content).unwrap();
            let admin = Arc::clone(&admin);
            async move { admin.answer(request, &Connection::default()).await.status() }
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
