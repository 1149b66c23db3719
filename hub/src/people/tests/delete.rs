//! Workspaces, teams and organizations that are deleted.

use http::{Method, StatusCode};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::access::Role;
use crate::api::tests::{heartbeat, recent, records};
use crate::clock::now_ms;
use crate::db::{Dialect, values};
use crate::error::ApiError;
use crate::events::removal;
use crate::events::tests::{batch, event, trace, with};
use crate::id::{GatewayId, WorkspaceId};
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Home, OWNER, Page, Site};
use crate::secret::{Purpose, Secret};
use crate::wire::{BATCH_CONTENT_TYPE, RecordKind};

const HOUR_MS: i64 = 3_600_000;

/// Makes another workspace in a team of its own; returns both as a place.
async fn beside(site: &Site, home: &Home) -> Home {
    let owner = site.by(OWNER).await;
    site.people.create_team(&owner, home.organization, "Second", "Other").await.unwrap();
    let sql = "SELECT team, id FROM workspaces WHERE name = 'Other'";
    let row = site.database.row(sql, &[]).await.unwrap().unwrap();
    Home { team: row.get(0).unwrap(), workspace: row.get(1).unwrap(), ..*home }
}

/// A gateway that was linked, has said that it is there, and has sent records.
struct Gateway {
    id: i64,
    secret: String,
}

/// Links one by a deploy key of the workspace, which is returned too.
async fn fill(site: &Site, home: &Home, owner: &str) -> (Gateway, Secret) {
    let by = site.by(owner).await;
    let (organization, workspace) = (home.organization, home.workspace);
    let key = site.people.create_key(&by, organization, workspace, "CI", None).await.unwrap();
    let linked = site.link(&key.reveal(), workspace, "laptop").await;
    let secret = linked["secret"].as_str().unwrap().to_owned();
    let beat = site.program(&secret).tell("/api/v1/heartbeat", &heartbeat("files")).await;
    assert_eq!(beat.status, StatusCode::OK, "{}", beat.text);
    site.api.presence.flush().await.unwrap();
    let unreadable = json!({"seq": 0});
    for (kind, record) in
        [(RecordKind::Traces, [recent(1), unreadable]), (RecordKind::Audit, [event(1), event(2)])]
    {
        let mut device = site.program(&secret).saying("content-type", BATCH_CONTENT_TYPE);
        let body = records(kind, &record).into();
        let page = device.send(Method::POST, "/api/v1/records", body).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    }
    let id: GatewayId = linked["gateway_id"].as_str().unwrap().parse().unwrap();
    (Gateway { id: id.number(), secret }, key)
}

/// Returns how many rows there are of a workspace and its gateways, by table: in all tables that say of which
/// they are.
async fn rows(site: &Site, workspace: WorkspaceId, gateway: i64) -> Vec<(String, i64)> {
    let sql = match site.database.dialect() {
        Dialect::Sqlite => {
            "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND c.name IN ('workspace', 'gateway')"
        }
        Dialect::Postgres => {
            "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns
             WHERE table_schema = current_schema() AND column_name IN ('workspace', 'gateway')"
        }
    };
    let mut found = Vec::new();
    for row in site.database.rows(sql, &[]).await.unwrap() {
        let (table, column): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        let of = if column == "gateway" { gateway } else { workspace.number() };
        let sql = format!("SELECT CAST(count(*) AS BIGINT) FROM {table} WHERE {column} = $1");
        let count = site.value(&sql, &values![of]).await;
        if count > 0 {
            found.push((format!("{table}.{column}"), count));
        }
    }
    found
}

async fn delete(browser: &mut Browser, path: &str, confirm: &str) -> Page {
    browser.submit(path, &[("confirm", confirm)]).await
}

async fn remove_records(site: &Site, now_ms: i64) {
    removal::once(&*site.database, &*site.api.events, now_ms).await.unwrap();
}

#[tokio::test]
async fn a_workspace_goes_with_everything_in_it_and_nothing_else() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let other = beside(&site, &home).await;
        let (gone, key) = fill(&site, &home, OWNER).await;
        let (kept, kept_key) = fill(&site, &other, OWNER).await;
        let scope = Scope::Workspace(home.workspace);
        site.member("ada@acme.test", &home, scope, Role::Member).await;
        let by = site.by(OWNER).await;
        let people = &site.people;
        people.invite(&by, home.organization, "bob@x.test", scope, Role::Viewer).await.unwrap();
        let before = rows(&site, other.workspace, kept.id).await;
        let same = |rows: &[(String, i64)]| {
            rows.iter().map(|(table, _)| table.clone()).collect::<Vec<_>>()
        };
        assert_eq!(same(&rows(&site, home.workspace, gone.id).await), same(&before));
        let origin = site.api.links.known(&secret(&gone)).await.unwrap().origin;
        // Neither works any more, and so neither is counted.
        let archived = site.link(&key.reveal(), home.workspace, "old").await;
        let archived = archived["gateway_id"].as_str().unwrap().parse().unwrap();
        let links = &site.api.links;
        links.archive(home.organization, archived, None, by.address).await.unwrap();
        revoked_key(&site, &home).await;
        let (mut ada, mut browser) =
            (site.signed_in("ada@acme.test").await, site.signed_in(OWNER).await);
        let path = other.page(&format!("settings/workspaces/{}/delete", home.workspace));

        let done = delete(&mut browser, &path, "Main").await;

        assert_eq!(done.location(), other.page("settings/organization"), "{}", done.text);
        for token in [&gone.secret, &key.reveal()] {
            let me = site.program(token).get("/api/v1/gateways/self").await;
            assert_eq!(me.status, StatusCode::UNAUTHORIZED, "{}", me.text);
        }
        let unknown = people.deploy_key(&key).await;
        assert!(matches!(unknown, Err(ApiError::Unauthorized)), "{unknown:?}");
        assert_eq!(browser.get(&home.page("traces")).await.status, StatusCode::NOT_FOUND);
        assert_eq!(ada.get(&home.page("traces")).await.status, StatusCode::NOT_FOUND);
        assert!(people.invitations("bob@x.test").await.unwrap().is_empty());
        let sql =
            "SELECT details FROM admin_log WHERE action = 'workspace.deleted' AND target = 'Main'
             AND severity = 'warning'";
        let details: String = site.value(sql, &[]).await;
        let details: Json = serde_json::from_str(&details).unwrap();
        assert_eq!(details, json!({"gateways": 1, "deploy_keys": 1}));

        remove_records(&site, now_ms()).await;
        // Was taken before, and is stored only now.
        let late = batch(RecordKind::Traces, 5, &[recent(5)]);
        site.api.events.append(origin, late).await.unwrap();
        remove_records(&site, now_ms()).await;
        assert_eq!(
            rows(&site, home.workspace, gone.id).await,
            [("removals.workspace".to_owned(), 1)]
        );
        remove_records(&site, now_ms() + 2 * HOUR_MS).await;
        assert_eq!(rows(&site, home.workspace, gone.id).await, []);

        assert_eq!(rows(&site, other.workspace, kept.id).await, before);
        assert_eq!(browser.get(&other.page("traces")).await.status, StatusCode::OK);
        assert!(people.deploy_key(&kept_key).await.is_ok());
        assert!(site.api.links.known(&secret(&kept)).await.is_ok());
    }
}

async fn revoked_key(site: &Site, home: &Home) {
    let (by, organization) = (site.by(OWNER).await, home.organization);
    let key = site.people.create_key(&by, organization, home.workspace, "old", None).await.unwrap();
    let key = site.people.deploy_key(&key).await.unwrap();
    site.people.revoke_key(&by, organization, key.id).await.unwrap();
}

fn secret(of: &Gateway) -> Secret {
    Secret::parse(Purpose::Gateway, &of.secret).unwrap()
}

/// Of several days, and by two replicas at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_records_than_go_at_a_time_all_go() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        beside(&site, &home).await;
        let (gateway, _) = fill(&site, &home, OWNER).await;
        let origin = site.api.links.known(&secret(&gateway)).await.unwrap().origin;
        let days = (10..710).map(recent).chain((710..1010).map(|number| trace(number * 10)));
        let many: Vec<_> = days.collect();
        site.api.events.append(origin, batch(RecordKind::Traces, 10, &many)).await.unwrap();
        let (by, scope) = (site.by(OWNER).await, Scope::Workspace(home.workspace));
        site.people.delete(&by, home.organization, scope, "Main").await.unwrap();

        let later_ms = now_ms() + 2 * HOUR_MS;
        tokio::join!(remove_records(&site, later_ms), remove_records(&site, later_ms));

        assert_eq!(rows(&site, home.workspace, gateway.id).await, []);
    }
}

/// Each of them writes to what is being deleted, and none of them is why a deletion fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_meanwhile_does_not_stop_a_deletion() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        for round in 0..10 {
            let name = format!("Round {round}");
            let by = site.by(OWNER).await;
            let people = &site.people;
            people.create_workspace(&by, home.organization, home.team, &name).await.unwrap();
            let sql = "SELECT id FROM workspaces WHERE name = $1";
            let workspace: WorkspaceId = site.value(sql, &values![&name]).await;
            let of = Home { workspace, ..home };
            let (gateway, _) = fill(&site, &of, OWNER).await;
            for _ in 0..20 {
                let process = json!({"process": Uuid::now_v7().to_string()});
                let beat = serde_json::from_value(with(heartbeat("files"), process)).unwrap();
                site.api.presence.note(GatewayId::from_number(gateway.id), beat).unwrap();
            }
            let scope = Scope::Workspace(workspace);

            let (deleted, written, mut browser) = tokio::join!(
                people.delete(&by, home.organization, scope, &name),
                site.api.presence.flush(),
                site.signed_in(OWNER),
            );

            deleted.unwrap();
            // What had to give way is written the next time.
            if written.is_err() {
                site.api.presence.flush().await.unwrap();
            }
            assert_eq!(browser.get("/account").await.status, StatusCode::OK);
            remove_records(&site, now_ms() + 2 * HOUR_MS).await;
            assert_eq!(rows(&site, workspace, gateway.id).await, []);
        }
    }
}

/// Whoever runs a team keeps a place to work in.
#[tokio::test]
async fn nobody_deletes_the_last_workspace_that_they_run() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let other = beside(&site, &home).await;
        site.member("lead@acme.test", &home, Scope::Team(other.team), Role::Admin).await;
        let (lead, people) = (site.by("lead@acme.test").await, &site.people);
        let scope = Scope::Workspace(other.workspace);

        let refused = people.delete(&lead, home.organization, scope, "Other").await;
        people.create_workspace(&lead, home.organization, other.team, "Third").await.unwrap();
        let deleted = people.delete(&lead, home.organization, scope, "Other").await;

        assert!(matches!(refused, Err(ApiError::Conflict(_))), "{refused:?}");
        deleted.unwrap();
        assert_eq!(people.entries(lead.account.id).await.unwrap().len(), 1);
    }
}

/// Nothing is deleted by mistake, nor by whoever finds a browser open.
#[tokio::test]
async fn a_wrong_name_an_old_sign_in_and_the_last_workspace_are_refused() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let path = |what: &str| home.page(&format!("settings/{what}/delete"));
        let workspace = format!("workspaces/{}", home.workspace);
        let team = format!("teams/{}", home.team);
        let mut refusals = Vec::new();
        for (what, name) in [(&workspace, "Main"), (&team, "Team")] {
            refusals.push((
                delete(&mut browser, &path(what), name).await,
                409,
                "no workspace left",
            ));
        }
        let other = beside(&site, &home).await;
        for what in [&workspace, &team, "organization"] {
            for name in ["", "main", "Other"] {
                refusals.push((
                    delete(&mut browser, &path(what), name).await,
                    400,
                    "type its name",
                ));
            }
        }
        site.later(HOUR_MS + 60_000);
        for (what, name) in
            [(workspace.as_str(), "Main"), (&team, "Team"), ("organization", "acme")]
        {
            refusals.push((delete(&mut browser, &path(what), name).await, 409, "sign in again"));
        }

        for (page, status, text) in refusals {
            assert_eq!(page.status.as_u16(), status, "{}", page.text);
            assert!(page.text.contains(text), "{}", page.text);
        }
        assert_eq!(browser.get(&home.page("traces")).await.status, StatusCode::OK);
        assert_eq!(browser.get(&other.page("traces")).await.status, StatusCode::OK);
        let page = browser.get(&home.page("settings/organization")).await;
        assert!(page.text.contains("return_to=%2Fw%2F"), "{}", page.text);
    }
}

#[tokio::test]
async fn a_place_is_deleted_by_whoever_runs_what_it_is_in() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let other = beside(&site, &home).await;
        site.organization("other").await;
        let organization = Scope::Organization(home.organization);
        let (team, workspace) = (Scope::Team(other.team), Scope::Workspace(other.workspace));
        for (email, scope, role) in [
            ("member@acme.test", organization, Role::Member),
            ("workspace@acme.test", workspace, Role::Owner),
            ("team@acme.test", team, Role::Owner),
            ("admin@acme.test", organization, Role::Admin),
        ] {
            site.member(email, &home, scope, role).await;
        }
        let try_all = async |email: &str| {
            let by = site.by(email).await;
            let mut allowed = Vec::new();
            for (scope, word) in [(workspace, "w"), (team, "t"), (organization, "o")] {
                // With a wrong name: only who may is told so.
                match site.people.delete(&by, home.organization, scope, "").await {
                    Err(ApiError::Invalid(_)) => allowed.push(word),
                    Err(ApiError::Forbidden(_) | ApiError::NotFound(_)) => {}
                    unexpected => panic!("{email} {scope} {unexpected:?}"),
                }
            }
            allowed
        };

        for (email, may) in [
            ("owner@other.test", &[][..]),
            ("member@acme.test", &[]),
            ("workspace@acme.test", &[]),
            ("team@acme.test", &["w"]),
            ("admin@acme.test", &["w", "t"]),
            (OWNER, &["w", "t", "o"]),
        ] {
            assert_eq!(try_all(email).await, may, "{email}");
        }
    }
}

#[tokio::test]
async fn a_team_goes_with_its_workspaces_and_roles() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let other = beside(&site, &home).await;
        let (gateway, _) = fill(&site, &other, OWNER).await;
        site.member("lead@acme.test", &home, Scope::Team(other.team), Role::Admin).await;
        let mut browser = site.signed_in(OWNER).await;
        let path = other.page(&format!("settings/teams/{}/delete", other.team));

        let done = delete(&mut browser, &path, " Second ").await;

        // The page's own workspace is gone.
        assert_eq!(done.location(), "/settings", "{}", done.text);
        assert_eq!(site.log().await.last().unwrap().0, "team.deleted");
        let lead = site.by("lead@acme.test").await.account.id;
        assert!(site.people.entries(lead).await.unwrap().is_empty());
        let roles = "SELECT count(*) FROM memberships WHERE user_id = $1";
        assert_eq!(site.value::<i64>(roles, &values![lead]).await, 0);
        remove_records(&site, now_ms() + 2 * HOUR_MS).await;
        assert_eq!(rows(&site, other.workspace, gateway.id).await, []);
        assert_eq!(browser.get(&home.page("settings/organization")).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_organization_goes_with_its_people_and_the_hub_can_be_set_up_anew() {
    for site in Site::each().await {
        let link = site.people.setup_url().await.unwrap().expect("not set up").path().to_owned();
        let mut browser = site.browser();
        let form = [
            ("organization", "Acme"),
            ("team", "Core"),
            ("workspace", "dev"),
            ("email", OWNER),
            ("name", "Ada"),
        ];
        assert_eq!(browser.post(&link, &form).await.status, StatusCode::SEE_OTHER);
        let owner = site.by(OWNER).await;
        let entry = site.people.entries(owner.account.id).await.unwrap().remove(0);
        let sql = "SELECT team FROM workspaces";
        let team = site.value(sql, &[]).await;
        let home = Home { organization: entry.organization, team, workspace: entry.workspace };
        let (gateway, _) = fill(&site, &home, OWNER).await;
        let scope = Scope::Organization(home.organization);
        site.member("bob@acme.test", &home, scope, Role::Admin).await;
        let token = site.token("bob@acme.test").await;
        let removed = site.member("eve@acme.test", &home, scope, Role::Viewer).await;
        let people = &site.people;
        people.remove_member(&owner, home.organization, removed.id, scope).await.unwrap();
        let invited =
            site.people.invite(&owner, home.organization, "x@y.test", scope, Role::Viewer);
        invited.await.unwrap();

        let done = delete(&mut browser, &home.page("settings/organization/delete"), "Acme").await;

        assert_eq!(done.status, StatusCode::OK, "{}", done.text);
        assert!(done.text.contains("Acme is deleted"), "{}", done.text);
        assert_eq!(browser.get("/account").await.location(), "/sign-in?return_to=%2Faccount");
        let workspaces = site.program(&token).get("/api/v1/workspaces").await;
        assert_eq!(workspaces.status, StatusCode::UNAUTHORIZED);
        remove_records(&site, now_ms() + 2 * HOUR_MS).await;
        assert_eq!(rows(&site, home.workspace, gateway.id).await, []);
        for table in [
            "organizations",
            "teams",
            "workspaces",
            "users",
            "memberships",
            "invites",
            "sessions",
            "grants",
            "tokens",
            "identities",
            "admin_log",
            "deploy_keys",
        ] {
            let sql = format!("SELECT count(*) FROM {table}");
            assert_eq!(site.value::<i64>(&sql, &[]).await, 0, "{table}");
        }
        let link = site.people.setup_url().await.unwrap().expect("not set up").path().to_owned();
        assert_eq!(site.browser().post(&link, &form).await.status, StatusCode::SEE_OTHER);
    }
}

/// Of several organizations one goes; who is in another too, stays there.
#[tokio::test]
async fn other_organizations_stay_and_so_do_their_people() {
    for site in Site::each().await {
        let (home, other) = (site.organization("acme").await, site.organization("other").await);
        let (kept, _) = fill(&site, &other, "owner@other.test").await;
        let scope = Scope::Organization(home.organization);
        site.member("owner@other.test", &home, scope, Role::Admin).await;
        site.member("ada@acme.test", &home, scope, Role::Member).await;
        let before = rows(&site, other.workspace, kept.id).await;
        let (by, mut browser) = (site.by(OWNER).await, site.signed_in("owner@other.test").await);

        site.people.delete(&by, home.organization, scope, "acme").await.unwrap();
        remove_records(&site, now_ms()).await;

        assert_eq!(rows(&site, other.workspace, kept.id).await, before);
        assert_eq!(browser.get(&other.page("traces")).await.status, StatusCode::OK);
        assert_eq!(browser.get(&home.page("traces")).await.status, StatusCode::NOT_FOUND);
        let people: i64 = site.value("SELECT count(*) FROM users", &[]).await;
        assert_eq!(people, 1);
    }
}
