//! One gateway, beside the list: what is known of it, and what nobody reported.

use askama::Template;
use askama::filters::HtmlSafe;

use super::super::figures::{Count, When};
use super::super::text::Text;
use super::super::visit::Visit;
use super::{arch_word, condition, environment_word, kind_word, system_word};
use crate::access::Ability;
use crate::events::ClientUse;
use crate::fleet::{GatewayDetail, Link};
use crate::wire::{ClientReport, UpstreamReport};

/// A gateway with everything.
pub(super) struct Panel {
    pub(super) name: Text,
    pub(super) id: String,
    pub(super) state: &'static str,
    pub(super) state_word: &'static str,
    /// When it was unlinked or archived.
    pub(super) ended: Option<When>,
    pub(super) owner: Option<Text>,
    pub(super) deploy_key: Option<Text>,
    pub(super) system: Reported,
    pub(super) arch: Reported,
    pub(super) hostname: Reported,
    pub(super) version: Reported,
    pub(super) kind: Reported,
    pub(super) environment: Reported,
    pub(super) seen: Option<When>,
    pub(super) synced: Option<When>,
    pub(super) created: When,
    pub(super) workspace: Text,
    pub(super) unsent: Option<Count>,
    pub(super) profile: Reported,
    pub(super) scan: Reported,
    pub(super) managed: Reported,
    pub(super) drift: Reported,
    pub(super) clients: Vec<Client>,
    pub(super) servers: Vec<Server>,
    pub(super) traces_href: String,
    pub(super) audit_href: String,
    /// For who may take it out of the workspace: where the forms lead.
    pub(super) forms: Option<Forms>,
}

/// Forms that change the gateway.
pub(super) struct Forms {
    /// While it is linked.
    pub(super) unlink: Option<String>,
    pub(super) archive: String,
    pub(super) csrf: String,
}

/// A text, or that nobody reported it.
#[derive(Template)]
#[template(
    source = r#"{% match text %}{% when Some(text) %}{{ text }}{% when None %}<span class="muted">not reported</span>{% endmatch %}"#,
    ext = "html"
)]
pub(super) struct Reported {
    text: Option<Text>,
}

/// Its template escapes.
impl HtmlSafe for Reported {}

/// A client in front of the gateway.
pub(super) struct Client {
    pub(super) name: Text,
    pub(super) version: Reported,
    pub(super) managed: Option<bool>,
    pub(super) calls: Option<Count>,
    pub(super) active: Option<When>,
    pub(super) traces_href: Option<String>,
}

/// A server behind the gateway.
pub(super) struct Server {
    pub(super) name: Text,
    pub(super) href: Option<String>,
    /// Class of the state.
    pub(super) state: &'static str,
    pub(super) state_word: Text,
    pub(super) server: Reported,
    pub(super) transport: Reported,
    pub(super) tools: Count,
    pub(super) error: Option<Text>,
}

impl Panel {
    pub(super) fn new(visit: &Visit, found: &GatewayDetail, used: Vec<ClientUse>) -> Self {
        let line = &found.line;
        let host = &line.host;
        let when = |at_ms| When::from_ms(at_ms, visit.now_ms);
        let of = |page: &str| {
            let path = format!("/w/{}/{page}", line.workspace);
            super::super::Address::new(path)
        };
        let setup = &found.setup;
        let managed = setup.servers_managed.zip(setup.servers_total);
        let managed = managed.map(|(managed, total)| format!("{managed} / {total}"));
        let drift = setup.drift_events.map(|events| events.to_string());
        let scan = setup.config_scan_unix_ms.map(|at_ms| when(at_ms).utc().to_owned());
        let system = match &host.os_version {
            Some(version) => format!("{} ({version})", system_word(&host.os)),
            None => system_word(&host.os).to_owned(),
        };
        let (state, state_word) = match line.link {
            Link::Linked => condition(line),
            Link::Unlinked => ("offline", "Not linked any more"),
            Link::Archived => ("offline", "Archived"),
        };
        let local = visit.viewing.account.is_none();
        Self {
            name: Text::from(&line.name),
            id: line.id.to_string(),
            state,
            state_word,
            ended: line.ended_ms.map(when),
            owner: line.owner.as_deref().map(Text::from),
            deploy_key: found.deploy_key.as_deref().map(Text::from),
            system: reported(&system),
            arch: reported(arch_word(&host.arch)),
            hostname: reported(&host.hostname),
            version: reported(&host.version),
            kind: reported(kind_word(&host.kind)),
            environment: reported(environment_word(&host.environment)),
            seen: line.seen_ms.map(when),
            synced: found.synced_ms.map(when),
            created: when(line.created_ms),
            workspace: Text::from(&line.workspace_name),
            unsent: (!local).then_some(Count(found.unsent)),
            profile: Reported::some(setup.enforcement_profile.as_deref()),
            scan: Reported::some(scan.as_deref()),
            managed: Reported::some(managed.as_deref()),
            drift: Reported::some(drift.as_deref()),
            clients: clients(visit, found, used),
            servers: found.upstreams.iter().map(|upstream| server(found, upstream)).collect(),
            traces_href: of("traces").and("gateway", line.id).to_string(),
            audit_href: of("audit").and("gateway", line.id).to_string(),
            forms: forms(visit, found),
        }
    }
}

impl Reported {
    fn some(text: Option<&str>) -> Self {
        Self { text: text.filter(|text| !text.is_empty()).map(Text::from) }
    }
}

fn reported(text: &str) -> Reported {
    Reported::some(Some(text))
}

/// Returns the forms for what can still be ended of it.
fn forms(visit: &Visit, found: &GatewayDetail) -> Option<Forms> {
    let line = &found.line;
    if line.link == Link::Archived || !may_manage(visit, found) {
        return None;
    }
    let gateway = format!("/w/{}/gateways/{}", line.workspace, line.id);
    Some(Forms {
        unlink: (line.link == Link::Linked).then(|| format!("{gateway}/unlink")),
        archive: format!("{gateway}/archive"),
        csrf: visit.viewing.csrf.clone(),
    })
}

/// Whether the forms are shown. Whoever takes them decides.
fn may_manage(visit: &Visit, found: &GatewayDetail) -> bool {
    let line = &found.line;
    let entry = visit.viewing.entries.iter().find(|entry| entry.workspace == line.workspace);
    let (Some(entry), Some(account)) = (entry, &visit.viewing.account) else { return false };
    let own = line.owner_id == Some(account.id) && entry.role.may(Ability::LinkGateway);
    entry.role.may(Ability::ManageGateways) || own
}

/// Puts together what the gateway reports of its clients, and what they did. Last active first.
fn clients(visit: &Visit, found: &GatewayDetail, used: Vec<ClientUse>) -> Vec<Client> {
    let mut all: Vec<(Option<i64>, Client)> = Vec::new();
    let mut reports: Vec<&ClientReport> = found.clients.iter().collect();
    for client in used {
        let report = reports.iter().position(|report| principal(report) == client.client);
        let report = report.map(|place| reports.remove(place));
        let last_ms = client.usage.last_ns / 1_000_000;
        let active_ms = report.and_then(|report| report.active_unix_ms).unwrap_or(0).max(last_ms);
        // Only a report has the two apart.
        let (name, version) = match report {
            Some(report) => (&*report.name, &*report.version),
            None => client.client.rsplit_once('/').unwrap_or((&client.client, "")),
        };
        let traces = format!("/w/{}/traces", found.line.workspace);
        let traces = super::super::Address::new(traces)
            .and("gateway", found.line.id)
            .and("client", &client.client);
        let shown = Client {
            name: Text::from(name),
            version: reported(version),
            managed: report.and_then(|report| report.managed),
            calls: Some(Count(client.usage.calls)),
            active: Some(When::from_ms(active_ms, visit.now_ms)),
            traces_href: traces.link(),
        };
        all.push((Some(active_ms), shown));
    }
    for report in reports {
        let shown = Client {
            name: Text::from(&report.name),
            version: reported(&report.version),
            managed: report.managed,
            calls: None,
            active: report.active_unix_ms.map(|at_ms| When::from_ms(at_ms, visit.now_ms)),
            traces_href: None,
        };
        all.push((report.active_unix_ms, shown));
    }
    all.sort_by_key(|(active_ms, _)| std::cmp::Reverse(*active_ms));
    all.into_iter().map(|(_, client)| client).collect()
}

/// A client as records name it.
fn principal(report: &ClientReport) -> String {
    if report.version.is_empty() {
        report.name.clone()
    } else {
        format!("{}/{}", report.name, report.version)
    }
}

fn server(found: &GatewayDetail, upstream: &UpstreamReport) -> Server {
    let page = super::super::Address::new(format!("/w/{}/server", found.line.workspace));
    let (state, state_word) = match upstream.state.as_str() {
        "ready" => ("online", "Ready"),
        "starting" => ("pending", "Starting"),
        "waiting" => ("idle", "Waiting"),
        "stopped" => ("offline", "Stopped"),
        other => ("pending", other),
    };
    Server {
        name: Text::from(&upstream.name),
        href: page.and("name", &upstream.name).link(),
        state,
        state_word: Text::from(state_word),
        server: Reported::some(upstream.server.as_deref()),
        transport: Reported::some(upstream.transport.as_deref()),
        tools: Count(upstream.tools.try_into().unwrap_or(i64::MAX)),
        error: upstream.error.as_deref().map(Text::from),
    }
}
