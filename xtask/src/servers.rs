//! The programs of other people that the tests run, MCP servers, clients and the conformance suite: exact
//! versions, in `target/test-servers`.
//!
//! Where node or python3 is missing, tests that need them skip themselves and say so. On a CI machine
//! (`CI=true`) that is an error.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::shell::{exists, say, shell, target_dir};

const NPM_PACKAGES: [&str; 5] = [
    // The official clients; of the second, the examples hold a server that wants to know who calls.
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "@modelcontextprotocol/server-memory@2026.8.31",
];

/// The conformance suite, apart from the servers because it brings a node of its own: it needs 22 or newer.
const CONFORMANCE_PACKAGES: [&str; 2] =
    ["@modelcontextprotocol/conformance@0.2.0-alpha.12", "node@24.21.0"];

/// What drives Chromium. The browser itself comes with the system.
const BROWSER_PACKAGES: [&str; 1] = ["puppeteer-core@24.43.1"];

const CHROMIUM: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

const PYTHON_PACKAGES: [&str; 4] = [
    // The official client.
    "mcp==2.3.0",
    "mcp-server-time==2026.10.19",
    "mcp-server-git==2026.10.19",
    "fastmcp==4.1.2",
];

/// Installs what is not installed yet.
pub(crate) fn install() -> anyhow::Result<()> {
    let dir = target_dir().join("test-servers");
    tolerate(once(&dir.join("npm"), &NPM_PACKAGES, install_npm))?;
    tolerate(once(&dir.join("conformance"), &CONFORMANCE_PACKAGES, install_npm))?;
    tolerate(once(&dir.join("browser"), &BROWSER_PACKAGES, install_npm))?;
    tolerate(install_chromium())?;
    tolerate(once(&dir.join("py"), &PYTHON_PACKAGES, install_python))
}

/// Chromium comes from the distribution: a browser that npm brings would lack its libraries.
fn install_chromium() -> anyhow::Result<()> {
    if CHROMIUM.iter().any(|name| exists(name)) || cfg!(target_os = "macos") {
        return Ok(());
    }
    if std::env::var("CI").as_deref() != Ok("true") || !exists("apt-get") {
        bail!("Chromium is not installed: tests with a browser are skipped");
    }
    say("installing Chromium");
    let install = || {
        let options = ["install", "--yes", "--no-install-recommends", "--quiet", "chromium"];
        shell("apt-get").args(options).run()
    };
    // What is known of the packages may be old, or nothing.
    install()
        .or_else(|_| shell("apt-get").args(["update", "--quiet"]).run().and_then(|()| install()))
}

fn install_npm(dir: &Path, packages: &[&str]) -> anyhow::Result<()> {
    if !exists("node") || !exists("npm") {
        bail!("node and npm are not installed: tests with programs from npm are skipped");
    }
    say(&format!("installing {} from npm", packages.join(", ")));
    shell("npm")
        .args(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
        .arg(dir)
        .args(packages)
        .run()
}

fn install_python(dir: &Path, packages: &[&str]) -> anyhow::Result<()> {
    if !exists("python3") {
        bail!("python3 is not installed: tests with servers from PyPI are skipped");
    }
    say(&format!("installing {} from PyPI", packages.join(", ")));
    shell("python3").args(["-m", "venv"]).arg(dir).run()?;
    shell(dir.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(packages)
        .run()
}

/// Runs `install` unless these packages were installed by an earlier run.
fn once(
    dir: &PathBuf,
    packages: &[&str],
    install: fn(&Path, &[&str]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stamp = dir.join("installed");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    install(dir, packages)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write `{}`", stamp.display()))
}

fn tolerate(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if std::env::var("CI").as_deref() != Ok("true") => {
            say(&format!("skipped: {error:#}"));
            Ok(())
        }
        other => other,
    }
}
