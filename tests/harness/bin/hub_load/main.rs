//! Puts load on a Hub over loopback, and prints what came of it as JSON.
//!
//! Plays a fleet: devices that send records, devices that say that they are there, people who open pages.

mod pages;
mod records;

use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Put load on a Hub
#[derive(Debug, Parser)]
struct Cli {
    /// The Hub, such as `http://127.0.0.1:8090`
    #[arg(long)]
    hub: String,
    #[command(subcommand)]
    command: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Devices send batches as fast as they are taken
    Records {
        /// A deploy key
        #[arg(long)]
        key: String,
        #[arg(long, default_value_t = 8)]
        devices: u32,
        #[arg(long, default_value_t = 500)]
        batch: u64,
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Devices come back after a day with what they kept, while others send what happens now
    Backlog {
        /// A deploy key
        #[arg(long)]
        key: String,
        #[arg(long, default_value_t = 100)]
        devices: u32,
        /// Records that each one kept
        #[arg(long, default_value_t = 10_000)]
        records: u64,
    },
    /// Devices say that they are there, every 30 seconds each
    Heartbeats {
        /// A deploy key
        #[arg(long)]
        key: String,
        #[arg(long, default_value_t = 1000)]
        devices: u32,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The process whose time is measured
        #[arg(long)]
        pid: u32,
    },
    /// Somebody opens pages, one after the other
    Pages {
        /// A cookie of somebody who is signed in, `name=value`
        #[arg(long)]
        cookie: String,
        #[arg(long, default_value_t = 200)]
        times: u32,
        /// Paths with queries; `,` between them
        #[arg(long, value_delimiter = ' ')]
        paths: Vec<String>,
    },
}

#[tokio::main]
async fn main() {
    let cli = Cli::parse();
    let report = match cli.command {
        Load::Records { key, devices, batch, seconds } => {
            records::full_speed(&cli.hub, &key, devices, batch, Duration::from_secs(seconds)).await
        }
        Load::Backlog { key, devices, records } => {
            records::backlog(&cli.hub, &key, devices, records).await
        }
        Load::Heartbeats { key, devices, seconds, pid } => {
            records::heartbeats(&cli.hub, &key, devices, Duration::from_secs(seconds), pid).await
        }
        Load::Pages { cookie, times, paths } => pages::open(&cli.hub, &cookie, times, &paths).await,
    };
    print(&report);
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
