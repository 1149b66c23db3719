//! Lists of tools: the first one after the start, the full one, later ones.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::lines::count_tools;
use crate::target::Process;
use crate::{Lists, PATIENCE, Report, percentile};

/// Measures lists over stdio. Times of the first ones count from the start of the process.
pub(crate) fn run(args: &Lists) -> anyhow::Result<Report> {
    let start = Instant::now();
    let mut process = Process::start(&args.target)?;
    process.initialize()?;
    let first = list(&mut process, 1)?;
    let first_at = start.elapsed();

    let mut id = 1;
    let mut tools = count_tools(&first);
    let mut full_at = first_at;
    while tools < args.tools {
        ensure!(start.elapsed() < PATIENCE, "only {tools} of {} tools", args.tools);
        std::thread::sleep(Duration::from_millis(5));
        id += 1;
        tools = count_tools(&list(&mut process, id)?);
        full_at = start.elapsed();
    }
    // Upstreams that start late would disturb the measurement, if the first list was a remembered one.
    std::thread::sleep(Duration::from_secs(2));

    let cpu = process.cpu()?;
    let mut times = Vec::with_capacity(args.runs);
    for _ in 0..args.runs {
        id += 1;
        let asked = Instant::now();
        list(&mut process, id)?;
        times.push(asked.elapsed());
    }
    let cpu = process.cpu()? - cpu;
    let rss = process.rss_mib()?;
    process.finish()?;

    times.sort_unstable();
    Ok(vec![
        ("first_ms", first_at.as_secs_f64() * 1e3),
        ("first_tools", count_tools(&first) as f64),
        ("full_ms", full_at.as_secs_f64() * 1e3),
        ("tools", tools as f64),
        ("p50_us", percentile(&times, 50)),
        ("p99_us", percentile(&times, 99)),
        ("cpu_us_per_list", cpu.as_secs_f64() * 1e6 / args.runs as f64),
        ("rss_mib", rss),
    ])
}

fn list(process: &mut Process, id: usize) -> anyhow::Result<Vec<u8>> {
    process.write(
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}\n").as_bytes(),
    )?;
    process.wait_for(id)
}
