//! The official MCP conformance suite, run against servers and clients of ours.
//!
//! The suite is a program of other people, installed by `cargo xtask test` with the node it needs. Because it
//! listens on all interfaces, it and everything it talks to run in a [`Namespace`] that has only loopback.

mod namespace;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use namespace::{Namespace, Running};
pub use report::{Report, Scenario};

use crate::{program, servers, session};

/// How long a run may take. Alone, the longest takes ten seconds.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);

/// A program that a run needs, and how to know that it is ready.
pub struct Process {
    command: Command,
    ready: String,
}

impl Process {
    /// Returns a program that is ready when it has written this.
    pub fn new(command: Command, ready: &str) -> Self {
        Self { command, ready: ready.to_owned() }
    }

    /// Returns `conformance-fixture` on a port; `era` is `both`, `legacy` or `modern`.
    pub fn fixture(port: u16, era: &str) -> Self {
        let mut command = Command::new(program("conformance-fixture"));
        command.args(["--port", &port.to_string(), "--era", era]);
        Self::new(command, "port=")
    }
}

/// The suite, and the namespace it runs in.
pub struct Suite {
    node: PathBuf,
    script: PathBuf,
    namespace: Namespace,
}

impl Suite {
    /// Returns the suite, in a namespace of its own.
    ///
    /// None if it is not installed or there are no namespaces, which is said aloud.
    ///
    /// # Panics
    ///
    /// As none, if `CI` is `true`: there, a skipped test is a failed one.
    pub fn find() -> Option<Self> {
        let node = servers::find_in("conformance", "node")?;
        let script = servers::find_in("conformance", "conformance")?;
        Some(Self { node, script, namespace: Namespace::find()? })
    }

    /// Starts these programs, one after the other is ready, and runs the server scenarios that a revision
    /// requires against a URL.
    ///
    /// # Panics
    ///
    /// If a program is not ready in time, or the suite does not end with a summary.
    pub async fn server(&self, processes: Vec<Process>, url: &str, revision: &str) -> Report {
        let _running = self.start(processes).await;
        self.run(&["server", "--url", url], revision).await
    }

    /// Runs the client scenarios that a revision requires against a command, which the suite completes with
    /// a URL and hands to a shell, several at a time.
    ///
    /// # Panics
    ///
    /// If the suite does not end with a summary.
    pub async fn client(&self, command: &str, revision: &str) -> Report {
        self.run(&["client", "--command", command], revision).await
    }

    async fn start(&self, processes: Vec<Process>) -> Vec<Running> {
        let mut started = Vec::new();
        for process in processes {
            let mut running = self.namespace.start(&process.command);
            running.until_line(&process.ready, session::PATIENCE).await;
            started.push(running);
        }
        started
    }

    async fn run(&self, args: &[&str], revision: &str) -> Report {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut suite = self.namespace.start(&self.command(args, revision, dir.path()));
        suite.ended(RUN_TIMEOUT).await;
        Report::read(revision, &suite.output(), dir.path()).unwrap_or_else(|why| suite.fail(&why))
    }

    fn command(&self, args: &[&str], revision: &str, results: &Path) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(&self.script).args(args).args(["--requirements", revision]);
        command.arg("--output-dir").arg(results);
        command
    }
}
