//! A server whose tools want other headers than they did, and tells nobody.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use ultra_tests::{Ultra, session};

const TOOL: &str = "moving__where";

/// What the server does and has seen.
#[derive(Default)]
struct Moving {
    /// The argument goes into `Mcp-Param-Area`, and no more into `Mcp-Param-Region`.
    has_moved: AtomicBool,
    /// No header will do.
    refuses: AtomicBool,
    lists: AtomicUsize,
    /// The header of each call that it took, or did not.
    calls: Mutex<Vec<String>>,
}

impl Moving {
    fn header(&self) -> &'static str {
        if self.has_moved.load(Ordering::Relaxed) { "Area" } else { "Region" }
    }

    fn answer(&self, headers: &HeaderMap, message: &Value) -> (StatusCode, Value) {
        let error = |status, code: i32| (status, json!({"error": {"code": code, "message": "no"}}));
        let result = match message["method"].as_str().unwrap_or_default() {
            "server/discover" => json!({
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private",
            }),
            "tools/list" => {
                self.lists.fetch_add(1, Ordering::Relaxed);
                let place = json!({"type": "string", "x-mcp-header": self.header()});
                let schema = json!({"type": "object", "properties": {"place": place}});
                let tool = json!({"name": "where", "inputSchema": schema});
                json!({"tools": [tool], "ttlMs": 0, "cacheScope": "private"})
            }
            "tools/call" => {
                let has = |name: &&str| headers.contains_key(format!("Mcp-Param-{name}"));
                let names: Vec<_> = ["Region", "Area"].into_iter().filter(has).collect();
                self.calls.lock().unwrap().push(names.join(" "));
                if names != [self.header()] || self.refuses.load(Ordering::Relaxed) {
                    return error(StatusCode::BAD_REQUEST, -32020);
                }
                json!({"content": [{"type": "text", "text": "here"}]})
            }
            _ => return error(StatusCode::NOT_FOUND, -32601),
        };
        let mut result = result;
        result["resultType"] = json!("complete");
        (StatusCode::OK, json!({"result": result}))
    }
}

async fn respond(server: Arc<Moving>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (status, mut answer) = server.answer(&head.headers, &message);
    answer["jsonrpc"] = json!("2.0");
    answer["id"] = message["id"].clone();
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(answer.to_string().into()).unwrap()
}

/// Starts the server, and a gateway that knows its tools. The server ends with the set.
async fn start() -> (Arc<Moving>, Ultra, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let server = Arc::new(Moving::default());
    let mut tasks = JoinSet::new();
    let shared = Arc::clone(&server);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let server = Arc::clone(&shared);
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(respond(server, request).await) }
            });
            connections.spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let upstreams = json!({"moving": {"url": url, "enabled": true}});
    let ultra = Ultra::config(&format!("upstream: {upstreams}\n")).memory().start();
    ultra.initialize(json!({})).await;
    ultra.tools_until("its tool", |tools| tools.iter().any(|tool| tool == TOOL)).await;
    (server, ultra, tasks)
}

#[tokio::test]
async fn tools_are_listed_anew_and_the_call_made_once_more() {
    let (server, ultra, _running) = start().await;
    let listed = server.lists.load(Ordering::Relaxed);

    let before = ultra.call_tool(TOOL, json!({"place": "here"})).await;
    server.has_moved.store(true, Ordering::Relaxed);
    let after = ultra.call_tool(TOOL, json!({"place": "here"})).await;
    let again = ultra.call_tool(TOOL, json!({"place": "here"})).await;

    for answer in [before, after, again] {
        assert_eq!(answer.result()["content"][0]["text"], "here", "{}", answer.raw);
    }
    assert_eq!(*server.calls.lock().unwrap(), ["Region", "Region", "Area", "Area"]);
    assert!(server.lists.load(Ordering::Relaxed) > listed);
    // The client learns of it too.
    let deadline = tokio::time::Instant::now() + session::PATIENCE;
    while !ultra.request("tools/list", Value::Null).await.raw.contains("Area") {
        assert!(tokio::time::Instant::now() < deadline, "the client is not told");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn server_that_refuses_again_is_not_called_a_third_time() {
    let (server, ultra, _running) = start().await;
    server.refuses.store(true, Ordering::Relaxed);

    let refused = ultra.call_tool(TOOL, json!({"place": "here"})).await;

    assert_eq!(refused.error_code(), -32020);
    assert_eq!(server.calls.lock().unwrap().len(), 2);
}
