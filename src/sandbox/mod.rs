//! Confinement on Linux: once the process listens it can read only what its configuration names and
//! what looking up names takes, write only where content waits and logs are, and connect only to the ports of its
//! upstreams; and no program that it starts gains privileges.
//!
//! What was opened before stays open: listening sockets, the store of tokens. A kernel that can do less does
//! what it can (Landlock, Linux 5.13; ports from 6.7 on).

#[cfg(target_os = "linux")]
mod landlock;
mod permitted;

use std::path::PathBuf;

use crate::config::{AdminConfig, Config, CredentialConfig, ListenerConfig, RouteConfig, Sandbox};
pub use permitted::Missing;
use permitted::Permitted;

/// How far the kernel goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// All of it.
    Full,
    /// A part, because the kernel is older.
    Partial,
    /// None: this kernel, or this platform, cannot.
    None,
}

/// What the kernel does.
struct Enforced {
    confinement: Confinement,
    /// True if it also looks at the ports that are connected to.
    ports: bool,
}

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The configuration asks for more than there is.
    #[error(
        "sandbox = \"require\" cannot be met: this system can confine the process {}; \"auto\" \
         takes what there is",
        if matches!(.0, Confinement::Partial) { "only in part" } else { "not at all" }
    )]
    Insufficient(Confinement),
    /// The system refuses.
    #[error("the process cannot be confined: {0}; sandbox = \"off\" does without")]
    Refused(String),
}

/// Whom a confined process may send signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signals {
    /// Nobody else.
    Within,
    /// Others of its user, as before: it started one that is not confined.
    Beyond,
}

/// What a process has confined itself to, for a look at what more another configuration needs.
#[derive(Debug, Default)]
pub struct Confined(Option<Bounds>);

#[derive(Debug)]
struct Bounds {
    permitted: Permitted,
    /// True if the kernel also looks at the ports that are connected to.
    ports: bool,
}

impl Confined {
    /// True if it cannot start programs any more.
    pub fn is_confined(&self) -> bool {
        self.0.is_some()
    }

    /// What a listener needs beyond that.
    pub fn lacks_for_listener(&self, listener: &ListenerConfig) -> Vec<Missing> {
        self.lacks(|| Permitted::of_listener(listener))
    }

    /// What the admin listener needs beyond that.
    pub fn lacks_for_admin(&self, admin: &AdminConfig) -> Vec<Missing> {
        self.lacks(|| Permitted::of_admin(admin))
    }

    /// What the upstream of a route needs beyond that.
    pub fn lacks_for_route(&self, route: &RouteConfig) -> Vec<Missing> {
        self.lacks(|| Permitted::of_route(route))
    }

    /// What a credential needs beyond that.
    pub fn lacks_for_credential(&self, credential: &CredentialConfig) -> Vec<Missing> {
        self.lacks(|| Permitted::of_credential(credential))
    }

    /// Which of these files cannot be read.
    pub fn lacks_for_files(&self, files: &[PathBuf]) -> Vec<Missing> {
        self.lacks(|| Permitted::of_files(files))
    }

    fn lacks(&self, wanted: impl FnOnce() -> Permitted) -> Vec<Missing> {
        let Some(Bounds { permitted, ports }) = &self.0 else { return Vec::new() };
        let mut lacks = permitted.lacks(&wanted());
        lacks.retain(|missing| *ports || matches!(missing, Missing::Read(_)));
        lacks
    }
}

/// Confines the calling thread and all that it starts from now on, so that it has to be called
/// before there are others. Nothing of it can be taken back. `more` are files that the configuration
/// names by way of another file.
///
/// # Errors
/// When the configuration asks for more than the system can, or the system refuses.
pub fn confine(
    config: &Config,
    more: &[PathBuf],
    signals: Signals,
) -> Result<Confined, SandboxError> {
    let required = match config.sandbox {
        Sandbox::Off => return Ok(Confined::default()),
        Sandbox::Auto => false,
        Sandbox::Require => true,
    };
    let permitted = Permitted::by(config, more);
    #[cfg(target_os = "linux")]
    let Enforced { confinement, ports } = landlock::enforce(&permitted, signals)?;
    #[cfg(not(target_os = "linux"))]
    let _ = signals;
    #[cfg(not(target_os = "linux"))]
    let Enforced { confinement, ports } = Enforced { confinement: Confinement::None, ports: false };
    if required && confinement != Confinement::Full {
        return Err(SandboxError::Insufficient(confinement));
    }
    match confinement {
        Confinement::Full => tracing::debug!("confined to what the configuration names"),
        Confinement::Partial => tracing::info!("confined in part: this kernel cannot do all of it"),
        Confinement::None => tracing::info!("not confined: this system cannot"),
    }
    let is_confined = confinement != Confinement::None;
    Ok(Confined(is_confined.then_some(Bounds { permitted, ports })))
}
