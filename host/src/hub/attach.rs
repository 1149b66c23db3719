//! What `ultra start` has of the Hub: finds the link, or makes one with a deploy key, then sends.
//!
//! On a thread of its own from its first line: it asks a keychain, writes files, and waits for the Hub, and
//! no client waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use ultra_store::{Numbers, Store};

use super::client::Client;
use super::clients::Clients;
use super::credentials::{Credentials, Link};
use super::deploy::{AutoLink, DeployError, link_by_key};
use super::lease::is_idle;
use super::linking::{History, LinkError, Membership};
use super::sync::{Options, Sync};
use super::{host_facts, machine, pace};
use crate::config::{self, Config, Environment};
use crate::upstream::Definition;
use crate::{auth, chain, unix_ns};

/// Between two tries to link: at first, and in the end.
const TRY_AGAIN_MIN: Duration = Duration::from_secs(5);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(5 * 60);

/// The gateway's end may take this long: what links, which a keychain may not let end, and what sends.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What the gateway is, and what it sends of.
pub(crate) struct Gateway {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) upstreams: watch::Receiver<Arc<[Definition]>>,
    /// Its clients may be on other machines.
    pub(crate) serves_others: bool,
}

/// A gateway that belongs to a Hub, or tries to.
pub(crate) struct Attachment {
    stop: CancellationToken,
    /// Nothing comes any more when the link was not found, or not in time.
    sync: oneshot::Receiver<Sync>,
}

impl Attachment {
    /// Begins, if the config wants it. Comes before the gateway records anything: what the database has now
    /// is from before.
    pub(crate) fn begin(
        config: &Config,
        environment: &Environment,
        gateway: Gateway,
    ) -> Option<Self> {
        let hub = &config.hub;
        let wanted = hub.enabled.unwrap_or(hub.deploy_key.is_some());
        if !wanted || hub.offline_mode {
            if !hub.offline_mode {
                // Nobody sends what waits: it need not be kept longer than the rest.
                gateway.store.hold_unsent(None);
            }
            return None;
        }
        let started_unix_ns = unix_ns();
        let database = (config.storage.backend == config::Backend::Sqlite)
            .then(|| config.storage.path.clone());
        let before = had(&*gateway.store, database.as_deref());
        let kept = auth::Options::of(environment).map(|options| Credentials::new(&options));
        let file = config.path.clone().map_or_else(|| Config::default_path(environment), Ok);
        let (credentials, file) = match (kept, file) {
            (Ok(credentials), Ok(file)) => (credentials, file),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("nothing is sent to the Hub: {}", chain(&error));
                return None;
            }
        };
        let host = host_facts(environment, Some(&hub.environment));
        let mut seeker = Seeker {
            hub: hub.clone(),
            file,
            credentials,
            host: if gateway.serves_others { machine::of_server(host) } else { host },
            database,
            started_unix_ns,
            before,
            gateway,
        };
        let (sender, sync) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let spawned = std::thread::Builder::new().name("hub-link".into()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "nothing is sent to the Hub: {error}"),
            };
            let found = runtime.block_on(stopping.run_until_cancelled(seeker.link()));
            // What is being written is written; a name that takes long to resolve holds nobody up.
            runtime.shutdown_background();
            if let Some(Some(link)) = found
                && let Some(sync) = seeker.send(link)
            {
                // Whoever ends the gateway takes it.
                let _ = sender.send(sync);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "nothing is sent to the Hub: {error}");
            return None;
        }
        Some(Self { stop, sync })
    }

    /// Sends what is new and says good-bye, for a moment.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        let ended = async {
            match self.sync.await {
                Ok(sync) => sync.shutdown().await,
                Err(_) => true,
            }
        };
        if !timeout(END_TIMEOUT, ended).await.unwrap_or(false) {
            tracing::debug!("the Hub was not told in time that this gateway ends");
        }
    }
}

/// Returns the id of a database and the numbers it has. Nothing while another process sends its records:
/// then the Hub may soon have more than these, and nothing is wrong.
fn had(store: &dyn Store, database: Option<&Path>) -> Option<(String, Numbers)> {
    let had = (store.database_id().ok()?, store.numbers().ok()?);
    database.is_none_or(is_idle).then_some(had)
}

/// Looks for the gateway's link.
struct Seeker {
    hub: config::Hub,
    file: PathBuf,
    credentials: Credentials,
    host: ultra_hub::wire::Host,
    database: Option<PathBuf>,
    started_unix_ns: i64,
    /// What the database had then, if nobody has sent of it since.
    before: Option<(String, Numbers)>,
    gateway: Gateway,
}

impl Seeker {
    /// Returns the link; nothing if there is none, which has been said then.
    async fn link(&mut self) -> Option<Link> {
        let mut pause = TRY_AGAIN_MIN;
        let mut warned = false;
        loop {
            match self.find().await {
                Ok(link) => return link,
                Err(error) if error.passes() => {
                    if !warned {
                        tracing::warn!(
                            "not linked to the Hub yet, and trying again: {}",
                            chain(&error)
                        );
                        warned = true;
                    }
                    let told = error.retry_after().map(pace::stretched).unwrap_or_default();
                    // Meanwhile another process may link, send, and end.
                    self.before = None;
                    tokio::time::sleep(pace::jittered(pause).max(told)).await;
                    pause = (pause * 2).min(TRY_AGAIN_MAX);
                }
                Err(error) => {
                    tracing::warn!("nothing is sent to the Hub: {}", chain(&error));
                    return None;
                }
            }
        }
    }

    async fn find(&self) -> Result<Option<Link>, DeployError> {
        let client = Client::new(&self.hub.url).map_err(LinkError::from)?;
        if self.hub.deploy_key.is_some() {
            let history = self.history().await?;
            let auto = AutoLink {
                client: &client,
                credentials: &self.credentials,
                config: &self.hub,
                file: self.file.clone(),
                host: self.host.clone(),
                history,
            };
            return link_by_key(auto).await.map(Some);
        }
        match Membership::of(&self.hub, &client, &self.credentials).await? {
            Membership::Linked(link) => return Ok(Some(link)),
            Membership::Foreign => tracing::warn!(
                "nothing is sent to the Hub: the secret of this gateway is not on this machine; \
                 `ultra link` links it anew"
            ),
            Membership::None => tracing::warn!(
                "nothing is sent to the Hub: this gateway is not linked; `ultra link` links it"
            ),
        }
        Ok(None)
    }

    /// What there was before this gateway started stays private, if it is linked now.
    async fn history(&self) -> Result<History, DeployError> {
        let (store, started) = (Arc::clone(&self.gateway.store), self.started_unix_ns);
        let read = tokio::task::spawn_blocking(move || History::until(&*store, started)).await;
        match read {
            Ok(Ok(history)) => Ok(history),
            Ok(Err(error)) => Err(DeployError::Store(error)),
            Err(_) => Err(DeployError::Store(ultra_store::StoreError::Closed)),
        }
    }

    fn send(self, link: Link) -> Option<Sync> {
        let (hub, gateway_id) = (link.hub.clone(), link.gateway_id.clone());
        let credentials = self.credentials;
        let options = Options {
            url: link.hub,
            gateway_id: link.gateway_id,
            secret: link.secret,
            is_linked: Arc::new(move || credentials.is_kept(&hub, &gateway_id)),
            linked_unix_ns: link.linked_unix_ns,
            started_unix_ns: self.started_unix_ns,
            // Of a gateway that is linked since then the Hub has nothing yet.
            before: self.before.filter(|_| link.linked_unix_ns < self.started_unix_ns),
            interval: self.hub.sync_interval,
            host: self.host,
            database: self.database,
            clients: self.gateway.clients,
            upstreams: self.gateway.upstreams,
        };
        Sync::start(options, self.gateway.store)
    }
}

#[cfg(test)]
mod tests;
