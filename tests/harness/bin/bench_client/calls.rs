//! Closed loop over one stdio session: each caller has one call open.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::lines::{is_error, number_after, response_id};
use crate::target::Process;
use crate::{Calls, PATIENCE, Report, percentile};

/// Requests and answers in flight must fit the two pipes, 64 KiB each, or both sides could wait to write.
const IN_FLIGHT_BYTES_MAX: usize = 120 * 1024;

/// What a request of 2026-07-28 says of its sender, as a member of its params.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}"#;

/// Ids that no call gets.
const STATUS_BEFORE: usize = 1 << 40;
const STATUS_AFTER: usize = STATUS_BEFORE + 1;

/// The callers of one session.
struct Callers {
    /// Everything after the id.
    rest: Vec<u8>,
    /// When each caller's open call was sent.
    sent: Vec<Instant>,
    next: usize,
    out: Vec<u8>,
    latencies: Vec<Duration>,
    failed: Option<String>,
}

impl Callers {
    fn new(args: &Calls, tool: &str) -> Self {
        Self {
            rest: call_after_id(tool, args.bytes, args.modern),
            sent: vec![Instant::now(); args.callers],
            // 0 is the id of `initialize`; a multiple of the callers keeps `id % callers` the caller.
            next: args.callers,
            out: Vec::with_capacity(256 * 1024),
            latencies: Vec::with_capacity(args.calls),
            failed: None,
        }
    }

    fn call(&mut self, caller: usize, now: Instant) {
        let id = self.next * self.sent.len() + caller;
        self.next += 1;
        self.out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut left = id;
        while left > 0 {
            at -= 1;
            digits[at] = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
        self.out.extend_from_slice(&digits[at..]);
        self.out.extend_from_slice(&self.rest);
        self.sent[caller] = now;
    }

    fn answered(&mut self, line: &[u8], now: Instant) -> Option<usize> {
        let id = response_id(line)?;
        if is_error(line) {
            self.failed = Some(String::from_utf8_lossy(line).into_owned());
        }
        let caller = id % self.sent.len();
        self.latencies.push(now - self.sent[caller]);
        Some(caller)
    }

    /// Calls until `count` calls are answered or the time is up, then lets open calls end.
    fn run(
        &mut self,
        process: &mut Process,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        self.latencies.clear();
        let start = Instant::now();
        for caller in 0..self.sent.len().min(count) {
            self.call(caller, start);
        }
        let mut open = self.sent.len().min(count);
        let mut left = count - open;
        while open > 0 {
            if !self.out.is_empty() {
                process.write(&self.out)?;
                self.out.clear();
            }
            let mut now = None;
            process.read(|line| {
                let now = *now.get_or_insert_with(Instant::now);
                if let Some(caller) = self.answered(line, now) {
                    if left > 0 && now - start < limit {
                        left -= 1;
                        self.call(caller, now);
                    } else {
                        open -= 1;
                    }
                }
            })?;
            if let Some(line) = &self.failed {
                anyhow::bail!("a call failed: {line}");
            }
            ensure!(start.elapsed() < limit + PATIENCE, "calls are open for ever");
        }
        Ok(start.elapsed())
    }
}

/// Measures latency, throughput, CPU and memory.
pub(crate) fn run(args: &Calls) -> anyhow::Result<Report> {
    ensure!(args.callers > 0, "no callers");
    ensure!(args.callers * (args.bytes + 256) <= IN_FLIGHT_BYTES_MAX, "too many bytes in flight");
    let mut process = Process::start(&args.target)?;
    if !args.modern {
        process.initialize()?;
    }
    wait_for_tool(&mut process, args)?;

    let mut callers = Callers::new(args, &args.tool);
    callers.run(&mut process, args.warm_up, PATIENCE)?;
    let commits = commits(&mut process, args, STATUS_BEFORE)?;
    let cpu = process.cpu()?;
    let elapsed = callers.run(&mut process, args.calls, Duration::from_secs(args.seconds))?;
    let cpu = process.cpu()? - cpu;
    let rss = process.rss_mib()?;
    let commits = commits_since(commits, self::commits(&mut process, args, STATUS_AFTER)?);
    process.finish()?;

    let calls = callers.latencies.len() as f64;
    let mut report = report(callers.latencies, elapsed, cpu, rss);
    if let Some(commits) = commits {
        report.push(("calls_per_commit", calls / commits));
    }
    Ok(report)
}

/// Returns how many commits the server counts, if it was said how to ask.
fn commits(process: &mut Process, args: &Calls, id: usize) -> anyhow::Result<Option<usize>> {
    let Some(tool) = &args.status else { return Ok(None) };
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}"}}}}"#
    );
    process.write(format!("{call}\n").as_bytes())?;
    Ok(number_after(&process.wait_for(id)?, b"\"commits\":"))
}

fn commits_since(before: Option<usize>, after: Option<usize>) -> Option<f64> {
    let count = after?.checked_sub(before?)?;
    (count > 0).then_some(count as f64)
}

/// Returns the figures of a run.
pub(crate) fn report(
    mut latencies: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
    rss_mib: f64,
) -> Report {
    latencies.sort_unstable();
    let calls = latencies.len() as f64;
    vec![
        ("calls", calls),
        ("p50_us", percentile(&latencies, 50)),
        ("p99_us", percentile(&latencies, 99)),
        ("calls_per_s", calls / elapsed.as_secs_f64()),
        ("cpu_us_per_call", cpu.as_secs_f64() * 1e6 / calls),
        ("rss_mib", rss_mib),
    ]
}

/// Waits until a tool is listed: a gateway may serve before its upstreams are up.
fn wait_for_tool(process: &mut Process, args: &Calls) -> anyhow::Result<()> {
    let tool = &args.tool;
    let params = if args.modern { format!(",\"params\":{{{META}}}") } else { String::new() };
    let wanted = format!("\"name\":\"{tool}\"");
    let deadline = Instant::now() + PATIENCE;
    for id in 1.. {
        process.write(
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"{params}}}\n")
                .as_bytes(),
        )?;
        let list = process.wait_for(id)?;
        if memchr::memmem::find(&list, wanted.as_bytes()).is_some() {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "`{tool}` is not listed: {}",
            String::from_utf8_lossy(&list)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns a `tools/call` from behind its id to the end of the line.
pub(crate) fn call_after_id(tool: &str, bytes: usize, modern: bool) -> Vec<u8> {
    let meta = if modern { format!(",{META}") } else { String::new() };
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(bytes / 45 + 1);
    let text = &text[..bytes];
    format!(
        ",\"method\":\"tools/call\",\"params\":{{\"name\":\"{tool}\",\"arguments\":{{\"text\":\"{text}\"}}{meta}}}}}\n"
    )
    .into_bytes()
}
