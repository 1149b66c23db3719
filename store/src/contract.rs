//! What every store does, checked on each of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use crate::filter::{AuditFilter, Mark, MetricFilter, Numbers, Run, TraceFilter};
use crate::memory::{MemoryOptions, MemoryStore};
use crate::record::{
    AuditEvent, AuditOutcome, FieldValue, MetricDelta, MetricValue, Record, Severity, Status,
    Trace, UpstreamStatus,
};
use crate::sqlite::{SqliteOptions, SqliteStore};
use crate::{Redactor, Store};

/// 2026-07-25T17:20:00Z.
pub(crate) const NOON_NS: i64 = 1_785_000_000_000_000_000;

pub(crate) fn trace(number: u64, name: &str) -> Trace {
    Trace {
        id: Uuid::from_u128(0x1000 + u128::from(number)),
        trace_id: 0x2000 + u128::from(number),
        span_id: 0xf000_0000_0000_0000 + number,
        parent_span_id: None,
        operation: "tool_call",
        method: "tools/call".into(),
        upstream: Some("files".into()),
        name: Some(name.into()),
        request: Some(Bytes::from_static(br#"{"name":"read"}"#)),
        response: None,
        status: Status::Success,
        error: None,
        duration_ns: 1_000,
        started_unix_ns: NOON_NS + number.cast_signed(),
        principal: "client/1.0".into(),
        session_id: "session".into(),
        transport: None,
        metadata: Vec::new(),
    }
}

pub(crate) fn event(number: u64, action: &str) -> Box<AuditEvent> {
    Box::new(AuditEvent {
        id: Uuid::from_u128(0x3000 + u128::from(number)),
        trace_id: None,
        event_type: "tool_call",
        severity: Severity::Info,
        upstream: Some("files".into()),
        action: Some(action.into()),
        principal: "client/1.0".into(),
        session_id: None,
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns: NOON_NS + number.cast_signed(),
    })
}

pub(crate) fn flush(store: &dyn Store) {
    assert!(store.flush(Instant::now() + Duration::from_secs(20)), "flush took 20 s");
}

pub(crate) fn wait(durable: crate::Durable) -> Result<(), crate::StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), durable.wait())
            .await
            .expect("durable in 20 s")
    })
}

fn redactor() -> Redactor {
    Redactor::new(["top-secret".to_owned()])
}

/// Runs a part of the contract on every store there is.
fn on_each(check: impl Fn(&dyn Store)) {
    let options =
        MemoryOptions { payload_bytes_max: 64, redactor: redactor(), ..Default::default() };
    check(&MemoryStore::new(options));
    let directory = tempfile::tempdir().unwrap();
    let mut options = SqliteOptions::new(directory.path().join("ultra.db"));
    options.payload_bytes_max = 64;
    options.redactor = redactor();
    check(&SqliteStore::open(options).unwrap());
}

#[test]
fn a_trace_is_read_as_it_was_recorded() {
    on_each(|store| {
        let full = Trace {
            parent_span_id: Some(u64::MAX),
            response: Some(Bytes::from_static(br#"{"code":-32603}"#)),
            status: Status::Error,
            error: Some("upstream said password=abc".to_owned()),
            transport: Some("stdio"),
            metadata: vec![
                ("cost".to_owned(), FieldValue::Float(1.5)),
                ("note".to_owned(), FieldValue::Text("a top-secret b".to_owned())),
            ],
            ..trace(1, "read")
        };
        let bare = Trace { upstream: None, name: None, request: None, ..trace(2, "") };
        store.record(Record::Trace(Box::new(full)));
        store.record(Record::Trace(Box::new(bare)));
        flush(store);

        let rows = serde_json::to_value(store.traces(&TraceFilter::default()).unwrap()).unwrap();

        assert_eq!(
            rows,
            json!([
                {
                    "seq": 2,
                    "id": "00000000-0000-0000-0000-000000001002",
                    "trace_id": "00000000000000000000000000002002",
                    "span_id": "f000000000000002",
                    "parent_span_id": null,
                    "operation": "tool_call",
                    "method": "tools/call",
                    "upstream": null,
                    "name": null,
                    "request": null,
                    "response": null,
                    "request_bytes": 0,
                    "response_bytes": 0,
                    "status": "success",
                    "error": null,
                    "duration": 1000,
                    "timestamp": "2026-07-25T17:20:00.000000002Z",
                    "principal": "client/1.0",
                    "session_id": "session",
                    "metadata": {},
                },
                {
                    "seq": 1,
                    "id": "00000000-0000-0000-0000-000000001001",
                    "trace_id": "00000000000000000000000000002001",
                    "span_id": "f000000000000001",
                    "parent_span_id": "ffffffffffffffff",
                    "operation": "tool_call",
                    "method": "tools/call",
                    "upstream": "files",
                    "name": "read",
                    "request": {"name": "read"},
                    "response": {"code": -32603},
                    "request_bytes": 15,
                    "response_bytes": 15,
                    "status": "error",
                    "error": "upstream said password=[redacted]",
                    "duration": 1000,
                    "timestamp": "2026-07-25T17:20:00.000000001Z",
                    "principal": "client/1.0",
                    "session_id": "session",
                    "metadata": {"cost": 1.5, "note": "a [redacted] b", "transport": "stdio"},
                },
            ])
        );
    });
}

#[test]
fn an_audit_event_is_read_as_it_was_recorded() {
    on_each(|store| {
        let full = AuditEvent {
            trace_id: Some(0x77),
            severity: Severity::Critical,
            session_id: Some("session".into()),
            outcome: AuditOutcome::Deny,
            reason: Some("holds top-secret".to_owned()),
            details: vec![("token".to_owned(), FieldValue::Text("x".to_owned()))],
            ..*event(1, "file:///a?token=abc")
        };
        wait(store.audit(Box::new(full))).unwrap();

        let rows =
            serde_json::to_value(store.audit_events(&AuditFilter::default()).unwrap()).unwrap();

        assert_eq!(
            rows,
            json!([{
                "seq": 1,
                "id": "00000000-0000-0000-0000-000000003001",
                "trace_id": "00000000000000000000000000000077",
                "event_type": "tool_call",
                "severity": "critical",
                "upstream": "files",
                "action": "file:///a?token=[redacted]",
                "principal": "client/1.0",
                "session_id": "session",
                "outcome": "deny",
                "reason": "holds [redacted]",
                "details": {"token": "[redacted]"},
                "timestamp": "2026-07-25T17:20:00.000000001Z",
            }])
        );
    });
}

#[test]
fn payloads_are_redacted_and_then_cut() {
    on_each(|store| {
        let long = format!(r#"{{"password":"{}","a":"{}"}}"#, "x".repeat(99), "y".repeat(99));
        let recorded = Trace {
            request: Some(long.clone().into()),
            response: Some(Bytes::from_static(b"no JSON at all, top-secret")),
            ..trace(1, "read")
        };
        store.record(Record::Trace(Box::new(recorded)));
        flush(store);

        let rows = store.traces(&TraceFilter::default()).unwrap();

        let beginning = format!(r#"{{"password":"[redacted]","a":"{}"#, "y".repeat(34));
        let request = rows[0].request.as_ref().unwrap().get();
        assert_eq!(serde_json::from_str::<String>(request).unwrap(), beginning);
        assert_eq!(rows[0].request_bytes, long.len() as u64);
        let response = rows[0].response.as_ref().unwrap().get();
        assert_eq!(response, r#""no JSON at all, [redacted]""#);
    });
}

#[test]
fn every_field_of_a_trace_filter_narrows() {
    on_each(|store| {
        let traces = [
            trace(1, "read"),
            Trace { upstream: Some("git".into()), session_id: "s2".into(), ..trace(2, "log") },
            Trace { principal: "editor/2".into(), status: Status::Error, ..trace(3, "read") },
            Trace { operation: "resource_read", ..trace(4, "file:///a") },
        ];
        for trace in traces {
            store.record(Record::Trace(Box::new(trace)));
        }
        flush(store);
        let all = TraceFilter::default;
        let text = |text: &str| Some(text.to_owned());

        let cases = [
            (all(), vec![4, 3, 2, 1]),
            (TraceFilter { limit: 2, ..all() }, vec![4, 3]),
            (TraceFilter { upstream: text("git"), ..all() }, vec![2]),
            (TraceFilter { name: text("read"), ..all() }, vec![3, 1]),
            (TraceFilter { operation: text("resource_read"), ..all() }, vec![4]),
            (TraceFilter { status: Some(Status::Error), ..all() }, vec![3]),
            (TraceFilter { id: text("00000000000000000000000000002002"), ..all() }, vec![2]),
            (TraceFilter { id: text("00000000-0000-0000-0000-000000001003"), ..all() }, vec![3]),
            (TraceFilter { id: text("no id"), ..all() }, vec![]),
            (TraceFilter { since_unix_ns: Some(NOON_NS + 3), ..all() }, vec![4, 3]),
            (TraceFilter { until_unix_ns: Some(NOON_NS + 3), ..all() }, vec![2, 1]),
            (TraceFilter { after_seq: Some(2), ..all() }, vec![4, 3]),
            // The next ones, so that none is missed.
            (TraceFilter { after_seq: Some(1), limit: 2, ..all() }, vec![3, 2]),
            (TraceFilter { name: text("read"), upstream: text("git"), ..all() }, vec![]),
            (TraceFilter { principal: text("editor/2"), ..all() }, vec![3]),
            (TraceFilter { session_id: text("s2"), ..all() }, vec![2]),
            (TraceFilter { before_seq: Some(3), limit: 1, ..all() }, vec![2]),
            (TraceFilter { after_seq: Some(1), before_seq: Some(4), ..all() }, vec![3, 2]),
        ];

        for (filter, expected) in cases {
            let rows = store.traces(&filter).unwrap();
            let found: Vec<i64> = rows.iter().map(|row| row.seq).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    });
}

#[test]
fn payloads_can_be_left_out() {
    on_each(|store| {
        store.record(Record::Trace(Box::new(trace(1, "read"))));
        flush(store);

        let with = store.traces(&TraceFilter::default()).unwrap();
        let filter = TraceFilter { payloads: false, ..TraceFilter::default() };
        let without = store.traces(&filter).unwrap();

        assert!(with[0].request.is_some());
        assert!(without[0].request.is_none());
        assert_eq!(without[0].request_bytes, with[0].request_bytes);
    });
}

#[test]
fn every_field_of_an_audit_filter_narrows() {
    on_each(|store| {
        let events = [
            event(1, "read"),
            Box::new(AuditEvent {
                upstream: None,
                principal: "editor/2".into(),
                session_id: Some("s2".into()),
                severity: Severity::Critical,
                ..*event(2, "log")
            }),
            Box::new(AuditEvent { outcome: AuditOutcome::Canceled, ..*event(3, "read") }),
            Box::new(AuditEvent { event_type: "policy_deny", ..*event(4, "write") }),
        ];
        for event in events {
            store.record(Record::Audit(event));
        }
        flush(store);
        let all = AuditFilter::default;
        let text = |text: &str| Some(text.to_owned());

        let cases = [
            (all(), vec![4, 3, 2, 1]),
            (AuditFilter { limit: 1, ..all() }, vec![4]),
            (AuditFilter { upstream: text("files"), ..all() }, vec![4, 3, 1]),
            (AuditFilter { name: text("read"), ..all() }, vec![3, 1]),
            (AuditFilter { event_type: text("policy_deny"), ..all() }, vec![4]),
            (AuditFilter { outcome: Some(AuditOutcome::Canceled), ..all() }, vec![3]),
            (AuditFilter { since_unix_ns: Some(NOON_NS + 4), ..all() }, vec![4]),
            (AuditFilter { until_unix_ns: Some(NOON_NS + 2), ..all() }, vec![1]),
            (AuditFilter { after_seq: Some(1), limit: 1, ..all() }, vec![2]),
            (AuditFilter { after_seq: Some(4), ..all() }, vec![]),
            (AuditFilter { severity: Some(Severity::Critical), ..all() }, vec![2]),
            (AuditFilter { principal: text("editor/2"), ..all() }, vec![2]),
            (AuditFilter { session_id: text("s2"), ..all() }, vec![2]),
            (AuditFilter { id: text("00000000-0000-0000-0000-000000003003"), ..all() }, vec![3]),
            (AuditFilter { id: text("no id"), ..all() }, vec![]),
            (AuditFilter { before_seq: Some(3), limit: 1, ..all() }, vec![2]),
        ];

        for (filter, expected) in cases {
            let rows = store.audit_events(&filter).unwrap();
            let found: Vec<i64> = rows.iter().map(|row| row.seq).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    });
}

#[test]
fn measurements_add_up_per_tool() {
    on_each(|store| {
        let bounds: Arc<[f64]> = [0.5, 1.0].into();
        let counter = |name: Option<&str>, by| MetricDelta {
            instrument: "mcp.calls".into(),
            unit: "{call}".into(),
            operation: "tool_call",
            upstream: Some("files".into()),
            name: name.map(Into::into),
            value: MetricValue::Counter(by),
        };
        let histogram = |sum, buckets: [u64; 3]| MetricDelta {
            instrument: "mcp.duration".into(),
            unit: "s".into(),
            value: MetricValue::Histogram {
                count: buckets.iter().sum(),
                sum,
                bounds: bounds.clone(),
                buckets: buckets.into(),
            },
            ..counter(Some("read"), 0)
        };
        store.metrics(vec![counter(Some("read"), 2), counter(None, 1), histogram(0.5, [1, 0, 0])]);
        flush(store);
        store.metrics(vec![counter(Some("read"), 3), histogram(2.5, [0, 1, 1])]);
        flush(store);

        let rows = store.metric_rows(&MetricFilter::default()).unwrap();
        let read = MetricFilter { name: Some("read".to_owned()), ..Default::default() };
        let calls = MetricFilter { instrument: Some("mcp.calls".to_owned()), ..read.clone() };
        let old =
            MetricFilter { until_unix_ns: Some(NOON_NS - i64::pow(10, 18)), ..Default::default() };

        assert_eq!(
            serde_json::to_value(&rows).unwrap(),
            json!([
                {
                    "instrument": "mcp.calls", "unit": "{call}", "operation": "tool_call",
                    "upstream": "files", "name": null, "counter": 1,
                },
                {
                    "instrument": "mcp.calls", "unit": "{call}", "operation": "tool_call",
                    "upstream": "files", "name": "read", "counter": 5,
                },
                {
                    "instrument": "mcp.duration", "unit": "s", "operation": "tool_call",
                    "upstream": "files", "name": "read",
                    "histogram": {"count": 3, "sum": 3.0, "bounds": [0.5, 1.0], "buckets": [1, 1, 1]},
                },
            ])
        );
        assert_eq!(store.metric_rows(&read).unwrap().len(), 2);
        assert_eq!(store.metric_rows(&calls).unwrap().len(), 1);
        assert_eq!(store.metric_rows(&old).unwrap().len(), 0);
    });
}

#[test]
fn the_last_state_of_an_upstream_counts() {
    on_each(|store| {
        let status = |upstream: &str, gateway_pid, state: &str, unix_ns| UpstreamStatus {
            upstream: upstream.to_owned(),
            gateway_pid,
            state: state.to_owned(),
            server: Some("server 1.0".to_owned()),
            tools: 1,
            resources: 2,
            prompts: 3,
            error: None,
            stderr: Some("listening, token=abc".to_owned()),
            unix_ns,
        };
        store.upstream(status("files", 1, "starting", 1));
        store.upstream(status("files", 2, "ready", 2));
        store.upstream(status("git", 1, "waiting", 3));
        store.upstream(status("files", 1, "ready", 4));
        flush(store);

        let rows = store.upstreams().unwrap();

        let states: Vec<_> =
            rows.iter().map(|row| (&*row.upstream, row.gateway_pid, &*row.state)).collect();
        assert_eq!(states, [("files", 1, "ready"), ("git", 1, "waiting"), ("files", 2, "ready")]);
        let stderr = Some("listening, token=[redacted]".to_owned());
        assert_eq!(rows[0], UpstreamStatus { stderr, ..status("files", 1, "ready", 4) });
    });
}

#[test]
fn the_catalogs_used_last_are_remembered() {
    on_each(|store| {
        for number in 0..8 {
            store.remember_catalog("files", &number.to_string(), Bytes::from(format!("c{number}")));
        }
        store.remember_catalog("git", "0", Bytes::from_static(b"git"));
        flush(store);
        assert_eq!(store.catalog("files", "0").unwrap().as_deref(), Some(&b"c0"[..]));
        store.remember_catalog("files", "2", Bytes::from_static(b"new"));
        store.remember_catalog("files", "8", Bytes::from_static(b"c8"));
        flush(store);

        let kept: Vec<_> = (0..9)
            .filter(|number| store.catalog("files", &number.to_string()).unwrap().is_some())
            .collect();

        assert_eq!(kept, [0, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(store.catalog("files", "2").unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(store.catalog("git", "0").unwrap().as_deref(), Some(&b"git"[..]));
        assert_eq!(store.catalog("none", "0").unwrap(), None);
    });
}

#[test]
fn health_counts_what_is_written() {
    on_each(|store| {
        store.record(Record::Trace(Box::new(trace(1, "read"))));
        wait(store.audit(event(1, "read"))).unwrap();
        flush(store);

        let health = store.health();

        assert_eq!((health.written, health.queued, health.dropped), (2, 0, 0));
        assert_eq!(health.error, None);
    });
}

#[test]
fn a_database_has_an_id_of_its_own_until_it_gets_another() {
    let ids = std::cell::RefCell::new(std::collections::BTreeSet::new());
    on_each(|store| {
        let id = store.database_id().unwrap();
        assert_eq!(store.database_id().unwrap(), id);
        store.renew_database_id();
        flush(store);
        for id in [id, store.database_id().unwrap()] {
            assert!(id.len() == 32 && id.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{id}");
            assert!(ids.borrow_mut().insert(id));
        }
    });
}

#[test]
fn runs_are_read_by_number_within_their_limits() {
    on_each(|store| {
        assert_eq!(store.numbers().unwrap(), Numbers::default());
        for number in 1..=5 {
            let request = Some(Bytes::from(format!("\"{}\"", "x".repeat(40))));
            store.record(Record::Trace(Box::new(Trace { request, ..trace(number, "read") })));
        }
        for number in 1..=3 {
            store.record(Record::Audit(event(number, "read")));
        }
        flush(store);
        let run = Run { first: 1, last: i64::MAX, records_max: 100, bytes_max: 1 << 20 };

        let cases = [
            (run, vec![1, 2, 3, 4, 5]),
            (Run { first: -7, last: 2, ..run }, vec![1, 2]),
            (Run { first: 2, records_max: 3, ..run }, vec![2, 3, 4]),
            (Run { first: 5, ..run }, vec![5]),
            (Run { first: 6, ..run }, vec![]),
            (Run { bytes_max: 100, ..run }, vec![1, 2]),
            (Run { first: 3, bytes_max: 0, ..run }, vec![3]),
            (Run { records_max: 0, ..run }, vec![]),
        ];

        for (run, expected) in cases {
            let rows = store.trace_run(run).unwrap();
            assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), expected, "{run:?}");
        }
        let events = store.audit_run(Run { first: 2, ..run }).unwrap();
        assert_eq!(events.iter().map(|row| row.seq).collect::<Vec<_>>(), [2, 3]);
        let numbers = Numbers { traces: Some((1, 5)), audit_events: Some((1, 3)) };
        assert_eq!(store.numbers().unwrap(), numbers);
    });
}

#[test]
fn what_a_run_has_is_what_a_filter_finds() {
    on_each(|store| {
        store.record(Record::Trace(Box::new(trace(1, "read"))));
        wait(store.audit(event(1, "read"))).unwrap();
        flush(store);
        let run = Run { first: 1, last: 1, records_max: 1, bytes_max: 0 };
        let traces =
            (store.trace_run(run).unwrap(), store.traces(&TraceFilter::default()).unwrap());
        let events =
            (store.audit_run(run).unwrap(), store.audit_events(&AuditFilter::default()).unwrap());

        assert_eq!(json!(traces.0), json!(traces.1));
        assert_eq!(json!(events.0), json!(events.1));
    });
}

#[test]
fn the_numbers_before_a_time_are_found() {
    on_each(|store| {
        for number in 1..=9 {
            store.record(Record::Trace(Box::new(trace(10 * number, "read"))));
        }
        store.record(Record::Audit(event(50, "read")));
        flush(store);

        let before = |time| {
            let Mark { trace, audit_event } = store.numbers_before(NOON_NS + time).unwrap();
            (trace, audit_event)
        };

        assert_eq!(before(0), (0, 0));
        assert_eq!(before(10), (0, 0));
        assert_eq!(before(11), (1, 0));
        assert_eq!(before(50), (4, 0));
        assert_eq!(before(51), (5, 1));
        assert_eq!(before(1000), (9, 1));
    });
}
