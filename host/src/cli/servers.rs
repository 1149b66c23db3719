//! `ultra servers`.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use ultra_store::UpstreamStatus;

use super::error::Cause;
use super::store::open_reader;
use super::table::{Cell, Column, Paint, Table};
use super::text::{ago, clean, rfc3339};
use super::{CliError, CliResult, Output};
use crate::config::{Backend, Config, ConfigFile, Endpoint, Environment, similar};

/// Lines of an upstream's stderr that are shown of one that fails.
const STDERR_LINES: usize = 10;

/// List the upstream servers, or switch one on or off
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    /// Start a server with the gateway from now on
    Enable {
        /// Its name in the config
        name: String,
    },
    /// Keep a server in the config without starting it
    Disable {
        /// Its name in the config
        name: String,
    },
}

/// List the upstream servers, with their last known state
#[derive(Debug, clap::Args)]
struct List {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    match &args.command {
        Some(Command::Enable { name }) => {
            switch(name, true, explicit, environment, cwd, out)?;
            // Said now, where a person looks, and not only by a gateway that does not start.
            if let Err(error) = Config::load(explicit, environment, cwd) {
                for Cause { message, .. } in CliError::from(error).causes {
                    out.warn(&message)?;
                }
            }
            Ok(())
        }
        Some(Command::Disable { name }) => switch(name, false, explicit, environment, cwd, out),
        Some(Command::List(list)) => {
            list_all(list, &Config::read(explicit, environment, cwd)?, out)
        }
        None => list_all(&args.list, &Config::read(explicit, environment, cwd)?, out),
    }
}

fn switch(
    name: &str,
    on: bool,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    let state = if on { "enabled" } else { "disabled" };
    let path = match explicit {
        Some(path) => Some(cwd.join(path)),
        None => Config::find(environment, cwd)?,
    };
    let Some(path) = path.filter(|path| path.exists()) else {
        return Err(CliError::user("there is no config file")
            .hint("`ultra config path` tells where it would be"));
    };
    let mut file = ConfigFile::open(&path)?;
    let upstreams = match file.get(&["upstream"])? {
        Some(Value::Object(upstreams)) => upstreams,
        _ => serde_json::Map::new(),
    };
    let Some(upstream) = upstreams.get(name) else {
        let hint = match similar(name, upstreams.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`ultra servers` lists them".into(),
        };
        return Err(
            CliError::user(format!("no upstream `{name}` in `{}`", path.display())).hint(hint)
        );
    };
    if upstream["enabled"].as_bool().unwrap_or(false) == on {
        return out.done(&format!("`{name}` is already {state}"));
    }
    file.set(&["upstream", name, "enabled"], &on.into())?;
    file.save()?;
    out.done(&format!("`{name}` is {state} in {}", path.display()))?;
    out.hint("restart your MCP client: a gateway reads its config when it starts")
}

/// A server as `--json` prints it.
#[derive(Debug, Serialize)]
struct Server {
    name: String,
    enabled: bool,
    description: Option<String>,
    /// `stdio` or `http`.
    transport: &'static str,
    command: Option<String>,
    args: Option<Vec<String>>,
    url: Option<String>,
    /// Of the gateway that runs it, or ran it last: `starting`, `ready`, `waiting`, `stopped`.
    state: Option<String>,
    /// Name and version it gives itself.
    server: Option<String>,
    tools: Option<u64>,
    resources: Option<u64>,
    prompts: Option<u64>,
    error: Option<String>,
    stderr: Option<String>,
    gateway_pid: Option<u32>,
    /// When that was, RFC 3339.
    seen: Option<String>,
    #[serde(skip)]
    seen_unix_ns: i64,
}

fn list_all(list: &List, config: &Config, out: &mut Output) -> CliResult {
    // Without a database there are no states, and still servers.
    let store = match config.storage.backend {
        Backend::Memory => None,
        Backend::Sqlite => open_reader(config)?,
    };
    let statuses = store.map(|store| store.upstreams()).transpose()?.unwrap_or_default();
    show(&servers(config, &statuses, is_alive), list.json, config, Timestamp::now(), out)
}

/// Puts together what the config and the gateways say.
fn servers(
    config: &Config,
    statuses: &[UpstreamStatus],
    is_alive: impl Fn(u32) -> bool,
) -> Vec<Server> {
    let mut servers = Vec::with_capacity(config.upstreams.len());
    for upstream in &config.upstreams {
        let known = || statuses.iter().filter(|status| status.upstream == *upstream.name);
        let running = known().find(|status| is_alive(status.gateway_pid));
        // A gateway that was killed could not say that its upstreams ended with it.
        let state = match running {
            Some(status) => Some(status.state.clone()),
            None => known().next().map(|_| "stopped".into()),
        };
        let status = running.or_else(|| known().next());
        let (transport, command, args, url) = match &upstream.endpoint {
            Endpoint::Stdio { command, args, .. } => {
                ("stdio", Some(command.clone()), Some(args.clone()), None)
            }
            Endpoint::Http { url, .. } => ("http", None, None, Some(url.clone())),
        };
        servers.push(Server {
            name: upstream.name.to_string(),
            enabled: upstream.enabled,
            description: upstream.description.clone(),
            transport,
            command,
            args,
            url,
            state,
            server: status.and_then(|status| status.server.clone()),
            tools: status.map(|status| status.tools),
            resources: status.map(|status| status.resources),
            prompts: status.map(|status| status.prompts),
            error: status.and_then(|status| status.error.clone()),
            stderr: status.and_then(|status| status.stderr.clone()),
            gateway_pid: status.map(|status| status.gateway_pid),
            seen: status.map(|status| rfc3339(status.unix_ns)),
            seen_unix_ns: status.map_or(0, |status| status.unix_ns),
        });
    }
    servers
}

fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    // Not permitted means that it is there, of another user.
    matches!(rustix::process::test_kill_process(pid), Ok(()) | Err(rustix::io::Errno::PERM))
}

fn show(
    servers: &[Server],
    json: bool,
    config: &Config,
    now: Timestamp,
    out: &mut Output,
) -> CliResult {
    if json {
        return out.json(&servers);
    }
    if servers.is_empty() {
        out.done("No upstream servers are configured")?;
        return match &config.path {
            Some(path) => out.hint(&format!("name them under `upstream` in {}", path.display())),
            None => {
                out.hint("there is no config file; `ultra config path` tells where it would be")
            }
        };
    }
    let mut table = Table::new(&[
        Column::new("NAME"),
        Column::new("ENABLED"),
        Column::new("STATE"),
        Column::new("TOOLS").right(),
        Column::new("TRANSPORT"),
        Column::new("COMMAND").cut(),
    ]);
    table.rows = servers.iter().map(Server::cells).collect();
    out.table(&table)?;
    servers
        .iter()
        .filter(|server| server.is_failing())
        .try_for_each(|server| server.explain(now, out))
}

impl Server {
    fn cells(&self) -> Vec<Cell> {
        let state = match self.state.as_deref() {
            _ if self.is_failing() => Paint::Red,
            Some("ready") => Paint::Green,
            Some("starting" | "waiting") => Paint::Yellow,
            _ => Paint::Dim,
        };
        let command =
            self.command.iter().chain(self.args.iter().flatten()).map(|word| quoted(word));
        let command = self.url.clone().unwrap_or_else(|| command.collect::<Vec<_>>().join(" "));
        let tools = self.tools.map(|tools| tools.to_string());
        vec![
            Cell::new(&self.name).paint(if self.enabled { Paint::Bold } else { Paint::Dim }),
            Cell::new(if self.enabled { "yes" } else { "no" }),
            Cell::or_dash(self.state.as_deref()).paint(state),
            Cell::or_dash(tools.as_deref()),
            Cell::new(self.transport),
            Cell::new(command),
        ]
    }

    fn is_failing(&self) -> bool {
        self.enabled && self.error.is_some() && self.state.as_deref() != Some("ready")
    }

    fn explain(&self, now: Timestamp, out: &mut Output) -> CliResult {
        let error = clean(self.error.as_deref().unwrap_or_default());
        let name = out.paint(Paint::Red, &self.name);
        out.line("")?;
        out.line(&format!("{name}: {error}, {}", ago(self.seen_unix_ns, now)))?;
        let stderr: Vec<&str> = self.stderr.as_deref().unwrap_or_default().lines().collect();
        for line in &stderr[stderr.len().saturating_sub(STDERR_LINES)..] {
            let line = out.paint(Paint::Dim, &clean(line));
            out.line(&format!("  {line}"))?;
        }
        Ok(())
    }
}

/// Returns a word as it would be typed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "@%+=:,./-_${}~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Captured;

    const NOW: i64 = 1_795_168_800;

    fn environment(dir: &Path) -> Environment {
        Environment::of([("HOME", dir.to_str().unwrap())])
    }

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ultra.yaml");
        std::fs::write(&path, text).unwrap();
        Config::read(Some(&path), &environment(dir.path()), dir.path()).unwrap()
    }

    fn status(upstream: &str, gateway_pid: u32, state: &str) -> UpstreamStatus {
        UpstreamStatus {
            upstream: upstream.into(),
            gateway_pid,
            state: state.into(),
            server: Some("everything/1.0".into()),
            tools: 13,
            resources: 2,
            prompts: 1,
            error: None,
            stderr: None,
            unix_ns: (NOW - 200) * 1_000_000_000,
        }
    }

    fn listed(json: bool) -> String {
        let config = config(
            "upstream:
  everything: {command: npx, args: [-y, a b, '${TOKEN}'], enabled: true}
  broken: {command: npx, enabled: true}
  killed: {command: npx, enabled: true}
  remote: {url: 'https://example.com/mcp', description: Far away}
",
        );
        let statuses = [
            status("everything", 2, "starting"),
            status("everything", 1, "ready"),
            UpstreamStatus {
                error: Some("ended with exit status 1".into()),
                stderr: Some("npm error 404\nnpm error \u{1b}[31mNot Found".into()),
                tools: 0,
                ..status("broken", 1, "waiting")
            },
            status("killed", 2, "ready"),
        ];
        let written = Captured::default();
        let now = Timestamp::from_second(NOW).unwrap();
        let servers = servers(&config, &statuses, |pid| pid == 1);
        show(&servers, json, &config, now, &mut written.output(Some(80))).unwrap();
        written.text()
    }

    #[test]
    fn servers_are_listed_with_what_ails_them() {
        insta::assert_snapshot!(listed(false), @r"
        NAME        ENABLED  STATE    TOOLS  TRANSPORT  COMMAND
        everything  yes      ready       13  stdio      npx -y 'a b' ${TOKEN}
        broken      yes      waiting      0  stdio      npx
        killed      yes      stopped     13  stdio      npx
        remote      no       -            -  http       https://example.com/mcp

        broken: ended with exit status 1, 3 min ago
          npm error 404
          npm error �[31mNot Found
        ");
    }

    #[test]
    fn json_has_what_the_table_has() {
        let servers: Value = serde_json::from_str(&listed(true)).unwrap();

        insta::assert_snapshot!(format!("{:#}", servers[1]), @r#"
        {
          "args": [],
          "command": "npx",
          "description": null,
          "enabled": true,
          "error": "ended with exit status 1",
          "gateway_pid": 1,
          "name": "broken",
          "prompts": 1,
          "resources": 2,
          "seen": "2026-11-20T09:56:40Z",
          "server": "everything/1.0",
          "state": "waiting",
          "stderr": "npm error 404\nnpm error \u001b[31mNot Found",
          "tools": 0,
          "transport": "stdio",
          "url": null
        }
        "#);
        assert_eq!(servers[0]["gateway_pid"], 1);
        assert_eq!(servers[3]["state"], Value::Null);
    }

    #[test]
    fn words_are_shown_as_they_would_be_typed() {
        for (word, expected) in [
            ("-y", "-y"),
            ("${TOKEN}", "${TOKEN}"),
            ("", "''"),
            ("a b", "'a b'"),
            ("print('x')", r"'print('\''x'\'')'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn switching_changes_one_word_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = "# mine\nupstream:\n  github: # hub\n    command: npx ${GONE}\n  files: {command: npx, enabled: true}\n";
        std::fs::write(dir.path().join("ultra.yaml"), text).unwrap();
        let environment = environment(dir.path());
        let written = Captured::default();
        let run = |command| {
            let args = Args { command: Some(command), list: List { json: false } };
            run(&args, None, &environment, dir.path(), &mut written.output(None))
        };

        run(Command::Disable { name: "files".into() }).unwrap();
        run(Command::Disable { name: "files".into() }).unwrap();
        run(Command::Enable { name: "github".into() }).unwrap();
        let unknown = run(Command::Enable { name: "gihub".into() }).unwrap_err();

        assert_eq!(
            std::fs::read_to_string(dir.path().join("ultra.yaml")).unwrap(),
            "# mine\nupstream:\n  github: # hub\n    command: npx ${GONE}\n    enabled: true\n  files: {command: npx, enabled: false}\n"
        );
        assert_eq!(unknown.causes[0].hint.as_deref(), Some("did you mean `github`?"));
        insta::assert_snapshot!(written.text().replace(dir.path().to_str().unwrap(), "DIR"), @r"
        `files` is disabled in DIR/ultra.yaml
        hint: restart your MCP client: a gateway reads its config when it starts
        `files` is already disabled
        `github` is enabled in DIR/ultra.yaml
        hint: restart your MCP client: a gateway reads its config when it starts
        warning: DIR/ultra.yaml:4:14: `upstream.github.command` needs the variable `GONE`, which is not set
        ");
    }
}
