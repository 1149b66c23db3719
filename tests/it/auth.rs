//! OAuth towards servers: the whole way, with a server of our own that keeps count.

pub(crate) mod commands;
mod processes;
mod real;
mod refusals;
mod url_elicitation;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use ultra::auth::{Authorizer, Server};
use ultra::config::OAuth;
use ultra_tests::oauth::{Behaviour, Call, Protected, call, client};
use ultra_tests::process;

fn server_with(protected: &Protected, oauth: OAuth) -> Server {
    Server::new(Arc::from("protected"), &protected.url(), oauth).unwrap()
}

fn server(protected: &Protected) -> Server {
    server_with(protected, OAuth::default())
}

/// A gateway whose tokens are in this test's directory.
fn authorizer(dir: &TempDir) -> Authorizer {
    client(&dir.path().join("auth"))
}

#[track_caller]
fn assert_answered(call: &Call) {
    assert!(matches!(call, Call::Answered(200, _)), "{call:?}");
}

/// Every fault of ours that the server noticed.
#[track_caller]
fn assert_faultless(protected: &Protected) {
    assert_eq!(protected.seen().faults, Vec::<String>::new());
}

fn patch(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}

/// Calls a server that behaves so, once, from a machine that knows nothing of it.
async fn first_call(behaviour: Behaviour, oauth: OAuth) -> (Protected, Call) {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(behaviour).await;
    let authorizer = authorizer(&dir);
    let call = call(&authorizer, &server_with(&protected, oauth)).await;
    authorizer.close().await;
    (protected, call)
}

#[tokio::test]
async fn first_call_signs_in_and_later_ones_remember() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let one = authorizer(&dir);

    assert_answered(&call(&one, &server(&protected)).await);
    assert!(matches!(call(&one, &server(&protected)).await, Call::Answered(200, 1)));
    let after_restart = authorizer(&dir);
    assert!(matches!(call(&after_restart, &server(&protected)).await, Call::Answered(200, 1)));

    let seen = protected.seen();
    assert_eq!((seen.sign_ins.len(), seen.registrations, seen.calls), (1, 1, 3));
    assert_faultless(&protected);
}

#[tokio::test]
async fn metadata_is_found_wherever_the_specification_lets_it_be() {
    let default = Behaviour::default;
    let root = Some("/.well-known/oauth-protected-resource");
    let openid = Some("/.well-known/openid-configuration");
    for (name, behaviour) in [
        ("unnamed", Behaviour { names_metadata: false, ..default() }),
        ("root", Behaviour { names_metadata: false, resource_metadata_at: root, ..default() }),
        ("elsewhere", Behaviour { resource_metadata_at: Some("/custom/prm.json"), ..default() }),
        ("openid", Behaviour { server_metadata_at: openid, ..default() }),
        (
            "issuer with a path",
            Behaviour {
                issuer_path: "/tenant",
                server_metadata_at: Some("/.well-known/oauth-authorization-server/tenant"),
                ..default()
            },
        ),
        (
            "openid after the path",
            Behaviour {
                issuer_path: "/tenant",
                server_metadata_at: Some("/tenant/.well-known/openid-configuration"),
                ..default()
            },
        ),
        ("issuer with a slash", Behaviour { issuer_path: "/", ..default() }),
        ("2025-03-26", Behaviour { resource_metadata_at: None, ..default() }),
        (
            "2025-03-26 without metadata",
            Behaviour { resource_metadata_at: None, server_metadata_at: None, ..default() },
        ),
    ] {
        let (protected, call) = first_call(behaviour, OAuth::default()).await;

        assert!(matches!(call, Call::Answered(200, 2)), "{name}: {call:?}");
        assert_eq!(protected.seen().faults, Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn client_of_the_config_shows_its_secret_as_the_server_wants_it() {
    for (methods, expected) in [
        (json!(["client_secret_basic"]), "client_secret_basic"),
        (json!(["client_secret_post"]), "client_secret_post"),
    ] {
        let behaviour = Behaviour {
            server_metadata: patch(json!({"token_endpoint_auth_methods_supported": methods})),
            ..Behaviour::default()
        };
        let oauth = OAuth {
            client_id: Some("mine".into()),
            client_secret: Some(ultra::auth::Secret::new("s3cret".into())),
            ..OAuth::default()
        };

        let (protected, call) = first_call(behaviour, oauth).await;

        assert_answered(&call);
        let seen = protected.seen();
        assert_eq!((seen.registrations, seen.sign_ins[0].get("client_id")), (0, "mine"));
        assert_eq!(seen.redeemed[0].get("method"), expected);
    }
}

#[tokio::test]
async fn client_metadata_document_is_named_where_it_is_read() {
    let document = "https://me.test/client.json";
    let oauth = OAuth { client_metadata_url: Some(document.into()), ..OAuth::default() };
    let behaviour = Behaviour {
        server_metadata: patch(json!({"client_id_metadata_document_supported": true})),
        ..Behaviour::default()
    };

    let (reads, call) = first_call(behaviour, oauth.clone()).await;
    let (does_not, other) = first_call(Behaviour::default(), oauth).await;

    assert_answered(&call);
    assert_answered(&other);
    assert_eq!(reads.seen().sign_ins[0].get("client_id"), document);
    assert_eq!((reads.seen().registrations, does_not.seen().registrations), (0, 1));
}

#[tokio::test]
async fn callback_is_where_the_config_says() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let oauth = OAuth { callback_port: Some(port), ..OAuth::default() };

    let (protected, call) = first_call(Behaviour::default(), oauth).await;

    assert_answered(&call);
    let expected = format!("http://127.0.0.1:{port}/callback");
    assert_eq!(protected.seen().sign_ins[0].get("redirect_uri"), expected);
}

#[tokio::test]
async fn expired_token_is_refreshed_once_for_fifty_callers() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server(&protected)).await);
    protected.revoke_access_tokens();

    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (authorizer, server) = (authorizer.clone(), server(&protected));
        calls.spawn(async move { call(&authorizer, &server).await });
    }
    let calls = calls.join_all().await;

    calls.iter().for_each(assert_answered);
    let seen = protected.seen();
    assert_eq!((seen.refreshes.len(), seen.sign_ins.len(), seen.calls), (1, 1, 51));
    assert_faultless(&protected);
}

/// It is due when a fifth of its life is left; no call ever finds it gone.
#[tokio::test]
async fn token_is_renewed_before_it_ends() {
    let behaviour = Behaviour { lifetime_seconds: Some(6), ..Behaviour::default() };
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(behaviour).await;
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server(&protected)).await);

    let renewed = process::eventually("a refresh", Duration::from_secs(30), || {
        (!protected.seen().refreshes.is_empty()).then_some(())
    });
    let calling = async {
        loop {
            let call = call(&authorizer, &server(&protected)).await;
            assert!(matches!(call, Call::Answered(200, 1)), "{call:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = renewed => {}
        () = calling => {}
    }

    assert_eq!(protected.seen().sign_ins.len(), 1);
    assert_faultless(&protected);
}

#[tokio::test]
async fn refused_refresh_leads_to_signing_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server(&protected)).await);

    protected.revoke_access_tokens();
    protected.revoke_refresh_tokens();
    assert_answered(&call(&authorizer, &server(&protected)).await);
    let after_one = protected.seen();
    protected.revoke_access_tokens();
    protected.forget_clients();
    assert_answered(&call(&authorizer, &server(&protected)).await);
    let after_two = protected.seen();

    assert_eq!((after_one.sign_ins.len(), after_one.registrations), (2, 1));
    // A server that has forgotten us is registered with again.
    assert_eq!((after_two.sign_ins.len(), after_two.registrations), (3, 2));
}

#[tokio::test]
async fn missing_scopes_are_asked_for_besides_those_there_are() {
    let behaviour = Behaviour { needs: "read", ..Behaviour::default() };
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(behaviour).await;
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server(&protected)).await);

    protected.behave(|behaviour| behaviour.needs_more = "write");
    assert_answered(&call(&authorizer, &server(&protected)).await);

    let asked: Vec<_> =
        protected.seen().sign_ins.iter().map(|asked| asked.get("scope").to_owned()).collect();
    assert_eq!(asked, ["read", "read write"]);
}

#[tokio::test]
async fn tokens_of_one_authorization_server_are_not_shown_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        Protected::start(Behaviour::default()).await,
        Protected::start(Behaviour::default()).await,
    );
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server(&old)).await);

    old.revoke_access_tokens();
    let issuer = new.origin().to_owned();
    old.behave(|behaviour| {
        behaviour.resource_metadata = patch(json!({"authorization_servers": [issuer]}));
    });
    // The new one's tokens mean nothing to this server, which is not what this is about.
    let refused = call(&authorizer, &server(&old)).await;

    assert!(matches!(refused, Call::Failed(_)), "{refused:?}");
    let (before, after) = (old.seen(), new.seen());
    assert_eq!((before.refreshes.len(), before.registrations, before.sign_ins.len()), (0, 1, 1));
    assert_eq!((after.registrations, after.sign_ins.len()), (1, 1));
}

#[tokio::test]
async fn running_gateway_notices_that_somebody_signed_out() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let (running, other) = (authorizer(&dir), authorizer(&dir));
    assert_answered(&call(&running, &server(&protected)).await);

    assert!(other.sign_out(&protected.url()).await.unwrap());
    let has_none = || async { running.bearer(&server(&protected)).await.unwrap().is_none() };
    let start = std::time::Instant::now();
    while !has_none().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited 20 s for the token to go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert!(!other.sign_out(&protected.url()).await.unwrap());
}
