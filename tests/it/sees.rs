//! What interceptors see besides calls, in every combination of eras: how a session begins, what upstreams
//! ask of clients, notifications; and that what they decide of it is done.

use std::fs;

use serde_json::{Value, json};
use ultra_tests::process::eventually;
use ultra_tests::session::PATIENCE;
use ultra_tests::{Fake, Ultra, program};

const WITNESS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/witness.wasm"));

/// Asks the user for a name, and greets.
const TOOL: &str = "fixture__test_input_required_result_elicitation";

const ERAS: [(&str, &str); 4] =
    [("legacy", "legacy"), ("legacy", "modern"), ("modern", "legacy"), ("modern", "modern")];

/// Returns the setup of a gateway with the witness.
fn witnessed(settings: &Value) -> ultra_tests::ultra::Setup {
    let setup = Ultra::setup();
    let plugins = setup.dir().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("witness.wasm"), WITNESS).unwrap();
    let overrides = json!({"witness": {"settings": settings}});
    setup.yaml(&format!("plugins: {{directory: {plugins:?}, overrides: {overrides}}}"))
}

/// A client of one era in front of a server of one era.
struct Pair {
    ultra: Ultra,
    is_modern: bool,
}

impl Pair {
    async fn connect(client: &str, server: &str, settings: &Value) -> Self {
        let args = ["--stdio", "--era", server].map(String::from);
        let ultra =
            witnessed(settings).server("fixture", &program("conformance-fixture"), &args).start();
        let is_modern = client == "modern";
        if !is_modern {
            ultra.on_request("elicitation/create", |params| {
                let name = params["message"].as_str().unwrap_or_default().to_owned();
                json!({"action": "accept", "content": {"name": format!("{name} Ada")}})
            });
            ultra.initialize(json!({"elicitation": {}})).await;
            ultra.notify("notifications/initialized", json!({})).await;
        }
        Self { ultra, is_modern }
    }

    /// Calls the tool, and gives the user's answer when it is asked for, with the words of the question.
    async fn greet(&self) -> String {
        if !self.is_modern {
            return self.ultra.call_tool(TOOL, json!({})).await.raw;
        }
        let mut params = json!({"name": TOOL, "arguments": {}, "_meta": meta()});
        loop {
            let answer = self.ultra.request("tools/call", params.clone()).await;
            let result = answer.value()["result"].clone();
            let Some(requests) = result["inputRequests"].as_object() else { return answer.raw };
            let responses: serde_json::Map<_, _> = requests
                .iter()
                .map(|(key, request)| {
                    let question = request["params"]["message"].as_str().unwrap_or_default();
                    let name = format!("{question} Ada");
                    (key.clone(), json!({"action": "accept", "content": {"name": name}}))
                })
                .collect();
            params["inputResponses"] = Value::Object(responses);
            params["requestState"] = result["requestState"].clone();
        }
    }

    /// Returns what the witness saw, without the parts that say who and which revision.
    fn seen(&self, method: &str) -> Vec<String> {
        let stderr = self.ultra.stderr();
        let lines = stderr.lines().filter_map(|line| Some(line.split_once("saw ")?.1));
        let words = lines.map(|line| line.split_once(';').map_or(line, |(words, _)| words));
        words.filter(|words| words.split(' ').nth(1) == Some(method)).map(String::from).collect()
    }

    async fn saw(&self, count: usize, method: &str) -> Vec<String> {
        let lines = || Some(self.seen(method)).filter(|seen| seen.len() >= count);
        eventually(&format!("{count} lines about {method}"), PATIENCE, lines).await
    }
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "modern", "version": "2"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    })
}

#[tokio::test]
async fn a_question_is_seen_with_its_answer_in_all_combinations_of_eras() {
    for (client, server) in ERAS {
        let pair = Pair::connect(client, server, &json!({})).await;

        let greeting = pair.greet().await;

        assert!(greeting.contains("Ada"), "{client} on {server}: {greeting}");
        let seen = pair.saw(2, "elicitation/create").await;
        assert_eq!(seen.len(), 2, "{client} on {server}: {seen:?}");
        let expected = |kind| format!("{kind} elicitation/create from fixture {client} ");
        assert!(seen[0].starts_with(&expected("request")), "{client} on {server}: {seen:?}");
        assert!(seen[1].starts_with(&expected("response")), "{client} on {server}: {seen:?}");
    }
}

#[tokio::test]
async fn a_question_is_changed_in_all_combinations_of_eras() {
    for (client, server) in ERAS {
        let settings = json!({"edited": ["elicitation/create"]});
        let pair = Pair::connect(client, server, &settings).await;

        let greeting = pair.greet().await;

        assert!(greeting.contains("edited Ada"), "{client} on {server}: {greeting}");
    }
}

#[tokio::test]
async fn a_question_is_answered_for_the_user_in_all_combinations_of_eras() {
    for (client, server) in ERAS {
        let settings = json!({"declined": ["elicitation/create"]});
        let pair = Pair::connect(client, server, &settings).await;

        let greeting = pair.greet().await;

        assert!(!greeting.contains("Ada"), "{client} on {server}: {greeting}");
        let seen = pair.saw(2, "elicitation/create").await;
        assert!(seen[1].ends_with("answered"), "{client} on {server}: {seen:?}");
    }
}

#[tokio::test]
async fn a_question_is_denied_and_an_answer_withheld_in_all_combinations_of_eras() {
    for (client, server) in ERAS {
        for (setting, end) in [("denied", "denied"), ("withheld", "")] {
            let pair =
                Pair::connect(client, server, &json!({setting: ["elicitation/create"]})).await;

            let greeting = pair.greet().await;

            let what = format!("{setting}, {client} on {server}: {greeting}");
            assert!(!greeting.contains("Ada"), "{what}");
            let seen = pair.saw(2, "elicitation/create").await;
            assert!(seen[1].ends_with(end), "{what}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn the_beginning_of_a_session_is_seen_and_can_be_refused() {
    let legacy = Pair::connect("legacy", "legacy", &json!({})).await;
    legacy.ultra.request("ping", Value::Null).await.result();
    let modern = Pair::connect("modern", "legacy", &json!({})).await;
    modern.ultra.request("server/discover", json!({"_meta": meta()})).await.result();
    let refusing = witnessed(&json!({"denied": ["initialize"]})).start();
    let withholding = witnessed(&json!({"withheld": ["initialize"]})).start();

    let refused = refusing.initialize(json!({})).await;
    let withheld = withholding.initialize(json!({})).await;
    let list = withholding.request("tools/list", json!({})).await;

    for method in ["initialize", "ping"] {
        let seen = legacy.saw(2, method).await;
        assert!(seen[0].starts_with(&format!("request {method} to - legacy 2025-")), "{seen:?}");
        assert!(seen[1].starts_with(&format!("response {method} to - legacy 2025-")), "{seen:?}");
    }
    let seen = modern.saw(2, "server/discover").await;
    assert_eq!(seen[0], "request server/discover to - modern 2026-07-28 modern/2");
    assert!(refused.error()["message"].as_str().unwrap().contains("the witness says no"));
    assert!(withheld.error()["message"].as_str().unwrap().contains("the witness keeps it"));
    assert!(list.raw.contains("the first request must be `initialize`"), "{}", list.raw);
}

#[tokio::test]
async fn a_subscription_is_seen_until_it_is_withdrawn() {
    let pair = Pair::connect("modern", "modern", &json!({})).await;
    let params = json!({"notifications": {"toolsListChanged": true}, "_meta": meta()});

    let id = pair.ultra.send_request("subscriptions/listen", params).await;
    pair.ultra.notification("notifications/subscriptions/acknowledged").await;
    let begun = pair.saw(1, "subscriptions/listen").await;
    let id: u64 = id.parse().unwrap();
    pair.ultra.notify("notifications/cancelled", json!({"requestId": id, "_meta": meta()})).await;

    assert_eq!(begun.len(), 1, "{begun:?}");
    let ended = pair.saw(2, "subscriptions/listen").await;
    assert!(ended[1].starts_with("response subscriptions/listen to - modern"), "{ended:?}");
    assert!(ended[1].ends_with("cancelled"), "{ended:?}");
}

#[tokio::test]
async fn notifications_are_seen_and_dropped_in_both_directions() {
    let slow = |settings: Value| async move {
        let ultra =
            witnessed(&settings).upstream(&Fake::new("fake")).connect(json!({"roots": {}})).await;
        ultra.notify("notifications/roots/list_changed", json!({})).await;
        let params = json!({
            "name": "fake__slow",
            "arguments": {"ms": 20, "steps": 2},
            "_meta": {"progressToken": "t"},
        });
        ultra.request("tools/call", params).await.result();
        Pair { ultra, is_modern: false }
    };

    let passing = slow(json!({})).await;
    let dropping = slow(json!({"denied": ["notifications/progress"]})).await;

    let seen = passing.saw(2, "notifications/progress").await;
    assert!(
        seen[0].starts_with("notification notifications/progress from fake legacy"),
        "{seen:?}"
    );
    let seen = passing.saw(1, "notifications/roots/list_changed").await;
    assert!(seen[0].starts_with("notification notifications/roots/list_changed to - legacy"));
    let seen = passing.saw(1, "notifications/initialized").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(passing.ultra.take("notifications/progress").len(), 2);
    assert_eq!(dropping.saw(2, "notifications/progress").await.len(), 2);
    assert_eq!(dropping.ultra.take("notifications/progress").len(), 0);
}

#[tokio::test]
async fn the_administrator_says_what_a_plugin_sees() {
    let setup = Ultra::setup()
        .yaml("plugins: {overrides: {logging: {sees: [calls, notifications, session]}}}")
        .upstream(&Fake::new("fake"));

    let ultra = setup.connect(json!({})).await;
    ultra.notify("notifications/initialized", json!({})).await;
    let listed = ultra.run(&["plugins", "list", "--json"]).await;

    eventually("lines about both", PATIENCE, || {
        let stderr = ultra.stderr();
        let is_told = stderr.contains("notification notifications/initialized")
            && stderr.contains("response initialize: success");
        is_told.then_some(())
    })
    .await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let sees = |id: &str| {
        let plugin = listed.as_array().unwrap().iter().find(|plugin| plugin["id"] == id);
        plugin.unwrap()["sees"].clone()
    };
    assert_eq!(sees("logging"), json!(["calls", "session", "notifications"]));
    assert_eq!(sees("audit"), json!(["calls"]));
}
