//! A call for tests of this module and of `plugins/`.

use std::sync::Arc;

use crate::pipeline::{Caller, Exchange};

/// Returns a call of a tool of the upstream `files`.
pub(crate) fn exchange(tool: &str) -> Box<Exchange> {
    let caller = Caller {
        principal: "test/1.0".into(),
        subject: None,
        session_id: "session".into(),
        protocol_version: "2025-11-25".into(),
    };
    let params = format!(r#"{{"name":"{tool}","arguments":{{"path":"a.txt","token":"secret"}}}}"#);
    let mut exchange = Exchange::new(Arc::new(caller), "tools/call", params.into());
    exchange.upstream = Some("files".into());
    exchange.name = Some(tool.into());
    exchange.transport = Some("stdio");
    exchange.started_unix_ns = 1_800_000_000_000_000_000;
    exchange
}
