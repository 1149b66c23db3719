//! The Hub in a real browser, with real gateways: from its first start to a call that is seen. And the
//! dashboard of one machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use ultra_tests::browser::Browser;
use ultra_tests::hub::{Hub, Storage};
use ultra_tests::process::{eventually, signal};
use ultra_tests::session::PATIENCE;
use ultra_tests::{Fake, Ultra, program};

use crate::auth::commands::key_file;

/// A name that a browser would obey if it were let.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_real_gateway_is_seen_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let hub = Hub::start(Storage::Sqlite);
    browser.screen(1280, 900, false);

    let workspace = set_up(&mut browser, &hub);
    let key = deploy_key(&mut browser, &workspace);
    // A gateway with the key links itself, and its calls appear.
    let server = Ultra::setup()
        .upstream(&Fake::new("first"))
        .yaml(&format!("hub:\n  url: {}\n  sync_interval: 1s", hub.url("")))
        .env("ULTRA_DEPLOY_KEY", &key)
        .connect(json!({}))
        .await;
    server.call_tool("first__echo", json!({"text": HOSTILE})).await;
    seen(&mut browser, &format!("{workspace}/traces"), "echo", &server).await;

    // One that a person linked; its calls appear in the page that is open.
    let laptop = linked(&mut browser, &hub).await;
    browser.open(&format!("{workspace}/traces"));
    let told = "new Promise(told => new EventSource(document.body.dataset.live).onmessage = told).then(() => 1)";
    browser.tell("evaluate", json!({"script": told}));
    browser.tell("evaluate", json!({"script": "window.stayed = true"}));
    let hostile = call_hostile(&laptop).await;
    browser.wait("main", HOSTILE);
    assert_eq!(browser.tell("evaluate", json!({"script": "window.stayed"})), true);
    assert!(!hostile.contains('<'), "clients see `{hostile}`");
    browser.screenshot("hub-traces");

    panels(&mut browser, &workspace, &server).await;
    keys(&mut browser, &workspace);
    session(&mut browser, &workspace);
    skip(&mut browser, &workspace);
    pictures(&mut browser, &workspace);
    delete(&mut browser, &workspace, &laptop).await;
    assert_eq!(browser.noise(), Vec::<String>::new());
    assert!(!server.stderr().contains(&key), "a key is in the log");
}

/// The first one who comes sets it up, and signs in again with a code. Returns the address of the
/// workspace.
fn set_up(browser: &mut Browser, hub: &Hub) -> String {
    browser.open(hub.setup_url.as_deref().unwrap());
    for (field, text) in [
        ("organization", "Acme"),
        ("team", "Platform"),
        ("workspace", "Laptops"),
        ("email", "ada@example.com"),
        ("name", "Ada Lovelace"),
    ] {
        browser.fill(&format!("input[name={field}]"), text);
    }
    browser.screenshot("hub-setup");
    browser.follow("main button[type=submit]");
    browser.wait("main", "No gateway is linked");
    browser.screenshot("hub-gateways-empty");
    let page = browser.url();
    let (workspace, _) = page.rsplit_once('/').unwrap();

    // Signing in again takes a code, which is in the log without a mail server.
    browser.tell("forget", json!({}));
    browser.open(&page);
    assert!(browser.url().contains("/sign-in"), "{}", browser.url());
    browser.fill("input[name=email]", "ada@example.com");
    browser.screenshot("hub-sign-in");
    browser.follow("main button[type=submit]");
    let line = hub.logged("code");
    let (_, code) = line.rsplit_once(" is ").unwrap_or_else(|| panic!("no code in `{line}`"));
    browser.fill("input[name=code]", code);
    browser.follow("main button[type=submit]");
    browser.wait("main", "No gateway is linked");
    workspace.to_owned()
}

/// A deploy key is shown once.
fn deploy_key(browser: &mut Browser, workspace: &str) -> String {
    browser.open(&format!("{workspace}/settings/security"));
    browser.fill("main input[name=name]", "Laptops");
    browser.follow("form[action$='/keys'] button[type=submit]");
    let shown = browser.text("main code.code");
    let key = shown.iter().find(|text| text.starts_with("dk_")).unwrap().clone();
    browser.screenshot("hub-key");
    browser.open(&format!("{workspace}/settings/security"));
    assert!(browser.text("main").iter().all(|text| !text.contains(&key)));
    key
}

/// Logs in by the address that is printed, links a gateway, and starts it.
async fn linked(browser: &mut Browser, hub: &Hub) -> Ultra {
    let setup = Ultra::setup()
        .upstream(&Fake::new("second").option("--tool", HOSTILE))
        .yaml("hub:\n  sync_interval: 1s");
    let key = key_file(setup.dir());
    let setup = setup.env("ULTRA_KEY_FILE", key);
    let config = setup.write_config();
    let ultra = |args: &[&str]| {
        let mut command = Command::from(setup.command());
        command.arg("--config").arg(&config).args(args).stdin(Stdio::null());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        command
    };

    let mut login = ultra(&["login", "--hub", &hub.url("")]).spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    browser.open(first.strip_prefix("Sign in at ").unwrap());
    browser.wait("main", "Allow the Ultra command line?");
    browser.screenshot("hub-allow");
    browser.follow("main button[value=allow]");
    browser.screenshot("hub-allowed");
    let status = tokio::time::timeout(PATIENCE, login.wait()).await.expect("logged in").unwrap();
    let mut said = first;
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push_str(&line);
    }
    assert!(status.success() && said.contains("as ada@example.com"), "{said}");

    let link = ultra(&["link", "-w", "Laptops", "-n", "laptop"]).output();
    let link = tokio::time::timeout(PATIENCE, link).await.expect("linked").unwrap();
    assert!(link.status.success(), "{}", String::from_utf8_lossy(&link.stderr));

    let mut start = setup.command();
    start.args(["start", "--config"]).arg(&config);
    let gateway = setup.start_with(start);
    gateway.initialize(json!({})).await;
    gateway.ready().await;
    gateway
}

/// Calls the tool with the hostile name; returns what clients see as its name.
async fn call_hostile(gateway: &Ultra) -> String {
    let is_it = |name: &String| name.contains("img_src");
    let tools = gateway.tools_until("the hostile tool", |tools| tools.iter().any(is_it)).await;
    let name = tools.into_iter().find(is_it).unwrap();
    gateway.call_tool(&name, json!({"text": HOSTILE, "count": 2})).await;
    name
}

/// The panel opens by a click, and by its address; closing it leads back to the row.
async fn panels(browser: &mut Browser, workspace: &str, gateway: &Ultra) {
    seen(browser, &format!("{workspace}/gateways"), "Online", gateway).await;
    browser.click("tr[data-row] a.open");
    browser.wait(".panel", "not reported");
    browser.screenshot("hub-panel");
    let panel = browser.url();
    assert!(panel.contains("panel=gw_"), "{panel}");
    browser.press("Escape");
    browser.tell("wait", json!({"selector": ".panel", "hidden": true}));
    browser.open(&panel);
    browser.wait(".panel", "Clients");
    assert_eq!(focused(browser, "id"), "panel-title");
    browser.press("Escape");
    browser.tell("wait", json!({"selector": ".panel", "hidden": true}));
    assert_eq!(focused(browser, "className"), "open cut");
}

/// Rows, search and chips by keyboard, and the way back.
fn keys(browser: &mut Browser, workspace: &str) {
    browser.open(&format!("{workspace}/traces"));
    browser.press("j");
    browser.press("j");
    browser.press("k");
    assert_eq!(focused(browser, "className"), "open cut");
    browser.press("Enter");
    browser.wait(".panel", "Copy as shown");
    browser.wait(".panel .payload", "\"text\"");
    browser.screenshot("hub-payload");
    browser.tell("back", json!({}));
    browser.tell("wait", json!({"selector": ".panel", "hidden": true}));

    browser.open(&format!("{workspace}/gateways"));
    browser.press("/");
    assert_eq!(focused(browser, "id"), "search");
    for key in ["l", "a", "p"] {
        browser.press(key);
    }
    browser.wait(".chip", "lap");
    browser.wait("#status", "1 row");
    browser.tell("back", json!({}));
    browser.tell("wait", json!({"selector": ".chip", "hidden": true}));
    let field = json!({"script": "document.querySelector('#search').value"});
    assert_eq!(browser.tell("evaluate", field), "");

    browser.open(&format!("{workspace}/traces?status=success&range=24h"));
    browser.click(".chip a");
    browser.tell("wait", json!({"selector": ".chip + .chip", "hidden": true}));
    assert!(browser.url().ends_with("/traces?range=24h"), "{}", browser.url());
    let export = "fetch(document.querySelector('.export a').href).then(file => file.text())";
    let file = browser.tell("evaluate", json!({"script": export}));
    let file = file.as_str().unwrap_or_default();
    assert!(file.starts_with("\"time\",") && file.contains(HOSTILE), "{file}");
}

/// The calls of a session over time.
fn session(browser: &mut Browser, workspace: &str) {
    browser.open(&format!("{workspace}/traces"));
    browser.click("tr[data-row] a.open");
    browser.wait(".panel", "Session");
    browser.follow(".panel a[href*='/session?']");
    browser.wait(".waterfall", "at ");
    browser.screenshot("hub-session");
}

/// The link that skips the navigation loads nothing.
fn skip(browser: &mut Browser, workspace: &str) {
    for page in ["settings/members", "traces"] {
        browser.open(&format!("{workspace}/{page}"));
        let script = "window.stayed = 'here'; document.querySelector('.skip').click();
            fetch(location.href).then(() => fetch(location.href)).then(() => window.stayed)";
        assert_eq!(browser.tell("evaluate", json!({"script": script})), "here", "{page}");
        assert!(browser.url().ends_with("#main"), "{}", browser.url());
    }
}

/// Takes pictures of every page, to be looked at.
fn pictures(browser: &mut Browser, workspace: &str) {
    browser.open(&format!("{workspace}/traces"));
    browser.click("tr[data-row] a.open");
    browser.wait(".panel", "Session");
    let links = json!({"selector": ".panel a[href*='/session?']", "name": "href"});
    let session = browser.tell("value", links)[0].as_str().unwrap().to_owned();
    let (base, _) = workspace.split_once("/w/").unwrap();
    let opened = browser.url();
    let pages = [
        ("gateways", format!("{workspace}/gateways")),
        ("traces", format!("{workspace}/traces")),
        ("audit", format!("{workspace}/audit")),
        ("servers", format!("{workspace}/servers")),
        ("server", format!("{workspace}/server?name=second")),
        ("filters", format!("{workspace}/traces?status=success&range=24h")),
        ("session", format!("{base}{session}")),
        ("trace", opened),
        ("members", format!("{workspace}/settings/members")),
        ("organization", format!("{workspace}/settings/organization")),
        ("nothing", format!("{workspace}/gateways?link=archived")),
    ];
    for (size, width, height) in [("desktop", 1280, 900), ("phone", 390, 844)] {
        for (light, dark) in [("light", false), ("dark", true)] {
            browser.screen(width, height, dark);
            for (name, page) in &pages {
                browser.open(page);
                browser.screenshot(&format!("hub-{name}-{size}-{light}"));
            }
        }
    }
}

/// A workspace is deleted, and its gateways say so once and go on without the Hub.
async fn delete(browser: &mut Browser, workspace: &str, gateway: &Ultra) {
    browser.screen(1280, 900, false);
    browser.open(&format!("{workspace}/settings/organization"));
    browser.fill("form[action$='/workspaces'] input[name=name]", "Servers");
    browser.follow("form[action$='/workspaces'] button[type=submit]");
    browser.click("tbody tr:first-child summary");
    browser.fill("tbody tr:first-child input[name=confirm]", "Laptops");
    browser.click("section > details > summary");
    browser.screenshot("hub-delete");
    browser.follow("tbody tr:first-child button.danger");
    // On another one's page.
    browser.follow("nav a[href$='/settings/organization']");
    assert_eq!(browser.text("tbody td:first-child"), ["Servers"]);

    let said = "nothing is sent to the Hub any more";
    let is_said = || gateway.stderr().contains(said).then_some(());
    eventually("the gateway says so", PATIENCE, is_said).await;
    call_hostile(gateway).await;
    assert_eq!(gateway.stderr().matches(said).count(), 1);
}

/// Returns a property of what has the focus.
fn focused(browser: &mut Browser, property: &str) -> Value {
    browser.tell("evaluate", json!({"script": format!("document.activeElement.{property}")}))
}

/// Loads a page until it has this text.
async fn seen(browser: &mut Browser, page: &str, text: &str, ultra: &Ultra) {
    for _ in 0..60 {
        browser.open(page);
        if browser.text("main").iter().any(|main| main.contains(text)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (main, log) = (browser.text("main"), ultra.stderr());
    panic!("`{text}` does not appear at {page}: {main:?}; the gateway: {log}");
}

/// A program that notes what it is told to open.
fn noting_browser(dir: &Path) -> (PathBuf, PathBuf) {
    let (script, note) = (dir.join("noting-browser"), dir.join("opened"));
    let text = format!(
        "#!/bin/sh\nprintf %s \"$1\" > '{0}.part' && mv '{0}.part' '{0}'\n",
        note.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    (script, note)
}

/// Starts a dashboard over a gateway's database; returns it with the address that opens it.
async fn dashboard(ultra: &Ultra, browser: &Path) -> (Child, String) {
    let mut command = Command::new(program("ultra-dup"));
    command.args(["dashboard", "--address", "127.0.0.1:0", "--config"]);
    command.arg(ultra.dir().join("config.yaml")).env("HOME", ultra.dir()).env("BROWSER", browser);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it starts");
    let line = line.unwrap().unwrap();
    let url = line.strip_prefix("The dashboard is at ").unwrap().to_owned();
    (child, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_of_this_machine_is_opened_once() {
    let Some(mut browser) = Browser::start() else { return };
    let fake = Fake::new("first").option("--tool", HOSTILE);
    let ultra = Ultra::setup().upstream(&fake).connect(json!({})).await;
    call_hostile(&ultra).await;
    let (script, note) = noting_browser(ultra.dir());
    let (mut child, url) = dashboard(&ultra, &script).await;
    browser.screen(1280, 900, false);

    // What the system's browser is started with has no key in it, and leads there.
    let door = eventually("a browser", PATIENCE, || std::fs::read_to_string(&note).ok()).await;
    let (_, key) = url.split_once("key=").unwrap();
    assert!(door.starts_with("file:///") && !door.contains(key), "{door}");
    let file = PathBuf::from(door.strip_prefix("file://").unwrap());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    browser.open(&door);
    browser.wait("main h1", "Gateways");
    assert!(!browser.url().contains("key="), "{}", browser.url());
    browser.screenshot("dashboard-gateways");
    browser.follow("nav a[href$='/traces']");
    browser.wait("main", HOSTILE);
    browser.screenshot("dashboard-traces");
    for page in ["servers", "audit"] {
        browser.follow(&format!("nav a[href$='/{page}']"));
        browser.screenshot(&format!("dashboard-{page}"));
    }
    assert_eq!(browser.noise(), Vec::<String>::new());

    browser.tell("forget", json!({}));
    assert_eq!(browser.open(&url), 401);
    browser.wait("main", "This dashboard is closed");
    browser.screenshot("dashboard-closed");
    signal(child.id().unwrap(), rustix::process::Signal::INT);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("ended").unwrap();
    assert!(status.success(), "{status}");
    assert!(!file.exists(), "the page that led there stays");
}
