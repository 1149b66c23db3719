//! Upstreams behind HTTP that other people wrote.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use ultra_tests::{Fake, Ultra, servers};

/// Node takes its time to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `server-everything` on a port of its own; ended with the value.
struct Everything {
    child: Child,
    port: u16,
}

impl Everything {
    fn start(transport: &str) -> Option<Self> {
        let program = servers::find("mcp-server-everything")?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut this = Self { child: Self::spawn(&program, transport, port), port };
        this.wait();
        Some(this)
    }

    fn spawn(program: &std::path::Path, transport: &str, port: u16) -> Child {
        let mut command = Command::new(program);
        command.arg(transport).env("PORT", port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Everything {
    fn drop(&mut self) {
        self.end();
    }
}

fn config(url: &str) -> String {
    format!("upstream:\n  everything:\n    url: {url}\n    enabled: true\n")
}

async fn connect(url: &str, capabilities: serde_json::Value) -> Ultra {
    let ultra = Ultra::config(&config(url)).memory().start();
    ultra.initialize(capabilities).await;
    ultra.notify("notifications/initialized", json!({})).await;
    ultra
        .tools_until("its tools", |tools| tools.iter().any(|tool| tool.starts_with("everything__")))
        .await;
    ultra
}

#[tokio::test]
async fn streamable_http_and_sse_are_told_apart_and_work_alike() {
    for (transport, path) in [("streamableHttp", "mcp"), ("sse", "sse")] {
        let Some(server) = Everything::start(transport) else { return };
        let url = format!("http://127.0.0.1:{}/{path}", server.port);

        let ultra = connect(&url, json!({})).await;
        let tools = ultra.tool_names().await;
        let echoed = ultra.call_tool("everything__echo", json!({"message": "hello"})).await;

        // 13 of its own, as without Ultra, and ours.
        assert_eq!(tools.len(), 14, "{transport}: {tools:?}");
        assert!(echoed.raw.contains("Echo: hello"), "{transport}: {}", echoed.raw);
    }
}

#[tokio::test]
async fn what_the_server_asks_reaches_the_client_and_its_answer_the_server() {
    let Some(server) = Everything::start("streamableHttp") else { return };
    let url = format!("http://127.0.0.1:{}/mcp", server.port);
    let tasks = json!({"elicitation": {"create": {}}, "sampling": {"createMessage": {}}});
    let capabilities = json!({
        "roots": {"listChanged": true},
        "sampling": {"tools": {}},
        "elicitation": {"form": {}, "url": {}},
        "tasks": {"list": {}, "cancel": {}, "requests": tasks},
    });
    let ultra = Ultra::config(&config(&url)).memory().start();
    ultra.on_request("roots/list", |_| json!({"roots": [{"uri": "file:///tmp"}]}));
    ultra.on_request("sampling/createMessage", |_| {
        json!({"role": "assistant", "model": "none", "content": {"type": "text", "text": "sampled"}})
    });
    ultra.initialize(capabilities).await;
    ultra.notify("notifications/initialized", json!({})).await;

    let tools = ultra.tools_until("19 tools and ours", |tools| tools.len() == 20).await;
    let name = "everything__trigger-sampling-request";
    assert!(tools.iter().any(|tool| tool == name), "{tools:?}");
    let sampled = ultra.call_tool(name, json!({"prompt": "hi", "maxTokens": 10})).await;

    assert!(sampled.raw.contains("sampled"), "{}", sampled.raw);
}

/// `fake-upstream` behind HTTP; ended with the value.
struct FakeServer(Child);

impl Drop for FakeServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_server_that_takes_no_calls_is_left_alone_until_it_shakes_hands_again() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("away");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command =
        Fake::new("fake").option("--http", port).option("--away-while", away.display()).command();
    let _server = FakeServer(command.stdin(Stdio::null()).spawn().unwrap());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let ultra = Ultra::config(&config(&url)).memory().start();
    ultra.initialize(json!({})).await;
    ultra.notify("notifications/initialized", json!({})).await;
    ultra
        .tools_until("its tools", |tools| tools.iter().any(|tool| tool == "everything__echo"))
        .await;

    std::fs::write(&away, "").unwrap();
    let open = async {
        loop {
            let refused = ultra.call_tool("everything__echo", json!({})).await;
            if refused.raw.contains("is not running") {
                return;
            }
            assert!(refused.raw.contains("503"), "{}", refused.raw);
        }
    };
    tokio::time::timeout(PATIENCE, open).await.unwrap();
    std::fs::remove_file(&away).unwrap();
    let closed = async {
        while ultra.call_tool("everything__echo", json!({})).await.raw.contains("\"error\"") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

/// The new process knows nothing of the session: the call is made again in a new one.
#[tokio::test]
async fn a_server_that_forgot_the_session_gets_a_new_one() {
    let Some(mut server) = Everything::start("streamableHttp") else { return };
    let Some(program) = servers::find("mcp-server-everything") else { return };
    let url = format!("http://127.0.0.1:{}/mcp", server.port);
    let ultra = connect(&url, json!({})).await;

    server.end();
    server.child = Everything::spawn(&program, "streamableHttp", server.port);
    server.wait();

    let deadline = Instant::now() + PATIENCE;
    loop {
        let echoed = ultra.call_tool("everything__echo", json!({"message": "again"})).await;
        if echoed.raw.contains("Echo: again") {
            break;
        }
        assert!(Instant::now() < deadline, "{}", echoed.raw);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
