//! `ultra login`, `logout`, `link` and `unlink`, as a user types them, towards a Hub that plays its part.

mod fake;

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use ultra_store::{AuditEvent, AuditOutcome, Reader, Severity, SqliteOptions, SqliteStore, Store};
use ultra_tests::oauth::plain_http::exchange;
use ultra_tests::process::eventually;
use ultra_tests::session::PATIENCE;
use ultra_tests::ultra::Setup;
use ultra_tests::{Ultra, program};

use crate::auth::commands::key_file;
use fake::{FakeHub, Mood};

/// What a command did: its exit code, and what it said.
type Done = (Option<i32>, String);

/// A user of the command line, with a home directory.
struct User {
    setup: Setup,
    key: PathBuf,
}

impl User {
    fn new() -> Self {
        let setup = Ultra::setup();
        let key = key_file(setup.dir());
        Self { setup, key }
    }

    /// Somebody who has logged in.
    async fn logged_in(hub: &FakeHub) -> Self {
        let user = Self::new();
        let (code, said) = user.run(&["login", "--hub", &hub.url()]).await;
        assert_eq!(code, Some(0), "{said}");
        user
    }

    /// Somebody whose gateway is linked to `Work`.
    async fn linked(hub: &FakeHub) -> Self {
        let user = Self::logged_in(hub).await;
        let (code, said) = user.run(&["link", "-w", "work", "-n", "laptop"]).await;
        assert_eq!(code, Some(0), "{said}");
        user
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::from(self.setup.command());
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        command.env("ULTRA_KEY_FILE", &self.key).env("BROWSER", program("headless-browser"));
        command
    }

    async fn run(&self, args: &[&str]) -> Done {
        let output = self.command(args).output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.unwrap_or_else(|_| panic!("`ultra {args:?}` does not end")).unwrap();
        assert!(output.stdout.is_empty(), "only data goes to stdout");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn file(&self) -> PathBuf {
        self.setup.dir().join("config/ultra/config.yaml")
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap_or_default()
    }

    fn tokens(&self) -> PathBuf {
        self.setup.dir().join("config/ultra/auth/tokens")
    }

    fn dir(&self) -> &Path {
        self.setup.dir()
    }
}

#[tokio::test]
async fn a_person_logs_in_by_the_address_that_is_printed() {
    let hub = FakeHub::start().await;
    let user = User::new();
    let mut command = user.command(&["login", "--hub", &hub.url()]);
    let mut child = command.env_remove("BROWSER").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();

    let first = lines.next_line().await.unwrap().unwrap();
    let address = first.strip_prefix("Sign in at ").unwrap();
    // What a person's browser does.
    let answer = exchange(http::Request::get(address).body(Default::default()).unwrap()).await;
    let back = answer.unwrap().headers()["location"].to_str().unwrap().to_owned();
    let page = exchange(http::Request::get(&back).body(Default::default()).unwrap()).await;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push_str(&line);
        said.push('\n');
    }

    assert_eq!((page.unwrap().status().as_u16(), status.code()), (200, Some(0)), "{said}");
    insta::assert_snapshot!(said.replace(&hub.url(), "HUB"), @r"
    hint: no browser was opened: open the address in one on this machine
    Logged in to HUB as ada@example.com
    hint: `ultra link` links this gateway
    ");
    assert_eq!(user.config(), format!("hub:\n  url: \"{}\"\n", hub.url()));
    let kept = std::fs::read(user.tokens()).unwrap();
    assert_eq!(user.tokens().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(memchr::memmem::find(&kept, b"uhr_").is_none());
}

#[tokio::test]
async fn whoever_is_logged_in_is_told_so_and_an_ended_session_is_begun_again() {
    let hub = FakeHub::start().await;
    let user = User::logged_in(&hub).await;

    let again = user.run(&["login"]).await;
    let sign_ins = hub.state().sign_ins;
    hub.forget_sessions();
    let anew = user.run(&["login"]).await;

    let (code, said) = again;
    assert_eq!((code, sign_ins), (Some(0), 1), "{said}");
    assert_eq!(said, format!("Already logged in to {} as ada@example.com\n", hub.url()));
    assert_eq!((anew.0, hub.state().sign_ins), (Some(0), 2), "{}", anew.1);
}

/// Other tests may have it at this moment.
#[tokio::test]
async fn the_usual_port_is_asked_for_first() {
    let hub = FakeHub::start().await;
    let user = User::new();
    let redirect = async || {
        let mut command = user.command(&["login", "--hub", &hub.url()]);
        let mut child = command.env_remove("BROWSER").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        let address = url::Url::parse(first.strip_prefix("Sign in at ").unwrap()).unwrap();
        let mut pairs = address.query_pairs();
        pairs.find(|(name, _)| name == "redirect_uri").unwrap().1.into_owned()
    };

    let is_usual = async {
        while redirect().await != "http://127.0.0.1:19284/callback" {
            // As good, if it is somebody else's all the time.
        }
    };
    let found = tokio::time::timeout(PATIENCE, is_usual).await.is_ok();

    let is_taken = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 19284)).await.is_err();
    assert!(found || is_taken);
}

#[tokio::test]
async fn another_port_serves_where_the_usual_one_is_taken() {
    let hub = FakeHub::start().await;
    // Another test may have it just now, which is as good.
    let _taken = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 19284)).await;

    let user = User::logged_in(&hub).await;

    assert!(user.config().contains(&hub.url()));
}

#[tokio::test]
async fn a_login_that_cannot_be_says_why() {
    let mut hub = FakeHub::start().await;
    let user = User::new();

    hub.state().mood = Mood::Denying;
    let denied = user.run(&["login", "--hub", &hub.url()]).await;
    let open = user.run(&["login", "--hub", "http://hub.example.com"]).await;
    let other = user.run(&["login", "--hub", "ftp://x"]).await;
    hub.state().mood = Mood::Well;
    let known = User::logged_in(&hub).await;
    hub.go_away().await;
    let away = known.run(&["login"]).await;

    assert_eq!(denied.0, Some(1));
    assert!(denied.1.contains("error: the Hub refuses: access_denied\n"), "{}", denied.1);
    assert_eq!(open.0, Some(1));
    assert!(open.1.contains("only `https` may cross a network"), "{}", open.1);
    assert_eq!(other.0, Some(1));
    assert_eq!(away.0, Some(2));
    assert!(away.1.contains("cannot be reached"), "{}", away.1);
    assert_eq!(user.config(), "", "nothing is written by a login that failed");
}

fn event(number: u128) -> AuditEvent {
    AuditEvent {
        id: uuid::Uuid::from_u128(number),
        trace_id: None,
        event_type: "server_start",
        severity: Severity::Info,
        upstream: None,
        action: None,
        principal: "ultra".into(),
        session_id: None,
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns: 1,
    }
}

#[tokio::test]
async fn a_gateway_is_linked_by_name_and_says_what_it_was_before() {
    let hub = FakeHub::start().await;
    let user = User::logged_in(&hub).await;
    std::fs::write(
        user.file(),
        format!("# mine\nhub:\n  url: \"{}\" # ours\n  environment: prod\n", hub.url()),
    )
    .unwrap();
    let database = user.dir().join("config/ultra/ultra.db");
    let store = SqliteStore::open(SqliteOptions::new(&database)).unwrap();
    for number in 0..3 {
        store.audit(Box::new(event(number))).wait().await.unwrap();
    }
    let id = store.database_id().unwrap();

    let (code, said) = user.run(&["link", "-w", "Work"]).await;

    assert_eq!(code, Some(0), "{said}");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    insta::assert_snapshot!(said.replace(&host, "HOST"), @r"
    Linked to `Work` (Acme, Core) as `HOST`
    What is recorded from now on is sent there; what was recorded before stays on this machine
    hint: gateways that run now send nothing: restart your client
    ");
    let linked = hub.state().gateways.values().next().unwrap().clone();
    assert_eq!(
        user.config(),
        format!(
            "# mine\nhub:\n  url: \"{}\" # ours\n  environment: prod\n  enabled: true\n  gateway_id: {}\n  workspace_id: ws_1\n",
            hub.url(),
            linked["gateway_id"].as_str().unwrap()
        )
    );
    let request = &linked["request"];
    assert_eq!((&request["workspace"], &request["name"]), (&json!("ws_1"), &json!(host)));
    assert_eq!(request["host"]["environment"], "prod");
    assert_eq!(request["host"]["os"], std::env::consts::OS);
    let before = json!([
        {"database": id, "kind": "traces", "spans": []},
        {"database": id, "kind": "audit", "spans": [[1, 3]]},
    ]);
    assert_eq!(request["before"], before);
}

#[tokio::test]
async fn a_linked_gateway_is_not_linked_again() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;

    let same = user.run(&["link"]).await;
    let other = user.run(&["link", "-w", "Play"]).await;
    let moved = user.run(&["login", "--hub", "https://elsewhere.example"]).await;

    assert_eq!(same.0, Some(0));
    insta::assert_snapshot!(same.1, @r"
    This gateway is linked to `Work` already, as `laptop`
    hint: `ultra unlink` takes it out of there first
    ");
    assert_eq!(other.0, Some(1));
    insta::assert_snapshot!(other.1, @r"
    error: this gateway is linked to `Work` already, as `laptop`
    hint: `ultra unlink` takes it out of there first
    ");
    assert_eq!(moved.0, Some(1));
    assert!(moved.1.contains("this gateway is linked at"), "{}", moved.1);
    assert_eq!(hub.state().gateways.len(), 1);
}

#[tokio::test]
async fn a_gateway_that_the_hub_let_go_of_is_linked_anew() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    hub.state().gateways.clear();

    let (code, said) = user.run(&["link", "-w", "Play", "-n", "laptop"]).await;

    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("warning: the Hub has let go of the gateway `laptop`\n"), "{said}");
    assert!(user.config().contains("workspace_id: ws_2"));
}

/// `ultra link` is the way to see whether one is logged in.
#[tokio::test]
async fn whoever_cannot_link_is_told_what_to_do() {
    let hub = FakeHub::start().await;
    let stranger = User::new();
    let user = User::logged_in(&hub).await;

    let signed_out = stranger.run(&["link"]).await;
    let unnamed = user.run(&["link"]).await;
    let unknown = user.run(&["link", "-w", "Wrok"]).await;
    let nameless = user.run(&["link", "-w", "Work", "-n", " "]).await;
    hub.forget_sessions();
    let ended = user.run(&["link", "-w", "Work"]).await;

    assert_eq!(
        [&signed_out, &unnamed, &unknown, &nameless, &ended].map(|done| done.0),
        [Some(1); 5]
    );
    insta::assert_snapshot!(signed_out.1, @r"
    error: not logged in to https://hub.ultra.security/
    hint: `ultra login` signs in
    ");
    insta::assert_snapshot!(unnamed.1, @r"
    Workspaces that you may link gateways to:
      ws_1 Work (Acme, Core)
      ws_2 Play (Acme, Core)
    error: no workspace is named
    hint: `ultra link --workspace WORKSPACE` takes one of them, by id or name
    ");
    insta::assert_snapshot!(unknown.1, @r"
    error: no workspace `Wrok` that you may link gateways to
    hint: there are ws_1 Work (Acme, Core); ws_2 Play (Acme, Core)
    ");
    assert!(nameless.1.contains("is no name for a gateway"), "{}", nameless.1);
    insta::assert_snapshot!(ended.1, @r"
    error: the Hub refuses: said for a test: unauthorized
    hint: `ultra login` signs in again
    ");
    assert!(hub.state().gateways.is_empty());
}

#[tokio::test]
async fn a_link_that_cannot_be_written_down_is_not_made() {
    let hub = FakeHub::start().await;
    let user = User::logged_in(&hub).await;
    let flow = format!("hub: {{url: \"{}\"}}\n", hub.url());
    std::fs::write(user.file(), &flow).unwrap();

    let (code, said) = user.run(&["link", "-w", "Work"]).await;

    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be changed safely"), "{said}");
    assert!(hub.state().gateways.is_empty());
    assert_eq!(user.config(), flow);
}

#[tokio::test]
async fn unlinking_tells_the_hub_and_keeps_the_tokens() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;

    let asked = user.run(&["unlink"]).await;
    let done = user.run(&["unlink", "-f"]).await;
    let again = user.run(&["unlink", "-f"]).await;
    let linked_anew = user.run(&["link", "-w", "ws_2"]).await;

    assert_eq!(asked.0, Some(1));
    insta::assert_snapshot!(asked.1, @r"
    error: nobody can be asked: Unlink from workspace `Work`?
    hint: `--force` does it without asking
    ");
    assert_eq!((done.0, done.1.as_str()), (Some(0), "Unlinked from workspace `Work`\n"));
    assert_eq!(again.0, Some(1));
    assert!(again.1.contains("this gateway is not linked"), "{}", again.1);
    assert_eq!(linked_anew.0, Some(0), "the tokens stayed: {}", linked_anew.1);
    let state = hub.state();
    assert_eq!((state.unlinked, state.sign_ins), (1, 1));
}

#[tokio::test]
async fn unlinking_cleans_up_here_when_the_hub_is_away() {
    let mut hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    hub.go_away().await;

    let (code, said) = user.run(&["unlink", "--force"]).await;

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: could not tell the Hub"), "{said}");
    assert!(said.ends_with("Unlinked from workspace `Work`\n"), "{said}");
    let expected = format!("hub:\n  url: \"{}\"\n  enabled: false\n", hub.url());
    assert_eq!(user.config(), expected);
}

#[tokio::test]
async fn a_hub_that_says_nothing_keeps_nobody() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    hub.state().mood = Mood::Silent;

    let (code, said) = user.run(&["unlink", "-f"]).await;

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no answer within 10 s"), "{said}");
    assert!(!user.config().contains("gateway_id"));
}

#[tokio::test]
async fn logging_out_ends_the_session_and_unlinks() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;

    let asked = user.run(&["logout"]).await;
    let done = user.run(&["logout", "--force"]).await;
    let again = user.run(&["logout", "--force"]).await;
    let link = user.run(&["link", "-w", "Work"]).await;

    assert_eq!(asked.0, Some(1));
    assert!(asked.1.contains("and unlink this gateway from `Work`?"), "{}", asked.1);
    assert_eq!(done.0, Some(0), "{}", done.1);
    let said = done.1.replace(&hub.url(), "HUB");
    assert_eq!(said, "Unlinked this gateway\nLogged out of HUB\n");
    assert_eq!(again.0, Some(0));
    assert!(again.1.starts_with("Nobody is logged in"), "{}", again.1);
    assert!(link.1.contains("not logged in"), "{}", link.1);
    let state = hub.state();
    assert_eq!((state.unlinked, state.revoked.len()), (1, 1));
    assert!(state.revoked[0].starts_with("uhr_"));
}

#[tokio::test]
async fn logging_out_works_when_the_hub_is_away() {
    let mut hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    hub.go_away().await;

    let (code, said) = user.run(&["logout", "--force"]).await;
    let link = user.run(&["link"]).await;

    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("warning: could not tell the Hub").count(), 2, "{said}");
    assert!(link.1.contains("not logged in"), "{}", link.1);
    assert!(!user.config().contains("gateway_id"));
}

/// All that lets somebody in goes, and no Hub that says nothing keeps it.
#[tokio::test]
async fn logging_out_forgets_every_hub_before_it_tells_them() {
    let (silent, hub) = (FakeHub::start().await, FakeHub::start().await);
    let user = User::logged_in(&silent).await;
    let (code, said) = user.run(&["login", "--hub", &hub.url()]).await;
    assert_eq!(code, Some(0), "{said}");
    silent.state().mood = Mood::Silent;

    let mut child = user.command(&["logout", "--force"]).stderr(Stdio::piped()).spawn().unwrap();
    let is_revoked = || (hub.state().revoked.len() == 1).then_some(());
    eventually("the other Hub is told", PATIENCE, is_revoked).await;
    // Before the silent one's time is over.
    child.kill().await.unwrap();

    silent.state().mood = Mood::Well;
    for other in [&silent, &hub] {
        let url = other.url();
        std::fs::write(user.file(), format!("hub: {{url: '{url}'}}\n")).unwrap();
        let (code, said) = user.run(&["link", "-w", "Work"]).await;
        assert_eq!(code, Some(1));
        assert!(said.contains(&format!("not logged in to {url}")), "{said}");
    }
}

#[tokio::test]
async fn a_hub_that_says_nothing_does_not_hold_up_a_logout() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    hub.state().mood = Mood::Silent;

    let (code, said) = user.run(&["logout", "--force"]).await;

    assert_eq!(code, Some(0), "{said}");
    insta::assert_snapshot!(said.replace(&hub.url(), "HUB"), @r"
    warning: could not tell the Hub: no answer within 10 s
    hint: its page *Gateways* can unlink it too
    Unlinked this gateway
    warning: could not tell the Hub: no answer within 10 s
    Logged out of HUB
    ");
}

#[tokio::test]
async fn a_config_that_cannot_be_changed_is_the_last_word_of_a_logout() {
    let hub = FakeHub::start().await;
    let user = User::linked(&hub).await;
    let gateway = hub.state().gateways.values().next().unwrap()["gateway_id"].clone();
    let flow = format!("hub: {{url: '{}', enabled: true, gateway_id: {gateway}}}\n", hub.url());
    std::fs::write(user.file(), flow).unwrap();

    let (code, said) = user.run(&["logout", "--force"]).await;
    let link = user.run(&["link", "-w", "Work"]).await;

    assert_eq!(code, Some(1), "{said}");
    let (before, error) = said.split_once("error: ").unwrap();
    assert_eq!(before, format!("Logged out of {}\n", hub.url()));
    assert!(error.contains("cannot be changed safely"), "{said}");
    assert!(link.1.contains("not logged in"), "{}", link.1);
    let state = hub.state();
    assert_eq!((state.unlinked, state.revoked.len()), (1, 1));
}

#[tokio::test]
async fn nobody_links_a_gateway_that_a_deploy_key_links() {
    let hub = FakeHub::start().await;
    let user = User::logged_in(&hub).await;

    let mut command = user.command(&["link", "-w", "Work"]);
    let output = command.env("ULTRA_DEPLOY_KEY", "dk_1").output().await.unwrap();

    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @r"
    error: a deploy key is set, and links this gateway when it starts
    hint: `hub.enabled: true` lets it; without `ULTRA_DEPLOY_KEY` and `hub.deploy_key` you can link it yourself
    ");
    assert!(hub.state().gateways.is_empty());
}

#[tokio::test]
async fn a_refresh_token_is_used_once_by_processes_that_need_it_at_once() {
    let hub = FakeHub::start().await;
    // Within the time before their end in which tokens are renewed.
    hub.state().lifetime_s = 1;
    let user = User::logged_in(&hub).await;
    hub.state().lifetime_s = 900;

    let try_link = || user.run(&["link", "-w", "none"]);
    let (a, b, c, d) = tokio::join!(try_link(), try_link(), try_link(), try_link());

    for (code, said) in [a, b, c, d] {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no workspace `none`"), "{said}");
    }
    assert_eq!(hub.state().refreshed.len(), 1);
}

/// Runs a command at a terminal of its own, where somebody types these lines.
async fn type_into(user: &User, args: &[&str], lines: &str) -> (Option<i32>, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap());
    let mut command = user.command(args);
    command.stdin(terminal.unwrap()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The terminal holds what is typed ahead.
    let mut typed = std::fs::File::from(controller);
    typed.write_all(lines.as_bytes()).unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    drop(typed);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn somebody_at_a_terminal_is_asked() {
    let hub = FakeHub::start().await;
    let user = User::logged_in(&hub).await;

    let linked = type_into(&user, &["link"], "7\n2\nmy laptop\n").await;
    let kept = type_into(&user, &["unlink"], "n\n").await;
    let unlinked = type_into(&user, &["unlink"], "y\n").await;

    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(linked.0, Some(0), "{}", linked.1);
    insta::assert_snapshot!(linked.1.replace(&host, "HOST"), @r"
    Workspaces that you may link gateways to:
      1  ws_1 Work (Acme, Core)
      2  ws_2 Play (Acme, Core)
    Number, id or name [1]: warning: `7` is none of them
    Number, id or name [1]: Name of this gateway [HOST]: Linked to `Play` (Acme, Core) as `my laptop`
    What is recorded from now on is sent there
    hint: gateways that run now send nothing: restart your client
    ");
    assert_eq!(kept, (Some(0), "Unlink from workspace `Play`? [y/N] Nothing was changed\n".into()));
    let (code, said) = unlinked;
    assert_eq!(code, Some(0));
    assert_eq!(said, "Unlink from workspace `Play`? [y/N] Unlinked from workspace `Play`\n");
}
