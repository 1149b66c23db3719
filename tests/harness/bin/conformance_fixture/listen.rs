//! `subscriptions/listen` of 2026-07-28: a stream of changes, and only of those the client asked for.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::interval;

use crate::http::{self, Response};
use crate::rpc::{self, Fault, Object, Request};
use crate::server::{Change, Server};
use crate::sse::{self, Events};

/// Proxies commonly close a connection that was quiet for a minute.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(15);

/// Opens the stream that a request asks for. It ends with the connection.
pub(crate) fn open(server: &Server, request: Request) -> Response {
    let Some(filter) = request.params.get("notifications").and_then(Value::as_object) else {
        let fault = Fault::invalid_params("`notifications` is missing or no object");
        return http::json(StatusCode::BAD_REQUEST, &fault.response(Some(request.id)));
    };
    let filter = honoured(filter);
    let id = request.id;
    let mut changes = server.changes();
    http::events(Events::new(|sink| async move {
        let acknowledged = json!({"notifications": filter});
        let message = tagged("notifications/subscriptions/acknowledged", acknowledged, &id);
        let mut sent = sink.send(sse::event(&message)).await;
        let mut keep_alive = interval(KEEP_ALIVE_PERIOD);
        keep_alive.reset();
        while sent.is_ok() {
            sent = tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) if wants(&filter, &change) => {
                        sink.send(sse::event(&tagged(change.method(), change.params(), &id))).await
                    }
                    // A client that is behind has news waiting, and learns the newest state by them.
                    Ok(_) | Err(RecvError::Lagged(_)) => Ok(()),
                    Err(RecvError::Closed) => return,
                },
                _ = keep_alive.tick() => sink.send(sse::KEEP_ALIVE).await,
            };
        }
    }))
}

/// Returns the part of a filter that this server can serve.
fn honoured(filter: &Object) -> Object {
    let flag = |(key, value): (&String, &Value)| {
        matches!(key.as_str(), "toolsListChanged" | "promptsListChanged") && *value == json!(true)
    };
    let uris = |(key, value): (&String, &Value)| key == "resourceSubscriptions" && value.is_array();
    filter
        .iter()
        .filter(|entry| flag(*entry) || uris(*entry))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn wants(filter: &Object, change: &Change) -> bool {
    match change {
        Change::Tools => filter.contains_key("toolsListChanged"),
        Change::Prompts => filter.contains_key("promptsListChanged"),
        Change::Resource(uri) => {
            let uris = filter.get("resourceSubscriptions").and_then(Value::as_array);
            uris.is_some_and(|uris| uris.contains(&json!(uri)))
        }
    }
}

fn tagged(method: &str, mut params: Value, id: &Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/subscriptionId"] = id.clone();
    rpc::notification(method, params)
}
