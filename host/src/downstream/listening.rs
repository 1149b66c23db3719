//! What clients of the modern era listen to (`subscriptions/listen`): one long request, answered by
//! notifications.

use std::sync::Arc;

use bytes::Bytes;

use super::{OpenRequest, Session, reply};
use crate::gateway::Passage;
use crate::lock;
use crate::mcp::{self, Era, Message, edit, json, modern};
use crate::pipeline::Outcome;

/// A client that listens.
#[derive(Debug)]
pub(super) struct Listening {
    /// Its request's id, as raw JSON: the name of the subscription.
    id: Bytes,
    request: Arc<OpenRequest>,
    /// Which lists it wants to hear of, by their notification.
    lists: Vec<&'static str>,
    /// URIs, as raw JSON strings.
    resources: Vec<Bytes>,
    /// The interceptors that saw it.
    passage: Option<Passage>,
}

/// Members of the filter, and what they let through.
const LISTS: [(&str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed"),
    ("promptsListChanged", "notifications/prompts/list_changed"),
    ("resourcesListChanged", "notifications/resources/list_changed"),
];

/// A client may listen to so many resources at once.
const RESOURCES_MAX: usize = 1000;

impl Session {
    /// Begins to tell a client what it wants to hear. Says first what that will be.
    pub(super) fn listen(
        self: &Arc<Self>,
        params: &Bytes,
        id: &Bytes,
        open: &Arc<OpenRequest>,
        passage: Option<Passage>,
    ) {
        let Some(aggregator) = self.aggregator() else { return };
        aggregator.note_lists();
        let filter = json::member(params, "notifications");
        let filter = filter.map_or(&b"{}"[..], |range| &params[range]);
        let wants = |key| json::member(filter, key).is_some_and(|range| &filter[range] == b"true");
        let wanted: Vec<_> = LISTS.into_iter().filter(|(key, _)| wants(key)).collect();
        let uris =
            json::member(filter, "resourceSubscriptions").map_or(&b""[..], |range| &filter[range]);
        let resources: Vec<_> = json::elements(uris)
            .take(RESOURCES_MAX)
            .filter_map(|range| normal(&uris[range]))
            .filter(|uri| aggregator.watch(uri, true))
            .collect();

        let mut honored: Vec<_> = wanted.iter().map(|(key, _)| format!("\"{key}\":true")).collect();
        if !resources.is_empty() {
            let uris: Vec<_> = resources.iter().map(|uri| String::from_utf8_lossy(uri)).collect();
            honored.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        let params = format!("{{\"notifications\":{{{}}}}}", honored.join(","));
        let id = Bytes::copy_from_slice(id);
        let listening = Listening {
            id: id.clone(),
            request: Arc::clone(open),
            lists: wanted.into_iter().map(|(_, method)| method).collect(),
            resources,
            passage,
        };
        // Before anything else (2026-07-28, basic/utilities/subscriptions).
        listening.tell("notifications/subscriptions/acknowledged", params.as_bytes());
        lock(&self.listening).push(listening);
        let (session, open) = (Arc::clone(self), Arc::clone(open));
        tokio::spawn(async move {
            open.cancelled().await;
            session.close_request(&id, &open);
            session.listen_no_more(&open);
        });
    }

    /// Tells a client no more. One that closed its end expects no answer.
    fn listen_no_more(&self, open: &Arc<OpenRequest>) {
        let ended: Vec<_> = {
            let mut all = lock(&self.listening);
            all.extract_if(.., |listening| Arc::ptr_eq(&listening.request, open)).collect()
        };
        let Some(aggregator) = self.aggregator() else { return };
        for uri in ended.iter().flat_map(|listening| &listening.resources) {
            let all = lock(&self.listening);
            let is_wanted = all.iter().any(|listening| listening.resources.contains(uri));
            drop(all);
            if !is_wanted {
                aggregator.watch(uri, false);
            }
        }
    }

    /// Ends all that listen, with an answer.
    pub(super) fn end_listening(&self) {
        let all = std::mem::take(&mut *lock(&self.listening));
        for mut listening in all {
            let result =
                edit::set(br#"{"resultType":"complete"}"#, &[("_meta", &listening.meta(b"{}"))]);
            let outcome = Outcome::Result { json: result.into(), tool_error: false };
            let outcome = match listening.passage.take() {
                Some(passage) => passage.end(outcome),
                None => outcome,
            };
            let line = reply::line(&listening.id, &outcome, None, Era::Modern);
            let _ = listening.request.reply_to().answer(&line);
        }
    }

    /// Tells those who want to hear it that a list is another one.
    pub(super) fn tell_of_list(&self, method: &'static str) {
        for listening in
            lock(&self.listening).iter().filter(|listening| listening.lists.contains(&method))
        {
            listening.tell(method, b"{}");
        }
    }

    /// Tells those who want to hear it that a resource is another one.
    pub(super) fn tell_of_update(&self, message: &Message) {
        let Some(uri) = message.body_member("uri").and_then(normal) else { return };
        for listening in lock(&self.listening).iter() {
            if listening.resources.contains(&uri) {
                listening.tell("notifications/resources/updated", &message.body());
            }
        }
    }
}

/// Returns a raw JSON string in the one spelling that can be compared.
fn normal(raw: &[u8]) -> Option<Bytes> {
    Some(json::quote(&json::string(raw)?).into())
}

impl Listening {
    fn tell(&self, method: &str, params: &[u8]) {
        let meta = json::member(params, "_meta").map_or(&b"{}"[..], |range| &params[range]);
        let params = edit::set(params, &[("_meta", &self.meta(meta))]);
        let _ = self.request.message(&[mcp::notification_line(method, &params).into()]);
    }

    fn meta(&self, meta: &[u8]) -> Vec<u8> {
        edit::set(meta, &[(modern::SUBSCRIPTION_ID, &self.id)])
    }
}
