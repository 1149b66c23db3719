//! Plans and loads, with the real built-ins and copies of them that were changed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use ultra_store::{
    AuditFilter, AuditOutcome, MemoryStore, MetricValue, Reader, Status, TraceFilter,
};

use super::builtin::BUILTINS;
use super::*;
use crate::config::PluginOverride;
use crate::pipeline::{CallError, Outcome, Pipeline};
use crate::wasm::testing::exchange;
use crate::wasm::{CachePlace, Outlets, Runtime};

/// Returns a built-in with one text in its manifest replaced by another of the same length.
fn changed(builtin: usize, changes: &[(&str, &str)]) -> Vec<u8> {
    let mut component = BUILTINS[builtin].component.to_vec();
    for (old, new) in changes {
        assert_eq!(old.len(), new.len(), "sections have fixed sizes");
        let at = component.windows(old.len()).position(|window| window == old.as_bytes());
        let at = at.unwrap_or_else(|| panic!("`{old}` is in the manifest"));
        component[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    component
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn ids(plan: &Plan) -> Vec<String> {
    plan.infos()
        .into_iter()
        .filter(|info| info.state == State::Active)
        .filter_map(|info| info.id)
        .collect()
}

fn with_override(id: &str, word: PluginOverride) -> config::Plugins {
    config::Plugins { overrides: [(id.to_owned(), word)].into(), ..Default::default() }
}

fn plan_of(config: &config::Plugins) -> Plan {
    plan(config, None).unwrap()
}

/// Returns what is refused in a directory, a line each.
fn refusals_in(directory: &Path) -> String {
    let plan = plan(&config::Plugins::default(), Some(directory)).unwrap();
    let line = |refused: &Refused| format!("{}: {}", refused.file, refused.reason);
    let lines: Vec<_> = plan.refused().iter().map(line).collect();
    lines.join("\n").replace(&format!("{}/", directory.display()), "")
}

fn outlets(store: &Arc<MemoryStore>) -> Outlets {
    Outlets { store: Arc::clone(store) as _, spans: None, log: None }
}

fn load(plan: Plan, store: &Arc<MemoryStore>) -> Result<Loaded, PluginsError> {
    plan.load(&Runtime::new(None).unwrap(), &outlets(store))
}

#[test]
fn builtins_are_in_the_documented_order_with_the_documented_modes() {
    let plan = plan_of(&config::Plugins::default());

    let table: Vec<_> = plan
        .infos()
        .into_iter()
        .map(|info| (info.id.unwrap(), info.priority, info.request, info.response))
        .collect();
    let (open, closed) = (Some(FailureMode::Open), Some(FailureMode::Closed));
    assert_eq!(
        table,
        [
            ("trace".to_owned(), Some(0), open, open),
            ("logging".to_owned(), Some(75), open, open),
            ("audit".to_owned(), Some(75), open, closed),
            ("metrics".to_owned(), Some(100), open, open),
        ]
    );
    assert!(plan.refused().is_empty() && plan.warnings().is_empty());
}

#[test]
fn the_administrator_disables_moves_and_hardens() {
    let word = PluginOverride {
        priority: Some(-5),
        request: Some(FailureMode::Closed),
        response: Some(FailureMode::Open),
        ..Default::default()
    };
    let config =
        config::Plugins { disabled: vec!["logging".into()], ..with_override("audit", word) };

    let plan = plan_of(&config);

    assert_eq!(ids(&plan), ["audit", "trace", "metrics"]);
    let audit = &plan.infos()[0];
    assert_eq!(
        (audit.request, audit.response),
        (Some(FailureMode::Closed), Some(FailureMode::Open))
    );
    assert_eq!(plan.infos()[3].state, State::Disabled);
}

#[test]
fn what_the_config_names_and_nobody_has_is_a_warning() {
    let config = config::Plugins {
        disabled: vec!["adit".into()],
        ..with_override("metrix", PluginOverride::default())
    };

    let plan = plan_of(&config);

    assert_eq!(
        plan.warnings(),
        [
            "`plugins.disabled` names `adit`, and there is no such plugin",
            "the config is about a plugin `metrix`, and there is no such plugin"
        ]
    );
}

#[test]
fn a_file_with_the_id_of_a_builtin_takes_its_place() {
    let newer = changed(1, &[("version = \"0.1.0\"", "version = \"7.0.0\"")]);
    let directory = directory(&[("zz.wasm", &newer)]);

    let plan = plan(&config::Plugins::default(), Some(directory.path())).unwrap();

    assert_eq!(ids(&plan), ["trace", "logging", "audit", "metrics"]);
    assert_eq!(plan.infos()[1].version.as_deref(), Some("7.0.0"));
    assert!(plan.infos()[1].source.ends_with("zz.wasm"));
}

#[test]
fn equal_priorities_go_by_file_name_after_the_builtins() {
    let one = changed(1, &[("id = \"logging\"", "id = \"log-one\"")]);
    let two = changed(1, &[("id = \"logging\"", "id = \"log-two\"")]);
    let first =
        changed(1, &[("id = \"logging\"", "id = \"log-new\""), ("priority = 75", "priority = 11")]);
    let directory = directory(&[
        ("b.wasm", &one),
        ("a/plugin.wasm", &two),
        ("c.wasm", &first),
        ("notes.txt", b"no plugin"),
    ]);

    let plan = plan(&config::Plugins::default(), Some(directory.path())).unwrap();

    assert_eq!(
        ids(&plan),
        ["trace", "log-new", "logging", "audit", "log-two", "log-one", "metrics"]
    );
}

#[test]
fn what_cannot_run_is_refused_by_name_and_reason() {
    let overreaching =
        changed(2, &[("id = \"audit\"", "id = \"adult\""), ("[\"audit\"]", "[\"clock\"]")]);
    let twin = changed(0, &[("id = \"trace\"", "id = \"twins\"")]);
    let newer = changed(0, &[("api = \"0.1\"", "api = \"0.9\"")]);
    let directory = directory(&[
        ("adult.wasm", &overreaching),
        ("module.wasm", b"\0asm\x01\0\0\0"),
        ("newer.wasm", &newer),
        ("sidecar.wasm", &changed(0, &[("id = \"trace\"", "id = \"other\"")])),
        ("sidecar.toml", b"id = \"other\"\nversion = \"2\"\napi = \"0.1\"\npriority = 1\n[request]\nfailure = \"open\""),
        ("twin-1.wasm", &twin),
        ("twin-2.wasm", &twin),
        ("upper.wasm", &changed(0, &[("id = \"trace\"", "id = \"Trace\"")])),
    ]);

    insta::assert_snapshot!(refusals_in(directory.path()), @r"
    module.wasm: it is a core module, not a component; `wasm-tools component new` makes one of it
    newer.wasm: version 0.1.0 is made for plugin API 0.9, and this Ultra has 0.1
    sidecar.wasm: the manifest beside it is not the one within it
    upper.wasm: the id `Trace` is not 1 to 64 of a-z, 0-9 and `-`
    adult.wasm: it imports `audit`, a capability its manifest does not ask for
    twin-1.wasm: the id `twins` is also that of `twin-2.wasm`
    twin-2.wasm: the id `twins` is also that of `twin-1.wasm`
    ");
}

/// Both or none: nobody can say which of the two was meant to guard the calls.
#[test]
fn twins_of_a_builtin_leave_the_builtin() {
    let directory =
        directory(&[("a.wasm", BUILTINS[2].component), ("b.wasm", BUILTINS[2].component)]);
    let config = config::Plugins { allow_refused: true, ..Default::default() };

    let plan = plan(&config, Some(directory.path())).unwrap();

    assert_eq!(ids(&plan), ["trace", "logging", "audit", "metrics"]);
    assert_eq!(plan.infos()[2].source, "built-in");
    assert_eq!(plan.refused().len(), 2);
    plan.check().unwrap();
}

#[test]
fn a_start_fails_closed_unless_the_config_says_otherwise() {
    let directory = directory(&[("broken.wasm", b"broken")]);
    let allowing = config::Plugins { allow_refused: true, ..Default::default() };

    let strict = plan(&config::Plugins::default(), Some(directory.path())).unwrap().check();

    assert!(strict.unwrap_err().to_string().contains("broken.wasm"));
    plan(&allowing, Some(directory.path())).unwrap().check().unwrap();
    let missing = plan(&config::Plugins::default(), Some(&directory.path().join("none")));
    assert!(matches!(missing, Err(PluginsError::Directory { .. })));
}

/// A gateway without its audit is not what `allow_refused` is for.
#[test]
fn a_builtin_is_never_left_out() {
    let settings = json!({"operations": ["nonsense"]}).as_object().cloned().unwrap();
    let word = PluginOverride { settings, ..Default::default() };
    let config = config::Plugins { allow_refused: true, ..with_override("audit", word) };

    let refused = load(plan_of(&config), &Arc::default()).map(|_| ()).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "refused `built-in audit`: cannot start: setting `operations`: there is no operation `nonsense`"
    );
}

#[test]
fn a_grant_taken_away_is_a_refusal_not_a_surprise() {
    let word = PluginOverride {
        capabilities: Some(vec!["log".into(), "fly".into()]),
        ..Default::default()
    };

    let plan = plan_of(&with_override("audit", word));

    assert_eq!(
        plan.refused()[0].reason,
        "it imports `audit`, a capability the config does not grant"
    );
    assert_eq!(
        plan.warnings(),
        ["the config grants `fly` to plugin `audit`, and there is no such capability"]
    );
    assert!(plan.check().is_err());
}

#[tokio::test]
async fn builtins_trace_audit_and_count_a_call() {
    let store = Arc::new(MemoryStore::default());
    let loaded = load(plan_of(&config::Plugins::default()), &store).unwrap();
    let pipeline = Pipeline::new(loaded.stages, Arc::clone(&store) as _);
    let mut call = exchange("read");
    call.traceparent = Some(r#""00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#.into());

    let (mut call, entered) = pipeline.before_request(call).await;
    call.outcome = Some(Outcome::Result { json: r#"{"content":[]}"#.into(), tool_error: false });
    let call = pipeline.after_response(entered, call).await;

    assert_eq!(entered, 4);
    assert!(!call.failed(), "{:?}", call.outcome);
    let trace = &store.traces(&TraceFilter::default()).unwrap()[0];
    assert_eq!(trace.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(trace.parent_span_id.as_deref(), Some("b7ad6b7169203331"));
    assert_eq!(
        (trace.status, trace.upstream.as_deref(), trace.name.as_deref()),
        (Status::Success, Some("files"), Some("read"))
    );
    let event = &store.audit_events(&AuditFilter::default()).unwrap()[0];
    assert_eq!((&*event.event_type, event.outcome), ("tool_call", AuditOutcome::Success));
    assert_eq!(event.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    let deltas = loaded.plugins.drain_metrics();
    assert_eq!((&*deltas[0].instrument, &deltas[0].value), ("mcp.calls", &MetricValue::Counter(1)));
    assert_eq!(&*deltas[1].instrument, "mcp.call.duration");
    assert_eq!(deltas.len(), 2, "no errors, so no figure of them");
}

#[tokio::test]
async fn a_denied_call_is_audited_as_one() {
    let store = Arc::new(MemoryStore::default());
    let loaded = load(plan_of(&config::Plugins::default()), &store).unwrap();
    let pipeline = Pipeline::new(loaded.stages, Arc::clone(&store) as _);
    let mut call = exchange("delete");
    let denied = CallError::Denied { stage: "policy".into(), reason: "not here".into() };
    call.outcome = Some(Outcome::Failed(denied));

    // The stage that refused stood between trace and the others.
    let call = pipeline.after_response(1, call).await;

    assert!(call.traced);
    let event = &store.audit_events(&AuditFilter::default()).unwrap()[0];
    assert_eq!((&*event.event_type, event.outcome), ("policy_deny", AuditOutcome::Deny));
    assert_eq!(event.reason.as_deref(), Some("not here"));
}

#[test]
fn the_second_start_compiles_nothing() {
    let home = TempDir::new().unwrap();
    let place = CachePlace {
        directory: home.path().join("cache/plugins"),
        key_file: home.path().join("data/plugin-cache.key"),
    };
    let store = Arc::new(MemoryStore::default());
    let start = || {
        let runtime = Runtime::new(Some(&place)).unwrap();
        let plan = plan_of(&config::Plugins::default());
        let cached = plan
            .candidates
            .iter()
            .filter(|plugin| runtime.cached(&plugin.digest).is_some())
            .count();
        let loaded = plan.load(&runtime, &outlets(&store)).unwrap();
        (cached, loaded.stages.len())
    };

    assert_eq!(start(), (0, 4));
    assert_eq!(start(), (4, 4));
}

/// The clock of deadlines must not make the first hook after a pause fail.
#[test]
fn plugins_work_after_a_pause() {
    let store = Arc::new(MemoryStore::default());
    let loaded = load(plan_of(&config::Plugins::default()), &store).unwrap();

    for pause in [Duration::ZERO, Duration::from_millis(60)] {
        std::thread::sleep(pause);
        for stage in &loaded.stages {
            stage.interceptor.before_request(exchange("read")).1.unwrap();
        }
    }

    assert!(loaded.plugins.health().iter().all(|health| health.failures == 0));
}
