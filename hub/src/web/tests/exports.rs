//! Lists as files.

use http::StatusCode;
use serde_json::Value;
use ultra_store::{FieldValue, Status, Trace};

use super::super::testing::{Plan, Site, WORKSPACE, event, trace};

#[tokio::test]
async fn a_list_is_to_be_had_as_csv() {
    let mut failed = trace(1, "say \"hi\", twice");
    failed.status = Status::Error;
    failed.error = Some("two\nlines".to_owned());
    let site = Site::with(vec![trace(2, "read"), failed], Vec::new());

    let answer = site.page("export/traces.csv?status=error").await;

    let disposition = answer.headers["content-disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment; filename=\"traces-20"), "{disposition}");
    assert!(disposition.ends_with(".csv\""), "{disposition}");
    let body = answer.ok();
    let (head, row) = body.split_once("\r\n").unwrap();
    assert!(head.starts_with("\"time\",\"operation\",\"server\",\"name\",\"status\""), "{head}");
    assert!(row.contains("\"say \"\"hi\"\", twice\",\"error\",\"12.000\",\"two\nlines\""), "{row}");
    assert_eq!(body.matches("\r\n").count(), 2);
}

#[tokio::test]
async fn no_cell_is_a_formula() {
    let names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =cmd|' /C calc'!A0", "＝1", "fine-1"];
    let traces = names.iter().zip(1..).map(|(name, number)| trace(number, name)).collect();
    let site = Site::with(traces, Vec::new());

    let body = site.page("export/traces.csv").await.ok();

    for name in names {
        let cell = if name == "fine-1" { name.to_owned() } else { format!("'{name}") };
        assert!(body.contains(&format!(",\"{cell}\",")), "{name}: {body}");
    }
}

#[tokio::test]
async fn a_file_has_all_pages_of_the_list() {
    let traces = (0..2_500)
        .map(|number| Trace { response: None, ..trace(number, &format!("tool-{number}")) });
    let site = Site::with(traces.collect(), (0..5).map(|number| event(number, "read")).collect());

    let lines = site.page("export/traces.ndjson").await.ok();
    let array = site.page("export/traces.json?name=tool-7").await.ok();
    let none = site.page("export/traces.json?name=nothing").await.ok();
    let events = site.page("export/audit.ndjson").await.ok();

    let names: std::collections::BTreeSet<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].to_string())
        .collect();
    assert_eq!((lines.lines().count(), names.len()), (2_500, 2_500));
    let array: Vec<Value> = serde_json::from_str(&array).unwrap();
    assert_eq!(array[0]["name"], "tool-7");
    assert_eq!(array[0]["gateway"]["owner"], "Ann");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&none).unwrap(), Vec::<Value>::new());
    assert_eq!(events.lines().count(), 5);
}

#[tokio::test]
async fn files_say_which_trace_it_is_and_have_details_as_an_object() {
    let mut denied = event(1, "read");
    denied.details = vec![("rule".to_owned(), FieldValue::Text("no writes".to_owned()))];
    let site = Site::with(vec![trace(1, "read")], vec![denied]);

    let calls: Value = serde_json::from_str(&site.page("export/traces.json").await.ok()).unwrap();
    let events: Value = serde_json::from_str(&site.page("export/audit.json").await.ok()).unwrap();
    let table = site.page("export/traces.csv").await.ok();

    let id = "00000000000000000000000000002001";
    assert_eq!(calls[0]["trace_id"], id);
    assert!(table.contains(&format!("\"session-1\",\"{id}\"")), "{table}");
    assert_eq!(events[0]["details"]["rule"], "no writes");
    assert_eq!(events[0]["outcome"], "success");
}

#[tokio::test]
async fn servers_are_to_be_had_as_files() {
    let traces = vec![trace(1, "read"), Trace { upstream: Some("git".into()), ..trace(2, "log") }];
    let site = Site::with(traces, Vec::new());

    let csv = site.page("export/servers.csv?search=GI").await.ok();
    let json = site.page("export/servers.json?sort=name&order=desc").await.ok();

    assert!(csv.contains("\r\n\"git\",\"stdio\",\"1\",\"0\",\"1\",\"12.000\""), "{csv}");
    assert!(!csv.contains("files"), "{csv}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["upstream"], &json[1]["upstream"]), (&"git".into(), &"files".into()));
}

#[tokio::test]
async fn whoever_does_not_read_a_file_keeps_nobody_else_waiting() {
    let mut site = Site::with(vec![trace(1, "read")], Vec::new());
    let file = format!("/w/{WORKSPACE}/export/traces.csv");

    let mut unread = Vec::new();
    for _ in 0..2 {
        unread.push(site.unread(&file, &[]).await);
    }
    let third = site.page("export/traces.csv").await;
    unread.clear();
    let after = site.page("export/traces.csv").await;

    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(third.headers["retry-after"], "30");
    assert_eq!(after.status, StatusCode::OK);
    let mut plan = Plan::default();
    plan.viewing.account = None;
    site.instead(plan);
    for _ in 0..3 {
        unread.push(site.unread(&file, &[]).await);
        assert_eq!(unread.last().unwrap().status(), StatusCode::OK, "one's own machine");
    }
}

#[tokio::test]
async fn a_trace_is_to_be_had_whole() {
    let site = Site::with(vec![trace(1, "read")], Vec::new());

    let answer = site.page(&format!("traces/{}/json", trace(1, "").id)).await;

    assert_eq!(answer.headers["content-type"], "application/json");
    let file: Value = serde_json::from_str(&answer.ok()).unwrap();
    assert_eq!(file["request"]["arguments"]["path"], "a.txt");
    assert_eq!(file["name"], "read");
    assert_eq!(file["metadata"]["transport"], "stdio");
}
