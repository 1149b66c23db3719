//! What the store of events can do: ignored by default, because it takes minutes and measures nothing in a
//! debug build. `cargo test --release -p ultra-hub --lib events::bench -- --ignored --nocapture --test-threads 1`
//!
//! PostgreSQL waits for the disk here, as one in use does. `cargo xtask bench-hub` measures the whole Hub.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use ultra_store::Status;

use super::sql::SqlEvents;
use super::tests::{Fixture, batch_of, gateway, origin, user, workspace};
use super::*;
use crate::db::testing::TestDatabase;
use crate::wire::RecordKind;

/// Full speed.
const TIME: Duration = Duration::from_secs(20);

const CLIENTS: i64 = 4;

const TOOLS: [(&str, &str); 24] = [
    ("github", "search_code"),
    ("github", "list_issues"),
    ("github", "get_pull_request"),
    ("github", "create_issue"),
    ("github", "list_commits"),
    ("jira", "search"),
    ("jira", "get_issue"),
    ("jira", "add_comment"),
    ("files", "read_file"),
    ("files", "write_file"),
    ("files", "list_directory"),
    ("files", "search_files"),
    ("postgres", "query"),
    ("postgres", "describe_table"),
    ("slack", "post_message"),
    ("slack", "list_channels"),
    ("browser", "navigate"),
    ("browser", "click"),
    ("browser", "screenshot"),
    ("memory", "store"),
    ("memory", "recall"),
    ("search", "web"),
    ("search", "news"),
    ("rare", "hardly_ever"),
];

const WORDS: [&str; 16] = [
    "result",
    "error",
    "function",
    "value",
    "request",
    "index",
    "commit",
    "branch",
    "the",
    "of",
    "user",
    "message",
    "file",
    "line",
    "because",
    "configuration",
];

fn now_ns() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

/// What one gateway's records have.
struct Source {
    random: SmallRng,
    gateway: i64,
    client: String,
    calls: u64,
}

impl Source {
    fn new(gateway: i64) -> Self {
        let client = format!("client-{}/1.{}", gateway % 5, gateway % 3);
        Self { random: SmallRng::seed_from_u64(gateway as u64), gateway, client, calls: 0 }
    }

    /// Writes a trace with 1 to 2 KiB of payload.
    fn line(&mut self, lines: &mut String, seq: i64, at_ns: i64) {
        let random = &mut self.random;
        // The last tool is one call in a hundred thousand.
        let last = TOOLS.len() - 1;
        let which =
            if random.random_ratio(1, 100_000) { last } else { random.random_range(0..last) };
        let (upstream, name) = TOOLS[which];
        let mut text = String::new();
        for _ in 0..random.random_range(120..220) {
            text.push_str(WORDS[random.random_range(0..WORDS.len())]);
            let _ = write!(text, " {} ", random.random_range(0..1000));
        }
        self.calls += 1;
        let (status, error) = match random.random_ratio(1, 30) {
            true => ("error", "\"the tool failed\""),
            false => ("success", "null"),
        };
        let id = Uuid::from_u64_pair((at_ns as u64) << 4 & !0xf000 | 0x7000, random.random());
        let _ = writeln!(
            lines,
            r#"{{"seq":{seq},"id":"{id}","trace_id":"{:032x}","span_id":"{:016x}","parent_span_id":null,"operation":"tool_call","method":"tools/call","upstream":"{upstream}","name":"{name}","request":{{"name":"{name}","arguments":{{"query":"number {seq}","limit":10}}}},"response":{{"content":[{{"type":"text","text":"{text}"}}]}},"request_bytes":80,"response_bytes":{},"status":"{status}","error":{error},"duration":{},"timestamp":"{}","principal":"{}","session_id":"{:08x}-0000-4000-8000-{:012x}","metadata":{{"transport":"stdio"}}}}"#,
            random.random::<u128>(),
            random.random::<u64>(),
            text.len(),
            random.random_range(1_000_000..900_000_000_u64),
            super::tests::timestamp(at_ns),
            self.client,
            self.gateway,
            self.calls / 40,
        );
    }

    /// Returns a batch whose records are so far apart.
    fn batch(&mut self, first: i64, count: i64, from_ns: i64, apart_ns: i64) -> Batch {
        let mut lines = String::with_capacity(count as usize * 2400);
        for at in 0..count {
            self.line(&mut lines, first + at, from_ns + at * apart_ns);
        }
        let mut batch =
            batch_of(&format!("{:032x}", self.gateway), RecordKind::Traces, first, &[], &[]);
        batch.head.count = count as u64;
        batch.lines = lines.into();
        batch.received_ms = now_ns() / 1_000_000;
        batch
    }
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&mut self, part: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let time = self.0.get((last as f64 * part).round() as usize);
        time.map_or(0.0, Duration::as_secs_f64) * 1000.0
    }

    fn text(&mut self) -> String {
        let (p50, p95, p99) = (self.at(0.5), self.at(0.95), self.at(0.99));
        format!("p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, {} times", self.0.len())
    }
}

async fn fixtures() -> Vec<(&'static str, Fixture)> {
    let mut fixtures = vec![("SQLite", Fixture::over(TestDatabase::sqlite().await).await)];
    if let Some(test) = TestDatabase::postgres_that_waits().await {
        fixtures.push(("PostgreSQL", Fixture::over(test).await));
    }
    let only = std::env::var("ONLY").ok();
    fixtures.retain(|(name, _)| only.as_deref().is_none_or(|only| only == *name));
    fixtures
}

async fn gateways(fixture: &Fixture, numbers: std::ops::Range<i64>) {
    for number in numbers {
        gateway(&*fixture.database, number, 1, Some(number % 2 + 1)).await;
    }
}

/// Sends until it is taken; returns how long the last attempt took.
async fn send(events: &SqlEvents, gateway: i64, make: impl Fn() -> Batch) -> Duration {
    loop {
        let batch = make();
        let begun = Instant::now();
        match events.append(origin(gateway), batch).await {
            Ok(_) => return begun.elapsed(),
            Err(AppendError::Full) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn again(batch: &Batch) -> Batch {
    Batch { head: batch.head.clone(), lines: batch.lines.clone(), received_ms: batch.received_ms }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn full_speed() {
    for (name, fixture) in fixtures().await {
        gateways(&fixture, 100..100 + CLIENTS).await;
        let begun = Instant::now();
        let taken = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for client in 100..100 + CLIENTS {
            let (events, taken) = (Arc::clone(&fixture.events), Arc::clone(&taken));
            tasks.spawn(async move {
                let mut source = Source::new(client);
                let (mut times, mut first) = (Times::default(), 1);
                while begun.elapsed() < TIME {
                    let count = 500 + (first * 7) % 501;
                    let batch = source.batch(first, count, now_ns(), 1000);
                    times.0.push(send(&events, client, || again(&batch)).await);
                    first += count;
                    taken.fetch_add(count as u64, Ordering::Relaxed);
                }
                times
            });
        }
        let mut times = Times::default();
        while let Some(done) = tasks.join_next().await {
            times.0.extend(done.unwrap().0);
        }
        let rate = taken.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!("{name}: full speed, {CLIENTS} gateways: {rate:.0} records/s, {}", times.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn a_backlog_beside_what_happens_now() {
    const KEPT: i64 = 10_000;
    for (name, fixture) in fixtures().await {
        gateways(&fixture, 100..220).await;
        let events = Arc::clone(&fixture.events);
        let mut alone = live(&events, Duration::from_secs(10), &AtomicBool::new(false)).await;
        println!("{name}: live alone: {}", alone.text());
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for client in 100..200 {
            let events = Arc::clone(&events);
            tasks.spawn(async move {
                let mut source = Source::new(client);
                for first in (1..=KEPT).step_by(1000) {
                    let from_ns = now_ns() - 86_400_000_000_000 + first * 8_000_000_000;
                    let batch = source.batch(first, 1000, from_ns, 8_000_000_000);
                    send(&events, client, || again(&batch)).await;
                }
            });
        }
        let over = Arc::new(AtomicBool::new(false));
        let lane = {
            let (events, over) = (Arc::clone(&events), Arc::clone(&over));
            tokio::spawn(async move { live(&events, Duration::from_secs(3600), &over).await })
        };
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let took = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let mut meanwhile = lane.await.unwrap();
        println!(
            "{name}: 1,000,000 caught up in {took:.0} s; live meanwhile: {}",
            meanwhile.text()
        );
    }
}

/// Twenty gateways send a few records each second.
async fn live(events: &Arc<SqlEvents>, time: Duration, over: &AtomicBool) -> Times {
    let begun = Instant::now();
    let mut times = Times::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut sources: Vec<_> = (200..220).map(|client| (Source::new(client), 1)).collect();
    let mut tasks = JoinSet::new();
    for at in (0..sources.len()).cycle() {
        if begun.elapsed() > time || over.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let (source, first) = &mut sources[at];
        // Each phase has numbers of its own.
        let batch = source.batch(now_ns() / 1000, 5, now_ns(), 1000);
        *first += 5;
        let (events, client) = (Arc::clone(events), source.gateway);
        tasks.spawn(async move { send(&events, client, || again(&batch)).await });
    }
    while let Some(done) = tasks.join_next().await {
        times.0.push(done.unwrap());
    }
    times
}

/// 1,000,000 traces of 100 gateways in 30 days.
async fn fill(fixture: &Fixture) {
    gateways(fixture, 100..200).await;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for part in 0..4 {
        let events = Arc::clone(&fixture.events);
        tasks.spawn(async move {
            for client in (100..200).filter(|client| client % 4 == part) {
                let mut source = Source::new(client);
                // Some gateways are young, some have stopped.
                let days = 30 * 86_400_000_000_000 / 10_000;
                let (from_ns, apart_ns) = match client % 10 {
                    0 => (now_ns() - 30 * 86_400_000_000_000, days / 10),
                    1 => (now_ns() - 3 * 86_400_000_000_000, days / 10),
                    _ => (now_ns() - 30 * 86_400_000_000_000, days),
                };
                for first in (1..=10_000).step_by(1000) {
                    let batch = source.batch(first, 1000, from_ns + first * apart_ns, apart_ns);
                    send(&events, client, || again(&batch)).await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    println!("filled in {:.0} s", begun.elapsed().as_secs_f64());
}

fn queries() -> Vec<(&'static str, TraceQuery)> {
    let query = || TraceQuery { limit: 50, ..TraceQuery::default() };
    let text = |text: &str| Some(text.to_owned());
    let day = 86_400_000_000_000;
    vec![
        ("all", query()),
        ("error", TraceQuery { status: Some(Status::Error), ..query() }),
        ("upstream", TraceQuery { upstream: text("jira"), ..query() }),
        ("tool", TraceQuery { name: text("search_code"), ..query() }),
        ("rare tool", TraceQuery { name: text("hardly_ever"), ..query() }),
        ("no such tool", TraceQuery { name: text("nothing"), ..query() }),
        ("client", TraceQuery { client: text("client-3/1.1"), ..query() }),
        ("user", TraceQuery { user: Some(user(1)), ..query() }),
        ("gateway", TraceQuery { gateway: Some(origin(120).gateway), ..query() }),
        ("gateway, stopped", TraceQuery { gateway: Some(origin(110).gateway), ..query() }),
        ("operation", TraceQuery { operation: text("tool_call"), ..query() }),
        ("no such operation", TraceQuery { operation: text("prompt_get"), ..query() }),
        (
            "session",
            TraceQuery { session: text("00000078-0000-4000-8000-000000000042"), ..query() },
        ),
        ("no such session", TraceQuery { session: text("no"), ..query() }),
        ("id", TraceQuery { id: text("0123456789abcdef0123456789abcdef"), ..query() }),
        (
            "error, tool, client",
            TraceQuery {
                status: Some(Status::Error),
                name: text("query"),
                client: text("client-2/1.2"),
                ..query()
            },
        ),
        (
            "user, upstream, error, day",
            TraceQuery {
                user: Some(user(2)),
                upstream: text("slack"),
                status: Some(Status::Error),
                since_ns: Some(now_ns() - 5 * day),
                until_ns: Some(now_ns() - 4 * day),
                ..query()
            },
        ),
        (
            "client of another gateway",
            TraceQuery {
                gateway: Some(origin(121).gateway),
                client: text("client-3/1.1"),
                ..query()
            },
        ),
        ("error, old", {
            let until_ns = Some(now_ns() - 20 * day);
            TraceQuery { status: Some(Status::Error), until_ns, ..query() }
        }),
        (
            "upstream and tool that never meet",
            TraceQuery { upstream: text("jira"), name: text("query"), ..query() },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark"]
async fn a_million_traces() {
    for (name, fixture) in fixtures().await {
        fill(&fixture).await;
        let bytes = crate::db::size_bytes(&*fixture.database).await.unwrap();
        let series = fixture.count("series").await;
        println!("{name}: {} MB, {series} series", bytes / 1_000_000);
        let mut all = Times::default();
        for (query_name, query) in queries() {
            let (mut times, mut rows, mut deep) = (Times::default(), 0, Times::default());
            for _ in 0..20 {
                let begun = Instant::now();
                rows = fixture.events.traces(workspace(), &query).await.unwrap().rows.len();
                times.0.push(begun.elapsed());
            }
            // Twenty pages back.
            let mut query = query.clone();
            for _ in 0..20 {
                let begun = Instant::now();
                let page = fixture.events.traces(workspace(), &query).await.unwrap();
                deep.0.push(begun.elapsed());
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
            println!(
                "  {query_name:36} {rows:3} rows  {}  pages: p95 {:.1} ms",
                times.text(),
                deep.at(0.95)
            );
            all.0.extend(times.0);
            all.0.extend(deep.0);
        }
        println!("{name}: every filter: {}", all.text());
        sums(name, &fixture).await;
    }
}

async fn sums(name: &str, fixture: &Fixture) {
    let since_ns = now_ns() - 30 * 86_400_000_000_000;
    let events = &fixture.events;
    let mut times: [Times; 6] = Default::default();
    for _ in 0..10 {
        let mut begun = Instant::now();
        let mut lap = |times: &mut Times| {
            times.0.push(begun.elapsed());
            begun = Instant::now();
        };
        events.servers(workspace(), since_ns).await.unwrap();
        lap(&mut times[0]);
        events.server(workspace(), "github", since_ns).await.unwrap().unwrap();
        lap(&mut times[1]);
        events.choices(workspace(), since_ns).await.unwrap();
        lap(&mut times[2]);
        events.clients(workspace(), origin(120).gateway).await.unwrap();
        lap(&mut times[3]);
        events.revision(workspace()).await.unwrap();
        lap(&mut times[4]);
        let page = TraceQuery { limit: 1000, ..TraceQuery::default() };
        events.traces(workspace(), &page).await.unwrap();
        lap(&mut times[5]);
    }
    let names = ["servers", "server", "choices", "clients", "revision", "page of 1,000"];
    for (what, mut times) in names.iter().zip(times) {
        println!("{name}: {what}: {}", times.text());
    }
}
