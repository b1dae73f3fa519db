//! OAuth 2.0: finding the token endpoint from the issuer.

use std::time::Duration;

use countersign::credential::FetchError;
use serde_json::json;

use crate::harness::authorization::{AuthorizationServer, Scripted};
use crate::harness::quoted;
use crate::oauth::{at, client, fetch, source, token};

fn metadata(issuer: &str, token_endpoint: &str) -> Scripted {
    Scripted::json(200, &json!({ "issuer": issuer, "token_endpoint": token_endpoint }))
}

fn found(issuer: &str) -> String {
    at(&format!("issuer = {}", quoted(issuer)), &client())
}

#[tokio::test]
async fn the_endpoint_is_where_the_metadata_of_the_issuer_say() {
    let server = AuthorizationServer::start().await;
    let issuer = format!("{}/tenant", server.url());
    server.publish(
        "/.well-known/oauth-authorization-server/tenant",
        metadata(&issuer, &format!("{}/tenant/token?v=2", server.url())),
    );
    let source = source(&found(&issuer)).await;
    for number in 1..=3 {
        assert_eq!(token(&fetch(&source).await.unwrap()), format!("token-{number}"));
        assert_eq!(server.last().seen.target, "/tenant/token?v=2");
    }
    assert_eq!(server.metadata_asked().len(), 1, "it is remembered");
}

#[tokio::test]
async fn the_place_of_openid_is_tried_as_well() {
    let thief = AuthorizationServer::start().await;
    thief.publish("/", metadata(&thief.url(), &thief.token_url()));
    for first in [
        Scripted::new(404, ""),
        Scripted::new(200, "<html>"),
        Scripted::new(200, vec![b'x'; 1 << 20]),
        metadata("https://id.example.com", "https://id.example.com/token"),
        Scripted::new(500, ""),
        Scripted::new(302, "").with("location", format!("{}/", thief.url())),
    ] {
        let server = AuthorizationServer::start().await;
        let issuer = format!("{}/tenant", server.url());
        server.publish("/.well-known/oauth-authorization-server/tenant", first);
        server.publish(
            "/tenant/.well-known/openid-configuration",
            metadata(&issuer, &server.token_url()),
        );
        fetch(&source(&found(&issuer)).await).await.unwrap();
        assert_eq!(server.count(), 1);
    }
    assert!(thief.metadata_asked().is_empty(), "no redirect is followed");
}

#[tokio::test]
async fn the_metadata_of_another_issuer_are_not_believed() {
    let (server, thief) = (AuthorizationServer::start().await, AuthorizationServer::start().await);
    let place = "/.well-known/oauth-authorization-server";
    for (issuer, endpoint) in [
        (thief.url(), thief.token_url()),
        (format!("{}/", server.url()), thief.token_url()),
        (String::new(), thief.token_url()),
        (server.url(), "http://id.example.com/token".to_owned()),
        (server.url(), "file:///token".to_owned()),
    ] {
        server.publish(place, metadata(&issuer, &endpoint));
        let error = fetch(&source(&found(&server.url())).await).await.unwrap_err();
        assert!(matches!(error, FetchError::Discovery(_)), "{issuer} {endpoint}: {error:?}");
        assert!(!error.to_string().contains(&thief.port().to_string()), "{error}");
    }
    assert_eq!((server.count(), thief.count()), (0, 0));
}

#[tokio::test]
async fn after_a_failure_the_metadata_are_asked_for_again() {
    let (server, new) = (AuthorizationServer::start().await, AuthorizationServer::start().await);
    let place = "/.well-known/oauth-authorization-server";
    server.publish(place, metadata(&server.url(), &server.token_url()));
    let source = source(&found(&server.url())).await;
    fetch(&source).await.unwrap();
    server.publish(place, metadata(&server.url(), &new.token_url()));
    server.say([Scripted::new(404, "it has moved")]);
    fetch(&source).await.unwrap_err();
    fetch(&source).await.unwrap();
    assert_eq!((server.count(), new.count()), (2, 1));
}

#[tokio::test]
async fn a_server_without_metadata_is_told_as_such() {
    let server = AuthorizationServer::start().await;
    let source = source(&found(&server.url())).await;
    let error = fetch(&source).await.unwrap_err();
    assert!(!error.is_refusal() && error.to_string().contains("404"), "{error}");
    assert_eq!(server.metadata_asked().len(), 2);
    let busy = Scripted::new(503, "").with("retry-after", "77");
    server.publish("/.well-known/oauth-authorization-server", busy);
    let error = fetch(&source).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(77)));
    assert_eq!(server.metadata_asked().len(), 3, "not at the other place as well");
    assert_eq!(server.count(), 0);
}
