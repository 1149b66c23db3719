//! The command line: arguments, dispatch, exit codes, and the only printing of errors.

mod account;
mod audit;
mod auth;
mod config;
mod dashboard;
mod demo;
mod error;
mod hub;
mod link;
mod login;
mod logout;
mod metrics;
mod output;
mod plugins;
mod records;
mod servers;
mod start;
mod store;
mod table;
mod text;
mod traces;
mod unlink;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use error::{CliError, CliResult};
pub(crate) use output::Output;

use crate::config::{Config, Environment};
use crate::upstream::{GUARD_COMMAND, run_guard};

/// A thread for what blocks ends when there was nothing to do for so long.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_millis(50);

/// The gateway between AI clients and MCP servers
///
/// Every call of a client to its MCP servers passes Ultra, which traces, logs, audits and measures it.
#[derive(Debug, Parser)]
#[command(name = "ultra", version, max_term_width = 100)]
struct Cli {
    /// Use this config file instead of searching for one
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Start(start::Args),
    Demo(demo::Args),
    Traces(traces::Args),
    Audit(audit::Args),
    Metrics(metrics::Args),
    Servers(servers::Args),
    Auth(auth::Args),
    Plugins(plugins::Args),
    Config(config::Args),
    Login(login::Args),
    Logout(logout::Args),
    Link(link::Args),
    Unlink(unlink::Args),
    Dashboard(dashboard::Args),
    Hub(hub::Args),
}

/// Runs the command line. The exit code is 0 when done, 1 for the user's input, 2 for anything else.
pub fn main() -> ExitCode {
    if let Some(done) = hidden() {
        return done;
    }
    let environment = Environment::process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked_for) => {
            // Help goes to stdout, a usage error to stderr; who closed it wants neither.
            asked_for.print().ok();
            return ExitCode::from(u8::from(asked_for.use_stderr()));
        }
    };
    let cwd = std::env::current_dir().unwrap_or_default();
    let mut out = Output::process(&environment);
    let result = run(cli, &environment, &cwd, &mut out);
    let flushed = out.flush().map_err(CliError::from);
    match result.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs what this program does for itself in other processes.
fn hidden() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next()?.as_str() {
        GUARD_COMMAND => run_guard(&arguments.next()?, std::io::stdin()),
        demo::SERVER_COMMAND => {
            // The demo's gateway closed the pipe: nobody is there to be told.
            let _ = demo::run_server(
                &arguments.next()?,
                std::io::stdin().lock(),
                std::io::stdout().lock(),
            );
        }
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

fn run(cli: Cli, environment: &Environment, cwd: &Path, out: &mut Output) -> CliResult {
    let runtime = match &cli.command {
        // Many requests at a time, most of which wait for a database.
        Command::Hub(_) => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // One compiles components at the start; its stack is not needed any more then.
            .thread_keep_alive(BLOCKING_KEEP_ALIVE)
            .build()?,
    };
    runtime.block_on(dispatch(cli, environment, cwd, out))
}

async fn dispatch(cli: Cli, environment: &Environment, cwd: &Path, out: &mut Output) -> CliResult {
    let explicit = cli.config.as_deref();
    let read = || Config::read(explicit, environment, cwd);
    match cli.command {
        Command::Start(args) => {
            let config = Config::load(explicit, environment, cwd)?;
            start::run(args, config, environment).await
        }
        Command::Demo(args) => demo::run(args, environment, out).await,
        Command::Traces(args) => traces::run(&args, &read()?, out).await,
        Command::Audit(args) => audit::run(&args, &read()?, out).await,
        Command::Metrics(args) => metrics::run(&args, &read()?, out).await,
        Command::Servers(args) => servers::run(&args, explicit, environment, cwd, out),
        Command::Auth(args) => auth::run(&args, explicit, environment, cwd, out).await,
        Command::Plugins(args) => plugins::run(&args, &read()?, out),
        Command::Config(args) => config::run(&args, explicit, environment, cwd, out),
        Command::Login(args) => login::run(&args, explicit, environment, cwd, out).await,
        Command::Logout(args) => logout::run(&args, explicit, environment, cwd, out).await,
        Command::Link(args) => link::run(&args, explicit, environment, cwd, out).await,
        Command::Unlink(args) => unlink::run(&args, explicit, environment, cwd, out).await,
        Command::Dashboard(args) => dashboard::run(&args, &read()?, environment, out).await,
        Command::Hub(args) => hub::run(args, environment, out).await,
    }
}

/// Lets SIGTERM and SIGINT end what is served; a second one ends the process at once.
fn stop_at_signals(shutdown: &CancellationToken) -> CliResult {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        next().await;
        tracing::info!("told to terminate");
        shutdown.cancel();
        // As a shell says that a signal ended something.
        std::process::exit(128 + next().await.as_raw_value());
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_make_sense_to_clap() {
        Cli::command().debug_assert();
    }
}
