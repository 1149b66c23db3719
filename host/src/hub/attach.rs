//! What `ultra start` has of the Hub: finds the link, or makes one with a deploy key, then sends.
//!
//! On a thread of its own from its first line: it asks a keychain, writes files, and waits for the Hub, and
//! no client waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use ultra_store::Store;

use super::client::{Client, ClientError};
use super::clients::Clients;
use super::credentials::{Credentials, CredentialsError, Link};
use super::deploy::{AutoLink, DeployError, link_by_key};
use super::linking::{History, LinkError, Membership};
use super::sync::{Options, Sync};
use super::{host_facts, pace};
use crate::config::{self, Config, Environment};
use crate::upstream::Definition;
use crate::{auth, chain, unix_ns};

/// Between two tries to link: at first, and in the end.
const TRY_AGAIN_MIN: Duration = Duration::from_secs(5);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(5 * 60);

/// What links ends at its next wait when the gateway ends; a keychain may not let it.
const LINK_END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the gateway is, and what it sends of.
pub(crate) struct Gateway {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) upstreams: watch::Receiver<Arc<[Definition]>>,
}

/// A gateway that belongs to a Hub, or tries to.
pub(crate) struct Attachment {
    stop: CancellationToken,
    /// Nothing comes any more when the link was not found, or not in time.
    sync: oneshot::Receiver<Sync>,
}

impl Attachment {
    /// Begins, if the config wants it.
    pub(crate) fn begin(
        config: &Config,
        environment: &Environment,
        gateway: Gateway,
    ) -> Option<Self> {
        let hub = &config.hub;
        let wanted = hub.enabled.unwrap_or(hub.deploy_key.is_some());
        if !wanted || hub.offline_mode {
            return None;
        }
        let kept = auth::Options::of(environment).map(|options| Credentials::new(&options));
        let file = config.path.clone().map_or_else(|| Config::default_path(environment), Ok);
        let (credentials, file) = match (kept, file) {
            (Ok(credentials), Ok(file)) => (credentials, file),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("nothing is sent to the Hub: {}", chain(&error));
                return None;
            }
        };
        let seeker = Seeker {
            hub: hub.clone(),
            file,
            credentials,
            host: host_facts(environment, Some(&hub.environment)),
            database: (config.storage.backend == config::Backend::Sqlite)
                .then(|| config.storage.path.clone()),
            started_unix_ns: unix_ns(),
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
        if let Ok(Ok(sync)) = timeout(LINK_END_TIMEOUT, self.sync).await
            && !sync.shutdown().await
        {
            tracing::debug!("the Hub was not told in time that this gateway ends");
        }
    }
}

/// Looks for the gateway's link.
struct Seeker {
    hub: config::Hub,
    file: PathBuf,
    credentials: Credentials,
    host: ultra_hub::wire::Host,
    database: Option<PathBuf>,
    started_unix_ns: i64,
    gateway: Gateway,
}

impl Seeker {
    /// Returns the link; nothing if there is none, which has been said then.
    async fn link(&self) -> Option<Link> {
        let mut pause = TRY_AGAIN_MIN;
        let mut warned = false;
        loop {
            match self.find().await {
                Ok(link) => return link,
                Err(error) if passes(&error) => {
                    if !warned {
                        tracing::warn!(
                            "not linked to the Hub yet, and trying again: {}",
                            chain(&error)
                        );
                        warned = true;
                    }
                    tokio::time::sleep(pace::jittered(pause)).await;
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
        let options = Options {
            url: link.hub,
            gateway_id: link.gateway_id,
            secret: link.secret,
            linked_unix_ns: link.linked_unix_ns,
            interval: self.hub.sync_interval,
            host: self.host,
            database: self.database,
            clients: self.gateway.clients,
            upstreams: self.gateway.upstreams,
        };
        Sync::start(options, self.gateway.store)
    }
}

/// Whether it may be another time.
fn passes(error: &DeployError) -> bool {
    match error {
        DeployError::Link(LinkError::Hub(error)) => matches!(
            error,
            ClientError::Away { .. } | ClientError::Busy { .. } | ClientError::Answer { .. }
        ),
        DeployError::Credentials(CredentialsError::Hub(
            ClientError::Away { .. } | ClientError::Busy { .. },
        )) => true,
        DeployError::Malformed
        | DeployError::Store(_)
        | DeployError::Credentials(_)
        | DeployError::Link(LinkError::Keep(_)) => false,
    }
}
