//! Calls that are open, by the ids of their requests, so that they can be cancelled.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use crate::rpc::{Fault, INVALID_REQUEST};
use crate::server::lock;

/// Calls that may be open at a time.
pub(crate) const CALLS_MAX: usize = 64;

/// The open calls. They end with this value.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    tasks: JoinSet<()>,
    by_id: HashMap<String, AbortHandle>,
}

impl Calls {
    /// Runs a call.
    pub(crate) fn spawn(
        &self,
        id: &Value,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Fault> {
        let mut open = lock(&self.0);
        while open.tasks.try_join_next().is_some() {}
        open.by_id.retain(|_, call| !call.is_finished());
        if open.tasks.len() >= CALLS_MAX {
            return Err(Fault::new(INVALID_REQUEST, "too many calls are open"));
        }
        let call = open.tasks.spawn(work);
        open.by_id.insert(id.to_string(), call);
        Ok(())
    }

    /// Ends the call of a request, which is then not answered.
    pub(crate) fn cancel(&self, id: &Value) {
        if let Some(call) = lock(&self.0).by_id.remove(&id.to_string()) {
            call.abort();
        }
    }

    /// Ends all calls.
    pub(crate) fn cancel_all(&self) {
        lock(&self.0).tasks.abort_all();
    }
}
