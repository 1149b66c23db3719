//! Clients that can open URLs are asked to have their user sign in; others get an error that says where.

use serde_json::{Value, json};
use tokio::process::Command;
use ultra_tests::oauth::{Behaviour, Protected};
use ultra_tests::session::Message;
use ultra_tests::{Ultra, program};

use super::commands::key_file;

const TOOL: &str = "it__whoami";

/// Starts a gateway that opens no browser, in front of a server that lets everybody in.
async fn open_server() -> (Protected, Ultra) {
    let behaviour = Behaviour { is_open: true, ..Behaviour::default() };
    let protected = Protected::start(behaviour).await;
    let upstreams = json!({"it": {"url": protected.url(), "enabled": true}});
    let setup = Ultra::setup().yaml(&format!("upstream: {upstreams}"));
    let key = key_file(setup.dir());
    (protected, setup.env("ULTRA_KEY_FILE", key).env("BROWSER", "true").start())
}

async fn connect(capabilities: Value) -> (Protected, Ultra) {
    let (protected, ultra) = open_server().await;
    ultra.initialize(capabilities).await;
    ultra.tools_until("its tool", |tools| tools.iter().any(|tool| tool == TOOL)).await;
    (protected, ultra)
}

fn close(protected: &Protected) {
    protected.behave(|behaviour| behaviour.is_open = false);
}

/// Does what a client's user does with the URL.
async fn open(url: &Value) {
    let url = url.as_str().expect("a URL");
    let browsed = Command::new(program("headless-browser")).arg(url).status().await.unwrap();
    assert!(browsed.success(), "`{url}`");
}

fn opens_urls() -> Value {
    json!({"elicitation": {"url": {}}})
}

/// Params of a call of the modern era.
fn modern(answers: &Value) -> Value {
    let mut params = json!({"name": TOOL, "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": opens_urls(),
    }});
    if !answers.is_null() {
        params["inputResponses"] = answers.clone();
    }
    params
}

/// Connects a client of the modern era, whose call is answered.
async fn connect_modern() -> (Protected, Ultra) {
    let (protected, ultra) = open_server().await;
    let answered = ultra.request("tools/call", modern(&Value::Null)).await;
    assert_answered(&answered);
    (protected, ultra)
}

#[track_caller]
fn assert_answered(message: &Message) {
    assert_eq!(message.result()["content"][0]["text"], "somebody", "{}", message.raw);
}

/// Returns the key and the URL of the question that a result asks.
#[track_caller]
fn question(message: &Message) -> (String, Value) {
    let result = message.result();
    assert_eq!(result["resultType"], "input_required", "{}", message.raw);
    let (key, question) = result["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["mode"], "url");
    assert!(question["params"]["message"].as_str().unwrap().contains("`it`"));
    (key.clone(), question["params"]["url"].clone())
}

#[tokio::test]
async fn client_with_a_handshake_is_told_by_the_error_for_it() {
    let (protected, ultra) = connect(opens_urls()).await;
    close(&protected);

    let first = ultra.call_tool(TOOL, json!({})).await;
    let second = ultra.call_tool(TOOL, json!({})).await;
    let data = &first.error()["data"];
    let asked = &data["elicitations"][0];
    open(&asked["url"]).await;
    let told = ultra.notification("notifications/elicitation/complete").await;
    let signed_in = ultra.call_tool(TOOL, json!({})).await;

    assert_eq!(first.error_code(), -32042);
    assert_eq!((&data["executed"], &data["upstream"]), (&json!("no"), &json!("it")));
    assert_eq!(asked["mode"], "url");
    assert!(asked["url"].as_str().unwrap().starts_with(protected.origin()), "{asked}");
    assert!(asked["elicitationId"].is_string() && asked["message"].is_string(), "{asked}");
    // One sign-in, so the user is not sent to another.
    assert_eq!(second.error()["data"]["elicitations"][0], *asked);
    assert_eq!(told.params(), json!({"elicitationId": asked["elicitationId"]}));
    assert_answered(&signed_in);
}

#[tokio::test]
async fn client_that_opens_no_urls_gets_the_plain_error() {
    let (protected, ultra) = connect(json!({"elicitation": {}})).await;
    close(&protected);

    let refused = ultra.call_tool(TOOL, json!({})).await;

    assert_eq!(refused.error_code(), -32011);
    let data = &refused.error()["data"];
    assert!(data["signIn"].as_str().unwrap().starts_with(protected.origin()), "{data}");
    assert!(data["elicitations"].is_null(), "{data}");
}

#[tokio::test]
async fn client_without_a_handshake_is_asked_and_its_call_goes_on_when_somebody_has_signed_in() {
    let (protected, ultra) = connect_modern().await;
    close(&protected);

    let (key, url) = question(&ultra.request("tools/call", modern(&Value::Null)).await);
    // It says that its user went there, and not yet what became of it.
    let answers = json!({key: {"action": "accept"}});
    let retried = ultra.send_request("tools/call", modern(&answers)).await;
    open(&url).await;

    assert_answered(&ultra.response(&retried).await);
}

#[tokio::test]
async fn client_whose_user_declines_gets_the_plain_error() {
    let (protected, ultra) = connect_modern().await;
    close(&protected);

    let (key, _) = question(&ultra.request("tools/call", modern(&Value::Null)).await);
    let answers = json!({key: {"action": "decline"}});
    let declined = ultra.request("tools/call", modern(&answers)).await;

    assert_eq!(declined.error_code(), -32011);
}

/// It is not even connected to before somebody has signed in; what it offers is remembered.
#[tokio::test]
async fn server_that_lets_nobody_in_is_signed_in_to_by_its_first_call() {
    let (protected, ultra) = connect_modern().await;
    close(&protected);
    let ultra = ultra.restart();

    let (key, url) = question(&ultra.request("tools/call", modern(&Value::Null)).await);
    let answers = json!({key: {"action": "accept"}});
    let retried = ultra.send_request("tools/call", modern(&answers)).await;
    open(&url).await;

    assert_answered(&ultra.response(&retried).await);
}
