//! What the client is asked: by upstreams, and by requests of its own that cannot go on without.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use crate::downstream::channel::ReplyTo;
use crate::downstream::open::{OpenRequest, Question};
use crate::downstream::reply;
use crate::lock;
use crate::mcp::{self, Era, Message, json};
use crate::pipeline::CallError;
use crate::upstream::Connection;

/// And upstreams may have asked it this many things at once.
const ASKED_MAX: usize = 1024;

/// A person may take this long to answer what one of their requests needs to know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// A request to the client that has no answer yet.
pub(super) struct Asked {
    pub(super) asker: Asker,
    /// Where it was asked.
    reply_to: Option<ReplyTo>,
    /// The request it is asked for, where that is known.
    request: Weak<OpenRequest>,
    /// Gives it up when it takes too long.
    _timer: Option<AbortOnDropHandle<()>>,
}

/// Who asked the client something.
pub(super) enum Asker {
    /// An upstream.
    Upstream {
        connection: Arc<Connection>,
        /// The upstream's id, as raw JSON.
        id: Bytes,
        /// The upstream's progress token, as raw JSON.
        progress_token: Option<Bytes>,
    },
    /// A request of the client's own that cannot go on without.
    Request(oneshot::Sender<Result<Bytes, CallError>>),
}

/// Withdraws what the client was asked when nobody waits for the answer any more.
struct Asking<'a> {
    session: &'a Session,
    id: u64,
    reply_to: &'a ReplyTo,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if lock(&self.session.asked).remove(&self.id).is_some() {
            let params = format!(r#"{{"requestId":{}}}"#, self.id);
            let line = mcp::notification_line("notifications/cancelled", params.as_bytes());
            self.session.send_by(Some(self.reply_to), &[line.into()]);
        }
    }
}

impl Asked {
    pub(super) fn is_of(&self, asking: &Arc<Connection>) -> bool {
        matches!(&self.asker, Asker::Upstream { connection, .. } if Arc::ptr_eq(connection, asking))
    }
}

impl Session {
    /// Passes on how far the client is with something an upstream asked of it.
    pub(super) fn progress(&self, message: &Message) {
        let Some(token) = message.body_member("progressToken").and_then(number) else { return };
        let asked = lock(&self.asked);
        let Some(Asker::Upstream { connection, progress_token: Some(theirs), .. }) =
            asked.get(&token).map(|asked| &asked.asker)
        else {
            return;
        };
        if let Some(range) = json::member(&message.body(), "progressToken") {
            let params = json::splice(&message.body(), &[(range, theirs.clone())]);
            connection.send(&message.with(None, Some(&params.into())));
        }
    }

    /// Passes on the client's answer to something an upstream asked.
    pub(super) fn answer(&self, message: &Message) {
        let asked = message.id_number().and_then(|id| lock(&self.asked).remove(&id));
        let Some(asked) = asked else {
            tracing::debug!("the client answered something that nobody asked");
            return;
        };
        match asked.asker {
            Asker::Upstream { connection, id, .. } => {
                connection.asked();
                connection.send(&message.with(Some(&id), None));
            }
            Asker::Request(answer) => {
                let _ = answer.send(match message.is_error() {
                    false => Ok(message.body()),
                    true => Err(CallError::Refused {
                        error: String::from_utf8_lossy(&message.body()).into_owned(),
                    }),
                });
            }
        }
    }

    /// Asks the client on behalf of an upstream. If `is_certain`, it is asked for `origin` and no other
    /// request.
    pub(super) fn ask(
        &self,
        connection: &Arc<Connection>,
        message: Message,
        origin: Option<&Arc<OpenRequest>>,
        is_certain: bool,
    ) {
        let theirs = message.id().unwrap_or_default();
        if self.era() == Era::Modern {
            // It can be asked only in answer to something it asked itself.
            let question = Question { connection: Arc::clone(connection), message };
            connection.asks();
            let can_be_asked = origin.is_some_and(|open| {
                let meta = open.meta();
                meta.is_some_and(|meta| meta.can_answer(&question.message.method()))
                    && open.question(question).is_ok()
            });
            if !can_be_asked {
                connection.asked();
                let error =
                    reply::invalid_request("the client has not declared that it can be asked this");
                connection.send(&[mcp::error_line(Some(&theirs), &error).into()]);
            }
            return;
        }
        let params = message.body();
        let token = json::at_path(&params, &["_meta", "progressToken"]);
        let asker = Asker::Upstream {
            connection: Arc::clone(connection),
            id: Bytes::copy_from_slice(&theirs),
            progress_token: token.clone().map(|range| Bytes::copy_from_slice(&params[range])),
        };
        let reply_to = origin.map(|origin| origin.reply_to());
        let request = origin.filter(|_| is_certain).map(Arc::downgrade).unwrap_or_default();
        let Some(id) = self.remember(asker, reply_to.clone(), request) else {
            let error = reply::call_error(&CallError::Busy { limit: ASKED_MAX }, Era::Legacy);
            return connection.send(&[mcp::error_line(Some(&theirs), &error).into()]);
        };
        connection.asks();
        let id = Bytes::from(id.to_string());
        let params = token.map(|range| Bytes::from(json::splice(&params, &[(range, id.clone())])));
        self.send_by(reply_to.as_ref(), &message.with(Some(&id), params.as_ref()));
    }

    /// Asks the client on behalf of one of its own requests, and waits for its result.
    pub(in crate::downstream) async fn ask_client(
        &self,
        method: &str,
        params: &[u8],
        reply_to: &ReplyTo,
    ) -> Result<Bytes, CallError> {
        let (answer, answered) = oneshot::channel();
        let request = Weak::new();
        let Some(id) = self.remember(Asker::Request(answer), Some(reply_to.clone()), request)
        else {
            return Err(CallError::Busy { limit: ASKED_MAX });
        };
        let _asking = Asking { session: self, id, reply_to };
        self.send_by(Some(reply_to), &[mcp::request_line(id, method, params).into()]);
        tokio::select! {
            answered = timeout(ANSWER_TIMEOUT, answered) => match answered {
                Ok(answer) => answer.unwrap_or(Err(CallError::Cancelled)),
                Err(_) => Err(CallError::Refused { error: "it took too long".to_owned() }),
            },
            () = self.setup.shutdown.cancelled() => Err(CallError::Cancelled),
        }
    }

    /// Returns the id under which the client is asked; none if it is asked too much already.
    fn remember(
        &self,
        asker: Asker,
        reply_to: Option<ReplyTo>,
        request: Weak<OpenRequest>,
    ) -> Option<u64> {
        let id = self.last_asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut all = lock(&self.asked);
        if all.len() >= ASKED_MAX {
            return None;
        }
        let timer = match &asker {
            Asker::Upstream { .. } => Some(self.give_up_later(id)),
            // It has a time limit of its own.
            Asker::Request(_) => None,
        };
        all.insert(id, Asked { asker, reply_to, request, _timer: timer });
        Some(id)
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
        for asker in self.withdraw(which, params) {
            if let Asker::Upstream { connection, id, .. } = asker {
                let error = reply::unanswered(reason);
                connection.send(&[mcp::error_line(Some(&id), &error).into()]);
            }
        }
    }

    /// Takes back what the client was asked. Returns who asked.
    pub(super) fn withdraw(
        &self,
        which: impl Fn(u64, &Asked) -> bool,
        params: impl Fn(u64) -> Vec<u8>,
    ) -> Vec<Asker> {
        let withdrawn: Vec<_> = {
            let mut asked = lock(&self.asked);
            asked.extract_if(|id, asked| which(*id, asked)).collect()
        };
        let tell = |(id, Asked { asker, reply_to, .. })| {
            if let Asker::Upstream { connection, .. } = &asker {
                connection.asked();
            }
            let line = mcp::notification_line("notifications/cancelled", &params(id));
            self.send_by(reply_to.as_ref(), &[line.into()]);
            asker
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
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;
    use ultra_store::{MemoryOptions, MemoryStore, Redactor, Store};

    use super::*;
    use crate::aggregator::Naming;
    use crate::downstream::Setup;
    use crate::downstream::channel::Channel;
    use crate::gateway::Gateway;
    use crate::upstream::{Guard, Pool, Surroundings};
    use crate::wire::{Outbox, Outlet};

    fn setup() -> Setup {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(MemoryOptions::default()));
        let guard = Arc::new(Guard::new("/none".into()));
        let redactor = Redactor::new(Vec::new());
        let (shutdown, timeout) = (CancellationToken::new(), Duration::from_secs(60));
        let surroundings = Surroundings::of_gateway(
            Arc::clone(&guard),
            Arc::clone(&store),
            redactor.clone(),
            shutdown.clone(),
            timeout,
            Arc::default(),
        );
        let (_, upstreams) = watch::channel(Vec::new().into());
        Setup {
            gateway: Gateway::new(watch::channel(None).1),
            server_name: "ultra".to_owned(),
            pool: Pool::new(surroundings, upstreams.clone()),
            upstreams,
            only: None,
            naming: Naming::Prefixed,
            guard,
            store,
            redactor,
            stopping: shutdown.clone(),
            shutdown,
            call_timeout: timeout,
            rush: Arc::default(),
            http_sessions_max: 1,
            http_session_idle: timeout,
            seal: Arc::default(),
            exporter: None,
        }
    }

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

        session.ask(&connection, Message::parse(Bytes::from(question)).unwrap(), None, false);
        sleep(ANSWER_TIMEOUT + Duration::from_secs(1)).await;

        insta::assert_snapshot!(written(&client).await, @r#"
        {"jsonrpc":"2.0","id":1,"method":"roots/list"}
        {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"it took too long"}}
        "#);
        insta::assert_snapshot!(written(&server).await, @r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32603,"data":{"gateway":"ultra"},"message":"the client gives no answer: it took too long"}}"#);
        assert!(lock(&session.asked).is_empty());
    }
}
