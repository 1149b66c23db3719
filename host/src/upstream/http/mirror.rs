//! What a modern HTTP server wants to see in headers besides the body (2026-07-28, basic/transports):
//! the method, the name, and the arguments that a tool's schema marks with `x-mcp-header`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::mcp::{Message, header, json};

const PREFIX: &str = "mcp-param-";
const MARK: &str = "x-mcp-header";

/// Schemas nest at most so deep.
const DEPTH_MAX: usize = 32;

/// Arguments of tools that are mirrored in headers.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Mirror {
    /// By the tool's name.
    tools: HashMap<String, Vec<Mirrored>>,
}

#[derive(Debug)]
struct Mirrored {
    header: HeaderName,
    /// Where the argument is.
    path: Vec<String>,
}

impl Mirror {
    /// Reads the schemas of tools. Over HTTP, takes out those whose marks make no sense: nobody could
    /// call them.
    pub(in crate::upstream) fn of(upstream: &str, tools: &mut Vec<Bytes>, is_http: bool) -> Self {
        let mut mirror = Self::default();
        tools.retain(|tool| {
            if memchr::memmem::find(tool, MARK.as_bytes()).is_none() {
                return true;
            }
            let name = json::member(tool, "name").and_then(|range| json::string(&tool[range]));
            let name = name.unwrap_or_default().into_owned();
            let schema = json::member(tool, "inputSchema").map_or(&b""[..], |range| &tool[range]);
            match marks(schema) {
                Ok(mirrored) => {
                    mirror.tools.insert(name, mirrored);
                    true
                }
                Err(_) if !is_http => true,
                Err(reason) => {
                    tracing::warn!(upstream, name, "the tool `{name}` is left out: {reason}");
                    false
                }
            }
        });
        mirror
    }

    /// Returns the headers of a message, and what each must say, if anything.
    pub(super) fn headers(&self, message: &Message) -> Vec<(HeaderName, Option<String>)> {
        if self.tools.is_empty() || message.method() != "tools/call" {
            return Vec::new();
        }
        let tool = message.body_member("name").and_then(json::string).unwrap_or_default();
        self.of_call(message, &tool)
    }

    /// Returns the same for a call of the tool that has this name here.
    pub(in crate::upstream) fn of_call(
        &self,
        message: &Message,
        tool: &str,
    ) -> Vec<(HeaderName, Option<String>)> {
        let Some(mirrored) = self.tools.get(tool) else { return Vec::new() };
        let arguments = message.body_member("arguments").unwrap_or(b"{}");
        let value = |path: &[String]| {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            match &arguments[json::at_path(arguments, &path)?] {
                b"null" => None,
                raw => Some(match json::string(raw) {
                    Some(text) => text.into_owned(),
                    None => String::from_utf8_lossy(raw).into_owned(),
                }),
            }
        };
        mirrored.iter().map(|Mirrored { header, path }| (header.clone(), value(path))).collect()
    }
}

/// Finds the marks of a schema, and says what is wrong with them.
fn marks(schema: &[u8]) -> Result<Vec<Mirrored>, String> {
    let mut found = Vec::new();
    properties(schema, &mut Vec::new(), &mut found)?;
    // Marks elsewhere, as under `items` or `oneOf`, name no one argument.
    let marks = memchr::memmem::find_iter(schema, format!("\"{MARK}\"").as_bytes()).count();
    if marks != found.len() {
        return Err(format!("`{MARK}` stands where it names no argument"));
    }
    let mut seen = HashSet::new();
    match found.iter().find(|mirrored| !seen.insert(mirrored.header.clone())) {
        Some(twice) => Err(format!("`{MARK}` names `{}` twice", twice.header)),
        None => Ok(found),
    }
}

fn properties(
    schema: &[u8],
    path: &mut Vec<String>,
    found: &mut Vec<Mirrored>,
) -> Result<(), String> {
    let Some(range) = json::member(schema, "properties").filter(|_| path.len() < DEPTH_MAX) else {
        return Ok(());
    };
    let properties_of = &schema[range];
    for (key, value) in json::members(properties_of) {
        let property = &properties_of[value];
        let quoted = [b"\"", key, b"\""].concat();
        path.push(json::string(&quoted).unwrap_or_default().into_owned());
        if let Some(mark) = json::member(property, MARK) {
            let name = json::string(&property[mark]).unwrap_or_default();
            let kind =
                json::member(property, "type").and_then(|range| json::string(&property[range]));
            if !matches!(kind.as_deref(), Some("string" | "integer" | "boolean")) {
                return Err(format!("`{}` is neither string, integer nor boolean", path.join(".")));
            }
            let header = HeaderName::try_from(format!("{PREFIX}{name}"))
                .ok()
                .filter(|_| !name.is_empty())
                .ok_or_else(|| format!("`{name}` is no name for a header"))?;
            found.push(Mirrored { header, path: path.clone() });
        }
        properties(property, path, found)?;
        path.pop();
    }
    Ok(())
}

/// Returns text as a header.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(&header::encode(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(schema: &str) -> Bytes {
        format!(r#"{{"name":"t","inputSchema":{schema}}}"#).into()
    }

    #[test]
    fn marked_arguments_go_into_headers() {
        let schema = r#"{"properties":{"a":{"type":"string","x-mcp-header":"Region"},"b":{"properties":{"c":{"type":"integer","x-mcp-header":"Size"}}},"d":{"type":"boolean","x-mcp-header":"Dry"}}}"#;
        let mirror = Mirror::of("up", &mut vec![tool(schema)], true);
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":"é","b":{"c":42},"d":null}}}"#;

        let headers = mirror.headers(&Message::parse(call.into()).unwrap());

        let expected = [
            ("mcp-param-region", Some("é")),
            ("mcp-param-size", Some("42")),
            ("mcp-param-dry", None),
        ];
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_tool_with_senseless_marks_is_left_out() {
        for schema in [
            r#"{"properties":{"a":{"type":"object","x-mcp-header":"A"}}}"#,
            r#"{"properties":{"a":{"type":"string","x-mcp-header":"no good"}}}"#,
            r#"{"properties":{"a":{"type":"string","x-mcp-header":""}}}"#,
            r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#,
            r#"{"properties":{"a":{"items":{"type":"string","x-mcp-header":"A"}}}}"#,
        ] {
            let mut tools = vec![tool(schema), tool("{}")];
            Mirror::of("up", &mut tools, true);
            assert_eq!(tools.len(), 1, "{schema}");
        }
    }
}
