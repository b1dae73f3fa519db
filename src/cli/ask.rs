//! Asking the admin listener of a running program.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::load::{Source, start_failure};
use super::output::Failure;
use super::run::runtime;
use crate::app::StartError;
use crate::config::Config;
use crate::credential::secrets::Secrets;
use crate::secret::Secret;

/// The admin listener answers within ten seconds.
const TIMEOUT: Duration = Duration::from_secs(15);
/// More than a page of a thousand devices.
const MAX_ANSWER: u64 = 16 << 20;

/// Where the admin listener is, and the token that it wants.
pub(super) struct Admin {
    address: SocketAddr,
    token: Option<Secret>,
}

/// What it answered.
pub(super) struct Told {
    /// The status.
    pub(super) status: u16,
    /// The content.
    pub(super) content: Vec<u8>,
}

/// Which running program is asked, as every command says it that asks one.
#[derive(Debug, clap::Args)]
pub(super) struct Running {
    /// Where the admin listener is. Default: as the configuration says
    #[arg(long)]
    address: Option<SocketAddr>,
    #[command(flatten)]
    config: super::ConfigFile,
}

impl Running {
    /// The way to its admin listener, if its configuration passes `check`.
    pub(super) fn admin(
        &self,
        check: impl FnOnce(&Config) -> Result<(), Failure>,
    ) -> Result<Admin, Failure> {
        let source = Source::read(self.config.config.as_deref())?;
        let name = source.name.clone();
        let config = source.config()?;
        check(&config)?;
        Admin::of(&config, &name, self.address)
    }
}

impl Admin {
    /// That of `config`, which was read from the file `name`; at `address` if that is given.
    fn of(config: &Config, name: &str, address: Option<SocketAddr>) -> Result<Self, Failure> {
        let Some(admin) = &config.admin else {
            let file = Path::new(name).display();
            return Err(Failure::configuration(format!(
                "{file} has no [admin], so a running countersign cannot be asked; add [admin] with \
                 address = \"127.0.0.1:8081\""
            )));
        };
        let address = address.unwrap_or(admin.address);
        if address.port() == 0 {
            let message = "[admin] listens on a port that the system chooses; say which with \
                           --address (the log of the running countersign has it)";
            return Err(Failure::configuration(message));
        }
        let token = match &admin.token {
            None => None,
            Some(reference) => {
                let resolved = Secrets::resolve(vec![reference.clone()], config.check_permissions);
                let secrets = runtime()?.block_on(resolved);
                let secrets =
                    secrets.map_err(|errors| start_failure(StartError::Secrets(errors)))?;
                secrets.get(reference)
            }
        };
        Ok(Self { address: reachable(address), token })
    }

    /// What it answers to `GET target`.
    pub(super) fn get(&self, target: &str) -> Result<Told, Failure> {
        self.ask("GET", target)
    }

    /// What it answers to `POST target` without content.
    pub(super) fn post(&self, target: &str) -> Result<Told, Failure> {
        self.ask("POST", target)
    }

    fn ask(&self, method: &str, target: &str) -> Result<Told, Failure> {
        let Self { address, .. } = self;
        let answer = self.exchange(method, target).map_err(|error| {
            let message = if error.kind() == io::ErrorKind::ConnectionRefused {
                format!("nothing listens on {address}; is countersign running?")
            } else {
                format!("the admin listener at {address} cannot be asked: {error}")
            };
            Failure::runtime(&io::Error::other(message))
        })?;
        let strange = || {
            let message = format!("what listens on {address} does not answer as countersign does");
            Failure::runtime(&io::Error::other(message))
        };
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = head.parse(&answer) else {
            return Err(strange());
        };
        let status = head.code.ok_or_else(strange)?;
        if status == 401 {
            let message = format!("the admin listener at {address} does not accept the token");
            return Err(Failure::runtime(&io::Error::other(message)));
        }
        let content = answer.get(length..).unwrap_or_default().to_vec();
        Ok(Told { status, content })
    }

    fn exchange(&self, method: &str, target: &str) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // HTTP/1.0: the content ends where the connection does.
        let token = self.token.as_ref().map(|token| {
            zeroize::Zeroizing::new(format!("Authorization: Bearer {}\r\n", token.expose()))
        });
        let token = token.as_ref().map_or("", |token| token.as_str());
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let request = zeroize::Zeroizing::new(format!(
            "{method} {target} HTTP/1.0\r\nHost: {}\r\n{token}{length}\r\n",
            self.address
        ));
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Where to connect to reach what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}
