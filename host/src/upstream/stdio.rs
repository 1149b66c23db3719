//! A server on stdio: its process, and what it says line by line.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::keeper::{ENDING, Permit};
use super::process::{Pipes, Process};
use super::{Connection, Listener, Program, Upstream};
use crate::mcp::{Message, MessageError, json};
use crate::wire::{Line, LineReader, Outbox, Outlet};

/// What a server wrote before it exited is read for at most this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a line is that was read and thrown away.
const TOO_LONG: MessageError = MessageError::Envelope("a message longer than 64 MiB");

/// The server closed its stdout: what it exits with says more.
const OUTPUT_ENDED: &str = "its output ended";

impl Upstream {
    /// Starts the server and serves it until it ends. Returns why it did, and whether it took calls.
    pub(super) async fn run_stdio(
        self: &Arc<Self>,
        program: &Program,
        listener: &Arc<dyn Listener>,
        permit: Permit<'_>,
    ) -> (String, bool) {
        let configured = program;
        let program = self.variant.get().unwrap_or(configured);
        self.spoke_text.store(false, Ordering::Relaxed);
        let shutdown = self.ending.clone();
        let started = Process::start(program, &self.surroundings.guard, &self.stderr, &self.name);
        let (mut process, Pipes { stdin, stdout }) = match started {
            Ok(started) => started,
            Err(error) => {
                return (format!("`{}` cannot be started: {error}", program.command), false);
            }
        };
        let outbox = Arc::new(Outbox::default());
        let outlet: Arc<dyn Outlet> = Arc::<Outbox>::clone(&outbox);
        let connection = Arc::new(Connection::new(Arc::clone(&self.name), outlet));
        tracing::debug!(upstream = %self.name, pid = process.id(), "upstream `{}` started", self.name);

        let writing = tokio::spawn(async move {
            let _ = outbox.write_to(stdin).await;
        });
        let mut lines = LineReader::new(stdout);
        let reason = {
            let reading = self.read(&mut lines, &connection, listener);
            let keeping = self.keep(&connection, None, listener, permit);
            tokio::pin!(reading, keeping);
            tokio::select! {
                reason = &mut reading => reason,
                reason = &mut keeping => reason,
                () = shutdown.cancelled() => ENDING.to_owned(),
                reason = process.exited() => {
                    let _ = timeout(LAST_WORDS, &mut reading).await;
                    reason
                }
            }
        };
        let was_ready = self.lost(&connection, &reason, listener);
        // Closing the outbox lets the writer drop the server's stdin.
        let _ = timeout(LAST_WORDS, writing).await;
        let ending = process.end().await;
        let reason = if reason == OUTPUT_ENDED { ending } else { reason };
        let printed_help = self.spoke_text.load(Ordering::Relaxed) && !was_ready;
        if was_ready {
            let _ = self.variant.set(program.clone());
        } else if printed_help && self.variant.get().is_none() && !shutdown.is_cancelled() {
            // Whatever comes of it, it is tried once.
            let found = Box::pin(self.find_variant(configured)).await;
            if let Some(found) = &found {
                let args = found.args[configured.args.len()..].join(" ");
                tracing::warn!(
                    upstream = %self.name,
                    "upstream `{}` speaks MCP with `{args}`: add that to its `args`", self.name
                );
            }
            let _ = self.variant.set(found.unwrap_or_else(|| configured.clone()));
        }
        (reason, was_ready)
    }

    /// Reads what the server says until its output ends. Returns why it did.
    async fn read(
        self: &Arc<Self>,
        lines: &mut LineReader<tokio::process::ChildStdout>,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
    ) -> String {
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return OUTPUT_ENDED.to_owned(),
                Err(error) => return format!("its output cannot be read: {error}"),
            };
            self.surroundings.rush.line();
            let message = match line {
                Line::Text(line) => Message::parse(line.clone()).map_err(|error| (error, line)),
                Line::TooLong { head } => Err((TOO_LONG, head)),
            };
            match message {
                Ok(message) => self.take(message, None, connection, listener),
                // Servers of 2025-03-26 may send batches. The text is valid JSON.
                Err((MessageError::Batch, line)) => {
                    for range in json::elements(&line) {
                        match Message::parse(line.slice(range.clone())) {
                            Ok(message) => self.take(message, None, connection, listener),
                            Err(error) => self.unreadable(connection, &error, &line[range], None),
                        }
                    }
                }
                Err((error, line)) => {
                    // One too long to tell whose it is fails the oldest call: it would wait in vain.
                    let meant = if error == TOO_LONG { connection.oldest() } else { None };
                    self.unreadable(connection, &error, &line, meant);
                }
            }
            if let Some(outbox) = listener.outbox() {
                outbox.drained().await;
            }
        }
    }
}
