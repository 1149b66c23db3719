//! What only tables show: days, what is too old, and the disk.

use serde_json::json;

use super::partitions::{DAY_NS, days, now_ns};
use super::*;
use crate::db::{Dialect, Transaction, Value};
use crate::events::retention::{self, Ages};
use crate::events::tests::{
    Fixture, all, batch, event, id, origin, timestamp, trace, with, workspace,
};
use crate::wire::RecordKind;

use std::time::Duration;

/// A database that notes how SQLite would find what it is asked for.
#[derive(Debug)]
struct Explained {
    database: Arc<dyn Database>,
    plans: std::sync::Mutex<Vec<String>>,
}

#[async_trait]
impl Database for Explained {
    fn dialect(&self) -> Dialect {
        self.database.dialect()
    }

    async fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        let plan = self.database.rows(&format!("EXPLAIN QUERY PLAN {sql}"), parameters).await?;
        let steps = plan.iter().map(|row| row.get::<String>(3)).collect::<Result<Vec<_>, _>>()?;
        self.plans.lock().unwrap().extend(steps);
        self.database.rows(sql, parameters).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, DbError> {
        self.database.begin().await
    }
}

impl Explained {
    /// Returns the ways to the records that were taken since the last time.
    fn ways(&self) -> Vec<String> {
        let steps = std::mem::take(&mut *self.plans.lock().unwrap());
        let tables = [" traces", " trace_details", " audit_events", " t ", " d "];
        let of_records = |step: &String| tables.iter().any(|table| step.contains(table));
        let mut ways: Vec<_> = steps.into_iter().filter(of_records).collect();
        ways.dedup();
        ways
    }
}

/// Nothing reads a whole workspace, although nobody ever ran `ANALYZE`.
#[tokio::test]
async fn sqlite_takes_the_shortest_way() {
    let fixture = Fixture::each().await.remove(0);
    for number in 0..3 {
        fixture.send(1, 1 + number, &[aged(number + 1, number)]).await.unwrap();
        fixture.send(1, 1 + number, &[event(number + 1)]).await.unwrap();
    }
    let database = Explained { database: Arc::clone(&fixture.database), plans: Vec::new().into() };
    let text = |text: &str| Some(text.to_owned());
    let all = || all(50);
    let queries = [
        (all(), "PRIMARY KEY"),
        (TraceQuery { session: text("session-1"), ..all() }, "traces_by_session"),
        (TraceQuery { name: text("read"), ..all() }, "traces_by_name"),
        (TraceQuery { upstream: text("files"), ..all() }, "traces_by_series"),
        (TraceQuery { id: text(&id(1).to_string()), ..all() }, "traces_by_trace"),
    ];

    for (query, index) in queries {
        let page = traces::page(&database, workspace(), &query).await.unwrap();

        let ways = database.ways();
        assert!(!page.rows.is_empty(), "{query:?}");
        assert!(ways.iter().any(|way| way.contains(index)), "{query:?} {ways:#?}");
        for way in ways {
            let is_narrow = !way.starts_with("SCAN t") && !way.contains("(workspace=?)");
            assert!(is_narrow, "{query:?}: {way}");
        }
    }
    let of = SessionKey { gateway: origin(1).gateway, session: "session-1".to_owned() };
    assert_eq!(traces::session(&database, workspace(), &of, 10).await.unwrap().len(), 3);
    assert!(traces::detail(&database, workspace(), id(1)).await.unwrap().is_some());
    assert!(audit::event(&database, workspace(), id(1)).await.unwrap().is_some());
    for way in database.ways() {
        let is_narrow = !way.starts_with("SCAN t") && !way.contains("(workspace=?)");
        assert!(is_narrow, "{way}");
    }
}

/// A trace that began so long ago.
fn aged(number: i64, days: i64) -> serde_json::Value {
    with(trace(number), json!({"timestamp": timestamp(now_ns() - days * DAY_NS)}))
}

async fn ids(fixture: &Fixture) -> Vec<Uuid> {
    fixture.traces(&all(100)).await.iter().map(|row| row.id).collect()
}

fn ages(days: u64) -> Ages {
    let age = Duration::from_secs(days * 24 * 3600);
    Ages { traces: age, audit: age }
}

#[tokio::test]
async fn what_is_too_old_is_deleted_with_all_that_is_known_of_it() {
    for fixture in Fixture::each().await {
        let old_tool = |record| with(record, json!({"name": "old", "upstream": "old"}));
        let old: Vec<_> = (1..=1200).map(|number| old_tool(aged(number, 40))).collect();
        fixture.send(1, 1, &old[..1000]).await.unwrap();
        fixture.send(1, 1001, &old[1000..]).await.unwrap();
        fixture.send(1, 1201, &[aged(2001, 3), aged(2002, 0)]).await.unwrap();
        let event = |number, days| {
            with(event(number), json!({"timestamp": timestamp(now_ns() - days * DAY_NS)}))
        };
        fixture.send(1, 1, &[event(1, 40), event(2, 0)]).await.unwrap();

        let deleted = retention::once(&*fixture.events, ages(30)).await;

        assert!(deleted >= 2, "{deleted}");
        assert_eq!(ids(&fixture).await, [id(2002), id(2001)]);
        for (table, left) in [
            ("traces", 2),
            ("trace_details", 2),
            ("audit_events", 1),
            ("tool_usage", 2),
            ("gateway_usage", 2),
        ] {
            assert_eq!(fixture.count(table).await, left, "{table}");
        }
        let servers = fixture.events.servers(workspace(), 0).await.unwrap();
        assert_eq!(servers.len(), 1);
        // It has them: they are not asked for again.
        let ack = fixture.send(1, 1, &old[..1000]).await.unwrap();
        assert_eq!(ack.spans, [(1, 1202)]);
        assert_eq!(fixture.count("traces").await, 2);
        assert_eq!(retention::once(&*fixture.events, ages(30)).await, 0);
    }
}

#[tokio::test]
async fn traces_and_audit_events_have_ages_of_their_own() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &[aged(1, 40)]).await.unwrap();
        let old_event = with(event(1), json!({"timestamp": timestamp(now_ns() - 40 * DAY_NS)}));
        fixture.send(1, 1, &[old_event]).await.unwrap();
        let ages = Ages { audit: Duration::from_secs(365 * 24 * 3600), ..ages(30) };

        retention::once(&*fixture.events, ages).await;

        assert_eq!(fixture.count("traces").await, 0);
        assert_eq!(fixture.count("audit_events").await, 1);
    }
}

#[tokio::test]
async fn odd_clocks_are_in_nobodys_way_and_do_not_stay_forever() {
    for fixture in Fixture::each().await {
        let at = |number, at_ns| with(trace(number), json!({"timestamp": timestamp(at_ns)}));
        let odd = [
            at(1, 0),
            at(2, -1),
            at(3, i64::MIN + 1_000_000_000),
            at(4, i64::MAX - 1_000_000_000),
            at(5, now_ns() + 10 * DAY_NS),
            aged(6, 399),
            aged(7, 401),
            aged(8, 0),
        ];
        let mut first = batch(RecordKind::Traces, 1, &odd);
        first.received_ms = now_ns() / 1_000_000 - 40 * 24 * 3600 * 1000;
        fixture.events.append(origin(1), first).await.unwrap();

        assert_eq!(ids(&fixture).await, [4, 5, 8, 6, 7, 1, 2, 3].map(id));
        let mut late = batch(RecordKind::Traces, 9, &[at(9, i64::MAX - 1)]);
        late.received_ms = now_ns() / 1_000_000;
        fixture.events.append(origin(1), late).await.unwrap();
        retention::once(&*fixture.events, ages(30)).await;

        // What is ahead goes by when it came.
        assert_eq!(ids(&fixture).await, [id(9), id(8)]);
    }
}

#[tokio::test]
async fn each_day_has_a_table_and_what_was_odd_moves_there() {
    for fixture in Fixture::each().await {
        let database = &*fixture.database;
        if database.dialect() == Dialect::Sqlite {
            continue;
        }
        let today = now_ns().div_euclid(DAY_NS);
        assert_eq!(days(database, "traces").await.unwrap(), [today, today + 1, today + 2]);
        // Five days at once are more than are made for a batch.
        let batch: Vec<_> = (1..=5).map(|number| aged(number, 100 + number)).collect();
        fixture.send(1, 1, &batch).await.unwrap();
        assert_eq!(fixture.count("traces_odd").await, 1);
        assert_eq!(fixture.count("trace_details_odd").await, 1);

        let again: Vec<_> = (1..=5).map(|number| aged(10 + number, 100 + number)).collect();
        fixture.send(1, 6, &again).await.unwrap();

        let expected: Vec<_> = (101..=105).map(|age| today - age).rev().collect();
        for table in ["traces", "trace_details"] {
            let days = days(database, table).await.unwrap();
            assert_eq!(days[..5], expected, "{table}");
        }
        assert_eq!(fixture.count("traces_odd").await, 0);
        assert_eq!(fixture.count("traces").await, 10);
        for number in 1..=5 {
            assert!(fixture.events.trace(workspace(), id(number)).await.unwrap().is_some());
        }
        assert_eq!(fixture.events.retain(now_ns() - 50 * DAY_NS, 0).await.unwrap(), 1);
        assert_eq!(days(database, "traces").await.unwrap().len(), 7);
        assert_eq!(days(database, "trace_details").await.unwrap().len(), 7);
    }
}

#[tokio::test]
async fn replicas_make_the_same_days() {
    for fixture in Fixture::each().await {
        let tasks = TaskTracker::new();
        let other = SqlEvents::open(Arc::clone(&fixture.database), Options::default(), &tasks);
        let other = other.await.unwrap();
        let of = |gateway, number| {
            let records = [aged(number, 10), aged(number + 1, 11), aged(number + 2, 12)];
            (origin(gateway), batch(RecordKind::Traces, 1, &records))
        };
        let ((one, first), (two, second)) = (of(1, 1), of(2, 10));

        let (first, second) =
            tokio::join!(fixture.events.append(one, first), other.append(two, second));

        assert!(first.is_ok() && second.is_ok());
        assert_eq!(ids(&fixture).await.len(), 6);
        // The tasks of the other one end with it.
        drop(other);
        tasks.close();
        tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_full_disk_takes_nothing_more() {
    let fixture = Fixture::each().await.remove(0);
    let directory = tempfile::tempdir().unwrap();
    let free = FreeSpace { bytes_min: u64::MAX, percent_min: 0 };
    let options = Options { directory: Some(directory.path().to_owned()), free };
    let tasks = TaskTracker::new();
    let full = SqlEvents::open(Arc::clone(&fixture.database), options, &tasks).await.unwrap();

    let error =
        full.append(origin(1), batch(RecordKind::Traces, 1, &[trace(1)])).await.unwrap_err();

    assert!(matches!(error, AppendError::Full), "{error:?}");
    assert_eq!(fixture.count("traces").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_hub_can_store_is_refused_early() {
    let fixture = Fixture::each().await.remove(0);
    // Whoever writes holds everybody up.
    let held = fixture.database.begin().await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for gateway in 1..=60_i64 {
        let events = Arc::clone(&fixture.events);
        let records: Vec<_> = (1..=1000).map(|number| aged(gateway * 1000 + number, 0)).collect();
        waiting.spawn(async move {
            let mut batch = batch(RecordKind::Traces, 1, &records);
            batch.head.database = format!("{gateway:032x}");
            events.append(origin(1), batch).await
        });
    }
    // Those that find no room are told at once, however long the others wait.
    let mut refused = 0;
    while refused < 60 - 23 {
        let error = waiting.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, AppendError::Full), "{error:?}");
        refused += 1;
    }
    let small = [trace(1)];
    let small = fixture.send(1, 1, &small);
    let small = tokio::time::timeout(Duration::from_millis(50), small).await;
    assert!(small.is_err(), "a small one waits, and is not refused");
    drop(held);

    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(fixture.count("traces WHERE received_ms > 0").await, 23 * 1000 + 1);
}
