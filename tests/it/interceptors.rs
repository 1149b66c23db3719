//! Components that misbehave, and the example for authors: loaded and run as the gateway does.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use ultra::config::{self, PluginOverride};
use ultra::pipeline::{
    CallError, Caller, Exchange, FailureMode, Interceptor, Outcome, Pipeline, RequestDecision,
    ResponseDecision, StageError,
};
use ultra::plugins::{self, Loaded, PluginsError};
use ultra::wasm::{Outlets, Runtime};
use ultra_store::MemoryStore;

const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile.wasm"));
const REDACT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/redact.wasm"));

/// Far more than any limit allows for, for machines that are busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("settings are an object")
}

/// Loads one component, without the built-ins.
fn load(id: &str, component: &[u8], word: PluginOverride) -> Result<Loaded, PluginsError> {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(format!("{id}.wasm")), component).unwrap();
    let config = config::Plugins {
        directory: Some(directory.path().into()),
        disabled: ["trace", "logging", "audit", "metrics"].map(String::from).to_vec(),
        overrides: [(id.to_owned(), word)].into(),
        ..Default::default()
    };
    let outlets = Outlets { store: Arc::new(MemoryStore::default()), spans: None, log: None };
    plugins::plan(&config, None)?.load(&Runtime::new(None).unwrap(), &outlets)
}

fn hostile(settings: Value) -> Result<Loaded, PluginsError> {
    load("hostile", HOSTILE, PluginOverride { settings: object(settings), ..Default::default() })
}

fn before(deed: &str) -> Loaded {
    hostile(json!({ "before": deed })).unwrap()
}

fn call() -> Box<Exchange> {
    let caller = Caller {
        principal: "test/1.0".into(),
        subject: None,
        session_id: "session".into(),
        protocol_version: "2025-11-25".into(),
    };
    let params = r#"{"name": "read", "arguments": {"token" : "secret", "n": 1.0}}"#;
    let mut exchange = Exchange::new(Arc::new(caller), "tools/call", params.into());
    exchange.upstream = Some("files".into());
    exchange.name = Some("read".into());
    exchange.transport = Some("stdio");
    exchange
}

fn answered(json: &'static str) -> Box<Exchange> {
    let outcome = Outcome::Result { json: json.into(), tool_error: false };
    Box::new(Exchange { outcome: Some(outcome), ..*call() })
}

fn plugin(loaded: &Loaded) -> &dyn Interceptor {
    &*loaded.stages[0].interceptor
}

fn failure_of(deed: &str) -> StageError {
    let loaded = before(deed);
    let began = Instant::now();
    let (exchange, result) = plugin(&loaded).before_request(call());
    let failure = result.expect_err(deed);

    assert!(began.elapsed() < PATIENCE, "`{deed}` held the thread for {:?}", began.elapsed());
    assert_eq!(exchange.name.as_deref(), Some("read"), "the exchange comes back whole");
    assert_eq!(loaded.plugins.health()[0].failures, 1);
    failure
}

#[test]
fn a_loop_ends_at_the_deadline() {
    assert!(
        matches!(failure_of("loop"), StageError::Timeout { limit } if limit == Duration::from_millis(20))
    );
}

#[test]
fn a_panic_tells_its_message() {
    let StageError::Trap { reason } = failure_of("panic") else { panic!("not a trap") };

    assert!(reason.contains("no wish to go on at all"), "{reason}");
    assert!(reason.contains("hostile/src/lib.rs"), "{reason}");
    assert!(!reason.contains('\n'), "{reason}");
}

#[test]
fn endless_memory_endless_recursion_and_endless_host_calls_end() {
    assert!(matches!(failure_of("allocate"), StageError::Memory { limit_bytes: 67_108_864 }));
    assert!(matches!(failure_of("recurse"), StageError::Trap { .. }));
    assert!(matches!(failure_of("flood"), StageError::HostCalls { limit: 10_000 }));
}

#[test]
fn stopping_without_an_outcome_is_a_failure_not_a_refusal() {
    assert!(matches!(failure_of("stop"), StageError::NoOutcome));
}

#[test]
fn an_act_without_its_grant_is_a_trap_that_names_both() {
    let StageError::Trap { reason } = failure_of("deny") else { panic!("not a trap") };

    assert_eq!(reason, "`deny` needs the capability `deny`, which it does not have");
}

#[test]
fn misuse_of_the_interface_is_a_trap_with_a_reason() {
    let reason = |deed| failure_of(deed).to_string();

    assert_eq!(reason("slots"), "trapped: there are slots 0 to 3 only");
    assert_eq!(reason("late-instrument"), "trapped: instruments are made in `start` only");
}

#[test]
fn a_failed_instance_is_replaced_and_state_outlives_it() {
    let loaded = hostile(json!({"before": "count", "after": "panic"})).unwrap();
    let plugin = plugin(&loaded);

    for _ in 0..4 {
        assert!(plugin.after_response(answered("{}")).1.is_err());
        plugin.before_request(call()).1.unwrap();
    }

    let health = &loaded.plugins.health()[0];
    assert_eq!((health.failures, health.quarantined), (4, false));
}

#[test]
fn a_plugin_that_fails_again_and_again_rests() {
    let loaded = before("panic");
    let plugin = plugin(&loaded);

    for _ in 0..5 {
        assert!(matches!(plugin.before_request(call()).1, Err(StageError::Trap { .. })));
    }

    assert!(matches!(
        plugin.before_request(call()).1,
        Err(StageError::Quarantined { failures: 5 })
    ));
    let health = &loaded.plugins.health()[0];
    assert!(
        health.quarantined
            && health.last_failure.as_deref().is_some_and(|why| why.contains("no wish"))
    );
}

#[test]
fn a_plugin_that_does_not_start_is_refused() {
    let refusal =
        |deed: &str| hostile(json!({ "start": deed })).map(|_| ()).unwrap_err().to_string();

    assert!(refusal("refuse").ends_with("cannot start: no wish to start"), "{}", refusal("refuse"));
    assert!(refusal("panic").contains("no wish to start"));
    assert!(refusal("loop").ends_with("no decision within 500 ms"));
    assert!(refusal("instruments").contains("more than 32 instruments"));
}

#[test]
fn large_memory_is_given_back() {
    let loaded = before("grow");

    for _ in 0..3 {
        plugin(&loaded).before_request(call()).1.unwrap();
    }
}

/// The deed is one the component does not know: it would panic.
#[test]
fn a_phase_the_plugin_does_not_want_is_not_met() {
    let loaded = before("unsubscribed");

    plugin(&loaded).before_request(call()).1.unwrap();
}

#[test]
fn shared_memory_and_log_lines_are_bounded() {
    for deed in ["hoard-state", "chatter"] {
        // Both are much work, and a machine that is busy may not get it done before the deadline.
        let mut tries = (0..10).map(|_| plugin(&before(deed)).before_request(call()).1);
        assert!(tries.any(|decision| decision.is_ok()), "{deed}");
    }
}

#[test]
fn edits_leave_all_other_bytes_as_they_were() {
    let (exchange, decision) = plugin(&before("edit")).before_request(call());

    assert!(matches!(decision, Ok(RequestDecision::Pass)), "{decision:?}");
    assert_eq!(exchange.params, r#"{"name": "read", "arguments": {"token" : "x", "n": 1.0}}"#);
    assert!(exchange.params_edited);
}

#[test]
fn a_hook_that_fails_has_changed_nothing() {
    let (exchange, result) = plugin(&before("edit-and-panic")).before_request(call());

    assert!(result.is_err());
    assert_eq!(exchange.params, call().params);
    assert!(!exchange.params_edited);
}

#[test]
fn results_can_be_edited_and_errors_cannot() {
    let edited = hostile(json!({"after": "edit-result"})).unwrap();
    let (exchange, result) = plugin(&edited).after_response(answered(r#"{"isError":false}"#));
    result.unwrap();
    assert!(matches!(exchange.outcome, Some(Outcome::Result { tool_error: true, .. })));

    let error = Outcome::Rpc { json: r#"{"code":-32000,"message":"no"}"#.into() };
    let failed = Box::new(Exchange { outcome: Some(error), ..*call() });
    let (_, result) =
        plugin(&hostile(json!({"after": "edit-error"})).unwrap()).after_response(failed);
    result.unwrap();
}

#[test]
fn answers_are_checked_and_stay_on_one_line() {
    let (_, decision) = plugin(&before("answer")).before_request(call());
    assert!(matches!(decision, Ok(RequestDecision::Answer(json)) if json == r#"{"content": []}"#));

    let (_, decision) = plugin(&before("forget-to-stop")).before_request(call());
    assert!(matches!(decision, Ok(RequestDecision::Answer(_))));

    let (_, decision) = plugin(&before("answer-nonsense")).before_request(call());
    assert!(matches!(decision, Ok(RequestDecision::Pass)));
}

/// The request phase of the hostile plugin fails closed, its response phase open.
#[tokio::test]
async fn the_failure_mode_decides_what_becomes_of_the_call() {
    let loaded = hostile(json!({"before": "panic", "after": "loop"})).unwrap();
    assert_eq!(loaded.stages[0].request, Some(FailureMode::Closed));
    let pipeline = Pipeline::new(loaded.stages, Arc::new(MemoryStore::default()));

    let (blocked, entered) = pipeline.before_request(call()).await;
    let passed = pipeline.after_response(entered, answered("{}")).await;

    let Some(Outcome::Failed(error)) = &blocked.outcome else { panic!("{:?}", blocked.outcome) };
    assert_eq!(error.to_string(), "interceptor `hostile` failed");
    assert!(matches!(passed.outcome, Some(Outcome::Result { .. })));
}

#[tokio::test]
async fn the_example_denies_and_redacts() {
    let settings = object(
        json!({"denied": ["delete"], "arguments": ["/arguments/token"], "results": ["/content/0/text"]}),
    );
    let word = PluginOverride { settings, ..Default::default() };
    let loaded = load("redact", REDACT, word).unwrap();
    let pipeline = Pipeline::new(loaded.stages, Arc::new(MemoryStore::default()));

    let (redacted, _) = pipeline.before_request(call()).await;
    let (denied, _) = pipeline
        .before_request(Box::new(Exchange { name: Some("delete".into()), ..*call() }))
        .await;
    let result = pipeline.after_response(1, answered(r#"{"content":[{"text":"secret"}]}"#)).await;

    assert_eq!(
        redacted.params,
        r#"{"name": "read", "arguments": {"token" : "[redacted]", "n": 1.0}}"#
    );
    let Some(Outcome::Failed(CallError::Denied { stage, reason })) = &denied.outcome else {
        panic!("not denied")
    };
    assert_eq!((&**stage, reason.as_str()), ("redact", "`delete` is not allowed here"));
    assert_eq!(result.payload(), br#"{"content":[{"text":"[redacted]"}]}"#);
}

#[test]
fn hooks_run_side_by_side() {
    let loaded = before("well");
    let plugin = plugin(&loaded);

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    plugin.before_request(call()).1.unwrap();
                    assert!(matches!(
                        plugin.after_response(answered("{}")).1,
                        Ok(ResponseDecision::Pass)
                    ));
                }
            });
        }
    });

    assert_eq!(loaded.plugins.health()[0].failures, 0);
}
