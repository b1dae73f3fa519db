//! Confinement by Landlock.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::permitted::{Permitted, SYSTEM};
use super::{Confinement, Enforced, SandboxError, Signals};

/// Confines the calling thread to what is permitted, as far as the kernel can.
///
/// # Errors
/// When the system refuses.
pub(super) fn enforce(permitted: &Permitted, signals: Signals) -> Result<Enforced, SandboxError> {
    // Also where there is no Landlock.
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| SandboxError::Refused(error.to_string()))?;
    let abi = ABI::V6;
    let scope = match signals {
        Signals::Within => Scope::from_all(abi),
        Signals::Beyond => Scope::from_all(abi) & !Scope::Signal,
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let spool = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let append = AccessFs::WriteFile | AccessFs::MakeReg;
    let connect = |port: &u16| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp));
    let restrict = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(scope)?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(&permitted.read, read))?
            .add_rules(path_beneath_rules(&permitted.spool, spool))?
            .add_rules(path_beneath_rules(&permitted.logs, append))?
            .add_rules(path_beneath_rules(&permitted.sockets, AccessFs::RemoveFile))?
            .add_rules(permitted.ports.iter().map(connect))?
            .restrict_self()
    };
    let status = restrict().map_err(|error| SandboxError::Refused(error.to_string()))?;
    let confinement = match status.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::None,
    };
    let ports = matches!(
        status.landlock,
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V4
    );
    Ok(Enforced { confinement, ports })
}
