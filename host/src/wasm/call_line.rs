//! The log's line about one phase of a call.
//!
//! Wording a line costs more than everything else an interceptor does, so a call only leaves the facts;
//! whoever takes them words them when nobody waits. Lines never tell payloads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::bindings::log;
use super::report::{error_in_log, event};
use crate::pipeline::{CallError, Exchange, MessageKind, Outcome};

/// The facts of a line.
#[derive(Debug)]
pub struct CallLine {
    /// When the plugin asked for the line, in nanoseconds since 1970 UTC.
    pub unix_ns: i64,
    level: log::Level,
    plugin: Arc<str>,
    /// `request`, or `notification`.
    what: &'static str,
    from_server: bool,
    operation: &'static str,
    method: Arc<str>,
    upstream: Option<Arc<str>>,
    name: Option<Arc<str>>,
    principal: Arc<str>,
    subject: Option<Arc<str>>,
    /// Of what the phase is about: the parameters, or the outcome.
    bytes: usize,
    ended: Option<Ended>,
}

#[derive(Debug)]
struct Ended {
    status: &'static str,
    error: Option<String>,
    elapsed: Duration,
}

/// Takes lines on the path of calls, and has them written elsewhere.
pub trait CallLog: Send + Sync {
    /// Takes a line. Must not wait.
    fn push(&self, line: CallLine);
}

impl CallLine {
    pub(super) fn new(
        plugin: &Arc<str>,
        level: log::Level,
        exchange: &Exchange,
        elapsed: Duration,
    ) -> Self {
        let ended = exchange.outcome.as_ref().map(|outcome| Ended {
            status: match outcome {
                Outcome::Result { tool_error: false, .. } => "success",
                Outcome::Result { tool_error: true, .. } => "tool error",
                Outcome::Rpc { .. } => "upstream error",
                Outcome::Failed(CallError::Denied { .. }) => "denied",
                Outcome::Failed(CallError::Cancelled) => "cancelled",
                Outcome::Failed(_) => "failed",
            },
            error: error_in_log(outcome),
            elapsed,
        });
        Self {
            unix_ns: exchange.started_unix_ns + elapsed.as_nanos() as i64,
            level,
            plugin: Arc::clone(plugin),
            what: match exchange.kind {
                MessageKind::Notifications => "notification",
                MessageKind::Calls | MessageKind::Session | MessageKind::ServerRequests => {
                    "request"
                }
            },
            from_server: exchange.from_server,
            operation: exchange.operation.as_str(),
            method: Arc::clone(&exchange.method),
            upstream: exchange.upstream.clone(),
            name: exchange.name.clone(),
            principal: Arc::clone(&exchange.caller.principal),
            subject: exchange.caller.subject.clone(),
            bytes: exchange.payload().len(),
            ended,
        }
    }

    /// Names the direction that is not the usual one.
    fn direction(&self) -> Option<&'static str> {
        self.from_server.then_some("from_server")
    }

    /// Writes the line.
    pub fn write(&self) {
        let target = Target(self);
        let method = &*self.method;
        let Some(ended) = &self.ended else {
            event!(
                self.level,
                plugin.id = &*self.plugin,
                phase = "request",
                direction = self.direction(),
                operation = self.operation,
                upstream.name = self.upstream.as_deref(),
                name = self.name.as_deref(),
                principal = &*self.principal,
                subject = self.subject.as_deref(),
                request_bytes = self.bytes,
                "{} {method}{target}",
                self.what
            );
            return;
        };
        event!(
            self.level,
            plugin.id = &*self.plugin,
            phase = "response",
            direction = self.direction(),
            operation = self.operation,
            upstream.name = self.upstream.as_deref(),
            name = self.name.as_deref(),
            principal = &*self.principal,
            subject = self.subject.as_deref(),
            response_bytes = self.bytes,
            duration_ms = ended.elapsed.as_micros() as f64 / 1000.0,
            status = ended.status,
            error = ended.error.as_deref(),
            "response {method}{target}: {}",
            ended.status
        );
    }
}

/// ` upstream/name`, as far as known; ` from upstream` where it is the sender.
struct Target<'a>(&'a CallLine);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.upstream, &self.0.name) {
            (Some(upstream), Some(name)) => write!(f, " {upstream}/{name}"),
            (Some(upstream), None) if self.0.from_server => write!(f, " from {upstream}"),
            (Some(upstream), None) => write!(f, " {upstream}"),
            (None, Some(name)) => write!(f, " {name}"),
            (None, None) => Ok(()),
        }
    }
}
