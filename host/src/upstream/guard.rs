//! The guard: a second process that outlives this one by a moment, and ends what it left behind.
//!
//! `kill -9` gives a gateway no chance to end its upstreams. A parent-death signal reaches children
//! but not what they started. So the gateway tells the guard each process group it makes, over a
//! pipe; when the pipe ends, the guard kills the groups that are left, and every process that still
//! carries this gateway's mark in its environment (one that made itself a group of its own).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// Environment variable that marks every process below a gateway.
pub(super) const MARKER: &str = "ULTRA_GATEWAY";

/// The hidden command the guard runs as.
pub const COMMAND: &str = "__guard";

/// A handle on the guard process. Dropping it lets the guard do its work.
#[derive(Debug)]
pub struct Guard {
    program: PathBuf,
    marker: String,
    process: Mutex<Process>,
}

#[derive(Debug)]
enum Process {
    /// Nothing to guard yet.
    NotStarted,
    Running(Child, ChildStdin),
    /// It could not be started, or was ended.
    Gone,
}

impl Guard {
    /// Returns a guard that starts with the first group it is told. `program` is this program, run
    /// as [`COMMAND`].
    pub fn new(program: PathBuf) -> Self {
        let marker = uuid::Uuid::now_v7().simple().to_string();
        Self { program, marker, process: Mutex::new(Process::NotStarted) }
    }

    /// Returns the mark of this gateway.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Puts a process group under guard.
    pub fn add(&self, group: Pid) {
        self.tell('+', group);
    }

    /// Takes it out again: it has ended.
    pub fn remove(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, what: char, group: Pid) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Process::NotStarted = *process {
            *process = self.start();
        }
        if let Process::Running(_, stdin) = &mut *process
            && let Err(error) =
                stdin.write_all(format!("{what}{}\n", group.as_raw_nonzero()).as_bytes())
        {
            tracing::warn!(%error, "upstreams may outlive a killed gateway: the guard is gone");
            *process = Process::Gone;
        }
    }

    fn start(&self) -> Process {
        let started = Command::new(&self.program)
            .args([COMMAND, &self.marker])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .and_then(|mut child| {
                let stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
                Ok(Process::Running(child, stdin))
            });
        started.unwrap_or_else(|error| {
            tracing::warn!(%error, "upstreams may outlive a killed gateway: the guard does not start");
            Process::Gone
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Process::Running(mut child, stdin) = std::mem::replace(process, Process::Gone) {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// Runs the guard until the gateway behind `input` is gone, and then ends what it left.
pub fn run(marker: &str, input: impl Read) {
    // A terminal's Ctrl-C must reach the gateway alone.
    let _ = rustix::process::setsid();
    let mut groups = BTreeSet::new();
    for line in BufReader::new(input).lines() {
        let Ok(line) = line else { break };
        if let Some(group) = line.get(1..).and_then(|digits| digits.parse::<i32>().ok()) {
            match line.as_bytes()[0] {
                b'+' => groups.insert(group),
                _ => groups.remove(&group),
            };
        }
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    kill_marked(&format!("{MARKER}={marker}"));
}

/// Kills the processes that carry the mark, until none is left that can be seen.
#[cfg(target_os = "linux")]
fn kill_marked(mark: &str) {
    let own = std::process::id();
    // A process may start another while it is looked for; each round finds fewer.
    for _ in 0..5 {
        let marked: Vec<_> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|&id| id != own)
            .filter(|id| {
                std::fs::read(format!("/proc/{id}/environ")).is_ok_and(|environ| {
                    environ.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
                })
            })
            .filter_map(|id| Pid::from_raw(id.cast_signed()))
            .collect();
        if marked.is_empty() {
            return;
        }
        for id in marked {
            let _ = rustix::process::kill_process(id, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Environments of other processes can be read on Linux only.
#[cfg(not(target_os = "linux"))]
fn kill_marked(_mark: &str) {}
