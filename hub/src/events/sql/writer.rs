//! Takes batches from the queue and stores them: in SQLite several in one transaction, in PostgreSQL several
//! transactions at the same time.
//!
//! A task of its own does it: a client that hangs up in the middle undoes nothing.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::append::{self, ReadBatch, Stored};
use super::partitions::Partitions;
use super::queue::{Portions, Queue, Ticket};
use super::series::KnownSeries;
use crate::db::{Database, DbError, Dialect};
use crate::error::chain;
use crate::events::AppendError;
use crate::wire::{Acknowledgement, BATCH_RECORDS_MAX};

/// A batch on its way to the database.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: ReadBatch,
    pub(super) reply: oneshot::Sender<Result<Acknowledgement, AppendError>>,
    /// Held until the reply is sent.
    pub(super) ticket: Arc<Ticket<Self>>,
}

/// What a writer works with.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) database: Arc<dyn Database>,
    pub(super) queue: Arc<Queue<Job>>,
    pub(super) known: KnownSeries,
    pub(super) partitions: Partitions,
}

/// Returns how many writers there are.
pub(super) fn writers(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite => 1,
        // Connections are for reading too.
        Dialect::Postgres => 6,
    }
}

/// Returns what a writer takes at a time.
pub(super) fn portions(dialect: Dialect) -> Portions {
    match dialect {
        // A tenth of a second or so: whoever comes while it is stored waits.
        // An old group is a part of a batch only: so every second one.
        Dialect::Sqlite => {
            Portions { batches_max: 64, records_max: 2000, large_groups_max: 1, old_turn: 2 }
        }
        Dialect::Postgres => {
            Portions { batches_max: 1, records_max: 1, large_groups_max: 4, old_turn: 8 }
        }
    }
}

/// Returns how many records of an old batch are stored at a time: whoever comes meanwhile waits for them.
pub(super) fn old_part(dialect: Dialect) -> u64 {
    match dialect {
        Dialect::Sqlite => 100,
        // Nobody waits.
        Dialect::Postgres => BATCH_RECORDS_MAX,
    }
}

impl Writer {
    /// Stores batches until the queue is closed and empty.
    pub(super) async fn run(self: Arc<Self>) {
        while let Some(mut group) = self.queue.take().await {
            let jobs = std::mem::take(&mut group.jobs);
            self.store(jobs).await;
        }
    }

    async fn store(&self, mut jobs: Vec<Job>) {
        for job in &jobs {
            let records = &job.batch.lines.records;
            let times = records.iter().map(|record| record.at_ns);
            self.partitions.prepare(&*self.database, job.batch.head.kind, times).await;
        }
        let batches: Vec<_> = jobs.iter_mut().map(|job| &mut job.batch).collect();
        match self.transaction(batches).await {
            Ok(outcomes) => {
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    self.answer(job, outcome);
                }
            }
            Err(error) => {
                let text = chain(&error);
                for job in jobs {
                    let source = text.clone().into();
                    self.answer(job, Err(DbError::Unavailable { source }.into()));
                }
            }
        }
    }

    /// Stores batches in one transaction. Each has its own outcome, but for the commit.
    async fn transaction(
        &self,
        batches: Vec<&mut ReadBatch>,
    ) -> Result<Vec<Result<Stored, AppendError>>, DbError> {
        let for_update = self.database.dialect().for_update();
        let mut transaction = self.database.begin().await?;
        let alone = batches.len() == 1;
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            if !alone {
                transaction.batch("SAVEPOINT one").await?;
            }
            let outcome = append::store(&mut *transaction, for_update, &self.known, batch).await;
            match &outcome {
                Ok(_) if !alone => transaction.batch("RELEASE one").await?,
                Err(_) if !alone => transaction.batch("ROLLBACK TO one; RELEASE one").await?,
                // Dropping the transaction undoes it.
                Err(AppendError::Database(_)) => return Ok(vec![outcome]),
                // Nothing was inserted.
                Ok(_) | Err(_) => {}
            }
            outcomes.push(outcome);
        }
        transaction.commit().await?;
        Ok(outcomes)
    }

    fn answer(&self, job: Job, outcome: Result<Stored, AppendError>) {
        let outcome = outcome.map(|stored| {
            if let Some(series) = stored.series {
                self.known.keep(series);
            }
            stored.acknowledgement
        });
        drop(job.ticket);
        // Whoever asked may be gone.
        let _ = job.reply.send(outcome);
    }
}
