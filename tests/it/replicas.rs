//! Gateways with a key in common: what one gave into a client's hands is good at the other.

use serde_json::{Value, json};
use ultra_tests::fixture::Fixture;
use ultra_tests::http::Endpoint;
use ultra_tests::{Fake, Ultra};

const KEY: &str = "server: {seal_key: \"a passphrase that is long enough for it\"}\n";
const ROUNDS: &str = "ref__test_input_required_result_multi_round";

fn gateway(fixture: &Fixture, key: &str) -> Ultra {
    let upstream = format!("upstream: {{ref: {{url: {}, enabled: true}}}}", fixture.url);
    Ultra::config(key).yaml(&upstream).memory().http().start()
}

/// Makes a call of a modern client that can be asked.
async fn call(at: &Endpoint, name: &str, state: Option<&Value>, answers: Value) -> Value {
    let mut params = json!({"name": name, "arguments": {}, "inputResponses": answers});
    if let Some(state) = state {
        params["requestState"] = state.clone();
    }
    at.modern("tools/call", params, json!({"elicitation": {}})).await.answer().await
}

fn accept(content: Value) -> Value {
    json!({"action": "accept", "content": content})
}

#[tokio::test]
async fn a_round_begun_at_one_gateway_goes_on_at_another() {
    let fixture = Fixture::start("modern");
    let gateways = [gateway(&fixture, KEY), gateway(&fixture, KEY), gateway(&fixture, "")];
    let [first, second, stranger] =
        [gateways[0].http().await, gateways[1].http().await, gateways[2].http().await];

    let asked = call(&first, ROUNDS, None, json!({})).await;
    let answer = json!({"step1": accept(json!({"name": "Ada"}))});
    let again = call(&second, ROUNDS, Some(&asked["result"]["requestState"]), answer).await;
    let answer = json!({"step2": accept(json!({"color": "blue"}))});
    let state = &again["result"]["requestState"];
    let refused = call(&stranger, ROUNDS, Some(state), answer.clone()).await;
    let done = call(&first, ROUNDS, Some(state), answer).await;

    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    assert!(
        refused["error"]["message"].to_string().contains("not one of this gateway"),
        "{refused}"
    );
    assert!(done.to_string().contains("Ada"), "{done}");
}

/// The server of an older era keeps the call open, and with it the process that made it.
#[tokio::test]
async fn a_call_that_waits_at_one_gateway_is_refused_by_another() {
    let gateway = || Ultra::config(KEY).late_upstream(&Fake::new("up")).memory().http().start();
    let gateways = [gateway(), gateway()];
    let [first, second] = [gateways[0].http().await, gateways[1].http().await];

    let asked = call(&first, "up__elicit", None, json!({})).await;
    let state = &asked["result"]["requestState"];
    let answer = json!({"request-1": accept(json!({"name": "Ada"}))});
    let refused = call(&second, "up__elicit", Some(state), answer.clone()).await;
    let done = call(&first, "up__elicit", Some(state), answer).await;

    let reason = refused["error"]["message"].to_string();
    assert!(reason.contains("waits at another gateway process"), "{refused}");
    assert!(done.to_string().contains("Ada"), "{done}");
}

#[tokio::test]
async fn a_round_goes_on_after_a_restart() {
    let fixture = Fixture::start("modern");
    let gateway = gateway(&fixture, "");
    let before = gateway.http().await;

    let asked = call(&before, ROUNDS, None, json!({})).await;
    let gateway = gateway.restart();
    let after = gateway.http().await;
    let answer = json!({"step1": accept(json!({"name": "Ada"}))});
    let again = call(&after, ROUNDS, Some(&asked["result"]["requestState"]), answer).await;

    assert!(again["result"]["inputRequests"]["step2"].is_object(), "{again}");
    let key = gateway.dir().join("config/ultra/seal.key");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(key).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}
