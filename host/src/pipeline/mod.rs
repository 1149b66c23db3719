//! The stages a message passes, most often a call on its way to the upstream and back.
//!
//! Requests meet them by rising priority value, outcomes in reverse. The pipeline does no I/O of its
//! own and knows neither transports nor WebAssembly; [`Gateway`](crate::gateway::Gateway) puts the
//! upstream between its halves.

mod error;
mod exchange;
mod kind;

use std::sync::Arc;

use ultra_store::{AuditEvent, Record, Store};

pub use error::{CallError, StageError};
pub use exchange::{Caller, Exchange, Operation, Outcome, SpanContext};
pub use kind::{MessageKind, Sees};

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
    fn before_request(
        &self,
        exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<RequestDecision, StageError>);

    /// Meets its outcome.
    fn after_response(
        &self,
        exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<ResponseDecision, StageError>);
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
    /// The kinds of messages it meets.
    pub sees: Sees,
    /// Also meets outcomes of calls that an earlier stage ended before this one saw them.
    pub sees_all_outcomes: bool,
    /// The plugin.
    pub interceptor: Arc<dyn Interceptor>,
}

/// The stages in order, and the store that keeps what they record.
pub struct Pipeline {
    stages: Vec<Stage>,
    /// What any of them sees.
    sees: Sees,
    store: Arc<dyn Store>,
}

impl Pipeline {
    /// Returns a pipeline of stages that are in order.
    pub fn new(stages: Vec<Stage>, store: Arc<dyn Store>) -> Self {
        let sees = stages.iter().fold(Sees::from_iter([]), |sees, stage| sees.or(stage.sees));
        Self { stages, sees, store }
    }

    /// Returns the ids of the stages, in order.
    pub fn stages(&self) -> Vec<Arc<str>> {
        self.stages.iter().map(|stage| Arc::clone(&stage.id)).collect()
    }

    /// Returns whether any stage sees messages of a kind.
    pub fn sees(&self, kind: MessageKind) -> bool {
        self.sees.has(kind)
    }

    /// Runs the request phase of a call. Returns how many stages saw it; it has ended if the exchange
    /// has an outcome.
    pub async fn before_request(&self, mut exchange: Box<Exchange>) -> (Box<Exchange>, usize) {
        exchange.kept = vec![[0; 4]; self.stages.len()];
        for (index, stage, mode) in self.request_stages(exchange.kind) {
            exchange.stage = index;
            let mut decision;
            (exchange, decision) = stage.interceptor.before_request(exchange);
            if let Some(event) = exchange.audit.take()
                && let Err(error) = self.commit(event, mode).await
            {
                decision = Err(error);
            }
            if stage.ended(&mut exchange, mode, decision) {
                return (exchange, index + 1);
            }
        }
        (exchange, self.stages.len())
    }

    /// Runs the response phase over the stages that saw the call, last one first, and over those that
    /// want to see every outcome.
    ///
    /// A stage that fails closed replaces the outcome, and the stages outside it still run: they trace
    /// and count the failure.
    pub async fn after_response(
        &self,
        entered: usize,
        mut exchange: Box<Exchange>,
    ) -> Box<Exchange> {
        for (index, stage, mode) in self.response_stages(exchange.kind, entered) {
            exchange.stage = index;
            let mut decision;
            (exchange, decision) = stage.interceptor.after_response(exchange);
            if let Some(event) = exchange.audit.take()
                && let Err(error) = self.commit(event, mode).await
            {
                decision = Err(error);
            }
            stage.replaces(&mut exchange, mode, decision);
        }
        exchange
    }

    /// Runs the request phase of anything but a call, likewise. These messages stay in their order, so
    /// that audit events are recorded and not waited for.
    pub fn before_message(&self, mut exchange: Box<Exchange>) -> (Box<Exchange>, usize) {
        exchange.kept = vec![[0; 4]; self.stages.len()];
        for (index, stage, mode) in self.request_stages(exchange.kind) {
            exchange.stage = index;
            let decision;
            (exchange, decision) = stage.interceptor.before_request(exchange);
            self.record(&mut exchange);
            if stage.ended(&mut exchange, mode, decision) {
                return (exchange, index + 1);
            }
        }
        (exchange, self.stages.len())
    }

    /// Runs the response phase of anything but a call, likewise.
    pub fn after_message(&self, entered: usize, mut exchange: Box<Exchange>) -> Box<Exchange> {
        for (index, stage, mode) in self.response_stages(exchange.kind, entered) {
            exchange.stage = index;
            let decision;
            (exchange, decision) = stage.interceptor.after_response(exchange);
            self.record(&mut exchange);
            stage.replaces(&mut exchange, mode, decision);
        }
        exchange
    }

    fn request_stages(
        &self,
        kind: MessageKind,
    ) -> impl Iterator<Item = (usize, &Stage, FailureMode)> {
        self.stages.iter().enumerate().filter_map(move |(index, stage)| {
            Some((index, stage, stage.request.filter(|_| stage.sees.has(kind))?))
        })
    }

    fn response_stages(
        &self,
        kind: MessageKind,
        entered: usize,
    ) -> impl Iterator<Item = (usize, &Stage, FailureMode)> {
        self.stages.iter().enumerate().rev().filter_map(move |(index, stage)| {
            let meets = stage.sees.has(kind) && (index < entered || stage.sees_all_outcomes);
            Some((index, stage, stage.response.filter(|_| meets)?))
        })
    }

    /// Stores the audit event a stage recorded. Where the stage fails closed, waits until it is
    /// durable; if it cannot be, that stage has failed.
    async fn commit(&self, event: Box<AuditEvent>, mode: FailureMode) -> Result<(), StageError> {
        match mode {
            FailureMode::Open => {
                self.store.record(Record::Audit(event));
                Ok(())
            }
            FailureMode::Closed => {
                let durable = self.store.audit(event).wait().await;
                durable.map_err(|source| StageError::Audit { source })
            }
        }
    }

    /// Queues the audit event a stage recorded.
    fn record(&self, exchange: &mut Exchange) {
        if let Some(event) = exchange.audit.take() {
            self.store.record(Record::Audit(event));
        }
    }
}

impl Stage {
    /// Notes what the stage decided of a request. Returns whether that ended it.
    fn ended(
        &self,
        exchange: &mut Exchange,
        mode: FailureMode,
        decision: Result<RequestDecision, StageError>,
    ) -> bool {
        let outcome = match decision {
            Ok(RequestDecision::Pass) => return false,
            Ok(RequestDecision::Answer(json)) => {
                exchange.answered = true;
                Outcome::Result { json, tool_error: false }
            }
            Ok(RequestDecision::Deny(reason)) => {
                Outcome::Failed(CallError::Denied { stage: Arc::clone(&self.id), reason })
            }
            Err(error) => match self.failed(mode, error) {
                Some(failure) => Outcome::Failed(failure),
                None => return false,
            },
        };
        exchange.outcome = Some(outcome);
        true
    }

    /// Notes what the stage decided of an outcome.
    fn replaces(
        &self,
        exchange: &mut Exchange,
        mode: FailureMode,
        decision: Result<ResponseDecision, StageError>,
    ) {
        match decision {
            Ok(ResponseDecision::Pass) => {}
            Ok(ResponseDecision::Deny(reason)) => {
                let stage = Arc::clone(&self.id);
                exchange.outcome = Some(Outcome::Failed(CallError::Denied { stage, reason }));
            }
            Err(error) => {
                if let Some(failure) = self.failed(mode, error) {
                    exchange.outcome = Some(Outcome::Failed(failure));
                }
            }
        }
    }

    /// Returns what a failure of the stage does to the call: nothing, if it fails open.
    fn failed(&self, mode: FailureMode, error: StageError) -> Option<CallError> {
        let text = crate::chain(&error);
        match mode {
            FailureMode::Open => {
                tracing::warn!(stage = %self.id, "stage `{}` failed open: {text}", self.id);
                None
            }
            FailureMode::Closed => {
                tracing::error!(stage = %self.id, "stage `{}` failed closed: {text}", self.id);
                Some(CallError::Stage { stage: Arc::clone(&self.id), source: Arc::new(error) })
            }
        }
    }
}

#[cfg(test)]
mod tests;
