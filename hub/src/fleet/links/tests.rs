//! Links, on both databases.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tokio_util::task::TaskTracker;

use super::*;
use crate::access::Ability;
use crate::access::Role;
use crate::events::sql::{Options, SqlEvents};
use crate::people::authority::Scope;
use crate::people::testing::{Home, OWNER, Site};
use crate::wire::RecordKind;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

const REQUEST: &str = "0199f0c2-77aa-7c31-9a52-000000000001";

struct Place {
    site: Site,
    home: Home,
    links: Links,
    owner: Account,
    entry: Entry,
}

impl Place {
    async fn each() -> Vec<Self> {
        let mut places = Vec::new();
        for site in Site::each().await {
            let home = site.organization("acme").await;
            let database = Arc::clone(&site.database);
            let events = SqlEvents::open(database, Options::default(), &TaskTracker::new()).await;
            let links = Links::new(Arc::clone(&site.database), Arc::new(events.unwrap()));
            let owner = site.by(OWNER).await.account;
            let entry = site.people.entry(owner.id, home.workspace, Ability::LinkGateway).await;
            places.push(Self { links, owner, entry: entry.unwrap(), home, site });
        }
        places
    }

    async fn key(&self) -> DeployKey {
        let by = self.site.by(OWNER).await;
        let (people, home) = (&self.site.people, &self.home);
        let secret = people.create_key(&by, home.organization, home.workspace, "CI", None).await;
        people.deploy_key(&secret.unwrap()).await.unwrap()
    }

    async fn link(&self, request: LinkRequest) -> Linked {
        let party = Party::Person(&self.owner);
        self.links.link(party, &self.entry, ADDRESS, request).await.unwrap()
    }

    async fn count(&self) -> i64 {
        self.site.value("SELECT CAST(count(*) AS BIGINT) FROM gateways", &[]).await
    }

    /// Returns what the Admin Log says of gateways: who, action, target, details. By action and target: what
    /// happens within a millisecond has no order.
    async fn log(&self) -> Vec<(String, String, String, Json)> {
        let sql = "SELECT actor_email, action, target, details FROM admin_log
             WHERE action LIKE 'gateway.%' ORDER BY action, target";
        let rows = self.site.database.rows(sql, &[]).await.unwrap();
        let details = |text: String| serde_json::from_str(&text).unwrap();
        rows.iter()
            .map(|row| {
                let text = |column| row.get::<String>(column).unwrap();
                (text(0), text(1), text(2), details(text(3)))
            })
            .collect()
    }
}

fn request(name: &str) -> LinkRequest {
    LinkRequest {
        workspace: None,
        name: name.to_owned(),
        host: Host::default(),
        before: Vec::new(),
        request: Some(REQUEST.to_owned()),
    }
}

fn id(linked: &Linked) -> GatewayId {
    linked.gateway_id.parse().unwrap()
}

fn secret(linked: &Linked) -> Secret {
    Secret::parse(Purpose::Gateway, &linked.secret).unwrap()
}

/// Whose answer was lost asks again.
#[tokio::test]
async fn the_same_request_links_one_gateway() {
    for place in Place::each().await {
        let first = place.link(request("laptop")).await;
        let again = LinkRequest { request: Some(REQUEST.to_uppercase()), ..request("laptop") };
        let second = place.link(again).await;

        assert_eq!(first.gateway_id, second.gateway_id);
        let known = place.links.known(&secret(&second)).await.unwrap();
        assert_eq!(known.origin.gateway, id(&first));
        let old = place.links.known(&secret(&first)).await;
        assert!(matches!(old, Err(ApiError::Unauthorized)), "{old:?}");
        assert_eq!((place.count().await, place.log().await.len()), (1, 1));
    }
}

#[tokio::test]
async fn a_request_of_somebody_else_or_elsewhere_is_another_one() {
    for place in Place::each().await {
        let (site, home) = (&place.site, &place.home);
        let organization = Scope::Organization(home.organization);
        let ada = site.member("ada@acme.test", home, organization, Role::Member).await;
        let by = site.by(OWNER).await;
        site.people.create_workspace(&by, home.organization, home.team, "Other").await.unwrap();
        let other = site.value("SELECT id FROM workspaces WHERE name = 'Other'", &[]).await;
        let other = site.people.entry(place.owner.id, other, Ability::LinkGateway).await.unwrap();
        let key = place.key().await;
        let mut gateways = vec![place.link(request("laptop")).await.gateway_id];
        for (party, entry) in [
            (Party::Person(&ada), &place.entry),
            (Party::Person(&place.owner), &other),
            (Party::Key(&key), &place.entry),
        ] {
            let linked = place.links.link(party, entry, ADDRESS, request("laptop")).await.unwrap();
            gateways.push(linked.gateway_id);
        }
        let without = LinkRequest { request: None, ..request("laptop") };
        gateways.push(place.link(without.clone()).await.gateway_id);
        gateways.push(place.link(without).await.gateway_id);
        place
            .links
            .unlink(home.organization, gateways[0].parse().unwrap(), None, ADDRESS)
            .await
            .unwrap();
        gateways.push(place.link(request("laptop")).await.gateway_id);

        let distinct: std::collections::HashSet<_> = gateways.iter().collect();
        assert_eq!(distinct.len(), 7, "{gateways:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_of_the_same_at_once_one_gateway_comes() {
    for place in Place::each().await {
        let asked =
            crate::people::testing::all_at_once(20, || {
                let (links, owner) = (place.links.clone(), place.owner.clone());
                let entry = place.entry.clone();
                async move {
                    links.link(Party::Person(&owner), &entry, ADDRESS, request("laptop")).await
                }
            })
            .await;

        assert!(asked.iter().all(Result::is_ok), "{asked:?}");
        assert_eq!((place.count().await, place.log().await.len()), (1, 1));
    }
}

/// A gateway that nobody knows of would wait in the list for ever.
#[tokio::test]
async fn without_an_entry_in_the_admin_log_nothing_is_linked() {
    for place in Place::each().await {
        place.site.database.execute("ALTER TABLE admin_log RENAME TO gone", &[]).await.unwrap();
        let party = Party::Person(&place.owner);

        let linked = place.links.link(party, &place.entry, ADDRESS, request("laptop")).await;

        assert!(matches!(linked, Err(ApiError::Database(_))), "{linked:?}");
        assert_eq!(place.count().await, 0);
    }
}

#[tokio::test]
async fn the_admin_log_says_who_linked_what_where_and_who_ended_it() {
    for place in Place::each().await {
        let (links, organization) = (&place.links, place.home.organization);
        let laptop = place.link(request("laptop")).await;
        let key = place.key().await;
        let runner = links.link(Party::Key(&key), &key.entry, ADDRESS, request("runner")).await;
        let runner = runner.unwrap();
        links.unlink(organization, id(&laptop), None, ADDRESS).await.unwrap();
        links.archive(organization, id(&laptop), Some(&place.owner), ADDRESS).await.unwrap();
        links.archive(organization, id(&runner), Some(&place.owner), ADDRESS).await.unwrap();

        let whose = json!({"scope": place.home.workspace.to_string(), "scope_name": "Main"});
        let of = |name: &str, value: Json| {
            let mut details = whose.clone();
            details[name] = value;
            details
        };
        let mut by_key = of("deploy_key", json!(key.id.to_string()));
        by_key["deploy_key_name"] = json!("CI");
        let owned = of("owner", json!(OWNER));
        let entry = |who: &str, action: &str, target: &str, details: &Json| {
            (who.to_owned(), format!("gateway.{action}"), target.to_owned(), details.clone())
        };
        let expected = [
            entry(OWNER, "archived", "laptop", &owned),
            entry(OWNER, "archived", "runner", &by_key),
            entry(OWNER, "linked", "laptop", &whose),
            entry("", "linked", "runner", &by_key),
            entry("", "unlinked", "laptop", &owned),
        ];
        assert_eq!(place.log().await, expected);
    }
}

/// Whoever asks just now was let in just before.
#[tokio::test]
async fn nothing_is_linked_to_a_workspace_that_was_deleted() {
    for place in Place::each().await {
        let (people, home) = (&place.site.people, &place.home);
        let (by, scope) = (place.site.by(OWNER).await, Scope::Workspace(home.workspace));
        people.create_workspace(&by, home.organization, home.team, "Other").await.unwrap();
        people.delete(&by, home.organization, scope, "Main").await.unwrap();

        let party = Party::Person(&place.owner);
        let refused = place.links.link(party, &place.entry, ADDRESS, request("laptop")).await;

        assert!(matches!(refused, Err(ApiError::NotFound("workspace"))), "{refused:?}");
        assert_eq!(place.count().await, 0);
    }
}

#[tokio::test]
async fn a_link_ends_once() {
    for place in Place::each().await {
        let (links, organization) = (&place.links, place.home.organization);
        let laptop = place.link(request("laptop")).await;
        links.unlink(organization, id(&laptop), None, ADDRESS).await.unwrap();

        let again = links.unlink(organization, id(&laptop), None, ADDRESS).await;
        assert!(matches!(again, Err(ApiError::NotFound("gateway"))), "{again:?}");
        links.archive(organization, id(&laptop), None, ADDRESS).await.unwrap();
        for ended in [
            links.archive(organization, id(&laptop), None, ADDRESS).await,
            links.unlink(organization, id(&laptop), None, ADDRESS).await,
            links.archive(OrganizationId::new(), id(&laptop), None, ADDRESS).await,
        ] {
            assert!(matches!(ended, Err(ApiError::NotFound("gateway"))), "{ended:?}");
        }
    }
}

/// What a gateway keeps to itself is noted before it is there, for the one that comes of it.
#[tokio::test]
async fn what_was_before_is_left_out() {
    for place in Place::each().await {
        let state = |last| StreamState {
            database: "0".repeat(32),
            kind: RecordKind::Traces,
            spans: vec![(1, last)],
        };
        place.link(LinkRequest { before: vec![state(7)], ..request("laptop") }).await;
        let linked = place.link(LinkRequest { before: vec![state(9)], ..request("laptop") }).await;

        let known = place.links.known(&secret(&linked)).await.unwrap();
        assert_eq!(place.links.me(&known).await.unwrap().streams, [state(9)]);
    }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let place = Place::each().await.remove(0);
    for bad in [
        request("  "),
        request(&"x".repeat(101)),
        LinkRequest { request: Some("again".to_owned()), ..request("laptop") },
    ] {
        let party = Party::Person(&place.owner);
        let refused = place.links.link(party, &place.entry, ADDRESS, bad).await;
        assert!(matches!(refused, Err(ApiError::Invalid(_))), "{refused:?}");
    }
}
