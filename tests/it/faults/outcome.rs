//! What a caller gets, in the words of the table.

use std::net::SocketAddr;

use crate::harness::client::{parse, raw, unchunked};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The status, and whether the answer broke off.
    pub(super) status: String,
    /// The last word of `type`.
    pub(super) word: String,
    /// The error of `Proxy-Status`.
    pub(super) error: String,
    /// Whether there is a `Retry-After` that says a second or more.
    pub(super) retry_after: &'static str,
    pub(super) detail: String,
}

/// Asks over a connection of its own; a POST has content.
pub(super) async fn ask(address: SocketAddr, method: &str, target: &str) -> Outcome {
    let content = if method == "POST" { "Content-Length: 2\r\n\r\n{}" } else { "\r\n" };
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{content}");
    read(&raw(address, request).await)
}

fn read(answer: &[u8]) -> Outcome {
    const NONE: &str = "–";
    let mut outcome = Outcome {
        status: "cut off".to_owned(),
        word: NONE.to_owned(),
        error: NONE.to_owned(),
        retry_after: "no",
        detail: NONE.to_owned(),
    };
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return outcome;
    };
    let reply = parse(answer);
    let content = &answer[head + 4..];
    let whole = match reply.field("content-length").parse::<usize>() {
        Ok(length) => content.len() == length,
        Err(_) => unchunked(content).is_some(),
    };
    outcome.status = reply.status.to_string() + if whole { "" } else { ", cut off" };
    if !reply.field("retry-after").is_empty() {
        assert!(reply.retry_after() >= 1);
        outcome.retry_after = "yes";
    }
    let status = reply.field("proxy-status");
    if let Some((error, _)) =
        status.strip_prefix("countersign; error=").and_then(|rest| rest.split_once(';'))
    {
        error.clone_into(&mut outcome.error);
        outcome.word = reply.problem(reply.status, error);
        reply.json()["detail"].as_str().unwrap().clone_into(&mut outcome.detail);
        assert!(!outcome.detail.contains("canary"), "{outcome:?}");
    }
    outcome
}

/// What was seen of one fault.
pub(super) struct Seen {
    pub(super) fault: &'static str,
    /// What callers got, which is to be the same for all.
    pub(super) outcomes: Vec<Outcome>,
    /// Answers that are not as they would be without the fault.
    pub(super) not_fine: Vec<Outcome>,
}

impl Seen {
    pub(super) fn new(fault: &'static str) -> Self {
        Self { fault, outcomes: Vec::new(), not_fine: Vec::new() }
    }

    /// What the fault must not have an effect on.
    pub(super) fn expect_fine(&mut self, outcome: &Outcome) {
        if outcome.status != "200" {
            self.not_fine.push(outcome.clone());
        }
    }
}
