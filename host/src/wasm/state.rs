//! Memory that all instances of a plugin share, bounded and forgetful.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What one plugin may keep, keys and overhead included.
const BYTES_MAX: usize = 1 << 20;

/// What an entry costs besides its key and value, about.
const ENTRY_BYTES: usize = 64;

/// The shared memory of one plugin.
#[derive(Default)]
pub(super) struct SharedState {
    // Held for a look-up at a time, never over a call into a plugin.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    bytes: usize,
}

struct Entry {
    value: Value,
    expires: Option<Instant>,
}

enum Value {
    Bytes(Vec<u8>),
    Counter(i64),
}

impl SharedState {
    /// Returns a value; a counter as 8 bytes, little end first.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = inner.entries.get(key).filter(|entry| !entry.expired(Instant::now()))?;
        Some(match &entry.value {
            Value::Bytes(bytes) => bytes.clone(),
            Value::Counter(count) => count.to_le_bytes().to_vec(),
        })
    }

    pub(super) fn put(&self, key: String, value: Vec<u8>, ttl_ms: u64) -> Result<(), String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.insert(key, Value::Bytes(value), ttl_ms, Instant::now())
    }

    pub(super) fn add(&self, key: String, delta: i64, ttl_ms: u64) -> Result<i64, String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match inner
            .entries
            .get_mut(&key)
            .filter(|entry| !entry.expired(now))
            .map(|entry| &mut entry.value)
        {
            Some(Value::Counter(count)) => {
                *count = count.saturating_add(delta);
                Ok(*count)
            }
            Some(Value::Bytes(_)) => Err(format!("`{key}` is not a counter")),
            None => inner.insert(key, Value::Counter(delta), ttl_ms, now).map(|()| delta),
        }
    }
}

impl Inner {
    fn insert(
        &mut self,
        key: String,
        value: Value,
        ttl_ms: u64,
        now: Instant,
    ) -> Result<(), String> {
        let bytes = cost(&key, &value);
        let freed = self.entries.get(&key).map_or(0, |entry| cost(&key, &entry.value));
        if self.bytes - freed + bytes > BYTES_MAX {
            self.entries.retain(|_, entry| !entry.expired(now));
            self.bytes = self.entries.iter().map(|(key, entry)| cost(key, &entry.value)).sum();
        }
        let freed = self.entries.get(&key).map_or(0, |entry| cost(&key, &entry.value));
        if self.bytes - freed + bytes > BYTES_MAX {
            return Err(format!("all {BYTES_MAX} bytes are in use"));
        }
        self.bytes = self.bytes - freed + bytes;
        // A time that no clock can tell is as good as never.
        let expires = Some(ttl_ms)
            .filter(|&ttl| ttl > 0)
            .and_then(|ttl| now.checked_add(Duration::from_millis(ttl)));
        self.entries.insert(key, Entry { value, expires });
        Ok(())
    }
}

impl Entry {
    fn expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn cost(key: &str, value: &Value) -> usize {
    let value_bytes = match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Counter(_) => 8,
    };
    ENTRY_BYTES + key.len() + value_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_bytes_are_not_counters() {
        let state = SharedState::default();

        assert_eq!(state.add("n".into(), 2, 0), Ok(2));
        assert_eq!(state.add("n".into(), -5, 0), Ok(-3));
        assert_eq!(state.get("n"), Some((-3_i64).to_le_bytes().to_vec()));
        state.put("b".into(), b"x".to_vec(), 0).unwrap();
        assert_eq!(state.add("b".into(), 1, 0), Err("`b` is not a counter".into()));
    }

    #[test]
    fn what_expired_is_gone_and_makes_room() {
        let state = SharedState::default();
        let now = Instant::now();
        let later = now + Duration::from_millis(10);
        {
            let mut inner = state.inner.lock().unwrap();
            inner.insert("old".into(), Value::Bytes(vec![0; 1_000_000]), 5, now).unwrap();
            assert!(inner.insert("new".into(), Value::Bytes(vec![0; 100_000]), 0, now).is_err());
            inner.insert("new".into(), Value::Bytes(vec![0; 100_000]), 0, later).unwrap();
        }

        assert_eq!(state.get("old"), None);
        assert_eq!(state.get("new").map(|value| value.len()), Some(100_000));
    }

    #[test]
    fn a_value_replaces_another_of_its_size_when_full() {
        let state = SharedState::default();
        state.put("a".into(), vec![0; 1_000_000], 0).unwrap();

        state.put("a".into(), vec![1; 1_000_000], 0).unwrap();

        assert!(state.put("b".into(), vec![0; 100_000], 0).is_err());
    }
}
