//! `ultra hub serve`.

use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use ultra_hub::{Hub, Options, PeopleOptions, Storage};
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
