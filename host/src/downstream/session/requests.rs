//! What the client sends: requests that become calls, notifications, batches of both.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::{Client, Session};
use crate::aggregator::{Target, builtin};
use crate::bridge;
use crate::downstream::channel::{Batch, ReplyTo};
use crate::downstream::open::OpenRequest;
use crate::downstream::reply;
use crate::gateway::{Call, Passage};
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::mcp::{self, Era, Kind, Message, MessageError, Revision, json};
use crate::pipeline::{CallError, Exchange, Outcome};
use crate::upstream::Upstream;

/// A client may have this many requests open.
const OPEN_MAX: usize = 1024;
impl Session {
    /// Takes something that is no message; it may be a batch of them.
    pub(in crate::downstream) fn unreadable(
        self: &Arc<Self>,
        error: &MessageError,
        text: &Bytes,
        reply_to: &ReplyTo,
    ) {
        if *error == MessageError::Batch && self.takes_batches() {
            return self.batch(text, reply_to);
        }
        let id = mcp::recover_id(text);
        tracing::warn!(%error, "the client sent something that is no message");
        self.reply(
            reply_to,
            &[mcp::error_line(id.as_deref(), &reply::message_error(error)).into()],
        );
    }

    /// Returns whether the revision has batches.
    fn takes_batches(&self) -> bool {
        self.client.get().is_some_and(|client| client.revision == Revision::V2025_03_26)
    }

    /// Takes a batch. Its text is valid JSON.
    fn batch(self: &Arc<Self>, line: &Bytes, reply_to: &ReplyTo) {
        let messages: Vec<_> =
            json::elements(line).map(|range| Message::parse(line.slice(range))).collect();
        let answers = |message: &Result<Message, _>| {
            !message.as_ref().is_ok_and(|m| m.kind() != Kind::Request)
        };
        let expected = messages.iter().filter(|message| answers(message)).count();
        if messages.is_empty() {
            let error = reply::invalid_request("the batch is empty");
            return self.reply(reply_to, &[mcp::error_line(None, &error).into()]);
        }
        let batch = Batch::new(expected, self.channel.clone(), reply_to);
        for message in messages {
            let reply_to = ReplyTo::Batch(Arc::clone(&batch));
            match message {
                Ok(message) => self.message(message, reply_to),
                Err(error) => {
                    let line = mcp::error_line(None, &reply::message_error(&error));
                    self.reply(&reply_to, &[line.into()]);
                }
            }
        }
    }

    /// Takes a message of the legacy era.
    pub(in crate::downstream) fn message(self: &Arc<Self>, message: Message, reply_to: ReplyTo) {
        match message.kind() {
            Kind::Request => self.request(message, reply_to),
            Kind::Notification => self.notification(&message),
            Kind::Response => self.answer(&message),
        }
    }

    fn request(self: &Arc<Self>, message: Message, reply_to: ReplyTo) {
        let id = message.id().unwrap_or_default();
        let method = message.method();
        let refusal = match (&*method, self.client.get()) {
            ("ping", None) => return self.reply(&reply_to, &[mcp::result_line(&id, b"{}").into()]),
            ("ping", Some(client)) => {
                let pong = |_: &Bytes| Bytes::from_static(b"{}");
                let outcome = self.settle(&client.caller, &message, pong);
                return self.reply(&reply_to, &reply::line(&id, &outcome, None, Era::Legacy));
            }
            ("initialize", None) => return self.initialize(&message, &id, &reply_to),
            ("initialize", Some(_)) => {
                reply::invalid_request("this session is initialized already")
            }
            ("server/discover", _) => {
                let unknown = CallError::Unknown { kind: "method", name: method.into_owned() };
                reply::call_error(&unknown, Era::Legacy)
            }
            (_, None) => reply::invalid_request("the first request must be `initialize`"),
            (_, Some(_)) => {
                // A client that forgets `notifications/initialized` shows by this that it is ready.
                self.client_is_ready();
                match self.open_request(&id, None, &reply_to) {
                    Ok(open) => {
                        let call = Arc::clone(self).call(message, id, open, reply_to);
                        self.calls.spawn(call);
                        return;
                    }
                    Err(error) => error,
                }
            }
        };
        self.reply(&reply_to, &[mcp::error_line(Some(&id), &refusal).into()]);
    }

    /// Takes a request of the modern era.
    pub(in crate::downstream) fn modern_request(
        self: &Arc<Self>,
        message: Message,
        meta: RequestMeta,
        reply_to: ReplyTo,
    ) -> Option<Arc<OpenRequest>> {
        let id = message.id().unwrap_or_default();
        let method = message.method();
        let refusal = match &*method {
            "server/discover" => {
                let client = self.client.get()?;
                let introduction = |_: &Bytes| self.introduction(client).into();
                let outcome = self.settle(&client.caller, &message, introduction);
                self.reply(&reply_to, &reply::line(&id, &outcome, None, Era::Modern));
                return None;
            }
            _ if method.starts_with("tasks/") && !meta.has_extension(mcp::modern::TASKS) => {
                reply::missing_extension(mcp::modern::TASKS)
            }
            "initialize"
            | "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/list"
            | "tasks/result" => {
                let unknown = CallError::Unknown { kind: "method", name: method.into_owned() };
                reply::call_error(&unknown, Era::Modern)
            }
            _ => match self.open_request(&id, Some(meta), &reply_to) {
                Ok(open) if method == "subscriptions/listen" => {
                    return self.begin_to_listen(&message, &id, open, &reply_to);
                }
                Ok(open) => {
                    let call = Arc::clone(self).call(message, id, Arc::clone(&open), reply_to);
                    self.calls.spawn(call);
                    return Some(open);
                }
                Err(error) => error,
            },
        };
        self.reply(&reply_to, &[mcp::error_line(Some(&id), &refusal).into()]);
        None
    }

    /// Takes a request to listen past the interceptors that see it, and begins.
    fn begin_to_listen(
        self: &Arc<Self>,
        message: &Message,
        id: &Bytes,
        open: Arc<OpenRequest>,
        reply_to: &ReplyTo,
    ) -> Option<Arc<OpenRequest>> {
        let client = self.client.get()?;
        match self.pass(&client.caller, message) {
            Ok(passage) => {
                let params = passage.as_ref().and_then(Passage::params).cloned();
                let params = params.unwrap_or_else(|| message.body());
                self.listen(&params, id, &open, passage);
                Some(open)
            }
            Err(outcome) => {
                self.close_request(id, &open);
                self.reply(reply_to, &reply::line(id, &outcome, None, Era::Modern));
                None
            }
        }
    }

    fn open_request(
        &self,
        id: &Bytes,
        meta: Option<RequestMeta>,
        reply_to: &ReplyTo,
    ) -> Result<Arc<OpenRequest>, Bytes> {
        if let Some(client) = self.client.get() {
            client.activity.note();
        }
        // Requests of the modern era over HTTP have nothing in common, not even their ids.
        let is_alone = meta.is_some() && matches!(reply_to, ReplyTo::Stream(_));
        let mut open = lock(&self.open);
        if open.len() >= OPEN_MAX || self.calls.len() >= OPEN_MAX {
            return Err(reply::call_error(&CallError::Busy { limit: OPEN_MAX }, self.era()));
        }
        if !is_alone && open.contains_key(id) {
            return Err(reply::invalid_request("a request with this id is open already"));
        }
        let ended = self.ended.clone();
        let request = OpenRequest::new(Weak::clone(&self.itself), ended, meta, reply_to.clone());
        if !is_alone {
            // Copied: the id must not keep the buffer of its line alive.
            open.insert(Bytes::copy_from_slice(id), Arc::clone(&request));
        }
        Ok(request)
    }

    /// Takes a request through the gateway and sends its answer.
    async fn call(
        self: Arc<Self>,
        message: Message,
        id: Bytes,
        open: Arc<OpenRequest>,
        reply_to: ReplyTo,
    ) {
        let Some(client) = self.client.get() else { return };
        let mut exchange = exchange(client, &message, open.meta());
        let aggregator = &client.aggregator;
        let mut target = aggregator.resolve(&exchange.method, &exchange.params);
        if let Err(CallError::Unknown { .. }) = target
            && aggregator.first_listings().await
        {
            target = aggregator.resolve(&exchange.method, &exchange.params);
        }
        match &target {
            Ok(Target::Upstream { upstream, name, .. }) => {
                exchange.upstream = Some(Arc::clone(&upstream.name));
                exchange.name = name.clone();
                exchange.transport = Some(upstream.transport);
            }
            Ok(Target::Status) => {
                exchange.upstream = Some(builtin::UPSTREAM.into());
                exchange.name = Some(builtin::STATUS.into());
            }
            Err(CallError::Unknown { name, .. }) => exchange.name = Some(name.as_str().into()),
            Ok(Target::List(_) | Target::TaskList | Target::LogLevel) | Err(_) => {}
        }
        let call = Call { aggregator, message: &message, target, open: &open };
        let (mut exchange, answer) = self.setup.gateway.handle(call, exchange).await;
        self.close_request(&id, &open);
        if answer.is_none() {
            self.give_up_for(&open);
        }
        if let Some(Outcome::Failed(CallError::Upstream(error))) = &exchange.outcome
            && let Some(asked) = self.ask_to_sign_in(client, &exchange, error)
        {
            exchange.outcome = Some(asked);
        }
        if let (Era::Modern, Some(Outcome::Result { json, .. })) =
            (self.era(), &mut exchange.outcome)
        {
            *json = bridge::complete(&exchange.method, json, answer.as_ref());
        }
        match &exchange.outcome {
            // Whoever withdraws a request expects no answer (2025-11-25, basic/utilities/cancellation).
            Some(Outcome::Failed(CallError::Cancelled)) => match &reply_to {
                ReplyTo::Channel(_) => {}
                ReplyTo::Stream(stream) => stream.end(),
                ReplyTo::Batch(_) => self.reply_outcome(&reply_to, &id, &exchange, None),
            },
            Some(_) => self.reply_outcome(&reply_to, &id, &exchange, answer.as_ref()),
            None => {}
        }
    }

    fn reply_outcome(
        &self,
        to: &ReplyTo,
        id: &Bytes,
        exchange: &Exchange,
        answer: Option<&Message>,
    ) {
        if let Some(outcome) = &exchange.outcome {
            self.reply(to, &reply::line(id, outcome, answer, self.era()));
        }
    }

    /// Notes that a request has its answer.
    pub(in crate::downstream) fn close_request(&self, id: &Bytes, request: &Arc<OpenRequest>) {
        let mut open = lock(&self.open);
        if open.get(id).is_some_and(|open| Arc::ptr_eq(open, request)) {
            open.remove(id);
        }
    }

    /// Takes a notification.
    pub(in crate::downstream) fn notification(self: &Arc<Self>, message: &Message) {
        let Some(client) = self.client.get() else { return };
        let cancelled =
            || message.body_member("requestId").is_some_and(|id| lock(&self.open).contains_key(id));
        // Modern clients on stdio say nothing else, and not to whom.
        if client.revision.era() == Era::Modern && !cancelled() {
            return;
        }
        let Some(message) = &self.notified(None, message.clone()) else { return };
        match &*message.method() {
            "notifications/initialized" => self.client_is_ready(),
            "notifications/cancelled" => self.cancel(message),
            "notifications/progress" => self.progress(message),
            "notifications/roots/list_changed" => {
                for upstream in client.aggregator.upstreams().iter() {
                    send_if_ready(upstream, message);
                }
            }
            // Whom another one is for cannot be told, unless there is only one.
            _ => {
                if let [upstream] = &client.aggregator.upstreams()[..] {
                    send_if_ready(upstream, message);
                }
            }
        }
    }

    /// Tells the upstream of a request that the client withdrew it, in the client's words.
    fn cancel(&self, message: &Message) {
        let Some(request) =
            message.body_member("requestId").and_then(|id| lock(&self.open).get(id).cloned())
        else {
            return;
        };
        if let Some((connection, id)) = request.went_to()
            && connection.forget(id)
            && let Some(range) = json::member(&message.body(), "requestId")
        {
            let params = json::splice(&message.body(), &[(range, id.to_string().into())]);
            let params = match connection.era() {
                Era::Legacy => mcp::modern::without_meta(&params),
                Era::Modern => params,
            };
            connection.send(&message.with(None, Some(&params.into())));
        }
        request.cancel();
    }
}

fn exchange(client: &Client, message: &Message, meta: Option<&RequestMeta>) -> Box<Exchange> {
    let mut exchange = Exchange::new(Arc::clone(&client.caller), &message.method(), message.body());
    exchange.traceparent = match meta {
        Some(meta) => meta.traceparent.clone(),
        None => message.body_member("_meta").and_then(|meta| {
            json::member(meta, "traceparent").map(|range| Bytes::copy_from_slice(&meta[range]))
        }),
    };
    exchange
}

fn send_if_ready(upstream: &Arc<Upstream>, message: &Message) {
    // One that serves others too knows nothing of this client.
    if let crate::upstream::State::Ready(connection) = upstream.state()
        && connection.era() == Era::Legacy
        && !upstream.is_shared()
    {
        connection.send(&message.with(None, None));
    }
}
