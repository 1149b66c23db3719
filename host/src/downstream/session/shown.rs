//! What interceptors see besides calls and questions: what client and gateway settle between themselves,
//! and notifications.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use crate::gateway::Passage;
use crate::mcp::Message;
use crate::pipeline::{Caller, Exchange, MessageKind, Outcome};

impl Session {
    /// Returns the answer to what the client settles with the gateway itself: `answer` makes a result of
    /// its params.
    pub(super) fn settle(
        &self,
        caller: &Arc<Caller>,
        message: &Message,
        answer: impl FnOnce(&Bytes) -> Bytes,
    ) -> Outcome {
        let result = |json| Outcome::Result { json, tool_error: false };
        match self.pass(caller, message) {
            Ok(None) => result(answer(&message.body())),
            Ok(Some(passage)) => {
                let params = passage.params().cloned().unwrap_or_else(|| message.body());
                passage.end(result(answer(&params)))
            }
            Err(outcome) => outcome,
        }
    }

    /// Takes what the client settles with the gateway past the interceptors, if one of them sees it.
    pub(super) fn pass(
        &self,
        caller: &Arc<Caller>,
        message: &Message,
    ) -> Result<Option<Passage>, Outcome> {
        let gateway = &self.setup.gateway;
        if !gateway.sees(MessageKind::Session) {
            return Ok(None);
        }
        let exchange = Exchange::session(Arc::clone(caller), &message.method(), message.body());
        gateway.pass(exchange).map(Some)
    }

    /// Takes a notification past the interceptors: of an upstream, or of the client. Returns it as they
    /// leave it; none if it goes no further.
    pub(super) fn notified(
        &self,
        upstream: Option<&Arc<str>>,
        message: Message,
    ) -> Option<Message> {
        let gateway = &self.setup.gateway;
        let Some(client) = self.client.get() else { return Some(message) };
        if !gateway.sees(MessageKind::Notifications) {
            return Some(message);
        }
        let (caller, method) = (Arc::clone(&client.caller), message.method());
        let kind = MessageKind::Notifications;
        let exchange = match upstream {
            Some(upstream) => {
                Exchange::of_upstream(kind, caller, upstream, &method, message.body())
            }
            None => Exchange::notification(caller, &method, message.body()),
        };
        let noted = match gateway.notify(exchange) {
            Ok(None) => return Some(message),
            Ok(Some(params)) => message.with_params(&params).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        noted
            .inspect_err(|error| tracing::debug!(%method, error, "a notification goes no further"))
            .ok()
    }
}
