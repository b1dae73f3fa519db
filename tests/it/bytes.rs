//! Every byte that a path or a query may have goes through as it is, alone and in company.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::client::{read_answer, send_http2};
use crate::harness::{Act, Faulty, Proxy, Reply, Upstream2, quoted, route};

/// What RFC 3986 allows in a segment, without the letters and digits.
const SEGMENT: &str = "-._~!$&'()*+,;=:@";

/// What is allowed in a query besides.
const QUERY: &str = "/?";

/// Sends targets one after the other over one connection, as bytes.
struct Caller {
    stream: TcpStream,
    host: String,
}

impl Caller {
    async fn new(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        Self { stream, host: proxy.address().to_string() }
    }

    async fn get(&mut self, target: &str) -> Reply {
        let get = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(get.as_bytes()).await.unwrap();
        read_answer(&mut self.stream).await
    }

    /// Sends `prefix` + `rest`; the upstream has to see `base` + `rest`.
    async fn check(&mut self, upstream: &Faulty, prefix: &str, base: &str, rest: &str) {
        let reply = self.get(&format!("{prefix}{rest}")).await;
        assert_eq!(reply.status, 200, "{prefix}{rest}: {reply:?}");
        assert_eq!(upstream.last().target(), format!("{base}{rest}"));
        assert_eq!(reply.text(), format!("{base}{rest}"), "another's answer");
    }
}

/// A route for everything, and one with a prefix and a base.
async fn start() -> (Faulty, Proxy) {
    let upstream = Faulty::always(Act::Fine).await;
    let config = format!(
        "[limits]\ntarget_bytes = \"16KiB\"\n{}[[route]]\npath = \"/prefix\"\nupstream = {}\n",
        route(&upstream.url(), "", ""),
        quoted(&format!("{}/base%2Fpath", upstream.url())),
    );
    let proxy = Proxy::start(&config).await;
    (upstream, proxy)
}

/// Both routes: what the caller writes, and what the upstream sees in its place.
const PLACES: [(&str, &str); 2] = [("", ""), ("/prefix", "/base%2Fpath")];

#[tokio::test]
async fn each_byte_that_a_path_may_have_stays_as_it_is() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    let plain = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(SEGMENT.chars());
    for byte in plain {
        for (prefix, base) in PLACES {
            caller.check(&upstream, prefix, base, &format!("/x{byte}y")).await;
            caller.check(&upstream, prefix, base, &format!("/x{byte}/y{byte}{byte}")).await;
        }
    }
}

#[tokio::test]
async fn each_byte_that_a_query_may_have_stays_as_it_is() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    let plain = ('a'..='z').chain('A'..='Z').chain('0'..='9');
    for byte in plain.chain(SEGMENT.chars()).chain(QUERY.chars()) {
        for (prefix, base) in PLACES {
            let rest = format!("/x?{byte}{byte}a={byte}&{byte}");
            caller.check(&upstream, prefix, base, &rest).await;
        }
    }
}

#[tokio::test]
async fn each_encoded_byte_stays_encoded_in_the_case_it_came_in() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    for byte in 0_u8..=255 {
        for code in [format!("%{byte:02X}"), format!("%{byte:02x}")] {
            caller.check(&upstream, "", "", &format!("/x?q={code}&{code}=1")).await;
            // An encoded NUL in a path ends it for some servers.
            if byte != 0 {
                caller.check(&upstream, "", "", &format!("/x{code}y/z")).await;
                caller.check(&upstream, "/prefix", "/base%2Fpath", &format!("/x{code}y")).await;
            }
        }
    }
}

#[tokio::test]
async fn what_other_proxies_have_changed_stays_as_it_is() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    for rest in [
        "/a%2Fb%2fc",
        "/a%2F%2Fb",
        "/%2520",
        "/a%20b+c%2B",
        "/a//b///c//",
        "/a/?",
        "/a?",
        "/a??",
        "/a?&",
        "/a?&&=&",
        "/a?=",
        "/a?x",
        "/a?x=",
        "/a?x=1&x=2&x=1&x=1",
        "/a?b=2&a=1&B=3",
        "/a?x=%2f%2F/",
        "/a?x=a;b,c",
        "/a?x=1;y=2",
        "/a?next=https://user@other.example:8443/x?y=z",
        "/a?X-Amz-Signature=AbC%3D&X-Amz-Date=20240101T000000Z",
        "/a:b/c:d@e",
        "/arn:aws:x:y:1:z%2Fw",
        "/a=b/c==",
        "/a$b/%24",
        "/~a/%7Eb/%7eb",
        "/a.b..c/...x",
        "/a,b(c)'d'*!",
        "/A/%C3%BC/%e2%82%ac",
    ] {
        for (prefix, base) in PLACES {
            caller.check(&upstream, prefix, base, rest).await;
        }
    }
}

#[tokio::test]
async fn a_query_of_eight_kibibytes_arrives_whole() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    let pairs = (0..).map(|number| format!("key{number}=va%2Fl%20ue+{number}&"));
    let query: String = pairs.take(500).collect();
    let query = &query[..8 << 10];
    for (prefix, base) in PLACES {
        caller.check(&upstream, prefix, base, &format!("/x?{query}")).await;
    }
    let reply = caller.get(&format!("/x?{query}{query}")).await;
    assert_eq!(reply.problem(414, "http_request_error"), "target");
}

/// Targets of all kinds of pieces, the same in every run.
fn mixtures(count: usize) -> impl Iterator<Item = String> {
    const PIECES: [&str; 32] = [
        "a", "Z", "0", "-", "~", "_", "/", "//", "%2F", "%2f", "%20", "+", ":", "@", "=", "$", "&",
        ";", ",", "!", "'", "(", ")", "*", "%25", "%C3%BC", "%e4", "%00", "?", "%3F", "%23", ".x",
    ];
    let mut state = 1_u64;
    let mut draw = move |below: usize| {
        // Knuth's multiplier; the upper bits are the good ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    (0..count).map(move |_| {
        let mut target = "/t".to_owned();
        for _ in 0..draw(20) {
            let piece = PIECES[draw(PIECES.len())];
            // In a path an encoded NUL is refused.
            if piece != "%00" || target.contains('?') {
                target.push_str(piece);
            }
        }
        target
    })
}

#[tokio::test]
async fn all_mixtures_stay_as_they_are() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    for (number, rest) in mixtures(1_000).enumerate() {
        let (prefix, base) = PLACES[number % PLACES.len()];
        caller.check(&upstream, prefix, base, &rest).await;
    }
}

#[tokio::test]
async fn http_2_changes_no_byte_on_either_side() {
    let (upstream, proxy) = start().await;
    for rest in mixtures(50) {
        let reply = send_http2(proxy.address(), "GET", &rest, "").await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, rest.as_str()));
        assert_eq!(upstream.last().target(), rest);
    }
    let upstream = Upstream2::echo().await;
    let config = route(&upstream.url(), "", "http2 = \"always\"\n");
    let proxy = Proxy::start(&config).await;
    let mut caller = Caller::new(&proxy).await;
    for rest in mixtures(50) {
        assert_eq!(caller.get(&rest).await.status, 200, "{rest}");
        assert_eq!(upstream.arrived().pop().unwrap().request.target, rest);
    }
}

#[tokio::test]
async fn paths_with_two_readings_are_refused_before_anything_is_sent() {
    let (upstream, proxy) = start().await;
    let mut caller = Caller::new(&proxy).await;
    for target in [
        "/x/../prefix/y",
        "/x/%2e%2e/prefix/y",
        "/x%2f..%2fprefix/y",
        "/prefix/../x",
        "/prefix/%2E%2E/x",
        "/prefix%2fx",
        "/%70refix/x",
        "/%2570refix/x",
        "//prefix/x",
        "/./prefix/x",
        "/prefix;a=1/x",
        "/x\\..\\prefix",
        "/%zz",
        "/a%",
        "/a%00b",
        "/../x",
        "/%252525252e%252525252e/x",
    ] {
        let reply = caller.get(target).await;
        assert_eq!(reply.status, 400, "{target}: {reply:?}");
        if reply.field("connection") == "close" {
            caller = Caller::new(&proxy).await;
        }
    }
    assert_eq!(upstream.received().len(), 0);
    for target in ["/x/../y", "/x/./y", "/prefix/a/../b", "/%78/y", "/x;a=1"] {
        assert_eq!(caller.get(target).await.status, 200, "{target}: it leads to one route only");
    }
}
