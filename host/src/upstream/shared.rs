//! Upstreams that sessions have in common: one server for all that use it.
//!
//! Such a server knows no client but the gateway. What belongs to a call reaches the session that made
//! it; of the rest each session takes what concerns it. It can ask nobody anything: it could not say whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ultra_store::{Redactor, Store};

use super::keeper::LIST_TIMEOUT;
use super::{Belongs, Connection, Definition, Guard, Listener, Patience, Surroundings, Upstream};
use crate::lock;
use crate::mcp::{self, Kind, Level, Message, Revision};
use crate::pipeline::Caller;
use crate::rush::Rush;
use crate::wire::Outbox;

/// A server that no session has used for so long is ended.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// JSON-RPC: what a server gets that asks something.
const NOBODY_TO_ASK: &[u8] = br#"{"code":-32601,"message":"several clients share this server: there is none that could be asked"}"#;

/// The shared upstreams of a gateway.
pub struct Pool {
    surroundings: Arc<Surroundings>,
    shared: Mutex<HashMap<Arc<str>, Arc<Shared>>>,
    tasks: TaskTracker,
}

/// One of them.
struct Shared {
    upstream: Arc<Upstream>,
    /// The sessions that use it, by their ids.
    users: watch::Sender<HashMap<Arc<str>, Weak<dyn Listener>>>,
}

/// What a session wants to hear of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// URIs, as raw JSON strings, sorted.
    pub resources: Vec<Bytes>,
    /// The lowest level of log messages.
    pub log_level: Option<Level>,
}

impl Surroundings {
    /// Returns those of upstreams whose only client is the gateway. It can do nothing that they could ask for.
    pub fn of_gateway(
        guard: Arc<Guard>,
        store: Arc<dyn Store>,
        redactor: Redactor,
        shutdown: CancellationToken,
        call_timeout: Duration,
        rush: Arc<Rush>,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        // A server that knows both eras is greeted as one that may know this one only.
        let revision = Revision::LATEST_LEGACY;
        Self {
            caller: Arc::new(Caller {
                principal: format!("ultra/{version}").into(),
                subject: None,
                session_id: uuid::Uuid::now_v7().to_string().into(),
                protocol_version: revision.as_str().into(),
            }),
            initialize: format!(
                r#"{{"capabilities":{{}},"clientInfo":{{"name":"ultra","version":"{version}"}}}}"#
            )
            .into(),
            revision,
            client_ready: watch::channel(true).1,
            starts: Self::starts(),
            guard,
            store,
            redactor,
            shutdown,
            call_timeout,
            rush,
        }
    }
}

impl Pool {
    /// Returns a pool that lets go of what is not in the config any more.
    pub fn new(
        surroundings: Surroundings,
        definitions: watch::Receiver<Arc<[Definition]>>,
    ) -> Arc<Self> {
        let (shared, tasks) = (Mutex::default(), TaskTracker::new());
        let pool = Arc::new(Self { surroundings: Arc::new(surroundings), shared, tasks });
        pool.tasks.spawn(Arc::clone(&pool).follow_config(definitions));
        pool
    }

    /// Returns the upstream of all sessions, which is started if this one is the first to use it.
    pub fn join(
        self: &Arc<Self>,
        definition: &Definition,
        session: &Arc<str>,
        listener: Weak<dyn Listener>,
    ) -> Arc<Upstream> {
        let mut all = lock(&self.shared);
        let known = all.get(&definition.name).cloned();
        let shared = match known {
            Some(shared) if shared.upstream.definition() == definition => shared,
            known => {
                if let Some(before) = known {
                    self.retire(before, true);
                }
                let shared = self.start(definition);
                all.insert(Arc::clone(&definition.name), Arc::clone(&shared));
                shared
            }
        };
        shared.users.send_modify(|users| drop(users.insert(Arc::clone(session), listener)));
        Arc::clone(&shared.upstream)
    }

    /// Notes that a session uses none of them any more.
    pub fn leave(&self, session: &Arc<str>) {
        for shared in lock(&self.shared).values() {
            shared.upstream.wants(session, Wants::default());
            shared.users.send_if_modified(|users| users.remove(session).is_some());
        }
    }

    /// Waits for the servers to end, which they do with the gateway.
    pub async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(self: &Arc<Self>, definition: &Definition) -> Arc<Shared> {
        let upstream = Arc::new(Upstream::new(definition.clone(), Arc::clone(&self.surroundings)));
        let users = watch::Sender::default();
        let shared = Arc::new(Shared { upstream: Arc::clone(&upstream), users });
        self.tasks.spawn(Arc::clone(&upstream).run(Arc::<Shared>::clone(&shared)));
        let unused = Arc::clone(self).end_when_unused(Arc::clone(&shared));
        self.tasks.spawn(async move { upstream.ending.run_until_cancelled(unused).await });
        shared
    }

    async fn end_when_unused(self: Arc<Self>, shared: Arc<Shared>) {
        let mut users = shared.users.subscribe();
        loop {
            let _ = users.wait_for(HashMap::is_empty).await;
            let used = timeout(IDLE_TIMEOUT, users.wait_for(|users| !users.is_empty())).await;
            if used.map(drop).is_ok() {
                continue;
            }
            // Sessions join under this lock, so that none can now.
            let mut all = lock(&self.shared);
            if shared.users.borrow().is_empty() {
                all.retain(|_, known| !Arc::ptr_eq(known, &shared));
                return shared.upstream.ending.cancel();
            }
        }
    }

    async fn follow_config(self: Arc<Self>, mut definitions: watch::Receiver<Arc<[Definition]>>) {
        let changes = async {
            while definitions.changed().await.is_ok() {
                let now = Arc::clone(&definitions.borrow_and_update());
                let gone: Vec<_> = lock(&self.shared)
                    .extract_if(|_, shared| !now.contains(shared.upstream.definition()))
                    .collect();
                for (name, shared) in gone {
                    self.retire(shared, now.iter().any(|definition| definition.name == name));
                }
            }
        };
        let _: Option<()> = self.surroundings.shutdown.run_until_cancelled(changes).await;
    }

    fn retire(&self, shared: Arc<Shared>, is_replaced: bool) {
        self.tasks.spawn(async move { shared.upstream.retire(is_replaced).await });
    }
}

impl Shared {
    fn listeners(&self) -> Vec<Arc<dyn Listener>> {
        self.users.borrow().values().filter_map(Weak::upgrade).collect()
    }

    fn notification(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        message: Message,
        belongs: Belongs,
    ) {
        let listener = match (&*message.method(), &belongs) {
            (method, _) if upstream.tells_of_change(method) => return,
            ("notifications/progress", _) => {
                let token = message.body_member("progressToken");
                let Some(listener) = token.and_then(|token| connection.listener(token)) else {
                    return;
                };
                listener
            }
            // It concerns whoever subscribed, whichever call led to it.
            ("notifications/resources/updated", _) | (_, Belongs::Unknown | Belongs::Ours) => {
                for listener in self.listeners() {
                    listener.message(upstream, connection, message.clone(), Belongs::Unknown);
                }
                return;
            }
            (_, Belongs::To(origin)) => {
                let Some(listener) = origin.listener().upgrade() else { return };
                listener
            }
        };
        listener.message(upstream, connection, message, belongs);
    }
}

impl Listener for Shared {
    /// A client that does not read must not hold up the others.
    fn outbox(&self) -> Option<&Outbox> {
        None
    }

    fn message(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        message: Message,
        belongs: Belongs,
    ) {
        match message.kind() {
            Kind::Request => {
                let id = message.id().unwrap_or_default();
                let line = match &*message.method() {
                    "ping" => mcp::result_line(&id, b"{}"),
                    _ => mcp::error_line(Some(&id), NOBODY_TO_ASK),
                };
                connection.send(&[line.into()]);
            }
            Kind::Notification => self.notification(upstream, connection, message, belongs),
            Kind::Response => {}
        }
    }

    /// Its upstream tells the server by itself what sessions want, see [`Upstream::follow_wants`].
    fn ready(&self, _upstream: &Arc<Upstream>, _connection: &Arc<Connection>) {}

    fn listing_changed(&self, upstream: &Arc<Upstream>) {
        for listener in self.listeners() {
            listener.listing_changed(upstream);
        }
    }

    /// Nobody was asked anything over it.
    fn connection_lost(&self, _connection: &Arc<Connection>) {}
}

impl Wants {
    /// Returns what any of several sessions wants.
    fn all<'a>(several: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for Self { resources, log_level } in several {
            all.resources.extend_from_slice(resources);
            all.log_level = all.log_level.into_iter().chain(*log_level).min();
        }
        all.resources.sort_unstable();
        all.resources.dedup();
        all
    }
}

impl Upstream {
    /// Notes what a session wants to hear of, in place of what it wanted before.
    pub fn wants(&self, session: &Arc<str>, wants: Wants) {
        let all = {
            let mut wanted = lock(&self.wanted);
            match wants == Wants::default() {
                true => wanted.remove(session),
                false => wanted.insert(Arc::clone(session), wants),
            };
            Wants::all(wanted.values())
        };
        self.wants.send_if_modified(|known| {
            let changed = *known != all;
            *known = all;
            changed
        });
    }

    /// Tells a server of the legacy era what its sessions want, whoever of them comes and goes.
    ///
    /// One thing at a time: what they no longer want must not overtake what they want again.
    pub(super) async fn follow_wants(&self, connection: &Connection) {
        let mut wants = self.wants.subscribe();
        let mut told = Wants::default();
        loop {
            let wanted = wants.borrow_and_update().clone();
            if let Some(level) = wanted.log_level.filter(|_| wanted.log_level != told.log_level) {
                let params = format!(r#"{{"level":"{}"}}"#, level.as_str());
                self.tell(connection, "logging", "logging/setLevel", params.as_bytes()).await;
            }
            for uri in missing(&told.resources, &wanted.resources) {
                self.tell_of(connection, "resources/unsubscribe", uri).await;
            }
            for uri in missing(&wanted.resources, &told.resources) {
                self.tell_of(connection, "resources/subscribe", uri).await;
            }
            told = wanted;
            if wants.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tell_of(&self, connection: &Connection, method: &str, uri: &Bytes) {
        let params = [b"{\"uri\":", &uri[..], b"}"].concat();
        self.tell(connection, "resources", method, &params).await;
    }

    /// Sends a request whose result is of no interest, if the server has what it is about.
    async fn tell(&self, connection: &Connection, capability: &str, method: &str, params: &[u8]) {
        if self.listing().is_none_or(|listing| listing.capability(capability).is_none()) {
            return;
        }
        let patience = Patience { timeout: LIST_TIMEOUT, cancels: true };
        if let Err(error) = self.ask(connection, patience, method, params).await {
            tracing::debug!(upstream = %self.name, %error, "`{method}` failed");
        }
    }
}

/// Returns those of `uris` that are not among `others`, which are sorted: there may be thousands of each.
fn missing<'a>(uris: &'a [Bytes], others: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> {
    uris.iter().filter(|uri| others.binary_search(uri).is_err())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use tokio::time::sleep;
    use ultra_store::{MemoryOptions, MemoryStore};

    use super::*;
    use crate::upstream::{Endpoint, Program};

    struct Nobody;

    impl Listener for Nobody {
        fn outbox(&self) -> Option<&Outbox> {
            None
        }

        fn message(&self, _: &Arc<Upstream>, _: &Arc<Connection>, _: Message, _: Belongs) {}

        fn ready(&self, _: &Arc<Upstream>, _: &Arc<Connection>) {}

        fn listing_changed(&self, _: &Arc<Upstream>) {}

        fn connection_lost(&self, _: &Arc<Connection>) {}
    }

    pub(in crate::upstream) fn definition() -> Definition {
        let program = Program {
            command: "/none".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            inherited: Arc::default(),
            cwd: None,
        };
        let endpoint = Endpoint::Stdio(program);
        Definition { name: "up".into(), endpoint, era: None, is_shared: true, hides_sign_in: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_ends_some_time_after_its_last_session() {
        let surroundings = Surroundings::of_gateway(
            Arc::new(Guard::new("/none".into())),
            Arc::new(MemoryStore::new(MemoryOptions::default())),
            Redactor::new(Vec::new()),
            CancellationToken::new(),
            IDLE_TIMEOUT,
            Arc::default(),
        );
        let (_changes, definitions) = watch::channel([definition()].into());
        let pool = Pool::new(surroundings, definitions);
        let nobody: Arc<dyn Listener> = Arc::new(Nobody);
        let join =
            |session: &str| pool.join(&definition(), &session.into(), Arc::downgrade(&nobody));

        let upstream = join("one");
        assert!(Arc::ptr_eq(&upstream, &join("two")));
        pool.leave(&"one".into());
        sleep(IDLE_TIMEOUT * 2).await;
        assert!(!upstream.ending.is_cancelled(), "it is used");
        pool.leave(&"two".into());
        sleep(IDLE_TIMEOUT / 2).await;
        assert!(Arc::ptr_eq(&upstream, &join("three")), "it may be used again");
        pool.leave(&"three".into());
        sleep(IDLE_TIMEOUT + Duration::from_secs(1)).await;

        assert!(upstream.ending.is_cancelled());
        assert!(!Arc::ptr_eq(&upstream, &join("four")));
    }

    fn wants(resources: &[&'static str], level: Option<&[u8]>) -> Wants {
        let resources = resources.iter().map(|uri| Bytes::from_static(uri.as_bytes())).collect();
        Wants { resources, log_level: level.and_then(Level::parse) }
    }

    #[test]
    fn a_server_is_told_what_any_session_wants() {
        let all = Wants::all(
            [
                wants(&["\"b\"", "\"c\""], None),
                wants(&["\"a\"", "\"b\""], Some(b"\"error\"")),
                wants(&[], Some(b"\"info\"")),
            ]
            .iter(),
        );

        assert_eq!(all, wants(&["\"a\"", "\"b\"", "\"c\""], Some(b"\"info\"")));
        assert_eq!(Wants::all(std::iter::empty()), Wants::default());
    }

    #[test]
    fn what_is_wanted_anew_is_found_among_many() {
        let uris: Vec<_> = (100_000..200_000).map(|uri| Bytes::from(uri.to_string())).collect();
        let [some, others] = [&uris[..90_000], &uris[10_000..]];

        assert!(missing(some, others).eq(&uris[..10_000]));
        assert!(missing(others, some).eq(&uris[90_000..]));
        assert_eq!(missing(some, &uris).count(), 0);
    }
}
