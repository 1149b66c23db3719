//! The same measurements for servers that speak Streamable HTTP only (revisions up to 2025-11-25).
//!
//! Just enough HTTP/1.1 for a loopback server: keep-alive, bodies by length or in chunks, and the first
//! event of a stream taken as the answer. Callers share one session, each on a thread and a connection of
//! its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::lines::{count_tools, is_error};
use crate::target::Process;
use crate::{Calls, Lists, PATIENCE, Report, calls, percentile};

/// A keep-alive connection within an MCP session.
struct Connection {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Connection {
    /// Connects to `http://host:port/path`.
    fn open(url: &str, session: Option<&str>) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://").context("not an http:// URL")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let session = session
            .map(|id| format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-06-18\r\n"));
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{}",
            session.unwrap_or_default()
        );
        Ok(Self { stream: BufReader::with_capacity(128 * 1024, stream), head })
    }

    /// Posts a message; returns the body, and the session id if the server gave one.
    fn post(&mut self, body: &[u8]) -> anyhow::Result<(Vec<u8>, Option<String>)> {
        let mut request =
            format!("{}Content-Length: {}\r\n\r\n", self.head, body.len()).into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;

        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.contains(" 200 ") || line.contains(" 202 "), "{}", line.trim());
        let (mut length, mut chunked, mut session) = (0, false, None);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                "mcp-session-id" => session = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            self.read_chunks(&mut body)?;
        } else {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok((body, session))
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> anyhow::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).context("not a chunk")?;
            let start = body.len();
            body.resize(start + length + 2, 0);
            self.stream.read_exact(&mut body[start..])?;
            body.truncate(start + length);
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn ask(&mut self, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (answer, _) = self.post(body)?;
        if is_error(&answer) || !memmem(&answer, b"\"result\"") {
            bail!("a request failed: {}", String::from_utf8_lossy(&answer));
        }
        Ok(answer)
    }
}

fn memmem(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// Waits until the server answers `initialize`; returns the session id.
fn initialize(url: &str) -> anyhow::Result<Option<String>> {
    let hello = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
    let deadline = Instant::now() + PATIENCE;
    let session = loop {
        match Connection::open(url, None).and_then(|mut connection| connection.post(hello)) {
            Ok((_, session)) => break session,
            Err(error) if Instant::now() > deadline => {
                return Err(error.context("no answer to initialize"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    Connection::open(url, session.as_deref())?
        .post(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
    Ok(session)
}

fn list(connection: &mut Connection, id: usize) -> anyhow::Result<Vec<u8>> {
    connection.ask(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#).as_bytes())
}

/// Measures latency, throughput, CPU and memory.
pub(crate) fn calls(args: &Calls) -> anyhow::Result<Report> {
    let url = args.url.as_deref().context("no URL")?;
    let process = Process::start(&args.target)?;
    let session = initialize(url)?;

    load(args, url, session.as_deref(), args.warm_up, PATIENCE)?;
    let cpu = process.cpu()?;
    let start = Instant::now();
    let latencies =
        load(args, url, session.as_deref(), args.calls, Duration::from_secs(args.seconds))?;
    let elapsed = start.elapsed();
    let cpu = process.cpu()? - cpu;

    Ok(calls::report(latencies, elapsed, cpu, process.rss_mib()?))
}

fn load(
    args: &Calls,
    url: &str,
    session: Option<&str>,
    count: usize,
    limit: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let next = Arc::new(AtomicUsize::new(1));
    let rest = calls::call_after_id(&args.tool, args.bytes, false);
    let deadline = Instant::now() + limit;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..args.callers)
            .map(|_| {
                let (next, rest) = (Arc::clone(&next), &rest);
                scope.spawn(move || {
                    let mut connection = Connection::open(url, session)?;
                    let mut latencies = Vec::new();
                    loop {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        if id > count || Instant::now() > deadline {
                            return anyhow::Ok(latencies);
                        }
                        let mut body = format!(r#"{{"jsonrpc":"2.0","id":{id}"#).into_bytes();
                        body.extend_from_slice(rest);
                        let sent = Instant::now();
                        connection.ask(&body)?;
                        latencies.push(sent.elapsed());
                    }
                })
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for caller in callers {
            all.extend(caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??);
        }
        Ok(all)
    })
}

/// Measures lists. Times of the first ones count from the start of the process.
pub(crate) fn lists(args: &Lists) -> anyhow::Result<Report> {
    let url = args.url.as_deref().context("no URL")?;
    let start = Instant::now();
    let process = Process::start(&args.target)?;
    let session = initialize(url)?;
    let mut connection = Connection::open(url, session.as_deref())?;
    let first = count_tools(&list(&mut connection, 1)?);
    let first_at = start.elapsed();
    let (mut tools, mut full_at, mut id) = (first, first_at, 1);
    while tools < args.tools {
        ensure!(start.elapsed() < PATIENCE, "only {tools} of {} tools", args.tools);
        std::thread::sleep(Duration::from_millis(5));
        id += 1;
        tools = count_tools(&list(&mut connection, id)?);
        full_at = start.elapsed();
    }
    std::thread::sleep(Duration::from_secs(2));

    let cpu = process.cpu()?;
    let mut times = Vec::with_capacity(args.runs);
    for _ in 0..args.runs {
        id += 1;
        let asked = Instant::now();
        list(&mut connection, id)?;
        times.push(asked.elapsed());
    }
    let cpu = process.cpu()? - cpu;

    times.sort_unstable();
    Ok(vec![
        ("first_ms", first_at.as_secs_f64() * 1e3),
        ("first_tools", first as f64),
        ("full_ms", full_at.as_secs_f64() * 1e3),
        ("tools", tools as f64),
        ("p50_us", percentile(&times, 50)),
        ("p99_us", percentile(&times, 99)),
        ("cpu_us_per_list", cpu.as_secs_f64() * 1e6 / args.runs as f64),
        ("rss_mib", process.rss_mib()?),
    ])
}
