//! The cache against corruption, forgery and careless permissions.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/trace.wasm"));

struct Setup {
    home: TempDir,
    engine: Engine,
    cache: Cache,
    name: String,
}

impl Setup {
    /// Opens a cache with one compiled component in it.
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let cache = open(&home).unwrap();
        let engine = Engine::new(&crate::wasm::config()).unwrap();
        let name = Cache::name(&digest(COMPONENT), &engine);
        cache.store(&name, &Component::from_binary(&engine, COMPONENT).unwrap()).unwrap();
        Self { home, engine, cache, name }
    }

    fn load(&self) -> Result<Option<Component>, CacheError> {
        self.cache.load(&self.engine, &self.name)
    }

    fn file(&self) -> PathBuf {
        self.cache.path(&self.name)
    }
}

fn open(home: &TempDir) -> Result<Cache, CacheError> {
    Cache::open(&home.path().join("cache"), &home.path().join("data/key"))
}

#[test]
fn what_was_stored_is_loaded_again_by_the_next_process() {
    let setup = Setup::new();

    let next = open(&setup.home).unwrap();

    assert!(next.load(&setup.engine, &setup.name).unwrap().is_some());
    assert!(next.load(&setup.engine, &"0".repeat(64)).unwrap().is_none());
    let left: Vec<_> = fs::read_dir(&setup.cache.directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, [setup.file().file_name().unwrap()], "no temporary file stays");
}

/// The engine itself accepts nearly all of these.
#[test]
fn a_flipped_bit_anywhere_is_found() {
    let setup = Setup::new();
    let good = fs::read(setup.file()).unwrap();
    let step = (good.len() / 500).max(1);

    for position in
        (0..good.len()).step_by(step).chain(0..TAG_BYTES).chain(good.len() - 64..good.len())
    {
        let mut bad = good.clone();
        bad[position] ^= 1 << (position % 8);
        fs::write(setup.file(), &bad).unwrap();
        assert!(matches!(setup.load(), Err(CacheError::Forged { .. })), "byte {position}");
    }
    for length in [0, 1, TAG_BYTES, good.len() - 1] {
        fs::write(setup.file(), &good[..length]).unwrap();
        assert!(matches!(setup.load(), Err(CacheError::Forged { .. })), "length {length}");
    }
    fs::write(setup.file(), &good).unwrap();
    assert!(setup.load().unwrap().is_some());
}

#[test]
fn code_of_another_component_or_under_another_key_is_found() {
    let setup = Setup::new();
    let other = "f".repeat(64);
    fs::copy(setup.file(), setup.cache.path(&other)).unwrap();

    assert!(matches!(setup.cache.load(&setup.engine, &other), Err(CacheError::Forged { .. })));
    fs::remove_file(setup.home.path().join("data/key")).unwrap();
    let rekeyed = open(&setup.home).unwrap();
    assert!(matches!(rekeyed.load(&setup.engine, &setup.name), Err(CacheError::Forged { .. })));
}

#[test]
fn what_others_may_write_or_redirect_is_not_used() {
    let setup = Setup::new();
    let key = setup.home.path().join("data/key");
    let aside = setup.home.path().join("aside");

    fs::set_permissions(setup.file(), Permissions::from_mode(0o620)).unwrap();
    assert!(matches!(setup.load(), Err(CacheError::Untrusted { .. })));
    fs::set_permissions(setup.file(), Permissions::from_mode(0o600)).unwrap();
    fs::rename(setup.file(), &aside).unwrap();
    symlink(&aside, setup.file()).unwrap();
    assert!(matches!(setup.load(), Err(CacheError::Untrusted { .. })));

    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(open(&setup.home), Err(CacheError::Untrusted { .. })));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&setup.cache.directory, Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(open(&setup.home), Err(CacheError::Untrusted { .. })));
}

#[test]
fn a_short_key_is_refused_rather_than_replaced() {
    let home = TempDir::new().unwrap();
    open(&home).unwrap();
    fs::write(home.path().join("data/key"), b"short").unwrap();

    assert!(matches!(open(&home), Err(CacheError::Forged { .. })));
}
