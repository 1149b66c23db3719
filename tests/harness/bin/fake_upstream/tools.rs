//! What each tool does.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::lists;
use crate::server::{Server, Timer, quote};

/// Params of `tools/call`.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    task: Option<TaskParams<'a>>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct TaskParams<'a> {
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
}

/// Arguments of all the tools.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Arguments<'a> {
    ms: u64,
    steps: u64,
    bytes: usize,
    count: usize,
    #[serde(borrow)]
    level: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// A call that is being answered slowly.
pub(crate) struct Slow {
    step: u64,
    steps: u64,
    pause: Duration,
    token: Option<String>,
    /// What it says at every step, and what it comes to, as JSON.
    message: Option<String>,
}

impl Server {
    pub(crate) fn call_tool(&mut self, id: &str, params: Option<&str>) {
        let params = params.unwrap_or("{}");
        let Ok(call) = serde_json::from_str::<Call<'_>>(params) else {
            return self.fail(id, -32602, "invalid params");
        };
        self.junk();
        let raw = call.arguments.map_or("null", RawValue::get);
        match &*call.name {
            "echo" => self.structured(id, raw),
            "params" => self.structured(id, params),
            name if self.is_generated(name) => self.structured(id, raw),
            name => {
                let arguments = serde_json::from_str(raw).unwrap_or_default();
                self.call_special(id, name, &call, &arguments);
            }
        }
        self.calls += 1;
        if self.options.die_after.is_some_and(|limit| self.calls >= limit) {
            self.exit = Some(0);
        }
    }

    fn call_special(&mut self, id: &str, name: &str, call: &Call<'_>, arguments: &Arguments<'_>) {
        let x = self.unknown();
        let asked = arguments.params.map(RawValue::get);
        match name {
            "hello" => {
                let hello = self.hello.clone();
                self.structured(id, &hello);
            }
            "pid" => self.structured(id, &format!(r#"{{"pid":{}}}"#, std::process::id())),
            "slow" => self.slow(id, call, arguments),
            "elicit" => {
                let params = format!(
                    r#"{{"message":"Your name?","requestedSchema":{{"type":"object","properties":{{"name":{{"type":"string"}}}},"required":["name"]}}{x}}}"#
                );
                self.ask(id, "elicitation/create", asked.unwrap_or(&params));
            }
            "sample" => {
                let params = format!(
                    r#"{{"messages":[{{"role":"user","content":{{"type":"text","text":"Say hi"{x}}}}}],"maxTokens":10,"tools":[],"toolChoice":{{"mode":"none"}}{x}}}"#
                );
                self.ask(id, "sampling/createMessage", asked.unwrap_or(&params));
            }
            "roots" => self.ask(id, "roots/list", asked.unwrap_or("{}")),
            "tool-error" => self.reply(
                id,
                &format!(r#"{{"content":[{{"type":"text","text":"the tool failed"{x}}}],"isError":true{x}}}"#),
            ),
            "rpc-error" => self.fail(id, -32042, "the server failed"),
            "crash" => std::process::exit(3),
            "silent" => {}
            "stranger" => {
                self.reply("987654321", "{}");
                self.reply(r#""nobody""#, "{}");
                self.notify("notifications/progress", r#"{"progressToken":"nobody","progress":1}"#);
                self.notify("notifications/x-unknown", r#"{"any":"thing"}"#);
                self.structured(id, "{}");
            }
            "log" => self.log(id, arguments),
            "big" => {
                let text = quote(&"x".repeat(arguments.bytes));
                self.reply(id, &format!(r#"{{"content":[{{"type":"text","text":{text}}}]}}"#));
            }
            "change-tools" => {
                self.added_tools += 1;
                for _ in 0..arguments.count {
                    self.out
                        .extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n");
                }
                self.structured(id, "{}");
            }
            "touch" => {
                self.touch(arguments.uri.as_deref().unwrap_or_default());
                self.structured(id, "{}");
            }
            "structured" => self.reply(
                id,
                &format!(
                    r#"{{"content":[{{"type":"resource_link","uri":"fake://fake/note","name":"note"{x}}},{{"type":"image","data":"AAAA","mimeType":"image/png","annotations":{{"audience":["user"]}}{x}}}],"structuredContent":{{"integer":9007199254740993,"text":"a\u0000b"{x}}},"_meta":{{"k":"v"}}{x}}}"#
                ),
            ),
            "task" => match &call.task {
                Some(task) => {
                    let ttl = task.ttl.map_or("null", RawValue::get).to_owned();
                    self.start_task(id, ttl, arguments.ms);
                }
                None => self.slow(id, call, arguments),
            },
            _ => self.fail(id, -32602, "Unknown tool"),
        }
    }

    fn is_generated(&self, name: &str) -> bool {
        name.starts_with("tool-") && name != "tool-error"
            || name.starts_with("added-")
            || self.options.named_tools.iter().any(|known| known == name)
    }

    fn slow(&mut self, id: &str, call: &Call<'_>, arguments: &Arguments<'_>) {
        let steps = arguments.steps.max(1);
        let pause = Duration::from_millis(arguments.ms / steps);
        let token = call
            .meta
            .as_ref()
            .and_then(|meta| meta.progress_token)
            .map(|token| token.get().to_owned());
        let message = arguments.message.as_deref().map(quote);
        self.slow.insert(id.to_owned(), Slow { step: 0, steps, pause, token, message });
        self.after(pause, Timer::Slow(id.to_owned()));
    }

    /// Takes the next step of a slow call, if it was not cancelled.
    pub(crate) fn step(&mut self, id: &str) {
        let x = self.unknown();
        let Some(slow) = self.slow.get_mut(id) else { return };
        slow.step += 1;
        let (step, steps, pause) = (slow.step, slow.steps, slow.pause);
        let message = slow.message.clone();
        if let Some(token) = slow.token.clone() {
            let message = message.clone().unwrap_or_else(|| format!(r#""step {step}""#));
            self.notify(
                "notifications/progress",
                &format!(r#"{{"progressToken":{token},"progress":{step},"total":{steps},"message":{message}{x}}}"#),
            );
        }
        if step < steps {
            self.after(pause, Timer::Slow(id.to_owned()));
        } else {
            self.slow.remove(id);
            let message = message.unwrap_or_else(|| "true".to_owned());
            self.structured(id, &format!(r#"{{"slow":{message}}}"#));
        }
    }

    fn log(&mut self, id: &str, arguments: &Arguments<'_>) {
        let x = self.unknown();
        let level = arguments.level.as_deref().unwrap_or("info");
        let enabled = match (self.log_level, lists::log_level(level)) {
            (Some(lowest), Some(rank)) => rank >= lowest,
            _ => true,
        };
        if enabled {
            let (level, message) =
                (quote(level), quote(arguments.message.as_deref().unwrap_or("logged")));
            self.notify(
                "notifications/message",
                &format!(
                    r#"{{"level":{level},"logger":"fake","data":{{"message":{message}}}{x}}}"#
                ),
            );
        }
        self.structured(id, "{}");
    }

    fn structured(&mut self, id: &str, json: &str) {
        let x = self.unknown();
        self.reply(
            id,
            &format!(
                r#"{{"content":[{{"type":"text","text":"ok"{x}}}],"structuredContent":{json}{x}}}"#
            ),
        );
    }
}
