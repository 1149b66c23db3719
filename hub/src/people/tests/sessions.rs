//! Sessions of browsers, and what must not come from elsewhere.

use axum::body::Body;
use http::{Method, Request, StatusCode};

use crate::access::Role;
use crate::db::values;
use crate::people::HubGate;
use crate::people::authority::Scope;
use crate::people::testing::{OWNER, Site};
use crate::server::Peer;
use crate::web::Gate;

const DAY_MS: i64 = 86_400_000;

#[tokio::test]
async fn a_session_lives_as_long_as_it_is_used() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        for _ in 0..3 {
            site.later(13 * DAY_MS);
            assert_eq!(browser.get("/account").await.status, StatusCode::OK);
        }

        site.later(14 * DAY_MS + 1);

        assert_eq!(browser.get("/account").await.location(), "/sign-in?return_to=%2Faccount");
        site.people.sweep_once().await.unwrap();
        let left: i64 = site.value("SELECT count(*) FROM sessions", &[]).await;
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn use_is_written_every_few_minutes_at_most() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let seen = "SELECT seen_ms FROM sessions";
        let first: i64 = site.value(seen, &[]).await;

        site.later(4 * 60_000);
        browser.get("/account").await;
        let second: i64 = site.value(seen, &[]).await;
        site.later(2 * 60_000);
        browser.get("/account").await;
        let third: i64 = site.value(seen, &[]).await;

        assert_eq!(first, second);
        assert!(third > second);
    }
}

#[tokio::test]
async fn the_cookie_is_not_in_the_database() {
    for site in Site::each().await {
        site.organization("acme").await;
        let browser = site.signed_in(OWNER).await;

        let hash: Vec<u8> = site.value("SELECT hash FROM sessions", &[]).await;

        let cookie = &browser.cookies["ultra_session"];
        assert_ne!(hash, cookie.as_bytes());
        assert_eq!(hash.len(), 32);
    }
}

#[tokio::test]
async fn each_sign_in_has_a_session_of_its_own() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let before = browser.cookies["ultra_session"].clone();
        browser.post("/sign-in", &[("email", OWNER)]).await;
        let code = site.code(OWNER).await;

        browser.post("/sign-in/code", &[("code", &code)]).await;

        assert_ne!(browser.cookies["ultra_session"], before);
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_for_whoever_copied_it() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let mut copy = browser.clone();

        let page = browser.submit("/sign-out", &[]).await;

        assert_eq!(page.location(), "/sign-in");
        assert!(browser.cookies.is_empty());
        assert_eq!(copy.get("/account").await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn ones_own_sessions_are_listed_and_ended() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        site.member("ada@acme.test", &home, Scope::Organization(home.organization), Role::Viewer)
            .await;
        let mut other = site.signed_in(OWNER).await;
        let mut browser = site.signed_in(OWNER).await;
        let mut stranger = site.signed_in("ada@acme.test").await;
        let page = browser.get("/account").await;
        assert_eq!(page.text.matches("/account/sessions/").count(), 3, "{}", page.text);
        let rows = page.text.split("<tr>").collect::<Vec<_>>();
        let row =
            rows.iter().find(|row| row.contains("/end\"") && !row.contains("this one")).unwrap();
        let path = row.split("action=\"").nth(1).unwrap().split('"').next().unwrap();

        assert_eq!(stranger.submit(path, &[]).await.status, StatusCode::NOT_FOUND);
        assert_eq!(other.get("/account").await.status, StatusCode::OK);
        assert_eq!(browser.submit(path, &[]).await.status, StatusCode::SEE_OTHER);

        assert_eq!(other.get("/account").await.status, StatusCode::SEE_OTHER);
        let mut third = site.signed_in(OWNER).await;
        browser.submit("/account/sessions/end-others", &[]).await;
        assert_eq!(third.get("/account").await.status, StatusCode::SEE_OTHER);
        assert_eq!(browser.get("/account").await.status, StatusCode::OK);
        assert_eq!(stranger.get("/account").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn somebody_disabled_is_out_at_once() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        site.database.execute("UPDATE users SET disabled_ms = 1", &[]).await.unwrap();

        assert_eq!(browser.get("/account").await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn a_form_of_another_session_changes_nothing() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let other = site.signed_in(OWNER).await.csrf();
        let path = home.page("settings/organization");

        for fields in [
            vec![("name", "Evil")],
            vec![("name", "Evil"), ("csrf", "")],
            vec![("name", "Evil"), ("csrf", "x")],
            vec![("name", "Evil"), ("csrf", other.as_str())],
        ] {
            assert_eq!(browser.post(&path, &fields).await.status, StatusCode::BAD_REQUEST);
        }

        let name: String = site.value("SELECT name FROM organizations", &[]).await;
        assert_eq!(name, "acme");
    }
}

#[tokio::test]
async fn a_form_on_a_page_of_somebody_else_changes_nothing() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let browser = site.signed_in(OWNER).await;
        let path = home.page("settings/organization");
        let statuses = [
            ("same-origin", "http://evil.test", StatusCode::SEE_OTHER),
            ("none", "", StatusCode::SEE_OTHER),
            ("cross-site", "http://127.0.0.1:8080", StatusCode::FORBIDDEN),
            ("same-site", "", StatusCode::FORBIDDEN),
            ("", "http://evil.test", StatusCode::FORBIDDEN),
            ("", "null", StatusCode::FORBIDDEN),
            ("", "http://127.0.0.1:8080.evil.test", StatusCode::FORBIDDEN),
            ("", "http://127.0.0.1:9090", StatusCode::FORBIDDEN),
            ("", "http://127.0.0.1:8080", StatusCode::SEE_OTHER),
            ("", "", StatusCode::SEE_OTHER),
        ];

        for (fetch_site, origin, expected) in statuses {
            let mut browser =
                browser.clone().saying("sec-fetch-site", fetch_site).saying("origin", origin);
            let status = browser.submit(&path, &[("name", "New")]).await.status;
            assert_eq!(status, expected, "{fetch_site} {origin}");
        }
        // Nor signs it anybody in, as whoever made it.
        let mut stranger = site.browser().saying("sec-fetch-site", "cross-site");
        let asked = stranger.post("/sign-in", &[("email", OWNER)]).await;
        assert_eq!(asked.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn a_form_is_a_form() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let csrf = browser.csrf();
        let path = home.page("settings/organization");

        let long = "x".repeat(70_000);
        let page = browser.submit(&path, &[("name", &long)]).await;
        assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
        let body = format!("csrf={csrf}&name=a&name=b");
        let page = browser.send(Method::POST, &path, Body::from(body)).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        let name: String = site.value("SELECT name FROM organizations", &[]).await;
        assert_eq!(name, "acme");
    }
}

/// Whoever is on the way would have the session.
#[tokio::test]
async fn nobody_signs_in_over_the_network_without_tls() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser().saying("host", "hub.acme.test");

        let page = browser.get("/sign-in").await;
        let asked = browser.post("/sign-in", &[("email", OWNER)]).await;

        assert!(page.text.contains("needs HTTPS"), "{}", page.text);
        assert_eq!((page.status, asked.status), (StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST));
        site.people.finish().await;
        assert!(site.mail.mails().is_empty());
    }
}

#[tokio::test]
async fn over_tls_the_cookie_is_protected() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser().saying("host", "hub.acme.test");
        browser.secure = true;
        browser.post("/sign-in", &[("email", OWNER)]).await;
        let code = site.code(OWNER).await;

        let page = browser.post("/sign-in/code", &[("code", &code)]).await;

        let cookie = page.header("set-cookie");
        assert!(cookie.starts_with("__Host-ultra_session="), "{cookie}");
        assert!(
            cookie.contains("Path=/;") && cookie.contains("; HttpOnly; SameSite=Lax; Secure"),
            "{cookie}"
        );
        assert_eq!(browser.get("/account").await.status, StatusCode::OK);
    }
}

/// A disk that is full must not hide what is on it.
#[tokio::test]
async fn what_takes_no_writes_can_still_be_looked_at() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let by = site.by(OWNER).await;
        let (organization, workspace) = (home.organization, home.workspace);
        let key = site.people.create_key(&by, organization, workspace, "CI", None).await.unwrap();
        let mut browser = site.signed_in(OWNER).await;
        site.refuse_updates("sessions").await;
        site.refuse_updates("deploy_keys").await;
        site.later(3_600_000);

        assert_eq!(browser.get("/account").await.status, StatusCode::OK);
        assert_eq!(site.people.deploy_key(&key).await.unwrap().entry.workspace, workspace);
    }
}

#[tokio::test]
async fn pages_keep_to_themselves() {
    for site in Site::each().await {
        let page = site.browser().get("/sign-in").await;

        let policy = page.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("form-action 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("x-frame-options"), "DENY");
    }
}

fn parts(site: &str, headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = Request::builder().uri(site).header("host", "127.0.0.1:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Peer { address: [127, 0, 0, 1].into(), secure: false });
    request.into_parts().0
}

#[tokio::test]
async fn the_gate_lets_in_who_has_a_session_and_a_role() {
    for site in Site::each().await {
        let (home, other) = (site.organization("acme").await, site.organization("other").await);
        site.member(
            "beacon@acme.test",
            &home,
            Scope::Organization(home.organization),
            Role::Beacon,
        )
        .await;
        let gate = HubGate::new(site.people.clone());
        let cookie = |browser: &crate::people::testing::Browser| {
            format!("ultra_session={}", browser.cookies["ultra_session"])
        };
        let owner = cookie(&site.signed_in(OWNER).await);
        let beacon = cookie(&site.signed_in("beacon@acme.test").await);
        let (ours, theirs) = (home.workspace.to_string(), other.workspace.to_string());

        let inside = gate.enter(&parts("/w/x", &[("cookie", &owner)]), Some(&ours)).await.unwrap();
        assert_eq!((inside.entry.workspace, inside.entry.role), (home.workspace, Role::Owner));
        assert_eq!(inside.entries.len(), 1);
        let first = gate.enter(&parts("/", &[("cookie", &owner)]), None).await.unwrap();
        assert_eq!(first.entry.workspace, home.workspace);

        let refused = async |headers: &[(&str, &str)], workspace: Option<&str>| {
            let response = gate.enter(&parts("/w/x?a=b&c", headers), workspace).await.unwrap_err();
            let location =
                response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
            (response.status(), location.unwrap_or_default())
        };
        let asked = (StatusCode::SEE_OTHER, "/sign-in?return_to=%2Fw%2Fx%3Fa%3Db%26c".to_owned());
        let plain = |status| (status, String::new());
        assert_eq!(refused(&[], Some(&ours)).await, asked);
        assert_eq!(refused(&[("cookie", "ultra_session=x")], Some(&ours)).await, asked);
        for program in [("x-ultra-live", "1"), ("accept", "application/json")] {
            assert_eq!(refused(&[program], Some(&ours)).await, plain(StatusCode::UNAUTHORIZED));
        }
        let cookie = ("cookie", owner.as_str());
        assert_eq!(refused(&[cookie], Some(&theirs)).await, plain(StatusCode::NOT_FOUND));
        assert_eq!(refused(&[cookie], Some("ws_nonsense")).await, plain(StatusCode::NOT_FOUND));
        let cookie = ("cookie", beacon.as_str());
        assert_eq!(refused(&[cookie], Some(&ours)).await, plain(StatusCode::FORBIDDEN));
        assert_eq!(refused(&[cookie], None).await, (StatusCode::SEE_OTHER, "/invites".to_owned()));
    }
}

#[tokio::test]
async fn the_oldest_of_too_many_sessions_ends() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut first = site.signed_in(OWNER).await;
        for _ in 0..50 {
            site.later(1);
            site.signed_in(OWNER).await;
        }

        assert_eq!(first.get("/account").await.status, StatusCode::SEE_OTHER);
        let count: i64 = site
            .value("SELECT count(*) FROM sessions WHERE agent = $1", &values!["Browser/1.0"])
            .await;
        assert_eq!(count, 50);
    }
}
