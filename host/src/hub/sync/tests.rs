//! Against a Hub that behaves as it is told, with a real store.

use std::path::Path;
use std::time::Instant;

use rand::seq::IndexedRandom;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use ultra_hub::wire::RecordKind::{Audit, Traces};
use ultra_store::{
    AuditEvent, AuditOutcome, MemoryOptions, MemoryStore, Record, Severity, SqliteOptions,
    SqliteStore, Status, Trace, UpstreamStatus,
};

use super::fake::{Behaviour, Hub, SECRET};
use super::*;
use crate::unix_ns;
use crate::upstream::{Endpoint, Program};

/// A few milliseconds where there are seconds and minutes otherwise.
fn timing() -> Timing {
    Timing {
        heartbeat_min: Duration::from_millis(15),
        first_client: Duration::from_millis(1),
        back_off_min: Duration::from_millis(4),
        back_off_max: Duration::from_millis(40),
        ..Timing::default()
    }
}

fn options(hub: &Hub, database: Option<&Path>) -> Options {
    let (_, upstreams) = watch::channel(Vec::new().into());
    Options {
        url: hub.url(),
        gateway_id: "gw_1".to_owned(),
        secret: Secret::new(SECRET.to_owned()),
        is_linked: Arc::new(|| true),
        linked_unix_ns: 0,
        started_unix_ns: 0,
        before: None,
        interval: Duration::from_millis(30),
        host: Host { hostname: "laptop".to_owned(), ..Host::default() },
        database: database.map(Path::to_owned),
        clients: Arc::default(),
        upstreams,
    }
}

fn trace(unix_ns: i64) -> Trace {
    Trace {
        id: uuid::Uuid::now_v7(),
        trace_id: 7,
        span_id: 7,
        parent_span_id: None,
        operation: "tool_call",
        method: "tools/call".into(),
        upstream: Some("files".into()),
        name: Some("read".into()),
        request: Some(bytes::Bytes::from_static(br#"{"path":"a.txt"}"#)),
        response: None,
        status: Status::Success,
        error: None,
        duration_ns: 1_000,
        started_unix_ns: unix_ns,
        principal: "client/1.0".into(),
        session_id: "session".into(),
        transport: None,
        metadata: Vec::new(),
    }
}

fn event(unix_ns: i64) -> AuditEvent {
    AuditEvent {
        id: uuid::Uuid::now_v7(),
        trace_id: None,
        event_type: "tool_call",
        severity: Severity::Info,
        upstream: None,
        action: None,
        principal: "client/1.0".into(),
        session_id: None,
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns,
    }
}

fn record(store: &dyn Store, traces: usize, events: usize) {
    for _ in 0..traces {
        store.record(Record::Trace(Box::new(trace(unix_ns()))));
    }
    for _ in 0..events {
        store.record(Record::Audit(Box::new(event(unix_ns()))));
    }
    flush(store);
}

fn flush(store: &dyn Store) {
    assert!(store.flush(Instant::now() + Duration::from_secs(30)), "flush took 30 s");
}

/// A database in a directory of its own.
struct Place {
    directory: TempDir,
    store: Arc<dyn Store>,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = Self::open(&directory);
        Self { directory, store }
    }

    fn open(directory: &TempDir) -> Arc<dyn Store> {
        let mut options = SqliteOptions::new(directory.path().join("ultra.db"));
        options.queued_traces_max = 100_000;
        Arc::new(SqliteStore::open(options).unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("ultra.db")
    }

    fn sync(&self, hub: &Hub) -> Sync {
        let options = options(hub, Some(&self.path()));
        Sync::start_with(options, Arc::clone(&self.store), timing()).unwrap()
    }
}

fn definition(name: &str) -> Definition {
    let program = Program {
        command: "server".into(),
        args: Vec::new(),
        env: Default::default(),
        inherited: Arc::default(),
        cwd: None,
    };
    Definition {
        name: name.into(),
        endpoint: Endpoint::Stdio(program),
        era: None,
        is_shared: false,
        hides_sign_in: false,
    }
}

/// Starts without a thread of its own, so that what is logged is seen.
fn spawn(options: Options, store: &Arc<dyn Store>) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let running = run(options, Arc::clone(store), timing(), stop.clone());
    (tokio::spawn(running), stop)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        crate::lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the lines of a level.
    fn lines(&self, level: &str) -> Vec<String> {
        let text = String::from_utf8(crate::lock(&self.0).clone()).unwrap();
        text.lines().filter(|line| line.trim().starts_with(level)).map(str::to_owned).collect()
    }
}

fn all(last: i64) -> Vec<i64> {
    (1..=last).collect()
}

#[tokio::test]
async fn what_the_store_has_comes_to_the_hub_as_it_is() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 3, 2);

    let sync = place.sync(&hub);
    hub.until("5 records", |state| state.kept.records.len() == 5).await;
    record(&*place.store, 2, 0);
    hub.until("2 more", |state| state.kept.records.len() == 7).await;

    let rows = serde_json::to_value(place.store.traces(&Default::default()).unwrap()).unwrap();
    for row in rows.as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        assert_eq!(hub.with(|state| state.kept.records[id].clone()), *row);
    }
    assert!(sync.shutdown().await);
    hub.with(|state| {
        assert_eq!((state.kept.seqs(Traces), state.kept.seqs(Audit)), (all(5), all(2)));
        assert_eq!((state.repeated, state.kept.lost.len()), (0, 0));
        assert!(state.beats.last().unwrap().farewell);
        assert_eq!(state.beats.last().unwrap().unsent, 0);
    });
}

/// The promise, with all that goes wrong on the way.
#[tokio::test]
async fn nothing_is_lost_and_nothing_is_there_twice() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 5_000, 500);
    let ways = [
        Behaviour::Take,
        Behaviour::LoseAnswer,
        Behaviour::Break,
        Behaviour::Deny,
        Behaviour::GapsFirst,
        Behaviour::Refuse(503, "unavailable", None),
        Behaviour::Refuse(429, "rate_limited", Some(0)),
        Behaviour::Refuse(500, "internal", None),
        Behaviour::Refuse(400, "invalid", None),
        Behaviour::Refuse(413, "too_large", None),
        Behaviour::Refuse(400, "invalid", None),
    ];
    let way = || ways.choose(&mut rand::rng()).unwrap().clone();
    hub.with(|state| state.next = std::iter::repeat_with(way).take(60).collect());

    for _ in 0..6 {
        // One that is killed, wherever it is. Of each kind there is something to send.
        let enough = hub.with(|state| state.batches.len()) + 2;
        let sync = place.sync(&hub);
        record(&*place.store, 500, 50);
        hub.until("2 batches", |state| state.batches.len() >= enough).await;
        drop(sync);
    }
    let sync = place.sync(&hub);
    hub.until("everything", |state| state.kept.records.len() == 8_800).await;

    assert!(sync.shutdown().await);
    hub.with(|state| {
        assert_eq!((state.kept.seqs(Traces), state.kept.seqs(Audit)), (all(8_000), all(800)));
        assert_eq!(state.kept.lost, []);
    });
}

#[tokio::test]
async fn what_happens_now_does_not_wait_for_yesterday() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 10_000, 0);
    hub.permits.forget_permits(usize::MAX);

    let sync = place.sync(&hub);
    hub.permits.add_permits(2);
    hub.until("2 batches", |state| state.batches.len() == 2).await;
    record(&*place.store, 3, 0);
    hub.permits.add_permits(3);
    hub.until("5 batches", |state| state.batches.len() == 5).await;

    // One may have been made before there was something new.
    let firsts = hub.with(|state| {
        state.batches.iter().map(|(head, _)| (head.first, head.count)).collect::<Vec<_>>()
    });
    let at = firsts.iter().position(|head| *head == (10_001, 3)).unwrap();
    assert!(at <= 3, "{firsts:?}");
    assert_eq!(firsts[..2], [(1, 1_000), (1_001, 1_000)]);
    hub.permits.add_permits(1_000);
    hub.until("everything", |state| state.kept.records.len() == 10_003).await;
    assert_eq!(hub.with(|state| (state.repeated, state.batches.len())), (0, 11));
    assert!(sync.shutdown().await);
}

#[tokio::test]
async fn of_two_processes_one_sends_until_it_ends() {
    let hub = Hub::start().await;
    let place = Place::new();
    let first = place.sync(&hub);
    record(&*place.store, 10, 0);
    hub.until("10 records", |state| state.kept.records.len() == 10).await;

    let second = place.sync(&hub);
    let processes = |state: &super::fake::State| {
        let ids: std::collections::BTreeSet<_> =
            state.beats.iter().map(|beat| beat.process.clone()).collect();
        ids.len()
    };
    hub.until("heartbeats of both", |state| processes(state) == 2).await;
    record(&*place.store, 10, 0);
    hub.until("20 records", |state| state.kept.records.len() == 20).await;
    drop(first);
    record(&*place.store, 10, 0);
    hub.until("30 records", |state| state.kept.records.len() == 30).await;

    assert_eq!(hub.with(|state| state.repeated), 0);
    assert!(second.shutdown().await);
}

#[tokio::test]
async fn a_hub_that_is_away_is_one_line_and_its_return_another() {
    let hub = Hub::start().await;
    let place = Place::new();
    let (log, _guard) = Log::start();
    hub.with(|state| {
        state.records = Behaviour::Break;
        state.heartbeats = Behaviour::Break;
    });

    let (running, stop) = spawn(options(&hub, Some(&place.path())), &place.store);
    record(&*place.store, 10, 10);
    hub.until("many heartbeats", |state| state.beats.len() > 20).await;
    hub.with(|state| state.heartbeats = Behaviour::Take);
    hub.until("some batches", |state| state.batches.len() > 5).await;
    assert_eq!((log.lines("WARN").len(), log.lines("INFO").len()), (1, 0));
    hub.with(|state| state.records = Behaviour::Take);
    hub.until("everything", |state| state.kept.records.len() == 20).await;
    let beats = hub.with(|state| state.beats.len());
    hub.until("more heartbeats", |state| state.beats.len() > beats + 2).await;

    stop.cancel();
    running.await.unwrap();
    assert_eq!((log.lines("WARN").len(), log.lines("INFO").len()), (1, 1), "{log:?}");
    assert!(log.lines("INFO")[0].contains("takes records again"));
    assert_eq!(log.lines("ERROR"), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_is_one_line_and_the_end() {
    for heartbeats_too in [true, false] {
        let hub = Hub::start().await;
        let place = Place::new();
        record(&*place.store, 10, 0);
        let (log, _guard) = Log::start();
        hub.with(|state| {
            state.records = Behaviour::Refuse(403, "forbidden", None);
            if heartbeats_too {
                state.heartbeats = Behaviour::Refuse(401, "revoked", None);
            }
        });

        let (running, _stop) = spawn(options(&hub, Some(&place.path())), &place.store);

        tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
        let warnings = log.lines("WARN");
        assert_eq!(warnings.len(), 1, "{log:?}");
        assert!(warnings[0].contains("run `ultra link`"), "{warnings:?}");
        assert!(!hub.with(|state| state.beats.last().unwrap().farewell));
    }
}

#[tokio::test]
async fn a_batch_that_is_not_accepted_is_said_once_and_tried_again() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 10, 0);
    let (log, _guard) = Log::start();
    hub.with(|state| state.records = Behaviour::Refuse(400, "invalid", None));

    let (running, stop) = spawn(options(&hub, Some(&place.path())), &place.store);
    hub.until("some batches", |state| state.batches.len() > 5).await;
    hub.with(|state| state.records = Behaviour::Take);
    hub.until("everything", |state| state.kept.records.len() == 10).await;

    stop.cancel();
    running.await.unwrap();
    assert_eq!((log.lines("ERROR").len(), log.lines("WARN").len()), (1, 0), "{log:?}");
}

#[tokio::test]
async fn a_hub_that_was_restored_gets_the_rest_again() {
    let hub = Hub::start().await;
    let place = Place::new();
    let sync = place.sync(&hub);
    record(&*place.store, 100, 10);
    hub.until("110 records", |state| state.kept.records.len() == 110).await;
    let backup = hub.with(|state| state.kept.clone());
    record(&*place.store, 2_500, 10);
    hub.until("2,620 records", |state| state.kept.records.len() == 2_620).await;

    hub.with(|state| state.kept = backup);
    hub.until("all again", |state| state.kept.records.len() == 2_620).await;

    assert!(sync.shutdown().await);
    hub.with(|state| {
        assert_eq!((state.kept.seqs(Traces), state.kept.seqs(Audit)), (all(2_600), all(20)));
        assert_eq!(state.repeated, 0);
    });
}

/// Numbers are used again: without another id the Hub would take new records for old ones.
#[tokio::test]
async fn a_database_that_was_restored_loses_nothing() {
    let hub = Hub::start().await;
    let Place { directory, store } = Place::new();
    record(&*store, 10, 5);
    drop(store);
    let path = directory.path().join("ultra.db");
    std::fs::copy(&path, directory.path().join("backup.db")).unwrap();
    let place = Place { store: Place::open(&directory), directory };
    let sync = place.sync(&hub);
    record(&*place.store, 20, 20);
    hub.until("55 records", |state| state.kept.records.len() == 55).await;
    assert!(sync.shutdown().await);
    let Place { directory, store } = place;
    drop(store);

    for file in ["ultra.db-wal", "ultra.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(file));
    }
    std::fs::copy(directory.path().join("backup.db"), &path).unwrap();
    let place = Place { store: Place::open(&directory), directory };
    record(&*place.store, 3, 0);
    let sync = place.sync(&hub);
    hub.until("3 more", |state| state.kept.records.len() == 58).await;

    assert!(sync.shutdown().await);
    assert_eq!(hub.with(|state| state.kept.lost.clone()), []);
}

/// A gateway that starts records that it does, and what its servers do, before the Hub says what it has.
#[tokio::test]
async fn a_database_that_lacks_two_records_is_noticed_behind_what_was_recorded_since() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 0, 5);
    let database = place.store.database_id().unwrap();
    hub.with(|state| state.kept.has_before(&database, Audit, 7));

    let before = Some((database.clone(), place.store.numbers().unwrap()));
    record(&*place.store, 0, 3);
    let options = Options { before, ..options(&hub, Some(&place.path())) };
    let sync = Sync::start_with(options, Arc::clone(&place.store), timing()).unwrap();
    hub.until("8 events", |state| state.kept.records.len() == 8).await;

    assert!(sync.shutdown().await);
    assert_ne!(place.store.database_id().unwrap(), database);
    assert_eq!(hub.with(|state| state.kept.seqs(Audit)), all(8));
}

/// What the Hub has more than this process found was sent by another one, which is no sign of anything.
#[tokio::test]
async fn what_another_process_sent_meanwhile_is_no_backup_restored() {
    let hub = Hub::start().await;
    let place = Place::new();
    let before = Some((place.store.database_id().unwrap(), place.store.numbers().unwrap()));
    let first = place.sync(&hub);
    record(&*place.store, 0, 5);
    hub.until("5 events", |state| state.kept.records.len() == 5).await;

    let options = Options { before: before.clone(), ..options(&hub, Some(&place.path())) };
    let second = Sync::start_with(options, Arc::clone(&place.store), timing()).unwrap();
    let beats = hub.with(|state| state.beats.len());
    hub.until("heartbeats of both", |state| state.beats.len() > beats + 4).await;
    drop(first);
    record(&*place.store, 0, 5);
    hub.until("10 events", |state| state.kept.records.len() == 10).await;

    assert!(second.shutdown().await);
    assert_eq!(place.store.database_id().ok(), before.map(|(database, _)| database));
}

/// `ultra unlink` forgets the link, and cannot tell a gateway that has its secret in memory.
#[tokio::test]
async fn a_gateway_that_was_unlinked_sends_no_more_and_says_so_once() {
    let hub = Hub::start().await;
    let place = Place::new();
    let (log, _guard) = Log::start();
    let linked = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&linked);
    let is_linked = Arc::new(move || asked.load(std::sync::atomic::Ordering::Relaxed));
    let options = Options { is_linked, ..options(&hub, Some(&place.path())) };
    let (running, _stop) = spawn(options, &place.store);
    record(&*place.store, 1, 1);
    hub.until("2 records", |state| state.kept.records.len() == 2).await;

    linked.store(false, std::sync::atomic::Ordering::Relaxed);
    record(&*place.store, 1, 1);

    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
    assert_eq!((log.lines("INFO").len(), log.lines("WARN").len()), (1, 0), "{log:?}");
    assert!(log.lines("INFO")[0].contains("this gateway was unlinked"), "{log:?}");
    assert!(!hub.with(|state| state.beats.last().unwrap().farewell));
}

#[tokio::test]
async fn records_from_before_the_link_stay_here() {
    let hub = Hub::start().await;
    let place = Place::new();
    for at in 1..=10 {
        place.store.record(Record::Trace(Box::new(trace(at))));
    }
    flush(&*place.store);
    let known = Place::new();
    record(&*known.store, 10, 0);
    let database = known.store.database_id().unwrap();
    hub.with(|state| state.kept.has_before(&database, Traces, 10));

    // One database that the Hub was told of when the gateway was linked, and one that it was not.
    let linked = Options { linked_unix_ns: 8, ..options(&hub, Some(&place.path())) };
    let sync = Sync::start_with(linked, Arc::clone(&place.store), timing()).unwrap();
    hub.until("3 records", |state| state.kept.records.len() == 3).await;
    let other = known.sync(&hub);
    record(&*known.store, 1, 0);
    hub.until("1 more", |state| state.kept.records.len() == 4).await;

    assert!(sync.shutdown().await && other.shutdown().await);
    hub.with(|state| {
        assert_eq!(state.kept.seqs(Traces), [8, 9, 10, 11]);
        assert_eq!(state.kept.lost, [(Traces, (1, 7))]);
    });
}

#[tokio::test]
async fn what_the_store_forgot_is_declared_lost() {
    let hub = Hub::start().await;
    let memory = MemoryOptions { traces_max: 5, ..MemoryOptions::default() };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(memory));
    record(&*store, 20, 3);

    let sync = Sync::start_with(options(&hub, None), Arc::clone(&store), timing()).unwrap();
    hub.until("8 records", |state| state.kept.records.len() == 8).await;
    hub.until("what is lost", |state| !state.kept.lost.is_empty()).await;

    assert!(sync.shutdown().await);
    hub.with(|state| {
        assert_eq!(state.kept.seqs(Traces), [16, 17, 18, 19, 20]);
        assert_eq!(state.kept.lost, [(Traces, (1, 15))]);
    });
}

#[tokio::test]
async fn the_hub_is_left_alone_for_as_long_as_it_says() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 1, 0);
    hub.with(|state| state.next.push_back(Behaviour::Refuse(429, "rate_limited", Some(1))));

    let (log, _guard) = Log::start();
    let (running, stop) = spawn(options(&hub, Some(&place.path())), &place.store);
    hub.until("the record", |state| state.kept.records.len() == 1).await;

    let waited = hub.with(|state| state.batches[1].1 - state.batches[0].1);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    stop.cancel();
    running.await.unwrap();
    assert_eq!(format!("{log:?}"), "");
}

/// As long as the Hub has not said what it has, whoever sends records waits for a heartbeat.
#[tokio::test]
async fn no_heartbeat_comes_earlier_than_the_hub_says() {
    let hub = Hub::start().await;
    let place = Place::new();
    record(&*place.store, 1, 0);
    hub.with(|state| state.heartbeats = Behaviour::Refuse(429, "rate_limited", Some(1)));

    let options = options(&hub, Some(&place.path()));
    let clients = Arc::clone(&options.clients);
    let (running, stop) = spawn(options, &place.store);
    hub.until("a heartbeat", |state| state.beats.len() == 1).await;
    clients.enter("Claude Desktop", "1.2");
    hub.until("another one", |state| state.beats.len() == 2).await;

    let waited = hub.with(|state| state.beaten[1] - state.beaten[0]);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_record_that_the_hub_finds_too_large_comes_without_its_payloads() {
    let hub = Hub::start().await;
    let place = Place::new();
    hub.with(|state| state.records = Behaviour::AtMost(3_000));
    for at in 0..20 {
        let payload = if at == 7 { "x".repeat(5_000) } else { "x".repeat(at) };
        let request = Some(format!("\"{payload}\"").into());
        place.store.record(Record::Trace(Box::new(Trace { request, ..trace(unix_ns()) })));
    }
    flush(&*place.store);

    let sync = place.sync(&hub);
    hub.until("20 records", |state| state.kept.records.len() == 20).await;

    let is_cut = |record: &&Value| record["metadata"]["cut"] == true;
    let cut: Vec<i64> = hub.with(|state| {
        let cut = state.kept.records.values().filter(is_cut);
        cut.map(|record| record["seq"].as_i64().unwrap()).collect()
    });
    assert_eq!(cut, [8]);
    assert!(sync.shutdown().await);
}

#[tokio::test]
async fn the_end_sends_what_is_new_and_does_not_wait_for_a_hub_that_hangs() {
    let hub = Hub::start().await;
    let place = Place::new();
    let late =
        Options { interval: Duration::from_secs(3_600), ..options(&hub, Some(&place.path())) };
    let sync = Sync::start_with(late, Arc::clone(&place.store), timing()).unwrap();
    hub.until("a heartbeat", |state| !state.beats.is_empty()).await;
    record(&*place.store, 1, 1);
    assert!(sync.shutdown().await);
    hub.with(|state| {
        assert_eq!(state.kept.records.len(), 2);
        assert!(state.beats.last().unwrap().farewell);
        state.records = Behaviour::Hang;
    });

    let sync = place.sync(&hub);
    record(&*place.store, 1, 0);
    hub.until("a batch", |state| state.batches.len() > 2).await;
    hub.with(|state| state.heartbeats = Behaviour::Hang);
    let begun = Instant::now();
    sync.shutdown().await;

    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
}

/// A request under way, what is new and the good-bye have one time limit.
#[tokio::test(start_paused = true)]
async fn the_end_has_its_time_once() {
    let hub = Hub::start().await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let shared = Shared::new(options(&hub, None), store, timing(), CancellationToken::new());
    let shared = shared.unwrap();
    let begun = tokio::time::Instant::now();

    shared.stop.cancel();
    shared.over().await;
    shared.over().await;

    assert_eq!(begun.elapsed(), timing().last_send);
}

/// The Hub takes 256 KiB.
#[tokio::test]
async fn a_heartbeat_is_short_whatever_texts_there_are() {
    let hub = Hub::start().await;
    let place = Place::new();
    let texts = ["\"".repeat(1_000), "\u{1}\n".repeat(1_000), "€".repeat(1_000)];
    let text = |number: usize| format!("{number}{}", texts[number % texts.len()]);
    let definitions = (0..300).map(|number| definition(&text(number)));
    let (_keep, upstreams) = watch::channel(definitions.collect());
    let clients = Arc::new(Clients::default());
    (0..100).for_each(|number| drop(clients.enter(&text(number), &text(number))));
    for number in 0..300 {
        place.store.upstream(UpstreamStatus {
            upstream: text(number),
            gateway_pid: std::process::id(),
            state: "starting".to_owned(),
            server: Some(text(number)),
            tools: u64::MAX >> 1,
            resources: 0,
            prompts: 0,
            error: Some(text(number)),
            stderr: None,
            unix_ns: unix_ns(),
        });
    }
    flush(&*place.store);
    let host = Host { environment: text(0), os_version: Some(text(1)), ..Host::default() };
    let options = Options { clients, upstreams, host, ..options(&hub, Some(&place.path())) };

    let sync = Sync::start_with(options, Arc::clone(&place.store), timing()).unwrap();
    hub.until("a heartbeat", |state| !state.beats.is_empty()).await;

    assert!(sync.shutdown().await);
    let beat = hub.with(|state| state.beats[0].clone());
    assert_eq!((beat.upstreams.len(), beat.clients.len()), (256, 64));
    let bytes = serde_json::to_vec(&beat).unwrap().len();
    assert!(bytes < 256 * 1024, "{bytes}");
}

#[tokio::test]
async fn a_heartbeat_says_who_uses_the_gateway_and_what_is_behind_it() {
    let hub = Hub::start().await;
    let place = Place::new();
    let (_keep, upstreams) = watch::channel([definition("files")].into());
    let clients = Arc::new(Clients::default());
    let options = Options {
        clients: Arc::clone(&clients),
        upstreams,
        interval: Duration::from_secs(3_600),
        ..options(&hub, Some(&place.path()))
    };

    let sync = Sync::start_with(options, Arc::clone(&place.store), timing()).unwrap();
    hub.until("a heartbeat", |state| state.beats.len() == 1).await;
    let status = |upstream: &str, gateway_pid| UpstreamStatus {
        upstream: upstream.to_owned(),
        gateway_pid,
        state: "ready".to_owned(),
        server: Some("server 1.0".to_owned()),
        tools: 3,
        resources: 0,
        prompts: 0,
        error: Some("é".repeat(1_000)),
        stderr: None,
        unix_ns: unix_ns(),
    };
    place.store.upstream(status("files", std::process::id()));
    place.store.upstream(status("removed", std::process::id()));
    place.store.upstream(status("files", 1));
    flush(&*place.store);
    clients.enter("Claude Desktop", "1.2");
    hub.until("one for the client", |state| state.beats.len() == 2).await;

    hub.with(|state| {
        let (first, second) = (&state.beats[0], &state.beats[1]);
        assert_eq!((first.clients.len(), first.upstreams.len()), (0, 0));
        assert_eq!((&*first.process, &*first.host.hostname), (&*second.process, "laptop"));
        assert_eq!((second.period_s, second.farewell), (1_800, false));
        let client = &second.clients[0];
        assert_eq!(
            (&*client.name, &*client.version, client.managed),
            ("Claude Desktop", "1.2", None)
        );
        let [upstream] = &second.upstreams[..] else { panic!("{:?}", second.upstreams) };
        assert_eq!((&*upstream.name, &*upstream.state, upstream.tools), ("files", "ready", 3));
        assert_eq!(upstream.transport.as_deref(), Some("stdio"));
        assert_eq!(upstream.error.as_ref().unwrap().len(), 200);
    });
    assert!(sync.shutdown().await);
}

/// What waits is counted in the next heartbeat, and kept.
#[tokio::test]
async fn what_waits_is_counted() {
    let hub = Hub::start().await;
    let place = Place::new();
    hub.with(|state| state.records = Behaviour::Refuse(503, "unavailable", None));
    record(&*place.store, 7, 2);

    let sync = place.sync(&hub);
    hub.until("9 unsent", |state| state.beats.iter().any(|beat| beat.unsent == 9)).await;
    hub.with(|state| state.records = Behaviour::Take);
    let is_empty = |state: &super::fake::State| state.beats.last().is_some_and(|b| b.unsent == 0);
    hub.until("none", |state| state.kept.records.len() == 9 && is_empty(state)).await;

    assert!(sync.shutdown().await);
}

#[test]
fn heartbeats_come_twice_an_interval_but_not_more_often_than_allowed() {
    let default = Timing::default();
    assert_eq!(default.heartbeat_min, Duration::from_secs(30));
    assert!(default.last_send + default.farewell < Duration::from_secs(2));
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&crate::lock(&self.0)))
    }
}
