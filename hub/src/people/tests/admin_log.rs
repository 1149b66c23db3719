//! The Admin Log.

use http::StatusCode;

use crate::access::Role;
use crate::people::Act;
use crate::people::authority::Scope;
use crate::people::testing::{OWNER, Site};

#[tokio::test]
async fn what_a_gateway_did_is_noted() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let by = site.by(OWNER).await;
        let act = Act::new("gateway.linked", "build-7").of("gw_1").with("workspace", "ws_1");

        site.people.note(home.organization, Some(&by.account), act, [192, 0, 2, 7].into()).await;

        let page = site.signed_in(OWNER).await.get(&home.page("settings/log?group=gateway")).await;
        for text in
            ["gateway.linked", "build-7", "gw_1", "Olga Owner", OWNER, "192.0.2.7", "ws_1", "UTC"]
        {
            assert!(page.text.contains(text), "{text}: {}", page.text);
        }
        assert!(!page.text.contains("auth.success"), "{}", page.text);
    }
}

#[tokio::test]
async fn every_entry_is_on_one_page() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        for number in 0..120 {
            let act = Act::new("gateway.linked", &format!("<gateway {number:03}>"));
            site.people.note(home.organization, None, act, site.address()).await;
        }
        let mut browser = site.signed_in(OWNER).await;

        let mut seen = Vec::new();
        let mut path = Some(home.page("settings/log?group=gateway"));
        let mut pages = 0;
        while let Some(here) = path.take() {
            let page = browser.get(&here).await;
            assert_eq!(page.status, StatusCode::OK);
            seen.extend(
                page.text
                    .split("gateway ")
                    .skip(1)
                    .filter_map(|rest| rest.get(..3)?.parse::<u32>().ok()),
            );
            pages += 1;
            let next = page.text.split("<a href=\"").find(|rest| rest.contains(">Older<"));
            path = next.map(|rest| rest.split('"').next().unwrap().replace("&#38;", "&"));
        }

        assert_eq!(pages, 3);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..120).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn filters_narrow() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let by = site.by(OWNER).await;
        let scope = Scope::Organization(home.organization);
        site.people
            .invite(&by, home.organization, "ada_x@acme.test", scope, Role::Viewer)
            .await
            .unwrap();
        site.people
            .create_key(&by, home.organization, home.workspace, "100% CI", None)
            .await
            .unwrap();
        let mut browser = site.signed_in(OWNER).await;
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();

        for (query, expected) in [
            ("", vec!["auth.success", "deploy_key.created", "member.invited"]),
            ("group=member", vec!["member.invited"]),
            ("group=role", vec![]),
            ("severity=warning", vec!["deploy_key.created"]),
            ("severity=info&group=auth", vec!["auth.success"]),
            ("search=ADA_X", vec!["member.invited"]),
            ("search=100%25", vec!["deploy_key.created"]),
            ("search=a%25a", vec![]),
            ("search=adaax", vec![]),
            ("search=olga", vec!["auth.success", "deploy_key.created", "member.invited"]),
            ("since=2999-01-01", vec![]),
            ("until=2000-01-01", vec![]),
            (&format!("since={today}&until={today}&group=member"), vec!["member.invited"]),
        ] {
            let page = browser.get(&home.page(&format!("settings/log?{query}"))).await;
            let rows = page.text.split("<td><code class=\"code\">").skip(1);
            let actions = rows
                .map(|row| row.split('<').next().unwrap())
                .filter(|text| text.contains('.') && !text.contains('{'));
            let mut actions: Vec<_> = actions.collect();
            actions.sort_unstable();
            assert_eq!(actions, expected, "{query}");
        }
        for bad in ["group=x", "severity=x", "since=yesterday", "after=x"] {
            let page = browser.get(&home.page(&format!("settings/log?{bad}"))).await;
            assert_eq!(page.status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}

#[tokio::test]
async fn each_organization_has_its_own() {
    for site in Site::each().await {
        let (home, other) = (site.organization("acme").await, site.organization("other").await);
        let act = Act::new("gateway.linked", "theirs");
        site.people.note(other.organization, None, act, site.address()).await;

        let page = site.signed_in(OWNER).await.get(&home.page("settings/log")).await;

        assert!(!page.text.contains("theirs"), "{}", page.text);
    }
}

/// A gateway's name is what its machine says.
#[tokio::test]
async fn names_from_elsewhere_are_shown_as_they_are() {
    for site in Site::each().await {
        let home = site.organization("acme").await;
        let act = Act::new("gateway.linked", "<b>\u{202e}gnp.exe\u{200b}")
            .with("x", "</code><img src=x>");
        site.people.note(home.organization, None, act, site.address()).await;

        let page = site.signed_in(OWNER).await.get(&home.page("settings/log")).await;

        assert!(page.text.contains("&#60;b&#62;‹U+202E›gnp.exe‹U+200B›"), "{}", page.text);
        assert!(!page.text.contains("<img"), "{}", page.text);
    }
}
