//! Authorization servers that other people wrote.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use ultra::auth::Server;
use ultra::config::OAuth;
use ultra_tests::oauth::{Call, call, client, plain_http};
use ultra_tests::{Ultra, program, servers};

use super::assert_answered;

/// Node and Python take their time to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// FastMCP with its provider in memory, and access tokens that end while a test looks.
const FASTMCP: &str = "
import sys
from fastmcp import FastMCP
from fastmcp.server.auth.auth import ClientRegistrationOptions
from fastmcp.server.auth.providers import in_memory
port = int(sys.argv[1])
in_memory.DEFAULT_ACCESS_TOKEN_EXPIRY_SECONDS = 4
options = ClientRegistrationOptions(enabled=True, valid_scopes=['read'], default_scopes=['read'])
auth = in_memory.InMemoryOAuthProvider(
    base_url=f'http://127.0.0.1:{port}', client_registration_options=options, required_scopes=['read'])
FastMCP('real', auth=auth).run(transport='http', host='127.0.0.1', port=port)
";

/// A process that ends with the test.
struct Running(Child);

impl Running {
    async fn start(command: &mut Command, url: &str) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let this = Self(command.spawn().unwrap());
        let start = Instant::now();
        while plain_http::exchange(http::Request::get(url).body(Default::default()).unwrap())
            .await
            .is_err()
        {
            assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for `{url}`");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        this
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn server(url: &str) -> Server {
    Server::new(Arc::from("real"), url, OAuth::default()).unwrap()
}

/// Signs in with the first call, and calls again as a gateway that was started later.
async fn use_it(url: &str, directory: &Path) {
    let first = call(&client(directory), &server(url)).await;
    let later = call(&client(directory), &server(url)).await;

    assert!(matches!(first, Call::Answered(200, 2)), "{first:?}");
    assert!(matches!(later, Call::Answered(200, 1)), "{later:?}");
}

#[tokio::test]
async fn typescript_demo_is_signed_in_to() {
    let example = "npm/node_modules/@modelcontextprotocol/sdk/dist/esm/examples/server/simpleStreamableHttp.js";
    let Some(script) = servers::find_at("simpleStreamableHttp", &[example]) else { return };
    for mode in ["--oauth", "--oauth-strict"] {
        let dir = tempfile::tempdir().unwrap();
        let (port, auth_port) = (free_port(), free_port());
        let url = format!("http://localhost:{port}/mcp");
        let mut node = Command::new("node");
        node.arg(&script).args(["--oauth", mode]);
        node.env("MCP_PORT", port.to_string()).env("MCP_AUTH_PORT", auth_port.to_string());
        let _running = Running::start(&mut node, &url).await;

        use_it(&url, &dir.path().join("auth")).await;
    }
}

/// The whole way: the gateway meets the refusal, opens the browser, and has the tools when somebody has
/// signed in.
#[tokio::test]
async fn a_gateway_signs_in_and_its_client_calls() {
    let example = "npm/node_modules/@modelcontextprotocol/sdk/dist/esm/examples/server/simpleStreamableHttp.js";
    let Some(script) = servers::find_at("simpleStreamableHttp", &[example]) else { return };
    let (port, auth_port) = (free_port(), free_port());
    let url = format!("http://localhost:{port}/mcp");
    let mut node = Command::new("node");
    node.arg(&script).arg("--oauth").arg("--oauth-strict");
    node.env("MCP_PORT", port.to_string()).env("MCP_AUTH_PORT", auth_port.to_string());
    let _running = Running::start(&mut node, &url).await;
    let setup = Ultra::config(&format!("upstream:\n  real:\n    url: {url}\n    enabled: true\n"));
    let mut command = setup.start_command();
    command.env("BROWSER", program("headless-browser"));
    let ultra = setup.start_with(command);
    ultra.initialize(json!({})).await;
    ultra.notify("notifications/initialized", json!({})).await;

    ultra
        .tools_until("the tools behind the sign-in", |tools| tools.contains(&"real__greet".into()))
        .await;
    let greeted = ultra.call_tool("real__greet", json!({"name": "Ada"})).await;

    assert!(greeted.raw.contains("Ada"), "{}", greeted.raw);
}

#[tokio::test]
async fn fastmcp_is_signed_in_to_and_refreshed() {
    let Some(_fastmcp) = servers::find("fastmcp") else { return };
    let Some(python) = servers::find_at("python", &["py/bin/python"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (directory, port) = (dir.path().join("auth"), free_port());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let mut command = Command::new(python);
    command.args(["-c", FASTMCP, &port.to_string()]).env("FASTMCP_CHECK_FOR_UPDATES", "off");
    let _running = Running::start(&mut command, &url).await;
    use_it(&url, &directory).await;
    let authorizer = client(&directory);
    let before = authorizer.bearer(&server(&url)).await.unwrap().unwrap();

    tokio::time::sleep(Duration::from_secs(5)).await;
    let answered = call(&authorizer, &server(&url)).await;

    assert_answered(&answered);
    let after = authorizer.bearer(&server(&url)).await.unwrap().unwrap();
    assert!(before != after);
    let accounts = authorizer.accounts().await.unwrap();
    assert_eq!((accounts.len(), accounts[0].is_renewable), (1, true));
}
