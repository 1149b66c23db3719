//! Where messages to a client go: on a line, into the answer to a batch, or into an event stream.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::http::Stream;
use crate::lock;
use crate::upstream::push_array;
use crate::wire::{NotQueued, Outbox, Outlet as _};

/// Where messages to a client go that answer nothing.
#[derive(Debug, Clone)]
pub enum Channel {
    /// On lines.
    Lines(Arc<Outbox>),
    /// Into an event stream.
    Events(Arc<Stream>),
    /// The client does not listen.
    Nowhere,
}

impl Channel {
    /// Sends a line, in pieces.
    pub(super) fn send(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        match self {
            Self::Lines(outbox) => outbox.push(line),
            Self::Events(stream) => stream.push(line),
            Self::Nowhere => Ok(()),
        }
    }
}

/// Where the answer to a request goes, and what belongs to the request.
#[derive(Debug, Clone)]
pub(super) enum ReplyTo {
    /// To where everything goes.
    Channel(Channel),
    /// Into the answer to a batch.
    Batch(Arc<Batch>),
    /// Into a stream of its own, which ends with the answer.
    Stream(Arc<Stream>),
}

impl ReplyTo {
    /// Sends the answer.
    pub(super) fn answer(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        match self {
            Self::Channel(channel) => channel.send(line),
            Self::Batch(batch) => batch.answer(line),
            Self::Stream(stream) => stream.answer(line),
        }
    }

    /// Sends what belongs to the request and is not its answer.
    pub(super) fn message(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        match self {
            Self::Channel(channel) => channel.send(line),
            Self::Batch(batch) => match &batch.to {
                ReplyToAll::Channel => batch.channel.send(line),
                ReplyToAll::Stream(stream) => stream.push(line),
            },
            Self::Stream(stream) => stream.push(line),
        }
    }
}

/// Answers to a batch (2025-03-26 only), sent when the last one is there.
#[derive(Debug)]
pub(super) struct Batch {
    /// Where they are sent.
    to: ReplyToAll,
    channel: Channel,
    /// Requests without an answer, and the answers.
    state: Mutex<(usize, Vec<Bytes>)>,
}

#[derive(Debug)]
enum ReplyToAll {
    Channel,
    Stream(Arc<Stream>),
}

impl Batch {
    /// Returns a batch of so many answers.
    pub(super) fn new(answers: usize, channel: Channel, reply_to: &ReplyTo) -> Arc<Self> {
        let to = match reply_to {
            ReplyTo::Stream(stream) => ReplyToAll::Stream(Arc::clone(stream)),
            ReplyTo::Channel(_) | ReplyTo::Batch(_) => ReplyToAll::Channel,
        };
        Arc::new(Self { to, channel, state: Mutex::new((answers, Vec::new())) })
    }

    fn answer(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        let all = {
            let mut state = lock(&self.state);
            state.1.push(line.concat().trim_ascii_end().to_vec().into());
            (state.1.len() == state.0).then(|| std::mem::take(&mut state.1))
        };
        let Some(answers) = all else { return Ok(()) };
        let mut line = Vec::new();
        push_array(&mut line, answers.iter());
        line.push(b'\n');
        match &self.to {
            ReplyToAll::Channel => self.channel.send(&[line.into()]),
            ReplyToAll::Stream(stream) => stream.answer(&[line.into()]),
        }
    }
}
