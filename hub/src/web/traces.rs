//! The list of calls, and one call with everything.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;
use serde_json::value::RawValue;
use ultra_store::Status;

use askama::Template;

use super::address::Address;
use super::figures::{Bytes, Took, When};
use super::filters::{Filters, same};
use super::json::Payload;
use super::pager::Pager;
use super::text::Text;
use super::visit::{Visit, html, id, there};
use super::{Frame, Site, Tab, export};
use crate::error::ApiError;
use crate::events::{Cursor, TraceDetail, TraceLine, TraceQuery};

/// Rows of a page.
const ROWS: u32 = 50;

/// What there is to choose from was used within this time.
pub(super) const CHOICES_NS: i64 = 30 * 86_400 * 1_000_000_000;

/// Operations in words; others are shown as they are.
const OPERATIONS: [(&str, &str); 7] = [
    ("tool_call", "Tool call"),
    ("resource_read", "Resource read"),
    ("prompt_get", "Prompt get"),
    ("tool_list", "Tool list"),
    ("resource_list", "Resource list"),
    ("prompt_list", "Prompt list"),
    ("other", "Other"),
];

/// A call in a list.
pub(crate) struct Row {
    pub(crate) id: String,
    /// Opens it beside the list.
    pub(crate) href: String,
    pub(crate) when: When,
    pub(crate) operation: Text,
    pub(crate) upstream: Option<Text>,
    pub(crate) name: Text,
    pub(crate) failed: bool,
    pub(crate) error: Option<Text>,
    pub(crate) took: Took,
    pub(crate) client: Text,
    pub(crate) gateway: Text,
    pub(crate) owner: Option<Text>,
    pub(crate) opened: bool,
}

/// A call with everything.
pub(crate) struct Call {
    pub(crate) row: Row,
    /// Name and operation, with room.
    pub(crate) title: Text,
    pub(crate) method: Text,
    pub(crate) error: Option<Text>,
    pub(crate) request_bytes: Bytes,
    pub(crate) response_bytes: Bytes,
    pub(crate) session: Text,
    pub(crate) session_href: String,
    pub(crate) gateway_href: String,
    pub(crate) server_href: Option<String>,
    pub(crate) page_href: String,
    pub(crate) json_href: String,
    /// The W3C trace id, and where all its calls are.
    pub(crate) trace: Option<(Text, String)>,
    pub(crate) span_id: Text,
    pub(crate) parent_span_id: Option<Text>,
    pub(crate) received: Option<When>,
    pub(crate) request: Option<Payload>,
    pub(crate) response: Option<Payload>,
    pub(crate) metadata: Payload,
}

#[derive(Template)]
#[template(path = "traces.html")]
struct ListPage {
    frame: Frame,
    filters: Filters,
    rows: Vec<Row>,
    call: Option<Call>,
    close: String,
    pager: Pager,
    export: export::Links,
    /// Nothing was ever recorded, as far as one can see.
    empty: bool,
}

#[derive(Template)]
#[template(path = "trace.html")]
struct DetailPage {
    frame: Frame,
    call: Call,
    back: String,
}

/// `/w/{workspace}/traces`
pub(super) async fn list(State(site): State<Site>, visit: Visit) -> Response {
    let page = list_page(&site, &visit).await;
    visit.answer(page)
}

async fn list_page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let (filters, mut query) = query(site, visit).await?;
    query.limit = ROWS;
    query.after = visit.address.get("after").map(cursor).transpose()?;
    let records = &site.web.records;
    let call = opened(site, visit).await?;
    let (lines, next) = if visit.panel_only {
        (Vec::new(), None)
    } else {
        let page = records.traces(visit.workspace(), &query).await?;
        (page.rows, page.next)
    };
    let list = visit.address.without("panel");
    let rows: Vec<_> = lines.iter().map(|line| Row::new(visit, &list, line)).collect();
    html(&ListPage {
        frame: visit.frame("Traces", Tab::Traces),
        empty: rows.is_empty() && filters.chips.is_empty() && query.after.is_none(),
        pager: Pager::by_time(
            query.after.map(|_| list.first_page().to_string()),
            next.map(|next| list.with("after", next).to_string()),
        ),
        export: export::Links::new(visit, "traces"),
        close: list.to_string(),
        filters,
        rows,
        call,
    })
}

/// Returns the call that the address opens beside a list.
pub(super) async fn opened(site: &Site, visit: &Visit) -> Result<Option<Call>, ApiError> {
    let Some(text) = visit.address.get("panel") else { return Ok(None) };
    let found = site.web.records.trace(visit.workspace(), id(text, "trace")?).await;
    Ok(Some(Call::new(visit, &there(found, "trace")?)))
}

/// `/w/{workspace}/traces/{trace}`
pub(super) async fn detail(
    State(site): State<Site>,
    Path((_, trace)): Path<(String, String)>,
    visit: Visit,
) -> Response {
    let page = async {
        let id = id(&trace, "trace")?;
        let found = there(site.web.records.trace(visit.workspace(), id).await, "trace")?;
        let call = Call::new(&visit, &found);
        let frame = visit.frame(call.title.plain(), Tab::Traces);
        html(&DetailPage { frame, call, back: visit.page("traces").to_string() })
    };
    let page = page.await;
    visit.answer(page)
}

/// A trace as a file: its payloads are JSON within it.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    line: &'a TraceLine,
    span_id: &'a str,
    parent_span_id: Option<&'a str>,
    request: Option<Box<RawValue>>,
    response: Option<Box<RawValue>>,
    metadata: Option<Box<RawValue>>,
    received_ms: Option<i64>,
}

/// `/w/{workspace}/traces/{trace}/json`
pub(super) async fn file(
    State(site): State<Site>,
    Path((_, trace)): Path<(String, String)>,
    visit: Visit,
) -> Response {
    let answer = async {
        let id: uuid::Uuid = id(&trace, "trace")?;
        let found = there(site.web.records.trace(visit.workspace(), id).await, "trace")?;
        let file = File {
            line: &found.line,
            span_id: &found.span_id,
            parent_span_id: found.parent_span_id.as_deref(),
            request: found.request.as_deref().map(raw),
            response: found.response.as_deref().map(raw),
            metadata: Some(raw(&found.metadata)),
            received_ms: found.received_ms,
        };
        let disposition = format!("attachment; filename=\"trace-{id}.json\"");
        Ok(([(header::CONTENT_DISPOSITION, disposition)], Json(file)).into_response())
    };
    let answer = answer.await;
    visit.answer(answer)
}

/// JSON as it is; what is none as a string.
fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(text).to_string();
        RawValue::from_string(quoted).expect("a string that was just written as JSON")
    })
}

pub(super) fn cursor(text: &str) -> Result<Cursor, ApiError> {
    let bad =
        |_| ApiError::Invalid("`after` is no place in this list; begin at its top".to_owned());
    text.parse().map_err(bad)
}

/// Reads the filters of the address: the form, and what is asked of the records.
pub(super) async fn query(site: &Site, visit: &Visit) -> Result<(Filters, TraceQuery), ApiError> {
    let since_ns = visit.now_ns().saturating_sub(CHOICES_NS);
    let choices = site.web.records.choices(visit.workspace(), since_ns).await?;
    let mut filters = Filters::new(&visit.address);
    let operations = choices.operations.iter().map(|name| (name.clone(), word(name).to_owned()));
    let operation = filters.one("operation", "Operation", operations);
    let upstream = filters.one("upstream", "Server", same(&choices.upstreams));
    let name = filters.one("name", "Tool or resource", same(&choices.names));
    let statuses = [("success", "Success"), ("error", "Error")];
    let statuses = statuses.map(|(value, label)| (value.to_owned(), label.to_owned()));
    let status = match filters.one("status", "Status", statuses).as_deref() {
        None => None,
        Some("success") => Some(Status::Success),
        Some("error") => Some(Status::Error),
        Some(_) => {
            return Err(ApiError::Invalid("`status` is `success` or `error`".to_owned()));
        }
    };
    let client = filters.one("client", "Client", same(&choices.clients));
    let users = choices.users.iter().map(|(id, name)| (id.to_string(), name.clone()));
    let user = filters.one("user", "Gateway's owner", users);
    let gateways = choices.gateways.iter().map(|of| (of.id.to_string(), of.name.clone()));
    let gateway = filters.one("gateway", "Gateway", gateways);
    let session = filters.linked("session", "Session");
    let id_text = filters.linked("trace", "Trace");
    let span = filters.time(visit)?;
    let query = TraceQuery {
        operation,
        upstream,
        name,
        status,
        client,
        user: user.as_deref().map(|text| id(text, "user")).transpose()?,
        gateway: gateway.as_deref().map(|text| id(text, "gateway")).transpose()?,
        session,
        id: id_text,
        since_ns: span.since_ns,
        until_ns: span.until_ns,
        after: None,
        limit: 0,
    };
    Ok((filters, query))
}

impl Row {
    /// A row of a list that is at `list`.
    pub(crate) fn new(visit: &Visit, list: &Address, line: &TraceLine) -> Self {
        let id = line.id.to_string();
        Self {
            opened: visit.address.get("panel") == Some(&id),
            href: list.with("panel", &id).to_string(),
            when: When::from_ns(line.started_ns, visit.now_ms),
            operation: operation(&line.operation),
            upstream: line.upstream.as_deref().map(Text::from),
            name: Text::line(line.name.as_deref().unwrap_or(&line.method)),
            failed: line.status == Status::Error,
            error: line.error.as_deref().map(Text::from),
            took: Took(line.duration_ns),
            client: Text::from(&line.client),
            gateway: Text::from(&line.gateway.name),
            owner: line.gateway.owner.as_deref().map(Text::from),
            id,
        }
    }
}

/// A status as classes and addresses have it.
pub(super) fn status_class(status: Status) -> &'static str {
    match status {
        Status::Success => "success",
        Status::Error => "error",
    }
}

/// An operation in words.
pub(super) fn operation(operation: &str) -> Text {
    Text::from(word(operation))
}

fn word(operation: &str) -> &str {
    let known = OPERATIONS.iter().find(|(value, _)| *value == operation);
    known.map_or(operation, |(_, label)| label)
}

impl Call {
    fn new(visit: &Visit, found: &TraceDetail) -> Self {
        let line = &found.line;
        let page = visit.page(&format!("traces/{}", line.id));
        let session =
            visit.page("session").and("gateway", line.gateway.id).and("session", &line.session);
        let payload = |stored: &Option<String>, bytes| {
            stored.as_deref().map(|stored| Payload::new(stored, Some(bytes)))
        };
        Self {
            row: Row::new(visit, &visit.page("traces"), line),
            title: Text::block(line.name.as_deref().unwrap_or(&line.method)),
            method: Text::from(&line.method),
            error: line.error.as_deref().map(Text::block),
            request_bytes: Bytes(line.request_bytes),
            response_bytes: Bytes(line.response_bytes),
            session: Text::from(&line.session),
            session_href: session.to_string(),
            gateway_href: visit.page("gateways").and("panel", line.gateway.id).to_string(),
            server_href: line
                .upstream
                .as_deref()
                .and_then(|name| visit.page("server").and("name", name).link()),
            json_href: format!("{page}/json"),
            page_href: page.to_string(),
            trace: line
                .trace_id
                .as_ref()
                .map(|id| (Text::from(id), visit.page("traces").and("trace", id).to_string())),
            span_id: Text::from(&found.span_id),
            parent_span_id: found.parent_span_id.as_deref().map(Text::from),
            received: found.received_ms.map(|at_ms| When::from_ms(at_ms, visit.now_ms)),
            request: payload(&found.request, line.request_bytes),
            response: payload(&found.response, line.response_bytes),
            metadata: Payload::new(&found.metadata, None),
        }
    }
}
