//! nginx and HAProxy, configured as plainly as their manuals say, for the same job.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::talk::Place;
use crate::harness::until;

/// Another proxy. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// As it says itself.
    pub(crate) version: String,
    pub(crate) place: Place,
    child: Child,
    _directory: tempfile::TempDir,
}

/// What the configurations differ in.
pub(crate) struct Job<'j> {
    /// The upstream's address.
    pub(crate) upstream: &'j str,
    /// Names of the credential's fields, and their values.
    pub(crate) credentials: &'j [(String, String)],
}

impl Peer {
    /// nginx; `None` where it is not installed.
    pub(crate) async fn nginx(job: Job<'_>) -> Option<Self> {
        let version = version("nginx", "-v")?;
        let set = lines(job.credentials, "proxy_set_header", ";");
        let start = |directory: &Path| {
            let path = directory.display();
            let text = format!(
                "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr crit;\n\
                 events {{}}\nhttp {{\naccess_log off;\n\
                 client_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
                 fastcgi_temp_path {path}/f;\nuwsgi_temp_path {path}/u;\nscgi_temp_path {path}/s;\n\
                 upstream it {{ server {upstream}; keepalive 8; }}\n\
                 server {{\nlisten unix:{path}/socket;\n\
                 proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
                 proxy_set_header Host \"{upstream}\";\n{set}\
                 location / {{ return 404; }}\n\
                 location /ok/closed {{ return 403; }}\n\
                 location = /ok {{ proxy_pass http://it/base; }}\n\
                 location /ok/ {{ proxy_pass http://it/base/; }}\n\
                 location /read/ {{\nlimit_except GET {{ deny all; }}\n\
                 proxy_pass http://it/base/;\n}}\n}}\n}}\n",
                upstream = job.upstream,
            );
            std::fs::write(directory.join("conf"), text).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(directory).arg("-c").arg(directory.join("conf"));
            command
        };
        Some(Self::start("nginx", version, start).await)
    }

    /// HAProxy; `None` where it is not installed.
    pub(crate) async fn haproxy(job: Job<'_>) -> Option<Self> {
        let version = version("haproxy", "-v")?;
        let set = lines(job.credentials, "http-request set-header", "");
        let start = |directory: &Path| {
            let text = format!(
                "global\nmaxconn 100\ndefaults\nmode http\ntimeout connect 5s\n\
                 timeout client 10s\ntimeout server 10s\ntimeout http-request 10s\n\
                 frontend f\nbind unix@{path}/socket\n\
                 http-request deny deny_status 403 if {{ path /ok/closed }} or {{ path_beg /ok/closed/ }}\n\
                 http-request deny deny_status 405 if {{ path_beg /read/ }} !{{ method GET HEAD }}\n\
                 http-request deny deny_status 404 if !{{ path /ok }} !{{ path_beg /ok/ }} !{{ path_beg /read/ }}\n\
                 http-request replace-path ^/(?:ok|read)(/.*)?$ /base\\1\n\
                 default_backend b\nbackend b\n\
                 http-request set-header Host \"{upstream}\"\n{set}\
                 server it {upstream}\n",
                path = directory.display(),
                upstream = job.upstream,
            );
            std::fs::write(directory.join("conf"), text).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-q").arg("-f").arg(directory.join("conf"));
            command
        };
        Some(Self::start("HAProxy", version, start).await)
    }

    async fn start(
        name: &'static str,
        version: String,
        start: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = start(directory.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().unwrap();
        let socket = directory.path().join("socket");
        let peer = Self {
            name,
            version,
            place: Place::Unix(socket.clone()),
            child,
            _directory: directory,
        };
        until("the other proxy listens", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
        .await;
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line for each field of the credential.
fn lines(credentials: &[(String, String)], word: &str, end: &str) -> String {
    let mut lines = String::new();
    for (name, value) in credentials {
        lines.push_str(&format!("{word} {name} \"{value}\"{end}\n"));
    }
    lines
}

/// What a program says about its version.
fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let mut words = said.split([' ', '/', '\n', '-']);
    words.find(|word| word.starts_with(|first: char| first.is_ascii_digit())).map(ToOwned::to_owned)
}
