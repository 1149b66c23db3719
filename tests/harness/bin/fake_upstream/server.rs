//! Messages in, messages out: which method does what, and what is still open.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::io::Write;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Options;
use crate::lists;
use crate::tasks::Task;
use crate::tools::Slow;

/// Revisions it can speak, oldest first.
const PROTOCOLS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// What `--unknown-members` puts into objects: numbers that do not survive a parse into floats or 64-bit
/// integers, and a member no revision knows.
const UNKNOWN_MEMBERS: &str = r#","x-unknown":{"integer":18446744073709551616,"huge":1e400,"tiny":1e-400,"one":1.0,"list":[{"deep":null}],"text":"\u00e9\ud83d"}"#;

/// The members of a JSON-RPC message, unparsed.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Params of which one member is looked at.
#[derive(Deserialize)]
struct OneOf<'a> {
    #[serde(borrow)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    level: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cursor: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "protocolVersion")]
    protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "taskId")]
    task_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    argument: Option<Argument<'a>>,
}

/// The argument that is being completed.
#[derive(Deserialize)]
struct Argument<'a> {
    #[serde(borrow)]
    value: Cow<'a, str>,
}

/// What happens later.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The next step of a slow call, by its request id.
    Slow(String),
    /// A task is done.
    Task(String),
}

/// The state of the one session.
pub(crate) struct Server {
    pub(crate) options: Options,
    /// Bytes to be written.
    pub(crate) out: Vec<u8>,
    /// Exit with this code once `out` is written.
    pub(crate) exit: Option<i32>,
    /// `params` of `initialize`.
    pub(crate) hello: String,
    /// Open slow calls, by request id as sent.
    pub(crate) slow: HashMap<String, Slow>,
    /// Calls that wait for the client's answer, by the id of our request.
    pub(crate) waiting: HashMap<String, String>,
    pub(crate) tasks: BTreeMap<String, Task>,
    /// Tools that `change-tools` added.
    pub(crate) added_tools: usize,
    pub(crate) log_level: Option<usize>,
    pub(crate) calls: u64,
    subscriptions: BTreeSet<String>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    next_id: u64,
}

impl Server {
    pub(crate) fn new(options: Options) -> Self {
        let mut server = Self {
            options,
            out: Vec::with_capacity(64 * 1024),
            exit: None,
            hello: String::new(),
            slow: HashMap::new(),
            waiting: HashMap::new(),
            tasks: BTreeMap::new(),
            added_tools: 0,
            log_level: None,
            calls: 0,
            subscriptions: BTreeSet::new(),
            timers: BinaryHeap::new(),
            next_id: 0,
        };
        server.junk();
        server
    }

    /// Returns what `--unknown-members` adds to an object that has members already.
    pub(crate) fn unknown(&self) -> &'static str {
        if self.options.unknown_members { UNKNOWN_MEMBERS } else { "" }
    }

    /// Takes one line. What is no JSON-RPC is answered with a parse error, as most servers do.
    pub(crate) fn receive(&mut self, line: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(line) else {
            self.write(format_args!(
                r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32700,"message":"Parse error"}}}}"#
            ));
            return;
        };
        let params = message.params.map(RawValue::get);
        match (message.method, message.id.map(RawValue::get)) {
            (Some(method), Some(id)) => {
                if !self.options.mute.iter().any(|mute| *mute == method) {
                    self.request(id, &method, params);
                }
            }
            (Some(method), None) => self.notification(&method, params),
            (None, Some(id)) => {
                self.answer(
                    id,
                    message.result.map(RawValue::get),
                    message.error.map(RawValue::get),
                );
            }
            (None, None) => {}
        }
    }

    fn request(&mut self, id: &str, method: &str, params: Option<&str>) {
        if method == "tools/call" {
            return self.call_tool(id, params);
        }
        let text = params.unwrap_or("{}");
        let Ok(one_of) = serde_json::from_str::<OneOf<'_>>(text) else {
            return self.fail(id, -32602, "invalid params");
        };
        let x = self.unknown();
        let cursor = one_of.cursor.as_deref();
        match method {
            "initialize" => self.initialize(id, text, one_of.protocol_version.as_deref()),
            "ping" => self.reply(id, "{}"),
            "tools/list" => {
                let tools = lists::tools(self);
                self.list(id, "tools", &tools, cursor);
            }
            "resources/list" => {
                let resources = lists::resources(self);
                self.list(id, "resources", &resources, cursor);
            }
            "resources/templates/list" => {
                let templates = lists::templates(self);
                self.list(id, "resourceTemplates", &templates, cursor);
            }
            "prompts/list" => {
                let prompts = lists::prompts(self);
                self.list(id, "prompts", &prompts, cursor);
            }
            "resources/read" => match one_of.uri {
                Some(uri) => {
                    let uri = quote(&uri);
                    let name = quote(&self.options.name);
                    self.reply(
                        id,
                        &format!(r#"{{"contents":[{{"uri":{uri},"mimeType":"text/plain","text":{name}{x}}}]{x}}}"#),
                    );
                }
                None => self.fail(id, -32602, "no uri"),
            },
            "resources/subscribe" | "resources/unsubscribe" => {
                let uri = one_of.uri.unwrap_or_default().into_owned();
                if method == "resources/subscribe" {
                    self.subscriptions.insert(uri);
                } else {
                    self.subscriptions.remove(&uri);
                }
                self.reply(id, "{}");
            }
            "prompts/get" => match one_of.name.as_deref() {
                Some("greet") => {
                    let arguments = quote(one_of.arguments.map_or("null", RawValue::get));
                    self.reply(
                        id,
                        &format!(
                            r#"{{"description":"A greeting","messages":[{{"role":"user","content":{{"type":"text","text":{arguments}{x}}}{x}}}]{x}}}"#
                        ),
                    );
                }
                _ => self.fail(id, -32602, "unknown prompt"),
            },
            "completion/complete" => {
                let value = one_of.argument.map(|argument| argument.value).unwrap_or_default();
                let (first, second) = (quote(&format!("{value}-1")), quote(&format!("{value}-2")));
                self.reply(
                    id,
                    &format!(
                        r#"{{"completion":{{"values":[{first},{second}],"total":2,"hasMore":false{x}}},"x-params":{text}{x}}}"#
                    ),
                );
            }
            "logging/setLevel" => {
                self.log_level = one_of.level.and_then(|level| lists::log_level(&level));
                self.reply(id, "{}");
            }
            "tasks/get" | "tasks/result" | "tasks/cancel" => {
                let task = one_of.task_id.unwrap_or_default().into_owned();
                self.about_task(id, method, &task);
            }
            "tasks/list" => {
                let tasks: Vec<_> = self.tasks.values().map(|task| task.to_json(x)).collect();
                self.list(id, "tasks", &tasks, cursor);
            }
            "x-fake/echo" => self.reply(id, &format!(r#"{{"x-params":{text}{x}}}"#)),
            _ => self.fail(id, -32601, "Method not found"),
        }
    }

    fn initialize(&mut self, id: &str, params: &str, asked: Option<&str>) {
        let newest = self.options.protocol.clone();
        let version = match asked {
            Some(asked) if PROTOCOLS.contains(&asked) && asked <= newest.as_str() => asked,
            _ => &newest,
        };
        self.hello = params.to_owned();
        let x = self.unknown();
        let name = quote(&self.options.name);
        let instructions = quote(&format!("Instructions of {}.", self.options.name));
        let version = quote(version);
        self.reply(
            id,
            &format!(
                r#"{{"protocolVersion":{version},"capabilities":{{"tools":{{"listChanged":true}},"resources":{{"subscribe":true,"listChanged":true}},"prompts":{{"listChanged":true}},"completions":{{}},"logging":{{}},"tasks":{{"list":{{}},"cancel":{{}},"requests":{{"tools":{{"call":{{}}}}}}}},"experimental":{{"x-fake":{{}}}}}},"serverInfo":{{"name":{name},"title":"A fake","version":"1.2.3"{x}}},"instructions":{instructions}{x}}}"#
            ),
        );
    }

    fn notification(&mut self, method: &str, params: Option<&str>) {
        if method != "notifications/cancelled" {
            return;
        }
        let id = params
            .and_then(|params| serde_json::from_str::<OneOf<'_>>(params).ok())
            .and_then(|params| params.request_id);
        if let Some(id) = id {
            self.slow.remove(id.get());
        }
    }

    /// Sends one page of `items`.
    ///
    /// The second page's cursor is the empty string, which is a valid cursor.
    fn list(&mut self, id: &str, member: &str, items: &[String], cursor: Option<&str>) {
        let x = self.unknown();
        let size = if self.options.page_size == 0 { usize::MAX } else { self.options.page_size };
        let page = match cursor {
            None => 0,
            Some("") => 1,
            Some(cursor) => match cursor.strip_prefix("page-").and_then(|page| page.parse().ok()) {
                Some(page) => page,
                None => return self.fail(id, -32602, "invalid cursor"),
            },
        };
        let start = size.saturating_mul(page).min(items.len());
        let end = start.saturating_add(size).min(items.len());
        let next = match page {
            _ if self.options.cursor_repeats => r#","nextCursor":"page-0""#.to_owned(),
            _ if end == items.len() => String::new(),
            0 => r#","nextCursor":"""#.to_owned(),
            page => format!(r#","nextCursor":"page-{}""#, page + 1),
        };
        let items = items[start..end].join(",");
        self.reply(id, &format!(r#"{{"{member}":[{items}]{next}{x}}}"#));
    }

    /// Sends a request of our own; its answer becomes the result of the call `id`.
    pub(crate) fn ask(&mut self, id: &str, method: &str, params: &str) {
        let own = self.next_id.to_string();
        self.next_id += 1;
        self.write(format_args!(
            r#"{{"jsonrpc":"2.0","id":{own},"method":"{method}","params":{params}}}"#
        ));
        self.waiting.insert(own, id.to_owned());
    }

    fn answer(&mut self, id: &str, result: Option<&str>, error: Option<&str>) {
        if let Some(call) = self.waiting.remove(id) {
            let (member, value) = match (result, error) {
                (Some(result), _) => ("answer", result),
                (None, error) => ("error", error.unwrap_or("null")),
            };
            let x = self.unknown();
            self.reply(
                &call,
                &format!(
                    r#"{{"content":[{{"type":"text","text":"answered"}}],"structuredContent":{{"{member}":{value}}}{x}}}"#
                ),
            );
        }
    }

    /// Says that a resource changed, if the client subscribed to it.
    pub(crate) fn touch(&mut self, uri: &str) {
        if self.subscriptions.contains(uri) {
            let (uri, x) = (quote(uri), self.unknown());
            self.notify("notifications/resources/updated", &format!(r#"{{"uri":{uri}{x}}}"#));
        }
    }

    pub(crate) fn reply(&mut self, id: &str, result: &str) {
        self.write(format_args!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
    }

    pub(crate) fn fail(&mut self, id: &str, code: i32, message: &str) {
        let x = self.unknown();
        self.write(format_args!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}","data":{{"from":"fake"}}{x}}}}}"#
        ));
    }

    pub(crate) fn notify(&mut self, method: &str, params: &str) {
        self.write(format_args!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#));
    }

    pub(crate) fn junk(&mut self) {
        if self.options.junk {
            self.out.extend_from_slice(b"Usage: fake [OPTIONS]\n\n{not json\n[]\n\"text\"\n{\"level\":30,\"msg\":\"ready\"}\n\xff\xfe\n");
        }
    }

    fn write(&mut self, message: std::fmt::Arguments<'_>) {
        self.out.write_fmt(message).expect("writing to a vector cannot fail");
        self.out.push(b'\n');
    }

    pub(crate) fn after(&mut self, wait: Duration, timer: Timer) {
        self.timers.push(Reverse((Instant::now() + wait, timer)));
    }

    /// Returns how long it is until the next timer.
    pub(crate) fn next_timer(&self) -> Option<Duration> {
        self.timers.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn fire_timers(&mut self) {
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= Instant::now()) {
            match self.timers.pop() {
                Some(Reverse((_, Timer::Slow(id)))) => self.step(&id),
                Some(Reverse((_, Timer::Task(id)))) => self.finish_task(&id),
                None => {}
            }
        }
    }
}

/// Returns `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}
