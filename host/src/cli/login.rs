//! `ultra login`.

use std::path::Path;
use std::time::Duration;

use super::account::Account;
use super::{CliError, CliResult, Output};
use crate::auth::{Callback, Secret};
use crate::chain;
use crate::config::Environment;
use crate::hub::{Client, ClientError, CredentialsError, GrantError, Login, Membership, Tokens};

/// Where the browser comes back to, if nobody else listens there.
const CALLBACK_PORT: u16 = 19284;

/// Somebody has so long to sign in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Log in to the Hub, in a browser
///
/// Prints the address as well, for a browser elsewhere on this machine. Waits at most five minutes. The
/// tokens are kept encrypted, with a key in the system's keychain where there is one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The Hub, by default that of the config or https://hub.ultra.security
    ///
    /// It becomes `hub.url` of the config file.
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
}

pub(super) async fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    let account = Account::open(args.hub.as_deref(), explicit, environment, cwd)?;
    check_link(&account)?;
    let asked = args.hub.as_deref().unwrap_or(&account.config.hub.url).trim_end_matches('/');
    if let Some(who) = logged_in(&account).await? {
        account.keep_hub(asked)?;
        return out.done(&format!("Already logged in to {} as {who}", account.hub()));
    }
    let token = sign_in(&account, out).await?;
    account.keep_hub(asked)?;
    let who = match account.client.workspaces(token.expose()).await {
        Ok(found) => format!(" as {}", found.user.email),
        Err(error) => {
            out.warn(&format!("the Hub does not say who you are: {}", chain(&error)))?;
            String::new()
        }
    };
    out.done(&format!("Logged in to {}{who}", account.hub()))?;
    match account.membership().await? {
        Membership::Linked(_) => Ok(()),
        // That links it.
        Membership::Foreign | Membership::None if account.config.hub.deploy_key.is_some() => Ok(()),
        Membership::Foreign | Membership::None => out.hint("`ultra link` links this gateway"),
    }
}

/// The gateway's id is that of another Hub's.
fn check_link(account: &Account) -> CliResult {
    let config = &account.config.hub;
    let other =
        || crate::hub::Client::new(&config.url).is_ok_and(|c| c.url() != account.client.url());
    if config.gateway_id.is_none() || !other() {
        return Ok(());
    }
    let message = format!("this gateway is linked at {}", config.url);
    Err(CliError::user(message).hint("`ultra unlink` takes it out of there first"))
}

/// Returns who has logged in and is still known; nothing if somebody has to.
async fn logged_in(account: &Account) -> Result<Option<String>, CliError> {
    let token = match account.credentials.access_token(&account.client).await {
        Ok(token) => token,
        Err(CredentialsError::SignedOut { .. } | CredentialsError::Ended { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    match account.client.workspaces(token.expose()).await {
        Ok(found) => Ok(Some(found.user.email)),
        // It was revoked.
        Err(ClientError::Refused { status: 401, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends somebody through a browser; returns a token.
async fn sign_in(account: &Account, out: &mut Output) -> Result<Secret, CliError> {
    let callback = match Callback::listen(Some(CALLBACK_PORT)).await {
        Ok(callback) => callback,
        // Only the state and the verifier are trusted, not the port.
        Err(_) => Callback::listen(None).await?,
    };
    let login = Login::new(&account.client, callback);
    out.done(&format!("Sign in at {}", login.url))?;
    if !account.browser.open(&login.url).unwrap_or(false) {
        out.hint("no browser was opened: open the address in one on this machine")?;
    }
    let tokens = in_time(login, &account.client).await?;
    Ok(account.credentials.keep_tokens(&account.client, tokens).await?)
}

/// Waits until somebody has signed in, but not for ever.
async fn in_time(login: Login, client: &Client) -> Result<Tokens, CliError> {
    let signed_in = tokio::time::timeout(LOGIN_TIMEOUT, login.finish(client)).await;
    let tokens = signed_in.map_err(|_| {
        let minutes = LOGIN_TIMEOUT.as_secs() / 60;
        CliError::user(format!("nobody signed in within {minutes} minutes"))
            .hint("run `ultra login` again")
    })?;
    Ok(tokens?)
}

impl From<GrantError> for CliError {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Refused { .. } => Self::user(chain(&error)).hint("run `ultra login` again"),
            GrantError::Hub(error) => error.into(),
            GrantError::Answer(_) => Self::other(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_five_minutes_nobody_waits_any_more() {
        let client = Client::new("https://hub.example").unwrap();
        let login = Login::new(&client, Callback::listen(None).await.unwrap());
        let begun = Instant::now();

        let error = in_time(login, &client).await.unwrap_err();

        assert_eq!(begun.elapsed().as_secs(), 5 * 60);
        let text = "nobody signed in within 5 minutes (run `ultra login` again)";
        assert_eq!(error.in_one_line(), text);
    }
}
