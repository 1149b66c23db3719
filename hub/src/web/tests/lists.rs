//! Lists of records: filters, places, what is opened beside them.

use http::StatusCode;
use ultra_store::{AuditOutcome, Severity, Status, Trace};

use super::super::testing::{Plan, Site, WORKSPACE, event, trace};
use super::dom::{elements, link, names, texts};
use crate::access::Role;

fn mixed() -> Vec<Trace> {
    vec![
        trace(1, "read"),
        Trace { upstream: Some("git".into()), ..trace(2, "log") },
        Trace { status: Status::Error, error: Some("gone".to_owned()), ..trace(3, "write") },
        Trace { operation: "resource_read", ..trace(4, "file:///a") },
        Trace { principal: "cursor/2".into(), session_id: "session-2".into(), ..trace(5, "find") },
        trace(100_000, "old"),
    ]
}

#[tokio::test]
async fn every_filter_of_traces_narrows_the_list() {
    let site = Site::with(mixed(), Vec::new());

    let cases: [(&str, &[&str]); 12] = [
        ("", &["read", "log", "write", "file:///a", "find", "old"]),
        ("upstream=git", &["log"]),
        ("status=error", &["write"]),
        ("operation=resource_read", &["file:///a"]),
        ("client=cursor%2F2", &["find"]),
        ("name=read", &["read"]),
        ("session=session-2", &["find"]),
        ("range=24h&upstream=files", &["read", "write", "file:///a", "find"]),
        ("until=2020-01-01T00:00", &[]),
        ("trace=00000000000000000000000000002002", &["log"]),
        ("user=usr_0000000000001", &[]),
        ("status=&name=read&range=", &["read"]),
    ];
    for (query, expected) in cases {
        let html = site.page(&format!("traces?{query}")).await.ok();

        assert_eq!(names(&html), expected, "{query}");
    }
}

#[tokio::test]
async fn every_filter_of_audit_events_narrows_the_list() {
    let mut denied = event(2, "write");
    denied.event_type = "policy_deny";
    denied.outcome = AuditOutcome::Deny;
    denied.severity = Severity::Critical;
    denied.reason = Some("not here".to_owned());
    let mut other = event(3, "find");
    other.upstream = Some("git".into());
    other.principal = "cursor/2".into();
    let site = Site::with(Vec::new(), vec![event(1, "read"), denied, other]);

    let cases: [(&str, &[&str]); 8] = [
        ("", &["read", "write", "find"]),
        ("type=policy_deny", &["write"]),
        ("outcome=deny", &["write"]),
        ("severity=critical", &["write"]),
        ("upstream=git", &["find"]),
        ("client=cursor%2F2", &["find"]),
        ("name=read", &["read"]),
        ("since=2099-01-01T00:00", &[]),
    ];
    for (query, expected) in cases {
        let html = site.page(&format!("audit?{query}")).await.ok();

        assert_eq!(names(&html), expected, "{query}");
    }
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_said_to() {
    let site = Site::with(mixed(), Vec::new());

    let cases = [
        ("traces?status=maybe", "`status` is `success` or `error`"),
        ("traces?range=1y", "`range` is one of `1h`, `24h`, `7d`, `30d`"),
        ("traces?since=yesterday", "such as `2026-11-20T10:00`"),
        ("traces?after=x", "begin at its top"),
        ("audit?outcome=x", "`success`, `failure`, `error`, `deny`, `canceled`"),
        ("gateways?state=x", "`online`, `idle`, `offline`, `pending`"),
        ("gateways?sort=x", "`sort` is one of"),
        ("servers?range=x", "`range` is one of"),
    ];
    for (path, expected) in cases {
        let answer = site.page(path).await;

        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        let body = answer.body.replace("&#39;", "'");
        assert!(body.contains(expected), "{path}: {body}");
        assert!(body.contains("<a href=\"?\">"), "{path}");
    }
}

#[tokio::test]
async fn chips_say_what_is_set_and_take_it_away() {
    let site = Site::with(mixed(), Vec::new());

    let html = site.page("traces?status=error&upstream=files&after_all=1").await.ok();

    assert_eq!(texts(&html, "chip"), ["Serverfiles", "StatusError"]);
    let chips = elements(&html).into_iter().filter(|of| {
        of.get("aria-label").is_some_and(|label| label.starts_with("Remove the filter"))
    });
    let hrefs: Vec<_> = chips.map(|of| of.get("href").unwrap().to_owned()).collect();
    assert!(hrefs[0].ends_with("/traces?status=error&after_all=1"), "{hrefs:?}");
    assert!(hrefs[1].ends_with("/traces?upstream=files&after_all=1"), "{hrefs:?}");
    let chosen: Vec<_> =
        elements(&html).into_iter().filter(|of| of.get("selected").is_some()).collect();
    assert_eq!(chosen.len(), 2);
}

#[tokio::test]
async fn clearing_takes_away_filters_that_links_set_and_leaves_the_order() {
    let site = Plan::default().build();

    let traces = site.page("traces?session=session-1&trace=0123&status=error").await.ok();
    let gateways = site.page("gateways?sort=version&order=desc&state=idle&type=x").await.ok();

    assert!(link(&traces, "Clear all").unwrap().ends_with("/traces"));
    assert!(link(&gateways, "Clear all").unwrap().ends_with("/gateways?sort=version&order=desc"));
    assert!(traces.contains("<input type=\"hidden\" name=\"session\" value=\"session-1\">"));
}

#[tokio::test]
async fn what_was_typed_around_a_search_is_taken_away_with_it() {
    let site = Plan::default().build();

    let html = site.page("gateways?search=%20lap%20&os=linux").await.ok();

    let mut chips = elements(&html).into_iter().filter(|of| {
        of.get("aria-label").is_some_and(|label| label == "Remove the filter Search: lap")
    });
    assert!(chips.next().unwrap().get("href").unwrap().ends_with("/gateways?os=linux"));
}

#[tokio::test]
async fn a_time_with_a_zone_stays_in_the_form() {
    let site = Plan::default().build();

    let html = site.page("traces?since=2026-11-20T10:30:00%2B02:00").await.ok();

    let fields: Vec<_> = elements(&html)
        .into_iter()
        .filter(|of| of.get("name") == Some("since"))
        .map(|of| of.get("value").unwrap().to_owned())
        .collect();
    assert_eq!(fields, ["2026-11-20T08:30"]);
}

#[tokio::test]
async fn a_name_that_no_address_can_have_is_shown_without_a_link() {
    let long = "x".repeat(3_000);
    let traces =
        vec![Trace { upstream: Some((&*long).into()), ..trace(1, &long) }, trace(2, "read")];
    let site = Site::with(traces, Vec::new());

    for page in ["servers", "traces", "server?name=files"] {
        let html = site.page(page).await.ok();

        for of in elements(&html) {
            let bytes = of.get("href").map_or(0, str::len);
            assert!(bytes < 2_500, "{page}: {bytes}");
        }
    }
    let opened = site.page(&format!("traces?panel={}", trace(1, "").id)).await.ok();
    assert!(!opened.contains("server?name=x"), "{opened}");
}

#[tokio::test]
async fn leafing_meets_every_row_once() {
    let traces = (0..120).map(|number| trace(500 - number, &format!("tool-{number}"))).collect();
    let site = Site::with(traces, Vec::new());

    let mut met = Vec::new();
    let mut path = Some(format!("/w/{WORKSPACE}/traces?status=success"));
    let mut pages = 0;
    while let Some(at) = path {
        let html = site.get(&at, &[]).await.ok();
        met.extend(names(&html));
        path = link(&html, "Older");
        pages += 1;
        // What comes meanwhile moves nothing.
        site.record(vec![trace(0, &format!("new-{pages}"))], Vec::new());
    }

    let expected: Vec<_> = (0..120).rev().map(|number| format!("tool-{number}")).collect();
    assert_eq!(met, expected);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn a_trace_is_opened_beside_the_list_and_on_its_own_page() {
    let site = Site::with(mixed(), Vec::new());
    let id = trace(3, "").id;

    let beside = site.page(&format!("traces?status=error&panel={id}")).await.ok();
    let alone = site.page(&format!("traces/{id}")).await.ok();

    for html in [&beside, &alone] {
        assert!(html.contains("gone"), "the error is there");
        assert!(html.contains("<span class=\"j-key\">&#34;path&#34;</span>"), "{html}");
        assert!(html.contains("00000000000000000000000000002003"), "the trace id is there");
        let session =
            format!("/w/{WORKSPACE}/session?gateway=gw_0000000000001&#38;session=session-1");
        assert!(html.contains(&session), "{html}");
    }
    assert_eq!(texts(&beside, "opened").len(), 1);
    let closes = elements(&beside).into_iter().find(|of| of.get("data-close").is_some()).unwrap();
    assert!(closes.get("href").unwrap().ends_with("/traces?status=error"));
}

#[tokio::test]
async fn the_panel_alone_comes_without_the_list() {
    let site = Site::with(mixed(), Vec::new());
    let path = format!("/w/{WORKSPACE}/traces?panel={}", trace(3, "").id);

    let html = site.get(&path, &[("ultra-region", "panel")]).await.ok();

    assert!(names(&html).is_empty());
    assert_eq!(texts(&html, "panel").len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let site = Site::with(mixed(), vec![event(1, "read")]);

    let id = "00000000-0000-0000-0000-00000000ffff";
    for path in [
        format!("traces/{id}"),
        format!("traces?panel={id}"),
        "traces?panel=x".to_owned(),
        format!("traces/{id}/json"),
        format!("audit/{id}"),
        "gateways?panel=gw_0000000000009".to_owned(),
        "nothing/here".to_owned(),
        "session?gateway=gw_0000000000001&session=none".to_owned(),
        "session?gateway=gw_0000000000009&session=session-1".to_owned(),
        "export/traces.xml".to_owned(),
        "export/secrets.csv".to_owned(),
    ] {
        let answer = site.page(&path).await;

        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let elsewhere = site.get("/w/ws_0000000000009/traces", &[]).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    let page = site.get("/nothing", &[]).await;
    assert!(page.body.contains("There is no such page.</p>"), "{}", page.body);
    let route = site.get("/api/v2/traces", &[]).await;
    assert_eq!(route.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_workspace_shows_its_own_records_only() {
    let site = Site::with(mixed(), vec![event(1, "read")]);

    for path in ["traces", "audit", "servers", "gateways"] {
        let html = site.get(&format!("/w/ws_0000000000002/{path}"), &[]).await.ok();

        assert!(names(&html).is_empty(), "{path}");
    }
    let trace = format!("/w/ws_0000000000002/traces/{}", trace(1, "").id);
    assert_eq!(site.get(&trace, &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn whoever_only_links_sees_nothing() {
    let mut plan = Plan::default();
    plan.viewing.entries[0].role = Role::Beacon;
    let site = plan.build();

    for path in ["traces", "audit", "servers", "gateways", "live", "export/traces.csv"] {
        assert_eq!(site.page(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_session_is_drawn_with_calls_beside_each_other() {
    let second = 1_000_000_000;
    let begun = trace(60, "").started_unix_ns;
    let call = |number: u64, start: i64, duration: u64| Trace {
        started_unix_ns: begun + start,
        duration_ns: duration,
        ..trace(number, &format!("tool-{number}"))
    };
    // Stored in the order in which they end.
    let traces = vec![call(2, second, second as u64), call(1, 0, 4 * second as u64)];
    let site = Site::with(traces, Vec::new());

    let html = site.page("session?gateway=gw_0000000000001&session=session-1").await.ok();

    assert_eq!(names(&html), ["tool-1", "tool-2"]);
    let bars: Vec<_> = elements(&html)
        .into_iter()
        .filter(|of| of.name == "rect" && of.get("height") == Some("12"))
        .collect();
    let place = |bar: &super::dom::Element| {
        (bar.get("x").unwrap().to_owned(), bar.get("width").unwrap().to_owned())
    };
    let drawn: Vec<_> = bars.iter().map(place).collect();
    assert_eq!(drawn[0], ("0.00%".to_owned(), "100.00%".to_owned()));
    assert_eq!(drawn[1], ("25.00%".to_owned(), "25.00%".to_owned()));
    assert!(!html.contains("style="), "the policy forbids it");
}

#[tokio::test]
async fn a_server_is_shown_by_tools_gateways_and_requests() {
    let site = Site::with(mixed(), Vec::new());

    let list = site.page("servers").await.ok();
    let tools = site.page("server?name=files").await.ok();
    let gateways = site.page("server?name=files&tab=gateways").await.ok();
    let requests = site.page("server?name=files&tab=requests").await.ok();

    assert_eq!(names(&list), ["files", "git"]);
    assert_eq!(names(&tools), ["file:///a", "find", "old", "read", "write"]);
    assert!(tools.contains("80 %"), "{tools}");
    assert_eq!(names(&gateways), ["laptop"]);
    assert_eq!(names(&requests), ["read", "write", "file:///a", "find", "old"]);
}

#[tokio::test]
async fn servers_are_searched_and_ordered() {
    let site = Site::with(mixed(), Vec::new());

    let cases: [(&str, &[&str]); 6] = [
        ("", &["files", "git"]),
        ("search=GIT", &["git"]),
        ("search=nothing", &[]),
        ("sort=requests", &["git", "files"]),
        ("sort=success&order=desc", &["git", "files"]),
        ("sort=name&order=desc", &["git", "files"]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&site.page(&format!("servers?{query}")).await.ok()), expected, "{query}");
    }
}

#[tokio::test]
async fn a_server_without_calls_in_a_time_can_be_looked_at_in_another() {
    let site = Site::with(vec![trace(100_000, "old")], Vec::new());

    let day = site.page("server?name=files&range=24h").await.ok();

    assert!(day.contains("It was not called in this time"), "{day}");
    let week = site.get(&link(&day, "7 days").unwrap(), &[]).await.ok();
    assert_eq!(names(&week), ["old"]);
}

#[tokio::test]
async fn an_empty_list_says_what_to_run() {
    let site = Plan::default().build();

    for (path, expected) in [
        ("traces", "ultra start"),
        ("audit", "ultra start"),
        ("gateways", "ultra link"),
        ("servers", "ultra servers"),
    ] {
        assert!(site.page(path).await.ok().contains(expected), "{path}");
    }
    let filtered = site.page("traces?status=error").await.ok();
    assert!(filtered.contains("Remove all filters"), "{filtered}");
}

#[tokio::test]
async fn pages_allow_nothing_from_elsewhere() {
    let site = Plan::default().build();

    let page = site.page("traces").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
    for part in ["base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(page.headers["cache-control"], "no-store");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    for of in elements(&page.body) {
        for name in ["src", "href", "action"] {
            let local = of.get(name).is_none_or(|to| to.starts_with(['/', '#', '?']));
            assert!(local, "{of:?}");
        }
        assert!(!of.attributes.iter().any(|(name, _)| name.starts_with("on") || name == "style"));
    }
    let style = elements(&page.body).into_iter().find(|of| of.get("rel") == Some("stylesheet"));
    let style = site.get(style.unwrap().get("href").unwrap(), &[]).await;
    assert_eq!(style.headers["cache-control"], "public, max-age=31536000, immutable");
}

#[tokio::test]
async fn the_first_page_is_that_of_the_first_workspace() {
    let site = Plan::default().build();

    let answer = site.get("/", &[]).await;

    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.location(), format!("/w/{WORKSPACE}/gateways"));
}
