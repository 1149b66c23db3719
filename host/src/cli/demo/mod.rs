//! `ultra demo`: the whole of Ultra in a few seconds, with nothing faked.

mod server;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(super) use server::{COMMAND as SERVER_COMMAND, run as run_server};

use super::{CliError, CliResult, Output, audit, metrics, traces};
use crate::config::{Config, Environment};

/// Each answer is waited for this long: the first one may have to wait for the components to compile.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// See what Ultra does, with real servers and a real client session
///
/// Starts a gateway with two small MCP servers behind it, makes some calls through all interceptors,
/// and shows what was recorded. Everything happens in a temporary directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep the directory with the config and the database
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(args: Args, environment: &Environment, out: &mut Output) -> CliResult {
    let program = std::env::current_exe()?;
    let directory = Directory::new(args.keep)?;
    let config_path = directory.path.join("ultra.yaml");
    std::fs::write(&config_path, config_text(&program, &directory.path))?;

    out.line("Ultra sits between an AI client and its MCP servers.")?;
    out.line(&format!(
        "Here: a client -> `ultra start` -> two servers, `notes` and `clock`. Config: {}",
        config_path.display()
    ))?;
    out.line("")?;
    let mut client = Client::start(&program, &config_path, &directory.path)?;
    let calls = client.session(out);
    client.stop();
    calls?;

    let config = Config::load(Some(&config_path), environment, &directory.path)?;
    out.line(
        "\nEvery call passed four WebAssembly components. `ultra traces` shows what they saw:\n",
    )?;
    traces::run(&traces::Args::default(), &config, out).await?;
    out.line("\n`ultra audit` shows what must not be forgotten (no result leaves before its event is on disk):\n")?;
    audit::run(&audit::Args::default(), &config, out).await?;
    out.line("\n`ultra metrics` adds it up:\n")?;
    metrics::run(&metrics::Args::default(), &config, out).await?;

    out.line(
        "\nTo put Ultra in front of your own servers, write them to ~/.config/ultra/config.yaml:\n",
    )?;
    out.line(
        "upstream:\n  files:\n    enabled: true\n    command: npx\n    args: [\"-y\", \"@modelcontextprotocol/server-filesystem\", \"/path/to/a/folder\"]",
    )?;
    out.line("\nand let your client (Claude, Cursor, VS Code, …) start Ultra in their place:\n")?;
    let snippet = json!({"mcpServers": {"ultra": {"command": program, "args": ["start"]}}});
    out.line(&serde_json::to_string_pretty(&snippet).unwrap_or_default())?;
    if args.keep {
        out.line(&format!("\nKept: {}", directory.path.display()))?;
    }
    Ok(())
}

fn config_text(program: &Path, directory: &Path) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let server = |name: &str| {
        format!(
            "  {name}:\n    enabled: true\n    command: {}\n    args: [{}, {name}]\n",
            quoted(&program.to_string_lossy()),
            server::COMMAND,
        )
    };
    format!(
        "server:\n  log_level: warn\nupstream:\n{}{}storage:\n  path: {}\n",
        server("notes"),
        server("clock"),
        quoted(&directory.join("ultra.db").to_string_lossy()),
    )
}

/// A temporary directory, removed at the end unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn new(keep: bool) -> Result<Self, CliError> {
        let path =
            std::env::temp_dir().join(format!("ultra-demo-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self { path, keep })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A client of the gateway, over its stdin and stdout.
struct Client {
    gateway: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    last_id: u64,
}

impl Client {
    fn start(program: &Path, config: &Path, cwd: &Path) -> Result<Self, CliError> {
        let mut gateway = Command::new(program)
            .arg("start")
            .arg("--config")
            .arg(config)
            .current_dir(cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = gateway.stdin.take();
        let stdout = gateway.stdout.take();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || read_lines(stdout, &sender));
        Ok(Self { gateway, stdin, lines, last_id: 0 })
    }

    /// What an AI client does with its servers, in short.
    fn session(&mut self, out: &mut Output) -> CliResult {
        let started = Instant::now();
        let hello = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "ultra-demo", "version": env!("CARGO_PKG_VERSION")},
        });
        self.request("initialize", &hello)?;
        out.line(&format!("initialize                     {}", took(started)))?;
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        let started = Instant::now();
        let tools = self.request("tools/list", &json!({}))?;
        let names = tools["result"]["tools"].as_array().into_iter().flatten();
        let names: Vec<_> = names.filter_map(|tool| tool["name"].as_str()).collect();
        out.line(&format!(
            "tools/list                     {}  {}",
            took(started),
            names.join(", ")
        ))?;
        for (name, arguments) in [
            ("notes__add", json!({"text": "Buy a ladder"})),
            ("notes__search", json!({"text": "ladder"})),
            ("clock__now", json!({})),
            ("notes__share", json!({"token": "ghp_thisLooksLikeASecretAndIsStoredRedacted"})),
            ("notes__burn", json!({})),
        ] {
            let started = Instant::now();
            let answer =
                self.request("tools/call", &json!({"name": name, "arguments": arguments}))?;
            let text = answer["result"]["content"][0]["text"]
                .as_str()
                .or(answer["error"]["message"].as_str());
            out.line(&format!(
                "tools/call {name:<19} {}  {}",
                took(started),
                text.unwrap_or_default()
            ))?;
        }
        let started = Instant::now();
        let notes = self.request("resources/read", &json!({"uri": "notes://all"}))?;
        let text = notes["result"]["contents"][0]["text"].as_str().unwrap_or_default();
        out.line(&format!(
            "resources/read notes://all     {}  {} lines",
            took(started),
            text.lines().count()
        ))
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Value, CliError> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let end = Instant::now() + ANSWER_WAIT;
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.map_err(|_| {
                CliError::user(format!("the gateway gave no answer to `{method}`"))
                    .hint("its log is above; please report this")
            })?;
            if let Ok(message) = serde_json::from_str::<Value>(&line)
                && message["id"] == id
                && message.get("method").is_none()
            {
                return Ok(message);
            }
        }
    }

    fn send(&mut self, message: &Value) -> CliResult {
        if let Some(stdin) = &mut self.stdin {
            writeln!(stdin, "{message}")?;
        }
        Ok(())
    }

    /// Closes the gateway's input, which ends it, and waits until all is stored.
    fn stop(&mut self) {
        self.stdin = None;
        let _ = self.gateway.wait();
    }
}

fn read_lines(stdout: Option<ChildStdout>, sender: &mpsc::Sender<String>) {
    let Some(stdout) = stdout else { return };
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        if sender.send(line).is_err() {
            return;
        }
    }
}

fn took(since: Instant) -> String {
    format!("{:>7.2} ms", since.elapsed().as_secs_f64() * 1e3)
}
