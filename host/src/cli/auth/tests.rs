use super::*;
use crate::cli::output::tests::Captured;

/// 2026-11-20 10:00 UTC.
const NOW: u64 = 1_795_168_800;

const CONFIG: &str = "upstream:
  files: {command: x}
  linear: {url: https://mcp.linear.test/mcp, enabled: true}
  notion: {url: 'https://mcp.notion.test/${WHERE}'}
  github: {url: https://api.github.test/mcp, headers: {authorization: Bearer x}}
  plain: {url: http://mcp.plain.test/}
";

fn config() -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ultra.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    let environment = Environment::of([("HOME", dir.path().to_str().unwrap())]);
    Config::load(Some(&path), &environment, dir.path()).unwrap()
}

fn account(server: &str) -> Account {
    Account {
        server: server.into(),
        issuer: "https://as.test".into(),
        client_id: "client".into(),
        scopes: vec!["read".into(), "write".into()],
        signed_in_at: NOW - 3_600,
        expires_at: Some(NOW - 60),
        is_renewable: true,
    }
}

fn shown(accounts: Vec<Account>, protection: Option<Protection>, json: bool) -> String {
    let written = Captured::default();
    let now = Timestamp::from_second(NOW as i64).unwrap();
    show(&lines(&config(), accounts, now), protection, json, now, &mut written.output(None))
        .unwrap();
    written.text()
}

#[test]
fn list_says_who_is_signed_in_and_how_well_tokens_are_kept() {
    let orphan = Account { is_renewable: false, ..account("https://gone.test/mcp") };
    let accounts = vec![account("https://mcp.linear.test/mcp"), orphan];

    insta::assert_snapshot!(shown(accounts, Some(Protection::Unprotected), false), @r"
    SERVER  SIGNED IN   AT               SCOPES      URL
    linear  60 min ago  https://as.test  read write  https://mcp.linear.test/mcp
    -       expired     https://as.test  read write  https://gone.test/mcp
    warning: unprotected: the key of the tokens lies beside the tokens
    hint: there is no keychain; `ULTRA_KEY_FILE` names a key that is kept elsewhere
    ");
    insta::assert_snapshot!(shown(Vec::new(), None, false), @r"
    SERVER  SIGNED IN  AT  SCOPES  URL
    linear  no         -   -       https://mcp.linear.test/mcp
    ");
}

#[test]
fn programs_get_the_same_as_json() {
    let accounts = vec![account("https://mcp.linear.test/mcp")];

    insta::assert_snapshot!(shown(accounts, Some(Protection::Keychain), true), @r#"
    {
      "protection": "keychain",
      "servers": [
        {
          "server": "linear",
          "url": "https://mcp.linear.test/mcp",
          "signed_in": true,
          "issuer": "https://as.test",
          "client_id": "client",
          "scopes": [
            "read",
            "write"
          ],
          "signed_in_at": "2026-11-20T09:00:00Z",
          "expires_at": "2026-11-20T09:59:00Z",
          "renewable": true
        }
      ]
    }
    "#);
}

#[test]
fn servers_that_cannot_be_signed_in_to_are_told_apart() {
    let config = config();
    let message = |name: &str| {
        let error = find(name, &config).and_then(http_server).unwrap_err();
        let cause = &error.causes[0];
        format!("{}, {}", cause.message, cause.hint.as_deref().unwrap_or_default())
    };

    insta::assert_snapshot!(
        ["files", "notion", "github", "plain", "linera", "x"].map(message).join("\n"),
        @r"
    `files` runs on this machine, such servers take their credentials from `env`
    `notion` has variables that are not replaced, set them, and make sure that the server is enabled
    `github` has an `Authorization` header, take it out of `headers` to sign in instead
    `plain` cannot be signed in to: tokens travel over `https` only, use its `https://` URL
    no upstream `linera` in the config, did you mean `linear`?
    no upstream `x` in the config, `ultra servers` lists them
    "
    );
    assert!(http_server(find("linear", &config).unwrap()).is_ok());
}
