//! What only a database can do, and what can happen to one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::contract::{NOON_NS, event, flush, trace, wait};
use crate::record::{MetricValue, Trace};

fn options(directory: &TempDir) -> SqliteOptions {
    SqliteOptions::new(directory.path().join("state/ultra.db"))
}

fn open(directory: &TempDir) -> SqliteStore {
    SqliteStore::open(options(directory)).unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn count(path: &Path, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    rusqlite::Connection::open(path).unwrap().query_row(&sql, [], |row| row.get(0)).unwrap()
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Waits for many events at once.
fn wait_all(waiting: Vec<Durable>) -> Vec<Result<(), StoreError>> {
    waiting.into_iter().map(wait).collect()
}

#[test]
fn files_are_for_their_owner_only() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();

    let state = directory.path().join("state");
    assert_eq!(mode(&state), 0o700);
    for file in ["ultra.db", "ultra.db-wal", "ultra.db-shm"] {
        assert_eq!(mode(state.join(file)), 0o600, "{file}");
    }
}

#[test]
fn files_that_others_can_read_are_closed_to_them() {
    let directory = TempDir::new().unwrap();
    let first = open(&directory);
    let state = directory.path().join("state");
    let files = ["ultra.db", "ultra.db-wal", "ultra.db-shm"].map(|file| state.join(file));
    for file in &files {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    let second = open(&directory);

    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    wait(first.audit(event(1, "read"))).unwrap();
    wait(second.audit(event(2, "read"))).unwrap();
}

#[test]
fn records_outlast_the_store() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();
    for number in 0..3000 {
        store.record(Record::Trace(Box::new(trace(number, "read"))));
    }
    drop(store);

    let store = open(&directory);

    assert_eq!(store.audit_events(&AuditFilter::default()).unwrap().len(), 1);
    let filter = TraceFilter { limit: 5000, ..Default::default() };
    assert_eq!(store.traces(&filter).unwrap().len(), 3000);
}

#[test]
fn the_last_store_leaves_one_file() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();
    store.audit_events(&AuditFilter::default()).unwrap();

    drop(store);

    let files = std::fs::read_dir(directory.path().join("state")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["ultra.db"]);
}

#[test]
fn a_closed_store_takes_nothing() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.queue.close();

    let refused = wait(store.audit(event(1, "read")));
    store.record(Record::Trace(Box::new(trace(1, "read"))));

    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    assert_eq!(store.health().dropped, 1);
}

#[test]
fn stores_share_a_database() {
    let directory = TempDir::new().unwrap();
    let stores = [open(&directory), open(&directory), open(&directory)];
    let counted = || MetricDelta {
        instrument: "mcp.calls".into(),
        unit: "{call}".into(),
        operation: "tool_call",
        upstream: None,
        name: None,
        value: MetricValue::Counter(1),
    };
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(move || {
                for number in 0..50 {
                    store.metrics(vec![counted()]);
                    wait(store.audit(event(number, "read"))).unwrap();
                }
                flush(store);
            });
        }
    });

    let filter = AuditFilter { limit: 1000, ..Default::default() };
    assert_eq!(stores[0].audit_events(&filter).unwrap().len(), 150);
    let metrics = stores[1].metric_rows(&MetricFilter::default()).unwrap();
    assert_eq!(metrics[0].value, MetricValue::Counter(150));
    assert!(stores.iter().all(|store| store.health().error.is_none()));
}

/// Clients start all their gateways at once.
#[test]
fn stores_can_be_opened_at_once() {
    let directory = TempDir::new().unwrap();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| SqliteStore::open(options(&directory)).map(drop)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    drop(open(&directory));
    let path = options(&directory).path;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();

    for error in [
        SqliteStore::open(options(&directory)).unwrap_err(),
        SqliteReader::open(&path).unwrap_err(),
    ] {
        let text = format!("the database `{}` has schema 99, this version knows 2", path.display());
        assert_eq!(error.to_string(), text);
        assert!(matches!(error, StoreError::TooNew { found: 99, known: 2, .. }));
    }
}

#[test]
fn a_file_that_is_no_database_of_ours_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ultra.db");
    let open = || SqliteStore::open(SqliteOptions::new(&path)).unwrap_err();
    let read = || SqliteReader::open(&path).unwrap_err();
    let text = |cause: &str| format!("cannot open the database `{}`: {cause}", path.display());

    assert_eq!(chain(&read()), text("No such file or directory (os error 2)"));
    assert!(!path.exists());

    std::fs::write(&path, "hello ".repeat(1000)).unwrap();
    assert_eq!(chain(&open()), text("file is not a database (SQLite code 26)"));
    assert_eq!(chain(&read()), chain(&open()));

    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    assert_eq!(chain(&open()), text("not a database of Ultra"));
    assert_eq!(chain(&read()), chain(&open()));

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(chain(&open()), text("not a file"));
}

/// A database damaged in the middle cannot be told at once, but whoever meets the damage learns it.
#[test]
fn damage_is_reported_and_never_a_panic() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    for number in 0..500 {
        store.record(Record::Trace(Box::new(trace(number, "read"))));
    }
    drop(store);
    let path = options(&directory).path;
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[8192..length].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();

    let store = open(&directory);
    let read = store.traces(&TraceFilter::default()).unwrap_err();
    let written = wait(store.audit(event(1, "read"))).unwrap_err();

    let malformed = "the database failed: database disk image is malformed (SQLite code 11)";
    assert_eq!((chain(&read), chain(&written)), (malformed.to_owned(), malformed.to_owned()));
    assert!(store.health().error.is_some());
}

#[test]
fn events_that_wait_together_share_a_commit() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let blocker = rusqlite::Connection::open(options(&directory).path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = vec![store.audit(event(0, "read"))];
    waiting.extend((1..64).map(|number| store.audit(event(number, "read"))));
    blocker.execute_batch("COMMIT").unwrap();

    assert!(wait_all(waiting).iter().all(Result::is_ok));

    let health = store.health();
    assert_eq!(health.written, 64);
    // The first may have been on its way alone.
    assert!(health.commits <= 2, "{health:?}");
}

#[test]
fn traces_do_not_wait_for_an_audit_event() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.record(Record::Trace(Box::new(trace(1, "read"))));

    let deadline = Instant::now() + Duration::from_secs(20);
    while store.health().written == 0 {
        assert!(Instant::now() < deadline, "the trace was not written");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_refuses_events_and_takes_them_again() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();
    store.limit_pages(Some(1));
    let large = Trace { request: Some(Bytes::from(vec![b'1'; 60_000])), ..trace(1, "read") };
    store.record(Record::Trace(Box::new(large.clone())));

    let refused = wait(store.audit(event(2, "read"))).unwrap_err();

    let full = "the database failed: database or disk is full (SQLite code 13)";
    assert_eq!(chain(&refused), full);
    let health = store.health();
    assert_eq!((health.dropped, health.error.as_deref()), (1, Some(full)));

    store.limit_pages(None);
    store.record(Record::Trace(Box::new(large)));
    wait(store.audit(event(3, "read"))).unwrap();

    let seqs: Vec<_> = store.audit_events(&AuditFilter::default()).unwrap();
    let ids: Vec<_> = seqs.iter().map(|row| &row.id[32..]).collect();
    assert_eq!(ids, ["3003", "3001"]);
    assert_eq!(store.traces(&TraceFilter::default()).unwrap().len(), 1);
    assert_eq!(store.health().error, None);
}

/// Figures are sums: one that is missing would never be noticed.
#[test]
fn metrics_survive_a_commit_that_fails() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.limit_pages(Some(1));
    let large = Trace { request: Some(Bytes::from(vec![b'1'; 60_000])), ..trace(1, "read") };
    store.record(Record::Trace(Box::new(large)));
    store.metrics(vec![MetricDelta {
        instrument: "mcp.calls".into(),
        unit: "{call}".into(),
        operation: "tool_call",
        upstream: None,
        name: None,
        value: MetricValue::Counter(7),
    }]);
    flush(&store);
    assert!(store.health().error.is_some());

    store.limit_pages(None);
    wait(store.audit(event(1, "read"))).unwrap();

    let rows = store.metric_rows(&MetricFilter::default()).unwrap();
    assert_eq!(rows[0].value, MetricValue::Counter(7));
}

#[test]
fn a_database_deleted_under_a_gateway_is_made_again() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();

    wait(store.audit(event(2, "read"))).unwrap();

    let rows = store.audit_events(&AuditFilter::default()).unwrap();
    assert_eq!((rows.len(), &rows[0].id[32..]), (1, "3002"));
    drop(store);
    assert_eq!(count(&options(&directory).path, "audit_events"), 1);
}

#[test]
fn a_full_queue_refuses_events_and_drops_traces() {
    let directory = TempDir::new().unwrap();
    let mut options = options(&directory);
    options.queued_audit_max = 2;
    options.queued_traces_max = 2;
    options.queued_bytes_max = 100;
    let store = SqliteStore::open(options.clone()).unwrap();
    let blocker = rusqlite::Connection::open(&options.path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();

    let waiting = vec![store.audit(event(1, "read")), store.audit(event(2, "read"))];
    let refused = wait(store.audit(event(3, "read"))).unwrap_err();
    let large = Trace { request: Some(Bytes::from(vec![b'1'; 99])), ..trace(1, "read") };
    for _ in 0..2 {
        store.record(Record::Trace(Box::new(large.clone())));
    }
    for _ in 0..2 {
        store.record(Record::Trace(Box::new(Trace { request: None, ..trace(1, "read") })));
    }

    assert_eq!(refused.to_string(), "more than 2 audit events wait to be stored");
    assert_eq!((store.health().queued, store.health().dropped), (4, 2));
    blocker.execute_batch("COMMIT").unwrap();
    assert!(wait_all(waiting).iter().all(Result::is_ok));
    flush(&store);
    assert_eq!((store.health().queued, store.health().written), (0, 4));
}

#[test]
fn flushing_gives_up_at_its_deadline() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let blocker = rusqlite::Connection::open(options(&directory).path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.record(Record::Trace(Box::new(trace(1, "read"))));

    assert!(!store.flush(Instant::now() + Duration::from_millis(20)));

    blocker.execute_batch("COMMIT").unwrap();
    flush(&store);
    assert_eq!(store.health().written, 1);
}

#[test]
fn old_rows_are_deleted_and_the_last_number_stays() {
    let directory = TempDir::new().unwrap();
    let path = options(&directory).path;
    let store = open(&directory);
    for number in 0..1200 {
        store.record(Record::Trace(Box::new(trace(number, "read"))));
        store.record(Record::Audit(event(number, "read")));
    }
    drop(store);
    let mut connection = schema::open(&path).unwrap();
    let mut delete = |oldest: i64, rows_max: i64| {
        let upstreams = std::collections::BTreeMap::new();
        retention::delete_chunk(&mut connection, oldest, rows_max, NOON_NS, &upstreams).unwrap()
    };

    assert_eq!(delete(NOON_NS + 100, 1_000_000), 100);
    assert_eq!((count(&path, "traces"), count(&path, "trace_payloads")), (1100, 1100));
    assert_eq!(delete(i64::MIN, 10), 500);
    assert_eq!(delete(i64::MIN, 10), 500);
    assert_eq!(delete(i64::MIN, 10), 90);
    assert_eq!((count(&path, "traces"), count(&path, "audit_events")), (10, 10));
    assert_eq!(delete(i64::MAX, 10), 9);

    let store = open(&directory);
    store.record(Record::Trace(Box::new(trace(1, "read"))));
    flush(&store);
    assert_eq!(store.traces(&TraceFilter::default()).unwrap()[0].seq, 1201);
}

/// Of all gateways: one that does not send must not delete what another one has yet to send.
#[test]
fn rows_that_wait_to_be_sent_stay_ten_times_as_long() {
    let directory = TempDir::new().unwrap();
    let path = options(&directory).path;
    let store = open(&directory);
    for number in 0..400 {
        store.record(Record::Trace(Box::new(trace(number, "read"))));
        store.record(Record::Audit(event(number, "read")));
    }
    let kept = |rows_max: i64, oldest: i64| {
        flush(&store);
        let mut connection = schema::open(&path).unwrap();
        let upstreams = std::collections::BTreeMap::new();
        retention::delete_chunk(&mut connection, oldest, rows_max, NOON_NS, &upstreams).unwrap();
        (count(&path, "traces"), count(&path, "audit_events"))
    };

    store.hold_unsent(Some(Mark { trace: 51, audit_event: 401 }));
    assert_eq!(kept(100, i64::MIN), (350, 100));
    assert_eq!(kept(20, i64::MIN), (200, 20));
    assert_eq!(kept(20, NOON_NS + 300), (100, 20));
    store.hold_unsent(None);
    assert_eq!(kept(20, i64::MIN), (20, 20));
}

#[test]
fn a_database_of_the_first_schema_keeps_its_rows_and_gets_an_id() {
    let directory = TempDir::new().unwrap();
    let path = options(&directory).path;
    let store = open(&directory);
    wait(store.audit(event(1, "read"))).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("DROP TABLE sending; PRAGMA user_version = 1;").unwrap();
    drop(connection);
    assert!(SqliteReader::open(&path).is_err());

    let store = open(&directory);

    assert_eq!(store.database_id().unwrap().len(), 32);
    assert_eq!(store.numbers().unwrap().audit_events, Some((1, 1)));
}

/// The command line reads while a gateway writes.
#[test]
fn a_reader_of_its_own_sees_what_is_durable() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let reader = SqliteReader::open(options(&directory).path).unwrap();
    for number in 1..4 {
        wait(store.audit(event(number, "read"))).unwrap();
        assert_eq!(reader.audit_events(&AuditFilter::default()).unwrap().len() as u64, number);
    }
    drop(store);

    assert_eq!(reader.audit_events(&AuditFilter::default()).unwrap().len(), 3);
}

/// The log must not grow for ever, whether the gateway is idle or not.
#[test]
fn the_log_stays_short() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let payload = Bytes::from(format!(r#"{{"a":"{}"}}"#, "x".repeat(50_000)));
    for number in 0..40 {
        for _ in 0..20 {
            let large = Trace { request: Some(payload.clone()), ..trace(number, "read") };
            store.record(Record::Trace(Box::new(large)));
        }
        flush(&store);
    }

    let log = std::fs::metadata(directory.path().join("state/ultra.db-wal")).unwrap().len();
    assert!(log < 16 * 1024 * 1024, "{log}");
}

/// `initialize` asks for a catalog while a day's records are read to be sent.
#[test]
fn whoever_reads_runs_holds_nobody_up() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.remember_catalog("files", "1", Bytes::from_static(b"c"));
    flush(&store);
    let (reading, is_reading) = mpsc::channel();
    let (ended, end) = mpsc::channel::<()>();

    std::thread::scope(|scope| {
        let runs = &store.runs;
        scope.spawn(move || {
            runs.read(|_| {
                reading.send(()).unwrap();
                let _ = end.recv();
                Ok(())
            })
        });
        is_reading.recv().unwrap();
        assert_eq!(store.catalog("files", "1").unwrap().as_deref(), Some(&b"c"[..]));
        drop(ended);
    });
}

/// Callers on many threads, none of whom may be forgotten.
#[test]
fn every_waiter_is_answered() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let sender = sender.clone();
            let store = &store;
            scope.spawn(move || {
                for number in 0..100 {
                    store.record(Record::Trace(Box::new(trace(number, "read"))));
                    sender.send(store.audit(event(number, "read"))).unwrap();
                }
            });
        }
        drop(sender);
        for durable in receiver {
            wait(durable).unwrap();
        }
    });
    flush(&store);

    assert_eq!(store.health().written, 1600);
}
