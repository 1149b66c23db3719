//! `ultra unlink`.

use std::path::Path;

use super::account::Account;
use super::{CliError, CliResult, Output};
use crate::config::Environment;
use crate::hub::Membership;

/// Take this gateway out of its Hub workspace
///
/// Forgets the gateway and workspace ids, and tells the Hub. Tokens and local data stay. Gateways that
/// run stop sending within a minute, even if the Hub cannot be told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask for confirmation
    #[arg(short, long)]
    force: bool,
}

pub(super) async fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    let account = Account::open(None, explicit, environment, cwd)?;
    let membership = account.membership().await?;
    let (link, workspace) = match &membership {
        Membership::Linked(link) => (Some(link), format!("workspace `{}`", link.workspace)),
        Membership::Foreign => (None, "its workspace".to_owned()),
        Membership::None => {
            return Err(CliError::user("this gateway is not linked").hint("`ultra link` links it"));
        }
    };
    if !args.force && !out.confirm(&format!("Unlink from {workspace}?"), "--force")? {
        return out.done("Nothing was changed");
    }
    let cleared = account.forget(link, out).await;
    account.leave(link).await.say(out)?;
    cleared?;
    out.done(&format!("Unlinked from {workspace}"))?;
    if account.config.hub.deploy_key.is_some() {
        out.hint("a deploy key is set; `hub.enabled: false` keeps it from linking anew")?;
    }
    Ok(())
}
