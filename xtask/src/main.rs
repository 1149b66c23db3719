//! `cargo xtask`: what is done with this repository, as commands. See [`USAGE`].
//!
//! Each command is a list of steps that can be read from top to bottom; a step is a function.

mod bench;
mod check;
mod hub;
mod servers;
mod shell;
mod toolchain;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;

use shell::{cargo, say};

const USAGE: &str = "\
cargo xtask <command>

  demo              build Ultra and run its demo
  test              run every test, with real MCP servers where node and python3 are installed
  ci                formatting, lints, docs, tests, dependencies: what must pass
  bench [--rival]   measure, direct and through Ultra, and print the table; --rival installs another
                    gateway into target/rivals and measures it too
  bench-hub [...]   put load on a Hub, on SQLite and PostgreSQL; `--help` shows how to measure less
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> anyhow::Result<()> {
    match args {
        ["demo", rest @ ..] => demo(rest),
        ["test", rest @ ..] => test(rest),
        ["ci"] => ci(),
        ["bench"] => bench::run(false),
        ["bench", "--rival"] => bench::run(true),
        ["bench-hub", rest @ ..] => hub::run(rest),
        [] | ["help" | "--help" | "-h"] => Ok(io::stdout().write_all(USAGE.as_bytes())?),
        _ => bail!("unknown command `{}`\n\n{USAGE}", args.join(" ")),
    }
}

fn demo(args: &[&str]) -> anyhow::Result<()> {
    toolchain::ensure_wasm_target()?;
    cargo().args(["run", "--release", "--package", "ultra", "--", "demo"]).args(args).run()
}

fn test(args: &[&str]) -> anyhow::Result<()> {
    toolchain::ensure_wasm_target()?;
    servers::install()?;
    say("tests");
    cargo().args(["test", "--workspace"]).args(args).run()?;
    check::test_plugins()
}

fn ci() -> anyhow::Result<()> {
    check::format()?;
    toolchain::ensure_wasm_target()?;
    check::clippy()?;
    check::docs()?;
    test(&[])?;
    check::dependencies()
}
