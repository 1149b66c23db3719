//! Servers other people wrote, installed by `cargo xtask test`.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A directory with `npm/node_modules`, `conformance/node_modules` and `py/bin`; `target/test-servers` if not set.
const DIRECTORY: &str = "ULTRA_TEST_SERVERS";

/// Returns the program of a server, such as `mcp-server-everything` or `mcp-server-time`.
///
/// None if it is not installed, which is said aloud, so that a test can leave early.
///
/// # Panics
///
/// If it is not installed and `CI` is `true`: there, a skipped test is a failed one.
pub fn find(name: &str) -> Option<PathBuf> {
    find_at(name, &[&format!("npm/node_modules/.bin/{name}"), &format!("py/bin/{name}")])
}

/// Returns the program of a package that is installed apart from the others, in a directory of that name.
///
/// # Panics
///
/// As [`find`].
pub(crate) fn find_in(name_of_dir: &str, name: &str) -> Option<PathBuf> {
    find_at(name, &[&format!("{name_of_dir}/node_modules/.bin/{name}")])
}

/// Returns the first of several paths below the directory of installed servers, called `name` where none
/// is there. The same holds as for [`find`].
///
/// # Panics
///
/// As [`find`].
pub fn find_at(name: &str, places: &[&str]) -> Option<PathBuf> {
    let dir = directory();
    let found = places.iter().map(|place| dir.join(place)).find(|path| path.exists());
    if found.is_none() {
        missing(&format!(
            "`{name}` is not installed in `{}`; `cargo xtask test` installs it where node and python3 are",
            directory().display()
        ));
    }
    found
}

/// Says that something is missing which a test needs, so that it is skipped.
///
/// # Panics
///
/// If `CI` is `true`: there, a skipped test is a failed one.
pub(crate) fn missing(what: &str) {
    assert!(!is_ci(), "{what}");
    skip(what);
}

/// Says that a test is skipped, and why.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Returns where pictures of pages are put.
pub(crate) fn screenshots() -> PathBuf {
    target_dir(&crate::program("fake-upstream")).join("screenshots")
}

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn directory() -> PathBuf {
    match std::env::var_os(DIRECTORY) {
        Some(dir) => dir.into(),
        None => target_dir(&crate::program("fake-upstream")).join("test-servers"),
    }
}

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Returns the target directory, given a program in one of its profiles.
fn target_dir(program: &Path) -> PathBuf {
    program.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}
