//! What the Hub is told of the machine: what people need to tell one from another, and no more.

use std::path::Path;

use ultra_hub::wire::Host;

use crate::config::Environment;

/// Files that say that this is a container.
const CONTAINER: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Returns what is known of this machine. `environment_name` is what the config calls it.
pub(crate) fn host_facts(environment: &Environment, environment_name: Option<&str>) -> Host {
    let is_set = |name| environment.get(name).is_some_and(|value| !value.is_empty());
    let kind = if is_set("CI") {
        "ci"
    } else if CONTAINER.iter().any(|file| Path::new(file).exists()) {
        "container"
    } else {
        "personal"
    };
    Host {
        os: std::env::consts::OS.to_owned(),
        os_version: std::fs::read_to_string("/etc/os-release").ok().and_then(|text| pretty(&text)),
        arch: std::env::consts::ARCH.to_owned(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kind: kind.to_owned(),
        environment: environment_name.unwrap_or("local").to_owned(),
    }
}

/// Returns what is known of a machine whose gateway serves clients on others. One that builds does so for
/// its builds.
pub(super) fn of_server(host: Host) -> Host {
    match host.kind.as_str() {
        "ci" => host,
        _ => Host { kind: "server".to_owned(), ..host },
    }
}

/// Returns the name that `os-release` has for people.
fn pretty(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_has_the_name_that_people_know() {
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";

        assert_eq!(pretty(text).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty("NAME=x"), None);
    }

    #[test]
    fn a_machine_that_builds_is_told_from_one_of_a_person() {
        let facts = |variables: &[(&'static str, &'static str)]| {
            host_facts(&Environment::of(variables.iter().copied()), Some("prod"))
        };

        assert_eq!(facts(&[("CI", "true")]).kind, "ci");
        assert_ne!(facts(&[("CI", "")]).kind, "ci");
        assert_eq!(of_server(facts(&[])).kind, "server");
        assert_eq!(of_server(facts(&[("CI", "true")])).kind, "ci");
        assert_eq!(facts(&[]).environment, "prod");
        assert!(!facts(&[]).hostname.is_empty());
    }
}
