//! What people's programs read: gateways, traces, audit events, servers.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ultra_store::{AuditOutcome, Severity, Status};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::extract::{Asked, Reader};
use crate::error::ApiError;
use crate::events::{
    AuditLine, AuditQuery, Cursor, Gaps, ServerDetail, ServerUse, TraceDetail, TraceLine,
    TraceQuery,
};
use crate::fleet::{
    Counts, GatewayDetail, GatewayKey, GatewayLine, GatewayQuery, Link, Sort, State as Presence,
};

/// Rows of a page, unless the asker wants less.
const ROWS_MAX: u32 = 500;
const ROWS: u32 = 50;

/// Servers are counted over this time, unless the asker says otherwise.
const SERVERS_SINCE_NS: i64 = 30 * 86_400 * 1_000_000_000;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The rows.
    rows: Vec<T>,
    /// Say this as `after` to get the next page; nothing if this was the last one.
    next: Option<String>,
}

/// A page of gateways.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Gateways {
    /// The rows.
    rows: Vec<GatewayLine>,
    /// Say this as `after` to get the next page; nothing if this was the last one.
    next: Option<String>,
    /// How many there are in each state, whatever `state` is asked for.
    counts: Counts,
}

/// Which gateways.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct GatewayParameters {
    /// `linked`, unless said otherwise; `unlinked`, `archived`.
    link: Option<String>,
    /// `online`, `idle`, `offline`, `pending`; several with commas.
    state: Option<String>,
    /// Version of Ultra; several with commas, here and in the following ones.
    version: Option<String>,
    /// `linux`, `macos`, `windows`.
    os: Option<String>,
    /// `personal`, `team`, `ci`, `container`, `server`.
    r#type: Option<String>,
    /// `local`, `dev`, `prod`, or what gateways' configs say.
    environment: Option<String>,
    /// Whose they are: one `usr_…`.
    owner: Option<String>,
    /// Part of the name, the host name, the owner's name or address.
    search: Option<String>,
    /// `name`, `last_seen`, `workspace`, `version`, `state`.
    sort: Option<String>,
    /// The other way round.
    descending: bool,
    /// `next` of the page before.
    after: Option<String>,
    /// Rows of a page, at most 500.
    limit: Option<u32>,
}

/// Which records. Times are RFC 3339.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecordParameters {
    /// `tool_call`, `resource_read`, …; of audit events their type.
    operation: Option<String>,
    /// Server, by its name in the gateway's config.
    upstream: Option<String>,
    /// Tool, prompt or URI.
    name: Option<String>,
    /// `success` or `error`; of audit events the outcome.
    status: Option<String>,
    /// Of audit events: `info`, `warning`, `error`, `critical`.
    severity: Option<String>,
    /// MCP client, as `name/version`.
    client: Option<String>,
    /// Owner of the gateway, `usr_…`.
    user: Option<String>,
    /// `gw_…`
    gateway: Option<String>,
    /// MCP session.
    session: Option<String>,
    /// Of traces: W3C trace id, or the id of a record, in hex.
    trace: Option<String>,
    /// At or after.
    since: Option<String>,
    /// Before.
    until: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// Rows of a page, at most 500.
    limit: Option<u32>,
}

/// Lists the gateways of a workspace.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/gateways", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), GatewayParameters),
    responses((status = 200, body = Gateways)),
)]
pub(super) async fn gateways(
    State(api): State<Api>,
    Reader(entry): Reader,
    Asked(asked): Asked<GatewayParameters>,
) -> Result<Json<Gateways>, ApiError> {
    let state = |text: String| Presence::parse(&text).ok_or_else(|| invalid("state", &text));
    let sort = match asked.sort.as_deref() {
        None | Some("name") => Sort::Name,
        Some("last_seen") => Sort::LastSeen,
        Some("workspace") => Sort::Workspace,
        Some("version") => Sort::Version,
        Some("state") => Sort::State,
        Some(other) => return Err(invalid("sort", other)),
    };
    let link = asked.link.as_deref();
    let link = link.map(|text| Link::parse(text).ok_or_else(|| invalid("link", text)));
    let query = GatewayQuery {
        link: link.transpose()?.unwrap_or_default(),
        states: several(asked.state).into_iter().map(state).collect::<Result<_, _>>()?,
        versions: several(asked.version),
        systems: several(asked.os),
        kinds: several(asked.r#type),
        environments: several(asked.environment),
        owner: id("owner", asked.owner.as_deref())?,
        search: asked.search,
        sort,
        descending: asked.descending,
        offset_key: asked.after.map(|after| after.parse()).transpose().map_err(|_| {
            ApiError::Invalid("`after` is not the `next` of a page of gateways".to_owned())
        })?,
        limit: rows(asked.limit),
    };
    let page = api.fleet.gateways(&[entry.workspace], &query).await?;
    let counts = api.fleet.counts(&[entry.workspace], &query).await?;
    Ok(Json(Gateways { rows: page.rows, next: page.next.map(|key| key.to_string()), counts }))
}

/// Shows one gateway.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/gateways/{gateway}", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), ("gateway" = String, Path)),
    responses((status = 200, body = GatewayDetail)),
)]
pub(super) async fn gateway(
    State(api): State<Api>,
    Reader(entry): Reader,
    Path((_, gateway)): Path<(String, String)>,
) -> Result<Json<GatewayDetail>, ApiError> {
    let missing = ApiError::NotFound("gateway");
    let Ok(gateway) = gateway.parse() else { return Err(missing) };
    let found = api.fleet.gateway(&[entry.workspace], gateway).await?;
    found.map(Json).ok_or(missing)
}

/// Says what is there of a gateway's records, and what is missing.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/gateways/{gateway}/streams", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), ("gateway" = String, Path)),
    responses((status = 200, body = Vec<Gaps>)),
)]
pub(super) async fn streams(
    State(api): State<Api>,
    Reader(entry): Reader,
    Path((_, gateway)): Path<(String, String)>,
) -> Result<Json<Vec<Gaps>>, ApiError> {
    let missing = ApiError::NotFound("gateway");
    let Ok(gateway) = gateway.parse() else { return Err(missing) };
    api.links.owner(entry.workspace, gateway).await?;
    Ok(Json(api.events.verify(gateway).await?))
}

/// Lists traces without payloads, newest first.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/traces", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), RecordParameters),
    responses((status = 200, body = List<TraceLine>)),
)]
pub(super) async fn traces(
    State(api): State<Api>,
    Reader(entry): Reader,
    Asked(asked): Asked<RecordParameters>,
) -> Result<Json<List<TraceLine>>, ApiError> {
    let status = asked.status.as_deref().map(|text| word::<Status>("status", text)).transpose()?;
    let query = TraceQuery {
        status,
        user: id("user", asked.user.as_deref())?,
        gateway: id("gateway", asked.gateway.as_deref())?,
        since_ns: time("since", asked.since.as_deref())?,
        until_ns: time("until", asked.until.as_deref())?,
        after: cursor(asked.after.as_deref())?,
        limit: rows(asked.limit),
        operation: asked.operation,
        upstream: asked.upstream,
        name: asked.name,
        client: asked.client,
        session: asked.session,
        id: asked.trace,
    };
    let page = api.events.traces(entry.workspace, &query).await?;
    Ok(Json(List { rows: page.rows, next: page.next.map(|next| next.to_string()) }))
}

/// Shows one trace with its payloads.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/traces/{trace}", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), ("trace" = String, Path)),
    responses((status = 200, body = TraceDetail)),
)]
pub(super) async fn trace(
    State(api): State<Api>,
    Reader(entry): Reader,
    Path((_, trace)): Path<(String, String)>,
) -> Result<Json<TraceDetail>, ApiError> {
    let missing = ApiError::NotFound("trace");
    let Ok(trace) = trace.parse() else { return Err(missing) };
    let found = api.events.trace(entry.workspace, trace).await?;
    found.map(Json).ok_or(missing)
}

/// Lists audit events, newest first.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/audit", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), RecordParameters),
    responses((status = 200, body = List<AuditLine>)),
)]
pub(super) async fn audit_events(
    State(api): State<Api>,
    Reader(entry): Reader,
    Asked(asked): Asked<RecordParameters>,
) -> Result<Json<List<AuditLine>>, ApiError> {
    let outcome = asked.status.as_deref().map(|text| word::<AuditOutcome>("status", text));
    let severity = asked.severity.as_deref().map(|text| word::<Severity>("severity", text));
    let query = AuditQuery {
        outcome: outcome.transpose()?,
        severity: severity.transpose()?,
        user: id("user", asked.user.as_deref())?,
        gateway: id("gateway", asked.gateway.as_deref())?,
        since_ns: time("since", asked.since.as_deref())?,
        until_ns: time("until", asked.until.as_deref())?,
        after: cursor(asked.after.as_deref())?,
        limit: rows(asked.limit),
        event_type: asked.operation,
        upstream: asked.upstream,
        action: asked.name,
        client: asked.client,
        session: asked.session,
    };
    let page = api.events.audit_events(entry.workspace, &query).await?;
    Ok(Json(List { rows: page.rows, next: page.next.map(|next| next.to_string()) }))
}

/// Shows one audit event.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/audit/{event}", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), ("event" = String, Path)),
    responses((status = 200, body = AuditLine)),
)]
pub(super) async fn audit_event(
    State(api): State<Api>,
    Reader(entry): Reader,
    Path((_, event)): Path<(String, String)>,
) -> Result<Json<AuditLine>, ApiError> {
    let missing = ApiError::NotFound("audit event");
    let Ok(event) = event.parse() else { return Err(missing) };
    let found = api.events.audit_event(entry.workspace, event).await?;
    found.map(Json).ok_or(missing)
}

/// Lists the servers that were used in the last 30 days.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/servers", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path)),
    responses((status = 200, body = Vec<ServerUse>)),
)]
pub(super) async fn servers(
    State(api): State<Api>,
    Reader(entry): Reader,
) -> Result<Json<Vec<ServerUse>>, ApiError> {
    Ok(Json(api.events.servers(entry.workspace, since()).await?))
}

/// Shows how one server was used in the last 30 days.
#[utoipa::path(
    get, path = "/api/v1/workspaces/{workspace}/servers/{server}", tag = "records",
    security(("person" = [])), params(("workspace" = String, Path), ("server" = String, Path)),
    responses((status = 200, body = ServerDetail)),
)]
pub(super) async fn server(
    State(api): State<Api>,
    Reader(entry): Reader,
    Path((_, server)): Path<(String, String)>,
) -> Result<Json<ServerDetail>, ApiError> {
    let found = api.events.server(entry.workspace, &server, since()).await?;
    found.map(Json).ok_or(ApiError::NotFound("server"))
}

fn since() -> i64 {
    crate::clock::now_ms() * 1_000_000 - SERVERS_SINCE_NS
}

fn rows(limit: Option<u32>) -> u32 {
    limit.unwrap_or(ROWS).clamp(1, ROWS_MAX)
}

/// Reads values with commas between them.
fn several(text: Option<String>) -> Vec<String> {
    let values = text.as_deref().unwrap_or_default().split(',').map(str::trim);
    values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

fn invalid(parameter: &str, text: &str) -> ApiError {
    let text: String = text.chars().take(80).collect();
    ApiError::Invalid(format!("`{parameter}` cannot be `{text}`"))
}

fn id<T: std::str::FromStr>(parameter: &str, text: Option<&str>) -> Result<Option<T>, ApiError> {
    text.map(|text| text.parse().map_err(|_| invalid(parameter, text))).transpose()
}

fn cursor(text: Option<&str>) -> Result<Option<Cursor>, ApiError> {
    id("after", text)
}

fn word<T: serde::de::DeserializeOwned>(parameter: &str, text: &str) -> Result<T, ApiError> {
    serde_json::from_value(text.into()).map_err(|_| invalid(parameter, text))
}

fn time(parameter: &str, text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let parse = |text: &str| {
        let time: Timestamp = text.parse().ok()?;
        i64::try_from(time.as_nanosecond()).ok()
    };
    text.map(|text| parse(text).ok_or_else(|| invalid(parameter, text))).transpose()
}

impl std::fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.value)
    }
}

impl std::str::FromStr for GatewayKey {
    type Err = crate::events::BadCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, value) = text.split_once('.').ok_or(crate::events::BadCursor)?;
        let id = id.parse().map_err(|_| crate::events::BadCursor)?;
        Ok(Self { value: value.to_owned(), id })
    }
}
