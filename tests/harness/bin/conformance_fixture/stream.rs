//! What was said during one call of a session, kept so that a client whose connection ended can come back
//! for the rest (2025-11-25, Streamable HTTP, "Resumability and Redelivery").

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::call::Said;
use crate::sink::Sink;

/// More than any call here says; what says more is cut off.
const ENTRIES_MAX: usize = 1000;

/// When a client shall come back after the connection was closed.
const RETRY_MS: u64 = 50;

/// The stream of one call.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u64,
    log: watch::Sender<Log>,
}

#[derive(Debug, Default)]
struct Log {
    entries: Vec<Said>,
    ended: bool,
}

/// Where a connection begins to follow a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Start,
    /// After so many entries.
    After(usize),
}

impl Stream {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, log: watch::Sender::default() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn say(&self, said: Said) {
        self.log.send_modify(|log| {
            if !log.ended {
                log.entries.push(said);
                log.ended = log.entries.len() == ENTRIES_MAX;
            }
        });
    }

    /// Says the response, and that it was all.
    pub(crate) fn end(&self, response: Option<Value>) {
        self.log.send_modify(|log| {
            log.entries.extend(response.map(Said::Message).filter(|_| !log.ended));
            log.ended = true;
        });
    }

    /// Waits until something is said. Returns it if it is the response and nothing else.
    pub(crate) async fn only_response(&self) -> Option<Value> {
        let mut log = self.log.subscribe();
        let log = log.wait_for(|log| log.ended || !log.entries.is_empty()).await.ok()?;
        match &log.entries[..] {
            [Said::Message(response)] if log.ended => Some(response.clone()),
            _ => None,
        }
    }

    /// Writes what was said and is being said, until the end, or until the call hangs up.
    pub(crate) async fn follow(self: Arc<Self>, begin: Begin, has_ids: bool, sink: Sink) {
        let id = |entry: usize| format!("{}-{entry}", self.number);
        let mut next = match begin {
            Begin::After(entries) => entries,
            Begin::Start => {
                if has_ids {
                    sink.prime(&id(0), RETRY_MS).await;
                }
                0
            }
        };
        let mut log = self.log.subscribe();
        while log.wait_for(|log| log.ended || log.entries.len() > next).await.is_ok() {
            let message = match log.borrow().entries.get(next) {
                Some(Said::Message(message)) => Some(message.clone()),
                // Who comes back because of it need not be told again.
                Some(Said::HangUp) if has_ids && begin != Begin::After(next) => return,
                Some(Said::HangUp | Said::Open) => None,
                None => return,
            };
            next += 1;
            let is_read = match message {
                Some(message) if has_ids => sink.message_with_id(&id(next), &message).await,
                Some(message) => sink.message(&message).await,
                None => true,
            };
            if !is_read {
                return;
            }
        }
    }
}
