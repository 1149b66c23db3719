//! One real gateway that comes back after a day without the Hub, and goes on working.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use ultra_store::{Record, SqliteOptions, SqliteStore, Status, Store, Trace};
use ultra_tests::hub::{Hub, Owner};
use ultra_tests::{Fake, Ultra};
use uuid::Uuid;

use crate::Times;

/// Calls that are made meanwhile.
const CALL_PERIOD: Duration = Duration::from_millis(500);

/// Calls before the Hub was away, to compare with.
const CALLS_BEFORE: usize = 60;

/// Nobody waits for longer.
const CATCH_UP_MAX: Duration = Duration::from_secs(3600);

/// Lets a gateway have so many calls that the Hub has not, and measures how it catches up, and how old calls
/// are that are made meanwhile when the Hub takes them.
pub(crate) async fn catch_up(hub: &Hub, owner: &Owner, key: &str, kept: u64) -> Value {
    let storage = |dir: &Path| json!({"path": dir.join("ultra.db"), "retention_rows": 10 * kept});
    let setup = Ultra::setup().no_storage().upstream(&Fake::new("first"));
    let storage = storage(setup.dir());
    let database = setup.dir().join("ultra.db");
    let yaml = format!(
        "hub:\n  url: {}\n  sync_interval: 1s\nstorage: {storage}\nserver:\n  log_level: warn",
        hub.url("")
    );
    let ultra = setup.yaml(&yaml).env("ULTRA_DEPLOY_KEY", key).connect(json!({})).await;
    for _ in 0..CALLS_BEFORE {
        ultra.call_tool("first__echo", json!({"text": "before"})).await;
        tokio::time::sleep(CALL_PERIOD).await;
    }
    // What is under way arrives.
    tokio::time::sleep(Duration::from_secs(5)).await;
    ultra.close_input().await;
    let ultra = ultra.restart_after(|| fill(&database, kept));
    let taken = records(owner).await;
    let begun = Instant::now();
    ultra.initialize(json!({})).await;
    ultra.ready().await;
    let mut calls = Times::default();
    while records(owner).await < taken + kept && begun.elapsed() < CATCH_UP_MAX {
        let called = Instant::now();
        ultra.call_tool("first__echo", json!({"text": "meanwhile"})).await;
        calls.note(called);
        tokio::time::sleep(CALL_PERIOD).await;
    }
    let took = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut ages = ages(owner).await;
    let meanwhile = ages.split_off(CALLS_BEFORE.min(ages.len()));
    json!({
        "kept_records": kept,
        "caught_up_s": took.as_secs(),
        "calls_meanwhile": calls.report(),
        "age_before": Times(ages).report(),
        "age_meanwhile": Times(meanwhile).report(),
    })
}

/// Puts calls of the last day into a gateway's database.
fn fill(database: &Path, count: u64) {
    let options = SqliteOptions {
        retention_rows: 10 * count,
        queued_traces_max: 64 * 1024,
        ..SqliteOptions::new(database)
    };
    let store = SqliteStore::open(options).expect("the gateway's database");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ns = i64::try_from(now.as_nanos()).unwrap_or_default();
    let apart_ns = 23 * 3600 * 1_000_000_000 / i64::try_from(count.max(1)).unwrap_or(i64::MAX);
    let response = json!({"content": [{"type": "text", "text": "a line of a file ".repeat(40)}]});
    let response = bytes::Bytes::from(response.to_string());
    for number in 0..count {
        let ago = i64::try_from(count - number).unwrap_or_default() * apart_ns;
        store.record(Record::Trace(Box::new(Trace {
            id: Uuid::now_v7(),
            trace_id: u128::from(number) + 1,
            span_id: number + 1,
            parent_span_id: None,
            operation: "tool_call",
            method: "tools/call".into(),
            upstream: Some("files".into()),
            name: Some("read_file".into()),
            request: Some(
                format!(r#"{{"name":"read_file","arguments":{{"line":{number}}}}}"#).into(),
            ),
            response: Some(response.clone()),
            status: Status::Success,
            error: None,
            duration_ns: 1_000_000,
            started_unix_ns: now_ns - ago,
            principal: "filler/1.0".into(),
            session_id: format!("kept-{}", number / 40).into(),
            transport: Some("stdio"),
            metadata: Vec::new(),
        })));
        if number % 10_000 == 0 {
            assert!(store.flush(Instant::now() + Duration::from_secs(60)), "the disk is too slow");
        }
    }
}

/// Returns how many records the Hub has taken.
async fn records(owner: &Owner) -> u64 {
    let metrics = owner.visitor.page("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("ultra_hub_records_total "));
    line.and_then(|count| count.parse::<f64>().ok()).map_or(0, |count| count as u64)
}

/// Returns how old each call was when the Hub took it, first call first.
async fn ages(owner: &Owner) -> Vec<Duration> {
    let below = format!("/w/{}", owner.workspace);
    let list = owner.visitor.page(&format!("{below}/export/traces.ndjson?name=echo")).await;
    let mut ages = Vec::new();
    for line in list.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        let id = line["id"].as_str().expect("an id");
        let trace = owner.visitor.page(&format!("{below}/traces/{id}/json")).await;
        let trace: Value = serde_json::from_str(&trace).expect("JSON");
        let began_ms = trace["started_ns"].as_i64().unwrap_or_default() / 1_000_000;
        let age_ms = trace["received_ms"].as_i64().unwrap_or_default() - began_ms;
        ages.push(Duration::from_millis(age_ms.try_into().unwrap_or_default()));
    }
    ages.reverse();
    ages
}
