//! The JSON-RPC envelope around a message whose inside stays as it was sent.

use std::ops::Range;

use bytes::Bytes;

use super::json::{self, Document, JsonError, Span};

/// What kind of message a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has a method and an id.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has an id and a result or an error.
    Response,
}

/// Why a line is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The text cannot be accepted as JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A batch, where none is allowed.
    #[error("batches are not part of this protocol revision")]
    Batch,
    /// JSON, but no JSON-RPC message.
    #[error("{0}")]
    Envelope(&'static str),
}

/// A checked JSON-RPC message. Cheap to clone parts of: they share the line's memory.
#[derive(Debug, Clone)]
pub struct Message {
    line: Bytes,
    document: Document,
    kind: Kind,
    id: Option<Span>,
    method: Option<Span>,
    /// `params`, `result` or `error`.
    body: Option<Span>,
    is_error: bool,
}

impl Message {
    /// Checks one line, without its line feed.
    pub fn parse(line: Bytes) -> Result<Self, MessageError> {
        let document = json::scan(&line)?;
        let line = without_line_breaks(line);
        match line.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => {}
            Some(b'[') => return Err(MessageError::Batch),
            _ => return Err(MessageError::Envelope("expected a JSON-RPC object")),
        }
        if document.get(&line, "jsonrpc").is_none_or(|version| version.of(&line) != br#""2.0""#) {
            return Err(MessageError::Envelope("expected `jsonrpc` to be \"2.0\""));
        }
        let id = document.get(&line, "id");
        if let Some(id) = id
            && !matches!(id.of(&line)[0], b'"' | b'-' | b'0'..=b'9' | b'n')
        {
            return Err(MessageError::Envelope("expected `id` to be a string or a number"));
        }
        let id = id.filter(|id| id.of(&line) != b"null");
        if let Some(method) = document.get(&line, "method") {
            if method.of(&line)[0] != b'"' {
                return Err(MessageError::Envelope("expected `method` to be a string"));
            }
            let kind = match (id, document.get(&line, "id")) {
                (Some(_), _) => Kind::Request,
                (None, None) => Kind::Notification,
                (None, Some(_)) => {
                    return Err(MessageError::Envelope("expected `id` not to be null"));
                }
            };
            let body = document.get(&line, "params");
            if body.is_some_and(|params| !matches!(params.of(&line)[0], b'{' | b'[')) {
                return Err(MessageError::Envelope("expected `params` to be an object"));
            }
            return Ok(Self {
                kind,
                id,
                method: Some(method),
                body,
                is_error: false,
                document,
                line,
            });
        }
        let result = document.get(&line, "result");
        let error = document.get(&line, "error");
        if result.is_some() == error.is_some() {
            return Err(MessageError::Envelope(
                "expected `method`, or one of `result` and `error`",
            ));
        }
        Ok(Self {
            kind: Kind::Response,
            id,
            method: None,
            body: result.or(error),
            is_error: error.is_some(),
            document,
            line,
        })
    }

    /// Returns what kind of message it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the line.
    pub fn line(&self) -> &Bytes {
        &self.line
    }

    /// Returns the id as it stands on the line. A response to something unreadable has none.
    pub fn id(&self) -> Option<Bytes> {
        self.id.map(|id| id.share(&self.line))
    }

    /// Returns the id if it is one that we could have given out.
    pub fn id_number(&self) -> Option<u64> {
        std::str::from_utf8(self.id?.of(&self.line)).ok()?.parse().ok()
    }

    /// Returns the method; empty for a response.
    pub fn method(&self) -> std::borrow::Cow<'_, str> {
        self.method.and_then(|method| json::string(method.of(&self.line))).unwrap_or_default()
    }

    /// Returns `params`, `result` or `error` as raw JSON; empty if there is none.
    pub fn body(&self) -> Bytes {
        self.body.map_or_else(Bytes::new, |body| body.share(&self.line))
    }

    /// Returns a member of `params`, `result` or `error`, as raw JSON.
    pub fn body_member(&self, key: &str) -> Option<&[u8]> {
        let outer = match (self.kind, self.is_error) {
            (Kind::Request | Kind::Notification, _) => "params",
            (Kind::Response, false) => "result",
            (Kind::Response, true) => "error",
        };
        self.document.get_in(&self.line, outer, key).map(|span| span.of(&self.line))
    }

    /// Returns whether a response is an error.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Returns the message with other params.
    ///
    /// # Errors
    ///
    /// Those of [`Self::parse`]: what is JSON by itself may nest too deep in a message.
    pub fn with_params(&self, params: &Bytes) -> Result<Self, MessageError> {
        let mut line = self.with(None, Some(params)).concat();
        line.pop();
        Self::parse(line.into())
    }

    /// Returns the line in pieces, its id and, if given, its body replaced. A piece shares the line's
    /// memory where it is unchanged. Ends with a line feed.
    pub fn with(&self, id: Option<&Bytes>, body: Option<&Bytes>) -> Vec<Bytes> {
        let mut edits: Vec<(Range<usize>, &Bytes)> = Vec::with_capacity(2);
        if let (Some(span), Some(new)) = (self.id, id) {
            edits.push((span.range(), new));
        }
        let added;
        match (self.body, body) {
            (Some(span), Some(new)) => edits.push((span.range(), new)),
            // A request without params gets some, before its last brace.
            (None, Some(new)) => {
                let end = self.line.iter().rposition(|&byte| byte == b'}').unwrap_or_default();
                added = Bytes::from([b",\"params\":", &new[..]].concat());
                edits.push((end..end, &added));
            }
            (_, None) => {}
        }
        edits.sort_by_key(|(range, _)| range.start);
        let mut pieces = Vec::with_capacity(6);
        let mut at = 0;
        for (range, new) in edits {
            pieces.push(self.line.slice(at..range.start));
            pieces.push(new.clone());
            at = range.end;
        }
        pieces.push(self.line.slice(at..));
        pieces.push(Bytes::from_static(b"\n"));
        pieces
    }
}

/// Returns a checked text with spaces for its line breaks, which can only be between tokens. Some
/// readers of stdio take a carriage return for the end of the message.
fn without_line_breaks(line: Bytes) -> Bytes {
    if memchr::memchr2(b'\r', b'\n', &line).is_none() {
        return line;
    }
    line.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect()
}

/// Returns the id of a line that could not be accepted, if it plainly has one. Whoever waits for
/// that id learns what was wrong.
pub fn recover_id(line: &[u8]) -> Option<Bytes> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let mut ids =
        json::members(line).filter(|(key, _)| *key == b"id").map(|(_, value)| &line[value]);
    let id = ids.next()?;
    let plain = match id.first()? {
        b'"' => id.len() <= 256 && json::validate(id).is_ok(),
        _ => {
            id.len() <= 64
                && id
                    .iter()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
        }
    };
    (plain && ids.next().is_none()).then(|| Bytes::copy_from_slice(id))
}

/// Returns a response line with a result.
pub fn result_line(id: &[u8], result: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(result.len() + id.len() + 40);
    line.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    line.extend_from_slice(id);
    line.extend_from_slice(br#","result":"#);
    line.extend_from_slice(result);
    line.extend_from_slice(b"}\n");
    line
}

/// Returns a response line with an error object; `id` is `null` when it is unknown.
pub fn error_line(id: Option<&[u8]>, error: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(error.len() + 48);
    line.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    line.extend_from_slice(id.unwrap_or(b"null"));
    line.extend_from_slice(br#","error":"#);
    line.extend_from_slice(error);
    line.extend_from_slice(b"}\n");
    line
}

/// Returns a request line of our own; no `params` member if they are empty.
pub fn request_line(id: u64, method: &str, params: &[u8]) -> Vec<u8> {
    let mut line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"#).into_bytes();
    finish(&mut line, method, params);
    line
}

/// Returns a notification line of our own; no `params` member if they are empty.
pub fn notification_line(method: &str, params: &[u8]) -> Vec<u8> {
    let mut line = br#"{"jsonrpc":"2.0","method":"#.to_vec();
    finish(&mut line, method, params);
    line
}

fn finish(line: &mut Vec<u8>, method: &str, params: &[u8]) {
    line.extend_from_slice(json::quote(method).as_bytes());
    if !params.is_empty() {
        line.extend_from_slice(br#","params":"#);
        line.extend_from_slice(params);
    }
    line.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<Message, MessageError> {
        Message::parse(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn an_id_keeps_its_spelling() {
        for id in ["1", "\"1\"", "1.0", "18446744073709551615", "-0", "\"\\u0031\""] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let message = Message::parse(Bytes::from(line)).unwrap();
            assert_eq!(message.kind(), Kind::Request);
            assert_eq!(message.id().unwrap(), id.as_bytes());
        }
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let reason = |text| parse(text).unwrap_err().to_string();
        assert_eq!(reason("[]"), "batches are not part of this protocol revision");
        assert_eq!(reason("1"), "expected a JSON-RPC object");
        assert_eq!(reason(r#"{"id":1,"method":"x"}"#), r#"expected `jsonrpc` to be "2.0""#);
        assert_eq!(
            reason(r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#),
            "expected `id` to be a string or a number"
        );
        assert_eq!(
            reason(r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#),
            "expected `id` not to be null"
        );
        assert_eq!(
            reason(r#"{"jsonrpc":"2.0","id":1,"method":1}"#),
            "expected `method` to be a string"
        );
        assert_eq!(
            reason(r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#),
            "expected `method`, or one of `result` and `error`"
        );
        assert_eq!(
            reason(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":3}"#),
            "expected `params` to be an object"
        );
    }

    #[test]
    fn only_what_is_named_changes() {
        let message =
            parse(r#"{ "x":1, "result" : {"a": 1e400} ,"id":7,"jsonrpc":"2.0"}"#).unwrap();

        let line = message.with(Some(&Bytes::from_static(b"\"q\"")), None).concat();

        assert_eq!(
            line,
            b"{ \"x\":1, \"result\" : {\"a\": 1e400} ,\"id\":\"q\",\"jsonrpc\":\"2.0\"}\n"
        );
        assert_eq!(message.body_member("a").unwrap(), b"1e400");
    }

    #[test]
    fn an_id_is_recovered_only_when_it_is_plain() {
        assert_eq!(recover_id(br#"{"id":5,"a":1,"a":2}"#).unwrap(), "5");
        assert_eq!(recover_id(br#"{"id":"x","params":"#).as_deref(), Some(&b"\"x\""[..]));
        assert_eq!(recover_id(br#"{"id":5,"id":6}"#), None);
        assert_eq!(recover_id(br#"{"id":{}}"#), None);
        assert_eq!(recover_id(b"\xef\xbb\xbf{\"id\":7}").unwrap(), "7");
        assert_eq!(recover_id(b"nonsense"), None);
    }
}
