//! One client and the upstreams it uses: what it said of itself, what it asked, what it was asked.
//!
//! In the legacy era that is a session, from `initialize` on. In the modern era, where nothing is
//! negotiated, it is what requests that say the same of their sender have in common.

mod asked;
mod requests;
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

use super::channel::{Channel, ReplyTo};
use super::listening::Listening;
use super::open::OpenRequest;
use super::reply;
use crate::aggregator::{Aggregator, Introduction, Naming, merge};
use crate::bridge;
use crate::gateway::Gateway;
use crate::hub::{Activity, Clients};
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::mcp::{self, Era, Message, Revision, json};
use crate::pipeline::{CallError, Caller, Outcome};
use crate::rush::Rush;
use crate::telemetry::{self, Exporter};
use crate::upstream::{Definition, Guard, Pool, Surroundings};
use crate::wire::NotQueued;
use asked::Asked;

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
    /// Learns of clients.
    pub(crate) clients: Arc<Clients>,
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
    activity: Activity,
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
        let (name, version) = name_and_version(params);
        let activity = self.setup.clients.enter(&name, &version);
        Client { caller, revision, aggregator, activity }
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
    let (name, version) = name_and_version(params);
    let principal = if version.is_empty() { name } else { format!("{name}/{version}") };
    let principal = principal.chars().filter(|char| !char.is_control()).take(200);
    Arc::new(Caller {
        principal: principal.collect::<String>().into(),
        subject: subject.cloned(),
        session_id: uuid::Uuid::now_v7().to_string().into(),
        protocol_version: revision.as_str().into(),
    })
}

fn name_and_version(params: &[u8]) -> (String, String) {
    let name = text(params, &["clientInfo", "name"]).unwrap_or_else(|| "unknown".to_owned());
    (name, text(params, &["clientInfo", "version"]).unwrap_or_default())
}

fn text(json: &[u8], path: &[&str]) -> Option<String> {
    let range = json::at_path(json, path)?;
    json::string(&json[range]).map(std::borrow::Cow::into_owned)
}
