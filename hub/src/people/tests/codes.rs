//! Signing in with a code.

use std::sync::Arc;

use http::StatusCode;

use crate::access::Role;
use crate::db::values;
use crate::error::ApiError;
use crate::people::authority::Scope;
use crate::people::testing::{Browser, Mood, OWNER, Page, Site, all_at_once};
use crate::people::ticket::Ticket;

const MINUTE_MS: i64 = 60_000;

async fn ask(browser: &mut Browser, email: &str) -> Page {
    browser.post("/sign-in", &[("email", email), ("return_to", "/w/x")]).await
}

async fn take(browser: &mut Browser, code: &str) -> Page {
    browser.post("/sign-in/code", &[("code", code), ("return_to", "/w/x")]).await
}

fn wrong(code: &str) -> &'static str {
    if code == "0000 0000" { "1111 1111" } else { "0000 0000" }
}

#[tokio::test]
async fn whoever_has_the_code_is_signed_in() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        let asked = ask(&mut browser, " Owner@ACME.test ").await;
        assert_eq!(asked.location(), "/sign-in/code?return_to=%2Fw%2Fx");
        assert_eq!(browser.get(asked.location()).await.status, StatusCode::OK);

        let done = take(&mut browser, &site.code(OWNER).await).await;

        assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, "/w/x"));
        assert_eq!(browser.get("/account").await.status, StatusCode::OK);
        assert_eq!(browser.cookies.len(), 1);
        assert_eq!(site.log().await, [("auth.success".to_owned(), OWNER.to_owned())]);
    }
}

/// Who is here is nobody's business.
#[tokio::test]
async fn an_unknown_address_is_answered_like_a_known_one() {
    for site in Site::each().await {
        site.organization("acme").await;
        let (mut known, mut unknown) = (site.browser(), site.browser());

        let (ours, theirs) =
            (ask(&mut known, OWNER).await, ask(&mut unknown, "eve@evil.test").await);

        assert_eq!((ours.status, ours.location()), (theirs.status, theirs.location()));
        let names = |page: &Page| page.headers.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs));
        site.people.finish().await;
        assert!(site.mail.mails().iter().all(|mail| mail.to.contains(OWNER)));
        assert_eq!(site.mail.mails().len(), 1);
        let code = site.code(OWNER).await;
        let (ours, theirs) =
            (take(&mut known, wrong(&code)).await, take(&mut unknown, wrong(&code)).await);
        assert_eq!((ours.status, &ours.text), (theirs.status, &theirs.text));
    }
}

#[tokio::test]
async fn a_code_is_for_the_browser_that_asked() {
    for site in Site::each().await {
        site.organization("acme").await;
        let (mut victim, mut thief) = (site.browser(), site.browser());
        ask(&mut victim, OWNER).await;
        let code = site.code(OWNER).await;

        let stolen = take(&mut thief, &code).await;
        ask(&mut thief, OWNER).await;
        let tried = take(&mut thief, &code).await;

        assert_eq!(
            (stolen.status, tried.status),
            (StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST)
        );
        assert!(!thief.cookies.contains_key("ultra_session"));
        assert_eq!(take(&mut victim, &code).await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn a_code_dies_after_ten_minutes() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        ask(&mut browser, OWNER).await;
        let code = site.code(OWNER).await;
        site.later(10 * MINUTE_MS + 1);

        let page = take(&mut browser, &code).await;

        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(page.text.contains("no longer valid"), "{}", page.text);
    }
}

#[tokio::test]
async fn a_code_dies_after_five_wrong_ones() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        ask(&mut browser, OWNER).await;
        let code = site.code(OWNER).await;
        for left in (1..5).rev() {
            let page = take(&mut browser, wrong(&code)).await;
            assert!(page.text.contains(&format!("{left} attempts are left")), "{}", page.text);
        }
        take(&mut browser, wrong(&code)).await;

        let page = take(&mut browser, &code).await;

        assert!(page.text.contains("no longer valid"), "{}", page.text);
        let log = site.log().await;
        assert_eq!(log.iter().filter(|(action, _)| action == "auth.failure").count(), 5);
    }
}

#[tokio::test]
async fn after_ten_wrong_codes_an_address_is_locked_for_an_hour() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        for _ in 0..2 {
            ask(&mut browser, OWNER).await;
            let code = site.code(OWNER).await;
            for _ in 0..5 {
                take(&mut browser, wrong(&code)).await;
            }
        }

        let locked = ask(&mut site.browser(), OWNER).await;

        assert_eq!(locked.status, StatusCode::TOO_MANY_REQUESTS);
        let log = site.log().await;
        assert_eq!(log.iter().filter(|(action, _)| action == "auth.lockout").count(), 1);
        site.later(61 * MINUTE_MS);
        let mut later = site.browser();
        ask(&mut later, OWNER).await;
        assert_eq!(take(&mut later, &site.code(OWNER).await).await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn nobody_is_flooded_with_mail() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut statuses = Vec::new();
        for _ in 0..7 {
            statuses.push(ask(&mut site.browser(), OWNER).await.status);
        }

        site.people.finish().await;
        assert_eq!(site.mail.mails().len(), 5);
        assert_eq!(
            statuses[4..],
            [StatusCode::SEE_OTHER, StatusCode::TOO_MANY_REQUESTS, StatusCode::TOO_MANY_REQUESTS]
        );
    }
}

#[tokio::test]
async fn one_asker_cannot_go_through_a_list_of_addresses() {
    for site in Site::each().await {
        let address = site.address();
        let mut refused = 0;
        for number in 0..40 {
            let email = format!("p{number}@acme.test");
            refused += u32::from(matches!(
                site.people.ask_code(&email, address).await,
                Err(ApiError::RateLimited { .. })
            ));
        }

        assert_eq!(refused, 10);
        assert!(site.people.ask_code("p@acme.test", site.address()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_at_once_one_uses_the_code() {
    for site in Site::each().await {
        site.organization("acme").await;
        let address = site.address();
        let ticket = site.people.ask_code(OWNER, address).await.unwrap();
        let code = site.code(OWNER).await;

        let outcomes = all_at_once(100, || {
            let (people, ticket, code) = (Arc::clone(&site.people), ticket.clone(), code.clone());
            async move { people.take_code(&ticket, &code, address).await.is_ok() }
        })
        .await;

        assert_eq!(outcomes.into_iter().filter(|won| *won).count(), 1);
    }
}

/// Whoever left has an account, and no way in.
#[tokio::test]
async fn whoever_was_removed_or_disabled_gets_no_code() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        site.member("gone@acme.test", &home, scope, Role::Member).await;
        site.member("off@acme.test", &home, scope, Role::Member).await;
        let gone = site.by("gone@acme.test").await.account.id;
        let owner = site.by(OWNER).await;
        site.people.remove_member(&owner, home.organization, gone, scope).await.unwrap();
        let sql = "UPDATE users SET disabled_ms = 1 WHERE email = $1";
        site.database.execute(sql, &values!["off@acme.test"]).await.unwrap();

        for email in ["gone@acme.test", "off@acme.test"] {
            assert_eq!(ask(&mut site.browser(), email).await.status, StatusCode::SEE_OTHER);
        }

        site.people.finish().await;
        assert!(site.mail.mails().is_empty());
    }
}

#[tokio::test]
async fn a_mail_server_that_refuses_changes_no_answer() {
    for site in Site::each().await {
        site.organization("acme").await;
        site.mail.set_mood(Mood::Refuses);

        assert_eq!(ask(&mut site.browser(), OWNER).await.status, StatusCode::SEE_OTHER);

        site.people.finish().await;
        assert!(site.mail.mails().is_empty());
    }
}

#[tokio::test]
async fn nobody_is_led_away_by_signing_in() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        let asked =
            browser.post("/sign-in", &[("email", OWNER), ("return_to", "//evil.test/")]).await;
        assert_eq!(asked.location(), "/sign-in/code?return_to=%2F");
        let code = site.code(OWNER).await;

        let done = browser
            .post("/sign-in/code", &[("code", &code), ("return_to", "https://evil.test")])
            .await;

        assert_eq!(done.location(), "/");
    }
}

/// Eight digits are found in a second, if one knows what they have to fit.
#[tokio::test]
async fn the_database_does_not_tell_the_code() {
    for site in Site::each().await {
        site.organization("acme").await;
        let ticket = site.people.ask_code(OWNER, site.address()).await.unwrap();
        let code: String = site.code(OWNER).await.replace(' ', "");

        let stored: Vec<u8> = site.value("SELECT code_hash FROM codes", &[]).await;

        assert!(ticket.signed(&code, &stored));
        assert!(!Ticket::new().signed(&code, &stored));
    }
}
