//! The fake upstream itself: a test that fails behind Ultra shall not fail because of it.

use serde_json::{Value, json};
use ultra_tests::{Fake, Session, process};

async fn connect(fake: Fake) -> Session {
    let session = Session::start(fake.command());
    session.initialize(json!({})).await;
    session
}

#[tokio::test]
async fn echo_returns_its_arguments() {
    let session = connect(Fake::new("fake")).await;

    let reply = session.call_tool("echo", json!({"a": [1, 2]})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"a": [1, 2]}));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let session =
        connect(Fake::new("fake").flag("--bare").option("--tools", 25).option("--page-size", 10))
            .await;

    let names = session.tool_names().await;

    assert_eq!(names.len(), 25);
    assert_eq!(names[24], "tool-0024");
}

#[tokio::test]
async fn slow_reports_progress_and_can_be_cancelled() {
    let session = connect(Fake::new("fake")).await;
    let params = json!({"name": "slow", "arguments": {"ms": 20, "steps": 2}, "_meta": {"progressToken": "t"}});

    session.request("tools/call", params).await;
    let endless = session
        .send_request("tools/call", json!({"name": "slow", "arguments": {"ms": 3_600_000}}))
        .await;
    session
        .notify("notifications/cancelled", json!({"requestId": endless.parse::<u64>().unwrap()}))
        .await;
    session.request("ping", Value::Null).await;

    assert_eq!(session.take("notifications/progress").len(), 2);
    assert_eq!(session.left(), Vec::<String>::new());
}

#[tokio::test]
async fn elicitation_ends_with_the_clients_answer() {
    let session = connect(Fake::new("fake")).await;
    session.on_request("elicitation/create", |_| json!({"action": "decline"}));

    let reply = session.call_tool("elicit", json!({})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"answer": {"action": "decline"}}));
}

#[tokio::test]
async fn it_lingers_and_ignores_as_told() {
    let mut lingering = connect(Fake::new("fake").flag("--linger").flag("--ignore-sigterm")).await;

    lingering.close_input().await;
    process::signal(lingering.pid(), rustix::process::Signal::TERM);
    let mut crashing = connect(Fake::new("fake")).await;
    crashing.send_request("tools/call", json!({"name": "crash"})).await;

    assert_eq!(crashing.ended().await.code(), Some(3));
    assert!(process::is_alive(lingering.pid()));
    process::signal(lingering.pid(), rustix::process::Signal::KILL);
    assert_eq!(lingering.ended().await.code(), None);
}
