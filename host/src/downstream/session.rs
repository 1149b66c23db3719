//! One client and the upstreams it uses: what it said of itself, what it asked, what it was asked.
//!
//! In the legacy era that is a session, from `initialize` on. In the modern era, where nothing is
//! negotiated, it is what requests that say the same of their sender have in common.

mod asked;
mod shown;
mod sign_in;
mod upstreams;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ultra_store::{Redactor, Store};

use super::channel::{Batch, Channel, ReplyTo};
use super::listening::Listening;
use super::open::OpenRequest;
use super::reply;
use crate::aggregator::{Aggregator, Introduction, Naming, Target, builtin, merge};
use crate::bridge;
use crate::gateway::{Call, Gateway, Passage};
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::mcp::{self, Era, Kind, Message, MessageError, Revision, json};
use crate::pipeline::{CallError, Caller, Exchange, Outcome};
use crate::rush::Rush;
use crate::telemetry::{self, Exporter};
use crate::upstream::{Definition, Guard, Pool, Surroundings, Upstream};
use crate::wire::NotQueued;
use asked::Asked;

/// A client may have this many requests open.
const OPEN_MAX: usize = 1024;

/// What sessions are made with.
#[derive(Clone)]
pub struct Setup {
    /// The pipeline.
    pub gateway: Gateway,
    /// Name advertised to clients.
    pub server_name: String,
    /// The enabled upstreams, in the order of the config.
    pub upstreams: watch::Receiver<Arc<[Definition]>>,
    /// The only one of them that is used, by its name; all, if none.
    pub only: Option<Arc<str>>,
    /// How tools and prompts are named.
    pub naming: Naming,
    /// The upstreams that all sessions use.
    pub pool: Arc<Pool>,
    /// Ends what the process leaves behind.
    pub guard: Arc<Guard>,
    /// Keeps records, states and catalogs.
    pub store: Arc<dyn Store>,
    /// Takes secrets out of what is shown.
    pub redactor: Redactor,
    /// No more is taken from clients; what is open may finish.
    pub stopping: CancellationToken,
    /// Ends the session.
    pub shutdown: CancellationToken,
    /// A call without progress is given up after this long.
    pub call_timeout: Duration,
    /// Learns how lines come.
    pub rush: Arc<Rush>,
    /// So many sessions of the legacy era may be open over HTTP, at each endpoint.
    pub http_sessions_max: usize,
    /// One is ended after so long without a request or a listener.
    pub http_session_idle: Duration,
    /// Seals what passes through clients' hands.
    pub seal: Arc<bridge::Seal>,
    /// Who the client has proven to act for, if it had to.
    pub subject: Option<Arc<str>>,
    /// Learns of sessions.
    pub exporter: Option<Arc<Exporter>>,
}

impl Setup {
    /// Returns the upstreams as they are in the config now.
    pub fn definitions(&self) -> Vec<Definition> {
        let all = self.upstreams.borrow();
        let is_used = |definition: &&Definition| {
            self.only.as_ref().is_none_or(|only| definition.name == *only)
        };
        all.iter().filter(is_used).cloned().collect()
    }
}

/// One client.
pub struct Session {
    setup: Setup,
    itself: Weak<Self>,
    channel: Channel,
    /// Calls and upstreams of this session.
    tasks: TaskTracker,
    calls: TaskTracker,
    client: OnceLock<Client>,
    client_ready: watch::Sender<bool>,
    open: Mutex<HashMap<Bytes, Arc<OpenRequest>>>,
    asked: Mutex<HashMap<u64, Asked>>,
    last_asked: AtomicU64,
    /// Where its user was asked to sign in.
    signing_in: Mutex<HashSet<String>>,
    /// An upstream lists something else than before.
    lists_changed: Notify,
    /// Nobody waits for the calls that are still open.
    ended: CancellationToken,
    pub(super) listening: Mutex<Vec<Listening>>,
    /// Calls that go on upstream while their client finds out what was asked of it.
    pub parked: bridge::Parking,
}

/// What is known of the client.
struct Client {
    caller: Arc<Caller>,
    revision: Revision,
    aggregator: Arc<Aggregator>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Returns a session whose client has not said anything yet.
    pub fn new(setup: Setup, channel: Channel) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            setup,
            itself: Weak::clone(itself),
            channel,
            tasks: TaskTracker::new(),
            calls: TaskTracker::new(),
            client: OnceLock::new(),
            client_ready: watch::Sender::new(false),
            open: Mutex::default(),
            asked: Mutex::default(),
            last_asked: AtomicU64::new(0),
            signing_in: Mutex::default(),
            lists_changed: Notify::new(),
            ended: CancellationToken::new(),
            listening: Mutex::default(),
            parked: bridge::Parking::default(),
        })
    }

    /// Returns a session for requests that say this of their sender.
    pub fn modern(setup: Setup, channel: Channel, meta: &RequestMeta) -> Arc<Self> {
        let session = Self::new(setup, channel);
        let info = meta.client_info.as_deref().unwrap_or(b"{}");
        let like_initialize =
            mcp::edit::set(b"{}", &[("capabilities", &meta.capabilities), ("clientInfo", info)]);
        let (params, revision) = (Bytes::from(like_initialize), Revision::V2026_07_28);
        let caller = caller(&params, session.setup.subject.as_ref(), revision);
        session.connect(session.client(&params, caller, revision));
        session.client_is_ready();
        session
    }

    /// Takes something that is no message; it may be a batch of them.
    pub(super) fn unreadable(
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
    pub(super) fn message(self: &Arc<Self>, message: Message, reply_to: ReplyTo) {
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
    pub(super) fn modern_request(
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

    /// Returns the era its client lives in.
    pub(super) fn era(&self) -> Era {
        self.client.get().map_or(Era::Legacy, |client| client.revision.era())
    }

    /// Answers `initialize` from what is remembered, and starts the upstreams.
    fn initialize(self: &Arc<Self>, message: &Message, id: &Bytes, reply_to: &ReplyTo) {
        let params = message.body();
        let Some(asked) = text(&params, &["protocolVersion"]) else {
            let error = CallError::InvalidParams {
                reason: "expected a string `protocolVersion`".to_owned(),
            };
            return self.reply(
                reply_to,
                &[mcp::error_line(Some(id), &reply::call_error(&error, Era::Legacy)).into()],
            );
        };
        let revision = Revision::negotiate(&asked);
        let caller = caller(&params, self.setup.subject.as_ref(), revision);
        let mut client = None;
        let outcome = self.settle(&caller, message, |params| {
            // Copied: what is kept must not keep the buffer of its line alive.
            let params = Bytes::copy_from_slice(params);
            let known = client.insert(self.client(&params, Arc::clone(&caller), revision));
            self.introduction(known).into()
        });
        // A client that is refused in the end has no session.
        if let (Outcome::Result { .. }, Some(client)) = (&outcome, client) {
            self.connect(client);
        }
        self.reply(reply_to, &reply::line(id, &outcome, None, Era::Legacy));
    }

    /// Makes upstreams for a client, by what it says of itself.
    fn client(self: &Arc<Self>, params: &Bytes, caller: Arc<Caller>, revision: Revision) -> Client {
        let surroundings = Arc::new(Surroundings {
            caller: Arc::clone(&caller),
            initialize: params.clone(),
            revision,
            client_ready: self.client_ready.subscribe(),
            starts: Surroundings::starts(),
            guard: Arc::clone(&self.setup.guard),
            store: Arc::clone(&self.setup.store),
            redactor: self.setup.redactor.clone(),
            shutdown: self.setup.shutdown.clone(),
            call_timeout: self.setup.call_timeout,
            rush: Arc::clone(&self.setup.rush),
        });
        let make = |definition: &Definition| self.make(definition, &surroundings);
        let upstreams: Vec<_> = self.setup.definitions().iter().map(make).collect();
        let aggregator = Arc::new(Aggregator::new(
            upstreams,
            surroundings,
            &self.setup.server_name,
            self.setup.naming,
            Arc::clone(&self.setup.seal),
        ));
        Client { caller, revision, aggregator }
    }

    /// Begins the session of a client, and starts its upstreams.
    fn connect(self: &Arc<Self>, client: Client) {
        let caller = &client.caller;
        if let Some(exporter) = &self.setup.exporter {
            exporter.session(telemetry::Session {
                id: Arc::clone(&caller.session_id),
                protocol_version: Arc::clone(&caller.protocol_version),
            });
        }
        tracing::info!(principal = %caller.principal, subject = caller.subject.as_deref(), revision = client.revision.as_str(), "client `{}` connected", caller.principal);
        let upstreams = client.aggregator.upstreams();
        let _ = self.client.set(client);
        self.tasks.spawn(Arc::clone(self).announce());
        self.tasks.spawn(Arc::clone(self).follow_config());
        upstreams.iter().for_each(|upstream| self.run(upstream));
    }

    /// Returns what we say of ourselves: the result of `initialize` or of `server/discover`.
    fn introduction(&self, client: &Client) -> String {
        let Client { aggregator, revision, .. } = client;
        let Introduction { capabilities, instructions, info } =
            merge(&aggregator.upstreams(), self.setup.naming, revision.era());
        let instructions =
            instructions.map_or_else(String::new, |text| format!(r#","instructions":{text}"#));
        let ours = || {
            let (name, version) = (json::quote(&self.setup.server_name), env!("CARGO_PKG_VERSION"));
            format!(r#"{{"name":{name},"title":"Ultra","version":"{version}"}}"#)
        };
        let info = info.unwrap_or_else(ours);
        let date = revision.as_str();
        match revision.era() {
            Era::Modern => format!(
                r#"{{"resultType":"complete","supportedVersions":["{date}"],"capabilities":{capabilities}{instructions},"ttlMs":0,"cacheScope":"private","_meta":{{"{}":{info}}}}}"#,
                mcp::modern::SERVER_INFO
            ),
            Era::Legacy => format!(
                r#"{{"protocolVersion":"{date}","capabilities":{capabilities},"serverInfo":{info}{instructions}}}"#
            ),
        }
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
        let mut exchange = exchange(client, &message);
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
            *json = bridge::complete(&exchange.method, json);
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
    pub(super) fn close_request(&self, id: &Bytes, request: &Arc<OpenRequest>) {
        let mut open = lock(&self.open);
        if open.get(id).is_some_and(|open| Arc::ptr_eq(open, request)) {
            open.remove(id);
        }
    }

    /// Takes a notification.
    pub(super) fn notification(self: &Arc<Self>, message: &Message) {
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

    fn client_is_ready(&self) {
        self.client_ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    fn reply(&self, to: &ReplyTo, line: &[Bytes]) {
        self.check(to.answer(line));
    }

    /// Sends a message that belongs to nothing.
    pub(super) fn send(&self, line: &[Bytes]) {
        self.check(self.channel.send(line));
    }

    /// Sends what belongs to a request, if it is known to which.
    fn send_for(&self, request: Option<&OpenRequest>, line: &[Bytes]) {
        self.send_by(request.map(OpenRequest::reply_to).as_ref(), line);
    }

    fn send_by(&self, reply_to: Option<&ReplyTo>, line: &[Bytes]) {
        // A request that has its answer has no stream any more.
        match reply_to.map_or(Err(NotQueued::Closed), |reply_to| reply_to.message(line)) {
            Err(NotQueued::Closed) => self.send(line),
            sent => self.check(sent),
        }
    }

    fn check(&self, sent: Result<(), NotQueued>) {
        // A client that does not read 64 MiB is gone; on lines, so is one that closed them. Where others may
        // say the same of themselves, only its own stream has ended.
        let is_gone = match sent {
            Ok(()) => false,
            Err(NotQueued::Full) => !matches!(self.channel, Channel::Nowhere),
            Err(NotQueued::Closed) => matches!(self.channel, Channel::Lines(_)),
        };
        if is_gone {
            self.setup.shutdown.cancel();
        }
    }

    /// Returns whether something is open.
    pub(super) fn is_busy(&self) -> bool {
        !self.calls.is_empty() || !lock(&self.listening).is_empty() || !self.parked.is_empty()
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.setup.gateway
    }

    pub(crate) fn aggregator(&self) -> Option<&Arc<Aggregator>> {
        Some(&self.client.get()?.aggregator)
    }

    /// Waits for the open calls, at most `grace`, and then for the upstreams to end.
    pub async fn end(&self, grace: Duration) {
        self.end_listening();
        self.calls.close();
        let _ = timeout(grace, self.calls.wait()).await;
        self.setup.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Only calls of upstreams that go on with others are still open.
        self.ended.cancel();
        self.parked.clear();
        if let Some(client) = self.client.get() {
            self.setup.pool.leave(&client.caller.session_id);
        }
    }
}

/// Returns who calls, by what the client said of itself.
fn caller(params: &[u8], subject: Option<&Arc<str>>, revision: Revision) -> Arc<Caller> {
    let name = text(params, &["clientInfo", "name"]).unwrap_or_else(|| "unknown".to_owned());
    let version = text(params, &["clientInfo", "version"]).unwrap_or_default();
    let principal = if version.is_empty() { name } else { format!("{name}/{version}") };
    let principal = principal.chars().filter(|char| !char.is_control()).take(200);
    Arc::new(Caller {
        principal: principal.collect::<String>().into(),
        subject: subject.cloned(),
        session_id: uuid::Uuid::now_v7().to_string().into(),
        protocol_version: revision.as_str().into(),
    })
}

fn text(json: &[u8], path: &[&str]) -> Option<String> {
    let range = json::at_path(json, path)?;
    json::string(&json[range]).map(std::borrow::Cow::into_owned)
}

fn exchange(client: &Client, message: &Message) -> Box<Exchange> {
    let mut exchange = Exchange::new(Arc::clone(&client.caller), &message.method(), message.body());
    exchange.traceparent = message.body_member("_meta").and_then(|meta| {
        json::member(meta, "traceparent").map(|range| Bytes::copy_from_slice(&meta[range]))
    });
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
