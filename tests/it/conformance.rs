//! The official MCP conformance suite. What it is run against, and what may fail, is in
//! `tests/conformance/expected-failures.txt`.

use ultra_tests::conformance::{Process, Suite};

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
