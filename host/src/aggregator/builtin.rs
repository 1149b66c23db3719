//! The tools that are ours: `ultra_status`.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::Aggregator;
use crate::upstream::{ListKind, State};

/// The upstream our own tools count to, in records.
pub const UPSTREAM: &str = "ultra";

/// The name of the only one.
pub const STATUS: &str = "ultra_status";

/// Lines of a failing server's stderr that are shown.
const STDERR_LINES: usize = 10;

/// Returns the items of our tools for `tools/list`.
pub fn tools() -> &'static [Bytes] {
    static TOOLS: LazyLock<[Bytes; 1]> = LazyLock::new(|| {
        let status = json!({
            "name": STATUS,
            "title": "Ultra status",
            "description": "Health of the Ultra gateway: version, each MCP server behind it with its state and \
                number of tools, the interceptors every call passes, and the record store. Takes no arguments.",
            "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
            "annotations": {"readOnlyHint": true, "openWorldHint": false},
        });
        [Bytes::from(status.to_string())]
    });
    &*TOOLS
}

/// Returns what `ultra_status` answers.
pub fn status(aggregator: &Aggregator, stages: &[Arc<str>]) -> Bytes {
    let upstreams: Vec<_> = aggregator.upstreams().iter().map(upstream).collect();
    let ready = upstreams.iter().filter(|upstream| upstream["state"] == "ready").count();
    let health = aggregator.store().health();
    let status = json!({
        "health": if ready == upstreams.len() && health.error.is_none() { "ok" } else { "degraded" },
        "version": env!("CARGO_PKG_VERSION"),
        "tools": aggregator.catalog().tools_count(),
        "upstreams": upstreams,
        "interceptors": stages.iter().map(|id| id.as_ref()).collect::<Vec<_>>(),
        "store": {
            "queued": health.queued, "written": health.written, "commits": health.commits, "dropped": health.dropped,
            "error": health.error,
        },
    });
    let text = serde_json::to_string_pretty(&status).unwrap_or_default();
    json!({"content": [{"type": "text", "text": text}], "structuredContent": status})
        .to_string()
        .into()
}

fn upstream(upstream: &Arc<crate::upstream::Upstream>) -> Value {
    let listing = upstream.listing();
    let count = |kind| listing.as_ref().map_or(0, |listing| listing.items(kind).len());
    let (state, open, reason) = match upstream.state() {
        State::Starting => ("starting", 0, None),
        State::Ready(connection) => ("ready", connection.open_calls(), None),
        State::Waiting { reason } => ("waiting", 0, Some(reason)),
        State::Stopped => ("stopped", 0, None),
    };
    let mut status = json!({
        "name": &*upstream.name,
        "state": state,
        "transport": upstream.transport,
        "server": listing.as_ref().and_then(|listing| listing.server()),
        "tools": count(ListKind::Tools),
        "resources": count(ListKind::Resources),
        "prompts": count(ListKind::Prompts),
        "callsInFlight": open,
    });
    if let Some(reason) = reason {
        status["error"] = json!(&*reason);
        status["stderr"] = json!(upstream.stderr(STDERR_LINES));
    }
    status
}
