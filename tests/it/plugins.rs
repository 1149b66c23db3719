//! Plugins as an administrator sees them: what is loaded, in which order, what is refused and why.

use serde_json::{Value, json};
use ultra_tests::ultra::Setup;
use ultra_tests::{Fake, Ultra};

/// Runs `ultra plugins list --json` with a config.
async fn list(setup: &Setup, args: &[&str]) -> Vec<Value> {
    let mut command = tokio::process::Command::from(setup.command());
    command
        .args(["plugins", "list", "--json", "--config"])
        .arg(setup.write_config())
        .args(args)
        .kill_on_drop(true);
    let output = tokio::time::timeout(ultra_tests::session::PATIENCE, command.output());
    let output = output.await.expect("`ultra plugins list` ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn ids(plugins: &[Value]) -> Vec<&str> {
    plugins.iter().map(|plugin| plugin["id"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn the_built_in_ones_are_listed_in_the_order_requests_meet_them() {
    let plugins = list(&Ultra::setup(), &[]).await;

    assert_eq!(ids(&plugins), ["trace", "logging", "audit", "metrics"]);
    let priorities: Vec<_> = plugins.iter().map(|plugin| plugin["priority"].clone()).collect();
    assert_eq!(priorities, [0, 75, 75, 100]);
}

#[tokio::test]
async fn the_config_disables_and_reorders() {
    let setup = Ultra::setup()
        .yaml("plugins:\n  disabled: [logging]\n  overrides:\n    metrics:\n      priority: 10");

    let plugins = list(&setup, &[]).await;

    let states: Vec<_> =
        plugins.iter().map(|plugin| (plugin["id"].as_str(), plugin["state"].as_str())).collect();
    let expected =
        [("trace", "active"), ("metrics", "active"), ("audit", "active"), ("logging", "disabled")];
    assert_eq!(states, expected.map(|(id, state)| (Some(id), Some(state))));
}

#[tokio::test]
async fn a_broken_component_stops_the_start_by_name_and_reason() {
    let setup = Ultra::setup();
    let plugins = setup.dir().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::write(plugins.join("broken.wasm"), b"this is no component").unwrap();
    let mut ultra = setup.upstream(&Fake::new("fake")).arg("--plugins").arg(&plugins).start();

    let status = ultra.ended().await;

    assert!(!status.success());
    assert!(ultra.stderr().contains("broken"), "{}", ultra.stderr());
}

#[tokio::test]
async fn a_broken_component_is_left_out_if_told_so() {
    let setup = Ultra::setup();
    let plugins = setup.dir().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::write(plugins.join("broken.wasm"), b"this is no component").unwrap();
    let ultra = setup
        .upstream(&Fake::new("fake"))
        .arg("--plugins")
        .arg(&plugins)
        .arg("--allow-refused-plugins")
        .connect(json!({}))
        .await;

    ultra.call_tool("fake__echo", json!({})).await.result();

    assert!(ultra.stderr().contains("broken"), "{}", ultra.stderr());
}

#[tokio::test]
async fn an_empty_pipeline_serves_calls() {
    let ultra = Ultra::setup()
        .yaml("plugins:\n  disabled: [trace, logging, audit, metrics]")
        .upstream(&Fake::new("fake"))
        .connect(json!({}))
        .await;

    let reply = ultra.call_tool("fake__echo", json!({"n": 1})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"n": 1}));
}
