//! One HTTP request: whose it is, what it carries, and how it is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::answer::{self, Body};
use super::sessions::{HttpSession, Sessions};
use super::stream::{Next, Stream};
use super::{Routes, headers};
use crate::downstream::channel::{Channel, ReplyTo};
use crate::downstream::modern::Senders;
use crate::downstream::{OpenRequest, Setup, reply};
use crate::mcp::modern::{self, RequestMeta};
use crate::mcp::{self, Era, Kind, Message, MessageError, Revision, json};
use crate::wire::LINE_BYTES_MAX;

const SESSION_ID: &str = "mcp-session-id";
const LAST_EVENT_ID: &str = "last-event-id";

/// A body may take this long to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// One MCP endpoint: its sessions, and its clients that need none.
pub(super) struct Endpoint {
    sessions: Sessions,
    senders: Senders,
}

impl Endpoint {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            sessions: Sessions::new(setup.clone()),
            senders: Senders::new(setup, Channel::Nowhere),
        }
    }

    /// Ends what nobody uses any more.
    pub(super) fn end_idle(&self) {
        self.sessions.end_idle();
        self.senders.end_idle();
    }

    /// Waits for the open calls, at most `grace`, and ends everything.
    pub(super) async fn end(&self, grace: Duration) {
        tokio::join!(self.sessions.end(grace), self.senders.end(grace));
    }
}

/// Who the sender of a request has proven to act for, if it had to.
type Subject<'a> = Option<&'a Arc<str>>;

/// Answers a request.
pub(super) async fn respond(routes: &Routes, request: Request<Incoming>) -> Response<Body> {
    if let Err(refusal) = routes.guard.check(request.headers(), request.uri()) {
        return refusal.into();
    }
    if let Some(metadata) = routes.guard.metadata(&request) {
        return metadata;
    }
    let subject = match routes.guard.admit(request.headers(), request.uri().path()).await {
        Ok(subject) => subject,
        Err(refusal) => return refusal.into(),
    };
    let subject = subject.as_ref();
    let Some(endpoint) = routes.find(request.uri().path()) else {
        return answer::refusal(StatusCode::NOT_FOUND, "there is nothing here; try `/mcp`");
    };
    let asked = match *request.method() {
        Method::POST => post(&endpoint, subject, request).await,
        Method::GET => get(&endpoint, subject, request.headers()),
        Method::DELETE => delete(&endpoint, subject, request.headers()),
        _ => Ok(answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "use POST")),
    };
    asked.unwrap_or_else(|refusal| *refusal)
}

/// A refusal ends the handling of a request early.
type Answered = Result<Response<Body>, Box<Response<Body>>>;

fn refused(status: StatusCode, reason: &str) -> Box<Response<Body>> {
    Box::new(answer::refusal(status, reason))
}

async fn post(endpoint: &Endpoint, subject: Subject<'_>, request: Request<Incoming>) -> Answered {
    let (head, body) = request.into_parts();
    let has = |name, kinds: &[&str]| {
        let value = head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        value.is_some_and(|value| kinds.iter().any(|kind| value.contains(kind)))
    };
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    // Not just anything with these words in it: a page may send other types without asking.
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        let reason = "the `Content-Type` must be `application/json`";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let takes = |kind| has(ACCEPT, &[kind, "*/*"]);
    if !takes("application/json") || !takes("text/event-stream") {
        let reason = "`Accept` must list `application/json` and `text/event-stream`";
        return Err(refused(StatusCode::NOT_ACCEPTABLE, reason));
    }
    let body =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, LINE_BYTES_MAX).collect()).await;
    let text = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let reason = "the message is longer than 64 MiB";
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        Ok(Err(_)) => return Err(refused(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => {
            return Err(refused(StatusCode::REQUEST_TIMEOUT, "the body took too long"));
        }
    };
    let message = match Message::parse(text.clone()) {
        Ok(message) => message,
        Err(MessageError::Batch) => return batch(endpoint, subject, &head.headers, &text).await,
        Err(error) => {
            let id = mcp::recover_id(&text);
            let error = reply::message_error(&error);
            let refusal = answer::error_response(StatusCode::BAD_REQUEST, id.as_deref(), &error);
            return Err(Box::new(refusal));
        }
    };
    let meta = RequestMeta::of(&message);
    let version =
        head.headers.get(headers::PROTOCOL_VERSION).and_then(|version| version.to_str().ok());
    let is_modern =
        version.and_then(Revision::parse).is_some_and(|revision| revision.era() == Era::Modern);
    if meta.is_some() || is_modern && !head.headers.contains_key(SESSION_ID) {
        return modern(endpoint, subject, &head.headers, message, meta).await;
    }
    legacy(endpoint, subject, &head.headers, message, version).await
}

async fn modern(
    endpoint: &Endpoint,
    subject: Subject<'_>,
    headers: &HeaderMap,
    message: Message,
    meta: Option<Result<RequestMeta, &'static str>>,
) -> Answered {
    let id = message.id();
    let bad_request = |error: &[u8]| {
        Err(Box::new(answer::error_response(StatusCode::BAD_REQUEST, id.as_deref(), error)))
    };
    if message.kind() != Kind::Request {
        // Cancelling is done by closing the response; nothing else needs to be told.
        return Ok(answer::empty(StatusCode::ACCEPTED));
    }
    let meta = match meta {
        Some(Ok(meta)) => meta,
        Some(Err(key)) => return bad_request(&reply::missing_meta(key)),
        None => return bad_request(&reply::missing_meta(modern::PROTOCOL_VERSION)),
    };
    if let Some(wrong) = headers::mismatch(headers, &message, Some(&meta)) {
        return bad_request(&reply::header_mismatch(&wrong));
    }
    if meta.version != Revision::V2026_07_28.as_str() {
        return bad_request(&reply::unsupported_version(&meta.version));
    }
    let mirrored = endpoint.senders.mirrored(subject, &message, &meta);
    if let Some(wrong) = headers::param_mismatch(headers, &mirrored) {
        return bad_request(&reply::header_mismatch(&wrong));
    }
    let stream = Arc::new(Stream::new(None));
    let mut reader = stream.read(None);
    let reply_to = ReplyTo::Stream(Arc::clone(&stream));
    let open = endpoint.senders.request(subject, message, Ok(meta), reply_to);
    if let Some(open) = &open {
        stream.belongs_to(open);
    }
    // Closing the response withdraws the request (2026-07-28, basic/transports).
    let guard = CancelGuard(open);
    match stream.next(&mut reader).await {
        Next::Event(line, true) => Ok(answer::json(status_of(&line), line)),
        Next::Event(line, false) => {
            let first = answer::joined(&stream.event(&reader, &line));
            Ok(answer::events(first, stream, reader, guard))
        }
        Next::End => Ok(answer::empty(StatusCode::NO_CONTENT)),
    }
}

/// Withdraws a request when its response is not read any more.
struct CancelGuard(Option<Arc<OpenRequest>>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.cancel();
        }
    }
}

/// Returns the HTTP status of an answer.
fn status_of(line: &[u8]) -> StatusCode {
    let code = json::at_path(line, &["error", "code"]).map(|range| &line[range]);
    match code {
        Some(b"-32601") => StatusCode::NOT_FOUND,
        Some(b"-32020" | b"-32021" | b"-32022" | b"-32600") => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

async fn legacy(
    endpoint: &Endpoint,
    subject: Subject<'_>,
    headers: &HeaderMap,
    message: Message,
    version: Option<&str>,
) -> Answered {
    if message.kind() == Kind::Request && message.method() == "initialize" {
        if headers.contains_key(SESSION_ID) {
            let reason = "`initialize` begins a session and has none";
            return Err(refused(StatusCode::BAD_REQUEST, reason));
        }
        let Some(session) = endpoint.sessions.open(subject) else {
            let reason = "too many sessions are in use";
            return Err(refused(StatusCode::SERVICE_UNAVAILABLE, reason));
        };
        let stream = Arc::new(Stream::new(None));
        let mut reader = stream.read(None);
        session.session.message(message, ReplyTo::Stream(Arc::clone(&stream)));
        let Next::Event(line, _) = stream.next(&mut reader).await else {
            return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "no answer"));
        };
        let mut response = answer::json(StatusCode::OK, line.clone());
        if json::member(&line, "error").is_some() {
            endpoint.sessions.close(&session.id, subject);
        } else if let Ok(id) = HeaderValue::from_str(&session.id) {
            response.headers_mut().insert(SESSION_ID, id);
        }
        return Ok(response);
    }
    if version.is_some_and(|version| Revision::parse(version).is_none()) {
        let reason = "this `MCP-Protocol-Version` is not supported";
        return Err(refused(StatusCode::BAD_REQUEST, reason));
    }
    let session = session(endpoint, subject, headers)?;
    if message.kind() != Kind::Request {
        session.session.message(message, ReplyTo::Channel(Channel::Nowhere));
        return Ok(answer::empty(StatusCode::ACCEPTED));
    }
    let stream = session.stream();
    session.session.message(message, ReplyTo::Stream(Arc::clone(&stream)));
    Ok(streamed(&session, stream).await)
}

async fn batch(
    endpoint: &Endpoint,
    subject: Subject<'_>,
    headers: &HeaderMap,
    text: &Bytes,
) -> Answered {
    let session = session(endpoint, subject, headers)?;
    let stream = session.stream();
    let reply_to = ReplyTo::Stream(Arc::clone(&stream));
    let has_requests = json::elements(text).any(|range| {
        Message::parse(text.slice(range)).map_or(true, |message| message.kind() == Kind::Request)
    });
    session.session.unreadable(&MessageError::Batch, text, &reply_to);
    // What is wrong with the batch itself is said at once.
    match has_requests || !stream.is_empty() {
        true => Ok(streamed(&session, stream).await),
        false => Ok(answer::empty(StatusCode::ACCEPTED)),
    }
}

/// Returns the answer as it is, or as the last of several events if something comes before it.
async fn streamed(session: &HttpSession, stream: Arc<Stream>) -> Response<Body> {
    let mut reader = stream.read(None);
    let priming = stream.priming(&reader);
    match stream.next(&mut reader).await {
        Next::Event(line, true) => {
            session.forget(&stream);
            answer::json(StatusCode::OK, line)
        }
        Next::Event(line, false) => {
            let event = stream.event(&reader, &line);
            let first: Vec<_> = priming.into_iter().chain(event).collect();
            answer::events(answer::joined(&first), stream, reader, ())
        }
        Next::End => answer::empty(StatusCode::NO_CONTENT),
    }
}

fn get(endpoint: &Endpoint, subject: Subject<'_>, headers: &HeaderMap) -> Answered {
    if !headers.contains_key(SESSION_ID) {
        let reason = "there is nothing to listen to without a session; use POST";
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") && !accepts.contains("*/*") {
        let reason = "`Accept` must list `text/event-stream`";
        return Err(refused(StatusCode::NOT_ACCEPTABLE, reason));
    }
    let session = session(endpoint, subject, headers)?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let (stream, after) = match last.map(|id| session.resume(id)) {
        Some(Some((stream, after))) => (stream, after),
        Some(None) => {
            // Not 404: the session is there.
            let reason = "this `Last-Event-ID` is not known any more";
            return Err(refused(StatusCode::BAD_REQUEST, reason));
        }
        None => (Arc::clone(&session.unasked), None),
    };
    let reader = stream.read(after);
    let first = stream.priming(&reader).unwrap_or_default();
    Ok(answer::events(first, stream, reader, session.listens()))
}

fn delete(endpoint: &Endpoint, subject: Subject<'_>, headers: &HeaderMap) -> Answered {
    let id = headers.get(SESSION_ID).and_then(|id| id.to_str().ok());
    match id.map(|id| endpoint.sessions.close(id, subject)) {
        Some(true) => Ok(answer::empty(StatusCode::NO_CONTENT)),
        Some(false) => Err(refused(StatusCode::NOT_FOUND, "the session has ended")),
        None => Err(refused(StatusCode::METHOD_NOT_ALLOWED, "use POST")),
    }
}

fn session(
    endpoint: &Endpoint,
    subject: Subject<'_>,
    headers: &HeaderMap,
) -> Result<Arc<HttpSession>, Box<Response<Body>>> {
    let Some(id) = headers.get(SESSION_ID).and_then(|id| id.to_str().ok()) else {
        let reason = "the header `Mcp-Session-Id` is missing; begin with `initialize`";
        return Err(refused(StatusCode::BAD_REQUEST, reason));
    };
    endpoint.sessions.find(id, subject).ok_or_else(|| {
        refused(StatusCode::NOT_FOUND, "the session has ended; begin with `initialize`")
    })
}
