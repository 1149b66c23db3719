//! A client of one MCP server on stdio that hides nothing: it sends and shows lines as they are.
//!
//! It knows no gateway, so that the same script runs against an upstream alone and behind Ultra.
//! Waits have a limit and panic with what was awaited, what came instead and the end of stderr.

use std::collections::{HashMap, VecDeque};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{Json, process};

/// How long anything may take. Generous: debug builds on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of stderr that are kept, from its end.
const STDERR_BYTES_MAX: usize = 256 * 1024;

/// One line the server wrote.
#[derive(Debug, Clone)]
pub struct Message {
    /// The line.
    pub raw: String,
    /// The place in the order of all lines.
    pub order: usize,
    /// `method`, of a request or a notification.
    pub method: Option<String>,
    /// `id` as written.
    pub id: Option<String>,
}

impl Message {
    fn parse(raw: String, order: usize) -> Option<Self> {
        if !raw.starts_with('{') || serde_json::from_str::<&RawValue>(&raw).is_err() {
            return None;
        }
        let json = Json::parse(&raw);
        let method =
            json.get("method").and_then(|method| serde_json::from_str(&method.to_string()).ok());
        let id = json.get("id").map(Json::to_string);
        Some(Self { raw, order, method, id })
    }

    /// Returns the message as a tree that keeps every leaf as written.
    pub fn json(&self) -> Json {
        Json::parse(&self.raw)
    }

    /// Returns the message as a tree whose `id` is null: two sessions count on their own.
    pub fn json_without_id(&self) -> Json {
        let mut json = self.json();
        if let Some(id) = json.get_mut(&["id"]) {
            *id = Json::Leaf("null".to_owned());
        }
        json
    }

    /// Returns the message as a value. Numbers may lose digits.
    ///
    /// # Panics
    ///
    /// If a number is beyond a double.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.raw).unwrap_or_else(|error| panic!("{error}: {}", self.raw))
    }

    /// Returns the result.
    ///
    /// # Panics
    ///
    /// If it is something else, such as an error.
    pub fn result(&self) -> Value {
        let mut value = self.value();
        let result = value.get_mut("result").map(Value::take);
        result.unwrap_or_else(|| panic!("no result: {}", self.raw))
    }

    /// Returns the error.
    ///
    /// # Panics
    ///
    /// If it is something else, such as a result.
    pub fn error(&self) -> Value {
        let mut value = self.value();
        let error = value.get_mut("error").map(Value::take);
        error.unwrap_or_else(|| panic!("no error: {}", self.raw))
    }

    /// Returns the code of the error.
    ///
    /// # Panics
    ///
    /// If it is something else, such as a result.
    pub fn error_code(&self) -> i64 {
        self.error()["code"].as_i64().unwrap_or_else(|| panic!("no code: {}", self.raw))
    }

    /// Returns `params`, null if there are none.
    pub fn params(&self) -> Value {
        self.value().get_mut("params").map(Value::take).unwrap_or_default()
    }

    fn is_response(&self) -> bool {
        self.method.is_none()
    }
}

/// Answers a request of the server: its params in, the result out.
type Handler = Box<dyn Fn(Value) -> Value + Send>;

#[derive(Default)]
struct Inbox {
    messages: VecDeque<Message>,
    garbage: Vec<String>,
    handlers: HashMap<String, Handler>,
    stderr: Vec<u8>,
    received: usize,
    closed: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Notify,
    stdin: tokio::sync::Mutex<Option<ChildStdin>>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, line: &[u8]) -> std::io::Result<()> {
        match self.stdin.lock().await.as_mut() {
            Some(stdin) => {
                stdin.write_all(line).await?;
                stdin.flush().await
            }
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// A running server and the session with it. The server and its process group die when this is dropped.
pub struct Session {
    child: Child,
    pid: u32,
    shared: Arc<Shared>,
    /// Gathers stderr until it ends.
    stderr: Option<JoinHandle<()>>,
    next_id: AtomicU64,
}

impl Session {
    /// Starts a server in a process group of its own. Sends nothing.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    pub fn start(command: std::process::Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let pid = child.id().expect("not yet waited for");
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            arrived: Notify::new(),
            stdin: tokio::sync::Mutex::new(child.stdin.take()),
        });
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read(stdout, Arc::clone(&shared)));
        }
        let stderr = child.stderr.take().map(|mut stderr| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut chunk = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
                    let mut inbox = shared.inbox();
                    inbox.stderr.extend_from_slice(&chunk[..read]);
                    let excess = inbox.stderr.len().saturating_sub(STDERR_BYTES_MAX);
                    inbox.stderr.drain(..excess);
                }
            })
        });
        // Not 1: an id that only fits by luck shall not pass.
        Self { child, pid, shared, stderr, next_id: AtomicU64::new(1000) }
    }

    /// Returns the process id of the server.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Answers the server's requests of this method from now on. Others wait for [`Self::server_request`].
    pub fn on_request(&self, method: &str, answer: impl Fn(Value) -> Value + Send + 'static) {
        self.shared.inbox().handlers.insert(method.to_owned(), Box::new(answer));
    }

    /// Shakes hands in revision 2025-11-25, and returns the answer to `initialize`.
    pub async fn initialize(&self, capabilities: Value) -> Message {
        self.initialize_as("2025-11-25", capabilities).await
    }

    /// Shakes hands in a revision, and returns the answer to `initialize`.
    pub async fn initialize_as(&self, revision: &str, capabilities: Value) -> Message {
        let client = json!({"name": "harness", "version": "1.0"});
        let params = json!({"protocolVersion": revision, "capabilities": capabilities, "clientInfo": client});
        let answer = self.request("initialize", params).await;
        self.notify("notifications/initialized", Value::Null).await;
        answer
    }

    /// Sends bytes as they are, with a line feed.
    ///
    /// # Panics
    ///
    /// If the server does not take them.
    pub async fn send(&self, line: impl AsRef<[u8]>) {
        let mut line = line.as_ref().to_vec();
        line.push(b'\n');
        let sent = tokio::time::timeout(PATIENCE, self.shared.send(&line)).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(&format!("cannot send: {error}")),
            Err(_) => self.fail("the server does not read"),
        }
    }

    /// Sends a notification; null params are left out.
    pub async fn notify(&self, method: &str, params: Value) {
        self.send(message(None, method, params)).await;
    }

    /// Sends a request and returns its id; null params are left out.
    pub async fn send_request(&self, method: &str, params: Value) -> String {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        self.send(message(Some(&id), method, params)).await;
        id
    }

    /// Sends a request and waits for its response; null params are left out.
    pub async fn request(&self, method: &str, params: Value) -> Message {
        let id = self.send_request(method, params).await;
        self.response(&id).await
    }

    /// Calls a tool and waits for its response.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Message {
        self.request("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Answers a request of the server.
    pub async fn answer(&self, request: &Message, result: Value) {
        let id = request.id.as_deref().unwrap_or("null");
        self.send(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await;
    }

    /// Waits for the response with an id, which is a JSON text.
    pub async fn response(&self, id: &str) -> Message {
        self.wait_for(&format!("the response to {id}"), |message| {
            message.is_response() && message.id.as_deref() == Some(id)
        })
        .await
    }

    /// Waits for a notification.
    pub async fn notification(&self, method: &str) -> Message {
        self.wait_for(method, |message| {
            message.method.as_deref() == Some(method) && message.id.is_none()
        })
        .await
    }

    /// Waits for a request of the server that has no handler.
    pub async fn server_request(&self, method: &str) -> Message {
        self.wait_for(method, |message| {
            message.method.as_deref() == Some(method) && message.id.is_some()
        })
        .await
    }

    /// Waits for a message and takes it out of the inbox.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`], or when the server closes its output first.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let closed = {
                let mut inbox = self.shared.inbox();
                let found = inbox
                    .messages
                    .iter()
                    .position(&wanted)
                    .and_then(|at| inbox.messages.remove(at));
                if let Some(message) = found {
                    return message;
                }
                inbox.closed
            };
            if closed {
                self.fail(&format!("the server ended before {what}"));
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                self.fail(&format!("waited {PATIENCE:?} for {what}"));
            }
        }
    }

    /// Takes all messages of a method that have arrived so far.
    pub fn take(&self, method: &str) -> Vec<Message> {
        let mut inbox = self.shared.inbox();
        let (taken, left) =
            inbox.messages.drain(..).partition(|message| message.method.as_deref() == Some(method));
        inbox.messages = left;
        taken.into()
    }

    /// Returns what has arrived and was not waited for, as lines.
    pub fn left(&self) -> Vec<String> {
        self.shared.inbox().messages.iter().map(|message| message.raw.clone()).collect()
    }

    /// Returns whether the server has closed its output, and all of it was read.
    pub fn is_closed(&self) -> bool {
        self.shared.inbox().closed
    }

    /// Returns the lines on stdout that are no JSON-RPC.
    pub fn garbage(&self) -> Vec<String> {
        self.shared.inbox().garbage.clone()
    }

    /// Returns the end of stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.shared.inbox().stderr).into_owned()
    }

    /// Asks for all pages of a list and returns its items.
    ///
    /// # Panics
    ///
    /// If it is refused, or is no list.
    pub async fn list(&self, method: &str, member: &str) -> Vec<Json> {
        let mut items = Vec::new();
        let mut params = Value::Null;
        loop {
            let page = self.request(method, params).await;
            let json = page.json();
            let result = json.get("result");
            match result.and_then(|result| result.get(member)) {
                Some(Json::Array(page)) => items.extend(page.iter().cloned()),
                _ => panic!("no `{member}`: {}", page.raw),
            }
            match result.and_then(|result| result.get("nextCursor")) {
                Some(cursor) => params = json!({"cursor": cursor.as_str()}),
                None => return items,
            }
        }
    }

    /// Returns the names of all items of a list, in order.
    pub async fn names(&self, method: &str, member: &str) -> Vec<String> {
        let items = self.list(method, member).await;
        items.iter().map(|item| item.get("name").map(Json::as_str).unwrap_or_default()).collect()
    }

    /// Returns the names of all tools, in order.
    pub async fn tool_names(&self) -> Vec<String> {
        self.names("tools/list", "tools").await
    }

    /// Waits until a list of tools satisfies, asking again and again, and returns the names.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`], with the last list.
    pub async fn tools_until(
        &self,
        what: &str,
        satisfied: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let names = self.tool_names().await;
            if satisfied(&names) {
                return names;
            }
            if Instant::now() > deadline {
                self.fail(&format!("waited {PATIENCE:?} for {what}; there is {names:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Closes the server's input.
    pub async fn close_input(&self) {
        self.shared.stdin.lock().await.take();
    }

    /// Waits until the server has ended.
    ///
    /// # Panics
    ///
    /// If it does not within [`PATIENCE`].
    pub async fn ended(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => {
                // What it wrote last may still be on its way; a child of it may hold the pipe open.
                if let Some(stderr) = self.stderr.take() {
                    let _ = tokio::time::timeout(Duration::from_secs(2), stderr).await;
                }
                status
            }
            Ok(Err(error)) => self.fail(&format!("cannot wait for the server: {error}")),
            Err(_) => self.fail(&format!("waited {PATIENCE:?} for the server to end")),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let left = self.left();
        let shown = left.iter().take(20).map(|line| shorten(line)).collect::<Vec<_>>().join("\n  ");
        let stderr = self.stderr();
        let tail: Vec<_> = stderr.lines().rev().take(30).collect();
        let tail = tail.into_iter().rev().map(shorten).collect::<Vec<_>>().join("\n  ");
        panic!("{what}\n{} other messages:\n  {shown}\nstderr:\n  {tail}", left.len());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The id is still ours: a leader that was reaped keeps its group's id taken while members live,
        // and one that has no members left gets "no such process", unless the machine wrapped around.
        process::kill_group(self.pid);
    }
}

fn shorten(line: &str) -> String {
    line.chars().take(400).collect()
}

fn message(id: Option<&str>, method: &str, params: Value) -> String {
    let id = id.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
    let params = if params.is_null() { String::new() } else { format!(r#","params":{params}"#) };
    format!(r#"{{"jsonrpc":"2.0"{id},"method":"{method}"{params}}}"#)
}

async fn read(stdout: ChildStdout, shared: Arc<Shared>) {
    let mut lines = BufReader::with_capacity(64 * 1024, stdout);
    let mut line = Vec::new();
    while let Ok(1..) = lines.read_until(b'\n', &mut line).await {
        let answer = {
            let mut inbox = shared.inbox();
            let raw = String::from_utf8_lossy(&line).trim_end().to_owned();
            inbox.received += 1;
            let order = inbox.received;
            match Message::parse(raw.clone(), order) {
                Some(message) => {
                    let answer = answer(&inbox.handlers, &message);
                    if answer.is_none() {
                        inbox.messages.push_back(message);
                    }
                    answer
                }
                None => {
                    inbox.garbage.push(raw);
                    None
                }
            }
        };
        if let Some(answer) = answer {
            // The server may be gone; then the test finds out.
            let _ = shared.send(answer.as_bytes()).await;
        }
        shared.arrived.notify_waiters();
        line.clear();
    }
    shared.inbox().closed = true;
    shared.arrived.notify_waiters();
}

fn answer(handlers: &HashMap<String, Handler>, message: &Message) -> Option<String> {
    let (method, id) = (message.method.as_ref()?, message.id.as_ref()?);
    let handler = handlers.get(method)?;
    let result = handler(message.params());
    Some(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n"))
}
