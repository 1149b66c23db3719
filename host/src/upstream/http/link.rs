//! The way to one HTTP server: each message is a request of its own, and what comes back is gathered
//! in one place, as if it came on a line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ultra_store::Redactor;

use super::auth::{SignedIn, Tokens};
use super::body::Body;
use super::{Client, Mirror, Remote};
use crate::lock;
use crate::mcp::sse::{Event, Parser};
use crate::mcp::{Era, Kind, Message, MessageError, Revision};
use crate::upstream::UpstreamError;
use crate::wire::{LINE_BYTES_MAX, NotQueued, Outlet};

/// So many requests may be open. More means a server that does not answer.
const OPEN_MAX: usize = 2048;

/// Messages heard and not yet dealt with; then the server is not read any further.
const HEARD_MAX: usize = 256;

/// A server may take this long to take a message that has no answer.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(30);

/// And this long to end a session of ours.
const DELETE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server may take this long to open its event stream and to say where messages go.
const SSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The shortest such pause, whatever a server names.
const RECONNECT_MIN: Duration = Duration::from_millis(100);

/// Pause before a stream that ended is opened again, unless the server names another; doubles.
const RECONNECT: Duration = Duration::from_millis(1000);

/// The longest such pause, whatever a server names.
const RECONNECT_MAX: Duration = Duration::from_secs(60);

/// After its answer, a response may take this long to end, so that its connection can be used again.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const EITHER: HeaderValue =
    HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// What was heard from the server.
#[derive(Debug)]
pub(in crate::upstream) enum Heard {
    /// A message, and which of our requests it came in answer to.
    Message(Message, Option<u64>),
    /// Something else, in answer to that request.
    Unreadable(MessageError, Bytes, Option<u64>),
    /// A request that will get no answer.
    Failed(u64, UpstreamError),
    /// Another message that did not arrive.
    NotTaken(UpstreamError),
    /// The server does not know our session any more, and did not look at this request.
    SessionGone(Option<u64>),
    /// The server is not there any more.
    Gone(String),
}

/// The way to one HTTP server.
#[derive(Debug)]
pub(in crate::upstream) struct Link {
    pub(super) upstream: Arc<str>,
    pub(super) remote: Remote,
    pub(super) client: Client,
    pub(super) tokens: Tokens,
    heard: mpsc::Sender<Heard>,
    /// Which arguments of which tools the server wants to see in headers.
    pub(super) mirror: Arc<Mutex<Arc<Mirror>>>,
    pub(super) state: Mutex<State>,
    open: Mutex<HashMap<u64, AbortHandle>>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Messages without an answer that the server has not taken yet.
    untaken: Mutex<usize>,
    taken: Notify,
    itself: Weak<Self>,
}

/// What was negotiated.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) session: Option<HeaderValue>,
    pub(super) revision: Option<Revision>,
    /// Where messages go, for HTTP with SSE.
    pub(super) endpoint: Option<Uri>,
    closed: bool,
}

impl Link {
    /// Returns a link, and where to hear the server.
    pub(in crate::upstream) fn new(
        upstream: Arc<str>,
        remote: Remote,
        mirror: Arc<Mutex<Arc<Mirror>>>,
        redactor: Redactor,
        signed_in: Arc<SignedIn>,
    ) -> (Arc<Self>, mpsc::Receiver<Heard>) {
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        let tokens = Tokens::new(remote.auth.clone(), redactor, signed_in);
        let client = Client::new(remote.uri.scheme_str() == Some("https"));
        let link = Arc::new_cyclic(|itself| Self {
            upstream,
            remote,
            client,
            tokens,
            heard,
            mirror,
            state: Mutex::default(),
            open: Mutex::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            untaken: Mutex::new(0),
            taken: Notify::new(),
            itself: Weak::clone(itself),
        });
        (link, hearing)
    }

    /// Notes what was negotiated: from now on it is said with every message.
    pub(in crate::upstream) fn negotiated(&self, revision: Revision) {
        lock(&self.state).revision = Some(revision);
    }

    /// Forgets what was negotiated: it turned out to be wrong.
    pub(in crate::upstream) fn forget(&self) {
        lock(&self.state).revision = None;
    }

    /// Listens to what the server says by itself, as long as the link is open. Legacy era. The returned
    /// channel closes when the server listens to us listening, or will not have it.
    pub(in crate::upstream) fn listen(&self) -> oneshot::Receiver<()> {
        let (opened, opens) = oneshot::channel();
        if let Some(link) = self.itself.upgrade() {
            self.spawn(async move { link.listen_on(opened).await });
        }
        opens
    }

    /// Returns whether messages go to the endpoint itself, and not to one that an event named.
    pub(in crate::upstream) fn is_streamable(&self) -> bool {
        lock(&self.state).endpoint.is_none()
    }

    /// Opens the event stream of HTTP with SSE; until then nothing can be sent.
    pub(in crate::upstream) async fn connect_sse(&self) -> Result<(), UpstreamError> {
        let failed = |reason: String| UpstreamError::Http {
            upstream: self.upstream.to_string(),
            status: 0,
            reason,
        };
        let connecting = async {
            let mut events = Events::of(self.get(None).await?)?;
            loop {
                match events.next().await? {
                    Some(event) if event.name.as_deref() == Some(b"endpoint") => {
                        return Ok((events, event.data));
                    }
                    Some(_) => {}
                    None => return Err("its event stream ended".to_owned()),
                }
            }
        };
        let (mut events, endpoint) = timeout(SSE_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err("its event stream names no endpoint".to_owned()))
            .map_err(failed)?;
        let endpoint = self.same_origin(&endpoint).ok_or_else(|| {
            failed(format!(
                "it wants messages at `{}`, which is another server",
                String::from_utf8_lossy(&endpoint)
            ))
        })?;
        lock(&self.state).endpoint = Some(endpoint);
        let Some(link) = self.itself.upgrade() else { return Ok(()) };
        self.spawn(async move {
            let reason = loop {
                match events.next().await {
                    Ok(Some(event)) => link.event(&event, None).await,
                    Ok(None) => break "its event stream ended".to_owned(),
                    Err(reason) => break reason,
                };
            };
            link.hear(Heard::Gone(reason)).await;
        });
        Ok(())
    }

    /// Runs something as long as the link is open.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled(work).await;
        })
    }

    /// Returns the URI of an `endpoint` event, if it is at the server that sent it.
    fn same_origin(&self, endpoint: &[u8]) -> Option<Uri> {
        let base = &self.remote.uri;
        let endpoint = std::str::from_utf8(endpoint).ok()?.trim();
        if endpoint.starts_with('/') && !endpoint.starts_with("//") {
            return Uri::builder()
                .scheme(base.scheme_str()?)
                .authority(base.authority()?.clone())
                .path_and_query(endpoint)
                .build()
                .ok();
        }
        let uri: Uri = endpoint.parse().ok()?;
        (uri.scheme() == base.scheme() && uri.authority() == base.authority()).then_some(uri)
    }

    /// Ends the session and everything that is open.
    pub(in crate::upstream) async fn end(&self) {
        self.close();
        let session = lock(&self.state).session.take();
        if let Some(session) = session {
            let request = self.head(Method::DELETE, &self.remote.uri).header(SESSION_ID, session);
            if let Ok(mut request) = request.body(Full::default()) {
                self.tokens.add(request.headers_mut()).await;
                let _ = timeout(DELETE_TIMEOUT, self.client.send(request)).await;
            }
        }
    }

    async fn listen_on(&self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        let mut last_id = None;
        let mut pause = RECONNECT;
        loop {
            let events = self.get(last_id.as_ref()).await.map(Events::of);
            drop(opened.take());
            match events {
                Ok(Ok(mut events)) => {
                    pause = RECONNECT;
                    while let Ok(Some(event)) = events.next().await {
                        if let Some(retry) = event.retry {
                            pause = retry.clamp(RECONNECT_MIN, RECONNECT_MAX);
                        }
                        last_id = event.id.clone().or(last_id);
                        self.event(&event, None).await;
                    }
                }
                // It says nothing by itself, or not now.
                Ok(Err(reason)) | Err(reason) => {
                    tracing::debug!(upstream = %self.upstream, reason, "no stream to listen to");
                    // It has none. Whatever else is wrong may pass.
                    if reason.starts_with("it answered 404")
                        || reason.starts_with("it answered 405")
                    {
                        return;
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    /// Asks for an event stream. Says what is wrong if there is none.
    async fn get(
        &self,
        last_id: Option<&Bytes>,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let mut attempts = 0;
        loop {
            let response = self.get_once(last_id, &mut attempts).await?;
            if let Some(response) = response {
                return Ok(response);
            }
        }
    }

    /// Asks once; none if there is another token to ask with.
    async fn get_once(
        &self,
        last_id: Option<&Bytes>,
        attempts: &mut u32,
    ) -> Result<Option<http::Response<hyper::body::Incoming>>, String> {
        let mut request = self.head(Method::GET, &self.remote.uri).header(ACCEPT, EVENTS);
        if let Some(id) = last_id.and_then(|id| HeaderValue::from_bytes(id).ok()) {
            request = request.header(LAST_EVENT_ID, id);
        }
        let mut request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let token = self.tokens.add(request.headers_mut()).await;
        let response = self.client.send(request).await.map_err(|error| crate::chain(&error))?;
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if *attempts < 2 => {
                *attempts += 1;
                let refused = self.tokens.refused(&self.upstream, &response, token.as_ref());
                match Box::pin(refused).await {
                    Ok(true) => Ok(None),
                    Ok(false) => Err(format!("it answered {}", response.status())),
                    Err(error) => Err(error.to_string()),
                }
            }
            status => Err(format!("it answered {status}")),
        }
    }

    /// Begins a request: what every request of ours says.
    pub(super) fn head(&self, method: Method, uri: &Uri) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(uri.clone());
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.remote.headers.clone());
            let state = lock(&self.state);
            // 2025-03-26 did not know it yet; where it is not known it is passed over.
            if let Some(revision) =
                state.revision.filter(|revision| *revision > Revision::V2024_11_05)
            {
                headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(revision.as_str()));
            }
            if let Some(session) = &state.session {
                headers.insert(SESSION_ID, session.clone());
            }
        }
        request
    }

    /// Sends one message and hears what comes back.
    async fn send(&self, message: Message) {
        let id = message.id_number().filter(|_| message.kind() == Kind::Request);
        match id {
            Some(id) => {
                self.post(&message, Some(id)).await;
                lock(&self.open).remove(&id);
            }
            None => {
                let posted = timeout(NOTIFY_TIMEOUT, self.post(&message, None)).await;
                if posted.is_err() {
                    tracing::warn!(upstream = %self.upstream, method = %message.method(), "a message was not taken");
                }
                *lock(&self.untaken) -= 1;
                self.taken.notify_waiters();
            }
        }
    }

    /// Hears the events that answer a request, resuming the stream when it breaks off.
    pub(super) async fn events(&self, body: Events, id: Option<u64>) -> Result<(), String> {
        let mut events = body;
        let (mut last_id, mut pause) = (None, RECONNECT);
        loop {
            let broken = loop {
                match events.next().await {
                    Ok(Some(event)) => {
                        if let Some(retry) = event.retry {
                            pause = retry.clamp(RECONNECT_MIN, RECONNECT_MAX);
                        }
                        last_id = event.id.clone().or(last_id);
                        if self.event(&event, id).await {
                            let _ = timeout(TAIL_TIMEOUT, events.skip()).await;
                            return Ok(());
                        }
                    }
                    Ok(None) => break "its response ended without an answer".to_owned(),
                    Err(reason) => break reason,
                }
            };
            if id.is_none() || last_id.is_none() {
                return Err(broken);
            }
            sleep(pause).await;
            events = self
                .get(last_id.as_ref())
                .await
                .and_then(Events::of)
                .map_err(|reason| format!("{broken}, and cannot be resumed: {reason}"))?;
        }
    }

    /// Hears an event. Returns whether it answers request `id`.
    async fn event(&self, event: &Event, id: Option<u64>) -> bool {
        if event.data.is_empty() {
            return false;
        }
        self.text(event.data.clone(), id).await
    }

    /// Hears a message, or a batch of them. Returns whether request `id` is answered.
    pub(super) async fn text(&self, text: Bytes, id: Option<u64>) -> bool {
        match Message::parse(text.clone()) {
            Ok(message) => self.message(message, id).await,
            Err(MessageError::Batch) => {
                let mut answered = false;
                for range in crate::mcp::json::elements(&text) {
                    match Message::parse(text.slice(range.clone())) {
                        Ok(message) => answered |= self.message(message, id).await,
                        Err(error) => {
                            self.hear(Heard::Unreadable(error, text.slice(range), id)).await;
                        }
                    }
                }
                answered
            }
            Err(error) => {
                self.hear(Heard::Unreadable(error, text, id)).await;
                true
            }
        }
    }

    async fn message(&self, message: Message, id: Option<u64>) -> bool {
        let answers = message.kind() == Kind::Response && id.is_some() && message.id_number() == id;
        self.hear(Heard::Message(message, id)).await;
        answers
    }

    pub(super) async fn hear(&self, heard: Heard) {
        let _ = self.heard.send(heard).await;
    }
}

impl Outlet for Link {
    fn push(&self, line: &[Bytes]) -> Result<(), NotQueued> {
        let Some(link) = self.itself.upgrade() else { return Err(NotQueued::Closed) };
        let modern = {
            let state = lock(&self.state);
            if state.closed {
                return Err(NotQueued::Closed);
            }
            state.revision.is_some_and(|revision| revision.era() == Era::Modern)
        };
        let line: Bytes = line.concat().into();
        let Ok(message) = Message::parse(line.slice(..line.len().saturating_sub(1))) else {
            // A caller that waits for an answer learns at least that there will be none.
            tracing::error!(upstream = %self.upstream, "a message became invalid on its way");
            return Err(NotQueued::Closed);
        };
        if message.kind() == Kind::Notification && message.method() == "notifications/cancelled" {
            let id = message
                .body_member("requestId")
                .and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
            if let Some(task) = id.and_then(|id: u64| lock(&self.open).remove(&id)) {
                task.abort();
            }
            // Closing the response is how a request is cancelled (2026-07-28, basic/transports).
            if modern {
                return Ok(());
            }
        }
        let mut open = lock(&self.open);
        if open.len() >= OPEN_MAX {
            return Err(NotQueued::Full);
        }
        let id = message.id_number().filter(|_| message.kind() == Kind::Request);
        if id.is_none() {
            *lock(&self.untaken) += 1;
        }
        let task = self.spawn(async move { link.send(message).await });
        if let Some(id) = id {
            open.insert(id, task.abort_handle());
        }
        Ok(())
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.closing.cancel();
    }
}

impl Link {
    /// Waits until the server has taken what needs no answer: some need to be before what follows.
    pub(in crate::upstream) async fn settled(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if *lock(&self.untaken) == 0 {
                return;
            }
            taken.await;
        }
    }
}

/// The events in the body of a response.
pub(super) struct Events {
    body: Body,
    parser: Parser,
}

impl Events {
    pub(super) fn of(response: http::Response<hyper::body::Incoming>) -> Result<Self, String> {
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec());
        if !kind.as_deref().is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            return Err("it answered with something else than events".to_owned());
        }
        let body = Body::of(response).map_err(|error| error.to_string())?;
        Ok(Self { body, parser: Parser::new(LINE_BYTES_MAX) })
    }

    async fn next(&mut self) -> Result<Option<Event>, String> {
        loop {
            match self.parser.next_event() {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(_) => return Err("it sent an event longer than 64 MiB".to_owned()),
            }
            match self.body.chunk().await {
                Ok(Some(chunk)) => self.parser.feed(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(format!("its response broke off: {}", crate::chain(&error)));
                }
            }
        }
    }

    /// Reads to the end.
    async fn skip(&mut self) {
        while let Ok(Some(_)) = self.body.chunk().await {}
    }
}
