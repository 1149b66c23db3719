//! The list of audit events, and one event with everything.

use axum::extract::{Path, State};
use axum::response::Response;
use ultra_store::{AuditOutcome, Severity};

use askama::Template;

use super::address::Address;
use super::figures::When;
use super::filters::{Filters, same};
use super::json::Payload;
use super::pager::Pager;
use super::text::Text;
use super::traces::{CHOICES_NS, cursor, operation};
use super::visit::{Visit, html, id, there};
use super::{Frame, Site, Tab, export};
use crate::error::ApiError;
use crate::events::{AuditLine, AuditQuery};

/// Rows of a page.
const ROWS: u32 = 50;

/// Kinds of events beside operations; others can be set by a link.
const TYPES: [(&str, &str); 14] = [
    ("tool_call", "Tool call"),
    ("resource_read", "Resource read"),
    ("prompt_get", "Prompt get"),
    ("policy_deny", "Policy: denied"),
    ("policy_allow", "Policy: allowed"),
    ("auth_failure", "Sign-in failed"),
    ("auth_success", "Signed in"),
    ("token_refresh", "Token refreshed"),
    ("config_change", "Configuration changed"),
    ("server_start", "Gateway started"),
    ("server_stop", "Gateway stopped"),
    ("upstream_connect", "Server connected"),
    ("upstream_disconnect", "Server disconnected"),
    ("error", "Error"),
];

/// How an event ended: as it stands in addresses, and in words.
const OUTCOMES: [(AuditOutcome, &str, &str); 5] = [
    (AuditOutcome::Success, "success", "Success"),
    (AuditOutcome::Failure, "failure", "Failure"),
    (AuditOutcome::Error, "error", "Error"),
    (AuditOutcome::Deny, "deny", "Denied"),
    (AuditOutcome::Canceled, "canceled", "Canceled"),
];

/// How much an event matters, likewise.
const SEVERITIES: [(Severity, &str, &str); 4] = [
    (Severity::Info, "info", "Info"),
    (Severity::Warning, "warning", "Warning"),
    (Severity::Error, "error", "Error"),
    (Severity::Critical, "critical", "Critical"),
];

/// An event in a list.
struct Row {
    id: String,
    href: String,
    when: When,
    kind: Text,
    /// Class and word of the outcome.
    outcome: (&'static str, &'static str),
    severity: (&'static str, &'static str),
    upstream: Option<Text>,
    action: Option<Text>,
    client: Text,
    gateway: Text,
    owner: Option<Text>,
    reason: Option<Text>,
    opened: bool,
}

/// An event with everything.
struct Event {
    row: Row,
    title: Text,
    kind: Text,
    reason: Option<Text>,
    session: Option<(Text, String)>,
    trace: Option<(Text, String)>,
    gateway_href: String,
    server_href: Option<String>,
    page_href: String,
    details: Payload,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct ListPage {
    frame: Frame,
    filters: Filters,
    rows: Vec<Row>,
    event: Option<Event>,
    close: String,
    pager: Pager,
    export: export::Links,
    empty: bool,
}

#[derive(Template)]
#[template(path = "audit_event.html")]
struct DetailPage {
    frame: Frame,
    event: Event,
    back: String,
}

/// `/w/{workspace}/audit`
pub(super) async fn list(State(site): State<Site>, visit: Visit) -> Response {
    let page = list_page(&site, &visit).await;
    visit.answer(page)
}

async fn list_page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let (filters, mut query) = query(site, visit).await?;
    query.limit = ROWS;
    query.after = visit.address.get("after").map(cursor).transpose()?;
    let records = &site.web.records;
    let opened = visit.address.get("panel");
    let event = match opened.map(|text| id(text, "audit event")).transpose()? {
        Some(id) => {
            let found = records.audit_event(visit.workspace(), id).await;
            Some(Event::new(visit, &there(found, "audit event")?))
        }
        None => None,
    };
    let (lines, next) = if visit.panel_only {
        (Vec::new(), None)
    } else {
        let page = records.audit_events(visit.workspace(), &query).await?;
        (page.rows, page.next)
    };
    let list = visit.address.without("panel");
    let rows: Vec<_> = lines.iter().map(|line| Row::new(visit, &list, line)).collect();
    html(&ListPage {
        frame: visit.frame("Audit", Tab::Audit),
        empty: rows.is_empty() && filters.chips.is_empty() && query.after.is_none(),
        pager: Pager::by_time(
            query.after.map(|_| list.first_page().to_string()),
            next.map(|next| list.with("after", next).to_string()),
        ),
        export: export::Links::new(visit, "audit"),
        close: list.to_string(),
        filters,
        rows,
        event,
    })
}

/// `/w/{workspace}/audit/{event}`
pub(super) async fn detail(
    State(site): State<Site>,
    Path((_, event)): Path<(String, String)>,
    visit: Visit,
) -> Response {
    let page = async {
        let id = id(&event, "audit event")?;
        let found = site.web.records.audit_event(visit.workspace(), id).await;
        let event = Event::new(&visit, &there(found, "audit event")?);
        let frame = visit.frame(event.title.plain(), Tab::Audit);
        html(&DetailPage { frame, event, back: visit.page("audit").to_string() })
    };
    let page = page.await;
    visit.answer(page)
}

/// Reads the filters of the address: the form, and what is asked of the records.
pub(super) async fn query(site: &Site, visit: &Visit) -> Result<(Filters, AuditQuery), ApiError> {
    let since_ns = visit.now_ns().saturating_sub(CHOICES_NS);
    let choices = site.web.records.choices(visit.workspace(), since_ns).await?;
    let mut filters = Filters::new(&visit.address);
    let types = TYPES.map(|(value, label)| (value.to_owned(), label.to_owned()));
    let event_type = filters.one("type", "Type", types);
    let outcome = filters.one("outcome", "Outcome", words(&OUTCOMES));
    let severity = filters.one("severity", "Severity", words(&SEVERITIES));
    let upstream = filters.one("upstream", "Server", same(&choices.upstreams));
    let action = filters.one("name", "Tool or resource", same(&choices.names));
    let client = filters.one("client", "Client", same(&choices.clients));
    let users = choices.users.iter().map(|(id, name)| (id.to_string(), name.clone()));
    let user = filters.one("user", "Gateway's owner", users);
    let gateways = choices.gateways.iter().map(|of| (of.id.to_string(), of.name.clone()));
    let gateway = filters.one("gateway", "Gateway", gateways);
    let session = filters.linked("session", "Session");
    let span = filters.time(visit)?;
    let query = AuditQuery {
        event_type,
        outcome: outcome.as_deref().map(|text| known(&OUTCOMES, "outcome", text)).transpose()?,
        severity: severity
            .as_deref()
            .map(|text| known(&SEVERITIES, "severity", text))
            .transpose()?,
        upstream,
        action,
        client,
        user: user.as_deref().map(|text| id(text, "user")).transpose()?,
        gateway: gateway.as_deref().map(|text| id(text, "gateway")).transpose()?,
        session,
        since_ns: span.since_ns,
        until_ns: span.until_ns,
        after: None,
        limit: 0,
    };
    Ok((filters, query))
}

type Words<T, const N: usize> = [(T, &'static str, &'static str); N];

fn words<T, const N: usize>(all: &Words<T, N>) -> impl Iterator<Item = (String, String)> {
    all.iter().map(|(_, value, label)| ((*value).to_owned(), (*label).to_owned()))
}

fn known<T: Copy, const N: usize>(
    all: &Words<T, N>,
    name: &str,
    text: &str,
) -> Result<T, ApiError> {
    let found = all.iter().find(|(_, value, _)| *value == text).map(|(of, ..)| *of);
    found.ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|(_, value, _)| *value).collect();
        ApiError::Invalid(format!("`{name}` is one of `{}`", known.join("`, `")))
    })
}

fn shown<T: PartialEq, const N: usize>(all: &Words<T, N>, of: T) -> (&'static str, &'static str) {
    let found = all.iter().find(|(known, ..)| *known == of);
    found.map_or(("other", "Other"), |(_, value, label)| (*value, *label))
}

fn kind(event_type: &str) -> Text {
    let known = TYPES.iter().find(|(value, _)| *value == event_type);
    known.map_or_else(|| operation(event_type), |(_, label)| Text::from(*label))
}

impl Row {
    fn new(visit: &Visit, list: &Address, line: &AuditLine) -> Self {
        let id = line.id.to_string();
        Self {
            opened: visit.address.get("panel") == Some(&id),
            href: list.with("panel", &id).to_string(),
            when: When::from_ns(line.at_ns, visit.now_ms),
            kind: kind(&line.event_type),
            outcome: shown(&OUTCOMES, line.outcome),
            severity: shown(&SEVERITIES, line.severity),
            upstream: line.upstream.as_deref().map(Text::from),
            action: line.action.as_deref().map(Text::from),
            client: Text::from(&line.client),
            gateway: Text::from(&line.gateway.name),
            owner: line.gateway.owner.as_deref().map(Text::from),
            reason: line.reason.as_deref().map(Text::from),
            id,
        }
    }
}

impl Event {
    fn new(visit: &Visit, line: &AuditLine) -> Self {
        let session = |name: &String| {
            let page = visit.page("session").and("gateway", line.gateway.id);
            (Text::from(name), page.and("session", name).to_string())
        };
        let trace =
            |id: &String| (Text::from(id), visit.page("traces").and("trace", id).to_string());
        let server = |name: &String| visit.page("server").and("name", name).link();
        Self {
            row: Row::new(visit, &visit.page("audit"), line),
            title: match &line.action {
                Some(action) => Text::block(action),
                None => kind(&line.event_type),
            },
            kind: kind(&line.event_type),
            reason: line.reason.as_deref().map(Text::block),
            session: line.session.as_ref().map(session),
            trace: line.trace_id.as_ref().map(trace),
            gateway_href: visit.page("gateways").and("panel", line.gateway.id).to_string(),
            server_href: line.upstream.as_ref().and_then(server),
            page_href: visit.page(&format!("audit/{}", line.id)).to_string(),
            details: Payload::new(&line.details, None),
        }
    }
}
