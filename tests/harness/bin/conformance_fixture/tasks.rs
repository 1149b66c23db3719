//! The extension `io.modelcontextprotocol/tasks` of 2026-07-28: calls whose result is fetched later.
//!
//! A task runs the same steps as a call. Where one asks, the task waits for `tasks/update`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::call::{Call, Outcome};
use crate::modern;
use crate::rpc::{Fault, INTERNAL_ERROR, Object, Request};
use crate::server::{Server, lock};

pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// Tasks that are kept; the oldest goes first.
const TASKS_MAX: usize = 256;

/// An operation that asks more often than this goes round in circles.
const ROUNDS_MAX: usize = 10;

/// How long a task is promised to be kept, and how often to look.
const TTL_MS: u64 = 300_000;
const POLL_INTERVAL_MS: u64 = 200;

/// Returns whether a call becomes a task, if the client can have it.
pub(crate) fn becomes_task(tool: &str, call: &Call) -> bool {
    match tool {
        "slow_compute" | "confirm_delete" | "multi_input" => true,
        // Asks first, and only then becomes one.
        "test_tool_with_task" => call.answers.contains_key("user_name"),
        _ => is_only_a_task(tool),
    }
}

/// Returns whether a tool is of no use to a client that cannot have tasks.
pub(crate) fn is_only_a_task(tool: &str) -> bool {
    matches!(tool, "failing_job" | "protocol_error_job")
}

/// All tasks, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<VecDeque<Arc<Task>>>);

/// One task.
#[derive(Debug)]
struct Task {
    id: String,
    created_at: String,
    state: Mutex<State>,
    updated: Notify,
}

#[derive(Debug)]
struct State {
    status: &'static str,
    updated_at: String,
    /// `result` or `error`, and its value.
    end: Option<(&'static str, Value)>,
    /// What it asks, and the answers so far.
    requests: Object,
    answers: Object,
    work: Option<AbortHandle>,
}

/// Starts a task and returns the result that names it.
pub(crate) fn start(server: &Arc<Server>, request: Request, call: Call) -> Value {
    let task = Arc::new(Task::new());
    let mut tasks = lock(&server.tasks.0);
    if tasks.len() == TASKS_MAX
        && let Some(oldest) = tasks.pop_front()
    {
        oldest.cancel();
    }
    tasks.push_back(Arc::clone(&task));
    drop(tasks);

    let mut result = task.describe();
    result["resultType"] = json!("task");
    let work = tokio::spawn(run(Arc::clone(server), Arc::clone(&task), request, call));
    lock(&task.state).work = Some(work.abort_handle());
    result
}

async fn run(server: Arc<Server>, task: Arc<Task>, request: Request, mut call: Call) {
    let fail = |fault: Fault| task.end("failed", "error", fault.object());
    for _ in 0..ROUNDS_MAX {
        let ask = match server.step(&request, &call).await {
            Ok(Outcome::Done(result)) => return task.end("completed", "result", result),
            Ok(Outcome::Ask(ask)) => ask,
            Err(fault) => return fail(fault),
        };
        if let Some(capability) = ask.missing_capability(&call) {
            return fail(Fault::new(INTERNAL_ERROR, format!("the client has no `{capability}`")));
        }
        call.answers = task.ask(ask.requests).await;
        call.state = ask.state;
    }
    fail(Fault::new(INTERNAL_ERROR, "the operation asks again and again"));
}

impl Tasks {
    /// Answers `tasks/get`, `tasks/update` and `tasks/cancel`.
    pub(crate) fn answer(&self, request: &Request) -> Result<Value, Fault> {
        let id = request.text("taskId")?;
        let task = lock(&self.0).iter().find(|task| task.id == id).cloned();
        let task = task.ok_or_else(|| Fault::invalid_params(format!("no task `{id}`")))?;
        match request.method.as_str() {
            "tasks/get" => return Ok(task.detail()),
            "tasks/update" => task.update(modern::input_responses(&request.params)?),
            "tasks/cancel" => task.cancel(),
            method => return Err(Fault::method_not_found(method)),
        }
        Ok(json!({}))
    }
}

impl Task {
    fn new() -> Self {
        let now = now();
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            created_at: now.clone(),
            state: Mutex::new(State {
                status: "working",
                updated_at: now,
                end: None,
                requests: Object::new(),
                answers: Object::new(),
                work: None,
            }),
            updated: Notify::new(),
        }
    }

    /// Returns what is known of every task.
    fn describe(&self) -> Value {
        let state = lock(&self.state);
        json!({
            "taskId": self.id,
            "status": state.status,
            "createdAt": self.created_at,
            "lastUpdatedAt": state.updated_at,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_INTERVAL_MS,
        })
    }

    /// Returns the description, with what goes with its status.
    fn detail(&self) -> Value {
        let mut detail = self.describe();
        let state = lock(&self.state);
        if let Some((member, value)) = &state.end {
            detail[member] = value.clone();
        }
        if !state.requests.is_empty() {
            detail["inputRequests"] = json!(state.requests);
        }
        detail
    }

    /// Waits for the answers to all these requests.
    async fn ask(&self, requests: Object) -> Object {
        lock(&self.state).become_status("input_required").requests = requests;
        loop {
            let updated = self.updated.notified();
            {
                let mut state = lock(&self.state);
                if state.requests.is_empty() {
                    return std::mem::take(&mut state.become_status("working").answers);
                }
            }
            updated.await;
        }
    }

    /// Takes answers to what is asked; others are ignored.
    fn update(&self, answers: Object) {
        let mut state = lock(&self.state);
        for (key, answer) in answers {
            if state.requests.remove(&key).is_some() {
                state.answers.insert(key, answer);
            }
        }
        self.updated.notify_one();
    }

    /// Ends it, unless it has ended.
    fn cancel(&self) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.become_status("cancelled").requests.clear();
            if let Some(work) = state.work.take() {
                work.abort();
            }
        }
    }

    fn end(&self, status: &'static str, member: &'static str, value: Value) {
        let mut state = lock(&self.state);
        // A cancelled task stays one.
        if state.status != "cancelled" {
            state.become_status(status).end = Some((member, value));
        }
    }
}

impl State {
    fn become_status(&mut self, status: &'static str) -> &mut Self {
        self.status = status;
        self.updated_at = now();
        self
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
