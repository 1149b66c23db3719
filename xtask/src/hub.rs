//! `cargo xtask bench-hub`: load on a Hub of its own, over loopback, on both databases.

use crate::shell::{cargo, say, shell, target_dir};

/// Builds what is measured, and measures.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    say("building");
    cargo().args(["build", "--profile", "dist", "-p", "ultra-tests", "--bins"]).run()?;
    say("measuring");
    shell(target_dir().join("dist/hub-load")).args(arguments).run()
}
