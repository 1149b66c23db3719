//! A small MCP server on stdio, or behind HTTP, that behaves, or misbehaves, as its flags say.
//!
//! One thread and one loop: it reads what is there, answers it all, writes once. That keeps an `echo`
//! at a few microseconds, so that a benchmark measures the gateway. It speaks the legacy era
//! (2024-11-05 to 2025-11-25) only.

mod http;
mod lists;
mod server;
mod tasks;
mod tools;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use server::Server;

/// A small MCP server that behaves as told
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Name in `serverInfo`, in instructions and in resource URIs
    #[arg(long, default_value = "fake")]
    name: String,
    /// Newest protocol revision it knows
    #[arg(long, default_value = "2025-11-25")]
    protocol: String,
    /// Number of generated tools
    #[arg(long, default_value_t = 0)]
    tools: usize,
    /// A further tool that echoes, with this name
    #[arg(long = "tool")]
    named_tools: Vec<String>,
    /// A further resource, with this URI
    #[arg(long = "resource")]
    resources: Vec<String>,
    /// List only generated and named tools
    #[arg(long)]
    bare: bool,
    /// Items per page of a list; 0 for one page
    #[arg(long, default_value_t = 0)]
    page_size: usize,
    /// Every page names the same next cursor
    #[arg(long)]
    cursor_repeats: bool,
    /// Sleep before reading anything
    #[arg(long, default_value_t = 0)]
    start_delay_ms: u64,
    /// Exit at once
    #[arg(long)]
    exit_at_start: bool,
    /// Never answer requests of this method
    #[arg(long)]
    mute: Vec<String>,
    /// Put unknown members into every object it sends
    #[arg(long)]
    unknown_members: bool,
    /// At the end of input stay, until SIGTERM
    #[arg(long)]
    linger: bool,
    /// Ignore SIGTERM
    #[arg(long)]
    ignore_sigterm: bool,
    /// Start a child process that outlives this one
    #[arg(long)]
    spawn_grandchild: bool,
    /// Write this many bytes to stderr before answering `initialize`
    #[arg(long, default_value_t = 0)]
    stderr_flood: usize,
    /// Write lines that are not JSON-RPC to stdout, at the start and before each answer to a call
    #[arg(long)]
    junk: bool,
    /// Append every line received to this file, verbatim; over HTTP with the heads of requests
    #[arg(long)]
    record: Option<PathBuf>,
    /// Append the own process id, and the grandchild's, to this file
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Exit after this many answered tool calls
    #[arg(long)]
    die_after: Option<u64>,
    /// Speak MCP only with `--stdio`; else print how it is used
    #[arg(long)]
    wants_stdio: bool,
    /// See `--wants-stdio`
    #[arg(long)]
    stdio: bool,
    /// Serve HTTP on this port instead of stdio
    #[arg(long)]
    http: Option<u16>,
    /// Behind HTTP, answer 503 while this file exists
    #[arg(long, requires = "http")]
    away_while: Option<PathBuf>,
    /// Sleep for ever; how the grandchild is started
    #[arg(long, hide = true)]
    sleeper: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fake-upstream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.sleeper {
        sleep_for_ever();
    }
    if let Some(path) = &options.pid_file {
        append_line(path, &std::process::id().to_string())?;
    }
    let _sigterm = if options.ignore_sigterm { Some(ignore_sigterm()?) } else { None };
    if options.spawn_grandchild {
        spawn_grandchild(options)?;
    }
    if options.exit_at_start {
        writeln!(io::stderr(), "fake-upstream: told to exit at once")?;
        return Ok(ExitCode::from(7));
    }
    if options.wants_stdio && !options.stdio {
        writeln!(io::stdout(), "Usage: fake-upstream --stdio\n\nOptions:\n  --stdio  Speak MCP")?;
        return Ok(ExitCode::from(2));
    }
    thread::sleep(Duration::from_millis(options.start_delay_ms));
    flood_stderr(options.stderr_flood)?;

    match options.http {
        Some(port) => http::serve(options, port)?,
        None => serve(options)?,
    }

    if options.linger {
        sleep_for_ever();
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads, answers and writes until the end of input.
fn serve(options: &Options) -> anyhow::Result<()> {
    let mut record = match &options.record {
        Some(path) => Some(open_append(path)?),
        None => None,
    };
    let mut server = Server::new(options.clone());
    let stdin = rustix::stdio::stdin();
    let mut stdout = io::stdout().lock();
    let mut chunk = vec![0; 256 * 1024];
    let mut pending = Vec::new();
    loop {
        if let Some(wait) = server.next_timer() {
            let timeout = Timespec::try_from(wait).context("a timer too far in the future")?;
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => {
                    server.fire_timers();
                    flush(&mut stdout, &mut server.out)?;
                    continue;
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let read = match rustix::io::read(stdin, &mut chunk[..]) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        pending.extend_from_slice(&chunk[..read]);
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &pending[start..]) {
            let line = &pending[start..start + length];
            if let Some(record) = &mut record {
                record.write_all(&pending[start..=start + length])?;
            }
            server.receive(line);
            start += length + 1;
            if server.exit.is_some() {
                break;
            }
        }
        pending.drain(..start);
        server.fire_timers();
        flush(&mut stdout, &mut server.out)?;
        if let Some(code) = server.exit {
            std::process::exit(code);
        }
    }
}

/// Writes what has gathered. A closed pipe is no error: the reader is gone, as it may.
fn flush(stdout: &mut impl Write, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        match stdout.write_all(out).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            Ok(()) | Err(_) => out.clear(),
        }
    }
    Ok(())
}

/// Takes the default action off SIGTERM for as long as the returned values live.
fn ignore_sigterm() -> anyhow::Result<(tokio::runtime::Runtime, tokio::signal::unix::Signal)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let signal = {
        let _entered = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    Ok((runtime, signal))
}

fn spawn_grandchild(options: &Options) -> anyhow::Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .arg("--sleeper")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    writeln!(io::stderr(), "grandchild {}", child.id())?;
    match &options.pid_file {
        Some(path) => append_line(path, &child.id().to_string()),
        None => Ok(()),
    }
}

fn flood_stderr(bytes: usize) -> io::Result<()> {
    let line = format!("{}\n", "flood ".repeat(20));
    let mut stderr = io::stderr().lock();
    for _ in 0..bytes.div_ceil(line.len()) {
        stderr.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn sleep_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn open_append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open `{}`", path.display()))
}

fn append_line(path: &Path, line: &str) -> anyhow::Result<()> {
    open_append(path)?.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}
