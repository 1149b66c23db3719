//! Deletes what is too old, now and then, without being in anybody's way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

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
    pub(crate) audit: Duration,
}

/// Deletes what is too old, every hour, until it is told to stop.
pub(crate) async fn run(store: Arc<dyn EventStore>, ages: Ages, stop: CancellationToken) {
    while stop.run_until_cancelled(once(&*store, ages)).await.is_some()
        && stop.run_until_cancelled(sleep(PERIOD)).await.is_some()
    {}
}

/// Deletes all that is too old; returns how many rows.
pub(crate) async fn once(store: &dyn EventStore, ages: Ages) -> u64 {
    let (traces_from_ns, audit_from_ns) = (before_now_ns(ages.traces), before_now_ns(ages.audit));
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
