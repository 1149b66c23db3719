//! Deploy keys.

use std::sync::Arc;

use http::StatusCode;

use crate::access::Role;
use crate::db::values;
use crate::error::ApiError;
use crate::id::DeployKeyId;
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Home, OWNER, Site, all_at_once};
use crate::secret::{Purpose, Secret};

const DAY_MS: i64 = 86_400_000;

async fn create(browser: &mut Browser, home: &Home, days: &str) -> Secret {
    let workspace = home.workspace.to_string();
    let fields = [("name", "CI"), ("workspace_id", workspace.as_str()), ("days", days)];
    let page = browser.submit(&home.page("settings/keys"), &fields).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let text = page.between("<code class=\"code\">dk_", "</code>");
    Secret::parse(Purpose::DeployKey, &format!("dk_{text}")).unwrap()
}

#[tokio::test]
async fn a_key_is_shown_once_and_found_by_its_hash() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;

        let secret = create(&mut browser, &home, "90").await;

        let page = browser.get(&home.page("settings/security")).await;
        assert!(page.text.contains("CI") && page.text.contains("Active"), "{}", page.text);
        assert!(!page.text.contains("<code class=\"code\">dk_"), "{}", page.text);
        let hash: Vec<u8> = site.value("SELECT hash FROM deploy_keys", &[]).await;
        assert!(secret.matches(&hash));
        let key = site.people.deploy_key(&secret).await.unwrap();
        assert_eq!(key.entry.workspace, home.workspace);
        assert_eq!(key.entry.organization_name, "acme");
        assert_eq!(key.entry.role, Role::Beacon);
        assert_eq!(
            site.log().await.last().unwrap(),
            &("deploy_key.created".to_owned(), "CI".to_owned())
        );
    }
}

#[tokio::test]
async fn an_unknown_key_is_unknown() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let secret = create(&mut site.signed_in(OWNER).await, &home, "30").await;

        let unknown = site.people.deploy_key(&Secret::new(Purpose::DeployKey)).await;
        assert!(matches!(unknown, Err(ApiError::Unauthorized)), "{unknown:?}");
        // Found by what is not secret of it, and not the same.
        let sql = "UPDATE deploy_keys SET hash = $1";
        site.database.execute(sql, &values![Secret::new(Purpose::DeployKey).hash()]).await.unwrap();
        let other = site.people.deploy_key(&secret).await;
        assert!(matches!(other, Err(ApiError::Unauthorized)), "{other:?}");
    }
}

#[tokio::test]
async fn a_key_holds_as_long_as_was_said() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let (month, ever) =
            (create(&mut browser, &home, "30").await, create(&mut browser, &home, "never").await);
        site.later(30 * DAY_MS - 60_000);
        assert!(site.people.deploy_key(&month).await.is_ok());

        site.later(60_001);

        let expired = site.people.deploy_key(&month).await;
        assert!(matches!(expired, Err(ApiError::Revoked)), "{expired:?}");
        assert!(site.people.deploy_key(&ever).await.is_ok());
        let mut browser = site.signed_in(OWNER).await;
        assert!(browser.get(&home.page("settings/security")).await.text.contains("Expired"));
        let workspace = home.workspace.to_string();
        let odd = [("name", "CI"), ("workspace_id", workspace.as_str()), ("days", "36500")];
        let page = browser.submit(&home.page("settings/keys"), &odd).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let secret = create(&mut browser, &home, "never").await;
        let id: DeployKeyId = site.value("SELECT id FROM deploy_keys", &[]).await;

        for _ in 0..2 {
            let page = browser.submit(&home.page(&format!("settings/keys/{id}/revoke")), &[]).await;
            assert_eq!(page.status, StatusCode::SEE_OTHER);
        }

        let revoked = site.people.deploy_key(&secret).await;
        assert!(matches!(revoked, Err(ApiError::Revoked)), "{revoked:?}");
        let log = site.log().await;
        assert_eq!(log.iter().filter(|(action, _)| action == "deploy_key.revoked").count(), 1);
    }
}

#[tokio::test]
async fn the_last_use_is_written_once_a_minute() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let secret = create(&mut site.signed_in(OWNER).await, &home, "never").await;
        let mut used = Vec::new();

        for later_ms in [0, 30_000, 31_000] {
            site.later(later_ms);
            site.people.deploy_key(&secret).await.unwrap();
            used.push(site.value::<i64>("SELECT used_ms FROM deploy_keys", &[]).await);
        }

        assert_eq!(used[0], used[1]);
        assert!(used[2] > used[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_use_succeeds_after_the_key_was_revoked() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let secret = create(&mut site.signed_in(OWNER).await, &home, "never").await;
        let (by, organization) = (site.by(OWNER).await, home.organization);
        let id: DeployKeyId = site.value("SELECT id FROM deploy_keys", &[]).await;
        let revoked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut number = 0;

        let outcomes = all_at_once(100, || {
            number += 1;
            let revokes = number == 50;
            let (people, secret, by) = (Arc::clone(&site.people), secret.clone(), by.clone());
            let revoked = Arc::clone(&revoked);
            async move {
                if revokes {
                    people.revoke_key(&by, organization, id).await.unwrap();
                    revoked.store(true, std::sync::atomic::Ordering::SeqCst);
                    return true;
                }
                let late = revoked.load(std::sync::atomic::Ordering::SeqCst);
                let used = people.deploy_key(&secret).await.is_ok();
                !(late && used)
            }
        })
        .await;

        assert!(outcomes.into_iter().all(|held| held));
    }
}

#[tokio::test]
async fn who_does_not_run_a_workspace_sees_none_of_its_keys() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        create(&mut site.signed_in(OWNER).await, &home, "never").await;
        let id: DeployKeyId = site.value("SELECT id FROM deploy_keys", &[]).await;
        let by = site.by(OWNER).await;
        site.people.create_team(&by, home.organization, "Second", "Other").await.unwrap();
        let sql = "SELECT id FROM workspaces WHERE name = 'Other'";
        let other: crate::id::WorkspaceId = site.value(sql, &[]).await;
        site.member("lead@acme.test", &home, Scope::Workspace(other), Role::Admin).await;
        let mut lead = site.signed_in("lead@acme.test").await;

        let page = lead.get(&format!("/w/{other}/settings/security")).await;
        let revoke = lead.submit(&format!("/w/{other}/settings/keys/{id}/revoke"), &[]).await;

        assert!(page.text.contains("There are none yet"), "{}", page.text);
        assert_eq!(revoke.status, StatusCode::NOT_FOUND);
    }
}

/// A browser that was left alone makes nothing that outlives its session.
#[tokio::test]
async fn a_key_is_made_by_whoever_signed_in_within_the_hour() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let workspace = home.workspace.to_string();
        let fields = [("name", "CI"), ("workspace_id", workspace.as_str()), ("days", "30")];
        site.later(3_600_000);

        let refused = browser.submit(&home.page("settings/keys"), &fields).await;
        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert!(refused.text.contains("sign in again"), "{}", refused.text);
        let old = browser.cookies["ultra_session"].clone();
        let again = refused.between("href=\"/sign-in?again=1&#38;return_to=", "\"");
        let page = browser.get(&format!("/sign-in?again=1&return_to={again}")).await;
        assert_eq!(page.status, StatusCode::OK);
        let back = page.between("name=\"return_to\" value=\"", "\"");
        browser.post("/sign-in", &[("email", OWNER), ("return_to", &back)]).await;
        let code = site.code(OWNER).await;
        let page = browser.post("/sign-in/code", &[("code", &code), ("return_to", &back)]).await;

        assert_eq!(page.location(), home.page("settings/security"));
        create(&mut browser, &home, "30").await;
        browser.cookies.insert("ultra_session".to_owned(), old);
        assert_eq!(browser.get("/account").await.status, StatusCode::SEE_OTHER);
    }
}
