//! Sending records: reads what is next, sends it, takes over what the Hub then has, until nothing is left.
//!
//! What is next is decided in `lanes`.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use ultra_hub::spans::Spans;
use ultra_hub::wire::{BATCH_RECORDS_MAX, RecordKind, Span};
use ultra_store::{Mark, Numbers, Run};

use super::batch::{Batch, Caps, Rows};
use super::beat;
use super::client::ClientError;
use super::lanes::{KINDS, Lane, Step, Streams, bounds};
use super::lease::Lease;
use super::pace::{BackOff, Failure, Signal, jittered};
use super::sync::Shared;
use crate::lock;

/// Payloads that are read for a batch: what is in memory at a time is a few times as much.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The Hub may want gaps filled first this often before something is filled.
const GAPS_FIRST_MAX: u32 = 3;

/// A Hub that has much to do asks for a moment while a backlog is sent. That is nothing to talk about, unless
/// it is longer than this,
const MOMENT_MAX: Duration = Duration::from_secs(5);

/// or comes this often without anything being taken.
const MOMENTS_MAX: u32 = 3;

/// A database that is to get another id may take this long.
const RENEWAL_LIMIT: Duration = Duration::from_secs(2);

/// Sends records, if this process is the one that does.
pub(super) struct Sender<'a> {
    shared: &'a Shared,
    lease: Lease,
    may_send: bool,
    back_off: BackOff,
    /// The kind whose backlog is next.
    turn: RecordKind,
    caps: Caps,
    /// How often the Hub has wanted gaps filled first without anything being filled.
    gaps_first: u32,
    /// How often it has asked for a moment, likewise.
    moments: u32,
    /// What the store was told to keep.
    held: Option<Mark>,
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// Nothing is left to send.
    Done,
    /// Another process sends, or nobody does any more.
    NotOurs,
    /// The Hub must say first what it has.
    Unknown,
}

/// What is worth not to wait any longer for the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// A heartbeat was answered.
    Heard,
    /// One was answered, after others were not.
    Back,
    /// The Hub wants to be left alone.
    Never,
}

/// Something that is sent.
struct Parcel {
    kind: RecordKind,
    batch: Batch,
    /// What the Hub will have in any case.
    sent: Spans,
}

impl<'a> Sender<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let options = &shared.options;
        Self {
            shared,
            lease: Lease::new(options.database.as_deref(), &options.gateway_id),
            may_send: false,
            back_off: shared.back_off(),
            turn: KINDS[0],
            caps: Caps::default(),
            gaps_first: 0,
            moments: 0,
            held: None,
        }
    }

    /// Sends every interval, until the gateway ends, or the Hub has said its last word; and what is new then.
    pub(super) async fn run(mut self) {
        let shared = self.shared;
        // Before the Hub says for the first time what it has: whoever sends from now on is this process.
        self.lease.take();
        // The first time is when the Hub has answered the first heartbeat.
        let (mut pause, mut wake) = (jittered(shared.options.interval), Wake::Heard);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = shared.heard.notified(), if wake == Wake::Heard => {}
                () = shared.back.notified(), if wake == Wake::Back => {}
                () = shared.stop.cancelled() => break,
                () = shared.off.cancelled() => return,
            }
            let round = tokio::select! {
                biased;
                round = self.round() => round,
                () = shared.over() => return,
                () = shared.off.cancelled() => return,
            };
            (pause, wake) = self.after(round);
        }
        if shared.mood.is_good() {
            tokio::select! {
                round = self.last_round() => drop(self.after(round)),
                () = shared.over() => {}
            }
        }
    }

    /// Sends what is new, even if the gateway ends before it knows what the Hub has.
    async fn last_round(&mut self) -> Result<Round, Failure> {
        match self.round().await? {
            Round::Unknown => {
                beat::beat(self.shared).await?;
                self.round().await
            }
            round @ (Round::Done | Round::NotOurs) => Ok(round),
        }
    }

    /// Returns how long to wait, unless something happens before.
    fn after(&mut self, round: Result<Round, Failure>) -> (Duration, Wake) {
        let interval = jittered(self.shared.options.interval);
        match round {
            Ok(Round::Done) => {
                self.back_off.reset();
                self.shared.taken(Signal::Records);
                (interval, Wake::Back)
            }
            Ok(Round::NotOurs) => {
                self.shared.taken(Signal::Records);
                (interval, Wake::Back)
            }
            Ok(Round::Unknown) => (interval, Wake::Heard),
            Err(failure) => {
                self.shared.failed(Signal::Records, &failure);
                let wake = if failure.is_away() { Wake::Heard } else { Wake::Never };
                (self.back_off.next(&failure), wake)
            }
        }
    }

    /// Sends until nothing is left of what there was at the beginning. At the gateway's end only what is
    /// new.
    async fn round(&mut self) -> Result<Round, Failure> {
        if !self.shared.is_linked().await || !self.take_lease()? {
            return Ok(Round::NotOurs);
        }
        let until = self.shared.store.numbers()?;
        let mut is_first = true;
        loop {
            let database = self.shared.store.database_id()?;
            let numbers = self.shared.store.numbers()?;
            let Some(streams) = self.streams(&database) else {
                self.shared.beat_now.notify_one();
                return Ok(Round::Unknown);
            };
            if lock(&self.shared.state).is_ahead(&database, numbers) {
                self.renew(&database)?;
                continue;
            }
            if std::mem::take(&mut is_first) {
                self.catch_up(&database, numbers);
                self.hold(&streams, numbers);
            }
            let next = self
                .streams(&database)
                .and_then(|streams| streams.next(numbers, until, self.turn))
                .filter(|step| !self.shared.stop.is_cancelled() || is_live(step));
            let Some(step) = next else {
                self.hold(&streams, numbers);
                return Ok(Round::Done);
            };
            self.step(&database, step).await?;
        }
    }

    fn take_lease(&mut self) -> Result<bool, Failure> {
        let could = std::mem::replace(&mut self.may_send, self.lease.take());
        if self.may_send && !could {
            // Whoever had it has sent since the Hub was asked last.
            if self.lease.may_others_have_sent() {
                let (database, numbers) =
                    (self.shared.store.database_id()?, self.shared.store.numbers()?);
                lock(&self.shared.state).begin(database, numbers);
            }
            // Until it answers, what is not private may be what it needs.
            let private = self.shared.store.numbers_before(self.shared.options.linked_unix_ns)?;
            let from = Mark { trace: private.trace + 1, audit_event: private.audit_event + 1 };
            self.shared.store.hold_unsent(Some(from));
        }
        Ok(self.may_send)
    }

    fn streams(&self, database: &str) -> Option<Streams> {
        lock(&self.shared.state).streams(database).cloned()
    }

    fn catch_up(&self, database: &str, numbers: Numbers) {
        if let Some(streams) = lock(&self.shared.state).streams(database) {
            streams.catch_up(numbers);
        }
    }

    /// Tells the store what to keep for the Hub, when that has changed.
    fn hold(&mut self, streams: &Streams, numbers: Numbers) {
        let first = |kind| streams.of(kind).first_unsent(bounds(numbers, kind));
        let from = Mark { trace: first(RecordKind::Traces), audit_event: first(RecordKind::Audit) };
        if self.held.replace(from) != Some(from) {
            self.shared.store.hold_unsent(Some(from));
        }
    }

    /// Gives the database another id: the Hub has records with numbers that are yet to come.
    fn renew(&self, database: &str) -> Result<(), Failure> {
        tracing::warn!(
            "the database has gone back to an earlier state, as after a backup was restored: the Hub gets it under a new id"
        );
        self.shared.store.renew_database_id();
        self.shared.store.flush(Instant::now() + RENEWAL_LIMIT);
        if self.shared.store.database_id()? == database {
            return Err(Failure::Senseless { reason: "it has records that are not here" });
        }
        Ok(())
    }

    async fn step(&mut self, database: &str, step: Step) -> Result<(), Failure> {
        let parcel = match step {
            Step::Lost(kind, lost) => {
                let sent = lost.iter().copied().collect();
                Some(Parcel { kind, batch: Batch::of_lost(database, kind, lost)?, sent })
            }
            Step::Send(kind, lane, run) => {
                if lane == Lane::Backlog {
                    self.turn = if kind == KINDS[0] { KINDS[1] } else { KINDS[0] };
                }
                self.parcel(database, kind, run, self.caps)?
            }
        };
        match parcel {
            Some(parcel) => self.send(database, parcel).await,
            // The database has become another one.
            None => Ok(()),
        }
    }

    /// Reads a run and packs the beginning of it. What is not there any more is lost.
    fn parcel(
        &self,
        database: &str,
        kind: RecordKind,
        (first, last): Span,
        caps: Caps,
    ) -> Result<Option<Parcel>, Failure> {
        let records_max = caps.records.min(BATCH_RECORDS_MAX as usize);
        let run = Run { first, last, records_max, bytes_max: READ_BYTES_MAX };
        let rows = match kind {
            RecordKind::Traces => Rows::Traces(self.shared.store.trace_run(run)?),
            RecordKind::Audit => Rows::Audit(self.shared.store.audit_run(run)?),
        };
        if self.shared.store.database_id()? != database {
            return Ok(None);
        }
        let gap = (first, rows.first().map_or(last, |first| first - 1));
        let lost: Vec<Span> = Some(gap).filter(|(first, last)| first <= last).into_iter().collect();
        let mut sent: Spans = lost.iter().copied().collect();
        let batch = if rows.first().is_none() {
            Batch::of_lost(database, kind, lost)?
        } else {
            Batch::of_rows(database, lost, rows, caps)?
        };
        batch.run.into_iter().for_each(|run| sent.add(run));
        Ok(Some(Parcel { kind, batch, sent }))
    }

    async fn send(&mut self, database: &str, parcel: Parcel) -> Result<(), Failure> {
        let Parcel { kind, batch, sent } = parcel;
        let secret = self.shared.options.secret.expose();
        match self.shared.client.records(secret, batch.body).await {
            Ok(answer) => {
                if answer.rejected > 0 {
                    let rejected = answer.rejected;
                    tracing::warn!("the Hub cannot read {rejected} records; it keeps them aside");
                }
                lock(&self.shared.state).acknowledge(database, kind, answer.spans, &sent)?;
                self.caps = larger(self.caps);
                (self.gaps_first, self.moments) = (0, 0);
                Ok(())
            }
            Err(ClientError::Busy { retry_after: Some(moment), .. })
                if moment <= MOMENT_MAX && self.moments < MOMENTS_MAX =>
            {
                self.moments += 1;
                let moment = moment.max(self.shared.timing.back_off_min);
                // Not at the same moment as the others.
                sleep(moment.mul_f64(1.0 + rand::random::<f64>() / 4.0)).await;
                Ok(())
            }
            Err(ClientError::GapsFirst { spans }) if self.gaps_first < GAPS_FIRST_MAX => {
                self.gaps_first += 1;
                lock(&self.shared.state).gaps_first(database, kind, spans)
            }
            Err(error) => match (&error, batch.run) {
                (error, Some(run)) if is_too_large(error) && !batch.is_cut => {
                    self.caps = smaller(self.caps, run);
                    Ok(())
                }
                // It may be for its size all the same: the next attempt is smaller.
                (ClientError::Invalid { .. }, Some(run)) if run.0 < run.1 || batch.is_long => {
                    self.caps = smaller(self.caps, run);
                    Err(error.into())
                }
                _ => Err(error.into()),
            },
        }
    }
}

/// Returns caps with which less is sent than this run; less than one record is one without its payloads.
fn smaller(caps: Caps, (first, last): Span) -> Caps {
    match last - first + 1 {
        1 => Caps { records: 1, plain_bytes: 0, ..caps },
        count => Caps { records: (count.unsigned_abs() / 2) as usize, ..caps },
    }
}

/// Returns caps with which a bit more is sent than the Hub has just taken.
fn larger(caps: Caps) -> Caps {
    let records = caps.records.saturating_add(caps.records / 8 + 1);
    match records < BATCH_RECORDS_MAX as usize {
        true => Caps { records, ..Caps::default() },
        false => Caps::default(),
    }
}

fn is_too_large(error: &ClientError) -> bool {
    match error {
        ClientError::Invalid { status, .. } | ClientError::Answer { status } => *status == 413,
        _ => false,
    }
}

fn is_live(step: &Step) -> bool {
    matches!(step, Step::Send(_, Lane::Live, _))
}
