//! Headers of a request of the modern era: they must say what the body says (2026-07-28,
//! basic/transports), so that those between can act on them.

use http::{HeaderMap, HeaderName};

use crate::mcp::modern::RequestMeta;
use crate::mcp::{Kind, Message, header};

pub(super) const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// Returns what is wrong with the headers of a message.
pub(super) fn mismatch(
    headers: &HeaderMap,
    message: &Message,
    meta: Option<&RequestMeta>,
) -> Option<String> {
    let differs = |name: &str, body: &str| match headers
        .get(name)
        .map(|value| header::decode(value.as_bytes()))
    {
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
    if let Some(wrong) = differs(header::METHOD, &message.method()) {
        return Some(wrong);
    }
    header::name_member(&message.method())?;
    differs(header::NAME, &header::name(message).unwrap_or_default())
}

/// Returns what is wrong with the headers that mirror arguments of a tool.
pub(super) fn param_mismatch(
    headers: &HeaderMap,
    mirrored: &[(HeaderName, Option<String>)],
) -> Option<String> {
    mirrored.iter().find_map(|(name, expected)| {
        let said = headers.get(name).map(|value| header::decode(value.as_bytes()));
        let is_same = match (&said, expected) {
            (None, None) => true,
            (Some(Some(said)), Some(expected)) => said == expected,
            _ => false,
        };
        (!is_same).then(|| format!("the header `{name}` and the argument it mirrors differ"))
    })
}
