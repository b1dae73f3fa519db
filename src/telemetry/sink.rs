//! Lines on their way: a bounded buffer, and the thread that empties it.
//!
//! Whoever logs only copies a line. A disk that is slow, or a pipe that nobody empties, makes lines
//! wait, and then be dropped and counted; it never makes a request wait.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

use super::outlet::{Lost, Outlet};

/// The least time between two writes, so that many lines share one.
const PACE: Duration = Duration::from_millis(20);
/// The least time between two reports of dropped lines.
const REPORT: Duration = Duration::from_secs(60);

/// How much of the buffer a kind of lines may fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All of it.
    Whole,
    /// What leaves room for lines that are not about one request.
    Most,
}

/// A destination, and the lines that wait for it.
#[derive(Debug)]
pub(super) struct Sink {
    waiting: Mutex<Waiting>,
    /// There are lines, or something else to do.
    woken: Condvar,
    /// All lines are written.
    emptied: Condvar,
    outlet: Mutex<Outlet>,
    /// Bytes that may wait.
    limit: usize,
    dropped: AtomicU64,
    /// Reports of failures can go to the log: it goes elsewhere.
    reports_to_log: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// There is a thread that writes; else whoever logs writes.
    served: bool,
    /// It waits until it is woken.
    asleep: bool,
    /// It is writing.
    busy: bool,
    /// Somebody waits for all to be written.
    hurried: bool,
    /// The file is to be opened anew.
    reopen: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    pub(super) fn new(outlet: Outlet, limit: usize, reports_to_log: bool) -> Self {
        Self {
            waiting: Mutex::default(),
            woken: Condvar::new(),
            emptied: Condvar::new(),
            outlet: Mutex::new(outlet),
            limit,
            dropped: AtomicU64::new(0),
            reports_to_log,
        }
    }

    /// Lines that were not written, for whatever reason.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a line, with its end; never waits for the destination once there is a thread for that.
    pub(super) fn push(&self, line: &[u8], share: Share) {
        let room = match share {
            Share::Whole => self.limit,
            Share::Most => self.limit - self.limit / 4,
        };
        let mut waiting = lock(&self.waiting);
        if !waiting.served {
            drop(waiting);
            if let Err(lost) = lock(&self.outlet).write(line) {
                self.count(lost.lines);
            }
            return;
        }
        if waiting.lines.len() + line.len() > room {
            drop(waiting);
            self.count(1);
            return;
        }
        waiting.lines.extend_from_slice(line);
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.woken.notify_one();
        }
    }

    fn count(&self, lines: usize) {
        self.dropped.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Starts the thread that writes. It ends with the process.
    ///
    /// # Errors
    /// When there can be no thread; lines are then written as before.
    pub(super) fn serve(self: &Arc<Self>) -> io::Result<()> {
        if std::mem::replace(&mut lock(&self.waiting).served, true) {
            return Ok(());
        }
        let sink = Arc::clone(self);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || Writer::default().run(&sink)).map(drop).inspect_err(|_| {
            lock(&self.waiting).served = false;
        })
    }

    /// Has the file opened anew, soon.
    pub(super) fn reopen(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.reopen = true;
        waiting.asleep = false;
        drop(waiting);
        self.woken.notify_one();
    }

    /// Waits until all lines are written, but no longer than `most`.
    pub(super) fn flush(&self, most: Duration) {
        let mut waiting = lock(&self.waiting);
        if !waiting.served {
            return;
        }
        waiting.hurried = true;
        waiting.asleep = false;
        self.woken.notify_one();
        let is_busy = |waiting: &mut Waiting| waiting.busy || !waiting.lines.is_empty();
        drop(self.emptied.wait_timeout_while(waiting, most, is_busy));
    }
}

/// What the thread remembers.
#[derive(Debug, Default)]
struct Writer {
    /// Writing, or opening anew, fails; that was said.
    failing: bool,
    /// Lines that had been dropped at the last report, and when it was.
    reported: (u64, Option<Instant>),
}

impl Writer {
    fn run(mut self, sink: &Sink) {
        let mut lines = Vec::new();
        loop {
            let reopen = wait(sink, &mut lines);
            let result = write(&mut lock(&sink.outlet), &lines, reopen);
            lines.clear();
            lines.shrink_to(sink.limit / 16);
            self.report(sink, result);
            let mut waiting = lock(&sink.waiting);
            waiting.busy = false;
            if waiting.lines.is_empty() {
                waiting.hurried = false;
                sink.emptied.notify_all();
            }
            // Lines that come now share the next write.
            let paced = |waiting: &mut Waiting| !waiting.hurried && !waiting.reopen;
            drop(sink.woken.wait_timeout_while(waiting, PACE, paced));
        }
    }

    /// Says what went wrong, once.
    fn report(&mut self, sink: &Sink, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                if !lock(&sink.outlet).is_astray() && std::mem::take(&mut self.failing) {
                    say(sink, "it can be written again", None);
                }
            }
            Err(failure) => {
                sink.count(failure.lines);
                if !std::mem::replace(&mut self.failing, true) {
                    say(sink, failure.what, Some(&failure.error));
                }
                // It would be said again as lines that were dropped.
                self.reported.0 = sink.dropped();
                return;
            }
        }
        let (before, at) = self.reported;
        let dropped = sink.dropped();
        let now = Instant::now();
        if dropped > before && at.is_none_or(|at| now.duration_since(at) >= REPORT) {
            self.reported = (dropped, Some(now));
            let to = lock(&sink.outlet).target().to_string();
            tracing::warn!(
                dropped = dropped - before,
                to,
                "lines were dropped: more came than could be written"
            );
        }
    }
}

/// What could not be done.
struct Failure {
    what: &'static str,
    lines: usize,
    error: io::Error,
}

/// Takes the lines that there are, as soon as there are some; true if the file is to be opened anew.
fn wait(sink: &Sink, lines: &mut Vec<u8>) -> bool {
    let mut waiting = lock(&sink.waiting);
    while waiting.lines.is_empty() && !waiting.reopen {
        waiting.asleep = true;
        waiting = sink.woken.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut waiting.hurried) && waiting.lines.is_empty() {
            sink.emptied.notify_all();
        }
    }
    waiting.asleep = false;
    waiting.busy = true;
    std::mem::swap(&mut waiting.lines, lines);
    std::mem::take(&mut waiting.reopen)
}

fn write(outlet: &mut Outlet, lines: &[u8], reopen: bool) -> Result<(), Failure> {
    let opened = if reopen { outlet.reopen() } else { outlet.follow() };
    // The one that was open takes them.
    let written = outlet.write(lines);
    written.map_err(|Lost { lines, error }| Failure {
        what: "it cannot be written; lines are dropped until it can",
        lines,
        error,
    })?;
    opened.map_err(|error| Failure {
        what: "it cannot be opened again; the old file is still used",
        lines: 0,
        error,
    })
}

/// Says something about the log itself.
fn say(sink: &Sink, what: &str, error: Option<&io::Error>) {
    let to = lock(&sink.outlet).target().to_string();
    if sink.reports_to_log {
        if let Some(error) = error {
            tracing::error!(to, %error, "the access log: {what}");
        } else {
            tracing::info!(to, "the access log: {what}");
        }
        return;
    }
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    let line = format!("countersign: the log {to}: {what}{error}\n");
    // Nobody is left to tell if this fails, too.
    let _ = io::Write::write_all(&mut io::stderr(), line.as_bytes());
}

/// Takes the lines of a formatter, each in one piece.
#[derive(Debug, Clone)]
pub(super) struct Mouth(pub(super) Arc<Sink>);

impl io::Write for Mouth {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line, Share::Whole);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Mouth {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
