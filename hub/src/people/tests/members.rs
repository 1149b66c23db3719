//! Roles: given, changed, taken away; teams and workspaces.

use std::sync::Arc;

use http::StatusCode;

use crate::access::{Ability, Role};
use crate::db::values;
use crate::error::ApiError;
use crate::id::{TeamId, WorkspaceId};
use crate::people::authority::Scope;
use crate::people::testing::{Home, OWNER, Site, all_at_once};

async fn second_workspace(site: &Site, home: &Home) -> (TeamId, WorkspaceId) {
    let owner = site.by(OWNER).await;
    site.people.create_team(&owner, home.organization, "Second", "Other").await.unwrap();
    let sql = "SELECT team, id FROM workspaces WHERE name = 'Other' AND organization = $1";
    let row = site.database.row(sql, &values![home.organization]).await.unwrap().unwrap();
    (row.get(0).unwrap(), row.get(1).unwrap())
}

#[tokio::test]
async fn a_role_holds_for_what_is_below() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (team, other) = second_workspace(&site, &home).await;
        let organization = Scope::Organization(home.organization);
        let all = site.member("all@acme.test", &home, organization, Role::Viewer).await;
        let team_only = site.member("team@acme.test", &home, Scope::Team(team), Role::Member).await;
        let one = site
            .member("one@acme.test", &home, Scope::Workspace(home.workspace), Role::Admin)
            .await;
        let both = site.member("both@acme.test", &home, organization, Role::Member).await;
        site.member("both@acme.test", &home, Scope::Workspace(other), Role::Admin).await;
        site.member("both@acme.test", &home, Scope::Workspace(home.workspace), Role::Viewer).await;

        let mut found = Vec::new();
        for account in [all, team_only, one, both] {
            let entries = site.people.entries(account.id).await.unwrap();
            found.push(
                entries.into_iter().map(|entry| (entry.workspace, entry.role)).collect::<Vec<_>>(),
            );
        }

        let (main, other) = (home.workspace, other);
        assert_eq!(found[0], [(other, Role::Viewer), (main, Role::Viewer)]);
        assert_eq!(found[1], [(other, Role::Member)]);
        assert_eq!(found[2], [(main, Role::Admin)]);
        assert_eq!(found[3], [(other, Role::Admin), (main, Role::Member)]);
    }
}

#[tokio::test]
async fn an_entry_is_there_for_whoever_has_a_role_that_suffices() {
    for site in Site::each().await {
        let (home, other) = (site.organization("acme").await, site.organization("other").await);
        let scope = Scope::Organization(home.organization);
        let viewer = site.member("viewer@acme.test", &home, scope, Role::Viewer).await;
        let beacon = site.member("beacon@acme.test", &home, scope, Role::Beacon).await;
        let people = &site.people;

        let entry = people.entry(viewer.id, home.workspace, Ability::SeeRecords).await.unwrap();
        assert_eq!((entry.role, entry.team_name.as_str()), (Role::Viewer, "Team"));
        assert!(people.entry(beacon.id, home.workspace, Ability::LinkGateway).await.is_ok());
        let refused = people.entry(viewer.id, home.workspace, Ability::LinkGateway).await;
        assert!(matches!(refused, Err(ApiError::Forbidden(_))), "{refused:?}");
        let refused = people.entry(beacon.id, home.workspace, Ability::SeeRecords).await;
        assert!(matches!(refused, Err(ApiError::Forbidden(_))), "{refused:?}");
        let refused = people.entry(viewer.id, other.workspace, Ability::SeeRecords).await;
        assert!(matches!(refused, Err(ApiError::NotFound("workspace"))), "{refused:?}");
    }
}

/// Each role tries to give each role to each other.
#[tokio::test]
async fn only_owners_make_and_unmake_owners() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        site.member("second@acme.test", &home, scope, Role::Owner).await;
        for role in Role::ALL {
            site.member(&format!("actor-{}@acme.test", role.as_str()), &home, scope, role).await;
        }
        for actor in Role::ALL {
            let by = site.by(&format!("actor-{}@acme.test", actor.as_str())).await;
            for before in Role::ALL {
                for after in Role::ALL {
                    let target = site.member("target@acme.test", &home, scope, before).await;
                    let sql = "UPDATE memberships SET role = $1 WHERE user_id = $2";
                    site.database.execute(sql, &values![before.as_str(), target.id]).await.unwrap();

                    let changed = site
                        .people
                        .change_role(&by, home.organization, target.id, scope, after)
                        .await;

                    let may = match actor {
                        Role::Owner => true,
                        Role::Admin => before != Role::Owner && after != Role::Owner,
                        Role::Member | Role::Viewer | Role::Beacon => false,
                    };
                    assert_eq!(changed.is_ok(), may, "{actor}: {before} to {after}: {changed:?}");
                    let sql = "SELECT role FROM memberships WHERE user_id = $1";
                    let is: String = site.value(sql, &values![target.id]).await;
                    assert_eq!(is, if may { after } else { before }.as_str());
                }
            }
        }
    }
}

#[tokio::test]
async fn the_last_owner_stays() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        let mut browser = site.signed_in(OWNER).await;
        let user = site.by(OWNER).await.account.id;
        let scope_text = scope.to_string();

        let path = home.page(&format!("settings/members/{user}/role"));
        let demoted = browser.submit(&path, &[("scope", &scope_text), ("role", "admin")]).await;
        let path = home.page(&format!("settings/members/{user}/remove"));
        let removed = browser.submit(&path, &[("scope", &scope_text)]).await;

        for page in [demoted, removed] {
            assert_eq!(page.status, StatusCode::CONFLICT);
            assert!(page.text.contains("at least one owner"), "{}", page.text);
        }
        assert_eq!(browser.get(&home.page("settings/members")).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_who_remove_each_other_leave_one() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        site.member("second@acme.test", &home, scope, Role::Owner).await;
        let (first, second) = (site.by(OWNER).await, site.by("second@acme.test").await);
        let mut turn = false;

        let outcomes = all_at_once(20, || {
            turn = !turn;
            let people = Arc::clone(&site.people);
            let (by, whom) = if turn {
                (first.clone(), second.account.id)
            } else {
                (second.clone(), first.account.id)
            };
            async move { people.remove_member(&by, home.organization, whom, scope).await.is_ok() }
        })
        .await;

        assert_eq!(outcomes.into_iter().filter(|won| *won).count(), 1);
        let owners: i64 =
            site.value("SELECT count(*) FROM memberships WHERE role = 'owner'", &[]).await;
        assert_eq!(owners, 1);
    }
}

#[tokio::test]
async fn whoever_is_removed_is_out_at_once() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        let ada = site.member("ada@acme.test", &home, scope, Role::Member).await;
        let (mut owner, mut browser) =
            (site.signed_in(OWNER).await, site.signed_in("ada@acme.test").await);
        assert_eq!(browser.get("/account").await.status, StatusCode::OK);

        let path = home.page(&format!("settings/members/{}/remove", ada.id));
        let removed = owner.submit(&path, &[("scope", &scope.to_string())]).await;

        assert_eq!(removed.status, StatusCode::SEE_OTHER);
        assert_eq!(browser.get("/account").await.status, StatusCode::FORBIDDEN);
        assert_eq!(site.log().await.last().unwrap().0, "member.removed");
    }
}

/// Whoever runs one workspace does not run the others, nor what is above.
#[tokio::test]
async fn somebody_who_runs_a_part_runs_that_part() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (team, other) = second_workspace(&site, &home).await;
        site.member("lead@acme.test", &home, Scope::Team(team), Role::Admin).await;
        let below =
            site.member("below@acme.test", &home, Scope::Workspace(other), Role::Viewer).await;
        let beside = site
            .member("beside@acme.test", &home, Scope::Workspace(home.workspace), Role::Viewer)
            .await;
        let (by, organization) = (site.by("lead@acme.test").await, home.organization);
        let people = &site.people;

        let in_team = Scope::Workspace(other);
        people.change_role(&by, organization, below.id, in_team, Role::Member).await.unwrap();
        people.rename(&by, organization, Scope::Team(team), "Renamed").await.unwrap();
        people.create_workspace(&by, organization, team, "Third").await.unwrap();
        people.create_key(&by, organization, other, "key", None).await.unwrap();

        let beside_scope = Scope::Workspace(home.workspace);
        let refusals = [
            people.change_role(&by, organization, beside.id, beside_scope, Role::Member).await,
            people.change_role(&by, organization, below.id, in_team, Role::Owner).await,
            people.rename(&by, organization, Scope::Organization(organization), "Mine").await,
            people.rename(&by, organization, Scope::Team(home.team), "Mine").await,
            people.create_workspace(&by, organization, home.team, "Mine").await,
            people.create_team(&by, organization, "Mine", "Mine").await,
            people.create_key(&by, organization, home.workspace, "key", None).await.map(drop),
            people
                .invite(&by, organization, "x@y.test", beside_scope, Role::Viewer)
                .await
                .map(drop),
        ];
        for (at, refusal) in refusals.iter().enumerate() {
            assert!(
                matches!(refusal, Err(ApiError::NotFound(_) | ApiError::Forbidden(_))),
                "{at}: {refusal:?}"
            );
        }
        let mut browser = site.signed_in("lead@acme.test").await;
        let page = browser.get(&format!("/w/{other}/settings/members")).await;
        assert!(page.text.contains("below@acme.test"), "{}", page.text);
        assert!(
            !page.text.contains("beside@acme.test") && !page.text.contains(OWNER),
            "{}",
            page.text
        );
        let log = browser.get(&format!("/w/{other}/settings/log")).await;
        assert_eq!(log.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn what_is_of_another_organization_is_not_there() {
    for site in Site::each().await {
        let (home, other) = (site.organization("acme").await, site.organization("other").await);
        let (by, theirs) = (site.by(OWNER).await, site.by("owner@other.test").await);
        let people = &site.people;
        let key = people
            .create_key(&theirs, other.organization, other.workspace, "key", None)
            .await
            .unwrap();
        let key = people.deploy_key(&key).await.unwrap().id;
        let their_scope = Scope::Organization(other.organization);

        for organization in [home.organization, other.organization] {
            let refusals = [
                people.rename(&by, organization, their_scope, "Mine").await,
                people.rename(&by, organization, Scope::Team(other.team), "Mine").await,
                people.rename(&by, organization, Scope::Workspace(other.workspace), "Mine").await,
                people.create_workspace(&by, organization, other.team, "Mine").await,
                people.create_key(&by, organization, other.workspace, "key", None).await.map(drop),
                people.revoke_key(&by, organization, key).await,
                people
                    .change_role(&by, organization, theirs.account.id, their_scope, Role::Viewer)
                    .await,
                people.remove_member(&by, organization, theirs.account.id, their_scope).await,
                people
                    .invite(&by, organization, "x@y.test", their_scope, Role::Viewer)
                    .await
                    .map(drop),
                people.tree(by.account.id, other.organization).await.map(drop),
            ];
            for (at, refusal) in refusals.iter().enumerate() {
                assert!(matches!(refusal, Err(ApiError::NotFound(_))), "{at}: {refusal:?}");
            }
        }
    }
}

#[tokio::test]
async fn teams_and_workspaces_are_made_and_renamed() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let settings = |path: &str| home.page(&format!("settings/{path}"));
        let team = home.team;

        for (path, fields) in [
            (settings("organization"), vec![("name", "Acme & Sons")]),
            (settings("teams"), vec![("name", "Data"), ("first_workspace", "Lake")]),
            (settings(&format!("teams/{team}")), vec![("name", "Platform")]),
            (settings(&format!("teams/{team}/workspaces")), vec![("name", "Staging")]),
            (settings(&format!("workspaces/{}", home.workspace)), vec![("name", "Production")]),
        ] {
            let page = browser.submit(&path, &fields).await;
            assert_eq!(
                (page.status, page.location()),
                (StatusCode::SEE_OTHER, settings("organization").as_str())
            );
        }

        let page = browser.get(&settings("organization")).await;
        for name in ["Acme &#38; Sons", "Data", "Lake", "Platform", "Staging", "Production"] {
            assert!(page.text.contains(name), "{name}: {}", page.text);
        }
        let taken = browser
            .submit(&settings(&format!("teams/{team}/workspaces")), &[("name", "Staging")])
            .await;
        assert_eq!(taken.status, StatusCode::CONFLICT);
        assert!(taken.text.contains("There is already one called `Staging`."), "{}", taken.text);
        let actions: Vec<_> = site.log().await.into_iter().map(|(action, _)| action).collect();
        let expected = [
            "organization.renamed",
            "team.created",
            "team.renamed",
            "workspace.created",
            "workspace.renamed",
        ];
        assert_eq!(actions[1..], expected);
    }
}

/// Names are somebody's, and come to the browser of whoever runs the place.
#[tokio::test]
async fn names_stay_text() {
    const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}";
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (by, organization) = (site.by(OWNER).await, home.organization);
        let people = &site.people;
        for scope in [
            Scope::Organization(organization),
            Scope::Team(home.team),
            Scope::Workspace(home.workspace),
        ] {
            people.rename(&by, organization, scope, HOSTILE).await.unwrap();
        }
        people.create_key(&by, organization, home.workspace, HOSTILE, Some(30)).await.unwrap();
        let mut browser = site.signed_in(OWNER).await.saying("user-agent", HOSTILE);
        browser.submit("/account", &[("name", HOSTILE)]).await;
        browser.submit("/sign-out", &[]).await;
        browser.post("/sign-in", &[("email", OWNER)]).await;
        let code = site.code(OWNER).await;
        browser.post("/sign-in/code", &[("code", &code)]).await;
        let invite =
            [("email", "a+<b>@x.test"), ("scope", &organization.to_string()), ("role", "viewer")];
        assert_eq!(
            browser.submit(&home.page("settings/invites"), &invite).await.status,
            StatusCode::BAD_REQUEST
        );
        let invite =
            [("email", "'a&b'@x.test"), ("scope", &organization.to_string()), ("role", "viewer")];
        let page = browser.submit(&home.page("settings/invites"), &invite).await;
        let link = page.between("<code class=\"code\">http://127.0.0.1:8080", "</code>");

        for path in [
            home.page("settings/members"),
            home.page("settings/organization"),
            home.page("settings/security"),
            home.page("settings/log"),
            home.page(
                "settings/log?search=%3Cscript%3Ealert(1)%3C/script%3E%22%3E%3Cimg%20src=x%3E",
            ),
            "/account".to_owned(),
            link,
            "/sign-in?email=%22%3E%3Cscript%3E&return_to=/%22%3E%3Cimg".to_owned(),
            "/sign-in/code?return_to=/%22%3E%3Cimg".to_owned(),
        ] {
            let mut browser =
                if path.starts_with("/sign-in") { site.browser() } else { browser.clone() };
            let page = browser.get(&path).await;
            assert_eq!(page.status, StatusCode::OK, "{path}");
            for bad in ["<script>", "<img", "onerror=alert(1)>{"] {
                assert!(!page.text.contains(bad), "{path}: {}", page.text);
            }
            assert!(
                page.text.contains("&#60;") || page.text.contains("&#34;"),
                "{path}: {}",
                page.text
            );
        }
    }
}

#[tokio::test]
async fn who_runs_a_part_sees_that_part() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (by, organization) = (site.by(OWNER).await, home.organization);
        site.people.create_workspace(&by, organization, home.team, "Beside").await.unwrap();
        site.people.create_team(&by, organization, "Far", "Away").await.unwrap();
        site.member("lead@acme.test", &home, Scope::Workspace(home.workspace), Role::Admin).await;
        site.member("team@acme.test", &home, Scope::Team(home.team), Role::Admin).await;

        for (email, beside, far) in
            [("lead@acme.test", false, false), ("team@acme.test", true, false), (OWNER, true, true)]
        {
            let mut browser = site.signed_in(email).await;
            let page = browser.get(&home.page("settings/organization")).await;
            let shows = |name: &str| page.text.contains(&format!("<td>{name}</td>"));
            assert_eq!((shows("Beside"), shows("Away")), (beside, far), "{email}: {}", page.text);
            assert!(shows("Main") && page.text.contains("<h2>Team</h2>"), "{email}");
            assert_eq!(page.text.contains("<h2>Far</h2>"), far, "{email}");
        }
    }
}
