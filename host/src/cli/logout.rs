//! `ultra logout`.

use std::path::Path;

use super::account::Account;
use super::{CliResult, Output};
use crate::chain;
use crate::config::Environment;
use crate::hub::{self, Membership};

/// Log out of the Hub, and unlink this gateway
///
/// Ends the session at the Hub and forgets its tokens. If the Hub cannot be told, they are forgotten all
/// the same.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask for confirmation
    #[arg(long)]
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
    let hub = account.client.url().to_string();
    let signed_in = account.credentials.account(&hub).await?;
    let membership = account.membership().await?;
    let (is_linked, link) = match &membership {
        Membership::Linked(link) => (true, Some(link)),
        Membership::Foreign => (true, None),
        Membership::None => (false, None),
    };
    if signed_in.is_none() && !is_linked {
        return out.done(&format!("Nobody is logged in to {}", account.hub()));
    }
    let unlinks = match link {
        Some(link) => format!(" and unlink this gateway from `{}`", link.workspace),
        None if is_linked => " and unlink this gateway".to_owned(),
        None => String::new(),
    };
    if !args.force && !out.confirm(&format!("Log out of {}{unlinks}?", account.hub()), "--force")? {
        return out.done("Nothing was changed");
    }
    if is_linked {
        account.leave(link, out).await?;
        out.done("Unlinked this gateway")?;
    }
    if let Some(signed_in) = signed_in {
        if let Err(error) = hub::revoke(&account.client, &signed_in.refresh_token).await {
            out.warn(&format!("could not tell the Hub: {}", chain(&error)))?;
        }
        account.credentials.forget_account(hub).await?;
    }
    out.done(&format!("Logged out of {}", account.hub()))
}
