//! Redis of tests' own: under TLS, with Sentinels, as a cluster.

#[path = "../../../src/credential/store/redis/testing.rs"]
mod server;

pub(crate) use server::{RedisServer, free_port};

use super::authority::Authority;
use super::until;

/// A server that speaks nothing but TLS, and asks for a certificate of the same authority.
pub(crate) fn under_tls(authority: &Authority) -> Option<RedisServer> {
    authority.write_server("localhost");
    let path = |name: &str| authority.directory().join(name).display().to_string();
    let paths = ["ca.pem", "server.pem", "server.key"].map(path);
    RedisServer::start(&[
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-ca-cert-file",
        &paths[0],
        "--tls-cert-file",
        &paths[1],
        "--tls-key-file",
        &paths[2],
    ])
}

/// A master, a replica, and a Sentinel that watches them.
pub(crate) struct Watched {
    pub(crate) master: RedisServer,
    pub(crate) replica: RedisServer,
    pub(crate) sentinel: RedisServer,
}

impl Watched {
    /// All of them with this password.
    pub(crate) async fn start(password: &str) -> Option<Self> {
        let secured = ["--requirepass", password, "--masterauth", password];
        let master = RedisServer::start(&secured)?;
        let replica = RedisServer::start(&secured)?;
        let sentinel = RedisServer::start(&["--sentinel"])?;
        let port = master.port().to_string();
        let told = |words: &[&str]| {
            let said = sentinel.command(&[&["SENTINEL"], words].concat());
            assert_eq!(said, "OK", "{words:?}");
        };
        replica.command(&["-a", password, "REPLICAOF", "127.0.0.1", &port]);
        until("the replica is one", || {
            let role = replica.command(&["-a", password, "INFO", "replication"]);
            role.contains("master_link_status:up")
        })
        .await;
        told(&["MONITOR", "main", "127.0.0.1", &port, "1"]);
        told(&["SET", "main", "auth-pass", password]);
        let replica_port = replica.port().to_string();
        until("the Sentinel knows the replica", || {
            sentinel.command(&["SENTINEL", "REPLICAS", "main"]).contains(&replica_port)
        })
        .await;
        Some(Self { master, replica, sentinel })
    }

    /// Lets the replica take over.
    pub(crate) async fn fail_over(&self, password: &str) {
        until("the Sentinel begins", || {
            self.sentinel.command(&["SENTINEL", "FAILOVER", "main"]) == "OK"
        })
        .await;
        until("the replica takes over", || {
            self.replica.command(&["-a", password, "ROLE"]).starts_with("master")
        })
        .await;
    }
}

/// A cluster of three.
pub(crate) async fn cluster() -> Option<Vec<RedisServer>> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        // For the nodes among themselves. A server that cannot have it tries another.
        let bus = free_port().to_string();
        nodes.push(RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])?);
    }
    let addresses: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let words: Vec<&str> = ["--cluster", "create"]
        .into_iter()
        .chain(addresses.iter().map(String::as_str))
        .chain(["--cluster-replicas", "0", "--cluster-yes"])
        .collect();
    let said = nodes[0].command(&words);
    assert!(said.contains("All 16384 slots covered"), "{said}");
    until("every node knows it", || {
        nodes.iter().all(|node| node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    })
    .await;
    Some(nodes)
}
