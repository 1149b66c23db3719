//! The child process of a stdio upstream, and its end. Knows nothing of MCP.
//!
//! A child leads a process group of its own, so that what it starts (`npx` starts the server as a
//! grandchild) ends with it. It gets a parent-death signal, and [`Guard`] ends the rest if this
//! process is killed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use ultra_store::Redactor;

use super::guard::Guard;

/// A server whose input has ended may take this long to exit (basic/lifecycle, "Shutdown").
const END_OF_INPUT_GRACE: Duration = Duration::from_millis(1500);

/// One that was asked to terminate may take this long before it is killed.
const TERMINATE_GRACE: Duration = Duration::from_millis(1500);

/// Of what a server writes to stderr, so many last lines are kept, each cut to [`STDERR_LINE_BYTES`].
const STDERR_LINES: usize = 40;

/// See [`STDERR_LINES`].
const STDERR_LINE_BYTES: usize = 1000;

/// How a stdio upstream is started.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Program, looked up in `PATH`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables the config sets for it.
    pub env: BTreeMap<String, String>,
    /// Variables it has from us; those of the config beat them.
    pub inherited: Arc<BTreeMap<String, String>>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
}

/// The two ends a server is talked to by.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Its stdin.
    pub stdin: ChildStdin,
    /// Its stdout.
    pub stdout: ChildStdout,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Pid>,
    guard: Arc<Guard>,
}

impl Process {
    /// Starts the program. Its stderr is gathered in `stderr` by a task that ends with it.
    pub(super) fn start(
        program: &Program,
        guard: &Arc<Guard>,
        stderr: &Arc<StderrTail>,
        name: &Arc<str>,
    ) -> io::Result<(Self, Pipes)> {
        let mut command = Command::new(&program.command);
        command
            .args(&program.args)
            .env_clear()
            .envs(program.inherited.iter())
            .envs(&program.env)
            .env(super::guard::MARKER, guard.marker())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(cwd) = &program.cwd {
            command.current_dir(cwd);
        }
        end_with_parent(&mut command);
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            guard.add(group);
        }
        let missing = || io::Error::other("the child has no pipes");
        let pipes = Pipes {
            stdin: child.stdin.take().ok_or_else(missing)?,
            stdout: child.stdout.take().ok_or_else(missing)?,
        };
        let output = child.stderr.take().ok_or_else(missing)?;
        tokio::spawn(gather_stderr(output, Arc::clone(stderr), Arc::clone(name)));
        Ok((Self { child, group, guard: Arc::clone(guard) }, pipes))
    }

    /// Returns its process id, as long as it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it exits by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub(super) async fn exited(&mut self) -> String {
        words(self.child.wait().await)
    }

    /// Ends it and all it started, gently first. Its input must be closed already.
    pub(super) async fn end(mut self) -> String {
        let mut status = timeout(END_OF_INPUT_GRACE, self.child.wait()).await;
        if status.is_err() {
            self.signal(Signal::TERM);
            status = timeout(TERMINATE_GRACE, self.child.wait()).await;
        }
        // What is left of the group gets no second chance to linger: its leader is gone or refuses.
        self.signal(Signal::TERM);
        if let Ok(status) = status {
            self.wait_for_group(Duration::from_millis(200)).await;
            self.signal(Signal::KILL);
            return words(status);
        }
        self.signal(Signal::KILL);
        words(self.child.wait().await)
    }

    /// Waits until no process is left in the group.
    async fn wait_for_group(&self, at_most: Duration) {
        let Some(group) = self.group else { return };
        let _ = timeout(at_most, async {
            while rustix::process::test_kill_process_group(group).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(group) = self.group {
            self.guard.remove(group);
        }
    }
}

fn words(status: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with code {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        },
        Err(error) => format!("its end cannot be told: {error}"),
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "`pre_exec` runs between fork and exec; one system call, no allocation, no lock"
)]
fn end_with_parent(command: &mut Command) {
    // SAFETY: `prctl` is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(io::Error::from)
        });
    }
}

/// Only Linux has a parent-death signal; elsewhere [`Guard`] is alone.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_command: &mut Command) {}

/// The last lines a server wrote to stderr, without secrets.
#[derive(Debug)]
pub struct StderrTail {
    lines: Mutex<VecDeque<String>>,
    redactor: Redactor,
}

impl StderrTail {
    /// Returns an empty tail.
    pub fn new(redactor: Redactor) -> Self {
        Self { lines: Mutex::default(), redactor }
    }

    /// Returns the last lines, oldest first.
    pub fn last(&self, lines: usize) -> String {
        let kept = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = kept.len().saturating_sub(lines);
        kept.iter().skip(skipped).map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn push(&self, line: String) {
        let mut kept = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == STDERR_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

async fn gather_stderr(output: ChildStderr, tail: Arc<StderrTail>, name: Arc<str>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is taken in parts: nothing a server writes here can fill the memory.
        let mut part = (&mut reader).take(STDERR_LINE_BYTES as u64);
        match part.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text: String =
            text.trim_end().chars().filter(|char| !char.is_control() || *char == '\t').collect();
        if !text.is_empty() {
            let text = tail.redactor.redact_text(&text);
            tracing::debug!(target: "ultra::upstream", upstream = %name, "{text}");
            tail.push(text.into_owned());
        }
    }
}
