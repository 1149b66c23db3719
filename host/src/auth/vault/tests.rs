use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::auth::Secret;
use crate::auth::grant::tests::grant;

fn vault(directory: &Path) -> Vault {
    Vault::new(directory.to_owned(), Keys::default())
}

fn put(vault: &Vault, server: &str) -> Result<(), VaultError> {
    vault.update(|records| records.put_grant(grant(server)))
}

fn servers(vault: &Vault) -> Result<Vec<String>, VaultError> {
    let mut servers: Vec<_> = vault.load()?.grants.into_iter().map(|grant| grant.server).collect();
    servers.sort();
    Ok(servers)
}

#[test]
fn records_come_back_and_nothing_of_them_is_readable() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("auth");

    assert!(servers(&vault(&directory)).unwrap().is_empty());
    assert!(!directory.exists());
    put(&vault(&directory), "https://a.test/mcp").unwrap();
    put(&vault(&directory), "https://b.test/mcp").unwrap();
    put(&vault(&directory), "https://a.test/mcp").unwrap();

    assert_eq!(servers(&vault(&directory)).unwrap(), ["https://a.test/mcp", "https://b.test/mcp"]);
    assert_eq!(vault(&directory).protection().unwrap(), Some(Protection::Unprotected));
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for needle in ["access", "refresh", "a.test", "as.test", "client"] {
            let found = memchr::memmem::find(&bytes, needle.as_bytes());
            assert_eq!(found, None, "`{needle}` in {}", path.display());
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn damage_is_noticed_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    put(&vault(dir.path()), "x").unwrap();
    let whole = fs::read(&path).unwrap();

    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = servers(&vault(dir.path())).unwrap_err();
        let is_noticed = matches!(error, VaultError::Damaged { .. } | VaultError::WrongKey { .. });
        assert!(is_noticed, "byte {at}: {error}");
    }
    for length in [0, 1, MAGIC.len(), HEAD_BYTES, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(servers(&vault(dir.path())), Err(VaultError::Damaged { .. })), "{length}");
    }
    // What is damaged is not written over.
    assert!(put(&vault(dir.path()), "y").is_err());
}

#[test]
fn tokens_of_another_key_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("auth");
    put(&vault(&directory), "x").unwrap();
    let before = fs::read(directory.join("tokens")).unwrap();

    fs::remove_file(directory.join("key")).unwrap();
    let lost = vault(&directory);

    assert!(matches!(servers(&lost), Err(VaultError::WrongKey { .. })));
    assert!(matches!(put(&lost, "y"), Err(VaultError::WrongKey { .. })));
    assert_eq!(fs::read(directory.join("tokens")).unwrap(), before);
}

#[test]
fn what_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("auth");
    put(&vault(&directory), "x").unwrap();

    for name in ["tokens", "key"] {
        let path = directory.join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = servers(&vault(&directory)).unwrap_err();
        assert!(crate::chain(&error).contains("others may use it"), "{name}: {error}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(servers(&vault(&directory)).unwrap(), ["x"]);
}

/// Each vault has a key and a lock of its own to find, as each process has.
#[test]
fn changes_of_many_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let directory: Arc<Path> = dir.path().join("auth").into();

    std::thread::scope(|scope| {
        for one in 0..4 {
            let directory = Arc::clone(&directory);
            scope.spawn(move || {
                for other in 0..5 {
                    put(&vault(&directory), &format!("{one}-{other}")).unwrap();
                }
            });
        }
    });

    assert_eq!(servers(&vault(&directory)).unwrap().len(), 20);
}

#[test]
fn refresh_undoes_neither_a_sign_in_nor_a_sign_out() {
    let next = Grant { access_token: Secret::new("refreshed".into()), ..grant("a") };
    let signed_in = Grant { access_token: Secret::new("signed in".into()), ..grant("a") };
    let after = |grants: Vec<Grant>| {
        let mut records = Records { grants, registrations: Vec::new(), ..Records::default() };
        records.replace_grant(&grant("a"), next.clone());
        records
            .grants
            .iter()
            .map(|grant| grant.access_token.expose().to_owned())
            .collect::<Vec<_>>()
    };

    assert_eq!(after(vec![grant("b"), grant("a")]), ["access", "refreshed"]);
    assert_eq!(after(vec![signed_in]), ["signed in"]);
    assert!(after(Vec::new()).is_empty());
}

#[test]
fn signing_out_forgets_the_registration_with_its_last_server() {
    let registration = Registration {
        issuer: "https://as.test".into(),
        identity: crate::auth::register::Identity::public("client"),
        redirect_uri: "http://127.0.0.1:1/callback".into(),
        expires_at: None,
    };
    let mut records = Records {
        grants: vec![grant("a"), grant("b")],
        registrations: vec![registration],
        ..Records::default()
    };

    assert!(records.forget("a"));
    assert_eq!(records.registrations.len(), 1);
    assert!(records.forget("b"));
    assert!(records.registrations.is_empty());
    assert!(!records.forget("b"));
}
