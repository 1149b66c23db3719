//! Something a client is asked in the middle of its own business: by an upstream, or by one of its
//! requests that cannot go on without.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::reply;
use crate::gateway::Passage;
use crate::mcp::{self, Era, Message, MessageError};
use crate::pipeline::{CallError, Outcome};
use crate::upstream::Connection;

/// Something a client is asked. Dropping it without an answer withdraws it.
#[derive(Debug)]
pub struct Question {
    /// Method and params, and the id under which the asker knows it.
    message: Message,
    asker: Asker,
    /// The interceptors that saw it.
    passage: Option<Passage>,
}

#[derive(Debug)]
enum Asker {
    Upstream(Asking),
    Request(Option<oneshot::Sender<Result<Bytes, CallError>>>),
}

/// While it is there, the upstream waits for the client, and its calls must be patient.
#[derive(Debug)]
struct Asking(Arc<Connection>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asked();
    }
}

impl Question {
    /// Returns what an upstream asks.
    pub(super) fn of_upstream(connection: &Arc<Connection>, message: Message) -> Self {
        connection.asks();
        let asker = Asker::Upstream(Asking(Arc::clone(connection)));
        Self { message, asker, passage: None }
    }

    /// Returns what a request of the client's own needs to know, and the way its answer comes.
    pub(super) fn of_request(
        method: &str,
        params: &[u8],
    ) -> Result<(Self, oneshot::Receiver<Result<Bytes, CallError>>), MessageError> {
        let (answer, answered) = oneshot::channel();
        let mut line = mcp::request_line(0, method, params);
        line.pop();
        let message = Message::parse(line.into())?;
        Ok((Self { message, asker: Asker::Request(Some(answer)), passage: None }, answered))
    }

    /// Returns method and params.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Returns whether an upstream asks.
    pub(super) fn is_of_upstream(&self) -> bool {
        matches!(&self.asker, Asker::Upstream(_))
    }

    /// Returns whether it came over this connection.
    pub(super) fn is_of(&self, asking: &Arc<Connection>) -> bool {
        matches!(&self.asker, Asker::Upstream(Asking(connection)) if Arc::ptr_eq(connection, asking))
    }

    /// Notes the interceptors that saw it, and what they made of it.
    ///
    /// # Errors
    ///
    /// They made something of it that is no message.
    pub(super) fn passed(&mut self, passage: Passage) -> Result<(), MessageError> {
        let message = passage.params().map(|params| self.message.with_params(params)).transpose();
        self.passage = Some(passage);
        self.message = message?.unwrap_or_else(|| self.message.clone());
        Ok(())
    }

    /// Passes on how far the client is with it.
    pub(super) fn progress(&self, line: &[Bytes]) {
        if let Asker::Upstream(Asking(connection)) = &self.asker {
            connection.send(line);
        }
    }

    /// Gives whoever asked the answer, as the interceptors leave it. `message` is what it came in, if it
    /// came from a client.
    pub fn answer(mut self, outcome: Outcome, message: Option<&Message>) {
        let outcome = match self.passage.take() {
            Some(passage) => passage.end(outcome),
            None => outcome,
        };
        match &mut self.asker {
            Asker::Upstream(Asking(connection)) => {
                let id = self.message.id().unwrap_or_default();
                connection.send(&reply::line(&id, &outcome, message, connection.era()));
            }
            Asker::Request(answer) => {
                let answer = answer.take();
                let _ = answer.map(|answer| answer.send(into_result(outcome)));
            }
        }
    }

    /// Tells whoever asked that there will be no answer.
    pub fn give_up(self, reason: &str) {
        self.answer(Outcome::Rpc { json: reply::unanswered(reason) }, None);
    }

    /// Tells whoever asked that the client cannot be asked.
    pub(super) fn refuse(self) {
        let error = reply::invalid_request("the client has not declared that it can be asked this");
        self.answer(Outcome::Rpc { json: error }, None);
    }

    /// Tells whoever asked that the client is asked too much already.
    pub(super) fn refuse_as_busy(self, limit: usize) {
        let json = reply::call_error(&CallError::Busy { limit }, Era::Legacy);
        self.answer(Outcome::Rpc { json }, None);
    }
}

fn into_result(outcome: Outcome) -> Result<Bytes, CallError> {
    match outcome {
        Outcome::Result { json, .. } => Ok(json),
        Outcome::Rpc { json } => {
            Err(CallError::Refused { error: String::from_utf8_lossy(&json).into_owned() })
        }
        Outcome::Failed(error) => Err(error),
    }
}
