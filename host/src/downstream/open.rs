//! A request of a client that has no answer yet.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::channel::ReplyTo;
use super::{Question, Session};
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::pipeline::{CallError, MessageKind};
use crate::upstream::{Connection, Listener, Origin};
use crate::wire::NotQueued;

/// An upstream may ask so many things at once while it works on a request.
const QUESTIONS_MAX: usize = 64;

/// A request of a client that has no answer yet.
#[derive(Debug)]
pub struct OpenRequest {
    session: Weak<Session>,
    session_ended: CancellationToken,
    /// What it says of itself, in the modern era.
    meta: Option<RequestMeta>,
    reply_to: Mutex<ReplyTo>,
    /// Its progress token, if it goes on under another one than it began with.
    token: Mutex<Option<Bytes>>,
    cancel: Notify,
    sent: Mutex<Option<(Arc<Connection>, u64)>>,
    /// What the upstream asks meanwhile, where the client cannot be asked.
    questions: Mutex<Option<Vec<Question>>>,
    asks: Notify,
}

impl Origin for OpenRequest {
    fn listener(&self) -> Weak<dyn Listener> {
        Weak::<Session>::clone(&self.session)
    }
}

impl OpenRequest {
    pub(super) fn new(
        session: Weak<Session>,
        session_ended: CancellationToken,
        meta: Option<RequestMeta>,
        reply_to: ReplyTo,
    ) -> Arc<Self> {
        Arc::new(Self {
            session,
            session_ended,
            meta,
            reply_to: Mutex::new(reply_to),
            token: Mutex::default(),
            cancel: Notify::new(),
            sent: Mutex::default(),
            questions: Mutex::default(),
            asks: Notify::new(),
        })
    }

    /// Returns what it says of itself; none in the legacy era.
    pub fn meta(&self) -> Option<&RequestMeta> {
        self.meta.as_ref()
    }

    /// Waits until the client withdraws the request, or is gone.
    pub async fn cancelled(&self) {
        tokio::select! {
            () = self.cancel.notified() => {}
            () = self.session_ended.cancelled() => {}
        }
    }

    /// Withdraws the request.
    pub(super) fn cancel(&self) {
        self.cancel.notify_one();
    }

    /// Notes where the request went.
    pub fn sent(&self, connection: &Arc<Connection>, id: u64) {
        *lock(&self.sent) = Some((Arc::clone(connection), id));
    }

    /// Returns where it went.
    pub(crate) fn went_to(&self) -> Option<(Arc<Connection>, u64)> {
        lock(&self.sent).clone()
    }

    /// Sends what belongs to the request.
    pub(super) fn message(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        self.reply_to().message(line)
    }

    pub(super) fn reply_to(&self) -> ReplyTo {
        lock(&self.reply_to).clone()
    }

    /// From now on, what belongs to this request goes where the other's answer goes, and its progress
    /// has this token, as raw JSON.
    pub fn continue_in(&self, other: &Self, token: Option<Bytes>) {
        *lock(&self.reply_to) = other.reply_to();
        *lock(&self.token) = token;
    }

    /// Returns the progress token it has now, if that is not its first one.
    pub fn token(&self) -> Option<Bytes> {
        lock(&self.token).clone()
    }

    /// From now on, what the upstream asks is not put to the client but kept for [`Self::questions`].
    pub fn keep_questions(&self) {
        lock(&self.questions).get_or_insert_default();
    }

    /// From now on, nobody takes what the upstream asks. Returns what nobody has taken.
    pub fn refuse_questions(&self) -> Vec<Question> {
        lock(&self.questions).take().unwrap_or_default()
    }

    /// Waits until the upstream asks something, and returns what it asked so far.
    pub async fn asked(&self) -> Vec<Question> {
        loop {
            let questions = self.questions();
            if !questions.is_empty() {
                return questions;
            }
            self.asks.notified().await;
        }
    }

    /// Returns what the upstream asked and nobody took yet.
    pub fn questions(&self) -> Vec<Question> {
        lock(&self.questions).as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Hands over what an upstream asks. Gives it back if nobody takes it.
    pub(super) fn question(&self, question: Question) -> Option<Question> {
        match &mut *lock(&self.questions) {
            Some(questions) if questions.len() < QUESTIONS_MAX => questions.push(question),
            Some(_) | None => return Some(question),
        }
        self.asks.notify_one();
        None
    }

    /// Asks the client something on behalf of an upstream, and returns its result.
    pub async fn ask(
        &self,
        upstream: &Arc<str>,
        method: &str,
        params: &[u8],
    ) -> Result<Bytes, CallError> {
        let session = self.session.upgrade().ok_or(CallError::Cancelled)?;
        session.ask_client(upstream, method, params, self).await
    }

    /// Returns whether an interceptor sees what the client is asked.
    pub fn shows_questions(&self) -> bool {
        self.session
            .upgrade()
            .is_some_and(|session| session.gateway().sees(MessageKind::ServerRequests))
    }

    /// Returns the session it belongs to.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.upgrade()
    }
}
