//! A gateway and a real Hub, by the commands of a person: log in, link, send, unlink, log out. And a Hub
//! that says nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use ultra_tests::hub::{Hub, Owner, Storage, Visitor};
use ultra_tests::process::eventually;
use ultra_tests::session::PATIENCE;
use ultra_tests::ultra::Setup;
use ultra_tests::{Fake, Ultra};

use crate::auth::commands::key_file;

/// A user with a config file that names a Hub and one server.
struct User {
    setup: Setup,
    file: PathBuf,
}

impl User {
    fn new(hub: &Hub) -> Self {
        let url = hub.url("");
        let setup = Ultra::setup()
            .upstream(&Fake::new("first"))
            .yaml(&format!("hub:\n  url: {url}\n  sync_interval: 1s"));
        let key = key_file(setup.dir());
        let setup = setup.env("ULTRA_KEY_FILE", key);
        let file = setup.write_config();
        Self { setup, file }
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.setup.command();
        command.args(args).arg("--config").arg(&self.file);
        command
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = Command::from(self.command(args));
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    }

    /// Runs a command; returns its exit code and what it said.
    async fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = tokio::time::timeout(PATIENCE, self.spawn(args).wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("`ultra {args:?}` does not end")).unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// Logs in by the address that is printed, with somebody's browser.
    async fn log_in(&self, visitor: &Visitor) -> (Option<i32>, String) {
        let mut child = self.spawn(&["login"]);
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        let address = first.strip_prefix("Sign in at ").unwrap_or_else(|| panic!("{first}"));
        let page = visitor.submit(address, "/oauth/authorize", &[("decision", "allow")]).await;
        assert!(page.contains("Ultra has your answer"), "{page}");
        let output = tokio::time::timeout(PATIENCE, async {
            let mut said = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                said.push_str(&line);
                said.push('\n');
            }
            said
        });
        let said = output.await.expect("`ultra login` ends");
        (child.wait().await.unwrap().code(), said)
    }

    /// Starts the gateway with the config file as it is, and waits for its tools.
    async fn start(self) -> (Ultra, PathBuf) {
        let command = self.command(&["start"]);
        let ultra = self.setup.start_with(command);
        ultra.initialize(json!({})).await;
        ultra.ready().await;
        (ultra, self.file)
    }
}

/// Loads a page of the Hub until it has a text.
async fn seen(visitor: &Visitor, page: &str, text: &str, ultra: &Ultra) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let html = visitor.page(page).await;
        if html.contains(text) {
            return;
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "no `{text}` at {page}: {html}\nthe gateway: {}", ultra.stderr());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_person_links_a_gateway_that_sends_until_it_is_unlinked() {
    let hub = Hub::start(Storage::Sqlite);
    let owner = Owner::set_up(&hub).await;
    let user = User::new(&hub);
    let auth = user.setup.dir().join("config/ultra/auth/tokens");

    let (code, said) = user.log_in(&owner.visitor).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("Logged in to {} as ada@example.com", hub.url(""))), "{said}");
    let (code, said) = user.run(&["link", "-w", "Laptops", "-n", "laptop"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("Linked to `Laptops` (Acme, Platform) as `laptop`\n"), "{said}");
    let backup = (std::fs::read(&auth).unwrap(), std::fs::read(&user.file).unwrap());

    let (ultra, file) = user.start().await;
    ultra.call_tool("first__echo", json!({"text": "hello"})).await;
    let workspace = format!("/w/{}", owner.workspace);
    seen(&owner.visitor, &format!("{workspace}/traces"), "echo", &ultra).await;
    seen(&owner.visitor, &format!("{workspace}/audit"), "server_start", &ultra).await;
    seen(&owner.visitor, &format!("{workspace}/gateways"), "laptop", &ultra).await;

    let unlinked = ultra.run(&["unlink", "-f"]).await;
    assert!(unlinked.status.success(), "{}", String::from_utf8_lossy(&unlinked.stderr));
    eventually("the gateway's word that it is unlinked", PATIENCE, || {
        let log = ultra.stderr();
        // Whichever of the two it meets first.
        (log.contains("this gateway was unlinked") || log.contains("nothing is sent to the Hub"))
            .then_some(())
    })
    .await;
    let logged_out = ultra.run(&["logout", "--force"]).await;
    assert!(logged_out.status.success(), "{}", String::from_utf8_lossy(&logged_out.stderr));

    // What was let in does not let anybody in any more.
    let nobody = ultra.run(&["link", "-w", "Laptops"]).await;
    std::fs::write(auth, backup.0).unwrap();
    std::fs::write(file, backup.1).unwrap();
    let refused = ultra.run(&["link", "-w", "Laptops"]).await;
    assert_eq!((nobody.status.code(), refused.status.code()), (Some(1), Some(1)));
    let said = |output: std::process::Output| String::from_utf8(output.stderr).unwrap();
    assert!(said(nobody).contains("error: not logged in"));
    let refused = said(refused);
    assert!(refused.contains("the Hub has let go of the gateway `laptop`"), "{refused}");
    assert!(refused.contains("error: the Hub refuses"), "{refused}");
}

/// What listens where a Hub was. It takes connections, reads nothing and says nothing, until it is told to
/// cut them.
struct Silence {
    connections: Arc<AtomicUsize>,
    cuts: Arc<AtomicBool>,
    cut_now: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Silence {
    async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (connections, cuts) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let cut_now = Arc::new(Notify::new());
        let (count, cutting, cut) = (connections.clone(), cuts.clone(), cut_now.clone());
        let serving = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        count.fetch_add(1, Ordering::Relaxed);
                        held.extend(accepted.ok());
                    }
                    () = cut.notified() => {}
                }
                if cutting.load(Ordering::Relaxed) {
                    held.clear();
                }
            }
        });
        Self { connections, cuts, cut_now, serving }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn cut(&self) {
        self.cuts.store(true, Ordering::Relaxed);
        self.cut_now.notify_one();
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Links a gateway by a deploy key. Then nobody answers where its Hub was.
async fn linked_to_silence(rest: &str) -> (User, Silence) {
    let mut hub = Hub::start(Storage::Sqlite);
    let owner = Owner::set_up(&hub).await;
    let key = owner.deploy_key("Laptops").await;
    let user = User::new(&hub);
    let text = std::fs::read_to_string(&user.file).unwrap();
    let with = |more: &str| text.replace("  sync_interval", &format!("{more}  sync_interval"));
    std::fs::write(&user.file, with(&format!("  deploy_key: {key}\n"))).unwrap();
    let (ultra, file) = user.start().await;
    seen(&owner.visitor, &format!("/w/{}/audit", owner.workspace), "server_start", &ultra).await;
    let linked = std::fs::read_to_string(&file).unwrap();
    let address = hub.url("").trim_start_matches("http://").parse().unwrap();
    hub.kill();
    std::fs::write(&file, linked.replace("hub:\n", &format!("hub:\n{rest}"))).unwrap();
    let setup = ultra.into_setup();
    (User { setup, file }, Silence::at(address).await)
}

/// Calls a tool, and ends.
async fn use_and_end(mut ultra: Ultra) -> String {
    let echo = ultra.call_tool("first__echo", json!({"text": "hello"})).await.result();
    assert!(!echo["isError"].as_bool().unwrap_or_default(), "{echo}");
    ultra.close_input().await;
    assert!(ultra.ended().await.success());
    ultra.stderr()
}

#[tokio::test]
async fn a_hub_that_says_nothing_is_one_warning_and_stops_nothing() {
    let (user, silence) = linked_to_silence("").await;

    let (ultra, _) = user.start().await;
    eventually("a heartbeat", PATIENCE, || (silence.connections() > 0).then_some(())).await;
    ultra.call_tool("first__echo", json!({"text": "hello"})).await.result();
    silence.cut();
    let more = silence.connections() + 3;
    eventually("more heartbeats", PATIENCE, || (silence.connections() > more).then_some(())).await;

    let log = use_and_end(ultra).await;
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("takes nothing for now"), "{log}");
}

#[tokio::test]
async fn nothing_is_sent_in_offline_mode() {
    let (user, silence) = linked_to_silence("  offline_mode: true\n").await;

    let (ultra, _) = user.start().await;
    let log = use_and_end(ultra).await;

    assert_eq!(silence.connections(), 0);
    assert!(!log.contains("WARN"), "{log}");
}
