//! What must not end in a token.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use ultra::auth::{AuthError, Challenged, Refused};
use ultra::config::OAuth;
use ultra_tests::oauth::{Behaviour, Call, Protected, call, windowless};

use super::{assert_answered, authorizer, first_call, patch, server, server_with};

/// Calls a server that behaves so, and returns why there is no token.
async fn refusal(behaviour: Behaviour) -> (Protected, String) {
    let (protected, call) = first_call(behaviour, OAuth::default()).await;
    let Call::Failed(error) = call else { panic!("{call:?}") };
    let text = ultra::chain(&error).replace(protected.origin(), "http://host");
    (protected, text)
}

fn server_metadata(value: serde_json::Value) -> Behaviour {
    Behaviour { server_metadata: patch(value), ..Behaviour::default() }
}

fn resource_metadata(value: serde_json::Value) -> Behaviour {
    Behaviour { resource_metadata: patch(value), ..Behaviour::default() }
}

#[tokio::test]
async fn metadata_that_does_not_hold_ends_before_anybody_signs_in() {
    for (behaviour, expected) in [
        (
            resource_metadata(json!({"resource": "http://127.0.0.1:1/mcp"})),
            "`http://host/.well-known/oauth-protected-resource/mcp` is about `http://127.0.0.1:1/mcp`, not about `http://host/mcp`",
        ),
        (
            resource_metadata(json!({"authorization_servers": []})),
            "`http://host/.well-known/oauth-protected-resource/mcp` names no authorization server",
        ),
        (
            server_metadata(json!({"issuer": "http://127.0.0.1:1"})),
            "`http://host/.well-known/oauth-authorization-server` says that its issuer is `http://127.0.0.1:1`, not `http://host`",
        ),
        (
            server_metadata(json!({"code_challenge_methods_supported": null})),
            "`http://host/.well-known/oauth-authorization-server` does not name S256 for PKCE, without which signing in is not safe",
        ),
        (
            server_metadata(json!({"code_challenge_methods_supported": ["plain"]})),
            "`http://host/.well-known/oauth-authorization-server` does not name S256 for PKCE, without which signing in is not safe",
        ),
        (
            server_metadata(json!({"registration_endpoint": null})),
            "`http://host` knows no client `ultra`: it lets no client register itself",
        ),
    ] {
        let (protected, text) = refusal(behaviour).await;

        assert_eq!(text, expected);
        assert_eq!(protected.seen().sign_ins.len(), 0, "{expected}");
    }
}

/// The server is on this machine, so this machine may be named, and nothing else that is not public.
#[tokio::test]
async fn nobody_else_is_connected_to_on_the_servers_word() {
    for (behaviour, expected) in [
        (
            resource_metadata(json!({"authorization_servers": ["https://10.0.0.1"]})),
            "`https://10.0.0.1/.well-known/oauth-authorization-server` is not connected to: it is not a public address",
        ),
        (
            resource_metadata(json!({"authorization_servers": ["http://169.254.169.254"]})),
            "`http://169.254.169.254/.well-known/oauth-authorization-server` is not connected to: only `https` is allowed there",
        ),
        (
            server_metadata(json!({"registration_endpoint": "https://169.254.169.254/latest"})),
            "`https://169.254.169.254/latest` is not connected to: it is not a public address",
        ),
        (
            server_metadata(json!({"authorization_endpoint": "file:///bin/sh"})),
            "`file:///bin/sh` is not connected to: only `https` is allowed there",
        ),
        (
            server_metadata(json!({"token_endpoint": "https://192.168.1.1/token"})),
            "`https://192.168.1.1/token` is not connected to: it is not a public address",
        ),
    ] {
        let (_protected, text) = refusal(behaviour).await;

        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn answer_of_another_issuer_is_not_redeemed() {
    let silent = server_metadata(json!({"authorization_response_iss_parameter_supported": false}));
    for (behaviour, expected) in [
        (
            Behaviour { iss: Some("https://evil.test"), ..Behaviour::default() },
            Some("it names another issuer"),
        ),
        (Behaviour { iss: None, ..Behaviour::default() }, Some("it does not name the issuer")),
        (
            Behaviour { iss: Some("https://evil.test"), ..silent.clone() },
            Some("it names another issuer"),
        ),
        (
            Behaviour {
                iss: Some("https://evil.test"),
                denies: Some("access_denied"),
                ..Behaviour::default()
            },
            Some("it names another issuer"),
        ),
        (Behaviour { iss: None, ..silent }, None),
    ] {
        let (protected, call) = first_call(behaviour, OAuth::default()).await;

        match (&call, expected) {
            (Call::Failed(error), Some(expected)) => {
                assert!(error.to_string().ends_with(expected), "{error}");
                assert_eq!(protected.seen().redeemed.len(), 0);
            }
            _ => assert_eq!(expected, None, "{call:?}"),
        }
    }
}

#[tokio::test]
async fn user_who_says_no_is_not_asked_again_by_itself() {
    let (protected, text) =
        refusal(Behaviour { denies: Some("access_denied"), ..Behaviour::default() }).await;

    assert_eq!(text, "`http://host` refuses: access_denied");
    assert_eq!(protected.seen().sign_ins.len(), 1);
}

#[tokio::test]
async fn scopes_that_are_never_granted_are_asked_for_once() {
    let behaviour = Behaviour { needs_more: "admin", grants: false, ..Behaviour::default() };

    let (protected, text) = refusal(behaviour).await;

    assert_eq!(
        text,
        "the server refuses the token it was just given: it lacks `admin`, which was asked for"
    );
    assert_eq!(protected.seen().sign_ins.len(), 2);
}

/// A client secret is known to one authorization server; a server that names another does not get it.
#[tokio::test]
async fn client_of_the_config_stays_with_its_authorization_server() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        Protected::start(Behaviour::default()).await,
        Protected::start(Behaviour::default()).await,
    );
    let oauth = OAuth {
        client_id: Some("mine".into()),
        client_secret: Some(ultra::auth::Secret::new("s3cret".into())),
        ..OAuth::default()
    };
    let authorizer = authorizer(&dir);
    assert_answered(&call(&authorizer, &server_with(&old, oauth.clone())).await);

    old.revoke_access_tokens();
    let issuer = new.origin().to_owned();
    old.behave(|behaviour| {
        behaviour.resource_metadata = patch(json!({"authorization_servers": [issuer]}));
    });
    let call = call(&authorizer, &server_with(&old, oauth)).await;

    assert!(
        matches!(&call, Call::Failed(error) if matches!(**error, AuthError::Moved { .. })),
        "{call:?}"
    );
    assert_eq!(new.seen().sign_ins.len(), 0);
}

#[tokio::test]
async fn refusal_that_is_not_about_scopes_is_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let refused = Refused { status: 403, www_authenticate: Vec::new(), token: None };

    let challenged = authorizer(&dir).challenged(&server(&protected), refused).await.unwrap();

    assert!(matches!(challenged, Challenged::Forbidden));
    assert_eq!(protected.seen().well_known.len(), 0);
}

/// Most servers want no token, and a keychain that is locked is none of their business.
#[tokio::test]
async fn tokens_that_cannot_be_read_matter_only_where_one_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let open = Protected::start(Behaviour { is_open: true, ..Behaviour::default() }).await;
    assert_answered(&call(&authorizer(&dir), &server(&protected)).await);
    let tokens = dir.path().join("auth/tokens");
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();

    let after_restart = authorizer(&dir);
    let wants_none = call(&after_restart, &server(&open)).await;
    let wants_one = call(&after_restart, &server(&protected)).await;

    assert!(matches!(wants_none, Call::Answered(200, 1)), "{wants_none:?}");
    let Call::Failed(error) = wants_one else { panic!("{wants_one:?}") };
    assert!(matches!(&*error, AuthError::Vault(_)), "{error}");
    assert_eq!(error.hint(), Some("make it yours alone: `chmod go=` and `chown`"));
    assert_eq!(protected.seen().sign_ins.len(), 1);
}

/// Whoever waits is told where to sign in, and all who come meanwhile are told the same.
#[tokio::test]
async fn without_a_browser_the_url_is_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour::default()).await;
    let (one, other) =
        (windowless(dir.path().join("a").as_path()), windowless(&dir.path().join("a")));
    let refused = || Refused { status: 401, www_authenticate: Vec::new(), token: None };

    let mut urls = Vec::new();
    for authorizer in [&one, &one, &other] {
        match authorizer.challenged(&server(&protected), refused()).await.unwrap() {
            Challenged::SignIn(sign_in) => urls.push(sign_in),
            other => panic!("{other:?}"),
        }
    }
    one.close().await;

    assert!(urls[0].url().starts_with(&format!("{}/authorize?", protected.origin())));
    assert!(urls.iter().all(|sign_in| sign_in.url() == urls[0].url()));
    let ended = urls.remove(2).done().await;
    assert!(matches!(&*ended.unwrap_err(), AuthError::Elsewhere));
    assert_eq!((protected.seen().sign_ins.len(), protected.seen().registrations), (0, 1));
}
