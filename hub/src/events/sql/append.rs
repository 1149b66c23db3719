//! One batch, within a transaction: what is not there yet is inserted, and the stream's set grows.

use std::collections::HashSet;

use super::rollup::Rollup;
use super::series::{GatewaySeries, KnownSeries, Place};
use super::streams::{self, Stream};
use super::tables;
use crate::db::{DbError, Transaction, Value, values};
use crate::events::labels::session_key;
use crate::events::lines::{Body, Lines, Record, Rejected};
use crate::events::{AppendError, Origin};
use crate::spans::Spans;
use crate::wire::{Acknowledgement, BatchHead, RecordKind, SPANS_MAX, Span};

/// A batch whose lines were read.
#[derive(Debug)]
pub(super) struct ReadBatch {
    pub(super) origin: Origin,
    pub(super) head: BatchHead,
    pub(super) lines: Lines,
    pub(super) received_ms: i64,
}

impl ReadBatch {
    /// Returns the numbers of its records.
    pub(super) fn run(&self) -> Span {
        (self.head.first, self.head.first + self.head.count as i64 - 1)
    }

    /// Splits it into batches of at most so many records, the first one first. What is lost goes with that.
    pub(super) fn split(mut self, records_max: u64) -> Vec<Self> {
        let mut parts = Vec::new();
        while self.head.count > records_max {
            let first = self.head.first + records_max as i64;
            let records = self.lines.records.partition_point(|record| record.seq < first);
            let rejected = self.lines.rejected.partition_point(|rejected| rejected.seq < first);
            let lines = Lines {
                records: self.lines.records.split_off(records),
                rejected: self.lines.rejected.split_off(rejected),
            };
            let mut head = BatchHead { first, lost: Vec::new(), ..self.head.clone() };
            head.count -= records_max;
            self.head.count = records_max;
            let rest = Self { head, lines, ..self };
            parts.push(std::mem::replace(&mut self, rest));
        }
        parts.push(self);
        parts
    }
}

/// What became of a batch, once its transaction is committed.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) acknowledgement: Acknowledgement,
    /// To be remembered then.
    pub(super) series: Option<GatewaySeries>,
}

/// Refuses a head that makes no sense.
pub(super) fn check(head: &BatchHead) -> Result<(), AppendError> {
    let invalid = |reason| Err(AppendError::Invalid { reason });
    if !streams::is_database_id(&head.database) {
        return invalid("`database` is not 32 hex digits");
    }
    if head.first < 1 {
        return invalid("`first` is less than 1");
    }
    if head.count > crate::wire::BATCH_RECORDS_MAX {
        return invalid("`count` is more than 1000");
    }
    if head.first.checked_add(head.count as i64).is_none() {
        return invalid("`first` is too great");
    }
    if head.lost.len() > SPANS_MAX {
        return invalid("`lost` has more than 1000 runs");
    }
    if head.lost.iter().any(|(first, last)| *first < 1 || first > last) {
        return invalid("a run of `lost` begins below 1, or ends before it begins");
    }
    Ok(())
}

/// Stores what of a batch is not there yet. Does not commit.
pub(super) async fn store(
    transaction: &mut dyn Transaction,
    for_update: &str,
    known: &KnownSeries,
    batch: &mut ReadBatch,
) -> Result<Stored, AppendError> {
    let (origin, head) = (batch.origin, &batch.head);
    let stream = streams::lock(transaction, for_update, origin, head).await?;
    let mut stream = stream.ok_or(AppendError::Invalid {
        reason: "the gateway has sent records of too many databases; link it anew",
    })?;
    let run = batch.run();
    let missing: Vec<_> = stream.spans.missing(run).collect();
    let lost: Spans = head.lost.iter().flat_map(|span| stream.spans.missing(*span)).collect();
    if missing.is_empty() && lost.is_empty() {
        return Ok(Stored { acknowledgement: acknowledge(stream.spans, 0), series: None });
    }
    extend(&mut stream, run, lost)?;

    let lines = std::mem::take(&mut batch.lines);
    let is_missing = |seq| missing.iter().any(|(first, last)| (*first..=*last).contains(&seq));
    let records = lines.records.into_iter().filter(|record| is_missing(record.seq));
    let mut rejected: Vec<_> =
        lines.rejected.into_iter().filter(|rejected| is_missing(rejected.seq)).collect();
    let mut series = known.of(transaction, origin).await?;
    let mut placed = Vec::with_capacity(head.count as usize);
    for mut record in records {
        match series.place(&mut record.labels) {
            Some(place) => placed.push((record, place)),
            None => rejected.push(Rejected {
                seq: record.seq,
                reason: "the gateway has too many different servers and operations".to_owned(),
                line: String::new(),
            }),
        }
    }
    let records = insert(transaction, batch, placed).await?;
    sum_up(transaction, origin, &records).await?;
    let refused = rejected.len() as u64;
    reject(transaction, batch, &stream, rejected).await?;
    streams::save(transaction, origin.gateway, &batch.head, &stream, refused, batch.received_ms)
        .await?;
    Ok(Stored { acknowledgement: acknowledge(stream.spans, refused), series: Some(series) })
}

fn acknowledge(spans: Spans, rejected: u64) -> Acknowledgement {
    Acknowledgement { spans: spans.into_vec(), rejected }
}

/// Adds what came and what will never come to what the stream has.
fn extend(stream: &mut Stream, run: (i64, i64), lost: Spans) -> Result<(), AppendError> {
    let mut spans = stream.spans.clone();
    spans.add(run);
    for span in lost.into_vec() {
        spans.add(span);
        stream.lost.add(span);
    }
    if spans.len() > SPANS_MAX && spans.len() > stream.spans.len() {
        return Err(AppendError::GapsFirst { spans: stream.spans.as_slice().to_vec() });
    }
    stream.spans = spans;
    // What was lost may be scattered in what was not. Nobody looks at more than this.
    let mut lost = std::mem::take(&mut stream.lost).into_vec();
    lost.drain(..lost.len().saturating_sub(SPANS_MAX));
    stream.lost = lost.into_iter().collect();
    Ok(())
}

/// Inserts records; returns those that were not there.
async fn insert(
    transaction: &mut dyn Transaction,
    batch: &ReadBatch,
    mut placed: Vec<(Record, Place)>,
) -> Result<Vec<(Record, Place)>, DbError> {
    let table = match batch.head.kind {
        RecordKind::Traces => &tables::TRACES,
        RecordKind::Audit => &tables::AUDIT_EVENTS,
    };
    // In the order of their key, as the table has them.
    placed.sort_by_key(|(record, _)| (record.at_ns, record.id));
    let mut keys = SessionKeys::default();
    let rows = placed.iter_mut().map(|(record, place)| row(batch, record, *place, &mut keys));
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(placed);
    }
    let new = transaction.insert_new(table, &tables::RECORD_KEY, rows).await?;
    let mut new = new.into_iter();
    placed.retain(|_| new.next().unwrap_or_default());
    let details: Vec<_> =
        placed.iter_mut().filter_map(|(record, _)| details(batch.origin, record)).collect();
    if !details.is_empty() {
        transaction.insert(&tables::TRACE_DETAILS, details).await?;
    }
    Ok(placed)
}

/// Sessions of a batch are few, and each has many records.
#[derive(Default)]
struct SessionKeys(std::collections::HashMap<String, i64>);

impl SessionKeys {
    fn of(&mut self, session: Option<&String>) -> i64 {
        let Some(session) = session else { return 0 };
        if let Some(key) = self.0.get(session) {
            return *key;
        }
        let key = session_key(session);
        self.0.insert(session.clone(), key);
        key
    }
}

fn row(batch: &ReadBatch, record: &mut Record, place: Place, keys: &mut SessionKeys) -> Vec<Value> {
    let session_key = keys.of(record.session.as_ref());
    let name = record.labels.name.as_ref().filter(|_| !place.named);
    let first = values![
        batch.origin.workspace,
        record.at_ns,
        record.id.into_bytes(),
        place.series,
        session_key,
        record.session.take(),
        name,
    ];
    let reason = record.reason.take();
    let last: Vec<Value> = match &mut record.body {
        Body::Trace(call) => {
            let trace_id = record.trace_id.unwrap_or_default();
            let (request, response) = (call.request_bytes, call.response_bytes);
            values![trace_id, reason, call.duration_ns, request, response, batch.received_ms].into()
        }
        Body::Audit { details } => {
            let details = std::mem::take(details);
            values![record.trace_id.map(Vec::from), reason, details, batch.received_ms].into()
        }
    };
    first.into_iter().chain(last).collect()
}

fn details(origin: Origin, record: &mut Record) -> Option<Vec<Value>> {
    let Body::Trace(call) = &mut record.body else { return None };
    Some(
        values![
            origin.workspace,
            record.id.into_bytes(),
            record.at_ns,
            call.span_id,
            call.parent_span_id,
            std::mem::take(&mut call.payload),
        ]
        .into(),
    )
}

async fn sum_up(
    transaction: &mut dyn Transaction,
    origin: Origin,
    records: &[(Record, Place)],
) -> Result<(), DbError> {
    let mut rollup = Rollup::default();
    for (record, place) in records {
        rollup.add(record, *place);
    }
    let added = [
        (&tables::SERIES, rollup.series_rows(origin)),
        (&tables::GATEWAY_USAGE, rollup.gateway_rows(origin)),
        // Last: gateways share these rows, and wait for each other from here to the commit.
        (&tables::TOOL_USAGE, rollup.tool_rows(origin)),
    ];
    for (table, rows) in added {
        if !rows.is_empty() {
            transaction.insert(table, rows).await?;
        }
    }
    Ok(())
}

/// Keeps what could not be read: the first of each stream.
async fn reject(
    transaction: &mut dyn Transaction,
    batch: &ReadBatch,
    stream: &Stream,
    rejected: Vec<Rejected>,
) -> Result<(), DbError> {
    let room = (tables::REJECTED_MAX - stream.rejected).max(0) as usize;
    let (origin, head) = (batch.origin, &batch.head);
    let mut seen = HashSet::new();
    let rows = rejected.into_iter().filter(|rejected| seen.insert(rejected.seq)).take(room);
    let row = |rejected: Rejected| {
        values![
            origin.workspace,
            origin.gateway,
            &head.database,
            head.kind.as_str(),
            rejected.seq,
            rejected.reason,
            rejected.line,
            batch.received_ms,
        ]
        .into()
    };
    let rows: Vec<Vec<Value>> = rows.map(row).collect();
    if !rows.is_empty() {
        transaction.insert(&tables::REJECTED, rows).await?;
    }
    Ok(())
}
