//! Links that are found late, or not at all.

use std::path::Path;
use std::time::Duration;

use ultra_hub::secret::{self, Purpose};
use ultra_store::{Mark, MemoryOptions, MemoryStore};

use super::*;
use crate::audit;
use crate::auth::{Browser, FileError, KeyError, KeychainError, Keys, Secret, VaultError};
use crate::hub::{ClientError, CredentialsError};

fn credentials(directory: &Path) -> Credentials {
    Credentials::new(&auth::Options {
        directory: directory.join("auth"),
        keys: Keys { file: None, keychain: false },
        browser: Browser::default(),
    })
}

fn gateway(store: &Arc<MemoryStore>) -> Gateway {
    let (_, upstreams) = watch::channel(Vec::new().into());
    Gateway {
        store: Arc::clone(store) as Arc<dyn Store>,
        clients: Arc::default(),
        upstreams,
        serves_others: false,
    }
}

fn config(dir: &Path, text: &str) -> Config {
    let file = dir.join("config.yaml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), &Environment::of([("HOME", "/nowhere")]), dir).unwrap()
}

fn seeker(dir: &Path, hub: config::Hub) -> Seeker {
    Seeker {
        hub,
        file: dir.join("config.yaml"),
        credentials: credentials(dir),
        host: host_facts(&Environment::of([]), None),
        database: None,
        started_unix_ns: 0,
        before: None,
        gateway: gateway(&Arc::default()),
    }
}

/// Gateways that start at once wait for the one that asks a Hub which does not answer, longer than they do
/// for a lock.
#[tokio::test(start_paused = true)]
async fn whoever_waits_in_vain_for_its_turn_to_link_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let key = secret::Secret::new(Purpose::DeployKey);
    let text = format!("hub: {{url: 'http://127.0.0.1:1', deploy_key: {}}}", key.reveal());
    let hub = config(dir.path(), &text).hub;
    let others = credentials(dir.path());
    let url = "http://127.0.0.1:1/".to_owned();
    let turn = others.lock_linking(&url).await.unwrap();
    let mut seeker = seeker(dir.path(), hub);

    let (found, ()) = tokio::join!(seeker.link(), async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let link = Link {
            hub: url,
            gateway_id: "gw_1".to_owned(),
            workspace_id: "ws_1".to_owned(),
            workspace: "Work".to_owned(),
            name: "laptop".to_owned(),
            secret: Secret::new("secret".to_owned()),
            linked_unix_ns: 7,
            key: Some(key.lookup()),
        };
        others.keep_link(link).await.unwrap();
        drop(turn);
    });

    assert_eq!(found.unwrap().gateway_id, "gw_1");
}

#[test]
fn what_is_in_use_or_silent_may_be_another_time() {
    let path = || "file".into();
    let keychain = |error| VaultError::Key { source: KeyError::Keychain(error) };
    let away = || ClientError::Busy { retry_after: None, message: String::new() };
    let cases = [
        (CredentialsError::Locked { path: path() }, true),
        (VaultError::Locked { path: path() }.into(), true),
        (keychain(KeychainError::Silent).into(), true),
        (away().into(), true),
        (keychain(KeychainError::Missing { reason: String::new() }).into(), false),
        (VaultError::WrongKey { path: path() }.into(), false),
        (VaultError::Damaged { path: path() }.into(), false),
        (FileError::Untrusted { path: path() }.into(), false),
        (CredentialsError::Ending, false),
    ];

    for (error, expected) in cases {
        let text = format!("{error:?}");
        assert_eq!(error.passes(), expected, "{text}");
        assert_eq!(DeployError::Link(LinkError::Keep(error)).passes(), expected, "{text}");
    }
    assert!(DeployError::Link(away().into()).passes() && !DeployError::Malformed.passes());
}

/// What a Hub that is gone lacks would be kept ten times as long as the rest.
#[test]
fn what_waits_is_let_go_where_nobody_sends_it() {
    let dir = tempfile::tempdir().unwrap();
    let kept = |text: &str| {
        let options = MemoryOptions { audit_events_max: 1, ..MemoryOptions::default() };
        let store = Arc::new(MemoryStore::new(options));
        store.hold_unsent(Some(Mark { trace: 1, audit_event: 1 }));
        let environment = Environment::of([("HOME", "/nowhere")]);
        let attachment =
            Attachment::begin(&config(dir.path(), text), &environment, gateway(&store));
        assert!(attachment.is_none());
        let store = store as Arc<dyn Store>;
        (0..3).for_each(|_| audit::record_gateway(&store, audit::Event::ServerStart));
        store.numbers().unwrap().audit_events
    };

    assert_eq!(kept("hub: {enabled: false}"), Some((3, 3)));
    assert_eq!(kept("{}"), Some((3, 3)));
    assert_eq!(kept("hub: {enabled: true, offline_mode: true}"), Some((1, 3)));
}
