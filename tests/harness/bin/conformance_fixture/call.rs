//! One run of an operation: what came with it, what it says on the way, and what it comes to.
//!
//! Operations that need something of the client are written as steps: each run ends with a result, or with
//! what it has to ask first, and is run again with the answers. That is the form of 2026-07-28; for older
//! clients the session asks and runs the next step itself. So every operation exists once, for both eras.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::rpc::{self, Object};

/// What an operation says before somebody listens waits here.
const SAID_MAX: usize = 64;

/// RFC 5424 severities, lowest first.
const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How the client and the server talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// `initialize` and sessions, up to 2025-11-25.
    Legacy,
    /// Every request on its own, from 2026-07-28.
    Modern,
}

/// One step of an operation.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) era: Era,
    pub(crate) arguments: Object,
    /// The client's capabilities.
    pub(crate) capabilities: Value,
    /// Answers to what the step before asked, by its keys.
    pub(crate) answers: Object,
    /// What the step before wanted to be remembered.
    pub(crate) state: Option<Value>,
    pub(crate) voice: Voice,
}

impl Call {
    /// Returns whether the client declared a capability.
    pub(crate) fn client_can(&self, capability: &str) -> bool {
        self.capabilities.get(capability).is_some()
    }

    /// Returns a string argument, empty if there is none.
    pub(crate) fn text(&self, argument: &str) -> &str {
        self.arguments.get(argument).and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Value),
    Ask(Ask),
}

/// What a step needs before the next one.
#[derive(Debug)]
pub(crate) struct Ask {
    /// `method` and `params` of each request, by keys of the operation's choice.
    pub(crate) requests: Object,
    /// Comes back with the answers.
    pub(crate) state: Option<Value>,
}

impl Ask {
    /// Returns the capability without which a client cannot be asked this.
    pub(crate) fn missing_capability(&self, call: &Call) -> Option<&'static str> {
        self.requests
            .values()
            .filter_map(|request| match request["method"].as_str()? {
                "elicitation/create" => Some("elicitation"),
                "sampling/createMessage" => Some("sampling"),
                "roots/list" => Some("roots"),
                _ => None,
            })
            .find(|capability| !call.client_can(capability))
    }
}

/// Something an operation says before it ends.
#[derive(Debug)]
pub(crate) enum Said {
    /// A message for the stream of this request.
    Message(Value),
    /// Nothing, but the answer shall be a stream.
    Open,
    /// The connection shall end; the client comes back for the rest (2025-11-25, polling).
    HangUp,
}

/// How an operation says things before it ends.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    said: mpsc::Sender<Said>,
    progress_token: Option<Value>,
    /// Rank of the lowest level that is wanted; none is if there is no rank.
    log_level: Option<usize>,
}

impl Voice {
    /// Returns a voice and what will be said.
    pub(crate) fn new(
        progress_token: Option<Value>,
        log_level: Option<usize>,
    ) -> (Self, mpsc::Receiver<Said>) {
        let (said, heard) = mpsc::channel(SAID_MAX);
        (Self { said, progress_token, log_level }, heard)
    }

    /// Reports progress, if the client wants to know.
    pub(crate) async fn progress(&self, progress: u32, total: u32) {
        if let Some(token) = &self.progress_token {
            let params = json!({"progressToken": token, "progress": progress, "total": total});
            self.message(rpc::notification("notifications/progress", params)).await;
        }
    }

    /// Logs, if the client wants this level.
    pub(crate) async fn log(&self, level: &str, text: &str) {
        if self.log_level.is_some_and(|lowest| log_level(level) >= Some(lowest)) {
            let params = json!({"level": level, "logger": "conformance-fixture", "data": text});
            self.message(rpc::notification("notifications/message", params)).await;
        }
    }

    pub(crate) async fn message(&self, message: Value) {
        self.say(Said::Message(message)).await;
    }

    pub(crate) async fn open_stream(&self) {
        self.say(Said::Open).await;
    }

    pub(crate) async fn hang_up(&self) {
        self.say(Said::HangUp).await;
    }

    async fn say(&self, said: Said) {
        // Nobody listens to a task; its result is all there is.
        let _ = self.said.send(said).await;
    }
}

/// Returns the rank of a log level.
pub(crate) fn log_level(level: &str) -> Option<usize> {
    LOG_LEVELS.iter().position(|known| *known == level)
}
