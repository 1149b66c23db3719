//! The first start.

use http::StatusCode;

use crate::db::testing::TestDatabase;
use crate::people::setup::Setup;
use crate::people::testing::{Browser, Page, Site, all_at_once};
use crate::people::ticket::Ticket;
use crate::people::{Options, OptionsError, People};

const FORM: [(&str, &str); 5] = [
    ("organization", "Acme, Inc."),
    ("team", "Platform"),
    ("workspace", "Production"),
    ("email", "Ada@Acme.test"),
    ("name", "Ada"),
];

async fn link(site: &Site) -> String {
    site.people.setup_url().await.unwrap().expect("not set up yet").path().to_owned()
}

async fn submit(browser: &mut Browser, link: &str) -> Page {
    browser.post(link, &FORM).await
}

#[tokio::test]
async fn the_first_person_sets_up_and_is_signed_in() {
    for site in Site::each().await {
        let (link, mut browser) = (link(&site).await, site.browser());
        assert_eq!(browser.get(&link).await.status, StatusCode::OK);

        let done = submit(&mut browser, &link).await;

        assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, "/"));
        let page = browser.get("/settings").await;
        let members = browser.get(page.location()).await;
        assert!(members.text.contains("ada@acme.test"), "{}", members.text);
        assert!(members.text.contains("Owner"));
        let slug: String = site.value("SELECT slug FROM organizations", &[]).await;
        assert_eq!(slug, "acme-inc");
        let workspace: String = site.value("SELECT name FROM workspaces", &[]).await;
        assert_eq!(workspace, "Production");
        let log = site.log().await;
        assert_eq!(log[0], ("organization.created".to_owned(), "Acme, Inc.".to_owned()));
        assert_eq!(log[1], ("auth.success".to_owned(), "ada@acme.test".to_owned()));
    }
}

#[tokio::test]
async fn a_link_dies_with_its_use_and_so_do_all_others() {
    for site in Site::each().await {
        let (first, second) = (link(&site).await, link(&site).await);
        let mut browser = site.browser();
        assert_eq!(submit(&mut browser, &second).await.status, StatusCode::SEE_OTHER);

        for link in [first, second] {
            let mut other = site.browser();
            assert_eq!(other.get(&link).await.status, StatusCode::NOT_FOUND);
            assert_eq!(submit(&mut other, &link).await.status, StatusCode::NOT_FOUND);
            assert!(other.cookies.is_empty());
        }
        assert!(site.people.setup_url().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn an_old_or_guessed_link_opens_nothing() {
    for site in Site::each().await {
        let old = link(&site).await;
        site.later(8 * 86_400_000);

        for link in [old, format!("/setup/{}", Ticket::new().reveal()), "/setup/x".to_owned()] {
            assert_eq!(site.browser().get(&link).await.status, StatusCode::NOT_FOUND, "{link}");
            let page = submit(&mut site.browser(), &link).await;
            assert_eq!(page.status, StatusCode::NOT_FOUND, "{link}");
        }
    }
}

#[tokio::test]
async fn what_was_typed_wrong_can_be_corrected() {
    for site in Site::each().await {
        let (link, mut browser) = (link(&site).await, site.browser());
        let mut form = FORM;
        form[3].1 = "no address";

        let page = browser.post(&link, &form).await;

        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(page.text.contains("no e-mail address"), "{}", page.text);
        assert!(page.text.contains("value=\"Acme, Inc.\""), "{}", page.text);
        assert_eq!(submit(&mut browser, &link).await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_at_once_one_sets_up() {
    for site in Site::each().await {
        let links = [link(&site).await, link(&site).await];
        let mut next = 0;

        let outcomes = all_at_once(100, || {
            next += 1;
            let people = std::sync::Arc::clone(&site.people);
            let ticket = Ticket::parse(links[next % 2].strip_prefix("/setup/").unwrap()).unwrap();
            let setup = Setup {
                organization: format!("Org {next}"),
                team: "T".to_owned(),
                workspace: "W".to_owned(),
                email: format!("p{next}@acme.test"),
                name: String::new(),
            };
            let address = site.address();
            async move { people.set_up(&ticket, &setup, address).await.is_ok() }
        })
        .await;

        assert_eq!(outcomes.into_iter().filter(|won| *won).count(), 1);
        for table in ["organizations", "users", "teams", "workspaces", "memberships"] {
            let count: i64 = site.value(&format!("SELECT count(*) FROM {table}"), &[]).await;
            assert_eq!(count, 1, "{table}");
        }
    }
}

#[tokio::test]
async fn a_public_address_with_a_path_is_refused() {
    let test = TestDatabase::sqlite().await;

    for url in ["https://acme.test/hub", "https://acme.test/?a=b", "ftp://acme.test/"] {
        let people = People::new(test.database.clone(), Options::default(), url.parse().unwrap());
        assert!(matches!(people, Err(OptionsError::PublicUrl { .. })), "{url}");
    }
}
