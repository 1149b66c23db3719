//! Clients that sign in to the gateway: what they are told, whom it takes them for, and what it keeps apart.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use ultra_tests::oauth::issuer::Issuer;
use ultra_tests::oauth::{Behaviour, Protected, plain_http};
use ultra_tests::session::PATIENCE;
use ultra_tests::ultra::Setup;
use ultra_tests::{Fake, Ultra, program};

use super::auth::commands::key_file;

/// A gateway on HTTP that is signed in to, and its authorization server.
struct Gateway {
    ultra: Ultra,
    issuer: Issuer,
    origin: String,
}

/// What the gateway answers.
#[derive(Debug, PartialEq)]
struct Reply {
    status: u16,
    challenge: String,
    session: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        // The last event of a stream is the answer.
        let text = self.body.lines().rev().find_map(|line| line.strip_prefix("data: "));
        let text = text.unwrap_or(&self.body);
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn result(&self) -> Value {
        let reply = self.json();
        reply.get("result").cloned().unwrap_or_else(|| panic!("no result: {self:?}"))
    }
}

impl Gateway {
    /// Starts one with these upstreams. `more` goes into `server.auth`.
    async fn start(setup: Setup, more: &Value) -> Self {
        Self::start_with(setup, more, json!({"log_level": "debug"})).await
    }

    async fn start_with(setup: Setup, more: &Value, mut server: Value) -> Self {
        let issuer = Issuer::start().await;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let origin = format!("http://127.0.0.1:{port}");
        let mut auth = json!({"issuer": issuer.name(), "audience": format!("{origin}/mcp")});
        auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server["auth"] = auth;
        let setup = setup.yaml(&format!("server: {server}"));
        let ultra = setup.arg("--http").arg(format!("127.0.0.1:{port}")).start();
        let deadline = Instant::now() + PATIENCE;
        while !ultra.stderr().contains("listening") {
            assert!(Instant::now() < deadline, "it does not listen: {}", ultra.stderr());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { ultra, issuer, origin }
    }

    fn audience(&self) -> String {
        format!("{}/mcp", self.origin)
    }

    fn token(&self, subject: &str) -> String {
        self.issuer.token(subject, &self.audience(), &json!({}))
    }

    async fn send(&self, request: http::request::Builder, body: &str) -> Reply {
        let request = request.body(body.to_owned().into()).unwrap();
        let exchange = async {
            let answer = plain_http::exchange(request).await.unwrap();
            let header = |name| {
                let value = answer.headers().get(name).map(|value| value.to_str().unwrap());
                value.unwrap_or_default().to_owned()
            };
            let (challenge, session) = (header("www-authenticate"), header("mcp-session-id"));
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            Reply { status, challenge, session, body: String::from_utf8_lossy(&body).into_owned() }
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer of the gateway in time")
    }

    fn request(&self, method: &str, path: &str, token: &str) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request
    }

    async fn initialize(&self, path: &str, token: &str) -> Reply {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"elicitation": {"form": {}, "url": {}}},
            "clientInfo": {"name": "client", "version": "1"},
        });
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        self.send(self.request("POST", path, token), &body.to_string()).await
    }

    async fn legacy(&self, token: &str, session: &str, method: &str, params: &Value) -> Reply {
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params});
        let request = self.request("POST", "/mcp", token).header("mcp-session-id", session);
        self.send(request, &body.to_string()).await
    }

    async fn modern(&self, path: &str, token: &str, method: &str, params: &Value) -> Reply {
        let mut params = params.clone();
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "client", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {
                "elicitation": {"form": {}, "url": {}},
                "extensions": {"io.modelcontextprotocol/tasks": {}},
            },
        });
        let name = params.get("name").or_else(|| params.get("taskId")).and_then(Value::as_str);
        let mut request = self
            .request("POST", path, token)
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let body = json!({"jsonrpc": "2.0", "id": 3, "method": method, "params": params});
        self.send(request, &body.to_string()).await
    }

    /// Waits until a modern client is shown a tool.
    async fn has_tool(&self, path: &str, token: &str, tool: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listed = self.modern(path, token, "tools/list", &json!({})).await;
            if listed.body.contains(&format!("\"{tool}\"")) {
                return;
            }
            assert!(Instant::now() < deadline, "no tool `{tool}`: {listed:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn metadata_url(challenge: &str) -> &str {
    let (_, rest) = challenge.split_once("resource_metadata=\"").unwrap();
    rest.split_once('"').unwrap().0
}

#[tokio::test]
async fn a_client_is_told_where_to_sign_in_and_then_let_in() {
    let setup = Ultra::setup().memory().late_upstream(&Fake::new("fake"));
    let gateway = Gateway::start(setup, &json!({"scopes": ["mcp:use"]})).await;

    let refused = gateway.initialize("/mcp", "").await;
    let metadata = Request::get(metadata_url(&refused.challenge));
    let metadata = gateway.send(metadata, "").await.json();
    let audience = metadata["resource"].as_str().unwrap();
    let scope = json!({"scope": metadata["scopes_supported"][0]});
    let token = gateway.issuer.token("ada", audience, &scope);
    let let_in = gateway.initialize("/mcp", &token).await;
    let listed = gateway.legacy(&token, &let_in.session, "tools/list", &json!({})).await;

    assert_eq!((refused.status, audience), (401, &*gateway.audience()));
    assert_eq!(
        refused.challenge,
        format!(
            r#"Bearer resource_metadata="{}/.well-known/oauth-protected-resource/mcp", scope="mcp:use""#,
            gateway.origin
        )
    );
    assert_eq!(metadata["authorization_servers"], json!([gateway.issuer.name()]));
    assert_eq!(let_in.status, 200, "{let_in:?}");
    assert!(listed.body.contains("fake__echo"), "{listed:?}");
    let token_is_known = gateway.ultra.stderr().contains(&token);
    assert!(!token_is_known, "a token is logged");
}

#[tokio::test]
async fn a_token_that_is_not_for_us_is_refused_with_a_reason() {
    let gateway = Gateway::start(Ultra::setup().memory(), &json!({"scopes": ["mcp:use"]})).await;
    let audience = gateway.audience();
    let scope = json!({"scope": "openid mcp:use"});
    let elsewhere = gateway.issuer.token("ada", "https://elsewhere.example/mcp", &scope);
    let good = gateway.issuer.token("ada", &audience, &scope);
    let one_server = format!("{}/servers/files/mcp", gateway.origin);
    let for_one_server = gateway.issuer.token("ada", &one_server, &scope);
    let without_scope = gateway.issuer.token("ada", &audience, &json!({"scope": "openid"}));
    let expired = gateway.issuer.token("ada", &audience, &json!({"exp": 1_700_000_000}));

    for (what, path, token, expected) in [
        ("none", "/mcp", "", (401, "")),
        ("in the URL", &*format!("/mcp?access_token={good}"), "", (401, "")),
        ("no JWT", "/mcp", "s3cret", (401, "invalid_token")),
        ("for another resource", "/mcp", &elsewhere, (401, "invalid_token")),
        ("for one server", "/mcp", &for_one_server, (401, "invalid_token")),
        ("expired", "/mcp", &expired, (401, "invalid_token")),
        ("without a scope", "/mcp", &without_scope, (403, "insufficient_scope")),
        // There is no such server, but who asks may know.
        ("for that server", "/servers/files/mcp", &for_one_server, (404, "")),
        ("for all of them", "/servers/files/mcp", &good, (404, "")),
        ("good", "/mcp", &good, (200, "")),
    ] {
        let reply = gateway.initialize(path, token).await;

        let error = reply.challenge.split_once(", error=\"").map_or("", |(_, rest)| rest);
        let error = error.split_once('"').map_or("", |(error, _)| error);
        assert_eq!((reply.status, error), expected, "{what}: {reply:?}");
        let has_scope = reply.challenge.contains(r#"scope="mcp:use""#);
        assert_eq!(has_scope, matches!(reply.status, 401 | 403), "{what}: {reply:?}");
    }
}

/// Whoever signs in looks for the metadata without a token, and so could a page in a browser.
#[tokio::test]
async fn metadata_are_for_everybody_who_may_talk_to_us() {
    let gateway = Gateway::start(Ultra::setup().memory(), &json!({})).await;
    let well_known = "/.well-known/oauth-protected-resource";

    let root = gateway.send(gateway.request("GET", well_known, ""), "").await;
    let server = format!("{well_known}/servers/files/mcp");
    let server = gateway.send(gateway.request("GET", &server, ""), "").await;
    let posted = gateway.send(gateway.request("POST", well_known, ""), "").await;
    let page = gateway.request("GET", well_known, "").header("origin", "https://evil.example");
    let page = gateway.send(page, "").await;
    let other = gateway.send(gateway.request("GET", &format!("{well_known}/x"), ""), "").await;

    assert_eq!(root.json()["resource"], json!(gateway.audience()));
    assert_eq!(server.json()["resource"], json!(format!("{}/servers/files/mcp", gateway.origin)));
    assert_eq!((posted.status, page.status, other.status), (405, 403, 401));
}

#[tokio::test]
async fn a_session_is_there_only_for_whom_it_was_made() {
    let setup = Ultra::setup().memory().late_upstream(&Fake::new("fake"));
    let gateway = Gateway::start(setup, &json!({})).await;
    let (ada, bob) = (gateway.token("ada"), gateway.token("bob"));
    let session = gateway.initialize("/mcp", &ada).await.session;

    for method in ["POST", "GET", "DELETE"] {
        let body = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
        let with =
            |session: &str| gateway.request(method, "/mcp", &bob).header("mcp-session-id", session);
        let foreign = gateway.send(with(&session), body).await;
        let unknown = gateway.send(with(&"0".repeat(64)), body).await;

        assert_eq!(foreign.status, 404, "{method}: {foreign:?}");
        assert_eq!(foreign, unknown, "{method}");
    }
    // Another token for the same subject is as good as the first.
    let own = gateway.legacy(&gateway.token("ada"), &session, "tools/list", &json!({})).await;
    assert!(own.body.contains("fake__echo"), "{own:?}");
}

/// Who shows the secret is nobody in particular, and not the subject that opened a session.
#[tokio::test]
async fn a_secret_and_a_token_both_let_in_and_are_not_each_other() {
    let secret = "a secret of the operator";
    let setup = Ultra::setup().memory().late_upstream(&Fake::new("fake"));
    let server = json!({"http_token": secret});
    let gateway = Gateway::start_with(setup, &json!({}), server).await;
    let token = gateway.token("ada");

    for (own, foreign) in [(&*token, secret), (secret, &*token)] {
        let session = gateway.initialize("/mcp", own).await.session;
        let as_own = gateway.legacy(own, &session, "ping", &json!({})).await;
        let as_foreign = gateway.legacy(foreign, &session, "ping", &json!({})).await;

        assert_eq!((as_own.status, as_foreign.status), (200, 404), "{own}");
    }
    assert_eq!(gateway.initialize("/mcp", "a secret of somebody").await.status, 401);
}

/// Both are equal in everything that they say of themselves.
#[tokio::test]
async fn a_parked_call_goes_on_only_for_whom_it_began() {
    let setup = Ultra::setup().memory().late_upstream(&Fake::new("fake"));
    let gateway = Gateway::start(setup, &json!({})).await;
    let (ada, bob) = (gateway.token("ada"), gateway.token("bob"));
    for token in [&ada, &bob] {
        gateway.has_tool("/mcp", token, "fake__elicit").await;
    }
    let call = json!({"name": "fake__elicit", "arguments": {}});

    let asked = gateway.modern("/mcp", &ada, "tools/call", &call).await.result();
    let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let mut retry = call.clone();
    retry["requestState"] = asked["requestState"].clone();
    retry["inputResponses"] = json!({key: {"action": "decline"}});
    let foreign = gateway.modern("/mcp", &bob, "tools/call", &retry).await;
    let own = gateway.modern("/mcp", &ada, "tools/call", &retry).await;

    assert_eq!(asked["resultType"], "input_required");
    assert_eq!(foreign.json()["error"]["code"], -32602, "{foreign:?}");
    assert_eq!(own.result()["structuredContent"]["answer"]["action"], "decline");
}

/// A modern server of the conformance suite that all clients of the gateway share.
struct Fixture {
    child: Child,
    port: u16,
}

impl Fixture {
    fn start() -> Self {
        let mut child = Command::new(program("conformance-fixture"))
            .args(["--era", "modern"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("port=").unwrap().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_task_has_no_name_that_another_subject_could_use() {
    let fixture = Fixture::start();
    let upstream =
        json!({"ref": {"url": format!("http://127.0.0.1:{}/mcp", fixture.port), "enabled": true}});
    let setup = Ultra::config(&format!("upstream: {upstream}\n")).memory();
    let gateway = Gateway::start(setup, &json!({})).await;
    let (ada, bob) = (gateway.token("ada"), gateway.token("bob"));

    for (path, tool) in [("/mcp", "ref__slow_compute"), ("/servers/ref/mcp", "slow_compute")] {
        for token in [&ada, &bob] {
            gateway.has_tool(path, token, tool).await;
        }
        let call = json!({"name": tool, "arguments": {"seconds": 1}});
        let begun = gateway.modern(path, &ada, "tools/call", &call).await.result();
        let task = json!({"taskId": begun["taskId"]});
        let own = gateway.modern(path, &ada, "tasks/get", &task).await;
        let foreign = gateway.modern(path, &bob, "tasks/get", &task).await;
        let cancelled = gateway.modern(path, &bob, "tasks/cancel", &task).await;
        let guessed = gateway.modern(path, &bob, "tasks/get", &json!({"taskId": "1"})).await;

        assert_eq!(begun["resultType"], "task", "{path}");
        assert_eq!(own.result()["taskId"], begun["taskId"], "{path}");
        assert!(foreign.json().get("error").is_some(), "{path}: {foreign:?}");
        assert!(cancelled.json().get("error").is_some(), "{path}: {cancelled:?}");
        // The server was not even asked: to it, all subjects are one.
        assert_eq!(guessed.json()["error"]["data"]["gateway"], "ultra", "{path}: {guessed:?}");
        let after = gateway.modern(path, &ada, "tasks/get", &task).await.result();
        assert_ne!(after["status"], "cancelled", "{path}");
    }
}

#[tokio::test]
async fn keys_may_change_and_their_server_may_be_away() {
    let gateway = Gateway::start(Ultra::setup().memory(), &json!({})).await;
    assert_eq!(gateway.initialize("/mcp", &gateway.token("ada")).await.status, 200);
    let old = gateway.token("ada");

    gateway.issuer.rotate();
    let new = gateway.token("ada");
    let deadline = Instant::now() + PATIENCE;
    while gateway.initialize("/mcp", &new).await.status != 200 {
        assert!(Instant::now() < deadline, "the new key is never fetched");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let with_old = gateway.initialize("/mcp", &old).await;
    gateway.issuer.stop();
    let while_away = gateway.initialize("/mcp", &gateway.token("bob")).await;

    assert_eq!((with_old.status, while_away.status), (401, 200));
    let asked = gateway.issuer.asked();
    assert_eq!(asked.iter().filter(|path| *path == "/keys").count(), 2, "{asked:?}");
}

#[tokio::test]
async fn records_say_who_it_was() {
    let setup = Ultra::setup().late_upstream(&Fake::new("fake"));
    let gateway = Gateway::start(setup, &json!({"principal_claim": "email"})).await;
    let claims = json!({"email": "ada@corp.example"});
    let token = gateway.issuer.token("00u1", &gateway.audience(), &claims);
    gateway.has_tool("/mcp", &token, "fake__echo").await;

    let call = json!({"name": "fake__echo", "arguments": {"a": 1}});
    gateway.modern("/mcp", &token, "tools/call", &call).await.result();
    // A trace is written when there is time.
    let record = async |command: &'static str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = gateway.ultra.run(&[command, "--json", "--name", "echo"]).await;
            let records: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
            if let [record] = &records[..] {
                return record.clone();
            }
            assert!(Instant::now() < deadline, "`ultra {command}` shows {records:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };

    assert_eq!(record("audit").await["details"], json!({"subject": "ada@corp.example"}));
    assert_eq!(record("traces").await["metadata"]["subject"], "ada@corp.example");
    let log = gateway.ultra.stderr();
    assert!(log.contains("subject=\"ada@corp.example\""), "{log}");
}

/// A token goes to the party it was given for, which is the gateway (MCP 2026-07-28, security best practices).
#[tokio::test]
async fn a_clients_token_never_reaches_an_upstream() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("record");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fake = Fake::new("fake").option("--http", port).option("--record", record.display());
    let mut upstream = fake.command().spawn().unwrap();
    let config = json!({"fake": {"url": format!("http://127.0.0.1:{port}/"), "enabled": true}});
    let setup = Ultra::config(&format!("upstream: {config}\n")).memory();
    let gateway = Gateway::start(setup, &json!({})).await;
    let token = gateway.token("ada");

    gateway.has_tool("/mcp", &token, "fake__echo").await;
    let call = json!({"name": "fake__echo", "arguments": {"a": "sent"}});
    gateway.modern("/mcp", &token, "tools/call", &call).await.result();
    let session = gateway.initialize("/mcp", &token).await.session;
    let called = gateway.legacy(&token, &session, "tools/call", &call).await;
    let _ = upstream.kill();
    let _ = upstream.wait();

    assert!(called.body.contains("sent"), "{called:?}");
    let seen = std::fs::read_to_string(&record).unwrap().to_lowercase();
    assert!(seen.contains("tools/call") && seen.contains("content-type:"), "{seen}");
    assert!(!seen.contains("authorization"), "{seen}");
    assert!(!seen.contains(&token.to_lowercase()), "{seen}");
}

/// Whoever began there could have this machine end it, and everybody would have their account.
#[tokio::test]
async fn a_client_elsewhere_is_not_told_where_to_sign_in() {
    let protected = Protected::start(Behaviour { is_open: true, ..Behaviour::default() }).await;
    let closed = Protected::start(Behaviour::default()).await;
    let server = |protected: &Protected| json!({"url": protected.url(), "enabled": true});
    let upstreams = json!({"it": server(&protected), "closed": server(&closed)});
    let setup = Ultra::setup().memory().yaml(&format!("upstream: {upstreams}"));
    let key = key_file(setup.dir());
    let setup = setup.env("ULTRA_KEY_FILE", key).env("BROWSER", "true");
    let gateway = Gateway::start(setup, &json!({})).await;
    let token = gateway.token("ada");
    let session = gateway.initialize("/mcp", &token).await.session;
    gateway.has_tool("/mcp", &token, "it__whoami").await;
    let call = json!({"name": "it__whoami", "arguments": {}});
    while !gateway.legacy(&token, &session, "tools/call", &call).await.body.contains("somebody") {}
    protected.behave(|behaviour| behaviour.is_open = false);

    let legacy = gateway.legacy(&token, &session, "tools/call", &call).await;
    let modern = gateway.modern("/mcp", &token, "tools/call", &call).await;

    let told = json!({
        "code": -32011,
        "message": "upstream `it` wants somebody to sign in: run `ultra auth login it` on the gateway's machine",
        "data": {"gateway": "ultra", "upstream": "it", "executed": "no"},
    });
    assert_eq!(legacy.json()["error"], told);
    assert_eq!(modern.json()["error"], legacy.json()["error"]);

    let status = json!({"name": "ultra_status", "arguments": {}});
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = gateway.legacy(&token, &session, "tools/call", &status).await;
        assert!(!status.body.contains("/authorize"), "{status:?}");
        if status.body.contains("ultra auth login closed") {
            return;
        }
        assert!(Instant::now() < deadline, "nobody is told: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
