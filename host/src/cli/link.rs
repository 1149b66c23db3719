//! `ultra link`.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use ultra_hub::wire::{LinkRequest, Workspace};
use ultra_store::{Mark, SqliteOptions, SqliteStore, Store};

use super::account::Account;
use super::{CliError, CliResult, Output};
use crate::chain;
use crate::config::{Backend, Config, Environment};
use crate::hub::{self, ClientError, History, Link, Membership};

/// So often somebody may answer something that is no workspace.
const ANSWERS_MAX: usize = 3;

/// What the Hub takes for a name.
const NAME_CHARS_MAX: usize = 100;

/// To note from where on records wait to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Link this gateway to a Hub workspace
///
/// Needs `ultra login`, and no deploy key: one that is set links the gateway when it starts. What is recorded from now on is sent there; what was recorded before stays on
/// this machine. Asks for what is not said if somebody can be asked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The workspace, by its id or name
    #[arg(short, long, value_name = "WORKSPACE")]
    workspace: Option<String>,
    /// What people shall see, by default the name of this machine
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    let account = Account::open(None, explicit, environment, cwd)?;
    if let Membership::Linked(known) = account.membership().await?
        && !is_stale(&account, &known, out).await?
    {
        return match account.config.hub.deploy_key {
            Some(_) => Err(by_key()),
            None => already(&known, args, out),
        };
    }
    if account.config.hub.deploy_key.is_some() {
        return Err(by_key());
    }
    let token = account.credentials.access_token(&account.client).await?;
    let workspaces = account.client.workspaces(token.expose()).await?.workspaces;
    let may_ask = std::io::stdin().is_terminal();
    let workspace = match &args.workspace {
        Some(wanted) => named(wanted, &workspaces)?,
        None if workspaces.is_empty() => return Err(nowhere()),
        None if may_ask => chosen(&workspaces, out)?,
        None => {
            list(&workspaces, out)?;
            return Err(CliError::user("no workspace is named")
                .hint("`ultra link --workspace WORKSPACE` takes one of them, by id or name"));
        }
    };
    let config = &account.config;
    let host = hub::host_facts(environment, Some(&config.hub.environment));
    let name = match &args.name {
        Some(name) => name.clone(),
        None if may_ask && args.workspace.is_none() => {
            let question = format!("Name of this gateway [{}]: ", host.hostname);
            let answer = out.ask(&question)?.unwrap_or_default();
            if answer.is_empty() { host.hostname.clone() } else { answer }
        }
        None => host.hostname.clone(),
    };
    check_name(&name)?;
    // Before the Hub is asked: a link that cannot be written down is none.
    hub::write_config(&account.file, None)?;
    let history = history(config)?;
    let (client, credentials) = (&account.client, &account.credentials);
    let (id, before) = (workspace.id.clone(), history.streams);
    let request = LinkRequest { workspace: Some(id), name, host, before, request: None };
    let turn = credentials.lock_linking(client.url().as_str()).await?;
    let until = history.until_unix_ns;
    let linked = hub::link(client, credentials, &token, None, &request, until).await?;
    drop(turn);
    if let Err(error) = hub::write_config(&account.file, Some(&linked)) {
        undo(&account, &linked, out).await?;
        return Err(error.into());
    }
    let Workspace { name: workspace, team, organization, .. } = workspace;
    out.done(&format!("Linked to `{workspace}` ({organization}, {team}) as `{}`", linked.name))?;
    told_of(history.last, out)?;
    out.hint("gateways that run now send nothing: restart your client")
}

/// Nobody links a gateway that links itself.
fn by_key() -> CliError {
    CliError::user("a deploy key is set, and links this gateway when it starts").hint(
        "`hub.enabled: true` lets it; without `ULTRA_DEPLOY_KEY` and `hub.deploy_key` you can link it yourself",
    )
}

/// Returns whether the Hub has let go of a link; then it is forgotten.
async fn is_stale(account: &Account, link: &Link, out: &mut Output) -> Result<bool, CliError> {
    match account.client.me(link.secret.expose()).await {
        Ok(_) => Ok(false),
        Err(ClientError::Refused { .. }) => {
            out.warn(&format!("the Hub has let go of the gateway `{}`", link.name))?;
            account.credentials.forget_link(link).await?;
            Ok(true)
        }
        Err(error) => {
            out.warn(&format!("the link could not be checked: {}", chain(&error)))?;
            Ok(false)
        }
    }
}

fn already(link: &Link, args: &Args, out: &mut Output) -> CliResult {
    let Link { name, workspace, workspace_id, .. } = link;
    let text = format!("this gateway is linked to `{workspace}` already, as `{name}`");
    let hint = "`ultra unlink` takes it out of there first";
    let other = |wanted: &String| wanted != workspace_id && !is_name(wanted, workspace);
    if args.workspace.as_ref().is_some_and(other) {
        return Err(CliError::user(text).hint(hint));
    }
    out.done(&format!("T{}", &text[1..]))?;
    out.hint(hint)
}

fn is_name(wanted: &str, name: &str) -> bool {
    wanted.to_lowercase() == name.to_lowercase()
}

/// Finds a workspace by id or name.
fn named<'w>(wanted: &str, workspaces: &'w [Workspace]) -> Result<&'w Workspace, CliError> {
    if let Some(found) = workspaces.iter().find(|workspace| workspace.id == wanted) {
        return Ok(found);
    }
    let found: Vec<_> =
        workspaces.iter().filter(|workspace| is_name(wanted, &workspace.name)).collect();
    match found[..] {
        [found] => Ok(found),
        [] if workspaces.is_empty() => Err(nowhere()),
        [] => {
            let all: Vec<_> = workspaces.iter().map(described).collect();
            Err(CliError::user(format!("no workspace `{wanted}` that you may link gateways to"))
                .hint(format!("there are {}", all.join("; "))))
        }
        _ => {
            let all: Vec<_> = found.iter().map(|workspace| described(workspace)).collect();
            Err(CliError::user(format!("several workspaces are called `{wanted}`"))
                .hint(format!("say which by its id: {}", all.join("; "))))
        }
    }
}

fn nowhere() -> CliError {
    CliError::user("there is no workspace that you may link gateways to")
        .hint("an admin of your organization can invite you to one")
}

fn described(workspace: &Workspace) -> String {
    let Workspace { id, name, team, organization } = workspace;
    format!("{id} {name} ({organization}, {team})")
}

fn list(workspaces: &[Workspace], out: &mut Output) -> CliResult {
    out.done("Workspaces that you may link gateways to:")?;
    workspaces.iter().try_for_each(|workspace| out.done(&format!("  {}", described(workspace))))
}

/// Asks for a workspace.
fn chosen<'w>(workspaces: &'w [Workspace], out: &mut Output) -> Result<&'w Workspace, CliError> {
    out.done("Workspaces that you may link gateways to:")?;
    for (number, workspace) in (1..).zip(workspaces) {
        out.done(&format!("{number:>3}  {}", described(workspace)))?;
    }
    for _ in 0..ANSWERS_MAX {
        let Some(answer) = out.ask("Number, id or name [1]: ")? else { break };
        if answer.is_empty() {
            return workspaces.first().ok_or_else(nowhere);
        }
        let number = answer.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        if let Some(workspace) = number.and_then(|number| workspaces.get(number)) {
            return Ok(workspace);
        }
        match named(&answer, workspaces) {
            Ok(workspace) => return Ok(workspace),
            Err(_) => out.warn(&format!("`{answer}` is none of them"))?,
        }
    }
    Err(CliError::user("no workspace was chosen").hint("run `ultra link` again"))
}

fn check_name(name: &str) -> CliResult {
    let length = name.chars().count();
    if name.trim().is_empty() || length > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let message = format!("`{name}` is no name for a gateway");
        return Err(CliError::user(message)
            .hint(format!("`--name NAME` takes 1 to {NAME_CHARS_MAX} characters")));
    }
    Ok(())
}

/// Returns what stays private, and notes that what comes after it waits to be sent.
fn history(config: &Config) -> Result<History, CliError> {
    let storage = &config.storage;
    if storage.backend == Backend::Memory {
        return Ok(History { until_unix_ns: crate::unix_ns(), ..History::default() });
    }
    let store = SqliteStore::open(SqliteOptions::new(&storage.path))?;
    let history = History::until_now(&store)?;
    let Mark { trace, audit_event } = history.last;
    store.hold_unsent(Some(Mark { trace: trace + 1, audit_event: audit_event + 1 }));
    store.flush(Instant::now() + FLUSH_TIMEOUT);
    Ok(history)
}

fn told_of(last: Mark, out: &mut Output) -> CliResult {
    match last {
        Mark { trace: 0, audit_event: 0 } => out.done("What is recorded from now on is sent there"),
        Mark { .. } => out.done(
            "What is recorded from now on is sent there; what was recorded before stays on this machine",
        ),
    }
}

/// Takes back a link that could not be written down.
async fn undo(account: &Account, link: &Link, out: &mut Output) -> CliResult {
    if let Err(error) = account.client.unlink(link.secret.expose()).await {
        let name = &link.name;
        out.warn(&format!("the Hub still has a gateway `{name}`: {}", chain(&error)))?;
    }
    Ok(account.credentials.forget_link(link).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(id: &str, name: &str) -> Workspace {
        Workspace {
            id: id.to_owned(),
            name: name.to_owned(),
            team: "Core".to_owned(),
            organization: "Acme".to_owned(),
        }
    }

    #[test]
    fn a_workspace_is_found_by_id_or_by_a_name_that_only_it_has() {
        let all = [workspace("ws_1", "Work"), workspace("ws_2", "Play"), workspace("ws_3", "play")];
        let text = |wanted| {
            let found = named(wanted, &all).map(|workspace| workspace.id.clone());
            found.map_err(|error| error.in_one_line())
        };

        assert_eq!(text("ws_2").unwrap(), "ws_2");
        assert_eq!(text("work").unwrap(), "ws_1");
        insta::assert_snapshot!(text("Play").unwrap_err(), @"several workspaces are called `Play` (say which by its id: ws_2 Play (Acme, Core); ws_3 play (Acme, Core))");
        insta::assert_snapshot!(text("x").unwrap_err(), @"no workspace `x` that you may link gateways to (there are ws_1 Work (Acme, Core); ws_2 Play (Acme, Core); ws_3 play (Acme, Core))");
        insta::assert_snapshot!(named("x", &[]).unwrap_err().in_one_line(), @"there is no workspace that you may link gateways to (an admin of your organization can invite you to one)");
    }

    #[test]
    fn names_are_what_people_can_read() {
        for good in ["laptop", "Ada’s laptop", &"x".repeat(100)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
