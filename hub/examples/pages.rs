//! Fills a new database with made-up records, and shows it as `ultra dashboard` does: to look at pages.
//!
//! `cargo run -p ultra-hub --example pages [directory]`

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use ultra_hub::local::{Options, dashboard};
use ultra_hub::wire::Host;
use ultra_store::{
    AuditEvent, AuditOutcome, FieldValue, Record, Severity, SqliteOptions, SqliteStore, Status,
    Store, Trace, UpstreamStatus,
};
use uuid::Uuid;

/// Server, tool, request, response, usual milliseconds.
const CALLS: [(&str, &str, &str, &str, u64); 8] = [
    (
        "files",
        "read_file",
        r#"{"name":"read_file","arguments":{"path":"src/main.rs"}}"#,
        r#"{"content":[{"type":"text","text":"fn main() {\n    println!(\"hello\");\n}\n"}],"isError":false}"#,
        12,
    ),
    (
        "files",
        "write_file",
        r#"{"name":"write_file","arguments":{"path":"notes.md","content":"ok"}}"#,
        r#"{"content":[{"type":"text","text":"2 bytes written"}]}"#,
        25,
    ),
    (
        "github",
        "search_issues",
        r#"{"name":"search_issues","arguments":{"q":"is:open label:bug","per_page":30}}"#,
        r#"{"content":[{"type":"text","text":"[]"}],"structuredContent":{"total_count":0,"items":[]}}"#,
        640,
    ),
    (
        "github",
        "create_issue",
        r#"{"name":"create_issue","arguments":{"title":"Crash at start"}}"#,
        r#"{"content":[{"type":"text","text":"created #1284"}]}"#,
        910,
    ),
    (
        "postgres",
        "query",
        r#"{"name":"query","arguments":{"sql":"select * from orders limit 10"}}"#,
        r#"{"content":[{"type":"text","text":"10 rows"}],"_meta":{"rows":10}}"#,
        85,
    ),
    (
        "browser",
        "navigate",
        r#"{"name":"navigate","arguments":{"url":"https://example.org/"}}"#,
        r#"{"content":[{"type":"image","mimeType":"image/png","data":"iVBORw0KGgo="}]}"#,
        2300,
    ),
    (
        "slack",
        "post_message",
        r##"{"name":"post_message","arguments":{"channel":"#ops","text":"done"}}"##,
        r#"{"content":[{"type":"text","text":"posted"}]}"#,
        320,
    ),
    (
        "files",
        "<img src=x onerror=alert(1)>\u{202e}gpj",
        r#"{"name":"x","arguments":{"a":"</script><script>alert(1)</script>"}}"#,
        r#"{"content":[]}"#,
        5,
    ),
];

const CLIENTS: [&str; 4] =
    ["claude-desktop/1.2.3", "cursor/0.48.1", "vscode/1.99.0", "zed/0.181.2"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| std::env::temp_dir().join("ultra-pages"));
    let path = directory.join("ultra.db");
    let count = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(600);
    let store = SqliteStore::open(SqliteOptions::new(&path))?;
    fill(&store, count);
    let host = Host {
        os: "linux".to_owned(),
        os_version: Some("Debian GNU/Linux 13".to_owned()),
        arch: "x86_64".to_owned(),
        hostname: "workbench".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kind: "personal".to_owned(),
        environment: "local".to_owned(),
    };
    let address = "127.0.0.1:8099".parse()?;
    let dashboard = dashboard(Options { database: path, address, host }).await?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", dashboard.url()).as_bytes())?;
    let shutdown = CancellationToken::new();
    let end = shutdown.clone();
    let more = async {
        for number in 0.. {
            tokio::time::sleep(Duration::from_secs(7)).await;
            store.record(Record::Trace(Box::new(trace(number, now_ns()))));
        }
    };
    tokio::select! {
        () = dashboard.serve(shutdown) => {}
        () = more => {}
        _ = tokio::signal::ctrl_c() => end.cancel(),
    }
    Ok(())
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Numbers that look as if by chance.
fn mixed(number: u64, of: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number << 7)).rotate_left(23) % of
}

fn trace(number: u64, ended_ns: i64) -> Trace {
    let (upstream, name, request, response, ms) = CALLS[mixed(number, 100) as usize % CALLS.len()];
    let failed = mixed(number + 3, 14) == 0;
    let duration_ns = ms * 1_000_000 * (40 + mixed(number + 1, 220)) / 100;
    let client = CLIENTS[(number / 23 % 4) as usize];
    let error = r#"{"code":-32603,"message":"upstream closed the connection"}"#;
    Trace {
        id: Uuid::now_v7(),
        trace_id: u128::from(mixed(number, u64::MAX)) << 64 | u128::from(number),
        span_id: mixed(number + 9, u64::MAX),
        parent_span_id: number.is_multiple_of(3).then_some(mixed(number, u64::MAX)),
        operation: "tool_call",
        method: "tools/call".into(),
        upstream: Some(upstream.into()),
        name: Some(name.into()),
        request: Some(Bytes::from_static(request.as_bytes())),
        response: Some(Bytes::from_static(if failed { error } else { response }.as_bytes())),
        status: if failed { Status::Error } else { Status::Success },
        error: failed.then(|| "upstream closed the connection".to_owned()),
        duration_ns,
        started_unix_ns: ended_ns - duration_ns.cast_signed(),
        principal: client.into(),
        session_id: format!("0199f0c2-77aa-7c31-9a52-{:012x}", number / 23).into(),
        transport: Some(if upstream == "files" { "stdio" } else { "http" }),
        metadata: vec![("attempt".to_owned(), FieldValue::Int(1))],
    }
}

fn fill(store: &SqliteStore, count: u64) {
    let now_ns = now_ns();
    for number in 0..count {
        // The newest ones minutes ago, the oldest ones days.
        let back_s = (count - number).pow(2) / 2 % (20 * 86_400) + mixed(number, 20);
        let trace = trace(number, now_ns - (back_s as i64) * 1_000_000_000);
        let denied = mixed(number + 11, 17) == 0;
        let failed = trace.status == Status::Error;
        let outcome = match (denied, failed) {
            (true, _) => AuditOutcome::Deny,
            (_, true) => AuditOutcome::Error,
            _ => AuditOutcome::Success,
        };
        let event = AuditEvent {
            id: Uuid::now_v7(),
            trace_id: Some(trace.trace_id),
            event_type: if denied { "policy_deny" } else { "tool_call" },
            severity: match outcome {
                AuditOutcome::Deny => Severity::Critical,
                AuditOutcome::Error => Severity::Error,
                _ => Severity::Info,
            },
            upstream: trace.upstream.clone(),
            action: trace.name.clone(),
            principal: trace.principal.clone(),
            session_id: Some(trace.session_id.clone()),
            outcome,
            reason: denied.then(|| "writes are not allowed outside the project".to_owned()),
            details: vec![("rule".to_owned(), FieldValue::Text("paths".to_owned()))],
            unix_ns: trace.started_unix_ns,
        };
        store.record(Record::Audit(Box::new(event)));
        store.record(Record::Trace(Box::new(trace)));
        if number % 4_000 == 0 {
            store.flush(Instant::now() + Duration::from_secs(30));
        }
    }
    for (place, (upstream, ..)) in CALLS.iter().enumerate().filter(|(place, _)| *place != 7) {
        store.upstream(UpstreamStatus {
            upstream: (*upstream).to_owned(),
            gateway_pid: 1,
            state: if place == 5 { "waiting" } else { "ready" }.to_owned(),
            server: Some(format!("{upstream}-mcp 1.{place}.0")),
            tools: 3 + place as u64 * 4,
            resources: 0,
            prompts: 0,
            error: (place == 5).then(|| "the program ended with code 1".to_owned()),
            stderr: None,
            unix_ns: now_ns,
        });
    }
    store.flush(Instant::now() + Duration::from_secs(60));
}
