//! Server-Sent Events as the body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use crate::sink::Sink;

/// Events that wait for a slow reader.
const QUEUED_MAX: usize = 16;

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
        let (events, queue) = mpsc::channel(QUEUED_MAX);
        Self { queue, driver: Some(Box::pin(drive(Sink::events(events)))) }
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
