//! `subscriptions/listen` of 2026-07-28: a stream of changes, and only of those the client asked for.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::interval;

use crate::rpc::{self, Fault, Object, Request};
use crate::server::{Change, Server};
use crate::sink::Sink;

/// Proxies commonly close a connection that was quiet for a minute.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(15);

/// A subscription that was asked for.
pub(crate) struct Subscription {
    id: Value,
    filter: Object,
    changes: Receiver<Change>,
}

impl Subscription {
    /// Reads what a request asks for. What changes from now on will be told.
    pub(crate) fn new(server: &Server, request: &Request) -> Result<Self, Fault> {
        let filter = request.params.get("notifications").and_then(Value::as_object);
        let filter = filter
            .ok_or_else(|| Fault::invalid_params("`notifications` is missing or no object"))?;
        Ok(Self { id: request.id.clone(), filter: honoured(filter), changes: server.changes() })
    }

    /// Acknowledges the subscription, then tells of changes as long as somebody reads.
    pub(crate) async fn serve(mut self, sink: Sink) {
        let acknowledged = json!({"notifications": self.filter});
        let method = "notifications/subscriptions/acknowledged";
        let mut is_read = sink.message(&self.tagged(method, acknowledged)).await;
        let mut keep_alive = interval(KEEP_ALIVE_PERIOD);
        keep_alive.reset();
        while is_read {
            is_read = tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) if wants(&self.filter, &change) => {
                        sink.message(&self.tagged(change.method(), change.params())).await
                    }
                    // A client that is behind has news waiting, and learns the newest state by them.
                    Ok(_) | Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return,
                },
                _ = keep_alive.tick() => sink.keep_alive().await,
            };
        }
    }

    fn tagged(&self, method: &str, mut params: Value) -> Value {
        params["_meta"]["io.modelcontextprotocol/subscriptionId"] = self.id.clone();
        rpc::notification(method, params)
    }
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
