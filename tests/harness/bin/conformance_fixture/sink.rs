//! Where the messages of a stream go: events of an HTTP response, or lines.

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

/// A stream's way out. Its methods return whether somebody still reads.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    queue: mpsc::Sender<Bytes>,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Events,
    Lines,
}

impl Sink {
    pub(crate) fn events(queue: mpsc::Sender<Bytes>) -> Self {
        Self { queue, framing: Framing::Events }
    }

    pub(crate) fn lines(queue: mpsc::Sender<Bytes>) -> Self {
        Self { queue, framing: Framing::Lines }
    }

    pub(crate) async fn message(&self, message: &Value) -> bool {
        self.send(match self.framing {
            Framing::Events => format!("event: message\ndata: {message}\n\n"),
            Framing::Lines => format!("{message}\n"),
        })
        .await
    }

    /// Sends a message that a client can name when it comes back. For events only.
    pub(crate) async fn message_with_id(&self, id: &str, message: &Value) -> bool {
        self.send(format!("event: message\nid: {id}\ndata: {message}\n\n")).await
    }

    /// Sends an event without content, so that the client has an id to come back with, and when
    /// (2025-11-25, Streamable HTTP, "Sending Messages to the Server"). For events only.
    pub(crate) async fn prime(&self, id: &str, retry_ms: u64) -> bool {
        self.send(format!("id: {id}\nretry: {retry_ms}\ndata: \n\n")).await
    }

    /// Sends a comment, which keeps a quiet connection open; lines need none.
    pub(crate) async fn keep_alive(&self) -> bool {
        match self.framing {
            Framing::Events => self.send(":\n\n".to_owned()).await,
            Framing::Lines => true,
        }
    }

    async fn send(&self, text: String) -> bool {
        self.queue.send(text.into()).await.is_ok()
    }
}
