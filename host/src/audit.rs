//! Audit events that are about no call: the gateway and its upstreams coming and going.
//!
//! Events about calls are the business of the `audit` plugin.

use std::sync::Arc;

use ultra_store::{AuditEvent, AuditOutcome, FieldValue, Record, Severity, Store};

use crate::pipeline::Caller;
use crate::unix_ns;

/// The field of records that names whom a client has proven to act for.
pub(crate) const SUBJECT: &str = "subject";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The gateway started.
    ServerStart,
    /// The gateway ended.
    ServerStop,
    /// An upstream began to take calls.
    UpstreamConnect,
    /// An upstream is gone.
    UpstreamDisconnect,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::ServerStart => "server_start",
            Self::ServerStop => "server_stop",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamDisconnect => "upstream_disconnect",
        }
    }
}

/// Queues an event of the gateway itself.
pub fn record_gateway(store: &Arc<dyn Store>, event: Event) {
    let principal = concat!("ultra/", env!("CARGO_PKG_VERSION"));
    store.record(Record::Audit(Box::new(new(event, principal.into(), None))));
}

/// Queues an event of an upstream. With a reason it is one that needs a look.
pub fn record_upstream(
    store: &Arc<dyn Store>,
    event: Event,
    caller: &Caller,
    upstream: &Arc<str>,
    reason: Option<&str>,
) {
    let mut record =
        new(event, Arc::clone(&caller.principal), Some(Arc::clone(&caller.session_id)));
    record.upstream = Some(Arc::clone(upstream));
    record.details.extend(subject(caller));
    if let Some(reason) = reason {
        record.severity = Severity::Error;
        record.outcome = AuditOutcome::Error;
        record.reason = Some(reason.to_owned());
    }
    store.record(Record::Audit(Box::new(record)));
}

/// Returns what records tell of who a client has proven to act for.
pub(crate) fn subject(caller: &Caller) -> Option<(String, FieldValue)> {
    let subject = caller.subject.as_deref()?;
    Some((SUBJECT.to_owned(), FieldValue::Text(subject.to_owned())))
}

fn new(event: Event, principal: Arc<str>, session_id: Option<Arc<str>>) -> AuditEvent {
    AuditEvent {
        id: uuid::Uuid::now_v7(),
        trace_id: None,
        event_type: event.as_str(),
        severity: Severity::Info,
        upstream: None,
        action: None,
        principal,
        session_id,
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns: unix_ns(),
    }
}
