//! Upstreams that all sessions of a gateway have in common.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use ultra_tests::fixture::Fixture;
use ultra_tests::http::{Endpoint, HttpSession};
use ultra_tests::session::PATIENCE;
use ultra_tests::{Fake, Ultra, process};

/// Starts a gateway with one shared upstream, `up`, that records what it hears and who it is.
async fn start() -> (Ultra, Endpoint) {
    let setup = Ultra::setup();
    let fake = Fake::new("up")
        .option("--record", setup.dir().join("heard").display())
        .option("--pid-file", setup.dir().join("pids").display());
    let ultra = setup.shared_upstream(&fake).http().start();
    let endpoint = ultra.http().await;
    (ultra, endpoint)
}

/// Returns what the upstream heard of a method, in order.
fn heard(dir: &Path, method: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("heard")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|message| message["method"] == method).collect()
}

async fn heard_times(dir: &Path, method: &str, times: usize) -> Vec<Value> {
    let what = format!("{times} times `{method}`");
    process::eventually(&what, PATIENCE, || {
        let heard = heard(dir, method);
        (heard.len() >= times).then_some(heard)
    })
    .await
}

async fn pid(session: &HttpSession) -> Value {
    session.call_tool("up__pid", json!({})).await["result"]["structuredContent"]["pid"].clone()
}

#[tokio::test]
async fn one_process_serves_every_client_and_knows_none_of_them() {
    let (ultra, http) = start().await;
    let first = http.session(json!({"roots": {}, "sampling": {}})).await;
    let second = http.session(json!({"elicitation": {}})).await;

    let pids = [pid(&first).await, pid(&second).await];
    let modern = http.modern("tools/call", json!({"name": "up__pid"}), json!({})).await;
    let hello = second.call_tool("up__hello", json!({})).await;
    let asked = first.call_tool("up__elicit", json!({})).await;

    assert_eq!(pids[0], pids[1]);
    assert_eq!(modern.answer().await["result"]["structuredContent"]["pid"], pids[0]);
    let hello = &hello["result"]["structuredContent"];
    assert_eq!(hello["clientInfo"]["name"], "ultra");
    assert_eq!(hello["capabilities"], json!({}));
    assert_eq!(asked["result"]["structuredContent"]["error"]["code"], -32601);
    assert_eq!(process::pids_in(&ultra.dir().join("pids"), 1).await.len(), 1);
}

#[tokio::test]
async fn on_stdio_both_eras_have_one_process_in_common() {
    let ultra = Ultra::setup().shared_upstream(&Fake::new("up")).start();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });

    let modern = ultra.request("tools/call", json!({"name": "up__pid", "_meta": meta})).await;
    ultra.initialize(json!({})).await;
    let legacy = ultra.call_tool("up__pid", json!({})).await;

    let pid = |answer: &ultra_tests::Message| answer.result()["structuredContent"]["pid"].clone();
    assert!(pid(&modern).is_u64());
    assert_eq!(pid(&modern), pid(&legacy));
}

#[tokio::test]
async fn progress_reaches_whoever_made_the_call_and_nobody_else() {
    let (_ultra, http) = start().await;
    let (first, second) = (http.session(json!({})).await, http.session(json!({})).await);
    let params = |steps: u64| json!({"name": "up__slow", "arguments": {"ms": 400, "steps": steps}, "_meta": {"progressToken": "t"}});

    // Both have used the same ids and now the same token.
    let (first, second) =
        tokio::join!(async { first.send("tools/call", params(2)).await.all().await }, async {
            second.send("tools/call", params(5)).await.all().await
        },);

    let totals = |messages: &[Value]| -> Vec<_> {
        let progress = messages.iter().filter(|message| message["params"]["progressToken"] == "t");
        progress.map(|message| message["params"]["total"].clone()).collect()
    };
    assert_eq!(totals(&first), vec![json!(2); 2]);
    assert_eq!(totals(&second), vec![json!(5); 5]);
}

#[tokio::test]
async fn updates_reach_those_who_subscribed_and_the_server_hears_of_the_first_and_the_last() {
    let (ultra, http) = start().await;
    let (first, second) = (http.session(json!({})).await, http.session(json!({})).await);
    let mut streams = [first.listen().await, second.listen().await];
    let (note, counter) = (json!({"uri": "fake://up/note"}), json!({"uri": "fake://up/counter"}));

    first.request("resources/subscribe", note.clone()).await;
    first.request("resources/subscribe", counter.clone()).await;
    second.request("resources/subscribe", note.clone()).await;
    heard_times(ultra.dir(), "resources/subscribe", 2).await;
    first.call_tool("up__touch", counter.clone()).await;
    first.call_tool("up__touch", note.clone()).await;
    let method = "notifications/resources/updated";
    let of_first = [streams[0].until(method).await, streams[0].until(method).await];
    let of_second = streams[1].until(method).await;
    first.request("resources/unsubscribe", note.clone()).await;
    second.call_tool("up__touch", note.clone()).await;
    let again = streams[1].until(method).await;
    second.request("resources/unsubscribe", note.clone()).await;

    assert_eq!(of_first.map(|message| message["params"].clone()), [counter.clone(), note.clone()]);
    assert_eq!(of_second["params"], note);
    assert_eq!(again["params"], note);
    let unsubscribed = heard_times(ultra.dir(), "resources/unsubscribe", 1).await;
    assert_eq!(unsubscribed.len(), 1);
    assert_eq!(heard(ultra.dir(), "resources/subscribe").len(), 2);
}

#[tokio::test]
async fn changed_lists_are_announced_to_everybody() {
    let (_ultra, http) = start().await;
    let (first, second) = (http.session(json!({})).await, http.session(json!({})).await);
    let mut streams = [first.listen().await, second.listen().await];
    for session in [&first, &second] {
        session.request("tools/list", json!({})).await;
    }

    first.call_tool("up__change-tools", json!({"count": 1})).await;

    for stream in &mut streams {
        stream.until("notifications/tools/list_changed").await;
    }
    let tools = second.request("tools/list", json!({})).await;
    assert!(tools.to_string().contains("up__added-0"), "{tools}");
}

#[tokio::test]
async fn each_client_hears_log_messages_from_its_own_level_on() {
    let (ultra, http) = start().await;
    let (chatty, quiet) = (http.session(json!({})).await, http.session(json!({})).await);
    let mut streams = [chatty.listen().await, quiet.listen().await];

    quiet.request("logging/setLevel", json!({"level": "error"})).await;
    chatty.request("logging/setLevel", json!({"level": "debug"})).await;
    let levels = process::eventually("the lowest level", PATIENCE, || {
        let told = heard(ultra.dir(), "logging/setLevel");
        told.last().filter(|last| last["params"]["level"] == "debug").cloned()
    });
    levels.await;
    for level in ["debug", "critical"] {
        quiet.call_tool("up__log", json!({"level": level})).await;
    }

    for (stream, expected) in streams.iter_mut().zip([vec!["debug", "critical"], vec!["critical"]])
    {
        for level in expected {
            let message = stream.until("notifications/message").await;
            assert_eq!(message["params"]["level"], level);
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing_behind() {
    let (ultra, http) = start().await;
    let (going, staying) = (http.session(json!({})).await, http.session(json!({})).await);
    let note = json!({"uri": "fake://up/note"});
    let slow = |ms: u64| json!({"name": "up__slow", "arguments": {"ms": ms}});
    going.request("resources/subscribe", note).await;
    heard_times(ultra.dir(), "resources/subscribe", 1).await;
    let abandoned = tokio::spawn({
        let going = going.clone();
        async move { going.send("tools/call", slow(3_600_000)).await.all().await }
    });
    let kept = tokio::spawn({
        let staying = staying.clone();
        async move { staying.request("tools/call", slow(2000)).await }
    });
    let calls = heard_times(ultra.dir(), "tools/call", 2).await;
    let abandoned_id = calls
        .iter()
        .find(|call| call["params"]["arguments"]["ms"] == 3_600_000)
        .map(|call| call["id"].clone());

    going.delete().await;

    let cancelled = heard_times(ultra.dir(), "notifications/cancelled", 1).await;
    heard_times(ultra.dir(), "resources/unsubscribe", 1).await;
    abandoned.await.unwrap();
    assert_eq!(kept.await.unwrap()["result"]["structuredContent"], json!({"slow": true}));
    assert_eq!(cancelled.len(), 1);
    assert_eq!(Some(cancelled[0]["params"]["requestId"].clone()), abandoned_id);
}

#[tokio::test]
async fn it_goes_with_the_config_and_calls_in_flight_do_not_notice() {
    let (ultra, http) = start().await;
    let session = http.session(json!({})).await;
    let before = pid(&session).await;
    let slow = session.clone();
    let slow = tokio::spawn(async move { slow.call_tool("up__slow", json!({"ms": 3000})).await });
    heard_times(ultra.dir(), "tools/call", 2).await;

    let path = ultra.dir().join("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("    shared: true", "    shared: true\n    cwd: /"))
        .unwrap();
    let other = process::pids_in(&ultra.dir().join("pids"), 2).await[1];

    assert_eq!(slow.await.unwrap()["result"]["structuredContent"], json!({"slow": true}));
    assert_eq!(pid(&session).await, other);
    let before = u32::try_from(before.as_u64().unwrap()).unwrap();
    let gone = || (!process::is_alive(before)).then_some(());
    process::eventually("the end of the server before", Duration::from_secs(20), gone).await;
}

#[tokio::test]
async fn a_server_that_falls_is_told_again_what_clients_want() {
    let (ultra, http) = start().await;
    let session = http.session(json!({})).await;
    session.request("resources/subscribe", json!({"uri": "fake://up/note"})).await;
    heard_times(ultra.dir(), "resources/subscribe", 1).await;

    let lost = session.call_tool("up__crash", json!({})).await;

    assert_eq!(lost["error"]["code"], -32012);
    heard_times(ultra.dir(), "resources/subscribe", 2).await;
}

fn over_http(fixture: &Fixture) -> Ultra {
    let upstream =
        format!("upstream: {{ref: {{url: {}, enabled: true, shared: true}}}}", fixture.url);
    Ultra::config("").yaml(&upstream).memory().http().start()
}

/// Over HTTP a server says which call its messages belong to.
#[tokio::test]
async fn what_a_server_logs_about_a_call_is_for_its_client_alone() {
    let fixture = Fixture::start("legacy");
    let ultra = over_http(&fixture);
    let http = ultra.http().await;
    let (caller, other) = (http.session(json!({})).await, http.session(json!({})).await);
    let mut stream = other.listen().await;
    for session in [&caller, &other] {
        session.request("tools/list", json!({})).await;
        session.request("logging/setLevel", json!({"level": "debug"})).await;
    }
    // The level is told before the call only if it had the time.
    let logging = async || {
        let params = json!({"name": "ref__test_tool_with_logging", "arguments": {}});
        caller.send("tools/call", params).await.all().await
    };

    let heard = tokio::time::timeout(PATIENCE, async {
        loop {
            let messages = logging().await;
            if messages.len() > 1 {
                return messages;
            }
        }
    });
    let heard = heard.await.unwrap();
    caller.call_tool("ref__test_trigger_tool_change", json!({})).await;

    assert_eq!(heard[0]["method"], "notifications/message");
    let next = stream.next().await.unwrap();
    assert_eq!(next["method"], "notifications/tools/list_changed", "{next}");
}

/// What a modern server asks belongs to a request, so that there is somebody to ask.
#[tokio::test]
async fn a_modern_server_asks_whoever_made_the_call() {
    let fixture = Fixture::start("modern");
    let ultra = over_http(&fixture);
    let http = ultra.http().await;
    let capabilities = json!({"elicitation": {}});
    let (first, second) =
        (http.session(capabilities.clone()).await, http.session(capabilities).await);
    let tool = "ref__test_input_required_result_elicitation";
    let ask = async |session: &HttpSession, name: &str| {
        let params = json!({"name": tool, "arguments": {}});
        let mut response = session.send("tools/call", params).await;
        let question = response.until("elicitation/create").await;
        let answer = json!({"action": "accept", "content": {"name": name}});
        session.answer(&question, answer).await;
        response.answer().await
    };

    let (first, second) = tokio::join!(ask(&first, "Ada"), ask(&second, "Grace"));

    assert!(first.to_string().contains("Ada"), "{first}");
    assert!(second.to_string().contains("Grace"), "{second}");
}

/// A session that nobody works in any more costs nothing for long, however many there are of them.
#[tokio::test]
async fn ten_thousand_abandoned_sessions_leave_nothing_behind() {
    const SESSIONS: usize = 10_000;
    // By then there are as many as there may be at a time, and more.
    const FULL: usize = 2_000;
    let (ultra, http) = start().await;
    let listening = http.session(json!({})).await;
    let mut stream = listening.listen().await;
    let working = http.session(json!({})).await;
    let server = pid(&working).await;
    for _ in 0..3 {
        pid(&working).await;
    }

    let mut full = 0;
    for begun in (0..SESSIONS).step_by(100) {
        if begun == FULL {
            full = rss_kib(ultra.pid());
        }
        let abandon = async |which: usize| {
            let session = http.session(json!({})).await;
            if which.is_multiple_of(10) {
                assert_eq!(pid(&session).await, server);
            }
        };
        let of_ten = async |first: usize| {
            for which in first..first + 25 {
                abandon(which).await;
            }
        };
        tokio::join!(of_ten(begun), of_ten(begun + 25), of_ten(begun + 50), of_ten(begun + 75));
        assert_eq!(pid(&working).await, server);
    }
    let after = rss_kib(ultra.pid());

    assert!(after < full + GROWTH_KIB, "{full} KiB with {FULL} sessions, {after} with {SESSIONS}");
    assert_eq!(pid(&http.session(json!({})).await).await, server);
    listening.request("logging/setLevel", json!({"level": "info"})).await;
    listening.call_tool("up__log", json!({"level": "error"})).await;
    stream.until("notifications/message").await;
    assert_eq!(process::pids_in(&ultra.dir().join("pids"), 1).await.len(), 1);
    let fakes = ultra.processes().into_iter().filter(|pid| is_fake(*pid)).count();
    assert_eq!(fakes, 1);
}

/// What an allocator may keep, and records on their way to the disk. 8,000 sessions would take 130 MiB.
const GROWTH_KIB: u64 = 16 * 1024;

/// Returns the memory of a process that is in use.
fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn is_fake(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    memchr::memmem::find(&line, b"fake-upstream").is_some()
}

#[tokio::test]
async fn a_session_that_is_silent_for_long_ends() {
    let setup = Ultra::setup().yaml("server: {http_session_idle: 1s}");
    let fake = Fake::new("up").option("--record", setup.dir().join("heard").display());
    let ultra = setup.shared_upstream(&fake).http().start();
    let session = ultra.http().await.session(json!({})).await;

    session.request("resources/subscribe", json!({"uri": "fake://up/note"})).await;

    heard_times(ultra.dir(), "resources/unsubscribe", 1).await;
    let response = session.send("ping", json!({})).await;
    assert_eq!(response.status, 404);
}

#[tokio::test]
async fn where_all_sessions_are_in_use_a_new_one_is_refused() {
    let ultra = Ultra::setup().yaml("server: {http_sessions_max: 2}").http().start();
    let http = ultra.http().await;
    let (first, second) = (http.session(json!({})).await, http.session(json!({})).await);
    let _listens = first.listen().await;
    let listens = second.listen().await;

    let refused = http.begin(json!({})).await;
    drop(listens);
    let status = async || http.begin(json!({})).await.status;
    let served = tokio::time::timeout(PATIENCE, async { while status().await != 200 {} }).await;

    assert_eq!(refused.status, 503);
    assert!(served.is_ok(), "a session that nobody listens to makes no room");
    assert_eq!(first.send("ping", json!({})).await.status, 200);
}
