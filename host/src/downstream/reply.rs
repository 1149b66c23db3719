//! `CallError` to JSON-RPC error: every code and every text a client sees.
//!
//! Paths, addresses and the insides of plugins go to the log alone. Each error of ours carries
//! `data.gateway`, so that it can be told from an upstream's.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bridge::SIGN_IN;
use crate::mcp::{self, Era, JsonError, Message, MessageError, modern};
use crate::pipeline::{CallError, Outcome, StageError};
use crate::upstream::UpstreamError;

/// JSON-RPC: the text is not JSON.
const PARSE_ERROR: i32 = -32700;
/// JSON-RPC: the message is not acceptable.
const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC.
const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC; MCP uses it for unknown tools and prompts too.
const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC.
const INTERNAL_ERROR: i32 = -32603;
/// MCP 2025-11-25, client/elicitation.
const URL_ELICITATION_REQUIRED: i32 = -32042;
/// MCP up to 2025-11-25, server/resources.
const RESOURCE_NOT_FOUND: i32 = -32002;
/// Ours. Below -32009, because SDKs use the numbers before for their own faults, and above -32020,
/// where MCP's own range begins.
const DENIED: i32 = -32010;
/// Ours: safe to try again.
const UNAVAILABLE: i32 = -32011;
/// Ours: the tool may have run.
const LOST: i32 = -32012;
/// Ours.
const BUSY: i32 = -32014;

/// Returns the error object for a call without a result.
pub(super) fn call_error(error: &CallError, era: Era) -> Bytes {
    let text = error.to_string();
    match error {
        CallError::Denied { stage, .. } => object(DENIED, &text, json!({"interceptor": &**stage})),
        CallError::Stage { stage, source } => {
            let mut data = json!({"interceptor": &**stage});
            if let StageError::Audit { .. } = **source {
                data["reason"] = "audit_unavailable".into();
                data["executed"] = "maybe".into();
            }
            object(INTERNAL_ERROR, &text, data)
        }
        CallError::Unknown { kind: "method", .. } => object(METHOD_NOT_FOUND, &text, json!({})),
        CallError::Unknown { kind: "resource", name } => {
            let code = match era {
                Era::Legacy => RESOURCE_NOT_FOUND,
                Era::Modern => INVALID_PARAMS,
            };
            object(code, &text, json!({"uri": name}))
        }
        CallError::Unknown { .. }
        | CallError::Ambiguous { .. }
        | CallError::InvalidParams { .. } => object(INVALID_PARAMS, &text, json!({})),
        CallError::Upstream(
            UpstreamError::Closed { upstream, .. } | UpstreamError::SignInElsewhere { upstream },
        ) => object(UNAVAILABLE, &text, json!({"upstream": upstream, "executed": "no"})),
        CallError::Upstream(
            UpstreamError::Lost { upstream, .. }
            | UpstreamError::Deadline { upstream, .. }
            | UpstreamError::Invalid { upstream, .. },
        ) => object(LOST, &text, json!({"upstream": upstream, "executed": "maybe"})),
        CallError::Upstream(UpstreamError::Http { upstream, status, .. }) => {
            object(UNAVAILABLE, &text, json!({"upstream": upstream, "status": status}))
        }
        CallError::Upstream(UpstreamError::SignIn { upstream, url }) => object(
            UNAVAILABLE,
            &text,
            json!({"upstream": upstream, "signIn": url, "executed": "no"}),
        ),
        CallError::Upstream(UpstreamError::Refused { upstream, .. }) => {
            object(INTERNAL_ERROR, &text, json!({"upstream": upstream}))
        }
        CallError::Refused { .. } => object(INTERNAL_ERROR, &text, json!({"executed": "maybe"})),
        CallError::Cancelled | CallError::NoPipeline => object(INTERNAL_ERROR, &text, json!({})),
        CallError::Busy { .. } => object(BUSY, &text, json!({"executed": "no"})),
    }
}

/// Returns what asks a client that can open URLs to have its user sign in to an upstream: an error up to
/// 2025-11-25, and the result of a call from 2026-07-28.
pub(super) fn sign_in(upstream: &str, url: &str, era: Era) -> Outcome {
    let message = format!("Sign in to the server `{upstream}`, and this can go on.");
    let mut params = json!({"mode": "url", "message": message, "url": url});
    match era {
        Era::Legacy => {
            params["elicitationId"] = elicitation_id(url).into();
            let data = json!({
                "upstream": upstream, "signIn": url, "executed": "no", "elicitations": [params],
            });
            let text = format!("upstream `{upstream}` wants you to sign in");
            Outcome::Rpc { json: object(URL_ELICITATION_REQUIRED, &text, data) }
        }
        Era::Modern => {
            let question = json!({"method": "elicitation/create", "params": params});
            let result =
                json!({"resultType": "input_required", "inputRequests": {SIGN_IN: question}});
            Outcome::Result { json: result.to_string().into(), tool_error: false }
        }
    }
}

/// Returns the notification that somebody has signed in there (2025-11-25, client/elicitation).
pub(super) fn signed_in(url: &str) -> Bytes {
    let params = json!({"elicitationId": elicitation_id(url)}).to_string();
    mcp::notification_line("notifications/elicitation/complete", params.as_bytes()).into()
}

/// Returns the id of what the user does at a URL. Whoever is sent there again does the same.
fn elicitation_id(url: &str) -> String {
    Sha256::digest(url)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the error object for a request of a revision that is not spoken here.
pub(super) fn unsupported_version(asked: &str) -> Bytes {
    let supported = [crate::mcp::Revision::V2026_07_28.as_str()];
    object(
        modern::UNSUPPORTED_VERSION,
        &format!("protocol revision `{asked}` is not supported"),
        json!({"supported": supported, "requested": asked}),
    )
}

/// Returns the error object for a request that needs an extension its sender did not declare.
pub(super) fn missing_extension(extension: &str) -> Bytes {
    object(
        modern::MISSING_CAPABILITY,
        &format!("this needs the extension `{extension}`"),
        json!({"requiredCapabilities": {"extensions": {extension: {}}}}),
    )
}

/// Returns the error object for a request whose headers and body disagree.
pub(super) fn header_mismatch(text: &str) -> Bytes {
    object(modern::HEADER_MISMATCH, text, json!({}))
}

/// Returns the error object for a request whose `_meta` lacks something.
pub(super) fn missing_meta(key: &str) -> Bytes {
    object(INVALID_PARAMS, &format!("expected `_meta[\"{key}\"]`"), json!({}))
}

/// Returns the error object for a line that is no message.
pub(super) fn message_error(error: &MessageError) -> Bytes {
    let code = match error {
        MessageError::Json(JsonError::Duplicate { .. } | JsonError::Depth) => INVALID_REQUEST,
        MessageError::Json(JsonError::Bom | JsonError::Utf8 { .. } | JsonError::Syntax { .. }) => {
            PARSE_ERROR
        }
        MessageError::Batch | MessageError::Envelope(_) => INVALID_REQUEST,
    };
    object(code, &error.to_string(), json!({}))
}

/// Returns the error object for what an upstream asked and nobody will answer.
pub(super) fn unanswered(reason: &str) -> Bytes {
    object(INTERNAL_ERROR, &format!("the client gives no answer: {reason}"), json!({}))
}

/// Returns the error object for a request that cannot be met now.
pub(super) fn invalid_request(text: &str) -> Bytes {
    object(INVALID_REQUEST, text, json!({}))
}

fn object(code: i32, message: &str, mut data: Value) -> Bytes {
    data["gateway"] = "ultra".into();
    json!({"code": code, "message": message, "data": data}).to_string().into()
}
/// Returns the line that answers a request: the peer's own but for the id, where it is the peer's answer.
pub(super) fn line(
    id: &Bytes,
    outcome: &Outcome,
    answer: Option<&Message>,
    era: Era,
) -> Vec<Bytes> {
    let (json, is_error) = match outcome {
        Outcome::Result { json, .. } => (json.clone(), false),
        Outcome::Rpc { json } => (json.clone(), true),
        Outcome::Failed(error) => (call_error(error, era), true),
    };
    if let Some(answer) = answer.filter(|answer| answer.is_error() == is_error) {
        let body = answer.body();
        let same = body.as_ptr() == json.as_ptr() && body.len() == json.len();
        return answer.with(Some(id), (!same).then_some(&json));
    }
    let mut head = Vec::with_capacity(id.len() + 32);
    head.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    head.extend_from_slice(id);
    head.extend_from_slice(if is_error { b",\"error\":" } else { b",\"result\":" });
    vec![head.into(), json, Bytes::from_static(b"}\n")]
}
