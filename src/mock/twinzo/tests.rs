#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, Version};

use super::{
    super::testing::{LOOPBACK, json, request, send},
    *,
};

/// A running stand-in and the credentials it takes.
struct Bench {
    stand_in: StandIn,
    options: Options,
}

impl Bench {
    async fn new() -> Self {
        let options = Options {
            accounts: vec![Account {
                login: "tag-07".to_owned(),
                branch_guid: "aaaaaaaa-0000-4000-8000-000000000007".to_owned(),
                ..Account::default()
            }],
            ..Options::default()
        };
        let stand_in = start(LOOPBACK, options.clone()).await.unwrap();
        Self { stand_in, options }
    }

    async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response<Bytes> {
        let request = request(method, target, fields, body.to_owned());
        send(self.stand_in.address(), request).await.unwrap()
    }

    async fn log_in(&self) -> String {
        let fields = [("content-type", "application/json")];
        let body = r#"{"client":"acme","login":"gateway-01","password":"demo-password"}"#;
        let response = self.send("POST", "/api/v3/Authorization/Authenticate", &fields, body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], JSON);
        json(&response)["Token"].as_str().unwrap().to_owned()
    }

    /// Sends an echo with Client, Branch and the fields given, and returns its status.
    async fn echo(&self, fields: &[(&str, &str)]) -> u16 {
        let guids = [
            ("Client", self.options.client_guid.as_str()),
            ("Branch", self.options.branch_guid.as_str()),
        ];
        let fields: Vec<_> = guids.iter().chain(fields).copied().collect();
        self.send("PUT", "/v3/echo?$a=%41", &fields, "x").await.status().as_u16()
    }

    fn verdict(&self) -> String {
        self.stand_in.recorder().last().unwrap().verdict
    }
}

#[tokio::test]
async fn a_token_is_got_used_renewed_and_refused_after_its_end() {
    let bench = Bench::new().await;
    let (switches, recorder) = (bench.stand_in.switches(), bench.stand_in.recorder());
    switches.set_token_lifetime(Duration::from_mins(1));
    let first = bench.log_in().await;
    assert_eq!(bench.echo(&[("Token", &first)]).await, 200);
    assert_eq!(bench.verdict(), "Token is right");

    switches.set_clock_offset_ms(40_000);
    let Options { client_guid, branch_guid, .. } = &bench.options;
    let signed = [("Client", client_guid.as_str()), ("Branch", branch_guid), ("Token", &first)];
    let renewal = bench.send("GET", "/v3/authorization/token", &signed, "").await;
    let second = json(&renewal)["Token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(bench.echo(&[("Token", &first)]).await, 200);

    switches.set_clock_offset_ms(60_000);
    assert_eq!(bench.echo(&[("Token", &first)]).await, 401);
    assert_eq!(bench.verdict(), "Token is unknown, expired or revoked");
    assert_eq!(bench.echo(&[("Token", &second)]).await, 200);
    assert_eq!(bench.send("GET", "/v3/authorization/token", &signed, "").await.status(), 401);

    let third = bench.log_in().await;
    assert_eq!(bench.echo(&[("Token", &third)]).await, 200);
    assert_eq!((recorder.logins(), recorder.refreshes(), recorder.token_calls()), (2, 1, 4));
    bench.stand_in.stop().await;
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    let bench = Bench::new().await;
    let (first, second) = (bench.log_in().await, bench.log_in().await);
    let revocation =
        bench.send("DELETE", "/v3/authorization/token", &[("Token", &first)], "").await;
    assert_eq!(revocation.status(), 200);
    assert_eq!(bench.echo(&[("Token", &first)]).await, 401);
    assert_eq!(bench.echo(&[("Token", &second)]).await, 200);
    assert_eq!(bench.stand_in.recorder().revocations(), 1);

    bench.stand_in.switches().revoke_all();
    assert_eq!(bench.echo(&[("Token", &second)]).await, 401);
}

#[tokio::test]
async fn renewal_can_be_switched_off() {
    let bench = Bench::new().await;
    let token = bench.log_in().await;
    bench.stand_in.switches().set_refresh_supported(false);
    let Options { client_guid, branch_guid, .. } = &bench.options;
    let signed = [("Client", client_guid.as_str()), ("Branch", branch_guid), ("Token", &token)];
    assert_eq!(bench.send("GET", "/v3/authorization/token", &signed, "").await.status(), 401);
    assert_eq!(bench.echo(&[("Token", &token)]).await, 200);
}

#[tokio::test]
async fn a_wrong_login_is_a_problem_and_no_token() {
    let bench = Bench::new().await;
    let json_field = [("content-type", "application/json")];
    for (body, status) in [
        (r#"{"Client":"acme","Login":"gateway-01","Password":"wrong"}"#, 401),
        (r#"{"Client":"other","Login":"gateway-01","Password":"demo-password"}"#, 401),
        (r#"{"Login":"gateway-01","Password":"demo-password"}"#, 401),
        (r#"{"Client":"acme","Login":"gateway-01"}"#, 400),
        ("{", 400),
        ("[]", 400),
    ] {
        let response =
            bench.send("POST", "/v3/authorization/authenticate", &json_field, body).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem = json(&response);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["instance"], "/v3/authorization/authenticate");
        assert!(problem["code"].is_string());
    }
    let plain = bench.send("POST", "/v3/authorization/authenticate", &[], "{}").await;
    assert_eq!(plain.status(), 415);
    assert_eq!(bench.stand_in.recorder().logins(), 0);
}

#[tokio::test]
async fn credential_fields_are_accepted_once_and_never_empty() {
    let bench = Bench::new().await;
    let token = bench.log_in().await;
    let (token, api_key) = (token.as_str(), bench.options.api_key.as_str());
    let client = bench.options.client_guid.as_str();
    assert_eq!(bench.echo(&[("Token", token), ("Api-Key", api_key)]).await, 200);
    assert_eq!(bench.verdict(), "Token and Api-Key are right");
    assert_eq!(bench.echo(&[("Api-Key", api_key)]).await, 200);
    for fields in [
        &[][..],
        &[("Token", token), ("Token", token)],
        &[("Token", ""), ("Api-Key", api_key)],
        &[("Token", "device-token"), ("Token", token)],
        &[("Token", "device-token"), ("Api-Key", api_key)],
        &[("Token", token), ("Api-Key", "")],
        &[("Token", token), ("Api-Key", "wrong")],
        &[("Token", token), ("mApi-Key", "any")],
        &[("Token", token), ("Client", client)],
        &[("Token", token), ("Branch", "")],
    ] {
        assert_eq!(bench.echo(fields).await, 401, "{fields:?}");
        assert!(!bench.verdict().contains(token));
    }
    assert_eq!(bench.stand_in.recorder().refused(), 10);
}

#[tokio::test]
async fn a_wrong_client_is_a_401_but_a_wrong_branch_a_200_without_success() {
    let bench = Bench::new().await;
    let token = bench.log_in().await;
    let Options { client_guid, branch_guid, .. } = &bench.options;
    let other = "ffffffff-0000-4000-8000-000000000000";

    let fields = [("Client", other), ("Branch", branch_guid.as_str()), ("Token", &token)];
    assert_eq!(bench.send("GET", "/v3/devices", &fields, "").await.status(), 401);

    let fields = [("Client", client_guid.as_str()), ("Branch", other), ("Token", &token)];
    let response = bench.send("GET", "/v3/devices", &fields, "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(json(&response)["Success"], false);
    assert!(json(&response)["Locations"].as_array().unwrap().is_empty());
    assert!(!bench.stand_in.recorder().last().unwrap().accepted);
}

#[tokio::test]
async fn each_device_has_a_login_and_a_branch_of_its_own() {
    let bench = Bench::new().await;
    let fields = [("content-type", "application/json")];
    let body = r#"{"Client":"acme","Login":"tag-07","Password":"demo-password"}"#;
    let login = json(&bench.send("POST", "/v3/authorization/authenticate", &fields, body).await);
    let branch = login["Branch"].as_str().unwrap();
    assert_ne!(branch, bench.options.branch_guid);

    let fields = [
        ("Client", login["Client"].as_str().unwrap()),
        ("Branch", branch),
        ("Token", login["Token"].as_str().unwrap()),
        ("content-type", "application/json"),
    ];
    let response = bench.send("POST", "/v3/localization", &fields, r#"[{"Timestamp":1}]"#).await;
    assert_eq!(json(&response)["Login"], "tag-07");
    let batch = bench.send("POST", "/v3/localization/batch", &fields, "[]").await;
    assert_eq!(batch.status(), 401);
    assert_eq!(bench.verdict(), "this call needs the Api-Key");
}

#[tokio::test]
async fn known_and_unknown_things_are_found_as_recorded() {
    let bench = Bench::new().await;
    let token = bench.log_in().await;
    let Options { client_guid, branch_guid, .. } = &bench.options;
    let signed = [("Client", client_guid.as_str()), ("Branch", branch_guid), ("Token", &token)];

    let devices = json(&bench.send("GET", "/v3/devices", &signed, "").await);
    assert_eq!(devices[1]["Login"], "tag-07");
    let device = json(&bench.send("GET", "/v3/devices/login/gateway-01", &signed, "").await);
    assert_eq!(device["Id"], 1);
    let sector = bench.send("GET", "/v3/sectors/1?$expand=Beacons", &signed, "").await;
    assert_eq!(json(&sector)["Id"], 1);
    let unknown = bench.send("GET", "/v3/sectors/99", &signed, "").await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(json(&unknown)["title"], "NotFoundException");
    assert_eq!(json(&unknown)["code"], "13");

    let nowhere = bench.send("GET", "/v3/sectors/abc", &signed, "").await;
    assert_eq!((nowhere.status().as_u16(), nowhere.body().len()), (404, 0));
    assert_eq!(nowhere.headers()["content-length"], "0");
    let wrong = bench.send("PUT", "/v3/devices", &signed, "").await;
    assert_eq!((wrong.status().as_u16(), wrong.body().len()), (405, 0));
    assert_eq!(wrong.headers()["allow"], "GET");
}

#[tokio::test]
async fn an_echo_and_the_record_tell_what_arrived() {
    let bench = Bench::new().await;
    let api_key = bench.options.api_key.clone();
    assert_eq!(bench.echo(&[("Api-Key", &api_key), ("X-Twice", "1"), ("X-Twice", "2")]).await, 200);
    let recorded = bench.stand_in.recorder().last().unwrap();
    assert_eq!(recorded.method, Method::PUT);
    assert_eq!(recorded.target, "/v3/echo?$a=%41");
    assert_eq!(recorded.version, Version::HTTP_11);
    assert_eq!(recorded.headers.get_all("x-twice").iter().count(), 2);
    assert_eq!((recorded.body_len, recorded.status, recorded.accepted), (1, 200, true));
    assert_eq!(
        recorded.body_sha256,
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    );
    assert!(!format!("{recorded:?}").contains(&api_key));
}

#[test]
fn no_debug_form_shows_a_secret() {
    let options = Options {
        password: "canary-password".to_owned(),
        api_key: "canary-key".to_owned(),
        accounts: vec![Account { password: "canary-other".to_owned(), ..Account::default() }],
        ..Options::default()
    };
    assert!(!format!("{options:?}").contains("canary"));
    assert!(!format!("{:?}", Twinzo::new(options)).contains("canary"));
}
