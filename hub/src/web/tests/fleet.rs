//! The list of gateways: filters, order, counts, what is known of one.

use super::super::testing::{Plan, WORKSPACE, gateway, trace};
use super::dom::{elements, link, names};
use crate::access::Role;
use crate::fleet::{Facets, Link, State};
use crate::id::UserId;
use crate::wire::{ClientReport, UpstreamReport};

fn fleet() -> Plan {
    let mut fleet = vec![
        gateway(1, "laptop", State::Online),
        gateway(2, "build-1", State::Idle),
        gateway(3, "build-2", State::Offline),
        gateway(4, "fresh", State::Pending),
    ];
    fleet[1].line.host.os = "macos".to_owned();
    fleet[2].line.host.version = "0.0.9".to_owned();
    fleet[2].line.host.environment = "prod".to_owned();
    let facets = Facets {
        versions: vec!["0.1.0".to_owned(), "0.0.9".to_owned()],
        systems: vec!["linux".to_owned(), "macos".to_owned()],
        kinds: vec!["personal".to_owned()],
        environments: vec!["local".to_owned(), "prod".to_owned()],
        owners: Vec::new(),
    };
    Plan { gateways: fleet, facets, ..Plan::default() }
}

#[tokio::test]
async fn every_filter_of_gateways_narrows_the_list() {
    let site = fleet().build();

    let cases: [(&str, &[&str]); 9] = [
        ("", &["build-1", "build-2", "fresh", "laptop"]),
        ("state=online", &["laptop"]),
        ("state=online&state=idle", &["build-1", "laptop"]),
        ("version=0.0.9", &["build-2"]),
        ("os=macos", &["build-1"]),
        ("environment=prod&state=offline", &["build-2"]),
        ("type=server", &[]),
        ("search=BUILD", &["build-1", "build-2"]),
        ("sort=name&order=desc", &["laptop", "fresh", "build-2", "build-1"]),
    ];
    for (query, expected) in cases {
        let html = site.page(&format!("gateways?{query}")).await.ok();

        assert_eq!(names(&html), expected, "{query}");
    }
}

#[tokio::test]
async fn a_count_of_gateways_is_a_filter_on_their_state() {
    let site = fleet().build();

    let html = site.page("gateways?state=idle&search=build").await.ok();

    let tally = |word: &str| {
        let mut all = elements(&html).into_iter().filter(|of| of.name == "a");
        all.find(|of| of.text.starts_with(word)).unwrap()
    };
    // The counts do not depend on the state that is chosen.
    assert_eq!(tally("All").text, "All2");
    assert_eq!(tally("Idle").text, "Idle1");
    assert_eq!(tally("Offline").text, "Offline1");
    assert_eq!(tally("Idle").get("aria-current"), Some("true"));
    assert!(tally("Idle").get("href").unwrap().ends_with("gateways?search=build"));
    let offline = tally("Offline");
    assert!(offline.get("href").unwrap().ends_with("?state=idle&search=build&state=offline"));
}

#[tokio::test]
async fn gateways_are_leafed_through_in_every_order() {
    let gateways: Vec<_> =
        (1..=250).map(|number| gateway(number, &format!("g{number:03}"), State::Online)).collect();
    let site = Plan { gateways, ..Plan::default() }.build();

    for sort in ["name", "seen", "version", "state", "workspace"] {
        let mut met = Vec::new();
        let mut path = Some(format!("/w/{WORKSPACE}/gateways?sort={sort}&order=desc"));
        while let Some(at) = path {
            let html = site.get(&at, &[]).await.ok();
            assert!(html.len() < 100 * 1024, "{} bytes", html.len());
            met.extend(names(&html));
            path = link(&html, "Next page");
        }
        met.sort();
        met.dedup();
        assert_eq!(met.len(), 250, "{sort}");
    }
}

#[tokio::test]
async fn a_gateway_is_shown_with_what_it_reported_and_what_not() {
    let mut plan = fleet();
    let laptop = &mut plan.gateways[0];
    laptop.setup.servers_managed = Some(2);
    laptop.setup.servers_total = Some(5);
    laptop.clients = vec![
        ClientReport {
            name: "claude".to_owned(),
            version: "1.2".to_owned(),
            managed: Some(true),
            active_unix_ms: None,
        },
        ClientReport {
            name: "idle-editor".to_owned(),
            version: String::new(),
            managed: None,
            active_unix_ms: None,
        },
    ];
    laptop.upstreams = vec![UpstreamReport {
        name: "files".to_owned(),
        state: "waiting".to_owned(),
        server: None,
        transport: Some("stdio".to_owned()),
        tools: 4,
        error: Some("it ended with code 1".to_owned()),
    }];
    let site = plan.build();
    site.record(vec![trace(1, "read"), trace(2, "read")], Vec::new());

    let html = site.page("gateways?panel=gw_0000000000001").await.ok();

    let all = elements(&html);
    let fact = |name: &str| {
        let mut facts = all.iter().filter(|of| of.name == "div" && of.text.starts_with(name));
        facts.next_back().unwrap().text[name.len()..].trim().to_owned()
    };
    assert_eq!(fact("Fully managed servers"), "2 / 5");
    assert_eq!(fact("Enforcement profile"), "not reported");
    assert_eq!(fact("Last configuration scan"), "not reported");
    assert_eq!(fact("Drift events"), "not reported");
    assert_eq!(fact("Waiting to be sent"), "3 records");
    let rows: Vec<_> = all.iter().filter(|of| of.name == "tr").map(|of| of.text.as_str()).collect();
    assert_eq!(fact("Type"), "Personal");
    assert_eq!(fact("Architecture"), "x86-64");
    assert!(rows.iter().any(|row| row.starts_with("claudeyes1.22")), "{rows:?}");
    assert!(rows.contains(&"idle-editornot reportednot reported0not reported"), "{rows:?}");
    assert!(rows.contains(&"filesit ended with code 1Waitingnot reportedstdio4"), "{rows:?}");
    assert_eq!(names(&html).len(), 4, "the list stays");
}

#[tokio::test]
async fn a_gateway_that_is_not_linked_any_more_is_found_and_said_to_be_so() {
    let mut plan = fleet();
    for (number, link) in [(1, Link::Unlinked), (2, Link::Archived)] {
        let line = &mut plan.gateways[number].line;
        line.link = link;
        line.ended_ms = Some(1_785_000_000_000);
    }
    let site = plan.build();

    let cases = [
        ("", vec!["fresh", "laptop"]),
        ("link=linked", vec!["fresh", "laptop"]),
        ("link=unlinked", vec!["build-1"]),
        ("link=archived", vec!["build-2"]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&site.page(&format!("gateways?{query}")).await.ok()), expected, "{query}");
    }
    let unlinked = site.page("gateways?panel=gw_0000000000002").await.ok();
    let archived = site.page("gateways?panel=gw_0000000000003").await.ok();
    assert_eq!(names(&unlinked), ["fresh", "laptop"], "the list stays");
    assert!(unlinked.contains("Not linked any more</span> <span class=\"muted\">since 2026-07-25"));
    assert!(!unlinked.contains("/unlink\""), "it is");
    assert!(unlinked.contains("gw_0000000000002/archive\""));
    assert!(archived.contains("Archived</span>"));
    assert!(!archived.contains("/archive\""), "it is");
}

#[tokio::test]
async fn on_ones_own_machine_there_are_no_owners_and_workspaces() {
    let mut plan = fleet();
    plan.viewing.account = None;
    let site = plan.build();
    site.record(vec![trace(1, "read")], Vec::new());

    let gateways = site.page("gateways").await.ok();
    let server = site.page("server?name=files").await.ok();

    for column in [">Owner<", ">Workspace<", ">Link<"] {
        assert!(!gateways.contains(column), "{column}");
    }
    assert!(link(&server, "Tools").is_some() && link(&server, "Requests").is_some());
    assert!(!server.contains("tab=gateways") && !server.contains("tab=users"), "{server}");
}

#[tokio::test]
async fn only_who_may_is_offered_to_unlink() {
    let cases = [
        (Role::Admin, 7, true),
        (Role::Member, 7, true),
        // A namesake.
        (Role::Member, 8, false),
        (Role::Viewer, 7, false),
    ];
    for (role, owner, expected) in cases {
        let mut plan = fleet();
        plan.viewing.entries[0].role = role;
        plan.gateways[0].line.owner_id = Some(UserId::from_number(owner));
        let site = plan.build();

        let html = site.page("gateways?panel=gw_0000000000001").await.ok();

        let form = elements(&html).into_iter().find(|of| {
            let own = format!("/w/{WORKSPACE}/gateways/gw_0000000000001/unlink");
            of.get("action") == Some(&*own)
        });
        assert_eq!(form.is_some(), expected, "{role} {owner}");
        assert_eq!(
            html.matches("name=\"csrf\" value=\"a-token\"").count(),
            1 + 2 * usize::from(expected)
        );
    }
}
