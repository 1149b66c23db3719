//! The same session, line by line, with an upstream alone and through Ultra.
//!
//! What the client gets must be equal member by member, and what the upstream gets byte by byte, but
//! for the names and ids that are the gateway's. The upstream puts members into everything that no
//! revision knows, and numbers that no parser keeps.

use std::path::Path;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use ultra_tests::{Fake, Json, Message, Session, Ultra};

/// Requests with their ids; `{p}` is the prefix of names.
const REQUESTS: [&str; 30] = [
    r#"{"jsonrpc":"2.0","id":"1","method":"tools/call","params":{"name":"{p}echo","arguments":{"huge":1e400,"tiny":-1E-400,"big":18446744073709551616,"one":1.0,"text":"\u00e9\/\ud83d","list":[{"x":null},[]],"":"empty","ä":"ö"}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"{p}params"}}"#,
    r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"{p}params","arguments":null}}"#,
    r#"{"jsonrpc":"2.0","id":18446744073709551615,"method":"tools/call","params":{"name":"{p}params","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":-7,"method":"tools/call","params":{"arguments":{"name":"echo","_meta":{"progressToken":1}},"name":"{p}params","x-more":{"k":[1,2.50]}}}"#,
    r#"{"jsonrpc":"2.0","id":"","method":"tools/call","params":{"_meta":{"x/y":{"z":1e400}},"name":"{p}params","arguments":{}}}"#,
    r#"  { "jsonrpc" : "2.0" ,	"id" : "a\"b" , "method" : "tools/call" , "params" : { "name" :  "{p}params" , "arguments" : { "a" :  [ 1 , 2 ] } } }  "#,
    r#"{"params":{"name":"{p}echo","arguments":{"order":true}},"method":"tools/call","id":"last","jsonrpc":"2.0","x-top":1}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"{p}structured","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"{p}tool-error","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"{p}rpc-error","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"{p}slow","arguments":{"ms":40,"steps":4},"_meta":{"progressToken":5}}}"#,
    r#"{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"_meta":{"a":1,"progressToken":"5","b":2},"name":"{p}slow","arguments":{"ms":20,"steps":2}}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"_meta":{"progressToken":18446744073709551615},"name":"{p}slow","arguments":{"ms":20,"steps":2}}}"#,
    r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"_meta":{"progressToken":""},"name":"{p}slow","arguments":{"ms":20,"steps":2}}}"#,
    r#"{"jsonrpc":"2.0","id":9,"method":"tools/list"}"#,
    r#"{"jsonrpc":"2.0","id":10,"method":"tools/list","params":{}}"#,
    r#"{"jsonrpc":"2.0","id":11,"method":"resources/list"}"#,
    r#"{"jsonrpc":"2.0","id":12,"method":"resources/templates/list","params":{"_meta":{"k":1}}}"#,
    r#"{"jsonrpc":"2.0","id":13,"method":"prompts/list"}"#,
    r#"{"jsonrpc":"2.0","id":14,"method":"resources/read","params":{"uri":"fake://fake/note","x":1e400}}"#,
    r#"{"jsonrpc":"2.0","id":15,"method":"resources/read","params":{"uri":"fake://fake/item/a%20b"}}"#,
    r#"{"jsonrpc":"2.0","id":16,"method":"prompts/get","params":{"name":"{p}greet","arguments":{"who":"\u00e9"},"x":1.0}}"#,
    r#"{"jsonrpc":"2.0","id":17,"method":"completion/complete","params":{"argument":{"name":"who","value":"A"},"context":{"arguments":{"x":"y"}},"ref":{"type":"ref/resource","uri":"fake://fake/item/{id}"}}}"#,
    r#"{"jsonrpc":"2.0","id":18,"method":"resources/subscribe","params":{"uri":"fake://fake/counter"}}"#,
    r#"{"jsonrpc":"2.0","id":19,"method":"tools/call","params":{"name":"{p}touch","arguments":{"uri":"fake://fake/counter"}}}"#,
    r#"{"jsonrpc":"2.0","id":20,"method":"logging/setLevel","params":{"level":"debug"}}"#,
    r#"{"jsonrpc":"2.0","id":21,"method":"tools/call","params":{"name":"{p}log","arguments":{"level":"debug","message":"m"}}}"#,
    r#"{"jsonrpc":"2.0","id":22,"method":"x-fake/echo","params":{"any":[1e400,{"thing":"\u0000"}]}}"#,
    r#"{"jsonrpc":"2.0","id":23,"method":"ping"}"#,
];

/// Requests of the upstream, and the answers of the client.
const ASKED: [(&str, &str, &str); 4] = [
    (
        "elicit",
        "elicitation/create",
        r#"{"action":"accept","content":{"name":"Ada","age":18446744073709551616},"x-top":1.0}"#,
    ),
    (
        "sample",
        "sampling/createMessage",
        r#"{"role":"assistant","content":{"type":"text","text":"h\u00ef"},"model":"m","x":{"f":1e400}}"#,
    ),
    (
        "roots",
        "roots/list",
        r#"{"roots":[{"uri":"file:///tmp","name":"tmp","x":null}],"x-top":[]}"#,
    ),
    ("roots", "roots/list", r#"{"roots":[]}"#),
];

fn capabilities() -> Value {
    json!({
        "roots": {"listChanged": true}, "sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}},
        "experimental": {"x": {"y": 1}},
    })
}

fn fake(record: &Path) -> Fake {
    Fake::new("fake").flag("--unknown-members").option("--record", record.display())
}

/// Says everything, and returns what came back, in an order that does not depend on the machine's.
async fn converse(session: &Session, prefix: &str) -> Vec<Message> {
    let mut heard = Vec::new();
    for line in REQUESTS {
        let line = line.replace("{p}", prefix);
        session.send(&line).await;
        heard.push(session.response(&id_of(&line)).await);
    }
    for (number, (tool, method, result)) in ASKED.into_iter().enumerate() {
        let call = format!("\"{tool} {number}\"");
        let params = format!(r#"{{"name":"{prefix}{tool}","arguments":{{}}}}"#);
        session
            .send(format!(
                r#"{{"jsonrpc":"2.0","id":{call},"method":"tools/call","params":{params}}}"#
            ))
            .await;
        let asked = session.server_request(method).await;
        let id = asked.id.clone().unwrap_or_default();
        session.send(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await;
        heard.push(asked);
        heard.push(session.response(&call).await);
    }
    // They may arrive after the answer to what caused them, so they are waited for, not just taken.
    for (method, count) in [
        ("notifications/progress", 10),
        ("notifications/resources/updated", 1),
        ("notifications/message", 1),
    ] {
        for _ in 0..count {
            heard.push(session.notification(method).await);
        }
    }
    heard
}

/// Returns the `id` of a request, as written.
fn id_of(line: &str) -> String {
    Json::parse(line).get("id").map(Json::to_string).unwrap_or_default()
}

/// Returns a message heard through Ultra as it would be without: names without prefix, our own tool gone.
fn without_ultra(message: &Message) -> Json {
    let mut json =
        if message.method.is_some() { message.json_without_id() } else { message.json() };
    json.edit_leaves("name", &|name| name.replacen("\"fake__", "\"", 1));
    if let Some(Json::Array(tools)) = json.get_mut(&["result", "tools"]) {
        tools.retain(|tool| tool.get("name") != Some(&Json::Leaf("\"ultra_status\"".to_owned())));
    }
    json
}

#[tokio::test]
async fn what_the_client_hears_is_equal_member_by_member() {
    let (alone, behind) = both().await;

    for (direct, through) in alone.heard.iter().zip(&behind.heard) {
        let direct = if direct.method.is_some() { direct.json_without_id() } else { direct.json() };
        let mut differences = direct.differences(&without_ultra(through));
        // A list that was merged is a new object: its items are the upstream's, its other members are not.
        differences.retain(|line| !(is_list(&direct) && line.starts_with("$.result.x-unknown")));
        differences.retain(|line| !(is_list(&direct) && line.contains(" members became ")));
        assert_eq!(
            differences,
            Vec::<String>::new(),
            "\n direct {direct}\nthrough {}",
            through.raw
        );
    }
}

fn is_list(message: &Json) -> bool {
    let result = message.get("result");
    ["tools", "resources", "resourceTemplates", "prompts"]
        .iter()
        .any(|member| result.is_some_and(|result| result.get(member).is_some()))
}

#[tokio::test]
async fn what_the_upstream_hears_is_equal_byte_by_byte() {
    let (alone, behind) = both().await;

    let (direct, through) = (alone.recorded(), behind.recorded());
    assert_eq!(direct.len(), through.len(), "\n direct {direct:#?}\nthrough {through:#?}");
    for (direct, through) in direct.iter().zip(&through) {
        assert_eq!(direct, through);
    }
}

#[tokio::test]
async fn the_upstream_sees_the_clients_capabilities() {
    let (alone, behind) = both().await;

    let hello = |heard: &Conversation| {
        let line = heard
            .lines
            .iter()
            .find(|line| line.contains(r#""initialize""#))
            .cloned()
            .unwrap_or_default();
        Json::parse(&line).get("params").cloned().unwrap()
    };
    let (direct, through) = (hello(&alone), hello(&behind));
    for member in ["capabilities", "clientInfo", "protocolVersion"] {
        assert_eq!(direct.get(member), through.get(member), "{member}");
    }
}

/// What was heard on both sides of an upstream.
struct Conversation {
    heard: Vec<Message>,
    lines: Vec<String>,
}

impl Conversation {
    fn new(heard: Vec<Message>, record: &Path) -> Self {
        let text = std::fs::read_to_string(record).unwrap();
        Self { heard, lines: text.lines().map(str::to_owned).collect() }
    }

    /// Returns method, params and result of what the upstream received, as bytes, but for progress tokens.
    ///
    /// Leaves out what a gateway asks for itself: lists, the handshake, its own health checks.
    fn recorded(&self) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct Line<'a> {
            method: Option<String>,
            #[serde(borrow)]
            params: Option<&'a RawValue>,
            #[serde(borrow)]
            result: Option<&'a RawValue>,
        }
        let mut recorded = Vec::new();
        for line in &self.lines {
            let parsed: Line<'_> = serde_json::from_str(line).unwrap();
            let method = parsed.method.unwrap_or_default();
            if method.ends_with("/list")
                || matches!(method.as_str(), "initialize" | "ping" | "logging/setLevel")
            {
                continue;
            }
            let mut params = parsed.params.map(|raw| raw.get().to_owned()).unwrap_or_default();
            let tree = parsed.params.map(|raw| Json::parse(raw.get()));
            if let Some(token) =
                tree.as_ref().and_then(|tree| tree.get("_meta")?.get("progressToken"))
            {
                params = params.replacen(
                    &format!(r#""progressToken":{token}"#),
                    r#""progressToken":…"#,
                    1,
                );
            }
            recorded.push(format!("{method} {params} {}", parsed.result.map_or("", RawValue::get)));
        }
        recorded
    }
}

/// Has the conversation twice: with the upstream alone, and through Ultra.
async fn both() -> (Conversation, Conversation) {
    let setup = Ultra::setup();
    let (alone, behind) = (setup.dir().join("alone"), setup.dir().join("behind"));

    let direct = Session::start(fake(&alone).command());
    direct.initialize(capabilities()).await;
    let heard = converse(&direct, "").await;
    let alone = Conversation::new(heard, &alone);

    let ultra = setup.upstream(&fake(&behind)).connect(capabilities()).await;
    let heard = converse(&ultra, "fake__").await;
    (alone, Conversation::new(heard, &behind))
}

/// Tasks get ids from the upstream that a gateway may have to rewrite, so they are compared masked.
#[tokio::test]
async fn tasks_are_equal_but_for_their_ids() {
    async fn converse(session: &Session, prefix: &str) -> Vec<Json> {
        let params = json!({
            "name": format!("{prefix}task"), "arguments": {"ms": 30}, "task": {"ttl": 60000},
        });
        let created = session.request("tools/call", params).await;
        let id = created.result()["task"]["taskId"].clone();
        let result = session.request("tasks/result", json!({"taskId": id})).await;
        let after = session.request("tasks/get", json!({"taskId": id})).await;
        let status = session.notification("notifications/tasks/status").await;
        let listed = session.request("tasks/list", Value::Null).await;
        let cancelled = session.request("tasks/cancel", json!({"taskId": id})).await;
        let unknown = session.request("tasks/get", json!({"taskId": "nobody"})).await;
        assert_eq!(unknown.error_code(), -32602);
        [created, result, after, status, listed, cancelled]
            .iter()
            .map(|message| {
                let mut json = message.json_without_id();
                json.edit_leaves("taskId", &|_| "…".to_owned());
                json
            })
            .collect()
    }
    let direct = Session::start(Fake::new("fake").command());
    direct.initialize(json!({})).await;
    let ultra = Ultra::setup().upstream(&Fake::new("fake")).connect(json!({})).await;

    let (alone, behind) = (converse(&direct, "").await, converse(&ultra, "fake__").await);

    for (direct, through) in alone.iter().zip(&behind) {
        assert_eq!(
            direct.differences(through),
            Vec::<String>::new(),
            "\n direct {direct}\nthrough {through}"
        );
    }
}
