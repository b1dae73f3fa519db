//! Many requests at once: too many for a route, and many thousands over connections that are being
//! closed under them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Act, Connection, Faulty, PATIENCE, Proxy, quoted, route, until};

#[tokio::test]
async fn a_route_takes_so_many_requests_at_once_and_no_more() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let upstream = Faulty::start(move |request| match request.target() {
        "/slow" => Act::FineAfter(Arc::clone(&waiting)),
        _ => Act::Fine,
    })
    .await;
    let url = quoted(&upstream.url());
    let config = format!(
        "[[route]]\npath = \"/slow\"\nmax_in_flight = 2\nupstream = {}\n\
         [[route]]\npath = \"/other\"\nmax_in_flight = 1\nupstream = {url}\n",
        quoted(&format!("{}/slow", upstream.url())),
    );
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let mut callers = JoinSet::new();
    for _ in 0..2 {
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.send("GET", "/slow", &[], "").await.status
        });
    }
    until("both are in flight", || upstream.count("GET", "/slow") == 2).await;
    for method in ["GET", "POST"] {
        let reply = proxy.send(method, "/slow", &[], "").await;
        assert_eq!(reply.problem(503, "connection_limit_reached"), "route-busy", "{method}");
        assert!(reply.retry_after() >= 1, "{method}");
    }
    assert_eq!(upstream.received().len(), 2, "nothing is sent on");
    for _ in 0..3 {
        assert_eq!(proxy.get("/other").await.status, 200, "other routes are not concerned");
    }
    go.add_permits(2);
    assert_eq!(callers.join_all().await, [200; 2]);
    // A place is free again as soon as the answer has been passed on.
    let give_up_at = Instant::now() + PATIENCE;
    go.add_permits(1);
    while proxy.get("/slow").await.status == 503 {
        assert!(Instant::now() < give_up_at, "the places are not given back");
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_gives_its_place_back() {
    let upstream = Faulty::start(|request| match request.target() {
        "/never" => Act::Silent,
        _ => Act::Fine,
    })
    .await;
    let more = "max_in_flight = 1\ntimeouts = { first_byte = \"10m\" }\n";
    let proxy = Proxy::start(&route(&upstream.url(), "", more)).await;
    let address = proxy.address();
    let caller = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        connection.send("GET", "/never", &[], "").await.status
    });
    until("it is in flight", || upstream.count("GET", "/never") == 1).await;
    assert_eq!(proxy.get("/x").await.problem(503, "connection_limit_reached"), "route-busy");
    caller.abort();
    let give_up_at = Instant::now() + PATIENCE;
    while proxy.get("/x").await.status == 503 {
        assert!(Instant::now() < give_up_at, "its place is not given back");
    }
}

#[tokio::test]
async fn requests_that_fail_give_their_places_back() {
    let upstream = Faulty::always(Act::Close).await;
    let proxy = Proxy::start(&route(&upstream.url(), "", "max_in_flight = 1\n")).await;
    let mut connection = Connection::open(proxy.address()).await;
    for _ in 0..5 {
        let reply = connection.send("POST", "/x", &[], "content").await;
        assert_eq!(reply.problem(502, "connection_terminated"), "upstream-closed");
    }
}

/// How long connections wait: for both sides the same.
const AGE: Duration = Duration::from_millis(20);
const CALLERS: usize = 100;
const ROUNDS: usize = 100;

/// Requests in bursts, about as far apart as connections may be idle: in each burst some find a
/// connection that is just being closed. A GET never fails, and no POST comes twice.
#[tokio::test]
async fn ten_thousand_requests_over_connections_that_close_at_the_pools_own_age() {
    let upstream = Faulty::always(Act::FineThenCloseAfter(AGE)).await;
    let pool = format!("pool = {{ idle_timeout = \"{}ms\" }}\n", AGE.as_millis());
    let config = format!("workers = 2\n{}", route(&upstream.url(), "", &pool));
    let proxy = Proxy::start(&config).await;
    let together = Arc::new(Barrier::new(CALLERS));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (address, together) = (proxy.address(), Arc::clone(&together));
        callers.spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut pace = tokio::time::interval(AGE);
            let mut lost = Vec::new();
            for round in 0..ROUNDS {
                let target = format!("/{caller}/{round}");
                let post = (caller + round).is_multiple_of(2);
                let (method, content) = if post { ("POST", "content") } else { ("GET", "") };
                let reply = connection.send(method, &target, &[], content).await;
                if post && reply.status == 502 {
                    let word = reply.problem(502, "connection_terminated");
                    assert_eq!(word, "upstream-closed", "{target}");
                    lost.push(target);
                } else {
                    assert_eq!((reply.status, reply.text()), (200, target.as_str()), "{method}");
                }
                together.wait().await;
                // From a little less than the age to a little more.
                let off = u32::try_from(round % 9).unwrap();
                pace.reset_after(AGE.mul_f64(0.8) + AGE.mul_f64(0.05) * off);
                pace.tick().await;
            }
            lost
        });
    }
    let lost: Vec<String> = callers.join_all().await.concat();
    let deliveries = upstream.deliveries();
    for caller in 0..CALLERS {
        for round in 0..ROUNDS {
            let target = format!("/{caller}/{round}");
            if (caller + round).is_multiple_of(2) {
                let count = deliveries.get(&format!("POST {target}")).copied().unwrap_or_default();
                assert!(count <= 1, "POST {target} came {count} times");
                assert!(count == 1 || lost.contains(&target), "POST {target} was never sent");
            } else {
                assert!(deliveries.contains_key(&format!("GET {target}")), "{target}");
            }
        }
    }
    assert!(lost.len() < CALLERS * ROUNDS / 20, "{} of the POSTs are lost", lost.len());
    assert!(upstream.connections() > CALLERS, "none was closed while it waited");
}
