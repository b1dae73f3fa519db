//! Answers that point back to the upstream point to us; all others stay, and none is followed.

use http::Response;
use http_body_util::Full;

use crate::harness::client::raw_head;
use crate::harness::{Connection, Proxy, Reply, Upstream, quoted, route};

/// Answers 302 with the fields that are the content of the request.
async fn redirecting() -> Upstream {
    Upstream::answering(|seen| {
        let mut response = Response::builder().status(302);
        for line in String::from_utf8_lossy(&seen.body).lines() {
            let (name, value) = line.split_once(": ").unwrap();
            response = response.header(name, value);
        }
        response.body(Full::default()).unwrap()
    })
    .await
}

/// A proxy whose prefix is `/api` and whose upstream is the base `/base` of `localhost`.
async fn proxy(upstream: &Upstream, more: &str) -> (Proxy, String) {
    let origin = format!("http://localhost:{}", upstream.address().port());
    let more = format!("path = \"/api\"\n{more}");
    let proxy = Proxy::start(&route(&format!("{origin}/base"), "", &more)).await;
    (proxy, origin)
}

/// What becomes of a field of the answer.
async fn pass(proxy: &Proxy, name: &str, value: &str) -> String {
    let reply = ask(proxy, &format!("{name}: {value}")).await;
    reply.field(name).to_owned()
}

async fn ask(proxy: &Proxy, lines: &str) -> Reply {
    let reply = proxy.send("POST", "/api/x", &[], lines.to_owned()).await;
    assert_eq!(reply.status, 302, "{reply:?}");
    reply
}

#[tokio::test]
async fn a_redirect_within_the_upstream_leads_back_here() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "").await;
    for name in ["location", "content-location"] {
        for (theirs, ours) in [
            ("/base/x", "/api/x"),
            ("/base/x/y?a=%2F&b#part", "/api/x/y?a=%2F&b#part"),
            ("/base/", "/api/"),
            ("/base", "/api"),
            ("/base?a=1", "/api?a=1"),
            ("/base/a%2fb//c", "/api/a%2fb//c"),
        ] {
            let passed = pass(&proxy, name, &format!("{origin}{theirs}")).await;
            assert_eq!(passed, ours, "{name}: {theirs}");
        }
    }
}

#[tokio::test]
async fn a_redirect_leads_here_by_whatever_name_the_caller_knows_us() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "").await;
    let host = format!("localhost:{}", proxy.address().port());
    let fields = [("host", host.as_str())];
    let lines = format!("location: {origin}/base/y");
    let mut connection = Connection::open(proxy.address()).await;
    let reply = connection.send("POST", "/api/x", &fields, lines).await;
    assert_eq!(reply.field("location"), "/api/y");
}

#[tokio::test]
async fn a_redirect_to_anywhere_else_stays_as_it_is() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "").await;
    let port = upstream.address().port();
    let other_port = if port == 1 { 2 } else { port - 1 };
    for value in [
        format!("{origin}/other"),
        format!("{origin}/baseless/x"),
        format!("{origin}/"),
        format!("https://localhost:{port}/base/x"),
        format!("http://localhost:{other_port}/base/x"),
        "http://localhost/base/x".to_owned(),
        format!("http://user@localhost:{port}/base/x"),
        format!("http://localhost.example:{port}/base/x"),
        "http://elsewhere.example/base/x?to=http://localhost".to_owned(),
        "sub/x".to_owned(),
        "?a=1".to_owned(),
        "no url at all %%".to_owned(),
    ] {
        for name in ["location", "content-location"] {
            assert_eq!(pass(&proxy, name, &value).await, value, "{name}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "").await;
    for value in [format!("{origin}/base/y"), format!("{origin}/y"), "/y".to_owned()] {
        let before = upstream.seen().len();
        pass(&proxy, "location", &value).await;
        assert_eq!(upstream.seen().len() - before, 1, "{value}");
    }
}

#[tokio::test]
async fn without_a_prefix_or_a_base_only_the_origin_changes() {
    let upstream = redirecting().await;
    let origin = upstream.url();
    let proxy = Proxy::start(&route(&origin, "", "")).await;
    for path in ["/", "/x?y", "/base/x", ""] {
        let reply = proxy.send("POST", "/x", &[], format!("location: {origin}{path}")).await;
        let location = reply.field("location");
        assert_eq!(location, if path.is_empty() { "/" } else { path });
    }
}

/// The attributes of a cookie, its value first.
fn attributes(cookie: &str) -> Vec<&str> {
    cookie.split(';').map(str::trim).collect()
}

#[tokio::test]
async fn cookies_for_the_upstream_become_cookies_for_us() {
    let upstream = redirecting().await;
    let (proxy, _) = proxy(&upstream, "").await;
    for (theirs, ours) in [
        ("a=1; Domain=localhost; Path=/base/x; HttpOnly", "a=1; Path=/api/x; HttpOnly"),
        ("a=1; domain=LOCALHOST; path=/base", "a=1; path=/api"),
        ("a=1; Domain=.localhost; Secure", "a=1; Secure"),
        ("a=1; Path=/base/", "a=1; Path=/api/"),
        (
            "a=1; Path=/base/x; SameSite=Lax; Max-Age=60",
            "a=1; Path=/api/x; SameSite=Lax; Max-Age=60",
        ),
        ("a=1; Path=/baseless", "a=1; Path=/baseless"),
        ("a=1", "a=1"),
        ("a=\"Path=/base Domain\"; Secure", "a=\"Path=/base Domain\"; Secure"),
        (
            "a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            "a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
        ),
    ] {
        let passed = pass(&proxy, "set-cookie", theirs).await;
        assert_eq!(attributes(&passed), attributes(ours), "{theirs}");
    }
    for domain in ["elsewhere.example", "localhost.example", "notlocalhost"] {
        let cookie = format!("a=1; Domain={domain}; Secure");
        let passed = pass(&proxy, "set-cookie", &cookie).await;
        assert_eq!(attributes(&passed), attributes(&cookie));
    }
}

#[tokio::test]
async fn each_of_several_cookies_is_looked_at() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "").await;
    let lines = format!(
        "set-cookie: a=1; Domain=localhost\nlocation: {origin}/base/y\n\
         set-cookie: b=2; Path=/base/y\nset-cookie: c=3"
    );
    let reply = ask(&proxy, &lines).await;
    let cookies = reply.headers.get_all("set-cookie").iter();
    let cookies: Vec<_> = cookies.map(|value| value.to_str().unwrap()).collect();
    let cookies: Vec<_> = cookies.into_iter().map(attributes).collect();
    assert_eq!(cookies, [vec!["a=1"], vec!["b=2", "Path=/api/y"], vec!["c=3"]]);
    assert_eq!(reply.field("location"), "/api/y");
}

#[tokio::test]
async fn nothing_is_rewritten_where_that_is_switched_off() {
    let upstream = redirecting().await;
    let (proxy, origin) = proxy(&upstream, "rewrite_location = false\n").await;
    let location = format!("{origin}/base/x");
    for name in ["location", "content-location"] {
        assert_eq!(pass(&proxy, name, &location).await, location);
    }
    let cookie = "a=1; Domain=localhost; Path=/base/x";
    assert_eq!(pass(&proxy, "set-cookie", cookie).await, cookie);
}

#[tokio::test]
async fn a_route_changes_only_what_leads_to_its_own_upstream() {
    let upstream = redirecting().await;
    let origin = upstream.url();
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/one\"\nupstream = {}\n[[route]]\npath = \"/two\"\nupstream = {}\n",
        quoted(&format!("{origin}/1")),
        quoted(&format!("{origin}/2")),
    ))
    .await;
    for (target, theirs, ours) in [
        ("/one", format!("{origin}/1/x"), "/one/x".to_owned()),
        ("/two", format!("{origin}/2/x"), "/two/x".to_owned()),
        ("/one", format!("{origin}/2/x"), format!("{origin}/2/x")),
    ] {
        let reply = proxy.send("POST", target, &[], format!("location: {theirs}")).await;
        assert_eq!(reply.field("location"), ours, "{target}");
    }
}

#[tokio::test]
async fn no_location_is_made_up() {
    let upstream = redirecting().await;
    let (proxy, _) = proxy(&upstream, "").await;
    let reply = raw_head(
        proxy.address(),
        &["POST /api/x HTTP/1.1", "Content-Length: 0", "X-Forwarded-Host: evil.example"],
    )
    .await;
    assert_eq!((reply.status, reply.field("location")), (302, ""), "none is made up");
}
