//! A network namespace that has only loopback, and the processes in it.
//!
//! Ports in it are all free, so that tests can choose them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::kill_group;
use crate::{program, servers};

/// Of what a process wrote, so many lines are shown when it fails.
const SHOWN_LINES: usize = 60;

/// How often is looked whether a process is ready, or has ended.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// The namespace. It lasts as long as this value, and its processes.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes a namespace; none if the system has none, which is said aloud.
    ///
    /// # Panics
    ///
    /// As none, if `CI` is `true`: there, a skipped test is a failed one.
    pub fn find() -> Option<Self> {
        match Self::open() {
            Ok(namespace) => Some(namespace),
            Err(why) => {
                servers::missing(&format!("the test needs a network namespace: {why}"));
                None
            }
        }
    }

    fn open() -> Result<Self, String> {
        let mut holder = Command::new(program("loopback-only"))
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start `loopback-only`: {error}"))?;
        let mut said = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut said);
        }
        if said == "ready\n" {
            return Ok(Self { holder });
        }
        let output = holder.wait_with_output().map_err(|error| error.to_string())?;
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Starts a program in the namespace.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self, command: &Command) -> Running {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        let output = File::create(&log).expect("the temporary directory is writable");
        let errors = output.try_clone().expect("a file can be opened twice");
        let child = self
            .entering(command)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Running { child, log, shown: format!("{command:?}"), _dir: dir }
    }

    /// Returns the command that enters the namespace and becomes the given one, in a group of its own.
    fn entering(&self, command: &Command) -> Command {
        let mut entering = Command::new(program("loopback-only"));
        entering.arg("enter").arg(self.holder.id().to_string());
        entering.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entering.env(name, value),
                None => entering.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            entering.current_dir(dir);
        }
        std::os::unix::process::CommandExt::process_group(&mut entering, 0);
        entering
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A process in the namespace. Its group dies with this value.
pub struct Running {
    child: Child,
    /// What it writes, to stdout and stderr.
    log: PathBuf,
    shown: String,
    _dir: TempDir,
}

impl Running {
    /// Waits until it has written this.
    ///
    /// # Panics
    ///
    /// If it has not within `limit`, or ends before; shows what it wrote.
    pub async fn until_line(&mut self, part: &str, limit: Duration) {
        let what = format!("a line with `{part}`");
        self.until(&what, limit, |this| {
            if this.output().contains(part) {
                return Some(());
            }
            if let Some(status) = this.status() {
                this.fail(&format!("ended ({status}) before {what}"));
            }
            None
        })
        .await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// If it has not within `limit`; shows what it wrote.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        self.until("its end", limit, Self::status).await
    }

    async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            if start.elapsed() > limit {
                self.fail(&format!("waited {limit:?} for {what}"));
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be waited for")
    }

    /// Returns what it has written.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Panics with a reason and the end of what it wrote.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn fail(&self, why: &str) -> ! {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
        panic!("{}: {why}\n  {tail}", self.shown);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not yet waited for, or only just: the id is still ours.
        kill_group(self.child.id());
        let _ = self.child.wait();
    }
}
