use std::sync::Mutex;

use serde_json::value::RawValue;
use ultra_store::{
    AuditFilter, AuditOutcome, AuditRow, Mark, MetricFilter, MetricRow, MetricValue, Numbers, Run,
    Severity, Status, TraceFilter, TraceRow, UpstreamStatus,
};

use super::*;
use crate::cli::output::tests::Captured;

/// A store that holds traces.
#[derive(Default)]
pub(in crate::cli) struct Rows {
    pub(in crate::cli) traces: Vec<fn() -> TraceRow>,
}

impl Reader for Rows {
    fn traces(&self, filter: &TraceFilter) -> Result<Vec<TraceRow>, StoreError> {
        let is_it = |row: &TraceRow| {
            filter.id.as_ref().is_none_or(|id| *id == row.id || *id == row.trace_id)
        };
        Ok(self.traces.iter().map(|row| row()).filter(is_it).collect())
    }

    fn audit_events(&self, _: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        Ok(Vec::new())
    }

    fn metric_rows(&self, _: &MetricFilter) -> Result<Vec<MetricRow>, StoreError> {
        Ok(Vec::new())
    }

    fn upstreams(&self) -> Result<Vec<UpstreamStatus>, StoreError> {
        Ok(Vec::new())
    }

    fn database_id(&self) -> Result<String, StoreError> {
        Ok("0".repeat(32))
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        Ok(Numbers::default())
    }

    fn numbers_before(&self, _: i64) -> Result<Mark, StoreError> {
        Ok(Mark::default())
    }

    fn trace_run(&self, _: Run) -> Result<Vec<TraceRow>, StoreError> {
        Ok(Vec::new())
    }

    fn audit_run(&self, _: Run) -> Result<Vec<AuditRow>, StoreError> {
        Ok(Vec::new())
    }
}

pub(in crate::cli) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.into()).unwrap()
}

pub(in crate::cli) fn trace(seq: i64) -> TraceRow {
    TraceRow {
        seq,
        id: format!("01948f5e-0000-7000-8000-{seq:012}"),
        trace_id: format!("{seq:02}f92f3577b34da6a3ce929d0e0e4736"),
        span_id: "00f067aa0ba902b7".into(),
        parent_span_id: None,
        operation: "tool_call".into(),
        method: "tools/call".into(),
        upstream: Some("everything".into()),
        name: Some("echo".into()),
        request: Some(raw(r#"{"name":"echo","arguments":{"message":"hi"}}"#)),
        response: Some(raw(r#"{"content":[{"type":"text","text":"Echo: hi"}]}"#)),
        request_bytes: 44,
        response_bytes: 47,
        status: Status::Success,
        error: None,
        duration: 1_234_567,
        timestamp: "2026-11-20T10:00:00.123456789Z".into(),
        principal: "claude-code/2.1".into(),
        session_id: "s-1".into(),
        metadata: raw(r#"{"transport":"stdio"}"#),
    }
}

pub(in crate::cli) fn audit(seq: i64) -> AuditRow {
    AuditRow {
        seq,
        id: format!("01948f5e-0000-7000-8000-{seq:012}"),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        event_type: "tool_call".into(),
        severity: Severity::Info,
        upstream: Some("everything".into()),
        action: Some("echo".into()),
        principal: "claude-code/2.1".into(),
        session_id: Some("s-1".into()),
        outcome: AuditOutcome::Success,
        reason: None,
        details: raw("{}"),
        timestamp: "2026-11-20T10:00:00.123456789Z".into(),
    }
}

pub(in crate::cli) fn metric(instrument: &str, name: &str, value: MetricValue) -> MetricRow {
    MetricRow {
        instrument: instrument.into(),
        unit: "{call}".into(),
        operation: "tool_call".into(),
        upstream: Some("everything".into()),
        name: Some(name.into()),
        value,
    }
}

fn options(json: bool, follow: bool) -> Show {
    Show { limit: 50, json, follow }
}

fn open_empty() -> Result<Option<Box<dyn Reader>>, CliError> {
    Ok(Some(Box::new(Rows::default())))
}

#[tokio::test]
async fn rows_become_a_table() {
    let written = Captured::default();
    let failed = || TraceRow {
        status: Status::Error,
        error: Some("denied by `policy`: no deletes\u{1b}[2J".into()),
        name: Some("delete_every_file_of_the_disk".into()),
        upstream: Some("files".into()),
        ..trace(2)
    };
    let listing =
        || TraceRow { operation: "tool_list".into(), name: None, upstream: None, ..trace(3) };
    let read = |_: &dyn Reader, _, _| Ok(vec![listing(), failed(), trace(1)]);

    show(&options(false, false), open_empty, read, &mut written.output(Some(80))).await.unwrap();

    insta::assert_snapshot!(written.text(), @r"
    TIME                  STATUS   OPERATION  UPSTREAM   NAME         TOOK  TRACE
    2026-11-20T10:00:00Z  success  tool_list  -          -         1.23 ms  03f92f35
    2026-11-20T10:00:00Z  error    tool_call  files      delete_…  1.23 ms  02f92f35
                          denied by `policy`: no deletes�[2J
    2026-11-20T10:00:00Z  success  tool_call  everythi…  echo      1.23 ms  01f92f35
    ");
}

#[tokio::test]
async fn audit_events_become_a_table() {
    let written = Captured::default();
    let denied = || AuditRow {
        severity: Severity::Critical,
        outcome: AuditOutcome::Deny,
        reason: Some("no deletes".into()),
        ..audit(2)
    };
    let read = |_: &dyn Reader, _, _| Ok(vec![denied(), audit(1)]);

    show(&options(false, false), open_empty, read, &mut written.output(None)).await.unwrap();

    insta::assert_snapshot!(written.text(), @r"
    TIME                  SEVERITY  EVENT      OUTCOME  UPSTREAM    ACTION  CLIENT           TRACE
    2026-11-20T10:00:00Z  critical  tool_call  deny     everything  echo    claude-code/2.1  4bf92f35
                          no deletes
    2026-11-20T10:00:00Z  info      tool_call  success  everything  echo    claude-code/2.1  4bf92f35
    ");
}

#[tokio::test]
async fn json_is_one_array_of_rows() {
    let written = Captured::default();
    let read = |_: &dyn Reader, _, _| Ok(vec![trace(1)]);

    show(&options(true, false), open_empty, read, &mut written.output(None)).await.unwrap();

    insta::assert_snapshot!(written.text(), @r#"
    [
      {
        "seq": 1,
        "id": "01948f5e-0000-7000-8000-000000000001",
        "trace_id": "01f92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "parent_span_id": null,
        "operation": "tool_call",
        "method": "tools/call",
        "upstream": "everything",
        "name": "echo",
        "request": {"name":"echo","arguments":{"message":"hi"}},
        "response": {"content":[{"type":"text","text":"Echo: hi"}]},
        "request_bytes": 44,
        "response_bytes": 47,
        "status": "success",
        "error": null,
        "duration": 1234567,
        "timestamp": "2026-11-20T10:00:00.123456789Z",
        "principal": "claude-code/2.1",
        "session_id": "s-1",
        "metadata": {"transport":"stdio"}
      }
    ]
    "#);
}

#[tokio::test]
async fn nothing_is_said_on_stderr_but_an_empty_array_on_stdout() {
    let read = |_: &dyn Reader, _, _| Ok(Vec::<TraceRow>::new());
    let (text, json, absent) = (Captured::default(), Captured::default(), Captured::default());

    show(&options(false, false), open_empty, read, &mut text.output(None)).await.unwrap();
    show(&options(true, false), || Ok(None), read, &mut json.output(None)).await.unwrap();
    show(&options(false, false), || Ok(None), read, &mut absent.output(None)).await.unwrap();

    assert_eq!(text.text(), "No traces like that\n");
    assert_eq!(json.text(), "[]\n");
    assert_eq!(
        absent.text(),
        "No traces yet\nhint: `ultra start` records them while a client uses it\n"
    );
}

/// The store appears late, then has rows, nothing, more rows, and at last an error.
#[tokio::test(start_paused = true)]
async fn following_prints_each_row_once_oldest_first() {
    let written = Captured::default();
    let mut opened = 0;
    let open = || {
        opened += 1;
        if opened < 3 { Ok(None) } else { open_empty() }
    };
    let reads = Mutex::new(vec![None, Some(vec![4, 3]), Some(vec![]), Some(vec![2, 1])]);
    let asked = Mutex::new(Vec::new());
    let read = |_: &dyn Reader, after, limit| {
        asked.lock().unwrap().push((after, limit));
        let rows: Option<Vec<i64>> = reads.lock().unwrap().pop().unwrap();
        Ok(rows.ok_or(StoreError::Closed)?.into_iter().map(trace).collect())
    };

    let error =
        show(&options(true, true), open, read, &mut written.output(None)).await.unwrap_err();

    assert_eq!(error.exit_code(), 2);
    let text = written.text();
    let seqs = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].clone());
    assert_eq!(seqs.collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(
        *asked.lock().unwrap(),
        [
            (None, 50),
            (Some(2), FOLLOW_ROWS_MAX),
            (Some(2), FOLLOW_ROWS_MAX),
            (Some(4), FOLLOW_ROWS_MAX)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn following_keeps_the_table_in_line() {
    let written = Captured::default();
    let reads = Mutex::new(vec![None, Some(vec![2]), Some(vec![1])]);
    let read = |_: &dyn Reader, _, _| {
        let rows: Option<Vec<i64>> = reads.lock().unwrap().pop().unwrap();
        Ok(rows.ok_or(StoreError::Closed)?.into_iter().map(trace).collect())
    };

    show(&options(false, true), open_empty, read, &mut written.output(Some(100)))
        .await
        .unwrap_err();

    insta::assert_snapshot!(written.text(), @r"
    TIME                  STATUS   OPERATION  UPSTREAM    NAME                  TOOK  TRACE
    2026-11-20T10:00:00Z  success  tool_call  everything  echo               1.23 ms  01f92f35
    2026-11-20T10:00:00Z  success  tool_call  everything  echo               1.23 ms  02f92f35
    ");
}
