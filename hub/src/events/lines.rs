//! The lines of a batch: one record each, or the reason why it is none.
//!
//! Nothing here trusts what it reads: every text has a limit, and none stops the batch.

use serde::Deserialize;
use serde_json::value::RawValue;
use ultra_store::{AuditOutcome, Severity, Status};
use uuid::Uuid;

use super::labels::Labels;
use crate::wire::RecordKind;

/// A gateway keeps 64 KiB of a payload unless told otherwise.
const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Of JSON objects that people fill.
const OBJECT_BYTES_MAX: usize = 64 * 1024;

/// A gateway that is told to keep payloads whole stays below this.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Of names that are short: operations, methods, servers, clients, sessions.
const LABEL_BYTES_MAX: usize = 256;

/// Tools and URIs. PostgreSQL has no index over more than 2,700 bytes.
const NAME_BYTES_MAX: usize = 1024;

/// Of errors and reasons.
const TEXT_BYTES_MAX: usize = 4096;

/// Of a line that could not be read, to find out why.
const REJECTED_BYTES_MAX: usize = 2048;

/// A call that took longer is said to have taken so long: sums of these stay far from overflowing.
const DURATION_NS_MAX: i64 = 24 * 3600 * 1_000_000_000;

/// Shorter payloads do not become shorter.
const COMPRESSED_FROM_BYTES: usize = 256;

/// A record as it will be stored.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) seq: i64,
    pub(super) id: Uuid,
    pub(super) at_ns: i64,
    pub(super) labels: Labels,
    pub(super) session: Option<String>,
    /// W3C trace id.
    pub(super) trace_id: Option<[u8; 16]>,
    /// Why there was no result.
    pub(super) reason: Option<String>,
    pub(super) body: Body,
}

/// What only one kind of record has.
#[derive(Debug)]
pub(super) enum Body {
    Trace(Call),
    /// JSON object.
    Audit {
        details: String,
    },
}

/// What a trace says of its call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) duration_ns: i64,
    pub(super) request_bytes: i64,
    pub(super) response_bytes: i64,
    pub(super) span_id: i64,
    pub(super) parent_span_id: Option<i64>,
    pub(super) transport: Option<String>,
    /// See [`Payload`].
    pub(super) payload: Vec<u8>,
}

/// A line that is no record.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) seq: i64,
    pub(super) reason: String,
    /// Its beginning.
    pub(super) line: String,
}

/// The lines of a batch, read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) records: Vec<Record>,
    pub(super) rejected: Vec<Rejected>,
}

/// What is kept of a trace's payloads, as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    pub(super) request: Option<Box<RawValue>>,
    pub(super) response: Option<Box<RawValue>>,
    pub(super) metadata: Box<RawValue>,
}

#[derive(Deserialize)]
struct TraceLine<'a> {
    seq: i64,
    id: Uuid,
    trace_id: String,
    span_id: String,
    #[serde(default)]
    parent_span_id: Option<String>,
    operation: String,
    method: String,
    #[serde(default)]
    upstream: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(default)]
    request_bytes: u64,
    #[serde(default)]
    response_bytes: u64,
    status: Status,
    #[serde(default)]
    error: Option<String>,
    duration: u64,
    timestamp: String,
    principal: String,
    session_id: String,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AuditLine<'a> {
    seq: i64,
    id: Uuid,
    #[serde(default)]
    trace_id: Option<String>,
    event_type: String,
    severity: Severity,
    #[serde(default)]
    upstream: Option<String>,
    #[serde(default)]
    action: Option<String>,
    principal: String,
    #[serde(default)]
    session_id: Option<String>,
    outcome: AuditOutcome,
    #[serde(default)]
    reason: Option<String>,
    #[serde(borrow, default)]
    details: Option<&'a RawValue>,
    timestamp: String,
}

/// Splits what is behind the head of a batch: a line per record, the last one with or without its end.
pub(super) fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    let none = lines.is_empty();
    lines.split(|byte| *byte == b'\n').filter(move |_| !none)
}

/// Reads the lines of a batch whose first record has the number `first`.
pub(super) fn read(kind: RecordKind, first: i64, lines: &[u8]) -> Lines {
    let mut compressor = zstd::bulk::Compressor::new(1).ok();
    let mut read = Lines::default();
    for (seq, line) in (first..).zip(split(lines)) {
        let record = match kind {
            _ if line.len() > LINE_BYTES_MAX => Err(format!("more than {LINE_BYTES_MAX} bytes")),
            RecordKind::Traces => trace(line, compressor.as_mut()),
            RecordKind::Audit => audit(line),
        };
        match record {
            Ok(record) if record.seq == seq => read.records.push(record),
            Ok(record) => {
                let reason = format!("its number is {} in the place of {seq}", record.seq);
                read.rejected.push(Rejected { seq, reason, line: beginning(line) });
            }
            Err(reason) => {
                let reason = cut(reason, LABEL_BYTES_MAX);
                read.rejected.push(Rejected { seq, reason, line: beginning(line) });
            }
        }
    }
    read
}

/// Returns when the last record of a batch happened, if it says so.
pub(super) fn last_ns(lines: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Time {
        timestamp: String,
    }

    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    let last = lines.rsplit(|byte| *byte == b'\n').next()?;
    let time: Time = serde_json::from_slice(last).ok()?;
    nanoseconds(&time.timestamp).ok()
}

/// Returns a text as it is stored, and so also as it is looked for.
pub(super) fn label(text: &str) -> String {
    cut(text.to_owned(), LABEL_BYTES_MAX)
}

/// As [`label`], for names of tools and for URIs.
pub(super) fn name(text: &str) -> String {
    cut(text.to_owned(), NAME_BYTES_MAX)
}

/// Reads what is stored of a trace's payloads.
pub(super) fn payload(stored: &[u8]) -> Option<Payload> {
    if stored.starts_with(b"{") {
        return serde_json::from_slice(stored).ok();
    }
    let bytes_max = 2 * PAYLOAD_BYTES_MAX * 6 + OBJECT_BYTES_MAX + 1024;
    let json = zstd::bulk::decompress(stored, bytes_max).ok()?;
    serde_json::from_slice(&json).ok()
}

fn trace(
    line: &[u8],
    compressor: Option<&mut zstd::bulk::Compressor<'_>>,
) -> Result<Record, String> {
    let line: TraceLine<'_> = parse(line)?;
    let metadata = object(line.metadata);
    let transport = transport(&metadata);
    let call = Call {
        duration_ns: i64::try_from(line.duration).map_or(DURATION_NS_MAX, capped),
        request_bytes: line.request_bytes.try_into().unwrap_or(i64::MAX),
        response_bytes: line.response_bytes.try_into().unwrap_or(i64::MAX),
        span_id: span_id(&line.span_id)?,
        parent_span_id: line.parent_span_id.as_deref().map(span_id).transpose()?,
        transport,
        payload: pack(line.request, line.response, &metadata, compressor),
    };
    Ok(Record {
        seq: line.seq,
        id: line.id,
        at_ns: nanoseconds(&line.timestamp)?,
        labels: Labels {
            kind: RecordKind::Traces,
            operation: cut(line.operation, LABEL_BYTES_MAX),
            method: cut(line.method, LABEL_BYTES_MAX),
            severity: String::new(),
            outcome: word(line.status),
            upstream: line.upstream.map(|text| cut(text, LABEL_BYTES_MAX)),
            name: line.name.map(|text| cut(text, NAME_BYTES_MAX)),
            client: cut(line.principal, LABEL_BYTES_MAX),
        },
        session: Some(cut(line.session_id, LABEL_BYTES_MAX)),
        trace_id: Some(trace_id(&line.trace_id)?),
        reason: line.error.map(|text| cut(text, TEXT_BYTES_MAX)),
        body: Body::Trace(call),
    })
}

fn audit(line: &[u8]) -> Result<Record, String> {
    let line: AuditLine<'_> = parse(line)?;
    Ok(Record {
        seq: line.seq,
        id: line.id,
        at_ns: nanoseconds(&line.timestamp)?,
        labels: Labels {
            kind: RecordKind::Audit,
            operation: cut(line.event_type, LABEL_BYTES_MAX),
            method: String::new(),
            severity: word(line.severity),
            outcome: word(line.outcome),
            upstream: line.upstream.map(|text| cut(text, LABEL_BYTES_MAX)),
            name: line.action.map(|text| cut(text, NAME_BYTES_MAX)),
            client: cut(line.principal, LABEL_BYTES_MAX),
        },
        session: line.session_id.map(|text| cut(text, LABEL_BYTES_MAX)),
        trace_id: line.trace_id.as_deref().map(trace_id).transpose()?,
        reason: line.reason.map(|text| cut(text, TEXT_BYTES_MAX)),
        body: Body::Audit { details: object(line.details) },
    })
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

fn capped(duration_ns: i64) -> i64 {
    duration_ns.min(DURATION_NS_MAX)
}

/// Returns a text without NUL, which PostgreSQL has not, and not longer than that.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn beginning(line: &[u8]) -> String {
    let beginning = &line[..line.len().min(REJECTED_BYTES_MAX)];
    cut(String::from_utf8_lossy(beginning).into_owned(), REJECTED_BYTES_MAX)
}

/// Returns the word that serde writes for a value.
pub(super) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

fn nanoseconds(timestamp: &str) -> Result<i64, String> {
    let time: jiff::Timestamp =
        timestamp.parse().map_err(|_| "`timestamp` is no time in RFC 3339".to_owned())?;
    i64::try_from(time.as_nanosecond()).map_err(|_| "`timestamp` is out of range".to_owned())
}

fn trace_id(hex: &str) -> Result<[u8; 16], String> {
    let id = Uuid::try_parse(hex).map_err(|_| "`trace_id` is not 32 hex digits".to_owned())?;
    Ok(id.into_bytes())
}

/// Databases have no unsigned numbers: the same 64 bits.
fn span_id(hex: &str) -> Result<i64, String> {
    let bits = u64::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 16);
    bits.map(|bits| bits as i64).ok_or_else(|| "a span id is not 16 hex digits".to_owned())
}

/// Returns a JSON object as it came; one with the beginning, if it is too long or none.
fn object(json: Option<&RawValue>) -> String {
    let Some(json) = json.map(RawValue::get) else { return "{}".to_owned() };
    if json.len() <= OBJECT_BYTES_MAX && json.starts_with('{') {
        return json.to_owned();
    }
    let beginning = &json[..json.floor_char_boundary(OBJECT_BYTES_MAX)];
    serde_json::json!({ "cut": beginning }).to_string()
}

fn transport(metadata: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        transport: Option<String>,
    }

    let metadata: Metadata = serde_json::from_str(metadata).ok()?;
    metadata.transport.map(|text| cut(text, LABEL_BYTES_MAX))
}

fn pack(
    request: Option<&RawValue>,
    response: Option<&RawValue>,
    metadata: &str,
    compressor: Option<&mut zstd::bulk::Compressor<'_>>,
) -> Vec<u8> {
    let (request, response) = (whole_or_cut(request), whole_or_cut(response));
    let json = format!(r#"{{"request":{request},"response":{response},"metadata":{metadata}}}"#);
    let long = json.len() >= COMPRESSED_FROM_BYTES;
    let compressed =
        compressor.filter(|_| long).and_then(|zstd| zstd.compress(json.as_bytes()).ok());
    compressed.filter(|bytes| bytes.len() < json.len()).unwrap_or_else(|| json.into_bytes())
}

/// Returns JSON as it came, or a JSON string with its beginning.
fn whole_or_cut(json: Option<&RawValue>) -> std::borrow::Cow<'_, str> {
    let json = json.map_or("null", RawValue::get);
    if json.len() <= PAYLOAD_BYTES_MAX {
        return json.into();
    }
    let beginning = &json[..json.floor_char_boundary(PAYLOAD_BYTES_MAX)];
    serde_json::Value::from(beginning).to_string().into()
}
