//! `cargo xtask bench-hub`: load on a Hub of its own, over loopback, on both databases.

use crate::shell::{cargo, say, shell, target_dir};

/// Builds what is measured, and measures.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    say("building");
    // The gateway and the Hub, what plays a fleet, and a server for the gateway.
    let programs = ["ultra-dup", "hub-load", "fake-upstream"].map(|name| ["--bin", name]);
    let build = ["build", "--profile", "dist", "-p", "ultra-tests"];
    cargo().args(build).args(programs.concat()).run()?;
    say("measuring");
    shell(target_dir().join("dist/hub-load")).args(arguments).run()
}
