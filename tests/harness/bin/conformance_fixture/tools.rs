//! What each tool does. Those that ask something are in [`crate::asking`].

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::asking;
use crate::call::{Call, Outcome};
use crate::content::{audio, embedded, image, result, says, text};
use crate::rpc::{Fault, INTERNAL_ERROR};
use crate::server::{Change, Server};

/// Between two things a tool says, so that they arrive one by one.
const PAUSE: Duration = Duration::from_millis(50);

/// What tools that may run as tasks take at most.
const SECONDS_MAX: u64 = 120;

/// Runs the next step of a tool.
pub(crate) async fn step(server: &Server, name: &str, call: &Call) -> Result<Outcome, Fault> {
    // A refusal has a status of its own, which a stream has not.
    if name == "test_streaming_elicitation" && call.client_can("elicitation") {
        call.voice.open_stream().await;
    }
    if let Some(outcome) = asking::step(name, call) {
        return Ok(outcome);
    }
    let result = match name {
        "test_simple_text" | "test_extra_tool" => says("Some text."),
        "test_image_content" => result(&[image()]),
        "test_audio_content" => result(&[audio()]),
        "test_embedded_resource" => {
            result(&[embedded("test://embedded-resource", "text/plain", "Embedded text.")])
        }
        "test_multiple_content_types" => result(&[
            text("A text, an image and a resource:"),
            image(),
            embedded("test://mixed-content-resource", "application/json", r#"{"mixed":true}"#),
        ]),
        "test_error_handling" => failure("This tool fails, always."),
        "test_tool_with_logging" | "test_logging_tool" => log(call).await,
        "test_tool_with_progress" => progress(call).await,
        "test_reconnection" => {
            call.voice.hang_up().await;
            sleep(PAUSE).await;
            says("This comes after the client has come back.")
        }
        "test_trigger_tool_change" => changed(server, Change::Tools),
        "test_trigger_prompt_change" => changed(server, Change::Prompts),
        "test_trigger_resource_update" => {
            changed(server, Change::Resource("test://watched-resource".to_owned()))
        }
        "test_x_mcp_header" => says(format!("In `{}`.", call.text("region"))),
        "json_schema_2020_12_tool" => says(json!(call.arguments).to_string()),
        "greet" => says(format!("Hello, {}!", call.text("name"))),
        "slow_compute" => {
            let seconds = call.arguments.get("seconds").and_then(|seconds| seconds.as_u64());
            sleep(Duration::from_secs(seconds.unwrap_or(0).min(SECONDS_MAX))).await;
            says(format!("Computed `{}`.", call.text("label")))
        }
        "failing_job" => failure("The job failed, as always."),
        "protocol_error_job" => return Err(Fault::new(INTERNAL_ERROR, "the job has crashed")),
        _ => return Err(Fault::invalid_params(format!("no tool `{name}`"))),
    };
    Ok(Outcome::Done(result))
}

fn failure(what: &str) -> serde_json::Value {
    json!({"content": [text(what)], "isError": true})
}

fn changed(server: &Server, change: Change) -> serde_json::Value {
    let said = format!("Whoever listens is told: {}.", change.method());
    server.change(change);
    says(said)
}

async fn log(call: &Call) -> serde_json::Value {
    call.voice.log("info", "started").await;
    sleep(PAUSE).await;
    call.voice.log("info", "working").await;
    sleep(PAUSE).await;
    call.voice.log("info", "done").await;
    says("Logged three times, if somebody wanted it.")
}

async fn progress(call: &Call) -> serde_json::Value {
    call.voice.progress(0, 100).await;
    sleep(PAUSE).await;
    call.voice.progress(50, 100).await;
    sleep(PAUSE).await;
    call.voice.progress(100, 100).await;
    says("Reported progress, if somebody wanted it.")
}
