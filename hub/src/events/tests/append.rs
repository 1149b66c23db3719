//! Taking batches: what is kept, what is left out, what is refused.

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::events::Gaps;
use crate::wire::{SPANS_MAX, StreamState};

fn traces(numbers: std::ops::RangeInclusive<i64>) -> Vec<Value> {
    numbers.map(trace).collect()
}

#[tokio::test]
async fn a_batch_is_there_once_however_often_it_comes() {
    for fixture in Fixture::each().await {
        for _ in 0..3 {
            let ack = fixture.send(1, 1, &traces(1..=10)).await.unwrap();
            assert_eq!(ack, Acknowledgement { spans: vec![(1, 10)], rejected: 0 });
        }

        assert_eq!(fixture.count("traces").await, 10);
        assert_eq!(fixture.count("trace_details").await, 10);
        let clients = fixture.events.clients(workspace(), origin(1).gateway).await.unwrap();
        assert_eq!(clients[0].usage.calls, 10);
    }
}

#[tokio::test]
async fn batches_may_come_late_overlap_and_leave_gaps() {
    for fixture in Fixture::each().await {
        let send = async |numbers: std::ops::RangeInclusive<i64>| {
            fixture.send(1, *numbers.start(), &traces(numbers)).await.unwrap().spans
        };

        assert_eq!(send(21..=30).await, [(21, 30)]);
        assert_eq!(send(1..=10).await, [(1, 10), (21, 30)]);
        assert_eq!(send(5..=15).await, [(1, 15), (21, 30)]);
        assert_eq!(send(10..=25).await, [(1, 30)]);

        assert_eq!(fixture.count("traces").await, 30);
        let stream = fixture.events.streams(origin(1).gateway, Some(DATABASE)).await.unwrap();
        assert_eq!(stream[0].spans, [(1, 30)]);
    }
}

#[tokio::test]
async fn traces_and_audit_events_are_streams_of_their_own() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &traces(1..=2)).await.unwrap();

        let ack = fixture.send(1, 7, &[event(1), event(2)]).await.unwrap();

        assert_eq!(ack.spans, [(7, 8)]);
        assert_eq!(fixture.count("audit_events").await, 2);
        let streams = fixture.events.streams(origin(1).gateway, None).await.unwrap();
        let kinds: Vec<_> = streams.iter().map(|stream| stream.kind).collect();
        assert_eq!(kinds, [RecordKind::Audit, RecordKind::Traces]);
    }
}

/// The second guard: a gateway whose database was made anew sends under other numbers what is there.
#[tokio::test]
async fn records_with_new_numbers_are_known_by_their_ids() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &traces(1..=10)).await.unwrap();
        let other = "ffffffffffffffffffffffffffffffff";
        let batch = batch_of(other, RecordKind::Traces, 1, &traces(6..=15), &[]);

        let ack = fixture.events.append(origin(1), batch).await.unwrap();

        assert_eq!(ack.spans, [(1, 10)]);
        assert_eq!(fixture.count("traces").await, 15);
        assert_eq!(fixture.count("trace_details").await, 15);
        let servers = fixture.events.servers(workspace(), 0).await.unwrap();
        assert_eq!(servers[0].usage.calls, 15);
    }
}

#[tokio::test]
async fn a_line_that_cannot_be_read_is_kept_apart_and_stops_nothing() {
    let bad = [
        ("{", "EOF"),
        ("", "EOF"),
        ("\u{0}", "expected value"),
        ("[1]", "invalid length"),
        (r#"{"seq": 5}"#, "missing field"),
    ];
    for fixture in Fixture::each().await {
        let mut batch = batch(RecordKind::Traces, 1, &[trace(1)]);
        let good = String::from_utf8(batch.lines.to_vec()).unwrap();
        let bad_lines: Vec<_> = bad.iter().map(|(line, _)| *line).collect();
        let misplaced = with(trace(9), json!({"seq": 99}));
        let no_time = with(trace(9), json!({"seq": 8, "timestamp": "yesterday"}));
        let no_status = with(trace(9), json!({"seq": 9, "status": "fine"}));
        let lines =
            format!("{good}{}\n{misplaced}\n{no_time}\n{no_status}\n", bad_lines.join("\n"));
        batch.head.count = 9;
        batch.lines = lines.into();

        let ack = fixture.events.append(origin(1), batch).await.unwrap();

        assert_eq!(ack, Acknowledgement { spans: vec![(1, 9)], rejected: 8 });
        assert_eq!(fixture.count("traces").await, 1);
        let sql = "SELECT seq, reason FROM rejected WHERE workspace = 1 ORDER BY seq";
        let rows = fixture.database.rows(sql, &[]).await.unwrap();
        let reasons: Vec<(i64, String)> =
            rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect();
        let expected = bad.iter().map(|(_, reason)| *reason);
        let expected = expected.chain(["its number is 99 in the place of 7", "RFC 3339", "fine"]);
        for ((at, expected), (seq, reason)) in expected.enumerate().zip(&reasons) {
            assert_eq!(*seq, at as i64 + 2);
            assert!(reason.contains(expected), "{seq}: {reason}");
        }
    }
}

/// Of long ago: it is stored in parts, so that others get in between.
#[tokio::test]
async fn a_large_old_batch_is_answered_as_a_whole() {
    for fixture in Fixture::each().await {
        let mut records: Vec<_> = (11..=460).map(trace).collect();
        for bad in [0, 99, 100, 449] {
            records[bad] = json!({});
        }
        let lost = [(1, 5), (600, 700)];
        let batch = || batch_of(DATABASE, RecordKind::Traces, 11, &records, &lost);

        let ack = fixture.events.append(origin(1), batch()).await.unwrap();
        let again = fixture.events.append(origin(1), batch()).await.unwrap();

        let spans = vec![(1, 5), (11, 460), (600, 700)];
        assert_eq!(ack, Acknowledgement { spans: spans.clone(), rejected: 4 });
        assert_eq!(again, Acknowledgement { spans, rejected: 0 });
        assert_eq!((fixture.count("traces").await, fixture.count("rejected").await), (446, 4));
        let sql = "SELECT rejected FROM streams WHERE gateway = 1";
        let row = fixture.database.row(sql, &[]).await.unwrap().unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), 4);
    }
}

/// A gap is filled from its end, so that what comes joins what is there: no part of it may be one more run.
#[tokio::test]
async fn a_large_old_batch_may_fill_a_gap_when_there_are_as_many_as_can_be() {
    for fixture in Fixture::each().await {
        let lost: Vec<_> = (0..SPANS_MAX as i64).map(|at| (1000 + 2 * at, 1000 + 2 * at)).collect();
        let lost = batch_of(DATABASE, RecordKind::Traces, 1, &[], &lost);
        assert_eq!(fixture.events.append(origin(1), lost).await.unwrap().spans.len(), SPANS_MAX);
        let records: Vec<_> = (600..1000).map(trace).collect();

        let ack = fixture.send(1, 600, &records).await.unwrap();

        assert_eq!((ack.spans[0], ack.spans.len()), ((600, 1000), SPANS_MAX));
    }
}

/// Whoever hung up in the middle sends the same again.
#[tokio::test]
async fn a_large_old_batch_goes_on_where_it_was() {
    for fixture in Fixture::each().await {
        let records: Vec<_> = (1..=400).map(trace).collect();
        fixture.send(1, 101, &records[100..300]).await.unwrap();

        let ack = fixture.send(1, 1, &records).await.unwrap();

        assert_eq!(ack.spans, [(1, 400)]);
        assert_eq!(fixture.count("traces").await, 400);
    }
}

#[tokio::test]
async fn a_head_that_makes_no_sense_is_refused() {
    let change: [fn(&mut Batch); 8] = [
        |batch| batch.head.database = "x".repeat(32),
        |batch| batch.head.database.truncate(31),
        |batch| batch.head.first = 0,
        |batch| batch.head.first = i64::MAX,
        |batch| batch.head.count = 2,
        |batch| batch.head.count = 1001,
        |batch| batch.head.lost = vec![(5, 4)],
        |batch| batch.head.lost = vec![(0, 4)],
    ];
    for fixture in Fixture::each().await {
        for change in change {
            let mut batch = batch(RecordKind::Traces, 1, &[trace(1)]);
            change(&mut batch);
            let head = format!("{:?}", batch.head);

            let error = fixture.events.append(origin(1), batch).await.unwrap_err();

            assert!(matches!(error, AppendError::Invalid { .. }), "{head}: {error:?}");
        }
        assert_eq!(fixture.count("traces").await, 0);
    }
}

#[tokio::test]
async fn what_is_lost_is_not_asked_for_and_not_forgotten() {
    for fixture in Fixture::each().await {
        fixture.send(1, 11, &traces(11..=20)).await.unwrap();
        let lost = batch_of(DATABASE, RecordKind::Traces, 30, &[], &[(1, 8), (15, 22)]);

        let ack = fixture.events.append(origin(1), lost).await.unwrap();

        assert_eq!(ack.spans, [(1, 8), (11, 22)]);
        let gaps = fixture.events.verify(origin(1).gateway).await.unwrap();
        let stream = StreamState {
            database: DATABASE.to_owned(),
            kind: RecordKind::Traces,
            spans: vec![(1, 8), (11, 22)],
        };
        let expected = Gaps { stream, missing: vec![(9, 10)], lost: vec![(1, 8), (21, 22)] };
        assert_eq!(gaps, [expected]);
    }
}

#[tokio::test]
async fn what_was_there_before_linking_is_left_out() {
    for fixture in Fixture::each().await {
        let before = StreamState {
            database: DATABASE.to_owned(),
            kind: RecordKind::Traces,
            spans: vec![(1, 100)],
        };
        fixture.events.leave_out(origin(1), &[before]).await.unwrap();

        let ack = fixture.send(1, 99, &traces(99..=102)).await.unwrap();

        assert_eq!(ack.spans, [(1, 102)]);
        assert_eq!(fixture.count("traces").await, 2);
    }
}

#[tokio::test]
async fn more_gaps_than_are_kept_are_refused_until_some_are_filled() {
    for fixture in Fixture::each().await {
        let spans: Vec<Span> = (1..=1000).map(|number| (number * 10, number * 10)).collect();
        let before = StreamState { database: DATABASE.to_owned(), kind: RecordKind::Traces, spans };
        fixture.events.leave_out(origin(1), &[before]).await.unwrap();

        let refused = fixture.send(1, 55, &traces(55..=55)).await.unwrap_err();
        let filled = fixture.send(1, 21, &traces(21..=29)).await.unwrap();

        match refused {
            AppendError::GapsFirst { spans } => assert_eq!(spans.len(), 1000),
            other => panic!("{other:?}"),
        }
        assert_eq!(filled.spans.len(), 999);
        assert_eq!(fixture.send(1, 55, &traces(55..=55)).await.unwrap().spans.len(), 1000);
        assert_eq!(fixture.count("traces").await, 10);
    }
}

/// Upstreams choose names and results, and some mean harm.
/// A stream is a row that stays: a gateway cannot make as many as it likes.
#[tokio::test]
async fn a_gateway_has_a_bounded_number_of_databases() {
    for fixture in Fixture::each().await {
        let send = async |database: u64| {
            let id = format!("{database:032x}");
            let batch = batch_of(&id, RecordKind::Traces, 1, &traces(1..=1), &[]);
            fixture.events.append(origin(1), batch).await
        };
        for database in 0..64 {
            send(database).await.unwrap();
        }

        let refused = send(64).await.unwrap_err();

        assert!(matches!(refused, AppendError::Invalid { .. }), "{refused:?}");
        assert!(send(3).await.is_ok());
        assert_eq!(fixture.events.streams(origin(1).gateway, None).await.unwrap().len(), 64);
    }
}

#[tokio::test]
async fn hostile_texts_are_cut_and_change_nothing_else() {
    let huge = "x".repeat(700_000);
    let bidi = "\u{202e}\u{2066}evil\u{0}'; DROP TABLE traces; --<script>";
    for fixture in Fixture::each().await {
        let hostile = with(
            trace(1),
            json!({
                "name": huge, "upstream": huge, "operation": huge, "method": huge,
                "principal": huge, "session_id": huge, "error": huge, "metadata": {"k": huge},
                "duration": u64::MAX, "request_bytes": u64::MAX, "response_bytes": u64::MAX,
                "request": {"x": huge}, "response": huge,
            }),
        );
        let odd = with(
            trace(2),
            json!({"name": bidi, "upstream": bidi, "principal": bidi, "session_id": bidi,
                "error": bidi, "metadata": {"k": bidi, "transport": 7}, "request": bidi}),
        );

        let ack = fixture.send(1, 1, &[hostile, odd]).await.unwrap();

        assert_eq!(ack.rejected, 0);
        let rows = fixture.traces(&all(10)).await;
        let (odd, hostile) = (&rows[0], &rows[1]);
        assert_eq!(hostile.name.as_ref().unwrap().len(), 1024);
        assert!(hostile.client.ends_with("xx…") && hostile.client.len() == 256);
        assert_eq!(hostile.request_bytes, i64::MAX);
        let clean = bidi.replace('\0', "\u{fffd}");
        assert_eq!(odd.name.as_deref(), Some(&*clean));
        assert_eq!(odd.error.as_deref(), Some(&*clean));
        let detail = fixture.events.trace(workspace(), hostile.id).await.unwrap().unwrap();
        let request: String = serde_json::from_str(&detail.request.unwrap()).unwrap();
        assert!(request.starts_with(r#"{"x":"xxx"#) && request.len() == 256 * 1024);
        assert!(detail.metadata.starts_with(r#"{"cut":"{\"k\":\"xxx"#));
        for text in [bidi, &clean] {
            let query = TraceQuery { name: Some(text.to_owned()), ..all(10) };
            assert_eq!(fixture.traces(&query).await[0].id, id(2));
        }
        let servers = fixture.events.servers(workspace(), 0).await.unwrap();
        assert_eq!(servers.iter().map(|server| server.usage.calls).sum::<i64>(), 2);
    }
}

#[tokio::test]
async fn a_trace_comes_back_as_it_was_sent() {
    for fixture in Fixture::each().await {
        let sent = with(
            trace(1),
            json!({"parent_span_id": "00000000000000ff", "status": "error", "error": "no"}),
        );
        fixture.send(1, 1, std::slice::from_ref(&sent)).await.unwrap();

        let trace = fixture.events.trace(workspace(), id(1)).await.unwrap().unwrap();

        assert_eq!(trace.span_id, sent["span_id"]);
        assert_eq!(trace.parent_span_id.as_deref(), Some("00000000000000ff"));
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(json(&trace.request.unwrap()), sent["request"]);
        assert_eq!(json(&trace.response.unwrap()), sent["response"]);
        assert_eq!(json(&trace.metadata), sent["metadata"]);
        assert_eq!(trace.received_ms, Some(NOON_NS / 1_000_000));
        let line = trace.line;
        assert_eq!(line.id, id(1));
        assert_eq!(line.trace_id.as_deref(), sent["trace_id"].as_str());
        assert_eq!((line.started_ns, line.duration_ns), (NOON_NS + MINUTE_NS, 1_000_001));
        assert_eq!((&*line.operation, &*line.method), ("tool_call", "tools/call"));
        assert_eq!(line.upstream.as_deref(), Some("files"));
        assert_eq!((line.name.as_deref(), &*line.client), (Some("read"), "claude/1.0"));
        assert_eq!((&*line.session, line.error.as_deref()), ("session-1", Some("no")));
        assert_eq!((line.request_bytes, line.response_bytes), (50, 340));
        assert_eq!(line.gateway.name, "gateway 1");
        assert_eq!(line.gateway.owner.as_deref(), Some("Ada"));
        let unknown = fixture.events.trace(workspace(), Uuid::nil()).await.unwrap();
        assert!(unknown.is_none());
    }
}

/// Nobody knows a million files by name; but each call has its own.
#[tokio::test]
async fn names_that_are_too_many_are_still_found() {
    for fixture in Fixture::each().await {
        for batch in 0..3_i64 {
            let numbers = batch * 1000 + 1..=batch * 1000 + 1000;
            let reads: Vec<_> = numbers
                .clone()
                .map(|number| with(trace(number), json!({"name": format!("file:///{number}")})))
                .collect();
            fixture.send(1, *numbers.start(), &reads).await.unwrap();
        }

        assert_eq!(fixture.count("series").await, 2001);
        for number in [1, 2000, 2001, 3000] {
            let query = TraceQuery { name: Some(format!("file:///{number}")), ..all(10) };
            let rows = fixture.traces(&query).await;
            assert_eq!(rows.len(), 1, "{number}");
            assert_eq!(rows[0].id, id(number));
            assert_eq!(rows[0].name, query.name);
        }
        let none = TraceQuery { name: Some("file:///0".to_owned()), ..all(10) };
        assert!(fixture.traces(&none).await.is_empty());
    }
}
