//! Lists as files.

use serde_json::Value;
use ultra_store::{Status, Trace};

use super::super::testing::{Site, event, trace};

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
async fn a_trace_is_to_be_had_whole() {
    let site = Site::with(vec![trace(1, "read")], Vec::new());

    let answer = site.page(&format!("traces/{}/json", trace(1, "").id)).await;

    assert_eq!(answer.headers["content-type"], "application/json");
    let file: Value = serde_json::from_str(&answer.ok()).unwrap();
    assert_eq!(file["request"]["arguments"]["path"], "a.txt");
    assert_eq!(file["name"], "read");
    assert_eq!(file["metadata"]["transport"], "stdio");
}
