//! Order, failure modes, and what the outer stages still see, with scripted stages.

use std::sync::Mutex;

use bytes::Bytes;
use ultra_store::{
    AuditEvent, AuditFilter, AuditOutcome, MemoryOptions, MemoryStore, Reader as _, Severity,
};

use super::*;

type Seen = Arc<Mutex<Vec<String>>>;

/// A stage that notes what it sees and does as it is told.
struct Scripted {
    name: &'static str,
    seen: Seen,
    before: fn(&mut Exchange) -> Result<RequestDecision, StageError>,
    after: fn(&mut Exchange) -> Result<ResponseDecision, StageError>,
}

impl Interceptor for Scripted {
    fn before_request(
        &self,
        mut exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<RequestDecision, StageError>) {
        self.seen.lock().unwrap().push(format!("{} before", self.name));
        let decision = (self.before)(&mut exchange);
        (exchange, decision)
    }

    fn after_response(
        &self,
        mut exchange: Box<Exchange>,
    ) -> (Box<Exchange>, Result<ResponseDecision, StageError>) {
        let failed = if exchange.failed() { " failed" } else { "" };
        self.seen.lock().unwrap().push(format!("{} after{failed}", self.name));
        let decision = (self.after)(&mut exchange);
        (exchange, decision)
    }
}

fn pass(_: &mut Exchange) -> Result<RequestDecision, StageError> {
    Ok(RequestDecision::Pass)
}

fn pass_after(_: &mut Exchange) -> Result<ResponseDecision, StageError> {
    Ok(ResponseDecision::Pass)
}

fn fail(_: &mut Exchange) -> Result<RequestDecision, StageError> {
    Err(StageError::NoOutcome)
}

fn deny(_: &mut Exchange) -> Result<RequestDecision, StageError> {
    Ok(RequestDecision::Deny("not today".to_owned()))
}

fn audit_after(exchange: &mut Exchange) -> Result<ResponseDecision, StageError> {
    exchange.audit = Some(Box::new(AuditEvent {
        id: uuid::Uuid::now_v7(),
        trace_id: None,
        event_type: "tool_call",
        severity: Severity::Info,
        upstream: None,
        action: None,
        principal: "test".into(),
        session_id: None,
        outcome: AuditOutcome::Success,
        reason: None,
        details: Vec::new(),
        unix_ns: 0,
    }));
    Ok(ResponseDecision::Pass)
}

fn stage(seen: &Seen, name: &'static str) -> (Stage, Scripted) {
    let scripted = Scripted { name, seen: Arc::clone(seen), before: pass, after: pass_after };
    let stage = Stage {
        id: name.into(),
        priority: 0,
        request: Some(FailureMode::Closed),
        response: Some(FailureMode::Closed),
        sees: Sees::CALLS,
        sees_all_outcomes: false,
        interceptor: Arc::new(Scripted {
            name,
            seen: Arc::clone(seen),
            before: pass,
            after: pass_after,
        }),
    };
    (stage, scripted)
}

fn with(seen: &Seen, name: &'static str, change: impl FnOnce(&mut Stage, &mut Scripted)) -> Stage {
    let (mut stage, mut scripted) = stage(seen, name);
    change(&mut stage, &mut scripted);
    stage.interceptor = Arc::new(scripted);
    stage
}

fn exchange() -> Box<Exchange> {
    let caller = Caller {
        principal: "test".into(),
        subject: None,
        session_id: "s".into(),
        protocol_version: "2025-11-25".into(),
    };
    Exchange::new(Arc::new(caller), "tools/call", Bytes::from_static(b"{}"))
}

/// Runs a call whose upstream answers `{}`, and returns what the stages saw and how it ended.
async fn run(stages: Vec<Stage>, seen: Seen, store: Arc<MemoryStore>) -> (Vec<String>, String) {
    let pipeline = Pipeline::new(stages, store);
    let (mut exchange, entered) = pipeline.before_request(exchange()).await;
    exchange
        .outcome
        .get_or_insert(Outcome::Result { json: Bytes::from_static(b"{}"), tool_error: false });
    let exchange = pipeline.after_response(entered, exchange).await;
    let ended = match exchange.outcome.unwrap() {
        Outcome::Result { json, .. } => String::from_utf8(json.to_vec()).unwrap(),
        Outcome::Rpc { .. } => "an upstream's error".to_owned(),
        Outcome::Failed(error) => error.to_string(),
    };
    let seen = seen.lock().unwrap().clone();
    (seen, ended)
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(MemoryOptions::default()))
}

#[tokio::test]
async fn requests_meet_stages_in_order_and_outcomes_in_reverse() {
    let seen = Seen::default();
    let stages = vec![stage(&seen, "a").0, stage(&seen, "b").0];

    let (seen, ended) = run(stages, seen, store()).await;

    assert_eq!(seen, ["a before", "b before", "b after", "a after"]);
    assert_eq!(ended, "{}");
}

#[tokio::test]
async fn a_denial_ends_the_request_phase_and_whoever_saw_the_call_sees_it() {
    let seen = Seen::default();
    let stages = vec![
        stage(&seen, "outer").0,
        with(&seen, "policy", |_, scripted| scripted.before = deny),
        stage(&seen, "inner").0,
        with(&seen, "audit", |stage, _| stage.sees_all_outcomes = true),
    ];

    let (seen, ended) = run(stages, seen, store()).await;

    assert_eq!(
        seen,
        [
            "outer before",
            "policy before",
            "audit after failed",
            "policy after failed",
            "outer after failed"
        ]
    );
    assert_eq!(ended, "denied by `policy`: not today");
}

#[tokio::test]
async fn an_error_blocks_the_call_unless_the_stage_is_open() {
    for (mode, expected) in
        [(FailureMode::Open, "{}"), (FailureMode::Closed, "interceptor `a` failed")]
    {
        let seen = Seen::default();
        let stages = vec![with(&seen, "a", |stage, scripted| {
            stage.request = Some(mode);
            scripted.before = fail;
        })];

        let (_, ended) = run(stages, seen, store()).await;

        assert_eq!(ended, expected);
    }
}

#[tokio::test]
async fn a_result_without_its_audit_event_is_withheld_and_outer_stages_see_the_failure() {
    let seen = Seen::default();
    let stages = vec![
        stage(&seen, "trace").0,
        with(&seen, "audit", |_, scripted| scripted.after = audit_after),
        stage(&seen, "metrics").0,
    ];
    let store = store();
    store.refuse_audit(true);

    let (seen, ended) = run(stages, seen, Arc::clone(&store)).await;

    assert_eq!(
        seen,
        [
            "trace before",
            "audit before",
            "metrics before",
            "metrics after",
            "audit after",
            "trace after failed"
        ]
    );
    assert_eq!(ended, "interceptor `audit` failed");
    assert!(store.audit_events(&AuditFilter::default()).unwrap().is_empty());
}

#[tokio::test]
async fn an_audit_event_of_an_open_stage_holds_nobody_up() {
    let seen = Seen::default();
    let stages = vec![with(&seen, "audit", |stage, scripted| {
        stage.response = Some(FailureMode::Open);
        scripted.after = audit_after;
    })];
    let store = store();
    store.refuse_audit(true);

    let (_, ended) = run(stages, seen, store).await;

    assert_eq!(ended, "{}");
}

#[tokio::test]
async fn a_stage_meets_the_kinds_of_messages_it_sees_and_no_others() {
    let seen = Seen::default();
    let notified = |stage: &mut Stage, _: &mut Scripted| {
        stage.sees = [MessageKind::Notifications].into_iter().collect();
    };
    let stages = vec![with(&seen, "notified", notified), stage(&seen, "called").0];
    let pipeline = Pipeline::new(stages, store());
    let caller = Arc::clone(&exchange().caller);
    let note = Exchange::notification(caller, "notifications/progress", Bytes::new());

    let (called, entered) = pipeline.before_request(exchange()).await;
    pipeline.after_response(entered, called).await;
    pipeline.before_message(note);

    assert_eq!(*seen.lock().unwrap(), ["called before", "called after", "notified before"]);
    assert!(pipeline.sees(MessageKind::Notifications));
    assert!(!pipeline.sees(MessageKind::ServerRequests));
}

#[tokio::test]
async fn the_audit_event_of_what_is_no_call_is_not_waited_for() {
    let seen = Seen::default();
    let question = |stage: &mut Stage, scripted: &mut Scripted| {
        stage.sees = [MessageKind::ServerRequests].into_iter().collect();
        scripted.after = audit_after;
    };
    let store = store();
    store.refuse_audit(true);
    let pipeline = Pipeline::new(vec![with(&seen, "audit", question)], Arc::clone(&store) as _);
    let caller = Arc::clone(&exchange().caller);
    let kind = MessageKind::ServerRequests;
    let asked = Exchange::of_upstream(kind, caller, &"up".into(), "roots/list", Bytes::new());

    let (mut asked, entered) = pipeline.before_message(asked);
    asked.outcome = Some(Outcome::Result { json: Bytes::from_static(b"{}"), tool_error: false });
    let answered = pipeline.after_message(entered, asked);

    assert!(matches!(answered.outcome, Some(Outcome::Result { .. })));
}
