//! [`Fleet`] of one machine: its gateways share a database, and are shown as one.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ultra_store::{Reader, SqliteReader, StoreError, TraceFilter, UpstreamStatus};

use super::records::read_in;
use crate::clock::now_ms;
use crate::events::Found;
use crate::fleet::{
    Counts, Facets, Fleet, GatewayDetail, GatewayLine, GatewayPage, GatewayQuery, Link, State,
};
use crate::id::{GatewayId, WorkspaceId};
use crate::wire::{Host, SetupReport, UpstreamReport};

/// A gateway that runs says so every five minutes; one that does not for longer is not there.
const SILENCE_MAX_MS: i64 = 6 * 60_000;

/// The gateways of this machine, as one.
#[derive(Debug)]
pub(crate) struct LocalFleet {
    reader: Arc<SqliteReader>,
    host: Host,
}

impl LocalFleet {
    /// Opens a database that exists.
    pub(crate) fn open(database: &Path, host: Host) -> Result<Self, StoreError> {
        Ok(Self { reader: Arc::new(SqliteReader::open(database)?), host })
    }

    async fn line(&self) -> Found<GatewayLine> {
        let (seen_ms, created_ms) = read_in(&self.reader, |reader| {
            let ms = |at_ns: i64| at_ns / 1_000_000;
            let newest = TraceFilter { limit: 1, payloads: false, ..TraceFilter::default() };
            let oldest = TraceFilter { after_seq: Some(0), ..newest.clone() };
            let at = |filter| -> Result<Option<i64>, StoreError> {
                let rows = reader.traces(filter)?;
                let time = rows.first().and_then(|row| row.timestamp.parse().ok());
                Ok(time.map(|time: jiff::Timestamp| time.as_millisecond()))
            };
            let seen = reader.seen_unix_ns()?.map(ms);
            Ok((seen.max(at(&newest)?), at(&oldest)?.or(seen)))
        })
        .await?;
        let state = match seen_ms {
            None => State::Pending,
            Some(seen) if now_ms() - seen <= SILENCE_MAX_MS => State::Online,
            Some(_) => State::Idle,
        };
        let entry = super::entry();
        Ok(GatewayLine {
            id: super::gateway(),
            name: super::name(&self.host),
            state,
            link: Link::Linked,
            ended_ms: None,
            seen_ms,
            created_ms: created_ms.unwrap_or_else(now_ms),
            workspace: entry.workspace,
            workspace_name: entry.workspace_name,
            owner: None,
            owner_id: None,
            host: self.host.clone(),
        })
    }
}

fn is_here(workspaces: &[WorkspaceId]) -> bool {
    workspaces.iter().any(|workspace| workspace.number() == super::WORKSPACE)
}

/// Whether a line fits, but for its state.
fn fits(line: &GatewayLine, query: &GatewayQuery) -> bool {
    let any = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|of| of == is);
    let search = query.search.as_deref().unwrap_or_default().to_lowercase();
    query.link == Link::Linked
        && any(&query.versions, &line.host.version)
        && any(&query.systems, &line.host.os)
        && any(&query.kinds, &line.host.kind)
        && any(&query.environments, &line.host.environment)
        && query.owner.is_none()
        && line.name.to_lowercase().contains(&search)
}

/// Returns the last word on each upstream, of whichever gateway has it. Newest first is how they come.
fn upstreams(all: Vec<UpstreamStatus>) -> Vec<UpstreamReport> {
    let mut reports: Vec<UpstreamReport> = Vec::new();
    for status in all {
        if !reports.iter().any(|known| known.name == status.upstream) {
            reports.push(UpstreamReport {
                name: status.upstream,
                state: status.state,
                server: status.server,
                transport: None,
                tools: status.tools,
                error: status.error,
            });
        }
    }
    reports.sort_by(|a, b| a.name.cmp(&b.name));
    reports
}

#[async_trait]
impl Fleet for LocalFleet {
    async fn gateways(
        &self,
        workspaces: &[WorkspaceId],
        query: &GatewayQuery,
    ) -> Found<GatewayPage> {
        let line = self.line().await?;
        let wanted = is_here(workspaces)
            && query.offset_key.is_none()
            && (query.states.is_empty() || query.states.contains(&line.state))
            && fits(&line, query);
        Ok(GatewayPage { rows: wanted.then_some(line).into_iter().collect(), next: None })
    }

    async fn gateway(
        &self,
        workspaces: &[WorkspaceId],
        id: GatewayId,
    ) -> Found<Option<GatewayDetail>> {
        if !is_here(workspaces) || id != super::gateway() {
            return Ok(None);
        }
        let line = self.line().await?;
        let statuses = read_in(&self.reader, |reader| reader.upstreams()).await?;
        Ok(Some(GatewayDetail {
            line,
            deploy_key: None,
            synced_ms: None,
            unsent: 0,
            setup: SetupReport::default(),
            clients: Vec::new(),
            upstreams: upstreams(statuses),
        }))
    }

    async fn counts(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Found<Counts> {
        let line = self.line().await?;
        let mut counts = Counts::default();
        if is_here(workspaces) && fits(&line, query) {
            match line.state {
                State::Online => counts.online = 1,
                State::Idle => counts.idle = 1,
                State::Offline => counts.offline = 1,
                State::Pending => counts.pending = 1,
            }
        }
        Ok(counts)
    }

    /// There is one gateway: nothing to choose.
    async fn facets(&self, _workspaces: &[WorkspaceId], _link: Link) -> Found<Facets> {
        Ok(Facets::default())
    }
}
