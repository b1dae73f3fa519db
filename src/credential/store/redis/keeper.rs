//! The task that keeps the way to Redis open: connects, looks whether it is still there, tries again
//! when it is not, and does what was left undone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::open::OpenError;
use super::super::running::Running;
use super::super::seal::{NoRandom, Place, Sealer};
use super::connect::{Connection, Connector};
use super::failure::Failure;
use super::pending::Change;
use super::{Anchor, Here, Link, RedisSpec, RedisStore};
use crate::clock::Clock;
use crate::credential::secrets::Secrets;
use crate::secret::Secret;

/// The form of what is in Redis.
const FORM: &[u8] = b"1";
/// What the salt begins with.
const SALT: &str = "countersign redis 1 ";
/// How often it is looked whether Redis is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The first pause between attempts to reach it, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A connection that lasted so long was not made in vain.
const STEADY: Duration = Duration::from_secs(5);
/// How many that did not are made again at once, one after the other.
const HASTY: u32 = 3;
/// The least time between two warnings.
const QUIET: Duration = Duration::from_mins(1);

/// The task, not running yet.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: RedisStore,
    connector: Connector,
    guest: Guest,
    /// What the store is called in messages.
    name: String,
    /// Why it could not be reached when it was opened.
    failed: Option<Failure>,
}

/// Who comes with a key, and finds out whether it is the right one.
#[derive(Debug)]
struct Guest {
    sealer: Sealer,
    check: Vec<u8>,
    place: String,
}

/// Opens the store. If it cannot be reached it is opened all the same.
///
/// # Errors
/// When it can be reached and cannot be used.
pub(in super::super) async fn open(
    spec: &RedisSpec,
    secrets: &Arc<Secrets>,
    clock: &Clock,
) -> Result<(RedisStore, Keeper, Sealer), OpenError> {
    let key = secrets.get(&spec.key).ok_or(OpenError::ShortKey)?;
    let sealer = sealer(spec, &key)?;
    let connector = Connector::new(spec, secrets)?;
    let store = RedisStore::new(spec, clock);
    let guest = Guest::new(spec, &key)?;
    let mut keeper = Keeper { store, connector, guest, name: spec.to_string(), failed: None };
    // This connection belongs to the runtime that the process starts on, which ends before it
    // serves.
    match keeper.join(0).await {
        Ok(_) => {}
        Err(failure) if failure.is_lasting() => {
            return Err(OpenError::Redis(keeper.name, failure));
        }
        Err(failure) => keeper.failed = Some(failure),
    }
    Ok((keeper.store.clone(), keeper, sealer))
}

/// What the store says of itself, without leaving anything there: for a check.
///
/// # Errors
/// When it cannot be used.
pub(crate) async fn inspect(spec: &RedisSpec, secrets: &Arc<Secrets>) -> Result<String, OpenError> {
    let refused = |failure| OpenError::Redis(spec.to_string(), failure);
    let key = secrets.get(&spec.key).ok_or(OpenError::ShortKey)?;
    let guest = Guest::new(spec, &key)?;
    let connector = Connector::new(spec, secrets)?;
    let mut connection = connector.connect().await.map_err(refused)?;
    let begun = Instant::now();
    let asking = guest.peek(&mut connection);
    let known = tokio::time::timeout(spec.timeout, asking).await;
    let known = known.unwrap_or(Err(Failure::Silent(spec.timeout))).map_err(refused)?;
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let key = if known { "the key fits" } else { "nothing is there yet" };
    let version = version(&mut connection, spec.timeout).await;
    let version = version.map(|version| format!("version {version}, ")).unwrap_or_default();
    Ok(format!("connected, {version}{key}; an answer takes {took:.1} ms"))
}

/// The version of the server, if we may ask.
async fn version(connection: &mut Connection, patience: Duration) -> Option<String> {
    let mut info = ::redis::cmd("INFO");
    let asking = info.arg("server").query_async::<String>(connection);
    let text = tokio::time::timeout(patience, asking).await.ok()?.ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    Some(version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').take(20).collect())
}

fn sealer(spec: &RedisSpec, key: &Secret) -> Result<Sealer, OpenError> {
    Sealer::new(key, format!("{SALT}{}", spec.prefix).as_bytes()).ok_or(OpenError::ShortKey)
}

impl Guest {
    fn new(spec: &RedisSpec, key: &Secret) -> Result<Self, OpenError> {
        let sealer = sealer(spec, key)?;
        let check = sealer.check().map_err(|NoRandom| NoRandom)?;
        Ok(Self { sealer, check, place: format!("{}meta", spec.prefix) })
    }

    /// Meets the store, or founds it.
    async fn meet(
        &self,
        store: &RedisStore,
        connection: &mut Connection,
    ) -> Result<Anchor, Failure> {
        let begun = Instant::now();
        let scripts = &store.0.scripts;
        let meeting = scripts.meet(connection, &self.place, FORM, &self.check);
        let meeting = tokio::time::timeout(store.0.timeout, meeting).await;
        let meeting = meeting.map_err(|_| Failure::Silent(store.0.timeout))??;
        self.judge(&meeting.form, &meeting.check)?;
        Ok(Anchor { theirs: meeting.time, ours: begun + begun.elapsed() / 2 })
    }

    /// True if there is a store, and its key is this one.
    async fn peek(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let mut command = ::redis::cmd("HMGET");
        command.arg(&self.place).arg("form").arg("check");
        let found = command.query_async::<(Option<Vec<u8>>, Option<Vec<u8>>)>(connection);
        match found.await? {
            (None, None) => Ok(false),
            (form, check) => {
                self.judge(&form.unwrap_or_default(), &check.unwrap_or_default()).map(|()| true)
            }
        }
    }

    fn judge(&self, form: &[u8], check: &[u8]) -> Result<(), Failure> {
        if form != FORM {
            return Err(Failure::Later);
        }
        if !self.sealer.is_right(check) {
            return Err(Failure::WrongKey);
        }
        Ok(())
    }
}

impl Keeper {
    /// Starts the task on the runtime of the caller.
    pub(crate) fn start(self) -> Running {
        let close = CancellationToken::new();
        let task = tokio::spawn(self.run(close.clone()));
        Running::new(close, task)
    }

    async fn run(mut self, close: CancellationToken) {
        let mut voice = Voice::default();
        let mut pause = PAUSES.0;
        let (mut number, mut in_vain) = (0, 0);
        loop {
            let failure = if let Some(failure) = self.failed.take() {
                failure
            } else {
                number += 1;
                let joined = tokio::select! {
                    joined = self.join(number) => joined,
                    () = close.cancelled() => break,
                };
                match joined {
                    Err(failure) => failure,
                    Ok(here) => {
                        voice.back(&self.name);
                        let since = Instant::now();
                        let Some(failure) = self.stay(here, &close).await else { break };
                        in_vain = if since.elapsed() < STEADY { in_vain + 1 } else { 0 };
                        if in_vain <= HASTY {
                            tracing::debug!(%failure, "connecting to the token store again");
                            pause = PAUSES.0;
                            continue;
                        }
                        failure
                    }
                }
            };
            voice.away(&self.name, &failure);
            self.store.0.link.send_replace(Link::Away(failure));
            // Not all processes at once.
            let pausing = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(pausing) => {}
                () = close.cancelled() => break,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        self.finish().await;
    }

    /// Connects, and does what was left undone before anybody else asks for anything.
    async fn join(&self, number: u64) -> Result<Here, Failure> {
        let mut connection = self.connector.connect().await?;
        let anchor = self.guest.meet(&self.store, &mut connection).await?;
        let here = Here { number, connection, anchor };
        self.catch_up(&here, self.store.0.pending.undone_or_lately_done()).await?;
        Ok(here)
    }

    async fn catch_up(&self, here: &Here, changes: Vec<(Place, Change)>) -> Result<(), Failure> {
        let shared = &self.store.0;
        let doing = changes.into_iter().map(|(place, change)| shared.catch_up(here, place, change));
        let mut doing = stream::iter(doing).buffer_unordered(super::IN_FLIGHT);
        while let Some(done) = doing.next().await {
            done?;
        }
        Ok(())
    }

    /// Lends the connection to all who ask, until it is lost; `None` if the end came first.
    async fn stay(&self, mut here: Here, close: &CancellationToken) -> Option<Failure> {
        let link = &self.store.0.link;
        let mut watched = link.subscribe();
        link.send_replace(Link::Here(here.clone()));
        loop {
            let lost = async {
                match watched.wait_for(|link| !matches!(link, Link::Here(_))).await.as_deref() {
                    Ok(Link::Joining(Some(failure))) => failure.clone(),
                    Ok(_) | Err(_) => Failure::Away("the connection was lost".to_owned()),
                }
            };
            tokio::select! {
                failure = lost => return Some(failure),
                () = close.cancelled() => return None,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            let met = match self.guest.meet(&self.store, &mut here.connection).await {
                Ok(anchor) => {
                    here.anchor = anchor;
                    let pending = &self.store.0.pending;
                    pending.clear_up();
                    self.catch_up(&here, pending.undone()).await
                }
                Err(failure) => Err(failure),
            };
            if let Err(failure) = met {
                link.send_replace(Link::Joining(Some(failure.clone())));
                return Some(failure);
            }
            link.send_if_modified(|link| match link {
                Link::Here(there) => {
                    there.anchor = here.anchor;
                    true
                }
                Link::Joining(_) | Link::Away(_) | Link::Closed => false,
            });
        }
    }

    /// The last chance for what was left undone.
    async fn finish(self) {
        let shared = &self.store.0;
        let former = shared.link.send_replace(Link::Closed);
        let undone = shared.pending.undone();
        if !undone.is_empty() {
            let done = match former {
                Link::Here(here) => self.catch_up(&here, undone).await,
                Link::Joining(_) | Link::Away(_) | Link::Closed => self.join(0).await.map(|_| ()),
            };
            let lost = shared.pending.undone().len();
            if lost > 0 {
                let error = done.err().map(|failure| failure.to_string());
                tracing::warn!(lost, error, "the token store ends without the last changes");
            }
        }
    }
}

/// Says when Redis goes away, and when it is back, and does not say it all the time.
#[derive(Debug, Default)]
struct Voice {
    /// What was said of it, if it is away: whether it will pass.
    away: Option<bool>,
    warned_at: Option<Instant>,
    /// It was said loudly that it is away.
    loud: bool,
}

impl Voice {
    fn away(&mut self, store: &str, error: &Failure) {
        let lasting = error.is_lasting();
        if self.away.replace(lasting) == Some(lasting) {
            return;
        }
        if !lasting && self.warned_at.is_some_and(|at| at.elapsed() < QUIET) {
            tracing::debug!(store, %error, "the token store is away again");
            return;
        }
        self.warned_at = Some(Instant::now());
        self.loud = true;
        if lasting {
            tracing::error!(store, %error, "the token store cannot be used; tokens are kept in memory");
        } else {
            tracing::warn!(
                store,
                %error,
                "the token store is away; tokens are kept in memory, and it is tried again"
            );
        }
    }

    fn back(&mut self, store: &str) {
        if self.away.take().is_none() {
            return;
        }
        if std::mem::take(&mut self.loud) {
            tracing::info!(store, "the token store is there again");
        }
    }
}
