//! Which of the processes that share a database sends its records: the one that has a lock beside it.
//!
//! Two that send at once do no harm, because the Hub takes no record twice; it is only for nothing.

use std::path::{Path, PathBuf};

use crate::auth::FileLock;
use crate::chain;

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
            path.push(format!(".sync-{id}"));
            PathBuf::from(path)
        });
        Self { path, held: None, was_taken: false, is_broken: false }
    }

    /// Returns whether another process had it before.
    pub(super) fn was_taken(&self) -> bool {
        self.was_taken
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

        assert!(one.take() && one.take());
        assert!(!two.take() && other.take());
        drop(one);
        assert!(two.take());
        assert!(two.was_taken() && !other.was_taken());
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

        assert!(Lease::new(Some(&nowhere), "gw_1").take());
        assert!(Lease::new(None, "gw_1").take());
    }
}
