//! Devo signatures, judged by a stand-in that computes them with another implementation.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign::mock::StandIn;
use countersign::mock::devo::Options;
use serde::Deserialize;

use crate::harness::client::{Reply, chunked, request, whole};
use crate::harness::{Connection, Proxy, devo, quoted, secret, sha256};

#[derive(Deserialize)]
struct Row {
    id: String,
    api_key: String,
    api_secret: String,
    body_base64: String,
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../vectors/devo-vectors.json")).unwrap()
}

/// How a key is used: the name in the path, the credential's lines for that key and its secret, the
/// upstream's path, and the verdict of the stand-in.
struct Form {
    name: &'static str,
    lines: fn(&str, &str) -> String,
    upstream: &'static str,
    verdict: &'static str,
}

const FORMS: [Form; 5] = [
    Form {
        name: "reseller",
        lines: |key, api_secret| format!("reseller_api_key = {key}\napi_secret = {api_secret}\n"),
        upstream: "/probio",
        verdict: "signature of the reseller key is right",
    },
    Form {
        name: "domain",
        lines: |key, api_secret| format!("domain_api_key = {key}\napi_secret = {api_secret}\n"),
        upstream: "/probio",
        verdict: "signature of the domain key is right",
    },
    Form {
        name: "both-by-reseller",
        lines: |key, api_secret| {
            format!(
                "reseller_api_key = {key}\napi_secret = {api_secret}\ndomain_api_key = {}\n\
                 sign_with = \"reseller\"\n",
                secret("standin-domain-key")
            )
        },
        upstream: "/probio",
        verdict: "signature of the reseller key is right",
    },
    Form {
        name: "both-by-domain",
        lines: |key, api_secret| {
            format!(
                "domain_api_key = {key}\napi_secret = {api_secret}\nreseller_api_key = {}\n\
                 sign_with = \"domain\"\n",
                secret("standin-reseller-key")
            )
        },
        upstream: "/probio",
        verdict: "signature of the domain key is right",
    },
    Form {
        name: "query",
        lines: |key, api_secret| {
            format!("api = \"query\"\napi_key = {key}\napi_secret = {api_secret}\n")
        },
        upstream: "/search/query",
        verdict: "signature of the query key is right",
    },
];

/// A route `/FORM/INDEX` for each form of each key.
fn configuration(url: &str, keys: &[(String, String)]) -> String {
    let mut text = String::new();
    for (index, (key, api_secret)) in keys.iter().enumerate() {
        for form in &FORMS {
            let name = form.name;
            let lines = (form.lines)(&secret(key), &secret(api_secret));
            write!(
                text,
                "[credential.{name}-{index}]\nkind = \"devo-signature\"\n{lines}\n\
                 [[route]]\npath = \"/{name}/{index}\"\nupstream = {}\n\
                 credential = \"{name}-{index}\"\n",
                quoted(&format!("{url}{}", form.upstream)),
            )
            .unwrap();
        }
    }
    text
}

fn check(stand_in: &StandIn, reply: &Reply, form: &Form, content: &[u8], what: &str) {
    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    let recorded = stand_in.recorder().last().unwrap();
    assert!(recorded.accepted, "{what}: {}", recorded.verdict);
    assert_eq!(recorded.verdict, form.verdict, "{what}");
    assert_eq!(recorded.body_sha256, sha256(content), "{what}");
    assert_eq!(recorded.body_len, content.len() as u64, "{what}");
}

#[tokio::test]
async fn every_known_answer_row_is_accepted_in_every_form_and_method() {
    let rows = rows();
    assert!(rows.len() >= 14);
    let keys: Vec<(String, String)> =
        rows.iter().map(|row| (row.api_key.clone(), row.api_secret.clone())).collect();
    let stand_in = devo(Options { keys: keys.clone(), ..Options::default() }).await;
    let proxy = Proxy::start(&configuration(&stand_in.url(), &keys)).await;
    let mut connection = Connection::open(proxy.address()).await;
    for (index, row) in rows.iter().enumerate() {
        let content = Bytes::from(STANDARD.decode(&row.body_base64).unwrap());
        for form in &FORMS {
            let target = format!("/{}/{index}", form.name);
            let methods: &[&str] = match form.name {
                "query" => &["POST"],
                _ => &["POST", "PUT", "DELETE"],
            };
            for method in methods {
                let what = format!("{} {} {method}", row.id, form.name);
                let sized = request(method, &target, &[], whole(content.clone()));
                let reply = connection.try_send(sized).await.unwrap();
                check(&stand_in, &reply, form, &content, &what);

                let pieces = request(method, &target, &[], chunked(content.clone()));
                let reply = connection.try_send(pieces).await.unwrap();
                check(&stand_in, &reply, form, &content, &format!("{what} chunked"));
            }
            if form.name != "query" {
                let reply = connection.send("GET", &target, &[], "").await;
                check(&stand_in, &reply, form, b"", &format!("{} GET", row.id));
            }
        }
    }
    assert_eq!(stand_in.recorder().refused(), 0);
}

#[tokio::test]
async fn large_and_binary_content_is_signed_and_forwarded_byte_for_byte() {
    let keys = [("AB".to_owned(), "boundary-secret".to_owned())];
    let stand_in = devo(Options { keys: keys.to_vec(), ..Options::default() }).await;
    let proxy = Proxy::start(&configuration(&stand_in.url(), &keys)).await;
    for size in [1 << 20, 64 << 20] {
        // Neither text nor periodic in the size of any buffer.
        let content: Bytes = (0_u32..size)
            .map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap())
            .collect();
        for form in FORMS.iter().filter(|form| ["reseller", "query"].contains(&form.name)) {
            let target = format!("/{}/0", form.name);
            let what = format!("{} {size}", form.name);
            let reply = proxy.send("POST", &target, &[], content.clone()).await;
            check(&stand_in, &reply, form, &content, &what);
            let reply = proxy.send_chunked("POST", &target, &[], content.clone()).await;
            check(&stand_in, &reply, form, &content, &format!("{what} chunked"));
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_the_refusal_passes_through() {
    let keys = [("standin-reseller-key".to_owned(), "wrong".to_owned())];
    let stand_in = devo(Options::default()).await;
    let proxy = Proxy::start(&configuration(&stand_in.url(), &keys)).await;
    let reply = proxy.send("POST", "/reseller/0", &[], "x").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.json()["error"]["code"], 12);
    assert_eq!(reply.field("proxy-status"), "");
    assert_eq!(stand_in.recorder().count(), 1);
}

#[tokio::test]
async fn a_token_is_sent_where_the_upstream_wants_it() {
    let stand_in = devo(Options::default()).await;
    let token = secret("standin-standalone-token");
    let bearer = secret("standin-bearer-token");
    let proxy = Proxy::start(&format!(
        "[credential.plain]\nkind = \"devo-token\"\ntoken = {token}\n\
         [credential.bearer]\nkind = \"devo-token\"\ntoken = {bearer}\n\
         header = \"Authorization\"\nprefix = \"Bearer \"\n\
         [[route]]\npath = \"/plain\"\nupstream = {}\ncredential = \"plain\"\n\
         [[route]]\npath = \"/bearer\"\nupstream = {}\ncredential = \"bearer\"\n",
        quoted(&stand_in.url()),
        quoted(&stand_in.url()),
    ))
    .await;
    for (target, verdict) in [
        ("/plain/probio/domain", "standAloneToken is right"),
        ("/plain/alerts/v1/alertDefinitions", "standAloneToken is right"),
        ("/plain/delco/v1/deliveries", "standAloneToken is right"),
        ("/plain/activeboards/v2/boards", "standAloneToken is right"),
        ("/bearer/alerts/v1/alertDefinitions", "Bearer token is right"),
    ] {
        assert_eq!(proxy.get(target).await.status, 200, "{target}");
        assert_eq!(stand_in.recorder().last().unwrap().verdict, verdict);
    }
}
