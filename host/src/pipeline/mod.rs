//! The stages a call passes on its way to the upstream and back.
//!
//! Requests meet them by rising priority value, outcomes in reverse. The pipeline does no I/O of its
//! own and knows neither transports nor WebAssembly; [`Gateway`](crate::gateway::Gateway) puts the
//! upstream between its halves.

mod error;
mod exchange;

use std::sync::Arc;

use ultra_store::Store;

pub use error::{CallError, StageError};
pub use exchange::{Caller, Exchange, Operation, Outcome, SpanContext};

/// What a stage makes of a call it meets.
#[derive(Debug)]
pub enum RequestDecision {
    /// The call goes on, as the stage left it in the exchange.
    Pass,
    /// The stage answers in place of the upstream.
    Answer(bytes::Bytes),
    /// The call is refused. The reason is meant for the client.
    Deny(String),
}

/// What a stage makes of an outcome it meets.
#[derive(Debug)]
pub enum ResponseDecision {
    /// The outcome goes on, as the stage left it in the exchange.
    Pass,
    /// The result is withheld. The reason is meant for the client.
    Deny(String),
}

/// What a plugin does with a call.
///
/// Synchronous: a hook takes microseconds, and every hand-off to another thread costs more than a
/// whole chain of hooks. The exchange is taken and handed back so that a component's store can hold
/// it meanwhile; it comes back whole after an error too.
pub trait Interceptor: Send + Sync {
    /// Meets a call before the upstream sees it.
    fn before_request(&self, exchange: Box<Exchange>) -> (Box<Exchange>, Result<RequestDecision, StageError>);

    /// Meets its outcome.
    fn after_response(&self, exchange: Box<Exchange>) -> (Box<Exchange>, Result<ResponseDecision, StageError>);
}

/// What happens to a call when a stage comes to no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureMode {
    /// The call goes on as if the stage were not there.
    Open,
    /// The call fails.
    Closed,
}

/// An interceptor with its place and its failure modes.
pub struct Stage {
    /// Plugin id, such as `audit`.
    pub id: Arc<str>,
    /// Lower meets requests earlier and outcomes later.
    pub priority: i32,
    /// Mode of the request phase; none if the plugin has no such hook.
    pub request: Option<FailureMode>,
    /// Mode of the response phase; none if the plugin has no such hook.
    pub response: Option<FailureMode>,
    /// Also meets outcomes of calls that an earlier stage ended before this one saw them.
    pub sees_all_outcomes: bool,
    /// The plugin.
    pub interceptor: Arc<dyn Interceptor>,
}

/// The stages in order, and the store that keeps what they record.
pub struct Pipeline {
    stages: Vec<Stage>,
    store: Arc<dyn Store>,
}
