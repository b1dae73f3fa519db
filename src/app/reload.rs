//! Going over to what the configuration says now, while requests are served.
//!
//! Everything that can fail is done before anything is exchanged: if one thing is wrong, what there
//! was stays as a whole. What is the same in both is kept, see [`parts`](super::parts).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::changes;
use super::devices::tables_of;
use super::exchange::Ending;
use super::parts::{Ground, Parts, Starting, listener_tls};
use super::restart::{beyond_for_devices, needed, pairs};
use super::{Now, StartError};
use crate::admin::Admin;
use crate::config::problem::{Entry, Problem, Report, Severity, any_error};
use crate::config::{
    Config, CredentialConfig, ListenerConfig, Loaded, document, load_with_process_environment,
};
use crate::control::{Cause, Control, Outcome, Refusal, Reload, Request, Requests};
use crate::credential::devices::table::Table;
use crate::credential::keeper::Watch;
use crate::credential::secrets::Secrets;
use crate::notify::Notifier;
use crate::proxy::{Proxy, Route};
use crate::sandbox::Confined;
use crate::server::tls::ListenerTls;
use crate::server::{Broom, Settings};
use crate::stamp::{POLL_INTERVAL, Stamp};

/// How long a watched file has to stay as it is before it is read: whoever writes it may not be done.
const SETTLED: Duration = Duration::from_millis(500);
/// How often a file is read that changes while it is read.
const MAX_READS: usize = 5;
/// How soon a watched file is read again that is refused for something outside of it; each time the
/// pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// Where the configuration came from.
#[derive(Debug, Default)]
pub enum Origin {
    /// A file, with its stamp from before it was read.
    File(PathBuf, Option<Stamp>),
    /// Standard input, which can be read once.
    StandardInput,
    /// The program itself.
    #[default]
    Nowhere,
}

/// What a program needs to go over to another configuration.
#[derive(Debug, Default)]
pub struct Reloading {
    /// Where the configuration is.
    pub origin: Origin,
    /// Who is told of reloads.
    pub notifier: Arc<Notifier>,
    /// What the process has confined itself to.
    pub confined: Confined,
}

/// A listener that serves.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) bound: Option<SocketAddr>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    /// Ends the task that reads its certificate again.
    pub(super) tls_stop: CancellationToken,
}

/// Owns what the program serves by, and exchanges it.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) reloading: Reloading,
    pub(super) parts: Parts,
    pub(super) ground: Ground,
    pub(super) places: Vec<Place>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) admin: Option<Arc<Admin>>,
    pub(super) watch: Watch,
    pub(super) tracker: TaskTracker,
    pub(super) broom: Broom,
    pub(super) now: Arc<ArcSwap<Now>>,
    pub(super) control: Control,
    /// The task that reads files of secrets again.
    pub(super) secrets: (CancellationToken, JoinHandle<()>),
    /// Ends those that read the files of TLS to upstreams again.
    pub(super) tls_stop: CancellationToken,
    /// Routes that are gone, as long as a request is served by them.
    pub(super) removed: Vec<Weak<Route>>,
    /// Credentials that are gone, as long as something keeps them.
    pub(super) ending: Vec<Ending>,
    /// When a watched file is read again although it is the same, and the pause before that.
    pub(super) again: Option<(Instant, Duration)>,
}

/// Why a configuration is not gone over to.
struct Refused {
    problems: Vec<Refusal>,
    /// It may be taken over as it is once something else has changed.
    outside: bool,
}

impl Refused {
    /// For what the file says.
    fn inside(problems: Vec<Refusal>) -> Self {
        Self { problems, outside: false }
    }

    /// For something that it names.
    fn outside(problems: Vec<Refusal>) -> Self {
        Self { problems, outside: true }
    }
}

/// What was read, and what came of it.
struct Read {
    name: String,
    text: String,
    loaded: Loaded,
}

/// Another configuration, ready to be served by.
pub(super) struct Next {
    pub(super) parts: Parts,
    pub(super) starting: Vec<Starting>,
    /// That of the listeners, in their order.
    pub(super) tls: Vec<Option<Arc<ListenerTls>>>,
}

impl Reloader {
    /// Does what is asked for, and watches the file if the configuration says so, from when callers
    /// are served (`open`) until the end begins (`settled`).
    pub(super) async fn run(
        mut self,
        requests: Requests,
        open: CancellationToken,
        settled: CancellationToken,
    ) {
        tokio::select! {
            biased;
            () = settled.cancelled() => {}
            () = async { open.cancelled().await; self.serve(requests).await } => {}
        }
        // Until then it owns what is served by.
        self.ground.stop.cancelled().await;
    }

    async fn serve(&mut self, mut requests: Requests) {
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = self.file_changes() => Some(Request::unasked()),
            };
            let Some(request) = request else { return };
            self.answer(request).await;
        }
    }

    /// Waits until a watched file is to be read.
    async fn file_changes(&mut self) {
        let again = self.again.filter(|_| self.parts.config.watch);
        let due = async {
            match again {
                Some((at, _)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.file_settles() => {}
            () = due => {}
        }
    }

    /// Waits until a watched file has changed and stays as it is.
    async fn file_settles(&mut self) {
        let Origin::File(path, seen) = &mut self.reloading.origin else {
            return std::future::pending().await;
        };
        if !self.parts.config.watch {
            return std::future::pending().await;
        }
        let mut missed = false;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut current = Stamp::of(path).await;
            if current == *seen {
                continue;
            }
            if current.is_none() {
                if !std::mem::replace(&mut missed, true) {
                    let file = path.display();
                    tracing::warn!(%file, "the configuration file is gone; what it said stays");
                }
                continue;
            }
            loop {
                tokio::time::sleep(SETTLED).await;
                let settled = Stamp::of(path).await;
                if settled == current {
                    break;
                }
                current = settled;
            }
            if current.is_some() {
                return;
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        let cause = request.cause();
        self.reloading.notifier.reloading();
        let before = self.again.take();
        let outcome = match self.reload().await {
            Ok(changes) if changes.is_empty() => Outcome::Unchanged,
            Ok(changes) => Outcome::Taken { changes },
            Err(Refused { problems, outside }) => {
                let longer = |(_, pause): (Instant, Duration)| (pause * 2).min(LONGEST_PAUSE);
                let pause = before.map_or(FIRST_PAUSE, longer);
                self.again = outside.then(|| (Instant::now() + pause, pause));
                Outcome::Refused { problems }
            }
        };
        say(cause, &outcome);
        self.reloading.notifier.ready();
        let at = self.ground.clock.wall();
        self.control.ended(request, Reload { at, cause, outcome });
    }

    /// Goes over to what the configuration says now; says what is different.
    ///
    /// # Errors
    /// With everything because of which it cannot. Nothing has changed then.
    async fn reload(&mut self) -> Result<Vec<String>, Refused> {
        let read = self.read().await.map_err(Refused::outside)?;
        self.ending.retain(|ending| ending.kept().is_some());
        let config = self.judge(read).map_err(Refused::inside)?;
        let references = config.secrets();
        let can_run = !self.reloading.confined.is_confined();
        let secrets = self.parts.secrets.read_again(references, can_run).await;
        let (secrets, other) =
            secrets.map_err(|errors| Refused::outside(refusals(&StartError::Secrets(errors))))?;
        let mut changes: Vec<String> =
            other.iter().map(|secret| format!("the secret in the {secret} changed")).collect();
        if config == *self.parts.config {
            secrets.publish();
            return Ok(changes);
        }
        let next = self.prepare(config, secrets).await.map_err(Refused::outside)?;
        changes.extend(self::changes(&self.parts, &next.parts));
        self.exchange(next).await.map_err(Refused::outside)?;
        Ok(changes)
    }

    /// Reads the file.
    async fn read(&mut self) -> Result<Read, Vec<Refusal>> {
        let refuse = |message: String| Err(vec![Refusal::new(message)]);
        let (path, seen) = match &mut self.reloading.origin {
            Origin::File(path, seen) => (path, seen),
            Origin::StandardInput => {
                let message = "the configuration came from standard input, which cannot be read a \
                               second time; start with --config FILE";
                return refuse(message.to_owned());
            }
            Origin::Nowhere => {
                return refuse("this program has no configuration file to read again".to_owned());
            }
        };
        for _ in 0..MAX_READS {
            *seen = Stamp::of(path).await;
            let file = path.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let text = std::fs::read_to_string(&file)?;
                let loaded = load_with_process_environment(&text);
                Ok::<_, std::io::Error>(Read { name: file.display().to_string(), text, loaded })
            });
            let read = match reading.await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    return refuse(format!("{} cannot be read: {error}", path.display()));
                }
                Err(_) => return refuse("reading the configuration failed".to_owned()),
            };
            // Written meanwhile: the beginning may be of the old one, the end of the new.
            if Stamp::of(path).await == *seen {
                return Ok(read);
            }
        }
        refuse(format!("{} changes while it is read", path.display()))
    }

    /// What it says, if a running program can go over to it.
    fn judge(&self, read: Read) -> Result<Config, Vec<Refusal>> {
        let Read { name, text, mut loaded } = read;
        if let Some(config) = &loaded.config {
            let ending = self.ending.iter().filter_map(Ending::kept);
            let ending: Vec<CredentialConfig> = ending.cloned().collect();
            let restarts = needed(&self.parts.config, &ending, config, &self.reloading.confined);
            if !restarts.is_empty() {
                let (document, _) = document::parse(&text);
                loaded.problems.extend(restarts.into_iter().map(|restart| {
                    let place = document.locate(&restart.path);
                    Problem::error(restart.path, place, restart.message).hint(restart.hint)
                }));
            }
        }
        let entries = Report { name: &name, text: &text, loaded: &loaded }.entries();
        let (errors, warnings): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.severity == Severity::Error);
        match loaded.config {
            Some(config) if !any_error(&loaded.problems) => {
                for warning in warnings {
                    let line = warning.place.map(|(line, _)| line);
                    tracing::warn!(line, problem = %warning.message, "in the configuration");
                }
                Ok(config)
            }
            _ => Err(errors.into_iter().map(refusal).collect()),
        }
    }

    /// Puts everything together.
    async fn prepare(&self, config: Config, secrets: Secrets) -> Result<Next, Vec<Refusal>> {
        let tables = self.tables(&config).await?;
        let files: Vec<PathBuf> = tables.values().flat_map(Table::directories).collect();
        let mut problems: Vec<Refusal> = beyond_for_devices(&files, &self.reloading.confined)
            .into_iter()
            .map(Refusal::new)
            .collect();
        let mut tls = Vec::new();
        let (paired, _) = pairs(&self.parts.config.listeners, &config.listeners);
        for (listener, pair) in config.listeners.iter().zip(paired) {
            let same = pair.and_then(|pair| self.same_tls(pair, listener));
            match same.map_or_else(|| listener_tls(listener, &config), |tls| Ok(Some(tls))) {
                Ok(new) => tls.push(new),
                Err(error) => problems.extend(refusals(&error)),
            }
        }
        let before = Some(&self.parts);
        match Parts::build(config, secrets, tables, &self.ground, before) {
            Ok((parts, starting)) if problems.is_empty() => Ok(Next { parts, starting, tls }),
            Ok(_) => Err(problems),
            Err(errors) => {
                problems.extend(errors.iter().flat_map(refusals));
                Err(problems)
            }
        }
    }

    /// The devices of the credentials that are new.
    async fn tables(&self, config: &Config) -> Result<HashMap<String, Table>, Vec<Refusal>> {
        let new = config.credentials.iter();
        let new = new.filter(|credential| self.parts.same_credential(credential).is_none());
        let (new, check): (Vec<_>, _) = (new.cloned().collect(), config.check_permissions);
        // Many lines take a while.
        let tables = tokio::task::spawn_blocking(move || tables_of(new.iter(), check));
        let tables = tables.await.map_err(|_| vec![Refusal::new("reading devices failed")])?;
        tables.map_err(|error| refusals(&error))
    }

    /// TLS of the listener that is at this place, if it is that of `listener`.
    fn same_tls(&self, place: usize, listener: &ListenerConfig) -> Option<Arc<ListenerTls>> {
        let before = self.parts.config.listeners.get(place)?;
        let same = before.tls == listener.tls && before.protocol == listener.protocol;
        self.places.get(place).filter(|_| same)?.settings.load().tls.clone()
    }
}

/// An error in the configuration.
fn refusal(entry: Entry) -> Refusal {
    let Entry { message, place, hint, text, .. } = entry;
    Refusal { message, place, hint, report: text }
}

/// Everything that is wrong by `error`.
fn refusals(error: &StartError) -> Vec<Refusal> {
    match error {
        StartError::Secrets(errors) => {
            errors.iter().map(|error| Refusal::new(error.to_string())).collect()
        }
        StartError::Devices(errors) => errors
            .iter()
            .flat_map(|error| {
                let file = error.file.display();
                error.problems.iter().map(move |problem| Refusal::new(format!("{file}: {problem}")))
            })
            .collect(),
        StartError::Tls { .. }
        | StartError::Credential { .. }
        | StartError::Store(_)
        | StartError::Host(_)
        | StartError::Proxy(_)
        | StartError::Bind(_)
        | StartError::Passed(_)
        | StartError::System(_) => vec![Refusal::new(error.to_string())],
    }
}

/// One line per problem.
fn say(cause: Cause, outcome: &Outcome) {
    let cause = cause.word();
    match outcome {
        Outcome::Unchanged => tracing::info!(cause, "the configuration says what it said"),
        Outcome::Taken { changes } => {
            let changes = changes.join("; ");
            tracing::info!(cause, changes, "the configuration was taken over");
        }
        Outcome::Refused { problems } => {
            for problem in problems {
                let (line, column) = problem.place.unzip();
                tracing::error!(
                    cause, line, column, problem = %problem.message, hint = problem.hint,
                    "the configuration is not taken over; what there was stays"
                );
            }
        }
    }
}
