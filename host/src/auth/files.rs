//! Files that are this user's alone: directories 0700, files 0600, never through a symbolic link.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::time::Instant;

/// The records of a thousand servers have a tenth of it.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// So often a lock that another process holds is tried again.
const LOCK_PERIOD: Duration = Duration::from_millis(25);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Somebody else could have read or written it.
    #[error("`{}` belongs to somebody else, or others may use it", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl FileError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Makes a directory if it is missing, and makes sure that nobody else can look into it.
pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    let failed = FileError::io(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(&failed)?;
    let metadata = fs::symlink_metadata(path).map_err(&failed)?;
    if !metadata.is_dir() || !is_own(&metadata) {
        return Err(FileError::Untrusted { path: path.to_owned() });
    }
    Ok(())
}

/// Reads a file; nothing if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = FileError::io(path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let untrusted = || Err(FileError::Untrusted { path: path.to_owned() });
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return untrusted(),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(&failed)?;
    if !metadata.is_file() || !is_own(&metadata) || metadata.len() > FILE_BYTES_MAX {
        return untrusted();
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Replaces a file: afterwards it holds these bytes, whatever happens to the machine.
///
/// The caller holds a lock: two that replace at once would use the same temporary file.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = FileError::io(path);
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed)
}

/// Makes a file that holds these bytes, and its directory, unless there is one. Of several processes that
/// do so at once, one wins.
pub(super) fn make(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = FileError::io(path);
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(&failed)?;
    let temporary = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Unlike a rename, it replaces nothing.
        fs::hard_link(&temporary, path)
    };
    let made = write();
    let _ = fs::remove_file(&temporary);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns whether something is this user's and nobody else's.
fn is_own(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

/// A lock over all processes of this user; it ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Takes a lock unless somebody has it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, FileError> {
        let failed = FileError::io(path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(&failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Takes a lock, waiting for whoever has it; nothing if that takes longer than `limit`.
    pub(crate) async fn take(path: &Path, limit: Duration) -> Result<Option<Self>, FileError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(Some(lock));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            tokio::time::sleep(LOCK_PERIOD).await;
        }
    }

    /// Takes a lock on a thread that may wait.
    pub(super) fn take_blocking(path: &Path, limit: Duration) -> Result<Option<Self>, FileError> {
        let end = std::time::Instant::now() + limit;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(Some(lock));
            }
            if std::time::Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(LOCK_PERIOD);
        }
    }

    /// Leaves a line for those who find the lock taken.
    pub(super) fn note(&self, line: &str) -> Result<(), FileError> {
        let failed = FileError::io(&self.path);
        self.forget_note()?;
        self.file.write_all_at(format!("{line}\n").as_bytes(), 0).map_err(failed)
    }

    /// Takes the note back.
    pub(super) fn forget_note(&self) -> Result<(), FileError> {
        self.file.set_len(0).map_err(FileError::io(&self.path))
    }

    /// Returns the note of whoever has a lock, once it is there.
    pub(super) fn note_at(path: &Path) -> Result<Option<String>, FileError> {
        let text = String::from_utf8(read(path)?.unwrap_or_default()).unwrap_or_default();
        Ok(text.strip_suffix('\n').map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn files_are_the_owners_alone_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("a/auth");
        let path = directory.join("tokens");

        make_directory(&directory).unwrap();
        replace(&path, b"one").unwrap();
        fs::write(path.with_extension("tmp"), "half of an earlier attempt").unwrap();
        replace(&path, b"two").unwrap();

        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert!(read(&directory.join("none")).unwrap().is_none());
    }

    #[test]
    fn what_others_may_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("auth");
        let (path, link) = (directory.join("tokens"), directory.join("link"));
        make_directory(&directory).unwrap();
        replace(&path, b"x").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();

        for bits in [0o640, 0o604, 0o620, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            assert!(matches!(read(&path), Err(FileError::Untrusted { .. })), "{bits:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&link), Err(FileError::Untrusted { .. })));
        fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(make_directory(&directory), Err(FileError::Untrusted { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn lock_is_held_by_one_and_ends_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let limit = Duration::from_millis(100);

        let held = FileLock::try_take(&path).unwrap().unwrap();
        let without = FileLock::note_at(&path).unwrap();
        held.note("a long note").unwrap();
        held.note("a note").unwrap();

        assert!(FileLock::take(&path, limit).await.unwrap().is_none());
        assert_eq!((without, FileLock::note_at(&path).unwrap()), (None, Some("a note".into())));
        drop(held);
        assert!(FileLock::take(&path, limit).await.unwrap().is_some());
    }
}
