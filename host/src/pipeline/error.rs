//! Why a call has no result.

use std::sync::Arc;
use std::time::Duration;

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// An interceptor refused. The reason is meant for the client.
    #[error("denied by `{stage}`: {reason}")]
    Denied {
        /// Plugin id.
        stage: Arc<str>,
        /// Why.
        reason: String,
    },
    /// An interceptor failed, and the call with it.
    #[error("interceptor `{stage}` failed")]
    Stage {
        /// Plugin id.
        stage: Arc<str>,
        /// How it failed.
        source: Arc<StageError>,
    },
    /// No upstream offers what was asked for.
    #[error("unknown {kind} `{name}`")]
    Unknown {
        /// `tool`, `prompt`, `resource` or `method`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Several upstreams offer it.
    #[error("`{name}` is offered by {}", upstreams.join(" and "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Who offers it.
        upstreams: Vec<String>,
    },
    /// The params are not what the method takes.
    #[error("invalid params: {reason}")]
    InvalidParams {
        /// What is wrong.
        reason: String,
    },
    /// The upstream gave no answer.
    #[error(transparent)]
    Upstream(#[from] crate::upstream::UpstreamError),
    /// The upstream asked something, and the client answered with an error.
    #[error("the client did not answer what the upstream asked: {error}")]
    Refused {
        /// The error object, as raw JSON.
        error: String,
    },
    /// The client withdrew the call.
    #[error("cancelled by the client")]
    Cancelled,
    /// The interceptors could not be loaded.
    #[error("the interceptors are not there")]
    NoPipeline,
    /// Too many calls are open.
    #[error("more than {limit} calls in flight")]
    Busy {
        /// The limit.
        limit: usize,
    },
}

/// Why an interceptor came to no decision.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It ran too long.
    #[error("no decision within {} ms", limit.as_millis())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// It trapped: a panic, an access outside its memory, a call it has no grant for.
    #[error("trapped: {reason}")]
    Trap {
        /// What the engine said, in one line.
        reason: String,
    },
    /// It called the gateway too often in one hook.
    #[error("more than {limit} calls to the gateway in one hook")]
    HostCalls {
        /// The limit.
        limit: u32,
    },
    /// It asked for more memory than it may have.
    #[error("more than {limit_bytes} bytes of memory")]
    Memory {
        /// The limit.
        limit_bytes: usize,
    },
    /// It stopped the call without saying how.
    #[error("stopped the call without an outcome")]
    NoOutcome,
    /// No instance could be made.
    #[error("cannot start: {reason}")]
    Start {
        /// Why.
        reason: String,
    },
    /// It failed too often and rests.
    #[error("quarantined after {failures} failures in a minute")]
    Quarantined {
        /// Failures in the window.
        failures: u32,
    },
    /// Its audit event could not be made durable.
    #[error("the audit event is not durable")]
    Audit {
        /// What the store said.
        source: ultra_store::StoreError,
    },
}
