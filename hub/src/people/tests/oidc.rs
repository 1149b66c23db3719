//! Signing in at an identity provider.

use http::StatusCode;
use serde_json::json;

use crate::access::Role;
use crate::people::authority::Scope;
use crate::people::testing::{Browser, OWNER, Page, Person, Provider, Signer, Site};
use crate::people::{OidcOptions, Options, OptionsError, People};

const ADA: &str = "ada@acme.test";

async fn sites(signer: Signer) -> (Provider, Vec<Site>) {
    let provider = Provider::start(signer).await;
    let sites = Site::each_with(Some(provider.options())).await;
    (provider, sites)
}

async fn joining(domain: &str) -> (Provider, Vec<Site>) {
    let provider = Provider::start(Signer::Rsa).await;
    let options = OidcOptions { join_domain: Some(domain.to_owned()), ..provider.options() };
    (provider, Site::each_with(Some(options)).await)
}

async fn begin(browser: &mut Browser) -> String {
    let page = browser.get("/sign-in/oidc?return_to=%2Faccount").await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
    page.location().to_owned()
}

async fn sign_in(browser: &mut Browser, provider: &Provider, person: &Person) -> Page {
    let url = begin(browser).await;
    browser.get(&provider.sign_in(&url, person)).await
}

fn is_in(browser: &Browser) -> bool {
    browser.cookies.contains_key("ultra_session")
}

#[tokio::test]
async fn a_member_signs_in() {
    for signer in [Signer::Rsa, Signer::ec("ec-1")] {
        let (provider, sites) = sites(signer).await;
        for site in sites {
            site.organization("acme").await;
            let mut browser = site.browser();
            let page = browser.get("/sign-in?return_to=/account").await;
            assert!(
                page.text.contains("href=\"/sign-in/oidc?return_to=%2Faccount\""),
                "{}",
                page.text
            );

            let page = sign_in(&mut browser, &provider, &Person::new("ada-1", OWNER)).await;

            assert_eq!(
                (page.status, page.location()),
                (StatusCode::SEE_OTHER, "/account"),
                "{}",
                page.text
            );
            assert_eq!(browser.get("/account").await.status, StatusCode::OK);
            assert_eq!(site.log().await, [("auth.success".to_owned(), OWNER.to_owned())]);
        }
    }
}

#[tokio::test]
async fn the_invited_sign_in_and_are_nothing_before_they_accept() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        let home = site.organization("acme").await;
        let scope = Scope::Organization(home.organization);
        site.people
            .invite(&site.by(OWNER).await, home.organization, ADA, scope, Role::Viewer)
            .await
            .unwrap();
        let mut browser = site.browser();

        sign_in(&mut browser, &provider, &Person::new("ada-1", "Ada@ACME.test")).await;

        let ada = site.by(ADA).await.account;
        assert_eq!(ada.name, "Ada L.");
        assert!(site.people.entries(ada.id).await.unwrap().is_empty());
        assert!(browser.get("/invites").await.text.contains("acme"));
    }
}

#[tokio::test]
async fn a_stranger_stays_outside() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        site.organization("acme").await;
        let mut browser = site.browser();

        let page = sign_in(&mut browser, &provider, &Person::new("eve", "eve@evil.test")).await;

        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(page.text.contains("Only people who are members or invited"), "{}", page.text);
        assert!(!is_in(&browser));
        let users: i64 = site.value("SELECT count(*) FROM users", &[]).await;
        assert_eq!(users, 1);
        assert_eq!(site.log().await, [("auth.failure".to_owned(), "eve@evil.test".to_owned())]);
    }
}

#[tokio::test]
async fn a_domain_may_join_as_members_and_no_more() {
    let (provider, sites) = joining("@Acme.test").await;
    for site in sites {
        site.organization("acme").await;
        for (email, expected) in [
            (ADA, true),
            ("eve@acme.test.evil.test", false),
            ("eve@evil.test", false),
            ("eve@sub.acme.test", false),
            ("eve@notacme.test", false),
        ] {
            let mut browser = site.browser();
            sign_in(&mut browser, &provider, &Person::new(email, email)).await;
            assert_eq!(is_in(&browser), expected, "{email}");
        }

        let entries = site.people.entries(site.by(ADA).await.account.id).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].role, Role::Member);
        assert!(site.log().await.iter().any(|(action, _)| action == "member.joined"));
    }
}

#[tokio::test]
async fn whoever_was_removed_does_not_join_again() {
    let (provider, sites) = joining("acme.test").await;
    for site in sites {
        let home = site.organization("acme").await;
        let person = Person::new("ada-1", ADA);
        sign_in(&mut site.browser(), &provider, &person).await;
        let ada = site.by(ADA).await.account.id;
        let scope = Scope::Organization(home.organization);
        site.people
            .remove_member(&site.by(OWNER).await, home.organization, ada, scope)
            .await
            .unwrap();

        let mut browser = site.browser();
        let page = sign_in(&mut browser, &provider, &person).await;

        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(!is_in(&browser));
    }
}

/// Whatever a provider says, or somebody in its place.
#[tokio::test]
async fn a_token_that_does_not_hold_lets_nobody_in() {
    let (provider, sites) = sites(Signer::Rsa).await;
    let now_s = crate::clock::now_ms() / 1000;
    for site in sites {
        site.organization("acme").await;
        let owner = || Person::new("ada-1", OWNER);
        for (person, expected) in [
            (owner().but("iss", json!("https://evil.test")), 400),
            (owner().but("aud", json!("another-client")), 400),
            (owner().but("aud", json!(["ultra-hub", "another-client"])), 400),
            (owner().but("azp", json!("another-client")), 400),
            (owner().but("exp", json!(now_s - 120)), 400),
            (owner().but("nbf", json!(now_s + 600)), 400),
            (owner().but("nonce", json!("another")), 400),
            (owner().but("nonce", json!(null)), 400),
            (owner().but("sub", json!("")), 400),
            (owner().but("email_verified", json!(false)), 403),
            (owner().but("email_verified", json!(null)), 403),
            (owner().but("email_verified", json!("false")), 403),
            (owner().but("email", json!("no address")), 403),
        ] {
            let mut browser = site.browser();
            let page = sign_in(&mut browser, &provider, &person).await;
            assert_eq!(page.status.as_u16(), expected, "{person:?}: {}", page.text);
            assert!(!is_in(&browser), "{person:?}");
        }
        let forged = Signer::ec("rsa");
        let mut browser = site.browser();
        let url = begin(&mut browser).await;
        let page = browser.get(&provider.sign_in_by(&url, &owner(), &forged)).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(!is_in(&browser));

        let log = site.log().await;
        let unknown = ("auth.failure".to_owned(), "unknown".to_owned());
        assert_eq!(log.iter().filter(|entry| **entry == unknown).count(), 10, "{log:?}");

        for good in
            [owner().but("email_verified", json!("true")), owner().but("aud", json!(["ultra-hub"]))]
        {
            let mut browser = site.browser();
            sign_in(&mut browser, &provider, &good).await;
            assert!(is_in(&browser), "{good:?}");
        }
    }
}

#[tokio::test]
async fn a_sign_in_belongs_to_the_browser_that_began_it() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        site.organization("acme").await;
        let (mut victim, mut thief) = (site.browser(), site.browser());
        let url = begin(&mut thief).await;
        begin(&mut victim).await;
        let back = provider.sign_in(&url, &Person::new("ada-1", OWNER));

        // Login CSRF: somebody else's sign-in, in the victim's browser.
        assert_eq!(victim.get(&back).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(site.browser().get(&back).await.status, StatusCode::BAD_REQUEST);
        assert!(!is_in(&victim));
        assert_eq!(thief.get(&back).await.status, StatusCode::SEE_OTHER);
        // And it worked once.
        let mut again = thief.clone();
        again.cookies.remove("ultra_session");
        assert_eq!(again.get(&back).await.status, StatusCode::BAD_REQUEST);
        assert!(!is_in(&again));
    }
}

#[tokio::test]
async fn a_sign_in_takes_a_quarter_of_an_hour_at_most() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        site.organization("acme").await;
        let mut browser = site.browser();
        let url = begin(&mut browser).await;
        site.later(15 * 60_000 + 1);

        let page = browser.get(&provider.sign_in(&url, &Person::new("ada-1", OWNER))).await;

        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(page.text.contains("begin again"), "{}", page.text);
    }
}

#[tokio::test]
async fn two_windows_of_one_browser_do_not_disturb_each_other() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        site.organization("acme").await;
        let mut browser = site.browser();
        let (first, second) = (begin(&mut browser).await, begin(&mut browser).await);

        for url in [first, second] {
            let back = provider.sign_in(&url, &Person::new("ada-1", OWNER));
            assert_eq!(browser.get(&back).await.status, StatusCode::SEE_OTHER);
        }
    }
}

/// Addresses are given to new people; accounts are not.
#[tokio::test]
async fn an_account_belongs_to_its_subject() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        let home = site.organization("acme").await;
        let ada =
            site.member(ADA, &home, Scope::Organization(home.organization), Role::Viewer).await;
        sign_in(&mut site.browser(), &provider, &Person::new("ada-1", ADA)).await;

        let mut other = site.browser();
        let page = sign_in(&mut other, &provider, &Person::new("ada-2", ADA)).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(!is_in(&other));

        // Who has another address now is still who they were, and not who had that address.
        let mut renamed = site.browser();
        sign_in(&mut renamed, &provider, &Person::new("ada-1", OWNER)).await;
        assert!(renamed.get("/account").await.text.contains(ADA));
        let linked: crate::id::UserId = site.value("SELECT user_id FROM identities", &[]).await;
        assert_eq!(linked, ada.id);
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_needed() {
    let (provider, sites) = sites(Signer::ec("old")).await;
    for site in sites {
        provider.rotate(Signer::ec("old"));
        site.organization("acme").await;
        let person = Person::new("ada-1", OWNER);
        assert_eq!(
            sign_in(&mut site.browser(), &provider, &person).await.status,
            StatusCode::SEE_OTHER
        );
        let before = provider.asked_for_keys();
        sign_in(&mut site.browser(), &provider, &person).await;
        assert_eq!(provider.asked_for_keys(), before);

        provider.rotate(Signer::ec("new"));
        let early = sign_in(&mut site.browser(), &provider, &person).await;
        site.people.oidc.as_ref().unwrap().forget_tries().await;
        let late = sign_in(&mut site.browser(), &provider, &person).await;

        assert_eq!(early.status, StatusCode::BAD_REQUEST);
        assert_eq!(late.status, StatusCode::SEE_OTHER, "{}", late.text);
        assert_eq!(provider.asked_for_keys(), before + 1);
    }
}

#[tokio::test]
async fn an_address_that_only_the_provider_has_is_asked_for() {
    let (provider, sites) = sites(Signer::Rsa).await;
    for site in sites {
        site.organization("acme").await;
        let person = Person::new("ada-1", OWNER)
            .but("email", json!(null))
            .but("email_verified", json!(null));
        provider.set_info(json!({ "sub": "ada-1", "email": OWNER, "email_verified": true }));
        let mut browser = site.browser();
        sign_in(&mut browser, &provider, &person).await;
        assert!(is_in(&browser));

        provider.set_info(json!({ "sub": "ada-2", "email": OWNER, "email_verified": true }));
        let mut browser = site.browser();
        sign_in(&mut browser, &provider, &person).await;
        assert!(!is_in(&browser));
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_and_codes_work() {
    let (provider, sites) = sites(Signer::Rsa).await;
    provider.set_away(true);
    for site in sites {
        site.organization("acme").await;

        let page = site.browser().get("/sign-in/oidc").await;

        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        let mut browser = site.browser();
        browser.post("/sign-in", &[("email", OWNER)]).await;
        let code = site.code(OWNER).await;
        browser.post("/sign-in/code", &[("code", &code)]).await;
        assert!(is_in(&browser));
    }
}

#[tokio::test]
async fn without_a_provider_there_is_no_way_to_one() {
    for site in Site::each().await {
        let mut browser = site.browser();

        assert!(!browser.get("/sign-in").await.text.contains("/sign-in/oidc"));
        assert_eq!(browser.get("/sign-in/oidc").await.status, StatusCode::NOT_FOUND);
        assert_eq!(
            browser.get("/sign-in/oidc/callback?state=x&code=y").await.status,
            StatusCode::NOT_FOUND
        );
    }
}

#[tokio::test]
async fn what_cannot_be_a_provider_is_said_at_the_start() {
    let test = crate::db::testing::TestDatabase::sqlite().await;
    let good = OidcOptions {
        issuer: "https://accounts.acme.test/tenant".to_owned(),
        client_id: "hub".to_owned(),
        client_secret: None,
        join_domain: None,
    };
    let refused = |oidc: OidcOptions| {
        let options = Options { oidc: Some(oidc), ..Options::default() };
        let people =
            People::new(test.database.clone(), options, "https://hub.test".parse().unwrap());
        matches!(people, Err(OptionsError::Provider(_)))
    };

    assert!(!refused(good.clone()));
    for bad in [
        OidcOptions { issuer: "accounts.acme.test".to_owned(), ..good.clone() },
        OidcOptions { issuer: "http://accounts.acme.test".to_owned(), ..good.clone() },
        OidcOptions { issuer: "https://accounts.acme.test/?a=b".to_owned(), ..good.clone() },
        OidcOptions { client_id: String::new(), ..good.clone() },
        OidcOptions { join_domain: Some("@".to_owned()), ..good.clone() },
        OidcOptions { join_domain: Some("a b".to_owned()), ..good },
    ] {
        assert!(refused(bad.clone()), "{bad:?}");
    }
}
