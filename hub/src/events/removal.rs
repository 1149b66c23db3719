//! Deletes what there is of workspaces that were deleted, without being in anybody's way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{EventStore, Found};
use crate::clock::now_ms;
use crate::db::{Database, values};
use crate::error::chain;
use crate::id::WorkspaceId;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(60);

/// Between two deletions others have their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// Batches that were taken before may still be stored; after this time none is.
const LATE_MS: i64 = 3_600_000;

/// Looks for them every minute, until it is told to stop.
pub(crate) async fn run(
    database: Arc<dyn Database>,
    store: Arc<dyn EventStore>,
    stop: CancellationToken,
) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let done = once(&*database, &*store, now_ms());
        if let Some(Err(error)) = stop.run_until_cancelled(done).await {
            tracing::warn!(error = chain(&error), "cannot tell which workspaces were deleted");
        }
    }
}

/// Deletes all that there is now of all that were deleted.
pub(crate) async fn once(
    database: &dyn Database,
    store: &dyn EventStore,
    now_ms: i64,
) -> Found<()> {
    let sql = "SELECT workspace, removed_ms FROM removals ORDER BY removed_ms, workspace";
    for row in database.rows(sql, &[]).await? {
        let (workspace, removed_ms): (_, i64) = (row.get(0)?, row.get(1)?);
        let is_over = removed_ms < now_ms - LATE_MS;
        if let Err(error) = remove(database, store, workspace, is_over).await {
            // Others go all the same.
            tracing::warn!(error = chain(&error), %workspace, "records of a deleted workspace are left");
        }
    }
    Ok(())
}

async fn remove(
    database: &dyn Database,
    store: &dyn EventStore,
    workspace: WorkspaceId,
    is_over: bool,
) -> Found<()> {
    while store.remove(workspace).await? > 0 {
        sleep(PAUSE).await;
    }
    if is_over {
        let sql = "DELETE FROM removals WHERE workspace = $1";
        database.execute(sql, &values![workspace]).await?;
    }
    Ok(())
}
