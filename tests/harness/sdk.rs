//! Clients made with the official SDKs: the programs in `tests/clients`, which play a scenario on a server
//! and write down what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::conformance::Namespace;
use crate::{Json, servers};

/// How long a client may take. Alone, the longest takes five seconds.
const PLAY_TIMEOUT: Duration = Duration::from_secs(180);

/// After these words a server says when, or in which session, which is never twice the same.
const VARYING: [&str; 3] = ["created at ", "for session ", "from session "];

/// An official SDK, and the era its client wants.
#[derive(Debug, Clone, Copy)]
pub enum Sdk {
    /// npm `@modelcontextprotocol/sdk`, revisions up to 2025-11-25.
    TypeScript1,
    /// npm `@modelcontextprotocol/client`, as it connects by default: up to 2025-11-25.
    TypeScript2,
    /// The same, told to find out what the server speaks.
    TypeScript2Auto,
    /// PyPI `mcp`, told to speak revisions up to 2025-11-25.
    Python,
    /// The same, as it connects by default: it finds out what the server speaks.
    PythonAuto,
}

/// What a client connects to.
pub enum Endpoint {
    /// A program to be started.
    Command(Command),
    /// A URL of Streamable HTTP.
    Url(String),
}

/// A client that is installed.
pub struct Player {
    program: PathBuf,
    args: Vec<PathBuf>,
    job: Value,
}

impl Player {
    /// Returns the client of an SDK; none if it is not installed, which is said aloud.
    ///
    /// # Panics
    ///
    /// As none, if `CI` is `true`: there, a skipped test is a failed one.
    pub fn find(sdk: Sdk) -> Option<Self> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let (sdk, era) = match sdk {
            Sdk::TypeScript1 => (Some(1), "legacy"),
            Sdk::TypeScript2 => (Some(2), "legacy"),
            Sdk::TypeScript2Auto => (Some(2), "auto"),
            Sdk::Python => (None, "legacy"),
            Sdk::PythonAuto => (None, "auto"),
        };
        let (program, args) = match sdk {
            Some(_) => {
                let name = "@modelcontextprotocol/client";
                let package = servers::find_at(name, &[&format!("npm/node_modules/{name}")])?;
                let packages = package.ancestors().nth(3)?.to_path_buf();
                let node = servers::find_in("conformance", "node")?;
                (node, vec![clients.join("typescript.mjs"), packages])
            }
            None => (
                servers::find_at("mcp", &["py/bin/mcp"])?.with_file_name("python"),
                vec![clients.join("python.py")],
            ),
        };
        Some(Self { program, args, job: json!({"sdk": sdk, "era": era}) })
    }

    /// Plays a scenario, and returns the transcript: `server`, `steps`, `heard` and `asked`.
    ///
    /// # Panics
    ///
    /// If the client does not come to the end of the scenario.
    pub async fn play(&self, at: &Namespace, endpoint: &Endpoint, scenario: &Value) -> Json {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (job, transcript) = (dir.path().join("job.json"), dir.path().join("transcript.json"));
        let mut told = self.job.clone();
        told["server"] = endpoint.to_json();
        told["steps"] = scenario.clone();
        fs::write(&job, told.to_string()).expect("the temporary directory is writable");

        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(job).arg(&transcript);
        let mut client = at.start(&command);
        let status = client.ended(PLAY_TIMEOUT).await;
        match fs::read(&transcript) {
            Ok(text) if status.success() => canonical(&text),
            Ok(_) | Err(_) => client.fail(&format!("ended ({status}) before the scenario")),
        }
    }
}

impl Endpoint {
    fn to_json(&self) -> Value {
        let command = match self {
            Self::Command(command) => command,
            Self::Url(url) => return json!({"url": url}),
        };
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let args: Vec<_> = command.get_args().map(text).collect();
        let env: Map<_, _> = command
            .get_envs()
            .filter_map(|(name, value)| Some((text(name), json!(text(value?)))))
            .collect();
        let mut json = json!({"command": text(command.get_program()), "args": args, "env": env});
        if let Some(dir) = command.get_current_dir() {
            json["cwd"] = json!(dir);
        }
        json
    }
}

/// Returns a transcript in which nothing depends on when something was heard, and each step has a name.
fn canonical(text: &[u8]) -> Json {
    let mut transcript: Value = serde_json::from_slice(text).expect("clients write JSON");
    let steps = transcript["steps"].as_array().cloned().unwrap_or_default();
    let steps: Map<_, _> = steps
        .into_iter()
        .enumerate()
        .map(|(index, mut entry)| {
            let step = entry["step"].take();
            let name = ["list", "call", "read", "prompt", "complete", "level", "watch", "until"]
                .into_iter()
                .find_map(|kind| Some(format!("{index} {kind} {}", step.get(kind)?)))
                .unwrap_or_default();
            (name, entry)
        })
        .collect();
    transcript["steps"] = Value::Object(steps);
    mask(&mut transcript);
    for member in ["heard", "asked"] {
        if let Some(messages) = transcript[member].as_array_mut() {
            messages.retain(|message| !is_list_changed(message));
            messages.sort_by_cached_key(Value::to_string);
        }
    }
    Json::parse(&transcript.to_string())
}

/// How often that is said depends on when the lists are asked for. Scenarios wait for what they cause.
fn is_list_changed(message: &Value) -> bool {
    message["method"].as_str().is_some_and(|method| method.ends_with("/list_changed"))
}

fn mask(value: &mut Value) {
    match value {
        Value::String(text) => {
            let ends = VARYING.iter().filter_map(|words| Some(text.find(words)? + words.len()));
            if let Some(end) = ends.min() {
                text.truncate(end);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(members) => members.values_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
