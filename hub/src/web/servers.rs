//! The servers behind the gateways: how they were used, of what, by whom.

use std::cmp::Ordering;

use axum::extract::State;
use axum::response::Response;

use askama::Template;

use super::address::Address;
use super::columns::Column;
use super::figures::{Count, Share, Took, When};
use super::filters::Filters;
use super::pager::Pager;
use super::text::Text;
use super::traces::{self, cursor};
use super::visit::{Visit, html};
use super::{Frame, Site, Tab, export};
use crate::error::ApiError;
use crate::events::{ServerDetail, ServerUse, TraceQuery, Usage};

/// Rows of the requests of a server.
const ROWS: u32 = 50;

/// Servers, or tools, gateways or users of one, that are listed.
const LISTED_MAX: usize = 500;

/// The ranges that can be chosen: as they stand in addresses, in words, in hours.
const RANGES: [(&str, &str, i64); 4] =
    [("1h", "1 hour", 1), ("24h", "24 hours", 24), ("7d", "7 days", 168), ("30d", "30 days", 720)];

/// The one that is taken without a choice.
const RANGE: &str = "7d";

/// What a server's page is divided into.
const TABS: [(&str, &str); 4] =
    [("tools", "Tools"), ("gateways", "Gateways"), ("users", "Users"), ("requests", "Requests")];

/// A link of which one of several is the current one.
struct Pick {
    href: String,
    label: &'static str,
    current: bool,
}

/// A server with its figures.
struct Server {
    key: String,
    name: Text,
    href: Option<String>,
    transport: Option<Text>,
    figures: Figures,
    tools: Count,
    gateways: Count,
    users: Count,
}

/// How something was used.
struct Figures {
    calls: Count,
    errors: Count,
    success: Share,
    /// Whether one should look.
    poor: bool,
    mean: Took,
    last: Option<When>,
}

/// A tool, a gateway or a user of a server.
struct Part {
    name: Text,
    note: Option<Text>,
    href: Option<String>,
    figures: Figures,
}

#[derive(Template)]
#[template(path = "servers.html")]
struct ListPage {
    frame: Frame,
    filters: Filters,
    export: export::Links,
    ranges: Vec<Pick>,
    columns: Vec<Column>,
    servers: Vec<Server>,
    left: usize,
}

/// What servers are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Name,
    Transport,
    Requests,
    Success,
    Tools,
    Latency,
    Gateways,
    Users,
    LastUsed,
}

/// What the columns are called in addresses and in words, and whether they have figures.
const COLUMNS: [(By, &str, &str, bool); 9] = [
    (By::Name, "name", "Server", false),
    (By::Transport, "transport", "Transport", false),
    (By::Requests, "requests", "Requests", true),
    (By::Success, "success", "Success", true),
    (By::Tools, "tools", "Tools", true),
    (By::Latency, "latency", "Mean latency", true),
    (By::Gateways, "gateways", "Gateways", true),
    (By::Users, "users", "Users", true),
    (By::LastUsed, "used", "Last used", false),
];

#[derive(Template)]
#[template(path = "server.html")]
struct DetailPage {
    frame: Frame,
    back: String,
    server: Server,
    title: Text,
    ranges: Vec<Pick>,
    tabs: Vec<Pick>,
    /// The current one.
    tab: &'static str,
    parts: Vec<Part>,
    parts_left: usize,
    rows: Vec<traces::Row>,
    pager: Pager,
}

/// `/w/{workspace}/servers`
pub(super) async fn list(State(site): State<Site>, visit: Visit) -> Response {
    let page = list_page(&site, &visit).await;
    visit.answer(page)
}

async fn list_page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let (filters, found) = found(site, visit).await?;
    let (by, descending) = order(&visit.address)?;
    let column = |(of, name, label, is_figure): &(By, &'static str, &'static str, bool)| {
        let sorted = (*of == by).then_some(descending);
        Column::new(&visit.address.first_page(), name, label, *is_figure, sorted)
    };
    html(&ListPage {
        frame: visit.frame("Servers", Tab::Servers),
        filters,
        export: export::Links::new(visit, "servers"),
        ranges: ranges(visit),
        columns: columns(visit).map(column).collect(),
        left: found.len().saturating_sub(LISTED_MAX),
        servers: found.iter().take(LISTED_MAX).map(|of| Server::new(visit, of)).collect(),
    })
}

/// Returns the servers that the address asks for, and its filters.
pub(super) async fn found(
    site: &Site,
    visit: &Visit,
) -> Result<(Filters, Vec<ServerUse>), ApiError> {
    let since_ns = since(visit)?;
    let (by, descending) = order(&visit.address)?;
    let mut filters = Filters::new(&visit.address);
    let search = filters.search("search", "Search name").unwrap_or_default().to_lowercase();
    for name in ["range", "sort", "order"] {
        filters.keep(name);
    }
    let mut servers = site.web.records.servers(visit.workspace(), since_ns).await?;
    servers.retain(|server| server.upstream.to_lowercase().contains(&search));
    servers.sort_by(|a, b| {
        let order = compare(by, a, b);
        let order = if descending { order.reverse() } else { order };
        order.then_with(|| a.upstream.cmp(&b.upstream))
    });
    Ok((filters, servers))
}

fn order(address: &Address) -> Result<(By, bool), ApiError> {
    let asked = address.get("sort").unwrap_or("name");
    let known = COLUMNS.iter().find(|(_, name, ..)| *name == asked);
    let by = known.map(|(by, ..)| *by).ok_or_else(|| {
        let known = COLUMNS.map(|(_, name, ..)| name).join("`, `");
        ApiError::Invalid(format!("`sort` is one of `{known}`"))
    })?;
    Ok((by, address.get("order") == Some("desc")))
}

fn compare(by: By, a: &ServerUse, b: &ServerUse) -> Ordering {
    let mean = |of: &ServerUse| of.usage.duration_ns.checked_div(of.usage.calls).unwrap_or(0);
    // `a / b < c / d` without a division.
    let errors = |of: &ServerUse| i128::from(of.usage.errors);
    let calls = |of: &ServerUse| i128::from(of.usage.calls);
    match by {
        By::Name => a.upstream.to_lowercase().cmp(&b.upstream.to_lowercase()),
        By::Transport => a.transport.cmp(&b.transport),
        By::Requests => a.usage.calls.cmp(&b.usage.calls),
        By::Success => (errors(b) * calls(a)).cmp(&(errors(a) * calls(b))),
        By::Tools => a.tools.cmp(&b.tools),
        By::Latency => mean(a).cmp(&mean(b)),
        By::Gateways => a.gateways.cmp(&b.gateways),
        By::Users => a.users.cmp(&b.users),
        By::LastUsed => a.usage.last_ns.cmp(&b.usage.last_ns),
    }
}

/// The columns that are shown: on one's own machine there is one gateway, and nobody's.
fn columns(visit: &Visit) -> impl Iterator<Item = &'static (By, &'static str, &'static str, bool)> {
    let local = visit.viewing.account.is_none();
    COLUMNS.iter().filter(move |(by, ..)| !local || !matches!(by, By::Gateways | By::Users))
}

/// Likewise, the parts of a server's page.
fn tabs(visit: &Visit) -> impl Iterator<Item = (&'static str, &'static str)> {
    let local = visit.viewing.account.is_none();
    TABS.into_iter().filter(move |(tab, _)| !local || !matches!(*tab, "gateways" | "users"))
}

/// `/w/{workspace}/server?name=…`: a name may be `..`, which no path can have.
pub(super) async fn detail(State(site): State<Site>, visit: Visit) -> Response {
    let page = detail_page(&site, &visit).await;
    visit.answer(page)
}

async fn detail_page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let since_ns = since(visit)?;
    let name = visit.address.get("name").ok_or(ApiError::NotFound("server"))?;
    let records = &site.web.records;
    let found = records.server(visit.workspace(), name, since_ns).await?;
    // Without a call in this time there may be some in a longer one.
    let detail = found.unwrap_or_else(|| unused(name));
    let asked = visit.address.get("tab").unwrap_or("tools");
    let known = tabs(visit).find(|(tab, _)| *tab == asked);
    let (tab, _) = known.ok_or(ApiError::NotFound("part of this page"))?;
    let mut parts = parts(visit, &detail, tab);
    let parts_left = parts.len().saturating_sub(LISTED_MAX);
    parts.truncate(LISTED_MAX);
    let after = visit.address.get("after").map(cursor).transpose()?;
    let page = if tab == "requests" {
        let query = TraceQuery {
            upstream: Some(name.to_owned()),
            since_ns: Some(since_ns),
            after,
            limit: ROWS,
            ..TraceQuery::default()
        };
        Some(records.traces(visit.workspace(), &query).await?)
    } else {
        None
    };
    let list = visit.page("traces").and("upstream", name);
    let next = page.as_ref().and_then(|page| page.next);
    let rows = page.map(|page| page.rows).unwrap_or_default();
    let picked = |tab: &'static str, label| Pick {
        href: visit.address.first_page().with("tab", tab).to_string(),
        label,
        current: tab == asked,
    };
    html(&DetailPage {
        frame: visit.frame(Text::from(name).plain(), Tab::Servers),
        back: visit.page("servers").and_some("range", visit.address.get("range")).to_string(),
        server: Server::new(visit, &detail.server),
        title: Text::block(name),
        ranges: ranges(visit),
        tabs: tabs(visit).map(|(tab, label)| picked(tab, label)).collect(),
        tab,
        parts,
        parts_left,
        rows: rows.iter().map(|line| traces::Row::new(visit, &list, line)).collect(),
        pager: Pager::by_time(
            after.map(|_| visit.address.first_page().to_string()),
            next.map(|next| visit.address.with("after", next).to_string()),
        ),
    })
}

/// A server that nobody has called.
fn unused(name: &str) -> ServerDetail {
    let server = ServerUse {
        upstream: name.to_owned(),
        transport: None,
        usage: Usage::default(),
        tools: 0,
        gateways: 0,
        users: 0,
    };
    ServerDetail { server, tools: Vec::new(), gateways: Vec::new(), users: Vec::new() }
}

fn since(visit: &Visit) -> Result<i64, ApiError> {
    let asked = visit.address.get("range").unwrap_or(RANGE);
    let hours = RANGES.iter().find(|(range, ..)| *range == asked).map(|(.., hours)| *hours);
    let hours = hours.ok_or_else(|| {
        ApiError::Invalid(format!("`range` is one of `{}`", RANGES.map(|of| of.0).join("`, `")))
    })?;
    Ok(visit.now_ns().saturating_sub(hours * 3600 * 1_000_000_000))
}

fn ranges(visit: &Visit) -> Vec<Pick> {
    let asked = visit.address.get("range").unwrap_or(RANGE);
    let pick = |(range, label, _): (&'static str, &'static str, i64)| Pick {
        href: visit.address.first_page().with("range", range).to_string(),
        label,
        current: range == asked,
    };
    RANGES.map(pick).into()
}

fn parts(visit: &Visit, detail: &ServerDetail, tab: &str) -> Vec<Part> {
    let traces = || visit.page("traces").and("upstream", &detail.server.upstream);
    let part = |name: &str, note, href: Option<Address>, usage: &Usage| Part {
        name: Text::from(name),
        note,
        href: href.and_then(|href| href.link()),
        figures: Figures::new(visit, usage),
    };
    match tab {
        "tools" => {
            let tool = |(name, usage): &(String, Usage)| {
                part(name, None, Some(traces().and("name", name)), usage)
            };
            detail.tools.iter().map(tool).collect()
        }
        "gateways" => {
            let gateways = detail.gateways.iter().map(|(gateway, usage)| {
                let owner = gateway.owner.as_deref().map(Text::from);
                part(&gateway.name, owner, Some(traces().and("gateway", gateway.id)), usage)
            });
            gateways.collect()
        }
        "users" => {
            let users = detail.users.iter().map(|(user, usage)| {
                part(&user.name, None, Some(traces().and("user", user.id)), usage)
            });
            users.collect()
        }
        _ => Vec::new(),
    }
}

impl Server {
    fn new(visit: &Visit, of: &ServerUse) -> Self {
        let page = visit.page("server").and("name", &of.upstream);
        Self {
            key: of.upstream.clone(),
            name: Text::from(&of.upstream),
            href: page.and_some("range", visit.address.get("range")).link(),
            transport: of.transport.as_deref().map(Text::from),
            figures: Figures::new(visit, &of.usage),
            tools: Count(of.tools),
            gateways: Count(of.gateways),
            users: Count(of.users),
        }
    }
}

impl Figures {
    fn new(visit: &Visit, usage: &Usage) -> Self {
        let good = usage.calls.saturating_sub(usage.errors);
        Self {
            calls: Count(usage.calls),
            errors: Count(usage.errors),
            success: Share { of: good, all: usage.calls },
            // A tenth and more.
            poor: usage.errors > 0 && usage.errors.saturating_mul(10) >= usage.calls,
            mean: Took(usage.duration_ns.checked_div(usage.calls).unwrap_or(0)),
            last: (usage.calls > 0).then(|| When::from_ns(usage.last_ns, visit.now_ms)),
        }
    }
}
