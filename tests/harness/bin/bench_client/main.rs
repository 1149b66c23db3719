//! A load generator for MCP servers, on stdio and on Streamable HTTP.
//!
//! It shares two cores with what it measures, so it does as little as it can: prepared lines, one read
//! and one write for as many messages as there are, ids found by scanning. Results are `name=value`
//! lines on stdout. It judges nothing.

mod calls;
mod fleet;
mod http;
mod launch;
mod lines;
mod target;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Measure an MCP server
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Call one tool from several callers, each waiting for its answer
    Calls(Calls),
    /// Start again and again, until `initialize` is answered
    Launch(Launch),
    /// Ask for the list of tools, right after the start and later
    Lists(Lists),
}

#[derive(Debug, Args)]
struct Calls {
    /// Callers in the one session
    #[arg(long, default_value_t = 1)]
    callers: usize,
    /// Calls before the measurement
    #[arg(long, default_value_t = 2000)]
    warm_up: usize,
    /// Calls measured
    #[arg(long, default_value_t = 50_000)]
    calls: usize,
    /// Stop measuring after this many seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes of the argument
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Tool to call
    #[arg(long)]
    tool: String,
    /// Tool whose result says how many `commits` there were; adds the calls of each to the figures
    #[arg(long)]
    status: Option<String>,
    /// Call by HTTP at this URL; the command still is started, and is what is measured
    #[arg(long)]
    url: Option<String>,
    /// Call as a client of 2026-07-28, without a handshake
    #[arg(long)]
    modern: bool,
    /// Keep everything on one core, so that no sleeping core has to be woken
    #[arg(long)]
    one_core: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Launch {
    /// Starts measured
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Directory removed before each start
    #[arg(long)]
    clear: Option<PathBuf>,
    /// Wait so long after the last answer before memory is read
    #[arg(long, default_value_t = 500)]
    settle_ms: u64,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Lists {
    /// Later lists measured
    #[arg(long, default_value_t = 2000)]
    runs: usize,
    /// Tools that must be listed before later lists are measured
    #[arg(long)]
    tools: usize,
    /// Ask by HTTP at this URL; the command still is started, and is what is measured
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// What is measured.
#[derive(Debug, Args)]
struct Target {
    /// Variable of the program's environment, as `NAME=value`
    #[arg(long)]
    env: Vec<String>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Nothing that is measured takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is started later inherits it.
fn stay_on_one_core() {
    let mut cores = CpuSet::new();
    cores.set(0);
    if let Err(error) = sched_setaffinity(None, &cores) {
        let _ = writeln!(io::stderr(), "cannot stay on one core: {error}");
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Command::Calls(Calls { one_core: true, .. }) = &options.command {
        stay_on_one_core();
    }
    let report = match &options.command {
        Command::Calls(args) if args.url.is_some() => http::calls(args),
        Command::Calls(args) => calls::run(args),
        Command::Launch(args) => launch::run(args),
        Command::Lists(args) if args.url.is_some() => http::lists(args),
        Command::Lists(args) => fleet::run(args),
    };
    match report {
        Ok(report) => {
            let lines: String =
                report.iter().map(|(name, value)| format!("{name}={value:.3}\n")).collect();
            match io::stdout().write_all(lines.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Figures by name; the name ends with the unit.
type Report = Vec<(&'static str, f64)>;

/// Returns a percentile of sorted durations, in microseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e6)
}
