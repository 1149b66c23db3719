//! A gateway under test: its config, its directory, its processes.

use std::ffi::OsString;
use std::fmt::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Endpoint;
use crate::process::{self, MARK};
use crate::{Session, program};

/// An upstream of the tests: `fake-upstream` with flags.
#[derive(Debug, Clone)]
pub struct Fake {
    name: String,
    args: Vec<String>,
}

impl Fake {
    /// Returns one that behaves.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), args: vec!["--name".to_owned(), name.to_owned()] }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Adds a flag with its value.
    #[must_use]
    pub fn option(mut self, flag: &str, value: impl ToString) -> Self {
        self.args.push(flag.to_owned());
        self.args.push(value.to_string());
        self
    }

    /// Returns the command that starts it without a gateway.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("fake-upstream"));
        command.args(&self.args);
        command
    }
}

/// What a gateway is started with.
pub struct Setup {
    dir: TempDir,
    mark: String,
    upstreams: String,
    names: Vec<String>,
    rest: String,
    storage: Option<Value>,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
}

impl Setup {
    fn new(rest: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ultra-test-")
            .tempdir()
            .expect("a temporary directory");
        let storage = json!({"backend": "sqlite", "path": dir.path().join("ultra.db")});
        Self {
            dir,
            mark: uuid::Uuid::now_v7().to_string(),
            upstreams: String::new(),
            names: Vec::new(),
            rest: rest.to_owned(),
            storage: Some(storage),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Adds an upstream. [`Self::connect`] waits for its tools.
    #[must_use]
    pub fn upstream(mut self, fake: &Fake) -> Self {
        self.names.push(fake.name.clone());
        self.server(&fake.name, &program("fake-upstream"), &fake.args)
    }

    /// Adds an upstream that [`Self::connect`] does not wait for.
    #[must_use]
    pub fn late_upstream(self, fake: &Fake) -> Self {
        self.server(&fake.name, &program("fake-upstream"), &fake.args)
    }

    /// Adds an upstream that all sessions have in common. [`Self::connect`] does not wait for it.
    #[must_use]
    pub fn shared_upstream(mut self, fake: &Fake) -> Self {
        self = self.late_upstream(fake);
        self.upstreams.push_str("    shared: true\n");
        self
    }

    /// Serves HTTP instead of stdio, at [`Ultra::http`].
    #[must_use]
    pub fn http(self) -> Self {
        self.arg("--http").arg("127.0.0.1:0")
    }

    /// Adds an upstream that is any program. [`Self::connect`] does not wait for it.
    #[must_use]
    pub fn server(mut self, name: &str, command: &Path, args: &[String]) -> Self {
        // JSON strings and lists are YAML.
        let (command, args) = (json!(command), json!(args));
        let env = json!({MARK: self.mark});
        write!(
            self.upstreams,
            "  {name}:\n    command: {command}\n    args: {args}\n    env: {env}\n    enabled: true\n"
        )
        .expect("writing to a string cannot fail");
        self
    }

    /// Adds top-level keys to the config, as YAML.
    #[must_use]
    pub fn yaml(mut self, yaml: &str) -> Self {
        self.rest.push_str(yaml);
        self.rest.push('\n');
        self
    }

    /// Keeps records in memory.
    #[must_use]
    pub fn memory(mut self) -> Self {
        self.storage = Some(json!({"backend": "memory"}));
        self
    }

    /// Leaves `storage` to [`Self::yaml`].
    #[must_use]
    pub fn no_storage(mut self) -> Self {
        self.storage = None;
        self
    }

    /// Adds an argument after `ultra start --config FILE`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable of the gateway.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Returns the directory of this test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn processes(&self) -> Vec<u32> {
        process::marked(&self.mark)
    }

    /// Writes the config and returns its path.
    pub fn write_config(&self) -> PathBuf {
        let mut text = self.rest.clone();
        if let Some(storage) = &self.storage {
            writeln!(text, "storage: {storage}").expect("writing to a string cannot fail");
        }
        if !self.upstreams.is_empty() {
            writeln!(text, "upstream:\n{}", self.upstreams)
                .expect("writing to a string cannot fail");
        }
        let path = self.dir.path().join("config.yaml");
        std::fs::write(&path, text).expect("the temporary directory is writable");
        path
    }

    /// Returns `ultra` with this test's home directory and nothing else of the user's.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("ultra-dup"));
        self.configure(&mut command);
        command
    }

    /// Gives a command this test's home directory and mark.
    pub fn configure(&self, command: &mut Command) {
        let dir = self.dir.path();
        command
            .env("HOME", dir)
            .env("XDG_CONFIG_HOME", dir.join("config"))
            .env("XDG_CACHE_HOME", dir.join("cache"))
            .env("XDG_DATA_HOME", dir.join("data"))
            .env("XDG_STATE_HOME", dir.join("state"))
            .env(MARK, &self.mark)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir);
    }

    /// Returns the arguments of `ultra start`, after writing the config.
    fn start_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec!["start".into(), "--config".into(), self.write_config().into()];
        args.extend(self.args.iter().cloned());
        args
    }

    /// Returns the command that starts the gateway, for a client that is not ours.
    pub fn start_command(&self) -> Command {
        let mut command = self.command();
        command.args(self.start_args());
        command
    }

    /// Starts the gateway and says nothing to it.
    pub fn start(self) -> Ultra {
        let command = self.start_command();
        self.start_with(command)
    }

    /// Starts the gateway by a command of one's own, such as a wrapper around `ultra`.
    pub fn start_with(self, command: Command) -> Ultra {
        Ultra { session: Some(Session::start(command)), setup: self }
    }

    /// Starts the gateway, shakes hands, and waits until each upstream's tools are listed.
    pub async fn connect(self, capabilities: Value) -> Ultra {
        let ultra = self.start();
        ultra.initialize(capabilities).await;
        ultra.ready().await;
        ultra
    }
}

/// A running gateway and the client's session with it. No process of it survives this value.
pub struct Ultra {
    // First, because it is dropped first: the setup then kills what that left.
    session: Option<Session>,
    setup: Setup,
}

impl Ultra {
    /// Returns the setup of a gateway without upstreams, which records in SQLite.
    pub fn setup() -> Setup {
        Setup::new("")
    }

    /// Returns the setup of a gateway with this config, to which nothing is added but upstreams.
    pub fn config(yaml: &str) -> Setup {
        Setup::new(yaml).no_storage()
    }

    /// Waits until each upstream that was announced has its tools listed.
    pub async fn ready(&self) {
        let prefixes: Vec<_> = self.setup.names.iter().map(|name| format!("{name}__")).collect();
        self.tools_until("the tools of every upstream", |tools| {
            prefixes.iter().all(|prefix| tools.iter().any(|tool| tool.starts_with(prefix)))
        })
        .await;
    }

    /// Returns where it serves HTTP, once it does.
    pub async fn http(&self) -> Endpoint {
        let stderr = || self.stderr();
        let address = process::eventually("an address", crate::session::PATIENCE, || {
            let text = stderr();
            let (_, rest) = text.split_once("listening on http://")?;
            rest.split_once("/mcp")?.0.parse().ok()
        });
        Endpoint::new(address.await)
    }

    /// Returns the directory of this test.
    pub fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// Runs another `ultra` command with the same config, such as `ultra audit --json`.
    ///
    /// # Panics
    ///
    /// If it cannot be run.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.setup.command();
        command.args(args).arg("--config").arg(self.dir().join("config.yaml"));
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        match tokio::time::timeout(crate::session::PATIENCE, output).await {
            Ok(output) => {
                output.unwrap_or_else(|error| panic!("cannot run `ultra {args:?}`: {error}"))
            }
            Err(_) => panic!("`ultra {args:?}` does not end"),
        }
    }

    /// Returns the living processes of this gateway: itself, upstreams, what those started, helpers.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = self.setup.processes();
        found.extend(process::descendants(self.pid()));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Waits until none of these processes lives, nor any other of this gateway.
    ///
    /// # Panics
    ///
    /// If there still is one after 10 s, naming it.
    pub async fn no_process_left(&self, known: &[u32]) {
        let left = || {
            let mut left = self.setup.processes();
            left.extend(known.iter().filter(|pid| process::is_alive(**pid)));
            left
        };
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while !left().is_empty() {
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "orphans after 10 s: {}", describe(&left()));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until the gateway has ended.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        self.session.as_mut().expect("the session is taken in `restart` only").ended().await
    }

    /// Kills the gateway, and returns what it was started with.
    pub fn into_setup(self) -> Setup {
        let Self { session, setup } = self;
        drop(session);
        setup
    }

    /// Starts another gateway in the same directory, after this one has ended or is killed.
    pub fn restart(self) -> Self {
        self.restart_after(|| ())
    }

    /// Likewise, after something that is done while none runs.
    pub fn restart_after(self, meanwhile: impl FnOnce()) -> Self {
        let mut this = self;
        drop(this.session.take());
        meanwhile();
        this.session = Some(Session::start(this.setup.start_command()));
        this
    }
}

impl Deref for Ultra {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("the session is taken in `restart` only")
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        for pid in self.processes() {
            process::signal(pid, rustix::process::Signal::KILL);
        }
    }
}

fn describe(pids: &[u32]) -> String {
    let name = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid} ({})", String::from_utf8_lossy(&line).replace('\0', " "))
    };
    pids.iter().map(name).collect::<Vec<_>>().join(", ")
}
