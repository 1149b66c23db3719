//! The servers behind the gateways: how they were used, of what, by whom.

use axum::extract::State;
use axum::response::Response;

use askama::Template;

use super::address::Address;
use super::figures::{Count, Share, Took, When};
use super::text::Text;
use super::traces::{self, cursor};
use super::visit::{Visit, html, there};
use super::{Frame, Site, Tab};
use crate::error::ApiError;
use crate::events::{ServerDetail, ServerUse, TraceQuery, Usage};

/// Rows of the requests of a server, and at most so many of its tools, gateways and users.
const ROWS: u32 = 50;

/// Tools of a server that are listed.
const PARTS_MAX: usize = 500;

/// The ranges that can be chosen: as they stand in addresses, in words, in days.
const RANGES: [(&str, &str, i64); 3] =
    [("24h", "24 hours", 1), ("7d", "7 days", 7), ("30d", "30 days", 30)];

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
    href: String,
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
    last: When,
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
    ranges: Vec<Pick>,
    servers: Vec<Server>,
}

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
    first: Option<String>,
    next: Option<String>,
}

/// `/w/{workspace}/servers`
pub(super) async fn list(State(site): State<Site>, visit: Visit) -> Response {
    let page = async {
        let since_ns = since(&visit)?;
        let found = site.web.records.servers(visit.workspace(), since_ns).await?;
        html(&ListPage {
            frame: visit.frame("Servers", Tab::Servers),
            ranges: ranges(&visit),
            servers: found.iter().map(|of| Server::new(&visit, of)).collect(),
        })
    };
    let page = page.await;
    visit.answer(page)
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
    let found = records.server(visit.workspace(), name, since_ns).await;
    let detail = there(found, "server in this time; choose a longer one")?;
    let asked = visit.address.get("tab").unwrap_or("tools");
    let known = TABS.iter().find(|(tab, _)| *tab == asked);
    let (tab, _) = known.ok_or(ApiError::NotFound("part of this page"))?;
    let mut parts = parts(visit, &detail, tab);
    let parts_left = parts.len().saturating_sub(PARTS_MAX);
    parts.truncate(PARTS_MAX);
    let after = visit.address.get("after").map(cursor).transpose()?;
    let page = if *tab == "requests" {
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
        tabs: TABS.map(|(tab, label)| picked(tab, label)).into(),
        tab,
        parts,
        parts_left,
        rows: rows.iter().map(|line| traces::Row::new(visit, &list, line)).collect(),
        first: after.map(|_| visit.address.first_page().to_string()),
        next: next.map(|next| visit.address.with("after", next).to_string()),
    })
}

fn since(visit: &Visit) -> Result<i64, ApiError> {
    let asked = visit.address.get("range").unwrap_or(RANGE);
    let days = RANGES.iter().find(|(range, ..)| *range == asked).map(|(.., days)| *days);
    let days = days.ok_or_else(|| {
        ApiError::Invalid(format!("`range` is one of `{}`", RANGES.map(|of| of.0).join("`, `")))
    })?;
    Ok(visit.now_ns().saturating_sub(days * 86_400 * 1_000_000_000))
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
        href: href.map(|href| href.to_string()),
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
        "users" => detail.users.iter().map(|(name, usage)| part(name, None, None, usage)).collect(),
        _ => Vec::new(),
    }
}

impl Server {
    fn new(visit: &Visit, of: &ServerUse) -> Self {
        let page = visit.page("server").and("name", &of.upstream);
        Self {
            key: of.upstream.clone(),
            name: Text::from(&of.upstream),
            href: page.and_some("range", visit.address.get("range")).to_string(),
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
            last: When::from_ns(usage.last_ns, visit.now_ms),
        }
    }
}
