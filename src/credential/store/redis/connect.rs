//! From a configuration to a connection: to one server, to the master that Sentinels name, or to a
//! cluster.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::io::tcp::{TcpSettings, socket2};
use ::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    TlsCertificates, TlsMode, Value,
};
use base64::Engine as _;
use rustls::RootCertStore;

use super::failure::Failure;
use super::{RedisSpec, Topology};
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::tls::{TlsError, TlsSettings, client_config};

/// How long a connection may be silent before the kernel asks whether the other side lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often a cluster's client asks again, by itself.
const CLUSTER_RETRIES: u32 = 3;
/// The first and the longest pause between them, in milliseconds.
const CLUSTER_PAUSES: (u64, u64) = (20, 200);

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    spec: RedisSpec,
    secrets: Arc<Secrets>,
    /// `None` if the connection is not encrypted.
    certificates: Option<TlsCertificates>,
}

/// One that is open. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connector {
    /// Reads the files of TLS, which need not be readable later.
    ///
    /// # Errors
    /// When one of them cannot be used, or others can get at the key.
    pub(super) fn new(spec: &RedisSpec, secrets: &Arc<Secrets>) -> Result<Self, TlsError> {
        let certificates = match &spec.tls {
            Some(tls) => {
                // With all that is checked of such files elsewhere.
                client_config(tls, secrets.check())?;
                Some(certificates(tls)?)
            }
            None => None,
        };
        Ok(Self { spec: spec.clone(), secrets: Arc::clone(secrets), certificates })
    }

    /// How long connecting may take: with a Sentinel it takes several steps.
    pub(super) fn patience(&self) -> Duration {
        3 * self.spec.timeout
    }

    /// Connects, with the password as it is now.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let connecting = async {
            match &self.spec.topology {
                Topology::One => self.one().await,
                Topology::Sentinel { master, username, password } => {
                    self.by_sentinel(master, username.as_deref(), password.as_ref()).await
                }
                Topology::Cluster => self.cluster().await,
            }
        };
        match tokio::time::timeout(self.patience(), connecting).await {
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(self.why_not_let_in(&error).await)
            }
            Ok(connected) => connected.map_err(|error| Failure::from(&error)),
            Err(_) => Err(Failure::Silent(self.patience())),
        }
    }

    /// The client takes whatever is answered to a password for a refusal of it, also that there is
    /// no room for another connection, and does not tell what it was. So one server is asked again,
    /// in a way that its answer can be seen. Behind Sentinels it is not known which one it was: that
    /// may pass.
    async fn why_not_let_in(&self, error: &RedisError) -> Failure {
        if self.spec.topology != Topology::One {
            return Failure::from(error);
        }
        let asking = async {
            let infos = self.infos()?.into_iter();
            let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
            let mut infos = infos.map(|info| info.set_redis_settings(settings.clone()));
            let mut connection = self.open(infos.next()).await?;
            let mut auth = ::redis::cmd("AUTH");
            if let Some(username) = &self.spec.username {
                auth.arg(username);
            }
            if let Some(password) = self.password() {
                auth.arg(password.expose());
            }
            auth.query_async::<()>(&mut connection).await
        };
        match tokio::time::timeout(self.spec.timeout, asking).await {
            Ok(Err(error)) => Failure::from(&error),
            // It lets us in now.
            Ok(Ok(())) => Failure::from(error),
            Err(_) => Failure::Silent(self.spec.timeout),
        }
    }

    async fn one(&self) -> RedisResult<Connection> {
        let connection = self.open(self.infos()?.into_iter().next()).await?;
        Ok(Connection::One(connection))
    }

    async fn open(&self, info: Option<ConnectionInfo>) -> RedisResult<MultiplexedConnection> {
        let Some(info) = info else {
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no server")));
        };
        let client = match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone())?,
            None => Client::open(info)?,
        };
        client.get_multiplexed_async_connection_with_config(&self.config()).await
    }

    async fn by_sentinel(
        &self,
        master: &str,
        username: Option<&str>,
        password: Option<&SecretRef>,
    ) -> RedisResult<Connection> {
        let sentinels = self.addresses();
        let kind = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(sentinels, master, kind)?
            .set_client_to_redis_db(self.spec.database)
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        if let Some(username) = &self.spec.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = self.password() {
            builder = builder.set_client_to_redis_password(password.expose());
        }
        if let Some(username) = username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = password.and_then(|password| self.secrets.get(password)) {
            builder = builder.set_client_to_sentinel_password(password.expose());
        }
        let mut client = builder.build()?;
        let connection = client.get_async_connection_with_config(&self.config()).await?;
        Ok(Connection::One(connection))
    }

    async fn cluster(&self) -> RedisResult<Connection> {
        let mut builder = ClusterClient::builder(self.infos()?)
            .connection_timeout(self.spec.timeout)
            .response_timeout(self.spec.timeout)
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_PAUSES.0)
            .max_retry_wait(CLUSTER_PAUSES.1)
            .tcp_settings(tcp());
        if let Some(certificates) = &self.certificates {
            builder = builder.tls(TlsMode::Secure).certs(certificates.clone());
        }
        builder.build()?.get_async_connection().await.map(Connection::Cluster)
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.spec.timeout))
            .set_response_timeout(Some(self.spec.timeout))
    }

    fn infos(&self) -> RedisResult<Vec<ConnectionInfo>> {
        let mut settings =
            RedisConnectionInfo::default().set_db(self.spec.database).set_skip_set_lib_name();
        if let Some(username) = &self.spec.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = self.password() {
            settings = settings.set_password(password.expose());
        }
        let addresses = self.addresses().into_iter();
        let info = addresses.map(|address| {
            let info = address.into_connection_info()?;
            Ok(info.set_redis_settings(settings.clone()).set_tcp_settings(tcp()))
        });
        info.collect()
    }

    fn addresses(&self) -> Vec<ConnectionAddr> {
        let servers = self.spec.servers.iter();
        let address = servers.map(|(host, port)| match self.certificates {
            Some(_) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            None => ConnectionAddr::Tcp(host.clone(), *port),
        });
        address.collect()
    }

    fn password(&self) -> Option<crate::secret::Secret> {
        self.spec.password.as_ref().and_then(|password| self.secrets.get(password))
    }
}

fn tcp() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

/// The files as they are, and the platform's authorities where none are named: the client would read
/// them for every connection, and may not be able to by then. Where the platform has none, the
/// client has a list of its own.
fn certificates(tls: &TlsSettings) -> Result<TlsCertificates, TlsError> {
    let read = |what, path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| TlsError::File {
            what,
            path: path.clone(),
            reason: error.to_string(),
        })
    };
    let root_cert = match &tls.ca {
        Some(path) => Some(read("the authorities", path)?),
        None => platform_authorities(),
    };
    let client_tls = match (&tls.client_certificate, &tls.client_key) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("the client certificate", certificate)?,
            client_key: read("the client key", key)?,
        }),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// As PEM, which is what the client takes.
fn platform_authorities() -> Option<Vec<u8>> {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let mut roots = RootCertStore::empty();
    let usable =
        certificates.into_iter().filter(|certificate| roots.add(certificate.clone()).is_ok());
    let pem = usable.map(|certificate| {
        let text = base64::engine::general_purpose::STANDARD.encode(&certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    let pem: String = pem.collect();
    (!pem.is_empty()).then(|| pem.into_bytes())
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}
