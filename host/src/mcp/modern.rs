//! What a request carries in the modern era (2026-07-28), where nothing is negotiated beforehand.

use bytes::Bytes;

use super::{Message, Revision, edit, json};

/// `_meta` key: the revision a request is written in. Required.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key: what its sender can do. Required.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key: who its sender is.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key: which log messages its sender wants meanwhile.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key: who answered.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// `_meta` key: the `subscriptions/listen` a notification belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// What a request says of itself.
const KEYS: [&str; 4] = [PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL];

/// The extension for tasks (2026-07-28).
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// HTTP headers and members of the body say different things.
pub const HEADER_MISMATCH: i32 = -32020;
/// The request needs something its sender did not declare.
pub const MISSING_CAPABILITY: i32 = -32021;
/// The revision is not spoken here.
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// What a modern request says of itself. Shares the memory of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMeta {
    /// The revision, as written.
    pub version: String,
    /// Capabilities, as raw JSON.
    pub capabilities: Bytes,
    /// Client info, as raw JSON.
    pub client_info: Option<Bytes>,
    /// Level of log messages, as a raw JSON string.
    pub log_level: Option<Bytes>,
    /// The W3C `traceparent`, as a raw JSON string.
    pub traceparent: Option<Bytes>,
}

impl RequestMeta {
    /// Returns whether its sender can answer such a request of a server.
    pub fn can_answer(&self, method: &str) -> bool {
        let capability = match method {
            "sampling/createMessage" => "sampling",
            "elicitation/create" => "elicitation",
            "roots/list" => "roots",
            _ => return false,
        };
        json::member(&self.capabilities, capability).is_some()
    }

    /// Returns whether its sender knows an extension.
    pub fn has_extension(&self, name: &str) -> bool {
        json::at_path(&self.capabilities, &["extensions", name]).is_some()
    }

    /// Returns what a request says of itself; none if it is one of the legacy era.
    ///
    /// # Errors
    ///
    /// Names the member that is missing or has the wrong type.
    pub fn of(message: &Message) -> Option<Result<Self, &'static str>> {
        let meta = message.body_member("_meta")?;
        let mut values = [None; 5];
        for (key, range) in json::members(meta) {
            let mut names = KEYS.iter().chain(&["traceparent"]);
            if let Some(at) = names.position(|name| json::is_named(key, name)) {
                values[at] = Some(&meta[range]);
            }
        }
        let [version, capabilities, client_info, log_level, traceparent] = values;
        let Some(version) = json::string(version?) else { return Some(Err(PROTOCOL_VERSION)) };
        let Some(capabilities) = capabilities.filter(|value| value.starts_with(b"{")) else {
            return Some(Err(CLIENT_CAPABILITIES));
        };
        let share = |value| message.line().slice_ref(value);
        Some(Ok(Self {
            version: version.into_owned(),
            capabilities: share(capabilities),
            client_info: client_info.map(share),
            log_level: log_level.map(share),
            traceparent: traceparent.map(share),
        }))
    }
}

/// Returns params that say of themselves what the modern era wants to know.
pub fn with_meta(
    params: &[u8],
    capabilities: &[u8],
    info: Option<&[u8]>,
    log_level: Option<&[u8]>,
) -> Vec<u8> {
    let version = json::quote(Revision::V2026_07_28.as_str());
    let mut members =
        vec![(PROTOCOL_VERSION, version.as_bytes()), (CLIENT_CAPABILITIES, capabilities)];
    members.extend(info.map(|info| (CLIENT_INFO, info)));
    members.extend(log_level.map(|level| (LOG_LEVEL, level)));
    let meta = json::member(params, "_meta").map_or(&b""[..], |range| &params[range]);
    edit::set(params, &[("_meta", &edit::set(meta, &members))])
}

/// Returns params without what only the modern era knows.
pub fn without_meta(params: &[u8]) -> Vec<u8> {
    edit::rewrite(params, |key, value| match () {
        () if json::is_named(key, "inputResponses") || json::is_named(key, "requestState") => {
            edit::Rewrite::Remove
        }
        () if json::is_named(key, "_meta") => match edit::remove(value, &KEYS) {
            meta if meta == b"{}" => edit::Rewrite::Remove,
            meta => edit::Rewrite::Replace(meta),
        },
        () => edit::Rewrite::Keep,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"traceparent":"00-1"}"#;

    fn request(params: &str) -> Message {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}"#);
        Message::parse(line.into()).unwrap()
    }

    #[test]
    fn a_request_is_modern_by_its_own_word() {
        assert_eq!(RequestMeta::of(&request("{}")), None);
        assert_eq!(RequestMeta::of(&request(r#"{"_meta":{"progressToken":1}}"#)), None);
        let meta = RequestMeta::of(&request(&format!(r#"{{"_meta":{META}}}"#))).unwrap().unwrap();
        assert_eq!((&*meta.version, &meta.capabilities[..]), ("2026-07-28", &b"{}"[..]));
        let half = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        assert_eq!(RequestMeta::of(&request(half)), Some(Err(CLIENT_CAPABILITIES)));
    }

    #[test]
    fn what_one_era_adds_is_all_that_the_other_takes_away() {
        let params = br#"{"name":"x","_meta":{"progressToken":7}}"#;
        let modern = with_meta(params, b"{}", Some(br#"{"name":"c"}"#), None);
        assert!(RequestMeta::of(&request(std::str::from_utf8(&modern).unwrap())).unwrap().is_ok());
        assert_eq!(without_meta(&modern), br#"{"_meta":{"progressToken":7},"name":"x"}"#);
        assert_eq!(without_meta(&with_meta(b"", b"{}", None, None)), b"{}");
        let again = br#"{"name":"x","inputResponses":{"a":1},"requestState":"s"}"#;
        assert_eq!(without_meta(again), br#"{"name":"x"}"#);
    }
}
