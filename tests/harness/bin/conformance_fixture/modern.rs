//! 2026-07-28: every request stands alone, over HTTP with headers that repeat it.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::call::{Ask, Call, Era, Outcome, Said, Voice, log_level};
use crate::headers;
use crate::http::{self, Response};
use crate::legacy;
use crate::listen::Subscription;
use crate::rpc::{
    self, Fault, HEADER_MISMATCH, METHOD_NOT_FOUND, MISSING_CAPABILITY, Object, Request,
    UNSUPPORTED_VERSION,
};
use crate::server::{self, Server};
use crate::sink::Sink;
use crate::sse::Events;
use crate::tasks::{self, EXTENSION};

pub(crate) const REVISION: &str = "2026-07-28";

/// Members of `_meta` that this revision defines.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

const LISTEN: &str = "subscriptions/listen";

/// Short, because lists do change here.
const LIST_TTL_MS: u64 = 1000;

/// Returns whether a request names its revision, as those of this era do.
pub(crate) fn names_revision(request: &Request) -> bool {
    request.meta(VERSION).is_some()
}

/// Returns whether a request over HTTP is of this era, well-formed or not.
pub(crate) fn is_modern(headers: &HeaderMap, request: &Request) -> bool {
    let header = headers.get("MCP-Protocol-Version").and_then(|value| value.to_str().ok());
    names_revision(request) || header.is_some_and(|version| !legacy::REVISIONS.contains(&version))
}

/// Answers a request over HTTP.
pub(crate) async fn answer(server: Arc<Server>, headers: &HeaderMap, request: Request) -> Response {
    let id = request.id.clone();
    let refuse = |fault: Fault| http::json(StatusCode::BAD_REQUEST, &fault.response(Some(id)));
    if let Err(fault) = check(&request, Some(headers)) {
        return refuse(fault);
    }
    if request.method == LISTEN {
        return match Subscription::new(&server, &request) {
            Ok(subscription) => http::events(Events::new(|sink| subscription.serve(sink))),
            Err(fault) => refuse(fault),
        };
    }
    let (voice, mut said) = voice(&request);
    let mut work = Box::pin(work(server, request, voice));
    // JSON, unless something is said before the end.
    tokio::select! {
        biased;
        Some(first) = said.recv() => {
            http::events(Events::new(|sink| speak(Some(first), said, work, sink)))
        }
        (status, message) = &mut work => match said.try_recv() {
            Ok(first) => {
                let work = std::future::ready((status, message));
                http::events(Events::new(|sink| speak(Some(first), said, work, sink)))
            }
            Err(_) => http::json(status, &message),
        },
    }
}

/// Answers a request that came as a line, without headers.
pub(crate) async fn answer_on(server: Arc<Server>, request: Request, sink: Sink) {
    let subscription = match check(&request, None) {
        Ok(()) if request.method == LISTEN => Subscription::new(&server, &request),
        Ok(()) => {
            let (voice, said) = voice(&request);
            let work = Box::pin(work(server, request, voice));
            return speak(None, said, work, sink).await;
        }
        Err(fault) => Err(fault),
    };
    match subscription {
        Ok(subscription) => subscription.serve(sink).await,
        Err(fault) => {
            sink.message(&fault.response(Some(request.id))).await;
        }
    }
}

/// Returns the voice that a request wants to hear, and what it will say.
fn voice(request: &Request) -> (Voice, mpsc::Receiver<Said>) {
    let level = request.meta(LOG_LEVEL).and_then(Value::as_str).and_then(log_level);
    Voice::new(request.meta("progressToken").cloned(), level)
}

/// Passes on what is said, then the response. Dropped with the connection: that cancels the request.
async fn speak(
    first: Option<Said>,
    mut said: mpsc::Receiver<Said>,
    mut work: impl Future<Output = (StatusCode, Value)> + Unpin,
    sink: Sink,
) {
    let mut next = first;
    let response = loop {
        if let Some(Said::Message(message)) = next.take() {
            sink.message(&message).await;
        }
        tokio::select! {
            biased;
            Some(more) = said.recv() => next = Some(more),
            (_, response) = &mut work => break response,
        }
    };
    while let Ok(said) = said.try_recv() {
        if let Said::Message(message) = said {
            sink.message(&message).await;
        }
    }
    sink.message(&response).await;
}

/// Checks what every request must have, on HTTP in its headers too.
fn check(request: &Request, headers: Option<&HeaderMap>) -> Result<(), Fault> {
    let version = request.meta(VERSION).and_then(Value::as_str);
    if version.is_none() && request.method == "initialize" {
        // An older client may show this to its user.
        let asked = request.params.get("protocolVersion").and_then(Value::as_str);
        return Err(unsupported_version(asked.unwrap_or_default()));
    }
    let missing = |key| Fault::invalid_params(format!("`_meta` has no `{key}`"));
    let version = version.ok_or_else(|| missing(VERSION))?;
    if !request.meta(CAPABILITIES).is_some_and(Value::is_object) {
        return Err(missing(CAPABILITIES));
    }
    headers.map_or(Ok(()), |headers| headers::check_version(headers, version))?;
    if version != REVISION {
        return Err(unsupported_version(version));
    }
    headers.map_or(Ok(()), |headers| headers::check_request(headers, request))
}

fn unsupported_version(requested: &str) -> Fault {
    Fault::new(UNSUPPORTED_VERSION, format!("no revision but {REVISION} is spoken here"))
        .with(json!({"supported": [REVISION], "requested": requested}))
}

/// Does what a request asks for, and returns its response.
async fn work(server: Arc<Server>, request: Request, voice: Voice) -> (StatusCode, Value) {
    let id = request.id.clone();
    match perform(&server, request, voice).await {
        Ok(result) => (StatusCode::OK, rpc::result(id, result)),
        Err(fault) => (status(&fault), fault.response(Some(id))),
    }
}

/// Returns the status that an error has on HTTP.
fn status(fault: &Fault) -> StatusCode {
    match fault.code {
        METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

async fn perform(server: &Arc<Server>, request: Request, voice: Voice) -> Result<Value, Fault> {
    let result = match request.method.as_str() {
        "server/discover" => discover(),
        "tasks/get" | "tasks/update" | "tasks/cancel" => {
            require_tasks(&capabilities(&request))?;
            server.tasks.answer(&request)?
        }
        _ => operate(server, &request, voice).await?,
    };
    Ok(completed(&request.method, result))
}

async fn operate(server: &Arc<Server>, request: &Request, voice: Voice) -> Result<Value, Fault> {
    let call = call(server, request, voice)?;
    if request.method == "tools/call" {
        let tool = request.text("name")?;
        let declared = require_tasks(&call.capabilities);
        if tasks::is_only_a_task(tool) {
            declared.clone()?;
        }
        if declared.is_ok() && tasks::becomes_task(tool, &call) {
            return Ok(tasks::start(server, request.clone(), call));
        }
    }
    match server.step(request, &call).await? {
        Outcome::Done(result) => Ok(result),
        Outcome::Ask(ask) => input_required(server, request, &call, ask),
    }
}

/// Reads what comes with a request.
fn call(server: &Server, request: &Request, voice: Voice) -> Result<Call, Fault> {
    let state = match request.params.get("requestState") {
        Some(Value::String(sealed)) => Some(server.seal.open(request, sealed)?),
        Some(_) => return Err(Fault::invalid_params("`requestState` is no string")),
        None => None,
    };
    Ok(Call {
        era: Era::Modern,
        arguments: request.arguments(),
        capabilities: capabilities(request),
        answers: input_responses(&request.params)?,
        state,
        voice,
    })
}

fn capabilities(request: &Request) -> Value {
    request.meta(CAPABILITIES).cloned().unwrap_or_default()
}

/// Returns the client's answers, which are objects, all of them.
pub(crate) fn input_responses(params: &Object) -> Result<Object, Fault> {
    match params.get("inputResponses") {
        None => Ok(Object::new()),
        Some(Value::Object(answers)) if answers.values().all(Value::is_object) => {
            Ok(answers.clone())
        }
        Some(_) => Err(Fault::invalid_params("`inputResponses` is no object of objects")),
    }
}

fn input_required(
    server: &Server,
    request: &Request,
    call: &Call,
    ask: Ask,
) -> Result<Value, Fault> {
    if let Some(capability) = ask.missing_capability(call) {
        return Err(missing_capability(json!({capability: {}})));
    }
    let mut result = json!({"resultType": "input_required", "inputRequests": ask.requests});
    if let Some(state) = &ask.state {
        result["requestState"] = json!(server.seal.close(request, state));
    }
    Ok(result)
}

fn missing_capability(required: Value) -> Fault {
    Fault::new(MISSING_CAPABILITY, "the client has not declared what this needs")
        .with(json!({"requiredCapabilities": required}))
}

fn require_tasks(capabilities: &Value) -> Result<(), Fault> {
    match capabilities["extensions"].get(EXTENSION) {
        Some(_) => Ok(()),
        None => Err(missing_capability(json!({"extensions": {EXTENSION: {}}}))),
    }
}

fn discover() -> Value {
    let mut capabilities = server::capabilities();
    capabilities["extensions"] = json!({EXTENSION: {}});
    json!({"supportedVersions": [REVISION], "capabilities": capabilities})
}

/// Adds what every result of this revision has.
fn completed(method: &str, mut result: Value) -> Value {
    if result.get("resultType").is_none() {
        result["resultType"] = json!("complete");
        // Caching is for what is complete (2026-07-28, caching).
        let ttl_ms = match method {
            "tools/list" | "prompts/list" => Some(LIST_TTL_MS),
            "server/discover"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read" => Some(60 * LIST_TTL_MS),
            _ => None,
        };
        if let Some(ttl_ms) = ttl_ms {
            result["ttlMs"] = json!(ttl_ms);
            result["cacheScope"] = json!("public");
        }
    }
    result["_meta"]["io.modelcontextprotocol/serverInfo"] = server::info();
    result
}
