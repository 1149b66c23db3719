//! `ultra config`.

use std::path::Path;

use super::table::{Cell, Column, Paint, Table};
use super::{CliError, CliResult, Output};
use crate::chain;
use crate::config::{Config, Endpoint, Environment};
use crate::telemetry;

/// Find and check the config file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the path of the config file in use
    Path,
    /// Say what is wrong with the config file, and what a gateway would start
    ///
    /// Reads it as `ultra start` does, with the variables of this environment.
    Check,
}

pub(super) fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    match args.command {
        Command::Path => path(explicit, environment, cwd, out),
        Command::Check => check(&Config::load(explicit, environment, cwd)?, out),
    }
}

fn path(
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    let found = match explicit {
        Some(path) => Some(cwd.join(path)),
        None => Config::find(environment, cwd)?,
    };
    match found {
        Some(path) => out.line(&path.display().to_string()),
        None => {
            out.line(&Config::default_path(environment)?.display().to_string())?;
            out.done("It does not exist, so the defaults apply")
        }
    }
}

fn check(config: &Config, out: &mut Output) -> CliResult {
    let Some(path) = &config.path else {
        out.done("There is no config file, so the defaults apply")?;
        return out.hint("`ultra config path` tells where it would be");
    };
    if config.observability.enabled {
        telemetry::check(&config.observability)
            .map_err(|error| CliError::user(format!("observability: {}", chain(&error))))?;
    }
    for warning in &config.warnings {
        out.warn(&format!("{}:{warning}", path.display()))?;
    }
    if !config.upstreams.is_empty() {
        out.table(&upstreams(config))?;
    }
    let warnings = match config.warnings.len() {
        0 => String::new(),
        1 => ", with 1 warning".into(),
        several => format!(", with {several} warnings"),
    };
    out.done(&format!("{} is valid{warnings}", path.display()))
}

fn upstreams(config: &Config) -> Table {
    let columns = ["UPSTREAM", "ENABLED", "TRANSPORT"].map(Column::new);
    let mut table = Table::new(&columns);
    for upstream in &config.upstreams {
        let enabled = match upstream.enabled {
            true => Cell::new("yes").paint(Paint::Green),
            false => Cell::new("no").paint(Paint::Dim),
        };
        // Neither command nor URL: variables are replaced here, and some are secret.
        let transport = match upstream.endpoint {
            Endpoint::Stdio { .. } => "stdio",
            Endpoint::Http { .. } => "http",
        };
        table.rows.push(vec![Cell::new(&upstream.name), enabled, Cell::new(transport)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::CliError;
    use crate::cli::output::tests::Captured;

    fn run_in(dir: &Path, command: Command) -> (String, Option<CliError>) {
        let written = Captured::default();
        let environment = Environment::of([("HOME", dir.to_str().unwrap())]);
        let error =
            run(&Args { command }, None, &environment, dir, &mut written.output(None)).err();
        (written.text().replace(dir.to_str().unwrap(), "~"), error)
    }

    #[test]
    fn valid_file_is_shown_with_its_warnings() {
        let dir = tempfile::tempdir().unwrap();
        let text = "upstream:\n  a: {command: x, enabled: true, evn: {}}\n  b: {url: 'http://x/${GONE}'}\n";
        std::fs::write(dir.path().join("ultra.yaml"), text).unwrap();

        let (text, error) = run_in(dir.path(), Command::Check);

        assert!(error.is_none());
        insta::assert_snapshot!(text, @r"
        warning: ~/ultra.yaml:2:34: unknown key `upstream.a.evn`, did you mean `env`?
        UPSTREAM  ENABLED  TRANSPORT
        a         yes      stdio
        b         no       http
        ~/ultra.yaml is valid, with 1 warning
        ");
    }

    #[test]
    fn problems_are_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let text = "server: {log_level: all}\nupstream:\n  a: {command: '${GONE}', enabled: true}\n  b: {comand: x, enabled: true}\n";
        std::fs::write(dir.path().join("ultra.yaml"), text).unwrap();
        let written = Captured::default();

        let (_, error) = run_in(dir.path(), Command::Check);
        let error = error.unwrap();
        written.output(None).error(&error);

        assert_eq!(error.exit_code(), 1);
        insta::assert_snapshot!(written.text().replace(dir.path().to_str().unwrap(), "~"), @r"
        warning: ~/ultra.yaml:4:7: unknown key `upstream.b.comand`, did you mean `command`?
        error: ~/ultra.yaml:1:21: `server.log_level` cannot be `all`
        hint: one of `debug`, `info`, `warn`, `error`
        error: ~/ultra.yaml:3:16: `upstream.a.command` needs the variable `GONE`, which is not set
        hint: set it, or write `${GONE:-}` if it may be missing, or run `ultra servers disable a`
        error: ~/ultra.yaml:4:3: upstream `b` has neither `command` nor `url`
        hint: give it one of them
        ");
    }

    #[test]
    fn path_is_that_in_use_or_the_default() {
        let dir = tempfile::tempdir().unwrap();

        let (before, _) = run_in(dir.path(), Command::Path);
        std::fs::write(dir.path().join(".ultra.yml"), "").unwrap();
        let (after, _) = run_in(dir.path(), Command::Path);

        assert_eq!(
            before,
            "~/.config/ultra/config.yaml\nIt does not exist, so the defaults apply\n"
        );
        assert_eq!(after, "~/.ultra.yml\n");
    }
}
