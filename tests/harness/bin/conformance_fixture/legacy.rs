//! The revisions with a handshake: sessions, streams that can be resumed, and requests of the server.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::call::{Call, Era, Outcome, Voice, log_level};
use crate::http::{self, Response};
use crate::rpc::{
    self, Fault, INTERNAL_ERROR, INVALID_REQUEST, Incoming, NO_SESSION, Object, Request,
};
use crate::server::{self, Change, Server};
use crate::session::Session;
use crate::sink::Sink;
use crate::sse::Events;
use crate::stream::{Begin, Stream};

/// Oldest first. The first of them is spoken over stdio only, by right; over HTTP nobody asks for it.
pub(crate) const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// An operation that asks more often than this goes round in circles.
const ROUNDS_MAX: usize = 10;

const SESSION_ID: &str = "Mcp-Session-Id";

/// Takes a message.
pub(crate) async fn post(server: Arc<Server>, headers: &HeaderMap, message: Incoming) -> Response {
    if let Incoming::Request(request) = &message
        && request.method == "initialize"
    {
        return initialize(&server, request);
    }
    let session = match find_session(&server, headers) {
        Ok(session) => session,
        Err(refused) => return refused.response(),
    };
    match message {
        Incoming::Request(request) => answer(server, session, request).await,
        Incoming::Response { id, answer } => {
            session.answered(&id, answer);
            http::empty(StatusCode::ACCEPTED)
        }
        Incoming::Notification { method, params } => {
            if let ("notifications/cancelled", Some(id)) = (&*method, params.get("requestId")) {
                session.calls.cancel(id);
            }
            http::empty(StatusCode::ACCEPTED)
        }
    }
}

/// Opens a stream: the one of the session, or the rest of a call's.
pub(crate) fn get(server: &Arc<Server>, headers: &HeaderMap) -> Response {
    if !http::accepts(headers, "text/event-stream") {
        return http::refusal(StatusCode::NOT_ACCEPTABLE, "`Accept` must list text/event-stream");
    }
    let session = match find_session(server, headers) {
        Ok(session) => session,
        Err(refused) => return refused.response(),
    };
    match headers.get("Last-Event-ID") {
        Some(id) => resume(&session, id.to_str().unwrap_or_default()),
        None => listen(server, session),
    }
}

/// Ends a session.
pub(crate) fn delete(server: &Server, headers: &HeaderMap) -> Response {
    match session_id(headers) {
        Some(id) if server.sessions.close(id) => http::empty(StatusCode::NO_CONTENT),
        Some(_) => Refused::NoSuchSession.response(),
        None => Refused::WithoutSession.response(),
    }
}

fn initialize(server: &Server, request: &Request) -> Response {
    let id = request.id.clone();
    let (session, result) = match shake_hands(request) {
        Ok(shaken) => shaken,
        Err(fault) => return http::json(StatusCode::OK, &fault.response(Some(id))),
    };
    let Some(session) = server.sessions.open(session) else {
        return http::refusal(StatusCode::SERVICE_UNAVAILABLE, "too many sessions");
    };
    let mut response = http::json(StatusCode::OK, &rpc::result(id, result));
    response.headers_mut().insert("mcp-session-id", session.parse().expect("an id is ASCII"));
    response
}

/// Returns the session that `initialize` asks for, and the result that says so.
pub(crate) fn shake_hands(request: &Request) -> Result<(Session, Value), Fault> {
    let asked = request.text("protocolVersion")?;
    let capabilities = request.params.get("capabilities").cloned();
    let capabilities =
        capabilities.ok_or_else(|| Fault::invalid_params("`capabilities` is missing"))?;
    let newest = REVISIONS[REVISIONS.len() - 1];
    let revision = REVISIONS.into_iter().find(|known| *known == asked).unwrap_or(newest);
    let result = json!({
        "protocolVersion": revision,
        "capabilities": server::capabilities(),
        "serverInfo": server::info(),
    });
    Ok((Session::new(revision, capabilities), result))
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION_ID)?.to_str().ok()
}

/// Why a request belongs to no session.
enum Refused {
    WithoutSession,
    NoSuchSession,
    NoSuchRevision(String),
}

impl Refused {
    fn response(self) -> Response {
        let (status, text) = match self {
            Self::WithoutSession => {
                (StatusCode::BAD_REQUEST, "no session: `initialize` opens one".to_owned())
            }
            Self::NoSuchSession => {
                (StatusCode::NOT_FOUND, "there is no such session any more".to_owned())
            }
            Self::NoSuchRevision(revision) => {
                let known = REVISIONS.join(", ");
                (StatusCode::BAD_REQUEST, format!("no revision `{revision}`, but {known}"))
            }
        };
        http::json(status, &Fault::new(NO_SESSION, text).response(None))
    }
}

fn find_session(server: &Server, headers: &HeaderMap) -> Result<Arc<Session>, Refused> {
    let id = session_id(headers).ok_or(Refused::WithoutSession)?;
    let session = server.sessions.get(id).ok_or(Refused::NoSuchSession)?;
    let revision =
        headers.get("MCP-Protocol-Version").map(|value| value.to_str().unwrap_or_default());
    match revision {
        Some(revision) if !REVISIONS.contains(&revision) => {
            Err(Refused::NoSuchRevision(revision.to_owned()))
        }
        Some(_) | None => Ok(session),
    }
}

async fn answer(server: Arc<Server>, session: Arc<Session>, request: Request) -> Response {
    let id = request.id.clone();
    let stream = session.open_stream();
    let work = work(server, Arc::clone(&session), Arc::clone(&stream), request);
    if let Err(fault) = session.calls.spawn(&id, work) {
        return http::json(StatusCode::OK, &fault.response(Some(id)));
    }
    // JSON, unless something is said before the end.
    match stream.only_response().await {
        Some(response) => http::json(StatusCode::OK, &response),
        None => follow(stream, Begin::Start, session.polls()),
    }
}

fn follow(stream: Arc<Stream>, from: Begin, has_ids: bool) -> Response {
    http::events(Events::new(|sink| stream.follow(from, has_ids, sink)))
}

fn resume(session: &Session, last_event_id: &str) -> Response {
    let place = || {
        let (stream, entries) = last_event_id.split_once('-')?;
        Some((session.stream(stream.parse().ok()?)?, entries.parse().ok()?))
    };
    match place() {
        Some((stream, entries)) => follow(stream, Begin::After(entries), session.polls()),
        None => http::refusal(StatusCode::BAD_REQUEST, "there is no such event"),
    }
}

/// Opens the stream of what is about no call. It ends with the connection.
fn listen(server: &Arc<Server>, session: Arc<Session>) -> Response {
    let Ok(only) = Arc::clone(&session.standalone).try_acquire_owned() else {
        return http::refusal(StatusCode::CONFLICT, "the session has this stream open already");
    };
    let changes = server.changes();
    http::events(Events::new(|sink| async move {
        let _only = only;
        // So that the client has the head of the response at once.
        sink.keep_alive().await;
        self::changes(changes, session, sink).await;
    }))
}

/// Tells of changes as long as somebody reads.
pub(crate) async fn changes(mut changes: Receiver<Change>, session: Arc<Session>, sink: Sink) {
    let mut is_read = true;
    while is_read {
        is_read = match changes.recv().await {
            Ok(Change::Resource(uri)) if !session.is_subscribed(&uri) => true,
            Ok(change) => sink.message(&rpc::notification(change.method(), change.params())).await,
            // A client that is behind has news waiting, and learns the newest state by them.
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
    }
}

/// Ends a stream whose call is cancelled.
struct EndOnDrop(Arc<Stream>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Does what a request asks for, and puts what is said, and the response, into its stream.
pub(crate) async fn work(
    server: Arc<Server>,
    session: Arc<Session>,
    stream: Arc<Stream>,
    request: Request,
) {
    let stream = EndOnDrop(stream);
    let token = request.meta("progressToken").cloned();
    let (voice, mut said) = Voice::new(token, Some(session.log_level()));
    let id = request.id.clone();
    let mut work = Box::pin(perform(&server, &session, &request, voice));
    let outcome = loop {
        tokio::select! {
            biased;
            Some(said) = said.recv() => stream.0.say(said),
            outcome = &mut work => break outcome,
        }
    };
    while let Ok(said) = said.try_recv() {
        stream.0.say(said);
    }
    stream.0.end(Some(match outcome {
        Ok(result) => rpc::result(id, result),
        Err(fault) => fault.response(Some(id)),
    }));
}

async fn perform(
    server: &Server,
    session: &Session,
    request: &Request,
    voice: Voice,
) -> Result<Value, Fault> {
    match request.method.as_str() {
        "ping" => Ok(json!({})),
        "logging/setLevel" => {
            let rank = log_level(request.text("level")?);
            session.set_log_level(rank.ok_or_else(|| Fault::invalid_params("no such level"))?);
            Ok(json!({}))
        }
        "resources/subscribe" => session.subscribe(request.text("uri")?).map(|()| json!({})),
        "resources/unsubscribe" => {
            session.unsubscribe(request.text("uri")?);
            Ok(json!({}))
        }
        _ => operate(server, session, request, voice).await,
    }
}

/// Runs an operation to its end: where a step asks, the client is asked, and the next step has the answers.
async fn operate(
    server: &Server,
    session: &Session,
    request: &Request,
    voice: Voice,
) -> Result<Value, Fault> {
    let mut call = Call {
        era: Era::Legacy,
        arguments: request.arguments(),
        capabilities: session.capabilities.clone(),
        answers: Object::new(),
        state: None,
        voice,
    };
    for _ in 0..ROUNDS_MAX {
        let ask = match server.step(request, &call).await? {
            Outcome::Done(result) => return Ok(result),
            Outcome::Ask(ask) => ask,
        };
        if let Some(capability) = ask.missing_capability(&call) {
            let text = format!("the client has not declared `{capability}`");
            return Err(Fault::new(INVALID_REQUEST, text));
        }
        call.answers = session.ask(&ask.requests, &call.voice).await?;
        call.state = ask.state;
    }
    Err(Fault::new(INTERNAL_ERROR, "the operation asks again and again"))
}
