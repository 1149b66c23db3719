//! Lists as files: the rows of the current filter, one page after the other, as long as they are read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use askama::filters::HtmlSafe;
use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::figures::Count;
use super::visit::Visit;
use super::{Site, audit, servers, traces};
use crate::error::ApiError;
use crate::events::{
    AuditLine, AuditQuery, Cursor, GatewayLabel, Page, Records, ServerUse, TraceLine, TraceQuery,
};
use crate::id::{UserId, WorkspaceId};

/// Rows of a file. Who wants more asks for one range of time after the other.
const ROWS_MAX: usize = 100_000;

/// Rows that are read and sent at a time.
const PAGE_ROWS: u32 = 1_000;

/// Files that are written at the same time: each keeps the database busy.
const EXPORTS_MAX: usize = 4;

/// Of these, those of one account: whoever does not read theirs keeps nobody else waiting.
const EXPORTS_OF_ONE_MAX: usize = 2;

/// The files that may be written at the same time.
#[derive(Clone)]
pub(crate) struct Room {
    all: Arc<Semaphore>,
    of_each: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(EXPORTS_MAX)), of_each: Arc::default() }
    }
}

/// A file that is being written.
struct Place {
    _permit: OwnedSemaphorePermit,
    room: Room,
    /// Nobody on one's own machine.
    account: Option<UserId>,
}

impl Room {
    fn enter(&self, account: Option<UserId>) -> Result<Place, ApiError> {
        let full = ApiError::RateLimited { retry_s: 30 };
        let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() else { return Err(full) };
        if let Some(account) = account {
            let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of_each.entry(account).or_default();
            if *count == EXPORTS_OF_ONE_MAX {
                return Err(full);
            }
            *count += 1;
        }
        Ok(Place { _permit: permit, room: self.clone(), account })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(account) = self.account else { return };
        let mut of_each = self.room.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = of_each.entry(account) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Where a list is to be had as a file.
#[derive(Template)]
#[template(path = "export.html")]
pub(crate) struct Links {
    pub(crate) csv: String,
    pub(crate) json: String,
    pub(crate) ndjson: String,
    /// What is in it.
    pub(crate) note: String,
}

/// Its template escapes.
impl HtmlSafe for Links {}

impl Links {
    pub(crate) fn new(visit: &Visit, list: &str) -> Self {
        let filters = visit.address.first_page();
        let file = |ending| {
            let path = visit.page(&format!("export/{list}.{ending}"));
            filters.at(path.path()).to_string()
        };
        let note = if list == "servers" {
            "What the search and the time show, with all figures.".to_owned()
        } else {
            let rows_max = Count(i64::try_from(ROWS_MAX).unwrap_or(i64::MAX));
            format!("What the filters show, the newest {rows_max} rows at most, without payloads.")
        };
        Self { csv: file("csv"), json: file("json"), ndjson: file("ndjson"), note }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    /// An array.
    Json,
    /// An object per line.
    Lines,
}

impl Format {
    fn of(ending: &str) -> Result<Self, ApiError> {
        match ending {
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "ndjson" => Ok(Self::Lines),
            _ => Err(ApiError::NotFound("kind of file; there are `csv`, `json` and `ndjson`")),
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// Something that becomes a line of a file.
trait Row: Serialize + Send + 'static {
    const COLUMNS: &'static [&'static str];

    fn cells(&self) -> Vec<String>;

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

/// Rows, one page after the other.
#[async_trait]
trait Pages: Send + 'static {
    type Row: Row;

    async fn next(&mut self, after: Option<Cursor>) -> Result<Page<Self::Row>, ApiError>;
}

struct Traces(Arc<dyn Records>, WorkspaceId, TraceQuery);

#[async_trait]
impl Pages for Traces {
    type Row = TraceLine;

    async fn next(&mut self, after: Option<Cursor>) -> Result<Page<TraceLine>, ApiError> {
        self.2.after = after;
        self.2.limit = PAGE_ROWS;
        Ok(self.0.traces(self.1, &self.2).await?)
    }
}

struct AuditEvents(Arc<dyn Records>, WorkspaceId, AuditQuery);

#[async_trait]
impl Pages for AuditEvents {
    type Row = AuditLine;

    async fn next(&mut self, after: Option<Cursor>) -> Result<Page<AuditLine>, ApiError> {
        self.2.after = after;
        self.2.limit = PAGE_ROWS;
        Ok(self.0.audit_events(self.1, &self.2).await?)
    }
}

/// Servers, all at once.
struct Servers(Vec<ServerUse>);

#[async_trait]
impl Pages for Servers {
    type Row = ServerUse;

    async fn next(&mut self, _after: Option<Cursor>) -> Result<Page<ServerUse>, ApiError> {
        Ok(Page { rows: std::mem::take(&mut self.0), next: None })
    }
}

/// `/w/{workspace}/export/{file}`: `traces`, `audit` or `servers`, and an ending.
pub(super) async fn export(
    State(site): State<Site>,
    Path((_, name)): Path<(String, String)>,
    visit: Visit,
) -> Response {
    let answer = async {
        let records = Arc::clone(&site.web.records);
        let workspace = visit.workspace();
        let (list, ending) = name.split_once('.').ok_or(ApiError::NotFound("file"))?;
        let format = Format::of(ending)?;
        let account = visit.viewing.account.as_ref().map(|account| account.id);
        let place = || site.exports.enter(account);
        match list {
            "traces" => {
                let (_, query) = traces::query(&site, &visit).await?;
                file(place()?, list, format, Traces(records, workspace, query))
            }
            "audit" => {
                let (_, query) = audit::query(&site, &visit).await?;
                file(place()?, list, format, AuditEvents(records, workspace, query))
            }
            "servers" => {
                let (_, found) = servers::found(&site, &visit).await?;
                file(place()?, list, format, Servers(found))
            }
            _ => Err(ApiError::NotFound("file")),
        }
    };
    let answer = answer.await;
    visit.answer(answer)
}

fn file(place: Place, name: &str, format: Format, pages: impl Pages) -> Result<Response, ApiError> {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let ending = match format {
        Format::Csv => "csv",
        Format::Json => "json",
        Format::Lines => "ndjson",
    };
    let headers = [
        (header::CONTENT_TYPE, format.content_type().to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}-{now}.{ending}\"")),
    ];
    Ok((headers, Body::from_stream(lines(format, pages, place))).into_response())
}

/// Where a file stands.
struct Progress<P> {
    pages: P,
    after: Option<Cursor>,
    rows: usize,
    ended: bool,
    _place: Place,
}

/// A page that fails breaks the file off, so that nobody takes it for a whole one.
fn lines(
    format: Format,
    pages: impl Pages,
    place: Place,
) -> impl Stream<Item = Result<Bytes, ApiError>> {
    let begun = Progress { pages, after: None, rows: 0, ended: false, _place: place };
    stream::try_unfold(begun, move |mut progress| async move {
        if progress.ended {
            return Ok(None);
        }
        let mut text = String::new();
        if progress.rows == 0 {
            begin(format, &progress.pages, &mut text);
        }
        let page = progress.pages.next(progress.after).await.inspect_err(ApiError::log)?;
        for row in page.rows.iter().take(ROWS_MAX - progress.rows) {
            write(format, row, progress.rows == 0, &mut text);
            progress.rows += 1;
        }
        progress.after = page.next;
        if page.next.is_none() || progress.rows == ROWS_MAX {
            progress.ended = true;
            if format == Format::Json {
                text.push_str("\n]\n");
            }
        }
        Ok(Some((Bytes::from(text), progress)))
    })
}

fn begin<P: Pages>(format: Format, _pages: &P, text: &mut String) {
    match format {
        Format::Csv => csv(P::Row::COLUMNS.iter().map(|name| (*name).to_owned()), text),
        Format::Json => text.push('['),
        Format::Lines => {}
    }
}

fn write(format: Format, row: &impl Row, first: bool, text: &mut String) {
    if format == Format::Csv {
        return csv(row.cells().into_iter(), text);
    }
    if format == Format::Json {
        text.push_str(if first { "\n" } else { ",\n" });
    }
    match row.json() {
        Ok(json) => text.push_str(&json),
        Err(error) => tracing::error!(%error, "a row could not be written as JSON"),
    }
    if format == Format::Lines {
        text.push('\n');
    }
}

/// Writes a line as RFC 4180 has it, every cell in quotes.
fn csv(cells: impl Iterator<Item = String>, text: &mut String) {
    for (place, cell) in cells.enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push('"');
        if is_formula(&cell) {
            text.push('\'');
        }
        text.push_str(&cell.replace('"', "\"\""));
        text.push('"');
    }
    text.push_str("\r\n");
}

/// Whether a spreadsheet would calculate a cell: what a tool is called must not run on the machine of
/// whoever opens the file.
fn is_formula(cell: &str) -> bool {
    let first = cell.trim_start_matches([' ', '\u{a0}', '\u{feff}']).chars().next();
    matches!(first, Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠'))
}

fn time(at_ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(at_ns.into());
    format!("{:.9}", time.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// A word of the records, as JSON has it.
fn word(value: impl Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

impl Row for TraceLine {
    const COLUMNS: &'static [&'static str] = &[
        "time",
        "operation",
        "server",
        "name",
        "status",
        "duration_ms",
        "error",
        "client",
        "session",
        "trace_id",
        "gateway",
        "gateway_id",
        "owner",
        "request_bytes",
        "response_bytes",
        "method",
        "id",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.started_ns),
            self.operation.clone(),
            self.upstream.clone().unwrap_or_default(),
            self.name.clone().unwrap_or_default(),
            word(self.status),
            format!("{:.3}", self.duration_ns.max(0) as f64 / 1e6),
            self.error.clone().unwrap_or_default(),
            self.client.clone(),
            self.session.clone(),
            self.trace_id.clone().unwrap_or_default(),
            self.gateway.name.clone(),
            self.gateway.id.to_string(),
            self.gateway.owner.clone().unwrap_or_default(),
            self.request_bytes.to_string(),
            self.response_bytes.to_string(),
            self.method.clone(),
            self.id.to_string(),
        ]
    }
}

impl Row for AuditLine {
    const COLUMNS: &'static [&'static str] = &[
        "time",
        "type",
        "severity",
        "outcome",
        "server",
        "action",
        "client",
        "reason",
        "session",
        "gateway",
        "gateway_id",
        "owner",
        "trace_id",
        "details",
        "id",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            time(self.at_ns),
            self.event_type.clone(),
            word(self.severity),
            word(self.outcome),
            self.upstream.clone().unwrap_or_default(),
            self.action.clone().unwrap_or_default(),
            self.client.clone(),
            self.reason.clone().unwrap_or_default(),
            self.session.clone().unwrap_or_default(),
            self.gateway.name.clone(),
            self.gateway.id.to_string(),
            self.gateway.owner.clone().unwrap_or_default(),
            self.trace_id.clone().unwrap_or_default(),
            self.details.clone(),
            self.id.to_string(),
        ]
    }

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&AuditFile {
            id: self.id.to_string(),
            gateway: &self.gateway,
            at_ns: self.at_ns,
            event_type: &self.event_type,
            severity: word(self.severity),
            outcome: word(self.outcome),
            upstream: self.upstream.as_deref(),
            action: self.action.as_deref(),
            client: &self.client,
            session: self.session.as_deref(),
            trace_id: self.trace_id.as_deref(),
            reason: self.reason.as_deref(),
            details: serde_json::from_str(&self.details)?,
        })
    }
}

/// An audit event as JSON, with its details as the object that they are.
#[derive(Serialize)]
struct AuditFile<'a> {
    id: String,
    gateway: &'a GatewayLabel,
    at_ns: i64,
    event_type: &'a str,
    severity: String,
    outcome: String,
    upstream: Option<&'a str>,
    action: Option<&'a str>,
    client: &'a str,
    session: Option<&'a str>,
    trace_id: Option<&'a str>,
    reason: Option<&'a str>,
    details: &'a RawValue,
}

impl Row for ServerUse {
    const COLUMNS: &'static [&'static str] = &[
        "server",
        "transport",
        "requests",
        "errors",
        "tools",
        "mean_latency_ms",
        "gateways",
        "users",
        "last_used",
    ];

    fn cells(&self) -> Vec<String> {
        let usage = &self.usage;
        let mean_ns = usage.duration_ns.checked_div(usage.calls).unwrap_or(0);
        vec![
            self.upstream.clone(),
            self.transport.clone().unwrap_or_default(),
            usage.calls.to_string(),
            usage.errors.to_string(),
            self.tools.to_string(),
            format!("{:.3}", mean_ns as f64 / 1e6),
            self.gateways.to_string(),
            self.users.to_string(),
            time(usage.last_ns),
        ]
    }
}
