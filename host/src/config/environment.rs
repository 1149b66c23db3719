//! What the process was given: variables and a home directory.
//!
//! Everything else gets an [`Environment`] as an argument, so that a test needs no process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables that upstreams inherit: base, locale, temporary files, display, proxies, certificates.
const INHERITED: [&str; 27] = [
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "TZ",
    "PWD",
    "TMPDIR",
    "TMP",
    "TEMP",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "DOCKER_HOST",
];

/// Prefixes of such variables.
const INHERITED_PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// The variables and the home directory a gateway was started with.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl Environment {
    /// Returns what this process was given. Variables that are not UTF-8 are left out.
    pub fn process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { variables, home: std::env::home_dir().filter(|home| home.is_absolute()) }
    }

    /// Returns an environment of these variables; `HOME` is the home directory.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let home = variables.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        Self { variables, home }
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the home directory.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Returns the variables that upstreams inherit: what a program needs to find its way about, and
    /// no secret that happens to lie in the gateway's own environment.
    pub fn for_children(&self) -> BTreeMap<String, String> {
        let inherited = |name: &str| {
            let name = name.to_ascii_uppercase();
            INHERITED.contains(&name.as_str())
                || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        self.variables
            .iter()
            .filter(|(name, _)| inherited(name))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    }

    /// Returns `$XDG_CONFIG_HOME/ultra`, by default `~/.config/ultra`.
    pub fn config_dir(&self) -> Option<PathBuf> {
        self.base("XDG_CONFIG_HOME", ".config")
    }

    /// Returns `$XDG_CACHE_HOME/ultra`, by default `~/.cache/ultra`, on every system.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.base("XDG_CACHE_HOME", ".cache")
    }

    /// The XDG specification tells to ignore a base directory that is not absolute.
    fn base(&self, variable: &str, default: &str) -> Option<PathBuf> {
        let named = self.get(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = named.or_else(|| Some(self.home.as_ref()?.join(default)))?;
        Some(base.join("ultra"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_directories_beat_the_home_directory_unless_relative() {
        let home = Environment::of([("HOME", "/home/ada")]);
        let xdg = Environment::of([("HOME", "/home/ada"), ("XDG_CONFIG_HOME", "/etc/ada")]);
        let relative = Environment::of([("HOME", "/home/ada"), ("XDG_CONFIG_HOME", "ada")]);

        assert_eq!(home.config_dir(), Some("/home/ada/.config/ultra".into()));
        assert_eq!(home.cache_dir(), Some("/home/ada/.cache/ultra".into()));
        assert_eq!(xdg.config_dir(), Some("/etc/ada/ultra".into()));
        assert_eq!(relative.config_dir(), Some("/home/ada/.config/ultra".into()));
        assert_eq!(Environment::of([]).config_dir(), None);
    }
}
