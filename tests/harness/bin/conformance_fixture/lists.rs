//! What is offered: tools, resources, templates and prompts.
//!
//! The official suite calls these names; what they do is in `tools.rs`, `asking.rs`, `resources.rs` and
//! `prompts.rs`.

use serde_json::{Value, json};

/// Tools without arguments, and what they do.
const PLAIN_TOOLS: [(&str, &str); 29] = [
    ("test_simple_text", "Says a text"),
    ("test_image_content", "Shows an image"),
    ("test_audio_content", "Plays a sound"),
    ("test_embedded_resource", "Embeds a resource"),
    ("test_multiple_content_types", "A text, an image and a resource"),
    ("test_error_handling", "Fails"),
    ("test_tool_with_logging", "Logs three times"),
    ("test_logging_tool", "Logs three times"),
    ("test_tool_with_progress", "Reports progress three times"),
    ("test_reconnection", "Hangs up before it answers"),
    ("test_elicitation_sep1034_defaults", "Asks the user, with defaults"),
    ("test_elicitation_sep1330_enums", "Asks the user to choose"),
    ("test_missing_capability", "Needs sampling"),
    ("test_streaming_elicitation", "Asks the user, in a stream"),
    ("test_trigger_tool_change", "Adds or removes a tool"),
    ("test_trigger_prompt_change", "Adds or removes a prompt"),
    ("test_trigger_resource_update", "Changes the watched resource"),
    ("test_input_required_result_elicitation", "Asks the user"),
    ("test_input_required_result_sampling", "Asks the model"),
    ("test_input_required_result_list_roots", "Asks for roots"),
    ("test_input_required_result_request_state", "Asks the user, and wants its state back"),
    ("test_input_required_result_tampered_state", "Asks the user, and wants its state back"),
    ("test_input_required_result_multiple_inputs", "Asks the user, the model and for roots"),
    ("test_input_required_result_multi_round", "Asks the user twice"),
    ("test_input_required_result_capabilities", "Asks for what the client can do"),
    ("test_tool_with_task", "Asks the user, then runs as a task"),
    ("failing_job", "Runs as a task, and fails"),
    ("protocol_error_job", "Runs as a task, and crashes"),
    ("multi_input", "Runs as a task, and asks the user two things"),
];

/// Tools with arguments.
const TOOLS: [(&str, &str, &str); 7] = [
    (
        "test_sampling",
        "Asks the model",
        r#"{"type":"object","properties":{"prompt":{"type":"string"}},"required":["prompt"]}"#,
    ),
    (
        "test_elicitation",
        "Asks the user",
        r#"{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}"#,
    ),
    (
        "test_x_mcp_header",
        "Has an argument that is a header too",
        r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"depth":{"type":"object","properties":{"level":{"type":"integer","x-mcp-header":"Level"}}}}}"#,
    ),
    (
        "greet",
        "Greets",
        r#"{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}"#,
    ),
    (
        "slow_compute",
        "Takes its time; may run as a task",
        r#"{"type":"object","properties":{"seconds":{"type":"integer"},"label":{"type":"string"}}}"#,
    ),
    (
        "confirm_delete",
        "Asks the user; may run as a task",
        r#"{"type":"object","properties":{"filename":{"type":"string"}}}"#,
    ),
    (
        "json_schema_2020_12_tool",
        "Has a schema with much of what JSON Schema 2020-12 offers",
        r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","$defs":{"address":{"$anchor":"place","type":"object","properties":{"town":{"type":"string"}}}},"properties":{"kind":{"enum":["parcel","letter"]},"to":{"$ref":"#/$defs/address"},"weight":{"type":"number"},"stamp":{"type":"string"}},"allOf":[{"anyOf":[{"required":["weight"]},{"required":["stamp"]}]}],"if":{"properties":{"kind":{"const":"parcel"}},"required":["kind"]},"then":{"required":["weight"]},"else":{"required":["stamp"]},"additionalProperties":false}"##,
    ),
];

/// Prompts, what they are about, and their arguments.
const PROMPTS: [(&str, &str, &[&str]); 5] = [
    ("test_simple_prompt", "Has no arguments", &[]),
    ("test_prompt_with_arguments", "Has two arguments", &["arg1", "arg2"]),
    ("test_prompt_with_embedded_resource", "Embeds a resource", &["resourceUri"]),
    ("test_prompt_with_image", "Shows an image", &[]),
    ("test_input_required_result_prompt", "Asks the user", &[]),
];

/// Resources and their types.
const RESOURCES: [(&str, &str, &str); 3] = [
    ("test://static-text", "static-text", "text/plain"),
    ("test://static-binary", "static-binary", "image/png"),
    ("test://watched-resource", "watched-resource", "text/plain"),
];

/// Returns the tools; `extra` is the one that comes and goes.
pub(crate) fn tools(extra: bool) -> Value {
    let extra = extra.then_some(("test_extra_tool", "Comes and goes"));
    let plain = PLAIN_TOOLS.into_iter().chain(extra);
    let plain = plain.map(|(name, description)| (name, description, r#"{"type":"object"}"#));
    let tools: Vec<_> = plain.chain(TOOLS).map(tool).collect();
    json!({"tools": tools})
}

/// Returns the schema of a tool's arguments.
pub(crate) fn input_schema(name: &str) -> Option<Value> {
    let (_, _, schema) = TOOLS.into_iter().find(|(tool, _, _)| *tool == name)?;
    Some(parsed(schema))
}

fn tool((name, description, schema): (&str, &str, &str)) -> Value {
    json!({"name": name, "description": description, "inputSchema": parsed(schema)})
}

fn parsed(schema: &str) -> Value {
    serde_json::from_str(schema).expect("the constants of this file are JSON")
}

/// Returns the prompts; `extra` is the one that comes and goes.
pub(crate) fn prompts(extra: bool) -> Value {
    let extra: Option<(&str, &str, &[&str])> =
        extra.then_some(("test_extra_prompt", "Comes and goes", &[]));
    let prompts: Vec<_> = PROMPTS.into_iter().chain(extra).map(prompt).collect();
    json!({"prompts": prompts})
}

fn prompt((name, description, arguments): (&str, &str, &[&str])) -> Value {
    let argument = |name: &&str| json!({"name": name, "description": "Any text", "required": true});
    let arguments: Vec<_> = arguments.iter().map(argument).collect();
    json!({"name": name, "description": description, "arguments": arguments})
}

pub(crate) fn resources() -> Value {
    let resource = |(uri, name, mime_type): (&str, &str, &str)| json!({"uri": uri, "name": name, "description": "A resource", "mimeType": mime_type});
    let resources: Vec<_> = RESOURCES.into_iter().map(resource).collect();
    json!({"resources": resources})
}

pub(crate) fn templates() -> Value {
    let template = json!({
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "Data of anything",
        "mimeType": "application/json",
    });
    json!({"resourceTemplates": [template]})
}
