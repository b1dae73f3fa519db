//! What the process needs once it serves, by its configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::{
    Address, AdminConfig, Config, CredentialConfig, ListenerConfig, RouteConfig, SourceSpec, Way,
};
use crate::connect::ForwardProxy;
use crate::credential::oauth::Endpoint;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::file_of;
use crate::credential::store::StoreSpec;
use crate::tls::ServerTls;

/// The modules and data of libc, and where certificates of authorities are.
pub(super) const SYSTEM: [&str; 7] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/ca-certificates",
];

/// What looking up names reads. These files may be replaced, and lead elsewhere, when a network
/// changes.
const RESOLVER: [&str; 4] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/run/systemd/resolve/resolv.conf"];

/// The port of name servers, which are asked over TCP when an answer is long (RFC 7766).
const NAME_SERVER: u16 = 53;

/// What a process may still do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    /// Files and directories that it may read.
    pub(super) read: BTreeSet<PathBuf>,
    /// Directories for its files without a name.
    pub(super) spool: BTreeSet<PathBuf>,
    /// Directories of its logs, which are opened anew when they are rotated.
    pub(super) logs: BTreeSet<PathBuf>,
    /// Directories of its sockets, which it removes at the end.
    pub(super) sockets: BTreeSet<PathBuf>,
    /// Ports that it may connect to.
    pub(super) ports: BTreeSet<u16>,
}

/// Something that a confined process cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Reading what is there.
    Read(PathBuf),
    /// Connecting to this port.
    Port(u16),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(path) => write!(f, "files in {} cannot be read", path.display()),
            Self::Port(port) => write!(f, "port {port} cannot be connected to"),
        }
    }
}

impl Permitted {
    /// What `config` needs, and `more` files that it names by way of another.
    pub(super) fn by(config: &Config, more: &[PathBuf]) -> Self {
        let mut permitted = Self::default();
        config.listeners.iter().for_each(|listener| permitted.add(Self::of_listener(listener)));
        config.admin.iter().for_each(|admin| permitted.add(Self::of_admin(admin)));
        config.routes.iter().for_each(|route| permitted.add(Self::of_route(route)));
        let credentials = config.credentials.iter();
        credentials.for_each(|credential| permitted.add(Self::of_credential(credential)));
        for secret in config.token_store.secrets() {
            permitted.add_secret(secret);
        }
        // The files of the store's TLS are not read any more.
        if let StoreSpec::Redis(redis) = &config.token_store {
            permitted.ports.extend(redis.ports());
        }
        if let Some(trace) = &config.trace {
            permitted.ports.extend(url_ports(&trace.endpoint));
        }
        permitted.ports.insert(NAME_SERVER);
        for file in more.iter().map(PathBuf::as_path).chain(RESOLVER.map(Path::new)) {
            permitted.add_file(file);
        }
        let spool = config.limits.spool_directory.clone();
        permitted.spool.insert(spool.unwrap_or_else(std::env::temp_dir));
        for file in config.log.files() {
            permitted.add_log(&file);
        }
        for listener in &config.listeners {
            if let Address::Unix { path, .. } = &listener.address {
                permitted.sockets.insert(directory_of(path));
            }
        }
        if let Some(path) = &config.upgrade_socket {
            permitted.sockets.insert(directory_of(path));
        }
        permitted
    }

    /// What a listener needs once it listens.
    pub(super) fn of_listener(listener: &ListenerConfig) -> Self {
        let mut permitted = Self::default();
        if let Some(token) = &listener.access.caller_token {
            permitted.add_secret(&token.secret);
        }
        for file in listener.tls.iter().flat_map(ServerTls::files) {
            permitted.add_file(file);
        }
        permitted
    }

    /// What the admin listener needs once it listens.
    pub(super) fn of_admin(admin: &AdminConfig) -> Self {
        let mut permitted = Self::default();
        if let Some(token) = &admin.token {
            permitted.add_secret(token);
        }
        permitted
    }

    /// What the upstream of a route needs.
    pub(super) fn of_route(route: &RouteConfig) -> Self {
        let mut permitted = Self { ports: route_ports(route).collect(), ..Self::default() };
        for file in route.upstream.tls.files() {
            permitted.add_file(file);
        }
        permitted
    }

    /// What a credential needs to be fetched.
    pub(super) fn of_credential(credential: &CredentialConfig) -> Self {
        let mut permitted = Self { ports: credential_ports(credential), ..Self::default() };
        for secret in credential.secrets() {
            permitted.add_secret(&secret);
        }
        for file in credential.tls.files() {
            permitted.add_file(file);
        }
        if let Some(devices) = &credential.devices {
            permitted.add_file(&devices.file);
        }
        permitted
    }

    /// Files.
    pub(super) fn of_files(files: &[PathBuf]) -> Self {
        let mut permitted = Self::default();
        for file in files {
            permitted.add_file(file);
        }
        permitted
    }

    /// What of `wanted` it does not hold.
    pub(super) fn lacks(&self, wanted: &Self) -> Vec<Missing> {
        let readable = |path: &PathBuf| {
            let mut all = self.read.iter().map(PathBuf::as_path).chain(SYSTEM.map(Path::new));
            all.any(|directory| path.starts_with(directory))
        };
        let unreadable = wanted.read.iter().filter(|path| !readable(path)).cloned();
        let ports = wanted.ports.difference(&self.ports).copied();
        unreadable.map(Missing::Read).chain(ports.map(Missing::Port)).collect()
    }

    fn add(&mut self, more: Self) {
        self.read.extend(more.read);
        self.ports.extend(more.ports);
    }

    fn add_secret(&mut self, secret: &SecretRef) {
        if let Some(file) = file_of(secret) {
            self.add_file(&file);
        }
    }

    /// A file that may be replaced by another of its name, and so its directory; and the directories
    /// of symbolic links on the way to it, which may come to lead elsewhere in there.
    fn add_file(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let links = path.ancestors().filter(|step| step.is_symlink());
        let target = path.canonicalize().ok();
        for step in links.chain([path.as_path()]).chain(target.as_deref()) {
            let directory = directory_of(step);
            // All files that there are would be below the root.
            let is_root = directory == Path::new("/");
            self.read.insert(if is_root { step.to_owned() } else { directory });
        }
    }

    /// A log, which makes way for another of its name; links on the way are not followed elsewhere.
    fn add_log(&mut self, path: &Path) {
        let directory = directory_of(path);
        let target = path.canonicalize().ok();
        for directory in target.as_deref().map(directory_of).into_iter().chain([directory]) {
            let is_root = directory == Path::new("/");
            self.logs.insert(if is_root { path.to_owned() } else { directory });
        }
    }
}

/// The directory that a file is in, wherever links lead.
fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    parent.canonicalize().unwrap_or_else(|_| parent.to_owned())
}

/// The ports of token endpoints, and of proxies on the way there.
fn credential_ports(credential: &CredentialConfig) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    let urls: Vec<&http::Uri> = match &credential.source {
        SourceSpec::Fixed(_) => Vec::new(),
        SourceSpec::Login(login) => {
            let requests = [&login.request].into_iter().chain(&login.refresh).chain(&login.logout);
            requests.map(|request| &request.url).collect()
        }
        SourceSpec::Oauth(oauth) => {
            if let Endpoint::Discovered { .. } = oauth.endpoint {
                // Nobody knows yet where the token endpoint is; hardly ever elsewhere.
                ports.insert(443);
            }
            vec![oauth.url()]
        }
    };
    ports.extend(urls.into_iter().flat_map(url_ports));
    ports
}

/// The port of an URL that the environment may have a proxy for.
fn url_ports(url: &http::Uri) -> impl Iterator<Item = u16> {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    std::iter::once(url.port_u16().unwrap_or(default)).chain(environment_port(url))
}

/// The ports of an upstream, and of a proxy on the way there.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    /// The way Kubernetes replaces a mounted secret, and what is below the root.
    #[cfg(unix)]
    #[test]
    fn links_on_the_way_may_come_to_lead_elsewhere_and_the_root_is_never_permitted() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
        }
        std::fs::write(at("v1").join("key"), "k").unwrap();
        symlink("v1", at("data")).unwrap();
        symlink("data/key", at("key")).unwrap();
        for path in ["key", "data/key"].map(at) {
            let mut permitted = Permitted::default();
            permitted.add_file(&path);
            let whole = directory.path().canonicalize().unwrap();
            assert!(permitted.read.contains(&whole), "{permitted:?}");
        }
        for odd in ["//token", "/etc/../token", "/token"] {
            let mut permitted = Permitted::default();
            permitted.add_file(Path::new(odd));
            assert!(!permitted.read.contains(Path::new("/")), "{odd}: {permitted:?}");
        }
    }

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
            [log]
            file = "/var/log/countersign/log"
            access_file = "/access.log"
            [trace]
            endpoint = "http://collector.example.com:4318"
            [[listen]]
            address = "127.0.0.1:8080"
            tls = {{ certificate = "/etc/tls/server.pem", key = "/keys/server.key" }}
            [[listen]]
            address = "unix:/run/countersign/plant.sock"
            [token_store]
            kind = "redis"
            urls = ["redis://127.0.0.1:26380"]
            sentinel = {{ master = "main" }}
            node_ports = [6380]
            key = {{ env = "KEY" }}
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
            [credential.d]
            kind = "oauth2"
            token_url = "https://id.example.com:7443/token"
            client_id = "d"
            client_secret = {{ env = "SECRET" }}
            [credential.e]
            kind = "oauth2"
            issuer = "https://id.example.com:7444"
            client_id = "e"
            client_assertion = {{ key = {{ file = "/oauth/key.pem" }} }}
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
        let Permitted { read, spool, logs, sockets, ports } = Permitted::by(&config, &[]);
        let real = |path: &Path| path.canonicalize().unwrap();
        let mut expected =
            BTreeSet::from(["/etc/tls", "/keys", "/token", "/oauth"].map(PathBuf::from));
        expected.extend([Path::new("."), directory.path(), &inner].map(real));
        assert!(read.is_superset(&expected), "{read:?}");
        let resolver = RESOLVER.iter().map(|file| directory_of(Path::new(file)));
        let resolver: BTreeSet<PathBuf> = resolver
            .chain(RESOLVER.iter().filter_map(|file| Path::new(file).canonicalize().ok()))
            .map(|path| if path.is_file() { directory_of(&path) } else { path })
            .collect();
        for path in read.difference(&expected) {
            assert!(resolver.contains(path), "{}", path.display());
        }
        assert_eq!(spool, BTreeSet::from(["/var/spool/countersign".into()]));
        assert_eq!(logs, BTreeSet::from(["/var/log/countersign".into(), "/access.log".into()]));
        assert_eq!(sockets, BTreeSet::from(["/run/countersign".into()]));
        let without_proxies_of_the_environment = [53, 443, 444, 3128, 4318, 7443, 7444, 8443, 9000];
        assert!(
            ports.is_superset(&BTreeSet::from(without_proxies_of_the_environment)),
            "{ports:?}"
        );
        assert!(ports.is_superset(&BTreeSet::from([6379, 6380, 26380])), "{ports:?}");
        assert!(!ports.contains(&80) && !ports.contains(&8080), "{ports:?}");
    }
}
