//! `ultra start`.

use std::path::PathBuf;

use super::{CliError, CliResult};
use crate::config::Config;

/// Run the gateway as an MCP server on stdio
///
/// Starts every enabled upstream and serves their tools, resources and prompts. Stdout belongs to MCP;
/// the log goes to stderr. Ends when the client goes away, or at SIGINT and SIGTERM.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Load the components in this directory beside the built-in ones
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Start although a component of the directory was refused
    #[arg(long)]
    allow_refused_plugins: bool,
}

pub(super) async fn run(args: Args, config: Config) -> CliResult {
    let _ = (args.plugins, args.allow_refused_plugins, config.server.name);
    Err(CliError::user("not built yet"))
}
