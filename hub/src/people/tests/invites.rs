//! Invites.

use std::sync::Arc;

use http::StatusCode;

use crate::access::Role;
use crate::error::ApiError;
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Home, OWNER, Site, all_at_once};

const ADA: &str = "ada@acme.test";

async fn invite(site: &Site, home: &Home, email: &str, role: &str) -> (Browser, String) {
    let mut owner = site.signed_in(OWNER).await;
    let scope = home.organization.to_string();
    let fields = [("email", email), ("role", role), ("scope", &scope)];
    let page = owner.submit(&home.page("settings/invites"), &fields).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let link = page.between("<code class=\"code\">http://127.0.0.1:8080", "</code>");
    (owner, link)
}

async fn sign_in(site: &Site, browser: &mut Browser, email: &str) {
    browser.post("/sign-in", &[("email", email)]).await;
    let code = site.code(email).await;
    let page = browser.post("/sign-in/code", &[("code", &code)]).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
}

#[tokio::test]
async fn the_invited_sign_in_and_accept() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (mut owner, link) = invite(&site, &home, ADA, "member").await;
        site.people.finish().await;
        let mail = site.mail.mails().pop().unwrap();
        assert!(mail.to.contains(ADA) && mail.text.contains("/invites/"), "{}", mail.text);
        let mut ada = site.browser();
        let page = ada.get(&link).await;
        let way = page.between("<a href=\"/sign-in", "\">");
        assert!(
            way.contains("email=ada%40acme.test") && way.contains("return_to=%2Finvites%2F"),
            "{way}"
        );

        sign_in(&site, &mut ada, ADA).await;
        assert_eq!(ada.get("/account").await.status, StatusCode::FORBIDDEN);
        let page = ada.get(&link).await;
        let accept = page.between("action=\"", "\"");
        let accepted = ada.submit(&accept, &[]).await;

        assert_eq!((accepted.status, accepted.location()), (StatusCode::SEE_OTHER, "/"));
        assert_eq!(ada.get("/account").await.status, StatusCode::OK);
        let members = owner.get(&home.page("settings/members")).await;
        assert!(
            members.text.contains(ADA) && !members.text.contains("Open invites"),
            "{}",
            members.text
        );
        let actions: Vec<_> = site.log().await.into_iter().map(|(action, _)| action).collect();
        assert_eq!(actions[1..], ["member.invited", "auth.success", "member.accepted"]);
        // It worked once.
        assert_eq!(ada.get(&link).await.status, StatusCode::NOT_FOUND);
        assert_eq!(ada.submit(&accept, &[]).await.status, StatusCode::NOT_FOUND);
    }
}

/// Who has no link finds the invite too: the address is what counts.
#[tokio::test]
async fn an_invite_is_found_after_signing_in() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        invite(&site, &home, ADA, "viewer").await;
        let mut ada = site.browser();
        sign_in(&site, &mut ada, ADA).await;

        let page = ada.get("/invites").await;

        assert!(page.text.contains("acme") && page.text.contains("Viewer"), "{}", page.text);
        let accept = page.between("action=\"/invites/", "\"");
        assert_eq!(ada.submit(&format!("/invites/{accept}"), &[]).await.location(), "/");
    }
}

/// The link is seen by who made it, and by whoever it is passed on to.
#[tokio::test]
async fn a_link_in_other_hands_gives_nothing() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let other = site.organization("other").await;
        let (_, link) = invite(&site, &home, ADA, "admin").await;
        let mut eve = site.signed_in("owner@other.test").await;

        let page = eve.get(&link).await;
        let id: crate::id::InviteId = site.value("SELECT id FROM invites", &[]).await;
        let taken = eve.submit(&format!("/invites/{id}/accept"), &[]).await;

        assert!(page.text.contains("Sign out, and sign in as ada@acme.test"), "{}", page.text);
        assert_eq!(taken.status, StatusCode::NOT_FOUND);
        let entries =
            site.people.entries(site.by("owner@other.test").await.account.id).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].workspace, other.workspace);
    }
}

#[tokio::test]
async fn an_invite_dies_after_a_week_or_when_it_is_revoked() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (mut owner, revoked) = invite(&site, &home, ADA, "member").await;
        let page = owner.get(&home.page("settings/members")).await;
        let path = page.between("action=\"/w/", "/revoke\"");
        let path = path.rsplit("action=\"/w/").next().unwrap();
        let done = owner.submit(&format!("/w/{path}/revoke"), &[]).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER);
        let (_, expired) = invite(&site, &home, "bob@acme.test", "member").await;
        site.later(7 * 86_400_000 + 1);

        for (email, link) in [(ADA, revoked), ("bob@acme.test", expired)] {
            assert_eq!(site.browser().get(&link).await.status, StatusCode::NOT_FOUND);
            site.people.ask_code(email, site.address()).await.unwrap();
            site.people.finish().await;
            let codes =
                site.mail.mails().into_iter().filter(|mail| mail.text.contains("is your code"));
            assert_eq!(codes.count(), 0);
        }
    }
}

#[tokio::test]
async fn a_new_invite_takes_the_place_of_the_old_one() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let (_, first) = invite(&site, &home, ADA, "admin").await;
        let (_, second) = invite(&site, &home, ADA, "viewer").await;

        assert_eq!(site.browser().get(&first).await.status, StatusCode::NOT_FOUND);
        assert!(site.browser().get(&second).await.text.contains("as Viewer"));
        let sql = "SELECT CAST(count(*) AS BIGINT) FROM admin_log WHERE details LIKE $1";
        let noted: i64 = site.value(sql, &crate::db::values!["%\"replaced\":true%"]).await;
        assert_eq!(noted, 1);
    }
}

#[tokio::test]
async fn who_is_there_already_has_the_role_at_once() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let ada = site.member(ADA, &home, Scope::Workspace(home.workspace), Role::Viewer).await;
        let mut owner = site.signed_in(OWNER).await;
        let team = home.team.to_string();
        let fields = [("email", ADA), ("role", "member"), ("scope", team.as_str())];

        let page = owner.submit(&home.page("settings/invites"), &fields).await;

        assert_eq!(page.status, StatusCode::SEE_OTHER);
        let entries = site.people.entries(ada.id).await.unwrap();
        assert_eq!(entries[0].role, Role::Member);
        let again = owner.submit(&home.page("settings/invites"), &fields).await;
        assert_eq!(again.status, StatusCode::CONFLICT);
    }
}

#[tokio::test]
async fn nobody_is_invited_as_more_than_the_inviter_may_give() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        for role in Role::ALL {
            site.member(&format!("{}@acme.test", role.as_str()), &home, scope, role).await;
        }
        for actor in Role::ALL {
            let by = site.by(&format!("{}@acme.test", actor.as_str())).await;
            for role in Role::ALL {
                let invited = site.people.invite(&by, home.organization, ADA, scope, role).await;

                let may = match actor {
                    Role::Owner => role != Role::Beacon,
                    Role::Admin => role != Role::Beacon && role != Role::Owner,
                    Role::Member | Role::Viewer | Role::Beacon => false,
                };
                assert_eq!(invited.is_ok(), may, "{actor} invites as {role}: {invited:?}");
            }
        }
    }
}

/// Or they would have a way back in.
#[tokio::test]
async fn nobody_comes_in_by_the_word_of_somebody_who_may_not_any_more() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        let admin = site.member("admin@acme.test", &home, scope, Role::Admin).await;
        let (owner, by) = (site.by(OWNER).await, site.by("admin@acme.test").await);
        let organization = home.organization;
        for email in [ADA, "bob@acme.test", "carl@acme.test"] {
            site.people.invite(&by, organization, email, scope, Role::Admin).await.unwrap();
            site.signed_in(email).await;
        }
        let accept = async |email: &str| {
            let id = site.people.invitations(email).await.unwrap()[0].id;
            site.people.accept_invite(&site.by(email).await, id).await
        };

        accept("carl@acme.test").await.unwrap();
        site.people.change_role(&owner, organization, admin.id, scope, Role::Member).await.unwrap();
        let demoted = accept(ADA).await;
        site.people.remove_member(&owner, organization, admin.id, scope).await.unwrap();
        let removed = accept("bob@acme.test").await;

        for refused in [demoted, removed] {
            let Err(ApiError::Conflict(message)) = refused else { panic!("{refused:?}") };
            assert!(message.contains("ask for a new invite"), "{message}");
        }
        assert!(site.people.entries(site.by(ADA).await.account.id).await.unwrap().is_empty());
        // An invite that was refused is open still: for when they may again.
        assert_eq!(site.people.invitations(ADA).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn whoever_leaves_one_place_leaves_the_invites_to_others_alone() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let everywhere = Scope::Organization(home.organization);
        let here = Scope::Workspace(home.workspace);
        let admin = site.member("admin@acme.test", &home, everywhere, Role::Admin).await;
        site.member("admin@acme.test", &home, here, Role::Viewer).await;
        let by = site.by("admin@acme.test").await;
        site.people.invite(&by, home.organization, ADA, everywhere, Role::Viewer).await.unwrap();
        site.signed_in(ADA).await;

        let owner = site.by(OWNER).await;
        site.people.remove_member(&owner, home.organization, admin.id, here).await.unwrap();

        let id = site.people.invitations(ADA).await.unwrap()[0].id;
        site.people.accept_invite(&site.by(ADA).await, id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_at_once_one_accepts() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        invite(&site, &home, ADA, "member").await;
        site.signed_in(ADA).await;
        let (by, id) = (site.by(ADA).await, site.people.invitations(ADA).await.unwrap()[0].id);

        let outcomes = all_at_once(100, || {
            let (people, by) = (Arc::clone(&site.people), by.clone());
            async move { people.accept_invite(&by, id).await }
        })
        .await;

        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.iter().all(|lost| matches!(lost, Err(ApiError::NotFound(_)))), "{lost:?}");
    }
}
