//! Keeping this process's memory to itself, because its secrets are there.

use std::io;

/// Turns core dumps off. On Linux, moreover, no other process of the same user may read this one's
/// memory or environment (`ptrace`, `/proc/PID/mem`, `/proc/PID/environ`); the system's
/// administrator still may. Programs that this one starts are not affected by the latter.
///
/// # Errors
/// When the system refuses.
pub fn keep_memory_private() -> io::Result<()> {
    #[cfg(unix)]
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("the memory cannot be kept private: {error}"))
    };
    #[cfg(unix)]
    rlimit::setrlimit(rlimit::Resource::CORE, 0, 0).map_err(explain)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| explain(error.into()))?;
    }
    Ok(())
}
