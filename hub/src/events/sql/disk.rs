//! Whether there is room for more records on the disk of a database that is a file.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::Database;

/// Asking costs little, but not nothing.
const CHECK_PERIOD: Duration = Duration::from_secs(3);

/// Even where the database has room in its file, the log of what is written needs some beside it.
const LOG_BYTES: u64 = 64 * 1024 * 1024;

/// How much of the disk must stay free. SQLite needs some itself to delete what is too old; a tenth would be
/// hundreds of GiB on a large disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FreeSpace {
    pub(crate) bytes_min: u64,
    pub(crate) percent_min: u64,
}

impl Default for FreeSpace {
    fn default() -> Self {
        Self { bytes_min: 1024 * 1024 * 1024, percent_min: 2 }
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
    pub(super) async fn has_room(&self, database: &dyn Database) -> bool {
        let known = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, has_room)) = known
            && at.elapsed() < CHECK_PERIOD
        {
            return has_room;
        }
        let has_room = match space(&self.path) {
            None => true,
            Some((free, total)) => {
                self.free.is_left(free, total) || self.has_room_inside(database, free, total).await
            }
        };
        let now = Some((Instant::now(), has_room));
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = now;
        has_room
    }

    /// Whether there is room in the file itself, where records were deleted: it does not shrink.
    async fn has_room_inside(&self, database: &dyn Database, free: u64, total: u64) -> bool {
        let sql = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
        let found = database.row(sql, &[]).await;
        let inside = found.ok().flatten().and_then(|row| row.get::<i64>(0).ok());
        let inside = inside.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
        let is_left = free >= LOG_BYTES && self.free.is_left(free.saturating_add(inside), total);
        if !is_left {
            tracing::error!(
                disk.free_bytes = free,
                disk.total_bytes = total,
                "the disk is nearly full: no records are taken until there is room"
            );
        }
        is_left
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
    use crate::db::testing::TestDatabase;
    use crate::db::values;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_fiftieth_and_a_gibibyte_stay_free() {
        let cases = [
            (500 * GIB, 100 * GIB, true),
            (500 * GIB, 10 * GIB, true),
            (500 * GIB, 9 * GIB, false),
            (5 * GIB, GIB, true),
            (5 * GIB, GIB - 1, false),
        ];

        for (total, free, expected) in cases {
            assert_eq!(FreeSpace::default().is_left(free, total), expected, "{free} of {total}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_disk_without_room_is_noticed_and_so_is_room_in_the_file() {
        let test = TestDatabase::sqlite().await;
        let database = &*test.database;
        let directory = tempfile::tempdir().unwrap();
        let disk = |bytes_min| {
            Disk::new(directory.path().to_owned(), FreeSpace { bytes_min, percent_min: 0 })
        };

        assert!(disk(1).has_room(database).await);
        assert!(!disk(u64::MAX).has_room(database).await);
        let text = "x".repeat(1 << 20);
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2)";
        for number in 0..64 {
            database.execute(sql, &values![format!("{number}"), &text]).await.unwrap();
        }
        database.execute("DELETE FROM settings", &[]).await.unwrap();
        let (free, _) = space(directory.path()).unwrap();
        assert!(disk(free + (32 << 20)).has_room(database).await);
        assert!(!disk(free + (1 << 40)).has_room(database).await);
    }
}
