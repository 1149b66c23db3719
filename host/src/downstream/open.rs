//! A request of a client that has no answer yet.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::channel::ReplyTo;
use super::{Session, reply};
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::mcp::{self, Message};
use crate::pipeline::CallError;
use crate::upstream::{Connection, Listener, Origin};
use crate::wire::NotQueued;

/// A request of a client that has no answer yet.
#[derive(Debug)]
pub struct OpenRequest {
    session: Weak<Session>,
    session_ended: CancellationToken,
    /// What it says of itself, in the modern era.
    meta: Option<RequestMeta>,
    reply_to: Mutex<ReplyTo>,
    cancel: Notify,
    sent: Mutex<Option<(Arc<Connection>, u64)>>,
    /// Takes what the upstream asks meanwhile, where the client cannot be asked.
    questions: Mutex<Option<mpsc::UnboundedSender<Question>>>,
}

/// What an upstream asks while it works on a request.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub connection: Arc<Connection>,
    /// Method, id and params.
    pub message: Message,
}

impl Question {
    /// Tells the upstream that nobody will answer.
    pub fn give_up(&self) {
        self.connection.asked();
        let error = reply::unanswered("its request has ended");
        let id = self.message.id().unwrap_or_default();
        self.connection.send(&[mcp::error_line(Some(&id), &error).into()]);
    }
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
            cancel: Notify::new(),
            sent: Mutex::default(),
            questions: Mutex::default(),
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

    /// From now on, what belongs to this request goes where the other's answer goes.
    pub fn continue_in(&self, other: &Self) {
        *lock(&self.reply_to) = other.reply_to();
    }

    /// From now on, what the upstream asks is not put to the client but to the receiver.
    pub fn take_questions(&self) -> mpsc::UnboundedReceiver<Question> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(&self.questions) = Some(sender);
        receiver
    }

    /// Hands over what an upstream asks. Gives it back if nobody takes it.
    pub(super) fn question(&self, question: Question) -> Result<(), Question> {
        match &*lock(&self.questions) {
            Some(questions) => questions.send(question).map_err(|unsent| unsent.0),
            None => Err(question),
        }
    }

    /// Asks the client something, and returns its result.
    pub async fn ask(&self, method: &str, params: &[u8]) -> Result<Bytes, CallError> {
        let session = self.session.upgrade().ok_or(CallError::Cancelled)?;
        session.ask_client(method, params, &self.reply_to()).await
    }

    /// Returns the session it belongs to.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.upgrade()
    }
}
