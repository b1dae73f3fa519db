//! `countersign healthcheck`: is the program next door ready? For images without curl.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::output::say;

const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn healthcheck(address: SocketAddr) -> ExitCode {
    match ask(address) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
            let status = answer.lines().next().unwrap_or_default();
            say(format!("not ready: {status}: {body}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(format!("not ready: {address}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(16 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}
