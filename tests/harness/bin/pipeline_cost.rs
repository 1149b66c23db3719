//! What the four built-in interceptors cost a call: both phases, without any transport or upstream.
//!
//! Prints nanoseconds per call for each payload size, as `name=value`: records queued in the memory
//! store, log lines off or on, and then written to nowhere. Run by `cargo xtask bench`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ultra::config;
use ultra::log::{self, Log};
use ultra::pipeline::{Caller, Exchange, Outcome, Pipeline};
use ultra::plugins::{self, Loaded};
use ultra::wasm::{CachePlace, CallLog, Outlets, Runtime};
use ultra_store::{MemoryStore, Store};

const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(1000);

/// Calls measured as one: the clock costs 50 ns.
const BATCH: u32 = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut figures = Vec::new();
    for log_lines in [false, true] {
        // Lines are worded by the log's own thread, as in the gateway.
        let log = log_lines.then(|| log::start(config::LogLevel::Info, false, std::io::sink()));
        let name = if log_lines { "logging" } else { "quiet" };
        for bytes in [1 << 10, 100 << 10, 5 << 20] {
            figures.push((format!("{name}_{bytes}_ns"), measure(bytes, log.as_ref())?));
        }
    }
    let [cold_ms, warm_ms] = starts()?;
    figures.extend([("start_cold_ms".to_owned(), cold_ms), ("start_warm_ms".to_owned(), warm_ms)]);
    for (name, figure) in figures {
        #[expect(clippy::print_stdout, reason = "it is what this program is for")]
        {
            println!("{name}={figure:.3}");
        }
    }
    Ok(())
}

fn load(
    runtime: &Arc<Runtime>,
    store: &Arc<dyn Store>,
    log: Option<&Log>,
) -> Result<Loaded, plugins::PluginsError> {
    let log = log.map(|log| Arc::new(log.clone()) as Arc<dyn CallLog>);
    let outlets = Outlets { store: Arc::clone(store), spans: None, log };
    plugins::plan(&config::Plugins::default(), None)?.load(runtime, &outlets)
}

fn measure(bytes: usize, log: Option<&Log>) -> Result<f64, Box<dyn std::error::Error>> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let loaded = load(&Runtime::new(None)?, &store, log)?;
    Ok(time(&Pipeline::new(loaded.stages, store), bytes))
}

/// Returns the median of the batches, in nanoseconds per call.
fn time(pipeline: &Pipeline, bytes: usize) -> f64 {
    let params =
        Bytes::from(format!(r#"{{"name":"read","arguments":{{"text":"{}"}}}}"#, "x".repeat(bytes)));
    let result =
        Bytes::from(format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(bytes)));
    let mut slot = Some(exchange(&params));
    let mut batch = || {
        let began = Instant::now();
        for _ in 0..BATCH {
            let mut exchange = slot.take().unwrap_or_else(|| exchange(&params));
            exchange.started = Instant::now();
            exchange.outcome = None;
            exchange.traced = false;
            let entered;
            (exchange, entered) = ready(pipeline.before_request(exchange));
            exchange.outcome = Some(Outcome::Result { json: result.clone(), tool_error: false });
            slot = Some(ready(pipeline.after_response(entered, exchange)));
        }
        began.elapsed().as_nanos() as f64 / f64::from(BATCH)
    };
    let end = Instant::now() + WARM_UP;
    while Instant::now() < end {
        batch();
    }
    let end = Instant::now() + MEASURED;
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(batch());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2].round()
}

/// Returns what a future that never waits returns.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing in this pipeline waits"),
    }
}

/// Returns how long engine and plugins take to be ready, with an empty cache and with a full one.
fn starts() -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let home = tempfile::TempDir::new()?;
    let place =
        CachePlace { directory: home.path().join("cache"), key_file: home.path().join("key") };
    let start = || {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let began = Instant::now();
        load(&Runtime::new(Some(&place))?, &store, None)?;
        Ok::<_, Box<dyn std::error::Error>>(began.elapsed().as_secs_f64() * 1000.0)
    };
    let cold = start()?;
    let mut warm = (0..20).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    warm.sort_by(f64::total_cmp);
    Ok([cold, warm[warm.len() / 2]])
}

fn exchange(params: &Bytes) -> Box<Exchange> {
    let caller = Caller {
        principal: "bench/1.0".into(),
        subject: None,
        session_id: "0195b3f0-0000-7000-8000-000000000000".into(),
        protocol_version: "2025-11-25".into(),
    };
    let mut exchange = Exchange::new(Arc::new(caller), "tools/call", params.clone());
    exchange.upstream = Some("files".into());
    exchange.name = Some("read".into());
    exchange.transport = Some("stdio");
    exchange.traceparent =
        Some(r#""00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#.into());
    exchange
}
