//! OAuth 2.0 with servers of other people's making: each grant that they have, and a proxy in front
//! of an API that looks at the tokens.

use std::time::Duration;

use countersign::credential::FetchError;

use crate::harness::authorization::AuthorizationServer;
use crate::harness::python::{Server, has, run};
use crate::harness::{Proxy, private_directory, quoted, route, secret};
use crate::oauth::{fetch, source};

const PASSWORD: &str = "p&w=1 +%";
const CLIENT_SECRET: &str = "p%20 w+:&=é%";

fn credential(place: &str, client_id: &str, more: &str) -> String {
    let client_id = quoted(client_id);
    format!("[credential.api]\nkind = \"oauth2\"\nclient_id = {client_id}\n{place}\n{more}\n")
}

fn user() -> String {
    format!("grant = \"password\"\nusername = \"robot\"\npassword = {}\n", secret(PASSWORD))
}

fn issuer(server: &Server) -> String {
    format!("issuer = {}", quoted(&server.url()))
}

/// The proxy in front of the API at a URL, through which a request passes.
async fn passes(text: &str, api: &str) -> Proxy {
    let (server, path) = api.rsplit_once('/').unwrap();
    let proxy = Proxy::start(&(text.to_owned() + &route(server, "api", ""))).await;
    let reply = proxy.get(&format!("/{path}")).await;
    assert_eq!(reply.status, 200, "{text}: {reply:?}");
    proxy
}

#[tokio::test]
async fn nanoidp_grants_what_it_can() {
    if !has("nanoidp_grants_what_it_can", "nanoidp").await {
        return;
    }
    let directory = private_directory();
    let server = Server::start("oauth_idp.py", &[directory.path().to_str().unwrap()]).await;
    let place = format!("token_url = {}", quoted(&format!("{}/token", server.url())));
    let userinfo = format!("{}/userinfo", server.url());
    let scope = "scope = [\"openid\", \"offline_access\"]\n";

    // It does not decode what comes in the field, so nothing there may need it.
    for (place, auth, known) in
        [(place, "post", "p&w=1 +%:é"), (issuer(&server), "basic", "p-w_1.x")]
    {
        let client = format!("client_auth = \"{auth}\"\nclient_secret = {}\n", secret(known));
        // A client asks for itself.
        let text = credential(&place, auth, &client);
        let fetched = fetch(&source(&text).await).await.unwrap();
        assert_eq!(fetched.lifetime, Some(Duration::from_hours(1)));

        // A user's password, then refresh tokens that are good once each.
        let text = credential(&place, auth, &(client.clone() + &user() + scope));
        let asking = source(&text).await;
        let mut refresh_tokens = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let fetched = fetch(&asking).await.unwrap();
            let token = fetched.values.text("refresh_token").unwrap();
            assert!(refresh_tokens.insert(token.to_owned()), "replaced each time");
        }
        passes(&text, &userinfo).await;

        // Such a token, handed to somebody else.
        let last = fetch(&asking).await.unwrap();
        let token = secret(last.values.text("refresh_token").unwrap());
        let more = format!("{client}grant = \"refresh_token\"\nrefresh_token = {token}\n");
        let handed_on = source(&credential(&place, auth, &more)).await;
        for _ in 0..3 {
            fetch(&handed_on).await.unwrap();
        }
        // The first one has lost its token to that, and asks anew.
        fetch(&asking).await.unwrap();

        let wrong = format!("client_auth = \"{auth}\"\nclient_secret = {}\n", secret("wrong"));
        let error = fetch(&source(&credential(&place, auth, &wrong)).await).await.unwrap_err();
        assert!(error.to_string().contains("invalid_client"), "{error}");
        let wrong = user().replace("p&w", "wrong");
        let error = fetch(&source(&credential(&place, auth, &(client + &wrong))).await).await;
        let error = error.unwrap_err();
        assert!(error.is_refusal() && error.to_string().contains("invalid_grant"), "{error}");
    }
}

#[tokio::test]
async fn authlib_grants_what_it_can() {
    if !has("authlib_grants_what_it_can", "authlib.oauth2.rfc7523, flask").await {
        return;
    }
    let directory = private_directory();
    let rsa = include_str!("../vectors/rsa-key.pem");
    let elliptic = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let elliptic = elliptic.serialize_pem();
    std::fs::write(directory.path().join("RS256.pem"), rsa).unwrap();
    std::fs::write(directory.path().join("ES256.pem"), &elliptic).unwrap();
    let server = Server::start("oauth_authlib.py", &[directory.path().to_str().unwrap()]).await;
    let (place, api) = (issuer(&server), format!("{}/data", server.url()));

    // Id and secret have everything that can be written wrongly.
    for (id, auth) in [("basic:1 %é", "basic"), ("post:1 %é", "post")] {
        let client =
            format!("client_auth = \"{auth}\"\nclient_secret = {}\n", secret(CLIENT_SECRET));
        let text = credential(&place, id, &(client.clone() + "scope = \"read\"\n"));
        passes(&text, &api).await;
        let asking = source(&credential(&place, id, &(client.clone() + &user()))).await;
        for _ in 0..4 {
            fetch(&asking).await.unwrap();
        }
        let text = client.clone() + "scope = \"everything\"\n";
        let error = fetch(&source(&credential(&place, id, &text)).await).await;
        // It grants less, or refuses; never an odd answer.
        if let Err(error) = error {
            assert!(error.to_string().contains("invalid_scope"), "{error}");
        }
        let wrong = client.replace("é%", "wrong");
        let error = fetch(&source(&credential(&place, id, &wrong)).await).await.unwrap_err();
        assert!(error.to_string().contains("invalid_client"), "{error}");
    }

    // A client without a secret.
    let text = credential(&place, "public", &user());
    let proxy = passes(&text, &api).await;
    drop(proxy);

    // A client that signs, for itself and for a user.
    for (id, key, other) in [("RS256", rsa, &*elliptic), ("ES256", &*elliptic, rsa)] {
        let signed = |key| format!("key = {}, algorithm = \"{id}\"", secret(key));
        let client = |key| format!("client_assertion = {{ {} }}\n", signed(key));
        let asking = source(&credential(&place, id, &client(key))).await;
        for _ in 0..3 {
            fetch(&asking).await.unwrap();
        }
        passes(&credential(&place, id, &client(key)), &api).await;
        let bearer = format!(
            "grant = \"jwt_bearer\"\nsigned_assertion = {{ {}, subject = \"robot\" }}\n",
            signed(key)
        );
        passes(&credential(&place, id, &bearer), &api).await;
        let nobody = bearer.replace("robot", "nobody");
        let error = fetch(&source(&credential(&place, id, &nobody)).await).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        let unfit = fetch(&source(&credential(&place, id, &client(other))).await).await;
        assert!(matches!(unfit, Err(FetchError::Request(_))), "{unfit:?}");
    }
}

#[tokio::test]
async fn pyjwt_verifies_an_assertion_of_each_algorithm() {
    if !has("pyjwt_verifies_an_assertion_of_each_algorithm", "jwt, cryptography").await {
        return;
    }
    let directory = private_directory();
    let server = AuthorizationServer::start().await;
    let rsa = || rcgen::KeyPair::from_pem(include_str!("../vectors/rsa-key.pem")).unwrap();
    let made = |kind| rcgen::KeyPair::generate_for(kind).unwrap();
    for (algorithm, key) in [
        ("RS256", rsa()),
        ("PS256", rsa()),
        ("ES256", made(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("EdDSA", made(&rcgen::PKCS_ED25519)),
    ] {
        let file = directory.path().join(algorithm);
        std::fs::write(&file, key.public_key_pem()).unwrap();
        let file = file.to_str().unwrap();
        let place = format!("token_url = {}", quoted(&server.token_url()));
        let more = format!(
            "client_assertion = {{ key = {}, algorithm = \"{algorithm}\" }}\n",
            secret(&key.serialize_pem())
        );
        fetch(&source(&credential(&place, "gateway", &more)).await).await.unwrap();
        let asked = server.last();
        let assertion = asked.get("client_assertion").unwrap();
        let arguments = [file, algorithm, &server.token_url(), assertion];
        let claims = run("jwt_verify.py", &arguments).await;
        assert_eq!(claims[0]["sub"], "gateway", "{algorithm}");
    }
}

#[tokio::test]
async fn a_token_that_authlib_has_taken_back_is_replaced() {
    if !has("a_token_that_authlib_has_taken_back_is_replaced", "authlib.oauth2.rfc7523, flask")
        .await
    {
        return;
    }
    let directory = private_directory();
    let server = Server::start("oauth_authlib.py", &[directory.path().to_str().unwrap()]).await;
    let text = credential(&issuer(&server), "public", &user());
    let proxy = Proxy::start(&(text + &route(&server.url(), "api", ""))).await;
    assert_eq!(proxy.get("/data").await.status, 200);
    assert_eq!(proxy.send("POST", "/revoke", &[], "").await.status, 200);
    assert_eq!(proxy.get("/data").await.status, 200, "with the refresh token");
}
