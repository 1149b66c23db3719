//! Measures the SQLite store: an audit event that is waited for and a trace of 2 x 1 KiB per call.
//!
//! `cargo run --release -p ultra-store --example throughput [directory] [seconds]`. The directory
//! decides about the disk; CPU times need Linux.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ultra_store::{
    AuditEvent, AuditOutcome, FieldValue, Record, Redactor, Severity, SqliteOptions, SqliteStore,
    Status, Store, Trace,
};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(3);
    let mut out = std::io::stdout().lock();
    writeln!(out, "callers  calls/s  p50 µs  p99 µs  events/commit  writer µs/call  all µs/call")?;
    for callers in [1, 16, 64] {
        let directory = parent.join(format!("ultra-throughput-{}", Uuid::now_v7()));
        let run = measure(&directory, callers, Duration::from_secs(seconds));
        std::fs::remove_dir_all(&directory)?;
        writeln!(out, "{}", run?)?;
    }
    Ok(())
}

fn measure(directory: &Path, callers: usize, time: Duration) -> Result<String, Box<dyn Error>> {
    let mut options = SqliteOptions::new(directory.join("ultra.db"));
    options.redactor = Redactor::new((0..8).map(|number| format!("a-secret-of-upstream-{number}")));
    let store = Arc::new(SqliteStore::open(options)?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let before = CpuTime::now();
    let started = Instant::now();
    let mut latencies = runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| tokio::spawn(call_until(Arc::clone(&store), started + time)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await?);
        }
        Ok::<_, tokio::task::JoinError>(latencies)
    })?;
    let elapsed = started.elapsed();
    store.flush(Instant::now() + Duration::from_secs(10));
    let used = CpuTime::now().since(before);
    let health = store.health();
    if let Some(error) = health.error {
        return Err(error.into());
    }
    latencies.sort_unstable();
    let calls = latencies.len().max(1);
    let per_call = |ns: u64| ns as f64 / calls as f64 / 1000.0;
    let latency = |part: f64| latencies[((calls - 1) as f64 * part) as usize].as_micros();
    Ok(format!(
        "{callers:7}  {:7.0}  {:6}  {:6}  {:13.1}  {:14.1}  {:11.1}",
        calls as f64 / elapsed.as_secs_f64(),
        latency(0.5),
        latency(0.99),
        calls as f64 / health.commits.max(1) as f64,
        per_call(used.writer_ns),
        per_call(used.process_ns),
    ))
}

async fn call_until(store: Arc<SqliteStore>, end: Instant) -> Vec<Duration> {
    let words = "Four score and seven years ago our fathers brought forth on this continent. ";
    let text = words.repeat(13);
    let request =
        Bytes::from(format!(r#"{{"name":"write","arguments":{{"path":"a/b","text":"{text}"}}}}"#));
    let response = Bytes::from(format!(r#"{{"content":[{{"type":"text","text":"{text}"}}]}}"#));
    let names: [Arc<str>; 5] =
        ["files", "write", "tools/call", "client/1.2.3", "0198c9f0"].map(Into::into);
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let [upstream, name, method, principal, session_id] = names.clone();
        let started = Instant::now();
        let event = AuditEvent {
            id: Uuid::now_v7(),
            trace_id: Some(Uuid::now_v7().as_u128()),
            event_type: "tool_call",
            severity: Severity::Info,
            upstream: Some(upstream.clone()),
            action: Some(name.clone()),
            principal: principal.clone(),
            session_id: Some(session_id.clone()),
            outcome: AuditOutcome::Success,
            reason: None,
            details: vec![("duration_ms".to_owned(), FieldValue::Int(3))],
            unix_ns: 1_785_000_000_000_000_000,
        };
        if store.audit(Box::new(event)).wait().await.is_err() {
            break;
        }
        latencies.push(started.elapsed());
        store.record(Record::Trace(Box::new(Trace {
            id: Uuid::now_v7(),
            trace_id: Uuid::now_v7().as_u128(),
            span_id: 1,
            parent_span_id: None,
            operation: "tool_call",
            method,
            upstream: Some(upstream),
            name: Some(name),
            request: Some(request.clone()),
            response: Some(response.clone()),
            status: Status::Success,
            error: None,
            duration_ns: 3_000_000,
            started_unix_ns: 1_785_000_000_000_000_000,
            principal,
            session_id,
            transport: Some("stdio"),
            metadata: Vec::new(),
        })));
    }
    latencies
}

/// CPU time used so far; zero where the system does not say.
#[derive(Clone, Copy, Default)]
struct CpuTime {
    process_ns: u64,
    writer_ns: u64,
}

impl CpuTime {
    fn now() -> Self {
        let mut time = Self::default();
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let used = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok());
            let used: u64 = used.unwrap_or_default();
            time.process_ns += used;
            if read("comm").trim() == "ultra-store" {
                time.writer_ns += used;
            }
        }
        time
    }

    fn since(self, before: Self) -> Self {
        Self {
            process_ns: self.process_ns - before.process_ns,
            writer_ns: self.writer_ns - before.writer_ns,
        }
    }
}
