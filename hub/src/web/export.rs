//! Lists as files: the rows of the current filter, one page after the other, as long as they are read.

use std::sync::Arc;

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::visit::Visit;
use super::{Site, audit, traces};
use crate::error::ApiError;
use crate::events::{AuditLine, AuditQuery, Cursor, Page, Records, TraceLine, TraceQuery};
use crate::id::WorkspaceId;

/// Rows of a file. Who wants more asks for one range of time after the other.
const ROWS_MAX: usize = 100_000;

/// Rows that are read and sent at a time.
const PAGE_ROWS: u32 = 1_000;

/// Files that are written at the same time: each keeps the database busy.
const EXPORTS_MAX: usize = 4;

/// The files that may be written at the same time.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(EXPORTS_MAX)))
    }
}

/// Where a list is to be had as a file.
#[derive(Template)]
#[template(path = "export.html")]
pub(crate) struct Links {
    pub(crate) csv: String,
    pub(crate) json: String,
    pub(crate) ndjson: String,
    pub(crate) rows_max: usize,
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
        Self { csv: file("csv"), json: file("json"), ndjson: file("ndjson"), rows_max: ROWS_MAX }
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

/// `/w/{workspace}/export/{file}`: `traces` or `audit`, and an ending.
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
        match list {
            "traces" => {
                let (_, query) = traces::query(&site, &visit).await?;
                file(&site, list, format, Traces(records, workspace, query))
            }
            "audit" => {
                let (_, query) = audit::query(&site, &visit).await?;
                file(&site, list, format, AuditEvents(records, workspace, query))
            }
            _ => Err(ApiError::NotFound("file")),
        }
    };
    let answer = answer.await;
    visit.answer(answer)
}

fn file(site: &Site, name: &str, format: Format, pages: impl Pages) -> Result<Response, ApiError> {
    let permit = Arc::clone(&site.exports.0).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::RateLimited { retry_s: 30 })?;
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
    Ok((headers, Body::from_stream(lines(format, pages, permit))).into_response())
}

/// Where a file stands.
struct Progress<P> {
    pages: P,
    after: Option<Cursor>,
    rows: usize,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// A page that fails breaks the file off, so that nobody takes it for a whole one.
fn lines(
    format: Format,
    pages: impl Pages,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, ApiError>> {
    let begun = Progress { pages, after: None, rows: 0, ended: false, _permit: permit };
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
    match serde_json::to_string(row) {
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
}
