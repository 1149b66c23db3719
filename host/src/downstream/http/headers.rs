//! Headers of a request of the modern era: they must say what the body says (2026-07-28,
//! basic/transports), so that those between can act on them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName};

use crate::mcp::modern::RequestMeta;
use crate::mcp::{Kind, Message, json};

pub(super) const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// Returns what is wrong with the headers of a message.
pub(super) fn mismatch(
    headers: &HeaderMap,
    message: &Message,
    meta: Option<&RequestMeta>,
) -> Option<String> {
    let differs =
        |name: &str, body: &str| match headers.get(name).map(|value| decoded(value.as_bytes())) {
            None => Some(format!("the header `{name}` is missing")),
            Some(None) => Some(format!("the header `{name}` is not encoded as it should be")),
            Some(Some(header)) => (header != body)
                .then(|| format!("the header `{name}` and the body say different things")),
        };
    if let Some(meta) = meta
        && let Some(wrong) = differs(PROTOCOL_VERSION, &meta.version)
    {
        return Some(wrong);
    }
    if message.kind() == Kind::Response {
        return None;
    }
    if let Some(wrong) = differs("mcp-method", &message.method()) {
        return Some(wrong);
    }
    let member = match &*message.method() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return None,
    };
    let name = message.body_member(member).and_then(json::string).unwrap_or_default();
    differs("mcp-name", &name)
}

/// Returns what is wrong with the headers that mirror arguments of a tool.
pub(super) fn param_mismatch(
    headers: &HeaderMap,
    mirrored: &[(HeaderName, Option<String>)],
) -> Option<String> {
    mirrored.iter().find_map(|(name, expected)| {
        let said = headers.get(name).map(|value| decoded(value.as_bytes()));
        let is_same = match (&said, expected) {
            (None, None) => true,
            (Some(Some(said)), Some(expected)) => said == expected,
            _ => false,
        };
        (!is_same).then(|| format!("the header `{name}` and the argument it mirrors differ"))
    })
}

/// Returns the text of a header; none if it claims to be encoded and is not.
pub(super) fn decoded(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?;
    let Some(encoded) = text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="))
    else {
        return Some(Cow::Borrowed(text));
    };
    let bytes = BASE64_STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
