//! Path and query arrive byte for byte as the caller wrote them.

use crate::harness::client::raw_head;
use crate::harness::{Proxy, Upstream, quoted, secret};

const TAILS: [&str; 26] = [
    "/",
    "/plain",
    "/a%2Fb%2fc",
    "/a%20b+c",
    "/a:b@c=d~e$f",
    "/!*'(),;x=1",
    "/a//b",
    "//",
    "//a",
    "/a/",
    "/%E4%B8%AD%e6%96%87",
    "/%41%7e%2E",
    "/100%25",
    "/a?",
    "/a?x=1&x=2&x=1",
    "/a?=&&=",
    "/a?b",
    "/a?q=%2F%2f%20+:@=~$//?/",
    "/a?q=a%zz%",
    "/a?redirect=http://other.example/x?y#",
    "/a?%5B%5d[]",
    "/a?q='\"",
    "/a?q={x}|^",
    "/a/.well-known/x.y",
    "/a/./b",
    "/a/b/../c",
];

#[tokio::test]
async fn every_byte_of_path_and_query_is_forwarded_as_received() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {} }}\n\
         [[route]]\nname = \"root\"\nupstream = {}\ncredential = \"key\"\n\
         [[route]]\npath = \"/prefix\"\nupstream = {}\n",
        secret("ours"),
        quoted(&upstream.url()),
        quoted(&format!("{}/base/p%2Fq", upstream.url())),
    );
    let proxy = Proxy::start(&config).await;
    for (prefix, base) in [("", ""), ("/prefix", "/base/p%2Fq")] {
        for tail in TAILS {
            // A fragment is not sent by anybody.
            let tail = tail.trim_end_matches('#');
            let before = upstream.seen().len();
            let first = format!("GET {prefix}{tail} HTTP/1.1");
            let reply = raw_head(proxy.address(), &[&first]).await;
            if reply.status == 400 && upstream.seen().len() == before {
                assert!(
                    tail.contains(['"', '{', '^', '|']),
                    "only what is no URL at all may be refused: {first} {reply:?}"
                );
                continue;
            }
            assert_eq!(reply.status, 200, "{first}: {reply:?}");
            assert_eq!(upstream.last().target, format!("{base}{tail}"), "{first}");
        }
    }
}

#[tokio::test]
async fn the_prefix_alone_becomes_the_base() {
    let upstream = Upstream::fine().await;
    let url = upstream.url();
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/one\"\nupstream = {}\n\
         [[route]]\npath = \"/two\"\nupstream = {}\n\
         [[route]]\npath = \"/three\"\nupstream = {}\n",
        quoted(&url),
        quoted(&format!("{url}/base")),
        quoted(&format!("{url}/base/")),
    ))
    .await;
    for (sent, received) in [
        ("/one", "/"),
        ("/one?a=1", "/?a=1"),
        ("/one/", "/"),
        ("/two", "/base"),
        ("/two?a", "/base?a"),
        ("/two/", "/base/"),
        ("/three", "/base/"),
        ("/three/x", "/base/x"),
    ] {
        assert_eq!(proxy.get(sent).await.status, 200, "{sent}");
        assert_eq!(upstream.last().target, received, "{sent}");
    }
}

#[tokio::test]
async fn absolute_form_is_taken_for_this_listener_and_sent_on_in_origin_form() {
    let upstream = Upstream::fine().await;
    let config = format!("[[route]]\nupstream = {}\n", quoted(&upstream.url()));
    let proxy = Proxy::start(&config).await;
    let address = proxy.address();
    let first = format!("GET http://{address}/a%2Fb?c HTTP/1.1");
    let reply = raw_head(address, &[&first]).await;
    assert_eq!(reply.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), &*seen.target), ("GET", "/a%2Fb?c"));
    assert_eq!(seen.values("host"), [upstream.address().to_string()]);

    // Not an open proxy: the authority chooses nothing.
    let reply = raw_head(address, &["GET http://elsewhere.example/ HTTP/1.1"]).await;
    assert!([400, 421].contains(&reply.status), "{reply:?}");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_query_credential_is_added_and_all_else_stays() {
    let upstream = Upstream::fine().await;
    let config = format!(
        "[credential.key]\nkind = \"query\"\nset = {{ api_key = {} }}\n\
         [[route]]\nupstream = {}\ncredential = \"key\"\n",
        secret("ours & only"),
        quoted(&upstream.url()),
    );
    let proxy = Proxy::start(&config).await;
    for (sent, received) in [
        ("/a", "/a?api_key=ours%20%26%20only"),
        ("/a?x=%2F&&x=2&", "/a?x=%2F&&x=2&&api_key=ours%20%26%20only"),
        ("/a?api_key=callers&b&api%5Fkey=callers", "/a?b&api_key=ours%20%26%20only"),
    ] {
        let first = format!("GET {sent} HTTP/1.1");
        assert_eq!(raw_head(proxy.address(), &[&first]).await.status, 200);
        assert_eq!(upstream.last().target, received, "{sent}");
    }
}
