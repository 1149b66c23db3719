//! Servers other people wrote, behind Ultra, driven by a client other people wrote (rmcp).
//!
//! What they do is theirs; the tests hold that it arrives as without Ultra.

#![expect(deprecated, reason = "the revisions up to 2025-11-25 have what rmcp calls deprecated")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientConfig, CreateMessageRequestParams, CreateMessageResult,
    ElicitRequestParams, ElicitResult, ListRootsResult, LoggingMessageNotificationParam,
    ProgressNotificationParam, ResourceUpdatedNotificationParam,
};
use rmcp::service::{NotificationContext, RequestContext, RoleClient, RunningService};
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientHandler, ErrorData, ServiceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ultra_tests::ultra::Setup;
use ultra_tests::{Session, Ultra, process, servers};

/// Node takes its time to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The capabilities with which `server-everything` shows all 19 tools.
fn all_capabilities() -> Value {
    json!({
        "roots": {"listChanged": true},
        "sampling": {"tools": {}},
        "elicitation": {"form": {}, "url": {}},
        "tasks": {"list": {}, "cancel": {}, "requests": {
            "elicitation": {"create": {}}, "sampling": {"createMessage": {}},
        }},
    })
}

/// What the client was told and asked.
#[derive(Default)]
struct Seen {
    progress: Vec<f64>,
    logs: Vec<Value>,
    updated: Vec<String>,
    tools_changed: usize,
    asked: Vec<Value>,
}

/// A client that accepts everything, and remembers it.
#[derive(Clone)]
struct Client {
    config: Arc<ClientConfig>,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    fn new(capabilities: Value) -> Self {
        let config = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": "rmcp", "version": "3.8.0"},
        });
        Self { config: Arc::new(typed(config)), seen: Arc::default() }
    }

    /// Starts the gateway and shakes hands.
    async fn connect(&self, setup: &Setup) -> RunningService<RoleClient, Self> {
        let command = tokio::process::Command::from(setup.start_command());
        let transport = TokioChildProcess::new(command).unwrap();
        within("the handshake", self.clone().serve(transport)).await.unwrap()
    }

    async fn until<T>(&self, what: &str, mut found: impl FnMut(&Seen) -> Option<T>) -> T {
        process::eventually(what, PATIENCE, || found(&self.seen.lock().unwrap())).await
    }
}

impl ClientHandler for Client {
    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        self.seen.lock().unwrap().asked.push(serde_json::to_value(params).unwrap());
        let content = json!({"type": "text", "text": "the model says hi"});
        Ok(typed(
            json!({"role": "assistant", "content": content, "model": "a-model", "stopReason": "endTurn"}),
        ))
    }

    async fn list_roots(
        &self,
        _context: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        Ok(typed(json!({"roots": [{"uri": "file:///some/where", "name": "somewhere"}]})))
    }

    async fn create_elicitation(
        &self,
        params: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        self.seen.lock().unwrap().asked.push(serde_json::to_value(params).unwrap());
        Ok(typed(json!({"action": "accept", "content": {"name": "Ada", "check": true}})))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.seen.lock().unwrap().progress.push(params.progress);
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.seen.lock().unwrap().logs.push(serde_json::to_value(params).unwrap());
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.seen.lock().unwrap().updated.push(params.uri);
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.seen.lock().unwrap().tools_changed += 1;
    }

    fn get_info(&self) -> ClientConfig {
        (*self.config).clone()
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Calls a tool and returns its result, as JSON.
async fn call(
    client: &RunningService<RoleClient, Client>,
    tool: &'static str,
    arguments: Value,
) -> Value {
    let params = CallToolRequestParams::new(tool).with_arguments(typed(arguments));
    let result = within(tool, client.call_tool(params))
        .await
        .unwrap_or_else(|error| panic!("{tool}: {error}"));
    serde_json::to_value(result).unwrap()
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

/// Waits until as many tools of an upstream are listed, and returns their names.
async fn tools(
    client: &RunningService<RoleClient, Client>,
    upstream: &str,
    count: usize,
) -> Vec<String> {
    let prefix = format!("{upstream}__");
    let mut names = Vec::new();
    within(&format!("{count} tools of `{upstream}`, there are {names:?}"), async {
        loop {
            let all = client.list_all_tools().await.unwrap();
            names = all
                .iter()
                .filter_map(|tool| Some(tool.name.strip_prefix(&prefix)?.to_owned()))
                .collect();
            if names.len() == count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    names
}

fn everything(program: &Path) -> Setup {
    Ultra::setup().server("everything", program, &[])
}

#[tokio::test]
async fn everything_lists_what_the_clients_capabilities_allow() {
    let Some(program) = servers::find("mcp-server-everything") else { return };
    for (capabilities, count) in [(json!({}), 13), (all_capabilities(), 19)] {
        let direct = Session::start(std::process::Command::new(&program));
        direct.on_request("roots/list", |_| json!({"roots": []}));
        direct.initialize(capabilities.clone()).await;
        let expected = direct.tools_until("its tools", |tools| tools.len() == count).await;

        let ultra = everything(&program).start();
        ultra.on_request("roots/list", |_| json!({"roots": []}));
        ultra.initialize(capabilities).await;
        let is_ours = |name: &&String| name.starts_with("everything__");
        let listed = ultra
            .tools_until(&format!("{count} tools"), |tools| {
                tools.iter().filter(is_ours).count() == count
            })
            .await;

        let ours: Vec<_> =
            listed.iter().filter_map(|name| name.strip_prefix("everything__")).collect();
        assert_eq!(ours, expected);
    }
}

#[tokio::test]
async fn everything_answers_calls_as_it_does_alone() {
    let Some(program) = servers::find("mcp-server-everything") else { return };
    let direct = Session::start(std::process::Command::new(&program));
    let ultra = everything(&program).start();
    for session in [&direct, &*ultra] {
        session.initialize(json!({})).await;
    }
    ultra.tools_until("echo", |tools| tools.iter().any(|tool| tool == "everything__echo")).await;

    let calls = [
        ("echo", json!({"message": "hä \u{1F600} \"quoted\" \\ \n"})),
        ("get-sum", json!({"a": 1, "b": 2.5})),
        ("get-structured-content", json!({"location": "Chicago"})),
        ("get-annotated-message", json!({"messageType": "error", "includeImage": true})),
        ("get-resource-links", json!({"count": 3})),
        ("get-resource-reference", json!({"resourceType": "Text", "resourceId": 1})),
        ("get-tiny-image", json!({})),
        ("get-sum", json!({"a": "not a number"})),
    ];
    for (tool, arguments) in calls {
        let alone = direct.call_tool(tool, arguments.clone()).await;
        let behind = ultra.call_tool(&format!("everything__{tool}"), arguments).await;
        let differences = alone.json_without_id().differences(&behind.json_without_id());
        assert_eq!(differences, Vec::<String>::new(), "{tool}");
    }
}

#[tokio::test]
async fn everything_asks_the_user_the_model_and_for_roots() {
    let Some(program) = servers::find("mcp-server-everything") else { return };
    let setup = everything(&program);
    let client = Client::new(
        json!({"roots": {"listChanged": true}, "sampling": {}, "elicitation": {"form": {}, "url": {}}}),
    );
    let session = client.connect(&setup).await;
    tools(&session, "everything", 17).await;

    let sampled =
        call(&session, "everything__trigger-sampling-request", json!({"prompt": "say hi"})).await;
    let elicited = call(&session, "everything__trigger-elicitation-request", json!({})).await;
    let rooted = call(&session, "everything__get-roots-list", json!({})).await;

    assert!(sampled.to_string().contains("the model says hi"), "{sampled}");
    assert!(sampled.to_string().contains("a-model"), "{sampled}");
    assert!(elicited.to_string().contains("Ada"), "{elicited}");
    assert!(rooted.to_string().contains("file:///some/where"), "{rooted}");
    let asked = std::mem::take(&mut client.seen.lock().unwrap().asked);
    assert!(asked.iter().any(|params| params.to_string().contains("say hi")), "{asked:?}");
    assert!(
        asked.iter().any(|params| params["requestedSchema"]["properties"].is_object()),
        "{asked:?}"
    );
    within("the end", session.cancel()).await.unwrap();
}

#[tokio::test]
async fn everything_serves_resources_prompts_and_completions() {
    let Some(program) = servers::find("mcp-server-everything") else { return };
    let setup = everything(&program);
    let session = Client::new(json!({})).connect(&setup).await;
    tools(&session, "everything", 13).await;

    let resources = within("resources", session.list_all_resources()).await.unwrap();
    let templates = within("templates", session.list_all_resource_templates()).await.unwrap();
    let prompts = within("prompts", session.list_all_prompts()).await.unwrap();
    assert_eq!((resources.len(), templates.len(), prompts.len()), (7, 2, 4));
    assert_eq!(prompts[1].name, "everything__args-prompt");

    let uri = resources[0].uri.clone();
    let read =
        within("a resource", session.read_resource(typed(json!({"uri": uri})))).await.unwrap();
    assert_eq!(serde_json::to_value(read).unwrap()["contents"][0]["uri"], json!(uri));
    let dynamic = json!({"uri": "demo://resource/dynamic/text/7"});
    let read =
        within("a template's resource", session.read_resource(typed(dynamic))).await.unwrap();
    assert!(
        serde_json::to_value(read).unwrap()["contents"][0]["text"].as_str().unwrap().contains('7')
    );

    let asked =
        json!({"name": "everything__args-prompt", "arguments": {"city": "Ulm", "state": "BW"}});
    let prompt = within("a prompt", session.get_prompt(typed(asked))).await.unwrap();
    assert!(serde_json::to_value(prompt).unwrap().to_string().contains("Ulm"));

    let values = within(
        "a completion",
        session.complete_prompt_simple("everything__completable-prompt", "department", "E"),
    )
    .await
    .unwrap();
    assert_eq!(values, ["Engineering"]);
    within("the end", session.cancel()).await.unwrap();
}

#[tokio::test]
async fn everything_reports_progress_logs_and_updates() {
    let Some(program) = servers::find("mcp-server-everything") else { return };
    let setup = everything(&program);
    let client = Client::new(json!({}));
    let session = client.connect(&setup).await;
    tools(&session, "everything", 13).await;

    let arguments = json!({"duration": 0.4, "steps": 4});
    call(&session, "everything__trigger-long-running-operation", arguments).await;
    client.until("four steps", |seen| (seen.progress == [1.0, 2.0, 3.0, 4.0]).then_some(())).await;

    within("the level", session.set_level(typed(json!({"level": "debug"})))).await.unwrap();
    call(&session, "everything__toggle-simulated-logging", json!({})).await;
    client.until("a log message", |seen| seen.logs.first().cloned()).await;

    let uri = "demo://resource/dynamic/text/1";
    within("the subscription", session.subscribe(typed(json!({"uri": uri})))).await.unwrap();
    let toggled = call(&session, "everything__toggle-subscriber-updates", json!({})).await;
    assert!(text(&toggled).contains("Started"), "{toggled}");
    client
        .until("an update", |seen| seen.updated.iter().find(|updated| *updated == uri).cloned())
        .await;
    within("the end", session.cancel()).await.unwrap();
}

#[tokio::test]
async fn filesystem_reads_and_writes_below_its_directory_only() {
    let Some(program) = servers::find("mcp-server-filesystem") else { return };
    let setup = Ultra::setup();
    let files = setup.dir().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("a.txt"), "hello").unwrap();
    let setup = setup.server("files", &program, &[files.to_string_lossy().into_owned()]);
    let session = Client::new(json!({})).connect(&setup).await;
    tools(&session, "files", 14).await;

    let read = call(&session, "files__read_text_file", json!({"path": files.join("a.txt")})).await;
    let written = call(
        &session,
        "files__write_file",
        json!({"path": files.join("b.txt"), "content": "from afar"}),
    )
    .await;
    let refused = call(&session, "files__read_text_file", json!({"path": "/etc/passwd"})).await;

    assert_eq!(text(&read), "hello");
    assert_ne!(written["isError"], json!(true), "{written}");
    assert_eq!(std::fs::read_to_string(files.join("b.txt")).unwrap(), "from afar");
    assert_eq!(refused["isError"], json!(true), "{refused}");
    within("the end", session.cancel()).await.unwrap();
}

#[tokio::test]
async fn memory_remembers_between_calls() {
    let Some(program) = servers::find("mcp-server-memory") else { return };
    let setup = Ultra::setup().server("memory", &program, &[]);
    let session = Client::new(json!({})).connect(&setup).await;
    tools(&session, "memory", 9).await;

    let entity =
        json!({"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]});
    call(&session, "memory__create_entities", json!({"entities": [entity]})).await;
    let graph = call(&session, "memory__read_graph", json!({})).await;

    assert!(text(&graph).contains("wrote the first program"), "{graph}");
    within("the end", session.cancel()).await.unwrap();
}

#[tokio::test]
async fn two_python_servers_work_side_by_side() {
    let Some(time) = servers::find("mcp-server-time") else { return };
    let Some(git) = servers::find("mcp-server-git") else { return };
    let setup = Ultra::setup();
    let repository = setup.dir().join("repository");
    let git_init =
        std::process::Command::new("git").arg("init").arg("-q").arg(&repository).status();
    if !git_init.is_ok_and(|status| status.success()) {
        return servers::skip("git is not installed");
    }
    std::fs::write(repository.join("new.txt"), "new").unwrap();
    let setup =
        setup.server("time", &time, &["--local-timezone".to_owned(), "UTC".to_owned()]).server(
            "git",
            &git,
            &["--repository".to_owned(), repository.to_string_lossy().into_owned()],
        );
    let session = Client::new(json!({})).connect(&setup).await;
    tools(&session, "time", 2).await;
    tools(&session, "git", 12).await;

    let (time, status, bad) = tokio::join!(
        call(&session, "time__get_current_time", json!({"timezone": "Europe/Berlin"})),
        call(&session, "git__git_status", json!({"repo_path": repository})),
        call(&session, "time__get_current_time", json!({"timezone": "Nowhere/Atall"})),
    );

    assert!(text(&time).contains("Europe/Berlin"), "{time}");
    assert!(text(&status).contains("new.txt"), "{status}");
    assert_eq!(bad["isError"], json!(true), "{bad}");
    within("the end", session.cancel()).await.unwrap();
}
