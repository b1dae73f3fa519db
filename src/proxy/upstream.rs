//! Sending a request to its upstream, over connections that one worker keeps for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tower::Service;

use super::content::{Progress, RequestContent};
use super::respond::ProxyError;
use crate::connect::{DialError, Dialer, Stream};

/// How long a connection may wait for its next request. Below what servers commonly allow, so that
/// a request does not meet a connection that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Connections that wait, per upstream and worker.
const POOL_SIZE: usize = 256;

/// An upstream as every worker sees it.
#[derive(Debug)]
pub struct Target {
    /// Tells targets apart; equal for equal upstreams.
    pub id: usize,
    /// How to connect.
    pub dialer: Dialer,
    /// The `Host` field.
    pub host: HeaderValue,
}

/// One worker's connections.
#[derive(Debug, Default)]
pub struct Pools {
    clients: RefCell<HashMap<usize, Rc<Client<Connector, RequestContent>>>>,
}

impl Pools {
    fn client(&self, target: &Target) -> Rc<Client<Connector, RequestContent>> {
        let mut clients = self.clients.borrow_mut();
        let client = clients.entry(target.id).or_insert_with(|| {
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(POOL_SIZE)
                .retry_canceled_requests(true)
                .set_host(false)
                .build(Connector { dialer: target.dialer.clone() });
            Rc::new(client)
        });
        Rc::clone(client)
    }

    /// Sends `request` and waits for the head of the answer, at most `first_byte` after the last
    /// piece of the request was taken.
    ///
    /// # Errors
    /// With the answer to give.
    pub async fn send(
        &self,
        target: &Target,
        request: Request<RequestContent>,
        progress: &Arc<Progress>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, ProxyError> {
        let answer = self.client(target).request(request);
        tokio::pin!(answer);
        let patience = tokio::time::sleep_until(Instant::now() + first_byte);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    return answer.map_err(|error| {
                        progress.failure().unwrap_or_else(|| classify(&error))
                    });
                }
                () = &mut patience => {
                    // Content that still moves is a reason to wait on.
                    let until = progress.upstream_idle_since() + first_byte;
                    if until <= Instant::now() {
                        return Err(ProxyError::FirstByte);
                    }
                    patience.as_mut().reset(until);
                }
            }
        }
    }
}

/// What a failed exchange means to the caller.
fn classify(error: &legacy::Error) -> ProxyError {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(dial) = current.downcast_ref::<DialError>() {
            return ProxyError::Dial(dial.clone());
        }
        if let Some(hyper) = current.downcast_ref::<hyper::Error>()
            && (hyper.is_parse() || hyper.is_parse_status() || hyper.is_parse_too_large())
        {
            return ProxyError::Protocol;
        }
        cause = current.source();
    }
    ProxyError::Closed
}

/// Connects to the one place it knows, whatever it is asked for.
#[derive(Debug, Clone)]
pub struct Connector {
    dialer: Dialer,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.dialer.clone();
        Box::pin(async move { dialer.dial().await.map(TokioIo::new) })
    }
}
