//! Builds plugins to components, for build scripts.
//!
//! The nested cargo has a target directory, a lock file and a profile of its own; nothing that is set
//! for the outer build reaches it, so that a component is the same bytes whoever builds it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-unknown-unknown";

/// Cargo's own variables that a nested build may see: where crates come from, and how many jobs may run.
const CARGO_VARIABLES_KEPT: [&str; 5] =
    ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];

/// One plugin to build.
pub(crate) struct Plugin<'a> {
    /// Its directory within the workspace.
    pub(crate) directory: &'a str,
    /// Its package.
    pub(crate) package: &'a str,
    /// Name of the component file, without `.wasm`.
    pub(crate) output: &'a str,
}

/// Ends a build script: what failed is told by cargo, as it was worded.
pub(crate) fn report(result: Result<(), Box<dyn Error>>) {
    let Err(error) = result else { return };
    for line in error.to_string().lines() {
        println!("cargo::error={line}");
    }
}

/// Builds plugins of one workspace to `<output>.wasm` in `OUT_DIR`, and tells cargo what they are made of.
pub(crate) fn build(
    workspace: &Path,
    root: &Path,
    plugins: &[Plugin<'_>],
) -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR: not a build script")?);
    let target_dir = out_dir.join("components");
    watch(workspace, root, plugins);
    ensure_target()?;
    cargo(workspace, root, &target_dir, plugins)?;
    for plugin in plugins {
        let file = format!("{}.wasm", plugin.package.replace('-', "_"));
        let module = fs::read(target_dir.join(TARGET).join("release").join(file))?;
        let component =
            wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
        fs::write(out_dir.join(format!("{}.wasm", plugin.output)), component)?;
    }
    Ok(())
}

/// Names files, not directories with a `target` in them: a test run there must not look like a change.
fn watch(workspace: &Path, root: &Path, plugins: &[Plugin<'_>]) {
    let mut paths =
        vec![workspace.join("Cargo.toml"), workspace.join("Cargo.lock"), root.join("wit")];
    for package in
        plugins.iter().map(|plugin| workspace.join(plugin.directory)).chain([root.join("sdk")])
    {
        paths.extend(["Cargo.toml", "src"].map(|file| package.join(file)));
    }
    paths.extend(plugins.iter().map(|plugin| workspace.join(plugin.directory).join("plugin.toml")));
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// Makes sure that the compiler in use has the standard library for WebAssembly.
fn ensure_target() -> Result<(), Box<dyn Error>> {
    if has_target()? {
        return Ok(());
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").ok();
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    if let Some(toolchain) = &toolchain {
        rustup.args(["--toolchain", toolchain]);
    }
    let added = rustup.status();
    if has_target()? {
        return Ok(());
    }
    let why = match added {
        Ok(status) => format!("`rustup target add` ended with {status}"),
        Err(error) => format!("rustup cannot be run: {error}"),
    };
    let toolchain = toolchain.map(|name| format!(" --toolchain {name}")).unwrap_or_default();
    Err(format!(
        "the interceptors are WebAssembly components, and this Rust has no target {TARGET} ({why})\n\
         run: rustup target add {TARGET}{toolchain}\n\
         or, without rustup, install the package of your system that has it, such as rust-std-static-{TARGET}"
    )
    .into())
}

fn has_target() -> Result<bool, Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").ok_or("no RUSTC: not a build script")?;
    let output =
        Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()?;
    // An existing but empty directory is what a removed target can leave behind.
    let libraries = fs::read_dir(String::from_utf8(output.stdout)?.trim());
    Ok(libraries.is_ok_and(|mut files| files.next().is_some()))
}

fn cargo(
    workspace: &Path,
    root: &Path,
    target_dir: &Path,
    plugins: &[Plugin<'_>],
) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("no CARGO: not a build script")?);
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    for plugin in plugins {
        cargo.args(["--package", plugin.package]);
    }
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let of_cargo = name.starts_with("CARGO_")
            && !CARGO_VARIABLES_KEPT.iter().any(|kept| name.starts_with(kept));
        let of_rustc = name.starts_with("RUSTC_") || matches!(name, "RUSTFLAGS" | "RUSTDOCFLAGS");
        if of_cargo || of_rustc {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", remapped(root).join("\u{1f}"));
    let status = cargo.current_dir(workspace).status()?;
    if !status.success() {
        return Err(
            format!("the plugins in `{}` do not build: {status}", workspace.display()).into()
        );
    }
    Ok(())
}

/// Flags that keep paths of this machine out of panic messages.
fn remapped(root: &Path) -> Vec<String> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let flag = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![flag(root, "ultra")];
    flags.extend(cargo_home.map(|from| flag(&from, "cargo")));
    flags
}
