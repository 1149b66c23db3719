//! Somebody who opens pages.

use std::time::Instant;

use serde_json::{Value, json};
use ultra_tests::hub::Owner;

use crate::Times;

/// Opens each page so many times, one after the other.
pub(crate) async fn open(owner: &Owner, times: u32) -> Value {
    let below = |path: &str| format!("/w/{}/{path}", owner.workspace);
    let paths = [
        ("gateways", "gateways"),
        ("gateways, 3 filters", "gateways?state=online&os=linux&version=0.1.0"),
        ("gateways, search", "gateways?search=fill-77"),
        ("traces", "traces"),
        ("traces, 3 filters", "traces?upstream=files&status=error&client=cursor%2F1.1"),
        ("traces, one tool", "traces?name=query"),
        ("traces, none found", "traces?name=nothing_is_called_so"),
        ("traces, a rare session", "traces?session=session-3"),
        ("audit", "audit"),
        ("servers", "servers"),
    ];
    let mut report = serde_json::Map::new();
    for (name, path) in paths {
        let mut measured = Times::default();
        let mut bytes = 0;
        for _ in 0..times {
            let begun = Instant::now();
            bytes = owner.visitor.page(&below(path)).await.len();
            measured.note(begun);
        }
        let mut figures = measured.report();
        figures["bytes"] = json!(bytes);
        report.insert(name.to_owned(), figures);
    }
    Value::Object(report)
}
