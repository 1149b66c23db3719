//! `ultra dashboard`.

use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use ultra_hub::local::{self, DashboardError};
use url::Url;

use super::{CliError, CliResult, Output};
use crate::auth::Browser;
use crate::config::{Backend, Config, Environment, LogLevel};
use crate::log;

/// Show what this machine's gateways recorded, in a browser
///
/// The same pages as the Hub's, over the local database, for this machine only. Ends at SIGINT.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen to this address of this machine, such as `:9090`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    address: SocketAddr,
    /// Do not open a browser, only print the address
    #[arg(long)]
    no_open: bool,
}

pub(super) async fn run(
    args: &Args,
    config: &Config,
    environment: &Environment,
    out: &mut Output,
) -> CliResult {
    let database = match config.storage.backend {
        Backend::Memory => {
            return Err(CliError::user("with `storage.backend: memory` nothing is on disk")
                .hint("records live and end with their gateway; `backend: sqlite` keeps them"));
        }
        Backend::Sqlite => config.storage.path.clone(),
    };
    let ansi = stderr().is_terminal() && environment.get("NO_COLOR").is_none();
    let log = log::start(LogLevel::Warn, ansi, stderr());
    let host = crate::hub::host_facts(environment, None);
    let directory = database.parent().map(Path::to_path_buf).unwrap_or_default();
    let options = local::Options { database, address: args.address, host };
    let dashboard = local::dashboard(options).await?;
    let shutdown = CancellationToken::new();
    super::stop_at_signals(&shutdown)?;
    out.line(&format!("The dashboard is at {}\nThis address works once.", dashboard.url()))?;
    out.flush()?;
    // Whoever has no browser has the address.
    let door = if args.no_open { None } else { Door::new(&directory, dashboard.url()).ok() };
    if let Some(url) = door.as_ref().and_then(Door::url) {
        let _ = Browser::of(environment).open(&url);
    }
    dashboard.serve(shutdown).await;
    drop(door);
    log.flush();
    Ok(())
}

/// A page on disk that leads to the dashboard, removed when this is dropped.
///
/// The key is in the address, and what a program is started with everybody on the machine can read.
struct Door(PathBuf);

impl Door {
    /// Writes it where its owner alone can read it.
    fn new(directory: &Path, url: &str) -> std::io::Result<Self> {
        let path = std::path::absolute(directory)?;
        let path = path.join(format!("dashboard-{}.html", std::process::id()));
        // Of a process that was killed, long ago.
        let _ = std::fs::remove_file(&path);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let door = Self(path);
        write!(
            file,
            "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Ultra</title>\n\
             <meta http-equiv=\"refresh\" content=\"0; url={url}\">\n"
        )?;
        Ok(door)
    }

    fn url(&self) -> Option<Url> {
        Url::from_file_path(&self.0).ok()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl From<DashboardError> for CliError {
    fn from(error: DashboardError) -> Self {
        match error {
            DashboardError::Store(error) => Self::from(error),
            DashboardError::NotLoopback(_) => Self::user(error.to_string()),
            DashboardError::Listen { .. } => Self::user(crate::chain(&error))
                .hint("`--address :9090` takes another port, `:0` one that is free"),
        }
    }
}

/// Reads an address; without a host it is this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
            .map_err(|_| "not a port".to_owned())?,
        None => {
            let text = text.replace("localhost", "127.0.0.1");
            text.parse().map_err(|_| "not an address with a port, such as `:9090`".to_owned())?
        }
    };
    if address.ip().is_loopback() {
        return Ok(address);
    }
    // There are no accounts: whoever reaches it, reads everything.
    Err("the dashboard is for this machine only; `ultra hub serve` is for others".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_taken() {
        let port = |text| address(text).map(|address| address.to_string());

        assert_eq!(port(":9090"), Ok("127.0.0.1:9090".to_owned()));
        assert_eq!(port("localhost:1"), Ok("127.0.0.1:1".to_owned()));
        assert_eq!(port("[::1]:8080"), Ok("[::1]:8080".to_owned()));
        for refused in ["0.0.0.0:8080", "192.168.0.1:80", "8080", ":x", "[::]:80"] {
            assert!(port(refused).is_err(), "{refused}");
        }
    }
}
