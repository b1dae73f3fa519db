//! How far an exchange has come, and how long it may stand still.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep};

use crate::proxy::respond::ProxyError;

/// How far the content of one request has come; shared between the content and whoever waits for
/// the answer.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started` at which something moved last.
    moved_at: AtomicU64,
    /// The upstream would take more, but the caller has not sent it yet.
    waiting: AtomicBool,
    complete: AtomicBool,
    /// Whoever sends the content has let go of it.
    released: AtomicBool,
    /// Milliseconds after `started`, and at least 1, at which a piece last passed in either
    /// direction; 0 until the answer has begun.
    flowed_at: AtomicU64,
    failure: AtomicU8,
}

pub(super) const TOO_LARGE: u8 = 1;
pub(super) const TIMED_OUT: u8 = 2;
pub(super) const ABORTED: u8 = 3;
pub(super) const UNREADABLE: u8 = 4;

impl Progress {
    /// Nothing has moved yet, at `now`.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            moved_at: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            released: AtomicBool::new(false),
            flowed_at: AtomicU64::new(0),
            failure: AtomicU8::new(0),
        })
    }

    /// When the exchange with the upstream began.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn moved(&self) {
        self.moved_at.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// The answer has begun: from now on silence is silence in both directions.
    pub fn answered(&self) {
        self.flowed_at.store(self.elapsed_ms().max(1), Ordering::Relaxed);
    }

    /// A piece has passed.
    pub(super) fn flowed(&self) {
        if self.flowed_at.load(Ordering::Relaxed) > 0 {
            self.answered();
        }
    }

    /// When a piece last passed in either direction; `None` before the answer has begun.
    pub(super) fn last_flow(&self) -> Option<Instant> {
        let at = self.flowed_at.load(Ordering::Relaxed);
        (at > 0).then(|| self.started + Duration::from_millis(at))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn fail(&self, failure: u8) {
        self.failure.store(failure, Ordering::Relaxed);
    }

    /// Since when the upstream could have answered; now, while it waits for the caller's content.
    pub fn upstream_idle_since(&self) -> Instant {
        if self.waiting.load(Ordering::Relaxed) {
            return Instant::now();
        }
        self.started + Duration::from_millis(self.moved_at.load(Ordering::Relaxed))
    }

    /// All content was handed on.
    pub(super) fn completed(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// The upstream would take more, but the caller has not sent it yet, or has.
    pub(super) fn waits_for_caller(&self, waits: bool) {
        self.waiting.store(waits, Ordering::Relaxed);
    }

    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// True once whoever sends the content has sent all of it, or given it up.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// True once all content was handed on.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// What went wrong with the caller's content, if anything did.
    pub fn failure(&self) -> Option<ProxyError> {
        match self.failure.load(Ordering::Relaxed) {
            TOO_LARGE => Some(ProxyError::ContentTooLarge),
            TIMED_OUT => Some(ProxyError::ContentTimeout),
            ABORTED => Some(ProxyError::ContentAborted),
            UNREADABLE => Some(ProxyError::Spool(io::ErrorKind::Other)),
            _ => None,
        }
    }
}

/// Holds content back until the upstream asks for it (`100 Continue`).
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waiting: AtomicWaker,
}

impl Gate {
    /// Lets the content pass.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waiting.wake();
    }

    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waiting.register(cx.waker());
        // It may have been opened in between.
        if self.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A timer that costs nothing while content flows: it is set only when there is a wait.
pub(super) struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    pub(super) fn reset(&mut self) {
        self.sleep = None;
    }

    /// Ready when the limit has passed, or, with `flow`, when nothing has passed in the other
    /// direction for that long either.
    pub(super) fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        flow: Option<&Progress>,
    ) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            match flow.and_then(Progress::last_flow) {
                Some(last) if last + limit > Instant::now() => sleep.as_mut().reset(last + limit),
                _ => return Poll::Ready(()),
            }
        }
    }
}
