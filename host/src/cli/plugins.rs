//! `ultra plugins`.

use std::path::PathBuf;

use super::table::{Cell, Column, Paint, Table};
use super::text::clean;
use super::{CliError, CliResult, Output};
use crate::config::Config;
use crate::pipeline::FailureMode;
use crate::plugins::{PluginInfo, State, plan};

/// As long as is needed to tell one component from another.
const DIGEST_CHARS: usize = 12;

/// List the interceptors, in the order in which calls meet them
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
}

/// List the interceptors, in the order in which calls meet them
///
/// Exits with 1 if a component is refused.
#[derive(Debug, clap::Args)]
struct List {
    /// Look for components in this directory beside the built-in ones
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &Config, out: &mut Output) -> CliResult {
    let list = match &args.command {
        Some(Command::List(list)) => list,
        None => &args.list,
    };
    let plan = plan(&config.plugins, list.plugins.as_deref())?;
    for warning in plan.warnings() {
        out.warn(warning)?;
    }
    show(&plan.infos(), list.json, out)
}

fn show(plugins: &[PluginInfo], json: bool, out: &mut Output) -> CliResult {
    let (refused, loaded): (Vec<&PluginInfo>, Vec<&PluginInfo>) =
        plugins.iter().partition(|plugin| plugin.state == State::Refused);
    if json {
        out.json(&plugins)?;
    } else {
        out.table(&table(&loaded))?;
        for (index, plugin) in refused.iter().enumerate() {
            if index == 0 {
                out.line("")?;
            }
            let label = out.paint(Paint::Red, "refused");
            let reason = clean(plugin.reason.as_deref().unwrap_or_default());
            out.line(&format!("{label} {}: {reason}", clean(&plugin.source)))?;
        }
    }
    match refused.len() {
        0 => Ok(()),
        count => {
            let components = if count == 1 { "component is" } else { "components are" };
            Err(CliError::user(format!("{count} {components} refused"))
                .hint("take it out of the directory, or name it in `plugins.disabled`"))
        }
    }
}

fn table(plugins: &[&PluginInfo]) -> Table {
    let mut table = Table::new(&[
        Column::new("#").right(),
        Column::new("ID"),
        Column::new("VERSION"),
        Column::new("SOURCE").cut(),
        Column::new("PRIORITY").right(),
        Column::new("REQUEST"),
        Column::new("RESPONSE"),
        Column::new("SEES").cut(),
        Column::new("CAPABILITIES").cut(),
        Column::new("DIGEST"),
    ]);
    for (index, plugin) in plugins.iter().enumerate() {
        let number = match plugin.state {
            State::Active => (index + 1).to_string(),
            State::Disabled | State::Refused => "off".to_owned(),
        };
        let digest = plugin.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:"));
        table.rows.push(vec![
            Cell::new(number).paint(Paint::Dim),
            Cell::or_dash(plugin.id.as_deref()).paint(Paint::Bold),
            Cell::or_dash(plugin.version.as_deref()),
            Cell::new(&plugin.source),
            Cell::or_dash(plugin.priority.map(|priority| priority.to_string()).as_deref()),
            mode(plugin.request),
            mode(plugin.response),
            list(&plugin.sees),
            list(&plugin.capabilities),
            Cell::or_dash(digest.and_then(|digest| digest.get(..DIGEST_CHARS))).paint(Paint::Dim),
        ]);
    }
    table
}

fn list(items: &[impl ToString]) -> Cell {
    let text = items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Cell::or_dash(Some(text.as_str()).filter(|text| !text.is_empty()))
}

/// A phase that the component has no hook for has no mode.
fn mode(mode: Option<FailureMode>) -> Cell {
    match mode {
        None => Cell::or_dash(None),
        Some(FailureMode::Open) => Cell::new("open"),
        Some(FailureMode::Closed) => Cell::new("closed").paint(Paint::Yellow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Captured;
    use crate::pipeline::MessageKind;
    use crate::wasm::Capability;

    fn plugin(id: &str, priority: i32) -> PluginInfo {
        PluginInfo {
            id: Some(id.into()),
            version: Some("0.1.0".into()),
            api: Some("0.1".into()),
            source: "built-in".into(),
            priority: Some(priority),
            request: Some(FailureMode::Open),
            response: Some(FailureMode::Closed),
            sees: vec![MessageKind::Calls],
            sees_all_outcomes: false,
            capabilities: vec![Capability::Log],
            digest: Some(
                "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
            ),
            size_bytes: Some(19_000),
            description: Some("For tests".into()),
            state: State::Active,
            reason: None,
        }
    }

    #[test]
    fn plugins_are_listed_in_their_order() {
        let written = Captured::default();
        let redact = PluginInfo {
            source: "plugins/redact.wasm".into(),
            response: None,
            capabilities: vec![Capability::Read, Capability::Deny],
            ..plugin("redact", 50)
        };

        show(&[plugin("trace", 0), redact, plugin("audit", 75)], false, &mut written.output(None))
            .unwrap();

        insta::assert_snapshot!(written.text(), @r"
        #  ID      VERSION  SOURCE               PRIORITY  REQUEST  RESPONSE  SEES   CAPABILITIES  DIGEST
        1  trace   0.1.0    built-in                    0  open     closed    calls  log           9f86d081884c
        2  redact  0.1.0    plugins/redact.wasm        50  open     -         calls  read, deny    9f86d081884c
        3  audit   0.1.0    built-in                   75  open     closed    calls  log           9f86d081884c
        ");
    }

    #[test]
    fn refused_component_is_named_and_fails_the_command() {
        let written = Captured::default();
        let broken = PluginInfo {
            source: "plugins/broken.wasm".into(),
            state: State::Refused,
            reason: Some("wants `net`, which is not granted".into()),
            ..plugin("broken", 50)
        };

        let error =
            show(&[plugin("trace", 0), broken], false, &mut written.output(None)).unwrap_err();
        written.output(None).error(&error);

        assert_eq!(error.exit_code(), 1);
        insta::assert_snapshot!(written.text(), @r"
        #  ID     VERSION  SOURCE    PRIORITY  REQUEST  RESPONSE  SEES   CAPABILITIES  DIGEST
        1  trace  0.1.0    built-in         0  open     closed    calls  log           9f86d081884c

        refused plugins/broken.wasm: wants `net`, which is not granted
        error: 1 component is refused
        hint: take it out of the directory, or name it in `plugins.disabled`
        ");
    }
}
