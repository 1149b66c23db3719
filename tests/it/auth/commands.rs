//! `ultra auth`, as a user types it.

use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use serde_json::Value;
use ultra_tests::oauth::{Behaviour, Protected, client};
use ultra_tests::ultra::Setup;
use ultra_tests::{Ultra, program};

use super::server;

/// What a command did: its exit code, stdout, stderr.
type Done = (Option<i32>, String, String);

/// Runs a command with a browser that nobody sees, and a key of its own: not the keychain of whoever
/// runs the tests.
async fn run(setup: &Setup, config: &std::path::Path, args: &[&str]) -> Done {
    let key = setup.dir().join("key-file");
    if !key.exists() {
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&key);
        std::io::Write::write_all(&mut file.unwrap(), &[7; 32]).unwrap();
    }
    let mut command = tokio::process::Command::from(setup.command());
    command.arg("--config").arg(config).args(args).stdin(Stdio::null());
    command.env("ULTRA_KEY_FILE", key).env("BROWSER", program("headless-browser"));
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn user_signs_in_looks_and_signs_out() {
    let protected = Protected::start(Behaviour { needs: "read", ..Behaviour::default() }).await;
    let setup = Ultra::setup();
    let config = setup.dir().join("ultra.yaml");
    let url = protected.url();
    let text = format!(
        "upstream:\n  it: {{url: '{url}', enabled: true}}\n  other: {{command: x, env: {{A: '${{NOT_SET}}'}}, enabled: true}}\n"
    );
    std::fs::write(&config, text).unwrap();

    let (code, stdout, stderr) = run(&setup, &config, &["auth", "login", "it"]).await;
    let again = run(&setup, &config, &["auth", "login", "it"]).await;
    let list = run(&setup, &config, &["auth", "list", "--json"]).await;
    let out = run(&setup, &config, &["auth", "logout", "it"]).await;
    let gone = run(&setup, &config, &["auth", "logout", &url]).await;
    let typo = run(&setup, &config, &["auth", "login", "its"]).await;

    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    let sign_in = format!("Sign in to `it` at {}/authorize?", protected.origin());
    assert!(stderr.starts_with(&sign_in) && stderr.ends_with("Signed in to `it`\n"), "{stderr}");
    assert_eq!(again.2, "Somebody is signed in to `it` already\n");
    let list: Value = serde_json::from_str(&list.1).unwrap();
    assert_eq!(list["protection"], "key_file");
    assert_eq!(list["servers"][0]["signed_in"], true);
    assert_eq!(list["servers"][0]["scopes"][0], "read");
    assert_eq!((out.0, out.2.as_str()), (Some(0), "Signed out of `it`\n"));
    assert_eq!((gone.0, gone.2), (Some(0), format!("Nobody is signed in to `{url}`\n")));
    assert_eq!(typo.0, Some(1));
    assert_eq!(protected.seen().sign_ins.len(), 1);
}

#[tokio::test]
async fn server_that_asks_nobody_is_not_signed_in_to() {
    let dir = tempfile::tempdir().unwrap();
    let protected = Protected::start(Behaviour {
        resource_metadata_at: None,
        server_metadata_at: None,
        is_open: true,
        ..Behaviour::default()
    })
    .await;

    let error = client(&dir.path().join("auth")).sign_in(&server(&protected)).await.unwrap_err();

    assert_eq!(error.to_string(), format!("`{}` does not ask anybody to sign in", protected.url()));
}
