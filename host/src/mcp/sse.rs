//! Server-sent events: the framing of MCP over HTTP. No I/O, no method is known here.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Where to resume after it.
    pub id: Option<Bytes>,
    /// Its type; none is `message`.
    pub name: Option<Bytes>,
    /// Several `data` lines are joined with line feeds. Empty for an event that only carries an id.
    pub data: Bytes,
    /// How long to wait before connecting again.
    pub retry: Option<Duration>,
}

/// An event that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Finds the events in a stream.
#[derive(Debug)]
pub struct Parser {
    buffer: BytesMut,
    /// No end of a line in the buffer before this.
    searched: usize,
    /// The line before ended with a carriage return: a line feed belongs to it.
    after_return: bool,
    event: Event,
    /// The `data` lines of the event so far.
    data: Vec<Bytes>,
    /// What was read since the last event, and what it takes to keep it.
    event_bytes: usize,
    limit: usize,
}

impl Parser {
    /// Returns a parser of events up to `limit` bytes. Lines that belong to no event count for the next one.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            after_return: false,
            event: Event::default(),
            data: Vec::new(),
            event_bytes: 0,
            limit,
        }
    }

    /// Takes what was read.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Returns the next event that is complete.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(line) = self.line() {
            self.event_bytes += line.len() + 1;
            if self.event_bytes > self.limit {
                return Err(TooLong);
            }
            if line.is_empty() {
                let mut event = std::mem::take(&mut self.event);
                event.data = match &mut self.data[..] {
                    [only] => std::mem::take(only),
                    lines => lines.join(&b"\n"[..]).into(),
                };
                self.data.clear();
                if event != Event::default() {
                    self.event_bytes = 0;
                    return Ok(Some(event));
                }
                continue;
            }
            self.field(&line);
        }
        if self.buffer.len() > self.limit { Err(TooLong) } else { Ok(None) }
    }

    fn line(&mut self) -> Option<Bytes> {
        if self.after_return && !self.buffer.is_empty() {
            self.after_return = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let Some(found) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + found).freeze();
        self.after_return = self.buffer[0] == b'\r';
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }

    fn field(&mut self, line: &Bytes) {
        let colon = memchr::memchr(b':', line);
        let name = &line[..colon.unwrap_or(line.len())];
        let value = colon.map_or_else(Bytes::new, |colon| {
            let start = colon + 1;
            line.slice(start + usize::from(line.get(start) == Some(&b' '))..)
        });
        match name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name) {
            b"data" => {
                // Many short lines take more memory than there is text.
                self.event_bytes += size_of::<Bytes>();
                self.data.push(value);
            }
            b"id" if !value.contains(&0) => self.event.id = Some(value),
            b"event" => self.event.name = Some(value),
            b"retry" => {
                let ms = std::str::from_utf8(&value).ok().and_then(|ms| ms.parse().ok());
                self.event.retry = ms.map(Duration::from_millis);
            }
            _ => {}
        }
    }
}

/// Returns an event around a message line, in pieces.
pub fn event(id: Option<&str>, line: &[Bytes]) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(line.len() + 2);
    pieces.push(match id {
        Some(id) => format!("event: message\nid: {id}\ndata: ").into(),
        None => Bytes::from_static(b"event: message\ndata: "),
    });
    pieces.extend_from_slice(line);
    pieces.push(Bytes::from_static(b"\n"));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<Event> {
        let mut parser = Parser::new(1000);
        let mut events = Vec::new();
        for chunk in chunks {
            parser.feed(chunk.as_bytes());
            while let Some(event) = parser.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    fn data(text: &'static str) -> Event {
        Event { data: text.into(), ..Event::default() }
    }

    #[test]
    fn lines_end_as_each_system_ends_them_wherever_a_chunk_ends() {
        let expected = [data("1"), data("2")];
        assert_eq!(parse(&["data: 1\n\ndata:2\n\n"]), expected);
        assert_eq!(parse(&["data: 1\r\n\r\ndata: 2\r\n\r\n"]), expected);
        assert_eq!(parse(&["data: 1\r\rdata: 2\r\r"]), expected);
        assert_eq!(parse(&["da", "ta: 1\r", "\n", "\r", "\ndata: 2", "\n\n"]), expected);
    }

    #[test]
    fn comments_and_unknown_fields_are_passed_over() {
        assert_eq!(parse(&["\u{feff}: hello\n\nx: y\nwhat\ndata: 1\n\n"]), [data("1")]);
    }

    #[test]
    fn data_lines_are_joined() {
        assert_eq!(parse(&["data: {\ndata: }\n\n"]), [data("{\n}")]);
    }

    #[test]
    fn an_event_without_data_still_tells_where_to_resume() {
        let primed = Event {
            id: Some("7".into()),
            retry: Some(Duration::from_millis(500)),
            ..Event::default()
        };
        assert_eq!(parse(&["id: 7\nretry: 500\ndata:\n\n"]), [primed]);
    }

    #[test]
    fn an_event_that_never_ends_is_refused() {
        let mut parser = Parser::new(1000);
        parser.feed(&[b'x'; 1001]);
        assert_eq!(parser.next_event(), Err(TooLong));
    }

    #[test]
    fn lines_that_make_no_event_count_for_the_next_one() {
        for line in ["\n", ": nothing\n\n", "data:\n\n", "x: y\n"] {
            let mut parser = Parser::new(1000);
            parser.feed(line.repeat(1001).as_bytes());
            assert_eq!(parser.next_event(), Err(TooLong), "{line:?}");
        }
    }

    #[test]
    fn an_event_of_many_short_lines_counts_what_it_takes_to_keep_them() {
        let mut parser = Parser::new(1000);
        parser.feed("data:\n".repeat(30).as_bytes());
        assert_eq!(parser.next_event(), Err(TooLong));
    }

    #[test]
    fn each_event_has_the_limit_for_itself() {
        let text = "data: 1\n\n".repeat(1000);
        assert_eq!(parse(&[&text]).len(), 1000);
    }

    #[test]
    fn an_event_that_was_written_is_read() {
        let pieces = event(Some("a"), &[Bytes::from_static(b"{}"), Bytes::from_static(b"\n")]);
        let text = String::from_utf8(pieces.concat()).unwrap();
        let expected = Event { id: Some("a".into()), name: Some("message".into()), ..data("{}") };
        assert_eq!(parse(&[&text]), [expected]);
    }
}
