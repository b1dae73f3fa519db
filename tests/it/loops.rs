//! Routes that lead back: found in the configuration where it can be seen, else by the first
//! request that comes around.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::harness::program::{BINARY, Program};
use crate::harness::{Connection, Upstream, quoted, route, until};

#[test]
fn an_upstream_that_is_a_listener_of_its_own_is_a_problem_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("countersign.toml");
    for (listen, upstream) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://localhost:8080/base"),
        ("127.0.0.1:8080", "http://0.0.0.0:8080"),
        ("127.0.0.1:80", "http://127.0.0.1"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("[::1]:8080", "http://localhost:8080"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:8080", "http://127.0.0.7:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"),
    ] {
        let listen = format!("[[listen]]\naddress = \"{listen}\"\nopen = true\n");
        std::fs::write(&path, format!("{listen}{}", route(upstream, "", ""))).unwrap();
        for command in ["check", "run"] {
            let output = Command::new(BINARY).arg(command).arg("--config").arg(&path).output();
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(output.status.code(), Some(2), "{upstream} {command}: {text}");
            assert!(text.contains("this route leads back to countersign itself"), "{text}");
            assert!(text.contains("name the API's own address"), "{text}");
        }
    }
}

/// A port that leads to what is only known later.
async fn detour(to: Arc<OnceLock<SocketAddr>>) -> Upstream {
    Upstream::raw(move |mut caller| {
        let to = Arc::clone(&to);
        async move {
            let mut next = TcpStream::connect(to.get().unwrap()).await.unwrap();
            let _ = copy_bidirectional(&mut caller, &mut next).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_comes_around_through_another_proxy_is_508_after_one_round() {
    let back = Arc::new(OnceLock::new());
    let detour = detour(Arc::clone(&back)).await;
    let one = Program::start(&route(&detour.url(), "", "")).await;
    let listen = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nhosts = [{}]\n",
        quoted(&detour.address().to_string())
    );
    let two = format!("{listen}{}", route(&format!("http://{}", one.address()), "", ""));
    let two = Program::start(&two).await;
    back.set(two.address()).unwrap();
    for (method, content) in [("GET", ""), ("POST", "content")] {
        let mut connection = Connection::open(one.address()).await;
        let reply = connection.send(method, "/around", &[], content).await;
        assert_eq!(reply.problem(508, "proxy_loop_detected"), "loop", "{method}");
    }
    until("all is logged", || one.requests().len() == 4 && two.requests().len() == 2).await;
    let by_itself = |program: &Program| {
        let requests = program.requests();
        requests.iter().filter(|line| line["reason"] == "loop" && line["status"] == 508).count()
    };
    assert_eq!((by_itself(&one), by_itself(&two)), (2, 0), "the second time round, by the first");
}
