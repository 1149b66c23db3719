//! The process that is measured: its pipes, its CPU time, its memory.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use rustix::process::{Signal, kill_process_group};

use crate::Target;
use crate::lines::Lines;

/// `initialize`, as a client of 2025-06-18 without capabilities sends it.
const INITIALIZE: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}
"#;

const INITIALIZED: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";

/// A running process, killed with its group when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    pub(crate) lines: Lines,
}

impl Process {
    pub(crate) fn start(target: &Target) -> anyhow::Result<Self> {
        let (program, args) = target.command.split_first().context("no command")?;
        let env = target.env.iter().filter_map(|variable| variable.split_once('='));
        let mut child = Command::new(program)
            .args(args)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self { child, stdin, stdout, lines: Lines::default() })
    }

    /// Shakes hands.
    pub(crate) fn initialize(&mut self) -> anyhow::Result<()> {
        self.write(INITIALIZE)?;
        self.wait_for(0)?;
        self.write(INITIALIZED)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stdin
            .as_mut()
            .context("its input is closed")?
            .write_all(bytes)
            .context("it does not read")
    }

    /// Reads once, and gives every line that is complete now to `each`.
    pub(crate) fn read(&mut self, each: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let stdout = self.stdout.as_mut().context("its output is not ours")?;
        match self.lines.read_from(stdout) {
            Ok(0) => bail!("it ended"),
            Ok(_) => self.lines.each(each),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads until the response to `id` is there, and returns it.
    pub(crate) fn wait_for(&mut self, id: usize) -> anyhow::Result<Vec<u8>> {
        let mut found = None;
        while found.is_none() {
            self.read(|line| {
                if crate::lines::response_id(line) == Some(id) {
                    found = Some(line.to_vec());
                }
            })?;
        }
        let line = found.unwrap_or_default();
        anyhow::ensure!(
            !crate::lines::is_error(&line),
            "an error: {}",
            String::from_utf8_lossy(&line)
        );
        Ok(line)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns user and system time of this process, without its children.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let clock = nix::time::clock_getcpuclockid(Pid::from_raw(i32::try_from(self.pid())?))?;
        let nanoseconds = nix::time::clock_gettime(clock)?.num_nanoseconds();
        Ok(Duration::from_nanos(nanoseconds.try_into()?))
    }

    /// Returns resident memory in MiB.
    pub(crate) fn rss_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .context("no VmRSS")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }

    /// Closes its input and waits until it has ended.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.stdin.take();
        let deadline = Instant::now() + Duration::from_secs(15);
        // Its last lines must have somewhere to go.
        if let Some(mut stdout) = self.stdout.take() {
            std::thread::spawn(move || io::copy(&mut stdout.by_ref(), &mut io::sink()));
        }
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it does not end at the end of its input");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw)
        {
            // Gone already is what we want.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
