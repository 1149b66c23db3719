//! Which file is the config file. The first match wins; nothing is merged.

use std::path::{Path, PathBuf};

use super::{ConfigError, Environment};

/// Returns the first config file that exists.
pub(super) fn find(environment: &Environment, cwd: &Path) -> Result<Option<PathBuf>, ConfigError> {
    for path in candidates(environment, cwd) {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(Some(path)),
            Err(error) if is_absence(&error) => {}
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
    }
    Ok(None)
}

fn candidates(environment: &Environment, cwd: &Path) -> Vec<PathBuf> {
    let here = ["ultra.yaml", "ultra.yml", ".ultra.yaml", ".ultra.yml"].map(|name| cwd.join(name));
    let config = environment
        .config_dir()
        .map(|dir| ["config.yaml", "config.yml"].map(|name| dir.join(name)));
    let home =
        environment.home().map(|dir| [".ultra.yaml", ".ultra.yml"].map(|name| dir.join(name)));
    here.into_iter().chain(config.into_iter().flatten()).chain(home.into_iter().flatten()).collect()
}

/// A home directory that is a file is no reason to stop looking.
fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_searched_in_the_documented_order() {
        let dir = tempfile::tempdir().unwrap();
        let (cwd, home) = (dir.path().join("cwd"), dir.path().join("home"));
        std::fs::create_dir_all(&cwd).unwrap();
        std::fs::create_dir_all(home.join(".config/ultra")).unwrap();
        let environment = Environment::of([("HOME", home.to_str().unwrap())]);
        let order = [
            home.join(".ultra.yml"),
            home.join(".ultra.yaml"),
            home.join(".config/ultra/config.yml"),
            home.join(".config/ultra/config.yaml"),
            cwd.join(".ultra.yml"),
            cwd.join(".ultra.yaml"),
            cwd.join("ultra.yml"),
            cwd.join("ultra.yaml"),
        ];

        assert_eq!(find(&environment, &cwd).unwrap(), None);
        for path in order {
            std::fs::write(&path, "").unwrap();
            assert_eq!(find(&environment, &cwd).unwrap(), Some(path));
        }
    }

    #[test]
    fn directory_of_that_name_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ultra.yaml")).unwrap();
        std::fs::write(dir.path().join("ultra.yml"), "").unwrap();

        let found = find(&Environment::of([]), dir.path()).unwrap();

        assert_eq!(found, Some(dir.path().join("ultra.yml")));
    }
}
