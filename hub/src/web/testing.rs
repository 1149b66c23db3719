//! A site for tests: a real database of records, gateways in memory, and somebody who is signed in.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::middleware::from_fn;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode, header};
use tempfile::TempDir;
use tower_service::Service;
use ultra_store::{
    AuditEvent, AuditOutcome, Record, Severity, SqliteOptions, SqliteStore, Status, Store, Trace,
};
use uuid::Uuid;

use super::{Gate, Viewing, Web, failure, headers, router};
use crate::access::{Account, Entry, Role};
use crate::error::ApiError;
use crate::events::{Found, GatewayLabel};
use crate::fleet::{
    Counts, Facets, Fleet, GatewayDetail, GatewayKey, GatewayLine, GatewayPage, GatewayQuery, Link,
    Sort, State,
};
use crate::id::{GatewayId, OrganizationId, UserId, WorkspaceId};
use crate::local::LocalRecords;
use crate::wire::{Host, SetupReport};

/// Of what is read in a test; a whole export among it.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The workspace of [`LocalRecords`].
pub(crate) const WORKSPACE: &str = "ws_0000000000001";

/// What a page was.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// What there is to see, and by whom.
pub(crate) struct Site {
    router: Router,
    pub(crate) store: SqliteStore,
    directory: TempDir,
}

/// A site that is not built yet.
pub(crate) struct Plan {
    pub(crate) viewing: Viewing,
    pub(crate) label: GatewayLabel,
    pub(crate) gateways: Vec<GatewayDetail>,
    pub(crate) facets: Facets,
}

impl Default for Plan {
    fn default() -> Self {
        let entry = entry(1, "Main", Role::Admin);
        Self {
            viewing: Viewing {
                account: Some(Account {
                    id: UserId::from_number(7),
                    email: "ann@example.org".to_owned(),
                    name: "Ann".to_owned(),
                }),
                entries: vec![entry.clone(), entry_of_others()],
                entry,
                csrf: "a-token".to_owned(),
            },
            label: GatewayLabel {
                id: GatewayId::from_number(1),
                name: "laptop".to_owned(),
                owner: Some("Ann".to_owned()),
            },
            gateways: Vec::new(),
            facets: Facets::default(),
        }
    }
}

fn entry(workspace: i64, name: &str, role: Role) -> Entry {
    Entry {
        organization: OrganizationId::from_number(1),
        organization_name: "Example".to_owned(),
        team_name: "Platform".to_owned(),
        workspace: WorkspaceId::from_number(workspace),
        workspace_name: name.to_owned(),
        role,
    }
}

fn entry_of_others() -> Entry {
    Entry { organization: OrganizationId::from_number(2), ..entry(2, "Other", Role::Viewer) }
}

impl Plan {
    pub(crate) fn build(self) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ultra.db");
        let store = SqliteStore::open(SqliteOptions::new(&path)).unwrap();
        let router = self.router(&path);
        Site { router, store, directory }
    }

    /// The routes of a site over a database that is there.
    fn router(self, path: &Path) -> Router {
        let records = LocalRecords::open(path, self.label).unwrap();
        let web = Web {
            gate: std::sync::Arc::new(Open(self.viewing)),
            records: std::sync::Arc::new(records),
            fleet: std::sync::Arc::new(MemoryFleet { all: self.gateways, facets: self.facets }),
        };
        router(web).layer(from_fn(headers))
    }
}

impl Site {
    /// A site with these records.
    pub(crate) fn with(traces: Vec<Trace>, events: Vec<AuditEvent>) -> Self {
        let site = Plan::default().build();
        site.record(traces, events);
        site
    }

    pub(crate) fn record(&self, traces: Vec<Trace>, events: Vec<AuditEvent>) {
        for trace in traces {
            self.store.record(Record::Trace(Box::new(trace)));
        }
        for event in events {
            self.store.record(Record::Audit(Box::new(event)));
        }
        assert!(self.store.flush(Instant::now() + Duration::from_secs(20)), "flush took 20 s");
    }

    /// The same records, with other people and gateways around them.
    pub(crate) fn instead(&mut self, plan: Plan) {
        self.router = plan.router(&self.directory.path().join("ultra.db"));
    }

    /// Gets a page below the workspace.
    pub(crate) async fn page(&self, path: &str) -> Answer {
        self.get(&format!("/w/{WORKSPACE}/{path}"), &[]).await
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        answer(self.unread(path, headers).await).await
    }

    /// Gets something whose body nobody reads.
    pub(crate) async fn unread(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        self.router.clone().call(request).await.unwrap()
    }
}

/// Reads an answer.
pub(crate) async fn answer(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

impl Answer {
    /// The page of an answer that is one.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    pub(crate) fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }
}

/// Lets everybody in as one person.
struct Open(Viewing);

#[async_trait]
impl Gate for Open {
    async fn enter(&self, _parts: &Parts, workspace: Option<&str>) -> Result<Viewing, Response> {
        let wanted = |entry: &&Entry| workspace.is_none_or(|id| id == entry.workspace.to_string());
        let entry = self.0.entries.iter().find(wanted).cloned();
        let entry = entry.ok_or_else(|| failure(None, &ApiError::NotFound("workspace")))?;
        Ok(Viewing { entry, ..self.0.clone() })
    }
}

/// Gateways in memory.
struct MemoryFleet {
    all: Vec<GatewayDetail>,
    facets: Facets,
}

impl MemoryFleet {
    /// Those that fit, whatever their state.
    fn fitting(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Vec<&GatewayDetail> {
        let any = |of: &[String], is: &String| of.is_empty() || of.contains(is);
        let search = query.search.as_deref().unwrap_or_default().to_lowercase();
        let fits = |gateway: &&GatewayDetail| {
            let (line, host) = (&gateway.line, &gateway.line.host);
            line.link == query.link
                && workspaces.contains(&line.workspace)
                && any(&query.versions, &host.version)
                && any(&query.systems, &host.os)
                && any(&query.kinds, &host.kind)
                && any(&query.environments, &host.environment)
                && query.owner.is_none()
                && format!("{} {}", line.name, host.hostname).to_lowercase().contains(&search)
        };
        self.all.iter().filter(fits).collect()
    }
}

fn value(line: &GatewayLine, sort: Sort) -> String {
    match sort {
        Sort::Name => line.name.clone(),
        Sort::LastSeen => format!("{:020}", line.seen_ms.unwrap_or(0)),
        Sort::Workspace => line.workspace_name.clone(),
        Sort::Version => line.host.version.clone(),
        Sort::State => line.state.as_str().to_owned(),
    }
}

#[async_trait]
impl Fleet for MemoryFleet {
    async fn gateways(
        &self,
        workspaces: &[WorkspaceId],
        query: &GatewayQuery,
    ) -> Found<GatewayPage> {
        let key = |line: &GatewayLine| (value(line, query.sort), line.id.number());
        let mut lines: Vec<_> = self.fitting(workspaces, query).iter().map(|of| &of.line).collect();
        lines.retain(|line| query.states.is_empty() || query.states.contains(&line.state));
        lines.sort_by_key(|line| key(line));
        if query.descending {
            lines.reverse();
        }
        if let Some(after) = &query.offset_key {
            let place = lines.iter().position(|line| line.id == after.id).unwrap();
            lines.drain(..=place);
        }
        let more = lines.len() > query.limit as usize;
        lines.truncate(query.limit as usize);
        let next = lines
            .last()
            .filter(|_| more)
            .map(|line| GatewayKey { value: value(line, query.sort), id: line.id });
        Ok(GatewayPage { rows: lines.into_iter().cloned().collect(), next })
    }

    async fn gateway(
        &self,
        workspaces: &[WorkspaceId],
        id: GatewayId,
    ) -> Found<Option<GatewayDetail>> {
        let there =
            |of: &&GatewayDetail| of.line.id == id && workspaces.contains(&of.line.workspace);
        Ok(self.all.iter().find(there).cloned())
    }

    async fn counts(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Found<Counts> {
        let mut counts = Counts::default();
        for gateway in self.fitting(workspaces, query) {
            match gateway.line.state {
                State::Online => counts.online += 1,
                State::Idle => counts.idle += 1,
                State::Offline => counts.offline += 1,
                State::Pending => counts.pending += 1,
            }
        }
        Ok(counts)
    }

    async fn facets(&self, _workspaces: &[WorkspaceId], _link: Link) -> Found<Facets> {
        Ok(self.facets.clone())
    }
}

/// Now, in nanoseconds since 1970 UTC.
pub(crate) fn now_ns() -> i64 {
    crate::clock::now_ms() * 1_000_000
}

/// A call that ended `number` seconds before now.
pub(crate) fn trace(number: u64, name: &str) -> Trace {
    Trace {
        id: Uuid::from_u128(0x1000 + u128::from(number)),
        trace_id: 0x2000 + u128::from(number),
        span_id: 0x30 + number,
        parent_span_id: None,
        operation: "tool_call",
        method: "tools/call".into(),
        upstream: Some("files".into()),
        name: Some(name.into()),
        request: Some(Bytes::from_static(br#"{"name":"read","arguments":{"path":"a.txt"}}"#)),
        response: Some(Bytes::from_static(br#"{"content":[]}"#)),
        status: Status::Success,
        error: None,
        duration_ns: 12_000_000,
        started_unix_ns: now_ns() - number.cast_signed() * 1_000_000_000,
        principal: "claude/1.2".into(),
        session_id: "session-1".into(),
        transport: Some("stdio"),
        metadata: Vec::new(),
    }
}

/// An event of `number` seconds before now.
pub(crate) fn event(number: u64, action: &str) -> AuditEvent {
    AuditEvent {
        id: Uuid::from_u128(0x5000 + u128::from(number)),
        trace_id: Some(0x2000 + u128::from(number)),
        event_type: "tool_call",
        severity: Severity::Info,
        upstream: Some("files".into()),
        action: Some(action.into()),
        principal: "claude/1.2".into(),
        session_id: Some("session-1".into()),
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns: now_ns() - number.cast_signed() * 1_000_000_000,
    }
}

/// A gateway of the first workspace.
pub(crate) fn gateway(number: i64, name: &str, state: State) -> GatewayDetail {
    GatewayDetail {
        line: GatewayLine {
            id: GatewayId::from_number(number),
            name: name.to_owned(),
            state,
            link: Link::Linked,
            ended_ms: None,
            seen_ms: (state != State::Pending).then(|| crate::clock::now_ms() - number * 1000),
            created_ms: crate::clock::now_ms() - 86_400_000,
            workspace: WorkspaceId::from_number(1),
            workspace_name: "Main".to_owned(),
            owner: Some("Ann".to_owned()),
            owner_id: Some(UserId::from_number(7)),
            host: Host {
                os: "linux".to_owned(),
                os_version: None,
                arch: "x86_64".to_owned(),
                hostname: format!("host-{number}"),
                version: "0.1.0".to_owned(),
                kind: "personal".to_owned(),
                environment: "local".to_owned(),
            },
        },
        deploy_key: None,
        synced_ms: None,
        unsent: 3,
        setup: SetupReport::default(),
        clients: Vec::new(),
        upstreams: Vec::new(),
    }
}
