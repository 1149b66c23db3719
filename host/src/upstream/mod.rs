//! An upstream: the handle that everything else sees, and the task that keeps its server running.

mod connection;
mod guard;
mod handshake;
mod http;
mod keeper;
mod listing;
mod process;
mod shared;
mod stdio;
mod variants;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ::http::HeaderName;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ultra_store::{Redactor, Store};

pub use connection::{Connection, Origin, Patience, Sender};
pub use guard::{COMMAND as GUARD_COMMAND, Guard, run as run_guard};
pub use http::{Auth, Remote, Transport};
pub use listing::{ListKind, Listing, push_array};
pub use process::{Program, StderrTail};
pub use shared::{Pool, Wants};

use crate::lock;
use crate::mcp::{self, Era, Message, Revision, json};
use crate::pipeline::Caller;
use crate::rush::Rush;
use crate::wire::Outbox;
use handshake::START_TIMEOUT;
use http::{Mirror, SignedIn};
use keeper::ENDING;

/// So many servers are started at the same time. Most only wait for something while they start.
const STARTS_MAX: usize = 32;

/// An upstream that is to end looks so often whether its calls have.
const RETIRE_PERIOD: Duration = Duration::from_millis(100);

/// After somebody has signed in, it takes no longer than this until the server is tried again.
const TAKEN_UP_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// An HTTP server refused the message and gave no answer to it.
    #[error("upstream `{upstream}` answered with HTTP status {reason}")]
    Http {
        /// Name in the config.
        upstream: String,
        /// The status; 0 where there was none.
        status: u16,
        /// The status, and what it said.
        reason: String,
    },
    /// Somebody has to sign in first.
    #[error("upstream `{upstream}` wants you to sign in: open {url}")]
    SignIn {
        /// Name in the config.
        upstream: String,
        /// Where.
        url: String,
    },
    /// Somebody on the gateway's machine has to sign in first. Clients elsewhere are not told where.
    #[error(
        "upstream `{upstream}` wants somebody to sign in: run `ultra auth login {upstream}` on the gateway's machine"
    )]
    SignInElsewhere {
        /// Name in the config.
        upstream: String,
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

/// What a message of an upstream belongs to.
#[derive(Debug)]
pub enum Belongs {
    /// Nobody said.
    Unknown,
    /// To a request of our own.
    Ours,
    /// To a call.
    To(Arc<dyn Origin>),
}

/// What an upstream tells whoever uses it.
pub trait Listener: Send + Sync {
    /// Returns where its messages end up, if that is one place. It is not read while that is full.
    fn outbox(&self) -> Option<&Outbox>;

    /// Takes a request or a notification.
    fn message(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        message: Message,
        belongs: Belongs,
    );

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
    /// The gateway is ending, or has no use for it any more.
    Stopped,
}

/// What all upstreams of a session have in common; those of all sessions belong to the gateway's own.
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

/// An MCP server, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name in the config.
    pub name: Arc<str>,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// The era it is talked to in; found out if none.
    pub era: Option<Era>,
    /// One connection serves all sessions of the gateway.
    pub is_shared: bool,
    /// Clients are not told where to sign in. On another machine a user could begin there and let ours end it,
    /// so that everybody had their account.
    pub hides_sign_in: bool,
}

/// How an upstream is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Endpoint {
    /// A child process on stdio.
    Stdio(Program),
    /// A server behind HTTP.
    Http(Box<Remote>),
}

impl Endpoint {
    /// Returns how it is reached, as records name it.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Stdio(_) => "stdio",
            Self::Http(remote) if remote.transport == Transport::Sse => "sse",
            Self::Http(_) => "http",
        }
    }
}

/// An MCP server behind the gateway, for one session or for all of them.
pub struct Upstream {
    /// Its name in the config.
    pub name: Arc<str>,
    /// How it is reached.
    pub transport: &'static str,
    definition: Definition,
    /// What its remembered catalog depends on besides its name.
    fingerprint: String,
    state: watch::Sender<State>,
    listing: watch::Sender<Option<Arc<Listing>>>,
    stderr: Arc<StderrTail>,
    /// It wrote something that is no message before it took calls.
    spoke_text: AtomicBool,
    /// The program with arguments that were found out; the configured one if it took calls with those.
    variant: OnceLock<Program>,
    /// Lists the server announced a change of, and a bell for whoever looks.
    stale: Mutex<Vec<ListKind>>,
    went_stale: Notify,
    /// When somebody signed in, it is worth to try again.
    signed_in: Arc<SignedIn>,
    /// Which arguments of which tools go into HTTP headers.
    mirror: Arc<Mutex<Arc<Mirror>>>,
    /// What its sessions want to hear of, by their ids, and all of it together.
    wanted: Mutex<HashMap<Arc<str>, Wants>>,
    wants: watch::Sender<Wants>,
    /// Ends this upstream.
    ending: CancellationToken,
    /// Another one took its place.
    is_replaced: AtomicBool,
    surroundings: Arc<Surroundings>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Returns a handle on an upstream that is not started yet, with the listing remembered of it.
    pub fn new(definition: Definition, surroundings: Arc<Surroundings>) -> Self {
        let fingerprint = fingerprint(&definition, &surroundings);
        let name = Arc::clone(&definition.name);
        let remembered = match surroundings.store.catalog(&name, &fingerprint) {
            Ok(remembered) => remembered.as_ref().and_then(Listing::from_json).map(Arc::new),
            Err(error) => {
                tracing::warn!(upstream = %name, %error, "the remembered catalog cannot be read");
                None
            }
        };
        // Calls come before the first list does.
        let mut tools = remembered
            .as_ref()
            .map_or_else(Vec::new, |listing| listing.items(ListKind::Tools).to_vec());
        let mirror = Mirror::of(&name, &mut tools, false);
        Self {
            name,
            transport: definition.endpoint.transport(),
            definition,
            fingerprint,
            state: watch::Sender::new(State::Starting),
            listing: watch::Sender::new(remembered),
            stderr: Arc::new(StderrTail::new(surroundings.redactor.clone())),
            spoke_text: AtomicBool::new(false),
            variant: OnceLock::new(),
            stale: Mutex::default(),
            went_stale: Notify::new(),
            ending: surroundings.shutdown.child_token(),
            is_replaced: AtomicBool::new(false),
            signed_in: Arc::default(),
            mirror: Arc::new(Mutex::new(Arc::new(mirror))),
            wanted: Mutex::default(),
            wants: watch::Sender::default(),
            surroundings,
        }
    }

    /// Returns how it is configured.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Returns whether other sessions use it too.
    pub fn is_shared(&self) -> bool {
        self.definition.is_shared
    }

    /// Ends it when the calls that are open have their answers: it is not in the config any more, or
    /// another one took its place.
    pub async fn retire(&self, is_replaced: bool) {
        self.is_replaced.store(is_replaced, Ordering::Relaxed);
        while let State::Ready(connection) = self.state()
            && connection.open_calls() > 0
            && !self.ending.is_cancelled()
        {
            sleep(RETIRE_PERIOD).await;
        }
        self.ending.cancel();
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
            Ok(Ok(State::Waiting { reason })) => Err(match self.signed_in.awaited() {
                Some(url) => self.for_clients(UpstreamError::SignIn {
                    upstream: self.name.to_string(),
                    url: url.as_ref().to_owned(),
                }),
                None => closed(&reason),
            }),
            Ok(Ok(State::Starting)) | Err(_) => Err(closed("it is still starting")),
            Ok(Ok(State::Stopped) | Err(_)) => Err(closed(ENDING)),
        }
    }

    /// Returns an error as clients may know it.
    fn for_clients(&self, error: UpstreamError) -> UpstreamError {
        match error {
            UpstreamError::SignIn { upstream, .. } if self.definition.hides_sign_in => {
                UpstreamError::SignInElsewhere { upstream }
            }
            error => error,
        }
    }

    /// Returns why the server is gone, as clients may know it.
    fn reason_for_clients(&self, reason: String) -> String {
        let url = self.signed_in.awaited().filter(|_| self.definition.hides_sign_in);
        match url {
            Some(url) => without_url(reason, &url, &self.name),
            None => reason,
        }
    }

    /// Waits until somebody has signed in, or nobody can any more. Returns whether somebody has.
    pub async fn signed_in(&self) -> bool {
        let is_done = self.signed_in.ended().await;
        let mut state = self.state.subscribe();
        let taken_up = state.wait_for(|state| !matches!(state, State::Waiting { .. }));
        let _ = timeout(TAKEN_UP_TIMEOUT, taken_up).await;
        is_done
    }

    /// Notes that a list must be looked at again, if that is what a notification says.
    pub fn tells_of_change(&self, method: &str) -> bool {
        let kinds: &[_] = match method {
            "notifications/tools/list_changed" => &[ListKind::Tools],
            "notifications/prompts/list_changed" => &[ListKind::Prompts],
            "notifications/resources/list_changed" => &[ListKind::Resources, ListKind::Templates],
            _ => return false,
        };
        self.stale(kinds);
        true
    }

    /// Notes that a list must be looked at again.
    pub fn stale(&self, kinds: &[ListKind]) {
        lock(&self.stale).extend(kinds);
        self.went_stale.notify_one();
    }

    /// Returns the headers that go with a call over HTTP, and what each must say, if anything.
    pub fn mirrored(&self, message: &Message, tool: &str) -> Vec<(HeaderName, Option<String>)> {
        let mirror = Arc::clone(&lock(&self.mirror));
        mirror.of_call(message, tool)
    }

    /// Sends a request of our own and returns its result.
    pub async fn ask(
        &self,
        connection: &Connection,
        patience: Patience,
        method: &str,
        params: &[u8],
    ) -> Result<Bytes, UpstreamError> {
        let params = match connection.era() {
            Era::Legacy => Bytes::copy_from_slice(params),
            Era::Modern => self.surroundings.modern(params, None),
        };
        let compose = |id| vec![mcp::request_line(id, method, &params).into()];
        let answer = connection.call(patience, Sender::default(), compose, |_| {}).await?;
        if answer.is_error() {
            return Err(UpstreamError::Refused {
                upstream: self.name.to_string(),
                method: method.to_owned(),
                error: String::from_utf8_lossy(&answer.body()).into_owned(),
            });
        }
        Ok(answer.body())
    }
}

impl Surroundings {
    /// Returns what bounds how many servers start at the same time.
    pub fn starts() -> Semaphore {
        Semaphore::new(STARTS_MAX)
    }

    /// Returns params that say on whose behalf they are sent, as the modern era wants it.
    pub fn modern(&self, params: &[u8], log_level: Option<&[u8]>) -> Bytes {
        let member = |key| json::member(&self.initialize, key).map(|range| &self.initialize[range]);
        let capabilities = member("capabilities").unwrap_or(b"{}");
        mcp::modern::with_meta(params, capabilities, member("clientInfo"), log_level).into()
    }
}

/// Returns what a remembered catalog depends on: how the server is reached, and what it is told of
/// the client (servers list other tools to clients that can do more).
fn fingerprint(definition: &Definition, surroundings: &Surroundings) -> String {
    use sha2::{Digest, Sha256};
    let capabilities = json::member(&surroundings.initialize, "capabilities")
        .map_or(&b""[..], |range| &surroundings.initialize[range]);
    let mut hash = Sha256::new();
    match &definition.endpoint {
        // Not what it inherits: that differs from one terminal to the next, and the catalog does not.
        Endpoint::Stdio(Program { command, args, env, inherited: _, cwd }) => {
            hash.update(format!("{command:?}{args:?}{env:?}{cwd:?}"));
        }
        Endpoint::Http(remote) => {
            hash.update(format!("{}{:?}", remote.uri, remote.headers));
        }
    }
    hash.update(format!("\0{:?}{}\0", definition.era, surroundings.revision.as_str()));
    hash.update(capabilities);
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a reason that does not say where to sign in to an upstream. Some errors are known as texts only.
fn without_url(reason: String, url: &str, upstream: &str) -> String {
    if !reason.contains(url) {
        return reason;
    }
    UpstreamError::SignInElsewhere { upstream: upstream.to_owned() }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_says_where_to_sign_in_is_put_in_other_words() {
        let reason = |text: &str| without_url(text.to_owned(), "http://idp/?state=s", "up");

        let told =
            reason("HTTP status upstream `up` wants you to sign in: open http://idp/?state=s");
        assert!(told.ends_with("run `ultra auth login up` on the gateway's machine"), "{told}");
        assert_eq!(reason("it ended"), "it ended");
    }
}
