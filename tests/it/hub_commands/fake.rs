//! A Hub that plays its part towards the command line: sign-ins, workspaces, links. It keeps no records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Access tokens last so long unless a test says otherwise.
const LIFETIME_S: u64 = 900;

/// How a Hub behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should.
    Well,
    /// Whoever signs in is refused.
    Denying,
    /// Requests are read and never answered.
    Silent,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mood: Mood,
    pub(super) lifetime_s: u64,
    pub(super) workspaces: Vec<(&'static str, &'static str)>,
    /// Challenge and redirect of each code.
    codes: HashMap<String, (String, String)>,
    access: HashSet<String>,
    refresh: HashSet<String>,
    /// Refresh tokens that were used, in order.
    pub(super) refreshed: Vec<String>,
    pub(super) revoked: Vec<String>,
    pub(super) sign_ins: usize,
    /// By secret.
    pub(super) gateways: BTreeMap<String, Value>,
    pub(super) unlinked: usize,
    issued: usize,
}

/// A fake Hub. It ends with this value.
pub(super) struct FakeHub {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeHub {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            mood: Mood::Well,
            lifetime_s: LIFETIME_S,
            workspaces: vec![("ws_1", "Work"), ("ws_2", "Play")],
            codes: HashMap::new(),
            access: HashSet::new(),
            refresh: HashSet::new(),
            refreshed: Vec::new(),
            revoked: Vec::new(),
            sign_ins: 0,
            gateways: BTreeMap::new(),
            unlinked: 0,
            issued: 0,
        }));
        let ours = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            // Connections end with the server, as they do when a process ends.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&ours);
                connections.spawn(async move {
                    let service = service_fn(|request| serve(Arc::clone(&state), address, request));
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, serving }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends all sessions: no refresh token is known any more.
    pub(super) fn forget_sessions(&self) {
        let mut state = self.state();
        state.access.clear();
        state.refresh.clear();
    }

    /// The Hub is gone: nobody listens at its address.
    pub(super) async fn go_away(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16, body: Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string()));
    Response::builder().status(status).body(body).unwrap()
}

fn problem(status: u16, error: &str) -> Answer {
    answer(status, json!({"error": error, "message": format!("said for a test: {error}")}))
}

async fn serve(
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if state.lock().unwrap().mood == Mood::Silent {
        std::future::pending::<()>().await;
    }
    let mut state = state.lock().unwrap();
    let bearer = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    Ok(match (&head.method, head.uri.path()) {
        (&Method::GET, "/oauth/authorize") => state.authorize(&pairs(query.as_bytes()), address),
        (&Method::POST, "/oauth/token") => state.token(&pairs(&body)),
        (&Method::POST, "/oauth/revoke") => {
            let token = pairs(&body)["token"].clone();
            state.refresh.remove(&token);
            state.access.clear();
            state.revoked.push(token);
            answer(200, json!({}))
        }
        (&Method::GET, "/api/v1/workspaces") => state.workspaces(bearer),
        (&Method::POST, "/api/v1/gateways") => {
            state.link(bearer, serde_json::from_slice(&body).unwrap())
        }
        (&Method::GET, "/api/v1/gateways/self") => match state.gateways.get(bearer) {
            Some(linked) => answer(200, linked.clone()),
            None => problem(401, "revoked"),
        },
        (&Method::DELETE, "/api/v1/gateways/self") => match state.gateways.remove(bearer) {
            Some(_) => {
                state.unlinked += 1;
                Response::builder().status(204).body(Full::default()).unwrap()
            }
            None => problem(401, "revoked"),
        },
        _ => problem(404, "not_found"),
    })
}

fn pairs(text: &[u8]) -> HashMap<String, String> {
    url::form_urlencoded::parse(text).into_owned().collect()
}

impl State {
    fn next(&mut self, prefix: &str) -> String {
        self.issued += 1;
        format!("{prefix}{}", self.issued)
    }

    /// Signs in whoever comes, and sends the browser back.
    fn authorize(&mut self, query: &HashMap<String, String>, address: SocketAddr) -> Answer {
        assert_eq!(query["client_id"], "ultra-cli");
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["code_challenge_method"], "S256");
        self.sign_ins += 1;
        let redirect = query["redirect_uri"].clone();
        let mut back = url::Url::parse(&redirect).unwrap();
        assert_eq!(back.host_str(), Some("127.0.0.1"));
        let issuer = format!("http://{address}");
        if self.mood == Mood::Denying {
            back.query_pairs_mut().append_pair("error", "access_denied");
        } else {
            let code = self.next("code");
            self.codes.insert(code.clone(), (query["code_challenge"].clone(), redirect));
            back.query_pairs_mut().append_pair("code", &code);
        }
        back.query_pairs_mut().append_pair("state", &query["state"]).append_pair("iss", &issuer);
        let found = Response::builder().status(StatusCode::SEE_OTHER);
        found.header(LOCATION, back.as_str()).body(Full::default()).unwrap()
    }

    fn token(&mut self, form: &HashMap<String, String>) -> Answer {
        assert_eq!(form["client_id"], "ultra-cli");
        let is_granted = match form["grant_type"].as_str() {
            "authorization_code" => {
                let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
                let expected = Some((challenge, form["redirect_uri"].clone()));
                self.codes.remove(&form["code"]) == expected
            }
            "refresh_token" => {
                let token = form["refresh_token"].clone();
                let is_known = self.refresh.remove(&token);
                self.refreshed.push(token);
                is_known
            }
            other => panic!("{other}"),
        };
        if !is_granted {
            return answer(400, json!({"error": "invalid_grant"}));
        }
        let (access, refresh) = (self.next("uha_"), self.next("uhr_"));
        self.access.insert(access.clone());
        self.refresh.insert(refresh.clone());
        let body = json!({
            "access_token": access,
            "refresh_token": refresh,
            "token_type": "Bearer",
            "expires_in": self.lifetime_s,
        });
        answer(200, body)
    }

    fn described(&self, id: &str) -> Option<Value> {
        let (id, name) = self.workspaces.iter().find(|(known, _)| *known == id)?;
        Some(json!({"id": id, "name": name, "team": "Core", "organization": "Acme"}))
    }

    fn workspaces(&self, bearer: &str) -> Answer {
        if !self.access.contains(bearer) {
            return problem(401, "unauthorized");
        }
        let all: Vec<_> = self.workspaces.iter().map(|(id, _)| self.described(id)).collect();
        let user = json!({"id": "usr_1", "email": "ada@example.com", "name": "Ada"});
        answer(200, json!({"user": user, "workspaces": all}))
    }

    fn link(&mut self, bearer: &str, request: Value) -> Answer {
        if !self.access.contains(bearer) {
            return problem(401, "unauthorized");
        }
        let Some(workspace) = self.described(request["workspace"].as_str().unwrap()) else {
            return problem(404, "not_found");
        };
        let (id, secret) = (self.next("gw_"), self.next("ugw_"));
        let me = json!({
            "gateway_id": id,
            "name": request["name"],
            "workspace": workspace,
            "streams": [],
            "request": request,
        });
        self.gateways.insert(secret.clone(), me.clone());
        let mut linked = me;
        linked["secret"] = secret.into();
        answer(201, linked)
    }
}
