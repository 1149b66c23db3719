//! The steps of `cargo xtask ci`.
//!
//! The components are a workspace of their own. They are tested for this machine, where their logic is
//! plain functions; what they do as components is tested through the gateway.

use crate::shell::{Shell, cargo, exists, root, say};

/// The manifest of the components' workspace, from the root.
const PLUGINS: &str = "plugins/Cargo.toml";

/// Checks the formatting.
pub(crate) fn format() -> anyhow::Result<()> {
    say("formatting");
    cargo().args(["fmt", "--all", "--check"]).run()?;
    plugins(&["fmt", "--all"]).map_or(Ok(()), |command| command.arg("--check").run())
}

/// Runs clippy on everything.
pub(crate) fn clippy() -> anyhow::Result<()> {
    say("lints");
    cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    plugins(&["clippy", "--workspace", "--all-targets"])
        .map_or(Ok(()), |command| command.args(["--", "-D", "warnings"]).run())
}

/// Builds the documentation.
pub(crate) fn docs() -> anyhow::Result<()> {
    say("documentation");
    cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()
}

/// Tests the components' logic.
pub(crate) fn test_plugins() -> anyhow::Result<()> {
    say("tests of the components' logic");
    plugins(&["test", "--workspace"]).map_or(Ok(()), Shell::run)
}

/// Checks licences, advisories and sources of dependencies, where cargo-deny is installed.
pub(crate) fn dependencies() -> anyhow::Result<()> {
    if !exists("cargo-deny") {
        say("skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    say("dependencies");
    cargo().args(["deny", "check"]).run()
}

/// Returns a cargo command on the components' workspace.
fn plugins(args: &[&str]) -> Option<Shell> {
    let manifest = root().join(PLUGINS);
    manifest.is_file().then(|| cargo().args(args).arg("--manifest-path").arg(manifest))
}
