//! The gateways: how they come in, how they are, and where people look at them.

mod actions;
mod links;
mod presence;
mod sql;
mod state;
#[cfg(test)]
mod tests;
mod uptime;

use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use actions::router;
pub(crate) use links::{Known, Links, Party, described};
pub(crate) use presence::Presence;
pub(crate) use sql::SqlFleet;
pub(crate) use state::{Counts, State};
pub(crate) use uptime::Uptime;

use crate::events::Found;
use crate::id::{GatewayId, UserId, WorkspaceId};
use crate::wire::{ClientReport, Host, SetupReport, UpstreamReport};

/// Where pages learn of gateways: the Hub's database, or the one machine of `ultra dashboard`.
#[async_trait]
pub(crate) trait Fleet: Send + Sync {
    /// Returns gateways in the order asked for.
    async fn gateways(
        &self,
        workspaces: &[WorkspaceId],
        query: &GatewayQuery,
    ) -> Found<GatewayPage>;

    /// Returns one gateway with everything that is known of it, whether it is linked or not.
    async fn gateway(
        &self,
        workspaces: &[WorkspaceId],
        id: GatewayId,
    ) -> Found<Option<GatewayDetail>>;

    /// Returns how many there are in each state, whatever the filter on states.
    async fn counts(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Found<Counts>;

    /// Returns what there is to filter such gateways by, most frequent first, a bounded number of each.
    async fn facets(&self, workspaces: &[WorkspaceId], link: Link) -> Found<Facets>;

    /// Returns the figures of the whole Hub, for those who look after it. One machine has none.
    async fn figures(&self) -> Found<Figures> {
        Ok(Figures::default())
    }
}

/// Whether a gateway belongs to its workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Link {
    #[default]
    Linked,
    /// Its link was ended; it may link itself anew.
    Unlinked,
    /// It will not come back.
    Archived,
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [Self::Linked, Self::Unlinked, Self::Archived];

    /// As it stands in addresses.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::Unlinked => "unlinked",
            Self::Archived => "archived",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|link| link.as_str() == text)
    }
}

/// Which gateways. Every field narrows; of several values of one field one is enough.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayQuery {
    pub(crate) link: Link,
    pub(crate) states: Vec<State>,
    pub(crate) versions: Vec<String>,
    pub(crate) systems: Vec<String>,
    pub(crate) kinds: Vec<String>,
    pub(crate) environments: Vec<String>,
    pub(crate) owner: Option<UserId>,
    /// Part of the name, the host name, the owner's name or address, in any case.
    pub(crate) search: Option<String>,
    pub(crate) sort: Sort,
    pub(crate) descending: bool,
    /// The row behind which the page begins.
    pub(crate) offset_key: Option<GatewayKey>,
    pub(crate) limit: u32,
}

/// What those who look after a Hub watch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    /// Gateways that are linked, and how many of them are online.
    pub(crate) gateways: i64,
    pub(crate) online: i64,
    /// Records that they have not sent yet.
    pub(crate) unsent: i64,
    pub(crate) database_bytes: i64,
}

/// What there is to filter by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facets {
    pub(crate) versions: Vec<String>,
    pub(crate) systems: Vec<String>,
    pub(crate) kinds: Vec<String>,
    pub(crate) environments: Vec<String>,
    /// With their names.
    pub(crate) owners: Vec<(UserId, String)>,
}

/// What gateways are ordered by; rows that are equal in it by id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Name,
    LastSeen,
    Workspace,
    Version,
    State,
}

/// A place in the list: what the row there is ordered by, and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayKey {
    pub(crate) value: String,
    pub(crate) id: GatewayId,
}

/// A page of gateways.
#[derive(Debug)]
pub(crate) struct GatewayPage {
    pub(crate) rows: Vec<GatewayLine>,
    pub(crate) next: Option<GatewayKey>,
}

/// A gateway in the list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GatewayLine {
    #[schema(value_type = String)]
    pub(crate) id: GatewayId,
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) link: Link,
    /// When it was unlinked or archived.
    pub(crate) ended_ms: Option<i64>,
    pub(crate) seen_ms: Option<i64>,
    pub(crate) created_ms: i64,
    #[schema(value_type = String)]
    pub(crate) workspace: WorkspaceId,
    pub(crate) workspace_name: String,
    /// Name of its owner, or else the address.
    pub(crate) owner: Option<String>,
    #[schema(value_type = Option<String>)]
    pub(crate) owner_id: Option<UserId>,
    pub(crate) host: Host,
}

/// A gateway with everything.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct GatewayDetail {
    #[serde(flatten)]
    pub(crate) line: GatewayLine,
    /// Name of the deploy key that linked it.
    pub(crate) deploy_key: Option<String>,
    /// When it last sent records.
    pub(crate) synced_ms: Option<i64>,
    /// Records that wait to be sent.
    pub(crate) unsent: i64,
    /// What nobody can report yet is missing.
    pub(crate) setup: SetupReport,
    pub(crate) clients: Vec<ClientReport>,
    pub(crate) upstreams: Vec<UpstreamReport>,
}
