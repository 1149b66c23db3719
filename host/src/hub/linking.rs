//! Linking a gateway to a workspace: what the Hub is asked, what is kept, and what the config says.
//!
//! Knows neither who asks nor why; see `deploy` and the commands.

use std::path::Path;

use serde_json::Value;
use ultra_hub::secret::{self, Purpose};
use ultra_hub::wire::{LinkRequest, RecordKind, StreamState};
use ultra_store::{Mark, Reader, StoreError};

use super::client::{Client, ClientError};
use super::credentials::{Credentials, CredentialsError, Link};
use crate::auth::Secret;
use crate::config::{self, ConfigFile, EditError};
use crate::unix_ns;

/// Why a gateway was not linked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The Hub does not do it.
    #[error(transparent)]
    Hub(#[from] ClientError),
    /// What it gives could not be kept.
    #[error("a link could not be kept")]
    Keep(#[source] CredentialsError),
}

impl LinkError {
    /// Returns whether it may be another time.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Hub(error) => error.passes(),
            Self::Keep(error) => error.passes(),
        }
    }
}

/// What a database has from before its gateway was linked. It stays private.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// As the Hub is told.
    pub(crate) streams: Vec<StreamState>,
    /// The last numbers that stay private.
    pub(crate) last: Mark,
    /// When that was, in nanoseconds since 1970.
    pub(crate) until_unix_ns: i64,
}

impl History {
    /// Returns all that a database has now.
    pub(crate) fn until_now(reader: &dyn Reader) -> Result<Self, StoreError> {
        let numbers = reader.numbers()?;
        let last = |numbers: Option<(i64, i64)>| numbers.map_or(0, |(_, last)| last);
        let (trace, audit_event) = (last(numbers.traces), last(numbers.audit_events));
        Self::new(reader, Mark { trace, audit_event }, unix_ns())
    }

    /// Returns what a database had at a time, in nanoseconds since 1970.
    pub(crate) fn until(reader: &dyn Reader, unix_ns: i64) -> Result<Self, StoreError> {
        Self::new(reader, reader.numbers_before(unix_ns)?, unix_ns)
    }

    fn new(reader: &dyn Reader, last: Mark, until_unix_ns: i64) -> Result<Self, StoreError> {
        let database = reader.database_id()?;
        let kinds = [(RecordKind::Traces, last.trace), (RecordKind::Audit, last.audit_event)];
        // A kind without records is named too: of a database that it was not told of the Hub gets what is
        // younger than the link, and a clock may have been set back.
        let stream = |(kind, last)| {
            let spans = Some((1, last)).filter(|_| last > 0).into_iter().collect();
            StreamState { database: database.clone(), kind, spans }
        };
        Ok(Self { streams: kinds.map(stream).into(), last, until_unix_ns })
    }
}

/// Links a gateway and keeps its secret. `key` is what the Hub finds the deploy key by, if `who` is one.
///
/// Whoever asks again after an answer was lost gets the gateway that was made then. The caller has the lock
/// of [`Credentials::lock_linking`]: of two that ask the same at once, only one would get a secret that holds.
///
/// # Errors
///
/// Then no gateway is linked, as far as the Hub can be told.
pub(crate) async fn link(
    client: &Client,
    credentials: &Credentials,
    who: &Secret,
    key: Option<i64>,
    request: &LinkRequest,
    until_unix_ns: i64,
) -> Result<Link, LinkError> {
    let hub = client.url().as_str();
    // The Hub shows the secret once: this also shows that it could be kept.
    let id = credentials.request_id(hub, key, request.workspace.as_deref()).await;
    let id = id.map_err(LinkError::Keep)?;
    let request = LinkRequest { request: Some(id.clone()), ..request.clone() };
    let linked = match client.link(who.expose(), &request).await {
        Ok(linked) => linked,
        Err(error) => {
            if !error.passes() {
                // It was answered, and nothing was made. An id that stays does no harm.
                let _ = credentials.answered(id, None).await;
            }
            return Err(error.into());
        }
    };
    let link = Link {
        hub: client.url().to_string(),
        gateway_id: linked.gateway_id,
        workspace_id: linked.workspace.id,
        workspace: linked.workspace.name,
        name: linked.name,
        secret: Secret::new(linked.secret),
        linked_unix_ns: until_unix_ns,
        key,
    };
    if let Err(error) = credentials.answered(id, Some(link.clone())).await {
        // Nobody else could take it out of the list. If that fails too, somebody sees it there.
        let _ = client.unlink(link.secret.expose()).await;
        return Err(LinkError::Keep(error));
    }
    Ok(link)
}

/// By which link a gateway belongs to a workspace.
#[derive(Debug)]
pub(crate) enum Membership {
    /// By this one.
    Linked(Link),
    /// The config names a gateway whose secret is not on this machine.
    Foreign,
    /// By none.
    None,
}

impl Membership {
    /// Looks it up: what the deploy key linked, if one is set and has; otherwise what the config names.
    pub(crate) async fn of(
        config: &config::Hub,
        client: &Client,
        credentials: &Credentials,
    ) -> Result<Self, CredentialsError> {
        let hub = client.url().as_str();
        if let Some(key) = config.deploy_key.as_ref().and_then(lookup)
            && let Some(link) = credentials.link_of_key(hub, key).await?
        {
            return Ok(Self::Linked(link));
        }
        let Some(gateway_id) = &config.gateway_id else { return Ok(Self::None) };
        Ok(credentials.link(hub, gateway_id).await?.map_or(Self::Foreign, Self::Linked))
    }
}

/// Returns what the Hub finds a deploy key by; nothing if it is mistyped.
pub(super) fn lookup(key: &Secret) -> Option<i64> {
    secret::Secret::parse(Purpose::DeployKey, key.expose()).map(|key| key.lookup())
}

/// Writes a link into a config file. With no link it only finds out whether that could be done.
pub(crate) fn write_config(path: &Path, link: Option<&Link>) -> Result<(), EditError> {
    let mut file = ConfigFile::open(path)?;
    let (gateway, workspace) =
        link.map_or(("gw_", "ws_"), |link| (link.gateway_id.as_str(), link.workspace_id.as_str()));
    file.set(&["hub", "enabled"], &Value::Bool(true))?;
    file.set(&["hub", "gateway_id"], &gateway.into())?;
    file.set(&["hub", "workspace_id"], &workspace.into())?;
    match link {
        Some(_) => file.save(),
        None => Ok(()),
    }
}

/// Takes a link out of a config file. A deploy key that stays there links nothing anew.
pub(crate) fn clear_config(path: &Path) -> Result<(), EditError> {
    let mut file = ConfigFile::open(path)?;
    file.set(&["hub", "enabled"], &Value::Bool(false))?;
    file.remove(&["hub", "gateway_id"])?;
    file.remove(&["hub", "workspace_id"])?;
    file.save()
}

#[cfg(test)]
mod tests {
    use ultra_store::MemoryStore;

    use super::*;

    fn written(text: &str, change: impl Fn(&Path) -> Result<(), EditError>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        change(&path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    fn linked() -> Link {
        Link {
            hub: "https://hub.example/".to_owned(),
            gateway_id: "gw_1".to_owned(),
            workspace_id: "ws_1".to_owned(),
            workspace: "Work".to_owned(),
            name: "laptop".to_owned(),
            secret: Secret::new("secret".to_owned()),
            linked_unix_ns: 0,
            key: None,
        }
    }

    #[test]
    fn only_what_a_link_is_changes_in_the_config() {
        let before = "# mine\nhub:\n  url: https://hub.example # ours\n  sync_interval: 5m\n";
        let after = written(before, |path| write_config(path, Some(&linked())));

        assert_eq!(
            after,
            "# mine\nhub:\n  url: https://hub.example # ours\n  sync_interval: 5m\n  enabled: true\n  gateway_id: gw_1\n  workspace_id: ws_1\n"
        );
        assert_eq!(
            written(&after, clear_config),
            "# mine\nhub:\n  url: https://hub.example # ours\n  sync_interval: 5m\n  enabled: false\n"
        );
        assert_eq!(written(before, |path| write_config(path, None)), before);
    }

    #[test]
    fn a_database_without_records_is_named_all_the_same() {
        let store = MemoryStore::default();

        let history = History::until_now(&store).unwrap();

        let streams: Vec<_> = history.streams.iter().map(|of| (of.kind, &of.spans[..])).collect();
        assert_eq!(streams, [(RecordKind::Traces, &[][..]), (RecordKind::Audit, &[][..])]);
        assert_eq!(history.last, Mark::default());
        assert!(history.until_unix_ns > 0);
    }

    #[test]
    fn a_mistyped_key_is_none() {
        let key = secret::Secret::new(Purpose::DeployKey);
        let text = key.reveal();

        assert_eq!(lookup(&Secret::new(text.clone())), Some(key.lookup()));
        assert_eq!(lookup(&Secret::new(text[..20].to_owned())), None);
        let gateway = secret::Secret::new(Purpose::Gateway).reveal();
        assert_eq!(lookup(&Secret::new(gateway)), None);
    }
}
