//! Reaching a host through an HTTP proxy: a tunnel by `CONNECT` (RFC 9110 §9.3.6).

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{DialError, is_loopback};

/// A proxy on the way to a host.
#[derive(Clone)]
pub struct ForwardProxy {
    /// Its host, without the brackets of an IPv6 address.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// What it wants to see.
    authorization: Option<HeaderValue>,
}

impl ForwardProxy {
    /// The proxy at `url`, which is `http://` with a host and no path.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn at(url: &Uri) -> Result<Self, InvalidProxy> {
        if url.scheme_str() != Some("http") {
            return Err(InvalidProxy::Scheme(url.scheme_str().unwrap_or_default().to_owned()));
        }
        let host = url.host().filter(|host| !host.is_empty()).ok_or(InvalidProxy::Host)?;
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_u16().unwrap_or(80),
            authorization: None,
        })
    }

    /// The proxy that the environment names for `url`: `HTTPS_PROXY` and `ALL_PROXY`, unless
    /// `NO_PROXY` lists the host. Only for https: what goes over plain http could be read there.
    ///
    /// # Errors
    /// With what is wrong with what the environment says.
    pub fn of_environment(url: &Uri) -> Result<Option<Self>, InvalidProxy> {
        if url.scheme_str() != Some("https") || is_loopback(url.host().unwrap_or_default()) {
            return Ok(None);
        }
        let Some(found) = Matcher::from_env().intercept(url) else { return Ok(None) };
        let mut proxy = Self::at(found.uri())?;
        proxy.authorization = found.basic_auth().cloned();
        if let Some(authorization) = &mut proxy.authorization {
            authorization.set_sensitive(true);
        }
        Ok(Some(proxy))
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks the proxy behind `stream` for a tunnel to `host` and `port`.
    ///
    /// # Errors
    /// When it does not open one.
    pub(super) async fn tunnel(
        &self,
        stream: TcpStream,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, DialError> {
        let broken = |error: hyper::Error| DialError::Proxy(error.to_string());
        let handshake = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        let exchange = async {
            let answer = sender.send_request(self.request(host, port)?).await.map_err(broken)?;
            if !answer.status().is_success() {
                return Err(DialError::Proxy(refusal(answer.status())));
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
            let parts = upgraded
                .downcast::<TokioIo<TcpStream>>()
                .map_err(|_| DialError::Proxy("it is not what it was".to_owned()))?;
            // The host speaks second, also under TLS; what came before is not its.
            if !parts.read_buf.is_empty() {
                return Err(DialError::Proxy("it speaks before it is spoken to".to_owned()));
            }
            Ok(parts.io.into_inner())
        };
        // The connection is driven here, so that it ends with the attempt.
        let connection = connection.with_upgrades();
        tokio::pin!(exchange, connection);
        let mut open = true;
        loop {
            tokio::select! {
                result = &mut exchange => return result,
                _ = &mut connection, if open => open = false,
            }
        }
    }

    fn request(&self, host: &str, port: u16) -> Result<Request<Empty<Bytes>>, DialError> {
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(&authority)
            .header(HOST, &authority)
            .body(Empty::new())
            .map_err(|error| DialError::Proxy(error.to_string()))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

fn refusal(status: StatusCode) -> String {
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return "it wants a login (407)".to_owned();
    }
    format!("it answers {}", status.as_u16())
}

/// A proxy that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidProxy {
    /// Another scheme than `http`.
    #[error("a proxy has to be reached by http://, not '{0}'")]
    Scheme(String),
    /// No host.
    #[error("the proxy's URL has no host")]
    Host,
}

impl std::fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ForwardProxy({}:{})", self.host, self.port)
    }
}
