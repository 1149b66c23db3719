//! The client that the official conformance suite looks at: a gateway that has the suite's server as its
//! upstream, driven by a client that calls every tool once.
//!
//! The suite says by the environment what it wants to see, and gives the server's URL as the last argument.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use ultra_tests::{Ultra, program};

/// A server that wants a sign-in which cannot be had lists nothing; it is given up after this long.
const LIST_PATIENCE: Duration = Duration::from_secs(12);

/// A call is made so often, if it needs a sign-in each time.
const SIGN_INS_MAX: usize = 6;

/// Tools of the gateway's own.
const OWN: &str = "ultra_status";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let url = std::env::args().next_back().unwrap_or_default();
    let context: Value =
        serde_json::from_str(&variable("MCP_CONFORMANCE_CONTEXT")).unwrap_or_default();
    let setup =
        Ultra::config(&config(&url, &variable("MCP_CONFORMANCE_PROTOCOL_VERSION"), &context))
            .memory();
    let mut command = setup.start_command();
    command.env("BROWSER", program("headless-browser"));
    let ultra = setup.start_with(command);
    ultra.on_request("elicitation/create", accept);
    ultra.on_request("roots/list", |_| json!({"roots": []}));
    ultra.on_request("sampling/createMessage", |_| {
        json!({"role": "assistant", "model": "none", "content": {"type": "text", "text": "sampled"}})
    });
    ultra
        .initialize(
            json!({"elicitation": {"form": {"applyDefaults": true}}, "roots": {}, "sampling": {}}),
        )
        .await;
    ultra.notify("notifications/initialized", json!({})).await;

    let Some(tools) = tools(&ultra).await else { return ExitCode::FAILURE };
    for (name, arguments) in calls(&tools, &context) {
        call(&ultra, &name, &arguments).await;
    }
    ExitCode::SUCCESS
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Returns a config whose only upstream is the suite's server, in the era of the revision.
fn config(url: &str, revision: &str, context: &Value) -> String {
    let era = if revision >= "2026-07-28" { "modern" } else { "legacy" };
    let mut oauth =
        json!({"client_metadata_url": "https://conformance-test.local/client-metadata.json"});
    for key in ["client_id", "client_secret"] {
        if let Some(value) = context.get(key) {
            oauth[key] = value.clone();
        }
    }
    format!(
        "server:\n  naming: on_collision\nupstream:\n  ref:\n    url: {url}\n    enabled: true\n    era: {era}\n    oauth: {oauth}\n"
    )
}

/// Waits until the upstream's tools are listed; none if they never are.
async fn tools(ultra: &Ultra) -> Option<Vec<Value>> {
    let start = Instant::now();
    loop {
        let listed = ultra.request("tools/list", json!({})).await;
        let mut tools: Vec<_> = listed.result()["tools"].as_array().cloned().unwrap_or_default();
        tools.retain(|tool| tool["name"] != OWN);
        if !tools.is_empty() {
            return Some(tools);
        }
        if start.elapsed() > LIST_PATIENCE {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls a tool, and again when somebody had to sign in first.
async fn call(ultra: &Ultra, name: &str, arguments: &Value) {
    for _ in 0..SIGN_INS_MAX {
        let answer = ultra.call_tool(name, arguments.clone()).await;
        if !answer.raw.contains("\"signIn\"") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns what to call: what the suite names, or each tool once.
fn calls(tools: &[Value], context: &Value) -> Vec<(String, Value)> {
    let named = context["toolCalls"].as_array();
    let of = |call: &Value, arguments: Value| {
        (call["name"].as_str().unwrap_or_default().to_owned(), arguments)
    };
    match named {
        Some(calls) => calls.iter().map(|call| of(call, call["arguments"].clone())).collect(),
        None => tools.iter().map(|tool| of(tool, arguments(tool, tools))).collect(),
    }
}

/// Returns arguments that fit a tool. One that wants to see a schema gets that of another tool, as listed.
fn arguments(tool: &Value, tools: &[Value]) -> Value {
    let mut arguments = example(&tool["inputSchema"]);
    let other = tools.iter().find(|other| other["inputSchema"].get("$defs").is_some());
    if let (Some(schema), Some(other)) = (arguments.get_mut("schema"), other) {
        *schema = other["inputSchema"].clone();
    }
    arguments
}

/// Accepts what the server asks, with its defaults where there are.
fn accept(params: Value) -> Value {
    json!({"action": "accept", "content": example(&params["requestedSchema"])})
}

/// Returns an object that fits a schema.
fn example(schema: &Value) -> Value {
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let value = |property: &Value| match (&property["default"], property["type"].as_str()) {
        (Value::Null, Some("integer" | "number")) => json!(1),
        (Value::Null, Some("boolean")) => json!(true),
        (Value::Null, Some("object")) => example(property),
        (Value::Null, Some("array")) => json!([]),
        (Value::Null, _) => property["enum"][0].as_str().map_or_else(|| json!("test"), Value::from),
        (default, _) => default.clone(),
    };
    let filled: Map<_, _> =
        properties.iter().map(|(name, property)| (name.clone(), value(property))).collect();
    Value::Object(filled)
}
