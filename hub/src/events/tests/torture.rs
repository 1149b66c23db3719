//! Batches as they come over a bad network from gateways that crash: nothing is lost, and nothing is there twice.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::*;
use crate::wire::StreamState;

/// Records of each stream.
const RECORDS: i64 = 1500;

const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// The last one. The same for all that is sent again.
static MIDNIGHT_NS: LazyLock<i64> = LazyLock::new(|| {
    let now_ns = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
    now_ns.div_euclid(DAY_NS) * DAY_NS
});

/// One stream that a task plays.
#[derive(Debug, Clone)]
struct Stream {
    gateway: i64,
    database: String,
    kind: RecordKind,
}

impl Stream {
    fn batch(&self, (first, last): Span) -> Batch {
        let make = match self.kind {
            RecordKind::Traces => trace,
            RecordKind::Audit => event,
        };
        // Each stream has records of its own.
        let base = self.gateway * 1_000_000 + i64::from(self.database != DATABASE) * 100_000;
        // Two seconds apart, around the last midnight: PostgreSQL has a table for each of the two days.
        let at_ns = |seq: i64| *MIDNIGHT_NS + (seq - RECORDS / 2) * 2_000_000_000;
        let record = |seq| with(make(base + seq), json!({"timestamp": timestamp(at_ns(seq))}));
        let records: Vec<_> = (first..=last).map(record).collect();
        batch_of(&self.database, self.kind, first, &records, &[])
    }
}

fn streams() -> Vec<Stream> {
    let mut streams = Vec::new();
    for gateway in [1, 2, 4] {
        for (database, kind) in [
            (DATABASE, RecordKind::Traces),
            (DATABASE, RecordKind::Audit),
            ("ffffffffffffffffffffffffffffffff", RecordKind::Traces),
        ] {
            streams.push(Stream { gateway, database: database.to_owned(), kind });
        }
    }
    streams
}

/// Returns runs of all numbers, cut at random, each one to five times, in no order.
fn runs(random: &mut SmallRng) -> Vec<Span> {
    let mut runs = Vec::new();
    for times in [1..=5, 0..=1] {
        let mut first = 1;
        while first <= RECORDS {
            let last = (first + random.random_range(0..120)).min(RECORDS);
            let times = random.random_range(times.clone());
            runs.extend(std::iter::repeat_n((first, last), times));
            first = last + 1;
        }
    }
    runs.shuffle(random);
    runs
}

/// Sends until it is taken. Some that are cut on the way come before it, and some are given up in the middle.
async fn send(events: &Arc<SqlEvents>, stream: &Stream, span: Span, random: &mut SmallRng) {
    loop {
        if random.random_ratio(1, 10) {
            let mut cut = stream.batch(span);
            let length = cut.lines.len();
            cut.lines.truncate(random.random_range(0..length - 1));
            // Cut within its last line it has as many lines, but that one cannot be read.
            let whole = cut.lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            if whole + 1 < cut.head.count {
                let error = events.append(origin(stream.gateway), cut).await.unwrap_err();
                assert!(matches!(error, AppendError::Invalid { .. }), "{error:?}");
            }
        }
        let sent = events.append(origin(stream.gateway), stream.batch(span));
        let sent = match random.random_ratio(1, 10) {
            true => {
                let time = Duration::from_micros(random.random_range(0..5000));
                tokio::time::timeout(time, sent).await
            }
            false => Ok(sent.await),
        };
        match sent {
            Ok(Ok(ack)) => {
                let is_in =
                    |spans: &[Span]| spans.iter().any(|had| had.0 <= span.0 && span.1 <= had.1);
                assert!(is_in(&ack.spans), "{span:?} in {:?}", ack.spans);
                assert_eq!(ack.rejected, 0);
                return;
            }
            // Whoever hangs up does not know, and sends again.
            Err(_) | Ok(Err(AppendError::Full)) => tokio::task::yield_now().await,
            Ok(Err(error)) => panic!("{error:?}"),
        }
    }
}

async fn is_all_there(fixture: &Fixture, streams: &[Stream]) {
    for stream in streams {
        let found = fixture.events.streams(origin(stream.gateway).gateway, Some(&stream.database));
        let state = StreamState {
            database: stream.database.clone(),
            kind: stream.kind,
            spans: vec![(1, RECORDS)],
        };
        assert!(found.await.unwrap().contains(&state), "{stream:?}");
    }
    for gaps in fixture.events.verify(origin(1).gateway).await.unwrap() {
        assert!(gaps.missing.is_empty() && gaps.lost.is_empty(), "{gaps:?}");
    }
    let of = |kind| streams.iter().filter(|stream| stream.kind == kind).count() as i64 * RECORDS;
    assert_eq!(fixture.count("traces").await, of(RecordKind::Traces));
    assert_eq!(fixture.count("trace_details").await, of(RecordKind::Traces));
    assert_eq!(fixture.count("audit_events").await, of(RecordKind::Audit));
    for (table, expected) in [
        ("series WHERE kind = 'traces'", of(RecordKind::Traces)),
        ("series WHERE kind = 'audit'", of(RecordKind::Audit)),
        ("tool_usage", of(RecordKind::Traces)),
        ("gateway_usage", of(RecordKind::Traces)),
    ] {
        let sql = format!("SELECT CAST(sum(calls) AS BIGINT) FROM {table}");
        let row = fixture.database.row(&sql, &[]).await.unwrap().unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), expected, "{table}");
    }
    let rows = fixture.database.rows("SELECT id, workspace FROM traces", &[]).await.unwrap();
    let key = |row: &crate::db::Row| (row.get::<Vec<u8>>(0).unwrap(), row.get::<i64>(1).unwrap());
    let different: HashSet<_> = rows.iter().map(key).collect();
    assert_eq!(different.len(), rows.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_network_does_every_record_is_there_once() {
    for fixture in Fixture::each().await {
        let mut tasks = JoinSet::new();
        // Two tasks for each stream: processes of the same gateway.
        for (number, stream) in streams().into_iter().flat_map(|s| [s.clone(), s]).enumerate() {
            let events = Arc::clone(&fixture.events);
            tasks.spawn(async move {
                let mut random = SmallRng::seed_from_u64(number as u64);
                for span in runs(&mut random) {
                    send(&events, &stream, span, &mut random).await;
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }

        is_all_there(&fixture, &streams()).await;
    }
}

/// The Hub was restored: it says that it has less, and what it lost comes again. Some of it may still be there,
/// if not everything was restored to the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restored_hub_asks_for_again_is_there_once() {
    for fixture in Fixture::each().await {
        let mut random = SmallRng::seed_from_u64(1);
        for stream in streams() {
            for first in (1..=RECORDS).step_by(500) {
                let span = (first, first + 499);
                send(&fixture.events, &stream, span, &mut random).await;
            }
        }
        let back = "UPDATE streams SET spans = '[[1,400],[600,700]]'";
        fixture.database.execute(back, &[]).await.unwrap();

        for stream in streams() {
            let gateway = origin(stream.gateway).gateway;
            let found = fixture.events.streams(gateway, Some(&stream.database)).await.unwrap();
            let state = found.into_iter().find(|state| state.kind == stream.kind).unwrap();
            let had: crate::spans::Spans = state.spans.into_iter().collect();
            for (first, last) in had.missing((1, RECORDS)) {
                for first in (first..=last).step_by(100) {
                    let span = (first, last.min(first + 99));
                    send(&fixture.events, &stream, span, &mut random).await;
                }
            }
        }

        is_all_there(&fixture, &streams()).await;
    }
}

/// Batches that are stored together do not share what becomes of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_batch_takes_no_other_one_with_it() {
    for fixture in Fixture::each().await {
        let spans = (1..=1000).map(|number| (number * 10, number * 10)).collect();
        let before = StreamState { database: DATABASE.to_owned(), kind: RecordKind::Traces, spans };
        fixture.events.leave_out(origin(2), &[before]).await.unwrap();
        let mut tasks = JoinSet::new();
        for number in 1..=200_i64 {
            let events = Arc::clone(&fixture.events);
            tasks.spawn(async move {
                // Every second one would make one gap too many.
                let gateway = 1 + number % 2;
                let first = number * 5;
                let records = [trace(first), trace(first + 1)];
                let batch = batch(RecordKind::Traces, first, &records);
                (gateway, events.append(origin(gateway), batch).await)
            });
        }

        while let Some(done) = tasks.join_next().await {
            let (gateway, outcome) = done.unwrap();
            match outcome {
                Ok(_) => assert_eq!(gateway, 1),
                Err(AppendError::GapsFirst { spans }) => {
                    assert_eq!((gateway, spans.len()), (2, 1000));
                }
                Err(error) => panic!("{error:?}"),
            }
        }

        assert_eq!(fixture.count("traces").await, 200);
    }
}
