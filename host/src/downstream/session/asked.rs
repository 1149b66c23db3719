//! What the client is asked, until it answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Session;
use crate::bridge;
use crate::downstream::channel::ReplyTo;
use crate::downstream::open::OpenRequest;
use crate::downstream::question::Question;
use crate::lock;
use crate::mcp::{self, Era, Message, json};
use crate::pipeline::{CallError, Exchange, MessageKind};
use crate::upstream::Connection;

/// Upstreams may have asked a client this many things at once.
const ASKED_MAX: usize = 1024;

/// A person may take this long to answer what one of their requests needs to know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// A request to the client that has no answer yet.
pub(super) struct Asked {
    question: Question,
    /// The asker's progress token, as raw JSON.
    progress_token: Option<Bytes>,
    /// Where it was asked.
    reply_to: Option<ReplyTo>,
}

/// Withdraws what the client was asked when nobody waits for the answer any more.
struct Waiting<'a> {
    session: &'a Session,
    id: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mine) = self.id else { return };
        self.session
            .withdraw(|id, _| id == mine, |id| format!(r#"{{"requestId":{id}}}"#).into_bytes());
    }
}

impl Asked {
    pub(super) fn is_of(&self, connection: &Arc<Connection>) -> bool {
        self.question.is_of(connection)
    }

    /// Returns the id under which the asker knows it, as raw JSON.
    pub(super) fn id(&self) -> Option<Bytes> {
        self.question.message().id()
    }
}

impl Session {
    /// Passes on how far the client is with something an upstream asked of it.
    pub(super) fn progress(&self, message: &Message) {
        let Some(token) = message.body_member("progressToken").and_then(number) else { return };
        let asked = lock(&self.asked);
        let Some(Asked { question, progress_token: Some(theirs), .. }) = asked.get(&token) else {
            return;
        };
        if let Some(range) = json::member(&message.body(), "progressToken") {
            let params = json::splice(&message.body(), &[(range, theirs.clone())]);
            question.progress(&message.with(None, Some(&params.into())));
        }
    }

    /// Passes on the client's answer to something it was asked.
    pub(super) fn answer(&self, message: &Message) {
        let asked = message.id_number().and_then(|id| lock(&self.asked).remove(&id));
        match asked {
            Some(asked) => asked.question.answer(bridge::outcome(message), Some(message)),
            None => tracing::debug!("the client answered something that nobody asked"),
        }
    }

    /// Asks the client on behalf of an upstream.
    pub(super) fn ask(
        &self,
        upstream: &Arc<str>,
        connection: &Arc<Connection>,
        message: Message,
        origin: Option<&OpenRequest>,
    ) {
        if let Some(question) = self.show(upstream, Question::of_upstream(connection, message)) {
            self.put(question, origin);
        }
    }

    /// Asks the client on behalf of one of its own requests, and waits for its result.
    pub(in crate::downstream) async fn ask_client(
        &self,
        upstream: &Arc<str>,
        method: &str,
        params: &[u8],
        open: &OpenRequest,
    ) -> Result<Bytes, CallError> {
        let (question, answered) = Question::of_request(method, params)
            .map_err(|error| CallError::InvalidParams { reason: error.to_string() })?;
        let id = self.show(upstream, question).and_then(|question| self.put(question, Some(open)));
        let _waiting = Waiting { session: self, id };
        tokio::select! {
            answered = timeout(ANSWER_TIMEOUT, answered) => match answered {
                Ok(answer) => answer.unwrap_or(Err(CallError::Cancelled)),
                Err(_) => Err(CallError::Refused { error: "it took too long".to_owned() }),
            },
            () = self.setup.shutdown.cancelled() => Err(CallError::Cancelled),
        }
    }

    /// Takes a question past the interceptors. None if one of them answered or refused it.
    fn show(&self, upstream: &Arc<str>, mut question: Question) -> Option<Question> {
        let Some(client) = self.client.get() else { return Some(question) };
        if !self.setup.gateway.sees(MessageKind::ServerRequests) {
            return Some(question);
        }
        let message = question.message();
        let exchange = Exchange::of_upstream(
            MessageKind::ServerRequests,
            Arc::clone(&client.caller),
            upstream,
            &message.method(),
            message.body(),
        );
        match self.setup.gateway.pass(exchange) {
            Ok(passage) => {
                question.passed(passage);
                Some(question)
            }
            Err(outcome) => {
                question.answer(outcome, None);
                None
            }
        }
    }

    /// Puts a question to the client. Returns the id under which it was asked, if it can be asked at
    /// any time.
    fn put(&self, question: Question, origin: Option<&OpenRequest>) -> Option<u64> {
        if self.era() == Era::Modern {
            // It can be asked only in answer to something it asked itself.
            let method = question.message().method().into_owned();
            let can_answer =
                |open: &&OpenRequest| open.meta().is_some_and(|meta| meta.can_answer(&method));
            let refused = match origin.filter(can_answer) {
                Some(open) => open.question(question),
                None => Some(question),
            };
            if let Some(question) = refused {
                question.refuse();
            }
            return None;
        }
        let message = question.message().clone();
        let params = message.body();
        let token = json::at_path(&params, &["_meta", "progressToken"]);
        let reply_to = origin.map(OpenRequest::reply_to);
        let asked = Asked {
            question,
            progress_token: token.clone().map(|range| Bytes::copy_from_slice(&params[range])),
            reply_to: reply_to.clone(),
        };
        let number = self.last_asked.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut all = lock(&self.asked);
            if all.len() >= ASKED_MAX {
                drop(all);
                asked.question.refuse_as_busy(ASKED_MAX);
                return None;
            }
            all.insert(number, asked);
        }
        let id = Bytes::from(number.to_string());
        let params = token.map(|range| Bytes::from(json::splice(&params, &[(range, id.clone())])));
        self.send_by(reply_to.as_ref(), &message.with(Some(&id), params.as_ref()));
        Some(number)
    }

    /// Tells the client that what it was asked is withdrawn, or that whoever asked is gone.
    pub(super) fn withdraw(
        &self,
        which: impl Fn(u64, &Asked) -> bool,
        params: impl Fn(u64) -> Vec<u8>,
    ) {
        let withdrawn: Vec<_> = {
            let mut asked = lock(&self.asked);
            asked.extract_if(|id, asked| which(*id, asked)).collect()
        };
        for (id, Asked { reply_to, .. }) in withdrawn {
            let line = mcp::notification_line("notifications/cancelled", &params(id));
            self.send_by(reply_to.as_ref(), &[line.into()]);
        }
    }
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}
