//! What the build needs besides cargo: the target of the components.

use std::path::PathBuf;

use anyhow::Context;

use crate::shell::{exists, say, shell};

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Adds the target of the components to the pinned toolchain, if it is not there.
///
/// `rust-toolchain.toml` names it too, but rustup installs nothing by itself where `RUSTUP_AUTO_INSTALL`
/// is 0.
pub(crate) fn ensure_wasm_target() -> anyhow::Result<()> {
    let libs = shell("rustc").args(["--print", "target-libdir", "--target", WASM_TARGET]).read()?;
    if PathBuf::from(libs.trim()).is_dir() {
        return Ok(());
    }
    say(&format!("adding the target {WASM_TARGET}"));
    anyhow::ensure!(
        exists("rustup"),
        "the target {WASM_TARGET} is not installed, and there is no rustup to install it"
    );
    shell("rustup").args(["target", "add", WASM_TARGET]).run().context("cannot add the target")
}
