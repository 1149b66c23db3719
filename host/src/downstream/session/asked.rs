//! What the client is asked: by upstreams, and by requests of its own that cannot go on without.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Client, Session};
use crate::bridge;
use crate::downstream::channel::ReplyTo;
use crate::downstream::open::{OpenRequest, Question};
use crate::downstream::reply;
use crate::lock;
use crate::mcp::{self, Era, Message, json};
use crate::pipeline::{CallError, Exchange, Outcome};
use crate::upstream::{Connection, UpstreamError};

/// And upstreams may have asked it this many things at once.
const ASKED_MAX: usize = 1024;

/// A person may take this long to answer what one of their requests needs to know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// A request to the client that has no answer yet.
pub(super) struct Asked {
    pub(super) asker: Asker,
    /// Where it was asked.
    reply_to: Option<ReplyTo>,
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

    /// Asks the client on behalf of an upstream.
    pub(super) fn ask(
        &self,
        connection: &Arc<Connection>,
        message: Message,
        origin: Option<&OpenRequest>,
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
        let reply_to = origin.map(OpenRequest::reply_to);
        let Some(id) = self.remember(asker, reply_to.clone()) else {
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
        let Some(id) = self.remember(Asker::Request(answer), Some(reply_to.clone())) else {
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

    /// Asks a client that can open URLs to have its user sign in, if that is why its call failed. Returns
    /// what it is answered.
    pub(super) fn ask_to_sign_in(
        self: &Arc<Self>,
        client: &Client,
        exchange: &Exchange,
        error: &UpstreamError,
    ) -> Option<Outcome> {
        let UpstreamError::SignIn { upstream, url } = error else { return None };
        if !client.aggregator.client_can("elicitation", "url") {
            return None;
        }
        let era = self.era();
        match era {
            Era::Legacy => self.tell_of_sign_in(client, upstream, url),
            Era::Modern => {
                let may_ask =
                    matches!(&*exchange.method, "tools/call" | "prompts/get" | "resources/read");
                // Once: a client that has been there would come back at once, and again.
                if !may_ask || bridge::was_asked_to_sign_in(&exchange.params) {
                    return None;
                }
            }
        }
        Some(reply::sign_in(upstream, url, era))
    }

    /// Tells the client when somebody has signed in there.
    fn tell_of_sign_in(self: &Arc<Self>, client: &Client, upstream: &str, url: &str) {
        let upstreams = client.aggregator.upstreams();
        let Some(upstream) = upstreams.iter().find(|known| *known.name == *upstream) else {
            return;
        };
        // Calls that fail meanwhile wait for the same.
        if !lock(&self.signing_in).insert(url.to_owned()) {
            return;
        }
        let (this, upstream, url) = (Arc::clone(self), Arc::clone(upstream), url.to_owned());
        self.tasks.spawn(async move {
            let signed_in = upstream.signed_in();
            if this.setup.shutdown.run_until_cancelled(signed_in).await == Some(true) {
                this.send(&[reply::signed_in(&url)]);
            }
            lock(&this.signing_in).remove(&url);
        });
    }

    /// Returns the id under which the client is asked; none if it is asked too much already.
    fn remember(&self, asker: Asker, reply_to: Option<ReplyTo>) -> Option<u64> {
        let id = self.last_asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut all = lock(&self.asked);
        if all.len() >= ASKED_MAX {
            return None;
        }
        all.insert(id, Asked { asker, reply_to });
        Some(id)
    }

    /// Tells the client that an upstream withdrew what it asked, or that it is gone.
    pub(super) fn withdraw(&self, which: impl Fn(&Asked) -> bool, params: impl Fn(u64) -> Vec<u8>) {
        let withdrawn: Vec<_> = {
            let mut asked = lock(&self.asked);
            asked.extract_if(|_, asked| which(asked)).collect()
        };
        for (id, Asked { asker, reply_to }) in withdrawn {
            if let Asker::Upstream { connection, .. } = asker {
                connection.asked();
            }
            let line = mcp::notification_line("notifications/cancelled", &params(id));
            self.send_by(reply_to.as_ref(), &[line.into()]);
        }
    }
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}
