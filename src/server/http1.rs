//! Serving one caller's HTTP/1 connection: one request after the other.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Answer, Asked};
use super::caller::{Caller, DISCARDED, Next};
use super::patience::{Activity, Busy, Patient, Reset};
use super::stopping::Ear;
use super::{Service, Syntax};
use crate::config::HeaderCase;
use crate::http1::{Framing, HeadSyntax, Input};
use crate::proxy::guard::Gate;
use crate::proxy::interim::Interims;
use crate::proxy::respond::ProxyError;
use crate::proxy::websocket::Tunnel;
use crate::proxy::{Handled, Proxy, Received};

/// How long a caller is listened to that is still sending what nobody will read: closing at once
/// could take from it the answer that says so (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);

/// What becomes of a connection after its last request.
enum End {
    /// There is nothing more to say, or nobody to say it to.
    Gone,
    /// The caller has its answer. It may be sending still.
    Answered { more_may_come: bool },
    /// Another protocol follows.
    Switched(Box<Tunnel>, Busy),
}

/// Serves until the caller goes away, or ends it when told to stop.
pub(super) async fn serve<S>(
    stream: Patient<S>,
    activity: Rc<Activity>,
    syntax: Syntax,
    service: Service,
    stopping: Ear,
) where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let caller = Caller::new(stream);
    let end = serve_requests(&caller, &activity, syntax, service, stopping).await;
    finish(&caller, end).await;
}

/// Answers what came instead of requests with why there is nothing for it here.
pub(super) async fn refuse<S>(
    stream: Patient<S>,
    activity: &Rc<Activity>,
    syntax: Syntax,
    service: &Service,
    error: &ProxyError,
) where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let caller = Caller::new(stream);
    let gate = service.gate();
    let end = answer_refusal(&caller, activity, syntax, &service.proxy, &gate, error).await;
    finish(&caller, end).await;
}

async fn answer_refusal<S>(
    caller: &Rc<Caller<S>>,
    activity: &Rc<Activity>,
    syntax: Syntax,
    proxy: &Proxy,
    gate: &Gate,
    error: &ProxyError,
) -> End
where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let _busy = activity.request(false);
    let response = proxy.refuse(gate, error);
    let (asked, now) = (Asked::default(), proxy.clock.wall());
    let mut answer = Answer::begin(caller, asked, response, syntax, now);
    match std::future::poll_fn(|cx| answer.poll(caller, cx)).await {
        Ok(()) => End::Answered { more_may_come: true },
        Err(_) => End::Gone,
    }
}

async fn finish<S>(caller: &Rc<Caller<S>>, end: End)
where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let (Some(mut stream), mut input, sending) = caller.end() else { return };
    match end {
        End::Gone => stream.part(),
        End::Answered { more_may_come } => {
            Box::pin(close(stream, input, sending || more_may_come)).await;
        }
        End::Switched(tunnel, _busy) => Box::pin(tunnel.run(stream, input.take_all())).await,
    }
}

async fn serve_requests<S>(
    caller: &Rc<Caller<S>>,
    activity: &Rc<Activity>,
    syntax: Syntax,
    service: Service,
    mut stopping: Ear,
) -> End
where
    S: AsyncRead + AsyncWrite + Reset + Unpin + 'static,
{
    let Service { proxy, pools, ends, .. } = &service;
    let interims = Rc::new(Interims::default());
    let head_syntax = HeadSyntax {
        max_bytes: proxy.limits.header_bytes,
        max_fields: proxy.limits.fields,
        lenient: syntax.lenient,
        remember_spelling: syntax.remember_case || syntax.header_case == HeaderCase::Preserve,
    };
    let mut is_first = true;
    loop {
        let next =
            std::future::poll_fn(|cx| caller.poll_head(cx, head_syntax, &mut stopping, is_first));
        let (head, framing) = match next.await {
            Next::Request(head, framing) => (head, framing),
            Next::Refused(error) => {
                let gate = service.gate();
                return answer_refusal(caller, activity, syntax, proxy, &gate, &error).await;
            }
            Next::Ended => return End::Gone,
        };
        is_first = false;
        let busy = activity.request(false);
        let mut asked = Asked::by(&head);
        let content = caller.begin_content(framing, asked.to_continue);
        let received = Received {
            head: head.parts,
            content,
            ends: ends.clone(),
            spelling: head.spelling,
            interims: (asked.version == Version::HTTP_11).then(|| Rc::clone(&interims)),
        };
        let handled = {
            let pools = Rc::clone(pools);
            let handled = Arc::clone(proxy).handle(pools, service.gate(), received);
            let mut handled = std::pin::pin!(handled);
            let answered = std::future::poll_fn(|cx| {
                let polled = handled.as_mut().poll(cx);
                caller.add_interims(&interims, syntax.case(None));
                if let Poll::Ready(handled) = polled {
                    return Poll::Ready(Some(handled));
                }
                // Nobody is there any more to have the answer.
                caller.poll_gone(cx, syntax.lenient).map(|()| None)
            });
            answered.await
        };
        let Some((response, tunnel)): Option<Handled> = handled else { return End::Gone };
        asked.lasts &= !std::future::poll_fn(|cx| Poll::Ready(stopping.is_told(cx))).await
            && !stopping.is_goodbye()
            // A line that was left out may have said where the request ends: what follows it is not
            // believed.
            && !syntax.lenient;
        let mut answer = Answer::begin(caller, asked, response, syntax, proxy.clock.wall());
        activity.set_open_ended(answer.framing() == Framing::UntilClose);
        if std::future::poll_fn(|cx| answer.poll(caller, cx)).await.is_err() {
            return End::Gone;
        }
        activity.set_open_ended(false);
        let lasts = answer.lasts();
        drop(answer);
        if let Some(tunnel) = tunnel {
            return End::Switched(Box::new(tunnel), busy);
        }
        if !(lasts && caller.discard()) {
            return End::Answered { more_may_come: false };
        }
        drop(busy);
    }
}

/// Ends the connection. If the caller `is_sending`, it is listened to for a while, so that it can read
/// all of its answer.
async fn close<S>(mut stream: Patient<S>, mut input: Input, is_sending: bool)
where
    S: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let shut = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
    if shut.is_err() || !is_sending {
        return;
    }
    let mut left = DISCARDED;
    let linger = std::future::poll_fn(|cx| {
        loop {
            input.take_all();
            match ready!(input.poll_fill(&mut stream, cx)) {
                Ok(read) if read > 0 && read <= left => left -= read,
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = tokio::time::timeout(LINGER, linger).await;
}
