//! `ultra auth`.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::table::{Cell, Column, Paint, Table};
use super::text::{ago, rfc3339};
use super::{CliError, CliResult, Output};
use crate::auth::{Account, AuthError, Authorizer, Options, Protection, Server};
use crate::chain;
use crate::config::{Config, Endpoint, Environment, Upstream, similar};

/// Sign in to servers that want to know who calls, and out again
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List who is signed in where, and how well the tokens are kept
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Sign in to a server in the browser
    ///
    /// Prints the URL as well, for a browser elsewhere on this machine. Waits at most five minutes. A
    /// gateway that runs notices.
    Login {
        /// Its name in the config
        server: String,
    },
    /// Forget the tokens for a server
    ///
    /// They are deleted here; whoever gave them out is not told. A gateway that runs notices within
    /// seconds.
    Logout {
        /// Its name in the config, or the URL that `ultra auth list` shows
        server: String,
    },
}

pub(super) async fn run(
    args: &Args,
    explicit: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
    out: &mut Output,
) -> CliResult {
    // URLs and clients may be variables. Those of other servers need not be set in this shell.
    let config = Config::load(explicit, environment, cwd)
        .or_else(|_| Config::read(explicit, environment, cwd))?;
    let authorizer = Authorizer::new(Options::of(environment)?);
    let result = match &args.command {
        Command::List { json } => list(*json, &config, &authorizer, out).await,
        Command::Login { server } => login(server, &config, &authorizer, out).await,
        Command::Logout { server } => logout(server, &config, &authorizer, out).await,
    };
    authorizer.close().await;
    result
}

/// A line of `ultra auth list`.
#[derive(Debug, Serialize)]
struct Line {
    /// Name in the config; nothing if it is not there any more.
    server: Option<String>,
    url: String,
    signed_in: bool,
    issuer: Option<String>,
    client_id: Option<String>,
    scopes: Vec<String>,
    /// RFC 3339.
    signed_in_at: Option<String>,
    /// When the access token ends, RFC 3339.
    expires_at: Option<String>,
    /// Whether it is renewed without asking anybody.
    renewable: bool,
    #[serde(skip)]
    signed_in_unix_ns: i64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// `keychain`, `key_file` or `unprotected`; nothing without tokens.
    protection: Option<&'static str>,
    servers: &'a [Line],
}

async fn list(json: bool, config: &Config, authorizer: &Authorizer, out: &mut Output) -> CliResult {
    let accounts = authorizer.accounts().await?;
    let protection = authorizer.protection().await?;
    let now = Timestamp::now();
    show(&lines(config, accounts, now), protection, json, now, out)
}

/// Puts together the servers of the config and who is signed in.
fn lines(config: &Config, mut accounts: Vec<Account>, now: Timestamp) -> Vec<Line> {
    let now = now.as_second();
    let mut lines = Vec::new();
    for upstream in &config.upstreams {
        let Ok(server) = http_server(upstream) else { continue };
        let mut found = accounts.iter().filter(|account| account.server == server.url());
        lines.push(Line::new(Some(server.name()), server.url(), found.next(), now));
    }
    accounts.retain(|account| lines.iter().all(|line| line.url != account.server));
    let orphans =
        accounts.iter().map(|account| Line::new(None, &account.server, Some(account), now));
    lines.extend(orphans);
    lines
}

impl Line {
    fn new(name: Option<&str>, url: &str, account: Option<&Account>, now: i64) -> Self {
        let unix_ns =
            |seconds: u64| i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
        let is_valid = |account: &Account| {
            account.is_renewable
                || account
                    .expires_at
                    .is_none_or(|end| i64::try_from(end).is_ok_and(|end| now < end))
        };
        Self {
            server: name.map(str::to_owned),
            url: url.to_owned(),
            signed_in: account.is_some_and(is_valid),
            issuer: account.map(|account| account.issuer.clone()),
            client_id: account.map(|account| account.client_id.clone()),
            scopes: account.map(|account| account.scopes.clone()).unwrap_or_default(),
            signed_in_at: account.map(|account| rfc3339(unix_ns(account.signed_in_at))),
            expires_at: account
                .and_then(|account| account.expires_at)
                .map(|end| rfc3339(unix_ns(end))),
            renewable: account.is_some_and(|account| account.is_renewable),
            signed_in_unix_ns: account.map_or(0, |account| unix_ns(account.signed_in_at)),
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let since = self.signed_in_at.as_ref().map(|_| ago(self.signed_in_unix_ns, now));
        let state = match (self.signed_in, &since) {
            (true, Some(since)) => Cell::new(since).paint(Paint::Green),
            (false, Some(_)) => Cell::new("expired").paint(Paint::Red),
            (_, None) => Cell::new("no").paint(Paint::Dim),
        };
        let scopes = Some(self.scopes.join(" ")).filter(|scopes| !scopes.is_empty());
        vec![
            Cell::or_dash(self.server.as_deref()).paint(Paint::Bold),
            state,
            Cell::or_dash(self.issuer.as_deref()),
            Cell::or_dash(scopes.as_deref()),
            Cell::new(&self.url),
        ]
    }
}

fn show(
    lines: &[Line],
    protection: Option<Protection>,
    json: bool,
    now: Timestamp,
    out: &mut Output,
) -> CliResult {
    if json {
        let protection = protection.map(|protection| match protection {
            Protection::Keychain => "keychain",
            Protection::KeyFile => "key_file",
            Protection::Unprotected => "unprotected",
        });
        return out.json(&Document { protection, servers: lines });
    }
    if lines.is_empty() {
        return out.done("No server of the config has a `url` that can be signed in to");
    }
    let mut table = Table::new(&[
        Column::new("SERVER"),
        Column::new("SIGNED IN"),
        Column::new("AT"),
        Column::new("SCOPES").cut(),
        Column::new("URL").cut(),
    ]);
    table.rows = lines.iter().map(|line| line.cells(now)).collect();
    out.table(&table)?;
    match protection {
        None => Ok(()),
        Some(Protection::Keychain) => out.done("Tokens are encrypted with a key in the keychain"),
        Some(Protection::KeyFile) => {
            out.done("Tokens are encrypted with the key in `ULTRA_KEY_FILE`")
        }
        Some(Protection::Unprotected) => {
            out.warn("unprotected: the key of the tokens lies beside the tokens")?;
            out.hint("there is no keychain; `ULTRA_KEY_FILE` names a key that is kept elsewhere")
        }
    }
}

async fn login(
    name: &str,
    config: &Config,
    authorizer: &Authorizer,
    out: &mut Output,
) -> CliResult {
    let server = http_server(find(name, config)?)?;
    let Some(sign_in) = authorizer.sign_in(&server).await? else {
        return out.done(&format!("Somebody is signed in to `{name}` already"));
    };
    out.done(&format!("Sign in to `{name}` at {}", sign_in.url()))?;
    sign_in.done().await.map_err(|error| CliError::from(AuthError::Earlier(error)))?;
    out.done(&format!("Signed in to `{name}`"))
}

async fn logout(
    name: &str,
    config: &Config,
    authorizer: &Authorizer,
    out: &mut Output,
) -> CliResult {
    // A server that is gone from the config is named by its URL.
    let url = match name.contains("://") {
        true => name.to_owned(),
        false => http_server(find(name, config)?)?.url().to_owned(),
    };
    match authorizer.sign_out(&url).await? {
        true => out.done(&format!("Signed out of `{name}`")),
        false => out.done(&format!("Nobody is signed in to `{name}`")),
    }
}

fn find<'c>(name: &str, config: &'c Config) -> Result<&'c Upstream, CliError> {
    if let Some(upstream) = config.upstreams.iter().find(|upstream| *upstream.name == *name) {
        return Ok(upstream);
    }
    let names = config.upstreams.iter().map(|upstream| &*upstream.name);
    let hint = match similar(name, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "`ultra servers` lists them".into(),
    };
    Err(CliError::user(format!("no upstream `{name}` in the config")).hint(hint))
}

fn http_server(upstream: &Upstream) -> Result<Server, CliError> {
    let Endpoint::Http { url, headers, oauth, .. } = &upstream.endpoint else {
        return Err(CliError::user(format!("`{}` runs on this machine", upstream.name))
            .hint("such servers take their credentials from `env`"));
    };
    if headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
        return Err(CliError::user(format!("`{}` has an `Authorization` header", upstream.name))
            .hint("take it out of `headers` to sign in instead"));
    }
    let client = [oauth.client_id.as_deref(), oauth.client_metadata_url.as_deref()];
    let secret = oauth.client_secret.as_ref().map(|secret| secret.expose());
    if client
        .iter()
        .flatten()
        .copied()
        .chain(secret)
        .chain([url.as_str()])
        .any(|text| text.contains("${"))
    {
        return Err(CliError::user(format!(
            "`{}` has variables that are not replaced",
            upstream.name
        ))
        .hint("set them, and make sure that the server is enabled"));
    }
    Ok(Server::new(upstream.name.clone(), url, oauth.clone())?)
}

impl From<AuthError> for CliError {
    fn from(error: AuthError) -> Self {
        let this = match &error {
            AuthError::Server { .. }
            | AuthError::Denied { .. }
            | AuthError::Late { .. }
            | AuthError::Moved { .. }
            | AuthError::Unregistered { .. }
            | AuthError::Open { .. } => Self::user(chain(&error)),
            _ => Self::other(&error),
        };
        match error.hint() {
            Some(hint) => this.hint(hint),
            None => this,
        }
    }
}

#[cfg(test)]
mod tests;
