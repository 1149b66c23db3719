//! Whether there is room for more records on the disk of a database that is a file.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Asking costs little, but not nothing.
const CHECK_PERIOD: Duration = Duration::from_secs(3);

/// How much of the disk must stay free. SQLite needs some itself, to give some back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FreeSpace {
    pub(crate) bytes_min: u64,
    pub(crate) percent_min: u64,
}

impl Default for FreeSpace {
    fn default() -> Self {
        Self { bytes_min: 1024 * 1024 * 1024, percent_min: 10 }
    }
}

impl FreeSpace {
    fn is_left(self, free: u64, total: u64) -> bool {
        free >= self.bytes_min && free >= total / 100 * self.percent_min
    }
}

/// The disk that a file is on.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    free: FreeSpace,
    checked: Mutex<Option<(Instant, bool)>>,
}

impl Disk {
    pub(super) fn new(path: PathBuf, free: FreeSpace) -> Self {
        Self { path, free, checked: Mutex::new(None) }
    }

    /// Whether there is room; also if nobody knows.
    pub(super) fn has_room(&self) -> bool {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, has_room)) = *checked
            && at.elapsed() < CHECK_PERIOD
        {
            return has_room;
        }
        let has_room = space(&self.path).is_none_or(|(free, total)| {
            let is_left = self.free.is_left(free, total);
            if !is_left {
                tracing::error!(
                    disk.free_bytes = free,
                    disk.total_bytes = total,
                    "the disk is nearly full: no records are taken until there is room"
                );
            }
            is_left
        });
        *checked = Some((Instant::now(), has_room));
        has_room
    }
}

/// Returns how many bytes are free, and how many there are.
#[cfg(unix)]
fn space(path: &std::path::Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some((
        found.f_bavail.saturating_mul(found.f_frsize),
        found.f_blocks.saturating_mul(found.f_frsize),
    ))
}

#[cfg(not(unix))]
fn space(_: &std::path::Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_tenth_and_a_gibibyte_stay_free() {
        let cases = [
            (500 * GIB, 100 * GIB, true),
            (500 * GIB, 50 * GIB, true),
            (500 * GIB, 49 * GIB, false),
            (5 * GIB, GIB, true),
            (5 * GIB, GIB - 1, false),
        ];

        for (total, free, expected) in cases {
            assert_eq!(FreeSpace::default().is_left(free, total), expected, "{free} of {total}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_without_room_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = |bytes_min| {
            Disk::new(directory.path().to_owned(), FreeSpace { bytes_min, percent_min: 0 })
        };

        assert!(disk(1).has_room());
        assert!(!disk(u64::MAX).has_room());
    }
}
