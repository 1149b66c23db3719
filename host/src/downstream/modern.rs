//! Clients of the modern era. A request says all that is to be known of its sender; senders that say
//! the same share one set of upstreams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, ReplyTo};
use super::room::{self, Place, Room, room};
use super::{OpenRequest, Session, Setup, reply};
use crate::aggregator::Target;
use crate::lock;
use crate::mcp::modern::RequestMeta;
use crate::mcp::{self, Era, Message, Revision};
use crate::pipeline::CallError;

/// So many different senders may have upstreams at a time.
const SENDERS_MAX: usize = 256;

/// Upstreams of a sender that has been silent for this long are ended.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// All modern clients of one endpoint.
pub(super) struct Senders {
    setup: Setup,
    channel: Channel,
    sessions: Mutex<HashMap<Sender, Known>>,
}

/// What makes senders the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sender {
    /// Who it has proven to act for, if it had to.
    subject: Option<Arc<str>>,
    capabilities: Bytes,
    info: Option<Bytes>,
}

struct Known {
    /// Made by the first that needs it, without holding up other senders: catalogs are read for it.
    session: Arc<OnceLock<Arc<Session>>>,
    shutdown: CancellationToken,
    used: Instant,
}

impl Senders {
    pub(super) fn new(setup: Setup, channel: Channel) -> Self {
        Self { setup, channel, sessions: Mutex::default() }
    }

    /// Takes a request. Returns it while it is open.
    pub(super) fn request(
        &self,
        subject: Option<&Arc<str>>,
        message: Message,
        meta: Result<RequestMeta, &'static str>,
        reply_to: ReplyTo,
    ) -> Option<Arc<OpenRequest>> {
        let id = message.id().unwrap_or_default();
        let refusal = match meta {
            Err(key) => reply::missing_meta(key),
            Ok(meta) if meta.version != Revision::V2026_07_28.as_str() => {
                reply::unsupported_version(&meta.version)
            }
            Ok(meta) => match self.session(subject, &meta) {
                Some(session) => return session.modern_request(message, meta, reply_to),
                None => reply::call_error(&CallError::Busy { limit: SENDERS_MAX }, Era::Modern),
            },
        };
        let _ = reply_to.answer(&[mcp::error_line(Some(&id), &refusal).into()]);
        None
    }

    /// Returns the headers that go with a request over HTTP, and what each must say, if anything.
    pub(super) fn mirrored(
        &self,
        subject: Option<&Arc<str>>,
        message: &Message,
        meta: &RequestMeta,
    ) -> Vec<(HeaderName, Option<String>)> {
        if message.method() != "tools/call" {
            return Vec::new();
        }
        let session = self.session(subject, meta);
        let target = session
            .as_ref()
            .and_then(|session| session.aggregator())
            .and_then(|aggregator| aggregator.resolve("tools/call", &message.body()).ok());
        match target {
            Some(Target::Upstream { upstream, name: Some(tool), .. }) => {
                upstream.mirrored(message, &tool)
            }
            _ => Vec::new(),
        }
    }

    /// Withdraws a request, where requests are withdrawn by their id.
    pub(super) fn notification(&self, message: &Message) {
        let sessions: Vec<_> =
            lock(&self.sessions).values().map(|known| Arc::clone(&known.session)).collect();
        for session in sessions.iter().filter_map(|session| session.get()) {
            session.notification(message);
        }
    }

    /// Returns the session of a sender; none if there is no [`room`].
    fn session(&self, subject: Option<&Arc<str>>, meta: &RequestMeta) -> Option<Arc<Session>> {
        let sender = Sender {
            subject: subject.cloned(),
            capabilities: meta.capabilities.clone(),
            info: meta.client_info.clone(),
        };
        let (session, shutdown) = self.place(sender)?;
        let make = || {
            let setup = Setup { shutdown, subject: subject.cloned(), ..self.setup.clone() };
            Session::modern(setup, self.channel.clone(), meta)
        };
        Some(Arc::clone(session.get_or_init(make)))
    }

    /// Returns where the session of a sender is or will be, and what ends it.
    fn place(&self, sender: Sender) -> Option<(Arc<OnceLock<Arc<Session>>>, CancellationToken)> {
        let now = Instant::now();
        let mut sessions = lock(&self.sessions);
        if let Some(known) = sessions.get_mut(&sender)
            && !known.shutdown.is_cancelled()
        {
            known.used = now;
            return Some((Arc::clone(&known.session), known.shutdown.clone()));
        }
        // Copied: what is remembered must not keep the buffer of a line alive.
        let sender = Sender {
            capabilities: Bytes::copy_from_slice(&sender.capabilities),
            info: sender.info.as_deref().map(Bytes::copy_from_slice),
            ..sender
        };
        if sessions.len() >= room::half(SENDERS_MAX) {
            let places = sessions.iter().map(|(sender, known)| known.place(sender)).collect();
            match room(SENDERS_MAX, sender.subject.as_ref(), places) {
                Room::Free => {}
                Room::Of(sender) => sessions.remove(&sender)?.end(),
                Room::None => return None,
            }
        }
        let shutdown = self.setup.shutdown.child_token();
        let session = Arc::default();
        let known = Known { session: Arc::clone(&session), shutdown: shutdown.clone(), used: now };
        if let Some(ended) = sessions.insert(sender, known) {
            ended.end();
        }
        Some((session, shutdown))
    }

    /// Ends the upstreams of senders that have been silent for long.
    ///
    /// Not on stdio: its one client says the same as long as it runs, and servers may keep something for it.
    pub(super) fn end_idle(&self) {
        let now = Instant::now();
        let idle: Vec<_> = lock(&self.sessions)
            .extract_if(|_, known| now - known.used > IDLE_TIMEOUT && !known.is_in_use())
            .collect();
        for (_, known) in idle {
            known.end();
        }
    }

    /// Waits for the open calls, at most `grace`, and then for the upstreams to end.
    pub(super) async fn end(&self, grace: Duration) {
        let sessions: Vec<_> =
            lock(&self.sessions).drain().map(|(_, known)| known.session).collect();
        let made = sessions.iter().filter_map(|session| session.get());
        join_all(made.map(|session| session.end(grace))).await;
    }
}

impl Known {
    /// Returns the place it has. Of others alike, one that was used later is worth more.
    fn place(&self, sender: &Sender) -> Place<Sender, Instant> {
        Place {
            id: sender.clone(),
            subject: sender.subject.clone(),
            is_in_use: self.is_in_use(),
            worth: self.used,
        }
    }

    /// Returns whether something is open, or will be.
    fn is_in_use(&self) -> bool {
        self.session.get().is_none_or(|session| session.is_busy())
    }

    fn end(self) {
        self.shutdown.cancel();
        if let Some(session) = self.session.get().cloned() {
            tokio::spawn(async move { session.end(Duration::ZERO).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::downstream::http::Stream;
    use crate::downstream::testing;
    use crate::gateway::Gateway;
    use crate::wire::LINE_BYTES_MAX;

    /// Returns a request of a sender that calls itself so.
    fn request(method: &str, sender: &str) -> Message {
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"{sender}"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        );
        Message::parse(request.into()).unwrap()
    }

    fn meta(sender: &str) -> RequestMeta {
        RequestMeta::of(&request("server/discover", sender)).unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_ends_nobody_elses_session() {
        let senders = Senders::new(testing::setup(), Channel::Nowhere);
        let session = senders.session(None, &meta("a")).unwrap();
        let stream = Arc::new(Stream::new(None));
        stream.push(&[vec![b'x'; LINE_BYTES_MAX + 1].into()]).unwrap();

        let reply_to = ReplyTo::Stream(Arc::clone(&stream));
        senders.request(None, request("server/discover", "a"), Ok(meta("a")), reply_to);

        assert!(Arc::ptr_eq(&session, &senders.session(None, &meta("a")).unwrap()));
    }

    #[tokio::test]
    async fn a_subject_whose_senders_all_listen_leaves_room_for_others() {
        let senders = Senders::new(testing::setup(), Channel::Nowhere);
        let (ada, bob) = (Arc::from("ada"), Arc::from("bob"));
        let listen = |number: usize| {
            let sender = number.to_string();
            let message = request("subscriptions/listen", &sender);
            let reply_to = ReplyTo::Stream(Arc::new(Stream::new(None)));
            senders.request(Some(&bob), message, Ok(meta(&sender)), reply_to)
        };

        let listening = (0..).map_while(listen).count();

        assert_eq!(listening, SENDERS_MAX);
        assert!(senders.session(Some(&ada), &meta("a")).is_some());
        assert!(listen(SENDERS_MAX).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_is_open_has_the_same_time_to_end() {
        // Nobody hands it over: calls wait for it.
        let (_pipeline, loading) = watch::channel(None);
        let setup = Setup { gateway: Gateway::new(loading), ..testing::setup() };
        let senders = Senders::new(setup, Channel::Nowhere);
        for sender in ["a", "b", "c"] {
            let reply_to = ReplyTo::Stream(Arc::new(Stream::new(None)));
            senders.request(None, request("tools/list", sender), Ok(meta(sender)), reply_to);
        }
        let (began, grace) = (Instant::now(), Duration::from_secs(1));

        senders.end(grace).await;

        assert!(began.elapsed() < grace * 2, "{:?}", began.elapsed());
    }
}
