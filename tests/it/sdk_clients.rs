//! Clients made with the official SDKs: what they find at a server, they find through Ultra.
//!
//! Each plays a scenario (`tests/clients/*.json`) on a server alone and through Ultra in every way there is,
//! and the transcripts have to be equal, but for [`EXPECTED`].

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use ultra_tests::conformance::{Namespace, Running};
use ultra_tests::sdk::{Endpoint, Player, Sdk};
use ultra_tests::ultra::Setup;
use ultra_tests::{Json, Ultra, program, servers, session};

/// Ports are free in the namespace of each test.
const SERVER_PORT: &str = "4001";
const GATEWAY: &str = "127.0.0.1:4002";
/// Where the server is reached under its own names.
const OWN: &str = "/servers/subject/mcp";

/// A part of the lines that name a difference, and why it may be.
type Reason = (&'static str, &'static str);

/// Where servers are merged, even if there is but one.
const MERGED: [Reason; 4] = [
    ("$.server.info.", "the gateway says its own name"),
    ("$.server.instructions: ", "each server's stand under its name"),
    ("call \"no-such-tool\"", "a name that no server has goes to none"),
    ("prompt \"no-such-prompt\"", "a name that no server has goes to none"),
];

const EXPECTED: [Reason; 3] = [
    (".listChanged: nothing became true", "a server that comes later may bring more"),
    (".listChanged: false became true", "a server that comes later may bring more"),
    (".subscribe: false became nothing", "which says the same"),
];

/// What differs besides where the server alone speaks the older era, and Ultra the newer one.
const ACROSS_ERAS: [Reason; 6] = [
    ("$.server.revision: \"2025-11-25\" became \"2026-07-28\"", "what this is about"),
    ("$.server.capabilities.tasks: ", "tasks of one era are not those of the other"),
    (".execution: ", "nor are the tools that have them"),
    (".result.cacheScope: nothing became \"private\"", "required in the newer era"),
    (".result.ttlMs: nothing became 0", "required in the newer era"),
    ("$.heard[0].params._meta: nothing became ", "names the subscription"),
];

/// A server, and what is played on it.
struct Subject {
    namespace: Namespace,
    scenario: Value,
    /// How the config names it.
    upstream: Value,
    direct: Endpoint,
    _server: Option<Running>,
}

impl Subject {
    /// A server that is started by its client.
    fn command(command: Command, scenario: &str) -> Option<Self> {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let upstream = json!({"command": command.get_program().to_string_lossy(), "args": args});
        Some(Self {
            namespace: Namespace::find()?,
            scenario: read(scenario),
            upstream,
            direct: Endpoint::Command(command),
            _server: None,
        })
    }

    /// A server that runs on its own, and is ready when it has written this.
    async fn url(command: Command, ready: &str, scenario: &str) -> Option<Self> {
        let namespace = Namespace::find()?;
        let mut server = namespace.start(&command);
        server.until_line(ready, session::PATIENCE).await;
        let url = format!("http://127.0.0.1:{SERVER_PORT}/mcp");
        Some(Self {
            namespace,
            scenario: read(scenario),
            upstream: json!({"url": url}),
            direct: Endpoint::Url(url),
            _server: Some(server),
        })
    }

    fn setup(&self) -> Setup {
        let mut upstream = self.upstream.clone();
        upstream["enabled"] = json!(true);
        let upstreams = json!({"subject": upstream});
        // JSON is YAML.
        Ultra::setup().yaml(&format!("server:\n  naming: on_collision\nupstream: {upstreams}"))
    }

    /// Plays on the server alone and through Ultra, and returns where the transcripts differ.
    async fn differences(&self, player: &Player) -> Vec<String> {
        let alone = player.play(&self.namespace, &self.direct, &self.scenario).await;
        let mut setup = self.setup();
        let stdio = Endpoint::Command(setup.start_command());
        // A gateway that has not met the server yet announces what it might have.
        player.play(&self.namespace, &stdio, &json!([{"list": "tools"}])).await;
        let mut through =
            vec![("stdio", player.play(&self.namespace, &stdio, &self.scenario).await)];

        setup = setup.arg("--http").arg(GATEWAY);
        let mut gateway = self.namespace.start(&setup.start_command());
        gateway.until_line("listening", session::PATIENCE).await;
        for path in [OWN, "/mcp"] {
            let url = Endpoint::Url(format!("http://{GATEWAY}{path}"));
            through.push((path, player.play(&self.namespace, &url, &self.scenario).await));
        }
        let mut differences = Vec::new();
        for (way, mut transcript) in through {
            if way != OWN {
                take_out_ultra_status(&mut transcript);
            }
            let lines = alone.differences(&transcript);
            differences.extend(lines.into_iter().map(|line| format!("{way}: {line}")));
        }
        differences
    }
}

/// Where servers are merged, the gateway's own tool is the last one.
fn take_out_ultra_status(transcript: &mut Json) {
    let Some(Json::Object(steps)) = transcript.get_mut(&["steps"]) else { panic!("no steps") };
    let list = steps.iter_mut().find(|(name, _)| name.ends_with("list \"tools\""));
    let tools = list.and_then(|(_, entry)| entry.get_mut(&["result"]));
    let Some(Json::Array(tools)) = tools else { panic!("no tools") };
    let last = tools.pop().and_then(|tool| tool.get("name").map(Json::as_str));
    assert_eq!(last.as_deref(), Some("ultra_status"));
}

fn read(scenario: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(scenario);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn assert_equal(subject: Option<Subject>, sdk: Sdk) {
    assert_equal_but_for(&[], subject, sdk).await;
}

async fn assert_equal_but_for(reasons: &[Reason], subject: Option<Subject>, sdk: Sdk) {
    let (Some(subject), Some(player)) = (subject, Player::find(sdk)) else { return };
    let is_expected = |line: &String| {
        let merged = if line.starts_with(OWN) { &[][..] } else { &MERGED };
        let mut all = EXPECTED.iter().chain(merged).chain(reasons);
        all.any(|(part, _)| line.contains(part))
    };

    let mut differences = subject.differences(&player).await;

    // Which member is missing or new is said besides.
    differences.retain(|line| !line.contains(" members became ") && !is_expected(line));
    assert_eq!(differences, Vec::<String>::new());
}

fn everything_on_stdio() -> Option<Subject> {
    Subject::command(Command::new(servers::find("mcp-server-everything")?), "everything.json")
}

async fn everything_on_http() -> Option<Subject> {
    let mut command = Command::new(servers::find("mcp-server-everything")?);
    command.arg("streamableHttp").env("PORT", SERVER_PORT);
    Subject::url(command, "listening", "everything.json").await
}

fn fixture_on_stdio() -> Option<Subject> {
    let mut command = Command::new(program("conformance-fixture"));
    command.arg("--stdio");
    Subject::command(command, "fixture.json")
}

async fn fixture_on_http() -> Option<Subject> {
    let mut command = Command::new(program("conformance-fixture"));
    command.args(["--port", SERVER_PORT]);
    Subject::url(command, "port=", "fixture.json").await
}

async fn fastmcp_on_http() -> Option<Subject> {
    let mut command = Command::new(servers::find("fastmcp")?.with_file_name("python"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/fastmcp_server.py");
    command.arg(script).arg(SERVER_PORT);
    Subject::url(command, "running on", "fastmcp.json").await
}

#[tokio::test]
async fn typescript_1_finds_the_same_on_stdio() {
    assert_equal(everything_on_stdio(), Sdk::TypeScript1).await;
}

#[tokio::test]
async fn typescript_1_finds_the_same_on_http() {
    assert_equal(everything_on_http().await, Sdk::TypeScript1).await;
    assert_equal(fastmcp_on_http().await, Sdk::TypeScript1).await;
}

#[tokio::test]
async fn typescript_2_finds_the_same_on_stdio() {
    assert_equal(fixture_on_stdio(), Sdk::TypeScript2).await;
    assert_equal(fixture_on_stdio(), Sdk::TypeScript2Auto).await;
}

#[tokio::test]
async fn typescript_2_finds_the_same_on_http() {
    assert_equal(fixture_on_http().await, Sdk::TypeScript2).await;
    assert_equal(fixture_on_http().await, Sdk::TypeScript2Auto).await;
    assert_equal(fastmcp_on_http().await, Sdk::TypeScript2Auto).await;
}

#[tokio::test]
async fn python_finds_the_same_on_stdio() {
    assert_equal(everything_on_stdio(), Sdk::Python).await;
    assert_equal(fixture_on_stdio(), Sdk::PythonAuto).await;
}

#[tokio::test]
async fn python_finds_the_same_on_http() {
    assert_equal(everything_on_http().await, Sdk::Python).await;
    assert_equal(fixture_on_http().await, Sdk::Python).await;
    assert_equal(fixture_on_http().await, Sdk::PythonAuto).await;
    assert_equal(fastmcp_on_http().await, Sdk::PythonAuto).await;
}

/// The newer era has no log but of a call, so nobody listens to others here.
fn without_log(subject: Option<Subject>) -> Option<Subject> {
    let mut subject = subject?;
    let steps = subject.scenario.as_array_mut()?;
    steps.retain(|step| step.get("level").is_none() && step["until"] != "notifications/message");
    steps.insert(0, json!({"level": "emergency"}));
    Some(subject)
}

#[tokio::test]
async fn clients_that_prefer_the_newer_era_find_the_same_at_an_older_server() {
    let (stdio, http) = (everything_on_stdio(), everything_on_http().await);

    assert_equal_but_for(&ACROSS_ERAS, without_log(stdio), Sdk::TypeScript2Auto).await;
    assert_equal_but_for(&ACROSS_ERAS, without_log(http), Sdk::PythonAuto).await;
}
