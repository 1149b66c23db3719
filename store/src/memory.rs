//! A store that lasts as long as the process.
//!
//! Keeps records as they came: redacting and cutting wait until somebody reads them, which is rare,
//! so that storing is a lock and a push.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;

use crate::filter::{
    AuditFilter, AuditRow, Mark, MetricFilter, MetricRow, Numbers, Run, TraceFilter, TraceRow,
};
use crate::metrics::{self, Figures};
use crate::record::{AuditEvent, MetricDelta, Record, Trace, UpstreamStatus};
use crate::redact::Redactor;
use crate::stored::{self, Keeping};
use crate::{Durable, HELD_FACTOR, Health, Reader, Store, StoreError};

/// What a [`MemoryStore`] keeps. The oldest make room for the newest.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Traces.
    pub traces_max: usize,
    /// Payloads of all traces together, before they are cut.
    pub payloads_bytes_max: usize,
    /// Audit events.
    pub audit_events_max: usize,
    /// Metrics: figures of an instrument and tool for a minute.
    pub figures_max: usize,
    /// Longer payloads are shown as a string with their beginning. None is shown with 0.
    pub payload_bytes_max: usize,
    /// Takes secrets out of what is shown.
    pub redactor: Redactor,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            traces_max: 10_000,
            payloads_bytes_max: 64 * 1024 * 1024,
            audit_events_max: 10_000,
            figures_max: 10_000,
            payload_bytes_max: 64 * 1024,
            redactor: Redactor::default(),
        }
    }
}

/// Catalogs remembered per upstream: a few configurations between which somebody switches.
pub(crate) const CATALOGS_PER_UPSTREAM: usize = 8;

/// A store that lasts as long as the process.
pub struct MemoryStore {
    state: Mutex<State>,
    keeping: Keeping,
    limits: MemoryOptions,
    refuse_audit: AtomicBool,
}

#[derive(Default)]
struct State {
    traces: VecDeque<Box<Trace>>,
    /// Of the traces kept.
    payload_bytes: usize,
    /// Stored so far; the last one's `seq`.
    traces_seq: i64,
    audit_events: VecDeque<Box<AuditEvent>>,
    audit_seq: i64,
    figures: Figures,
    upstreams: BTreeMap<(String, u32), UpstreamStatus>,
    /// Per upstream, the newest last.
    catalogs: BTreeMap<String, VecDeque<(String, Bytes)>>,
    /// Nothing before somebody asked for it.
    database_id: Option<String>,
    /// From where on records wait to be sent.
    unsent: Option<Mark>,
}

impl State {
    /// Returns how many records may stay if their last number is `last` and `rows_max` would.
    fn kept_max(rows_max: usize, last: i64, unsent: Option<i64>) -> usize {
        let Some(unsent) = unsent else { return rows_max };
        let waiting = usize::try_from(last - unsent + 1).unwrap_or(0);
        waiting.clamp(rows_max, rows_max.saturating_mul(HELD_FACTOR))
    }
}

fn payload_bytes(trace: &Trace) -> usize {
    let bytes = |payload: &Option<Bytes>| payload.as_ref().map_or(0, Bytes::len);
    bytes(&trace.request) + bytes(&trace.response)
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(options: MemoryOptions) -> Self {
        let keeping = Keeping {
            redactor: options.redactor.clone(),
            payload_bytes_max: options.payload_bytes_max,
        };
        Self {
            state: Mutex::default(),
            keeping,
            limits: options,
            refuse_audit: AtomicBool::new(false),
        }
    }

    /// A fault switch for tests: while it is on, every audit event is refused, as by a full disk.
    pub fn refuse_audit(&self, refuse: bool) {
        self.refuse_audit.store(refuse, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_trace(&self, trace: Box<Trace>) {
        let mut state = self.state();
        state.payload_bytes += payload_bytes(&trace);
        state.traces_seq += 1;
        state.traces.push_back(trace);
        let unsent = state.unsent.map(|unsent| unsent.trace);
        let traces_max = State::kept_max(self.limits.traces_max, state.traces_seq, unsent);
        let mut outdated = Vec::new();
        while state.traces.len() > traces_max
            || (state.payload_bytes > self.limits.payloads_bytes_max && state.traces.len() > 1)
        {
            let Some(oldest) = state.traces.pop_front() else { break };
            state.payload_bytes -= payload_bytes(&oldest);
            outdated.push(oldest);
        }
        drop(state);
        // Freed without the lock: as a rule there is one.
        drop(outdated);
    }

    fn push_audit(&self, event: Box<AuditEvent>) {
        let mut state = self.state();
        state.audit_seq += 1;
        state.audit_events.push_back(event);
        let unsent = state.unsent.map(|unsent| unsent.audit_event);
        let events_max = State::kept_max(self.limits.audit_events_max, state.audit_seq, unsent);
        let outdated: Vec<_> = {
            let surplus = state.audit_events.len().saturating_sub(events_max);
            state.audit_events.drain(..surplus).collect()
        };
        drop(state);
        drop(outdated);
    }

    fn trace_row(&self, seq: i64, trace: &Trace) -> TraceRow {
        let text = self.keeping.trace(trace);
        let bytes = |payload: &Option<Bytes>| payload.as_ref().map_or(0, Bytes::len) as u64;
        TraceRow {
            seq,
            id: trace.id.to_string(),
            trace_id: stored::trace_id_hex(trace.trace_id),
            span_id: stored::span_id_hex(trace.span_id),
            parent_span_id: trace.parent_span_id.map(stored::span_id_hex),
            operation: trace.operation.to_owned(),
            method: trace.method.to_string(),
            upstream: trace.upstream.as_deref().map(str::to_owned),
            name: text.name.map(Into::into),
            request: text.request.map(|json| stored::raw_json(json.into_owned())),
            response: text.response.map(|json| stored::raw_json(json.into_owned())),
            request_bytes: bytes(&trace.request),
            response_bytes: bytes(&trace.response),
            status: trace.status,
            error: text.error.map(Into::into),
            duration: trace.duration_ns,
            timestamp: stored::timestamp(trace.started_unix_ns),
            principal: trace.principal.to_string(),
            session_id: trace.session_id.to_string(),
            metadata: stored::raw_json(text.metadata.into_owned()),
        }
    }

    fn audit_row(&self, seq: i64, event: &AuditEvent) -> AuditRow {
        let text = self.keeping.audit(event);
        AuditRow {
            seq,
            id: event.id.to_string(),
            trace_id: event.trace_id.map(stored::trace_id_hex),
            event_type: event.event_type.to_owned(),
            severity: event.severity,
            upstream: event.upstream.as_deref().map(str::to_owned),
            action: text.action.map(Into::into),
            principal: event.principal.to_string(),
            session_id: event.session_id.as_deref().map(str::to_owned),
            outcome: event.outcome,
            reason: text.reason.map(Into::into),
            details: stored::raw_json(text.details.into_owned()),
            timestamp: stored::timestamp(event.unix_ns),
        }
    }
}

impl fmt::Debug for MemoryStore {
    /// Shows nothing of what is kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, value: Option<&T>) -> bool {
    wanted.is_none_or(|wanted| value == Some(wanted))
}

fn within(since: Option<i64>, until: Option<i64>, time: i64) -> bool {
    since.is_none_or(|since| time >= since) && until.is_none_or(|until| time < until)
}

fn trace_matches(filter: &TraceFilter, trace: &Trace) -> bool {
    let has_id = |id: &String| {
        stored::parse_id(id).is_some_and(|id| id == trace.trace_id || id == trace.id.as_u128())
    };
    is(filter.upstream.as_deref(), trace.upstream.as_deref())
        && is(filter.name.as_deref(), trace.name.as_deref())
        && is(filter.operation.as_deref(), Some(trace.operation))
        && is(filter.status.as_ref(), Some(&trace.status))
        && filter.id.as_ref().is_none_or(has_id)
        && is(filter.principal.as_deref(), Some(&*trace.principal))
        && is(filter.session_id.as_deref(), Some(&*trace.session_id))
        && within(filter.since_unix_ns, filter.until_unix_ns, trace.started_unix_ns)
}

fn audit_matches(filter: &AuditFilter, event: &AuditEvent) -> bool {
    let has_id = |id: &String| stored::parse_id(id) == Some(event.id.as_u128());
    is(filter.upstream.as_deref(), event.upstream.as_deref())
        && is(filter.name.as_deref(), event.action.as_deref())
        && is(filter.event_type.as_deref(), Some(event.event_type))
        && is(filter.outcome.as_ref(), Some(&event.outcome))
        && is(filter.severity.as_ref(), Some(&event.severity))
        && filter.id.as_ref().is_none_or(has_id)
        && is(filter.principal.as_deref(), Some(&*event.principal))
        && is(filter.session_id.as_deref(), event.session_id.as_deref())
        && within(filter.since_unix_ns, filter.until_unix_ns, event.unix_ns)
}

/// Returns copies of the entries that match, newest first, each with its number.
///
/// Copies are cheap: text and payloads are shared. The lock is free again before they are redacted.
fn select<T: Clone>(
    entries: &VecDeque<T>,
    last_seq: i64,
    (after_seq, before_seq): (Option<i64>, Option<i64>),
    limit: usize,
    matches: impl Fn(&T) -> bool,
) -> Vec<(i64, T)> {
    let first_seq = last_seq + 1 - i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let matches =
        |(seq, entry): &(i64, &T)| before_seq.is_none_or(|before| *seq < before) && matches(entry);
    let numbered = (first_seq..).zip(entries).filter(matches);
    let copy = |(seq, entry): (i64, &T)| (seq, entry.clone());
    if let Some(after) = after_seq {
        let mut first: Vec<_> =
            numbered.filter(|(seq, _)| *seq > after).take(limit).map(copy).collect();
        first.reverse();
        return first;
    }
    let newest = (first_seq..=last_seq).rev().zip(entries.iter().rev());
    newest.filter(matches).take(limit).map(copy).collect()
}

/// Returns the first and the last number of `len` records of which the last one is `last`.
fn range(len: usize, last: i64) -> Option<(i64, i64)> {
    let first = last + 1 - i64::try_from(len).unwrap_or(i64::MAX);
    (len > 0).then_some((first, last))
}

/// Returns copies of the entries of a run, each with its number.
fn run_of<T: Clone>(
    entries: &VecDeque<T>,
    last: i64,
    run: Run,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<(i64, T)> {
    let Some((first, last)) = range(entries.len(), last) else { return Vec::new() };
    let (from, to) = (run.first.max(first), run.last.min(last));
    let mut bytes = 0;
    let mut taken = Vec::new();
    for seq in from..=to {
        let Some(entry) = usize::try_from(seq - first).ok().and_then(|at| entries.get(at)) else {
            break;
        };
        bytes += bytes_of(entry);
        if taken.len() == run.records_max || (bytes > run.bytes_max && !taken.is_empty()) {
            break;
        }
        taken.push((seq, entry.clone()));
    }
    taken
}

impl Reader for MemoryStore {
    fn traces(&self, filter: &TraceFilter) -> Result<Vec<TraceRow>, StoreError> {
        let state = self.state();
        let seqs = (filter.after_seq, filter.before_seq);
        let selected = select(&state.traces, state.traces_seq, seqs, filter.limit, |trace| {
            trace_matches(filter, trace)
        });
        drop(state);
        let mut rows: Vec<_> =
            selected.iter().map(|(seq, trace)| self.trace_row(*seq, trace)).collect();
        for row in rows.iter_mut().filter(|_| !filter.payloads) {
            (row.request, row.response) = (None, None);
        }
        Ok(rows)
    }

    fn audit_events(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let state = self.state();
        let seqs = (filter.after_seq, filter.before_seq);
        let selected = select(&state.audit_events, state.audit_seq, seqs, filter.limit, |event| {
            audit_matches(filter, event)
        });
        drop(state);
        Ok(selected.iter().map(|(seq, event)| self.audit_row(*seq, event)).collect())
    }

    fn metric_rows(&self, filter: &MetricFilter) -> Result<Vec<MetricRow>, StoreError> {
        let since = filter.since_unix_ns.map(metrics::minute);
        let until = filter.until_unix_ns.map(metrics::minute);
        let state = self.state();
        let matching = state.figures.iter().filter(|((minute, key), _)| {
            is(filter.instrument.as_deref(), Some(&*key.instrument))
                && is(filter.upstream.as_deref(), key.upstream.as_deref())
                && is(filter.name.as_deref(), key.name.as_deref())
                && within(since, until, *minute)
        });
        let figures: Vec<_> =
            matching.map(|((_, key), figure)| (key.clone(), figure.clone())).collect();
        drop(state);
        Ok(metrics::sum(figures.into_iter().map(|(mut key, figure)| {
            key.name = self.keeping.text(key.name.as_deref()).map(Into::into);
            (key, figure)
        })))
    }

    fn upstreams(&self) -> Result<Vec<UpstreamStatus>, StoreError> {
        let mut rows: Vec<UpstreamStatus> = self.state().upstreams.values().cloned().collect();
        for row in &mut rows {
            for text in [&mut row.error, &mut row.stderr].into_iter().flatten() {
                *text = self.keeping.redactor.redact_text(text).into_owned();
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.unix_ns));
        Ok(rows)
    }

    fn database_id(&self) -> Result<String, StoreError> {
        let mut state = self.state();
        let id = state.database_id.get_or_insert_with(|| Uuid::now_v7().simple().to_string());
        Ok(id.clone())
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        let state = self.state();
        Ok(Numbers {
            traces: range(state.traces.len(), state.traces_seq),
            audit_events: range(state.audit_events.len(), state.audit_seq),
        })
    }

    fn numbers_before(&self, unix_ns: i64) -> Result<Mark, StoreError> {
        let state = self.state();
        let after = |len: usize, seq: i64, before: usize| {
            range(len, seq).map_or(seq, |(first, _)| first - 1 + i64::try_from(before).unwrap_or(0))
        };
        let traces = state.traces.partition_point(|trace| trace.started_unix_ns < unix_ns);
        let events = state.audit_events.partition_point(|event| event.unix_ns < unix_ns);
        Ok(Mark {
            trace: after(state.traces.len(), state.traces_seq, traces),
            audit_event: after(state.audit_events.len(), state.audit_seq, events),
        })
    }

    fn trace_run(&self, run: Run) -> Result<Vec<TraceRow>, StoreError> {
        let state = self.state();
        let taken = run_of(&state.traces, state.traces_seq, run, |trace| payload_bytes(trace));
        drop(state);
        Ok(taken.iter().map(|(seq, trace)| self.trace_row(*seq, trace)).collect())
    }

    fn audit_run(&self, run: Run) -> Result<Vec<AuditRow>, StoreError> {
        let state = self.state();
        // Their texts are short.
        let taken = run_of(&state.audit_events, state.audit_seq, run, |_| 0);
        drop(state);
        Ok(taken.iter().map(|(seq, event)| self.audit_row(*seq, event)).collect())
    }
}

impl Store for MemoryStore {
    fn record(&self, record: Record) {
        match record {
            Record::Trace(trace) => self.push_trace(trace),
            Record::Audit(event) => self.push_audit(event),
        }
    }

    fn audit(&self, event: Box<AuditEvent>) -> Durable {
        if self.refuse_audit.load(Ordering::Relaxed) {
            let source = "audit events are refused, for a test";
            return Durable::Ready(Err(StoreError::Database {
                source: std::sync::Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
                    source,
                )),
            }));
        }
        self.push_audit(event);
        Durable::Ready(Ok(()))
    }

    fn metrics(&self, deltas: Vec<MetricDelta>) {
        let minute = metrics::minute(stored::now_unix_ns());
        let mut state = self.state();
        metrics::gather(&mut state.figures, minute, deltas);
        while state.figures.len() > self.limits.figures_max {
            state.figures.pop_first();
        }
    }

    fn upstream(&self, status: UpstreamStatus) {
        self.state().upstreams.insert((status.upstream.clone(), status.gateway_pid), status);
    }

    fn remember_catalog(&self, upstream: &str, fingerprint: &str, catalog: Bytes) {
        let mut state = self.state();
        let catalogs = state.catalogs.entry(upstream.to_owned()).or_default();
        catalogs.retain(|(known, _)| known != fingerprint);
        catalogs.push_back((fingerprint.to_owned(), catalog));
        if catalogs.len() > CATALOGS_PER_UPSTREAM {
            catalogs.pop_front();
        }
    }

    fn catalog(&self, upstream: &str, fingerprint: &str) -> Result<Option<Bytes>, StoreError> {
        let mut state = self.state();
        let Some(catalogs) = state.catalogs.get_mut(upstream) else { return Ok(None) };
        let Some(place) = catalogs.iter().position(|(known, _)| known == fingerprint) else {
            return Ok(None);
        };
        let used = catalogs.remove(place);
        let catalog = used.as_ref().map(|(_, catalog)| catalog.clone());
        catalogs.extend(used);
        Ok(catalog)
    }

    fn hold_unsent(&self, from: Option<Mark>) {
        self.state().unsent = from;
    }

    fn renew_database_id(&self) {
        self.state().database_id = None;
    }

    /// Nothing is ever queued, and no commit is counted.
    fn health(&self) -> Health {
        let state = self.state();
        let written = state.traces_seq + state.audit_seq;
        Health { written: written.unsigned_abs(), ..Health::default() }
    }

    fn flush(&self, _deadline: Instant) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{event, trace};

    #[test]
    fn the_oldest_make_room() {
        let options = MemoryOptions {
            traces_max: 3,
            payloads_bytes_max: 250,
            audit_events_max: 2,
            ..Default::default()
        };
        let store = MemoryStore::new(options);
        for number in 1..=5 {
            let request = (number > 3).then(|| Bytes::from(vec![b'1'; 100]));
            store.record(Record::Trace(Box::new(Trace { request, ..trace(number, "read") })));
            store.record(Record::Audit(event(number, "read")));
        }
        let seqs = |store: &MemoryStore| -> Vec<i64> {
            store.traces(&TraceFilter::default()).unwrap().iter().map(|row| row.seq).collect()
        };

        assert_eq!(seqs(&store), [5, 4, 3]);
        assert_eq!(store.audit_events(&AuditFilter::default()).unwrap().len(), 2);

        // A payload larger than all may be stays alone.
        let request = Some(Bytes::from(vec![b'1'; 1000]));
        store.record(Record::Trace(Box::new(Trace { request, ..trace(6, "read") })));
        assert_eq!(seqs(&store), [6]);
    }

    #[test]
    fn ten_times_as_many_stay_while_they_wait_to_be_sent() {
        let options =
            MemoryOptions { traces_max: 3, audit_events_max: 3, ..MemoryOptions::default() };
        let store = MemoryStore::new(options);
        let record = |numbers: std::ops::RangeInclusive<u64>| {
            for number in numbers {
                store.record(Record::Trace(Box::new(trace(number, "read"))));
                store.record(Record::Audit(event(number, "read")));
            }
            let numbers = store.numbers().unwrap();
            (numbers.traces.unwrap().0, numbers.audit_events.unwrap().0)
        };

        record(1..=4);
        store.hold_unsent(Some(Mark { trace: 3, audit_event: 1 }));

        assert_eq!(record(5..=12), (3, 2));
        assert_eq!(record(13..=40), (11, 11));
        store.hold_unsent(Some(Mark { trace: 36, audit_event: 41 }));
        assert_eq!(record(41..=41), (36, 39));
        store.hold_unsent(None);
        assert_eq!(record(42..=42), (40, 40));
    }

    #[test]
    fn audit_events_can_be_refused() {
        let store = MemoryStore::default();
        store.refuse_audit(true);
        assert!(matches!(store.audit(event(1, "read")), Durable::Ready(Err(_))));
        store.refuse_audit(false);
        assert!(matches!(store.audit(event(2, "read")), Durable::Ready(Ok(()))));

        assert_eq!(store.audit_events(&AuditFilter::default()).unwrap().len(), 1);
    }
}
