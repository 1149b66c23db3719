//! A Hub under test: a real process, and devices that play gateways towards it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{self, MARK};
use crate::program;

/// A Hub starts within this time, on a machine that does other things too.
const START_MAX: Duration = Duration::from_secs(60);

/// A request to it gets an answer within this time.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Where a Hub keeps everything.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In the test's directory.
    Sqlite,
    /// In this database.
    Postgres(String),
}

/// A Hub, which is told to stop when this is dropped.
pub struct Hub {
    dir: TempDir,
    storage: Storage,
    address: String,
    mark: String,
    flags: Vec<String>,
    trusted: Option<PathBuf>,
    running: Option<Running>,
    /// The link that sets it up, as its first start printed it.
    pub setup_url: Option<String>,
}

struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
    /// What reads the log, until its end.
    reader: JoinHandle<()>,
}

impl Hub {
    /// Starts one, at an address of its own.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(storage: Storage) -> Self {
        Self::start_with(storage, &[])
    }

    /// Starts one with more flags.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_with(storage: Storage, flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", storage, flags)
    }

    /// Starts one that listens there. With a `--public-url` it does not say where it listens.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_at(address: &str, storage: Storage, flags: &[&str]) -> Self {
        let mut this = Self::new(address, storage, flags);
        this.run();
        this
    }

    /// Starts one that trusts the certificates of a file, and no others.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_trusting(certificates: &Path, storage: Storage) -> Self {
        let mut this = Self::new("127.0.0.1:0", storage, &[]);
        this.trusted = Some(certificates.to_owned());
        this.run();
        this
    }

    fn new(address: &str, storage: Storage, flags: &[&str]) -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("ultra-hub-").tempdir().expect("a directory"),
            storage,
            address: address.to_owned(),
            mark: uuid::Uuid::now_v7().to_string(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            trusted: None,
            running: None,
            setup_url: None,
        }
    }

    /// Starts it again after [`Hub::kill`] or [`Hub::stop`], at the same address.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn run(&mut self) {
        let mut command = Command::new(program("ultra-dup"));
        command.args(["hub", "serve", "--listen", &self.address]).args(&self.flags);
        match &self.storage {
            Storage::Sqlite => command.arg("--data").arg(self.dir.path()),
            Storage::Postgres(url) => command.env("ULTRA_HUB_DATABASE_URL", url),
        };
        command.env("HOME", self.dir.path()).env(MARK, &self.mark);
        if let Some(trusted) = &self.trusted {
            command.env("SSL_CERT_FILE", trusted);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a Hub");
        let log = Arc::<Mutex<String>>::default();
        let errors = child.stderr.take().expect("its stderr is a pipe");
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                written.lock().expect("nobody panics with it").push_str(&format!("{line}\n"));
            }
        });
        let output = child.stdout.take().expect("its stdout is a pipe");
        self.running = Some(Running { child, log, reader });
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let first = lines.recv_timeout(START_MAX);
        let first = first.unwrap_or_else(|_| panic!("the Hub does not start: {}", self.log()));
        if !self.flags.iter().any(|flag| flag == "--public-url") {
            let url = first.rsplit(' ').next().unwrap_or_default();
            let address = url.split_once("://").map_or(url, |(_, address)| address);
            self.address = address.trim_end_matches('/').to_owned();
        }
        // Said at the same time, if there is something to say.
        while let Ok(line) = lines
            .recv_timeout(Duration::from_millis(if self.setup_url.is_none() { 200 } else { 5 }))
        {
            if line.contains("/setup") {
                self.setup_url = Some(line.trim().to_owned());
            }
        }
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns what it wrote to its log since it was started.
    pub fn log(&self) -> String {
        let log = self.running.as_ref().map(|running| Arc::clone(&running.log));
        log.map(|log| log.lock().expect("nobody panics with it").clone()).unwrap_or_default()
    }

    /// Waits until its log has a line with this text; returns the last such line.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn logged(&self, text: &str) -> String {
        for _ in 0..200 {
            if let Some(line) = self.log().lines().rev().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the Hub did not log `{text}`: {}", self.log());
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// Tells it to stop, waits until it has, and returns what it logged.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    pub fn stop(&mut self) -> String {
        process::signal(self.pid(), rustix::process::Signal::TERM);
        let (status, log) = self.ended();
        assert!(status.success(), "the Hub ended with {status}: {log}");
        log
    }

    /// Waits until it has ended; returns how, and what it logged.
    ///
    /// # Panics
    ///
    /// If it was not running.
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let mut running = self.running.take().expect("a Hub that runs");
        let status = running.child.wait().expect("a child of ours");
        running.reader.join().expect("it reads lines");
        let log = running.log.lock().expect("nobody panics with it").clone();
        (status, log)
    }

    /// Returns the directory of this test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns its SQLite file.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("hub.db")
    }

    /// Returns its process.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map(|running| running.child.id()).unwrap_or_default()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Somebody at the Hub's pages without a browser: forms are filled by their names.
pub struct Visitor {
    client: reqwest::Client,
    base: String,
}

impl Visitor {
    /// Returns somebody who is not signed in.
    ///
    /// # Panics
    ///
    /// If TLS cannot be set up.
    pub fn new(hub: &Hub) -> Self {
        let client = client().cookie_store(true).build().expect("a client");
        Self { client, base: hub.url("") }
    }

    /// Returns a page.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn page(&self, path: &str) -> String {
        let url =
            if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let response = self.client.get(&url).send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a page");
        assert!(status.is_success(), "{url}: {status} {text}");
        text
    }

    /// Returns the answer to a request for a page, the rest of which may come later.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    pub async fn open(&self, path: &str) -> reqwest::Response {
        let url = format!("{}{path}", self.base);
        self.client.get(url).send().await.expect("an answer")
    }

    /// Fills the form that sends to `action` on a page, with its hidden fields as they are; returns the
    /// page that it leads to.
    ///
    /// # Panics
    ///
    /// If there is no such form, or it is refused.
    pub async fn submit(&self, page: &str, action: &str, fields: &[(&str, &str)]) -> String {
        let html = self.page(page).await;
        let (target, mut all) = form(&html, action);
        for (name, value) in fields {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let url = format!("{}{target}", self.base);
        let origin = self.base.clone();
        let response = self.client.post(&url).header("origin", origin).form(&all).send().await;
        let response = response.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a page");
        assert!(status.is_success(), "{url}: {status} {text}");
        text
    }
}

/// Returns where a form sends to, and its hidden fields. `action` is the end of that address, or a part of it
/// where no form's address ends so.
fn form(html: &str, action: &str) -> (String, Vec<(String, String)>) {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.replace("&amp;", "&"))
    };
    let forms = || html.split("<form").skip(1).filter_map(|form| form.split_once('>'));
    let target = |tag: &str| attribute(tag, "action").unwrap_or_default();
    let found = forms().find(|(tag, _)| target(tag).ends_with(action));
    let found = found.or_else(|| forms().find(|(tag, _)| target(tag).contains(action)));
    if let Some((tag, rest)) = found {
        let body = rest.split("</form>").next().unwrap_or_default();
        let inputs = body.split("<input").skip(1).filter_map(|input| input.split_once('>'));
        let hidden = inputs.filter(|(tag, _)| attribute(tag, "type").as_deref() == Some("hidden"));
        let fields =
            hidden.filter_map(|(tag, _)| Some((attribute(tag, "name")?, attribute(tag, "value")?)));
        return (target(tag), fields.collect());
    }
    panic!("no form sends to `{action}`: {html}");
}

/// Returns a client that trusts no certificate: everything here is on loopback.
///
/// # Panics
///
/// If TLS cannot be set up.
pub fn client() -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().use_preconfigured_tls(tls).timeout(REQUEST_MAX)
}

/// A device that plays a gateway.
#[derive(Clone)]
pub struct Device {
    client: reqwest::Client,
    base: String,
    secret: String,
    /// `gw_…`
    pub gateway: String,
    /// `ws_…`
    pub workspace: String,
    /// Id of its database.
    pub database: String,
}

impl Device {
    /// Links one with a deploy key.
    ///
    /// # Panics
    ///
    /// If the Hub refuses.
    pub async fn link(base: &str, key: &str, name: &str) -> Self {
        let client = client().build().expect("a client");
        Self::link_over(client, base, key, name).await
    }

    /// Likewise, over the connections that others have too.
    ///
    /// # Panics
    ///
    /// If the Hub refuses.
    pub async fn link_over(client: reqwest::Client, base: &str, key: &str, name: &str) -> Self {
        let host = json!({"os": "linux", "arch": "x86_64", "hostname": name, "version": "0.1.0",
            "kind": "personal", "environment": "local"});
        let response = client
            .post(format!("{base}/api/v1/gateways"))
            .bearer_auth(key)
            .json(&json!({"name": name, "host": host}))
            .send()
            .await
            .expect("an answer");
        let status = response.status();
        let linked: Value = response.json().await.expect("JSON");
        assert_eq!(status, 201, "{linked}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            client,
            base: base.to_owned(),
            secret: text(&linked["secret"]),
            gateway: text(&linked["gateway_id"]),
            workspace: text(&linked["workspace"]["id"]),
            database: uuid::Uuid::now_v7().simple().to_string(),
        }
    }

    /// Sends a batch as it is; returns the status and what came with it. Nothing if no answer came.
    pub async fn send(&self, body: Vec<u8>) -> Option<(u16, Value)> {
        let response = self
            .client
            .post(format!("{}/api/v1/records", self.base))
            .bearer_auth(&self.secret)
            .header("content-type", "application/x-ndjson")
            .header("content-encoding", "zstd")
            .body(body)
            .send()
            .await
            .ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Says that it is there.
    pub async fn heartbeat(&self, process: &str) -> Option<(u16, Value)> {
        let body = json!({"process": process, "host": {"os": "linux", "arch": "x86_64",
            "hostname": self.gateway, "version": "0.1.0", "kind": "personal", "environment": "local"},
            "period_s": 30, "database": self.database, "unsent": 3,
            "clients": [{"name": "claude-ai", "version": "1.2.3"}],
            "upstreams": [{"name": "github", "state": "ready", "tools": 12}]});
        let response = self
            .client
            .post(format!("{}/api/v1/heartbeat", self.base))
            .bearer_auth(&self.secret)
            .json(&body)
            .send()
            .await
            .ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    /// Returns the numbers that the Hub has of a kind of this device's records.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub async fn spans(&self, kind: &str) -> Vec<(i64, i64)> {
        let url = format!("{}/api/v1/gateways/self", self.base);
        let ask = async || {
            let response = self.client.get(&url).bearer_auth(&self.secret).send().await;
            response.expect("an answer").json::<Value>().await.expect("JSON")
        };
        let mut me = ask().await;
        // Its database may be away for a moment.
        for _ in 0..200 {
            if me["error"] != "unavailable" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            me = ask().await;
        }
        let streams = me["streams"].as_array().expect("streams");
        let of = |stream: &&Value| stream["database"] == *self.database && stream["kind"] == *kind;
        let spans = streams.iter().find(of).map(|stream| stream["spans"].clone());
        serde_json::from_value(spans.unwrap_or(json!([]))).expect("spans")
    }

    /// Returns a batch of traces of now from `first` on, as it is sent.
    ///
    /// # Panics
    ///
    /// If it cannot be compressed.
    pub fn traces(&self, first: i64, count: u64) -> Vec<u8> {
        let now = SystemTime::now();
        self.traces_at(first, count, |_| now)
    }

    /// Likewise, of calls that began at these times.
    ///
    /// # Panics
    ///
    /// If it cannot be compressed.
    pub fn traces_at(&self, first: i64, count: u64, at: impl Fn(i64) -> SystemTime) -> Vec<u8> {
        let mut text = json!({"database": self.database, "kind": "traces", "first": first,
            "count": count})
        .to_string();
        for seq in first.. {
            if seq >= first + count as i64 {
                break;
            }
            text.push('\n');
            text.push_str(&trace(&self.database, seq, at(seq)).to_string());
        }
        text.push('\n');
        zstd::encode_all(text.as_bytes(), 1).expect("compressing into memory")
    }
}

/// Returns the trace with this number: a call of some tool with a page of text, as people make them.
///
/// # Panics
///
/// If it is not of our time.
pub fn trace(database: &str, seq: i64, at: SystemTime) -> Value {
    let tools = ["search_code", "list_issues", "read_file", "query", "post_message"];
    let upstreams = ["github", "jira", "files", "postgres", "slack"];
    let which = usize::try_from(seq).unwrap_or_default();
    let time = jiff::Timestamp::try_from(at).expect("a time of our calendar");
    let client = database.bytes().fold(0_usize, |sum, byte| sum + usize::from(byte));
    let clients = ["claude-ai", "cursor", "vscode", "codex", "zed"];
    let failed = which % 50 == 7;
    let text = format!("result {seq} of {database}: ").repeat(20);
    json!({
        "seq": seq,
        "id": record_id(database, seq),
        "trace_id": format!("{:032x}", which + 1),
        "span_id": format!("{:016x}", which + 1),
        "parent_span_id": null,
        "operation": "tool_call",
        "method": "tools/call",
        "upstream": upstreams[which % upstreams.len()],
        "name": tools[which % tools.len()],
        "request": {"name": tools[which % tools.len()], "arguments": {"query": format!("number {seq}")}},
        "response": {"content": [{"type": "text", "text": text}]},
        "request_bytes": 80,
        "response_bytes": 1000,
        "status": if failed { "error" } else { "success" },
        "error": if failed { json!("the tool failed") } else { Value::Null },
        "duration": 1_000_000 + (which % 1000) * 10_000,
        "timestamp": format!("{time:.9}"),
        "principal": format!("{}/1.{}", clients[client % clients.len()], client % 3),
        "session_id": format!("session-{}", which / 40),
        "metadata": {"transport": "stdio"},
    })
}

/// Returns the id of a record: the same for the same number of the same database.
pub fn record_id(database: &str, seq: i64) -> String {
    let base = uuid::Uuid::parse_str(database).unwrap_or_default().as_u128();
    uuid::Uuid::from_u128(base ^ (seq as u128)).to_string()
}

/// Somebody who set a Hub up, and owns it.
pub struct Owner {
    /// Signed in.
    pub visitor: Visitor,
    /// `ws_…`
    pub workspace: String,
}

impl Owner {
    /// Follows the link that the Hub printed at its first start.
    ///
    /// # Panics
    ///
    /// If it does not lead to a Hub that is set up.
    pub async fn set_up(hub: &Hub) -> Self {
        let visitor = Visitor::new(hub);
        let url = hub.setup_url.as_deref().expect("a Hub that nobody set up prints a link");
        let fields = [
            ("organization", "Acme"),
            ("team", "Platform"),
            ("workspace", "Laptops"),
            ("name", "Ada Lovelace"),
            ("email", "ada@example.com"),
        ];
        let page = visitor.submit(url, "/setup", &fields).await;
        let workspace = between(&page, "/w/ws_", |c: char| !c.is_ascii_alphanumeric());
        Self { visitor, workspace: format!("ws_{workspace}") }
    }

    /// Makes a deploy key.
    ///
    /// # Panics
    ///
    /// If the page does not show one.
    pub async fn deploy_key(&self, name: &str) -> String {
        let fields = [("name", name), ("workspace_id", self.workspace.as_str()), ("days", "never")];
        let page = format!("/w/{}/settings/security", self.workspace);
        let page = self.visitor.submit(&page, "/keys", &fields).await;
        format!("dk_{}", between(&page, "dk_", |c: char| !c.is_ascii_hexdigit()))
    }
}

/// Returns what stands behind a text, until a character that ends it.
fn between(text: &str, before: &str, ends: impl Fn(char) -> bool) -> String {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in {text}"));
    rest.split(ends).next().unwrap_or_default().to_owned()
}
