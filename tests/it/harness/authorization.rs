//! An authorization server that answers what it is told to, and remembers what it was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::Upstream;
use super::upstream::{Seen, serve};

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    status: u16,
    fields: Vec<(&'static str, String)>,
    content: Bytes,
    hangs: bool,
}

impl Scripted {
    pub(crate) fn new(status: u16, content: impl Into<Bytes>) -> Self {
        Self { status, fields: Vec::new(), content: content.into(), hangs: false }
    }

    pub(crate) fn json(status: u16, content: &Value) -> Self {
        Self::new(status, content.to_string()).with("content-type", "application/json")
    }

    /// A token that lives an hour.
    pub(crate) fn token(token: &str) -> Self {
        let bearer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
        Self::json(200, &bearer)
    }

    /// The same with a refresh token.
    pub(crate) fn tokens(token: &str, refresh_token: &str) -> Self {
        Self::json(
            200,
            &json!({
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": refresh_token,
            }),
        )
    }

    /// A refusal that says more than anybody may hear.
    pub(crate) fn error(code: &str) -> Self {
        let status = if code == "invalid_client" { 401 } else { 400 };
        Self::json(status, &json!({ "error": code, "error_description": "canary-description" }))
    }

    /// No answer at all.
    pub(crate) fn hang() -> Self {
        Self { hangs: true, ..Self::new(200, "") }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub(crate) fn content(&self) -> Bytes {
        self.content.clone()
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.fields {
            response = response.header(name, value);
        }
        response.body(Full::new(self.content)).unwrap()
    }
}

/// A request for a token.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) seen: Seen,
    form: Vec<(String, String)>,
}

impl Asked {
    fn new(seen: Seen) -> Self {
        let content = std::str::from_utf8(&seen.body).unwrap();
        let pairs = content.split('&').filter_map(|pair| pair.split_once('='));
        let form = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
        Self { seen, form }
    }

    /// The only parameter of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.form.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "'{name}' is there twice");
        value
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let found = self.form.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn grant(&self) -> &str {
        self.get("grant_type").unwrap()
    }

    /// Id and secret of Basic, as a server decodes them (RFC 6749 §2.3.1).
    pub(crate) fn basic(&self) -> (String, String) {
        let [field] = self.seen.values("authorization")[..] else { panic!("{self:?}") };
        let pair = STANDARD.decode(field.strip_prefix("Basic ").unwrap()).unwrap();
        let pair = String::from_utf8(pair).unwrap();
        let (id, secret) = pair.split_once(':').unwrap();
        (decoded(id), decoded(secret))
    }

    /// The claims of the assertion in a parameter.
    pub(crate) fn claims(&self, name: &str) -> Value {
        let payload = self.get(name).unwrap().split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }
}

/// What a form says.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned()
}

/// Where a login on another device begins (RFC 8628 §3.1).
const DEVICE_AUTHORIZATION: &str = "/device_authorization";

/// `canary-device-code-1`, …, each to be asked about every second.
fn device_authorization(number: usize) -> Scripted {
    Scripted::json(
        200,
        &json!({
            "device_code": format!("canary-device-code-{number}"),
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://id.example.com/device",
            "verification_uri_complete": "https://id.example.com/device?user_code=WDJB-MJHT",
            "expires_in": 600,
            "interval": 1,
        }),
    )
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Scripted>>,
    metadata: Mutex<BTreeMap<String, Scripted>>,
    asked: Mutex<Vec<Asked>>,
    metadata_asked: Mutex<Vec<String>>,
    /// How a login on another device begins, if it is not the usual.
    beginning: Mutex<Option<Scripted>>,
    begun: Mutex<Vec<Asked>>,
    issued: AtomicU64,
}

impl State {
    fn answer(&self, seen: Seen, otherwise: &dyn Fn(&Asked) -> Scripted) -> Scripted {
        if seen.method == "GET" {
            self.metadata_asked.lock().unwrap().push(seen.target.clone());
            let metadata = self.metadata.lock().unwrap();
            return metadata.get(&seen.target).cloned().unwrap_or(Scripted::new(404, "nothing"));
        }
        if seen.target == DEVICE_AUTHORIZATION {
            let mut begun = self.begun.lock().unwrap();
            begun.push(Asked::new(seen));
            let beginning = self.beginning.lock().unwrap().clone();
            return beginning.unwrap_or_else(|| device_authorization(begun.len()));
        }
        let asked = Asked::new(seen);
        self.asked.lock().unwrap().push(asked.clone());
        let scripted = self.script.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| otherwise(&asked))
    }
}

/// The server. Stops when dropped.
pub(crate) struct AuthorizationServer {
    upstream: Upstream,
    state: Arc<State>,
}

impl AuthorizationServer {
    /// Grants everything: `token-1`, `token-2`, …
    pub(crate) async fn start() -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let counting = move |_: &Asked| {
            let number = shared.issued.fetch_add(1, Ordering::SeqCst) + 1;
            Scripted::token(&format!("token-{number}"))
        };
        Self::serving(state, counting, None).await
    }

    /// Answers what a function says.
    pub(crate) async fn answering(
        answer: impl Fn(&Asked) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        Self::serving(Arc::default(), answer, None).await
    }

    /// Grants tokens of `seconds`. The refresh token is replaced at each use; what was used is
    /// refused. `think` is how long an answer takes.
    pub(crate) async fn rotating(
        seconds: u64,
        think: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let state: Mutex<(u64, BTreeSet<String>)> = Mutex::default();
        Self::answering(move |asked| {
            let (count, good) = &mut *state.lock().unwrap();
            std::thread::sleep(think());
            if let Some(token) = asked.get("refresh_token")
                && !good.remove(token)
            {
                return Scripted::error("invalid_grant");
            }
            *count += 1;
            let refresh_token = format!("refresh-{count}");
            good.insert(refresh_token.clone());
            let answer = json!({
                "access_token": format!("token-{count}"),
                "token_type": "Bearer",
                "expires_in": seconds,
                "refresh_token": refresh_token,
            });
            Scripted::json(200, &answer)
        })
        .await
    }

    /// Grants everything over TLS.
    pub(crate) async fn over_tls(acceptor: TlsAcceptor) -> Self {
        Self::serving(Arc::default(), |_| Scripted::token("token-1"), Some(acceptor)).await
    }

    async fn serving(
        state: Arc<State>,
        otherwise: impl Fn(&Asked) -> Scripted + Send + Sync + 'static,
        acceptor: Option<TlsAcceptor>,
    ) -> Self {
        let (shared, otherwise) = (Arc::clone(&state), Arc::new(otherwise));
        let upstream = Upstream::raw(move |stream| {
            let (state, otherwise) = (Arc::clone(&shared), Arc::clone(&otherwise));
            let acceptor = acceptor.clone();
            async move {
                let answer = move |seen| {
                    let scripted = state.answer(seen, &*otherwise);
                    async move {
                        if scripted.hangs {
                            std::future::pending::<()>().await;
                        }
                        scripted.response()
                    }
                };
                let answer = Arc::new(answer);
                match acceptor {
                    None => serve(stream, answer, Arc::default()).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, answer, Arc::default()).await;
                        }
                    }
                }
            }
        })
        .await;
        Self { upstream, state }
    }

    /// What the next request is answered; each once, in order.
    pub(crate) fn say(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.state.script.lock().unwrap().extend(answers);
    }

    /// What a path of metadata is answered.
    pub(crate) fn publish(&self, path: &str, answer: Scripted) {
        self.state.metadata.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub(crate) fn url(&self) -> String {
        self.upstream.url()
    }

    pub(crate) fn token_url(&self) -> String {
        format!("{}/token", self.upstream.url())
    }

    pub(crate) fn device_authorization_url(&self) -> String {
        format!("{}{DEVICE_AUTHORIZATION}", self.upstream.url())
    }

    /// What a login on another device begins with.
    pub(crate) fn begin_with(&self, answer: Scripted) {
        *self.state.beginning.lock().unwrap() = Some(answer);
    }

    /// Every request that began such a login.
    pub(crate) fn begun(&self) -> Vec<Asked> {
        self.state.begun.lock().unwrap().clone()
    }

    pub(crate) fn port(&self) -> u16 {
        self.upstream.address().port()
    }

    /// Every request for a token.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Asked {
        self.asked().pop().expect("nobody asked")
    }

    /// The paths of metadata that were asked for.
    pub(crate) fn metadata_asked(&self) -> Vec<String> {
        self.state.metadata_asked.lock().unwrap().clone()
    }
}
