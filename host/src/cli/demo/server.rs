//! The servers of the demo: small, real MCP servers over stdio, run as `ultra __demo-server <name>`.

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

/// The hidden command.
pub(in crate::cli) const COMMAND: &str = "__demo-server";

/// Serves MCP on these streams until the input ends.
pub(in crate::cli) fn run(
    name: &str,
    input: impl BufRead,
    mut output: impl Write,
) -> io::Result<()> {
    let mut notes = vec!["Milk is out".to_owned(), "The dentist is on Tuesday".to_owned()];
    for line in input.lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let Some(id) = message.get("id").filter(|_| message.get("method").is_some()) else {
            continue;
        };
        let answer = match answer(name, &message, &mut notes) {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err((code, text)) => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}})
            }
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(name: &str, message: &Value, notes: &mut Vec<String>) -> Result<Value, (i32, String)> {
    let params = &message["params"];
    let method = message["method"].as_str().unwrap_or_default();
    match (method, name) {
        ("initialize", _) => Ok(json!({
            "protocolVersion": params["protocolVersion"],
            "capabilities": if name == "notes" { json!({"tools": {}, "resources": {}}) } else { json!({"tools": {}}) },
            "serverInfo": {"name": format!("ultra-demo-{name}"), "version": env!("CARGO_PKG_VERSION")},
        })),
        ("ping", _) => Ok(json!({})),
        ("tools/list", "notes") => Ok(json!({"tools": [
            tool("add", "Adds a note", json!({"text": {"type": "string"}})),
            tool("search", "Finds notes that hold a text", json!({"text": {"type": "string"}})),
            tool("share", "Sends the notes to a server, with a token", json!({"token": {"type": "string"}})),
        ]})),
        ("tools/list", _) => {
            Ok(json!({"tools": [tool("now", "Tells the time, in UTC", json!({}))]}))
        }
        ("resources/list", _) => {
            Ok(json!({"resources": [{"uri": "notes://all", "name": "All notes"}]}))
        }
        ("resources/templates/list", _) => Ok(json!({"resourceTemplates": []})),
        ("resources/read", _) => {
            Ok(json!({"contents": [{"uri": "notes://all", "text": notes.join("\n")}]}))
        }
        ("tools/call", _) => call(params, notes),
        _ => Err((-32601, format!("unknown method `{method}`"))),
    }
}

fn call(params: &Value, notes: &mut Vec<String>) -> Result<Value, (i32, String)> {
    let text = params["arguments"]["text"].as_str().unwrap_or_default();
    match params["name"].as_str().unwrap_or_default() {
        "add" => {
            notes.push(text.to_owned());
            Ok(said(&format!("{} notes", notes.len()), false))
        }
        "search" => {
            let found: Vec<_> =
                notes.iter().filter(|note| note.contains(text)).map(String::as_str).collect();
            Ok(said(&found.join("\n"), false))
        }
        "share" => Ok(said("the server does not answer", true)),
        "now" => Ok(said(&jiff::Timestamp::now().to_string(), false)),
        other => Err((-32602, format!("unknown tool `{other}`"))),
    }
}

fn tool(name: &str, description: &str, properties: Value) -> Value {
    json!({"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}})
}

fn said(text: &str, is_error: bool) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": is_error})
}
