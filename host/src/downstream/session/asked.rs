//! What the client is asked, until it answers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

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
    /// The request it is asked for, where that is known.
    request: Weak<OpenRequest>,
    /// Gives it up when it takes too long.
    _timer: Option<AbortOnDropHandle<()>>,
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

    /// Asks the client on behalf of an upstream. If `is_certain`, it is asked for `origin` and no other
    /// request.
    pub(super) fn ask(
        &self,
        upstream: &Arc<str>,
        connection: &Arc<Connection>,
        message: Message,
        origin: Option<&Arc<OpenRequest>>,
        is_certain: bool,
    ) {
        if let Some(question) = self.show(upstream, Question::of_upstream(connection, message)) {
            let request = origin.filter(|_| is_certain).map(Arc::downgrade).unwrap_or_default();
            self.put(question, origin.map(|origin| &**origin), request);
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
        let id = self
            .show(upstream, question)
            .and_then(|question| self.put(question, Some(open), Weak::new()));
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
            Ok(passage) => match question.passed(passage) {
                Ok(()) => Some(question),
                Err(error) => {
                    question.give_up(&error.to_string());
                    None
                }
            },
            Err(outcome) => {
                question.answer(outcome, None);
                None
            }
        }
    }

    /// Puts a question to the client. Returns the id under which it was asked, if it can be asked at
    /// any time.
    fn put(
        &self,
        question: Question,
        origin: Option<&OpenRequest>,
        request: Weak<OpenRequest>,
    ) -> Option<u64> {
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
        let number = self.last_asked.fetch_add(1, Ordering::Relaxed) + 1;
        // A request of the client's own has a time limit of its own.
        let timer = question.is_of_upstream().then(|| self.give_up_later(number));
        let asked = Asked {
            question,
            request,
            _timer: timer,
            progress_token: token.clone().map(|range| Bytes::copy_from_slice(&params[range])),
            reply_to: reply_to.clone(),
        };
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

    fn give_up_later(&self, id: u64) -> AbortOnDropHandle<()> {
        let session = Weak::clone(&self.itself);
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(ANSWER_TIMEOUT).await;
            if let Some(session) = session.upgrade() {
                session.give_up(|this, _| this == id, "it took too long");
            }
        }))
    }

    /// Gives up what was asked for a request that nobody waits for any more.
    pub(super) fn give_up_for(&self, request: &Arc<OpenRequest>) {
        self.give_up(
            |_, asked| std::ptr::eq(asked.request.as_ptr(), Arc::as_ptr(request)),
            "its request has ended",
        );
    }

    /// Takes back what the client was asked, and tells whoever asked that there will be no answer.
    fn give_up(&self, which: impl Fn(u64, &Asked) -> bool, reason: &str) {
        let params = |id| format!(r#"{{"requestId":{id},"reason":"{reason}"}}"#).into_bytes();
        for question in self.withdraw(which, params) {
            question.give_up(reason);
        }
    }

    /// Takes back what the client was asked. Returns what that was.
    pub(super) fn withdraw(
        &self,
        which: impl Fn(u64, &Asked) -> bool,
        params: impl Fn(u64) -> Vec<u8>,
    ) -> Vec<Question> {
        let withdrawn: Vec<_> = {
            let mut asked = lock(&self.asked);
            asked.extract_if(|id, asked| which(*id, asked)).collect()
        };
        let tell = |(id, Asked { question, reply_to, .. })| {
            let line = mcp::notification_line("notifications/cancelled", &params(id));
            self.send_by(reply_to.as_ref(), &[line.into()]);
            question
        };
        withdrawn.into_iter().map(tell).collect()
    }
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::downstream::channel::Channel;
    use crate::downstream::testing::setup;
    use crate::wire::{Outbox, Outlet};

    async fn written(outbox: &Outbox) -> String {
        outbox.close();
        let mut written = Vec::new();
        outbox.write_to(&mut written).await.unwrap();
        String::from_utf8(written).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_never_answers_is_given_up() {
        let client = Arc::new(Outbox::default());
        let server = Arc::new(Outbox::default());
        let outlet: Arc<dyn Outlet> = Arc::<Outbox>::clone(&server);
        let connection = Arc::new(Connection::new("up".into(), outlet));
        let session = Session::new(setup(), Channel::Lines(Arc::clone(&client)));
        let question = r#"{"jsonrpc":"2.0","id":"q","method":"roots/list"}"#;

        let question = Message::parse(Bytes::from(question)).unwrap();
        session.ask(&"up".into(), &connection, question, None, false);
        sleep(ANSWER_TIMEOUT + Duration::from_secs(1)).await;

        insta::assert_snapshot!(written(&client).await, @r#"
        {"jsonrpc":"2.0","id":1,"method":"roots/list"}
        {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"it took too long"}}
        "#);
        insta::assert_snapshot!(written(&server).await, @r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32603,"data":{"gateway":"ultra"},"message":"the client gives no answer: it took too long"}}"#);
        assert!(lock(&session.asked).is_empty());
    }
}
