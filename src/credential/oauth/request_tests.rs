use super::*;
use crate::credential::oauth::{Endpoint, JwtAlgorithm};
use crate::permissions::Check;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use std::time::Duration;

fn value(text: &str) -> SecretRef {
    SecretRef::Value(Secret::new(text))
}

fn spec(grant: Grant, client_auth: ClientAuth) -> OauthSpec {
    OauthSpec {
        endpoint: Endpoint::Url("https://id.example.com/token".parse().unwrap()),
        issuer: None,
        grant,
        client_id: Some("gateway".to_owned()),
        client_auth,
        scope: Some("a b".to_owned()),
        parameters: vec![("audience".to_owned(), value("x")), ("tenant".to_owned(), value("7"))],
        headers: vec![(http::HeaderName::from_static("x-extra"), value("e"))],
        token_type: "Bearer".to_owned(),
        lifetime: None,
    }
}

fn key() -> AssertionSpec {
    AssertionSpec {
        key: Some(value(include_str!("../../../tests/vectors/rsa-key.pem"))),
        algorithm: JwtAlgorithm::RS256,
        key_id: None,
        issuer: Some("gateway".to_owned()),
        subject: Some("gateway".to_owned()),
        audience: None,
        lifetime: Duration::from_mins(2),
        claims: serde_json::Map::new(),
    }
}

async fn write(spec: &OauthSpec, ground: Ground<'_>) -> TokenRequest {
    let secrets = Secrets::resolve(spec.secrets(), Check::Strict).await.unwrap();
    let server = Server {
        token_url: "https://id.example.com/token".parse().unwrap(),
        mtls_token_url: Some("https://mtls.example.com/token".parse().unwrap()),
        issuer: spec.issuer.clone(),
        ..Server::default()
    };
    let clock = Clock::system();
    Writer { spec, secrets: &secrets, own: &Values::default(), clock: &clock, server: &server }
        .write(ground)
        .unwrap()
}

fn form(request: &TokenRequest) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().unwrap().into_owned()
    };
    let content = std::str::from_utf8(&request.content).unwrap();
    let pairs = content.split('&').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn parameter(request: &TokenRequest, name: &str) -> Option<String> {
    let form = form(request);
    let mut found = form.into_iter().filter(|(known, _)| known == name);
    let value = found.next().map(|(_, value)| value);
    assert!(found.next().is_none(), "'{name}' is there twice");
    value
}

/// RFC 6749, Appendix B, but for the space.
#[test]
fn forms_are_encoded_as_in_the_rfc() {
    let mut text = String::new();
    encode(&mut text, " %&+£€");
    assert_eq!(text, "%20%25%26%2B%C2%A3%E2%82%AC");
    let mut text = String::new();
    encode(&mut text, "aZ09-._*~=\n");
    assert_eq!(text, "aZ09-._*%7E%3D%0A");
}

proptest! {
    /// Whether a server reads a form or only percent signs.
    #[test]
    fn whatever_is_encoded_can_be_decoded_in_either_way(text in any::<String>()) {
        let mut encoded = String::new();
        encode(&mut encoded, &text);
        let is_safe = |byte: u8| byte.is_ascii_graphic() && !b"&=+:#".contains(&byte);
        prop_assert!(encoded.bytes().all(is_safe));
        let decoded = percent_decode_str(&encoded).decode_utf8().unwrap();
        prop_assert_eq!(decoded, text);
    }

    #[test]
    fn id_and_secret_can_be_told_apart(id in any::<String>(), secret in any::<String>()) {
        let pair = basic(&id, &secret);
        let decoded = STANDARD.decode(pair.strip_prefix("Basic ").unwrap()).unwrap();
        let decoded = String::from_utf8(decoded).unwrap();
        let (first, second) = decoded.split_once(':').unwrap();
        prop_assert_eq!(percent_decode_str(first).decode_utf8().unwrap(), id);
        prop_assert_eq!(percent_decode_str(second).decode_utf8().unwrap(), secret);
    }
}

#[test]
fn basic_encodes_id_and_secret_before_it_joins_them() {
    let decoded = |id, secret| {
        let pair = basic(id, secret);
        let decoded = STANDARD.decode(pair.strip_prefix("Basic ").unwrap()).unwrap();
        String::from_utf8(decoded).unwrap()
    };
    assert_eq!(decoded("s6BhdRkqt3", "gX1fBat3bV"), "s6BhdRkqt3:gX1fBat3bV");
    assert_eq!(
        *basic("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw").as_str(),
        *"Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3",
        "RFC 6749 §4.1.3"
    );
    assert_eq!(decoded("a:b", "c:d%"), "a%3Ab:c%3Ad%25");
    assert_eq!(decoded("å", "p w+"), "%C3%A5:p%20w%2B");
}

#[tokio::test]
async fn each_grant_has_its_parameters() {
    let none = || ClientAuth::None;
    let request = write(&spec(Grant::ClientCredentials, none()), Ground::Grant).await;
    let expected = [
        ("grant_type", "client_credentials"),
        ("scope", "a b"),
        ("audience", "x"),
        ("tenant", "7"),
        ("client_id", "gateway"),
    ];
    assert_eq!(form(&request), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.headers[CONTENT_TYPE], "application/x-www-form-urlencoded");
    assert_eq!(request.headers["x-extra"], "e");
    assert!(request.headers["x-extra"].is_sensitive());

    let grant =
        Grant::Password { username: Some(value("a&b=c")), password: Some(value("p%20+ é")) };
    let request = write(&spec(grant, none()), Ground::Grant).await;
    assert_eq!(parameter(&request, "grant_type").unwrap(), "password");
    assert_eq!(parameter(&request, "username").unwrap(), "a&b=c");
    assert_eq!(parameter(&request, "password").unwrap(), "p%20+ é");

    let request = write(&spec(Grant::RefreshToken(Some(value("r1"))), none()), Ground::Grant).await;
    assert_eq!(parameter(&request, "grant_type").unwrap(), "refresh_token");
    assert_eq!(parameter(&request, "refresh_token").unwrap(), "r1");
    assert_eq!(parameter(&request, "scope").unwrap(), "a b", "as configured");

    let grant = Grant::JwtBearer(Assertion::Given(Some(value("x.y.z"))));
    let request = write(&spec(grant, none()), Ground::Grant).await;
    assert_eq!(parameter(&request, "grant_type").unwrap(), JWT_BEARER);
    assert_eq!(parameter(&request, "assertion").unwrap(), "x.y.z");

    let exchange = Exchange {
        subject_token: Some(value("s")),
        subject_token_type: "urn:s".to_owned(),
        actor_token: Some((value("a"), "urn:a".to_owned())),
        requested_token_type: Some("urn:r".to_owned()),
    };
    let request = write(&spec(Grant::TokenExchange(exchange), none()), Ground::Grant).await;
    for (name, value) in [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", "s"),
        ("subject_token_type", "urn:s"),
        ("actor_token", "a"),
        ("actor_token_type", "urn:a"),
        ("requested_token_type", "urn:r"),
    ] {
        assert_eq!(parameter(&request, name).unwrap(), value, "{name}");
    }
}

#[tokio::test]
async fn a_refresh_asks_for_what_was_granted_and_no_more() {
    let grant = Grant::Password { username: Some(value("u")), password: Some(value("p")) };
    let request = write(&spec(grant, ClientAuth::None), Ground::Refresh(&Secret::new("r"))).await;
    assert_eq!(parameter(&request, "grant_type").unwrap(), "refresh_token");
    assert_eq!(parameter(&request, "refresh_token").unwrap(), "r");
    for name in ["scope", "username", "password"] {
        assert_eq!(parameter(&request, name), None, "{name}");
    }
    assert_eq!(parameter(&request, "tenant").unwrap(), "7");
}

#[tokio::test]
async fn each_client_shows_who_it_is_in_one_way_only() {
    let request =
        |auth| async { write(&spec(Grant::ClientCredentials, auth), Ground::Grant).await };
    let basic = request(ClientAuth::Basic(Some(value("s")))).await;
    assert_eq!(basic.headers[AUTHORIZATION], "Basic Z2F0ZXdheTpz");
    assert!(basic.headers[AUTHORIZATION].is_sensitive());
    assert_eq!(parameter(&basic, "client_id"), None);
    assert_eq!(parameter(&basic, "client_secret"), None);

    let post = request(ClientAuth::Post(Some(value("s")))).await;
    assert_eq!(parameter(&post, "client_id").unwrap(), "gateway");
    assert_eq!(parameter(&post, "client_secret").unwrap(), "s");
    assert!(!post.headers.contains_key(AUTHORIZATION));

    let signed = request(ClientAuth::PrivateKeyJwt(key())).await;
    assert_eq!(parameter(&signed, "client_assertion_type").unwrap(), CLIENT_JWT_BEARER);
    assert_eq!(parameter(&signed, "client_assertion").unwrap().split('.').count(), 3);
    assert_eq!(parameter(&signed, "client_id").unwrap(), "gateway");

    let tls = request(ClientAuth::Tls).await;
    assert_eq!(parameter(&tls, "client_id").unwrap(), "gateway");
    assert_eq!(tls.url, "https://mtls.example.com/token", "where certificates are asked for");
    assert_eq!(post.url, "https://id.example.com/token");
}

#[tokio::test]
async fn an_assertion_is_for_the_issuer_if_it_is_known() {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let audience = |spec: OauthSpec| async move {
        let request = write(&spec, Ground::Grant).await;
        let token = parameter(&request, "assertion").unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        claims["aud"].as_str().unwrap().to_owned()
    };
    let spec = spec(Grant::JwtBearer(Assertion::Signed(key())), ClientAuth::None);
    assert_eq!(audience(spec.clone()).await, "https://id.example.com/token");
    let issuer = Some("https://id.example.com".to_owned());
    assert_eq!(audience(OauthSpec { issuer, ..spec }).await, "https://id.example.com");
}

#[tokio::test]
async fn a_secret_that_would_split_a_field_is_refused() {
    let mut spec = spec(Grant::ClientCredentials, ClientAuth::None);
    spec.headers = vec![(http::HeaderName::from_static("x-extra"), value("a\r\nX: b"))];
    let secrets = Secrets::resolve(spec.secrets(), Check::Strict).await.unwrap();
    let token_url = "https://id.example.com/token".parse().unwrap();
    let server = Server { token_url, ..Server::default() };
    let clock = Clock::system();
    let writer = Writer {
        spec: &spec,
        secrets: &secrets,
        own: &Values::default(),
        clock: &clock,
        server: &server,
    };
    let error = writer.write(Ground::Grant).unwrap_err();
    assert!(error.to_string().contains("x-extra"), "{error}");
}
