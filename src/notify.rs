//! Telling the service manager how this process is doing (sd_notify(3)). Does nothing where none
//! asks.

#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    /// Connected at the start: later this process may be confined.
    #[cfg(unix)]
    socket: Option<UnixDatagram>,
    /// How long the service manager waits for a sign of life before it starts the program again.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub fn from_environment() -> Self {
        #[cfg(unix)]
        {
            let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
                connect(&name)
                    .inspect_err(|error| {
                        tracing::warn!(%error, "the service manager cannot be told anything");
                    })
                    .ok()
            });
            let watchdog = socket.as_ref().and_then(|_| watchdog());
            Self { socket, watchdog }
        }
        #[cfg(not(unix))]
        Self::default()
    }

    /// How often it wants a sign of life; twice as often as it gets impatient.
    pub fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// Callers are served.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Another configuration is looked at; [`ready`](Self::ready) says that this is over.
    pub fn reloading(&self) {
        #[cfg(target_os = "linux")]
        {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
            self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
        }
        #[cfg(not(target_os = "linux"))]
        self.tell("RELOADING=1");
    }

    /// No more callers are served.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    #[cfg(unix)]
    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::warn!(%error, state, "the service manager was not told");
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_self, reason = "there is nobody to tell")]
    fn tell(&self, _: &str) {}
}

#[cfg(unix)]
fn connect(name: &std::ffi::OsStr) -> std::io::Result<UnixDatagram> {
    use std::os::unix::ffi::OsStrExt as _;
    let socket = UnixDatagram::unbound()?;
    // It is not to be waited for, however full its queue.
    socket.set_nonblocking(true)?;
    match name.as_bytes().strip_prefix(b"@") {
        None => socket.connect(name)?,
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.connect_addr(&address)?;
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => return Err(std::io::ErrorKind::Unsupported.into()),
    }
    Ok(socket)
}

/// The time of the watchdog, if it is meant for this process.
#[cfg(unix)]
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    if std::env::var_os("WATCHDOG_PID").is_some()
        && number("WATCHDOG_PID") != Some(u64::from(std::process::id()))
    {
        return None;
    }
    number("WATCHDOG_USEC").filter(|time| *time > 0).map(Duration::from_micros)
}
