//! What a plugin says about itself, in its `plugin.toml`.

use serde::Deserialize;

use crate::pipeline::{FailureMode, MessageKind};
use crate::wasm::Capability;

/// The plugin API of this gateway, as manifests name it and as packages are versioned.
pub(super) const API: Version = Version { major: 0, minor: 1 };

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) id: String,
    pub(super) version: String,
    pub(super) api: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) priority: i32,
    /// None: it does not meet requests.
    pub(super) request: Option<Phase>,
    /// None: it does not meet outcomes.
    pub(super) response: Option<Phase>,
    /// The kinds of messages it wants to meet.
    #[serde(default = "calls")]
    pub(super) sees: Vec<MessageKind>,
    #[serde(default)]
    pub(super) sees_all_outcomes: bool,
    #[serde(default)]
    pub(super) capabilities: Vec<Capability>,
    #[serde(default)]
    pub(super) settings: toml::Table,
}

fn calls() -> Vec<MessageKind> {
    vec![MessageKind::Calls]
}

/// How a plugin wants to be treated in one phase.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Phase {
    pub(super) failure: FailureMode,
}

/// Why a manifest is no good.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("the manifest is not UTF-8")]
    Utf8,
    #[error("the manifest cannot be read: {0}")]
    Syntax(String),
    #[error("the id `{0}` is not 1 to 64 of a-z, 0-9 and `-`")]
    Id(String),
    #[error("the version `{0}` is not 1 to 64 printable characters")]
    Version(String),
    #[error("the API version `{0}` is not of the form `0.1`")]
    ApiForm(String),
    #[error("version {version} is made for plugin API {api}, and this Ultra has {API}")]
    Api { version: String, api: Version },
    #[error("it meets neither requests nor responses")]
    NoPhase,
    #[error("`sees` is empty: name at least one of {}", MessageKind::ALL.map(MessageKind::as_str).join(", "))]
    SeesNothing,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).map_err(|_| ManifestError::Utf8)?;
        // The API version first: a later manifest may have keys that are not known here.
        if let Ok(head) = toml::from_str::<Head>(text) {
            head.check()?;
        }
        let manifest: Self =
            toml::from_str(text).map_err(|error| ManifestError::Syntax(one_line(&error)))?;
        let id = &manifest.id;
        let id_fits = id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !id_fits || id.is_empty() || id.len() > 64 {
            return Err(ManifestError::Id(manifest.id));
        }
        let version = &manifest.version;
        if version.is_empty()
            || version.len() > 64
            || !version.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(ManifestError::Version(manifest.version));
        }
        if manifest.request.is_none() && manifest.response.is_none() {
            return Err(ManifestError::NoPhase);
        }
        if manifest.sees.is_empty() {
            return Err(ManifestError::SeesNothing);
        }
        Ok(manifest)
    }
}

/// What stays the same in manifests of all versions.
#[derive(Deserialize)]
struct Head {
    version: String,
    api: String,
}

impl Head {
    fn check(self) -> Result<(), ManifestError> {
        match Version::parse(&self.api) {
            None => Err(ManifestError::ApiForm(self.api)),
            Some(api) if api != API => Err(ManifestError::Api { version: self.version, api }),
            Some(_) => Ok(()),
        }
    }
}

/// A version of the plugin API. What comes after the second number changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Version {
    /// Reads `0.1` or `0.1.7`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some(Self { major: numbers.next()??, minor: numbers.next()?? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "id = \"a\"\nversion = \"1.0\"\napi = \"0.1\"\npriority = 50\n[request]\nfailure = \"closed\"\n";

    fn refusal(text: &str) -> String {
        Manifest::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_smallest_manifest_is_read() {
        let manifest = Manifest::parse(SMALLEST.as_bytes()).unwrap();

        assert_eq!(manifest.request, Some(Phase { failure: FailureMode::Closed }));
        assert_eq!(manifest.response, None);
        assert_eq!(manifest.capabilities, []);
        assert_eq!(manifest.sees, [MessageKind::Calls]);
    }

    #[test]
    fn the_kinds_of_messages_it_sees_are_read() {
        let sees = |list: &str| SMALLEST.replace("priority", &format!("sees = {list}\npriority"));

        let manifest = Manifest::parse(sees(r#"["notifications", "server_requests"]"#).as_bytes());

        assert_eq!(
            manifest.unwrap().sees,
            [MessageKind::Notifications, MessageKind::ServerRequests]
        );
        assert!(refusal(&sees("[]")).contains("calls, session, server_requests, notifications"));
        assert!(refusal(&sees(r#"["everything"]"#)).contains("everything"));
    }

    #[test]
    fn a_newer_api_is_refused_by_both_versions_whatever_else_is_new() {
        let newer =
            SMALLEST.replace("0.1\"", "0.2\"").replace("[request]", "mood = \"new\"\n[request]");

        assert_eq!(
            refusal(&newer),
            "version 1.0 is made for plugin API 0.2, and this Ultra has 0.1"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refusal(&SMALLEST.replace("\"a\"", "\"A b\"")).starts_with("the id `A b`"));
        assert!(refusal(&SMALLEST.replace("\"1.0\"", "\"\"")).starts_with("the version ``"));
        assert!(refusal(&SMALLEST.replace("0.1", "new")).starts_with("the API version `new`"));
        assert!(refusal(&SMALLEST.replace("closed", "ajar")).contains("ajar"));
        assert!(refusal(&SMALLEST.replace("priority = 50", "")).contains("priority"));
        assert!(
            refusal(&SMALLEST.replace("priority", "capabilities = [\"fly\"]\npriority"))
                .contains("fly")
        );
        assert!(
            refusal(&SMALLEST.replace("[request]\nfailure = \"closed\"\n", "")).contains("neither")
        );
        assert_eq!(Manifest::parse(b"\xff"), Err(ManifestError::Utf8));
    }
}
