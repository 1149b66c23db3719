//! The path of a call, on one screen; and of everything else that interceptors see.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::aggregator::{Aggregator, Answer, Forward, Target, builtin};
use crate::downstream::OpenRequest;
use crate::mcp::Message;
use crate::pipeline::{CallError, Exchange, MessageKind, Outcome, Pipeline};

/// The pipeline every call passes, whichever session it belongs to.
#[derive(Clone)]
pub struct Gateway {
    /// Empty until the components are compiled; calls wait for it.
    pipeline: watch::Receiver<Option<Arc<Pipeline>>>,
}

/// A message that is no call, past the interceptors that see its kind, until its answer was past them too.
///
/// Dropping it tells them that it was withdrawn.
pub struct Passage {
    pipeline: Arc<Pipeline>,
    exchange: Option<Box<Exchange>>,
    entered: usize,
}

/// A request on its way in.
pub struct Call<'a> {
    /// The upstreams of its session.
    pub aggregator: &'a Aggregator,
    /// As the client sent it.
    pub message: &'a Message,
    /// Where it goes, or why nowhere: that is known before the stages run, so that they can record
    /// it, and told after, so that they do.
    pub target: Result<Target, CallError>,
    /// Its client may withdraw it.
    pub open: &'a Arc<OpenRequest>,
}

impl Gateway {
    /// Returns a gateway whose calls wait until `pipeline` holds one.
    pub fn new(pipeline: watch::Receiver<Option<Arc<Pipeline>>>) -> Self {
        Self { pipeline }
    }

    /// Answers one call, whatever transport it came by. The message is the upstream's answer, if the
    /// outcome is one.
    pub async fn handle(
        &self,
        call: Call<'_>,
        mut exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Option<Message>) {
        let Some(pipeline) = self.pipeline().await else {
            exchange.outcome = Some(Outcome::Failed(CallError::NoPipeline));
            return (exchange, None);
        };
        let (mut exchange, entered) = pipeline.before_request(exchange).await;
        let mut answer = None;
        if exchange.outcome.is_none() {
            let open = call.open;
            let outcome = tokio::select! {
                // First: a call that is withdrawn loses its answer too, and that is not the upstream's fault.
                biased;
                () = open.cancelled() => Outcome::Failed(CallError::Cancelled),
                answered = answer_of(call, &pipeline, &exchange) => match answered {
                    Ok((outcome, message)) => {
                        answer = message;
                        outcome
                    }
                    Err(error) => Outcome::Failed(error),
                },
            };
            exchange.outcome = Some(outcome);
        }
        (pipeline.after_response(entered, exchange).await, answer)
    }

    /// Returns whether an interceptor sees messages of a kind.
    ///
    /// If one does, the gateway begins to serve only when the pipeline is there.
    pub fn sees(&self, kind: MessageKind) -> bool {
        self.pipeline.borrow().as_ref().is_some_and(|pipeline| pipeline.sees(kind))
    }

    /// Takes anything but a call past the interceptors.
    ///
    /// # Errors
    ///
    /// How it ended there: it was answered or refused, and goes no further.
    pub fn pass(&self, exchange: Box<Exchange>) -> Result<Passage, Outcome> {
        let Some(pipeline) = self.pipeline.borrow().clone() else {
            return Err(Outcome::Failed(CallError::NoPipeline));
        };
        let (mut exchange, entered) = pipeline.before_message(exchange);
        match exchange.outcome.take() {
            None => Ok(Passage { pipeline, exchange: Some(exchange), entered }),
            Some(outcome) => {
                Err(Passage { pipeline, exchange: Some(exchange), entered }.end(outcome))
            }
        }
    }

    /// Takes a notification past the interceptors. Returns its params, if they are other ones now.
    ///
    /// # Errors
    ///
    /// Why it goes no further.
    pub fn notify(&self, exchange: Box<Exchange>) -> Result<Option<Bytes>, CallError> {
        let Some(pipeline) = self.pipeline.borrow().clone() else { return Ok(None) };
        let (exchange, _) = pipeline.before_message(exchange);
        match exchange.outcome {
            Some(Outcome::Failed(error)) => Err(error),
            _ => Ok(exchange.params_edited.then_some(exchange.params)),
        }
    }

    /// Returns the pipeline, waiting while it is being loaded. None if it cannot be.
    async fn pipeline(&self) -> Option<Arc<Pipeline>> {
        if let Some(pipeline) = &*self.pipeline.borrow() {
            return Some(Arc::clone(pipeline));
        }
        self.pipeline.clone().wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Passage {
    /// Returns the params, if they are other ones now.
    pub fn params(&self) -> Option<&Bytes> {
        let exchange = self.exchange.as_ref()?;
        exchange.params_edited.then_some(&exchange.params)
    }

    /// Takes the answer past the interceptors. Returns what they made of it.
    pub fn end(mut self, outcome: Outcome) -> Outcome {
        self.finish(outcome)
    }

    fn finish(&mut self, outcome: Outcome) -> Outcome {
        let Some(mut exchange) = self.exchange.take() else { return outcome };
        exchange.outcome = Some(outcome);
        let exchange = self.pipeline.after_message(self.entered, exchange);
        exchange.outcome.unwrap_or(Outcome::Failed(CallError::Cancelled))
    }
}

impl std::fmt::Debug for Passage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passage").finish_non_exhaustive()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.finish(Outcome::Failed(CallError::Cancelled));
    }
}

/// Asks whoever is to answer a call that passed the stages.
async fn answer_of(
    call: Call<'_>,
    pipeline: &Pipeline,
    exchange: &Exchange,
) -> Result<Answer, CallError> {
    let Call { aggregator, message, target, open } = call;
    let target = match exchange.params_edited {
        true => aggregator.resolve(&exchange.method, &exchange.params)?,
        false => target?,
    };
    let result = |json: Bytes| (Outcome::Result { json, tool_error: false }, None);
    Ok(match target {
        Target::Upstream { upstream, edit, .. } => {
            let (method, params) = (&*exchange.method, &exchange.params);
            let forward = Forward { upstream: &upstream, message, method, params, edit, open };
            let answer = aggregator.forward(&forward).await?;
            if method.starts_with("resources/") && matches!(answer.0, Outcome::Result { .. }) {
                aggregator.subscribed(method, params, &upstream);
            }
            answer
        }
        Target::List(kind) => result(aggregator.list(kind).await),
        Target::Status => result(builtin::status(aggregator, &pipeline.stages())),
        Target::TaskList => result(aggregator.list_tasks().await),
        Target::LogLevel => {
            aggregator.set_log_level(exchange.params.clone());
            result(Bytes::from_static(b"{}"))
        }
    })
}
