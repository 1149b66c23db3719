//! The list of gateways, and one of them beside it.

mod panel;

use axum::extract::State as From;
use axum::response::Response;

use askama::Template;

use self::panel::Panel;
use super::address::Address;
use super::columns::Column;
use super::figures::{Count, When};
use super::filters::{Filters, same};
use super::pager::Pager;
use super::text::Text;
use super::visit::{Visit, html, id, there};
use super::{Frame, Site, Tab};
use crate::access::Ability;
use crate::error::ApiError;
use crate::fleet::{Counts, GatewayKey, GatewayLine, GatewayQuery, Link, Sort, State};
use crate::id::{GatewayId, WorkspaceId};

/// Rows of a page.
const ROWS: u32 = 100;

/// What the columns are called, and what sorts by them.
const COLUMNS: [(Sort, &str, &str); 5] = [
    (Sort::State, "state", "Status"),
    (Sort::Name, "name", "Name"),
    (Sort::Workspace, "workspace", "Workspace"),
    (Sort::Version, "version", "Version"),
    (Sort::LastSeen, "seen", "Last seen"),
];

/// A gateway in the list.
struct Row {
    id: String,
    href: String,
    name: Text,
    hostname: Text,
    state: &'static str,
    state_word: &'static str,
    owner: Option<Text>,
    workspace: Text,
    version: Text,
    system: Text,
    environment: Text,
    seen: Option<When>,
    opened: bool,
}

/// A number of gateways in one state; choosing it filters.
struct Tally {
    href: String,
    state: &'static str,
    word: &'static str,
    count: Count,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "gateways.html")]
struct ListPage {
    frame: Frame,
    filters: Filters,
    link: Link,
    tallies: Vec<Tally>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    panel: Option<Panel>,
    close: String,
    /// The workspaces of the organization, if there are several: a link to all or to this one.
    scope: Option<(String, &'static str)>,
    pager: Pager,
    empty: bool,
}

/// How the list is asked for.
struct Asked {
    filters: Filters,
    query: GatewayQuery,
    workspaces: Vec<WorkspaceId>,
}

/// `/w/{workspace}/gateways`
pub(super) async fn list(From(site): From<Site>, visit: Visit) -> Response {
    let page = list_page(&site, &visit).await;
    visit.answer(page)
}

async fn list_page(site: &Site, visit: &Visit) -> Result<Response, ApiError> {
    let Asked { filters, query, workspaces } = asked(site, visit).await?;
    let fleet = &site.web.fleet;
    let opened = visit.address.get("panel");
    let opened = opened.map(|text| id::<GatewayId>(text, "gateway")).transpose()?;
    let panel = match opened {
        Some(id) => {
            let found = there(fleet.gateway(&workspaces, id).await, "gateway")?;
            let of = found.line.workspace;
            let clients = site.web.records.clients(of, id).await?;
            Some(Panel::new(visit, &found, clients))
        }
        None => None,
    };
    let (lines, next, counts) = if visit.panel_only {
        (Vec::new(), None, Counts::default())
    } else {
        let page = fleet.gateways(&workspaces, &query).await?;
        (page.rows, page.next, fleet.counts(&workspaces, &query).await?)
    };
    let list = visit.address.without("panel");
    let rows: Vec<_> = lines.iter().map(|line| Row::new(visit, &list, line)).collect();
    html(&ListPage {
        frame: visit.frame("Gateways", Tab::Gateways),
        tallies: tallies(&list.first_page(), counts),
        columns: columns(visit)
            .map(|(sort, name, label)| {
                let sorted = (query.sort == *sort).then_some(query.descending);
                Column::new(&list.first_page(), name, label, false, sorted)
            })
            .collect(),
        link: query.link,
        empty: rows.is_empty() && filters.chips.is_empty() && query.offset_key.is_none(),
        pager: Pager::by_order(
            query.offset_key.is_some().then(|| list.first_page().to_string()),
            next.map(|next| list.with("after", place(&next)).to_string()),
        ),
        scope: scope(visit, &list.first_page()),
        close: list.to_string(),
        filters,
        rows,
        panel,
    })
}

async fn asked(site: &Site, visit: &Visit) -> Result<Asked, ApiError> {
    let workspaces = workspaces(visit);
    let link = match visit.address.get("link") {
        None => Link::default(),
        Some(text) => Link::parse(text).ok_or_else(|| {
            let known = Link::ALL.map(Link::as_str).join("`, `");
            ApiError::Invalid(format!("`link` is one of `{known}`"))
        })?,
    };
    let facets = site.web.fleet.facets(&workspaces, link).await?;
    let mut filters = Filters::new(&visit.address);
    let search = filters.search("search", "Search name, host or owner");
    let states = State::ALL.map(|state| (state.as_str().to_owned(), word(state).to_owned()));
    let states = filters.many("state", "Status", states);
    let versions = filters.many("version", "Version", same(&facets.versions));
    let systems = filters.many("os", "Operating system", worded(&facets.systems, system_word));
    let kinds = filters.many("type", "Type", worded(&facets.kinds, kind_word));
    let environments = worded(&facets.environments, environment_word);
    let environments = filters.many("environment", "Environment", environments);
    let owners = facets.owners.iter().map(|(id, name)| (id.to_string(), name.clone()));
    let owner = filters.one("owner", "Owner", owners);
    // On one's own machine there is nothing to be linked to.
    if visit.viewing.account.is_some() {
        let links = Link::ALL.map(|link| (link.as_str().to_owned(), link_word(link).to_owned()));
        filters.one("link", "Link", links);
    }
    for name in ["sort", "order", "scope"] {
        filters.keep(name);
    }
    let state = |text: &String| {
        let unknown = || {
            let known = State::ALL.map(State::as_str).join("`, `");
            ApiError::Invalid(format!("`state` is one of `{known}`"))
        };
        State::parse(text).ok_or_else(unknown)
    };
    let query = GatewayQuery {
        link,
        states: states.iter().map(state).collect::<Result<_, _>>()?,
        versions,
        systems,
        kinds,
        environments,
        owner: owner.as_deref().map(|text| id(text, "owner")).transpose()?,
        search,
        sort: sort(&visit.address)?,
        descending: visit.address.get("order") == Some("desc"),
        offset_key: visit.address.get("after").map(key).transpose()?,
        limit: ROWS,
    };
    Ok(Asked { filters, query, workspaces })
}

/// This workspace, or all of its organization that one may see.
fn workspaces(visit: &Visit) -> Vec<WorkspaceId> {
    if visit.address.get("scope") != Some("all") {
        return vec![visit.workspace()];
    }
    let entry = &visit.viewing.entry;
    let all = visit.viewing.entries.iter().filter(|other| {
        other.organization == entry.organization && other.role.may(Ability::SeeRecords)
    });
    all.map(|entry| entry.workspace).collect()
}

fn scope(visit: &Visit, list: &Address) -> Option<(String, &'static str)> {
    if visit.address.get("scope") == Some("all") {
        return Some((list.without("scope").to_string(), "This workspace only"));
    }
    let of = visit.viewing.entry.organization;
    let several = visit.viewing.entries.iter().filter(|entry| entry.organization == of).count() > 1;
    several.then(|| (list.with("scope", "all").to_string(), "All workspaces"))
}

fn sort(address: &Address) -> Result<Sort, ApiError> {
    let Some(text) = address.get("sort") else { return Ok(Sort::default()) };
    let known = COLUMNS.iter().find(|(_, name, _)| *name == text);
    known.map(|(sort, ..)| *sort).ok_or_else(|| {
        let known = COLUMNS.map(|(_, name, _)| name).join("`, `");
        ApiError::Invalid(format!("`sort` is one of `{known}`"))
    })
}

/// A place in the list as it stands in an address.
fn place(key: &GatewayKey) -> String {
    format!("{}~{}", key.id, key.value)
}

fn key(text: &str) -> Result<GatewayKey, ApiError> {
    let bad = || ApiError::Invalid("`after` is no place in this list; begin at its top".to_owned());
    let (id, value) = text.split_once('~').ok_or_else(bad)?;
    Ok(GatewayKey { value: value.to_owned(), id: id.parse().map_err(|_| bad())? })
}

fn tallies(list: &Address, counts: Counts) -> Vec<Tally> {
    let of = |state: State| match state {
        State::Online => counts.online,
        State::Idle => counts.idle,
        State::Offline => counts.offline,
        State::Pending => counts.pending,
    };
    let all = Tally {
        href: list.without("state").to_string(),
        state: "all",
        word: "All",
        count: Count(State::ALL.map(of).iter().sum()),
        chosen: list.get("state").is_none(),
    };
    let one = |state: State| {
        let chosen = list.has("state", state.as_str());
        let address = if chosen {
            list.without_value("state", state.as_str())
        } else {
            list.clone().and("state", state.as_str())
        };
        Tally {
            href: address.to_string(),
            state: state.as_str(),
            word: word(state),
            count: Count(of(state)),
            chosen,
        }
    };
    std::iter::once(all).chain(State::ALL.map(one)).collect()
}

fn word(state: State) -> &'static str {
    match state {
        State::Online => "Online",
        State::Idle => "Idle",
        State::Offline => "Offline",
        State::Pending => "Pending",
    }
}

fn link_word(link: Link) -> &'static str {
    match link {
        Link::Linked => "Linked",
        Link::Unlinked => "Unlinked",
        Link::Archived => "Archived",
    }
}

/// Class and word of what a gateway is: its state, or that it is not linked any more.
fn condition(line: &GatewayLine) -> (&'static str, &'static str) {
    match line.link {
        Link::Linked => (line.state.as_str(), word(line.state)),
        Link::Unlinked | Link::Archived => ("offline", link_word(line.link)),
    }
}

/// The columns that are shown.
fn columns(visit: &Visit) -> impl Iterator<Item = &'static (Sort, &'static str, &'static str)> {
    let local = visit.viewing.account.is_none();
    COLUMNS.iter().filter(move |(sort, ..)| !local || *sort != Sort::Workspace)
}

/// Choices, each in words.
fn worded(
    values: &[String],
    word: impl Fn(&str) -> &str,
) -> impl Iterator<Item = (String, String)> {
    values.iter().map(move |value| (value.clone(), word(value).to_owned()))
}

/// What kind of machine it is, in words; one that is not known as it is.
fn kind_word(name: &str) -> &str {
    match name {
        "personal" => "Personal",
        "container" => "Container",
        "ci" => "CI",
        other => other,
    }
}

/// An environment in words; one that somebody else named as it is.
fn environment_word(name: &str) -> &str {
    match name {
        "local" => "Local",
        "dev" => "Development",
        "staging" => "Staging",
        "prod" => "Production",
        other => other,
    }
}

/// A processor as its maker writes it.
fn arch_word(name: &str) -> &str {
    match name {
        "aarch64" | "arm64" => "ARM64",
        "arm" => "ARM",
        "x86_64" => "x86-64",
        "riscv64" => "RISC-V",
        other => other,
    }
}

/// An operating system as its maker writes it.
fn system_word(name: &str) -> &str {
    match name {
        "linux" => "Linux",
        "macos" => "macOS",
        "windows" => "Windows",
        other => other,
    }
}

impl Row {
    fn new(visit: &Visit, list: &Address, line: &GatewayLine) -> Self {
        let id = line.id.to_string();
        let (state, state_word) = condition(line);
        Self {
            opened: visit.address.get("panel") == Some(&id),
            href: list.with("panel", &id).to_string(),
            name: Text::from(&line.name),
            hostname: Text::from(&line.host.hostname),
            state,
            state_word,
            owner: line.owner.as_deref().map(Text::from),
            workspace: Text::from(&line.workspace_name),
            version: Text::from(&line.host.version),
            system: Text::from(system_word(&line.host.os)),
            environment: Text::from(environment_word(&line.host.environment)),
            seen: line.seen_ms.map(|at_ms| When::from_ms(at_ms, visit.now_ms)),
            id,
        }
    }
}
