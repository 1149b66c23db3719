//! What interceptors see besides calls and questions: what client and gateway settle between themselves,
//! and notifications.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use crate::downstream::channel::ReplyTo;
use crate::downstream::reply;
use crate::gateway::Passage;
use crate::mcp::Message;
use crate::pipeline::{Caller, Exchange, MessageKind, Outcome};

impl Session {
    /// Answers what the client settles with the gateway itself: `answer` makes a result of its params.
    pub(super) fn settle(
        &self,
        caller: &Arc<Caller>,
        message: &Message,
        reply_to: &ReplyTo,
        answer: impl FnOnce(&Bytes) -> Bytes,
    ) {
        let result = |json| Outcome::Result { json, tool_error: false };
        let outcome = match self.pass(caller, message) {
            Ok(None) => result(answer(&message.body())),
            Ok(Some(passage)) => {
                let params = passage.params().cloned().unwrap_or_else(|| message.body());
                passage.end(result(answer(&params)))
            }
            Err(outcome) => outcome,
        };
        let id = message.id().unwrap_or_default();
        self.reply(reply_to, &reply::line(&id, &outcome, None, caller.era()));
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
        match gateway.notify(exchange) {
            Ok(None) => Some(message),
            Ok(Some(params)) => Some(message.with_params(&params)),
            Err(error) => {
                tracing::debug!(%method, %error, "a notification goes no further");
                None
            }
        }
    }
}
