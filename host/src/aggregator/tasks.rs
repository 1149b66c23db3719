//! Whose a task is, and under which name which client knows it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Aggregator, Edit, LEARNED_MAX, Naming, Target, has, text};
use crate::bridge::Place;
use crate::lock;
use crate::mcp::{json, modern};
use crate::pipeline::Outcome;
use crate::upstream::{Patience, Upstream, UpstreamError, push_array};

/// A list of an upstream's tasks may have so many pages.
const TASK_PAGES_MAX: usize = 1000;

/// And so many bytes.
const TASK_BYTES_MAX: usize = 64 << 20;

impl Aggregator {
    /// Finds whose a task is by the name we gave it.
    pub(super) fn sealed_task(&self, name: &str, range: Range<usize>) -> Option<Target> {
        let (owner, id) = self.seal.open_task(&self.surroundings.caller.owner(), name)?;
        let upstreams = self.upstreams();
        let upstream = upstreams.iter().find(|upstream| *upstream.name == *owner)?;
        let edit = Edit { path: &["taskId"], range, quoted: json::quote(&id).into() };
        let (upstream, name) = (Arc::clone(upstream), Some(id.into()));
        Some(Target::Upstream { upstream, name, edit: Some(edit) })
    }

    /// Returns an outcome with our name for the task that it tells of.
    pub(super) fn named(
        &self,
        place: &Place<'_>,
        upstream: &Upstream,
        outcome: Outcome,
    ) -> Outcome {
        let Outcome::Result { json: result, tool_error } = outcome else { return outcome };
        let tells = place.method.starts_with("tasks/")
            || json::member(&result, "resultType")
                .is_some_and(|range| &result[range] == b"\"task\"");
        let is_ours = self.naming != Naming::Own || self.serves_others(upstream);
        let id = json::member(&result, "taskId")
            .and_then(|range| Some((range.clone(), json::string(&result[range])?.into_owned())));
        let json = match id.filter(|_| tells && is_ours) {
            Some((range, id)) => {
                let name = place.seal.task(place.principal, place.upstream, &id);
                json::splice(&result, &[(range, json::quote(&name).into())]).into()
            }
            None => result,
        };
        Outcome::Result { json, tool_error }
    }

    /// Returns whether an upstream cannot tell our clients apart: all of them are one connection, or one
    /// account, to it.
    pub(super) fn serves_others(&self, upstream: &Upstream) -> bool {
        let has_one_account =
            self.surroundings.caller.subject.is_some() && upstream.transport != "stdio";
        upstream.is_shared() || has_one_account
    }

    pub(super) fn learn_task(&self, upstream: &Arc<Upstream>, id: String) {
        let mut learned = lock(&self.learned);
        if learned.tasks.len() < LEARNED_MAX {
            learned.tasks.insert(id, Arc::clone(upstream));
        }
    }

    pub(super) fn knows_task(&self, id: &str) -> bool {
        lock(&self.learned).tasks.contains_key(id)
    }

    /// Returns the tasks of all upstreams that keep some.
    pub async fn list_tasks(&self) -> Bytes {
        let mut tasks = Vec::new();
        for upstream in self.upstreams().iter().filter(|upstream| has(upstream, "tasks")) {
            match self.tasks_of(upstream).await {
                Ok(items) => tasks.extend(items),
                Err(error) => {
                    tracing::warn!(upstream = %upstream.name, %error, "its tasks are left out")
                }
            }
        }
        let mut result = b"{\"tasks\":".to_vec();
        push_array(&mut result, tasks.iter());
        result.push(b'}');
        result.into()
    }

    async fn tasks_of(&self, upstream: &Arc<Upstream>) -> Result<Vec<Bytes>, UpstreamError> {
        let connection = upstream.connection().await?;
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        let mut tasks = Vec::new();
        let mut params = Vec::new();
        let mut bytes = 0;
        for _ in 0..TASK_PAGES_MAX {
            let page = upstream.ask(&connection, patience, "tasks/list", &params).await?;
            bytes += page.len();
            if tasks.len() >= LEARNED_MAX || bytes > TASK_BYTES_MAX {
                break;
            }
            let Some(items) = json::member(&page, "tasks").map(|range| page.slice(range)) else {
                break;
            };
            for range in json::elements(&items) {
                let task = items.slice(range);
                match text(&task, &["taskId"]) {
                    Ok((_, id)) if self.serves_others(upstream) && !self.knows_task(&id) => {
                        continue;
                    }
                    Ok((_, id)) => self.learn_task(upstream, id),
                    Err(_) => {}
                }
                tasks.push(task);
            }
            let next = json::member(&page, "nextCursor").map(|range| page.slice(range));
            let Some(cursor) = next.filter(|cursor| cursor != "null") else { break };
            let next = [b"{\"cursor\":", &cursor[..], b"}"].concat();
            if next == params {
                break;
            }
            params = next;
        }
        Ok(tasks)
    }
}

/// Returns whether an upstream keeps tasks, as either era does.
pub(super) fn has_tasks(upstream: &Upstream) -> bool {
    has(upstream, "tasks")
        || upstream.listing().is_some_and(|listing| {
            let extensions = listing.capability("extensions").unwrap_or(b"{}");
            json::member(extensions, modern::TASKS).is_some()
        })
}
