//! `conformance-fixture` behind HTTP.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::program;

/// `conformance-fixture` on a port of its own; ended with the value.
#[derive(Debug)]
pub struct Fixture {
    child: Child,
    /// Where it serves MCP.
    pub url: String,
}

impl Fixture {
    /// Starts it; `era` is `both`, `legacy` or `modern`.
    ///
    /// # Panics
    ///
    /// If it does not say where it listens.
    pub fn start(era: &str) -> Self {
        let mut command = Command::new(program("conformance-fixture"));
        command.args(["--era", era]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program is there");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let Some(port) = line.trim().strip_prefix("port=") else {
            panic!("it does not listen: {read:?} {line}")
        };
        Self { child, url: format!("http://127.0.0.1:{port}/mcp") }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
