//! Commands, run in the root of the repository and shown when they fail.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Says what is being done now.
pub(crate) fn say(what: &str) {
    // Nobody to tell is no reason to stop.
    let _ = writeln!(std::io::stderr(), "==> {what}");
}

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Returns the target directory.
pub(crate) fn target_dir() -> PathBuf {
    // `target/debug/xtask`: wherever cargo was told to put it.
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(|own| own.ancestors().nth(2)).map(Path::to_path_buf);
    target.unwrap_or_else(|| root().join("target"))
}

/// Returns a cargo command: the cargo that runs us.
pub(crate) fn cargo() -> Shell {
    shell(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns a command.
pub(crate) fn shell(program: impl AsRef<OsStr>) -> Shell {
    let mut command = Command::new(program);
    command.current_dir(root());
    Shell(command)
}

/// Returns whether a program can be started.
pub(crate) fn exists(program: &str) -> bool {
    let version =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// A command that has to succeed.
pub(crate) struct Shell(Command);

impl Shell {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it; its output goes where ours goes.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let shown = format!("{:?}", self.0);
        let status = self.0.status().with_context(|| format!("cannot run {shown}"))?;
        ensure!(status.success(), "{shown}: {status}");
        Ok(())
    }

    /// Runs it and returns what it writes to stdout.
    pub(crate) fn read(mut self) -> anyhow::Result<String> {
        let shown = format!("{:?}", self.0);
        let output = self
            .0
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {shown}"))?;
        ensure!(output.status.success(), "{shown}: {}", output.status);
        String::from_utf8(output.stdout).with_context(|| format!("{shown}: not UTF-8"))
    }
}
