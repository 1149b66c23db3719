//! Changes of the config while the gateway runs.

use serde_json::json;
use ultra_tests::{Fake, Ultra, program};

fn has(tools: &[String], name: &str) -> bool {
    tools.iter().any(|tool| tool == name)
}

/// Replaces the first occurrence of a text in the gateway's config.
fn change_config(ultra: &Ultra, from: &str, to: &str) {
    let path = ultra.dir().join("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn servers_come_and_go_and_calls_in_flight_do_not_notice() {
    let ultra = Ultra::setup().upstream(&Fake::new("first")).connect(json!({})).await;
    let arguments = json!({"ms": 4000});
    let slow = ultra
        .send_request("tools/call", json!({"name": "first__slow", "arguments": arguments}))
        .await;

    let second = format!(
        "upstream:\n  second:\n    command: {:?}\n    enabled: true\n",
        program("fake-upstream")
    );
    change_config(&ultra, "upstream:\n", &second);
    ultra
        .tools_until("the tools of both", |tools| {
            has(tools, "first__echo") && has(tools, "second__echo")
        })
        .await;
    change_config(
        &ultra,
        "  first:\n",
        "  first:\n    enabled: false\n    description: off\n  third:\n",
    );
    ultra
        .tools_until("other tools", |tools| {
            !has(tools, "first__echo") && has(tools, "second__echo") && has(tools, "third__echo")
        })
        .await;

    let answer = ultra.response(&slow).await;
    assert!(answer.raw.contains("result"), "{}", answer.raw);
}

#[tokio::test]
async fn a_config_that_is_wrong_changes_nothing() {
    let ultra = Ultra::setup().upstream(&Fake::new("first")).connect(json!({})).await;

    change_config(&ultra, "upstream:\n", "upstream: [\n");
    let deadline = std::time::Instant::now() + ultra_tests::session::PATIENCE;
    while !ultra.stderr().contains("is not taken over") {
        assert!(std::time::Instant::now() < deadline, "{}", ultra.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let echoed = ultra.call_tool("first__echo", json!({"text": "still here"})).await;
    assert!(echoed.raw.contains("still here"), "{}", echoed.raw);
}
