//! The Devo APIs: provisioning, query, alerts, delivery and activeboards.
//!
//! Which credential each takes follows the vendor's pages, with two assumptions: a wrong credential
//! is a 401 everywhere (pages say so for the query API only), and `standAloneToken` is good for the
//! query API too. Where both provisioning keys are sent the pages do not say which one signs:
//! either is accepted, and the verdict tells which it was. Stricter than the vendor: two kinds of
//! credential at once are refused.

use std::{fmt, io, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Api, Content, Kind, Opened, StandIn, Switches, target};

mod check;
mod query;
mod verifier;

pub use verifier::Verifier;

use check::{Area, Judgement, Refusal};

const JSON: &str = "application/json";

/// Every answer carries it; the vendor's word for it is correlation id.
const CID: HeaderName = HeaderName::from_static("x-devo-cid");

/// What the stand-in accepts; all defaults are invented. Its `Debug` form leaves out the secrets.
#[derive(Clone)]
pub struct Options {
    /// Provisioning: the key of a domain, sent as `x-logtrust-domain-apikey`.
    pub domain_api_key: String,
    /// The secret that signs with it.
    pub domain_api_secret: String,
    /// Provisioning: the key of a multitenant (reseller) domain, sent as
    /// `x-logtrust-reseller-apikey`.
    pub reseller_api_key: String,
    /// The secret that signs with it.
    pub reseller_api_secret: String,
    /// Query: the key, sent as `x-logtrust-apikey`.
    pub api_key: String,
    /// The secret that signs with it.
    pub api_secret: String,
    /// Taken by every API, in `standAloneToken`.
    pub standalone_token: String,
    /// Taken by query and alerts, in `Authorization: Bearer`.
    pub bearer_token: String,
    /// Further pairs of key and secret, good wherever a signature is and in any key field. One key
    /// may have several secrets.
    pub keys: Vec<(String, String)>,
    /// How far a signature's timestamp may be from the stand-in's clock. `None`, the default, does
    /// not look: no limit of the vendor is known.
    pub max_skew: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            domain_api_key: "standin-domain-key".to_owned(),
            domain_api_secret: "standin-domain-secret".to_owned(),
            reseller_api_key: "standin-reseller-key".to_owned(),
            reseller_api_secret: "standin-reseller-secret".to_owned(),
            api_key: "standin-query-key".to_owned(),
            api_secret: "standin-query-secret".to_owned(),
            standalone_token: "standin-standalone-token".to_owned(),
            bearer_token: "standin-bearer-token".to_owned(),
            keys: Vec::new(),
            max_skew: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("keys", &self.keys.len())
            .field("max_skew", &self.max_skew)
            .finish_non_exhaustive()
    }
}

/// Starts a Devo stand-in on `listen` (port 0: any free port).
///
/// # Errors
/// If the address cannot be listened on.
pub async fn start(listen: SocketAddr, options: Options) -> io::Result<StandIn> {
    StandIn::start(listen, Devo::new(options)).await
}

/// The Devo APIs; [`start`] is the usual way to them.
#[derive(Debug)]
pub struct Devo {
    options: Options,
}

/// What the head of a request settled.
#[derive(Debug)]
pub struct Pending(Route);

#[derive(Debug)]
enum Route {
    Call(Area, Judgement),
    WrongMethod,
    Nothing,
}

impl Devo {
    /// The APIs with the credentials of `options`.
    pub fn new(options: Options) -> Self {
        Self { options }
    }
}

impl Api for Devo {
    type Pending = Pending;

    const NAME: &'static str = "devo";

    fn open(&self, head: &Parts, now_ms: i64) -> Opened<Pending> {
        let Some(area) = area(head.uri.path()) else {
            return Opened { kind: Kind::Unknown, keep: false, pending: Pending(Route::Nothing) };
        };
        let is_query = area == Area::Query;
        let route = if is_query && head.method != Method::POST {
            Route::WrongMethod
        } else {
            Route::Call(area, check::open(&self.options, area, &head.headers, now_ms))
        };
        Opened { kind: Kind::Data, keep: is_query, pending: Pending(route) }
    }

    fn absorb(pending: &mut Pending, chunk: &[u8]) {
        if let Route::Call(_, judgement) = &mut pending.0 {
            judgement.absorb(chunk);
        }
    }

    fn answer(
        &self,
        head: &Parts,
        pending: Pending,
        content: &Content,
        switches: &Switches,
    ) -> Answer {
        let (area, judgement) = match pending.0 {
            Route::Call(area, judgement) => (area, judgement),
            Route::WrongMethod => {
                return error(StatusCode::METHOD_NOT_ALLOWED, 405, "Method Not Allowed")
                    .field(header::ALLOW, HeaderValue::from_static("POST"))
                    .refused("the query API takes POST only");
            }
            Route::Nothing => {
                return error(StatusCode::NOT_FOUND, 404, "Not Found")
                    .refused("there is no such route");
            }
        };
        match judgement.close() {
            Ok(verdict) if area == Area::Query => {
                query::answer(content, &cid(), switches.now_ms()).accepted(verdict)
            }
            Ok(verdict) => data(head, content).accepted(verdict),
            Err(Refusal::Unauthorized(verdict)) => {
                error(StatusCode::UNAUTHORIZED, 401, "Unauthorized").refused(verdict)
            }
            Err(Refusal::Signature(verdict)) => {
                error(StatusCode::UNAUTHORIZED, 12, "Invalid signature validation").refused(verdict)
            }
        }
    }

    fn error(&self, _head: &Parts, status: StatusCode, message: &str) -> Answer {
        error(status, status.as_u16(), message)
    }

    fn success_false(&self) -> Answer {
        let value = json!({ "error": { "code": 500, "message": "The call failed." } });
        Answer::json(StatusCode::OK, JSON, &value)
    }

    fn decorate(&self, fields: &mut HeaderMap) {
        if !fields.contains_key(CID)
            && let Ok(value) = HeaderValue::try_from(cid())
        {
            fields.insert(CID, value);
        }
    }
}

/// Which API a path belongs to.
fn area(path: &str) -> Option<Area> {
    let under = |root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if under("/probio") {
        Some(Area::Provisioning)
    } else if path == "/search/query" {
        Some(Area::Query)
    } else if under("/alerts/v1") {
        Some(Area::Alerts)
    } else if under("/delco") || under("/activeboards/v2") {
        Some(Area::Other)
    } else {
        None
    }
}

fn cid() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// The vendor's error format, keys in its order.
fn error(status: StatusCode, code: u16, message: &str) -> Answer {
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: Body<'a>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        code: u16,
        message: &'a str,
    }
    let envelope = Envelope { error: Body { code, message } };
    Answer::json(status, JSON, &envelope).refused(message.to_owned())
}

/// Something plausible for the calls a first try makes; for all others, what was received.
fn data(head: &Parts, content: &Content) -> Answer {
    let value = match (head.method.as_str(), head.uri.path()) {
        ("GET", "/probio/domain") => domains(),
        ("GET", "/probio/plan") => json!([{ "id": 1, "name": "demo", "maxUsers": 10 }]),
        _ => json!({
            "ok": true,
            "method": head.method.as_str(),
            "target": target(head),
            "body_len": content.len,
            "body_sha256": content.sha256,
        }),
    };
    Answer::json(StatusCode::OK, JSON, &value)
}

fn domains() -> Value {
    json!([
        { "name": "acme", "status": "ACTIVE", "plan": "demo" },
        { "name": "plant@acme", "status": "ACTIVE", "plan": "demo" },
    ])
}

#[cfg(test)]
mod tests;
