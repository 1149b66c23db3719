//! What goes back: one JSON text, or events as they come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use super::stream::{Next, Reader, Stream};
use crate::mcp;

/// A stream on which nothing happens shows so often that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of a response.
pub(super) type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// Returns a response without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

/// Returns a response with a JSON text.
pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns a response that refuses a request before anybody looked at its message.
pub(super) fn refusal(status: StatusCode, reason: &str) -> Response<Body> {
    let error = crate::downstream::reply::invalid_request(reason);
    let mut response = error_response(status, None, &error);
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        _ => {}
    }
    response
}

/// Returns a response with a JSON-RPC error.
pub(super) fn error_response(
    status: StatusCode,
    id: Option<&[u8]>,
    error: &[u8],
) -> Response<Body> {
    let mut line = mcp::error_line(id, error);
    line.pop();
    json(status, line)
}

/// Returns a response with the events of a stream, first those given. `guard` is dropped when nobody
/// reads any more.
pub(super) fn events<G: Send + 'static>(
    first: Bytes,
    stream: Arc<Stream>,
    reader: Reader,
    guard: G,
) -> Response<Body> {
    let state = (Some(first), stream, reader, guard);
    let frames = stream::unfold(state, |(first, stream, mut reader, guard)| async move {
        let bytes = match first.filter(|first| !first.is_empty()) {
            Some(first) => first,
            None => match timeout(KEEP_ALIVE, stream.next(&mut reader)).await {
                Err(_) => Bytes::from_static(b": still here\n\n"),
                Ok(Next::End) => return None,
                Ok(Next::Event(line, _)) => joined(&stream.event(&reader, &line)),
            },
        };
        Some((Ok::<_, Infallible>(Frame::data(bytes)), (None, stream, reader, guard)))
    });
    let mut response = Response::new(Either::Right(StreamBody::new(frames).boxed_unsync()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Joins pieces to one.
pub(super) fn joined(pieces: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}
