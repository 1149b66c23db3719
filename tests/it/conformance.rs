//! The official MCP conformance suite. What it is run against, and what may fail, is in
//! `tests/conformance/expected-failures.txt`.

use std::process::Command;

use serde_json::json;
use ultra_tests::conformance::{Process, Suite};
use ultra_tests::{Session, program};

/// Ports are free in the namespace of each test.
const FIXTURE_PORT: u16 = 4001;
const FIXTURE_URL: &str = "http://127.0.0.1:4001/mcp";

/// Server scenarios that count, by revision.
const SCORED: [(&str, usize); 2] = [("2025-11-25", 30), ("2026-07-28", 37)];

#[tokio::test]
async fn the_fixture_itself_passes() {
    let Some(suite) = Suite::find() else { return };
    for (revision, scored) in SCORED {
        let fixture = Process::fixture(FIXTURE_PORT, "both");

        let report = suite.server(vec![fixture], FIXTURE_URL, revision).await;

        report.assert_expected("fixture");
        assert_eq!(report.scored(), (scored, scored), "{revision}");
    }
}

/// Behind a gateway, the fixture is pinned to the era that the client does not speak.
#[tokio::test]
async fn the_fixture_passes_in_the_era_it_is_pinned_to_and_in_no_other() {
    let Some(suite) = Suite::find() else { return };
    for ((revision, scored), era) in SCORED.into_iter().zip(["legacy", "modern"]) {
        for pinned in ["legacy", "modern"] {
            let fixture = Process::fixture(FIXTURE_PORT, pinned);

            let report = suite.server(vec![fixture], FIXTURE_URL, revision).await;

            let (passed, _) = report.scored();
            assert_eq!(passed == scored, pinned == era, "{revision} of {pinned}: {passed}");
        }
    }
}

#[tokio::test]
async fn a_client_that_does_nothing_fails() {
    let Some(suite) = Suite::find() else { return };

    let report = suite.client("true", "2026-07-28").await;

    let tools_call = &report.scenarios()["tools_call"];
    assert_eq!(report.scored().1, 32);
    assert!(!tools_call.failures.is_empty(), "{tools_call:?}");
}

/// The suite speaks HTTP only. Over stdio it is enough that the same operations are reached.
#[tokio::test]
async fn over_stdio_the_fixture_asks_older_clients_and_answers_newer_ones_with_what_it_needs() {
    let fixture = over_stdio("both");
    fixture.on_request(
        "elicitation/create",
        |_| json!({"action": "accept", "content": {"name": "Ada"}}),
    );
    fixture.initialize(json!({"elicitation": {}})).await;
    let tool = "test_input_required_result_elicitation";
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    });
    let answers = json!({"user_name": {"action": "accept", "content": {"name": "Grace"}}});

    let older = fixture.call_tool(tool, json!({})).await;
    let asked = fixture.request("tools/call", json!({"name": tool, "_meta": meta})).await;
    let params = json!({"name": tool, "inputResponses": answers, "_meta": meta});
    let newer = fixture.request("tools/call", params).await;

    assert!(older.raw.contains("Ada"), "{}", older.raw);
    assert_eq!(asked.result()["resultType"], json!("input_required"));
    assert!(newer.raw.contains("Grace"), "{}", newer.raw);
}

#[tokio::test]
async fn over_stdio_the_fixture_refuses_the_era_it_does_not_speak() {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });

    let probed = over_stdio("legacy").request("server/discover", json!({"_meta": meta})).await;
    let greeted = over_stdio("modern").initialize(json!({})).await;

    assert_eq!(probed.error_code(), -32601);
    assert_eq!(greeted.error()["data"]["supported"], json!(["2026-07-28"]));
}

fn over_stdio(era: &str) -> Session {
    let mut command = Command::new(program("conformance-fixture"));
    command.args(["--stdio", "--era", era]);
    Session::start(command)
}
