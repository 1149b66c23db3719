//! What the suite found, and what it was expected to find.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Scenarios that fail, by run. The list only shrinks.
const EXPECTED_FAILURES: &str = include_str!("../../conformance/expected-failures.txt");

/// A directory of results ends with a time of this form.
const TIME: &str = "-2026-01-01T00-00-00-000Z";

/// The results of one run of the suite.
#[derive(Debug)]
pub struct Report {
    revision: String,
    scenarios: BTreeMap<String, Scenario>,
}

/// The result of one scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Whether the revision requires it. Extensions and what is newer than the revision are run too.
    pub is_scored: bool,
    /// The checks that failed, as `id: message`.
    pub failures: Vec<String>,
}

impl Report {
    /// Reads what the suite printed, and the results it wrote into a directory.
    ///
    /// # Errors
    ///
    /// If there is no summary in what it printed.
    pub(super) fn read(revision: &str, output: &str, dir: &Path) -> Result<Self, String> {
        let (_, summary) =
            output.split_once("SUMMARY ===").ok_or("the suite printed no summary")?;
        let mut scenarios: BTreeMap<_, _> = summary.lines().filter_map(scenario).collect();
        for unscored in summary.lines().filter_map(unscored) {
            if let Some(scenario) = scenarios.get_mut(unscored) {
                scenario.is_scored = false;
            }
        }
        let mut checks = BTreeMap::new();
        find_checks(dir, "", &mut checks);
        for (name, scenario) in &mut scenarios {
            // One that broke down has left no checks behind, only that it failed.
            if let Some(failures) = checks.remove(name)
                && !scenario.failures.is_empty()
            {
                scenario.failures = failures;
            }
        }
        if scenarios.is_empty() {
            return Err("there is no scenario in the suite's summary".to_owned());
        }
        Ok(Self { revision: revision.to_owned(), scenarios })
    }

    /// Returns all scenarios by name.
    pub fn scenarios(&self) -> &BTreeMap<String, Scenario> {
        &self.scenarios
    }

    /// Returns how many of the scenarios that count have passed, and how many there are.
    pub fn scored(&self) -> (usize, usize) {
        let scored = || self.scenarios.values().filter(|scenario| scenario.is_scored);
        (scored().filter(|scenario| scenario.failures.is_empty()).count(), scored().count())
    }

    /// Compares with the expected failures of a run, scored or not.
    ///
    /// # Panics
    ///
    /// If a scenario fails that is not listed, or one is listed that passes or does not exist.
    pub fn assert_expected(&self, run: &str) {
        let differences = self.differences(run, EXPECTED_FAILURES);
        let (passed, scored) = self.scored();
        assert!(
            differences.is_empty(),
            "{run}, {}: {passed} of {scored} scored scenarios pass\n{differences}",
            self.revision
        );
    }

    fn differences(&self, run: &str, list: &str) -> String {
        let expected: Vec<_> =
            list.lines().filter_map(|line| entry(line, run, &self.revision)).collect();
        let mut text = String::new();
        let mut say = |line: &str| writeln!(text, "  {line}").expect("a string takes every line");
        for (name, scenario) in &self.scenarios {
            let is_expected = expected.contains(&name.as_str());
            if !is_expected {
                for failure in &scenario.failures {
                    say(&format!("{name} fails: {failure}"));
                }
            } else if scenario.failures.is_empty() {
                say(&format!(
                    "{name} passes: remove it from tests/conformance/expected-failures.txt"
                ));
            }
        }
        for name in expected.iter().filter(|name| !self.scenarios.contains_key(**name)) {
            say(&format!(
                "{name} was not run: remove it from tests/conformance/expected-failures.txt"
            ));
        }
        text
    }
}

/// Returns the scenario of a line `run revision scenario # why`, if it is of this run.
fn entry<'a>(line: &'a str, run: &str, revision: &str) -> Option<&'a str> {
    let line = line.split('#').next()?;
    let mut words = line.split_whitespace();
    (words.next()? == run && words.next()? == revision).then(|| words.next())?
}

/// Reads a line `✓ name: 3 passed, 0 failed`.
fn scenario(line: &str) -> Option<(String, Scenario)> {
    let line = line.strip_prefix('✓').or_else(|| line.strip_prefix('✗'))?;
    let (name, counts) = line.trim().rsplit_once(": ")?;
    let (_, failed) = counts.split_once(" passed, ")?;
    let (failed, _) = failed.split_once(" failed")?;
    let failures =
        if failed == "0" { Vec::new() } else { vec![format!("{failed} checks, see the log")] };
    Some((name.to_owned(), Scenario { is_scored: true, failures }))
}

/// Reads a line `  ✓ name (reason)`, of a scenario that does not count.
fn unscored(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ✓ ").or_else(|| line.strip_prefix("  ✗ "))?;
    Some(line.rsplit_once(" (")?.0)
}

/// Finds the failed checks of each scenario below a directory. Names of scenarios may have slashes.
fn find_checks(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let Ok(text) = fs::read_to_string(entry.path().join("checks.json")) else {
            find_checks(&entry.path(), &format!("{name}/"), found);
            continue;
        };
        let name = name.strip_prefix("server-").unwrap_or(&name);
        let name = &name[..name.len().saturating_sub(TIME.len())];
        let checks: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        let failed = checks.iter().filter(|check| check["status"] == "FAILURE");
        let shown = |check: &Value| {
            let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("id"), text("errorMessage"))
        };
        found.insert(name.to_owned(), failed.map(shown).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "noise\n=== SUMMARY ===\n✓ ping: 2 passed, 0 failed\n\
        ✗ auth/basic: 1 passed, 2 failed, 1 warnings\n✗ tasks: 0 passed, 1 failed\n\n\
        Total: 3 passed, 3 failed\n\nNot scored for R: 1 scenario(s) run, 1 failing.\n\
        \x20 ✗ tasks (extension)\n";

    fn report() -> Report {
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join(format!("auth/basic{TIME}"));
        fs::create_dir_all(&results).unwrap();
        let checks = r#"[{"id":"a","status":"SUCCESS"},{"id":"b","status":"FAILURE","errorMessage":"no b"}]"#;
        fs::write(results.join("checks.json"), checks).unwrap();
        Report::read("R", OUTPUT, dir.path()).unwrap()
    }

    #[test]
    fn a_report_names_the_checks_that_failed_and_counts_what_is_scored() {
        let report = report();

        assert_eq!(report.scored(), (1, 2));
        assert_eq!(report.scenarios()["auth/basic"].failures, ["b: no b"]);
        assert!(!report.scenarios()["tasks"].is_scored);
        assert!(Report::read("R", "it broke down", Path::new("/")).is_err());
    }

    #[test]
    fn the_list_of_expected_failures_only_shrinks() {
        let differences = |list: &str| report().differences("run", list);
        let all = "# comment\nrun R auth/basic # why\nrun R tasks\nother R ping\nrun S ping\n";

        assert_eq!(differences(all), "");
        assert!(differences("run R tasks\n").contains("auth/basic fails: b: no b"));
        assert!(differences(&format!("{all}run R ping\n")).contains("ping passes: remove it"));
        assert!(differences(&format!("{all}run R gone\n")).contains("gone was not run: remove it"));
    }
}
