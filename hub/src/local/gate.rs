//! Who may look at the dashboard of this machine: the browser that opened the link that was printed.
//!
//! Other programs, other users of the machine and web pages can reach the port too. The link is good
//! once; a request must name this machine as its host, so that no web page gets here by a name that it
//! points to us; and what another page sends is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};

use crate::access::Entry;
use crate::error::ApiError;
use crate::secret;
use crate::web::{Address, Gate, Viewing, failure, refusal};

/// Bytes of a key, and of what a browser has after it.
const SECRET_BYTES: usize = 32;

/// Browsers leave it out.
const HTTP_PORT: u16 = 80;

/// Lets one browser in.
pub(crate) struct LocalGate {
    /// As requests must name us: `host:port`, and the host alone where the port is that of HTTP.
    hosts: Vec<String>,
    /// Cookies are sent to every port of a host.
    cookie: String,
    /// Of the link. Nothing after it was opened.
    key: Mutex<Option<String>>,
    /// What the browser that opened it has.
    session: String,
    opened: AtomicBool,
    entry: Entry,
    csrf: String,
}

impl LocalGate {
    /// Returns the gate of what listens at `address`, and the key that opens it once.
    pub(crate) fn new(address: SocketAddr, entry: Entry) -> (Self, String) {
        let port = address.port();
        let own = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let names = ["127.0.0.1", "localhost", "[::1]", &own];
        let mut hosts = names.map(|host| format!("{host}:{port}")).to_vec();
        if port == HTTP_PORT {
            hosts.extend(names.map(str::to_owned));
        }
        let key = random();
        let gate = Self {
            hosts,
            cookie: format!("ultra_dashboard_{port}"),
            key: Mutex::new(Some(key.clone())),
            session: random(),
            opened: AtomicBool::new(false),
            entry,
            csrf: random(),
        };
        (gate, key)
    }

    /// Takes the key, if it is the right one and was not used.
    fn take(&self, shown: &str) -> bool {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = key.as_deref().is_some_and(|key| secret::equal(key, shown));
        if fits {
            *key = None;
            self.opened.store(true, Ordering::Release);
        }
        fits
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|line| line.split(';')).filter_map(|of| of.split_once('='));
        self.opened.load(Ordering::Acquire)
            && pairs.any(|(name, value)| {
                name.trim() == self.cookie && secret::equal(value.trim(), &self.session)
            })
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|of| of.eq_ignore_ascii_case(host))
    }
}

impl std::fmt::Debug for LocalGate {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalGate").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

fn random() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Gate for LocalGate {
    async fn enter(&self, parts: &Parts, workspace: Option<&str>) -> Result<Viewing, Response> {
        if !self.knows(&parts.headers) {
            return Err(closed());
        }
        if workspace.is_some_and(|id| id != self.entry.workspace.to_string()) {
            return Err(failure(None, &ApiError::NotFound("workspace")));
        }
        Ok(Viewing {
            account: None,
            entry: self.entry.clone(),
            entries: vec![self.entry.clone()],
            csrf: self.csrf.clone(),
        })
    }
}

fn closed() -> Response {
    let message = "It is opened by the link that `ultra dashboard` printed: once, and in one browser. \
        For a new link, run `ultra dashboard` again";
    refusal(StatusCode::UNAUTHORIZED, "This dashboard is closed", message)
}

/// `/open?key=…`
pub(super) async fn open(
    State(gate): State<Arc<LocalGate>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let address = Address::parse("/open", uri.query().unwrap_or_default());
    let key = address.ok().and_then(|address| address.get("key").map(str::to_owned));
    // The same link again, in the browser that has opened it.
    if gate.knows(&headers) {
        return Redirect::to("/").into_response();
    }
    // Whoever only asks whether it is there does not open it.
    if method != Method::GET || !key.is_some_and(|key| gate.take(&key)) {
        return closed();
    }
    let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Lax", gate.cookie, gate.session);
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// A layer around everything: requests that another site had made end here.
pub(super) async fn guard(
    State(gate): State<Arc<LocalGate>>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(reason) = admitted(&gate, &request) {
        return (StatusCode::FORBIDDEN, format!("refused: {reason}\n")).into_response();
    }
    next.run(request).await
}

fn admitted(gate: &LocalGate, request: &Request) -> Result<(), &'static str> {
    const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

    let headers = request.headers();
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // In HTTP/2 it is part of the address.
    let host = request.uri().authority().map(|of| of.as_str()).or_else(|| text(&header::HOST));
    if headers.get_all(header::HOST).iter().count() > 1 || !host.is_some_and(|of| gate.is_ours(of))
    {
        return Err("open the dashboard by the address that was printed");
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        if !origin.is_some_and(|of| gate.is_ours(of)) {
            return Err("this was sent by a page of another site");
        }
    }
    let elsewhere =
        text(&FETCH_SITE).is_some_and(|site| matches!(site, "cross-site" | "same-site"));
    let navigates = text(&FETCH_MODE) == Some("navigate") && request.method() == Method::GET;
    if elsewhere && !navigates {
        return Err("this was asked for by a page of another site");
    }
    Ok(())
}
