//! Gateways in the Hub's database, as people see them.

use std::sync::Arc;

use async_trait::async_trait;

use super::state::{self, Counts, State};
use super::uptime::Uptime;
use super::{Fleet, GatewayDetail, GatewayKey, GatewayLine, GatewayPage, GatewayQuery, Link, Sort};
use crate::clock::now_ms;
use crate::db::{Database, DbError, Row, Value, values};
use crate::events::Found;
use crate::id::{GatewayId, WorkspaceId};
use crate::wire::{ClientReport, Host, SetupReport, UpstreamReport};

/// Columns of a list, without the state.
const LINE: &str = "g.id, g.name, p.seen_ms, g.created_ms, g.workspace, w.name, \
     COALESCE(NULLIF(u.name, ''), u.email), g.os, g.os_version, g.arch, g.hostname, g.version, \
     g.kind, g.environment, g.unlinked_ms, g.archived_ms, g.owner";

/// Behind the columns of [`LINE`]: the state, and further ones.
const LINE_COLUMNS: usize = 17;

const FROM: &str = "FROM gateways g \
     JOIN workspaces w ON w.id = g.workspace \
     LEFT JOIN presence p ON p.gateway = g.id \
     LEFT JOIN users u ON u.id = g.owner";

/// What is left of processes that were heard of lately: more are of no use to anybody.
const PROCESSES_SHOWN_MAX: i64 = 64;

/// The gateways of a Hub.
#[derive(Debug, Clone)]
pub(crate) struct SqlFleet {
    database: Arc<dyn Database>,
    uptime: Arc<Uptime>,
}

impl SqlFleet {
    pub(crate) fn new(database: Arc<dyn Database>, uptime: Arc<Uptime>) -> Self {
        Self { database, uptime }
    }

    /// Returns a filter that everything passes, for a statement that returns the state too.
    fn stated(&self) -> Filter {
        let mut filter = Filter::default();
        let now = filter.place(self.uptime.judge_at(now_ms()));
        filter.state = state::sql(&now);
        filter
    }

    /// Likewise, for what is asked.
    fn filter(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Filter {
        let mut filter = self.stated();
        filter.linked(query.link);
        filter.any("g.workspace", workspaces.iter().copied());
        filter.any_if("g.version", &query.versions);
        filter.any_if("g.os", &query.systems);
        filter.any_if("g.kind", &query.kinds);
        filter.any_if("g.environment", &query.environments);
        if let Some(owner) = query.owner {
            filter.any("g.owner", [owner]);
        }
        if let Some(search) = query.search.as_deref().filter(|search| !search.is_empty()) {
            let place = filter.place(format!("%{}%", escaped(search)));
            let columns = ["g.name", "g.hostname", "COALESCE(u.name, '')", "COALESCE(u.email, '')"];
            let like = columns.map(|of| format!("lower({of}) LIKE lower({place}) ESCAPE '!'"));
            filter.and(&format!("({})", like.join(" OR ")));
        }
        filter
    }
}

/// Parts of a statement that belong together.
#[derive(Default)]
struct Filter {
    /// The state, as an expression.
    state: String,
    sql: String,
    values: Vec<Value>,
}

impl Filter {
    /// Takes a value, and returns what stands for it.
    fn place(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn linked(&mut self, link: Link) {
        self.and(match link {
            Link::Linked => "g.unlinked_ms IS NULL AND g.archived_ms IS NULL",
            Link::Unlinked => "g.unlinked_ms IS NOT NULL AND g.archived_ms IS NULL",
            Link::Archived => "g.archived_ms IS NOT NULL",
        });
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
    }

    fn any(&mut self, column: &str, of: impl IntoIterator<Item = impl Into<Value>>) {
        let places: Vec<_> = of.into_iter().map(|value| self.place(value)).collect();
        // Of nothing nothing is found.
        let places = if places.is_empty() { "NULL".to_owned() } else { places.join(", ") };
        self.and(&format!("{column} IN ({places})"));
    }

    fn any_if(&mut self, column: &str, of: &[String]) {
        if !of.is_empty() {
            self.any(column, of.iter().map(String::as_str));
        }
    }

    fn states(&mut self, states: &[State]) {
        if !states.is_empty() {
            let state = self.state.clone();
            self.any(&state, states.iter().map(|state| state.code()));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('!', "!!").replace('%', "!%").replace('_', "!_")
}

#[async_trait]
impl Fleet for SqlFleet {
    async fn gateways(
        &self,
        workspaces: &[WorkspaceId],
        query: &GatewayQuery,
    ) -> Found<GatewayPage> {
        let mut filter = self.filter(workspaces, query);
        filter.states(&query.states);
        let by = match query.sort {
            Sort::Name => "lower(g.name)".to_owned(),
            Sort::LastSeen => "COALESCE(p.seen_ms, 0)".to_owned(),
            Sort::Workspace => "lower(w.name)".to_owned(),
            Sort::Version => "g.version".to_owned(),
            Sort::State => filter.state.clone(),
        };
        let (order, behind) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
        if let Some(key) = &query.offset_key {
            let value = match query.sort {
                Sort::Name | Sort::Workspace | Sort::Version => Value::from(&key.value),
                Sort::LastSeen | Sort::State => {
                    Value::from(key.value.parse::<i64>().unwrap_or_default())
                }
            };
            let (value, id) = (filter.place(value), filter.place(key.id));
            filter.and(&format!("({by}, g.id) {behind} ({value}, {id})"));
        }
        let limit = query.limit.max(1);
        let more = filter.place(i64::from(limit) + 1);
        let sql = format!(
            "SELECT {LINE}, {} AS state, {by} AS by_value {FROM} {} \
             ORDER BY {by} {order}, g.id {order} LIMIT {more}",
            filter.state, filter.sql
        );
        let mut found = self.database.rows(&sql, &filter.values).await?;
        let is_more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| is_more).map(|row| key(row, query.sort)).transpose()?;
        let rows = found.iter().map(line).collect::<Result<_, _>>()?;
        Ok(GatewayPage { rows, next })
    }

    async fn gateway(
        &self,
        workspaces: &[WorkspaceId],
        id: GatewayId,
    ) -> Found<Option<GatewayDetail>> {
        let mut filter = self.stated();
        filter.any("g.workspace", workspaces.iter().copied());
        filter.any("g.id", [id]);
        let sql = format!(
            "SELECT {LINE}, {} AS state, k.name, p.synced_ms, p.unsent, g.enforcement_profile, \
                 g.config_scan_ms, g.servers_managed, g.servers_total, g.drift_events \
             {FROM} LEFT JOIN deploy_keys k ON k.id = g.deploy_key {}",
            filter.state, filter.sql
        );
        let Some(row) = self.database.row(&sql, &filter.values).await? else { return Ok(None) };
        let reports = self
            .database
            .rows(
                "SELECT report FROM processes WHERE gateway = $1 ORDER BY seen_ms DESC LIMIT $2",
                &values![id, PROCESSES_SHOWN_MAX],
            )
            .await?;
        let reports = reports.iter().map(|row| row.get::<String>(0));
        let reports = reports.collect::<Result<Vec<_>, _>>()?;
        let (clients, upstreams) = merged(&reports);
        Ok(Some(GatewayDetail {
            line: line(&row)?,
            deploy_key: row.get(LINE_COLUMNS + 1)?,
            synced_ms: row.get(LINE_COLUMNS + 2)?,
            unsent: row.get::<Option<i64>>(LINE_COLUMNS + 3)?.unwrap_or_default(),
            setup: SetupReport {
                enforcement_profile: row.get(LINE_COLUMNS + 4)?,
                config_scan_unix_ms: row.get(LINE_COLUMNS + 5)?,
                servers_managed: row.get(LINE_COLUMNS + 6)?,
                servers_total: row.get(LINE_COLUMNS + 7)?,
                drift_events: row.get(LINE_COLUMNS + 8)?,
            },
            clients,
            upstreams,
        }))
    }

    async fn counts(&self, workspaces: &[WorkspaceId], query: &GatewayQuery) -> Found<Counts> {
        let filter = self.filter(workspaces, query);
        let sql = format!(
            "SELECT state, count(*) FROM (SELECT {} AS state {FROM} {}) AS found GROUP BY state",
            filter.state, filter.sql
        );
        let mut counts = Counts::default();
        for row in self.database.rows(&sql, &filter.values).await? {
            let code: i64 = row.get(0)?;
            if let Some(state) = State::from_code(code) {
                counts.set(state, row.get(1)?);
            }
        }
        Ok(counts)
    }

    async fn facets(&self, workspaces: &[WorkspaceId], link: Link) -> Found<super::Facets> {
        let mut filter = Filter::default();
        filter.linked(link);
        filter.any("g.workspace", workspaces.iter().copied());
        let mut facets = super::Facets::default();
        let columns = [
            ("g.version", &mut facets.versions),
            ("g.os", &mut facets.systems),
            ("g.kind", &mut facets.kinds),
            ("g.environment", &mut facets.environments),
        ];
        for (column, values) in columns {
            let sql = format!(
                "SELECT {column}, count(*) {FROM} {} \
                 GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT 50",
                filter.sql
            );
            for row in self.database.rows(&sql, &filter.values).await? {
                values.push(row.get(0)?);
            }
        }
        let sql = format!(
            "SELECT u.id, COALESCE(NULLIF(u.name, ''), u.email) {FROM} {} \
                 AND u.id IS NOT NULL GROUP BY u.id, u.name, u.email ORDER BY 2 LIMIT 200",
            filter.sql
        );
        for row in self.database.rows(&sql, &filter.values).await? {
            facets.owners.push((row.get(0)?, row.get(1)?));
        }
        Ok(facets)
    }

    async fn figures(&self) -> Found<super::Figures> {
        self.all().await
    }
}

impl SqlFleet {
    async fn all(&self) -> Result<super::Figures, DbError> {
        let mut filter = Filter::default();
        let now = filter.place(self.uptime.judge_at(now_ms()));
        let (state, online) = (state::sql(&now), filter.place(State::Online.code()));
        let sql = format!(
            "SELECT count(*), COALESCE(CAST(sum(p.unsent) AS BIGINT), 0), \
                 count(CASE WHEN {state} = {online} THEN 1 END) \
             FROM gateways g LEFT JOIN presence p ON p.gateway = g.id \
             WHERE g.unlinked_ms IS NULL AND g.archived_ms IS NULL"
        );
        let row = self.database.row(&sql, &filter.values).await?;
        let row = row.ok_or(DbError::Column { column: 0 })?;
        Ok(super::Figures {
            gateways: row.get(0)?,
            unsent: row.get(1)?,
            online: row.get(2)?,
            database_bytes: crate::db::size_bytes(&*self.database).await?,
        })
    }
}

fn key(row: &Row, sort: Sort) -> Result<GatewayKey, DbError> {
    let value = match sort {
        Sort::Name | Sort::Workspace | Sort::Version => row.get(LINE_COLUMNS + 1)?,
        Sort::LastSeen | Sort::State => row.get::<i64>(LINE_COLUMNS + 1)?.to_string(),
    };
    Ok(GatewayKey { value, id: row.get(0)? })
}

fn line(row: &Row) -> Result<GatewayLine, DbError> {
    let (unlinked_ms, archived_ms): (Option<i64>, Option<i64>) = (row.get(14)?, row.get(15)?);
    Ok(GatewayLine {
        id: row.get(0)?,
        name: row.get(1)?,
        seen_ms: row.get(2)?,
        created_ms: row.get(3)?,
        workspace: row.get(4)?,
        workspace_name: row.get(5)?,
        owner: row.get(6)?,
        owner_id: row.get(16)?,
        host: Host {
            os: row.get(7)?,
            os_version: row.get(8)?,
            arch: row.get(9)?,
            hostname: row.get(10)?,
            version: row.get(11)?,
            kind: row.get(12)?,
            environment: row.get(13)?,
        },
        state: State::from_code(row.get(LINE_COLUMNS)?)
            .ok_or(DbError::Column { column: LINE_COLUMNS })?,
        link: match (unlinked_ms, archived_ms) {
            (_, Some(_)) => Link::Archived,
            (Some(_), None) => Link::Unlinked,
            (None, None) => Link::Linked,
        },
        ended_ms: archived_ms.or(unlinked_ms),
    })
}

/// Returns the clients and servers of all processes; of equal ones what the newest report says.
fn merged(reports: &[String]) -> (Vec<ClientReport>, Vec<UpstreamReport>) {
    let mut clients: Vec<ClientReport> = Vec::new();
    let mut upstreams: Vec<UpstreamReport> = Vec::new();
    let reports = reports.iter().filter_map(|report| super::presence::Report::parse(report));
    for report in reports {
        for client in report.clients {
            let same = |known: &&mut ClientReport| {
                known.name == client.name && known.version == client.version
            };
            match clients.iter_mut().find(same) {
                Some(known) => {
                    known.active_unix_ms = known.active_unix_ms.max(client.active_unix_ms);
                }
                None => clients.push(client),
            }
        }
        for upstream in report.upstreams {
            if !upstreams.iter().any(|known| known.name == upstream.name) {
                upstreams.push(upstream);
            }
        }
    }
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    (clients, upstreams)
}
