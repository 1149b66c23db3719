//! The headers of 2026-07-28 that repeat what the body says (Streamable HTTP, "Request Metadata").

use hyper::HeaderMap;
use serde_json::Value;

use crate::lists;
use crate::rpc::{Fault, HEADER_MISMATCH, Request};

/// Checks `MCP-Protocol-Version` against `_meta`.
pub(crate) fn check_version(headers: &HeaderMap, version: &str) -> Result<(), Fault> {
    check(headers, "MCP-Protocol-Version", version, |header| header == version)
}

/// Checks `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` against the request.
pub(crate) fn check_request(headers: &HeaderMap, request: &Request) -> Result<(), Fault> {
    check(headers, "Mcp-Method", &request.method, |header| header == request.method)?;
    let source = match request.method.as_str() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return Ok(()),
    };
    // Without the member there is nothing to repeat, and the method will complain.
    if let Some(name) = request.params.get(source).and_then(Value::as_str) {
        check(headers, "Mcp-Name", name, |header| is_spelling(header, name))?;
    }
    if request.method == "tools/call" { check_params(headers, request) } else { Ok(()) }
}

/// Checks the arguments that the tool's schema marks with `x-mcp-header`.
fn check_params(headers: &HeaderMap, request: &Request) -> Result<(), Fault> {
    let name = request.params.get("name").and_then(Value::as_str);
    let Some(schema) = name.and_then(lists::input_schema) else { return Ok(()) };
    let arguments = request.params.get("arguments").unwrap_or(&Value::Null);
    let mut marked = Vec::new();
    find_marked(&schema, arguments, &mut marked);
    for (suffix, value) in marked {
        let header = format!("Mcp-Param-{suffix}");
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Numbers count by value: `42.0` is `42`.
        check(headers, &header, &text, |header| match value.as_f64() {
            Some(number) => header.parse() == Ok(number),
            None => is_spelling(header, &text),
        })?;
    }
    Ok(())
}

/// Finds marked arguments that have a value, along `properties` only.
fn find_marked(schema: &Value, value: &Value, found: &mut Vec<(String, Value)>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, schema) in properties {
        let Some(value) = value.get(name).filter(|value| !value.is_null()) else { continue };
        if let Some(suffix) = schema.get("x-mcp-header").and_then(Value::as_str) {
            found.push((suffix.to_owned(), value.clone()));
        }
        find_marked(schema, value, found);
    }
}

fn check(
    headers: &HeaderMap,
    name: &str,
    body: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<(), Fault> {
    let mismatch = |what: &str| Fault::new(HEADER_MISMATCH, format!("{name}: {what}"));
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| mismatch("the header is missing"))?;
    if values.next().is_some() {
        return Err(mismatch("the header stands there twice"));
    }
    let value = value.to_str().map_err(|_| mismatch("the header is not visible ASCII"))?;
    // White space around a value is none of it (RFC 9110, section 5.5).
    if fits(value.trim()) {
        Ok(())
    } else {
        Err(mismatch(&format!("the header is `{value}`, the body says `{body}`")))
    }
}

/// Returns whether a header spells this text: as it is, or in the one Base64 there is for it.
fn is_spelling(header: &str, text: &str) -> bool {
    let encoded = header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    match encoded {
        Some(encoded) => encoded == base64(text.as_bytes()),
        None => header == text,
    }
}

/// Returns bytes in Base64 (RFC 4648, section 4, with padding).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0, |bits, (place, byte)| bits | usize::from(*byte) << (16 - 8 * place));
        for place in 0..4 {
            let digit = char::from(ALPHABET[bits >> (18 - 6 * place) & 63]);
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_spelling_in_base64_and_may_stand_as_it_is() {
        for (header, text, fits) in [
            ("plain", "plain", true),
            ("plain", "Plain", false),
            ("=?base64?SGVsbG8=?=", "Hello", true),
            ("=?base64?SGVsbG8?=", "Hello", false),
            ("=?base64?SGVs!!!bG8=?=", "Hello", false),
            ("=?base64?SGVsbG8=", "=?base64?SGVsbG8=", true),
            ("=?base64?4pyT?=", "✓", true),
            ("=?base64??=", "", true),
        ] {
            assert_eq!(is_spelling(header, text), fits, "{header} for {text}");
        }
    }
}
