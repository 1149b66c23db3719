//! A session of the legacy era: what a client said in `initialize`, what it asked, what it was asked.
//! The only file that knows sessions exist.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ultra_store::{Redactor, Store};

use super::reply;
use crate::aggregator::{Aggregator, Target, builtin, merge};
use crate::gateway::{Call, Gateway};
use crate::lock;
use crate::mcp::{self, Kind, Message, MessageError, Revision, json};
use crate::pipeline::{CallError, Caller, Exchange, Operation, Outcome, SpanContext};
use crate::rush::Rush;
use crate::telemetry::{self, Exporter};
use crate::upstream::{
    Connection, Guard, ListKind, Listener, Program, Surroundings, Upstream, unix_ns,
};
use crate::wire::{Line, Outbox};

/// A client may have this many requests open.
const OPEN_MAX: usize = 1024;

/// And upstreams may have asked it this many things at once.
const ASKED_MAX: usize = 1024;

/// Changes of lists within this time are announced once.
const ANNOUNCE_DEBOUNCE: Duration = Duration::from_millis(100);

/// So many servers are started at the same time. Most only wait for something while they start.
const STARTS_MAX: usize = 32;

/// What sessions are made with.
#[derive(Clone)]
pub struct Setup {
    /// The pipeline.
    pub gateway: Gateway,
    /// Name advertised to clients.
    pub server_name: String,
    /// The enabled upstreams, in the order of the config.
    pub programs: Vec<(Arc<str>, Program)>,
    /// Ends what the process leaves behind.
    pub guard: Arc<Guard>,
    /// Keeps records, states and catalogs.
    pub store: Arc<dyn Store>,
    /// Takes secrets out of what is shown.
    pub redactor: Redactor,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// A call without progress is given up after this long.
    pub call_timeout: Duration,
    /// Learns how lines come.
    pub rush: Arc<Rush>,
    /// Learns of sessions.
    pub exporter: Option<Arc<Exporter>>,
}

/// One client.
pub struct Session {
    setup: Setup,
    outbox: Arc<Outbox>,
    /// Calls and upstreams of this session.
    tasks: TaskTracker,
    calls: TaskTracker,
    client: OnceLock<Client>,
    client_ready: watch::Sender<bool>,
    open: Mutex<HashMap<Bytes, Arc<OpenRequest>>>,
    asked: Mutex<HashMap<u64, Asked>>,
    last_asked: AtomicU64,
    /// An upstream lists something else than before.
    lists_changed: Notify,
}

/// What is known since `initialize`.
struct Client {
    caller: Arc<Caller>,
    revision: Revision,
    aggregator: Arc<Aggregator>,
}

/// A request of the client that has no answer yet.
#[derive(Debug, Default)]
pub struct OpenRequest {
    cancel: Notify,
    sent: OnceLock<(Arc<Connection>, u64)>,
}

impl OpenRequest {
    /// Waits until the client withdraws the request.
    pub async fn cancelled(&self) {
        self.cancel.notified().await;
    }

    /// Notes where the request went.
    pub fn sent(&self, connection: &Arc<Connection>, id: u64) {
        let _ = self.sent.set((Arc::clone(connection), id));
    }
}

/// A request of an upstream that the client has not answered yet.
struct Asked {
    connection: Arc<Connection>,
    /// The upstream's id, as raw JSON.
    id: Bytes,
    /// The upstream's progress token, as raw JSON.
    progress_token: Option<Bytes>,
}

/// Where the answer to a request goes.
#[derive(Clone)]
enum ReplyTo {
    /// On a line of its own.
    Line,
    /// Into the answer to a batch.
    Batch(Arc<Batch>),
}

/// Answers to a batch (2025-03-26 only), sent when the last one is there.
struct Batch {
    /// Requests without an answer, and the answers.
    state: Mutex<(usize, Vec<Bytes>)>,
}

impl Session {
    /// Returns a session whose messages to the client leave through `outbox`.
    pub fn new(setup: Setup, outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Self {
            setup,
            outbox,
            tasks: TaskTracker::new(),
            calls: TaskTracker::new(),
            client: OnceLock::new(),
            client_ready: watch::Sender::new(false),
            open: Mutex::default(),
            asked: Mutex::default(),
            last_asked: AtomicU64::new(0),
            lists_changed: Notify::new(),
        })
    }

    /// Takes one line from the client.
    pub fn line(self: &Arc<Self>, line: Line) {
        let (error, line) = match line {
            Line::Text(line) => match Message::parse(line.clone()) {
                Ok(message) => return self.message(message, ReplyTo::Line),
                Err(MessageError::Batch) if self.takes_batches() => return self.batch(&line),
                Err(error) => (error, line),
            },
            Line::TooLong { head } => {
                (MessageError::Envelope("the message is longer than 64 MiB"), head)
            }
        };
        let id = mcp::recover_id(&line);
        tracing::warn!(%error, "the client sent something that is no message");
        self.send(&[mcp::error_line(id.as_deref(), &reply::message_error(&error)).into()]);
    }

    fn takes_batches(&self) -> bool {
        self.client.get().is_some_and(|client| client.revision == Revision::V2025_03_26)
    }

    /// Takes a batch. Its text is valid JSON.
    fn batch(self: &Arc<Self>, line: &Bytes) {
        let messages: Vec<_> =
            json::elements(line).map(|range| Message::parse(line.slice(range))).collect();
        let answers = |message: &Result<Message, _>| {
            !message.as_ref().is_ok_and(|m| m.kind() != Kind::Request)
        };
        let expected = messages.iter().filter(|message| answers(message)).count();
        if messages.is_empty() {
            let error = reply::invalid_request("the batch is empty");
            return self.send(&[mcp::error_line(None, &error).into()]);
        }
        let batch = Arc::new(Batch { state: Mutex::new((expected, Vec::new())) });
        for message in messages {
            match message {
                Ok(message) => self.message(message, ReplyTo::Batch(Arc::clone(&batch))),
                Err(error) => {
                    let line = mcp::error_line(None, &reply::message_error(&error));
                    self.reply(&ReplyTo::Batch(Arc::clone(&batch)), &[line.into()]);
                }
            }
        }
    }

    fn message(self: &Arc<Self>, message: Message, reply_to: ReplyTo) {
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
            ("ping", _) => return self.reply(&reply_to, &[mcp::result_line(&id, b"{}").into()]),
            ("initialize", None) => return self.initialize(&message, &id, &reply_to),
            ("initialize", Some(_)) => {
                reply::invalid_request("this session is initialized already")
            }
            ("server/discover", _) => {
                let unknown = CallError::Unknown { kind: "method", name: method.into_owned() };
                reply::call_error(&unknown)
            }
            (_, None) => reply::invalid_request("the first request must be `initialize`"),
            (_, Some(_)) => {
                // A client that forgets `notifications/initialized` shows by this that it is ready.
                self.client_is_ready();
                match self.open_request(&id) {
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

    fn open_request(&self, id: &Bytes) -> Result<Arc<OpenRequest>, Bytes> {
        let mut open = lock(&self.open);
        if open.len() >= OPEN_MAX {
            return Err(reply::call_error(&CallError::Busy { limit: OPEN_MAX }));
        }
        if open.contains_key(id) {
            return Err(reply::invalid_request("a request with this id is open already"));
        }
        let request = Arc::new(OpenRequest::default());
        // Copied: the id must not keep the buffer of its line alive.
        open.insert(Bytes::copy_from_slice(id), Arc::clone(&request));
        Ok(request)
    }

    /// Answers `initialize` from what is remembered, and starts the upstreams.
    fn initialize(self: &Arc<Self>, message: &Message, id: &Bytes, reply_to: &ReplyTo) {
        let params = Bytes::copy_from_slice(&message.body());
        let text = |path: &[&str]| {
            let range = json::at_path(&params, path)?;
            json::string(&params[range]).map(std::borrow::Cow::into_owned)
        };
        let Some(asked) = text(&["protocolVersion"]) else {
            let error = CallError::InvalidParams {
                reason: "expected a string `protocolVersion`".to_owned(),
            };
            return self
                .reply(reply_to, &[mcp::error_line(Some(id), &reply::call_error(&error)).into()]);
        };
        let revision = Revision::negotiate(&asked);
        let name = text(&["clientInfo", "name"]).unwrap_or_else(|| "unknown".to_owned());
        let version = text(&["clientInfo", "version"]).unwrap_or_default();
        let principal = if version.is_empty() { name } else { format!("{name}/{version}") };
        let caller = Arc::new(Caller {
            principal: principal
                .chars()
                .filter(|char| !char.is_control())
                .take(200)
                .collect::<String>()
                .into(),
            session_id: uuid::Uuid::now_v7().to_string().into(),
            protocol_version: revision.as_str().into(),
        });
        if let Some(exporter) = &self.setup.exporter {
            let protocol_version = Arc::clone(&caller.protocol_version);
            exporter.session(telemetry::Session {
                id: Arc::clone(&caller.session_id),
                protocol_version,
            });
        }
        let surroundings = Arc::new(Surroundings {
            caller: Arc::clone(&caller),
            initialize: params.clone(),
            revision,
            client_ready: self.client_ready.subscribe(),
            starts: Semaphore::new(STARTS_MAX),
            guard: Arc::clone(&self.setup.guard),
            store: Arc::clone(&self.setup.store),
            redactor: self.setup.redactor.clone(),
            shutdown: self.setup.shutdown.clone(),
            call_timeout: self.setup.call_timeout,
            rush: Arc::clone(&self.setup.rush),
        });
        let new_upstream = |(name, program): &(Arc<str>, Program)| {
            Arc::new(Upstream::new(Arc::clone(name), program.clone(), Arc::clone(&surroundings)))
        };
        let upstreams: Vec<_> = self.setup.programs.iter().map(new_upstream).collect();
        let (capabilities, instructions) = merge(&upstreams);
        let aggregator =
            Arc::new(Aggregator::new(upstreams, surroundings, &self.setup.server_name));
        let instructions =
            instructions.map_or_else(String::new, |text| format!(r#","instructions":{text}"#));
        let result = format!(
            r#"{{"protocolVersion":"{}","capabilities":{capabilities},"serverInfo":{{"name":{},"title":"Ultra","version":"{}"}}{instructions}}}"#,
            revision.as_str(),
            json::quote(&self.setup.server_name),
            env!("CARGO_PKG_VERSION"),
        );
        self.reply(reply_to, &[mcp::result_line(id, result.as_bytes()).into()]);
        tracing::info!(principal = %caller.principal, revision = revision.as_str(), "client `{}` connected", caller.principal);
        let upstreams = aggregator.upstreams().to_vec();
        let _ = self.client.set(Client { caller, revision, aggregator });
        self.tasks.spawn(Arc::clone(self).announce());
        for upstream in upstreams {
            let listener: Arc<dyn Listener> = Arc::<Self>::clone(self);
            self.tasks.spawn(upstream.run(listener));
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
        let (exchange, answer) = self.setup.gateway.handle(call, exchange).await;
        lock(&self.open).remove(&id);
        match &exchange.outcome {
            // Whoever withdraws a request expects no answer (2025-11-25, basic/utilities/cancellation).
            Some(Outcome::Failed(CallError::Cancelled)) if matches!(reply_to, ReplyTo::Line) => {}
            Some(outcome) => self.reply(&reply_to, &answer_line(&id, outcome, answer.as_ref())),
            None => {}
        }
    }

    fn notification(self: &Arc<Self>, message: &Message) {
        let Some(client) = self.client.get() else { return };
        match &*message.method() {
            "notifications/initialized" => self.client_is_ready(),
            "notifications/cancelled" => self.cancel(message),
            "notifications/progress" => self.progress(message),
            "notifications/roots/list_changed" => {
                for upstream in client.aggregator.upstreams() {
                    send_if_ready(upstream, message);
                }
            }
            // Whom another one is for cannot be told, unless there is only one.
            _ => {
                if let [upstream] = client.aggregator.upstreams() {
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
        if let Some((connection, id)) = request.sent.get()
            && connection.forget(*id)
            && let Some(range) = json::member(&message.body(), "requestId")
        {
            let params = json::splice(&message.body(), &[(range, id.to_string().into())]);
            connection.send(&message.with(None, Some(&params.into())));
        }
        request.cancel.notify_one();
    }

    /// Passes on how far the client is with something an upstream asked of it.
    fn progress(&self, message: &Message) {
        let Some(token) = message.body_member("progressToken").and_then(number) else { return };
        let asked = lock(&self.asked);
        let Some(Asked { connection, progress_token: Some(theirs), .. }) = asked.get(&token) else {
            return;
        };
        if let Some(range) = json::member(&message.body(), "progressToken") {
            let params = json::splice(&message.body(), &[(range, theirs.clone())]);
            connection.send(&message.with(None, Some(&params.into())));
        }
    }

    /// Passes on the client's answer to something an upstream asked.
    fn answer(&self, message: &Message) {
        let asked = message.id_number().and_then(|id| lock(&self.asked).remove(&id));
        let Some(asked) = asked else {
            tracing::debug!("the client answered something that nobody asked");
            return;
        };
        asked.connection.asked();
        asked.connection.send(&message.with(Some(&asked.id), None));
    }

    /// Asks the client on behalf of an upstream.
    fn ask(&self, connection: &Arc<Connection>, message: &Message) {
        let id = self.last_asked.fetch_add(1, Ordering::Relaxed) + 1;
        let theirs = message.id().unwrap_or_default();
        let params = message.body();
        let token = json::at_path(&params, &["_meta", "progressToken"]);
        let asked = Asked {
            connection: Arc::clone(connection),
            id: Bytes::copy_from_slice(&theirs),
            progress_token: token.clone().map(|range| Bytes::copy_from_slice(&params[range])),
        };
        {
            let mut all = lock(&self.asked);
            if all.len() >= ASKED_MAX {
                let error = reply::call_error(&CallError::Busy { limit: ASKED_MAX });
                return connection.send(&[mcp::error_line(Some(&theirs), &error).into()]);
            }
            all.insert(id, asked);
        }
        connection.asks();
        let id = Bytes::from(id.to_string());
        let params = token.map(|range| Bytes::from(json::splice(&params, &[(range, id.clone())])));
        self.send(&message.with(Some(&id), params.as_ref()));
    }

    /// Tells the client that an upstream withdrew what it asked, or that it is gone.
    fn withdraw(&self, which: impl Fn(&Asked) -> bool, params: impl Fn(u64) -> Vec<u8>) {
        let ids: Vec<_> = {
            let mut asked = lock(&self.asked);
            asked
                .extract_if(|_, asked| which(asked))
                .map(|(id, asked)| (id, asked.connection))
                .collect()
        };
        for (id, connection) in ids {
            connection.asked();
            self.send(&[mcp::notification_line("notifications/cancelled", &params(id)).into()]);
        }
    }

    fn upstream_notification(
        &self,
        upstream: &Upstream,
        connection: &Arc<Connection>,
        message: &Message,
    ) {
        match &*message.method() {
            "notifications/tools/list_changed" => upstream.stale(&[ListKind::Tools]),
            "notifications/prompts/list_changed" => upstream.stale(&[ListKind::Prompts]),
            "notifications/resources/list_changed" => {
                upstream.stale(&[ListKind::Resources, ListKind::Templates])
            }
            "notifications/progress" => {
                let token = message
                    .body_member("progressToken")
                    .and_then(|token| connection.progress(token));
                if let (Some(token), Some(range)) =
                    (token, json::member(&message.body(), "progressToken"))
                {
                    let params = json::splice(&message.body(), &[(range, token)]);
                    self.send(&message.with(None, Some(&params.into())));
                }
            }
            "notifications/cancelled" => {
                let Some(theirs) = message.body_member("requestId") else { return };
                let body = message.body();
                let Some(range) = json::member(&body, "requestId") else { return };
                self.withdraw(
                    |asked| asked.id == theirs && Arc::ptr_eq(&asked.connection, connection),
                    |id| json::splice(&body, &[(range.clone(), id.to_string().into())]),
                );
            }
            _ => self.send(&message.with(None, None)),
        }
    }

    fn client_is_ready(&self) {
        self.client_ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    /// Announces changed lists, once for all changes that come together.
    async fn announce(self: Arc<Self>) {
        let Some(client) = self.client.get() else { return };
        let changes = async {
            let _ = self.client_ready.subscribe().wait_for(|ready| *ready).await;
            loop {
                self.lists_changed.notified().await;
                tokio::time::sleep(ANNOUNCE_DEBOUNCE).await;
                for method in list_changed(&client.aggregator.announce()) {
                    self.send(&[mcp::notification_line(method, b"").into()]);
                }
            }
        };
        let _: Option<()> = self.setup.shutdown.run_until_cancelled(changes).await;
    }

    fn reply(&self, to: &ReplyTo, line: &[Bytes]) {
        let ReplyTo::Batch(batch) = to else { return self.send(line) };
        let all = {
            let mut state = lock(&batch.state);
            state.1.push(line.concat().trim_ascii_end().to_vec().into());
            (state.1.len() == state.0).then(|| std::mem::take(&mut state.1))
        };
        if let Some(answers) = all {
            let mut line = Vec::new();
            crate::upstream::push_array(&mut line, answers.iter());
            line.push(b'\n');
            self.send(&[line.into()]);
        }
    }

    fn send(&self, line: &[Bytes]) {
        if self.outbox.push(line).is_err() {
            // Closed: the session is ending. Full: a client that does not read 64 MiB is gone.
            self.setup.shutdown.cancel();
        }
    }

    /// Waits for the open calls, at most `grace`, and then for the upstreams to end.
    pub async fn end(&self, grace: Duration) {
        self.calls.close();
        let _ = tokio::time::timeout(grace, self.calls.wait()).await;
        self.setup.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Listener for Session {
    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn message(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>, message: Message) {
        match message.kind() {
            Kind::Request if message.method() == "ping" => {
                connection
                    .send(&[mcp::result_line(&message.id().unwrap_or_default(), b"{}").into()]);
            }
            Kind::Request => self.ask(connection, &message),
            Kind::Notification => self.upstream_notification(upstream, connection, &message),
            Kind::Response => {}
        }
    }

    fn ready(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>) {
        if let Some(client) = self.client.get() {
            client.aggregator.catch_up(upstream, connection);
        }
    }

    fn listing_changed(&self, _upstream: &Arc<Upstream>) {
        let Some(client) = self.client.get() else { return };
        client.aggregator.listing_changed();
        self.lists_changed.notify_one();
    }

    fn connection_lost(&self, connection: &Arc<Connection>) {
        self.withdraw(
            |asked| Arc::ptr_eq(&asked.connection, connection),
            |id| format!(r#"{{"requestId":{id},"reason":"the server is gone"}}"#).into_bytes(),
        );
    }
}

fn exchange(client: &Client, message: &Message) -> Box<Exchange> {
    let method = message.method();
    let params = message.body();
    let traceparent = message.body_member("_meta").and_then(|meta| {
        json::member(meta, "traceparent").map(|range| Bytes::copy_from_slice(&meta[range]))
    });
    Box::new(Exchange {
        caller: Arc::clone(&client.caller),
        operation: Operation::of_method(&method),
        method: method.into(),
        upstream: None,
        name: None,
        transport: None,
        params,
        params_edited: false,
        traceparent,
        span: SpanContext::root(),
        started: Instant::now(),
        started_unix_ns: unix_ns(),
        outcome: None,
        answered: false,
        kept: Vec::new(),
        stage: 0,
        audit: None,
        traced: false,
    })
}

/// Returns the line that answers a request: the upstream's own but for the id, where it is the
/// upstream's answer.
fn answer_line(id: &Bytes, outcome: &Outcome, answer: Option<&Message>) -> Vec<Bytes> {
    let (json, is_error) = match outcome {
        Outcome::Result { json, .. } => (json.clone(), false),
        Outcome::Rpc { json } => (json.clone(), true),
        Outcome::Failed(error) => (reply::call_error(error), true),
    };
    if let Some(answer) = answer.filter(|answer| answer.is_error() == is_error) {
        let body = answer.body();
        let same = body.as_ptr() == json.as_ptr() && body.len() == json.len();
        return answer.with(Some(id), (!same).then_some(&json));
    }
    let mut head = Vec::with_capacity(id.len() + 32);
    head.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    head.extend_from_slice(id);
    head.extend_from_slice(if is_error { b",\"error\":" } else { b",\"result\":" });
    vec![head.into(), json, Bytes::from_static(b"}\n")]
}

/// Returns the notifications that announce these lists.
fn list_changed(kinds: &[ListKind]) -> Vec<&'static str> {
    let mut methods: Vec<_> = kinds
        .iter()
        .map(|kind| match kind {
            ListKind::Tools => "notifications/tools/list_changed",
            ListKind::Prompts => "notifications/prompts/list_changed",
            ListKind::Resources | ListKind::Templates => "notifications/resources/list_changed",
        })
        .collect();
    methods.dedup();
    methods
}

fn send_if_ready(upstream: &Arc<Upstream>, message: &Message) {
    if let crate::upstream::State::Ready(connection) = upstream.state() {
        connection.send(&message.with(None, None));
    }
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}
