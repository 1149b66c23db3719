//! The events of one response, or of what a client listens to: made by the session, read by whoever
//! holds the response, and again by the client that lost it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::downstream::OpenRequest;
use crate::lock;
use crate::mcp::sse;
use crate::wire::{LINE_BYTES_MAX, NotQueued};

/// So much may wait for a client that does not read; with more, the stream breaks off. One message always
/// fits.
const WAITING_BYTES_MAX: usize = LINE_BYTES_MAX;

/// The second half of the id of the event that says nothing but that the stream is open.
const START: &str = "start";

/// So much is kept for a client that comes back.
const KEPT_BYTES_MAX: usize = 1 << 20;
const KEPT_MAX: usize = 1000;

/// A stream of events.
#[derive(Debug)]
pub struct Stream {
    /// The first half of its events' ids; none if a stream that breaks off cannot be resumed.
    name: Option<String>,
    /// Nobody needs to read it.
    is_optional: bool,
    /// Withdrawn when the stream breaks off.
    request: OnceLock<Weak<OpenRequest>>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Number of the first event.
    first: u64,
    bytes: usize,
    /// Of those that nobody has read.
    unread_bytes: usize,
    ended: bool,
    /// Counts who reads: a new reader replaces the one before.
    readers: u64,
}

#[derive(Debug, Clone)]
struct Event {
    /// The line, without its line feed.
    line: Bytes,
    read: bool,
}

/// Where a reader of a stream is.
#[derive(Debug)]
pub(super) struct Reader {
    number: u64,
    next: u64,
}

/// What a client has seen that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// That the stream was opened.
    Nothing,
    /// The event with this number.
    Event(u64),
}

impl Seen {
    /// Reads the second half of an event's id.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            START => Some(Self::Nothing),
            number => number.parse().ok().map(Self::Event),
        }
    }
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A message; and whether it is the last one.
    Event(Bytes, bool),
    /// There are no more.
    End,
}

impl Stream {
    /// Returns a stream; one with a name can be resumed.
    pub(in crate::downstream) fn new(name: Option<String>) -> Self {
        Self {
            name,
            is_optional: false,
            request: OnceLock::new(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Returns a stream that a client may listen to or not, so that little is kept for it.
    pub(super) fn optional(name: String) -> Self {
        Self { is_optional: true, ..Self::new(Some(name)) }
    }

    /// Names the request that is of no use any more when the stream breaks off.
    pub(super) fn belongs_to(&self, request: &Arc<OpenRequest>) {
        let _ = self.request.set(Arc::downgrade(request));
        if lock(&self.state).ended {
            request.cancel();
        }
    }

    /// Adds a message.
    pub(in crate::downstream) fn push(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        self.add(line, false)
    }

    /// Adds the last message.
    pub(in crate::downstream) fn answer(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        self.add(line, true)
    }

    fn add(&self, line: &[Bytes], last: bool) -> Result<(), NotQueued> {
        {
            let mut state = lock(&self.state);
            if state.ended {
                return Err(NotQueued::Closed);
            }
            if state.unread_bytes > WAITING_BYTES_MAX {
                state.break_off();
                drop(state);
                self.changed.notify_waiters();
                if let Some(request) = self.request.get().and_then(Weak::upgrade) {
                    request.cancel();
                }
                return Err(NotQueued::Full);
            }
            let line = one_line(line);
            state.bytes += line.len();
            state.unread_bytes += line.len();
            state.events.push_back(Event { line, read: false });
            state.ended = last;
            state.forget(self.name.is_some());
            if self.is_optional {
                state.forget_unread();
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Ends the stream without another message.
    pub(in crate::downstream) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_waiters();
    }

    /// Returns whether nothing was said yet.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).events.is_empty()
    }

    /// Returns whether all was said and read.
    pub(super) fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.ended && state.events.iter().all(|event| event.read)
    }

    /// Reads what nobody has read, or what follows an event that was seen. Whoever read before reads no
    /// more.
    pub(super) fn read(&self, after: Option<Seen>) -> Reader {
        let mut state = lock(&self.state);
        state.readers += 1;
        let first_unread = state.events.iter().take_while(|event| event.read).count() as u64;
        let next = match after {
            None => state.first + first_unread,
            Some(Seen::Nothing) => state.first,
            Some(Seen::Event(number)) => number.saturating_add(1).max(state.first),
        };
        self.changed.notify_waiters();
        Reader { number: state.readers, next }
    }

    /// Waits for the next event.
    pub(super) async fn next(&self, reader: &mut Reader) -> Next {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(next) = self.try_next(reader) {
                return next;
            }
            changed.await;
        }
    }

    fn try_next(&self, reader: &mut Reader) -> Option<Next> {
        let mut state = lock(&self.state);
        if state.readers != reader.number {
            return Some(Next::End);
        }
        reader.next = reader.next.max(state.first);
        let index = usize::try_from(reader.next - state.first).unwrap_or(usize::MAX);
        let count = state.events.len();
        let ended = state.ended;
        let Some(event) = state.events.get_mut(index) else {
            return ended.then_some(Next::End);
        };
        let was_read = std::mem::replace(&mut event.read, true);
        let line = event.line.clone();
        let last = ended && index + 1 == count;
        reader.next += 1;
        if !was_read {
            state.unread_bytes -= line.len();
        }
        state.forget(self.name.is_some());
        Some(Next::Event(line, last))
    }

    /// Returns an event as it goes over the wire: that which the reader found last.
    pub(super) fn event(&self, reader: &Reader, line: &Bytes) -> Vec<Bytes> {
        let id = self.name.as_ref().map(|name| format!("{name}-{}", reader.next - 1));
        sse::event(id.as_deref(), &[line.clone(), Bytes::from_static(b"\n")])
    }

    /// Returns an event that says nothing but where to resume, and how soon.
    pub(super) fn priming(&self, reader: &Reader) -> Option<Bytes> {
        let name = self.name.as_ref()?;
        Some(
            match reader.next.checked_sub(1) {
                Some(seen) => format!("id: {name}-{seen}\nretry: 1000\ndata: \n\n"),
                None => format!("id: {name}-{START}\nretry: 1000\ndata: \n\n"),
            }
            .into(),
        )
    }
}

impl State {
    /// Ends, and forgets what nobody has read.
    fn break_off(&mut self) {
        self.ended = true;
        self.first += self.events.len() as u64;
        self.events.clear();
        (self.bytes, self.unread_bytes) = (0, 0);
    }

    /// Drops the oldest of what nobody may ever read.
    fn forget_unread(&mut self) {
        while self.events.len() > 1 && (self.events.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX)
        {
            let Some(event) = self.events.pop_front() else { return };
            self.bytes -= event.line.len();
            self.unread_bytes -= if event.read { 0 } else { event.line.len() };
            self.first += 1;
        }
    }

    /// Drops what was read, but for what a client may come back for.
    fn forget(&mut self, resumable: bool) {
        let (kept, kept_bytes) = if resumable { (KEPT_MAX, KEPT_BYTES_MAX) } else { (0, 0) };
        while let Some(event) = self.events.front()
            && event.read
            && (self.events.len() > kept || self.bytes > kept_bytes)
        {
            self.bytes -= event.line.len();
            self.first += 1;
            self.events.pop_front();
        }
    }
}

/// Joins a line's pieces, without its line feed.
fn one_line(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [line] if line.ends_with(b"\n") => line.slice(..line.len() - 1),
        pieces => {
            let mut line = pieces.concat();
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            line.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::downstream::channel::{Channel, ReplyTo};

    fn line(text: &str) -> Vec<Bytes> {
        vec![Bytes::from(format!("{text}\n"))]
    }

    fn event(text: &'static str, last: bool) -> Next {
        Next::Event(text.into(), last)
    }

    #[tokio::test]
    async fn a_stream_is_read_once_and_ends_with_its_answer() {
        let stream = Stream::new(None);
        let mut reader = stream.read(None);
        stream.push(&line("1")).unwrap();
        stream.answer(&line("2")).unwrap();

        assert_eq!(stream.next(&mut reader).await, event("1", false));
        assert_eq!(stream.next(&mut reader).await, event("2", true));
        assert_eq!(stream.next(&mut reader).await, Next::End);
        assert!(stream.is_over());
        assert_eq!(stream.push(&line("3")), Err(NotQueued::Closed));
    }

    #[tokio::test]
    async fn a_stream_breaks_off_when_too_much_is_unread() {
        let stream = Stream::new(None);
        let request = OpenRequest::new(
            Weak::new(),
            CancellationToken::new(),
            None,
            ReplyTo::Channel(Channel::Nowhere),
        );
        stream.belongs_to(&request);
        let mut reader = stream.read(None);
        stream.push(&[vec![b'x'; WAITING_BYTES_MAX + 1].into()]).unwrap();

        assert_eq!(stream.push(&line("2")), Err(NotQueued::Full));
        assert_eq!(stream.answer(&line("3")), Err(NotQueued::Closed));
        assert_eq!(stream.next(&mut reader).await, Next::End);
        request.cancelled().await;
    }

    #[tokio::test]
    async fn little_is_kept_for_a_client_that_does_not_listen() {
        let stream = Stream::optional("0".into());
        let _left = stream.read(None);

        for _ in 0..3 * KEPT_MAX {
            stream.push(&line("x")).unwrap();
        }
        stream.push(&[vec![b'x'; 2 * KEPT_BYTES_MAX].into()]).unwrap();

        let mut reader = stream.read(None);
        let Next::Event(newest, _) = stream.next(&mut reader).await else { panic!("an event") };
        assert_eq!(newest.len(), 2 * KEPT_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_client_that_comes_back_goes_on_where_it_was() {
        let stream = Stream::new(Some("s".into()));
        let mut first = stream.read(None);
        for text in ["1", "2", "3"] {
            stream.push(&line(text)).unwrap();
            stream.next(&mut first).await;
        }

        let mut second = stream.read(Some(Seen::Event(0)));

        assert_eq!(stream.next(&mut second).await, event("2", false));
        assert_eq!(stream.next(&mut first).await, Next::End);
        let written = String::from_utf8(stream.event(&second, &"2".into()).concat()).unwrap();
        assert_eq!(written, "event: message\nid: s-1\ndata: 2\n\n");
    }
}
