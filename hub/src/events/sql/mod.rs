//! Records in the Hub's own database: SQLite or PostgreSQL.

mod append;
mod audit;
mod disk;
mod partitions;
mod queue;
mod retain;
mod rollup;
mod search;
mod series;
mod streams;
mod tables;
#[cfg(test)]
mod tests;
mod traces;
mod usage;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::append::ReadBatch;
use self::disk::Disk;
use self::partitions::Partitions;
use self::queue::{Lane, Queue};
use self::series::KnownSeries;
use self::writer::{Job, Writer};
use super::{
    AppendError, AuditLine, AuditQuery, Batch, Choices, ClientUse, EventStore, Found, Gaps, Origin,
    Page, Records, ServerDetail, ServerUse, SessionKey, TraceDetail, TraceLine, TraceQuery,
    Waiting, lines,
};
use crate::db::{Database, DbError, Row};
use crate::id::{GatewayId, WorkspaceId};
use crate::spans::Spans;
use crate::wire::{Acknowledgement, SPANS_MAX, StreamState};

pub(crate) use self::disk::FreeSpace;

/// A batch whose last record is younger is of what happens now.
const RECENT_NS: i64 = 10 * 60 * 1_000_000_000;

/// Records of a small batch.
const SMALL_RECORDS: u64 = 100;

/// Batches of what happens now whose lines are read at the same time, and those of what happened long ago.
/// Small ones do not wait.
const READING_MAX: usize = 2;
const READING_OLD_MAX: usize = 1;

/// What a store of events is told.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The directory of the database's file, if it is one.
    pub(crate) directory: Option<PathBuf>,
    /// How much of its disk stays free.
    pub(crate) free: FreeSpace,
}

/// Records in a database.
#[derive(Debug)]
pub(crate) struct SqlEvents {
    database: Arc<dyn Database>,
    writer: Arc<Writer>,
    queue: Arc<Queue<Job>>,
    disk: Option<Disk>,
    reading: Arc<Semaphore>,
    reading_old: Arc<Semaphore>,
}

impl SqlEvents {
    /// Makes the tables of the next days, and starts the tasks that write. They end when this is dropped
    /// and what was taken is stored.
    pub(crate) async fn open(
        database: Arc<dyn Database>,
        options: Options,
        tasks: &TaskTracker,
    ) -> Result<Self, DbError> {
        let dialect = database.dialect();
        let partitions = Partitions::new(dialect);
        partitions.prepare_ahead(&*database).await;
        let queue = Arc::new(Queue::new(writer::portions(dialect)));
        let writer = Arc::new(Writer {
            database: Arc::clone(&database),
            queue: Arc::clone(&queue),
            known: KnownSeries::default(),
            partitions,
        });
        for _ in 0..writer::writers(dialect) {
            tasks.spawn(Arc::clone(&writer).run());
        }
        let disk = options.directory.map(|directory| Disk::new(directory, options.free));
        let reading = Arc::new(Semaphore::new(READING_MAX));
        let reading_old = Arc::new(Semaphore::new(READING_OLD_MAX));
        Ok(Self { database, writer, queue, disk, reading, reading_old })
    }

    async fn take(&self, origin: Origin, batch: Batch) -> Result<Acknowledgement, AppendError> {
        append::check(&batch.head)?;
        if let Some(disk) = &self.disk
            && !disk.has_room(&*self.database).await
        {
            return Err(AppendError::Full);
        }
        let (lane, count) = (lane(&batch), batch.head.count);
        let ticket = self.queue.admit(lane, count, batch.lines.len()).ok_or(AppendError::Full)?;
        let reading = match lane {
            Lane::Small => None,
            Lane::Recent => Some(&self.reading),
            Lane::Old => Some(&self.reading_old),
        };
        let permit = match reading {
            None => None,
            Some(reading) => Some(Arc::clone(reading).acquire_owned().await.map_err(stopped)?),
        };
        // What is read on after its client hung up keeps its permit.
        let batch = spawn_blocking(move || {
            let read = read(origin, batch);
            drop(permit);
            read
        });
        let batch = batch.await.map_err(stopped)??;
        let parts = match lane {
            Lane::Small | Lane::Recent => vec![batch],
            Lane::Old => self.parts(batch).await?,
        };
        let ticket = Arc::new(ticket);
        let mut stored = Acknowledgement { spans: Vec::new(), rejected: 0 };
        for batch in parts {
            let (reply, answer) = oneshot::channel();
            let (count, ticket) = (batch.head.count, Arc::clone(&ticket));
            self.queue.push(lane, count, Job { batch, reply, ticket });
            let acknowledgement = answer.await.map_err(stopped)??;
            stored.rejected += acknowledgement.rejected;
            stored.spans = acknowledgement.spans;
        }
        Ok(stored)
    }

    /// Returns the parts in which an old batch is stored, without those that are there already: whoever hung
    /// up in the middle gets further the next time.
    async fn parts(&self, batch: ReadBatch) -> Result<Vec<ReadBatch>, AppendError> {
        let part_max = writer::old_part(self.database.dialect());
        if batch.head.count <= part_max {
            return Ok(vec![batch]);
        }
        let (gateway, head) = (batch.origin.gateway, &batch.head);
        let known = streams::states(&*self.database, gateway, Some(&head.database)).await?;
        let known = known.into_iter().find(|state| state.kind == head.kind);
        let spans = known.map(|state| state.spans).unwrap_or_default();
        // Only as a whole it may close a gap, and not make one more.
        if spans.len() >= SPANS_MAX {
            return Ok(vec![batch]);
        }
        let spans: Spans = spans.into_iter().collect();
        let mut parts = batch.split(part_max);
        // One is left to be acknowledged.
        let last = parts.pop();
        parts.retain(|part| {
            !part.head.lost.is_empty() || spans.missing(part.run()).next().is_some()
        });
        parts.extend(last);
        Ok(parts)
    }
}

#[async_trait]
impl Records for SqlEvents {
    async fn traces(&self, workspace: WorkspaceId, query: &TraceQuery) -> Found<Page<TraceLine>> {
        traces::page(&*self.database, workspace, query).await
    }

    async fn trace(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<TraceDetail>> {
        traces::detail(&*self.database, workspace, id).await
    }

    async fn session(
        &self,
        workspace: WorkspaceId,
        of: &SessionKey,
        limit: u32,
    ) -> Found<Vec<TraceLine>> {
        traces::session(&*self.database, workspace, of, limit).await
    }

    async fn audit_events(
        &self,
        workspace: WorkspaceId,
        query: &AuditQuery,
    ) -> Found<Page<AuditLine>> {
        audit::page(&*self.database, workspace, query).await
    }

    async fn audit_event(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<AuditLine>> {
        audit::event(&*self.database, workspace, id).await
    }

    async fn choices(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Choices> {
        usage::choices(&*self.database, workspace, since_ns).await
    }

    async fn servers(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Vec<ServerUse>> {
        usage::servers(&*self.database, workspace, since_ns).await
    }

    async fn server(
        &self,
        workspace: WorkspaceId,
        upstream: &str,
        since_ns: i64,
    ) -> Found<Option<ServerDetail>> {
        usage::server(&*self.database, workspace, upstream, since_ns).await
    }

    async fn clients(&self, workspace: WorkspaceId, gateway: GatewayId) -> Found<Vec<ClientUse>> {
        usage::clients(&*self.database, workspace, gateway).await
    }

    async fn revision(&self, workspace: WorkspaceId) -> Found<i64> {
        streams::revision(&*self.database, workspace).await
    }
}

#[async_trait]
impl EventStore for SqlEvents {
    async fn append(&self, origin: Origin, batch: Batch) -> Result<Acknowledgement, AppendError> {
        self.take(origin, batch).await
    }

    fn waiting(&self) -> Vec<Waiting> {
        self.queue.waiting()
    }

    async fn streams(&self, gateway: GatewayId, database: Option<&str>) -> Found<Vec<StreamState>> {
        streams::states(&*self.database, gateway, database).await
    }

    async fn leave_out(&self, origin: Origin, before: &[StreamState]) -> Found<()> {
        streams::leave_out(&*self.database, origin, before).await
    }

    async fn retain(&self, traces_from_ns: i64, audit_from_ns: i64) -> Found<u64> {
        let partitions = &self.writer.partitions;
        partitions.prepare_ahead(&*self.database).await;
        let deleted =
            retain::too_old(&*self.database, partitions, traces_from_ns, audit_from_ns).await?;
        if deleted > 0 {
            self.writer.known.clear();
        }
        Ok(deleted)
    }

    async fn remove(&self, workspace: WorkspaceId) -> Found<u64> {
        retain::of_workspace(&*self.database, workspace).await
    }

    async fn verify(&self, gateway: GatewayId) -> Found<Vec<Gaps>> {
        streams::verify(&*self.database, gateway).await
    }
}

impl Drop for SqlEvents {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn lane(batch: &Batch) -> Lane {
    if batch.head.count <= SMALL_RECORDS {
        return Lane::Small;
    }
    let recent_from = batch.received_ms.saturating_mul(1_000_000).saturating_sub(RECENT_NS);
    match lines::last_ns(&batch.lines) {
        Some(at_ns) if at_ns >= recent_from => Lane::Recent,
        Some(_) | None => Lane::Old,
    }
}

fn read(origin: Origin, batch: Batch) -> Result<ReadBatch, AppendError> {
    let head = batch.head;
    if lines::split(&batch.lines).count() as u64 != head.count {
        let reason = "there are not as many lines as the head says";
        return Err(AppendError::Invalid { reason });
    }
    let lines = lines::read(head.kind, head.first, &batch.lines);
    Ok(ReadBatch { origin, head, lines, received_ms: batch.received_ms })
}

/// The program ends, or a task panicked, which was reported where it happened.
fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> AppendError {
    AppendError::Database(DbError::Unavailable { source: error.into() })
}

/// Returns the numbers in the first column.
fn row_ids(rows: &[Row]) -> Result<Vec<i64>, DbError> {
    rows.iter().map(|row| row.get(0)).collect()
}

/// Reads 16 bytes as an id.
fn uuid(row: &Row, column: usize) -> Result<Uuid, DbError> {
    let bytes: Vec<u8> = row.get(column)?;
    Uuid::from_slice(&bytes).map_err(|_| DbError::Column { column })
}
