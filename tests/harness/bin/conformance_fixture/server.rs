//! The server: what all requests share, and the operations both eras have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::call::{Call, Outcome};
use crate::lists;
use crate::rpc::{Fault, Request};
use crate::seal::Seal;
use crate::session::Sessions;
use crate::tasks::Tasks;
use crate::{prompts, resources, tools};

/// Changes that a slow listener may be behind.
const CHANGES_MAX: usize = 64;

/// Which eras are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Eras {
    /// Whatever the client speaks
    Both,
    /// As a server from before 2026-07-28
    Legacy,
    /// As a server that knows no `initialize`
    Modern,
}

/// Something of which clients may want to hear.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Tools,
    Prompts,
    Resource(String),
}

impl Change {
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resource(_) => "notifications/resources/updated",
        }
    }

    /// Returns the `params`, without `_meta`.
    pub(crate) fn params(&self) -> Value {
        match self {
            Self::Tools | Self::Prompts => json!({}),
            Self::Resource(uri) => json!({"uri": uri}),
        }
    }
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) eras: Eras,
    pub(crate) seal: Seal,
    pub(crate) sessions: Sessions,
    pub(crate) tasks: Tasks,
    changes: broadcast::Sender<Change>,
    /// Whether there is one more of them, for now.
    extra_tool: AtomicBool,
    extra_prompt: AtomicBool,
}

impl Server {
    pub(crate) fn new(eras: Eras) -> Self {
        Self {
            eras,
            seal: Seal::new(),
            sessions: Sessions::default(),
            tasks: Tasks::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            extra_tool: AtomicBool::new(false),
            extra_prompt: AtomicBool::new(false),
        }
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Makes a change, and tells whoever listens.
    pub(crate) fn change(&self, change: Change) {
        match &change {
            Change::Tools => self.extra_tool.fetch_xor(true, Ordering::Relaxed),
            Change::Prompts => self.extra_prompt.fetch_xor(true, Ordering::Relaxed),
            Change::Resource(_) => false,
        };
        // Nobody listens: nobody wants to know.
        let _ = self.changes.send(change);
    }

    /// Runs the next step of an operation.
    pub(crate) async fn step(&self, request: &Request, call: &Call) -> Result<Outcome, Fault> {
        let result = match request.method.as_str() {
            "tools/call" => return tools::step(self, request.text("name")?, call).await,
            "prompts/get" => return prompts::step(request.text("name")?, call),
            "resources/read" => resources::read(request.text("uri")?, call.era)?,
            "tools/list" => lists::tools(self.extra_tool.load(Ordering::Relaxed)),
            "prompts/list" => lists::prompts(self.extra_prompt.load(Ordering::Relaxed)),
            "resources/list" => lists::resources(),
            "resources/templates/list" => lists::templates(),
            "completion/complete" => prompts::complete(&request.params)?,
            method => return Err(Fault::method_not_found(method)),
        };
        Ok(Outcome::Done(result))
    }
}

/// Returns the capabilities of both eras.
pub(crate) fn capabilities() -> Value {
    json!({
        "tools": {"listChanged": true},
        "prompts": {"listChanged": true},
        "resources": {"subscribe": true},
        "completions": {},
        "logging": {},
    })
}

pub(crate) fn info() -> Value {
    json!({"name": "conformance-fixture", "version": env!("CARGO_PKG_VERSION")})
}

/// Locks what no panic leaves half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
