//! What the configuration says about Redis.

use std::fmt;
use std::time::Duration;

use crate::credential::secret_ref::SecretRef;
use crate::tls::TlsSettings;

/// The port of Redis where a URL has none.
pub const PORT: u16 = 6379;
/// The port of Sentinels where a URL has none.
pub const SENTINEL_PORT: u16 = 26379;

/// Where Redis is, and how records are sealed and named there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSpec {
    /// Host and port of the server, of the Sentinels, or of some nodes of the cluster.
    pub servers: Vec<(String, u16)>,
    /// What they are.
    pub topology: Topology,
    /// `None` if the connection is not encrypted.
    pub tls: Option<TlsSettings>,
    /// The number of the database.
    pub database: i64,
    /// A user other than the default one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<SecretRef>,
    /// The key that records are sealed with.
    pub key: SecretRef,
    /// What every key in Redis begins with.
    pub prefix: String,
    /// How long anything that is asked of Redis may take.
    pub timeout: Duration,
    /// Ports of servers that are not in `servers`, which Sentinels or the cluster may name.
    pub node_ports: Vec<u16>,
}

/// What the servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server, which takes writes.
    One,
    /// Sentinels, which know who that is.
    Sentinel {
        /// What they call it.
        master: String,
        /// A user of the Sentinels other than the default one.
        username: Option<String>,
        /// The password for the Sentinels themselves.
        password: Option<SecretRef>,
    },
    /// Nodes of a cluster.
    Cluster,
}

impl RedisSpec {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let sentinel = match &self.topology {
            Topology::Sentinel { password, .. } => password.as_ref(),
            Topology::One | Topology::Cluster => None,
        };
        std::iter::once(&self.key).chain(&self.password).chain(sentinel)
    }

    /// Every port that may have to be connected to.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let named = self.servers.iter().map(|(_, port)| *port);
        let others = (self.topology != Topology::One).then_some(PORT);
        named.chain(others).chain(self.node_ports.iter().copied())
    }
}

/// As people call it.
impl fmt::Display for RedisSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        for (index, (host, port)) in self.servers.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            write!(f, "{separator}{scheme}://{host}:{port}")?;
        }
        if let Topology::Sentinel { master, .. } = &self.topology {
            write!(f, " ({master})")?;
        }
        Ok(())
    }
}
