//! MCP through Ultra, the unhappy path first: lines that are none, ids and tokens that collide, bursts.

use std::time::Duration;

use serde_json::{Value, json};
use ultra_tests::process::eventually;
use ultra_tests::session::PATIENCE;
use ultra_tests::{Fake, Json, Session, Ultra};

/// Everything an upstream may ask for.
fn capabilities() -> Value {
    json!({"roots": {}, "sampling": {}, "elicitation": {}})
}

/// Waits until something comes that we did not ask for; there is no event for "nothing more came".
const QUIET: Duration = Duration::from_millis(400);

/// Lines that are refused: what is wrong with them, the line, the code, the id of the answer.
fn refused_lines() -> Vec<(&'static str, Vec<u8>, i64, &'static str)> {
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"fake__echo","arguments":{arguments}}}}}"#
        )
    };
    let text = |line: &str| line.as_bytes().to_vec();
    let mut not_utf8 = call(r#"{"text":"?"}"#).into_bytes();
    let at = not_utf8.iter().position(|byte| *byte == b'?').unwrap();
    not_utf8[at] = 0xff;
    let deep = call(&format!("{}{}", "[".repeat(5000), "]".repeat(5000)));
    vec![
        ("no JSON", text("hello"), -32700, "null"),
        ("half a message", text(r#"{"jsonrpc":"2.0","id":7,"method":"ping""#), -32700, "7"),
        (
            "a byte order mark",
            [b"\xef\xbb\xbf".as_slice(), call("{}").as_bytes()].concat(),
            -32700,
            "7",
        ),
        ("invalid UTF-8", not_utf8, -32700, "7"),
        (
            "a duplicate member in the arguments",
            text(&call(r#"{"a":1,"b":{"c":1,"c":2}}"#)),
            -32600,
            "7",
        ),
        (
            "a duplicate member by another spelling",
            text(&call(r#"{"a":1,"\u0061":2}"#)),
            -32600,
            "7",
        ),
        (
            "a duplicate name",
            text(
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"fake__echo","name":"fake__pid"}}"#,
            ),
            -32600,
            "7",
        ),
        (
            "a duplicate method",
            text(r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/list"}"#),
            -32600,
            "7",
        ),
        ("too deep nesting", text(&deep), -32600, "7"),
        (
            "a batch in a revision without",
            text(r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#),
            -32600,
            "null",
        ),
        ("an empty batch", text("[]"), -32600, "null"),
        ("a string", text(r#""ping""#), -32600, "null"),
        ("neither request nor response", text(r#"{"jsonrpc":"2.0","id":7}"#), -32600, "7"),
        (
            "another version of JSON-RPC",
            text(r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#),
            -32600,
            "7",
        ),
        ("a method that is no string", text(r#"{"jsonrpc":"2.0","id":7,"method":1}"#), -32600, "7"),
        (
            "an id that is an object",
            text(r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#),
            -32600,
            "null",
        ),
    ]
}

#[tokio::test]
async fn bad_lines_are_refused_and_the_session_lives() {
    let setup = Ultra::setup();
    let record = setup.dir().join("record");
    let fake = Fake::new("fake").option("--record", record.display());
    let ultra = setup.upstream(&fake).connect(json!({})).await;

    for (what, line, code, id) in refused_lines() {
        ultra.send(&line).await;
        let reply = ultra
            .wait_for(&format!("the answer to {what}"), |message| message.method.is_none())
            .await;

        assert_eq!(reply.error_code(), code, "{what}: {}", reply.raw);
        let answered = reply.id.as_deref();
        assert!(answered == Some(id) || answered == Some("null"), "{what}: {}", reply.raw);
        ultra.request("ping", Value::Null).await.result();
    }

    assert_eq!(ultra.garbage(), Vec::<String>::new());
    assert!(
        !std::fs::read_to_string(record).unwrap().contains("tools/call"),
        "a refused call was forwarded"
    );
}

#[tokio::test]
async fn blank_lines_and_carriage_returns_do_no_harm() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;

    ultra.send("").await;
    ultra.send("  \t ").await;
    ultra.send("{\"jsonrpc\":\"2.0\",\"id\":\"cr\",\"method\":\"ping\"}\r").await;

    ultra.response("\"cr\"").await.result();
}

#[tokio::test]
async fn an_endless_line_is_refused_and_the_session_lives() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let mut line = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"fake__echo","arguments":{"text":""#.to_vec();
    line.resize(70 * 1024 * 1024, b'x');

    ultra.send(&line).await;
    let reply = ultra.wait_for("the refusal", |message| message.method.is_none()).await;

    assert_eq!(reply.error_code(), -32600, "{}", reply.raw);
    let after = ultra.call_tool("fake__echo", json!({"still": "here"})).await;
    assert_eq!(after.result()["structuredContent"], json!({"still": "here"}));
}

#[tokio::test]
async fn nothing_but_ping_is_served_before_initialize() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).start();

    ultra.request("ping", Value::Null).await.result();
    let early = ultra.request("tools/list", Value::Null).await;
    ultra.notify("notifications/cancelled", json!({"requestId": 1})).await;
    ultra.initialize(json!({})).await.result();
    let again = ultra.request("initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}})).await;

    assert_eq!(early.error_code(), -32600);
    assert_eq!(again.error_code(), -32600);
    ultra.ready().await;
}

#[tokio::test]
async fn the_revision_is_the_clients_or_the_newest() {
    let revisions = [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ];
    for (asked, expected) in revisions {
        let ultra = Ultra::setup()
            .memory()
            .upstream(&Fake::new("fake").option("--protocol", "2024-11-05"))
            .start();

        let hello = ultra.initialize_as(asked, json!({})).await.result();
        ultra.ready().await;
        let reply = ultra.call_tool("fake__echo", json!({"asked": asked})).await;

        assert_eq!(hello["protocolVersion"], expected);
        assert_eq!(hello["serverInfo"]["name"], "ultra");
        assert_eq!(reply.result()["structuredContent"], json!({"asked": asked}));
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_the_one_revision_that_has_it() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).start();
    ultra.initialize_as("2025-03-26", json!({})).await;
    ultra.ready().await;

    ultra
        .send(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"fake__echo","arguments":{}}}]"#)
        .await;

    let answers = eventually("the answer to the batch", PATIENCE, || ultra.garbage().pop()).await;
    let Value::Array(mut answers) = serde_json::from_str(&answers).unwrap() else {
        panic!("{answers}")
    };
    answers.sort_by_key(|answer| answer["id"].to_string());
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["id"], "b");
    assert_eq!(answers[0]["result"]["structuredContent"], json!({}));
    assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
}

#[tokio::test]
async fn what_nobody_offers_is_an_error_of_the_gateway() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;

    let cases = [
        ("x-nobody/method", json!({}), -32601),
        ("server/discover", json!({}), -32601),
        ("tools/call", json!({"name": "one__nothing", "arguments": {}}), -32602),
        ("tools/call", json!({"name": "echo", "arguments": {}}), -32602),
        ("tools/call", json!({"arguments": {}}), -32602),
        ("tools/call", json!({"name": 7}), -32602),
        ("prompts/get", json!({"name": "one__nothing"}), -32602),
        ("resources/read", json!({"uri": "nobody://home"}), -32002),
    ];
    for (method, params, code) in cases {
        let reply = ultra.request(method, params.clone()).await;
        assert_eq!(reply.error_code(), code, "{method} {params}: {}", reply.raw);
    }
}

#[tokio::test]
async fn capabilities_instructions_and_names_of_all_upstreams_are_merged() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;
    // What upstreams say is remembered, so the second start tells it all.
    let ultra = ultra.restart();

    let hello = ultra.initialize(json!({})).await.result();
    let names = ultra.tool_names().await;

    for capability in ["tools", "resources", "prompts", "completions", "logging"] {
        assert!(hello["capabilities"].get(capability).is_some(), "{capability}: {hello}");
    }
    let instructions = hello["instructions"].as_str().unwrap();
    assert!(
        instructions.contains("Instructions of one.")
            && instructions.contains("Instructions of two.")
    );
    let first_of_two = names.iter().position(|name| name.starts_with("two__")).unwrap();
    let last_of_one = names.iter().rposition(|name| name.starts_with("one__")).unwrap();
    assert!(last_of_one < first_of_two, "not in the order of the config: {names:?}");
    assert!(names.iter().any(|name| name == "ultra_status"), "{names:?}");
}

#[tokio::test]
async fn status_names_each_upstream_and_why_it_is_down() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("good"))
        .late_upstream(&Fake::new("bad").flag("--exit-at-start"))
        .connect(json!({}))
        .await;

    let status = loop {
        let status =
            ultra.call_tool("ultra_status", json!({})).await.result()["structuredContent"].take();
        // It takes a moment until a failure is known; `eventually` cannot ask.
        if status["upstreams"][1]["state"] == "waiting" {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    assert_eq!(status["upstreams"][0]["state"], "ready");
    assert!(status["upstreams"][1].to_string().contains("told to exit at once"), "{status}");
    assert_eq!(status["health"], "degraded");
}

/// Ids of two upstreams' requests collide: both count from 0. The answers must not cross.
#[tokio::test]
async fn upstreams_that_ask_at_once_get_their_own_answers() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(capabilities())
        .await;
    let ask = |who: &str| json!({"name": format!("{who}__elicit"), "arguments": {"params": {"message": who, "requestedSchema": {}}}});

    let first = ultra.send_request("tools/call", ask("one")).await;
    let second = ultra.send_request("tools/call", ask("two")).await;
    let asked = [
        ultra.server_request("elicitation/create").await,
        ultra.server_request("elicitation/create").await,
    ];
    for request in asked.iter().rev() {
        let message = &request.params()["message"];
        ultra.answer(request, json!({"action": "accept", "content": {"for": message}})).await;
    }

    for (call, who) in [(first, "one"), (second, "two")] {
        let answer = &ultra.response(&call).await.result()["structuredContent"]["answer"];
        assert_eq!(answer["content"]["for"], who);
    }
    assert_ne!(asked[0].id, asked[1].id);
}

#[tokio::test]
async fn an_answer_nobody_waits_for_is_swallowed() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(capabilities()).await;

    ultra.send(r#"{"jsonrpc":"2.0","id":4711,"result":{}}"#).await;
    ultra.send(r#"{"jsonrpc":"2.0","id":"nobody","error":{"code":1,"message":"x"}}"#).await;
    ultra.call_tool("fake__stranger", json!({})).await.result();
    ultra.request("ping", Value::Null).await.result();

    let left = ultra.left();
    assert!(
        !left.iter().any(|line| line.contains("987654321") || line.contains("nobody")),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_cancellation_reaches_the_upstream_of_the_call_only() {
    let setup = Ultra::setup();
    let (one, two) = (setup.dir().join("one"), setup.dir().join("two"));
    let ultra = setup
        .upstream(&Fake::new("one").option("--record", one.display()))
        .upstream(&Fake::new("two").option("--record", two.display()))
        .connect(json!({}))
        .await;

    let id = ultra
        .send_request("tools/call", json!({"name": "two__slow", "arguments": {"ms": 3_600_000}}))
        .await;
    let sent = |path: &std::path::Path, part: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().rfind(|line| line.contains(part)).map(str::to_owned)
    };
    let call = eventually("the call", PATIENCE, || sent(&two, "tools/call")).await;
    ultra
        .notify(
            "notifications/cancelled",
            json!({"requestId": id.parse::<u64>().unwrap(), "reason": "changed my mind"}),
        )
        .await;
    let cancelled =
        eventually("the cancellation", PATIENCE, || sent(&two, "notifications/cancelled")).await;

    let theirs = Json::parse(&call).get("id").cloned();
    let params = Json::parse(&cancelled).get("params").cloned().unwrap();
    assert_eq!(params.get("requestId").cloned(), theirs);
    assert_eq!(params.get("reason").map(Json::to_string).as_deref(), Some("\"changed my mind\""));
    assert_eq!(sent(&one, "notifications/cancelled"), None);
    let after = ultra.call_tool("two__echo", json!({"n": 1})).await;
    assert_eq!(after.result()["structuredContent"], json!({"n": 1}));
    assert!(
        !ultra.left().iter().any(|line| line.contains(&format!("\"id\":{id},"))),
        "a cancelled call was answered: {:?}",
        ultra.left()
    );
}

/// Two calls may carry the same token, and tokens of a type of their own.
#[tokio::test]
async fn progress_comes_with_the_token_as_it_was_sent() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;
    let tokens = ["7", "\"7\"", "\"7\"", "\"a \\\"b\\\"\"", "18446744073709551615"];

    for (index, token) in tokens.iter().enumerate() {
        let upstream = if index % 2 == 0 { "one" } else { "two" };
        ultra
            .send(format!(
                r#"{{"jsonrpc":"2.0","id":{index},"method":"tools/call","params":{{"name":"{upstream}__slow","arguments":{{"ms":30,"steps":3}},"_meta":{{"progressToken":{token}}}}}}}"#
            ))
            .await;
    }
    let mut heard = Vec::new();
    for _ in 0..tokens.len() * 3 {
        let progress = ultra.notification("notifications/progress").await;
        heard.push(
            progress
                .json()
                .get("params")
                .and_then(|params| params.get("progressToken").map(Json::to_string))
                .unwrap(),
        );
    }

    let mut expected: Vec<_> = tokens.iter().flat_map(|token| [*token; 3]).collect();
    expected.sort_unstable();
    heard.sort_unstable();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn progress_comes_before_the_result_it_belongs_to() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let params = json!({"name": "fake__slow", "arguments": {"ms": 0, "steps": 50}, "_meta": {"progressToken": "t"}});

    let result = ultra.request("tools/call", params).await;

    let progress = ultra.take("notifications/progress");
    assert_eq!(progress.len(), 50);
    assert!(progress.iter().all(|progress| progress.order < result.order));
}

#[tokio::test]
async fn an_id_that_is_in_use_is_refused_and_its_first_call_goes_on() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let call = |ms| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"twice","method":"tools/call","params":{{"name":"fake__slow","arguments":{{"ms":{ms}}}}}}}"#
        )
    };

    ultra.send(call(500)).await;
    ultra.send(call(0)).await;

    assert_eq!(ultra.response("\"twice\"").await.error_code(), -32600);
    assert_eq!(
        ultra.response("\"twice\"").await.result()["structuredContent"],
        json!({"slow": true})
    );
}

#[tokio::test]
async fn a_burst_of_changes_is_announced_once() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    // The first listing after the start may be announced too.
    tokio::time::sleep(QUIET).await;
    ultra.take("notifications/tools/list_changed");

    ultra.call_tool("fake__change-tools", json!({"count": 6})).await.result();
    ultra.notification("notifications/tools/list_changed").await;
    let names = ultra.tool_names().await;
    tokio::time::sleep(QUIET).await;

    assert!(names.iter().any(|name| name == "fake__added-0"), "{names:?}");
    assert_eq!(ultra.take("notifications/tools/list_changed").len(), 0);
    let added = ultra.call_tool("fake__added-0", json!({"n": 1})).await;
    assert_eq!(added.result()["structuredContent"], json!({"n": 1}));
}

#[tokio::test]
async fn an_upstream_that_lists_in_pages_is_listed_whole() {
    let fake = Fake::new("fake").flag("--bare").option("--tools", 45).option("--page-size", 10);
    let ultra = Ultra::setup().upstream(&fake).connect(json!({})).await;

    let names = ultra.tool_names().await;

    let generated: Vec<_> = names.iter().filter(|name| name.starts_with("fake__tool-")).collect();
    assert_eq!(generated.len(), 45);
    assert!(generated.is_sorted());
}

/// What such an upstream gets listed is a matter of taste; that others do not wait for it is not.
#[tokio::test]
async fn a_cursor_that_repeats_does_not_list_for_ever() {
    let setup = Ultra::setup();
    let record = setup.dir().join("record");
    let endless = Fake::new("endless")
        .option("--tools", 3)
        .option("--page-size", 1)
        .flag("--cursor-repeats")
        .option("--record", record.display());
    let ultra = setup.late_upstream(&endless).upstream(&Fake::new("fake")).connect(json!({})).await;

    let asked =
        || std::fs::read_to_string(&record).unwrap_or_default().matches("tools/list").count();
    eventually("the first page", PATIENCE, || (asked() > 0).then_some(())).await;
    tokio::time::sleep(QUIET).await;

    assert!(asked() < 10, "asked {} times", asked());
    ultra.call_tool("fake__echo", json!({})).await.result();
}

#[tokio::test]
async fn names_fit_clients_and_still_lead_to_the_tool() {
    let long = "x".repeat(90);
    let names = [
        long.as_str(),
        &format!("{long}y"),
        "send.now",
        "send/now",
        "grüße 😀",
        "a__b",
        "trailing_",
    ];
    let fake = names
        .iter()
        .fold(Fake::new("fake").flag("--bare"), |fake, name| fake.option("--tool", name));
    let ultra = Ultra::setup().upstream(&fake).connect(json!({})).await;

    let listed = ultra.tool_names().await;
    let ours: Vec<_> = listed.iter().filter(|name| name.starts_with("fake__")).collect();

    assert_eq!(ours.len(), names.len(), "{listed:?}");
    for name in ours {
        let fits = name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        assert!(fits, "{name}");
        let reply = ultra.call_tool(name, json!({"called": name})).await;
        assert_eq!(reply.result()["structuredContent"], json!({"called": name}));
    }
}

#[tokio::test]
async fn two_gateways_share_a_database_and_nothing_else() {
    let setup = Ultra::setup();
    let storage = format!(
        "storage: {}\n",
        json!({"backend": "sqlite", "path": setup.dir().join("shared.db")})
    );
    let first = Ultra::config(&storage).upstream(&Fake::new("fake")).connect(json!({})).await;
    let second = Ultra::config(&storage).upstream(&Fake::new("fake")).connect(json!({})).await;

    let sessions: [&Session; 2] = [&first, &second];
    for (number, session) in sessions.iter().enumerate() {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"fake__slow","arguments":{{"ms":50,"steps":2}},"_meta":{{"progressToken":"t","n":{number}}}}}}}"#
        );
        session.send(line).await;
    }

    for session in sessions {
        session.response("1").await.result();
        assert_eq!(session.take("notifications/progress").len(), 2);
    }
    assert_ne!(
        first.call_tool("fake__pid", json!({})).await.result()["structuredContent"],
        second.call_tool("fake__pid", json!({})).await.result()["structuredContent"],
    );
}

#[tokio::test]
async fn an_upstream_that_writes_junk_works_all_the_same() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake").flag("--junk")).connect(json!({})).await;

    let reply = ultra.call_tool("fake__echo", json!({"n": 1})).await;

    assert_eq!(reply.result()["structuredContent"], json!({"n": 1}));
    assert_eq!(ultra.garbage(), Vec::<String>::new());
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;
    let text = "y".repeat(5 * 1024 * 1024);

    let big = ultra.call_tool("fake__big", json!({"bytes": 10 * 1024 * 1024})).await.result();
    let echoed = ultra.call_tool("fake__echo", json!({"text": text})).await.result();

    assert_eq!(big["content"][0]["text"].as_str().map(str::len), Some(10 * 1024 * 1024));
    assert_eq!(echoed["structuredContent"]["text"].as_str().map(str::len), Some(text.len()));
}

#[tokio::test]
async fn updates_come_for_what_is_subscribed_to_and_no_longer() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;
    let uri = json!({"uri": "fake://two/counter"});

    ultra.request("resources/subscribe", uri.clone()).await.result();
    ultra.call_tool("two__touch", uri.clone()).await.result();
    let updated = ultra.notification("notifications/resources/updated").await;
    ultra.request("resources/unsubscribe", uri.clone()).await.result();
    ultra.call_tool("two__touch", uri.clone()).await.result();
    ultra.request("ping", Value::Null).await.result();

    assert_eq!(updated.params()["uri"], "fake://two/counter");
    assert_eq!(ultra.take("notifications/resources/updated").len(), 0);
}

#[tokio::test]
async fn the_log_level_holds_for_all_upstreams() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;

    ultra.request("logging/setLevel", json!({"level": "error"})).await.result();
    for upstream in ["one", "two"] {
        for level in ["info", "error"] {
            let arguments = json!({"level": level, "message": format!("{level} of {upstream}")});
            ultra.call_tool(&format!("{upstream}__log"), arguments).await.result();
        }
    }

    let mut heard = Vec::new();
    for _ in 0..2 {
        let params = ultra.notification("notifications/message").await.params();
        heard.push(params["data"]["message"].as_str().unwrap_or_default().to_owned());
    }
    heard.sort_unstable();
    assert_eq!(heard, ["error of one", "error of two"]);
    assert_eq!(ultra.take("notifications/message").len(), 0);
}

#[tokio::test]
async fn prompts_completions_and_resources_find_their_upstream() {
    let ultra = Ultra::setup()
        .upstream(&Fake::new("one"))
        .upstream(&Fake::new("two"))
        .connect(json!({}))
        .await;

    let names = ultra.names("prompts/list", "prompts").await;
    let completion = json!({"ref": {"type": "ref/prompt", "name": "two__greet", "title": "kept"}, "argument": {"name": "who", "value": "A"}});
    let completed = ultra.request("completion/complete", completion).await.result();
    let read = ultra.request("resources/read", json!({"uri": "fake://two/item/5"})).await.result();

    assert_eq!(names, ["one__greet", "two__greet"]);
    assert_eq!(completed["completion"]["values"], json!(["A-1", "A-2"]));
    assert_eq!(
        completed["x-params"]["ref"],
        json!({"type": "ref/prompt", "name": "greet", "title": "kept"})
    );
    assert_eq!(read["contents"][0]["text"], "two");
}

#[tokio::test]
async fn a_question_is_withdrawn_with_the_call_it_was_asked_for() {
    let setup = Ultra::setup();
    let record = setup.dir().join("heard");
    let fake = Fake::new("fake").option("--record", record.display());
    let ultra = setup.upstream(&fake).connect(json!({"elicitation": {}})).await;
    let call = ultra.send_request("tools/call", json!({"name": "fake__elicit"})).await;
    let question = ultra.server_request("elicitation/create").await;

    let withdrawn = json!({"requestId": call.parse::<u64>().unwrap()});
    ultra.notify("notifications/cancelled", withdrawn).await;

    let cancelled = ultra.notification("notifications/cancelled").await;
    assert_eq!(cancelled.params()["requestId"].to_string(), question.id.unwrap());
    let answer = eventually("an answer to the server", PATIENCE, || {
        let heard = std::fs::read_to_string(&record).unwrap_or_default();
        let error = heard.lines().find(|line| line.contains("the client gives no answer"))?;
        Some(error.to_owned())
    });
    assert!(answer.await.contains(r#""id":0,"error":{"code":-32603"#));
}
