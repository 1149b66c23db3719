//! The Hub in a real browser, with a real gateway: from its first start to a call that is seen.

use std::time::Duration;

use serde_json::json;
use ultra_tests::browser::Browser;
use ultra_tests::hub::{Hub, Storage};
use ultra_tests::{Fake, Ultra};

/// A name that a browser would obey if it were let.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_real_gateway_is_seen_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let hub = Hub::start(Storage::Sqlite);
    browser.screen(1280, 900, false);

    // The first one who comes sets it up.
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

    // A deploy key is shown once.
    browser.open(&format!("{workspace}/settings/security"));
    browser.fill("main input[name=name]", "Laptops");
    browser.follow("form[action$='/keys'] button[type=submit]");
    let shown = browser.text("main code.code");
    let key = shown.iter().find(|text| text.starts_with("dk_")).unwrap().clone();
    browser.screenshot("hub-key");
    browser.open(&format!("{workspace}/settings/security"));
    assert!(browser.text("main").iter().all(|text| !text.contains(&key)));

    // A gateway with the key links itself, and its calls appear.
    let ultra = Ultra::setup()
        .upstream(&Fake::new("first"))
        .yaml(&format!("hub:\n  url: {}\n  sync_interval: 1s", hub.url("")))
        .env("ULTRA_DEPLOY_KEY", &key)
        .connect(json!({}))
        .await;
    ultra.call_tool("first__echo", json!({"text": HOSTILE})).await;
    ultra.call_tool(&format!("first__{HOSTILE}"), json!({})).await;
    seen(&mut browser, &format!("{workspace}/traces"), "echo", &ultra).await;
    browser.wait("main", HOSTILE);
    browser.screenshot("hub-traces");

    // The panel opens by a click, and by its address.
    seen(&mut browser, &format!("{workspace}/gateways"), "Online", &ultra).await;
    browser.click("tr[data-row] a.open");
    browser.wait(".panel", "not reported");
    browser.screenshot("hub-panel");
    let panel = browser.url();
    assert!(panel.contains("panel=gw_"), "{panel}");
    browser.press("Escape");
    browser.tell("wait", json!({"selector": ".panel", "hidden": true}));
    browser.open(&panel);
    browser.wait(".panel", "Clients");

    browser.screen(390, 844, true);
    for page in ["gateways", "traces", "audit", "servers"] {
        browser.open(&format!("{workspace}/{page}"));
        browser.screenshot(&format!("hub-{page}-phone"));
    }
    assert_eq!(browser.noise(), Vec::<String>::new());
    assert!(!ultra.stderr().contains(&key), "a key is in the log");
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
