//! What the process keeps from others on the same machine: memory, environment, arguments, files
//! and sockets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::client::read_answer;
use crate::harness::program::{BINARY, Program, has, is_root};
use crate::harness::{Connection, Upstream, quoted, route, secret, skip, until};

/// A user who is nobody special, and another one.
const SOMEBODY: u32 = 65534;
const ANOTHER: u32 = 65533;

/// A command that is run by `user`, a member of `group` and no other.
fn as_user(user: u32, group: u32, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups");
    command.args(words).stdin(Stdio::null());
    command
}

/// True if a test can become other users; else it says that `test` is skipped.
fn can_change_users(test: &str) -> bool {
    if !is_root() {
        skip(test, "only root can become somebody else");
        return false;
    }
    has(test, "setpriv")
}

/// A directory of `SOMEBODY`'s with a copy of the program, because that of the build may be where
/// others cannot look.
fn home() -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("countersign");
    fs::copy(BINARY, &program).unwrap();
    for path in [directory.path(), &program] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let program = program.display().to_string();
    (directory, program)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn nobody_else_can_read_the_memory_or_the_environment_and_there_is_no_core() {
    let test = "nobody_else_can_read_the_memory_or_the_environment_and_there_is_no_core";
    if !can_change_users(test) || !has(test, "prlimit") {
        return;
    }
    let readable = |id: u32, name: &str| {
        let open = format!(": < /proc/{id}/{name}");
        let mut open = as_user(SOMEBODY, SOMEBODY, &["sh", "-c", &open]);
        open.stderr(Stdio::null()).status().unwrap().success()
    };
    // That it could be read otherwise, so that the test can fail.
    let mut other = as_user(SOMEBODY, SOMEBODY, &["sleep", "60"]).spawn().unwrap();
    until("it has become somebody", || readable(other.id(), "environ")).await;
    assert!(readable(other.id(), "maps"));
    other.kill().unwrap();
    other.wait().unwrap();

    let upstream = Upstream::fine().await;
    let (directory, program) = home();
    let work = directory.path().join("work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let mut command = Command::new("prlimit");
    let somebody = format!("--reuid={SOMEBODY}");
    let group = format!("--regid={SOMEBODY}");
    // Somebody who wants cores has asked for them.
    command.args(["--core=unlimited", "setpriv", &somebody, &group, "--clear-groups", &program]);
    command.env("IT_SECRET", "hunter2").current_dir(&work);
    let credential = "[credential.a]\nkind = \"bearer\"\ntoken = { env = \"IT_SECRET\" }\n";
    let config = format!("{credential}{}", route(&upstream.url(), "a", ""));
    let mut running = Program::start_by(command, &config, directory).await;
    let mut connection = Connection::open(running.address()).await;
    assert_eq!(connection.send("GET", "/", &[], "").await.status, 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer hunter2"]);
    drop(connection);

    for name in ["environ", "mem", "maps", "smaps", "auxv", "pagemap", "map_files", "fd"] {
        assert!(!readable(running.id(), name), "{name}");
    }
    assert!(!running.proc("cmdline").contains("hunter2"), "{}", running.proc("cmdline"));
    let limits = running.proc("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    running.signal("-ABRT");
    let status = running.ended().await;
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status}");
    assert!(fs::read_dir(&work).unwrap().next().is_none(), "there is no core");
}

#[tokio::test]
async fn files_for_content_have_no_name_and_do_not_last() {
    let upstream = Upstream::fine().await;
    let spool = tempfile::tempdir().unwrap();
    let config = format!(
        "limits = {{ memory_per_request = \"16KiB\", spool_directory = {} }}\n\
         [credential.signed]\nkind = \"hmac\"\nkey = {}\nbase = [\"body\"]\n\
         set = {{ X-Signature = \"{{signature}}\" }}\n{}",
        quoted(spool.path().to_str().unwrap()),
        secret("key"),
        route(&upstream.url(), "signed", ""),
    );
    let program = Program::start(&config).await;
    let in_use = || {
        let spool = spool.path().to_str().unwrap();
        program.descriptors().iter().filter(|path| path.starts_with(spool)).count()
    };
    let mut caller = TcpStream::connect(program.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
    caller.write_all(head.as_bytes()).await.unwrap();
    caller.write_all(&vec![b'x'; 900_000]).await.unwrap();
    if is_root() {
        until("a part of it is in a file", || in_use() == 1).await;
    }
    assert!(fs::read_dir(spool.path()).unwrap().next().is_none(), "the file has no name");
    caller.write_all(&vec![b'x'; 100_000]).await.unwrap();
    assert_eq!(read_answer(&mut caller).await.status, 200);
    assert_eq!(upstream.last().body.len(), 1_000_000);
    until("the file is gone", || in_use() == 0).await;
    assert!(fs::read_dir(spool.path()).unwrap().next().is_none());
}

/// What curl says about a request over the Unix socket: its own status, and that of the answer.
fn curl(user: u32, group: u32, socket: &Path) -> (Option<i32>, String) {
    let socket = socket.display().to_string();
    let words = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"];
    let words = [&words[..], &["--max-time", "20", "--unix-socket", &socket]].concat();
    let output = as_user(user, group, &[&words[..], &["http://localhost/"]].concat()).output();
    let output = output.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

// The upstream has to answer while curl is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_unix_socket_is_closed_to_users_whom_its_mode_leaves_out() {
    let test = "a_unix_socket_is_closed_to_users_whom_its_mode_leaves_out";
    if !can_change_users(test) || !has(test, "curl") {
        return;
    }
    let upstream = Upstream::fine().await;
    let (directory, program) = home();
    let [own, shared] = ["own", "shared"].map(|name| directory.path().join(name));
    let listen = |socket: &PathBuf, more: &str| {
        let address = quoted(&format!("unix:{}", socket.display()));
        format!("[[listen]]\naddress = {address}\n{more}\n")
    };
    let config = format!(
        "{}{}{}",
        listen(&own, ""),
        listen(&shared, "mode = \"0660\""),
        route(&upstream.url(), "", "")
    );
    let command = as_user(SOMEBODY, SOMEBODY, &[&program]);
    let running = Program::start_by(command, &config, directory).await;
    assert_eq!((mode(&own), mode(&shared)), (0o600, 0o660));
    let served = (Some(0), "200".to_owned());
    for socket in [&own, &shared] {
        assert_eq!(curl(SOMEBODY, SOMEBODY, socket), served);
    }
    assert_eq!(curl(ANOTHER, SOMEBODY, &shared), served, "a member of the group");
    until("three requests", || running.requests().len() == 3).await;
    // 7 is curl's word for "could not connect".
    let refused = (Some(7), "000".to_owned());
    assert_eq!(curl(ANOTHER, SOMEBODY, &own), refused, "a member of the group");
    for socket in [&own, &shared] {
        assert_eq!(curl(ANOTHER, ANOTHER, socket), refused);
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn a_generous_umask_gives_nothing_away() {
    let upstream = Upstream::fine().await;
    let directory = tempfile::tempdir().unwrap();
    let [log, socket, spool] = ["log", "socket", "spool"].map(|name| directory.path().join(name));
    fs::create_dir(&spool).unwrap();
    let config = directory.path().join("countersign.toml");
    let text = format!(
        "limits = {{ spool_directory = {} }}\n[log]\nfile = {}\naccess = \"text\"\n\
         [[listen]]\naddress = {}\n[[listen]]\naddress = \"127.0.0.1:0\"\n{}",
        quoted(spool.to_str().unwrap()),
        quoted(log.to_str().unwrap()),
        quoted(&format!("unix:{}", socket.display())),
        route(&upstream.url(), "", ""),
    );
    fs::write(&config, text).unwrap();
    let mut running = Command::new("sh")
        .args(["-c", "umask 000; exec \"$0\" run --config \"$1\"", BINARY])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it listens twice", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.matches("listening").count() == 2
    })
    .await;
    assert_eq!(mode(&log), 0o640);
    assert_eq!(mode(&socket), 0o600);
    let entries = fs::read_dir(directory.path()).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "and nothing else is left: {names:?}");
    running.kill().unwrap();
    running.wait().unwrap();
}
