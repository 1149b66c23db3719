//! A gateway that links itself, by a deploy key.
//!
//! Once, whoever starts at the same time, and not again at the next start, even where the config file
//! cannot be written: the link is found by the key.

use std::path::PathBuf;

use ultra_hub::wire::{Host, LinkRequest};

use super::client::Client;
use super::credentials::{Credentials, CredentialsError, Link};
use super::linking::{History, LinkError, Membership, link, lookup, write_config};
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

/// Links a gateway by its deploy key, unless that has been done; returns the link.
///
/// A key other than that of the gateway's link makes a new link. A gateway that a person linked stays
/// where it is.
///
/// # Errors
///
/// [`DeployError::Malformed`] without asking anybody.
pub(crate) async fn link_by_key(auto: AutoLink<'_>) -> Result<Link, DeployError> {
    let AutoLink { client, credentials, config, file, host, history } = auto;
    let key = config.deploy_key.as_ref().ok_or(DeployError::Malformed)?;
    let found_by = lookup(key).ok_or(DeployError::Malformed)?;
    if let Membership::Linked(known) = Membership::of(config, client, credentials).await? {
        return Ok(known);
    }
    let _turn = credentials.lock_linking(client.url().as_str()).await?;
    // Whoever had the lock before may have linked.
    if let Membership::Linked(known) = Membership::of(config, client, credentials).await? {
        return Ok(known);
    }
    let request = LinkRequest {
        workspace: None,
        name: host.hostname.clone(),
        host,
        before: history.streams,
        request: None,
    };
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
