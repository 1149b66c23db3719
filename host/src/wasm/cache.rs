//! Compiled components on disk, so that a start compiles nothing.
//!
//! Compiled code is native code, and the engine accepts nearly every corruption of it. So nothing is
//! taken from here unless it carries a tag (HMAC-SHA256) made with a key that only this user can read
//! and that lives apart from the cache. That holds against corruption, other users and whoever can
//! write here but not read there; somebody who acts as this user has no need of the cache.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What a tag is made over begins with this, so that the key can serve nothing else by accident.
const DOMAIN: &[u8] = b"ultra plugin cache 1\0";

/// Wasmtime's own check covers its version; this keeps versions from replacing each other's files.
const ENGINE_VERSION: &str = "48";

const TAG_BYTES: usize = 32;
const KEY_BYTES: usize = 32;

/// Compiled code is about four times a component, which has at most 8 MiB.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// A file that was written longer ago is deleted when another is written: its component or engine is
/// likely gone, and making it again takes 30 ms.
const AGE_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Where compiled components are kept, and the key that vouches for them.
pub(super) struct Cache {
    directory: PathBuf,
    key: [u8; KEY_BYTES],
}

/// Why there is no cache, or nothing of use in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("`{}` belongs to somebody else, or others may use it", path.display())]
    Untrusted { path: PathBuf },
    #[error("`{}` is not what this user's key vouches for", path.display())]
    Forged { path: PathBuf },
    #[error("`{}` does not fit this engine", path.display())]
    Unfit { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot use `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Cache {
    /// Opens the cache, and makes directory and key where they are missing.
    ///
    /// # Errors
    ///
    /// One of them cannot be used, or could be used by others.
    pub(super) fn open(directory: &Path, key_file: &Path) -> Result<Self, CacheError> {
        make_directory(directory)?;
        let key = match read_key(key_file) {
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make_key(key_file)?;
                read_key(key_file)?
            }
            other => other?,
        };
        Ok(Self { directory: directory.into(), key })
    }

    /// Returns the name under which the code of a component for an engine is kept.
    pub(super) fn name(component_digest: &[u8; 32], engine: &Engine) -> String {
        let mut compatibility = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        let digest = Sha256::new()
            .chain_update(component_digest)
            .chain_update(compatibility.finish().to_le_bytes())
            .chain_update(ENGINE_VERSION)
            .finalize();
        hex(&digest)
    }

    /// Returns a compiled component, if there is one.
    ///
    /// # Errors
    ///
    /// There is a file that cannot be used. It is to be replaced.
    pub(super) fn load(
        &self,
        engine: &Engine,
        name: &str,
    ) -> Result<Option<Component>, CacheError> {
        let path = self.path(name);
        let bytes = match read_own(&path) {
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let Some((tag, code)) = bytes.split_at_checked(TAG_BYTES) else {
            return Err(CacheError::Forged { path });
        };
        if self.tag(name, code).verify_slice(tag).is_err() {
            return Err(CacheError::Forged { path });
        }
        #[expect(
            unsafe_code,
            reason = "`deserialize` trusts its input; see below why this input can be trusted"
        )]
        // SAFETY: the bytes must be what `Component::serialize` returned. They carry a tag that only
        // somebody with this user's key can make, and `store` makes it over nothing else. What was
        // checked is what is used: both are this buffer, not the file.
        let component = unsafe { Component::deserialize(engine, code) };
        component.map(Some).map_err(|error| CacheError::Unfit { path, source: error.into() })
    }

    /// Keeps a compiled component.
    pub(super) fn store(&self, name: &str, component: &Component) -> Result<(), CacheError> {
        // Two processes, or two threads of one, may keep the same component at the same time.
        static SERIAL: AtomicU32 = AtomicU32::new(0);

        let path = self.path(name);
        let io = |source| CacheError::Io { path: path.clone(), source };
        let code = component
            .serialize()
            .map_err(|error| CacheError::Unfit { path: path.clone(), source: error.into() })?;
        let tag = self.tag(name, &code).finalize().into_bytes();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{name}.{}.{serial}.tmp", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = create_new(&temporary).map_err(io)?;
        let written = file.write_all(&tag).and_then(|()| file.write_all(&code));
        written.and_then(|()| fs::rename(&temporary, &path)).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            io(source)
        })?;
        self.forget_old();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.cwasm"))
    }

    fn tag(&self, name: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut tag =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        tag.update(DOMAIN);
        tag.update(name.as_bytes());
        tag.update(code);
        tag
    }

    fn forget_old(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let now = SystemTime::now();
        for entry in entries.flatten() {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let old = written.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > AGE_MAX));
            let name = entry.file_name();
            let ours = name
                .to_str()
                .is_some_and(|name| name.ends_with(".cwasm") || name.ends_with(".tmp"));
            if old && ours {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Returns the SHA-256 of a component.
pub(super) fn digest(component: &[u8]) -> [u8; 32] {
    Sha256::digest(component).into()
}

/// Returns bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn make_directory(path: &Path) -> Result<(), CacheError> {
    let io = |source| CacheError::Io { path: path.into(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let metadata = fs::symlink_metadata(path).map_err(io)?;
    if !metadata.is_dir() || !is_own(&metadata) {
        return Err(CacheError::Untrusted { path: path.into() });
    }
    Ok(())
}

/// Returns whether something is this user's and nobody else's.
fn is_own(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

/// Reads a file of this user; never through a symbolic link.
fn read_own(path: &Path) -> Result<Vec<u8>, CacheError> {
    let io = |source| CacheError::Io { path: path.into(), source };
    let untrusted = || CacheError::Untrusted { path: path.into() };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => return Err(untrusted()),
        other => File::from(other.map_err(|error| io(error.into()))?),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() || !is_own(&metadata) || metadata.len() > FILE_BYTES_MAX {
        return Err(untrusted());
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], CacheError> {
    let bytes = read_own(path)?;
    bytes.try_into().map_err(|_| CacheError::Forged { path: path.into() })
}

/// Makes the key. When several processes try, one of them wins and all use its key.
fn make_key(path: &Path) -> Result<(), CacheError> {
    let io = |source| CacheError::Io { path: path.into(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = create_new(&temporary).map_err(io)?;
    let made = file
        .write_all(&rand::random::<[u8; KEY_BYTES]>())
        .and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io(error)),
        _ => Ok(()),
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
