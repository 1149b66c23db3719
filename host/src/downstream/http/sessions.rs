//! Sessions of the legacy era over HTTP: named by us, ended by the client or by silence.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Stream;
use super::stream::Seen;
use crate::downstream::channel::Channel;
use crate::downstream::room::{self, Place, Room, room};
use crate::downstream::{Session, Setup};
use crate::lock;

/// A session that was never used is ended after so long, if not sooner.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(60);

/// Who only tries a session makes `notifications/initialized` and a request or two. With so many requests
/// somebody works in it.
const REQUESTS_MIN: u64 = 4;

/// Streams of one session that can be resumed.
const STREAMS_MAX: usize = 64;

/// Sessions by their id.
pub(super) struct Sessions {
    setup: Setup,
    open: Mutex<HashMap<String, Arc<HttpSession>>>,
}

/// A session and its streams.
pub(super) struct HttpSession {
    pub(super) id: String,
    pub(super) session: Arc<Session>,
    /// Who opened it has proven to act for. Nobody else gets in, even with its id.
    subject: Option<Arc<str>>,
    /// What belongs to no request; read by `GET`.
    pub(super) unasked: Arc<Stream>,
    shutdown: CancellationToken,
    state: Mutex<State>,
}

struct State {
    used: Instant,
    /// Requests since it was made.
    requests: u64,
    /// Whether somebody reads [`HttpSession::unasked`].
    listeners: usize,
    streams: Vec<(String, Arc<Stream>)>,
    last_stream: u64,
}

impl Sessions {
    pub(super) fn new(setup: Setup) -> Self {
        Self { setup, open: Mutex::default() }
    }

    /// Opens a session for a subject, if clients have to prove that they act for one; none if there is no
    /// [`room`].
    ///
    /// Room is made by one that hardly did anything, if there is one, and of those alike by the one that
    /// was silent longest.
    pub(super) fn open(&self, subject: Option<&Arc<str>>) -> Option<Arc<HttpSession>> {
        self.make_room(subject)?;
        let shutdown = self.setup.shutdown.child_token();
        let subject = subject.cloned();
        let setup =
            Setup { shutdown: shutdown.clone(), subject: subject.clone(), ..self.setup.clone() };
        let unasked = Arc::new(Stream::optional("0".to_owned()));
        let session = Session::new(setup, Channel::Events(Arc::clone(&unasked)));
        let id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let state = State {
            used: Instant::now(),
            requests: 0,
            listeners: 0,
            streams: Vec::new(),
            last_stream: 0,
        };
        let opened = Arc::new(HttpSession {
            id: id.clone(),
            session,
            subject,
            unasked,
            shutdown,
            state: Mutex::new(state),
        });
        lock(&self.open).insert(id, Arc::clone(&opened));
        Some(opened)
    }

    fn make_room(&self, subject: Option<&Arc<str>>) -> Option<()> {
        let limit = self.setup.http_sessions_max;
        let mut open = lock(&self.open);
        if open.len() < room::half(limit) {
            return Some(());
        }
        let places = open.values().map(|session| session.place()).collect();
        match room(limit, subject, places) {
            Room::Free => {}
            Room::Of(id) => {
                tracing::info!("a session makes room for another: {} are open", open.len());
                open.remove(&id)?.end();
            }
            Room::None => {
                tracing::warn!(
                    subject = subject.map(|subject| &**subject),
                    "no session can be opened: {} are in use",
                    open.len()
                );
                return None;
            }
        }
        Some(())
    }

    /// Returns a session of this subject that is open, and notes that it is used.
    pub(super) fn find(&self, id: &str, subject: Option<&Arc<str>>) -> Option<Arc<HttpSession>> {
        let session = lock(&self.open).get(id).cloned()?;
        if session.subject.as_ref() != subject {
            return None;
        }
        if session.shutdown.is_cancelled() {
            self.close(id, subject);
            return None;
        }
        let mut state = lock(&session.state);
        state.used = Instant::now();
        state.requests += 1;
        drop(state);
        Some(session)
    }

    /// Ends a session of this subject. Returns whether there was one.
    pub(super) fn close(&self, id: &str, subject: Option<&Arc<str>>) -> bool {
        let mut open = lock(&self.open);
        if open.get(id).is_none_or(|session| session.subject.as_ref() != subject) {
            return false;
        }
        let session = open.remove(id);
        drop(open);
        session.map(|session| session.end()).is_some()
    }

    /// Ends the sessions that nobody uses any more.
    pub(super) fn end_idle(&self) {
        let idle: Vec<_> = lock(&self.open)
            .extract_if(|_, session| session.is_idle(self.setup.http_session_idle))
            .map(|(_, session)| session)
            .collect();
        for session in idle {
            session.end();
        }
    }

    pub(super) async fn end(&self, grace: Duration) {
        let open: Vec<_> = lock(&self.open).drain().map(|(_, session)| session).collect();
        let ending = open.iter().map(|session| async {
            session.session.end(grace).await;
            session.unasked.end();
        });
        join_all(ending).await;
    }
}

impl HttpSession {
    /// Returns a stream for one request.
    pub(super) fn stream(&self) -> Arc<Stream> {
        let mut state = lock(&self.state);
        state.last_stream += 1;
        let name = state.last_stream.to_string();
        let stream = Arc::new(Stream::new(Some(name.clone())));
        if state.streams.len() >= STREAMS_MAX {
            let over = state.streams.iter().position(|(_, stream)| stream.is_over()).unwrap_or(0);
            state.streams.remove(over);
        }
        state.streams.push((name, Arc::clone(&stream)));
        stream
    }

    /// Forgets the stream of a request that was answered at once.
    pub(super) fn forget(&self, stream: &Arc<Stream>) {
        lock(&self.state).streams.retain(|(_, known)| !Arc::ptr_eq(known, stream));
    }

    /// Returns the stream an event came by, and the event's number.
    pub(super) fn resume(&self, event_id: &str) -> Option<(Arc<Stream>, Option<Seen>)> {
        let (name, number) = event_id.split_once('-')?;
        let number = Some(Seen::parse(number)?);
        if name == "0" {
            return Some((Arc::clone(&self.unasked), number));
        }
        let state = lock(&self.state);
        let (_, stream) = state.streams.iter().find(|(known, _)| known == name)?;
        Some((Arc::clone(stream), number))
    }

    /// Notes that somebody listens, until the returned value is dropped.
    pub(super) fn listens(self: &Arc<Self>) -> ListenGuard {
        lock(&self.state).listeners += 1;
        ListenGuard(Arc::clone(self))
    }

    fn is_idle(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        let limit = if state.requests == 0 { limit.min(UNUSED_TIMEOUT) } else { limit };
        state.listeners == 0 && state.used.elapsed() > limit && !self.session.is_busy()
            || self.shutdown.is_cancelled()
    }

    /// Returns the place it has. Of others alike, one where somebody works is worth more, and one that was
    /// used later.
    fn place(&self) -> Place<String, (bool, Instant)> {
        let state = lock(&self.state);
        Place {
            id: self.id.clone(),
            subject: self.subject.clone(),
            is_in_use: state.listeners > 0 || self.session.is_busy(),
            worth: (state.requests >= REQUESTS_MIN, state.used),
        }
    }

    fn end(&self) {
        self.shutdown.cancel();
        self.unasked.end();
        let session = Arc::clone(&self.session);
        tokio::spawn(async move { session.end(Duration::ZERO).await });
    }
}

/// Somebody listens to a session.
pub(super) struct ListenGuard(Arc<HttpSession>);

impl Drop for ListenGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.listeners -= 1;
        state.used = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downstream::testing;

    #[tokio::test]
    async fn a_subject_that_listens_everywhere_leaves_room_for_others() {
        let sessions = Sessions::new(testing::setup());
        let (ada, bob) = (Arc::from("ada"), Arc::from("bob"));
        let bobs = std::iter::from_fn(|| sessions.open(Some(&bob)));
        let bobs: Vec<_> = bobs.map(|session| session.listens()).collect();

        let adas = sessions.open(Some(&ada)).expect("one of Bob's makes room");

        assert_eq!(bobs.len(), sessions.setup.http_sessions_max);
        assert!(sessions.open(Some(&bob)).is_none());
        assert!(sessions.find(&adas.id, Some(&ada)).is_some());
    }
}
