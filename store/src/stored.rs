//! What of a record is kept: its texts redacted, its payloads cut, its fields as JSON.
//!
//! SQLite does this before it writes, memory when it is asked.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::record::{AuditEvent, FieldValue, Trace};
use crate::redact::Redactor;

/// Redacting shortens, so that what is kept may come from a little behind the limit.
const SLACK_BYTES: usize = 4096;

/// What is done to texts before they are kept.
#[derive(Debug, Clone)]
pub(crate) struct Keeping {
    pub(crate) redactor: Redactor,
    pub(crate) payload_bytes_max: usize,
}

/// The texts of a trace as they are kept.
pub(crate) struct TraceText<'a> {
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) request: Option<Cow<'a, str>>,
    pub(crate) response: Option<Cow<'a, str>>,
    pub(crate) error: Option<Cow<'a, str>>,
    pub(crate) metadata: Cow<'static, str>,
}

/// The texts of an audit event as they are kept.
pub(crate) struct AuditText<'a> {
    pub(crate) action: Option<Cow<'a, str>>,
    pub(crate) reason: Option<Cow<'a, str>>,
    pub(crate) details: Cow<'static, str>,
}

impl Keeping {
    pub(crate) fn trace<'a>(&self, trace: &'a Trace) -> TraceText<'a> {
        TraceText {
            name: self.text(trace.name.as_deref()),
            request: self.payload(trace.request.as_ref()),
            response: self.payload(trace.response.as_ref()),
            error: self.text(trace.error.as_deref()),
            metadata: self.fields(&trace.metadata, trace.transport),
        }
    }

    pub(crate) fn audit<'a>(&self, event: &'a AuditEvent) -> AuditText<'a> {
        AuditText {
            action: self.text(event.action.as_deref()),
            reason: self.text(event.reason.as_deref()),
            details: self.fields(&event.details, None),
        }
    }

    pub(crate) fn text<'a>(&self, text: Option<&'a str>) -> Option<Cow<'a, str>> {
        text.map(|text| self.redactor.redact_text(text))
    }

    /// Returns a payload as JSON: itself, or a JSON string with its beginning.
    fn payload<'a>(&self, payload: Option<&'a Bytes>) -> Option<Cow<'a, str>> {
        let max = self.payload_bytes_max;
        let whole = payload.filter(|_| max > 0)?;
        let looked = &whole[..whole.len().min(max.saturating_add(SLACK_BYTES))];
        let redacted = self.redactor.redact(looked);
        if looked.len() == whole.len() && redacted.len() <= max {
            return Some(redacted);
        }
        let beginning = &redacted[..redacted.floor_char_boundary(max)];
        Some(Cow::Owned(serde_json::Value::from(beginning).to_string()))
    }

    /// Returns fields as a JSON object. Of equal keys the last one counts, and `transport` before it.
    fn fields(
        &self,
        fields: &[(String, FieldValue)],
        transport: Option<&'static str>,
    ) -> Cow<'static, str> {
        if fields.is_empty() {
            return transport.map_or(Cow::Borrowed("{}"), |transport| {
                Cow::Owned(format!(r#"{{"transport":"{transport}"}}"#))
            });
        }
        let mut object = serde_json::Map::new();
        for (key, value) in fields {
            let value = match value {
                FieldValue::Text(text) => text.as_str().into(),
                FieldValue::Int(number) => (*number).into(),
                FieldValue::Float(number) => (*number).into(),
                FieldValue::Bool(flag) => (*flag).into(),
            };
            object.insert(key.clone(), value);
        }
        if let Some(transport) = transport {
            object.insert("transport".to_owned(), transport.into());
        }
        let json = serde_json::Value::Object(object).to_string();
        match self.redactor.redact(json.as_bytes()) {
            Cow::Borrowed(_) => Cow::Owned(json),
            Cow::Owned(redacted) => Cow::Owned(redacted),
        }
    }
}

/// Returns what is kept as JSON, or as a JSON string if it is none.
pub(crate) fn raw_json(kept: String) -> Box<RawValue> {
    RawValue::from_string(kept.clone()).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(kept).to_string();
        RawValue::from_string(quoted).expect("a string that was just written as JSON")
    })
}

/// Returns RFC 3339 in UTC, always with nine digits, so that it sorts as text.
pub(crate) fn timestamp(unix_ns: i64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(unix_ns));
    // Every `i64` of nanoseconds is within jiff's range of years.
    format!("{:.9}", time.unwrap_or(Timestamp::UNIX_EPOCH))
}

pub(crate) fn trace_id_hex(id: u128) -> String {
    format!("{id:032x}")
}

pub(crate) fn span_id_hex(id: u64) -> String {
    format!("{id:016x}")
}

/// Returns the 128 bits of a trace id in hex or of a record id.
pub(crate) fn parse_id(text: &str) -> Option<u128> {
    uuid::Uuid::try_parse(text).ok().map(|id| id.as_u128())
}

/// Returns now, in nanoseconds since 1970 UTC.
pub(crate) fn now_unix_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping(payload_bytes_max: usize) -> Keeping {
        Keeping { redactor: Redactor::default(), payload_bytes_max }
    }

    #[test]
    fn a_payload_is_kept_whole_cut_or_not_at_all() {
        let payload = Bytes::from_static("{\"a\":\"é\\n\"}".as_bytes());
        let cases = [
            (64, Some("{\"a\":\"é\\n\"}")),
            (12, Some("{\"a\":\"é\\n\"}")),
            // One byte into the `é`.
            (7, Some(r#""{\"a\":\"""#)),
            (0, None),
        ];

        for (max, expected) in cases {
            let kept = keeping(max).payload(Some(&payload));
            assert_eq!(kept.as_deref(), expected, "{max}");
        }
    }

    #[test]
    fn a_secret_across_the_cut_is_not_kept() {
        let payload = Bytes::from(format!(r#"{{"password":"{}"}}"#, "x".repeat(100_000)));

        assert_eq!(keeping(20).payload(Some(&payload)).unwrap(), r#""{\"password\":\"[redact""#);
    }

    #[test]
    fn fields_become_an_object_without_secrets() {
        let fields = [
            ("a".to_owned(), FieldValue::Int(1)),
            ("a".to_owned(), FieldValue::Float(f64::NAN)),
            ("password".to_owned(), FieldValue::Text("x".to_owned())),
            ("transport".to_owned(), FieldValue::Bool(true)),
        ];

        let json = keeping(0).fields(&fields, Some("stdio"));

        assert_eq!(json, r#"{"a":null,"password":"[redacted]","transport":"stdio"}"#);
        assert_eq!(keeping(0).fields(&[], None), "{}");
    }

    #[test]
    fn a_timestamp_has_nine_digits() {
        assert_eq!(timestamp(1_785_000_000_120_000_000), "2026-07-25T17:20:00.120000000Z");
        assert_eq!(timestamp(-1), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn what_is_no_json_is_shown_as_a_string() {
        assert_eq!(raw_json("{\"a\":1}".to_owned()).get(), "{\"a\":1}");
        assert_eq!(raw_json("{\"a".to_owned()).get(), r#""{\"a""#);
    }
}
