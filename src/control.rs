//! What signals, the watched file and the admin listener ask of the running program: to go over to
//! what its configuration says now, and to end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How many may ask at once before the first of them has been heard; more wait.
const MAX_ASKING: usize = 16;

/// Who asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// The file has changed, and is watched.
    File,
    /// `POST /api/reload`.
    Admin,
}

impl Cause {
    /// Its word: "signal", "file" or "admin".
    pub fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
            Self::Admin => "admin",
        }
    }
}

/// A reload that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// When it ended.
    pub at: SystemTime,
    /// Who asked for it.
    pub cause: Cause,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The configuration says what it said.
    Unchanged,
    /// It is served by from now on.
    Taken {
        /// What is different, for a person.
        changes: Vec<String>,
    },
    /// It cannot be served by; what was there stays.
    Refused {
        /// Everything that is wrong with it.
        problems: Vec<Refusal>,
    },
}

impl Outcome {
    /// The words of all outcomes.
    pub const WORDS: [&'static str; 3] = ["unchanged", "taken", "refused"];

    /// True if what was there stays because the other cannot be served by.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Unchanged | Self::Taken { .. } => false,
            Self::Refused { .. } => true,
        }
    }

    /// Its word.
    pub fn word(&self) -> &'static str {
        let [unchanged, taken, refused] = Self::WORDS;
        match self {
            Self::Unchanged => unchanged,
            Self::Taken { .. } => taken,
            Self::Refused { .. } => refused,
        }
    }
}

/// Why a configuration is not served by. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, in one line.
    pub message: String,
    /// Where in the file: line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// What to do.
    pub hint: Option<String>,
    /// What `countersign check` would print of it, without colours.
    pub report: String,
}

impl Refusal {
    /// One that is nowhere in the file.
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        let report = format!("error: {message}\n");
        Self { message, place: None, hint: None, report }
    }
}

/// What can be asked of the running program. Clones are of the same.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    asking: mpsc::Sender<Asked>,
    last: ArcSwapOption<Reload>,
    counts: [AtomicU64; Outcome::WORDS.len()],
    quit: CancellationToken,
    stopping: CancellationToken,
}

struct Asked {
    cause: Cause,
    answer: oneshot::Sender<Arc<Reload>>,
}

/// What was asked, for whoever does it.
#[derive(Debug)]
pub(crate) struct Requests(mpsc::Receiver<Asked>);

/// Those who asked for one reload, the first one's cause first.
#[derive(Debug)]
pub(crate) struct Request(Vec<Asked>);

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asked({:?})", self.cause)
    }
}

impl Control {
    /// A control, and what is asked of it.
    pub(crate) fn new() -> (Self, Requests) {
        let (asking, asked) = mpsc::channel(MAX_ASKING);
        let shared = Shared {
            asking,
            last: ArcSwapOption::empty(),
            counts: Default::default(),
            quit: CancellationToken::new(),
            stopping: CancellationToken::new(),
        };
        (Self(Arc::new(shared)), Requests(asked))
    }

    /// Goes over to what the configuration says now, and waits for what becomes of it. Those who ask
    /// while nobody has begun share one reload.
    pub async fn reload(&self, cause: Cause) -> Arc<Reload> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.asking.send(Asked { cause, answer }).await;
        if sent.is_ok()
            && let Ok(reload) = answered.await
        {
            return reload;
        }
        let problems = vec![Refusal::new("the program is ending")];
        let at = crate::clock::Clock::system().wall();
        Arc::new(Reload { at, cause, outcome: Outcome::Refused { problems } })
    }

    /// The last one that has ended.
    pub fn last_reload(&self) -> Option<Arc<Reload>> {
        self.0.last.load_full()
    }

    /// How many ended in which way, by the outcome's word.
    pub fn counts(&self) -> [(&'static str, u64); Outcome::WORDS.len()] {
        let mut counts = Outcome::WORDS.map(|word| (word, 0));
        for ((_, count), counted) in counts.iter_mut().zip(&self.0.counts) {
            *count = counted.load(Ordering::Relaxed);
        }
        counts
    }

    /// Ends the program, as SIGTERM does.
    pub fn quit(&self) {
        self.0.quit.cancel();
    }

    /// Waits until it is to end.
    pub async fn asked_to_quit(&self) {
        self.0.quit.cancelled().await;
    }

    /// The end has begun: nobody new is to be sent here.
    pub(crate) fn stop(&self) {
        self.0.stopping.cancel();
    }

    /// True from the beginning of the end.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Remembers what became of a reload, and tells those who asked.
    pub(crate) fn ended(&self, request: Request, reload: Reload) {
        let word = reload.outcome.word();
        for (counted, of) in self.0.counts.iter().zip(Outcome::WORDS) {
            if of == word {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
        let reload = Arc::new(reload);
        self.0.last.store(Some(Arc::clone(&reload)));
        for asked in request.0 {
            // Whoever asked may have stopped waiting.
            let _ = asked.answer.send(Arc::clone(&reload));
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Requests {
    /// The next, with all that were made until now; `None` when nobody can ask any more.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        let mut asked = vec![self.0.recv().await?];
        while let Ok(more) = self.0.try_recv() {
            asked.push(more);
        }
        Some(Request(asked))
    }
}

impl Request {
    /// One that nobody waits for.
    pub(crate) fn unasked() -> Self {
        Self(Vec::new())
    }

    /// Who asked first.
    pub(crate) fn cause(&self) -> Cause {
        self.0.first().map_or(Cause::File, |asked| asked.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_ask_before_it_begins_share_one_reload_and_later_ones_get_another() {
        let (control, mut requests) = Control::new();
        let ask = |cause| {
            let control = control.clone();
            tokio::spawn(async move { control.reload(cause).await })
        };
        let asked = [ask(Cause::Signal), ask(Cause::Admin), ask(Cause::Signal)];
        tokio::task::yield_now().await;
        let request = requests.next().await.unwrap();
        assert_eq!((request.cause(), request.0.len()), (Cause::Signal, 3));
        let later = ask(Cause::Admin);
        tokio::task::yield_now().await;
        let at = SystemTime::UNIX_EPOCH;
        let outcome = Outcome::Refused { problems: vec![Refusal::new("no")] };
        control.ended(request, Reload { at, cause: Cause::Signal, outcome: outcome.clone() });
        for asked in asked {
            assert_eq!(asked.await.unwrap().outcome, outcome);
        }
        assert!(!later.is_finished());
        let request = requests.next().await.unwrap();
        let outcome = Outcome::Unchanged;
        control.ended(request, Reload { at, cause: Cause::Admin, outcome: outcome.clone() });
        assert_eq!(later.await.unwrap().outcome, outcome);
        assert_eq!(control.counts(), [("unchanged", 1), ("taken", 0), ("refused", 1)]);
        assert_eq!(control.last_reload().unwrap().cause, Cause::Admin);
        drop(requests);
        let Outcome::Refused { problems } = &control.reload(Cause::Signal).await.outcome else {
            panic!("nobody is there to do it");
        };
        assert_eq!(problems[0].message, "the program is ending");
    }
}
