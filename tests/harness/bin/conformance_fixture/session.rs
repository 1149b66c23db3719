//! Sessions of the revisions with a handshake.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use crate::call::Voice;
use crate::calls::{CALLS_MAX, Calls};
use crate::rpc::{self, Fault, INTERNAL_ERROR, INVALID_REQUEST, Object};
use crate::server::lock;
use crate::stream::Stream;

/// Clients that forget to end theirs shall not fill the memory.
const SESSIONS_MAX: usize = 1000;

/// Streams a session keeps for clients that come back; the oldest goes first.
const STREAMS_MAX: usize = 2 * CALLS_MAX;

/// URIs a session may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 100;

/// How long a client may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The revision that brought ids and polling to streams of calls.
const POLLING_SINCE: &str = "2025-11-25";

/// All sessions, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Keeps a session and returns its id, unless there are too many.
    pub(crate) fn open(&self, session: Session) -> Option<String> {
        let mut sessions = lock(&self.0);
        if sessions.len() >= SESSIONS_MAX {
            return None;
        }
        let id = uuid::Uuid::now_v7().to_string();
        sessions.insert(id.clone(), Arc::new(session));
        Some(id)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Session>> {
        lock(&self.0).get(id).cloned()
    }

    /// Ends a session and its calls. Returns whether there was one.
    pub(crate) fn close(&self, id: &str) -> bool {
        let session = lock(&self.0).remove(id);
        session.inspect(|session| session.calls.cancel_all()).is_some()
    }
}

/// What a client said in `initialize`, and what is open since.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) revision: &'static str,
    pub(crate) capabilities: Value,
    /// Calls run whether or not their connections last.
    pub(crate) calls: Calls,
    /// The one stream that is of no call.
    pub(crate) standalone: Arc<Semaphore>,
    /// Rank of the lowest level that is logged.
    log_level: AtomicUsize,
    subscriptions: Mutex<Vec<String>>,
    streams: Mutex<VecDeque<Arc<Stream>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Result<Value, Value>>>>,
    /// Ids of our requests and numbers of streams.
    next: AtomicU64,
}

impl Session {
    pub(crate) fn new(revision: &'static str, capabilities: Value) -> Self {
        Self {
            revision,
            capabilities,
            calls: Calls::default(),
            standalone: Arc::new(Semaphore::new(1)),
            log_level: AtomicUsize::new(0),
            subscriptions: Mutex::default(),
            streams: Mutex::default(),
            asked: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Returns whether events have ids, and calls may hang up.
    pub(crate) fn polls(&self) -> bool {
        self.revision >= POLLING_SINCE
    }

    pub(crate) fn set_log_level(&self, rank: usize) {
        self.log_level.store(rank, Ordering::Relaxed);
    }

    pub(crate) fn log_level(&self) -> usize {
        self.log_level.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribe(&self, uri: &str) -> Result<(), Fault> {
        let mut subscriptions = lock(&self.subscriptions);
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(Fault::new(INVALID_REQUEST, "too many subscriptions"));
        }
        if !subscriptions.iter().any(|known| known == uri) {
            subscriptions.push(uri.to_owned());
        }
        Ok(())
    }

    pub(crate) fn unsubscribe(&self, uri: &str) {
        lock(&self.subscriptions).retain(|known| known != uri);
    }

    pub(crate) fn is_subscribed(&self, uri: &str) -> bool {
        lock(&self.subscriptions).iter().any(|known| known == uri)
    }

    /// Opens the stream of a call.
    pub(crate) fn open_stream(&self) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(self.next.fetch_add(1, Ordering::Relaxed)));
        let mut streams = lock(&self.streams);
        if streams.len() == STREAMS_MAX {
            streams.pop_front();
        }
        streams.push_back(Arc::clone(&stream));
        stream
    }

    pub(crate) fn stream(&self, number: u64) -> Option<Arc<Stream>> {
        lock(&self.streams).iter().find(|stream| stream.number() == number).cloned()
    }

    /// Asks the client several things at once on the stream of a call.
    pub(crate) async fn ask(&self, requests: &Object, voice: &Voice) -> Result<Object, Fault> {
        let mut open = Vec::new();
        for (key, request) in requests {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            lock(&self.asked).insert(id, answer);
            voice.message(rpc::request(id, &request["method"], &request["params"])).await;
            open.push((key, id, answered));
        }
        let mut answers = Object::new();
        for (key, id, answered) in open {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
            lock(&self.asked).remove(&id);
            let refused =
                |why: Value| Fault::new(INTERNAL_ERROR, "the client does not answer").with(why);
            let answer = answer.map_err(|_| refused(json!({"timeout": true})))?;
            let answer = answer.map_err(|_| refused(json!({"session": "ended"})))?;
            answers.insert(key.clone(), answer.map_err(refused)?);
        }
        Ok(answers)
    }

    /// Takes the client's answer to one of our requests. One that nobody waits for is ignored.
    pub(crate) fn answered(&self, id: &Value, answer: Result<Value, Value>) {
        let asked = id.as_u64().and_then(|id| lock(&self.asked).remove(&id));
        if let Some(asked) = asked {
            // The call was cancelled meanwhile.
            let _ = asked.send(answer);
        }
    }
}
