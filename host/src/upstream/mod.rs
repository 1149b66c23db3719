//! An upstream: the handle that everything else sees, and the task that keeps its server running.

mod connection;
mod guard;
mod listing;
mod process;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use ultra_store::{Redactor, Store, UpstreamStatus};

pub use connection::{Connection, Patience};
pub use guard::{COMMAND as GUARD_COMMAND, Guard, run as run_guard};
pub use listing::{ListKind, Listing, push_array};
pub use process::{Program, StderrTail};

use crate::audit::{self, Event};
use crate::mcp::{self, Kind, Message, MessageError, Revision, json};
use crate::pipeline::Caller;
use crate::rush::Rush;
use crate::wire::{Line, LineReader, Outbox};
use process::{Pipes, Process};

/// A server may take this long to answer `initialize`: `npx` and `uvx` may have to install it first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// And this long for each page of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Changes that a server announces within this time are looked at once.
const LIST_DEBOUNCE: Duration = Duration::from_millis(100);

/// A server that ran this long before it ended is started again at once.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Pause after a first failure; doubles up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(500);

/// A pause up to this long is waited for by the calls that meet it.
const SOON: Duration = Duration::from_secs(1);

/// See [`BACK_OFF_MIN`].
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// What a server wrote before it exited is read for at most this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why an upstream gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// Gone before the call was sent, or not there yet. Safe to retry.
    #[error("upstream `{upstream}` is not running: {reason}")]
    Closed {
        /// Name in the config.
        upstream: String,
        /// Why.
        reason: String,
    },
    /// Gone while the call was open. The tool may have run: never retry.
    #[error("upstream `{upstream}` ended during the call: {reason}")]
    Lost {
        /// Name in the config.
        upstream: String,
        /// Why.
        reason: String,
    },
    /// No answer in time. The tool may have run: never retry.
    #[error("upstream `{upstream}` gave no answer within {} s", limit.as_secs())]
    Deadline {
        /// Name in the config.
        upstream: String,
        /// The limit.
        limit: Duration,
    },
    /// What came back is not a response.
    #[error("upstream `{upstream}` sent an invalid message: {reason}")]
    Invalid {
        /// Name in the config.
        upstream: String,
        /// What is wrong.
        reason: String,
    },
    /// It answered a request of ours with an error.
    #[error("upstream `{upstream}` refused `{method}`: {error}")]
    Refused {
        /// Name in the config.
        upstream: String,
        /// The method.
        method: String,
        /// The error object, as raw JSON.
        error: String,
    },
}

/// What an upstream tells whoever uses it.
pub trait Listener: Send + Sync {
    /// Returns where its messages end up. It is not read while that is full.
    fn outbox(&self) -> &Outbox;

    /// Takes a request or a notification.
    fn message(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>, message: Message);

    /// Learns that a server has just begun to take calls.
    fn ready(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>);

    /// Learns that the upstream lists something else than before.
    fn listing_changed(&self, upstream: &Arc<Upstream>);

    /// Learns that a connection is gone, with all that was asked over it.
    fn connection_lost(&self, connection: &Arc<Connection>);
}

/// Where an upstream stands.
#[derive(Debug, Clone)]
pub enum State {
    /// Its server is being started.
    Starting,
    /// It takes calls.
    Ready(Arc<Connection>),
    /// It could not be started or has ended, and is tried again later.
    Waiting {
        /// Why.
        reason: Arc<str>,
    },
    /// The gateway is ending.
    Stopped,
}

/// What all upstreams of a session share.
pub struct Surroundings {
    /// Whose session it is.
    pub caller: Arc<Caller>,
    /// The client's `initialize` params, as raw JSON: the upstream sees the caller's capabilities.
    pub initialize: Bytes,
    /// The revision negotiated with the client; each upstream negotiates its own from there.
    pub revision: Revision,
    /// True once the client sent `notifications/initialized`: before, a server must not ask it anything.
    pub client_ready: watch::Receiver<bool>,
    /// Bounds how many servers start at the same time.
    pub starts: Semaphore,
    /// Ends what this process leaves behind.
    pub guard: Arc<Guard>,
    /// Keeps states and catalogs.
    pub store: Arc<dyn Store>,
    /// Takes secrets out of what servers write to stderr.
    pub redactor: Redactor,
    /// Ends the upstreams.
    pub shutdown: CancellationToken,
    /// A call without progress is given up after this long.
    pub call_timeout: Duration,
    /// Learns how lines come.
    pub rush: Arc<Rush>,
}

/// An MCP server behind the gateway, for one session.
pub struct Upstream {
    /// Its name in the config.
    pub name: Arc<str>,
    /// How it is reached.
    pub transport: &'static str,
    program: Program,
    /// What its remembered catalog depends on besides its name.
    fingerprint: String,
    state: watch::Sender<State>,
    listing: watch::Sender<Option<Arc<Listing>>>,
    stderr: Arc<StderrTail>,
    /// Lists the server announced a change of, and a bell for whoever looks.
    stale: Mutex<Vec<ListKind>>,
    went_stale: Notify,
    surroundings: Arc<Surroundings>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Returns a handle on an upstream that is not started yet, with the listing remembered of it.
    pub fn new(name: Arc<str>, program: Program, surroundings: Arc<Surroundings>) -> Self {
        let fingerprint = fingerprint(&program, &surroundings);
        let remembered = match surroundings.store.catalog(&name, &fingerprint) {
            Ok(remembered) => remembered.as_ref().and_then(Listing::from_json).map(Arc::new),
            Err(error) => {
                tracing::warn!(upstream = %name, %error, "the remembered catalog cannot be read");
                None
            }
        };
        Self {
            name,
            transport: "stdio",
            program,
            fingerprint,
            state: watch::Sender::new(State::Starting),
            listing: watch::Sender::new(remembered),
            stderr: Arc::new(StderrTail::new(surroundings.redactor.clone())),
            stale: Mutex::default(),
            went_stale: Notify::new(),
            surroundings,
        }
    }

    /// Returns where it stands.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Returns what it lists, or listed when it last ran.
    pub fn listing(&self) -> Option<Arc<Listing>> {
        self.listing.borrow().clone()
    }

    /// Returns the last lines it wrote to stderr.
    pub fn stderr(&self, lines: usize) -> String {
        self.stderr.last(lines)
    }

    /// Waits until it has a listing, or has none because it cannot be started.
    pub async fn listed(&self) {
        let mut listing = self.listing.subscribe();
        let mut state = self.state.subscribe();
        tokio::select! {
            _ = listing.wait_for(Option::is_some) => {}
            _ = state.wait_for(|state| matches!(state, State::Waiting { .. } | State::Stopped)) => {}
        }
    }

    /// Returns the connection, waiting while the server is being started.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Closed`] if it is down.
    pub async fn connection(&self) -> Result<Arc<Connection>, UpstreamError> {
        if let State::Ready(connection) = &*self.state.borrow() {
            return Ok(Arc::clone(connection));
        }
        let closed = |reason: &str| UpstreamError::Closed {
            upstream: self.name.to_string(),
            reason: reason.into(),
        };
        let mut state = self.state.subscribe();
        let decided =
            timeout(START_TIMEOUT, state.wait_for(|state| !matches!(state, State::Starting))).await;
        match decided.map(|decided| decided.map(|state| state.clone())) {
            Ok(Ok(State::Ready(connection))) => Ok(connection),
            Ok(Ok(State::Waiting { reason })) => Err(closed(&reason)),
            Ok(Ok(State::Starting)) | Err(_) => Err(closed("it is still starting")),
            Ok(Ok(State::Stopped) | Err(_)) => Err(closed(ENDING)),
        }
    }

    /// Notes that a list must be looked at again.
    pub fn stale(&self, kinds: &[ListKind]) {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).extend(kinds);
        self.went_stale.notify_one();
    }

    /// Keeps the server running until the gateway ends.
    pub async fn run(self: Arc<Self>, listener: Arc<dyn Listener>) {
        let shutdown = self.surroundings.shutdown.clone();
        let mut failures = 0;
        let mut was_ready = false;
        let mut last_failure = None;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            let (reason, ready) = self.run_once(&listener).await;
            was_ready |= ready;
            if ready {
                last_failure = None;
            }
            if shutdown.is_cancelled() {
                break;
            }
            if started.elapsed() >= STABLE_AFTER {
                failures = 0;
            }
            let pause = if ready && failures == 0 { Duration::ZERO } else { back_off(failures) };
            failures += 1;
            tracing::warn!(
                upstream = %self.name, retry_ms = pause.as_millis() as u64,
                "upstream `{}` is down: {reason}{}", self.name, self.last_words()
            );
            // A caller waits for a server that ran and is soon back; for another one, nobody waits.
            let soon = was_ready && pause <= SOON;
            self.report(if soon { "starting" } else { "waiting" }, Some(&reason));
            if ready {
                self.audit(Event::UpstreamDisconnect, Some(&reason));
            }
            if !soon {
                self.enter(State::Waiting { reason: reason.as_str().into() });
            }
            last_failure = Some(reason);
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
            self.enter(State::Starting);
        }
        self.enter(State::Stopped);
        self.report("stopped", last_failure.as_deref());
        if was_ready {
            self.audit(Event::UpstreamDisconnect, None);
        }
    }

    /// Starts the server and serves it until it ends. Returns why it did, and whether it took calls.
    async fn run_once(self: &Arc<Self>, listener: &Arc<dyn Listener>) -> (String, bool) {
        let shutdown = self.surroundings.shutdown.clone();
        let permit = tokio::select! {
            permit = self.surroundings.starts.acquire() => permit,
            () = shutdown.cancelled() => return (ENDING.to_owned(), false),
        };
        let started =
            Process::start(&self.program, &self.surroundings.guard, &self.stderr, &self.name);
        let (mut process, Pipes { stdin, stdout }) = match started {
            Ok(started) => started,
            Err(error) => {
                return (format!("`{}` cannot be started: {error}", self.program.command), false);
            }
        };
        let outbox = Arc::new(Outbox::default());
        let connection = Arc::new(Connection::new(Arc::clone(&self.name), Arc::clone(&outbox)));
        tracing::debug!(upstream = %self.name, pid = process.id(), "upstream `{}` started", self.name);

        let writing = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move {
                let _ = outbox.write_to(stdin).await;
            }
        });
        let mut lines = LineReader::new(stdout);
        let reason = {
            let reading = self.read(&mut lines, &connection, listener);
            let keeping = self.keep(&connection, listener, permit);
            tokio::pin!(reading, keeping);
            tokio::select! {
                reason = &mut reading => reason,
                reason = &mut keeping => reason,
                () = shutdown.cancelled() => ENDING.to_owned(),
                reason = process.exited() => {
                    let _ = timeout(LAST_WORDS, &mut reading).await;
                    reason
                }
            }
        };
        connection.lose(&reason);
        listener.connection_lost(&connection);
        let was_ready = matches!(self.state.send_replace(State::Starting), State::Ready(_));
        // Closing the outbox lets the writer drop the server's stdin.
        let _ = timeout(LAST_WORDS, writing).await;
        let ending = process.end().await;
        (if reason == OUTPUT_ENDED { ending } else { reason }, was_ready)
    }

    /// Reads what the server says until its output ends. Returns why it did.
    async fn read(
        self: &Arc<Self>,
        lines: &mut LineReader<tokio::process::ChildStdout>,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
    ) -> String {
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return OUTPUT_ENDED.to_owned(),
                Err(error) => return format!("its output cannot be read: {error}"),
            };
            self.surroundings.rush.line();
            let message = match line {
                Line::Text(line) => Message::parse(line.clone()).map_err(|error| (error, line)),
                Line::TooLong { head } => Err((TOO_LONG, head)),
            };
            match message {
                Ok(message) => self.take(message, connection, listener),
                // Servers of 2025-03-26 may send batches. The text is valid JSON.
                Err((MessageError::Batch, line)) => {
                    for range in json::elements(&line) {
                        match Message::parse(line.slice(range.clone())) {
                            Ok(message) => self.take(message, connection, listener),
                            Err(error) => self.unreadable(connection, &error, &line[range]),
                        }
                    }
                }
                Err((error, line)) => self.unreadable(connection, &error, &line),
            }
            listener.outbox().drained().await;
        }
    }

    fn take(
        self: &Arc<Self>,
        message: Message,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
    ) {
        if message.kind() != Kind::Response {
            listener.message(self, connection, message);
        } else if !connection.answer(message) {
            tracing::debug!(upstream = %self.name, "an answer that nobody waits for");
        }
    }

    /// Deals with output that is no message. What a server logs to the wrong stream is passed over; a
    /// spoilt answer fails its call, and one too long to tell whose it is the oldest: it would wait in
    /// vain.
    fn unreadable(&self, connection: &Connection, error: &MessageError, line: &[u8]) {
        tracing::warn!(upstream = %self.name, %error, "upstream `{}` sent something that is no message", self.name);
        let id = mcp::recover_id(line).and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok());
        if id.is_some() || *error == TOO_LONG {
            connection.fail_one(id, &error.to_string());
        }
    }

    /// Shakes hands, and then keeps the listing current. Returns why it cannot.
    async fn keep(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
        permit: Result<tokio::sync::SemaphorePermit<'_>, tokio::sync::AcquireError>,
    ) -> String {
        let initialize = match self.initialize(connection).await {
            Ok(initialize) => initialize,
            Err(error) => return error.to_string(),
        };
        let mut ready = self.surroundings.client_ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            return "the client is gone".to_owned();
        }
        connection.send(&[mcp::notification_line("notifications/initialized", b"").into()]);
        self.enter(State::Ready(Arc::clone(connection)));
        listener.ready(self, connection);
        self.report("ready", None);
        self.audit(Event::UpstreamConnect, None);

        // What cannot be listed now stays as it was remembered.
        let mut listing =
            self.listing().map_or_else(Listing::default, |before| Listing::clone(&before));
        listing.initialize = initialize;
        let mut kinds = ListKind::ALL.to_vec();
        let mut permit = Some(permit);
        loop {
            for kind in std::mem::take(&mut kinds) {
                match self.list(connection, &listing, kind).await {
                    Ok(items) => listing.set(kind, items),
                    Err(error) => {
                        tracing::warn!(upstream = %self.name, %error, "`{}` failed", kind.method());
                    }
                }
            }
            permit.take();
            self.publish(&listing, listener);
            self.went_stale.notified().await;
            sleep(LIST_DEBOUNCE).await;
            kinds = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
            kinds.sort_unstable();
            kinds.dedup();
        }
    }

    async fn initialize(&self, connection: &Connection) -> Result<Bytes, UpstreamError> {
        let asked = self.surroundings.revision.as_str();
        let params = &self.surroundings.initialize;
        let params = match json::member(params, "protocolVersion") {
            Some(range) => json::splice(params, &[(range, format!("\"{asked}\"").into())]),
            None => params.to_vec(),
        };
        let patience = Patience { timeout: START_TIMEOUT, cancels: false };
        let result = self.ask(connection, patience, "initialize", &params).await?;
        let answered =
            json::member(&result, "protocolVersion").and_then(|range| json::string(&result[range]));
        match answered.as_deref().and_then(Revision::parse) {
            Some(revision) if revision.era() == mcp::Era::Legacy => {
                Ok(Bytes::copy_from_slice(&result))
            }
            _ => Err(UpstreamError::Invalid {
                upstream: self.name.to_string(),
                reason: format!(
                    "it answers with protocol revision `{}`",
                    answered.unwrap_or_default()
                ),
            }),
        }
    }

    async fn list(
        &self,
        connection: &Connection,
        listing: &Listing,
        kind: ListKind,
    ) -> Result<Vec<Bytes>, UpstreamError> {
        if listing.capability(kind.capability()).is_none() {
            return Ok(Vec::new());
        }
        let patience = Patience { timeout: LIST_TIMEOUT, cancels: true };
        let pages = listing::gather(&self.name, kind, |cursor| async move {
            let params = cursor
                .map_or_else(Vec::new, |cursor| [b"{\"cursor\":", &cursor[..], b"}"].concat());
            self.ask(connection, patience, kind.method(), &params).await
        });
        match pages.await {
            // Servers with resources but no templates often do not know the method.
            Err(UpstreamError::Refused { error, .. })
                if kind == ListKind::Templates && error.contains("-32601") =>
            {
                Ok(Vec::new())
            }
            items => items,
        }
    }

    /// Sends a request of our own and returns its result.
    pub async fn ask(
        &self,
        connection: &Connection,
        patience: Patience,
        method: &str,
        params: &[u8],
    ) -> Result<Bytes, UpstreamError> {
        let answer = connection
            .call(patience, None, |id| vec![mcp::request_line(id, method, params).into()], |_| {})
            .await?;
        if answer.is_error() {
            return Err(UpstreamError::Refused {
                upstream: self.name.to_string(),
                method: method.to_owned(),
                error: String::from_utf8_lossy(&answer.body()).into_owned(),
            });
        }
        Ok(answer.body())
    }

    fn publish(self: &Arc<Self>, listing: &Listing, listener: &Arc<dyn Listener>) {
        let changed = self.listing().is_none_or(|before| *before != *listing);
        if changed {
            self.surroundings.store.remember_catalog(
                &self.name,
                &self.fingerprint,
                listing.to_json(),
            );
            self.listing.send_replace(Some(Arc::new(listing.clone())));
            listener.listing_changed(self);
        }
        self.report("ready", None);
    }

    fn audit(&self, event: Event, reason: Option<&str>) {
        let Surroundings { store, caller, .. } = &*self.surroundings;
        audit::record_upstream(store, event, caller, &self.name, reason);
    }

    fn enter(&self, state: State) {
        self.state.send_replace(state);
    }

    fn last_words(&self) -> String {
        match self.stderr.last(5) {
            words if words.is_empty() => String::new(),
            words => format!("; it wrote:\n{words}"),
        }
    }

    fn report(&self, state: &str, error: Option<&str>) {
        let listing = self.listing();
        let count = |kind| listing.as_ref().map_or(0, |listing| listing.items(kind).len() as u64);
        self.surroundings.store.upstream(UpstreamStatus {
            upstream: self.name.to_string(),
            gateway_pid: std::process::id(),
            state: state.to_owned(),
            server: listing.as_ref().and_then(|listing| listing.server()),
            tools: count(ListKind::Tools),
            resources: count(ListKind::Resources),
            prompts: count(ListKind::Prompts),
            error: error.map(str::to_owned),
            stderr: Some(self.stderr.last(20)).filter(|text| error.is_some() && !text.is_empty()),
            unix_ns: unix_ns(),
        });
    }
}

/// What a line is that was read and thrown away.
const TOO_LONG: MessageError = MessageError::Envelope("a message longer than 64 MiB");

/// Why upstreams end with the gateway.
const ENDING: &str = "the gateway is ending";

/// The server closed its stdout: what it exits with says more.
const OUTPUT_ENDED: &str = "its output ended";

/// Returns the pause after so many failures in a row before this one.
fn back_off(failures: u32) -> Duration {
    (BACK_OFF_MIN * 2u32.saturating_pow(failures)).min(BACK_OFF_MAX)
}

/// Returns nanoseconds since 1970 UTC.
pub fn unix_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Returns what a remembered catalog depends on: how the server is started, and what it is told of
/// the client (servers list other tools to clients that can do more).
fn fingerprint(program: &Program, surroundings: &Surroundings) -> String {
    use sha2::{Digest, Sha256};
    let capabilities = json::member(&surroundings.initialize, "capabilities")
        .map_or(&b""[..], |range| &surroundings.initialize[range]);
    // Not what it inherits: that differs from one terminal to the next, and the catalog does not.
    let Program { command, args, env, inherited: _, cwd } = program;
    let mut hash = Sha256::new();
    hash.update(format!("{command:?}{args:?}{env:?}{cwd:?}\0{}\0", surroundings.revision.as_str()));
    hash.update(capabilities);
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
