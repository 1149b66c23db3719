//! A server that wants to know who calls, with its authorization server, on one port of this machine.
//!
//! It approves without asking and checks what a client owes it: PKCE, `resource`, its own redirect URI,
//! each code and each rotated refresh token once. What it was asked is kept for the test to look at.

mod answers;
mod calls;
pub mod issuer;
pub mod plain_http;
mod state;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use calls::{Call, call, client, windowless};
use state::State;
pub use state::{Asked, Seen};

/// How a server behaves. The default does as MCP 2026-07-28 says, and lets clients register.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Path of the protected-resource metadata; none if it has none.
    pub resource_metadata_at: Option<&'static str>,
    /// Whether the challenge names that path.
    pub names_metadata: bool,
    /// Path of the authorization-server metadata; none if it has none.
    pub server_metadata_at: Option<&'static str>,
    /// What follows the origin in the issuer.
    pub issuer_path: &'static str,
    /// Members that replace those of the protected-resource metadata; `null` takes one out.
    pub resource_metadata: Map<String, Value>,
    /// The same for the authorization-server metadata.
    pub server_metadata: Map<String, Value>,
    /// `iss` of the authorization response; `Some("")` stands for the issuer.
    pub iss: Option<&'static str>,
    /// The error every authorization ends with.
    pub denies: Option<&'static str>,
    /// Lifetime of access tokens; without one they do not say.
    pub lifetime_seconds: Option<u64>,
    /// Scopes that calls need; named in the challenge.
    pub needs: &'static str,
    /// Scopes that calls need besides; missing, they are answered with 403.
    pub needs_more: &'static str,
    /// Whether scopes that are asked for are granted.
    pub grants: bool,
    /// Refresh tokens are given out.
    pub refreshes: bool,
    /// Whether calls without a token are answered.
    pub is_open: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            resource_metadata_at: Some("/.well-known/oauth-protected-resource/mcp"),
            names_metadata: true,
            server_metadata_at: Some("/.well-known/oauth-authorization-server"),
            issuer_path: "",
            resource_metadata: Map::new(),
            server_metadata: Map::new(),
            iss: Some(""),
            denies: None,
            lifetime_seconds: Some(3_600),
            needs: "",
            needs_more: "",
            grants: true,
            refreshes: true,
            is_open: false,
        }
    }
}

/// A server that runs until it is dropped.
pub struct Protected {
    origin: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Protected {
    /// Starts one on a free port.
    ///
    /// # Panics
    ///
    /// If this machine has no port left.
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let origin = format!("http://{address}");
        let state = Arc::new(Mutex::new(State::new(origin.clone(), behaviour)));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let state = Arc::clone(&state);
                        async move {
                            Ok::<Response<Full<Bytes>>, Infallible>(
                                answers::answer(request, &state).await,
                            )
                        }
                    });
                    // A client that goes away is none of ours.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { origin, state, task }
    }

    /// Returns the URL of its MCP endpoint.
    pub fn url(&self) -> String {
        format!("{}/mcp", self.origin)
    }

    /// Returns its scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Changes how it behaves from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state().behaviour);
    }

    /// Returns what it was asked so far.
    pub fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    /// Refuses all access tokens it has given out.
    pub fn revoke_access_tokens(&self) {
        self.state().access.clear();
    }

    /// Refuses all refresh tokens it has given out.
    pub fn revoke_refresh_tokens(&self) {
        self.state().refresh.clear();
    }

    /// Forgets its clients, as a server does that keeps them in memory and is started again.
    pub fn forget_clients(&self) {
        self.state().clients.clear();
    }

    /// Knows a client from now on, with the secret it must show.
    pub fn register(&self, id: &str, secret: &str) {
        self.state().clients.insert(id.to_owned(), Some(secret.to_owned()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        self.task.abort();
    }
}
