//! Whether a plugin is fit to run: one that fails again and again rests for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, info};

use crate::pipeline::StageError;

/// So many failures within [`WINDOW`] send a plugin to rest: each costs a new instance and up to 20 ms.
const FAILURES_MAX: usize = 5;

/// See [`FAILURES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// A plugin rests this long before one call is tried on it again.
const REST: Duration = Duration::from_secs(60);

/// How a plugin is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Plugin id.
    pub id: String,
    /// Hooks that failed since the gateway started.
    pub failures: u64,
    /// Why the last one did.
    pub last_failure: Option<String>,
    /// It rests after too many failures.
    pub quarantined: bool,
}

/// The failures of one plugin.
#[derive(Default)]
pub(super) struct Record {
    /// Spares the lock while all is well.
    rests: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    recent: VecDeque<Instant>,
    total: u64,
    last: Option<String>,
    /// While it rests: when the next call is tried on it.
    until: Option<Instant>,
}

/// Leave to run a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// All is well.
    Normal,
    /// It has rested; how it does now decides.
    Probe,
}

impl Record {
    /// Gives leave to run a hook, unless the plugin rests.
    pub(super) fn leave(&self) -> Result<Leave, StageError> {
        if self.rests.load(Ordering::Relaxed) {
            self.probe(Instant::now())
        } else {
            Ok(Leave::Normal)
        }
    }

    fn probe(&self, now: Instant) -> Result<Leave, StageError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.until {
            None => Ok(Leave::Normal),
            Some(until) if until > now => {
                Err(StageError::Quarantined { failures: inner.recent.len() as u32 })
            }
            Some(_) => {
                inner.until = Some(now + REST);
                Ok(Leave::Probe)
            }
        }
    }

    /// Notes that a probe went well.
    pub(super) fn recovered(&self, plugin: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.until = None;
        inner.recent.clear();
        self.rests.store(false, Ordering::Relaxed);
        info!(plugin.id = plugin, "interceptor `{plugin}` is back");
    }

    /// Notes a failure. Returns whether the plugin now rests.
    pub(super) fn failed(&self, plugin: &str, reason: &StageError) -> bool {
        self.failed_at(plugin, reason, Instant::now())
    }

    fn failed_at(&self, plugin: &str, reason: &StageError, now: Instant) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total += 1;
        inner.last = Some(reason.to_string());
        inner.recent.push_back(now);
        while inner.recent.front().is_some_and(|&at| now - at > WINDOW)
            || inner.recent.len() > FAILURES_MAX
        {
            inner.recent.pop_front();
        }
        if inner.until.is_none() && inner.recent.len() == FAILURES_MAX {
            inner.until = Some(now + REST);
            self.rests.store(true, Ordering::Relaxed);
            error!(
                plugin.id = plugin,
                failures = FAILURES_MAX,
                rest_s = REST.as_secs(),
                "interceptor `{plugin}` rests for {} s after {FAILURES_MAX} failures, the last: {reason}",
                REST.as_secs(),
            );
        }
        inner.until.is_some()
    }

    pub(super) fn health(&self, plugin: &str) -> Health {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Health {
            id: plugin.into(),
            failures: inner.total,
            last_failure: inner.last.clone(),
            quarantined: inner.until.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantined() -> (Record, Instant) {
        let record = Record::default();
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            record.failed_at("p", &StageError::NoOutcome, now);
        }
        (record, now)
    }

    #[test]
    fn failures_far_apart_are_borne() {
        let record = Record::default();
        let now = Instant::now();

        for i in 0..20 {
            assert!(!record.failed_at(
                "p",
                &StageError::NoOutcome,
                now + Duration::from_secs(16) * i
            ));
        }

        assert_eq!(record.leave().unwrap(), Leave::Normal);
        assert_eq!(record.health("p").failures, 20);
    }

    #[test]
    fn after_the_rest_one_call_is_tried() {
        let (record, now) = quarantined();
        let later = now + REST;

        assert!(matches!(record.leave(), Err(StageError::Quarantined { failures: 5 })));
        assert_eq!(record.probe(later).unwrap(), Leave::Probe);
        assert!(record.probe(later).is_err(), "one call at a time");
        record.recovered("p");

        assert_eq!(record.leave().unwrap(), Leave::Normal);
        assert!(!record.health("p").quarantined);
    }

    #[test]
    fn a_failed_probe_rests_on() {
        let (record, now) = quarantined();
        let later = now + REST;

        record.probe(later).unwrap();

        assert!(record.failed_at("p", &StageError::NoOutcome, later));
        assert!(record.probe(later + REST / 2).is_err());
        assert_eq!(record.probe(later + REST).unwrap(), Leave::Probe);
    }
}
