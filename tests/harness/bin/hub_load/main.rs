//! Puts load on a Hub over loopback, on SQLite and on PostgreSQL, and prints what came of it as JSON.
//!
//! Plays a fleet: devices that send records, devices that come back after a day, devices that say that they
//! are there, people who open pages; and starts a real gateway that comes back after a day. Everything is bounded in count and in time.

mod gateway;
mod pages;
mod records;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use ultra_tests::cluster::Cluster;
use ultra_tests::hub::{Hub, Owner, Storage};

use crate::records::Fleet;

/// Put load on a Hub
#[derive(Debug, Parser)]
struct Cli {
    /// Only this database: `sqlite` or `postgres`
    #[arg(long)]
    only: Option<String>,
    /// Only these parts
    #[arg(long, value_delimiter = ',', default_value = "heartbeats,records,backlog,gateway,pages")]
    parts: Vec<String>,
    /// Seconds of full speed
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Gateways that say that they are there
    #[arg(long, default_value_t = 1000)]
    beating: u32,
    /// Records that each of a hundred gateways kept while the Hub was away
    #[arg(long, default_value_t = 10_000)]
    kept: u64,
    /// Records that one real gateway kept
    #[arg(long, default_value_t = 1_000_000)]
    kept_by_one: u64,
    /// Traces that there are when pages are opened
    #[arg(long, default_value_t = 1_000_000)]
    traces: u64,
    /// Gateways that there are when their list is opened
    #[arg(long, default_value_t = 10_000)]
    gateways: u32,
}

#[tokio::main]
async fn main() {
    let cli = Cli::parse();
    let wanted = |name: &str| cli.only.as_deref().is_none_or(|only| only == name);
    let mut report = serde_json::Map::new();
    if wanted("sqlite") {
        report.insert("sqlite".to_owned(), measure(&cli, Storage::Sqlite, None).await);
    }
    if wanted("postgres") {
        // It waits for the disk, as one in use does.
        let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.expect("no panic");
        if let Some(cluster) = cluster {
            let storage = Storage::Postgres(cluster.database());
            let figures = measure(&cli, storage, Some(cluster.pid())).await;
            report.insert("postgres".to_owned(), figures);
        }
    }
    print(&Value::Object(report));
}

async fn measure(cli: &Cli, storage: Storage, database: Option<u32>) -> Value {
    let hub = Hub::start(storage);
    let owner = Owner::set_up(&hub).await;
    let mut keys = Vec::new();
    for number in 0..=(cli.gateways + cli.beating) as usize / records::LINKED_BY_KEY + 1 {
        keys.push(owner.deploy_key(&format!("load {number}")).await);
    }
    let fleet = Fleet { hub: hub.url(""), keys: keys.into(), linked: Arc::default() };
    let mut report = serde_json::Map::new();
    for part in &cli.parts {
        let figures = match part.as_str() {
            "heartbeats" => {
                let time = Duration::from_secs(60);
                let pids: Vec<_> = [hub.pid()].into_iter().chain(database).collect();
                records::heartbeats(&fleet, cli.beating, time, &pids).await
            }
            "records" => {
                let time = Duration::from_secs(cli.seconds);
                records::full_speed(&fleet, 8, 500, time).await
            }
            "backlog" => records::backlog(&fleet, 100, cli.kept).await,
            "gateway" => gateway::catch_up(&hub, &owner, &fleet.keys[0], cli.kept_by_one).await,
            "pages" => {
                records::fill(&fleet, cli.traces, cli.gateways).await;
                pages::open(&owner, 100).await
            }
            other => panic!("there is no part `{other}`"),
        };
        report.insert(part.clone(), figures);
    }
    Value::Object(report)
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn print(report: &Value) {
    println!("{report}");
}

/// Times of requests, as they are reported.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn note(&mut self, begun: Instant) {
        self.0.push(begun.elapsed());
    }

    fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn report(mut self) -> Value {
        self.0.sort_unstable();
        let at = |part: f64| {
            let last = self.0.len().saturating_sub(1);
            let time = self.0.get(((last as f64) * part).round() as usize);
            time.map_or(0.0, |time| (time.as_secs_f64() * 10_000.0).round() / 10.0)
        };
        json!({"count": self.0.len(), "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0)})
    }
}
