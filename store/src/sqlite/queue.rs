//! What waits for the writer, and what the writer has to say about it.
//!
//! Callers only ever lock, push, and wake the writer if it sleeps and is needed now: always for an
//! audit event, because somebody waits for it, and for traces when a batch of them has gathered or
//! nothing will wake the writer by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::SqliteOptions;
use crate::filter::Mark;
use crate::record::{AuditEvent, MetricDelta, Trace, UpstreamStatus};
use crate::{Health, StoreError};

/// Traces wait so long for others, or for an audit event, to share a commit with.
const LINGER: Duration = Duration::from_millis(50);

/// So many traces are worth a commit of their own.
const TRACES_WAITING_MAX: usize = 256;

/// So are payloads of this size.
const BYTES_WAITING_MAX: usize = 4 * 1024 * 1024;

/// Metrics, states and catalogs that may wait. They come every few seconds.
const OTHERS_MAX: usize = 4096;

/// Tells whether an audit event is durable.
pub(super) type Waiter = oneshot::Sender<Result<(), StoreError>>;

/// Something to write.
#[derive(Debug)]
pub(super) enum Command {
    Trace(Box<Trace>),
    Audit(Box<AuditEvent>, Option<Waiter>),
    Metrics {
        minute: i64,
        deltas: Vec<MetricDelta>,
    },
    Upstream(Box<UpstreamStatus>),
    Catalog(Box<CatalogUse>),
    /// From where on records wait to be sent.
    Hold(Option<Mark>),
    RenewId,
}

/// A catalog to remember, or one that was used.
#[derive(Debug)]
pub(super) struct CatalogUse {
    pub(super) upstream: String,
    pub(super) fingerprint: String,
    pub(super) catalog: Option<Bytes>,
}

impl Command {
    pub(super) fn catalog(upstream: &str, fingerprint: &str, catalog: Option<Bytes>) -> Self {
        let (upstream, fingerprint) = (upstream.to_owned(), fingerprint.to_owned());
        Self::Catalog(Box::new(CatalogUse { upstream, fingerprint, catalog }))
    }
}

/// How commands count against the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) traces: usize,
    pub(super) audit_events: usize,
    pub(super) others: usize,
    /// Of payloads.
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Trace(trace) => {
                let bytes = [&trace.request, &trace.response].into_iter().flatten().map(Bytes::len);
                Self { traces: 1, bytes: bytes.sum(), ..Self::default() }
            }
            Command::Audit(..) => Self { audit_events: 1, ..Self::default() },
            Command::Metrics { .. }
            | Command::Upstream(_)
            | Command::Catalog(_)
            | Command::Hold(_)
            | Command::RenewId => Self { others: 1, ..Self::default() },
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.traces += other.traces;
        self.audit_events += other.audit_events;
        self.others += other.others;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.traces -= other.traces;
        self.audit_events -= other.audit_events;
        self.others -= other.others;
        self.bytes -= other.bytes;
    }

    pub(super) fn records(self) -> usize {
        self.traces + self.audit_events
    }
}

/// What the writer shall do next.
#[derive(Debug)]
pub(super) enum Work {
    Write(VecDeque<Command>),
    /// Nothing to write for now.
    Maintain,
    Stop,
}

/// How the writer waits, that is, what is worth a wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    /// It works, or has been woken already.
    Awake,
    /// It wakes by itself within [`LINGER`].
    Short,
    /// Nothing wakes it for long.
    Long,
}

struct State {
    waiting: VecDeque<Command>,
    /// Of what waits.
    waiting_load: Load,
    /// Of what waits and what is being written: a slow commit must not make room.
    load: Load,
    sleep: Sleep,
    /// Somebody waits until all is written.
    flush: bool,
    closed: bool,
    stopped: bool,
    pushed: u64,
    finished: u64,
    pages_max: Option<u32>,
    health: Health,
}

/// The queue before the writer.
pub(super) struct Queue {
    state: Mutex<State>,
    /// For the writer.
    wake: Condvar,
    /// For those who flush.
    done: Condvar,
    traces_max: usize,
    bytes_max: usize,
    audit_max: usize,
}

impl Queue {
    pub(super) fn new(options: &SqliteOptions) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            waiting_load: Load::default(),
            load: Load::default(),
            sleep: Sleep::Awake,
            flush: false,
            closed: false,
            stopped: false,
            pushed: 0,
            finished: 0,
            pages_max: None,
            health: Health::default(),
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            done: Condvar::new(),
            traces_max: options.queued_traces_max,
            bytes_max: options.queued_bytes_max,
            audit_max: options.queued_audit_max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, command: Command, load: Load) {
        state.waiting.push_back(command);
        state.waiting_load.add(load);
        state.load.add(load);
        state.pushed += 1;
        let needed = match state.sleep {
            Sleep::Awake => false,
            Sleep::Short => state.is_due(),
            Sleep::Long => true,
        };
        if needed {
            state.sleep = Sleep::Awake;
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn push_trace(&self, trace: Box<Trace>) {
        let command = Command::Trace(trace);
        let load = Load::of(&command);
        let mut state = self.state();
        let too_many = state.load.traces >= self.traces_max;
        // A trace too large for the queue has it for itself.
        let too_large = state.load.bytes > 0 && state.load.bytes + load.bytes > self.bytes_max;
        if state.closed || too_many || too_large {
            state.health.dropped += 1;
            drop(state);
            drop(command);
            return;
        }
        self.push(state, command, load);
    }

    pub(super) fn push_audit(
        &self,
        event: Box<AuditEvent>,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (waiter, receiver) = oneshot::channel();
        self.try_push_audit(event, Some(waiter))?;
        Ok(receiver)
    }

    pub(super) fn push_audit_unheard(&self, event: Box<AuditEvent>) {
        if self.try_push_audit(event, None).is_err() {
            self.state().health.dropped += 1;
        }
    }

    fn try_push_audit(
        &self,
        event: Box<AuditEvent>,
        waiter: Option<Waiter>,
    ) -> Result<(), StoreError> {
        let command = Command::Audit(event, waiter);
        let load = Load::of(&command);
        let state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.load.audit_events >= self.audit_max {
            return Err(StoreError::Full { limit: self.audit_max });
        }
        self.push(state, command, load);
        Ok(())
    }

    /// Queues what is neither trace nor audit event. It is lost if too much of it waits.
    pub(super) fn push_other(&self, command: Command) {
        let load = Load::of(&command);
        let state = self.state();
        if !state.closed && state.load.others < OTHERS_MAX {
            self.push(state, command, load);
        }
    }

    pub(super) fn limit_pages(&self, pages_max: Option<u32>) {
        // The largest there is: SQLite knows no "without".
        self.state().pages_max = Some(pages_max.unwrap_or(u32::MAX - 1));
    }

    /// Returns the limit once after it was set.
    pub(super) fn take_pages_max(&self) -> Option<u32> {
        self.state().pages_max.take()
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state();
        Health { queued: state.load.records() as u64, ..state.health.clone() }
    }

    pub(super) fn flush(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        let target = state.pushed;
        while state.finished < target && !state.stopped {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state.flush = true;
            if state.sleep != Sleep::Awake {
                state.sleep = Sleep::Awake;
                self.wake.notify_one();
            }
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes no more commands; the writer stops when it has written those that wait.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.sleep = Sleep::Awake;
        drop(state);
        self.wake.notify_one();
    }

    /// Returns false if the writer has not stopped by the deadline.
    pub(super) fn wait_stopped(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while !state.stopped {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits for work. For the writer.
    ///
    /// `maintenance` is when the database wants to be looked after.
    pub(super) fn next(&self, maintenance: Instant) -> Work {
        let mut state = self.state();
        let mut linger = Instant::now() + LINGER;
        loop {
            if state.is_due() {
                return state.take();
            }
            if state.closed {
                return Work::Stop;
            }
            let now = Instant::now();
            if now >= maintenance {
                // Records first: looking after may be due again and again.
                return if state.waiting.is_empty() { Work::Maintain } else { state.take() };
            }
            if now < linger {
                state.sleep = Sleep::Short;
                state = self.wait(state, linger - now);
            } else if !state.waiting.is_empty() {
                return state.take();
            } else {
                state.sleep = Sleep::Long;
                state = self.wait(state, maintenance - now);
                linger = Instant::now() + LINGER;
            }
            state.sleep = Sleep::Awake;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Notes that commands were written, by one commit, or that they were not. For the writer.
    pub(super) fn finish(&self, commands: u64, load: Load, outcome: Result<(), String>) {
        let mut state = self.state();
        state.finished += commands;
        state.load.subtract(load);
        let records = load.records() as u64;
        match outcome {
            Ok(()) => {
                state.health.written += records;
                state.health.commits += u64::from(records > 0);
                state.health.error = None;
            }
            Err(error) => state.health.error = Some(error),
        }
        drop(state);
        self.done.notify_all();
    }

    /// Counts records that nobody will hear of again. For the writer.
    pub(super) fn count_dropped(&self, records: u64) {
        self.state().health.dropped += records;
    }

    /// Notes that the writer is gone, for whatever reason; what still waits is answered.
    pub(super) fn stopped(&self) {
        let mut state = self.state();
        state.closed = true;
        state.stopped = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        // Waiters that are dropped learn that the store is closed.
        drop(left);
        self.done.notify_all();
    }
}

impl State {
    /// Returns whether something that waits is to be written at once.
    fn is_due(&self) -> bool {
        let asked_for = self.flush || self.closed;
        self.waiting_load.audit_events > 0
            || self.waiting_load.traces >= TRACES_WAITING_MAX
            || self.waiting_load.bytes >= BYTES_WAITING_MAX
            || (asked_for && !self.waiting.is_empty())
    }

    fn take(&mut self) -> Work {
        self.flush = false;
        self.waiting_load = Load::default();
        Work::Write(std::mem::take(&mut self.waiting))
    }
}

/// Marks the queue when the writer ends, also by a panic.
pub(super) struct StopGuard(pub(super) Arc<Queue>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stopped();
    }
}
