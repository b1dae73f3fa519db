//! Confinement on Linux: once the process listens it can read only what its configuration names and
//! what looking up names takes, write only where content waits, and connect only to the ports of its
//! upstreams; and no program that it starts gains privileges.
//!
//! What was opened before stays open: listening sockets, the log. A kernel that can do less does
//! what it can (Landlock, Linux 5.13; ports from 6.7 on).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::{Address, Config, RouteConfig, Sandbox, SourceSpec, Way};
use crate::connect::ForwardProxy;
use crate::credential::secrets::file_of;
use crate::tls::{ServerTls, TlsSettings};

/// What looking up names reads: the resolver's files, which are replaced when a network changes,
/// and the modules and data of libc. Certificates of authorities are there, too.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/ca-certificates",
];

/// The port of name servers, which are asked over TCP when an answer is long (RFC 7766).
const NAME_SERVER: u16 = 53;

/// What a process may still do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Permitted {
    /// Files and directories that it may read.
    read: BTreeSet<PathBuf>,
    /// Directories for its files without a name.
    spool: BTreeSet<PathBuf>,
    /// Directories of its sockets, which it removes at the end.
    sockets: BTreeSet<PathBuf>,
    /// Ports that it may connect to.
    ports: BTreeSet<u16>,
}

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

/// Confines the calling thread and all that it starts from now on, so that it has to be called
/// before there are others. Nothing of it can be taken back.
///
/// # Errors
/// When the configuration asks for more than the system can, or the system refuses.
pub fn confine(config: &Config) -> Result<(), SandboxError> {
    let required = match config.sandbox {
        Sandbox::Off => return Ok(()),
        Sandbox::Auto => false,
        Sandbox::Require => true,
    };
    let confinement = enforce(&Permitted::by(config))?;
    if required && confinement != Confinement::Full {
        return Err(SandboxError::Insufficient(confinement));
    }
    match confinement {
        Confinement::Full => tracing::debug!("confined to what the configuration names"),
        Confinement::Partial => tracing::info!("confined in part: this kernel cannot do all of it"),
        Confinement::None => tracing::info!("not confined: this system cannot"),
    }
    Ok(())
}

impl Permitted {
    fn by(config: &Config) -> Self {
        let mut permitted = Self { ports: ports(config), ..Self::default() };
        for file in config.secrets().iter().filter_map(file_of) {
            permitted.add_file(&file);
        }
        let listeners = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let routes = config.routes.iter().map(|route| &route.upstream.tls);
        let clients = routes.chain(config.credentials.iter().map(|credential| &credential.tls));
        let named =
            listeners.flat_map(ServerTls::files).chain(clients.flat_map(TlsSettings::files));
        for file in named {
            permitted.add_file(file);
        }
        let spool = config.limits.spool_directory.clone();
        permitted.spool.insert(spool.unwrap_or_else(std::env::temp_dir));
        for listener in &config.listeners {
            if let Address::Unix { path, .. } = &listener.address {
                permitted.sockets.insert(directory_of(path));
            }
        }
        permitted
    }

    /// A file that may be replaced by another of its name, and so its directory, and that to which
    /// symbolic links lead.
    fn add_file(&mut self, path: &Path) {
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        for path in [path, &target] {
            let directory = directory_of(path);
            // All files there are would be below the root.
            let is_root = directory == Path::new("/");
            self.read.insert(if is_root { path.to_owned() } else { directory });
        }
    }
}

fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// The ports of upstreams, token endpoints, and proxies on the way there.
fn ports(config: &Config) -> BTreeSet<u16> {
    let mut ports = BTreeSet::from([NAME_SERVER]);
    for route in &config.routes {
        ports.extend(route_ports(route));
    }
    for credential in &config.credentials {
        let SourceSpec::Login(login) = &credential.source else { continue };
        let requests = [&login.request].into_iter().chain(&login.refresh).chain(&login.logout);
        for url in requests.map(|request| &request.url) {
            let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
            ports.insert(url.port_u16().unwrap_or(default));
            ports.extend(environment_port(url));
        }
    }
    ports
}

fn route_ports(route: &RouteConfig) -> impl Iterator<Item = u16> {
    let origin = &route.upstream.origin;
    let proxy = match &route.connection.way {
        Way::Direct => None,
        Way::Proxy(proxy) => ForwardProxy::at(proxy).ok().map(|proxy| proxy.port()),
        Way::Environment => origin.to_string().parse().ok().as_ref().and_then(environment_port),
    };
    std::iter::once(origin.port()).chain(proxy)
}

fn environment_port(url: &http::Uri) -> Option<u16> {
    ForwardProxy::of_environment(url).ok().flatten().map(|proxy| proxy.port())
}

#[cfg(target_os = "linux")]
fn enforce(permitted: &Permitted) -> Result<Confinement, SandboxError> {
    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr as _,
        RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
    };
    // Also where there is no Landlock.
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| SandboxError::Refused(error.to_string()))?;
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let spool = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let connect = |port: &u16| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp));
    let restrict = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(&permitted.read, read))?
            .add_rules(path_beneath_rules(&permitted.spool, spool))?
            .add_rules(path_beneath_rules(&permitted.sockets, AccessFs::RemoveFile))?
            .add_rules(permitted.ports.iter().map(connect))?
            .restrict_self()
    };
    let status = restrict().map_err(|error| SandboxError::Refused(error.to_string()))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Confinement::Full,
        RulesetStatus::PartiallyEnforced => Confinement::Partial,
        RulesetStatus::NotEnforced => Confinement::None,
    })
}

#[cfg(not(target_os = "linux"))]
fn enforce(_: &Permitted) -> Result<Confinement, SandboxError> {
    Ok(Confinement::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn what_the_configuration_names_is_permitted_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("data");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("token"), "t").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(inner.join("token"), directory.path().join("token")).unwrap();
        let text = format!(
            r#"
            [limits]
            spool_directory = "/var/spool/countersign"
            [[listen]]
            address = "127.0.0.1:8080"
            tls = {{ certificate = "/etc/tls/server.pem", key = "/keys/server.key" }}
            [[listen]]
            address = "unix:/run/countersign/plant.sock"
            [credential.a]
            kind = "bearer"
            token = {{ file = {:?} }}
            [credential.b]
            kind = "bearer"
            token = {{ file = "/token" }}
            [credential.c]
            kind = "twinzo-device"
            base_url = "https://login.example.com:8443"
            client = "acme"
            login = "gateway-01"
            password = {{ env = "PASSWORD" }}
            [[route]]
            path = "/a"
            upstream = "https://api.example.com"
            proxy = "none"
            credential = ["a"]
            [[route]]
            path = "/b"
            upstream = "https://api.example.com:444"
            proxy = "http://proxy.example.com:3128"
            tls = {{ ca = "own-ca.pem" }}
            credential = ["b"]
            [[route]]
            path = "/c"
            upstream = "http://127.0.0.1:9000"
            credential = "c"
            "#,
            directory.path().join("token"),
        );
        let config = load(&text, &|_| None).config.unwrap();
        let Permitted { read, spool, sockets, ports } = Permitted::by(&config);
        let mut expected = BTreeSet::from(["/etc/tls", "/keys", "/token", "."].map(PathBuf::from));
        expected.insert(directory.path().to_owned());
        expected.insert(inner.canonicalize().unwrap());
        assert_eq!(read, expected);
        assert_eq!(spool, BTreeSet::from(["/var/spool/countersign".into()]));
        assert_eq!(sockets, BTreeSet::from(["/run/countersign".into()]));
        let without_proxies_of_the_environment = [53, 443, 444, 3128, 8443, 9000];
        assert!(
            ports.is_superset(&BTreeSet::from(without_proxies_of_the_environment)),
            "{ports:?}"
        );
        assert!(!ports.contains(&80) && !ports.contains(&8080), "{ports:?}");
    }
}
