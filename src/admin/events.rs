//! `GET /api/events`: what happens, as it happens, as server-sent events.
//!
//! One task per stream collects, and a queue of a fixed size is between it and the connection.
//! Whoever reads slowly gets the newest status and misses requests; whoever does not read at all is
//! cut off.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Content, text, typed};
use super::{Access, Admin};
use crate::credential::secrets::Changes;
use crate::observe::recent::{News, Receiver, Recent, Seen};
use crate::proxy::Snapshot;

/// Streams at once, so that there are always connections left for probes.
pub(super) const MAX_STREAMS: usize = 8;
/// The type of such an answer.
const TYPE: &str = "text/event-stream";

/// How often the status is sent.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How old a status may be that several who look on are shown.
const STATUS_AGE: Duration = Duration::from_secs(1);
/// How often a line is sent that says nothing but that the connection is there.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How long requests are collected before they are sent together.
const COLLECT: Duration = Duration::from_millis(250);
/// The most requests that are sent together: more than a person can read in that time.
const BATCH: usize = 50;
/// Batches that wait for a slow reader.
const BATCHES: usize = 8;
/// Whoever takes nothing for so long is not there.
const STALLED: Duration = Duration::from_secs(30);

impl Admin {
    /// A stream of what happens, for as long as `access` stays what it is.
    pub(super) fn events(
        self: &Arc<Self>,
        access: Lasting,
        connection: &Connection,
    ) -> Response<Content> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            let detail = "as many are looking on as may; try again later";
            return text(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        typed(TYPE, Content::Events(Stream::open(self, access, place, connection)))
    }

    /// The status as events. Whoever asks at about the same time gets the same.
    async fn status_events(self: &Arc<Self>) -> Option<Arc<Told>> {
        let last = self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(told) = last
            && told.at.elapsed() < STATUS_AGE
        {
            return Some(told);
        }
        let told = Arc::new(self.aside(Told::of).await?.ok()?);
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&told));
        Some(told)
    }
}

/// The status in two events: with what came in past intervals, and without.
#[derive(Debug)]
pub(super) struct Told {
    at: Instant,
    past: Past,
    whole: Bytes,
    present: Bytes,
}

/// What the past consists of: how many intervals are over, and of which routes it is.
#[derive(Debug, Clone)]
struct Past {
    closed: u64,
    routes: Weak<Snapshot>,
}

impl PartialEq for Past {
    fn eq(&self, other: &Self) -> bool {
        self.closed == other.closed && self.routes.ptr_eq(&other.routes)
    }
}

impl Told {
    fn of(admin: &Admin) -> serde_json::Result<Self> {
        let proxy = &admin.sight.proxy;
        // Before the look: what changes meanwhile is told once more by the next.
        let routes = Arc::downgrade(&*proxy.snapshot.load());
        let past = Past { closed: proxy.observe().closed(), routes };
        let mut status = admin.status();
        let whole = event("status", &serde_json::to_string(&status)?);
        status.leave_out_history();
        let present = event("status", &serde_json::to_string(&status)?);
        Ok(Self { at: Instant::now(), past, whole, present })
    }
}

/// How long somebody may look on who may now: until the configuration says something else of it, or
/// the token is another one.
#[derive(Debug)]
pub(super) struct Lasting {
    over: CancellationToken,
    token: Changes,
}

impl Lasting {
    /// As `access` says it.
    pub(super) fn of(access: &Access) -> Self {
        let token = access.secrets.changes_of(access.config.token.as_slice());
        Self { over: access.over.clone(), token }
    }

    async fn end(&mut self) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = self.token.next() => {}
        }
    }
}

/// The connection on which a stream is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
    /// True where there is no room but for probes.
    pub(super) probes_only: bool,
    /// Cancelled when the program stops.
    pub(super) stop: CancellationToken,
    /// Cancels the connection itself.
    pub(super) cut: CancellationToken,
}

/// The content of the answer. The task that fills it ends with it.
#[derive(Debug)]
pub(super) struct Stream {
    queue: Arc<Queue>,
    _filling: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// What `admin` sees from now on.
    fn open(
        admin: &Arc<Admin>,
        access: Lasting,
        place: OwnedSemaphorePermit,
        connection: &Connection,
    ) -> Self {
        let mut requests = admin.sight.proxy.observe().recent.subscribe();
        let queue = Arc::new(Queue::new(requests.take_kept()));
        let (admin, connection) = (Arc::clone(admin), connection.clone());
        let filling = fill(admin, access, requests, Arc::clone(&queue), connection);
        let filling = AbortOnDropHandle::new(tokio::spawn(filling));
        Self { queue, _filling: filling, _place: place }
    }

    /// The next piece; `None` at the end.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.queue.poll_take(context)
    }
}

/// What waits to be sent: the newest status and the newest requests. What was kept from before the
/// stream waits for its turn and is none that is missed.
#[derive(Debug)]
struct Queue(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    status: Option<Arc<Told>>,
    /// The past that was told last.
    past: Option<Past>,
    kept: VecDeque<Arc<Seen>>,
    requests: VecDeque<(u64, Bytes)>,
    /// Requests that there was no room for.
    missed: u64,
    heartbeat: bool,
    ended: bool,
    /// When something was taken last, or there was nothing to take.
    taken: Instant,
    waker: Option<Waker>,
}

impl Queue {
    fn new(kept: VecDeque<Arc<Seen>>) -> Self {
        Self(Mutex::new(Waiting {
            status: None,
            past: None,
            kept,
            requests: VecDeque::with_capacity(BATCHES),
            missed: 0,
            heartbeat: false,
            ended: false,
            taken: Instant::now(),
            waker: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits, and says so to who sends it.
    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            waiting.taken = Instant::now();
        }
        change(&mut waiting);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Requests, `count` of them.
    fn put_requests(&self, count: u64, requests: Bytes) {
        self.put(|waiting| {
            if waiting.requests.len() >= BATCHES
                && let Some((count, _)) = waiting.requests.pop_front()
            {
                waiting.missed += count;
            }
            waiting.requests.push_back((count, requests));
        });
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut waiting = self.lock();
        let next = waiting.next();
        if next.is_some() {
            waiting.taken = Instant::now();
            return Poll::Ready(next);
        }
        if waiting.ended {
            return Poll::Ready(None);
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// True if something has waited for so long that nobody can be there.
    fn is_stalled(&self) -> bool {
        let waiting = self.lock();
        !waiting.is_empty() && waiting.taken.elapsed() >= STALLED
    }
}

impl Waiting {
    /// Nothing of it may be told any more.
    fn clear(&mut self) {
        self.status = None;
        self.kept.clear();
        self.requests.clear();
        (self.missed, self.heartbeat) = (0, false);
    }

    fn is_empty(&self) -> bool {
        let requests = self.kept.len() + self.requests.len();
        self.status.is_none() && requests == 0 && self.missed == 0 && !self.heartbeat
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(told) = self.status.take() {
            let known = self.past.as_ref() == Some(&told.past);
            self.past = Some(told.past.clone());
            return Some(if known { told.present.clone() } else { told.whole.clone() });
        }
        if !self.kept.is_empty() {
            let some = self.kept.len().min(BATCH);
            return Some(of_requests(self.kept.drain(..some)).1);
        }
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            return Some(event("missed", &format!("{{\"requests\":{missed}}}")));
        }
        if let Some((_, requests)) = self.requests.pop_front() {
            return Some(requests);
        }
        std::mem::take(&mut self.heartbeat).then(|| Bytes::from_static(b": still there\n\n"))
    }
}

/// Fills `queue` until the program stops, whoever reads may not any more, or nobody does.
async fn fill(
    admin: Arc<Admin>,
    mut access: Lasting,
    requests: Receiver,
    queue: Arc<Queue>,
    connection: Connection,
) {
    tokio::select! {
        // Nothing is told from the moment on at which it may not be.
        biased;
        () = access.end() => queue.put(Waiting::clear),
        () = connection.stop.cancelled() => {}
        () = collect(&admin, requests, &queue) => connection.cut.cancel(),
    }
    queue.put(|waiting| waiting.ended = true);
}

/// Puts into `queue` what there is to tell, until nobody reads.
async fn collect(admin: &Arc<Admin>, mut requests: Receiver, queue: &Queue) {
    let mut statuses = interval(STATUS_INTERVAL);
    statuses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heartbeats = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    let mut collected = interval(COLLECT);
    collected.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let recent = &admin.sight.proxy.observe().recent;
    let mut batch = Batch::new(recent);
    let mut feed_ended = false;
    loop {
        tokio::select! {
            _ = statuses.tick() => {
                if queue.is_stalled() {
                    return;
                }
                if let Some(told) = admin.status_events().await {
                    queue.put(|waiting| waiting.status = Some(told));
                }
            }
            news = requests.next(), if !feed_ended => match news {
                Some(news) => batch.add(news),
                None => feed_ended = true,
            },
            _ = collected.tick() => {
                batch.add_dropped(recent);
                batch.send(queue);
            }
            _ = heartbeats.tick() => queue.put(|waiting| waiting.heartbeat = true),
        }
    }
}

/// Requests that are sent together.
#[derive(Debug, Default)]
struct Batch {
    seen: VecDeque<Arc<Seen>>,
    missed: u64,
    /// How many were dropped when that was last looked at.
    dropped: u64,
}

impl Batch {
    fn new(recent: &Recent) -> Self {
        Self { dropped: recent.dropped(), ..Self::default() }
    }

    /// Counts what has not even been recorded.
    fn add_dropped(&mut self, recent: &Recent) {
        let dropped = recent.dropped();
        self.missed += dropped.saturating_sub(self.dropped);
        self.dropped = dropped;
    }

    fn add(&mut self, news: News) {
        match news {
            News::Missed(missed) => self.missed += missed,
            News::Seen(seen) => {
                if self.seen.len() >= BATCH {
                    self.seen.pop_front();
                    self.missed += 1;
                }
                self.seen.push_back(seen);
            }
        }
    }

    fn send(&mut self, queue: &Queue) {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            queue.put(|waiting| waiting.missed += missed);
        }
        let (count, requests) = of_requests(self.seen.drain(..));
        if count > 0 {
            queue.put_requests(count, requests);
        }
    }
}

/// Their events, and how many they are.
fn of_requests(all: impl Iterator<Item = Arc<Seen>>) -> (u64, Bytes) {
    let (mut text, mut count) = (String::new(), 0);
    for seen in all {
        if let Ok(json) = serde_json::to_string(&*seen) {
            count += 1;
            let _ = write!(text, "event: request\ndata: {json}\n\n");
        }
    }
    (count, text.into())
}

/// One event. JSON has no line breaks outside of its texts, where they are escaped.
fn event(kind: &str, json: &str) -> Bytes {
    format!("event: {kind}\ndata: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::credential::keeper::Watch;

    fn take(queue: &Queue) -> Option<String> {
        match queue.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(piece) => {
                Some(piece.map_or("end".to_owned(), |b| String::from_utf8(b.to_vec()).unwrap()))
            }
            Poll::Pending => None,
        }
    }

    fn seen(path: &str) -> News {
        News::Seen(Arc::new(Seen { path: path.to_owned(), ..Seen::default() }))
    }

    /// A status of which `closed` intervals are over.
    fn told(closed: u64, present: &str) -> Arc<Told> {
        let past = Past { closed, routes: Weak::new() };
        let (whole, present) = (event("status", "\"whole\""), event("status", present));
        Arc::new(Told { at: Instant::now(), past, whole, present })
    }

    fn numbered(count: u64) -> VecDeque<Arc<Seen>> {
        (0..count).map(|seq| Arc::new(Seen { seq, ..Seen::default() })).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_comes_in_pieces_before_what_is_new_and_is_not_missed() {
        let queue = Queue::new(numbered(200));
        for number in 0..=BATCHES {
            queue.put_requests(5, format!("batch {number}").into());
        }
        for piece in 0..4 {
            let sent = take(&queue).unwrap();
            assert_eq!(sent.matches("event: request\n").count(), BATCH);
            assert!(sent.contains(&format!("\"seq\":{},", piece * BATCH)), "{sent}");
        }
        assert_eq!(take(&queue).unwrap(), "event: missed\ndata: {\"requests\":5}\n\n");
        assert_eq!(take(&queue).unwrap(), "batch 1");
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_is_told_at_first_and_whenever_an_interval_is_over() {
        let queue = Queue::new(VecDeque::new());
        for (closed, sent) in [(7, "whole"), (7, "present"), (8, "whole"), (8, "present")] {
            queue.put(|waiting| waiting.status = Some(told(closed, "\"present\"")));
            assert_eq!(take(&queue).unwrap(), format!("event: status\ndata: \"{sent}\"\n\n"));
        }
        // One that was never taken has told nobody.
        for closed in [9, 9] {
            queue.put(|waiting| waiting.status = Some(told(closed, "\"present\"")));
        }
        assert!(take(&queue).unwrap().contains("whole"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_the_configuration_says_something_else_of_who_may_look() {
        let admin = Arc::new(crate::admin::tests::admin(Watch::default()).await);
        let go_over = |quit| {
            let access = admin.access.load_full();
            let config = crate::config::AdminConfig { quit, ..access.config.clone() };
            admin.go_over(config, Arc::clone(&access.secrets), Vec::new(), Vec::new());
        };
        let connection = Connection::default();
        let mut answer = admin.events(Lasting::of(&admin.access.load()), &connection);
        let body = answer.body_mut();
        assert!(body.frame().await.is_some());
        go_over(false);
        assert!(body.frame().await.is_some(), "it is the same");
        assert!(body.frame().await.is_some());
        go_over(true);
        assert!(body.frame().await.is_none());
        assert!(!connection.cut.is_cancelled(), "the connection is fine");
        drop(answer);
        let mut answer = admin.events(Lasting::of(&admin.access.load()), &connection);
        assert!(answer.body_mut().frame().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_even_recorded_is_missed_as_well() {
        let admin = crate::admin::tests::admin(Watch::default()).await;
        let recent = &admin.sight.proxy.observe().recent;
        let drop_some = || (0..1_000).for_each(|_| recent.record(Seen::default()));
        drop_some();
        let (queue, mut batch) = (Queue::new(VecDeque::new()), Batch::new(recent));
        batch.add_dropped(recent);
        batch.send(&queue);
        assert_eq!(take(&queue), None, "it was before the stream");
        drop_some();
        batch.add_dropped(recent);
        batch.send(&queue);
        assert_eq!(take(&queue).unwrap(), "event: missed\ndata: {\"requests\":1000}\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_gets_the_newest_and_is_told_what_was_missed() {
        let queue = Queue::new(VecDeque::new());
        assert_eq!(take(&queue), None);
        queue.put(|waiting| waiting.status = Some(told(0, "")));
        assert!(take(&queue).is_some());
        for status in ["{\"a\":1}", "{\"a\":2}"] {
            queue.put(|waiting| waiting.status = Some(told(0, status)));
        }
        for number in 0..BATCHES + 3 {
            queue.put_requests(5, format!("batch {number}").into());
        }
        assert_eq!(take(&queue).unwrap(), "event: status\ndata: {\"a\":2}\n\n");
        assert_eq!(take(&queue).unwrap(), "event: missed\ndata: {\"requests\":15}\n\n");
        for number in 3..BATCHES + 3 {
            assert_eq!(take(&queue).unwrap(), format!("batch {number}"));
        }
        assert_eq!(take(&queue), None);
        queue.put(|waiting| waiting.ended = true);
        assert_eq!(take(&queue).unwrap(), "end");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_taken_for_gone_and_who_waits_is_not() {
        let queue = Queue::new(VecDeque::new());
        tokio::time::advance(STALLED * 2).await;
        assert!(!queue.is_stalled(), "there was nothing to take");
        queue.put(|waiting| waiting.heartbeat = true);
        tokio::time::advance(STALLED.saturating_sub(Duration::from_millis(1))).await;
        assert!(!queue.is_stalled());
        queue.put(|waiting| waiting.heartbeat = true);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(queue.is_stalled());
        assert!(take(&queue).is_some());
        assert!(!queue.is_stalled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nobody_reads_is_cut_and_its_place_is_free_again() {
        let admin = Arc::new(crate::admin::tests::admin(Watch::default()).await);
        let (reads, hangs) = (Connection::default(), Connection::default());
        let stream = |connection| admin.events(Lasting::of(&admin.access.load()), connection);
        let (mut reading, hanging) = (stream(&reads), stream(&hangs));
        assert_eq!(admin.streams.available_permits(), MAX_STREAMS - 2);
        let statuses = async {
            let mut statuses = 0;
            while let Some(piece) = reading.body_mut().frame().await {
                let piece = piece.unwrap().into_data().unwrap();
                statuses += usize::from(piece.starts_with(b"event: status\n"));
            }
            statuses
        };
        let cut = async {
            hangs.cut.cancelled().await;
            drop(hanging);
            assert_eq!(admin.streams.available_permits(), MAX_STREAMS - 1);
            assert!(!reads.cut.is_cancelled(), "the other goes on");
            reads.stop.cancel();
        };
        let (statuses, ()) = tokio::join!(statuses, cut);
        assert!(statuses >= 15, "every two seconds for at least 30: {statuses}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_has_the_last_requests_and_counts_the_others() {
        let (queue, mut batch) = (Queue::new(VecDeque::new()), Batch::default());
        for number in 0..BATCH + 2 {
            batch.add(seen(&format!("/{number}")));
        }
        batch.add(News::Missed(7));
        batch.send(&queue);
        assert_eq!(take(&queue).unwrap(), "event: missed\ndata: {\"requests\":9}\n\n");
        let sent = take(&queue).unwrap();
        assert_eq!(sent.matches("event: request\n").count(), BATCH);
        assert!(!sent.contains("\"/1\"") && sent.contains("\"/2\"") && sent.contains("\"/51\""));
        batch.send(&queue);
        assert_eq!(take(&queue), None, "nothing comes twice");
    }
}
