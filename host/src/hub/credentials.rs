//! What lets people and gateways into Hubs: kept encrypted beside the tokens for servers, and renewed.
//!
//! A person's refresh token works once. So one process renews at a time, and its successor is on disk
//! before anybody uses what came with it. A gateway's secret stays as it is.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use super::grant::{self, GrantError, Tokens};
use crate::auth::{
    FileError, FileLock, KeyError, KeychainError, Options, Secret, Vault, VaultError, sealed,
};

/// A token is renewed when this much of its life is left: a command that takes a moment to get there
/// still finds it valid.
const MARGIN_S: u64 = 60;

/// Another process renews within the time limit of a request.
const RENEWAL_LOCK_TIMEOUT: Duration = Duration::from_secs(70);

/// Whoever links by a deploy key asks the Hub once.
const LINK_LOCK_TIMEOUT: Duration = Duration::from_secs(70);

/// Requests that nobody made again for so long that there are as many newer ones are forgotten.
const REQUESTS_MAX: usize = 16;

/// What is kept of Hubs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// At most one per Hub.
    accounts: Vec<Account>,
    /// At most one per gateway, and per deploy key.
    links: Vec<Link>,
    /// The oldest first.
    requests: Vec<Request>,
}

/// A request to link that may have been heard, and was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    /// Address of the Hub, as [`Client::url`] has it.
    hub: String,
    /// By which deploy key, if by one.
    key: Option<i64>,
    /// Where to; a key has its own.
    workspace: Option<String>,
    /// By which the Hub knows it again.
    id: String,
}

/// Somebody who signed in to a Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Address of the Hub, as [`Client::url`] has it.
    pub(crate) hub: String,
    /// `uha_…`
    #[serde(with = "sealed")]
    pub(crate) access_token: Secret,
    /// `uhr_…`
    #[serde(with = "sealed")]
    pub(crate) refresh_token: Secret,
    /// When the access token ends, in seconds since 1970.
    pub(crate) expires_at: u64,
}

/// A gateway that is linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Address of the Hub, as [`Client::url`] has it.
    pub(crate) hub: String,
    /// `gw_…`
    pub(crate) gateway_id: String,
    /// `ws_…`
    pub(crate) workspace_id: String,
    /// What people see of the workspace.
    pub(crate) workspace: String,
    /// What people see of the gateway.
    pub(crate) name: String,
    /// `ugw_…`
    #[serde(with = "sealed")]
    pub(crate) secret: Secret,
    /// What is older stays private; in nanoseconds since 1970.
    pub(crate) linked_unix_ns: i64,
    /// By which deploy key, if by one: what the Hub finds it by.
    #[serde(default)]
    pub(crate) key: Option<i64>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// Nobody has signed in, or not for long enough.
    #[error("not logged in to {hub}")]
    SignedOut { hub: String },
    /// Somebody has, but that has ended.
    #[error("the session at {hub} has ended")]
    Ended { hub: String },
    /// Another process does the same for too long.
    #[error("`{}` is in use for too long", path.display())]
    Locked { path: PathBuf },
    /// What is kept cannot be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The Hub gives no token.
    #[error(transparent)]
    Hub(#[from] ClientError),
    /// Likewise.
    #[error("the Hub gives no token: {reason}")]
    Refused { reason: String },
    /// The process ends.
    #[error("the process ends")]
    Ending,
}

impl CredentialsError {
    /// Returns whether it may be another time.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Locked { .. } => true,
            Self::Vault(VaultError::Locked { .. }) => true,
            Self::Vault(VaultError::Key { source: KeyError::Keychain(error) }) => {
                matches!(error, KeychainError::Silent)
            }
            Self::Hub(error) => error.passes(),
            Self::Vault(
                VaultError::Key { .. }
                | VaultError::WrongKey { .. }
                | VaultError::Damaged { .. }
                | VaultError::File(_),
            )
            | Self::SignedOut { .. }
            | Self::Ended { .. }
            | Self::Refused { .. }
            | Self::Ending => false,
        }
    }
}

impl From<FileError> for CredentialsError {
    fn from(error: FileError) -> Self {
        Self::Vault(error.into())
    }
}

/// The credentials of this user. Clones are the same.
#[derive(Clone)]
pub(crate) struct Credentials {
    vault: Arc<Vault>,
}

impl fmt::Debug for Credentials {
    /// Shows nothing of what is kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Returns those kept where the tokens for servers are. Nothing is read before it is needed.
    pub(crate) fn new(options: &Options) -> Self {
        Self { vault: Arc::new(Vault::new(options.directory.clone(), options.keys.clone())) }
    }

    /// Returns who has signed in to a Hub.
    pub(crate) async fn account(&self, hub: &str) -> Result<Option<Account>, CredentialsError> {
        let kept = self.kept().await?;
        Ok(kept.accounts.into_iter().find(|account| account.hub == hub))
    }

    /// Keeps who has signed in, in the place of whoever had before.
    pub(super) async fn keep_account(&self, account: Account) -> Result<(), CredentialsError> {
        self.change(|kept| {
            kept.accounts.retain(|known| known.hub != account.hub);
            kept.accounts.push(account);
        })
        .await
    }

    /// Keeps the tokens of whoever has just signed in; returns the one for requests.
    pub(crate) async fn keep_tokens(
        &self,
        client: &Client,
        tokens: Tokens,
    ) -> Result<Secret, CredentialsError> {
        let account = tokens.account(client.url().to_string(), now_s());
        let token = account.access_token.clone();
        self.keep_account(account).await?;
        Ok(token)
    }

    /// Returns who has signed in, at every Hub.
    pub(crate) async fn accounts(&self) -> Result<Vec<Account>, CredentialsError> {
        Ok(self.kept().await?.accounts)
    }

    /// Forgets who has signed in, at every Hub, and what they asked for; returns who it was.
    pub(crate) async fn forget_accounts(&self) -> Result<Vec<Account>, CredentialsError> {
        self.change(|kept| {
            kept.requests.retain(|request| request.key.is_some());
            std::mem::take(&mut kept.accounts)
        })
        .await
    }

    /// Returns an access token that holds, renewed if it is time: once, in all processes of the user.
    ///
    /// # Errors
    ///
    /// - [`CredentialsError::SignedOut`], [`CredentialsError::Ended`]: somebody has to sign in.
    /// - Anything else: the token is not known to be of no use.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not end a renewal that is under way: its refresh token is used up.
    pub(crate) async fn access_token(&self, client: &Client) -> Result<Secret, CredentialsError> {
        let hub = client.url().to_string();
        let signed_out = || CredentialsError::SignedOut { hub: hub.clone() };
        let account = self.account(&hub).await?.ok_or_else(signed_out)?;
        if account.holds(now_s()) {
            return Ok(account.access_token);
        }
        self.renewed(client, account).await
    }

    /// Returns another access token than that of `stale`, which does not hold or was refused.
    pub(crate) async fn renewed(
        &self,
        client: &Client,
        stale: Account,
    ) -> Result<Secret, CredentialsError> {
        let (this, client) = (self.clone(), client.clone());
        let renewal = tokio::spawn(async move { this.renew(&client, stale).await });
        renewal.await.unwrap_or(Err(CredentialsError::Ending))
    }

    async fn renew(&self, client: &Client, stale: Account) -> Result<Secret, CredentialsError> {
        let hub = stale.hub.clone();
        let _lock = self.lock("hub-renewal", &hub, RENEWAL_LOCK_TIMEOUT).await?;
        let signed_out = || CredentialsError::SignedOut { hub: hub.clone() };
        let known = self.account(&hub).await?.ok_or_else(signed_out)?;
        if known.access_token != stale.access_token {
            return Ok(known.access_token);
        }
        match grant::refresh(client, &known.refresh_token).await {
            Ok(tokens) => {
                let next = tokens.account(hub.clone(), now_s());
                let token = next.access_token.clone();
                // Not over a sign-out, or a sign-in, that happened meanwhile.
                self.change(move |kept| kept.replace_account(&known, next)).await?;
                Ok(token)
            }
            Err(GrantError::Refused { .. }) => {
                self.change(move |kept| kept.accounts.retain(|account| *account != known)).await?;
                Err(CredentialsError::Ended { hub })
            }
            Err(GrantError::Hub(error)) => Err(error.into()),
            Err(GrantError::Answer(reason)) => Err(CredentialsError::Refused { reason }),
        }
    }

    /// Returns the link of a gateway at a Hub.
    pub(crate) async fn link(
        &self,
        hub: &str,
        gateway_id: &str,
    ) -> Result<Option<Link>, CredentialsError> {
        let is_it = |link: &Link| link.hub == hub && link.gateway_id == gateway_id;
        Ok(self.kept().await?.links.into_iter().find(is_it))
    }

    /// Returns the link that was made at a Hub with a deploy key.
    pub(crate) async fn link_of_key(
        &self,
        hub: &str,
        key: i64,
    ) -> Result<Option<Link>, CredentialsError> {
        let is_it = |link: &Link| link.hub == hub && link.key == Some(key);
        Ok(self.kept().await?.links.into_iter().find(is_it))
    }

    /// Returns whether a link is still kept; one that cannot be looked for is. Blocks on the disk.
    pub(super) fn is_kept(&self, hub: &str, gateway_id: &str) -> bool {
        let is_it = |link: &Link| link.hub == hub && link.gateway_id == gateway_id;
        self.vault.load().map_or(true, |records| records.hub.links.iter().any(is_it))
    }

    /// Returns the id of a request to link, which is that of an earlier one that was not answered. It is
    /// durable, so that the Hub knows the request again whatever happens to this process.
    pub(super) async fn request_id(
        &self,
        hub: &str,
        key: Option<i64>,
        workspace: Option<&str>,
    ) -> Result<String, CredentialsError> {
        let (hub, workspace) = (hub.to_owned(), workspace.map(str::to_owned));
        let id = uuid::Uuid::now_v7().to_string();
        self.change(move |kept| kept.request_id(Request { hub, key, workspace, id })).await
    }

    /// Keeps what came of a request: a link, or none.
    pub(super) async fn answered(
        &self,
        request_id: String,
        link: Option<Link>,
    ) -> Result<(), CredentialsError> {
        self.change(move |kept| {
            kept.requests.retain(|request| request.id != request_id);
            if let Some(link) = link {
                kept.make_room(&link);
                kept.links.push(link);
            }
        })
        .await
    }

    /// Keeps a link.
    #[cfg(test)]
    pub(crate) async fn keep_link(&self, link: Link) -> Result<(), CredentialsError> {
        self.answered(String::new(), Some(link)).await
    }

    /// Forgets a link.
    pub(crate) async fn forget_link(&self, link: &Link) -> Result<(), CredentialsError> {
        let (hub, gateway_id) = (link.hub.clone(), link.gateway_id.clone());
        self.change(move |kept| {
            kept.links.retain(|known| known.gateway_id != gateway_id || known.hub != hub);
        })
        .await
    }

    /// Waits until no other process links this user's gateway to a Hub.
    pub(crate) async fn lock_linking(&self, hub: &str) -> Result<FileLock, CredentialsError> {
        self.lock("hub-link", hub, LINK_LOCK_TIMEOUT).await
    }

    async fn lock(
        &self,
        what: &str,
        hub: &str,
        limit: Duration,
    ) -> Result<FileLock, CredentialsError> {
        let path = self.vault.lock_path(what, hub)?;
        let lock = FileLock::take(&path, limit).await?;
        lock.ok_or(CredentialsError::Locked { path })
    }

    async fn kept(&self) -> Result<Kept, CredentialsError> {
        self.blocking(|vault| Ok(vault.load()?.hub)).await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Kept) -> T + Send + 'static,
    ) -> Result<T, CredentialsError> {
        self.blocking(|vault| vault.update(|records| change(&mut records.hub))).await
    }

    /// The disk may be slow, and a keychain may ask its user.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, CredentialsError> {
        let vault = Arc::clone(&self.vault);
        let done = tokio::task::spawn_blocking(move || work(&vault)).await;
        Ok(done.map_err(|_| CredentialsError::Ending)??)
    }
}

impl Kept {
    fn request_id(&mut self, next: Request) -> String {
        let is_it = |known: &&Request| {
            (&known.hub, known.key, &known.workspace) == (&next.hub, next.key, &next.workspace)
        };
        if let Some(known) = self.requests.iter().find(is_it) {
            return known.id.clone();
        }
        let id = next.id.clone();
        self.requests.drain(..(self.requests.len() + 1).saturating_sub(REQUESTS_MAX));
        self.requests.push(next);
        id
    }

    /// Forgets what a link takes the place of.
    fn make_room(&mut self, link: &Link) {
        let is_same = |known: &Link| {
            known.gateway_id == link.gateway_id || (known.key.is_some() && known.key == link.key)
        };
        self.links.retain(|known| known.hub != link.hub || !is_same(known));
    }

    fn replace_account(&mut self, old: &Account, next: Account) {
        if let Some(place) = self.accounts.iter_mut().find(|account| *account == old) {
            *place = next;
        }
    }
}

impl Account {
    fn holds(&self, now_s: u64) -> bool {
        now_s.saturating_add(MARGIN_S) < self.expires_at
    }
}

/// Returns seconds since 1970 UTC.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
