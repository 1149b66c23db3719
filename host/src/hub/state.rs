//! What the Hub has, as far as it has said so. In memory only: after a start it says so again.

use ultra_hub::spans::Spans;
use ultra_hub::wire::{RecordKind, SPANS_MAX, Span, StreamState};
use ultra_store::{Mark, Numbers};

use super::lanes::{KINDS, Stream, Streams, bounds};
use super::pace::Failure;

/// No Hub has more runs of a stream than a thousand; more are not worth to be looked at.
const ANSWER_SPANS_MAX: usize = 4 * SPANS_MAX;

/// What is known of the database that was last looked at.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The database, and what it had, when this process began, or when it was its turn to send.
    since: Option<(String, Numbers)>,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    database: String,
    streams: Streams,
    /// The Hub had numbers that the database had not given to anything when now began.
    is_ahead: bool,
    /// Counts what the Hub has said since of the audit events and of the traces.
    said: Said,
}

/// Counts answers, so that one that was overtaken is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    audit: u64,
    traces: u64,
}

impl Said {
    fn of(&mut self, kind: RecordKind) -> &mut u64 {
        match kind {
            RecordKind::Audit => &mut self.audit,
            RecordKind::Traces => &mut self.traces,
        }
    }
}

/// What a store has when the Hub answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here {
    pub(super) numbers: Numbers,
    /// The last numbers from before the gateway was linked.
    pub(super) private: Mark,
}

impl State {
    /// Returns what is known of a database.
    pub(super) fn streams(&mut self, database: &str) -> Option<&mut Streams> {
        let known = self.known.as_mut().filter(|known| known.database == database)?;
        Some(&mut known.streams)
    }

    /// Returns how much the Hub has said of a database so far.
    pub(super) fn said(&self, database: &str) -> Said {
        let known = self.known.as_ref().filter(|known| known.database == database);
        known.map(|known| known.said).unwrap_or_default()
    }

    /// Returns whether a database has gone back to an earlier state: the Hub has numbers that it has not
    /// given to anything, or had not when now began. Numbers that were used again since then tell nothing.
    pub(super) fn is_ahead(&self, database: &str, numbers: Numbers) -> bool {
        let known = self.known.as_ref().filter(|known| known.database == database);
        known.is_some_and(|known| known.is_ahead || known.streams.is_ahead(numbers))
    }

    /// Begins anew: what comes after these numbers is now, and somebody else may have sent meanwhile.
    pub(super) fn begin(&mut self, database: String, numbers: Numbers) {
        self.since = Some((database, numbers));
        self.known = None;
    }

    /// Takes over all that the Hub says of a database. `said` is from before it was asked. Returns whether it
    /// has less than it had.
    pub(super) fn learn(
        &mut self,
        database: &str,
        answer: Vec<StreamState>,
        said: Said,
        here: Here,
    ) -> Result<bool, Failure> {
        let mut answer = Answer::of(database, answer)?;
        let Some(known) = self.known.as_mut().filter(|known| known.database == database) else {
            let since = self.since.take().filter(|(of, _)| of == database);
            let since = since.map_or(here.numbers, |(_, numbers)| numbers);
            let mut stream = |kind| {
                let next = bounds(since, kind).map_or(1, |(_, last)| last + 1);
                let (has, private_to) = answer.take(kind, here);
                Stream::new(has, next, private_to)
            };
            let [audit, traces] = KINDS.map(&mut stream);
            let streams = Streams { audit, traces };
            let is_ahead = streams.is_ahead(since);
            self.known = Some(Known { database: database.to_owned(), streams, is_ahead, said });
            return Ok(false);
        };
        let (mut before, mut has_less) = (said, false);
        for kind in KINDS {
            // What was acknowledged meanwhile is newer.
            if *before.of(kind) != *known.said.of(kind) {
                continue;
            }
            let (has, private_to) = answer.take(kind, here);
            let stream = known.streams.of_mut(kind);
            has_less |= !has.covers(&stream.has);
            stream.has = has;
            stream.private_to = stream.private_to.max(private_to);
        }
        Ok(has_less)
    }

    /// Takes over what the Hub has of a stream, after it took `sent`.
    pub(super) fn acknowledge(
        &mut self,
        database: &str,
        kind: RecordKind,
        has: Vec<Span>,
        sent: &Spans,
    ) -> Result<(), Failure> {
        let has = set(has)?;
        if !has.covers(sent) {
            // It would be sent again at once, for ever.
            return Err(Failure::Senseless { reason: "what it took is not among what it has" });
        }
        if let Some(stream) = self.said_of(database, kind) {
            stream.has = has;
        }
        Ok(())
    }

    /// Takes over what the Hub has of a stream, when it wants gaps filled first.
    pub(super) fn gaps_first(
        &mut self,
        database: &str,
        kind: RecordKind,
        has: Vec<Span>,
    ) -> Result<(), Failure> {
        let has = set(has)?;
        if let Some(stream) = self.said_of(database, kind) {
            stream.gaps_first(has);
        }
        Ok(())
    }

    fn said_of(&mut self, database: &str, kind: RecordKind) -> Option<&mut Stream> {
        let known = self.known.as_mut().filter(|known| known.database == database)?;
        *known.said.of(kind) += 1;
        Some(known.streams.of_mut(kind))
    }
}

/// What the Hub says of one database.
struct Answer(Vec<(RecordKind, Spans)>);

impl Answer {
    fn of(database: &str, streams: Vec<StreamState>) -> Result<Self, Failure> {
        let ours = streams.into_iter().filter(|stream| stream.database == database);
        ours.map(|stream| Ok((stream.kind, set(stream.spans)?))).collect::<Result<_, _>>().map(Self)
    }

    /// Returns what it has of a stream, and up to where nothing of it is ever sent.
    ///
    /// When a gateway is linked the Hub is told what stays here of its database. Of another database it
    /// knows nothing, and there it is the time that says so.
    fn take(&mut self, kind: RecordKind, here: Here) -> (Spans, i64) {
        match self.0.iter().position(|(of, _)| *of == kind) {
            Some(at) => (self.0.swap_remove(at).1, 0),
            None => match kind {
                RecordKind::Traces => (Spans::default(), here.private.trace),
                RecordKind::Audit => (Spans::default(), here.private.audit_event),
            },
        }
    }
}

fn set(spans: Vec<Span>) -> Result<Spans, Failure> {
    if spans.len() > ANSWER_SPANS_MAX {
        return Err(Failure::Senseless { reason: "it has too many runs of numbers" });
    }
    Ok(spans.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &str = "00000000000000000000000000000001";
    const HERE: Here = Here {
        numbers: Numbers { traces: Some((1, 9)), audit_events: None },
        private: Mark { trace: 4, audit_event: 0 },
    };

    fn traces(spans: &[Span]) -> Vec<StreamState> {
        let (database, kind) = (DATABASE.to_owned(), RecordKind::Traces);
        vec![StreamState { database, kind, spans: spans.to_vec() }]
    }

    fn learn(state: &mut State, spans: &[Span]) -> bool {
        let said = state.said(DATABASE);
        state.learn(DATABASE, traces(spans), said, HERE).unwrap()
    }

    fn of_traces(state: &mut State) -> Stream {
        state.streams(DATABASE).unwrap().traces.clone()
    }

    fn sent(span: Span) -> Spans {
        [span].into_iter().collect()
    }

    #[test]
    fn the_hub_says_what_it_has_and_now_begins_then() {
        let mut state = State::default();

        assert!(!learn(&mut state, &[(1, 5)]));

        let stream = of_traces(&mut state);
        assert_eq!((stream.has, stream.live_from, stream.private_to), (sent((1, 5)), 10, 0));
        let other = state.streams("other").is_none();
        assert!(other);
    }

    #[test]
    fn now_begins_when_this_process_may_send() {
        let live_from = |database: &str| {
            let mut state = State::default();
            let numbers = Numbers { traces: Some((1, 6)), audit_events: None };
            state.begin(database.to_owned(), numbers);
            learn(&mut state, &[]);
            of_traces(&mut state).live_from
        };

        assert_eq!((live_from(DATABASE), live_from("other")), (7, 10));
    }

    #[test]
    fn of_an_unknown_database_what_is_older_than_the_link_stays_here() {
        let mut state = State::default();

        state.learn(DATABASE, Vec::new(), Said::default(), HERE).unwrap();

        assert_eq!(of_traces(&mut state).private_to, 4);
    }

    #[test]
    fn less_than_before_is_noticed() {
        let mut state = State::default();
        learn(&mut state, &[(1, 5)]);
        state.acknowledge(DATABASE, RecordKind::Traces, vec![(1, 9)], &sent((6, 9))).unwrap();

        assert!(!learn(&mut state, &[(1, 9)]));
        assert!(learn(&mut state, &[(1, 7)]));
        assert_eq!(of_traces(&mut state).has, sent((1, 7)));
        assert!(state.learn(DATABASE, Vec::new(), state.said(DATABASE), HERE).unwrap());
        assert_eq!(of_traces(&mut state).private_to, 4);
    }

    #[test]
    fn an_answer_that_was_overtaken_says_nothing() {
        let mut state = State::default();
        learn(&mut state, &[(1, 5)]);
        let said = state.said(DATABASE);
        state.acknowledge(DATABASE, RecordKind::Traces, vec![(1, 9)], &sent((6, 9))).unwrap();

        let has_less = state.learn(DATABASE, traces(&[(1, 5)]), said, HERE).unwrap();

        assert!(!has_less);
        assert_eq!(of_traces(&mut state).has, sent((1, 9)));
    }

    #[test]
    fn answers_without_sense_are_failures() {
        let mut state = State::default();
        learn(&mut state, &[(1, 5)]);

        let not_taken = state.acknowledge(DATABASE, RecordKind::Traces, vec![], &sent((6, 9)));
        let many = (0..5_000).map(|at| (3 * at, 3 * at + 1)).collect();
        let too_many = state.gaps_first(DATABASE, RecordKind::Traces, many);

        assert!(matches!(not_taken, Err(Failure::Senseless { .. })));
        assert!(matches!(too_many, Err(Failure::Senseless { .. })));
        assert_eq!(of_traces(&mut state).has, sent((1, 5)));
    }
}
