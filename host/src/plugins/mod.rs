//! Which plugins run, in which order, and how: built-ins, the plugin directory, the administrator's word.
//!
//! Two steps. [`plan`] reads manifests and checks components without compiling one: it is what
//! `ultra plugins list` shows, and what decides whether `ultra start` may go on. [`Plan::load`] compiles
//! and starts them, which takes 2 ms with a warm cache and 0.1 s without.

mod builtin;
mod candidate;
mod load;
mod manifest;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config;
use crate::pipeline::{FailureMode, MessageKind, Sees};
use crate::wasm::{Capability, digest_text};
use builtin::BUILTINS;
use candidate::{Candidate, Source};

pub use load::{Loaded, Plugins};

/// The plugins that would run, in their order, and those that would not.
pub struct Plan {
    candidates: Vec<Candidate>,
    disabled: Vec<Candidate>,
    refused: Vec<Refused>,
    warnings: Vec<String>,
    allow_refused: bool,
}

/// A plugin that is not loaded although it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The file, or `built-in` and the id.
    pub file: String,
    /// Why.
    pub reason: String,
    /// It is part of Ultra: nothing allows to start without it but disabling it.
    #[serde(skip)]
    pub builtin: bool,
}

/// Why plugins are not loaded.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// The plugin directory cannot be read.
    #[error("cannot read the plugin directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some are refused, and that is not allowed.
    #[error("refused {}", refusals(refused))]
    Refused {
        /// Which, and why.
        refused: Vec<Refused>,
    },
}

fn refusals(refused: &[Refused]) -> String {
    let one = |refused: &Refused| format!("`{}`: {}", refused.file, refused.reason);
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What there is to know about a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginInfo {
    /// Plugin id; none if it could not be read.
    pub id: Option<String>,
    /// The plugin's own version.
    pub version: Option<String>,
    /// Version of the plugin API it is made for.
    pub api: Option<String>,
    /// What it does, in its own words.
    pub description: Option<String>,
    /// `built-in`, or the file.
    pub source: String,
    /// Lower meets requests earlier and outcomes later.
    pub priority: Option<i32>,
    /// Failure mode of the request phase; none if it does not meet requests.
    pub request: Option<FailureMode>,
    /// Failure mode of the response phase; none if it does not meet outcomes.
    pub response: Option<FailureMode>,
    /// The kinds of messages it meets.
    pub sees: Vec<MessageKind>,
    /// Also meets outcomes of calls it did not see.
    pub sees_all_outcomes: bool,
    /// What it may do.
    pub capabilities: Vec<Capability>,
    /// Digest of the component, as `sha256:` and hex.
    pub digest: Option<String>,
    /// Size of the component.
    pub size_bytes: Option<u64>,
    /// Whether it runs.
    pub state: State,
    /// Why it is refused.
    pub reason: Option<String>,
}

/// Whether a plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Active,
    /// The config says no.
    Disabled,
    /// It cannot.
    Refused,
}

/// Decides which plugins run, in which order, and how. Compiles nothing.
///
/// `cli_directory` beats the directory of the config. What is refused is in the plan, not an error.
///
/// # Errors
///
/// [`PluginsError::Directory`]: without it nobody knows what is missing.
pub fn plan(config: &config::Plugins, cli_directory: Option<&Path>) -> Result<Plan, PluginsError> {
    let mut plan = Plan {
        candidates: Vec::new(),
        disabled: Vec::new(),
        refused: Vec::new(),
        warnings: Vec::new(),
        allow_refused: config.allow_refused,
    };
    let mut found = Vec::new();
    for builtin in &BUILTINS {
        match candidate::of_builtin(builtin) {
            Ok(candidate) => found.push(candidate),
            Err(refused) => plan.refused.push(refused),
        }
    }
    if let Some(directory) = cli_directory.or(config.directory.as_deref()) {
        for file in candidate::of_directory(directory)? {
            match file {
                Ok(candidate) => found.push(candidate),
                Err(refused) => plan.refused.push(refused),
            }
        }
    }
    plan.warn_of_unknown(config, &found);
    let (disabled, enabled): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|candidate| config.disabled.contains(&candidate.manifest.id));
    plan.disabled = disabled;
    for mut candidate in enabled {
        let word = config.overrides.get(&candidate.manifest.id);
        match candidate.settle(word, &mut plan.warnings) {
            Ok(()) => plan.candidates.push(candidate),
            Err(reason) => plan.refused.push(candidate.refuse(reason)),
        }
    }
    plan.resolve_ids();
    plan.candidates.sort_by_cached_key(Candidate::place);
    Ok(plan)
}

impl Plan {
    /// Returns the plugins in their order, then those that do not run.
    pub fn infos(&self) -> Vec<PluginInfo> {
        let active = self.candidates.iter().map(|candidate| info(candidate, State::Active));
        let disabled = self.disabled.iter().map(|candidate| info(candidate, State::Disabled));
        active.chain(disabled).chain(self.refused.iter().map(info_of_refused)).collect()
    }

    /// Returns what is refused so far. Compiling and starting may refuse more.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Returns what is odd about the config of plugins, worded for a person.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Checks that nothing is refused, or that starting without it is allowed.
    ///
    /// # Errors
    ///
    /// [`PluginsError::Refused`].
    pub fn check(&self) -> Result<(), PluginsError> {
        check(&self.refused, self.allow_refused)
    }

    /// Returns whether a plugin sees more than calls: what a session begins with, for instance.
    pub fn sees_more_than_calls(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.sees.or(Sees::CALLS) != Sees::CALLS)
    }

    fn warn_of_unknown(&mut self, config: &config::Plugins, found: &[Candidate]) {
        let known = |id: &str| found.iter().any(|candidate| candidate.manifest.id == id);
        let disabled = config.disabled.iter().filter(|id| !known(id));
        self.warnings.extend(
            disabled
                .map(|id| format!("`plugins.disabled` names `{id}`, and there is no such plugin")),
        );
        let overrides = config.overrides.keys().filter(|id| !known(id));
        self.warnings.extend(
            overrides.map(|id| {
                format!("the config is about a plugin `{id}`, and there is no such plugin")
            }),
        );
    }

    /// Sees to it that no two plugins have the same id: one file replaces a built-in, two files exclude
    /// each other.
    fn resolve_ids(&mut self) {
        let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for candidate in
            self.candidates.iter().filter(|candidate| candidate.source != Source::Builtin)
        {
            files
                .entry(candidate.manifest.id.clone())
                .or_default()
                .push(candidate.source.to_string());
        }
        let candidates = std::mem::take(&mut self.candidates);
        for candidate in candidates {
            let same = files.get(&candidate.manifest.id).map_or(&[][..], Vec::as_slice);
            match (&candidate.source, same) {
                (Source::File(_), [_, _, ..]) => {
                    let reason =
                        format!("the id `{}` is also that of {}", candidate.manifest.id, {
                            let own = candidate.source.to_string();
                            let others = same
                                .iter()
                                .filter(|file| **file != own)
                                .map(|file| format!("`{file}`"));
                            others.collect::<Vec<_>>().join(" and ")
                        });
                    self.refused.push(candidate.refuse(reason));
                }
                (Source::Builtin, [_]) => {}
                (Source::Builtin, _) | (Source::File(_), _) => self.candidates.push(candidate),
            }
        }
    }
}

fn check(refused: &[Refused], allowed: bool) -> Result<(), PluginsError> {
    let fatal: Vec<_> =
        refused.iter().filter(|refused| refused.builtin || !allowed).cloned().collect();
    if fatal.is_empty() { Ok(()) } else { Err(PluginsError::Refused { refused: fatal }) }
}

fn info(candidate: &Candidate, state: State) -> PluginInfo {
    let manifest = &candidate.manifest;
    PluginInfo {
        id: Some(manifest.id.clone()),
        version: Some(manifest.version.clone()),
        api: Some(manifest.api.clone()),
        description: Some(manifest.description.clone()).filter(|text| !text.is_empty()),
        source: candidate.source.to_string(),
        priority: Some(candidate.priority),
        request: candidate.request,
        response: candidate.response,
        sees: candidate.sees.kinds().collect(),
        sees_all_outcomes: manifest.sees_all_outcomes,
        capabilities: candidate.grants.iter().collect(),
        digest: Some(digest_text(&candidate.digest)),
        size_bytes: Some(candidate.component.len() as u64),
        state,
        reason: None,
    }
}

fn info_of_refused(refused: &Refused) -> PluginInfo {
    PluginInfo {
        id: None,
        version: None,
        api: None,
        description: None,
        source: refused.file.clone(),
        priority: None,
        request: None,
        response: None,
        sees: Vec::new(),
        sees_all_outcomes: false,
        capabilities: Vec::new(),
        digest: None,
        size_bytes: None,
        state: State::Refused,
        reason: Some(refused.reason.clone()),
    }
}
