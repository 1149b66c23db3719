//! `ultra logout`.

use std::path::Path;

use futures_util::future::join_all;

use super::account::{Account, in_time};
use super::{CliResult, Output};
use crate::chain;
use crate::config::Environment;
use crate::hub::{self, Client, GrantError, Membership, Session};

/// Log out of the Hub, and unlink this gateway
///
/// Forgets the tokens of every Hub that you are logged in to, and ends the sessions there. If a Hub cannot
/// be told, they are forgotten all the same.
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
    let signed_in = account.credentials.accounts().await?;
    let membership = account.membership().await?;
    let (is_linked, link) = match &membership {
        Membership::Linked(link) => (true, Some(link)),
        Membership::Foreign => (true, None),
        Membership::None => (false, None),
    };
    if signed_in.is_empty() && !is_linked {
        return out.done(&format!("Nobody is logged in to {}", account.hub()));
    }
    let hubs = match signed_in.is_empty() {
        true => account.hub().to_owned(),
        false => signed_in.iter().map(address).collect::<Vec<_>>().join(" and "),
    };
    let unlinks = match link {
        Some(link) => format!(" and unlink this gateway from `{}`", link.workspace),
        None if is_linked => " and unlink this gateway".to_owned(),
        None => String::new(),
    };
    if !args.force && !out.confirm(&format!("Log out of {hubs}{unlinks}?"), "--force")? {
        return out.done("Nothing was changed");
    }
    // Here first: whatever the Hub does, and whoever loses patience with it, nothing stays.
    let (sessions, forgotten) = match account.credentials.forget_accounts().await {
        Ok(sessions) => (sessions, Ok(())),
        Err(error) => (signed_in, Err(error)),
    };
    let cleared = match is_linked {
        true => account.forget(link, out).await,
        false => Ok(()),
    };
    let leaving = async {
        match is_linked {
            true => Some(account.leave(link).await),
            false => None,
        }
    };
    let ending = join_all(sessions.iter().map(|session| in_time(end(session))));
    let (left, ended) = tokio::join!(leaving, ending);
    if let Some(left) = left {
        left.say(out)?;
        if cleared.is_ok() {
            out.done("Unlinked this gateway")?;
        }
    }
    for (session, ended) in sessions.iter().zip(ended) {
        if let Err(error) = ended {
            out.warn(&format!("could not tell the Hub: {}", chain(&error)))?;
        }
        if forgotten.is_ok() {
            out.done(&format!("Logged out of {}", address(session)))?;
        }
    }
    if is_linked && account.config.hub.deploy_key.is_some() {
        out.hint("a deploy key is set; `hub.enabled: false` keeps it from linking anew")?;
    }
    forgotten?;
    cleared
}

/// Ends a session at its Hub.
async fn end(session: &Session) -> Result<(), GrantError> {
    hub::revoke(&Client::new(&session.hub)?, &session.refresh_token).await
}

/// The Hub's address, as people read it.
fn address(session: &Session) -> &str {
    session.hub.trim_end_matches('/')
}
