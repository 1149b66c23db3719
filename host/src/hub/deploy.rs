//! A gateway that links itself, by a deploy key.
//!
//! Once, whoever starts at the same time, and not again at the next start, even where the config file
//! cannot be written: the link is found by the key.

use std::path::PathBuf;
use std::time::Duration;

use ultra_hub::wire::{Host, LinkRequest};

use super::client::Client;
use super::credentials::{Credentials, CredentialsError, Link};
use super::linking::{History, LinkError, link, lookup, write_config};
use crate::{chain, config};

/// What is linked, and how.
pub(crate) struct AutoLink<'a> {
    /// The way to the Hub.
    pub(crate) client: &'a Client,
    /// Where the link is kept.
    pub(crate) credentials: &'a Credentials,
    /// `hub` of the config, with the key.
    pub(crate) config: &'a config::Hub,
    /// The config file to write the link to.
    pub(crate) file: PathBuf,
    /// The machine. Its name is the gateway's.
    pub(crate) host: Host,
    /// What stays private.
    pub(crate) history: History,
}

/// Why a gateway did not link itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// The key cannot be one.
    #[error("the deploy key is mistyped or cut")]
    Malformed,
    /// What is kept cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What the database has cannot be read.
    #[error(transparent)]
    Store(#[from] ultra_store::StoreError),
    /// The Hub does not do it, or what it gives cannot be kept.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl DeployError {
    /// Returns whether it may be another time.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Credentials(error) => error.passes(),
            Self::Link(error) => error.passes(),
            Self::Malformed | Self::Store(_) => false,
        }
    }

    /// Returns for how long the Hub wants to be left alone, if it said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Self::Link(LinkError::Hub(error)) = self else { return None };
        error.retry_after()
    }
}

/// Links a gateway by its deploy key, unless that has been done; returns the link.
///
/// Where a key is set it is what counts: a gateway that another key or a person linked is linked anew.
///
/// # Errors
///
/// [`DeployError::Malformed`] without asking anybody.
pub(crate) async fn link_by_key(auto: AutoLink<'_>) -> Result<Link, DeployError> {
    let AutoLink { client, credentials, config, file, host, history } = auto;
    let key = config.deploy_key.as_ref().ok_or(DeployError::Malformed)?;
    let found_by = lookup(key).ok_or(DeployError::Malformed)?;
    let hub = client.url().as_str();
    if let Some(known) = credentials.link_of_key(hub, found_by).await? {
        return Ok(known);
    }
    let _turn = credentials.lock_linking(hub).await?;
    // Whoever had the lock before may have linked.
    if let Some(known) = credentials.link_of_key(hub, found_by).await? {
        return Ok(known);
    }
    let (name, before) = (host.hostname.clone(), history.streams);
    let request = LinkRequest { workspace: None, name, host, before, request: None };
    let until = history.until_unix_ns;
    let linked = link(client, credentials, key, Some(found_by), &request, until).await?;
    let Link { name, workspace, .. } = &linked;
    tracing::info!(
        hub.gateway = linked.gateway_id,
        "linked to workspace `{workspace}` of the Hub as `{name}`; records from before stay here"
    );
    if let Err(error) = write_config(&file, Some(&linked)) {
        let file = file.display();
        tracing::info!("the link is kept, but not written to `{file}`: {}", chain(&error));
    }
    Ok(linked)
}

#[cfg(test)]
mod tests;
