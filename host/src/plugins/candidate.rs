//! One plugin before it is compiled: what it brings, and what becomes of that by the administrator's word.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::builtin::{BUILTINS, Builtin};
use super::manifest::Manifest;
use super::scan::{self, ScanError};
use super::{PluginsError, Refused};
use crate::config::PluginOverride;
use crate::pipeline::{FailureMode, MessageKind, Sees};
use crate::wasm::{COMPONENT_BYTES_MAX, Capability, Grants, digest};

/// A manifest beside a component may be this large.
const SIDECAR_BYTES_MAX: u64 = 64 << 10;

/// Where a plugin comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// It is part of Ultra.
    Builtin,
    /// A file of the plugin directory.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("built-in"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// One plugin before it is compiled.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) source: Source,
    pub(super) manifest: Manifest,
    pub(super) component: Cow<'static, [u8]>,
    pub(super) digest: [u8; 32],
    imports: Vec<Capability>,
    /// Its name in the directory; empty for a built-in.
    file_name: String,
    pub(super) priority: i32,
    pub(super) request: Option<FailureMode>,
    pub(super) response: Option<FailureMode>,
    pub(super) sees: Sees,
    pub(super) grants: Grants,
    /// A JSON object.
    pub(super) settings: String,
}

impl Candidate {
    fn new(
        source: Source,
        file_name: String,
        component: Cow<'static, [u8]>,
        sidecar: Option<&[u8]>,
    ) -> Result<Self, String> {
        let scan = scan::scan(&component).map_err(|error| error.to_string())?;
        let manifest = manifest(scan.manifest, sidecar)?;
        let imports = scan.imports;
        Ok(Self {
            digest: digest(&component),
            priority: manifest.priority,
            request: manifest.request.as_ref().map(|phase| phase.failure),
            response: manifest.response.as_ref().map(|phase| phase.failure),
            sees: manifest.sees.iter().copied().collect(),
            grants: manifest.capabilities.iter().copied().collect(),
            settings: String::new(),
            source,
            manifest,
            component,
            imports,
            file_name,
        })
    }

    /// Applies the administrator's word.
    ///
    /// # Errors
    ///
    /// Why the plugin cannot run with what it is granted.
    pub(super) fn settle(
        &mut self,
        word: Option<&PluginOverride>,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let id = &self.manifest.id;
        let asked = self.grants;
        if let Some(word) = word {
            self.priority = word.priority.unwrap_or(self.priority);
            for (phase, mode, new) in [
                ("request", &mut self.request, word.request),
                ("response", &mut self.response, word.response),
            ] {
                match (&mode, new) {
                    (None, Some(_)) => {
                        warnings.push(format!("plugin `{id}` has no {phase} phase, and the config sets a failure mode of it"));
                    }
                    (Some(_), Some(_)) => *mode = new,
                    (_, None) => {}
                }
            }
            if let Some(names) = &word.sees {
                let unknown = names.iter().filter(|name| MessageKind::of_name(name).is_none());
                warnings.extend(unknown.map(|name| format!("the config has plugin `{id}` see `{name}`, and there is no such kind of messages")));
                self.sees = names.iter().filter_map(|name| MessageKind::of_name(name)).collect();
            }
            if let Some(names) = &word.capabilities {
                let unknown = names.iter().filter(|name| Capability::of_name(name).is_none());
                warnings.extend(unknown.map(|name| format!("the config grants `{name}` to plugin `{id}`, and there is no such capability")));
                self.grants =
                    asked.and(names.iter().filter_map(|name| Capability::of_name(name)).collect());
            }
        }
        for &import in &self.imports {
            if !asked.has(import) {
                return Err(format!(
                    "it imports `{import}`, a capability its manifest does not ask for"
                ));
            }
            if !self.grants.has(import) {
                return Err(format!(
                    "it imports `{import}`, a capability the config does not grant"
                ));
            }
        }
        self.settings = self.merge_settings(word, warnings)?;
        Ok(())
    }

    fn merge_settings(
        &self,
        word: Option<&PluginOverride>,
        warnings: &mut Vec<String>,
    ) -> Result<String, String> {
        let defaults = serde_json::to_value(&self.manifest.settings)
            .map_err(|error| format!("its settings: {error}"))?;
        let mut settings = match defaults {
            Value::Object(settings) => settings,
            _ => Map::new(),
        };
        for (key, value) in word.map(|word| &word.settings).into_iter().flatten() {
            if settings.insert(key.clone(), value.clone()).is_none() {
                let id = &self.manifest.id;
                warnings.push(format!(
                    "plugin `{id}` has no setting `{key}` in its manifest; it may be ignored"
                ));
            }
        }
        Ok(Value::Object(settings).to_string())
    }

    /// Returns what the order goes by: priority, then the built-ins' order, then the file name. One that
    /// replaces a built-in has its place.
    pub(super) fn place(&self) -> (i32, usize, String) {
        let rank = BUILTINS.iter().position(|builtin| builtin.id == self.manifest.id);
        (self.priority, rank.unwrap_or(BUILTINS.len()), self.file_name.clone())
    }

    pub(super) fn refuse(&self, reason: String) -> Refused {
        let (file, builtin) = match &self.source {
            Source::Builtin => (format!("built-in {}", self.manifest.id), true),
            Source::File(path) => (path.display().to_string(), false),
        };
        Refused { file, reason, builtin }
    }
}

/// Returns a built-in.
pub(super) fn of_builtin(builtin: &Builtin) -> Result<Candidate, Refused> {
    Candidate::new(Source::Builtin, String::new(), Cow::Borrowed(builtin.component), None).map_err(
        |reason| Refused { file: format!("built-in {}", builtin.id), reason, builtin: true },
    )
}

/// Returns the plugins of a directory, by file name: `*.wasm`, and `plugin.wasm` in a directory of its own.
pub(super) fn of_directory(
    directory: &Path,
) -> Result<Vec<Result<Candidate, Refused>>, PluginsError> {
    let failed = |source| PluginsError::Directory { path: directory.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = PathBuf::from(entry.map_err(failed)?.file_name());
        if name.extension() == Some(OsStr::new("wasm")) {
            names.push(name);
        } else if directory.join(&name).join("plugin.wasm").exists() {
            names.push(name.join("plugin.wasm"));
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| of_file(directory, &name)).collect())
}

fn of_file(directory: &Path, name: &Path) -> Result<Candidate, Refused> {
    let path = directory.join(name);
    let refused = |reason| Refused { file: path.display().to_string(), reason, builtin: false };
    let component = read(&path, COMPONENT_BYTES_MAX as u64).map_err(|error| match error {
        Unread::TooLarge(bytes) => refused(ScanError::TooLarge { bytes }.to_string()),
        Unread::Io(error) => refused(format!("it cannot be read: {error}")),
    })?;
    let sidecar = match read(&path.with_extension("toml"), SIDECAR_BYTES_MAX) {
        Ok(bytes) => Some(bytes),
        Err(Unread::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(Unread::Io(error)) => {
            return Err(refused(format!("the manifest beside it cannot be read: {error}")));
        }
        Err(Unread::TooLarge(bytes)) => {
            return Err(refused(format!("the manifest beside it has {bytes} bytes")));
        }
    };
    let file_name = name.display().to_string();
    Candidate::new(Source::File(path.clone()), file_name, Cow::Owned(component), sidecar.as_deref())
        .map_err(refused)
}

enum Unread {
    TooLarge(u64),
    Io(io::Error),
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unread> {
    let file = File::open(path).map_err(Unread::Io)?;
    let size = file.metadata().map_err(Unread::Io)?.len();
    if size > bytes_max {
        return Err(Unread::TooLarge(size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // It may grow while it is read.
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(Unread::Io)?;
    if bytes.len() as u64 > bytes_max {
        Err(Unread::TooLarge(bytes.len() as u64))
    } else {
        Ok(bytes)
    }
}

/// Reads the manifest within the component, or beside it for those who cannot put it there.
fn manifest(embedded: Option<&[u8]>, sidecar: Option<&[u8]>) -> Result<Manifest, String> {
    let parse = |bytes| Manifest::parse(bytes).map_err(|error| error.to_string());
    match (embedded, sidecar) {
        (Some(embedded), Some(sidecar)) => {
            let manifest = parse(embedded)?;
            if parse(sidecar)? == manifest {
                Ok(manifest)
            } else {
                Err("the manifest beside it is not the one within it".into())
            }
        }
        (Some(one), None) | (None, Some(one)) => parse(one),
        (None, None) => Err(
            "it has no manifest: neither a section `ultra:manifest` nor a `.toml` file beside it"
                .into(),
        ),
    }
}
