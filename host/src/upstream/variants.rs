//! Servers that speak MCP only when they are told to: without the right argument they print how they are
//! used. The usual arguments are tried, once, all at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::process::{Pipes, Process, StderrTail};
use super::{Program, Upstream};
use crate::mcp::{Kind, Message, Revision, json, request_line};
use crate::wire::{Line, LineReader, Outbox, Outlet as _};

/// Arguments by which servers are told to speak MCP on stdio, the usual ones first.
const VARIANTS: [&[&str]; 7] = [
    &["--stdio"],
    &["server"],
    &["serve"],
    &["server", "--stdio"],
    &["server", "--mcp-only"],
    &["start", "--stdio"],
    &["--mcp"],
];

/// A server may take this long to answer when it is tried.
const TRY_TIMEOUT: Duration = Duration::from_secs(20);

impl Upstream {
    /// Returns the program with those further arguments with which it speaks MCP, if there are any.
    pub(super) async fn find_variant(&self, program: &Program) -> Option<Program> {
        let tried = VARIANTS.map(|variant| {
            let mut program = program.clone();
            program.args.extend(variant.iter().map(|arg| (*arg).to_owned()));
            async move { self.speaks(&program).await.then_some(program) }
        });
        join_all(tried).await.into_iter().flatten().next()
    }

    /// Starts a program, and ends it again. Returns whether it answered `initialize`.
    async fn speaks(&self, program: &Program) -> bool {
        let stderr = Arc::new(StderrTail::new(self.surroundings.redactor.clone()));
        let started = Process::start(program, &self.surroundings.guard, &stderr, &self.name);
        let Ok((process, Pipes { stdin, stdout })) = started else { return false };
        let outbox = Arc::new(Outbox::default());
        let params = format!(
            r#"{{"protocolVersion":{},"capabilities":{{}},"clientInfo":{{"name":"ultra","version":{}}}}}"#,
            json::quote(Revision::LATEST_LEGACY.as_str()),
            json::quote(env!("CARGO_PKG_VERSION")),
        );
        let _ = outbox.push(&[request_line(1, "initialize", params.as_bytes()).into()]);
        let answered = async {
            let mut lines = LineReader::new(stdout);
            while let Ok(Some(line)) = lines.next().await {
                let Line::Text(line) = line else { continue };
                let message = Message::parse(line);
                if message.is_ok_and(|message| message.kind() == Kind::Response) {
                    return true;
                }
            }
            false
        };
        let speaks = tokio::select! {
            answered = timeout(TRY_TIMEOUT, answered) => answered.unwrap_or(false),
            // Its input stays open meanwhile.
            _ = outbox.write_to(stdin) => false,
            () = self.ending.cancelled() => false,
        };
        process.end().await;
        speaks
    }
}
