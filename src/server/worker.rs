//! A worker: a thread with a single-threaded runtime that serves the connections dealt to it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::serve::serve;
use super::stopping::Stopping;
use crate::proxy::Proxy;
use crate::proxy::upstream::Pools;

/// Threads of one worker for name look-ups and for files of held content.
const BLOCKING_THREADS: usize = 32;

/// What a worker is told.
enum Message {
    /// Serve this.
    Serve(Box<Connection>),
    /// End a connection that has no request.
    MakeRoom,
    /// Close connections to where no route leads any more.
    Sweep,
    /// End each connection with its next answer.
    SayGoodbye,
    /// Say that you are there.
    Answer(oneshot::Sender<()>),
}

/// Connections on their way to a worker, and as many demands for room. The limit on connections
/// bounds them.
type Inbox = mpsc::UnboundedReceiver<Message>;

/// What the dealer knows of a worker.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    inbox: mpsc::UnboundedSender<Message>,
    connections: Arc<AtomicUsize>,
}

impl Handle {
    /// Connections that the worker serves or is about to.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn hand(&self, connection: Connection) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone drops the connection, which closes it.
        if self.inbox.send(Message::Serve(Box::new(connection))).is_err() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn sweep(&self) {
        // One that is gone has none.
        let _ = self.inbox.send(Message::Sweep);
    }

    pub(super) fn make_room(&self) {
        let _ = self.inbox.send(Message::MakeRoom);
    }
}

/// All workers.
#[derive(Debug)]
pub(super) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    /// Ends what is still open after the drain.
    cut_off: CancellationToken,
}

impl Workers {
    pub(super) fn start(
        count: usize,
        proxy: &Arc<Proxy>,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let cut_off = CancellationToken::new();
        let mut handles = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, inbox) = mpsc::unbounded_channel();
            let connections = Arc::new(AtomicUsize::new(0));
            handles.push(Handle { inbox: sender, connections: Arc::clone(&connections) });
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .build()?;
            let (proxy, stop, cut_off) = (Arc::clone(proxy), stop.clone(), cut_off.clone());
            let run = move || {
                let work = work(inbox, connections, proxy, stop, cut_off);
                LocalSet::new().block_on(&runtime, work);
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
        }
        Ok(Self { handles, threads, cut_off })
    }

    pub(super) fn handles(&self) -> Vec<Handle> {
        self.handles.clone()
    }

    /// True once all have said that they are there; as long as one is stuck, that takes.
    pub(super) async fn answer(&self) -> bool {
        for handle in &self.handles {
            let (answer, answered) = oneshot::channel();
            if handle.inbox.send(Message::Answer(answer)).is_err() || answered.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Has each connection end with its next answer.
    pub(super) fn say_goodbye(&self) {
        for handle in &self.handles {
            let _ = handle.inbox.send(Message::SayGoodbye);
        }
    }

    /// Waits for every connection to end, for up to `limit`.
    pub(super) async fn all_ended(&self, limit: Duration) {
        let open = || self.handles.iter().map(Handle::connections).sum::<usize>();
        let give_up_at = tokio::time::Instant::now() + limit;
        while open() > 0 && tokio::time::Instant::now() < give_up_at {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for every connection to end, for up to `drain`; then cuts off the rest and says how
    /// many those were.
    pub(super) async fn drain(self, drain: Duration) -> usize {
        self.all_ended(drain).await;
        let left = self.handles.iter().map(Handle::connections).sum::<usize>();
        self.cut_off.cancel();
        drop(self.handles);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        if joined.await.is_ok_and(|panicked| panicked > 0) {
            tracing::error!("a worker ended badly");
        }
        left
    }
}

async fn work(
    mut inbox: Inbox,
    connections: Arc<AtomicUsize>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    cut_off: CancellationToken,
) {
    let pools = Rc::new(Pools::default());
    let stopping = Rc::new(Stopping::default());
    let mut told = false;
    loop {
        let message = tokio::select! {
            message = inbox.recv() => message,
            () = stop.cancelled(), if !told => {
                told = true;
                stopping.tell();
                continue;
            }
            () = cut_off.cancelled() => None,
        };
        // What is served then ends with the set of tasks, whose owner returns.
        let connection = match message {
            Some(Message::Serve(connection)) => connection,
            Some(Message::MakeRoom) => {
                stopping.make_room();
                continue;
            }
            Some(Message::Sweep) => {
                pools.sweep();
                continue;
            }
            Some(Message::SayGoodbye) => {
                stopping.say_goodbye();
                continue;
            }
            Some(Message::Answer(answer)) => {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(());
                continue;
            }
            None => return,
        };
        let served = Served(Arc::clone(&connections));
        let (proxy, pools, ear) = (Arc::clone(&proxy), Rc::clone(&pools), stopping.ear());
        tokio::task::spawn_local(async move {
            let _served = served;
            // Made here, not moved here: a future that is moved takes its room twice.
            serve(*connection, proxy, pools, ear).await;
        });
    }
}

/// Counts a connection as long as it is served, also when serving it panics.
struct Served(Arc<AtomicUsize>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
