//! Deletes what is too old, now and then, without being in anybody's way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::EventStore;

/// How often it looks. Days also get their tables then, so this must be shorter than a day.
const PERIOD: Duration = Duration::from_secs(3600);

/// Between two deletions others have their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// After a failure: somebody reads what is to go, or the database is away.
const RETRY: Duration = Duration::from_secs(5);

/// So often in a row; then it waits for the next time.
const FAILURES_MAX: u32 = 60;

/// How long records are kept, counted from when they happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    pub(crate) traces: Duration,
    pub(crate) audit_events: Duration,
}

/// Deletes what is too old, every hour. It may be dropped at any time.
pub(crate) async fn keep(store: Arc<dyn EventStore>, ages: Ages) {
    loop {
        once(&*store, ages).await;
        sleep(PERIOD).await;
    }
}

/// Deletes all that is too old; returns how many rows.
pub(crate) async fn once(store: &dyn EventStore, ages: Ages) -> u64 {
    let (traces_from_ns, audit_from_ns) =
        (before_now_ns(ages.traces), before_now_ns(ages.audit_events));
    let (mut deleted, mut failures) = (0, 0);
    loop {
        match store.retain(traces_from_ns, audit_from_ns).await {
            Ok(0) => return deleted,
            Ok(rows) => {
                deleted += rows;
                failures = 0;
                sleep(PAUSE).await;
            }
            Err(error) => {
                failures += 1;
                let error = &error as &dyn std::error::Error;
                if failures == FAILURES_MAX {
                    tracing::warn!(error, "what is too old could not be deleted");
                    return deleted;
                }
                sleep(RETRY).await;
            }
        }
    }
}

fn before_now_ns(age: Duration) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let from = now.unwrap_or_default().saturating_sub(age);
    i64::try_from(from.as_nanos()).unwrap_or(i64::MAX)
}
