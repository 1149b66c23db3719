//! [`Records`] from a gateway's own database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::spawn_blocking;
use ultra_store::{
    AuditFilter, AuditRow, Reader, SqliteReader, StoreError, Survey, TraceFilter, TraceRow,
};
use uuid::Uuid;

use crate::db::DbError;
use crate::events::{
    AuditLine, AuditQuery, Choices, ClientUse, Cursor, Found, GatewayLabel, Page, Records,
    ServerDetail, ServerUse, SessionKey, TraceDetail, TraceLine, TraceQuery, Usage,
};
use crate::id::{GatewayId, WorkspaceId};

/// A look over traces is good for so long: pages ask for the same again and again.
const SURVEY_AGE: Duration = Duration::from_secs(5);

/// Or for so many times what it took, so that a page that stays open does not keep the machine busy.
const SURVEY_REST: u32 = 20;

/// Traces among which there is to choose. More would make the first page slow.
const CHOICES_ROWS: usize = 50_000;

/// Looks that are remembered: a few ranges of time.
const SURVEYS_MAX: usize = 8;

/// Of each thing there is to filter by.
const CHOICES_MAX: usize = 100;

/// "Since" moves with the clock; looks that begin in the same span of time are one.
const SINCE_STEP_NS: i64 = 60 * 1_000_000_000;

/// The records of this machine.
#[derive(Debug)]
pub(crate) struct LocalRecords {
    reader: Arc<SqliteReader>,
    gateway: GatewayLabel,
    surveys: Mutex<Vec<Look>>,
}

/// A look over traces.
#[derive(Debug)]
struct Look {
    since_ns: i64,
    rows_max: usize,
    good_until: Instant,
    survey: Arc<Survey>,
}

impl LocalRecords {
    /// Opens a database that exists. All of it is said to be of this gateway.
    pub(crate) fn open(database: &Path, gateway: GatewayLabel) -> Result<Self, StoreError> {
        let reader = Arc::new(SqliteReader::open(database)?);
        Ok(Self { reader, gateway, surveys: Mutex::default() })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&SqliteReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Found<T> {
        read_in(&self.reader, read).await
    }

    /// Whether something of this workspace, owner and gateway can be here.
    fn is_here(
        &self,
        workspace: WorkspaceId,
        user: Option<crate::id::UserId>,
        gateway: Option<GatewayId>,
    ) -> bool {
        workspace.number() == super::WORKSPACE
            && user.is_none()
            && gateway.is_none_or(|gateway| gateway == self.gateway.id)
    }

    async fn survey(&self, since_ns: i64, rows_max: usize) -> Found<Arc<Survey>> {
        let since_ns = since_ns.div_euclid(SINCE_STEP_NS) * SINCE_STEP_NS;
        let begun = Instant::now();
        let known = {
            let mut looks = self.surveys.lock().unwrap_or_else(PoisonError::into_inner);
            looks.retain(|look| look.good_until > begun);
            let mut looks = looks.iter();
            let known = looks.find(|of| (of.since_ns, of.rows_max) == (since_ns, rows_max));
            known.map(|look| Arc::clone(&look.survey))
        };
        if let Some(survey) = known {
            return Ok(survey);
        }
        let survey = self.read(move |reader| reader.survey(since_ns, rows_max)).await?;
        let survey = Arc::new(survey);
        let good_until = Instant::now() + SURVEY_AGE.max(begun.elapsed() * SURVEY_REST);
        let mut looks = self.surveys.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == SURVEYS_MAX {
            looks.remove(0);
        }
        looks.push(Look { since_ns, rows_max, good_until, survey: Arc::clone(&survey) });
        Ok(survey)
    }

    fn trace_line(&self, row: &TraceRow) -> Found<TraceLine> {
        Ok(TraceLine {
            id: uuid(&row.id)?,
            gateway: self.gateway.clone(),
            started_ns: unix_ns(&row.timestamp)?,
            duration_ns: row.duration.cast_signed().max(0),
            operation: row.operation.clone(),
            method: row.method.clone(),
            upstream: row.upstream.clone(),
            name: row.name.clone(),
            client: row.principal.clone(),
            session: row.session_id.clone(),
            trace_id: Some(row.trace_id.clone()),
            status: row.status,
            error: row.error.clone(),
            request_bytes: row.request_bytes.cast_signed(),
            response_bytes: row.response_bytes.cast_signed(),
        })
    }

    fn audit_line(&self, row: AuditRow) -> Found<AuditLine> {
        Ok(AuditLine {
            id: uuid(&row.id)?,
            gateway: self.gateway.clone(),
            at_ns: unix_ns(&row.timestamp)?,
            event_type: row.event_type,
            severity: row.severity,
            outcome: row.outcome,
            upstream: row.upstream,
            action: row.action,
            client: row.principal,
            session: row.session_id,
            trace_id: row.trace_id,
            reason: row.reason,
            details: row.details.get().to_owned(),
        })
    }
}

/// Reads where blocking does no harm.
pub(super) async fn read_in<T: Send + 'static>(
    reader: &Arc<SqliteReader>,
    read: impl FnOnce(&SqliteReader) -> Result<T, StoreError> + Send + 'static,
) -> Found<T> {
    let reader = Arc::clone(reader);
    let unavailable = |source| DbError::Unavailable { source };
    spawn_blocking(move || read(&reader))
        .await
        .map_err(|error| unavailable(Box::new(error)))?
        .map_err(|error| unavailable(Box::new(error)))
}

/// Rows are ordered by their number in the database, which is what a cursor has as its id.
fn cursor(seq: i64, at_ns: i64) -> Cursor {
    Cursor { at_ns, id: Uuid::from_u64_pair(0, seq.cast_unsigned()) }
}

fn seq(cursor: Cursor) -> i64 {
    cursor.id.as_u64_pair().1.cast_signed()
}

fn uuid(text: &str) -> Found<Uuid> {
    text.parse().map_err(|_| DbError::Column { column: 1 })
}

fn unix_ns(timestamp: &str) -> Found<i64> {
    let time: Option<jiff::Timestamp> = timestamp.parse().ok();
    let at_ns = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    at_ns.ok_or(DbError::Column { column: 16 })
}

fn usage(of: &ultra_store::Usage) -> Usage {
    Usage {
        calls: of.calls.cast_signed(),
        errors: of.errors.cast_signed(),
        duration_ns: of.duration_ns.cast_signed(),
        last_ns: of.last_unix_ns,
    }
}

/// Returns what was used, most used first.
fn by_use(usages: &HashMap<String, ultra_store::Usage>) -> Vec<(String, Usage)> {
    let mut usages: Vec<_> = usages.iter().map(|(name, of)| (name.clone(), usage(of))).collect();
    usages.sort_by(|(a, of_a), (b, of_b)| of_b.calls.cmp(&of_a.calls).then_with(|| a.cmp(b)));
    usages
}

fn most_used(usages: &HashMap<String, ultra_store::Usage>) -> Vec<String> {
    by_use(usages).into_iter().take(CHOICES_MAX).map(|(name, _)| name).collect()
}

fn server(upstream: &str, of: &ultra_store::UpstreamUsage) -> ServerUse {
    ServerUse {
        upstream: upstream.to_owned(),
        transport: of.transport.clone(),
        usage: usage(&of.usage),
        tools: i64::try_from(of.names.len()).unwrap_or(i64::MAX),
        gateways: 1,
        // Nobody is known here.
        users: 0,
    }
}

#[async_trait]
impl Records for LocalRecords {
    async fn traces(&self, workspace: WorkspaceId, query: &TraceQuery) -> Found<Page<TraceLine>> {
        if !self.is_here(workspace, query.user, query.gateway) {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let limit = query.limit as usize;
        let filter = TraceFilter {
            upstream: query.upstream.clone(),
            name: query.name.clone(),
            operation: query.operation.clone(),
            status: query.status,
            id: query.id.clone(),
            principal: query.client.clone(),
            session_id: query.session.clone(),
            since_unix_ns: query.since_ns,
            until_unix_ns: query.until_ns,
            after_seq: None,
            before_seq: query.after.map(seq),
            payloads: false,
            // One more says whether there is a next page.
            limit: limit + 1,
        };
        let mut found = self.read(move |reader| reader.traces(&filter)).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let lines = found.iter().map(|row| self.trace_line(row));
        let mut rows = lines.collect::<Found<Vec<_>>>()?;
        let last = found.last().zip(rows.last()).filter(|_| more);
        let next = last.map(|(row, line)| cursor(row.seq, line.started_ns));
        // Calls are stored when they end.
        rows.sort_by_key(|line| std::cmp::Reverse((line.started_ns, line.id)));
        Ok(Page { rows, next })
    }

    async fn trace(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<TraceDetail>> {
        if !self.is_here(workspace, None, None) {
            return Ok(None);
        }
        let text = id.to_string();
        let filter = TraceFilter { id: Some(text.clone()), ..TraceFilter::default() };
        let found = self.read(move |reader| reader.traces(&filter)).await?;
        // A trace id looks the same.
        let Some(row) = found.into_iter().find(|row| row.id == text) else { return Ok(None) };
        let json = |payload: Option<Box<serde_json::value::RawValue>>| {
            payload.map(|payload| payload.get().to_owned())
        };
        Ok(Some(TraceDetail {
            line: self.trace_line(&row)?,
            span_id: row.span_id,
            parent_span_id: row.parent_span_id,
            request: json(row.request),
            response: json(row.response),
            metadata: row.metadata.get().to_owned(),
            received_ms: None,
        }))
    }

    async fn session(
        &self,
        workspace: WorkspaceId,
        of: &SessionKey,
        limit: u32,
    ) -> Found<Vec<TraceLine>> {
        if !self.is_here(workspace, None, Some(of.gateway)) {
            return Ok(Vec::new());
        }
        let filter = TraceFilter {
            session_id: Some(of.session.clone()),
            // The first ones, not the last ones.
            after_seq: Some(0),
            payloads: false,
            limit: limit as usize,
            ..TraceFilter::default()
        };
        let found = self.read(move |reader| reader.traces(&filter)).await?;
        let lines = found.iter().map(|row| self.trace_line(row));
        let mut lines = lines.collect::<Found<Vec<_>>>()?;
        lines.sort_by_key(|line| (line.started_ns, line.id));
        Ok(lines)
    }

    async fn audit_events(
        &self,
        workspace: WorkspaceId,
        query: &AuditQuery,
    ) -> Found<Page<AuditLine>> {
        if !self.is_here(workspace, query.user, query.gateway) {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let limit = query.limit as usize;
        let filter = AuditFilter {
            upstream: query.upstream.clone(),
            name: query.action.clone(),
            event_type: query.event_type.clone(),
            outcome: query.outcome,
            severity: query.severity,
            id: None,
            principal: query.client.clone(),
            session_id: query.session.clone(),
            since_unix_ns: query.since_ns,
            until_unix_ns: query.until_ns,
            after_seq: None,
            before_seq: query.after.map(seq),
            limit: limit + 1,
        };
        let mut found = self.read(move |reader| reader.audit_events(&filter)).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|row| row.seq).filter(|_| more);
        let lines = found.into_iter().map(|row| self.audit_line(row));
        let mut rows = lines.collect::<Found<Vec<_>>>()?;
        let next = last.zip(rows.last()).map(|(seq, line)| cursor(seq, line.at_ns));
        rows.sort_by_key(|line| std::cmp::Reverse((line.at_ns, line.id)));
        Ok(Page { rows, next })
    }

    async fn audit_event(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<AuditLine>> {
        if !self.is_here(workspace, None, None) {
            return Ok(None);
        }
        let filter = AuditFilter { id: Some(id.to_string()), limit: 1, ..AuditFilter::default() };
        let found = self.read(move |reader| reader.audit_events(&filter)).await?;
        found.into_iter().next().map(|row| self.audit_line(row)).transpose()
    }

    async fn choices(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Choices> {
        if !self.is_here(workspace, None, None) {
            return Ok(Choices::default());
        }
        let survey = self.survey(since_ns, CHOICES_ROWS).await?;
        let servers: HashMap<_, _> =
            survey.upstreams.iter().map(|(name, of)| (name.clone(), of.usage.clone())).collect();
        let mut names: HashMap<String, ultra_store::Usage> = HashMap::new();
        for (name, of) in survey.upstreams.values().flat_map(|upstream| &upstream.names) {
            names.entry(name.clone()).or_default().calls += of.calls;
        }
        Ok(Choices {
            operations: most_used(&survey.operations),
            upstreams: most_used(&servers),
            names: most_used(&names),
            clients: most_used(&survey.clients),
            // There is only one, and nobody's.
            gateways: Vec::new(),
            users: Vec::new(),
        })
    }

    async fn servers(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Vec<ServerUse>> {
        if !self.is_here(workspace, None, None) {
            return Ok(Vec::new());
        }
        let survey = self.survey(since_ns, usize::MAX).await?;
        let mut servers: Vec<_> =
            survey.upstreams.iter().map(|(name, of)| server(name, of)).collect();
        servers.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        Ok(servers)
    }

    async fn server(
        &self,
        workspace: WorkspaceId,
        upstream: &str,
        since_ns: i64,
    ) -> Found<Option<ServerDetail>> {
        if !self.is_here(workspace, None, None) {
            return Ok(None);
        }
        let survey = self.survey(since_ns, usize::MAX).await?;
        Ok(survey.upstreams.get(upstream).map(|of| ServerDetail {
            server: server(upstream, of),
            tools: by_use(&of.names),
            gateways: vec![(self.gateway.clone(), usage(&of.usage))],
            users: Vec::new(),
        }))
    }

    async fn clients(&self, workspace: WorkspaceId, gateway: GatewayId) -> Found<Vec<ClientUse>> {
        if !self.is_here(workspace, None, Some(gateway)) {
            return Ok(Vec::new());
        }
        let survey = self.survey(0, usize::MAX).await?;
        let clients = by_use(&survey.clients).into_iter().take(CHOICES_MAX);
        let mut clients: Vec<_> =
            clients.map(|(client, usage)| ClientUse { client, usage }).collect();
        clients.sort_by_key(|client| std::cmp::Reverse(client.usage.last_ns));
        Ok(clients)
    }

    async fn revision(&self, workspace: WorkspaceId) -> Found<i64> {
        if !self.is_here(workspace, None, None) {
            return Ok(0);
        }
        self.read(|reader| {
            let newest = TraceFilter { limit: 1, payloads: false, ..TraceFilter::default() };
            let trace = reader.traces(&newest)?.first().map_or(0, |row| row.seq);
            let newest = AuditFilter { limit: 1, ..AuditFilter::default() };
            let event = reader.audit_events(&newest)?.first().map_or(0, |row| row.seq);
            Ok(trace.saturating_add(event))
        })
        .await
    }
}
