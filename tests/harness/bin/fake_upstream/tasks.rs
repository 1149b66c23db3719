//! Tasks, as the revision 2025-11-25 has them (experimental).

use std::time::Duration;

use crate::server::{Server, Timer, quote};

/// A tool call that runs as a task.
pub(crate) struct Task {
    id: String,
    status: &'static str,
    ttl: String,
    /// Requests for the result that wait for the end.
    waiting: Vec<String>,
}

impl Task {
    /// Returns it as JSON. Times are fixed, so that two runs compare equal.
    pub(crate) fn to_json(&self, unknown: &str) -> String {
        let Self { id, status, ttl, waiting: _ } = self;
        let id = quote(id);
        format!(
            r#"{{"taskId":{id},"status":"{status}","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":{ttl},"pollInterval":50{unknown}}}"#
        )
    }
}

impl Server {
    pub(crate) fn start_task(&mut self, request: &str, ttl: String, ms: u64) {
        let id = format!("task-{}", self.tasks.len());
        let task = Task { id: id.clone(), status: "working", ttl, waiting: Vec::new() };
        let x = self.unknown();
        let json = task.to_json(x);
        self.tasks.insert(id.clone(), task);
        self.after(Duration::from_millis(ms), Timer::Task(id));
        self.reply(request, &format!(r#"{{"task":{json}{x}}}"#));
    }

    pub(crate) fn finish_task(&mut self, id: &str) {
        let x = self.unknown();
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.status == "working") else {
            return;
        };
        task.status = "completed";
        let json = task.to_json(x);
        let waiting = std::mem::take(&mut task.waiting);
        self.notify("notifications/tasks/status", &json);
        for request in waiting {
            self.reply_task_result(&request, id);
        }
    }

    pub(crate) fn about_task(&mut self, request: &str, method: &str, id: &str) {
        let x = self.unknown();
        let Some(task) = self.tasks.get_mut(id) else {
            return self.fail(request, -32602, "unknown task");
        };
        match (method, task.status) {
            ("tasks/get", _) => {
                let json = task.to_json(x);
                self.reply(request, &json);
            }
            ("tasks/cancel", "working") => {
                task.status = "cancelled";
                let json = task.to_json(x);
                let waiting = std::mem::take(&mut task.waiting);
                self.reply(request, &json);
                for request in waiting {
                    self.fail(&request, -32603, "the task was cancelled");
                }
            }
            ("tasks/result", "working") => task.waiting.push(request.to_owned()),
            ("tasks/result", "completed") => self.reply_task_result(request, id),
            _ => self.fail(request, -32602, "the task is over"),
        }
    }

    fn reply_task_result(&mut self, request: &str, id: &str) {
        let (id, x) = (quote(id), self.unknown());
        self.reply(
            request,
            &format!(
                r#"{{"content":[{{"type":"text","text":"the task is done"}}],"_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":{id}}}}}{x}}}"#
            ),
        );
    }
}
