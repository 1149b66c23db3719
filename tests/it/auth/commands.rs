//! `ultra auth`, as a user types it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use ultra::auth::{AuthError, Authorizer, Browser, Challenged, Keys, Options, Refused};
use ultra::config::Environment;
use ultra_tests::oauth::{Behaviour, Protected, call, client};
use ultra_tests::ultra::Setup;
use ultra_tests::{Ultra, program};

use super::{assert_answered, server};

/// What a command did: its exit code, stdout, stderr.
type Done = (Option<i32>, String, String);

/// Writes a config with the server and a key file: not the keychain of whoever runs the tests.
fn prepare(url: &str) -> (Setup, PathBuf, PathBuf) {
    let setup = Ultra::setup();
    let (config, key) = (setup.dir().join("ultra.yaml"), key_file(setup.dir()));
    let text = format!(
        "upstream:\n  it: {{url: '{url}', enabled: true}}\n  other: {{command: x, env: {{A: '${{NOT_SET}}'}}, enabled: true}}\n"
    );
    std::fs::write(&config, text).unwrap();
    (setup, config, key)
}

/// Writes a key file.
pub(crate) fn key_file(dir: &Path) -> PathBuf {
    let key = dir.join("key-file");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&key).unwrap();
    file.write_all(&[7; 32]).unwrap();
    key
}

/// Returns a command, with a browser that nobody sees.
fn command((setup, config, key): &(Setup, PathBuf, PathBuf), args: &[&str]) -> Command {
    let mut command = Command::from(setup.command());
    command.arg("--config").arg(config).args(args).stdin(Stdio::null());
    command.env("ULTRA_KEY_FILE", key).env("BROWSER", program("headless-browser"));
    command
}

async fn run(prepared: &(Setup, PathBuf, PathBuf), args: &[&str]) -> Done {
    let output = command(prepared, args).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn user_signs_in_looks_and_signs_out() {
    let protected = Protected::start(Behaviour { needs: "read", ..Behaviour::default() }).await;
    let url = protected.url();
    let prepared = prepare(&url);

    let (code, stdout, stderr) = run(&prepared, &["auth", "login", "it"]).await;
    let again = run(&prepared, &["auth", "login", "it"]).await;
    let list = run(&prepared, &["auth", "list", "--json"]).await;
    let out = run(&prepared, &["auth", "logout", "it"]).await;
    let gone = run(&prepared, &["auth", "logout", &url]).await;
    let typo = run(&prepared, &["auth", "login", "its"]).await;

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

/// Its lock ends with it, and what it noted there is nobody's any more.
#[tokio::test]
async fn killed_process_keeps_nobody_from_signing_in() {
    let protected = Protected::start(Behaviour::default()).await;
    let prepared = prepare(&protected.url());
    let mut leading = command(&prepared, &["auth", "login", "it"]);
    // It does nothing, so the sign-in goes on until the process is killed.
    leading.env("BROWSER", "true").stderr(Stdio::piped()).kill_on_drop(true);
    let mut leading = leading.spawn().unwrap();
    let mut lines = BufReader::new(leading.stderr.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let (setup, _, key) = &prepared;
    let browser = program("headless-browser");
    let authorizer = Authorizer::new(Options {
        directory: setup.dir().join("config/ultra/auth"),
        keys: Keys { file: Some(key.clone()), keychain: false },
        browser: Browser::of(&Environment::of([("BROWSER", browser.to_str().unwrap())])),
    });
    let refused = Refused { status: 401, www_authenticate: Vec::new(), token: None };

    let followed = authorizer.challenged(&server(&protected), refused).await.unwrap();
    let Challenged::SignIn(followed) = followed else { panic!("{followed:?}") };
    let url = followed.url().to_owned();
    leading.kill().await.unwrap();
    let ended = followed.done().await;
    let call = call(&authorizer, &server(&protected)).await;

    assert_eq!(line, format!("Sign in to `it` at {url}"));
    assert!(matches!(&*ended.unwrap_err(), AuthError::Elsewhere));
    assert_answered(&call);
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
