//! The side of the upstreams: they are started and follow the config; what they say reaches the client.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Session;
use crate::bridge;
use crate::downstream::channel::Channel;
use crate::downstream::open::OpenRequest;
use crate::mcp::{self, Era, Kind, Message, json};
use crate::upstream::{
    Belongs, Connection, Definition, ListKind, Listener, Origin, Surroundings, Upstream,
};
use crate::wire::Outbox;

/// Changes of lists within this time are announced once.
const ANNOUNCE_DEBOUNCE: Duration = Duration::from_millis(100);

impl Session {
    /// Returns the upstream of a definition: one of its own that is not started yet, or that of all.
    pub(super) fn make(
        &self,
        definition: &Definition,
        surroundings: &Arc<Surroundings>,
    ) -> Arc<Upstream> {
        match definition.is_shared {
            true => {
                let listener = Weak::<Self>::clone(&self.itself);
                self.setup.pool.join(definition, &surroundings.caller.session_id, listener)
            }
            false => Arc::new(Upstream::new(definition.clone(), Arc::clone(surroundings))),
        }
    }

    /// Starts an upstream, unless others do.
    pub(super) fn run(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        if upstream.is_shared() {
            return;
        }
        let listener: Arc<dyn Listener> = Arc::<Self>::clone(self);
        self.tasks.spawn(Arc::clone(upstream).run(listener));
    }

    /// Takes over what becomes of the upstreams in the config.
    pub(super) async fn follow_config(self: Arc<Self>) {
        let mut upstreams = self.setup.upstreams.clone();
        let Some(aggregator) = self.aggregator() else { return };
        let changes = async {
            while upstreams.changed().await.is_ok() {
                upstreams.mark_unchanged();
                let make =
                    |definition: &Definition| self.make(definition, aggregator.surroundings());
                let (new, gone) = aggregator.adopt(&self.setup.definitions(), make);
                new.iter().for_each(|upstream| self.run(upstream));
                for upstream in gone.into_iter().filter(|upstream| !upstream.is_shared()) {
                    let is_replaced = new.iter().any(|new| new.name == upstream.name);
                    tokio::spawn(async move { upstream.retire(is_replaced).await });
                }
                self.lists_changed.notify_one();
            }
        };
        let _: Option<()> = self.setup.shutdown.run_until_cancelled(changes).await;
    }

    /// Returns whether a call is one of this client's.
    fn made(&self, call: &Arc<dyn Origin>) -> bool {
        std::ptr::addr_eq(call.listener().as_ptr(), self)
    }

    fn upstream_notification(
        &self,
        upstream: &Upstream,
        connection: &Arc<Connection>,
        message: &Message,
        origin: Option<&OpenRequest>,
    ) {
        match &*message.method() {
            method if upstream.tells_of_change(method) => {}
            "notifications/subscriptions/acknowledged" => {}
            "notifications/progress" => {
                let known = message
                    .body_member("progressToken")
                    .and_then(|token| connection.progress(token));
                let Some((token, caller)) = known else { return };
                let caller = caller.and_then(request_of);
                if let Some(range) = json::member(&message.body(), "progressToken") {
                    let params = json::splice(&message.body(), &[(range, token)]);
                    self.send_for(caller.as_deref(), &message.with(None, Some(&params.into())));
                }
            }
            "notifications/cancelled" => {
                let Some(theirs) = message.body_member("requestId") else { return };
                let body = message.body();
                let Some(range) = json::member(&body, "requestId") else { return };
                self.parked.withdraw(|question| {
                    let id = question.message().id();
                    question.is_of(connection) && id.is_some_and(|id| id == theirs)
                });
                self.withdraw(
                    |_, asked| asked.is_of(connection) && asked.id().is_some_and(|id| id == theirs),
                    |id| json::splice(&body, &[(range.clone(), id.to_string().into())]),
                );
            }
            "notifications/resources/updated" if self.era() == Era::Modern => {
                self.tell_of_update(message);
            }
            "notifications/resources/updated" => {
                let params = bridge::without_subscription(&message.body());
                self.send(&message.with(None, (!params.is_empty()).then_some(&params)));
            }
            "notifications/message" if self.era() == Era::Modern => {
                if let Some(open) = origin.filter(|open| bridge::wants_log(open, message)) {
                    self.send_for(Some(open), &message.with(None, None));
                }
            }
            // What is no part of a request has no place in the modern era.
            _ if self.era() == Era::Modern && origin.is_none() => {}
            _ => self.send_for(origin, &message.with(None, None)),
        }
    }

    /// Announces changed lists, once for all changes that come together.
    pub(super) async fn announce(self: Arc<Self>) {
        let Some(client) = self.client.get() else { return };
        let changes = async {
            let _ = self.client_ready.subscribe().wait_for(|ready| *ready).await;
            loop {
                self.lists_changed.notified().await;
                tokio::time::sleep(ANNOUNCE_DEBOUNCE).await;
                for method in list_changed(&client.aggregator.announce()) {
                    match client.revision.era() {
                        Era::Legacy => self.send(&[mcp::notification_line(method, b"").into()]),
                        Era::Modern => self.tell_of_list(method),
                    }
                }
            }
        };
        let _: Option<()> = self.setup.shutdown.run_until_cancelled(changes).await;
    }
}

impl Listener for Session {
    fn outbox(&self) -> Option<&Outbox> {
        match &self.channel {
            Channel::Lines(outbox) => Some(outbox),
            Channel::Events(_) | Channel::Nowhere => None,
        }
    }

    fn message(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        message: Message,
        belongs: Belongs,
    ) {
        // On stdio nothing says what a message belongs to. Of a single client it is most likely its
        // last call; where several may share the upstream, only one that is alone can be meant.
        let guess = || match &self.channel {
            _ if upstream.is_shared() => connection.only_origin().filter(|call| self.made(call)),
            Channel::Nowhere => connection.only_origin(),
            Channel::Lines(_) | Channel::Events(_) => connection.origin(None),
        };
        match message.kind() {
            Kind::Request if message.method() == "ping" => {
                connection
                    .send(&[mcp::result_line(&message.id().unwrap_or_default(), b"{}").into()]);
            }
            Kind::Request => {
                let (origin, is_certain) = match belongs {
                    Belongs::To(origin) => (Some(origin), true),
                    Belongs::Unknown | Belongs::Ours => {
                        (guess(), connection.only_origin().is_some())
                    }
                };
                let origin = origin.and_then(request_of);
                self.ask(&upstream.name, connection, message, origin.as_ref(), is_certain);
            }
            Kind::Notification => {
                if upstream.is_shared()
                    && !self.aggregator().is_some_and(|own| own.is_concerned(&message, &belongs))
                {
                    return;
                }
                let origin = match belongs {
                    Belongs::To(origin) => Some(origin),
                    Belongs::Unknown if self.era() == Era::Modern => guess(),
                    Belongs::Unknown | Belongs::Ours => None,
                };
                let origin = origin.and_then(request_of);
                if let Some(message) = self.notified(Some(&upstream.name), message) {
                    self.upstream_notification(upstream, connection, &message, origin.as_deref());
                }
            }
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
            |_, asked| asked.is_of(connection),
            |id| format!(r#"{{"requestId":{id},"reason":"the server is gone"}}"#).into_bytes(),
        );
    }
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

/// Returns the request of ours that somebody's call is.
fn request_of(origin: Arc<dyn Origin>) -> Option<Arc<OpenRequest>> {
    let origin: Arc<dyn Any + Send + Sync> = origin;
    origin.downcast().ok()
}
