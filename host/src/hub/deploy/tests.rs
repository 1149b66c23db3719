//! Gateways that start at once, keys that change, files that cannot be written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ultra_hub::secret::{self, Purpose};

use super::*;
use crate::auth::{Browser, Keys, Options, Secret};
use crate::config::{Config, Environment};
use crate::hub::host_facts;
use crate::hub::testing::{Answer, serve};

fn credentials(directory: &Path) -> Credentials {
    Credentials::new(&Options {
        directory: directory.join("auth"),
        keys: Keys { file: None, keychain: false },
        browser: Browser::default(),
    })
}

/// A Hub that links whoever comes, and counts.
async fn hub() -> (Client, Arc<AtomicUsize>) {
    let linked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&linked);
    let address = serve(move |request| {
        assert_eq!(request.path, "/api/v1/gateways");
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let workspace = r#"{"id":"ws_1","name":"Work","team":"T","organization":"O"}"#;
        let text = format!(
            r#"{{"gateway_id":"gw_{number}","name":"n","workspace":{workspace},"secret":"s{number}"}}"#
        );
        Answer::json(201, &text)
    })
    .await;
    (Client::new(&format!("http://{address}")).unwrap(), linked)
}

fn config(dir: &Path, key: &str) -> config::Hub {
    let variables = [("HOME", dir.to_str().unwrap()), ("ULTRA_DEPLOY_KEY", key)];
    let file = dir.join("config.yaml");
    let explicit = file.exists().then_some(file);
    Config::load(explicit.as_deref(), &Environment::of(variables), dir).unwrap().hub
}

async fn start(dir: &Path, client: &Client, key: &str) -> Result<String, DeployError> {
    let credentials = credentials(dir);
    let auto = AutoLink {
        client,
        credentials: &credentials,
        config: &config(dir, key),
        file: dir.join("config.yaml"),
        host: host_facts(&Environment::of([]), None),
        history: History::default(),
    };
    link_by_key(auto).await.map(|link| link.gateway_id)
}

fn key() -> String {
    secret::Secret::new(Purpose::DeployKey).reveal()
}

#[tokio::test]
async fn parallel_starts_link_once() {
    let dir = tempfile::tempdir().unwrap();
    let (client, linked) = hub().await;
    let key = key();

    let all = (0..6).map(|_| start(dir.path(), &client, &key));
    let ids = futures_util::future::join_all(all).await;

    assert!(ids.iter().all(|id| matches!(id.as_deref(), Ok("gw_1"))), "{ids:?}");
    assert_eq!(linked.load(Ordering::Relaxed), 1);
    let written = config(dir.path(), &key);
    assert_eq!((written.enabled, written.gateway_id.as_deref()), (Some(true), Some("gw_1")));
    assert_eq!(start(dir.path(), &client, &key).await.unwrap(), "gw_1");
}

#[tokio::test]
async fn the_key_that_is_set_is_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _) = hub().await;
    let (first, second) = (key(), key());

    assert_eq!(start(dir.path(), &client, &first).await.unwrap(), "gw_1");
    assert_eq!(start(dir.path(), &client, &second).await.unwrap(), "gw_2");
    assert_eq!(start(dir.path(), &client, &second).await.unwrap(), "gw_2");
    // Each key has its own gateway, which is found again.
    assert_eq!(start(dir.path(), &client, &first).await.unwrap(), "gw_1");

    let of_a_person = Link {
        hub: client.url().to_string(),
        gateway_id: "gw_9".to_owned(),
        workspace_id: "ws_9".to_owned(),
        workspace: String::new(),
        name: String::new(),
        secret: Secret::new("s".to_owned()),
        linked_unix_ns: 0,
        key: None,
    };
    write_config(&dir.path().join("config.yaml"), Some(&of_a_person)).unwrap();
    credentials(dir.path()).keep_link(of_a_person).await.unwrap();
    assert_eq!(start(dir.path(), &client, &second).await.unwrap(), "gw_2");
    assert_eq!(start(dir.path(), &client, &key()).await.unwrap(), "gw_3");
    let written = config(dir.path(), &second);
    assert_eq!(written.gateway_id.as_deref(), Some("gw_3"));
    let malformed = start(dir.path(), &client, "dk_1").await;
    assert!(matches!(malformed, Err(DeployError::Malformed)), "{malformed:?}");
}

/// The Hub made a gateway, and nobody learned of it.
#[tokio::test]
async fn a_link_whose_answer_was_lost_is_asked_for_by_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let address = serve(move |request| {
        let request: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let mut seen = crate::lock(&seen);
        seen.push(request["request"].as_str().unwrap().to_owned());
        match seen.len() {
            1 => Answer::json(502, "the answer is lost on its way"),
            _ => Answer::json(403, r#"{"error": "forbidden", "message": "no"}"#),
        }
    })
    .await;
    let client = Client::new(&format!("http://{address}")).unwrap();
    let key = key();

    for _ in 0..3 {
        start(dir.path(), &client, &key).await.unwrap_err();
    }

    let asked = crate::lock(&asked).clone();
    assert_eq!(asked[0], asked[1]);
    assert_ne!(asked[1], asked[2], "a request that was answered is over");
    assert!(uuid::Uuid::parse_str(&asked[0]).is_ok());
}

#[tokio::test]
async fn a_link_is_found_again_where_the_config_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (client, linked) = hub().await;
    let key = key();
    // Flow style is left alone.
    std::fs::write(dir.path().join("config.yaml"), "hub: {sync_interval: 5m}\n").unwrap();

    assert_eq!(start(dir.path(), &client, &key).await.unwrap(), "gw_1");
    assert_eq!(start(dir.path(), &client, &key).await.unwrap(), "gw_1");

    assert_eq!(linked.load(Ordering::Relaxed), 1);
    assert_eq!(config(dir.path(), &key).gateway_id, None);
}

#[tokio::test]
async fn a_malformed_key_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (client, linked) = hub().await;
    let key = key();

    let error = start(dir.path(), &client, &key[..key.len() - 1]).await.unwrap_err();

    assert!(matches!(error, DeployError::Malformed), "{error:?}");
    assert_eq!(linked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn where_nothing_can_be_kept_the_hub_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (client, linked) = hub().await;
    std::fs::write(dir.path().join("auth"), "in the way").unwrap();

    let error = start(dir.path(), &client, &key()).await.unwrap_err();

    assert!(matches!(error, DeployError::Credentials(_)), "{error:?}");
    assert_eq!(linked.load(Ordering::Relaxed), 0);
}
