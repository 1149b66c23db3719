//! The sign-in of the command line.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use url::Url;

use crate::access::{Account, Role};
use crate::error::ApiError;
use crate::people::authority::Scope;
use crate::people::testing::{Browser, OWNER, Page, Site, all_at_once};

const REDIRECT: &str = "http://127.0.0.1:19284/callback";
const VERIFIER: &str = "a-verifier-that-has-enough-characters-to-be-one";

fn request(redirect: &str) -> Vec<(&'static str, String)> {
    vec![
        ("response_type", "code".to_owned()),
        ("client_id", "ultra-cli".to_owned()),
        ("redirect_uri", redirect.to_owned()),
        ("state", "st&te=1".to_owned()),
        ("code_challenge", URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))),
        ("code_challenge_method", "S256".to_owned()),
    ]
}

fn address(fields: &[(&str, String)]) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    format!("/oauth/authorize?{query}")
}

async fn decide(browser: &mut Browser, redirect: &str, decision: &str) -> Page {
    let mut fields = request(redirect);
    fields.push(("decision", decision.to_owned()));
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    browser.submit("/oauth/authorize", &fields).await
}

fn answer(page: &Page, name: &str) -> Option<String> {
    let url: Url = page.location().parse().unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

async fn code(site: &Site) -> String {
    let mut browser = site.signed_in(OWNER).await;
    answer(&decide(&mut browser, REDIRECT, "allow").await, "code").unwrap()
}

async fn exchange(site: &Site, code: &str, verifier: &str) -> Page {
    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", "ultra-cli"),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", verifier),
    ];
    program(site).post("/oauth/token", &fields).await
}

async fn refresh(site: &Site, token: &str) -> Page {
    let fields =
        [("grant_type", "refresh_token"), ("client_id", "ultra-cli"), ("refresh_token", token)];
    program(site).post("/oauth/token", &fields).await
}

fn program(site: &Site) -> Browser {
    site.browser().saying("sec-fetch-site", "").saying("accept", "application/json")
}

async fn bearer(site: &Site, token: &str) -> Result<Account, ApiError> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    headers.insert(header::AUTHORIZATION, value);
    site.people.bearer(&headers).await
}

fn text(page: &Page, name: &str) -> String {
    page.json()[name].as_str().unwrap_or_else(|| panic!("{}", page.text)).to_owned()
}

/// What RFC 6749 has for what went wrong.
fn error(page: &Page) -> (StatusCode, String) {
    (page.status, text(page, "error"))
}

fn invalid_grant() -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, "invalid_grant".to_owned())
}

#[tokio::test]
async fn somebody_signs_in_and_allows_it() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.browser();
        let here = address(&request(REDIRECT));
        let away = browser.get(&here).await;
        let return_to = answer_of(&away, "return_to");
        assert_eq!(return_to, here);
        browser.post("/sign-in", &[("email", OWNER), ("return_to", &return_to)]).await;
        let fields = [("code", site.code(OWNER).await), ("return_to", return_to)];
        let fields = [("code", fields[0].1.as_str()), ("return_to", fields[1].1.as_str())];
        let back = browser.post("/sign-in/code", &fields).await;
        assert_eq!(back.location(), here);

        let page = browser.get(&here).await;
        for text in ["ultra-cli", "http://127.0.0.1:19284", OWNER, "ultra login"] {
            assert!(page.text.contains(text), "{text}: {}", page.text);
        }
        let policy = page.header("content-security-policy");
        assert!(policy.ends_with("form-action 'self' http://127.0.0.1:19284"), "{policy}");
        let allowed = decide(&mut browser, REDIRECT, "allow").await;

        assert!(
            allowed.location().starts_with(&format!("{REDIRECT}?code=")),
            "{}",
            allowed.location()
        );
        assert_eq!(answer(&allowed, "state").unwrap(), "st&te=1");
        assert_eq!(answer(&allowed, "iss").unwrap(), "http://127.0.0.1:8080");
        let issued = exchange(&site, &answer(&allowed, "code").unwrap(), VERIFIER).await;
        assert_eq!(issued.status, StatusCode::OK, "{}", issued.text);
        assert_eq!(issued.header("cache-control"), "no-store");
        assert_eq!(issued.json()["expires_in"], 900);
        let account = bearer(&site, &text(&issued, "access_token")).await.unwrap();
        assert_eq!(account.email, OWNER);
        assert!(text(&issued, "refresh_token").starts_with("uhr_"));
    }
}

fn answer_of(page: &Page, name: &str) -> String {
    let url: Url = format!("http://x{}", page.location()).parse().unwrap();
    url.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned()
}

#[tokio::test]
async fn what_is_wrong_is_said_to_the_person_or_the_client_but_to_nobody_else() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let but = |name: &str, value: &str| {
            let mut fields = request(REDIRECT);
            fields.retain(|(known, _)| *known != name);
            let name = request(REDIRECT).into_iter().find(|(known, _)| *known == name).unwrap().0;
            fields.push((name, value.to_owned()));
            address(&fields)
        };

        for path in [
            but("client_id", "evil"),
            but("redirect_uri", "http://evil.test:19284/"),
            but("redirect_uri", "http://localhost:19284/"),
            but("redirect_uri", "javascript:alert(1)"),
            format!("{}&redirect_uri=http://127.0.0.1:1/", address(&request(REDIRECT))),
        ] {
            let page = browser.get(&path).await;
            assert_eq!((page.status, page.location()), (StatusCode::BAD_REQUEST, ""), "{path}");
        }
        for (path, word) in [
            (but("response_type", "token"), "unsupported_response_type"),
            (but("code_challenge_method", "plain"), "invalid_request"),
            (but("code_challenge", ""), "invalid_request"),
        ] {
            let page = browser.get(&path).await;
            assert_eq!(answer(&page, "error").as_deref(), Some(word), "{path}");
            assert_eq!(answer(&page, "state").as_deref(), Some("st&te=1"));
        }
        let refused = decide(&mut browser, REDIRECT, "deny").await;
        assert_eq!(answer(&refused, "error").as_deref(), Some("access_denied"));
        let codes: i64 = site.value("SELECT count(*) FROM grants", &[]).await;
        assert_eq!(codes, 0);
        let six = browser.get(&address(&request("http://[::1]:4321/"))).await;
        assert!(six.header("content-security-policy").ends_with("form-action 'self' http:"));
    }
}

/// A page of somebody else cannot press the button.
#[tokio::test]
async fn nobody_else_allows_it() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut browser = site.signed_in(OWNER).await;
        let mut fields = request(REDIRECT);
        fields.push(("decision", "allow".to_owned()));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();

        let without = browser.post("/oauth/authorize", &fields).await;
        let elsewhere = browser
            .clone()
            .saying("sec-fetch-site", "cross-site")
            .submit("/oauth/authorize", &fields)
            .await;

        assert_eq!(
            (without.status, elsewhere.status),
            (StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN)
        );
    }
}

/// A Beacon has no pages, and links gateways.
#[tokio::test]
async fn a_beacon_signs_in_too() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        site.member(
            "beacon@acme.test",
            &home,
            Scope::Organization(home.organization),
            Role::Beacon,
        )
        .await;
        let mut browser = site.signed_in("beacon@acme.test").await;

        assert_eq!(browser.get("/account").await.status, StatusCode::FORBIDDEN);
        let allowed = decide(&mut browser, REDIRECT, "allow").await;

        let issued = exchange(&site, &answer(&allowed, "code").unwrap(), VERIFIER).await;
        assert_eq!(issued.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_code_is_for_whoever_has_its_verifier_and_for_a_minute() {
    for site in Site::each().await {
        site.organization("acme").await;
        let (wrong, late, good) = (code(&site).await, code(&site).await, code(&site).await);

        let other = "another-verifier-that-has-enough-characters-too";
        assert_eq!(error(&exchange(&site, &wrong, other).await), invalid_grant());
        // It is used up: whoever tried knew half of it.
        assert_eq!(error(&exchange(&site, &wrong, VERIFIER).await), invalid_grant());
        assert_eq!(exchange(&site, &good, VERIFIER).await.status, StatusCode::OK);
        site.later(60_001);
        assert_eq!(error(&exchange(&site, &late, VERIFIER).await), invalid_grant());
        assert_eq!(error(&exchange(&site, "x", VERIFIER).await), invalid_grant());
    }
}

#[tokio::test]
async fn a_code_that_comes_twice_ends_the_sign_in() {
    for site in Site::each().await {
        site.organization("acme").await;
        let code = code(&site).await;
        let issued = exchange(&site, &code, VERIFIER).await;

        assert_eq!(error(&exchange(&site, &code, VERIFIER).await), invalid_grant());

        let access = bearer(&site, &text(&issued, "access_token")).await;
        assert!(matches!(access, Err(ApiError::Revoked)), "{access:?}");
        assert_eq!(error(&refresh(&site, &text(&issued, "refresh_token")).await), invalid_grant());
        assert_eq!(site.log().await.last().unwrap().0, "auth.failure");
    }
}

#[tokio::test]
async fn an_access_token_holds_for_a_quarter_of_an_hour() {
    for site in Site::each().await {
        site.organization("acme").await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let token = text(&issued, "access_token");
        site.later(15 * 60_000 - 1_000);
        assert!(bearer(&site, &token).await.is_ok());

        site.later(2_000);

        assert!(matches!(bearer(&site, &token).await, Err(ApiError::Unauthorized)));
        let next = refresh(&site, &text(&issued, "refresh_token")).await;
        assert!(bearer(&site, &text(&next, "access_token")).await.is_ok());
        for none in ["", "x", "uha_0", &text(&next, "refresh_token")] {
            assert!(matches!(bearer(&site, none).await, Err(ApiError::Unauthorized)), "{none}");
        }
        assert!(matches!(site.people.bearer(&HeaderMap::new()).await, Err(ApiError::Unauthorized)));
    }
}

#[tokio::test]
async fn a_copied_refresh_token_ends_the_sign_in_for_both() {
    for site in Site::each().await {
        site.organization("acme").await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let old = text(&issued, "refresh_token");
        let next = refresh(&site, &old).await;
        assert!(bearer(&site, &text(&next, "access_token")).await.is_ok());
        // Access tokens are forgotten when they end, and that one was shown all the same.
        site.later(3_600_000);
        site.people.sweep_once().await.unwrap();

        assert_eq!(error(&refresh(&site, &old).await), invalid_grant());

        assert_eq!(error(&refresh(&site, &text(&next, "refresh_token")).await), invalid_grant());
    }
}

#[tokio::test]
async fn an_access_token_of_a_sign_in_that_ended_is_revoked() {
    for site in Site::each().await {
        site.organization("acme").await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let old = text(&issued, "refresh_token");
        let next = refresh(&site, &old).await;
        let last = refresh(&site, &text(&next, "refresh_token")).await;

        assert_eq!(error(&refresh(&site, &old).await), invalid_grant());

        for issued in [&next, &last] {
            let access = bearer(&site, &text(issued, "access_token")).await;
            assert!(matches!(access, Err(ApiError::Revoked)), "{access:?}");
        }
    }
}

#[tokio::test]
async fn a_refresh_whose_answer_was_lost_is_made_again() {
    for site in Site::each().await {
        site.organization("acme").await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let old = text(&issued, "refresh_token");
        let lost = [refresh(&site, &old).await, refresh(&site, &old).await];
        site.later(86_400_000);

        let next = refresh(&site, &old).await;

        assert!(bearer(&site, &text(&next, "access_token")).await.is_ok());
        for lost in &lost {
            let access = bearer(&site, &text(lost, "access_token")).await;
            assert!(access.is_err(), "{access:?}");
        }
        let last = refresh(&site, &text(&next, "refresh_token")).await;
        assert_eq!(last.status, StatusCode::OK);
        assert!(bearer(&site, &text(&last, "access_token")).await.is_ok());

        // Somebody has one of those all the same: then it was not the answer that was lost.
        assert_eq!(error(&refresh(&site, &text(&lost[1], "refresh_token")).await), invalid_grant());

        let access = bearer(&site, &text(&last, "access_token")).await;
        assert!(matches!(access, Err(ApiError::Revoked)), "{access:?}");
    }
}

#[tokio::test]
async fn a_refresh_token_holds_for_sixty_days_from_its_last_use() {
    for site in Site::each().await {
        site.organization("acme").await;
        let mut token = text(&exchange(&site, &code(&site).await, VERIFIER).await, "refresh_token");
        for _ in 0..3 {
            site.later(59 * 86_400_000);
            site.people.sweep_once().await.unwrap();
            token = text(&refresh(&site, &token).await, "refresh_token");
        }

        site.later(60 * 86_400_000 + 1);

        assert_eq!(error(&refresh(&site, &token).await), invalid_grant());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_at_once_one_gets_tokens_that_hold() {
    for site in Site::each().await {
        site.organization("acme").await;
        let code = code(&site).await;
        let address = site.address();

        let outcomes = all_at_once(100, || {
            let (people, code) = (Arc::clone(&site.people), code.clone());
            async move { people.exchange(&code, REDIRECT, VERIFIER, address).await.ok() }
        })
        .await;

        let won: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(won.len(), 1);

        // That was as good as stolen, so a new one.
        let token =
            text(&exchange(&site, &self::code(&site).await, VERIFIER).await, "refresh_token");
        let outcomes = all_at_once(100, || {
            let (people, token) = (Arc::clone(&site.people), token.clone());
            async move { people.refresh(&token, address).await.ok() }
        })
        .await;

        // Each took the answer of the one before for lost; so one of them is worth something.
        let mut won = 0;
        for issued in outcomes.into_iter().flatten() {
            won += usize::from(bearer(&site, &issued.access.reveal()).await.is_ok());
        }
        assert_eq!(won, 1);
    }
}

#[tokio::test]
async fn logging_out_ends_the_whole_sign_in() {
    for site in Site::each().await {
        site.organization("acme").await;
        for which in ["refresh_token", "access_token"] {
            let issued = exchange(&site, &code(&site).await, VERIFIER).await;
            let token = text(&issued, which);

            let fields = [("token", token.as_str()), ("client_id", "ultra-cli")];
            let page = program(&site).post("/oauth/revoke", &fields).await;

            assert_eq!(page.status, StatusCode::OK);
            let access = bearer(&site, &text(&issued, "access_token")).await;
            assert!(matches!(access, Err(ApiError::Revoked)), "{access:?}");
            assert_eq!(
                error(&refresh(&site, &text(&issued, "refresh_token")).await),
                invalid_grant()
            );
        }
        let unknown = [("token", "uhr_0"), ("client_id", "ultra-cli")];
        assert_eq!(program(&site).post("/oauth/revoke", &unknown).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn ones_own_sign_ins_are_listed_and_ended() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        site.member("ada@acme.test", &home, Scope::Organization(home.organization), Role::Viewer)
            .await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let (mut browser, mut other) =
            (site.signed_in(OWNER).await, site.signed_in("ada@acme.test").await);
        let page = browser.get("/account").await;
        let path = format!(
            "/account/command-line/{}",
            page.between("action=\"/account/command-line/", "\"")
        );

        other.submit(&path, &[]).await;
        assert!(bearer(&site, &text(&issued, "access_token")).await.is_ok());
        browser.submit(&path, &[]).await;

        assert!(matches!(
            bearer(&site, &text(&issued, "access_token")).await,
            Err(ApiError::Revoked)
        ));
        assert!(browser.get("/account").await.text.contains("Nobody is signed in"));
    }
}

#[tokio::test]
async fn clients_are_told_what_is_wrong() {
    for site in Site::each().await {
        let mut program = program(&site);
        let metadata = program.get("/.well-known/oauth-authorization-server").await.json();
        assert_eq!(metadata["issuer"], "http://127.0.0.1:8080");
        assert_eq!(metadata["token_endpoint"], "http://127.0.0.1:8080/oauth/token");

        for (fields, expected) in [
            (vec![], (400, "invalid_request")),
            (vec![("grant_type", "password")], (400, "unsupported_grant_type")),
            (vec![("grant_type", "refresh_token")], (400, "invalid_request")),
            (vec![("grant_type", "refresh_token"), ("client_id", "evil")], (401, "invalid_client")),
            (
                vec![("grant_type", "refresh_token"), ("client_id", "ultra-cli")],
                (400, "invalid_request"),
            ),
            (vec![("grant_type", "x"), ("grant_type", "x")], (400, "invalid_request")),
        ] {
            let page = program.post("/oauth/token", &fields).await;
            let (status, word) = error(&page);
            assert_eq!((status.as_u16(), word.as_str()), expected, "{fields:?}");
        }
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(program.post("/oauth/token", &[]).await);
        }
        let last = statuses.last().unwrap();
        assert_eq!(
            error(last),
            (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable".to_owned())
        );
        assert!(!last.header("retry-after").is_empty());
    }
}

#[tokio::test]
async fn somebody_disabled_has_no_tokens() {
    for site in Site::each().await {
        site.organization("acme").await;
        let issued = exchange(&site, &code(&site).await, VERIFIER).await;
        let unused = code(&site).await;
        site.database.execute("UPDATE users SET disabled_ms = 1", &[]).await.unwrap();

        let access = bearer(&site, &text(&issued, "access_token")).await;
        assert!(matches!(access, Err(ApiError::Revoked)), "{access:?}");
        assert_eq!(error(&refresh(&site, &text(&issued, "refresh_token")).await), invalid_grant());
        assert_eq!(error(&exchange(&site, &unused, VERIFIER).await), invalid_grant());
    }
}
