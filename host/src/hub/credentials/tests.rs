//! Tokens and links on disk, and a renewal that must happen once.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;
use crate::auth::{Browser, Keys};
use crate::hub::testing::{Answer, serve};
use crate::lock;

fn credentials(directory: &std::path::Path) -> Credentials {
    Credentials::new(&Options {
        directory: directory.join("auth"),
        keys: Keys { file: None, keychain: false },
        browser: Browser::default(),
    })
}

fn account(client: &Client, refresh_token: &str, expires_at: u64) -> Account {
    Account {
        hub: client.url().to_string(),
        access_token: Secret::new(format!("access of {refresh_token}")),
        refresh_token: Secret::new(refresh_token.to_owned()),
        expires_at,
    }
}

fn link(gateway_id: &str, key: Option<i64>) -> Link {
    Link {
        hub: "https://hub.example/".to_owned(),
        gateway_id: gateway_id.to_owned(),
        workspace_id: "ws_1".to_owned(),
        workspace: "Work".to_owned(),
        name: "laptop".to_owned(),
        secret: Secret::new(format!("secret of {gateway_id}")),
        linked_unix_ns: 7,
        key,
    }
}

/// An authorization server that takes each refresh token once: `r0` leads to `r1`, and so on.
async fn authorization_server(lifetime_s: u64) -> (Client, Arc<Mutex<Vec<String>>>) {
    let used = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&used);
    let address = serve(move |request| {
        let form: HashMap<String, String> =
            url::form_urlencoded::parse(&request.body).into_owned().collect();
        let token = form["refresh_token"].clone();
        let mut used = lock(&seen);
        if request.path != "/oauth/token" || used.contains(&token) {
            return Answer::json(400, r#"{"error":"invalid_grant"}"#);
        }
        let next = token[1..].parse::<u32>().unwrap() + 1;
        used.push(token);
        Answer::json(
            200,
            &format!(
                r#"{{"access_token":"a{next}","refresh_token":"r{next}","token_type":"Bearer","expires_in":{lifetime_s}}}"#
            ),
        )
    })
    .await;
    (Client::new(&format!("http://{address}")).unwrap(), used)
}

/// Each has a vault of its own, as processes have.
#[tokio::test]
async fn a_refresh_token_is_used_once_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let (client, used) = authorization_server(900).await;
    credentials(dir.path()).keep_account(account(&client, "r0", 0)).await.unwrap();

    let all = (0..8).map(|_| {
        let (credentials, client) = (credentials(dir.path()), client.clone());
        tokio::spawn(async move { credentials.access_token(&client).await.unwrap() })
    });
    let tokens = futures_util::future::join_all(all).await;

    for token in tokens {
        assert_eq!(token.unwrap().expose(), "a1");
    }
    assert_eq!(*lock(&used), ["r0"]);
}

#[tokio::test]
async fn a_renewal_goes_on_when_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (client, used) = authorization_server(900).await;
    let ours = credentials(dir.path());
    ours.keep_account(account(&client, "r0", 0)).await.unwrap();

    let abandoned = ours.access_token(&client);
    let timed_out = tokio::time::timeout(Duration::ZERO, abandoned).await;
    let token = credentials(dir.path()).access_token(&client).await.unwrap();

    assert!(timed_out.is_err());
    assert_eq!(token.expose(), "a1");
    assert_eq!(*lock(&used), ["r0"]);
}

#[tokio::test]
async fn a_session_that_has_ended_is_forgotten_and_one_that_cannot_be_asked_about_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (client, used) = authorization_server(900).await;
    let ours = credentials(dir.path());
    lock(&used).push("r7".to_owned());
    ours.keep_account(account(&client, "r7", 0)).await.unwrap();

    let ended = ours.access_token(&client).await.unwrap_err();
    let signed_out = ours.access_token(&client).await.unwrap_err();
    let away = Client::new("http://127.0.0.1:1").unwrap();
    ours.keep_account(account(&away, "r0", 0)).await.unwrap();
    let silent = ours.access_token(&away).await.unwrap_err();

    assert!(matches!(ended, CredentialsError::Ended { .. }), "{ended:?}");
    assert!(matches!(signed_out, CredentialsError::SignedOut { .. }), "{signed_out:?}");
    assert!(matches!(silent, CredentialsError::Hub(ClientError::Away { .. })), "{silent:?}");
    assert!(ours.account(away.url().as_str()).await.unwrap().is_some());
}

#[tokio::test]
async fn links_are_found_by_gateway_or_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let ours = credentials(dir.path());
    ours.keep_link(link("gw_1", None)).await.unwrap();
    ours.keep_link(link("gw_2", Some(5))).await.unwrap();
    ours.keep_link(Link { name: "other".to_owned(), ..link("gw_1", None) }).await.unwrap();
    let others = credentials(dir.path());
    let hub = "https://hub.example/";

    let is_kept = |gateway: &str| others.is_kept(hub, gateway);
    assert!(is_kept("gw_1") && is_kept("gw_2") && !is_kept("gw_3"));
    let first = others.link(hub, "gw_1").await.unwrap().unwrap();
    let second = others.link_of_key(hub, 5).await.unwrap().unwrap();
    others.forget_link(&second).await.unwrap();

    assert_eq!((first.name.as_str(), first.secret.expose()), ("other", "secret of gw_1"));
    assert_eq!(second.gateway_id, "gw_2");
    assert_eq!(ours.link_of_key(hub, 5).await.unwrap(), None);
    assert_eq!(ours.link("https://else.example/", "gw_1").await.unwrap(), None);
    assert!(!format!("{first:?}").contains("secret of"));
}
