//! What is written down at a plugin's word: trace record, audit event, log line in its own words.
//!
//! Records share the call's bytes; they are redacted when they are stored.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;
use ultra_store::{AuditEvent, AuditOutcome, FieldValue, Severity, Status, Trace};
use uuid::Uuid;

use super::bindings::{audit, log};
use crate::audit::{SUBJECT, subject};
use crate::mcp::json;
use crate::pipeline::{CallError, Exchange, Outcome};

/// What a log line or a record tells of an upstream's error message at most.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Writes an event at a level known only when it happens; `tracing` wants it when it is compiled.
macro_rules! event {
    ($level:expr, $($field:tt)*) => {
        match $level {
            log::Level::Trace => tracing::event!(target: "ultra::plugin", Level::TRACE, $($field)*),
            log::Level::Debug => tracing::event!(target: "ultra::plugin", Level::DEBUG, $($field)*),
            log::Level::Info => tracing::event!(target: "ultra::plugin", Level::INFO, $($field)*),
            log::Level::Warn => tracing::event!(target: "ultra::plugin", Level::WARN, $($field)*),
            log::Level::Error => tracing::event!(target: "ultra::plugin", Level::ERROR, $($field)*),
        }
    };
}
pub(super) use event;

/// Returns whether lines of this level are written.
pub(super) fn enabled(at: log::Level) -> bool {
    match at {
        log::Level::Trace => tracing::enabled!(target: "ultra::plugin", Level::TRACE),
        log::Level::Debug => tracing::enabled!(target: "ultra::plugin", Level::DEBUG),
        log::Level::Info => tracing::enabled!(target: "ultra::plugin", Level::INFO),
        log::Level::Warn => tracing::enabled!(target: "ultra::plugin", Level::WARN),
        log::Level::Error => tracing::enabled!(target: "ultra::plugin", Level::ERROR),
    }
}

/// Writes a line in a plugin's words. Line breaks and other controls would let it forge others.
pub(super) fn line(plugin: &str, at: log::Level, text: &str) {
    let text = text.replace(char::is_control, " ");
    event!(at, plugin.id = plugin, "{text}");
}

/// Returns the trace record of a call that has ended.
pub(super) fn trace(
    exchange: &Exchange,
    elapsed: Duration,
    mut fields: Vec<(String, FieldValue)>,
) -> Box<Trace> {
    if exchange.from_server {
        fields.push(("direction".into(), FieldValue::Text("from_server".into())));
    }
    let (response, status, error) = match &exchange.outcome {
        Some(Outcome::Result { json, tool_error: false }) => {
            (Some(json.clone()), Status::Success, None)
        }
        Some(Outcome::Result { json, tool_error: true }) => {
            (Some(json.clone()), Status::Error, Some("the tool reported an error".into()))
        }
        Some(outcome @ Outcome::Rpc { json }) => {
            (Some(json.clone()), Status::Error, error_text(outcome))
        }
        Some(outcome @ Outcome::Failed(_)) => (None, Status::Error, error_text(outcome)),
        None => (None, Status::Error, None),
    };
    Box::new(Trace {
        id: record_id(exchange, elapsed),
        trace_id: exchange.span.trace_id,
        span_id: exchange.span.span_id,
        parent_span_id: exchange.span.parent_span_id,
        operation: exchange.operation.as_str(),
        method: Arc::clone(&exchange.method),
        upstream: exchange.upstream.clone(),
        name: exchange.name.clone(),
        request: (!exchange.params.is_empty()).then(|| exchange.params.clone()),
        response,
        status,
        error,
        duration_ns: elapsed.as_nanos() as u64,
        started_unix_ns: exchange.started_unix_ns,
        principal: Arc::clone(&exchange.caller.principal),
        session_id: Arc::clone(&exchange.caller.session_id),
        transport: exchange.transport,
        metadata: with_subject(exchange, fields),
    })
}

/// Returns the audit event of a call.
pub(super) fn audit(
    exchange: &Exchange,
    elapsed: Duration,
    severity: audit::Severity,
    outcome: audit::Outcome,
    mut fields: Vec<(String, FieldValue)>,
) -> Box<AuditEvent> {
    if exchange.from_server {
        fields.push(("direction".into(), FieldValue::Text("from_server".into())));
    }
    let event_type = match &exchange.outcome {
        Some(Outcome::Failed(CallError::Denied { .. })) => "policy_deny",
        None | Some(Outcome::Result { .. } | Outcome::Rpc { .. } | Outcome::Failed(_)) => {
            exchange.operation.as_str()
        }
    };
    Box::new(AuditEvent {
        id: record_id(exchange, elapsed),
        trace_id: Some(exchange.span.trace_id),
        event_type,
        severity: match severity {
            audit::Severity::Info => Severity::Info,
            audit::Severity::Warning => Severity::Warning,
            audit::Severity::Error => Severity::Error,
            audit::Severity::Critical => Severity::Critical,
        },
        upstream: exchange.upstream.clone(),
        action: exchange.name.clone(),
        principal: Arc::clone(&exchange.caller.principal),
        session_id: Some(Arc::clone(&exchange.caller.session_id)),
        outcome: match outcome {
            audit::Outcome::Success => AuditOutcome::Success,
            audit::Outcome::Failure => AuditOutcome::Failure,
            audit::Outcome::Error => AuditOutcome::Error,
            audit::Outcome::Deny => AuditOutcome::Deny,
            audit::Outcome::Canceled => AuditOutcome::Canceled,
        },
        reason: exchange.outcome.as_ref().and_then(error_text),
        details: with_subject(exchange, fields),
        unix_ns: exchange.started_unix_ns + elapsed.as_nanos() as i64,
    })
}

/// Adds whom the client has proven to act for. That is the gateway's to say: a field of the same name in a
/// plugin's words gives way.
fn with_subject(
    exchange: &Exchange,
    mut fields: Vec<(String, FieldValue)>,
) -> Vec<(String, FieldValue)> {
    if let Some(subject) = subject(&exchange.caller) {
        fields.retain(|(key, _)| key != SUBJECT);
        // First, because exports cut long lists.
        fields.insert(0, subject);
    }
    fields
}

/// Returns why there is no result, for records and plugins.
pub(super) fn error_text(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Result { .. } => None,
        Outcome::Rpc { json } => {
            let mut text = rpc_error(json);
            if let Some(message) =
                json::pointer(json, "/message").and_then(|place| json::string(&json[place]))
            {
                let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
                let _ = write!(text, ": {}", &message[..end]);
            }
            Some(text)
        }
        Outcome::Failed(CallError::Denied { reason, .. }) => Some(reason.clone()),
        Outcome::Failed(error) => Some(crate::chain(error)),
    }
}

/// Returns the same for a log: an upstream's message may hold what no log shall hold.
pub(super) fn error_in_log(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Rpc { json } => Some(rpc_error(json)),
        Outcome::Result { .. } | Outcome::Failed(_) => error_text(outcome),
    }
}

fn rpc_error(json: &[u8]) -> String {
    let code = json::pointer(json, "/code").and_then(|place| str::from_utf8(&json[place]).ok());
    format!("upstream error {}", code.unwrap_or("without a code"))
}

/// Returns a new record id: the time the call ended, and random bits.
fn record_id(exchange: &Exchange, elapsed: Duration) -> Uuid {
    let unix_ms = (exchange.started_unix_ns.max(0) as u64 + elapsed.as_nanos() as u64) / 1_000_000;
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random()).into_uuid()
}

fn random() -> [u8; 10] {
    use std::cell::RefCell;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    thread_local! {
        // Record ids must differ, not be secret.
        static RNG: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
    }
    RNG.with_borrow_mut(Rng::random)
}
