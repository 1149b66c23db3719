//! Batches: records as lines, with a head before them, compressed. Knows limits, and neither why a record
//! is sent nor what became of it.

use serde::Serialize;
use serde_json::value::RawValue;
use ultra_hub::wire::{BATCH_SENT_BYTES_MAX, BatchHead, RecordKind, Span};
use ultra_store::{AuditRow, TraceRow};

use super::text::short;

/// Bytes of a batch before it is compressed. The Hub takes twice as many; here they are in memory, beside
/// calls.
pub(super) const PLAIN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Room for a head with as many lost runs as there may be.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The Hub takes what becomes 100 times as long for an attack, if it is longer than this. Records that are
/// alike are no attack: what is far from what records usually become is compressed less, or sent in parts.
const RATIO_FROM_BYTES: usize = 1024 * 1024;
const RATIO_USUAL: usize = 20;

/// Far enough for JSON, and not for the record before.
const SHORT_WINDOW_LOG: u32 = 10;

/// Fast; what is sent once a minute need not be small.
const LEVEL: i32 = 1;

/// Of a text that makes a record too large even without its payloads.
const TEXT_BYTES_MAX: usize = 1024;

/// Why a batch cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("cannot compress a batch")]
    Compress(#[from] std::io::Error),
}

/// Limits of a batch, those of the wire unless the Hub wants less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    pub(super) sent_bytes: usize,
    pub(super) plain_bytes: usize,
    pub(super) records: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { sent_bytes: BATCH_SENT_BYTES_MAX, plain_bytes: PLAIN_BYTES_MAX, records: usize::MAX }
    }
}

/// What goes to the Hub.
#[derive(Debug)]
pub(super) struct Batch {
    /// As the Hub reads it.
    pub(super) body: Vec<u8>,
    /// The numbers in it; nothing if it only says what is lost.
    pub(super) run: Option<Span>,
    /// The record in it is without its payloads, because it was too large.
    pub(super) is_cut: bool,
    /// It becomes so long that the Hub looks how it came to that.
    pub(super) is_long: bool,
}

/// Records of one kind, read from the store.
#[derive(Debug)]
pub(super) enum Rows {
    Traces(Vec<TraceRow>),
    Audit(Vec<AuditRow>),
}

impl Rows {
    fn kind(&self) -> RecordKind {
        match self {
            Self::Traces(_) => RecordKind::Traces,
            Self::Audit(_) => RecordKind::Audit,
        }
    }

    /// Returns the number of the first.
    pub(super) fn first(&self) -> Option<i64> {
        match self {
            Self::Traces(rows) => rows.first().map(|row| row.seq),
            Self::Audit(rows) => rows.first().map(|row| row.seq),
        }
    }

    /// Writes lines until the limits are reached or a number is missing.
    fn lines(&self, caps: Caps) -> Lines {
        let mut lines = Lines { text: Vec::new(), ends: Vec::new() };
        match self {
            Self::Traces(rows) => lines.fill(rows, |row| row.seq, caps),
            Self::Audit(rows) => lines.fill(rows, |row| row.seq, caps),
        }
        lines
    }

    /// Takes all out of the first record that it can be understood without, and forgets the others.
    fn cut_first(&mut self) {
        match self {
            Self::Traces(rows) => {
                rows.truncate(1);
                rows.iter_mut().for_each(cut_trace);
            }
            Self::Audit(rows) => {
                rows.truncate(1);
                rows.iter_mut().for_each(cut_event);
            }
        }
    }
}

/// Lines, and where each of them ends.
struct Lines {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Lines {
    fn fill<T: Serialize>(&mut self, rows: &[T], seq: impl Fn(&T) -> i64, caps: Caps) {
        let bytes_max = caps.plain_bytes.saturating_sub(HEAD_BYTES_MAX);
        let mut next = rows.first().map(&seq);
        for row in rows.iter().take(caps.records) {
            if Some(seq(row)) != next {
                return;
            }
            serde_json::to_writer(&mut self.text, row)
                .expect("rows are JSON, and memory takes all");
            self.text.push(b'\n');
            if self.text.len() > bytes_max {
                self.text.truncate(self.ends.last().copied().unwrap_or(0));
                return;
            }
            self.ends.push(self.text.len());
            next = next.map(|next| next + 1);
        }
    }
}

impl Batch {
    /// Makes a batch of as many of the first rows as there is room for. `lost` goes with it.
    ///
    /// A record for which there is no room at all loses its payloads. With room for no bytes, the first one
    /// does.
    pub(super) fn of_rows(
        database: &str,
        lost: Vec<Span>,
        mut rows: Rows,
        caps: Caps,
    ) -> Result<Self, BatchError> {
        let first = rows.first().expect("whoever has no rows has no batch to make");
        let head = |count| BatchHead {
            database: database.to_owned(),
            kind: rows.kind(),
            first,
            count: count as u64,
            lost: lost.clone(),
        };
        let lines = rows.lines(caps);
        let mut count = lines.ends.len();
        while count > 0 {
            let Packed { body, plain_bytes } =
                Packed::of(&head(count), &lines.text[..lines.ends[count - 1]])?;
            let is_long = plain_bytes > RATIO_FROM_BYTES;
            let is_odd = is_long && plain_bytes > body.len() * RATIO_USUAL;
            if body.len() <= caps.sent_bytes && !is_odd {
                let run = Some((first, first + count as i64 - 1));
                return Ok(Self { body, run, is_cut: false, is_long });
            }
            // As many as would fit if all were alike, and a bit less.
            let (room, taken) = match is_odd {
                true => (RATIO_FROM_BYTES, plain_bytes),
                false => (caps.sent_bytes, body.len()),
            };
            let fitting = count * room / taken;
            count = fitting.saturating_sub(fitting / 8).min(count - 1);
        }
        let head = head(1);
        drop(lines);
        rows.cut_first();
        let lines = rows.lines(Caps { plain_bytes: usize::MAX, ..caps });
        let body = Packed::of(&head, &lines.text)?.body;
        Ok(Self { body, run: Some((first, first)), is_cut: true, is_long: false })
    }

    /// Makes a batch that only says what will never come.
    pub(super) fn of_lost(
        database: &str,
        kind: RecordKind,
        lost: Vec<Span>,
    ) -> Result<Self, BatchError> {
        let head = BatchHead { database: database.to_owned(), kind, first: 1, count: 0, lost };
        let body = Packed::of(&head, b"")?.body;
        Ok(Self { body, run: None, is_cut: false, is_long: false })
    }
}

/// What is sent, and how long it was before.
struct Packed {
    body: Vec<u8>,
    plain_bytes: usize,
}

impl Packed {
    fn of(head: &BatchHead, lines: &[u8]) -> Result<Self, BatchError> {
        let mut plain = serde_json::to_vec(head).expect("the wire's types are JSON");
        plain.push(b'\n');
        plain.extend_from_slice(lines);
        let plain_bytes = plain.len();
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let mut body = compressor.compress(&plain)?;
        if plain_bytes > RATIO_FROM_BYTES && plain_bytes > body.len() * RATIO_USUAL {
            compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(SHORT_WINDOW_LOG))?;
            body = compressor.compress(&plain)?;
        }
        Ok(Self { body, plain_bytes })
    }
}

fn cut_trace(row: &mut TraceRow) {
    row.request = None;
    row.response = None;
    row.metadata = noted(&row.metadata);
    [&mut row.name, &mut row.error, &mut row.upstream].into_iter().flatten().for_each(shorten);
    [&mut row.method, &mut row.principal].into_iter().for_each(shorten);
}

fn cut_event(row: &mut AuditRow) {
    row.details = noted(&row.details);
    [&mut row.action, &mut row.reason, &mut row.upstream].into_iter().flatten().for_each(shorten);
    shorten(&mut row.principal);
}

/// Returns an object with a note that something is missing; with all else that is in it, if that is short.
fn noted(object: &RawValue) -> Box<RawValue> {
    type Object = serde_json::Map<String, serde_json::Value>;

    let short = Some(object.get()).filter(|text| text.len() <= TEXT_BYTES_MAX);
    let parsed = short.and_then(|text| serde_json::from_str::<Object>(text).ok());
    let mut object = parsed.unwrap_or_default();
    object.insert("cut".to_owned(), true.into());
    serde_json::value::to_raw_value(&object).expect("an object of values is JSON")
}

fn shorten(text: &mut String) {
    *text = short(text, TEXT_BYTES_MAX);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use ultra_store::{AuditOutcome, Severity, Status};

    use super::*;

    const DATABASE: &str = "00000000000000000000000000000001";

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn trace(seq: i64, payload: &str) -> TraceRow {
        TraceRow {
            seq,
            id: uuid::Uuid::from_u128(seq as u128).to_string(),
            trace_id: format!("{seq:032x}"),
            span_id: format!("{seq:016x}"),
            parent_span_id: None,
            operation: "tool_call".to_owned(),
            method: "tools/call".to_owned(),
            upstream: Some("files".to_owned()),
            name: Some("read".to_owned()),
            request: Some(raw(&json!({"path": payload}))),
            response: Some(raw(&json!({}))),
            request_bytes: 1,
            response_bytes: 2,
            status: Status::Success,
            error: None,
            duration: 1,
            timestamp: "2026-07-25T17:20:00.000000001Z".to_owned(),
            principal: "client/1.0".to_owned(),
            session_id: "session".to_owned(),
            metadata: raw(&json!({"cost": 1})),
        }
    }

    fn event(seq: i64, reason: String, details: &Value) -> AuditRow {
        AuditRow {
            seq,
            id: uuid::Uuid::from_u128(seq as u128).to_string(),
            trace_id: None,
            event_type: "tool_call".to_owned(),
            severity: Severity::Info,
            upstream: None,
            action: None,
            principal: "client/1.0".to_owned(),
            session_id: None,
            outcome: AuditOutcome::Success,
            reason: Some(reason),
            details: raw(details),
            timestamp: "2026-07-25T17:20:00.000000001Z".to_owned(),
        }
    }

    /// Texts that cannot be compressed to less than half.
    fn noise(bytes: usize) -> String {
        (0..bytes).map(|_| rand::random_range(b'0'..=b'z') as char).map(alphanumeric).collect()
    }

    fn alphanumeric(char: char) -> char {
        if char.is_ascii_alphanumeric() { char } else { 'x' }
    }

    fn plain(batch: &Batch) -> Vec<u8> {
        zstd::bulk::decompress(&batch.body, 32 << 20).unwrap()
    }

    fn read(batch: &Batch) -> (BatchHead, Vec<Value>) {
        let plain = String::from_utf8(plain(batch)).unwrap();
        let (head, lines) = plain.split_once('\n').unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (serde_json::from_str(head).unwrap(), lines)
    }

    fn of_traces(rows: Vec<TraceRow>, caps: Caps) -> Batch {
        Batch::of_rows(DATABASE, Vec::new(), Rows::Traces(rows), caps).unwrap()
    }

    #[test]
    fn a_batch_has_a_head_and_the_rows_as_they_are() {
        let rows = vec![trace(7, "a"), trace(8, "b")];
        let expected = json!(rows);
        let lost = vec![(1, 6)];

        let batch =
            Batch::of_rows(DATABASE, lost.clone(), Rows::Traces(rows), Caps::default()).unwrap();

        let (head, lines) = read(&batch);
        let kind = RecordKind::Traces;
        assert_eq!(head, BatchHead { database: DATABASE.into(), kind, first: 7, count: 2, lost });
        assert_eq!(json!(lines), expected);
        assert_eq!((batch.run, batch.is_cut), (Some((7, 8)), false));
    }

    #[test]
    fn a_batch_ends_where_a_number_is_missing() {
        let batch = of_traces(vec![trace(1, ""), trace(2, ""), trace(4, "")], Caps::default());

        assert_eq!((batch.run, read(&batch).1.len()), (Some((1, 2)), 2));
    }

    #[test]
    fn what_is_lost_needs_no_records() {
        let lost = vec![(1, 6), (9, 9)];

        let batch = Batch::of_lost(DATABASE, RecordKind::Audit, lost.clone()).unwrap();

        let (head, lines) = read(&batch);
        assert_eq!((head.kind, head.count, head.lost), (RecordKind::Audit, 0, lost));
        assert_eq!((lines.len(), batch.run), (0, None));
    }

    #[test]
    fn as_many_records_go_as_there_is_room_for() {
        let rows = || (1..=60).map(|seq| trace(seq, &noise(64 * 1024))).collect();

        let by_sent = of_traces(rows(), Caps::default());
        let by_plain =
            of_traces(rows(), Caps { plain_bytes: HEAD_BYTES_MAX + 200_000, ..Caps::default() });
        let by_count = of_traces(rows(), Caps { records: 2, ..Caps::default() });

        let count = |batch: &Batch| batch.run.map_or(0, |(first, last)| last - first + 1);
        assert!(by_sent.body.len() <= BATCH_SENT_BYTES_MAX);
        assert!(by_sent.body.len() > BATCH_SENT_BYTES_MAX / 2, "{}", by_sent.body.len());
        assert_eq!(read(&by_sent).1.len() as i64, count(&by_sent));
        assert_eq!((count(&by_plain), count(&by_count)), (3, 2));
    }

    #[test]
    fn a_record_that_is_too_large_loses_its_payloads() {
        let large =
            TraceRow { error: Some("e".repeat(9_000_000)), ..trace(1, &noise(4 * 1024 * 1024)) };
        let details = json!({"a": "x".repeat(9_000_000)});

        let cut = of_traces(vec![large, trace(2, "")], Caps::default());
        let rows = Rows::Audit(vec![event(3, "r".repeat(9_000_000), &details)]);
        let event = Batch::of_rows(DATABASE, Vec::new(), rows, Caps::default()).unwrap();

        let (head, lines) = read(&cut);
        assert_eq!((head.count, cut.run, cut.is_cut), (1, Some((1, 1)), true));
        assert_eq!((&lines[0]["request"], &lines[0]["response"]), (&Value::Null, &Value::Null));
        assert_eq!(lines[0]["metadata"], json!({"cost": 1, "cut": true}));
        assert_eq!(lines[0]["request_bytes"], 1);
        assert_eq!(lines[0]["error"].as_str().unwrap().len(), TEXT_BYTES_MAX);
        let (_, lines) = read(&event);
        assert_eq!(lines[0]["details"], json!({"cut": true}));
        assert_eq!(lines[0]["reason"].as_str().unwrap().len(), TEXT_BYTES_MAX);
    }

    /// The same answer again and again is what many tools give.
    #[test]
    fn records_that_are_alike_are_not_taken_for_an_attack() {
        let payload = noise(16 * 1024);
        let rows = (1..=400).map(|seq| trace(seq, &payload)).collect();

        let batch = of_traces(rows, Caps::default());

        let ratio = plain(&batch).len() / batch.body.len();
        assert!(ratio <= RATIO_USUAL && batch.body.len() <= BATCH_SENT_BYTES_MAX, "{ratio}");
        assert!(batch.is_long);
    }

    /// There is nothing to compress less.
    #[test]
    fn records_that_say_nothing_are_sent_in_parts() {
        let payload = "x".repeat(32 * 1024);
        let rows = (1..=200).map(|seq| trace(seq, &payload)).collect();
        let alone = of_traces(vec![trace(1, &"x".repeat(2 << 20))], Caps::default());

        let batch = of_traces(rows, Caps::default());

        let plain_bytes = plain(&batch).len();
        assert!((RATIO_FROM_BYTES / 2..=RATIO_FROM_BYTES).contains(&plain_bytes), "{plain_bytes}");
        assert!(!batch.is_cut && !batch.is_long && alone.is_cut);
    }
}
