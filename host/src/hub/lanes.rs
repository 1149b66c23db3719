//! What is sent next: pure, from the numbers that the store has, those that the Hub has, and where now
//! begins.
//!
//! What was stored since this process sends goes first, the live lane. Everything older is the backlog,
//! and goes oldest first, because the oldest is deleted first. Neither reads nor sends anything.

use ultra_hub::spans::Spans;
use ultra_hub::wire::{BATCH_RECORDS_MAX, RecordKind, SPANS_MAX, Span};
use ultra_store::Numbers;

/// Which kinds there are. What must not be forgotten goes first.
pub(super) const KINDS: [RecordKind; 2] = [RecordKind::Audit, RecordKind::Traces];

/// Records of a batch.
const RUN_MAX: i64 = BATCH_RECORDS_MAX.cast_signed();

/// When more is waiting in the live lane, after a day without the Hub, most of that is not now any more.
const LIVE_MAX: u64 = 10 * BATCH_RECORDS_MAX;

/// Returns the lowest and the highest number of a kind.
pub(super) fn bounds(numbers: Numbers, kind: RecordKind) -> Option<Span> {
    match kind {
        RecordKind::Traces => numbers.traces,
        RecordKind::Audit => numbers.audit_events,
    }
}

/// One stream, as far as the Hub and this process are concerned.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// What the Hub has.
    pub(super) has: Spans,
    /// Where now begins.
    pub(super) live_from: i64,
    /// Up to here nothing is ever sent.
    pub(super) private_to: i64,
    /// The Hub takes no more runs than this.
    spans_max: usize,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Say that these will never come.
    Lost(RecordKind, Vec<Span>),
    /// Send these, or the first of them.
    Send(RecordKind, Lane, Span),
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Live,
    Backlog,
}

impl Stream {
    /// Returns a stream of which the Hub has this, and whose next record is numbered `live_from`.
    pub(super) fn new(has: Spans, live_from: i64, private_to: i64) -> Self {
        Self { has, live_from, private_to, spans_max: SPANS_MAX }
    }

    /// Returns whether the Hub has numbers that the store has not given to anything yet: it has gone back
    /// to an earlier state, and what comes now would be taken for what came then.
    fn is_ahead(&self, bounds: Option<Span>) -> bool {
        let last = bounds.map_or(0, |(_, last)| last);
        self.has.last().is_some_and(|of_hub| of_hub > last)
    }

    /// Takes over what the Hub has when it wants gaps filled first.
    pub(super) fn gaps_first(&mut self, has: Spans) {
        self.spans_max = has.len().clamp(1, SPANS_MAX);
        self.has = has;
    }

    /// Returns how many records of the store the Hub does not have.
    pub(super) fn unsent(&self, bounds: Option<Span>) -> u64 {
        let Some(there) = self.there(bounds) else { return 0 };
        self.has.missing(there).map(|(first, last)| (last - first + 1).unsigned_abs()).sum()
    }

    /// Returns from which number on records must be kept for the Hub.
    pub(super) fn first_unsent(&self, bounds: Option<Span>) -> i64 {
        let last = bounds.map_or(0, |(_, last)| last);
        let missing = self.there(bounds).and_then(|there| self.has.missing(there).next());
        missing.map_or(last + 1, |(first, _)| first)
    }

    /// Returns the numbers of the store that may be sent.
    fn there(&self, bounds: Option<Span>) -> Option<Span> {
        let (first, last) = bounds?;
        Some((first.max(self.private_to + 1), last))
    }

    /// Lets now begin later, where too much waits in the live lane.
    fn catch_up(&mut self, bounds: Option<Span>) {
        let Some((_, last)) = bounds else { return };
        let live = self.has.missing((self.live_from, last));
        let waiting: u64 = live.map(|(first, last)| (last - first + 1).unsigned_abs()).sum();
        if waiting > LIVE_MAX {
            self.live_from = last - RUN_MAX + 1;
        }
    }

    fn live(&self, bounds: Option<Span>, until: i64) -> Option<Span> {
        let (first, last) = self.there(bounds)?;
        let run = self.has.missing((first.max(self.live_from), last.min(until))).next()?;
        let is_new_run = !self.has.contains(run.0 - 1);
        // A run of its own would be refused where there are as many as there may be.
        (!is_new_run || self.has.len() < self.spans_max).then_some(run)
    }

    fn lost(&self, bounds: Option<Span>) -> Vec<Span> {
        let Some((first, _)) = self.there(bounds) else { return Vec::new() };
        self.has.missing((1, first - 1)).take(SPANS_MAX).collect()
    }

    /// Returns the oldest gap, as much of it as a batch takes: its beginning, unless that would be a run of
    /// its own where there are as many as there may be.
    fn backlog(&self, bounds: Option<Span>, until: i64) -> Option<Span> {
        let (first, last) = self.there(bounds)?;
        let gap = self.has.missing((first, last.min(until))).next()?;
        let is_full = self.has.len() >= self.spans_max;
        if is_full && !self.has.contains(gap.0 - 1) {
            return Some((gap.0.max(gap.1 - RUN_MAX + 1), gap.1));
        }
        Some(short(gap))
    }
}

/// The streams of a database.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) audit: Stream,
    pub(super) traces: Stream,
}

impl Streams {
    pub(super) fn of(&self, kind: RecordKind) -> &Stream {
        match kind {
            RecordKind::Traces => &self.traces,
            RecordKind::Audit => &self.audit,
        }
    }

    pub(super) fn of_mut(&mut self, kind: RecordKind) -> &mut Stream {
        match kind {
            RecordKind::Traces => &mut self.traces,
            RecordKind::Audit => &mut self.audit,
        }
    }

    /// Returns whether the Hub has numbers of any kind that the store has not given to anything yet.
    pub(super) fn is_ahead(&self, numbers: Numbers) -> bool {
        KINDS.into_iter().any(|kind| self.of(kind).is_ahead(bounds(numbers, kind)))
    }

    /// Returns how many records the Hub does not have.
    pub(super) fn unsent(&self, numbers: Numbers) -> u64 {
        KINDS.map(|kind| self.of(kind).unsent(bounds(numbers, kind))).iter().sum()
    }

    /// Lets now begin later, where too much waits in the live lanes.
    pub(super) fn catch_up(&mut self, numbers: Numbers) {
        for kind in KINDS {
            self.of_mut(kind).catch_up(bounds(numbers, kind));
        }
    }

    /// Returns what is next. Nothing, when all up to `until` is at the Hub: what was stored later waits for
    /// the next time, so that each record does not become a batch.
    ///
    /// `turn` is the kind whose backlog is next.
    pub(super) fn next(&self, numbers: Numbers, until: Numbers, turn: RecordKind) -> Option<Step> {
        let last = |kind| bounds(until, kind).map_or(0, |(_, last)| last);
        let live = |kind, until| {
            let run = self.of(kind).live(bounds(numbers, kind), until)?;
            Some(Step::Send(kind, Lane::Live, short(run)))
        };
        let lost = |kind| {
            let lost = self.of(kind).lost(bounds(numbers, kind));
            (!lost.is_empty()).then_some(Step::Lost(kind, lost))
        };
        let backlog = |kind| {
            let run = self.of(kind).backlog(bounds(numbers, kind), last(kind))?;
            Some(Step::Send(kind, Lane::Backlog, run))
        };
        let kinds = if turn == KINDS[0] { KINDS } else { [KINDS[1], KINDS[0]] };
        if let Some(step) = KINDS.into_iter().find_map(|kind| live(kind, last(kind))) {
            return Some(step);
        }
        let old =
            KINDS.into_iter().find_map(lost).or_else(|| kinds.into_iter().find_map(backlog))?;
        // As long as there is a backlog, what came since the beginning goes before it.
        let live = KINDS.into_iter().find_map(|kind| live(kind, i64::MAX));
        Some(live.unwrap_or(old))
    }
}

/// Returns as much of a run as a batch takes.
fn short((first, last): Span) -> Span {
    (first, last.min(first.saturating_add(RUN_MAX - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIT: RecordKind = RecordKind::Audit;
    const TRACES: RecordKind = RecordKind::Traces;

    fn stream(has: &[Span], live_from: i64) -> Stream {
        Stream::new(has.iter().copied().collect(), live_from, 0)
    }

    fn streams(audit: Stream, traces: Stream) -> Streams {
        Streams { audit, traces }
    }

    fn numbers(audit_events: Option<Span>, traces: Option<Span>) -> Numbers {
        Numbers { traces, audit_events }
    }

    fn of_traces(traces: Stream, bounds: Span) -> Option<Step> {
        let numbers = numbers(None, Some(bounds));
        streams(stream(&[], 1), traces).next(numbers, numbers, TRACES)
    }

    fn live(first: i64, last: i64) -> Option<Step> {
        Some(Step::Send(TRACES, Lane::Live, (first, last)))
    }

    fn backlog(first: i64, last: i64) -> Option<Step> {
        Some(Step::Send(TRACES, Lane::Backlog, (first, last)))
    }

    fn lost(spans: &[Span]) -> Option<Step> {
        Some(Step::Lost(TRACES, spans.to_vec()))
    }

    #[test]
    fn what_happens_now_goes_before_what_happened() {
        // What the Hub has, where now begins, what the store has, and what is next.
        let cases: [(&[Span], i64, Span, Option<Step>); 12] = [
            (&[], 1, (1, 5), live(1, 5)),
            (&[], 6, (1, 5), backlog(1, 5)),
            (&[], 4, (1, 5), live(4, 5)),
            (&[(4, 5)], 4, (1, 5), backlog(1, 3)),
            (&[(1, 5)], 4, (1, 5), None),
            (&[(1, 2), (4, 5)], 6, (1, 7), live(6, 7)),
            (&[(1, 2), (4, 7)], 6, (1, 7), backlog(3, 3)),
            (&[], 9_000, (1, 9_000), live(9_000, 9_000)),
            (&[(9_000, 9_000)], 9_000, (1, 9_000), backlog(1, 1_000)),
            (&[(1, 1_000), (9_000, 9_000)], 9_000, (1, 9_000), backlog(1_001, 2_000)),
            (&[], 1, (1, 9_000), live(1, 1_000)),
            (&[(1, 8_500)], 1, (1, 9_000), live(8_501, 9_000)),
        ];

        for (has, live_from, there, expected) in cases {
            let next = of_traces(stream(has, live_from), there);
            assert_eq!(next, expected, "{has:?} {live_from} {there:?}");
        }
    }

    #[test]
    fn what_the_store_has_no_more_is_lost() {
        let cases: [(&[Span], i64, Span, Option<Step>); 6] = [
            (&[], 11, (10, 10), lost(&[(1, 9)])),
            (&[(3, 5)], 11, (10, 10), lost(&[(1, 2), (6, 9)])),
            (&[(1, 9)], 11, (10, 10), backlog(10, 10)),
            // Nobody waits for it.
            (&[], 10, (10, 10), live(10, 10)),
            (&[(10, 10)], 10, (10, 10), lost(&[(1, 9)])),
            (&[(1, 10)], 10, (10, 10), None),
        ];

        for (has, live_from, there, expected) in cases {
            let next = of_traces(stream(has, live_from), there);
            assert_eq!(next, expected, "{has:?} {live_from} {there:?}");
        }
    }

    #[test]
    fn what_is_private_is_never_sent() {
        let private = |has: &[Span]| Stream { private_to: 7, ..stream(has, 20) };

        assert_eq!(of_traces(private(&[]), (1, 10)), lost(&[(1, 7)]));
        assert_eq!(of_traces(private(&[(1, 7)]), (1, 10)), backlog(8, 10));
        assert_eq!(of_traces(private(&[]), (1, 7)), lost(&[(1, 7)]));
        assert_eq!(private(&[]).unsent(Some((1, 10))), 3);
        assert_eq!(private(&[]).unsent(Some((1, 5))), 0);
        assert_eq!(private(&[]).first_unsent(Some((1, 10))), 8);
    }

    #[test]
    fn audit_events_go_before_traces_and_take_turns_in_the_backlog() {
        let both = streams(stream(&[], 5), stream(&[], 5));
        let there = numbers(Some((1, 6)), Some((1, 6)));
        let old = streams(stream(&[(5, 6)], 5), stream(&[(5, 6)], 5));

        let next = |streams: &Streams, turn| streams.next(there, there, turn);

        assert_eq!(next(&both, TRACES), Some(Step::Send(AUDIT, Lane::Live, (5, 6))));
        assert_eq!(next(&old, TRACES), Some(Step::Send(TRACES, Lane::Backlog, (1, 4))));
        assert_eq!(next(&old, AUDIT), Some(Step::Send(AUDIT, Lane::Backlog, (1, 4))));
        assert_eq!(old.unsent(there), 8);
    }

    /// A gateway that is busy would send each record alone.
    #[test]
    fn what_came_since_the_beginning_waits_unless_there_is_a_backlog() {
        let (then, now) = (numbers(None, Some((1, 8))), numbers(None, Some((1, 9))));
        let next = |traces| streams(stream(&[], 1), traces).next(now, then, TRACES);

        assert_eq!(next(stream(&[(1, 8)], 5)), None);
        assert_eq!(next(stream(&[(3, 8)], 5)), live(9, 9));
        assert_eq!(next(stream(&[(3, 9)], 5)), backlog(1, 2));
    }

    #[test]
    fn gaps_are_filled_first_where_there_are_too_many() {
        let there = (1, 5_000);
        let mut traces = stream(&[], 5_000);
        traces.gaps_first([(3, 9), (20, 29), (40, 49)].into_iter().collect());

        let mut sent = Vec::new();
        while let Some(Step::Send(_, _, run)) = of_traces(traces.clone(), there) {
            traces.has.add(run);
            assert!(traces.has.len() <= 3, "{traces:?}");
            sent.push(run);
        }

        assert_eq!(sent[..4], [(1, 2), (10, 19), (5_000, 5_000), (30, 39)]);
        assert_eq!(traces.has, [(1, 5_000)].into_iter().collect());

        let mut beginning = stream(&[], 5_000);
        beginning.gaps_first([(2_501, 5_000)].into_iter().collect());
        assert_eq!(of_traces(beginning, there), backlog(1_501, 2_500));
    }

    #[test]
    fn after_a_long_time_now_begins_anew() {
        let live_from = |has: &[Span], there| {
            let mut stream = stream(has, 100);
            stream.catch_up(there);
            stream.live_from
        };

        assert_eq!(live_from(&[], None), 100);
        assert_eq!(live_from(&[], Some((1, 10_099))), 100);
        assert_eq!(live_from(&[], Some((1, 10_100))), 9_101);
        assert_eq!(live_from(&[(100, 10_000)], Some((1, 10_100))), 100);
    }

    #[test]
    fn a_store_that_went_back_is_noticed() {
        let cases: [(&[Span], Option<Span>, bool); 5] = [
            (&[], None, false),
            (&[(1, 5)], Some((1, 5)), false),
            (&[(1, 5)], Some((1, 9)), false),
            (&[(1, 5)], Some((1, 4)), true),
            (&[(1, 5)], None, true),
        ];

        for (has, there, expected) in cases {
            assert_eq!(stream(has, 1).is_ahead(there), expected, "{has:?} {there:?}");
        }
    }

    #[test]
    fn records_are_held_from_the_first_that_is_not_sent() {
        let cases: [(&[Span], Option<Span>, i64); 5] = [
            (&[], None, 1),
            (&[], Some((4, 9)), 4),
            (&[(1, 6)], Some((4, 9)), 7),
            (&[(1, 9)], Some((4, 9)), 10),
            (&[(1, 5), (8, 9)], Some((4, 9)), 6),
        ];

        for (has, there, expected) in cases {
            assert_eq!(stream(has, 1).first_unsent(there), expected, "{has:?} {there:?}");
        }
    }
}
