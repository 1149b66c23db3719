//! The task that keeps an upstream there: starts it, keeps its listing current, tries again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use ultra_store::UpstreamStatus;

use super::http::{Heard, Link, Mirror};
use super::{
    Belongs, Connection, Endpoint, ListKind, Listener, Listing, Patience, Remote, Sender, State,
    Surroundings, Upstream, UpstreamError, listing,
};
use crate::audit::{self, Event};
use crate::lock;
use crate::mcp::{self, Era, Kind, Message, MessageError};
use crate::wire::Outlet;

/// Each page of a list may take this long.
pub(super) const LIST_TIMEOUT: Duration = Duration::from_secs(30);

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

/// After so many messages in a row that an HTTP server did not take, its circuit opens: calls fail at once
/// until it has shaken hands again, which is tried after each pause.
const UNTAKEN_MAX: u32 = 3;

/// An HTTP server may take this long to say that it has seen us listen. Some say it with the first event.
const LISTEN_TIMEOUT: Duration = Duration::from_millis(500);

/// A subscription has no end of its own.
const FOR_EVER: Patience = Patience { timeout: Duration::from_secs(86_400 * 365), cancels: true };

/// Why upstreams end with the gateway.
pub(super) const ENDING: &str = "the gateway is ending";

/// Allows to start a server; given back when it has started.
pub(super) type Permit<'a> = Option<SemaphorePermit<'a>>;

impl Upstream {
    /// Keeps the server running until the gateway ends.
    pub async fn run(self: Arc<Self>, listener: Arc<dyn Listener>) {
        let shutdown = self.ending.clone();
        let mut failures = 0;
        let mut was_ready = false;
        let mut last_failure = None;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            let (reason, ready) = self.run_once(&listener).await;
            let reason = self.reason_for_clients(reason);
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
                () = self.signed_in.notified() => failures = 0,
                () = shutdown.cancelled() => {}
            }
            self.enter(State::Starting);
        }
        self.enter(State::Stopped);
        if !self.is_replaced.load(Ordering::Relaxed) {
            self.report("stopped", last_failure.as_deref());
        }
        if was_ready {
            self.audit(Event::UpstreamDisconnect, None);
        }
    }

    /// Starts the server and serves it until it ends. Returns why it did, and whether it took calls.
    async fn run_once(self: &Arc<Self>, listener: &Arc<dyn Listener>) -> (String, bool) {
        let permit = tokio::select! {
            permit = self.surroundings.starts.acquire() => permit.ok(),
            () = self.ending.cancelled() => return (ENDING.to_owned(), false),
        };
        match &self.definition.endpoint {
            Endpoint::Stdio(program) => self.run_stdio(program, listener, permit).await,
            Endpoint::Http(remote) => self.run_http(remote, listener, permit).await,
        }
    }

    /// Talks to an HTTP server until it is gone. Returns why it is, and whether it took calls.
    async fn run_http(
        self: &Arc<Self>,
        remote: &Remote,
        listener: &Arc<dyn Listener>,
        permit: Permit<'_>,
    ) -> (String, bool) {
        let (link, mut hearing) = Link::new(
            Arc::clone(&self.name),
            remote.clone(),
            Arc::clone(&self.mirror),
            self.surroundings.redactor.clone(),
            Arc::clone(&self.signed_in),
        );
        let outlet: Arc<dyn Outlet> = Arc::<Link>::clone(&link);
        let connection = Arc::new(Connection::new(Arc::clone(&self.name), outlet));
        let reason = {
            let hearing = async {
                let mut untaken = 0;
                while let Some(heard) = hearing.recv().await {
                    let why = not_taken(&heard);
                    untaken = if why.is_some() { untaken + 1 } else { 0 };
                    let gone = self.heard(heard, &connection, listener);
                    if let Some(reason) = gone {
                        return reason;
                    }
                    if let Some(why) = why.filter(|_| untaken >= UNTAKEN_MAX) {
                        return why;
                    }
                    if let Some(outbox) = listener.outbox() {
                        outbox.drained().await;
                    }
                }
                ENDING.to_owned()
            };
            tokio::select! {
                reason = hearing => reason,
                reason = self.keep(&connection, Some(&link), listener, permit) => reason,
                () = self.ending.cancelled() => ENDING.to_owned(),
            }
        };
        let was_ready = self.lost(&connection, &reason, listener);
        link.end().await;
        (reason, was_ready)
    }

    /// Deals with what an HTTP server said. Returns why it is gone, if that is what it was.
    fn heard(
        self: &Arc<Self>,
        heard: Heard,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
    ) -> Option<String> {
        self.surroundings.rush.line();
        match heard {
            Heard::Message(message, related) => self.take(message, related, connection, listener),
            Heard::Unreadable(error, text, related) => {
                self.unreadable(connection, &error, &text, related);
            }
            Heard::Failed(id, error) => connection.fail(id, self.for_clients(error)),
            Heard::NotTaken(error) => {
                tracing::warn!(upstream = %self.name, %error, "a message was not taken");
            }
            Heard::SessionGone(id) => {
                let reason = "it does not know our session any more";
                // It was not looked at, unlike those that are open.
                if let Some(id) = id {
                    let upstream = self.name.to_string();
                    connection
                        .fail(id, UpstreamError::Closed { upstream, reason: reason.to_owned() });
                }
                return Some(reason.to_owned());
            }
            Heard::Gone(reason) => return Some(reason),
        }
        None
    }

    /// Ends everything that was open over a connection. Returns whether it took calls.
    pub(super) fn lost(
        &self,
        connection: &Arc<Connection>,
        reason: &str,
        listener: &Arc<dyn Listener>,
    ) -> bool {
        connection.lose(reason);
        listener.connection_lost(connection);
        matches!(self.state.send_replace(State::Starting), State::Ready(_))
    }

    /// Deals with a message, which may belong to a request of ours.
    pub(super) fn take(
        self: &Arc<Self>,
        message: Message,
        related: Option<u64>,
        connection: &Arc<Connection>,
        listener: &Arc<dyn Listener>,
    ) {
        if message.kind() != Kind::Response {
            let belongs = match related.map(|id| connection.origin(Some(id))) {
                None => Belongs::Unknown,
                Some(None) => Belongs::Ours,
                Some(Some(origin)) => Belongs::To(origin),
            };
            listener.message(self, connection, message, belongs);
        } else if !connection.answer(message) {
            tracing::debug!(upstream = %self.name, "an answer that nobody waits for");
        }
    }

    /// Deals with something that is no message. What a server logs to the wrong stream is passed over;
    /// a spoilt answer fails its call: it would wait in vain.
    pub(super) fn unreadable(
        &self,
        connection: &Connection,
        error: &MessageError,
        text: &[u8],
        meant: Option<u64>,
    ) {
        tracing::warn!(upstream = %self.name, %error, "upstream `{}` sent something that is no message", self.name);
        self.spoke_text.store(true, Ordering::Relaxed);
        let id = mcp::recover_id(text).and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok());
        if let Some(id) = id.or(meant) {
            let upstream = self.name.to_string();
            connection.fail(id, UpstreamError::Invalid { upstream, reason: error.to_string() });
        }
    }

    /// Shakes hands, and then keeps the listing current. Returns why it cannot.
    pub(super) async fn keep(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        link: Option<&Arc<Link>>,
        listener: &Arc<dyn Listener>,
        mut permit: Permit<'_>,
    ) -> String {
        let initialize = match self.shake_hands(connection, link).await {
            Ok(initialize) => initialize,
            Err(UpstreamError::SignIn { url, .. }) => {
                return format!("it wants you to sign in: open {url}");
            }
            Err(error) => return error.to_string(),
        };
        if connection.era() == Era::Legacy {
            let mut ready = self.surroundings.client_ready.clone();
            if ready.wait_for(|ready| *ready).await.is_err() {
                return "the client is gone".to_owned();
            }
            // Before it can say anything: what it says when nobody listens is lost.
            let opens = link.filter(|link| link.is_streamable()).map(|link| link.listen());
            if let Some(opens) = opens {
                let _ = timeout(LISTEN_TIMEOUT, opens).await;
            }
            connection.send(&[mcp::notification_line("notifications/initialized", b"").into()]);
            if let Some(link) = link {
                link.settled().await;
            }
        }
        self.enter(State::Ready(Arc::clone(connection)));
        listener.ready(self, connection);
        self.report("ready", None);
        self.audit(Event::UpstreamConnect, None);

        // What cannot be listed now stays as it was remembered.
        let mut listing =
            self.listing().map_or_else(Listing::default, |before| Listing::clone(&before));
        listing.initialize = initialize;
        let mut kinds = ListKind::ALL.to_vec();
        let listing_on = async {
            loop {
                for kind in std::mem::take(&mut kinds) {
                    match self.list(connection, &listing, kind).await {
                        Ok(mut items) => {
                            if kind == ListKind::Tools {
                                let is_http = link.is_some() && connection.era() == Era::Modern;
                                *lock(&self.mirror) =
                                    Arc::new(Mirror::of(&self.name, &mut items, is_http));
                            }
                            listing.set(kind, items);
                        }
                        Err(error) => {
                            tracing::warn!(upstream = %self.name, %error, "`{}` failed", kind.method());
                        }
                    }
                }
                permit.take();
                self.publish(&listing, listener);
                tokio::select! {
                    () = self.went_stale.notified() => sleep(LIST_DEBOUNCE).await,
                    // What it did not list to a stranger.
                    () = self.signed_in.notified() => self.stale(&ListKind::ALL),
                }
                kinds = std::mem::take(&mut *lock(&self.stale));
                kinds.sort_unstable();
                kinds.dedup();
            }
        };
        match connection.era() {
            Era::Modern => tokio::join!(listing_on, self.listen(connection)).0,
            Era::Legacy if self.is_shared() => {
                tokio::join!(listing_on, self.follow_wants(connection)).0
            }
            Era::Legacy => listing_on.await,
        }
    }

    /// Hears of changes, as long as the server lets us. Modern era.
    async fn listen(&self, connection: &Arc<Connection>) {
        let mut wants = self.wants.subscribe();
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let uris = wants.borrow_and_update().resources.clone();
            let mut params = br#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":"#.to_vec();
            listing::push_array(&mut params, uris.iter());
            params.extend_from_slice(b"}}");
            let params = self.surroundings.modern(&params, None);
            let compose = |id| vec![mcp::request_line(id, "subscriptions/listen", &params).into()];
            let ended = tokio::select! {
                ended = connection.call(FOR_EVER, Sender::default(), compose, |_| {}) => ended,
                _ = wants.wait_for(|wants| wants.resources != uris) => {
                    // Nobody listens until the next request is there.
                    self.stale(&ListKind::ALL);
                    continue;
                }
            };
            match ended {
                // It has nothing to tell.
                Ok(answer) if answer.is_error() => return std::future::pending().await,
                Err(UpstreamError::Http { status: 404 | 405, .. }) => {
                    return std::future::pending().await;
                }
                Ok(_) | Err(_) => {}
            }
            if began.elapsed() >= STABLE_AFTER {
                failures = 0;
            }
            sleep(back_off(failures)).await;
            failures += 1;
            // What has changed meanwhile nobody has told.
            self.stale(&ListKind::ALL);
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

    /// Looks anew which arguments the server wants to see in headers. Returns whether that is known now.
    pub async fn mirror_anew(&self, connection: &Connection) -> bool {
        let Some(listing) = self.listing().filter(|_| self.transport == "http") else {
            return false;
        };
        match self.list(connection, &listing, ListKind::Tools).await {
            Ok(mut tools) => {
                *lock(&self.mirror) = Arc::new(Mirror::of(&self.name, &mut tools, true));
                // The client shall know as well.
                self.stale(&[ListKind::Tools]);
                true
            }
            Err(error) => {
                tracing::warn!(upstream = %self.name, %error, "the tools cannot be listed anew");
                false
            }
        }
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
            unix_ns: crate::unix_ns(),
        });
    }
}

/// Returns why an HTTP server did not take a message, if that is what was heard.
fn not_taken(heard: &Heard) -> Option<String> {
    match heard {
        Heard::Failed(_, UpstreamError::Closed { .. }) => Some("it cannot be reached".to_owned()),
        // What stands before it says so.
        Heard::Failed(_, UpstreamError::Http { status: 502..=504, reason, .. }) => {
            Some(format!("it takes no calls: HTTP status {reason}"))
        }
        _ => None,
    }
}

/// Returns the pause after so many failures in a row before this one.
fn back_off(failures: u32) -> Duration {
    (BACK_OFF_MIN * 2u32.saturating_pow(failures)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use ultra_store::{MemoryOptions, MemoryStore, Redactor};

    use super::*;
    use crate::upstream::{Guard, Wants, shared};
    use crate::wire::Outbox;

    fn upstream() -> Upstream {
        let surroundings = Surroundings::of_gateway(
            Arc::new(Guard::new("/none".into())),
            Arc::new(MemoryStore::new(MemoryOptions::default())),
            Redactor::new(Vec::new()),
            Default::default(),
            LIST_TIMEOUT,
            Arc::default(),
        );
        Upstream::new(shared::tests::definition(), Arc::new(surroundings))
    }

    /// What changes while nobody listens is told to nobody.
    #[tokio::test]
    async fn lists_are_looked_at_again_when_something_else_is_listened_to() {
        let upstream = upstream();
        let outbox = Arc::new(Outbox::default());
        let outlet: Arc<dyn Outlet> = Arc::<Outbox>::clone(&outbox);
        let connection = Arc::new(Connection::new("up".into(), outlet));
        let wanting = async {
            tokio::task::yield_now().await;
            let before = lock(&upstream.stale).clone();
            let resources = vec![Bytes::from_static(b"\"file:///a\"")];
            upstream.wants(&"session".into(), Wants { resources, log_level: None });
            tokio::task::yield_now().await;
            (before, lock(&upstream.stale).clone())
        };

        let (before, after) = tokio::select! {
            biased;
            () = upstream.listen(&connection) => unreachable!("it has no end"),
            stale = wanting => stale,
        };

        assert_eq!(before, []);
        assert_eq!(after, ListKind::ALL);
    }
}
