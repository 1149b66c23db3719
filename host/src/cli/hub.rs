//! `ultra hub serve`.

use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ultra_hub::{Hub, OidcOptions, Options, PeopleOptions, Storage};
use url::Url;

use super::{CliError, CliResult, Output};
use crate::config::{Environment, LogLevel};
use crate::log;

/// Run the Hub, which takes the records of a fleet of gateways and shows them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(Box<Serve>),
}

/// Serve the Hub's pages and its API
///
/// Keeps everything in a SQLite file, or in PostgreSQL. The first start prints a link by which somebody
/// sets the Hub up and becomes its owner. Ends at SIGINT and SIGTERM.
#[derive(Debug, clap::Args)]
struct Serve {
    /// Listen to this address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Keep the SQLite file in this directory, by default `~/.config/ultra/hub`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep everything in PostgreSQL instead, such as `postgres://user:password@host/ultra`
    ///
    /// Others on this machine can see arguments: better said as ULTRA_HUB_DATABASE_URL.
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    database_url: Option<String>,
    /// The address by which people and gateways reach the Hub, such as `https://hub.example.com`
    ///
    /// Needed behind a proxy, and where `--listen` names all addresses of the machine.
    #[arg(long, value_name = "URL")]
    public_url: Option<Url>,
    /// Serve TLS with this certificate chain, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Believe `X-Forwarded-For` and `X-Forwarded-Proto`: a proxy stands before the Hub and sets them
    #[arg(long)]
    behind_proxy: bool,
    #[command(flatten)]
    people: PeopleFlags,
    /// Delete traces that are older, in days
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    trace_retention: u32,
    /// Delete audit events that are older, in days
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    audit_retention: u32,
}

/// How people come in.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "People")]
struct PeopleFlags {
    /// Send mail by this server, such as `smtps://user:password@mail.example.com`
    ///
    /// Without it codes are printed to the log. Better said as ULTRA_HUB_SMTP_URL.
    #[arg(long, value_name = "URL")]
    smtp_url: Option<String>,
    /// The sender of mail, such as `Ultra Hub <hub@example.com>`
    #[arg(long, value_name = "ADDRESS")]
    mail_from: Option<String>,
    /// Let people sign in at this OpenID Connect provider
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer: Option<String>,
    /// The Hub's name at the provider
    #[arg(long, value_name = "ID", requires = "oidc_issuer")]
    oidc_client_id: Option<String>,
    /// The Hub's secret at the provider, in a file; or said as ULTRA_HUB_OIDC_CLIENT_SECRET
    #[arg(long, value_name = "FILE", requires = "oidc_issuer")]
    oidc_client_secret_file: Option<PathBuf>,
    /// Whoever signs in at the provider with an address of this domain becomes a Member
    #[arg(long, value_name = "DOMAIN", requires = "oidc_issuer")]
    oidc_join_domain: Option<String>,
}

pub(super) async fn run(args: Args, environment: &Environment, out: &mut Output) -> CliResult {
    let Command::Serve(args) = args.command;
    serve(*args, environment, out).await
}

async fn serve(args: Serve, environment: &Environment, out: &mut Output) -> CliResult {
    check_exposure(&args)?;
    check_name(&args)?;
    let ansi = stderr().is_terminal() && environment.get("NO_COLOR").is_none();
    let log = log::start(LogLevel::Info, ansi, stderr());
    allow_connections();
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        CliError::user(format!("cannot listen to {}: {error}", args.listen))
            .hint("`--listen ADDRESS` names another address")
    })?;
    let address = listener.local_addr()?;
    let hub = Hub::open(options(args, environment)?, address).await;
    let hub = hub.map_err(|error| CliError::other(&error))?;
    let shutdown = CancellationToken::new();
    super::stop_at_signals(&shutdown)?;
    out.line(&format!("The Hub serves {}", hub.public_url()))?;
    if let Some(url) = hub.setup_url().await.map_err(|error| CliError::other(&error))? {
        out.line(&format!(
            "Nobody has set it up yet. Open this link, which works once:\n\n    {url}\n"
        ))?;
    }
    out.flush()?;
    hub.serve(listener, shutdown).await;
    log.flush();
    Ok(())
}

/// Lets the process have as many connections as the system allows: many start with 1,024, for programs that
/// could not have more.
fn allow_connections() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the Hub can have no more connections than it was started with");
    }
}

/// Secrets must not cross a network in clear.
fn check_exposure(args: &Serve) -> CliResult {
    if args.listen.ip().is_loopback() || args.tls_cert.is_some() || args.behind_proxy {
        return Ok(());
    }
    let message = format!("{} can be reached by others, and nothing encrypts", args.listen);
    Err(CliError::user(message).hint(
        "give a certificate with `--tls-cert` and `--tls-key`, or say `--behind-proxy` if a proxy encrypts",
    ))
}

/// Links in mail, and what the command line knows the Hub by, must lead to it.
fn check_name(args: &Serve) -> CliResult {
    let is_unspecified = args.listen.ip().is_unspecified();
    let message = match &args.public_url {
        Some(_) => return Ok(()),
        None if args.behind_proxy => {
            "behind a proxy the Hub does not know its own address".to_owned()
        }
        None if is_unspecified => format!("{} is no address that leads to the Hub", args.listen),
        None => return Ok(()),
    };
    Err(CliError::user(message)
        .hint("say how others reach it, such as `--public-url https://hub.example.com`"))
}

fn options(args: Serve, environment: &Environment) -> Result<Options, CliError> {
    let variable = |name: &str| environment.get(name).map(str::to_owned);
    let database_url = args.database_url.or_else(|| {
        // Who names a directory now means it more than whoever set the variable.
        args.data.is_none().then(|| variable("ULTRA_HUB_DATABASE_URL")).flatten()
    });
    let storage = match database_url {
        Some(url) => Storage::Postgres(url),
        None => {
            let directory = args.data.or_else(|| Some(environment.config_dir()?.join("hub")));
            let directory = directory.ok_or_else(|| {
                CliError::user("there is no home directory").hint("say `--data DIR`")
            })?;
            Storage::Sqlite(directory.join("hub.db"))
        }
    };
    let day = Duration::from_secs(24 * 60 * 60);
    Ok(Options {
        storage,
        public_url: args.public_url,
        tls: args.tls_cert.zip(args.tls_key),
        behind_proxy: args.behind_proxy,
        people: people(args.people, environment)?,
        trace_retention: day * args.trace_retention,
        audit_retention: day * args.audit_retention,
    })
}

fn people(flags: PeopleFlags, environment: &Environment) -> Result<PeopleOptions, CliError> {
    let variable = |name: &str| environment.get(name).map(str::to_owned);
    let client_secret = match &flags.oidc_client_secret_file {
        Some(path) => {
            let read = std::fs::read_to_string(path).map_err(|error| {
                CliError::user(format!("cannot read `{}`: {error}", path.display()))
            })?;
            Some(read.trim().to_owned())
        }
        None => variable("ULTRA_HUB_OIDC_CLIENT_SECRET"),
    };
    let oidc = flags.oidc_issuer.zip(flags.oidc_client_id).map(|(issuer, client_id)| OidcOptions {
        issuer,
        client_id,
        client_secret,
        join_domain: flags.oidc_join_domain,
    });
    Ok(PeopleOptions {
        smtp_url: flags.smtp_url.or_else(|| variable("ULTRA_HUB_SMTP_URL")),
        mail_from: flags.mail_from,
        oidc,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn storage(flags: &[&str]) -> Storage {
        let variables = [("HOME", "/home/ada"), ("ULTRA_HUB_DATABASE_URL", "postgres://variable/")];
        let line = Line::parse_from(std::iter::once(&"serve").chain(flags));
        options(line.serve, &Environment::of(variables)).unwrap().storage
    }

    #[test]
    fn what_is_said_counts_more_than_the_variable() {
        let file = |path: &str| matches!(storage(&["--data", path]), Storage::Sqlite(_));
        let database = |flags| match storage(flags) {
            Storage::Postgres(url) => url,
            Storage::Sqlite(path) => path.display().to_string(),
        };

        assert!(file("/srv/hub"));
        assert_eq!(database(&["--database-url", "postgres://flag/"]), "postgres://flag/");
        assert_eq!(database(&[]), "postgres://variable/");
    }
}
