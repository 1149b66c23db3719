//! What it offers: tools, resources, templates and prompts, as JSON texts.

use crate::server::{Server, quote};

/// Tools with a behaviour of their own, and the schema of their arguments.
const TOOLS: [(&str, &str, &str); 19] = [
    ("echo", "Returns its arguments", r#"{"type":"object"}"#),
    ("params", "Returns the params of the call, as received", r#"{"type":"object"}"#),
    ("hello", "Returns the params of initialize, as received", r#"{"type":"object"}"#),
    ("pid", "Returns the process id", r#"{"type":"object"}"#),
    (
        "slow",
        "Answers after `ms`, with `steps` progress notifications",
        r#"{"type":"object","properties":{"ms":{"type":"integer"},"steps":{"type":"integer"}}}"#,
    ),
    ("elicit", "Asks the user", r#"{"type":"object","properties":{"params":{"type":"object"}}}"#),
    ("sample", "Asks the model", r#"{"type":"object","properties":{"params":{"type":"object"}}}"#),
    ("roots", "Asks for the roots", r#"{"type":"object"}"#),
    ("tool-error", "Reports an error of its own", r#"{"type":"object"}"#),
    ("rpc-error", "Answers with a JSON-RPC error that has data", r#"{"type":"object"}"#),
    ("crash", "Exits in the middle of the call", r#"{"type":"object"}"#),
    ("silent", "Never answers", r#"{"type":"object"}"#),
    ("stranger", "Sends messages nobody asked for, then answers", r#"{"type":"object"}"#),
    (
        "log",
        "Logs `message` at `level`",
        r#"{"type":"object","properties":{"level":{"type":"string"},"message":{"type":"string"}}}"#,
    ),
    (
        "big",
        "Returns `bytes` bytes of text",
        r#"{"type":"object","properties":{"bytes":{"type":"integer"}}}"#,
    ),
    (
        "change-tools",
        "Adds a tool and says so `count` times",
        r#"{"type":"object","properties":{"count":{"type":"integer"}}}"#,
    ),
    (
        "touch",
        "Changes the resource `uri`, if it is subscribed to",
        r#"{"type":"object","properties":{"uri":{"type":"string"}}}"#,
    ),
    (
        "structured",
        "Returns structured content, a link and an image",
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false}"#,
    ),
    (
        "task",
        "Takes `ms`; may run as a task",
        r#"{"type":"object","properties":{"ms":{"type":"integer"}}}"#,
    ),
];

/// RFC 5424 severities, lowest first (MCP 2025-11-25, logging).
const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Returns the rank of a log level.
pub(crate) fn log_level(level: &str) -> Option<usize> {
    LOG_LEVELS.iter().position(|known| *known == level)
}

/// Returns the tools, each as JSON.
pub(crate) fn tools(server: &Server) -> Vec<String> {
    let x = server.unknown();
    let mut tools = Vec::new();
    if !server.options.bare {
        for (name, description, schema) in TOOLS {
            let execution =
                if name == "task" { r#","execution":{"taskSupport":"optional"}"# } else { "" };
            let output =
                if name == "structured" { r#","outputSchema":{"type":"object"}"# } else { "" };
            tools.push(format!(
                r#"{{"name":"{name}","title":"The {name} tool","description":"{description}","inputSchema":{schema}{output}{execution},"annotations":{{"readOnlyHint":true{x}}},"_meta":{{"fake/{name}":[1,2.50,"x"]}}{x}}}"#
            ));
        }
    }
    let generated = (0..server.options.tools).map(|number| format!("tool-{number:04}"));
    let added = (0..server.added_tools).map(|number| format!("added-{number}"));
    for name in generated.chain(added).chain(server.options.named_tools.iter().cloned()) {
        let name = quote(&name);
        tools.push(format!(
            r#"{{"name":{name},"description":"A generated tool that returns its arguments, described at the length tools usually are described","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string","description":"Any text"}},"count":{{"type":"integer","minimum":0,"default":1}}}},"required":["text"]}}{x}}}"#
        ));
    }
    tools
}

/// Returns the resources, each as JSON.
pub(crate) fn resources(server: &Server) -> Vec<String> {
    let x = server.unknown();
    let name = &server.options.name;
    let own = ["note", "counter"].map(|path| format!("fake://{name}/{path}"));
    own.iter()
        .chain(&server.options.resources)
        .map(|uri| {
            let uri = quote(uri);
            format!(r#"{{"uri":{uri},"name":{uri},"mimeType":"text/plain","size":4,"annotations":{{"priority":0.50}}{x}}}"#)
        })
        .collect()
}

/// Returns the resource templates, each as JSON.
pub(crate) fn templates(server: &Server) -> Vec<String> {
    let x = server.unknown();
    let name = &server.options.name;
    vec![format!(
        r#"{{"uriTemplate":"fake://{name}/item/{{id}}","name":"item","mimeType":"text/plain"{x}}}"#
    )]
}

/// Returns the prompts, each as JSON.
pub(crate) fn prompts(server: &Server) -> Vec<String> {
    let x = server.unknown();
    vec![format!(
        r#"{{"name":"greet","title":"Greet","description":"A greeting","arguments":[{{"name":"who","required":true{x}}}]{x}}}"#
    )]
}
