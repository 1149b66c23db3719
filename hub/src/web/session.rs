//! The calls of a session, drawn over time.

mod axis;

use axum::extract::State;
use axum::response::Response;

use askama::Template;

use self::axis::Axis;
use super::figures::{Count, Took, When};
use super::text::Text;
use super::traces::{operation, status_class};
use super::visit::{Visit, html, id};
use super::{Frame, Site, Tab};
use crate::error::ApiError;
use crate::events::{SessionKey, TraceLine};
use crate::id::GatewayId;

/// Calls of a session that are drawn: the first ones.
const CALLS_MAX: u32 = 1_000;

/// A call, and its bar.
struct Bar {
    id: String,
    href: String,
    name: Text,
    operation: Text,
    upstream: Option<Text>,
    /// Class of its status.
    status: &'static str,
    error: Option<Text>,
    took: Took,
    /// Since the session's first call.
    offset: Took,
    /// In percent of the axis.
    start: String,
    width: String,
    opened: bool,
}

#[derive(Template)]
#[template(path = "session.html")]
struct Page {
    frame: Frame,
    session: Text,
    gateway: Text,
    gateway_href: String,
    owner: Option<Text>,
    client: Text,
    begun: When,
    lasted: Took,
    busy: Took,
    calls: Count,
    errors: Count,
    bars: Vec<Bar>,
    ticks: Vec<axis::Tick>,
    breaks: Vec<String>,
    /// The other scale: where, and what it is.
    scale: Option<(String, &'static str)>,
    shortened: bool,
    call: Option<super::traces::Call>,
    close: String,
    traces_href: String,
    audit_href: String,
    more: bool,
}

/// `/w/{workspace}/session?gateway=…&session=…`
pub(super) async fn session(State(site): State<Site>, visit: Visit) -> Response {
    let page = page(&site, &visit).await;
    visit.answer(page)
}

async fn page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let missing = ApiError::NotFound("session");
    let (Some(gateway), Some(session)) =
        (visit.address.get("gateway"), visit.address.get("session"))
    else {
        return Err(missing);
    };
    let gateway: GatewayId = id(gateway, "gateway")?;
    let key = SessionKey { gateway, session: session.to_owned() };
    let records = &site.web.records;
    let mut lines = records.session(visit.workspace(), &key, CALLS_MAX + 1).await?;
    let more = lines.len() > CALLS_MAX as usize;
    lines.truncate(CALLS_MAX as usize);
    let first = lines.first().ok_or(missing)?;
    let call = super::traces::opened(site, visit).await?;
    let spans: Vec<_> = lines.iter().map(|line| (line.started_ns, line.duration_ns)).collect();
    let whole = visit.address.get("scale") == Some("whole");
    let axis = Axis::new(&spans, !whole);
    let list = visit.address.without("panel");
    let of = |page: &str| visit.page(page).and("gateway", gateway).and("session", session);
    html(&Page {
        frame: visit.frame("Session", Tab::Traces),
        session: Text::from(session),
        gateway: Text::from(&first.gateway.name),
        gateway_href: visit.page("gateways").and("panel", gateway).to_string(),
        owner: first.gateway.owner.as_deref().map(Text::from),
        client: Text::from(&first.client),
        begun: When::from_ns(first.started_ns, visit.now_ms),
        lasted: Took(axis.lasted_ns()),
        busy: Took(axis.busy_ns()),
        calls: Count(i64::try_from(lines.len()).unwrap_or(i64::MAX)),
        errors: Count(
            lines.iter().filter(|line| status_class(line.status) == "error").count() as i64
        ),
        ticks: axis.ticks(),
        breaks: axis.breaks(),
        shortened: axis.is_shortened(),
        scale: if whole {
            Some((list.without("scale").to_string(), "Shorten idle time"))
        } else {
            axis.is_shortened().then(|| (list.with("scale", "whole").to_string(), "True scale"))
        },
        bars: lines.iter().map(|line| Bar::new(visit, &list, &axis, line)).collect(),
        call,
        close: list.to_string(),
        traces_href: of("traces").to_string(),
        audit_href: of("audit").to_string(),
        more,
    })
}

impl Bar {
    fn new(visit: &Visit, list: &super::Address, axis: &Axis, line: &TraceLine) -> Self {
        let id = line.id.to_string();
        let (start, width) = axis.place(line.started_ns, line.duration_ns);
        Self {
            opened: visit.address.get("panel") == Some(&id),
            href: list.with("panel", &id).to_string(),
            name: Text::line(line.name.as_deref().unwrap_or(&line.method)),
            operation: operation(&line.operation),
            upstream: line.upstream.as_deref().map(Text::from),
            status: status_class(line.status),
            error: line.error.as_deref().map(Text::from),
            took: Took(line.duration_ns),
            offset: Took(line.started_ns.saturating_sub(axis.begun_ns())),
            start,
            width,
            id,
        }
    }
}
