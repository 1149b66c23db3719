//! From the start of the process to its answer to `initialize`.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::target::Process;
use crate::{Launch, Report, percentile};

/// Measures starts, and memory after the last of them.
pub(crate) fn run(args: &Launch) -> anyhow::Result<Report> {
    let mut times = Vec::with_capacity(args.runs);
    let mut rss = f64::NAN;
    for run in 0..args.runs {
        if let Some(dir) = args.clear.as_deref().filter(|dir| dir.exists()) {
            std::fs::remove_dir_all(dir)
                .with_context(|| format!("cannot clear `{}`", dir.display()))?;
        }
        let start = Instant::now();
        let mut process = Process::start(&args.target)?;
        process.initialize()?;
        times.push(start.elapsed());
        if run + 1 == args.runs {
            std::thread::sleep(Duration::from_millis(args.settle_ms));
            rss = process.rss_mib()?;
        }
        process.finish()?;
    }
    times.sort_unstable();
    let milliseconds = |percent| percentile(&times, percent) / 1000.0;
    Ok(vec![
        ("min_ms", milliseconds(0)),
        ("p50_ms", milliseconds(50)),
        ("max_ms", milliseconds(100)),
        ("rss_mib", rss),
    ])
}
