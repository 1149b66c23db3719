//! Which of the processes that share a database sends its records: the one that has a lock beside it.
//!
//! Two that send at once do no harm, because the Hub takes no record twice; it is only for nothing.

use std::path::{Path, PathBuf};

use crate::auth::FileLock;
use crate::chain;

/// Between the name of a database and the id of a gateway.
const SUFFIX: &str = ".sync-";

/// Returns whether no process sends the records of a database at this moment, for any gateway.
pub(super) fn is_idle(database: &Path) -> bool {
    let (Some(directory), Some(name)) = (database.parent(), database.file_name()) else {
        return false;
    };
    let Ok(files) = directory.read_dir() else { return false };
    let prefix = format!("{}{SUFFIX}", name.to_string_lossy());
    let mut locks = files
        .flatten()
        .filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)));
    locks.all(|lock| matches!(FileLock::try_take(&lock.path()), Ok(Some(_))))
}

/// The right to send.
#[derive(Debug)]
pub(super) struct Lease {
    /// None if nobody can share the database.
    path: Option<PathBuf>,
    held: Option<FileLock>,
    /// Another process had it when it was tried last.
    was_taken: bool,
    /// The lock cannot be used, which was said.
    is_broken: bool,
}

impl Lease {
    /// Returns the lease of a gateway on a database; of none, if its records are in memory.
    pub(super) fn new(database: Option<&Path>, gateway_id: &str) -> Self {
        // The id comes from a file that people edit.
        let id: String = gateway_id
            .chars()
            .filter(|char| char.is_ascii_alphanumeric() || "_-".contains(*char))
            .take(64)
            .collect();
        let path = database.map(|database| {
            let mut path = database.as_os_str().to_owned();
            path.push(format!("{SUFFIX}{id}"));
            PathBuf::from(path)
        });
        Self { path, held: None, was_taken: false, is_broken: false }
    }

    /// Returns whether another process may have sent since this one began.
    pub(super) fn may_others_have_sent(&self) -> bool {
        self.was_taken || self.is_broken
    }

    /// Returns whether this process may send, which it may until its end once it could.
    pub(super) fn take(&mut self) -> bool {
        let Some(path) = self.path.as_deref().filter(|_| self.held.is_none()) else { return true };
        match FileLock::try_take(path) {
            Ok(lock) => {
                self.held = lock;
                self.was_taken |= self.held.is_none();
                self.held.is_some()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_broken, true) {
                    let error = chain(&error);
                    tracing::warn!("several processes may send the same records: {error}");
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_sends_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("ultra.db");
        let lease = |gateway| Lease::new(Some(&database), gateway);
        let (mut one, mut two, mut other) = (lease("gw_1"), lease("gw_1"), lease("gw_2"));

        assert!(is_idle(&database));
        assert!(one.take() && one.take());
        assert!(!is_idle(&database));
        assert!(!two.take() && other.take());
        drop((one, other));
        assert!(is_idle(&database));
        assert!(two.take());
        assert!(two.may_others_have_sent() && !lease("gw_3").may_others_have_sent());
        assert!(directory.path().join("ultra.db.sync-gw_1").exists());
    }

    #[test]
    fn a_gateway_id_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("ultra.db");

        let lease = Lease::new(Some(&database), "../../gw_1");

        assert_eq!(lease.path.unwrap(), directory.path().join("ultra.db.sync-gw_1"));
    }

    #[test]
    fn without_a_lock_everybody_sends() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("missing/ultra.db");

        let (mut broken, mut alone) =
            (Lease::new(Some(&nowhere), "gw_1"), Lease::new(None, "gw_1"));

        assert!(broken.take() && alone.take());
        assert!(broken.may_others_have_sent() && !alone.may_others_have_sent());
    }
}
