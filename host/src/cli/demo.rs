//! `ultra demo`.

use super::{CliError, CliResult, Output};

/// Show the gateway at work on bundled servers
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(args: Args, out: &mut Output) -> CliResult {
    let Args {} = args;
    out.hint("not built yet")?;
    Err(CliError::user("not built yet"))
}
