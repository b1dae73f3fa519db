//! `GET /api/events`: what happens, as it happens, as server-sent events.
//!
//! One task per stream collects, and a queue of a fixed size is between it and the connection.
//! Whoever reads slowly gets the newest status and misses requests; whoever does not read at all is
//! cut off.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Admin;
use super::answer::{Content, text, typed};
use super::status::Status;
use crate::observe::recent::{News, Receiver, Seen};

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
    /// A stream of what happens.
    pub(super) fn events(self: &Arc<Self>, connection: &Connection) -> Response<Content> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            let detail = "as many are looking on as may; try again later";
            return text(StatusCode::SERVICE_UNAVAILABLE, detail);
        };
        typed(TYPE, Content::Events(Stream::open(self, place, connection)))
    }

    /// The status as an event. Whoever asks at about the same time gets the same.
    async fn status_event(self: &Arc<Self>) -> Option<Bytes> {
        let last = self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, event)) = last
            && at.elapsed() < STATUS_AGE
        {
            return Some(event);
        }
        let looking =
            self.aside(|admin| serde_json::to_string(&Status::of(&admin.sight, &admin.control)));
        let event = event("status", &looking.await?.ok()?);
        let sent = Some((Instant::now(), event.clone()));
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
        Some(event)
    }
}

/// The connection on which a stream is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Connection {
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
    fn open(admin: &Arc<Admin>, place: OwnedSemaphorePermit, connection: &Connection) -> Self {
        let queue = Arc::new(Queue::new());
        let requests = admin.sight.proxy.observe().recent.subscribe();
        let filling = fill(Arc::clone(admin), requests, Arc::clone(&queue), connection.clone());
        let filling = AbortOnDropHandle::new(tokio::spawn(filling));
        Self { queue, _filling: filling, _place: place }
    }

    /// The next piece; `None` at the end.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.queue.poll_take(context)
    }
}

/// What waits to be sent: the newest status and the newest requests.
#[derive(Debug)]
struct Queue(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    status: Option<Bytes>,
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
    fn new() -> Self {
        Self(Mutex::new(Waiting {
            status: None,
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
    fn is_empty(&self) -> bool {
        self.status.is_none() && self.requests.is_empty() && self.missed == 0 && !self.heartbeat
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(status) = self.status.take() {
            return Some(status);
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

/// Fills `queue` until the program stops or nobody reads.
async fn fill(
    admin: Arc<Admin>,
    mut requests: Receiver,
    queue: Arc<Queue>,
    connection: Connection,
) {
    let mut statuses = interval(STATUS_INTERVAL);
    statuses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heartbeats = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    let mut collected = interval(COLLECT);
    collected.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Batch::default();
    let mut feed_ended = false;
    loop {
        tokio::select! {
            () = connection.stop.cancelled() => break,
            _ = statuses.tick() => {
                if queue.is_stalled() {
                    connection.cut.cancel();
                    break;
                }
                if let Some(status) = admin.status_event().await {
                    queue.put(|waiting| waiting.status = Some(status));
                }
            }
            news = requests.next(), if !feed_ended => match news {
                Some(news) => batch.add(news),
                None => feed_ended = true,
            },
            _ = collected.tick() => batch.send(&queue),
            _ = heartbeats.tick() => queue.put(|waiting| waiting.heartbeat = true),
        }
    }
    queue.put(|waiting| waiting.ended = true);
}

/// Requests that are sent together.
#[derive(Debug, Default)]
struct Batch {
    seen: VecDeque<Arc<Seen>>,
    missed: u64,
}

impl Batch {
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
        let mut text = String::new();
        let mut count = 0;
        for seen in self.seen.drain(..) {
            if let Ok(json) = serde_json::to_string(&*seen) {
                count += 1;
                let _ = write!(text, "event: request\ndata: {json}\n\n");
            }
        }
        if count > 0 {
            queue.put_requests(count, text.into());
        }
    }
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

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_gets_the_newest_and_is_told_what_was_missed() {
        let queue = Queue::new();
        assert_eq!(take(&queue), None);
        for status in ["{\"a\":1}", "{\"a\":2}"] {
            queue.put(|waiting| waiting.status = Some(event("status", status)));
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
        let queue = Queue::new();
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
        let (mut reading, hanging) = (admin.events(&reads), admin.events(&hangs));
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
        let (queue, mut batch) = (Queue::new(), Batch::default());
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
