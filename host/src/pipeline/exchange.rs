//! One message on its way through the stages, and its outcome on the way back.
//!
//! Owns the bytes and remembers what stages did. Knows neither transports nor WebAssembly.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ultra_store::AuditEvent;

use super::MessageKind;
use crate::mcp::{Era, Revision};

/// What a call does, as records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `tools/call`.
    ToolCall,
    /// `resources/read`.
    ResourceRead,
    /// `prompts/get`.
    PromptGet,
    /// `tools/list`.
    ToolList,
    /// `resources/list` and `resources/templates/list`.
    ResourceList,
    /// `prompts/list`.
    PromptList,
    /// Every other method.
    Other,
}

impl Operation {
    /// Returns the operation of a JSON-RPC method.
    pub fn of_method(method: &str) -> Self {
        match method {
            "tools/call" => Self::ToolCall,
            "resources/read" => Self::ResourceRead,
            "prompts/get" => Self::PromptGet,
            "tools/list" => Self::ToolList,
            "resources/list" | "resources/templates/list" => Self::ResourceList,
            "prompts/list" => Self::PromptList,
            _ => Self::Other,
        }
    }

    /// Returns its name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToolCall => "tool_call",
            Self::ResourceRead => "resource_read",
            Self::PromptGet => "prompt_get",
            Self::ToolList => "tool_list",
            Self::ResourceList => "resource_list",
            Self::PromptList => "prompt_list",
            Self::Other => "other",
        }
    }
}

/// W3C ids of the span a call is.
#[derive(Debug, Clone, Copy)]
pub struct SpanContext {
    /// Trace id; never 0.
    pub trace_id: u128,
    /// Span id; never 0.
    pub span_id: u64,
    /// The caller's span.
    pub parent_span_id: Option<u64>,
    /// The W3C sampled flag.
    pub sampled: bool,
}

impl SpanContext {
    /// Returns the root of a new trace.
    pub fn root() -> Self {
        Self {
            trace_id: rand::random::<u128>().max(1),
            span_id: rand::random::<u64>().max(1),
            parent_span_id: None,
            sampled: true,
        }
    }
}

/// Who calls: the same for all calls of a session.
#[derive(Debug)]
pub struct Caller {
    /// MCP client, as `name/version`.
    pub principal: Arc<str>,
    /// Who the client has proven to act for, if it had to: the subject of its access token.
    pub subject: Option<Arc<str>>,
    /// MCP session.
    pub session_id: Arc<str>,
    /// The revision negotiated with the client.
    pub protocol_version: Arc<str>,
}

impl Caller {
    /// Returns the era the client lives in.
    pub fn era(&self) -> Era {
        Revision::parse(&self.protocol_version).map_or(Era::Legacy, Revision::era)
    }

    /// Returns whose a task or a state is: of this client when it acts for this subject, and of nobody
    /// else.
    pub fn owner(&self) -> Cow<'_, str> {
        match &self.subject {
            None => Cow::Borrowed(&self.principal),
            // Neither has control characters, so that no two owners are written alike.
            Some(subject) => Cow::Owned(format!("{subject}\0{}", self.principal)),
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A result, as raw JSON.
    Result {
        /// The JSON text.
        json: Bytes,
        /// The tool ran and reported an error of its own (`isError: true`).
        tool_error: bool,
    },
    /// The upstream answered with a JSON-RPC error, as raw JSON.
    Rpc {
        /// The JSON text of the error object.
        json: Bytes,
    },
    /// No answer came from an upstream.
    Failed(super::CallError),
}

/// One message, most often a call, and its outcome once there is one.
///
/// Boxed: stages take it and hand it back, and a component's store holds it meanwhile.
#[derive(Debug)]
pub struct Exchange {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// What it is to the gateway.
    pub kind: MessageKind,
    /// An upstream sent it to the client, not the other way round.
    pub from_server: bool,
    /// JSON-RPC method.
    pub method: Arc<str>,
    /// What the method does.
    pub operation: Operation,
    /// Upstream the call goes to, by its name in the config; none for an unknown tool.
    pub upstream: Option<Arc<str>>,
    /// Tool or prompt by the upstream's own name, or the resource's URI.
    pub name: Option<Arc<str>>,
    /// How the upstream is reached.
    pub transport: Option<&'static str>,
    /// `params` as raw JSON, as sent or as a stage replaced them; empty when there are none.
    pub params: Bytes,
    /// Set when a stage replaced `params`.
    pub params_edited: bool,
    /// The raw JSON string of `params._meta.traceparent`, quotes included.
    pub traceparent: Option<Bytes>,
    /// Ids of the call's span.
    pub span: SpanContext,
    /// When the call was read.
    pub started: Instant,
    /// The same, in nanoseconds since 1970 UTC.
    pub started_unix_ns: i64,
    /// How it ended. Set between the two halves of the pipeline.
    pub outcome: Option<Outcome>,
    /// An interceptor answered in place of the upstream.
    pub answered: bool,
    /// Words each stage keeps from its first hook to its second.
    pub kept: Vec<[u64; 4]>,
    /// Index of the stage that runs.
    pub stage: usize,
    /// The audit event the running stage recorded; the pipeline makes it durable.
    pub audit: Option<Box<AuditEvent>>,
    /// The trace record was queued.
    pub traced: bool,
}

impl Exchange {
    /// Returns a call that begins now, and of which nothing is known yet but what its client said.
    pub fn new(caller: Arc<Caller>, method: &str, params: Bytes) -> Box<Self> {
        Box::new(Self {
            caller,
            kind: MessageKind::Calls,
            from_server: false,
            operation: Operation::of_method(method),
            method: method.into(),
            upstream: None,
            name: None,
            transport: None,
            params,
            params_edited: false,
            traceparent: None,
            span: SpanContext::root(),
            started: Instant::now(),
            started_unix_ns: crate::unix_ns(),
            outcome: None,
            answered: false,
            kept: Vec::new(),
            stage: 0,
            audit: None,
            traced: false,
        })
    }

    /// Returns what the client settles with the gateway itself.
    pub fn session(caller: Arc<Caller>, method: &str, params: Bytes) -> Box<Self> {
        Box::new(Self { kind: MessageKind::Session, ..*Self::new(caller, method, params) })
    }

    /// Returns a notification of the client.
    pub fn notification(caller: Arc<Caller>, method: &str, params: Bytes) -> Box<Self> {
        Box::new(Self { kind: MessageKind::Notifications, ..*Self::new(caller, method, params) })
    }

    /// Returns what an upstream sends to the client.
    pub fn of_upstream(
        kind: MessageKind,
        caller: Arc<Caller>,
        upstream: &Arc<str>,
        method: &str,
        params: Bytes,
    ) -> Box<Self> {
        let upstream = Some(Arc::clone(upstream));
        Box::new(Self { kind, from_server: true, upstream, ..*Self::new(caller, method, params) })
    }

    /// Returns the payload of the running phase: `params`, or the outcome's JSON once there is one.
    pub fn payload(&self) -> &[u8] {
        match &self.outcome {
            None => &self.params,
            Some(Outcome::Result { json, .. } | Outcome::Rpc { json }) => json,
            Some(Outcome::Failed(_)) => b"",
        }
    }

    /// Returns whether the call ended without an unreserved success.
    pub fn failed(&self) -> bool {
        match &self.outcome {
            None | Some(Outcome::Result { tool_error: false, .. }) => false,
            Some(
                Outcome::Result { tool_error: true, .. } | Outcome::Rpc { .. } | Outcome::Failed(_),
            ) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(principal: &str, subject: Option<&str>) -> String {
        let caller = Caller {
            principal: principal.into(),
            subject: subject.map(Arc::from),
            session_id: "session".into(),
            protocol_version: "2026-07-28".into(),
        };
        caller.owner().into_owned()
    }

    #[test]
    fn owners_differ_by_client_and_by_subject() {
        let owners = [
            owner("claude/1", None),
            owner("claude/1", Some("ada")),
            owner("claude/1", Some("bob")),
            owner("cursor/1", Some("ada")),
            owner("1", Some("adaclaude/")),
            owner("adaclaude/1", None),
        ];

        let different: std::collections::HashSet<_> = owners.iter().collect();
        assert_eq!(different.len(), owners.len());
        assert_eq!(owners[0], "claude/1");
    }
}
