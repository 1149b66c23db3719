//! Server-Sent Events as the body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

/// Events that wait for a slow reader.
const QUEUED_MAX: usize = 16;

/// A comment, which keeps a quiet connection open.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// Where a driver puts its events.
pub(crate) type Sink = mpsc::Sender<Bytes>;

/// A body of events, and the work that makes them: it runs while the body is read, and is dropped with it.
pub(crate) struct Events {
    queue: mpsc::Receiver<Bytes>,
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Events {
    pub(crate) fn new<F>(drive: impl FnOnce(Sink) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sink, queue) = mpsc::channel(QUEUED_MAX);
        Self { queue, driver: Some(Box::pin(drive(sink))) }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Poll::Ready(event) = self.queue.poll_recv(context) {
                return Poll::Ready(event.map(|event| Ok(Frame::data(event))));
            }
            match self.driver.as_mut().map(|driver| driver.as_mut().poll(context)) {
                // What it still queued comes first; then the queue is at its end.
                Some(Poll::Ready(())) => self.driver = None,
                // If it has queued something, that woke us.
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    }
}

/// Returns a message as an event.
pub(crate) fn event(message: &Value) -> Bytes {
    format!("event: message\ndata: {message}\n\n").into()
}

/// Returns a message as an event that a client can name when it comes back.
pub(crate) fn event_with_id(id: &str, message: &Value) -> Bytes {
    format!("event: message\nid: {id}\ndata: {message}\n\n").into()
}

/// Returns an event without content, so that the client has an id to come back with, and when
/// (2025-11-25, Streamable HTTP, "Sending Messages to the Server").
pub(crate) fn priming_event(id: &str, retry_ms: u64) -> Bytes {
    format!("id: {id}\nretry: {retry_ms}\ndata: \n\n").into()
}
