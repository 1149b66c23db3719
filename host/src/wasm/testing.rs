//! A call for tests of this module and of `plugins/`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::pipeline::{Caller, Exchange, Operation, SpanContext};

/// Returns a call of a tool of the upstream `files`.
pub(crate) fn exchange(tool: &str) -> Box<Exchange> {
    let caller = Caller {
        principal: "test/1.0".into(),
        session_id: "session".into(),
        protocol_version: "2025-11-25".into(),
    };
    Box::new(Exchange {
        caller: Arc::new(caller),
        method: "tools/call".into(),
        operation: Operation::ToolCall,
        upstream: Some("files".into()),
        name: Some(tool.into()),
        transport: Some("stdio"),
        params: Bytes::from(format!(
            r#"{{"name":"{tool}","arguments":{{"path":"a.txt","token":"secret"}}}}"#
        )),
        params_edited: false,
        traceparent: None,
        span: SpanContext::root(),
        started: Instant::now(),
        started_unix_ns: 1_800_000_000_000_000_000,
        outcome: None,
        answered: false,
        kept: Vec::new(),
        stage: 0,
        audit: None,
        traced: false,
    })
}
